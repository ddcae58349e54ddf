//! Cancelling: what waits, what runs, what it has submitted, and by force.

use std::time::Duration;

use mobula::{Cancel, Error, ObjectRef, cancel, cancel_with, get, get_timeout, is_cancelled, remote, wait};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

/// No wait is as long as this unless something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("cancelling the first of a chain fails all of it", chain_first),
    everywhere("cancelling the third of a chain leaves the first two", chain_third),
    everywhere("a hundred immediate cancels never hang", immediately),
    everywhere("a cancelled task that waits does not run", waiting),
    everywhere("a call fails at once while its code runs on, and the code can ask", running),
    everywhere("what a task has submitted is cancelled with it", recursive),
    everywhere("and is not when that is not wanted", not_recursive),
    everywhere("a call of an actor that waits does not run", actor_call),
    everywhere("cancelling what has ended changes nothing", ended),
    everywhere("who borrows a reference can cancel its task", borrowed),
    everywhere("a cancelled task is not retried", not_retried),
];

/// Scenarios that end worker processes.
pub(crate) const BY_FORCE: &[Scenario] = &[
    on_cluster("force ends the process of a task", force_process),
    on_cluster("force ends a shared worker whose code does not return, and nobody else is charged", force_shared),
];

#[track_caller]
fn assert_cancelled<T: std::fmt::Debug>(object: &ObjectRef<T>)
where
    for<'a> &'a ObjectRef<T>: mobula::Get<Output = T>,
{
    match get_timeout(object, PATIENCE) {
        Err(Error::TaskCancelled { .. }) => {}
        other => panic!("expected a cancelled task, not {other:?}"),
    }
}

#[remote]
fn step(x: i64, gate: String) -> i64 {
    pass(&gate);
    x + 1
}

fn chain(gate: &Gate) -> [ObjectRef<i64>; 4] {
    let first = step.remote(0, gate.path());
    let second = step.remote(&first, gate.path());
    let third = step.remote(&second, gate.path());
    let fourth = step.remote(&third, gate.path());
    [first, second, third, fourth]
}

fn chain_first() {
    let gate = Gate::new();
    let chain = chain(&gate);
    cancel(&chain[0]);
    chain.iter().for_each(assert_cancelled);
}

fn chain_third() {
    let gate = Gate::new();
    let chain = chain(&gate);
    cancel(&chain[2]);
    assert_cancelled(&chain[2]);
    assert_cancelled(&chain[3]);
    gate.open();
    assert_eq!(get(&chain[..2]).expect("they finish"), [1, 2]);
}

#[remote]
fn quick(x: i64) -> i64 {
    x
}

fn immediately() {
    let tasks: Vec<_> = (0..100)
        .map(|i| {
            let task = quick.remote(i);
            cancel(&task);
            task
        })
        .collect();
    for (i, task) in tasks.iter().enumerate() {
        match get_timeout(task, PATIENCE) {
            Ok(x) => assert_eq!(x, i as i64),
            Err(Error::TaskCancelled { .. }) => {}
            Err(error) => panic!("neither its result nor cancelled: {error}"),
        }
    }
    assert_eq!(get(&quick.remote(7)).expect("all goes on"), 7);
}

#[remote]
fn counts(tally: String) -> u64 {
    count(&tally)
}

#[remote]
fn holds(started: String, gate: String) {
    count(&started);
    pass(&gate);
}

fn waiting() {
    let (gate, started, tally) = (Gate::new(), Tally::new(), Tally::new());
    // More than can run: the last ones wait.
    let busy: Vec<_> = (0..8).map(|_| holds.remote(started.path(), gate.path())).collect();
    let late: Vec<_> = (0..20).map(|_| counts.remote(tally.path())).collect();
    late.iter().for_each(cancel);
    late.iter().for_each(assert_cancelled);
    gate.open();
    get(&busy).expect("they end");
    get(&quick.remote(1)).expect("and others run");
    assert_eq!(tally.get(), 0, "what was cancelled before it could run has run");
}

#[remote]
fn until_cancelled(started: String, noticed: String) {
    count(&started);
    while !is_cancelled() {
        std::thread::sleep(Duration::from_millis(2));
    }
    count(&noticed);
}

fn running() {
    assert!(!is_cancelled(), "nobody cancels the program");
    let (started, noticed) = (Tally::new(), Tally::new());
    let task = until_cancelled.remote(started.path(), noticed.path());
    wait_until("the task to run", || started.get() == 1);
    cancel(&task);
    assert_cancelled(&task);
    wait_until("the code to notice", || noticed.get() == 1);
    // Code that does not ask.
    let gate = Gate::new();
    let task = holds.remote(started.path(), gate.path());
    wait_until("the other task to run", || started.get() == 2);
    cancel(&task);
    assert_cancelled(&task);
}

#[remote]
fn parent(child_started: String, noticed: String) -> Result<(), Error> {
    get(&until_cancelled.remote(child_started, noticed))
}

fn recursive() {
    let (started, noticed) = (Tally::new(), Tally::new());
    let task = parent.remote(started.path(), noticed.path());
    wait_until("the child to run", || started.get() == 1);
    cancel(&task);
    assert_cancelled(&task);
    wait_until("the child to notice", || noticed.get() == 1);
}

#[remote]
fn parent_of_one_that_holds(started: String, gate: String, done: String) -> Result<(), Error> {
    get(&holds.remote(started, gate))?;
    count(&done);
    Ok(())
}

