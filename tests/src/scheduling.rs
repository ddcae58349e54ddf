//! Where work runs: over the nodes, by resources, by affinity.

use std::collections::BTreeMap;
use std::time::Duration;

use mobula::{Bytes, Error, NodeLabel, ObjectRef, TaskOptions, Verdict, explain, get, get_timeout, remote};

use crate::gate::{Gate, Tally, count, pass, tally_of, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a demand that no node can meet waits and is explained", infeasible),
    on_cluster("work runs on more than one node", more_than_one_node),
    on_cluster("a task runs on the node it is pinned to", pinned),
    on_cluster("all CPUs are free after the work", free_again),
    everywhere("labels that no node has are explained", no_such_label),
];

/// Scenarios of nodes that are labelled `zone=head` and `zone=node, disk=ssd`.
pub(crate) const LABELS: &[Scenario] = &[
    on_cluster("a task runs where its labels are", labels_demanded),
    on_cluster("preferred labels are left when their nodes are full", labels_preferred),
    on_cluster("an actor lives where its labels are", labelled_actor),
    on_cluster("labels that no node has are explained", no_such_label),
];

/// Scenarios of three nodes with seven CPUs each.
pub(crate) const SEVEN_CPUS: &[Scenario] = &[on_cluster("of 100 tasks every node runs ten", ten_each)];

/// Scenarios of two nodes with four CPUs each, the driver at home on the first.
pub(crate) const TWO_NODES: &[Scenario] = &[
    on_cluster("an idle node of one's own is taken first", own_node_first),
    on_cluster("two tasks share a node, four run two and two", half_full),
    on_cluster("a task runs where its large argument is", near_its_argument),
    on_cluster("spreading overrides where the arguments are", spread_overrides),
];

/// Scenarios of short tasks that turn long: none may stay stuck behind another.
pub(crate) const STUCK: &[Scenario] = &[
    everywhere("tasks of half a CPU run two to a CPU", halves),
    everywhere("tasks that need no CPU all run at once", without_cpu),
    on_cluster("spread tasks run on every node", spread),
];

/// Fails, since a failure says on which node it happened.
#[remote]
fn where_am_i(tally: String, gate: String) -> Result<(), String> {
    count(&tally);
    pass(&gate);
    Err("on purpose".to_owned())
}

type Where = TaskOptions<fn(String, String) -> ObjectRef<()>>;

fn node_of(task: &ObjectRef<()>) -> String {
    match get(task) {
        Err(Error::Application { place, .. }) => place.node,
        other => panic!("expected the task's own error, not {other:?}"),
    }
}

#[remote]
fn answer(number: i64) -> i64 {
    number
}

/// Returns when so many of these are running at the same time.
#[remote]
fn meets(tally: String, expected: u64) -> bool {
    count(&tally);
    wait_until("the others", || tally_of(&tally) >= expected);
    true
}

fn halves() {
    let tally = Tally::new();
    let expected = 2 * total_cpus() as u64;
    let tasks: Vec<_> = (0..expected).map(|_| meets.options().num_cpus(0.5).remote(tally.path(), expected)).collect();
    assert!(get_timeout(&tasks, MEETING).is_ok(), "only {} of {expected} ran at once", tally.get());
}

fn without_cpu() {
    let tally = Tally::new();
    let expected = 4 * total_cpus() as u64;
    let tasks: Vec<_> = (0..expected).map(|_| meets.options().num_cpus(0.0).remote(tally.path(), expected)).collect();
    assert!(get_timeout(&tasks, MEETING).is_ok(), "only {} of {expected} ran at once", tally.get());
}

fn infeasible() {
    let never = answer.options().num_gpus(8.0).remote(1);
    match get_timeout(&never, Duration::from_millis(300)) {
        Err(Error::TimedOut { .. }) => {}
        other => panic!("there are no GPUs here: {other:?}"),
    }
    assert_eq!(get(&answer.remote(2)).expect("others run past it"), 2);
}

