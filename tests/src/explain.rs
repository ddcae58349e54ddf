//! What `explain` says of tasks, actors and placement groups: while they wait, run, and afterwards.

use mobula::{
    Bundle, Error, ObjectRef, PlacementGroup, Verdict, cluster_resources, explain, get, remote, remove_placement_group,
};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a task that no node can run says what each node lacks", no_node),
    everywhere("a task that waits for arguments names them", arguments),
    everywhere("a task in line says how many come before it", in_line),
    everywhere("a task that runs says where, and so it does afterwards", where_it_runs),
    everywhere("a task that failed says why and where", failed),
    on_cluster("a task that lost its workers says how often it was tried", lost),
    everywhere("a cancelled task says so", cancelled),
    everywhere("an actor says why it waits, where it lives, how it died", actor),
    everywhere("a call says what its actor waits for", call),
    everywhere("a placement group says which bundles have no node, and its tasks say so", group),
    everywhere("what cannot be explained is an error", unknown),
];

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

#[remote]
fn fails() -> Result<i64, String> {
    Err("on purpose".to_owned())
}

fn no_node() {
    let never = answer.options().num_gpus(8.0).name("greedy").remote(1);
    let said = explain(&never).expect("it is explained");
    assert_eq!((said.state.as_str(), said.name.as_str()), ("PENDING_NODE_ASSIGNMENT", "greedy"), "{said}");
    assert_eq!(said.demand["GPU"], 8.0, "{said}");
    assert!(said.reason.as_ref().is_some_and(|reason| reason.contains("no node of the cluster can ever")), "{said}");
    assert!(!said.nodes.is_empty());
    for node in &said.nodes {
        assert_eq!(node.verdict, Verdict::Never, "{said}");
        assert!(node.why.contains("GPU 0, 8 is needed"), "{said}");
    }
}

fn arguments() {
    let gate = Gate::new();
    let started = Tally::new();
    let first = waits.options().num_cpus(0.0).remote(started.path(), gate.path());
    let second = answer.remote(&first);
    let said = explain(&second).expect("it is explained");
    assert_eq!(said.state, "PENDING_ARGS_AVAIL", "{said}");
    assert_eq!(said.waits_for, [first.to_string()], "{said}");
    gate.open();
    assert_eq!(get(&second).expect("it runs"), 7);
}

fn in_line() {
    let (started, gate) = (Tally::new(), Gate::new());
    let cpus = cluster_resources().expect("the cluster answers")["CPU"] as u64;
    let tasks: Vec<_> = (0..cpus + 5).map(|_| waits.remote(started.path(), gate.path())).collect();
    wait_until("all CPUs to be busy", || started.get() >= cpus);
    let last = &tasks[tasks.len() - 1];
    let said = explain(last).expect("it is explained");
    assert_eq!((said.state.as_str(), said.ahead), ("PENDING_NODE_ASSIGNMENT", Some(4)), "{said}");
    let said = wait_until_said(last, "all nodes to say that they are busy", |said| {
        said.nodes.iter().all(|node| node.verdict == Verdict::Busy && node.why.contains("CPU 1 is needed"))
    });
    assert!(said.reason.as_ref().is_some_and(|reason| reason.contains("until others end")), "{said}");
    gate.open();
    get(&tasks).expect("all of them");
}

/// Asks until the explanation is the expected one: what nodes report takes its time.
fn wait_until_said<T>(
    task: &ObjectRef<T>,
    what: &str,
    expected: impl Fn(&mobula::TaskExplanation) -> bool,
) -> mobula::TaskExplanation {
    let mut said = explain(task).expect("it is explained");
    wait_until(what, || {
        said = explain(task).expect("it is explained");
        expected(&said)
    });
    said
}

fn where_it_runs() {
    let (started, gate) = (Tally::new(), Gate::new());
    let task = waits.remote(started.path(), gate.path());
    wait_until("it to run", || started.get() == 1);
    let said = explain(&task).expect("it is explained");
    assert_eq!((said.state.as_str(), said.name.as_str()), ("RUNNING", "waits"), "{said}");
    let place = (said.node.expect("its node"), said.pid.expect("its process"));
    assert_eq!(said.attempts, Some((1, 4)));
    gate.open();
    get(&task).expect("it ends");
    let said = wait_until_said(&task, "the worker to note its end", |said| said.node.is_some());
    assert_eq!(said.state, "FINISHED", "{said}");
    assert_eq!((said.node.expect("its node"), said.pid.expect("its process")), place);
}

