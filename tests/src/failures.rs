//! Failures: errors and panics of user code, dead actors, dead workers.

use std::time::Duration;

use mobula::{Error, NodeId, get, get_timeout, kill, kill_and_restart, nodes, remote};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("an error keeps its type, message, causes and place", application_error),
    everywhere("an error is not retried", not_retried),
    everywhere("an error is retried when it is to be", retried),
    everywhere("a panic ends the task with its message and place", panics),
    everywhere("a panic in a method ends the actor", actor_panics),
    everywhere("an actor restarts once, then every call fails", restarts_once),
    everywhere("an actor that panics is made anew", panic_restarts),
    everywhere("a terminated actor never restarts", terminated),
    everywhere("a dead actor's call fails at once", at_once),
    everywhere("calls that wait when the actor is killed fail", waiting_calls),
    everywhere("a failed get leaves the session whole", goes_on),
];

/// Scenarios of two CPUs.
pub(crate) const TWO_CPUS: &[Scenario] = &[everywhere("nested tasks to depth 8 on 2 CPUs", depth)];

/// Scenarios that end worker processes.
pub(crate) const LOST_WORKERS: &[Scenario] = &[
    on_cluster("a task that kills its worker runs again", kills_its_worker),
    on_cluster("a task that always kills its worker fails in the end", always_kills),
    on_cluster("only the task that ends its worker is charged", bystanders),
    on_cluster("a task whose child ends their worker again and again fails in the end", child_kills),
    on_cluster("a task whose actor ends their worker again and again fails in the end", own_actor_kills),
    on_cluster("no task is charged when an actor ends their worker", bystanders_of_an_actor),
    on_cluster("an actor whose worker is killed is made anew, then every call fails", actor_loses_worker),
];

#[derive(Debug)]
struct Outer(Inner);

#[derive(Debug)]
struct Inner;

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the outer error")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl std::fmt::Display for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the inner error")
    }
}

impl std::error::Error for Inner {}

#[remote]
fn fails(tally: String) -> Result<i64, Outer> {
    count(&tally);
    Err(Outer(Inner))
}

fn application_error() {
    let tally = Tally::new();
    match get(&fails.remote(tally.path())) {
        Err(Error::Application { place, type_name, message, causes }) => {
            assert!(place.function.ends_with("failures::fails"), "{place:?}");
            assert!(place.pid > 0 && !place.node.is_empty(), "{place:?}");
            assert!(type_name.ends_with("Outer"), "{type_name}");
            assert_eq!(message, "the outer error");
            assert_eq!(causes, ["the inner error"]);
        }
        other => panic!("expected the function's own error, not {other:?}"),
    }
}

fn not_retried() {
    let tally = Tally::new();
    let failed = fails.options().max_retries(5).remote(tally.path());
    get(&failed).expect_err("it fails");
    get(&failed).expect_err("and stays failed");
    assert_eq!(tally.get(), 1);
}

#[remote]
fn fails_at_first(tally: String, times: u64) -> Result<u64, Outer> {
    let run = count(&tally);
    if run <= times { Err(Outer(Inner)) } else { Ok(run) }
}

#[remote(retry_exceptions = true, max_retries = 1)]
fn panics_at_first(tally: String) -> u64 {
    let run = count(&tally);
    assert!(run > 1, "the first time");
    run
}

fn retried() {
    let tally = Tally::new();
    let twice = fails_at_first.options().max_retries(2).retry_exceptions(true);
    assert_eq!(get(&twice.remote(tally.path(), 2)).expect("the third attempt is right"), 3);
    // The last error is the result.
    let tally = Tally::new();
    let failed = get(&twice.remote(tally.path(), 9)).expect_err("none is left");
    assert!(matches!(&failed, Error::Application { message, .. } if message == "the outer error"), "{failed}");
    assert_eq!(tally.get(), 3);
    // Chosen ones only.
    let tally = Tally::new();
    let chosen = fails_at_first.options().retry_exceptions_if(|name| name.ends_with("Outer"));
    assert_eq!(get(&chosen.remote(tally.path(), 1)).expect("it is retried"), 2);
    let tally = Tally::new();
    let others = fails_at_first.options().retry_exceptions_if(|name| name.ends_with("Inner"));
    get(&others.remote(tally.path(), 1)).expect_err("it is not retried");
    assert_eq!(tally.get(), 1);
    // A panic is one too.
    let tally = Tally::new();
    assert_eq!(get(&panics_at_first.remote(tally.path())).expect("it is retried"), 2);
}

#[remote]
fn panics_with(text: String) -> i64 {
    panic!("because of {text}")
}

fn panics() {
    match get(&panics_with.remote("a whim")) {
        Err(Error::Panicked { place, message, location }) => {
            assert!(place.function.ends_with("panics_with"), "{place:?}");
            assert_eq!(message, "because of a whim");
            assert!(location.contains("failures.rs:"), "{location}");
        }
        other => panic!("expected a panic, not {other:?}"),
    }
}

struct Fragile {
    hits: i64,
}

#[remote]
impl Fragile {
    fn new() -> Self {
        Self { hits: 0 }
    }