fn total_cpus() -> usize {
    mobula::cluster_resources().expect("the cluster answers")["CPU"] as usize
}

/// Runs so many of these and says how many ran on each node. None of them ends before
/// `at_once` are running.
fn nodes_used(options: &Where, tasks: usize, at_once: usize) -> BTreeMap<String, usize> {
    let (tally, gate) = (Tally::new(), Gate::new());
    let tasks: Vec<_> = (0..tasks).map(|_| options.remote(tally.path(), gate.path())).collect();
    wait_until(&format!("{at_once} tasks at once"), || tally.get() >= at_once as u64);
    gate.open();
    nodes_of(&tasks)
}

fn living_nodes() -> usize {
    let nodes = mobula::nodes().expect("the cluster answers");
    nodes.iter().filter(|node| node.alive && node.resources.get("CPU").is_some_and(|cpus| *cpus > 0.0)).count()
}

fn more_than_one_node() {
    let used = nodes_used(&where_am_i.options(), 4 * total_cpus(), total_cpus());
    println!("tasks by node: {used:?}");
    assert_eq!(used.len(), living_nodes(), "a node had no work: {used:?}");
}

fn spread() {
    let used = nodes_used(&where_am_i.options().num_cpus(0.5).spread(), 2 * living_nodes(), 2 * living_nodes());
    println!("spread tasks by node: {used:?}");
    assert_eq!(used.len(), living_nodes(), "a node had no work: {used:?}");
}

fn pinned() {
    for node in mobula::nodes().expect("the cluster answers") {
        if !node.alive || node.resources.get("CPU").is_none_or(|cpus| *cpus == 0.0) {
            continue;
        }
        let used = nodes_used(&where_am_i.options().on_node(node.id), 3, 1);
        assert_eq!(used.keys().cloned().collect::<Vec<_>>(), [node.name]);
    }
}

/// Takes a moment, and fails, since a failure says on which node it happened.
#[remote]
fn rests() -> Result<(), String> {
    std::thread::sleep(Duration::from_millis(10));
    Err("on purpose".to_owned())
}

/// On which nodes these tasks ran.
fn nodes_of(tasks: &[ObjectRef<()>]) -> BTreeMap<String, usize> {
    let mut used = BTreeMap::new();
    for task in tasks {
        *used.entry(node_of(task)).or_default() += 1;
    }
    used
}

fn ten_each() {
    // At first, workers have to be started, and some nodes are done before others have begun.
    wait_until("every node to run ten", || {
        let used = nodes_of(&(0..100).map(|_| rests.remote()).collect::<Vec<_>>());
        println!("tasks by node: {used:?}");
        used.len() == 3 && used.values().all(|tasks| *tasks >= 10)
    });
}

fn idle() {
    let total = total_cpus() as f64;
    wait_until("all CPUs to be free", || {
        mobula::available_resources().expect("the cluster answers").get("CPU") == Some(&total)
    });
}

fn own_node_first() {
    for _ in 0..20 {
        idle();
        assert_eq!(nodes_used(&where_am_i.options(), 1, 1), BTreeMap::from([("head".to_owned(), 1)]));
    }
}

fn half_full() {
    idle();
    assert_eq!(nodes_used(&where_am_i.options(), 2, 2).into_values().collect::<Vec<_>>(), [2]);
    idle();
    assert_eq!(nodes_used(&where_am_i.options(), 4, 4).into_values().collect::<Vec<_>>(), [2, 2]);
}

/// Large enough that its place counts.
#[remote]
fn large() -> Bytes {
    Bytes::from(vec![1; 8 << 20])
}

/// Fails, since a failure says on which node it happened.
#[remote]
fn reads(bytes: Bytes, tally: String, gate: String) -> Result<(), String> {
    count(&tally);
    pass(&gate);
    Err(format!("read {} bytes", bytes.len()))
}

