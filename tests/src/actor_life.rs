//! How actors are made again while they are made, and how they end.

use mobula::{
    ActorEnd, EndReason, Error, ObjectRef, current_actor, exit_actor, get, get_actor, get_timeout, kill,
    kill_and_restart, on_end, remote, terminate, watch,
};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

/// No wait is as long as this unless something hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("terminate ends an actor after the calls before", terminated),
    everywhere("an actor that exits ends after the call that runs", exits),
    everywhere("an actor that exits lets its async calls end", exits_beside),
    everywhere("exit_actor and current_actor are for actors", only_for_actors),
    everywhere("an actor passes its own handle on", own_handle),
    everywhere("an error of a constructor is not retried", constructor_error),
    everywhere("a watcher is told how an actor ends", watched),
    everywhere("a restart is no end", restart_is_no_end),
    everywhere("tasks and actors watch, and a dropped actor ends", watched_by_others),
    everywhere("an actor is told of its children by a method of its own", supervised),
    on_cluster("a watcher is told of a process that was killed", watched_process),
    on_cluster("a constructor that is lost with its worker runs again", constructor_lost),
];

#[track_caller]
fn assert_dead<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(Error::ActorDied { .. }) => {}
        other => panic!("expected a dead actor, not {other:?}"),
    }
}

struct Worker {
    done: u64,
}

#[remote]
impl Worker {
    fn new() -> Self {
        Self { done: 0 }
    }

    fn work(&mut self) -> u64 {
        self.done += 1;
        self.done
    }

    fn holds(&mut self, started: String, gate: String) -> u64 {
        count(&started);
        pass(&gate);
        self.work()
    }

    fn exits(&mut self, gate: String) -> Result<u64, Error> {
        exit_actor()?;
        pass(&gate);
        Ok(self.work())
    }

    /// Has a task call this very actor, which is answered when this call has ended.
    fn calls_back(&mut self, answered: String) -> Result<Vec<ObjectRef<u64>>, Error> {
        let me = current_actor::<Self>()?;
        Ok(vec![works_for.remote(me, answered)])
    }
}

#[remote(num_cpus = 0.0)]
fn works_for(worker: WorkerHandle, answered: String) -> Result<u64, Error> {
    let done = get(&worker.work().remote())?;
    count(&answered);
    Ok(done)
}

fn terminated() {
    let (started, gate) = (Tally::new(), Gate::new());
    let worker = Worker::options().max_restarts(-1).name("to be terminated").remote();
    let held = worker.holds().remote(started.path(), gate.path());
    let before: Vec<_> = (0..10).map(|_| worker.work().remote()).collect();
    wait_until("the first call to run", || started.get() == 1);
    let ended = terminate(&worker);
    let after = worker.work().remote();
    gate.open();
    assert_eq!(get(&held).expect("it runs to its end"), 1);
    assert_eq!(get(&before).expect("they were made before"), (2..=11).collect::<Vec<u64>>());
    get(&ended).expect("then it ends");
    assert_dead(get(&after));
    assert_dead(get(&worker.work().remote()));
    wait_until("its name to be free", || {
        matches!(get_actor::<Worker>("to be terminated"), Err(Error::NoSuchActor { .. }))
    });
    assert_dead(get(&terminate(&worker)));
}

fn exits() {
    let gate = Gate::new();
    let worker = Worker::options().max_restarts(-1).max_task_retries(-1).remote();
    assert_eq!(get(&worker.work().remote()).expect("it lives"), 1);
    let last = worker.exits().remote(gate.path());
    let after: Vec<_> = (0..10).map(|_| worker.work().remote()).collect();
    gate.open();
    assert_eq!(get(&last).expect("its result counts"), 2);
    for call in &after {
        assert_dead(get_timeout(call, PATIENCE));
    }
}

struct Waiting;

#[remote]
impl Waiting {
    fn new() -> Self {
        Self
    }