fn failed() {
    let task = fails.remote();
    get(&task).expect_err("on purpose");
    let said = explain(&task).expect("it is explained");
    assert_eq!(said.state, "FAILED", "{said}");
    assert!(said.error.as_ref().is_some_and(|error| error.contains("on purpose")), "{said}");
    assert!(said.function.ends_with("explain::fails") && said.node.is_some() && said.pid.is_some(), "{said}");
}

#[remote]
fn aborts() -> i64 {
    std::process::abort()
}

fn lost() {
    let task = aborts.options().max_retries(1).process_worker().remote();
    get(&task).expect_err("its workers die");
    let said = explain(&task).expect("it is explained");
    assert_eq!((said.state.as_str(), said.attempts), ("FAILED", Some((2, 2))), "{said}");
    let error = said.error.as_ref().expect("it failed");
    assert!(error.contains("signal 6") && error.contains("on node ") && error.contains("(pid "), "{said}");
}

fn cancelled() {
    let (started, gate) = (Tally::new(), Gate::new());
    let task = waits.remote(started.path(), gate.path());
    wait_until("it to run", || started.get() == 1);
    mobula::cancel(&task);
    assert_eq!(explain(&task).expect("it is explained").state, "CANCELLED");
    gate.open();
    let said = wait_until_said(&task, "its code to return", |said| said.state == "FAILED");
    assert!(said.error.as_ref().is_some_and(|error| error.contains("was cancelled")), "{said}");
}

struct Sleeper;

#[remote]
impl Sleeper {
    fn new() -> Self {
        Self
    }

    fn yawn(&mut self) -> i64 {
        1
    }
}

fn actor() {
    let waiting = Sleeper::options().num_gpus(3.0).remote();
    let mut state = String::new();
    wait_until("the head to have looked at it", || match explain(&waiting) {
        Ok(said) => {
            state = said.state.clone();
            said.nodes.iter().any(|node| node.verdict == Verdict::Never && node.why.contains("GPU 0, 3 is needed"))
        }
        // It is not recorded yet.
        Err(Error::Invalid { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    assert_eq!(state, "PENDING");

    let living = Sleeper::options().max_restarts(2).remote();
    get(&living.yawn().remote()).expect("it lives");
    let said = explain(&living).expect("it is explained");
    assert_eq!((said.state.as_str(), said.restarts, said.max_restarts), ("ALIVE", 0, 2), "{said}");
    assert!(said.class.contains("Sleeper") && said.node.is_some() && said.nodes.is_empty(), "{said}");

    mobula::kill(&living).expect("it is ended");
    let said = explain(&living).expect("it is explained");
    assert_eq!(said.state, "DEAD", "{said}");
    assert!(said.reason.as_ref().is_some_and(|reason| reason.contains("killed")), "{said}");
}

fn call() {
    let waiting = Sleeper::options().num_gpus(3.0).remote();
    let call = waiting.yawn().remote();
    let said = wait_until_said(&call, "the actor's state", |said| {
        said.reason.as_ref().is_some_and(|reason| reason.contains("its actor is PENDING"))
    });
    assert_eq!((said.state.as_str(), said.name.as_str()), ("PENDING_ACTOR", "yawn"), "{said}");
    assert!(said.actor.is_some() && said.attempts.is_none(), "{said}");
}

fn group() {
    let group = PlacementGroup::new([Bundle::cpus(1.0), Bundle::cpus(1.0).gpus(5.0)]).create().expect("it makes sense");
    let inside = answer.options().placement_group_bundle(&group, 0).remote(1);
    wait_until("the head to have looked at it", || match explain(&group) {
        Ok(said) => said.state == "PENDING" && said.reason.is_some_and(|reason| reason.contains("GPU")),
        // It is not recorded yet.
        Err(Error::GroupRemoved { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    let said = explain(&group).expect("it is explained");
    let [first, second] = &said.bundles[..] else { panic!("it has two bundles: {said}") };
    assert!(first.node.is_none() && first.nodes.iter().any(|node| node.verdict != Verdict::Never), "{said}");
    assert!(second.nodes.iter().all(|node| node.verdict == Verdict::Never), "{said}");
    let said = explain(&inside).expect("it is explained");
    assert_eq!(said.placement_group, Some(group.id().to_string()), "{said}");
    assert!(said.reason.as_ref().is_some_and(|reason| reason.contains("placement group is PENDING")), "{said}");
    remove_placement_group(&group).expect("a session");
    wait_until("it to be gone", || matches!(explain(&group), Err(Error::GroupRemoved { .. })));
}

fn unknown() {
    // A call that could not be made has nothing to be explained but its error.
    let senseless = answer.options().num_cpus(-1.0).remote(1);
    assert!(matches!(explain(&senseless), Err(Error::Invalid { .. })));
}