/// A large object on the node that is not the driver's.
fn far_away() -> ObjectRef<Bytes> {
    let nodes = mobula::nodes().expect("the cluster answers");
    let far = nodes.iter().find(|node| node.name == "node-1").expect("it is there");
    let bytes = large.options().on_node(far.id).remote();
    mobula::wait(std::slice::from_ref(&bytes), 1, None).expect("it is made");
    idle();
    bytes
}

fn near_its_argument() {
    let bytes = far_away();
    let (tally, gate) = (Tally::new(), Gate::new());
    gate.open();
    for _ in 0..5 {
        assert_eq!(node_of(&reads.remote(&bytes, tally.path(), gate.path())), "node-1");
        idle();
    }
}

fn spread_overrides() {
    let bytes = far_away();
    let (tally, gate) = (Tally::new(), Gate::new());
    let tasks: Vec<_> = (0..4).map(|_| reads.options().spread().remote(&bytes, tally.path(), gate.path())).collect();
    wait_until("all of them to run", || tally.get() == 4);
    gate.open();
    assert_eq!(nodes_of(&tasks), BTreeMap::from([("head".to_owned(), 2), ("node-1".to_owned(), 2)]));
}

fn free_again() {
    let tasks: Vec<_> = (0..200).map(|i| answer.remote(i)).collect();
    get(&tasks).expect("all of them");
    let all = mobula::cluster_resources().expect("the cluster answers");
    wait_until("all CPUs to be free", || {
        mobula::available_resources().expect("the cluster answers").get("CPU") == all.get("CPU")
    });
}

fn labels_demanded() {
    let here = |label: NodeLabel| nodes_used(&where_am_i.options().node_labels([label]), 3, 1);
    assert_eq!(here(NodeLabel::is_in("zone", ["node"])).into_keys().collect::<Vec<_>>(), ["node-1"]);
    assert_eq!(here(NodeLabel::not_in("zone", ["node"])).into_keys().collect::<Vec<_>>(), ["head"]);
    assert_eq!(here(NodeLabel::exists("disk")).into_keys().collect::<Vec<_>>(), ["node-1"]);
    assert_eq!(here(NodeLabel::not_exists("disk")).into_keys().collect::<Vec<_>>(), ["head"]);
    let all: Vec<_> = mobula::nodes().expect("the cluster answers").into_iter().map(|node| node.labels).collect();
    assert!(all.iter().any(|labels| labels.get("disk").is_some_and(|disk| disk == "ssd")), "{all:?}");
}

fn labels_preferred() {
    let preferred = where_am_i.options().prefer_node_labels([NodeLabel::exists("disk")]);
    // What was sent there a moment ago counts for a while.
    wait_until("a task on the preferred node", || nodes_used(&preferred, 1, 1).contains_key("node-1"));
    // All CPUs of the cluster at once: some of it has to run elsewhere.
    let used = nodes_used(&preferred, total_cpus(), total_cpus());
    assert_eq!(used.len(), 2, "{used:?}");
}

struct Resident;

#[remote]
impl Resident {
    fn new() -> Self {
        Self
    }

    fn stay(&mut self) {}
}

fn labelled_actor() {
    for (zone, node) in [("head", "head"), ("node", "node-1")] {
        let actor = Resident::options().node_labels([NodeLabel::is_in("zone", [zone])]).remote();
        get(&actor.stay().remote()).expect("it lives");
        assert_eq!(explain(&actor).expect("it is explained").node.as_deref(), Some(node));
    }
}

fn no_such_label() {
    let nowhere = answer.options().node_labels([NodeLabel::exists("unicorn")]).remote(1);
    let said = explain(&nowhere).expect("it is explained");
    assert!(!said.nodes.is_empty(), "{said}");
    for node in &said.nodes {
        assert!(node.verdict == Verdict::Never && node.why.contains("unicorn exists"), "{said}");
    }
}

/// How long tasks that wait for each other are given to meet.
const MEETING: Duration = Duration::from_secs(20);
