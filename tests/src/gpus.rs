//! GPUs by their ids. No scenario needs a device: a node offers as many as it is told to.

use std::collections::BTreeSet;
use std::time::Duration;

use mobula::{Bundle, ObjectRef, PlacementGroup, available_resources, get, gpu_ids, remote, remove_placement_group};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

/// The session or cluster of these scenarios has so many.
pub(crate) const GPUS: f64 = 4.0;

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a task has as many ids as GPUs it asked for, and nobody else has them", whole),
    everywhere("parts of a GPU share its id", parts),
    everywhere("an actor keeps its GPU", actors),
    everywhere("work without GPUs has no ids", without),
    everywhere("work in a placement group has the GPUs of its bundle", in_a_group),
    on_cluster("a process sees its own GPUs and no others", visible),
    everywhere("all GPUs are free after the work", given_back),
];

type Seen = (Vec<String>, Option<String>);

#[remote]
fn devices(started: String, gate: String) -> Seen {
    count(&started);
    pass(&gate);
    (gpu_ids(), std::env::var("CUDA_VISIBLE_DEVICES").ok())
}

/// What so many of such tasks see that run at the same time.
fn seen_at_once(gpus: f64, tasks: u64) -> Vec<Seen> {
    let (started, gate) = (Tally::new(), Gate::new());
    let options = devices.options().num_cpus(0.5).num_gpus(gpus);
    let tasks: Vec<ObjectRef<Seen>> = (0..tasks).map(|_| options.remote(started.path(), gate.path())).collect();
    wait_until("all of them to run", || started.get() == tasks.len() as u64);
    gate.open();
    get(&tasks).expect("they end")
}

fn whole() {
    let seen = seen_at_once(2.0, 2);
    let all: BTreeSet<&String> = seen.iter().flat_map(|(ids, _)| ids).collect();
    assert!(seen.iter().all(|(ids, _)| ids.len() == 2) && all.len() == 4, "{seen:?}");
    let one = seen_at_once(1.0, 4);
    let all: BTreeSet<&String> = one.iter().flat_map(|(ids, _)| ids).collect();
    assert!(one.iter().all(|(ids, _)| ids.len() == 1) && all.len() == 4, "{one:?}");
}

fn parts() {
    given_back();
    let seen = seen_at_once(0.5, 2);
    assert!(seen[0].0.len() == 1 && seen[0].0 == seen[1].0, "{seen:?}");
    // A lease that nobody uses any more is kept for a moment, and with it a part of a GPU.
    given_back();
    let seen = seen_at_once(0.25, 8);
    let all: BTreeSet<&Vec<String>> = seen.iter().map(|(ids, _)| ids).collect();
    assert!(all.len() == 2 && all.iter().all(|ids| ids.len() == 1), "{seen:?}");
}

struct Holder {
    first: Vec<String>,
}

#[remote]
impl Holder {
    fn new() -> Self {
        Self { first: gpu_ids() }
    }

    fn ids(&mut self) -> (Vec<String>, Vec<String>) {
        (self.first.clone(), gpu_ids())
    }
}

fn actors() {
    let holders: Vec<_> = (0..2).map(|_| Holder::options().num_gpus(1.0).remote()).collect();
    let seen = get(holders.iter().map(|holder| holder.ids().remote()).collect::<Vec<_>>()).expect("they live");
    for (first, now) in &seen {
        assert!(first.len() == 1 && first == now, "{seen:?}");
    }
    assert_ne!(seen[0].0, seen[1].0);
}

fn without() {
    assert!(seen_at_once(0.0, 1)[0].0.is_empty());
    assert!(gpu_ids().is_empty(), "the driver has none either");
}

fn in_a_group() {
    let bundles = [Bundle::cpus(1.0).gpus(2.0), Bundle::cpus(1.0).gpus(1.0)];
    let group = PlacementGroup::new(bundles).create().expect("it makes sense");
    assert!(group.wait(Duration::from_secs(60)).expect("it can be placed"));
    let (started, gate) = (Tally::new(), Gate::new());
    let at = |index, gpus: f64| devices.options().num_cpus(0.5).num_gpus(gpus).placement_group_bundle(&group, index);
    let tasks = [
        at(0, 2.0).remote(started.path(), gate.path()),
        at(1, 0.5).remote(started.path(), gate.path()),
        at(1, 0.5).remote(started.path(), gate.path()),
        devices.options().num_cpus(0.5).num_gpus(1.0).remote(started.path(), gate.path()),
    ];
    wait_until("all of them to run", || started.get() == 4);
    gate.open();
    let seen: Vec<Vec<String>> = get(&tasks).expect("they end").into_iter().map(|(ids, _)| ids).collect();
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1], "{seen:?}");
    assert_eq!(seen[1], seen[2], "halves of one bundle's GPU");
    let all: BTreeSet<&String> = seen.iter().flatten().collect();
    assert_eq!(all.len(), 4, "{seen:?}");
    remove_placement_group(&group).expect("a session");
}

fn visible() {
    for (ids, visible) in seen_at_once(2.0, 2) {
        assert_eq!(visible, Some(ids.join(",")));
    }
    assert_eq!(seen_at_once(0.0, 1), [(Vec::new(), Some(String::new()))]);
}

fn given_back() {
    wait_until("all GPUs to be free", || available_resources().expect("the cluster answers").get("GPU") == Some(&GPUS));
}