    fn hit(&mut self) -> i64 {
        self.hits += 1;
        self.hits
    }

    fn break_down(&mut self) -> i64 {
        panic!("broken")
    }

    fn fail(&mut self) -> Result<i64, Inner> {
        Err(Inner)
    }

    fn wait_for(&mut self, gate: String) -> i64 {
        pass(&gate);
        self.hits
    }

    fn exit(&mut self) -> i64 {
        std::process::abort()
    }
}

#[track_caller]
fn assert_dead<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(Error::ActorDied { .. }) => {}
        other => panic!("expected a dead actor, not {other:?}"),
    }
}

fn actor_panics() {
    let actor = Fragile::remote();
    assert_eq!(get(&actor.hit().remote()).expect("it works"), 1);
    get(&actor.fail().remote()).expect_err("an error");
    assert_eq!(get(&actor.hit().remote()).expect("does not end it"), 2);
    assert!(matches!(get(&actor.break_down().remote()), Err(Error::Panicked { .. })));
    assert_dead(get(&actor.hit().remote()));
}

fn restarts_once() {
    let actor = Fragile::options().max_restarts(1).remote();
    assert_eq!(get(&actor.hit().remote()).expect("it works"), 1);
    assert_eq!(get(&actor.hit().remote()).expect("and counts"), 2);
    kill_and_restart(&actor).expect("the first kill");
    // A call under way when it dies may fail; once it is back, its state starts anew.
    let mut again = Err(Error::Invalid { what: "no call yet".to_owned() });
    wait_until("the actor to be back", || {
        again = get(&actor.hit().remote());
        again.is_ok()
    });
    assert_eq!(again.expect("it is back"), 1);
    kill_and_restart(&actor).expect("the second kill");
    wait_until("the actor to be dead", || get(&actor.hit().remote()).is_err());
    let calls: Vec<_> = (0..100).map(|_| actor.hit().remote()).collect();
    for call in &calls {
        assert_dead(get(call));
    }
}

fn panic_restarts() {
    let actor = Fragile::options().max_restarts(1).remote();
    get(&actor.hit().remote()).expect("it works");
    assert!(matches!(get(&actor.break_down().remote()), Err(Error::Panicked { .. })));
    let mut again = Err(Error::Invalid { what: "no call yet".to_owned() });
    wait_until("the actor to be back", || {
        again = get(&actor.hit().remote());
        again.is_ok()
    });
    assert_eq!(again.expect("it is back"), 1);
}

fn terminated() {
    let actor = Fragile::options().max_restarts(-1).remote();
    get(&actor.hit().remote()).expect("it works");
    kill(&actor).expect("it is killed");
    wait_until("the actor to be dead", || get(&actor.hit().remote()).is_err());
    for _ in 0..10 {
        assert_dead(get(&actor.hit().remote()));
    }
    kill(&actor).expect("to kill a dead actor does nothing");
}

fn at_once() {
    let actor = Fragile::remote();
    get(&actor.hit().remote()).expect("it works");
    kill(&actor).expect("it is killed");
    // Once its death is known, nothing is waited for.
    wait_until("calls that fail at once", || {
        let (ready, _) = mobula::wait(&[actor.hit().remote()], 1, Some(Duration::ZERO)).expect("it can be asked");
        ready.first().is_some_and(|call| matches!(get(call), Err(Error::ActorDied { .. })))
    });
}

fn waiting_calls() {
    let actor = Fragile::remote();
    let gate = Gate::new();
    get(&actor.hit().remote()).expect("it works");
    let running = actor.wait_for().remote(gate.path());
    let waiting: Vec<_> = (0..10).map(|_| actor.hit().remote()).collect();
    kill(&actor).expect("it is killed");
    for call in &waiting {
        assert_dead(get(call));
    }
    gate.open();
    // The call that ran may have ended either way; it must end.
    let _ = get_timeout(&running, Duration::from_secs(60)).map_err(|error| {
        assert!(!matches!(error, Error::TimedOut { .. }), "the call that ran hangs");
    });
}

#[remote]
fn nest(depth: u32) -> Result<u32, Error> {
    if depth == 0 { Ok(0) } else { Ok(1 + get(&nest.remote(depth - 1))?) }
}

fn depth() {
    assert_eq!(mobula::cluster_resources().expect("the cluster answers")["CPU"], 2.0);
    // More than there are CPUs: a task that waits in get lends its own.
    let several: Vec<_> = (0..4).map(|_| nest.remote(8)).collect();
    assert_eq!(get(&several).expect("all the way down"), [8, 8, 8, 8]);
}

fn goes_on() {
    for _ in 0..20 {
        get(&panics_with.remote("habit")).expect_err("it panics");
    }
    assert_eq!(get(&nest.remote(0)).expect("the workers live on"), 0);
}

#[remote]
fn aborts_until(tally: String, runs: u64) -> u64 {
    let run = count(&tally);
    if run < runs {
        std::process::abort();
    }
    run
}

