//! Placement groups: room reserved at once, work in it, and what becomes of both.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mobula::{
    Bundle, Error, PlacementGroup, PlacementStrategy, available_resources, cluster_resources, get, placement_groups,
    remote, remove_placement_group,
};
use uuid::Uuid;

use crate::gate::{Gate, Tally, count, fresh, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a group reserves its room and gives it back", reserves),
    everywhere("work in a group uses the group's room only", inside_only),
    everywhere("actors live in a group", actors_inside),
    everywhere("a task in a group starts others there while it waits", nested),
    everywhere("removing a group ends what is in it", removal_ends),
    everywhere("a group that can never be placed can be removed", infeasible),
    everywhere("groups that make no sense are refused", refused),
    everywhere("groups wait for each other's room", one_after_the_other),
    everywhere("a handle can be sent to a task", handle_travels),
    on_cluster("removing a group ends the processes of its tasks", removal_kills),
    on_cluster("the bundles of a group lie as its strategy says", strategies),
    on_cluster("a task runs where its bundle is", at_its_bundle),
];

/// Scenarios of two nodes with four CPUs each.
pub(crate) const TWO_NODES: &[Scenario] = &[on_cluster("two bundles of two CPUs lie as their strategy says", halves)];

const SOON: Duration = Duration::from_secs(60);

fn cpus(of: &std::collections::BTreeMap<String, f64>) -> f64 {
    of.get("CPU").copied().unwrap_or(0.0)
}

fn wait_for_all_cpus() {
    let total = cpus(&cluster_resources().expect("the cluster answers"));
    wait_until("all CPUs to be free", || cpus(&available_resources().expect("the cluster answers")) == total);
}

fn made(bundles: &[f64], strategy: PlacementStrategy) -> PlacementGroup {
    let bundles = bundles.iter().map(|amount| Bundle::cpus(*amount));
    let group = PlacementGroup::new(bundles).strategy(strategy).create().expect("it makes sense");
    assert!(group.wait(SOON).expect("it can be placed"), "there is room");
    group
}

fn nodes_of(group: &PlacementGroup) -> Vec<String> {
    let all = placement_groups().expect("the cluster answers");
    let state = all.into_iter().find(|state| state.id == group.id()).expect("it is known");
    state.bundles.into_iter().map(|(_, node)| node.expect("it is placed")).collect()
}

#[remote]
fn answer(number: i64) -> i64 {
    number
}

#[remote]
fn waits(started: String, gate: String) -> i64 {
    count(&started);
    pass(&gate);
    7
}

fn reserves() {
    wait_for_all_cpus();
    let total = cpus(&cluster_resources().expect("the cluster answers"));
    let group = made(&[1.0], PlacementStrategy::Pack);
    wait_until("the CPU to be reserved", || cpus(&available_resources().expect("the cluster answers")) == total - 1.0);
    // What a group holds is no resource of the cluster's.
    assert!(cluster_resources().expect("the cluster answers").keys().all(|name| !name.contains("group")));
    remove_placement_group(&group).expect("a session");
    remove_placement_group(&group).expect("twice does nothing");
    wait_for_all_cpus();
    let other = made(&[1.0], PlacementStrategy::Pack);
    remove_placement_group(&unknown(&other)).expect("nor does one that nobody has made");
    assert_eq!(get(&answer.options().placement_group(&other).remote(3)).expect("others stay"), 3);
    assert_eq!(cpus(&available_resources().expect("the cluster answers")), total - 1.0);
    remove_placement_group(&other).expect("a session");
    wait_for_all_cpus();
}

/// A group like this one that was never made.
fn unknown(group: &PlacementGroup) -> PlacementGroup {
    let mut fields = serde_json::to_value(group).expect("a handle can be written");
    fields["id"] = serde_json::to_value(Uuid::new_v4()).expect("an id can be written");
    serde_json::from_value(fields).expect("and read")
}

fn inside_only() {
    let group = made(&[1.0], PlacementStrategy::Pack);
    let (started, gate) = (Tally::new(), Gate::new());
    let inside = waits.options().placement_group(&group);
    let tasks: Vec<_> = (0..3).map(|_| inside.remote(started.path(), gate.path())).collect();
    wait_until("the first one", || started.get() == 1);
    // The group has one CPU, whatever else is free.
    assert_eq!(get(&answer.options().num_cpus(0.5).remote(1)).expect("outside goes on"), 1);
    assert_eq!(started.get(), 1);
    gate.open();
    assert_eq!(get(&tasks).expect("one after the other"), [7, 7, 7]);
    remove_placement_group(&group).expect("a session");
}

struct Counter(i64);

#[remote]
impl Counter {
    fn new() -> Self {
        Self(0)
    }

