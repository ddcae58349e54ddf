//! Memory as a resource, and what becomes of work that takes too much. The nodes of the second group
//! are told that they have little: no machine is brought to its limits.

use mobula::{Error, cluster_resources, explain, get, remote};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("memory is a resource that nodes have by default", by_default),
    everywhere("tasks that need all of the memory run one after the other", one_by_one),
];

/// Scenarios on one node that may use [`LIMIT_BYTES`].
pub(crate) const SHORT: &[Scenario] = &[
    on_cluster("a task that takes too much runs again and then fails with the reason", hog),
    on_cluster("a task that must not run twice fails at once", once),
    on_cluster("others in the same process run again uncharged, and an actor outlives them", bystanders),
];

/// The memory of the node; `tests/behaviour.rs` gives it as `--memory-limit`.
const LIMIT_BYTES: usize = 384 << 20;

fn by_default() {
    let memory = cluster_resources().expect("the cluster answers")["memory"];
    assert!(memory > 1e6, "{memory}");
}

#[remote(num_cpus = 0.0)]
fn waits(started: String, gate: String) -> u64 {
    let number = count(&started);
    pass(&gate);
    number
}

fn one_by_one() {
    let most = mobula::nodes().expect("the cluster answers");
    let most = most.iter().filter_map(|node| node.resources.get("memory")).fold(0.0, |a: f64, b| a.max(*b));
    let (started, gate) = (Tally::new(), Gate::new());
    // More than half of the largest node: no node has room for two.
    let large = waits.options().memory((most * 0.6) as u64);
    let nodes = mobula::nodes().expect("the cluster answers").len();
    let tasks: Vec<_> = (0..=nodes).map(|_| large.remote(started.path(), gate.path())).collect();
    wait_until("the first", || started.get() >= 1);
    let last = &tasks[nodes];
    wait_until("the last to say what it lacks", || {
        let said = explain(last).expect("it is explained");
        said.nodes.iter().any(|node| node.why.contains("memory"))
    });
    assert!(started.get() <= nodes as u64);
    gate.open();
    get(&tasks).expect("one after the other");
}

/// Takes memory, all of it in use, until it is ended or has so much.
#[remote(num_cpus = 0.1)]
fn takes(tally: String, bytes: usize, gate: String) -> usize {
    count(&tally);
    let mut taken: Vec<Vec<u8>> = Vec::new();
    while taken.len() << 20 < bytes {
        taken.push(vec![1; 1 << 20]);
    }
    pass(&gate);
    taken.iter().map(Vec::len).sum()
}

#[track_caller]
fn out_of_memory<T: std::fmt::Debug>(result: Result<T, Error>) -> (u32, String) {
    match result {
        Err(Error::OutOfMemory { function, why, used_bytes, limit_bytes, times }) => {
            assert!(function.ends_with("memory::takes"), "{function}");
            assert!(limit_bytes == LIMIT_BYTES as u64 && used_bytes > limit_bytes / 2, "{used_bytes} of {limit_bytes}");
            (times, why)
        }
        other => panic!("expected it to be ended for want of memory, not {other:?}"),
    }
}

fn hog() {
    let (tally, gate) = (Tally::new(), Gate::new());
    // One attempt besides the first, if its code failed: those for want of memory are counted apart.
    let task = takes.options().max_retries(1).remote(tally.path(), 2 * LIMIT_BYTES, gate.path());
    let (times, why) = out_of_memory(get(&task));
    assert!(times > 2 && tally.get() >= u64::from(times), "{times} of {}", tally.get());
    assert!(why.contains("node head") && why.contains("of 384 MiB"), "{why}");
    let said = explain(&task).expect("it is explained");
    assert!(said.error.as_ref().is_some_and(|error| error.contains("options().memory(bytes)")), "{said}");
}

fn once() {
    let (tally, gate) = (Tally::new(), Gate::new());
    let task = takes.options().max_retries(0).remote(tally.path(), 2 * LIMIT_BYTES, gate.path());
    assert_eq!(out_of_memory(get(&task)).0, 1);
    assert_eq!(tally.get(), 1);
}

struct Keeper(u64);

#[remote]
impl Keeper {
    fn new() -> Self {
        Self(0)
    }

    fn add(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

fn bystanders() {
    let keeper = Keeper::options().process_worker().remote();
    assert_eq!(get(&keeper.add().remote()).expect("it lives"), 1);
    let (started, gate, tally) = (Tally::new(), Gate::new(), Tally::new());
    let others: Vec<_> = (0..4).map(|_| waits.options().max_retries(1).remote(started.path(), gate.path())).collect();
    wait_until("the others to run", || started.get() == 4);
    let closed = Gate::new();
    let task = takes.options().max_retries(1).remote(tally.path(), 2 * LIMIT_BYTES, closed.path());
    out_of_memory(get(&task));
    gate.open();
    get(&others).expect("they are not charged");
    assert_eq!(get(&keeper.add().remote()).expect("it still lives"), 2);
}