fn kills_its_worker() {
    let tally = Tally::new();
    let third = aborts_until.options().max_retries(5).process_worker().remote(tally.path(), 3);
    assert_eq!(get(&third).expect("the third run returns"), 3);
    let tally = Tally::new();
    let third = aborts_until.options().max_retries(5).remote(tally.path(), 3);
    assert_eq!(get(&third).expect("in a shared worker too"), 3);
}

fn always_kills() {
    let tally = Tally::new();
    let never = aborts_until.options().max_retries(1).process_worker().remote(tally.path(), u64::MAX);
    match get(&never) {
        Err(Error::WorkerDied { function, attempts, .. }) => {
            assert!(function.contains("aborts_until"), "{function}");
            assert_eq!(attempts, 2);
        }
        other => panic!("expected a dead worker, not {other:?}"),
    }
    assert_eq!(tally.get(), 2);
}

#[remote(num_cpus = 0.0)]
fn stands_by(running: String, gate: String, number: i64) -> i64 {
    count(&running);
    pass(&gate);
    number
}

/// Ends the process it runs in.
#[remote]
fn ends_its_process(how: String) {
    match how.as_str() {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        // SAFETY: none. Null is written to on purpose, for the fault that follows.
        "fault" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        _ => println!("{}", overflows(1)),
    }
}

#[allow(unconditional_recursion, reason = "it is to run out of stack")]
fn overflows(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    overflows(depth + 1) + room[0]
}

struct Vicious;

#[remote]
impl Vicious {
    fn new() -> Self {
        Self
    }

    fn aborts(&mut self) {
        std::process::abort();
    }
}

/// Tasks that have one attempt each outlive `end`, which ends the process they all run in: the
/// shared one of this node.
fn outlive(node: NodeId, end: impl Fn()) {
    let (gate, running) = (Gate::new(), Tally::new());
    let one_attempt = stands_by.options().on_node(node).max_retries(0);
    let others: Vec<_> = (0..8).map(|i| one_attempt.remote(running.path(), gate.path(), i)).collect();
    wait_until("all bystanders to run", || running.get() == 8);
    end();
    wait_until("all bystanders to run again", || running.get() == 16);
    gate.open();
    assert_eq!(get(&others).expect("none of them was charged"), (0..8).collect::<Vec<_>>());
}

fn some_node() -> NodeId {
    nodes().expect("a session")[0].id
}

fn bystanders() {
    let node = some_node();
    for how in ["abort", "exit", "fault", "overflow"] {
        outlive(node, || {
            let culprit = ends_its_process.options().on_node(node).max_retries(0).remote(how.to_owned());
            match get(&culprit) {
                Err(Error::WorkerDied { attempts: 1, .. }) => {}
                other => panic!("{how}: the culprit had one attempt, and yet {other:?}"),
            }
        });
    }
}

/// Starts a child in the same process, which takes it down.
#[remote]
fn has_a_vicious_child(tally: String, node: NodeId) {
    count(&tally);
    let child = ends_its_process.options().on_node(node).remote("abort".to_owned());
    let _ = get(&child);
}

fn child_kills() {
    let (tally, node) = (Tally::new(), some_node());
    let parent = has_a_vicious_child.options().on_node(node).max_retries(1).remote(tally.path(), node);
    match get(&parent) {
        Err(Error::WorkerDied { attempts: 2, .. }) => {}
        other => panic!("it takes its process down every time, and yet {other:?}"),
    }
    assert_eq!(tally.get(), 2);
}

/// Makes an actor in the same process, which takes it down.
#[remote]
fn has_a_vicious_actor(tally: String, node: NodeId) {
    count(&tally);
    let actor = Vicious::options().on_node(node).remote();
    let _ = get(&actor.aborts().remote());
}

fn own_actor_kills() {
    let (tally, node) = (Tally::new(), some_node());
    let parent = has_a_vicious_actor.options().on_node(node).max_retries(0).remote(tally.path(), node);
    match get(&parent) {
        Err(Error::WorkerDied { attempts: 1, .. }) => {}
        other => panic!("it takes its process down every time, and yet {other:?}"),
    }
    assert!(tally.get() > 1, "at first it was not taken for the cause");
}

fn bystanders_of_an_actor() {
    let node = some_node();
    outlive(node, || {
        let actor = Vicious::options().on_node(node).remote();
        get(&actor.aborts().remote()).expect_err("its process is gone");
    });
}

fn actor_loses_worker() {
    let actor = Fragile::options().max_restarts(1).process_worker().remote();
    assert_eq!(get(&actor.hit().remote()).expect("it works"), 1);
    get(&actor.exit().remote()).expect_err("its process is gone");
    let mut again = Err(Error::Invalid { what: "no call yet".to_owned() });
    wait_until("the actor to be back", || {
        again = get(&actor.hit().remote());
        again.is_ok()
    });
    assert_eq!(again.expect("it is back, its state anew"), 1);
    get(&actor.exit().remote()).expect_err("its process is gone again");
    let calls: Vec<_> = (0..100).map(|_| actor.hit().remote()).collect();
    for call in &calls {
        assert_dead(get(call));
    }
}