    async fn passes(&self, started: String, gate: String) -> u64 {
        let run = count(&started);
        while !std::path::Path::new(&gate).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        run
    }

    async fn exits(&self) -> Result<(), Error> {
        exit_actor()
    }
}

fn exits_beside() {
    let (started, gate) = (Tally::new(), Gate::new());
    let waiting = Waiting::remote();
    let call = waiting.passes().remote(started.path(), gate.path());
    wait_until("the call to run", || started.get() == 1);
    get(&waiting.exits().remote()).expect("it exits");
    assert_dead(get(&waiting.exits().remote()));
    gate.open();
    assert_eq!(get_timeout(&call, PATIENCE).expect("it had begun"), 1);
    // Killed, it would not have waited.
    let (started, gate) = (Tally::new(), Gate::new());
    let waiting = Waiting::remote();
    let call = waiting.passes().remote(started.path(), gate.path());
    wait_until("the call to run", || started.get() == 1);
    kill(&waiting).expect("it is there");
    assert_dead(get_timeout(&call, PATIENCE));
}

#[remote]
fn exits_a_task() -> Result<(), Error> {
    exit_actor()
}

fn only_for_actors() {
    assert!(matches!(exit_actor(), Err(Error::Invalid { .. })));
    assert!(matches!(current_actor::<Worker>(), Err(Error::Invalid { .. })));
    assert!(matches!(get(&exits_a_task.remote()), Err(Error::Invalid { .. })));
}

fn own_handle() {
    let (worker, answered) = (Worker::remote(), Tally::new());
    assert_eq!(get(&worker.work().remote()).expect("it works"), 1);
    let calls = get(&worker.calls_back().remote(answered.path())).expect("it has a handle to itself");
    assert_eq!(get_timeout(&calls[0], PATIENCE).expect("a task called it"), 2);
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the constructor refused")
    }
}

impl std::error::Error for Refused {}

struct Difficult;

#[remote]
impl Difficult {
    /// Refuses, or ends its process, until it was tried so often.
    fn new(tally: String, tries: u64, aborts: bool) -> Result<Self, Refused> {
        if count(&tally) >= tries {
            return Ok(Self);
        }
        if aborts { std::process::abort() } else { Err(Refused) }
    }

    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

fn constructor_error() {
    let tally = Tally::new();
    let actor = Difficult::options().max_restarts(5).remote(tally.path(), 3, false);
    let error = get(&actor.hello().remote()).expect_err("it was not made");
    assert!(error.to_string().contains("the constructor refused"), "the reason is lost: {error}");
    assert_eq!(tally.get(), 1, "its own error was retried");
}

fn constructor_lost() {
    let tally = Tally::new();
    let options = Difficult::options().process_worker();
    let actor = options.clone().max_restarts(2).remote(tally.path(), 3, true);
    assert_eq!(get_timeout(&actor.hello().remote(), PATIENCE).expect("the third time it was made"), "hello");
    assert_eq!(tally.get(), 3);
    let tally = Tally::new();
    let actor = options.max_restarts(1).remote(tally.path(), u64::MAX, true);
    assert_dead(get_timeout(&actor.hello().remote(), PATIENCE));
    assert_eq!(tally.get(), 2, "as often as it may be restarted");
}

#[track_caller]
fn assert_ended(end: &ObjectRef<ActorEnd>, reason: EndReason) -> ActorEnd {
    let end = get_timeout(end, PATIENCE).expect("it has ended");
    assert_eq!(end.reason, reason, "{end:?}");
    end
}

struct Child;

#[remote]
impl Child {
    fn new(fine: bool) -> Result<Self, Refused> {
        if fine { Ok(Self) } else { Err(Refused) }
    }

    fn breaks(&mut self) {
        panic!("a broken child")
    }

