//! Async methods: many calls at once without a thread each, alone with `&mut self`, dropped where
//! they wait when they are cancelled.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mobula::{Error, ObjectRef, cancel, get, get_timeout, is_cancelled, kill, kill_and_restart, remote};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere};

/// No wait is as long as this unless something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const MOMENT: Duration = Duration::from_millis(2);

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("three async calls that wait for each other, with max_concurrency 3", meet),
    everywhere("never more async calls at once than max_concurrency", never_more),
    everywhere("hundreds of async calls wait at once", hundreds),
    everywhere("async calls with &mut self never overlap", exclusive),
    everywhere("a sync method that blocks does not hold up async ones", blocking_beside),
    everywhere("an async method that blocks in get does not hold up the others", blocking_get),
    everywhere("errors and panics of async methods", errors),
    everywhere("a cancelled async call is dropped where it waits", cancelled),
    everywhere("a cancelled async task is dropped where it waits", cancelled_task),
    everywhere("an actor that is killed drops the calls that wait", killed),
    everywhere("an async call that a restart interrupts is made again", made_again),
];

#[derive(Default)]
struct Meeting {
    here: AtomicU32,
    running: AtomicU32,
    most: AtomicU32,
}

#[remote]
impl Meeting {
    fn new() -> Self {
        Self::default()
    }

    async fn meet(&self, expected: u32) -> u32 {
        self.here.fetch_add(1, Ordering::SeqCst);
        while self.here.load(Ordering::SeqCst) < expected {
            tokio::time::sleep(MOMENT).await;
        }
        expected
    }

    async fn work(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(MOMENT).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    async fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }

    fn blocks(&self, started: String, gate: String) {
        count(&started);
        pass(&gate);
    }

    /// Takes another task's value the blocking way.
    async fn takes(&self, tasks: Vec<ObjectRef<i64>>) -> Result<i64, Error> {
        get(&tasks[0])
    }
}

fn meet() {
    let meeting = Meeting::options().max_concurrency(3).remote();
    let calls: Vec<_> = (0..3).map(|_| meeting.meet().remote(3)).collect();
    assert_eq!(get(&calls).expect("all three"), [3, 3, 3]);
}

fn never_more() {
    for limit in [1, 3] {
        let meeting = Meeting::options().max_concurrency(limit).remote();
        let calls: Vec<_> = (0..60).map(|_| meeting.work().remote()).collect();
        get(&calls).expect("all of them");
        let most = get(&meeting.most().remote()).expect("the most at once");
        assert!((1..=limit).contains(&most), "{most} ran at once, {limit} may");
    }
}

fn hundreds() {
    let meeting = Meeting::remote();
    let calls: Vec<_> = (0..500).map(|_| meeting.meet().remote(500)).collect();
    assert_eq!(get(&calls).expect("all of them").len(), 500);
}

#[derive(Default)]
struct Alone {
    inside: u32,
    steps: u32,
}

#[remote]
impl Alone {
    fn new() -> Self {
        Self::default()
    }

    async fn enter(&mut self) -> u32 {
        self.inside += 1;
        tokio::time::sleep(MOMENT).await;
        let most = self.inside;
        self.inside -= 1;
        self.steps += 1;
        most
    }

    fn look(&self) -> u32 {
        self.inside
    }

    async fn steps(&self) -> u32 {
        self.steps
    }
}

fn exclusive() {
    let alone = Alone::remote();
    let mut entered = Vec::new();
    let mut looked = Vec::new();
    for _ in 0..30 {
        entered.push(alone.enter().remote());
        looked.push(alone.look().remote());
    }
    assert!(get(&entered).expect("all").iter().all(|inside| *inside == 1), "two were inside at once");
    assert!(get(&looked).expect("all").iter().all(|inside| *inside == 0), "a look from beside");
    assert_eq!(get(&alone.steps().remote()).expect("all were counted"), 30);
}

fn blocking_beside() {
    let (gate, started) = (Gate::new(), Tally::new());
    let meeting = Meeting::remote();
    let blocked: Vec<_> = (0..4).map(|_| meeting.blocks().remote(started.path(), gate.path())).collect();
    wait_until("all four to block", || started.get() == 4);
    let calls: Vec<_> = (0..3).map(|_| meeting.meet().remote(3)).collect();
    for call in &calls {
        assert_eq!(get_timeout(call, PATIENCE).expect("it goes on beside"), 3);
    }
    gate.open();
    get(&blocked).expect("they end");
}

#[remote(num_cpus = 0.0)]
fn slow(gate: String) -> i64 {
    pass(&gate);
    7
}