    fn add(&mut self) -> i64 {
        self.0 += 1;
        self.0
    }
}

fn actors_inside() {
    let group = made(&[1.0], PlacementStrategy::Pack);
    let first = Counter::options().num_cpus(1.0).placement_group_bundle(&group, 0).remote();
    assert_eq!(get(&first.add().remote()).expect("it lives"), 1);
    let second = Counter::options().num_cpus(1.0).placement_group_bundle(&group, 0).remote();
    let early = second.add().remote();
    assert!(matches!(mobula::get_timeout(&early, Duration::from_millis(300)), Err(Error::TimedOut { .. })));
    mobula::kill(&first).expect("it is ended");
    assert_eq!(get(&early).expect("there is room now"), 1);
    remove_placement_group(&group).expect("a session");
    let ended = |call| matches!(get(&call), Err(Error::ActorDied { .. } | Error::GroupRemoved { .. }));
    wait_until("its actor to end", || ended(second.add().remote()));
    wait_for_all_cpus();
}

#[remote]
fn sums_inside(group: PlacementGroup) -> i64 {
    let inside = answer.options().placement_group(&group);
    let parts: Vec<_> = (1..=4).map(|n| inside.remote(n)).collect();
    get(&parts).expect("they run in the CPU that this task lends").into_iter().sum()
}

fn nested() {
    let group = made(&[1.0], PlacementStrategy::Pack);
    let task = sums_inside.options().placement_group(&group).remote(group.clone());
    assert_eq!(get(&task).expect("it ends"), 10);
    remove_placement_group(&group).expect("a session");
}

fn removal_ends() {
    wait_for_all_cpus();
    let group = made(&[1.0], PlacementStrategy::Pack);
    let (started, gate) = (Tally::new(), Gate::new());
    let inside = waits.options().placement_group(&group);
    let running = inside.remote(started.path(), gate.path());
    wait_until("it to run", || started.get() == 1);
    let waiting = inside.remote(started.path(), gate.path());
    remove_placement_group(&group).expect("a session");
    for task in [&running, &waiting] {
        match get(task) {
            Err(Error::GroupRemoved { group: gone, .. }) => assert_eq!(gone, group.id()),
            other => panic!("its group is gone, and yet {other:?}"),
        }
    }
    let late = inside.remote(started.path(), gate.path());
    assert!(matches!(get(&late), Err(Error::GroupRemoved { .. })));
    let late = Counter::options().placement_group(&group).remote();
    assert!(matches!(get(&late.add().remote()), Err(Error::GroupRemoved { .. })), "nor does an actor wait for it");
    assert!(matches!(group.wait(SOON), Err(Error::GroupRemoved { .. })));
    // Code that runs in a shared worker is not interrupted, but its room is free.
    wait_for_all_cpus();
    gate.open();
    assert_eq!(started.get(), 1, "nothing was started after its end");
}