fn not_recursive() {
    let (gate, started, done) = (Gate::new(), Tally::new(), Tally::new());
    let task = parent_of_one_that_holds.remote(started.path(), gate.path(), done.path());
    wait_until("the child to run", || started.get() == 1);
    cancel_with(&task, Cancel { recursive: false, ..Cancel::default() });
    assert_cancelled(&task);
    gate.open();
    wait_until("the child to end as if nothing had been, and the parent's code with it", || done.get() == 1);
}

#[remote]
fn path_after(path: String, gate: String) -> String {
    pass(&gate);
    path
}

struct Busy;

#[remote(concurrency_groups(gates = 1))]
impl Busy {
    fn new() -> Self {
        Self
    }

    fn holds(&self, started: String, gate: String) {
        count(&started);
        pass(&gate);
    }

    fn counts(&self, tally: String) -> u64 {
        count(&tally)
    }

    /// Beside the others: what was sent to the actor before this call has arrived then.
    #[concurrency_group("gates")]
    fn opens(&self, gate: String) {
        std::fs::write(gate, b"").expect("the gate's file can be written");
    }
}

fn actor_call() {
    let (gate, started, tally) = (Gate::new(), Tally::new(), Tally::new());
    let actor = Busy::remote();
    let first = actor.holds().remote(started.path(), gate.path());
    let second = actor.counts().remote(tally.path());
    let third = actor.counts().remote(tally.path());
    wait_until("the first call to run", || started.get() == 1);
    cancel(&second);
    assert_cancelled(&second);
    get(&actor.opens().remote(gate.path())).expect("it runs beside the first");
    get(&first).expect("it is not concerned");
    assert_eq!(get(&third).expect("nor is the third"), 1, "the second one did not run");
    // One whose argument is not ready does not hold up those behind it.
    let never = Gate::new();
    let late = actor.counts().remote(path_after.remote(tally.path(), never.path()));
    let next = actor.counts().remote(tally.path());
    cancel(&late);
    assert_cancelled(&late);
    assert_eq!(get_timeout(&next, PATIENCE).expect("it need not wait"), 2);
}

fn ended() {
    let task = quick.remote(3);
    assert_eq!(get(&task).expect("it ends"), 3);
    cancel(&task);
    assert_eq!(get(&task).expect("it has ended"), 3);
    let put = mobula::put(4).expect("there is room");
    cancel(&put);
    assert_eq!(get(&put).expect("nothing makes it"), 4);
}

#[remote]
fn cancels(tasks: Vec<ObjectRef<()>>) {
    tasks.iter().for_each(cancel);
}

fn borrowed() {
    let (started, noticed) = (Tally::new(), Tally::new());
    let task = until_cancelled.remote(started.path(), noticed.path());
    wait_until("the task to run", || started.get() == 1);
    get(&cancels.remote(vec![task.clone()])).expect("it asks the owner");
    assert_cancelled(&task);
    wait_until("the code to notice", || noticed.get() == 1);
}

#[remote]
fn fails_when_cancelled(started: String) -> Result<(), std::io::Error> {
    count(&started);
    while !is_cancelled() {
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(std::io::Error::other("given up"))
}

fn not_retried() {
    let started = Tally::new();
    let task = fails_when_cancelled.options().retry_exceptions(true).remote(started.path());
    wait_until("the task to run", || started.get() == 1);
    cancel(&task);
    assert_cancelled(&task);
    let after: Vec<_> = (0..20).map(|i| quick.remote(i)).collect();
    get(&after).expect("others run");
    assert_eq!(started.get(), 1, "it was retried");
}

/// Never returns, and leaves word of its process.
#[remote]
fn stubborn(pid: String) {
    std::fs::write(&pid, std::process::id().to_string()).expect("the file can be written");
    loop {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process of the stubborn task, once it runs.
fn process_of(word: &Gate) -> u32 {
    let mut pid = None;
    wait_until("the task to run", || {
        pid = std::fs::read_to_string(word.path()).ok().and_then(|text| text.parse().ok());
        pid.is_some()
    });
    pid.expect("it was waited for")
}

fn lives(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

const FORCE: Cancel = Cancel { force: true, recursive: true };

fn force_process() {
    let word = Gate::new();
    let task = stubborn.options().process_worker().remote(word.path());
    let pid = process_of(&word);
    cancel_with(&task, FORCE);
    assert_cancelled(&task);
    wait_until("its process to end", || !lives(pid));
    assert_eq!(get(&quick.options().process_worker().remote(1)).expect("others run"), 1);
}

#[remote(num_cpus = 0.0)]
fn stands_by(started: String, gate: String) -> u64 {
    let run = count(&started);
    pass(&gate);
    run
}

fn force_shared() {
    let node = mobula::nodes().expect("a session")[0].id;
    let (word, gate, started) = (Gate::new(), Gate::new(), Tally::new());
    let task = stubborn.options().on_node(node).remote(word.path());
    let pid = process_of(&word);
    let bystander = stands_by.options().on_node(node).max_retries(0).remote(started.path(), gate.path());
    wait_until("the bystander to run", || started.get() == 1);
    cancel_with(&task, FORCE);
    assert_cancelled(&task);
    let (ready, _) = wait(std::slice::from_ref(&bystander), 1, Duration::ZERO).expect("a session");
    assert!(ready.is_empty(), "the others go on meanwhile");
    wait_until("the process to end", || !lives(pid));
    wait_until("the bystander to run again", || started.get() == 2);
    gate.open();
    assert_eq!(get(&bystander).expect("it was not charged"), 2);
}
