//! Calls of actors that are lost with their worker or fail: what is made again, how often, and in
//! which order; and how many may be pending.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use mobula::{Error, ObjectRef, get, kill_and_restart, remote};

use crate::gate::{Gate, Tally, count, fresh, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("calls that a restart interrupts are made again, in order", restart_in_order),
    everywhere("a call that may not be made again runs at most once", at_most_once),
    everywhere("a call whose code fails is made again when it is to be", retry_exceptions),
    everywhere("a method has its own retries", of_a_method),
    everywhere("a call beyond max_pending_calls fails at once", pending_calls),
    on_cluster("100 calls interrupted by SIGKILL all succeed, in order", killed_in_order),
    on_cluster("a call that kills its worker is made again as often as it may", kills_its_worker),
];

/// What each life of an actor was called with, in a file: it outlives them.
struct Journal(PathBuf);

impl Journal {
    fn new() -> Self {
        Self(fresh("journal"))
    }

    fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// (life, number), in the order in which they were written.
    fn lines(&self) -> Vec<(u64, i64)> {
        let text = fs::read_to_string(&self.0).expect("somebody has written to it");
        let line = |line: &str| {
            let (life, number) = line.split_once(' ').expect("two words");
            (life.parse().expect("a life"), number.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write_line(journal: &Path, life: u64, number: i64) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(journal).expect("the journal opens");
    file.write_all(format!("{life} {number}\n").as_bytes()).expect("it takes a line");
}

struct Recorder {
    journal: PathBuf,
    life: u64,
}

#[remote]
impl Recorder {
    fn new(journal: String, lives: String) -> Self {
        Self { journal: journal.into(), life: count(&lives) }
    }

    fn record(&mut self, number: i64) -> i64 {
        write_line(&self.journal, self.life, number);
        std::thread::sleep(std::time::Duration::from_millis(2));
        number
    }

    fn wait_for(&mut self, gate: String) {
        pass(&gate);
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }
}

/// All numbers to 100 were recorded, and no life saw a later call before an earlier one.
fn assert_in_order(journal: &Journal, lives: &Tally) {
    let lines = journal.lines();
    for life in 1..=lives.get() {
        let of_life: Vec<i64> = lines.iter().filter(|line| line.0 == life).map(|line| line.1).collect();
        assert!(of_life.is_sorted(), "life {life} recorded {of_life:?}");
    }
    for number in 0..100 {
        assert!(lines.iter().any(|line| line.1 == number), "{number} was never recorded");
    }
}

fn restart_in_order() {
    let (journal, lives) = (Journal::new(), Tally::new());
    let actor = Recorder::options().max_restarts(-1).max_task_retries(-1).remote(journal.path(), lives.path());
    let calls: Vec<ObjectRef<i64>> = (0..100).map(|number| actor.record().remote(number)).collect();
    for round in [10, 30, 60] {
        get(&calls[round]).expect("some of them have ended");
        kill_and_restart(&actor).expect("it is there");
    }
    assert_eq!(get(&calls).expect("none is lost"), (0..100).collect::<Vec<_>>());
    assert!(lives.get() > 1, "it never restarted");
    assert_in_order(&journal, &lives);
}

fn at_most_once() {
    let (journal, lives, gate) = (Journal::new(), Tally::new(), Gate::new());
    let actor = Recorder::options().max_restarts(-1).remote(journal.path(), lives.path());
    get(&actor.record().remote(1_000)).expect("it lives");
    let held = actor.wait_for().remote(gate.path());
    let calls: Vec<ObjectRef<i64>> = (0..100).map(|number| actor.record().remote(number)).collect();
    kill_and_restart(&actor).expect("it is there");
    wait_until("the next life", || lives.get() == 2);
    gate.open();
    let _ = get(&held);
    let mut failed = 0;
    for call in &calls {
        match get(call) {
            Ok(_) => {}
            Err(Error::ActorDied { .. }) => failed += 1,
            Err(other) => panic!("neither done nor lost: {other}"),
        }
    }
    assert!(failed > 0, "they waited in the life that ended");
    let lines = journal.lines();
    for number in 0..100 {
        let runs = lines.iter().filter(|line| line.1 == number).count();
        assert!(runs <= 1, "{number} ran {runs} times");
    }
}

fn kill_by_force(pid: u32) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.expect("kill can be started").success(), "process {pid} cannot be killed");
}

fn killed_in_order() {
    let (journal, lives) = (Journal::new(), Tally::new());
    let actor =
        Recorder::options().max_restarts(-1).max_task_retries(-1).process_worker().remote(journal.path(), lives.path());
    let pid = get(&actor.pid().remote()).expect("it lives");
    let calls: Vec<ObjectRef<i64>> = (0..100).map(|number| actor.record().remote(number)).collect();
    get(&calls[10]).expect("some of them have ended");
    kill_by_force(pid);
    assert_eq!(get(&calls).expect("none is lost"), (0..100).collect::<Vec<_>>());
    assert_eq!(lives.get(), 2);
    assert_in_order(&journal, &lives);
}

#[derive(Debug)]
struct Unwell;

impl std::fmt::Display for Unwell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not well yet")
    }
}