    fn aborts(&mut self) {
        std::process::abort()
    }

    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

fn watched() {
    let child = Child::remote(true);
    let watchers = [watch(&child), watch(&child)];
    kill(&child).expect("it is there");
    for watcher in &watchers {
        assert_ended(watcher, EndReason::Killed);
    }
    assert_ended(&watch(&child), EndReason::Killed);

    let child = Child::remote(true);
    let end = watch(&child);
    get(&terminate(&child)).expect("it ends");
    assert_ended(&end, EndReason::Exited);

    let child = Child::remote(true);
    let end = watch(&child);
    get(&child.breaks().remote()).expect_err("it panics");
    assert!(assert_ended(&end, EndReason::Crashed).why.contains("a broken child"));

    let end = assert_ended(&watch(&Child::remote(false)), EndReason::Crashed);
    assert!(end.why.contains("the constructor refused"), "{end:?}");
}

fn restart_is_no_end() {
    let child = Child::options().max_restarts(1).remote(true);
    let end = watch(&child);
    get(&child.hello().remote()).expect("it lives");
    kill_and_restart(&child).expect("it is there");
    wait_until("the child to be back", || get(&child.hello().remote()).is_ok());
    assert!(matches!(get_timeout(&end, std::time::Duration::ZERO), Err(Error::TimedOut { .. })));
    kill_and_restart(&child).expect("it is there");
    assert_eq!(assert_ended(&end, EndReason::OutOfRestarts).restarts, 1);
}

#[remote(num_cpus = 0.0)]
fn watches(child: ChildHandle, started: String) -> Result<ActorEnd, Error> {
    let end = watch(&child);
    drop(child);
    count(&started);
    get_timeout(&end, PATIENCE)
}

fn watched_by_others() {
    let (child, started) = (Child::remote(true), Tally::new());
    let end = watches.remote(child.clone(), started.path());
    wait_until("the task to watch", || started.get() == 1);
    kill(&child).expect("it is there");
    let end = get_timeout(&end, PATIENCE).expect("the task was told");
    assert_eq!(end.reason, EndReason::Killed);
    // To watch keeps nothing alive.
    let child = Child::remote(true);
    get(&child.hello().remote()).expect("it lives");
    let end = watch(&child);
    drop(child);
    assert_ended(&end, EndReason::Killed);
}

struct Parent {
    children: Vec<ChildHandle>,
    ends: Vec<ActorEnd>,
}

#[remote]
impl Parent {
    fn new(children: usize) -> Result<Self, Error> {
        let children: Vec<_> = (0..children).map(|_| Child::remote(true)).collect();
        let me = current_actor::<Self>()?;
        for child in &children {
            on_end(child, me.child_ended())?;
        }
        Ok(Self { children, ends: Vec::new() })
    }

    fn child_ended(&mut self, end: ActorEnd) {
        self.ends.push(end);
    }

    fn lose(&mut self, child: usize) -> Result<(), Error> {
        kill(&self.children[child])
    }

    fn ends(&self) -> Vec<ActorEnd> {
        self.ends.clone()
    }
}

fn supervised() {
    let parent = Parent::remote(3);
    // Its other calls do not wait for the children's ends.
    assert!(get_timeout(&parent.ends().remote(), PATIENCE).expect("it answers").is_empty());
    get(&parent.lose().remote(1)).expect("it loses one");
    wait_until("the parent to be told", || get(&parent.ends().remote()).expect("it answers").len() == 1);
    get(&parent.lose().remote(0)).expect("and another one");
    wait_until("the parent to be told again", || get(&parent.ends().remote()).expect("it answers").len() == 2);
    let ends = get(&parent.ends().remote()).expect("it answers");
    assert!(ends.iter().all(|end| end.reason == EndReason::Killed), "{ends:?}");
    assert_ne!(ends[0].actor, ends[1].actor);
}

fn watched_process() {
    let child = Child::options().process_worker().remote(true);
    let end = watch(&child);
    get(&child.aborts().remote()).expect_err("its process is gone");
    assert_ended(&end, EndReason::Crashed);
}