fn blocking_get() {
    let (gate, meeting) = (Gate::new(), Meeting::remote());
    let task = slow.remote(gate.path());
    let takers: Vec<_> = (0..20).map(|_| meeting.takes().remote(vec![task.clone()])).collect();
    assert_eq!(get_timeout(&meeting.most().remote(), PATIENCE).expect("another one has a thread"), 0);
    gate.open();
    assert!(get(&takers).expect("all of them").iter().all(|taken| *taken == 7));
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

#[remote(num_cpus = 0.0)]
fn double(x: i64) -> i64 {
    2 * x
}

/// Counts when it is dropped.
struct Dropped(String);

impl Drop for Dropped {
    fn drop(&mut self) {
        count(&self.0);
    }
}

struct Sleeper;

#[remote]
impl Sleeper {
    fn new() -> Self {
        Self
    }

    async fn fails(&self) -> Result<i64, Refused> {
        tokio::time::sleep(MOMENT).await;
        Err(Refused)
    }

    async fn panics(&self, text: &str) -> i64 {
        tokio::time::sleep(MOMENT).await;
        panic!("because of {text}")
    }

    /// Works in the session of its caller, before and after an await.
    async fn doubles(&self, x: i64) -> Result<i64, Error> {
        let once = double.remote(x).await?;
        double.remote(once).await
    }

    async fn sleeps(&self, started: String, dropped: String) {
        let _dropped = Dropped(dropped);
        count(&started);
        assert!(!is_cancelled(), "not yet");
        loop {
            tokio::time::sleep(Duration::from_secs(1_000)).await;
        }
    }

    async fn passes(&self, started: String, gate: String) -> u64 {
        let run = count(&started);
        while !std::path::Path::new(&gate).exists() {
            tokio::time::sleep(MOMENT).await;
        }
        run
    }
}

fn errors() {
    let sleeper = Sleeper::remote();
    match get(&sleeper.fails().remote()) {
        Err(Error::Application { type_name, message, .. }) => {
            assert!(type_name.ends_with("Refused"), "{type_name}");
            assert_eq!(message, "refused");
        }
        other => panic!("expected its own error, not {other:?}"),
    }
    assert_eq!(get(&sleeper.doubles().remote(3)).expect("it has a session"), 12);
    match get(&sleeper.panics().remote("a whim")) {
        Err(Error::Panicked { place, message, location }) => {
            assert!(place.function.ends_with("Sleeper::panics"), "{place:?}");
            assert_eq!(message, "because of a whim");
            assert!(location.contains("async_actors.rs:"), "{location}");
        }
        other => panic!("expected a panic, not {other:?}"),
    }
    match get(&sleeper.doubles().remote(3)) {
        Err(Error::ActorDied { .. }) => {}
        other => panic!("a panic ends the actor, and yet {other:?}"),
    }
}

fn cancelled() {
    let (started, dropped) = (Tally::new(), Tally::new());
    let sleeper = Sleeper::remote();
    let call = sleeper.sleeps().remote(started.path(), dropped.path());
    wait_until("the call to run", || started.get() == 1);
    cancel(&call);
    assert!(matches!(get_timeout(&call, PATIENCE), Err(Error::TaskCancelled { .. })));
    wait_until("its future to be dropped", || dropped.get() == 1);
    assert_eq!(get(&sleeper.doubles().remote(1)).expect("the actor lives on"), 4);
}

#[remote]
async fn sleeps(started: String, dropped: String) {
    let _dropped = Dropped(dropped);
    count(&started);
    loop {
        tokio::time::sleep(Duration::from_secs(1_000)).await;
    }
}

fn cancelled_task() {
    let (started, dropped) = (Tally::new(), Tally::new());
    let task = sleeps.remote(started.path(), dropped.path());
    wait_until("the task to run", || started.get() == 1);
    cancel(&task);
    assert!(matches!(get_timeout(&task, PATIENCE), Err(Error::TaskCancelled { .. })));
    wait_until("its future to be dropped", || dropped.get() == 1);
}

fn killed() {
    let (started, dropped) = (Tally::new(), Tally::new());
    let sleeper = Sleeper::remote();
    let calls: Vec<_> = (0..3).map(|_| sleeper.sleeps().remote(started.path(), dropped.path())).collect();
    wait_until("all calls to run", || started.get() == 3);
    kill(&sleeper).expect("it is there");
    for call in &calls {
        match get_timeout(call, PATIENCE) {
            Err(Error::ActorDied { .. }) => {}
            other => panic!("its actor was killed, and yet {other:?}"),
        }
    }
    wait_until("their futures to be dropped", || dropped.get() == 3);
}

fn made_again() {
    let (started, gate) = (Tally::new(), Gate::new());
    let sleeper = Sleeper::options().max_restarts(1).max_task_retries(1).remote();
    let call = sleeper.passes().remote(started.path(), gate.path());
    wait_until("the call to run", || started.get() == 1);
    kill_and_restart(&sleeper).expect("it is there");
    wait_until("the call to run again", || started.get() == 2);
    gate.open();
    assert_eq!(get_timeout(&call, PATIENCE).expect("the next life answers"), 2);
}