impl std::error::Error for Unwell {}

struct Patient;

#[remote]
impl Patient {
    fn new() -> Self {
        Self
    }

    fn fails_at_first(&mut self, tally: String, times: u64) -> Result<u64, Unwell> {
        let run = count(&tally);
        if run <= times { Err(Unwell) } else { Ok(run) }
    }

    #[remote(max_task_retries = 2, retry_exceptions = true)]
    fn fails_twice(&mut self, tally: String) -> Result<u64, Unwell> {
        let run = count(&tally);
        if run <= 2 { Err(Unwell) } else { Ok(run) }
    }

    fn panics_at_first(&mut self, tally: String) -> u64 {
        let run = count(&tally);
        assert!(run > 1, "the first time");
        run
    }

    fn aborts_until(&mut self, tally: String, runs: u64) -> u64 {
        let run = count(&tally);
        if run < runs {
            std::process::abort();
        }
        run
    }

    fn wait_for(&self, gate: String) {
        pass(&gate);
    }

    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

fn retry_exceptions() {
    let actor = Patient::options().max_restarts(1).max_task_retries(2).remote();
    let tally = Tally::new();
    let third = actor.fails_at_first().retry_exceptions(true).remote(tally.path(), 2);
    assert_eq!(get(&third).expect("the third attempt is right"), 3);
    let tally = Tally::new();
    let never = actor.fails_at_first().retry_exceptions(true).remote(tally.path(), 9);
    assert!(matches!(get(&never), Err(Error::Application { message, .. }) if message == "not well yet"));
    assert_eq!(tally.get(), 3);
    // Only when it is to be, and only what was chosen.
    let tally = Tally::new();
    get(&actor.fails_at_first().remote(tally.path(), 1)).expect_err("it is not asked for");
    let others = actor.fails_at_first().retry_exceptions_if(|name| name.ends_with("Outage"));
    get(&others.remote(tally.path(), 9)).expect_err("another error was meant");
    assert_eq!(tally.get(), 2);
    // A panic ends this life; the next one answers.
    let tally = Tally::new();
    let second = actor.panics_at_first().retry_exceptions(true).remote(tally.path());
    assert_eq!(get(&second).expect("in the next life"), 2);
}

fn of_a_method() {
    let actor = Patient::remote();
    let tally = Tally::new();
    assert_eq!(get(&actor.fails_twice().remote(tally.path())).expect("it has two retries"), 3);
    let tally = Tally::new();
    get(&actor.fails_twice().max_task_retries(1).remote(tally.path())).expect_err("one is not enough");
    assert_eq!(tally.get(), 2);
}

fn pending_calls() {
    let actor = Patient::options().max_pending_calls(3).remote();
    let gate = Gate::new();
    let held: Vec<_> = (0..3).map(|_| actor.wait_for().remote(gate.path())).collect();
    match get(&actor.hello().remote()) {
        Err(Error::PendingCallsLimitExceeded { limit: 3, .. }) => {}
        other => panic!("three calls are pending, and yet {other:?}"),
    }
    gate.open();
    get(&held).expect("they end");
    assert_eq!(get(&actor.hello().remote()).expect("there is room again"), "hello");
    // Every process counts its own, and a handle takes the limit along.
    assert_eq!(get(&calls_at_once.remote(actor, 4)).expect("the task ends"), (3, 1));
}

/// Makes so many calls that wait; returns how many ended well and how many were too many.
#[remote(num_cpus = 0.0)]
fn calls_at_once(actor: PatientHandle, calls: usize) -> (usize, usize) {
    let gate = Gate::new();
    let calls: Vec<_> = (0..calls).map(|_| actor.wait_for().remote(gate.path())).collect();
    gate.open();
    let ended: Vec<_> = calls.iter().map(get).collect();
    let well = ended.iter().filter(|ended| ended.is_ok()).count();
    let too_many = ended.iter().filter(|ended| matches!(ended, Err(Error::PendingCallsLimitExceeded { .. }))).count();
    (well, too_many)
}

fn kills_its_worker() {
    let actor = Patient::options().max_restarts(-1).process_worker().remote();
    let tally = Tally::new();
    let third = actor.aborts_until().max_task_retries(2).remote(tally.path(), 3);
    assert_eq!(get(&third).expect("the third run returns"), 3);
    let tally = Tally::new();
    let never = actor.aborts_until().max_task_retries(1).remote(tally.path(), u64::MAX);
    match get(&never) {
        Err(Error::ActorDied { .. } | Error::ActorUnavailable { .. }) => {}
        other => panic!("it takes its process down every time, and yet {other:?}"),
    }
    assert_eq!(tally.get(), 2);
}