#[remote]
fn tells_its_process(told: String) {
    std::fs::write(&told, std::process::id().to_string()).expect("the file can be written");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn removal_kills() {
    let group = made(&[1.0], PlacementStrategy::Pack);
    let told = fresh("pid");
    let options = tells_its_process.options().process_worker().placement_group(&group);
    let task = options.remote(told.to_string_lossy().into_owned());
    let mut process = String::new();
    wait_until("it to run", || {
        process = std::fs::read_to_string(&told).unwrap_or_default();
        !process.is_empty()
    });
    assert!(Path::new("/proc").join(&process).exists(), "it runs");
    remove_placement_group(&group).expect("a session");
    assert!(matches!(get(&task), Err(Error::GroupRemoved { .. })));
    wait_until("its process to end", || !Path::new("/proc").join(&process).exists());
    wait_for_all_cpus();
}

fn infeasible() {
    let group = PlacementGroup::new([Bundle::cpus(1.0).gpus(64.0)]).name("greedy").create().expect("it makes sense");
    assert!(!group.wait(Duration::from_millis(300)).expect("it is waited for"));
    let state = placement_groups().expect("the cluster answers").into_iter().find(|state| state.id == group.id());
    let state = state.expect("it is known");
    assert_eq!((state.state.as_str(), state.name.as_deref()), ("PENDING", Some("greedy")));
    assert!(state.reason.expect("it waits").contains("GPU 64"));
    // However many wait, one question is asked; and all of them hear.
    for _ in 0..20 {
        assert!(!group.wait(Duration::from_millis(1)).expect("it is waited for"));
    }
    let found = mobula::get_placement_group("greedy").expect("it has a name");
    assert_eq!(found, group);
    let ready = found.ready();
    remove_placement_group(&group).expect("a session");
    assert!(matches!(get(&ready), Err(Error::GroupRemoved { .. })));
}

fn refused() {
    assert!(PlacementGroup::new([]).create().is_err());
    assert!(PlacementGroup::new([Bundle::cpus(-1.0)]).create().is_err());
    assert!(PlacementGroup::new([Bundle::cpus(1.0).resource("CPU_group_x", 1.0)]).create().is_err());
    match PlacementGroup::new([Bundle::cpus(0.0)]).create() {
        Err(Error::Invalid { what }) => assert!(what.contains("bundle 0"), "{what}"),
        other => panic!("it reserves nothing, and yet {other:?}"),
    }
    let group = made(&[0.5], PlacementStrategy::Pack);
    match get(&answer.options().placement_group_bundle(&group, 1).remote(1)) {
        Err(Error::Invalid { what }) => assert!(what.contains("there is no 1"), "{what}"),
        other => panic!("it has one bundle, and yet {other:?}"),
    }
    // What can never fit is not waited for.
    match get(&answer.options().num_cpus(2.0).placement_group(&group).remote(1)) {
        Err(Error::Invalid { what }) => assert!(what.contains("CPU 2"), "{what}"),
        other => panic!("no bundle is so large, and yet {other:?}"),
    }
    let actor = Counter::options().num_cpus(2.0).placement_group(&group).remote();
    get(&actor.add().remote()).expect_err("nor has an actor room");
    assert_eq!(get(&answer.options().num_cpus(0.5).placement_group(&group).remote(1)).expect("it fits"), 1);
    remove_placement_group(&group).expect("a session");
}

fn one_after_the_other() {
    wait_for_all_cpus();
    let total = cpus(&cluster_resources().expect("the cluster answers"));
    let all = || PlacementGroup::new((0..total as usize).map(|_| Bundle::cpus(1.0))).create().expect("it makes sense");
    let groups: Vec<_> = (0..3).map(|_| all()).collect();
    for group in &groups {
        assert!(group.wait(SOON).expect("its turn comes"), "its turn comes");
        remove_placement_group(group).expect("a session");
    }
    wait_for_all_cpus();
}

#[remote(num_cpus = 0.0)]
fn removes(group: PlacementGroup) {
    assert!(group.wait(SOON).expect("it is there"));
    remove_placement_group(&group).expect("a session");
}

fn handle_travels() {
    let group = PlacementGroup::new([Bundle::cpus(0.5)]).create().expect("it makes sense");
    get(&removes.remote(group.clone())).expect("it can be waited for and removed anywhere");
    wait_until("it to be gone", || matches!(get(&group.ready()), Err(Error::GroupRemoved { .. })));
}

fn strategies() {
    use PlacementStrategy::{Pack, Spread, StrictPack, StrictSpread};
    wait_for_all_cpus();
    for (strategy, different) in [(Pack, 1), (StrictPack, 1), (Spread, 2), (StrictSpread, 2)] {
        let group = made(&[1.0, 1.0], strategy);
        let nodes: BTreeSet<String> = nodes_of(&group).into_iter().collect();
        assert_eq!(nodes.len(), different, "{strategy:?}: {nodes:?}");
        remove_placement_group(&group).expect("a session");
        wait_for_all_cpus();
    }
    let group = made(&[1.0, 1.0, 1.0], StrictSpread);
    assert_eq!(nodes_of(&group).into_iter().collect::<BTreeSet<_>>().len(), 3);
    remove_placement_group(&group).expect("a session");
    wait_for_all_cpus();
}

fn halves() {
    use PlacementStrategy::{Pack, Spread, StrictPack, StrictSpread};
    for (strategy, different) in [(Pack, 1), (StrictPack, 1), (Spread, 2), (StrictSpread, 2)] {
        let group = made(&[2.0, 2.0], strategy);
        let nodes: BTreeSet<String> = nodes_of(&group).into_iter().collect();
        assert_eq!(nodes.len(), different, "{strategy:?}: {nodes:?}");
        remove_placement_group(&group).expect("a session");
        wait_for_all_cpus();
    }
}

/// Fails, since a failure says on which node it happened.
#[remote]
fn where_am_i() -> Result<(), String> {
    Err("on purpose".to_owned())
}

fn at_its_bundle() {
    let group = made(&[1.0, 1.0, 1.0], PlacementStrategy::StrictSpread);
    for (index, node) in (0..).zip(nodes_of(&group)) {
        match get(&where_am_i.options().placement_group_bundle(&group, index).remote()) {
            Err(Error::Application { place, .. }) => assert_eq!(place.node, node),
            other => panic!("expected the task's own error, not {other:?}"),
        }
    }
    remove_placement_group(&group).expect("a session");
}
