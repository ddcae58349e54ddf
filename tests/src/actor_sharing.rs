//! Actors that share the work: concurrency groups inside of one, pools of several.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mobula::{ActorPool, Error, ObjectRef, get, get_timeout, remote};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere};

/// No wait is as long as this unless something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a full concurrency group does not hold up another", groups_apart),
    everywhere("never more of a concurrency group at once than its limit", group_limits),
    everywhere("a pool maps in order", pool_in_order),
    everywhere("a pool gives what is ready first", pool_unordered),
    everywhere("a pool's submissions, one by one", pool_by_hand),
    everywhere("a pool goes on after a call has failed", pool_failures),
];

#[derive(Default)]
struct Grouped {
    running: [AtomicU32; 2],
    most: [AtomicU32; 2],
}

impl Grouped {
    fn enter(&self, group: usize) -> u32 {
        let running = self.running[group].fetch_add(1, Ordering::SeqCst) + 1;
        self.most[group].fetch_max(running, Ordering::SeqCst)
    }

    fn leave(&self, group: usize) {
        self.running[group].fetch_sub(1, Ordering::SeqCst);
    }
}

#[remote(concurrency_groups(io = 2, compute = 4))]
impl Grouped {
    fn new() -> Self {
        Self::default()
    }

    #[concurrency_group("io")]
    fn holds(&self, started: String, gate: String) {
        count(&started);
        pass(&gate);
    }

    #[concurrency_group("io")]
    async fn reads(&self) {
        self.enter(0);
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.leave(0);
    }

    #[concurrency_group("compute")]
    fn computes(&self) {
        self.enter(1);
        std::thread::sleep(Duration::from_millis(2));
        self.leave(1);
    }

    fn most(&self) -> (u32, u32) {
        (self.most[0].load(Ordering::SeqCst), self.most[1].load(Ordering::SeqCst))
    }
}

fn groups_apart() {
    let (started, gate) = (Tally::new(), Gate::new());
    let grouped = Grouped::remote();
    let held: Vec<_> = (0..5).map(|_| grouped.holds().remote(started.path(), gate.path())).collect();
    wait_until("two of them to run", || started.get() == 2);
    get_timeout(&grouped.computes().remote(), PATIENCE).expect("another group");
    get_timeout(&grouped.most().remote(), PATIENCE).expect("the default one");
    assert_eq!(started.get(), 2, "more than the group may");
    gate.open();
    get(&held).expect("all of them");
}

fn group_limits() {
    let grouped = Grouped::remote();
    let reads: Vec<_> = (0..30).map(|_| grouped.reads().remote()).collect();
    let computes: Vec<_> = (0..30).map(|_| grouped.computes().remote()).collect();
    get(&reads).expect("all reads");
    get(&computes).expect("all computations");
    let (io, compute) = get(&grouped.most().remote()).expect("the most at once");
    assert!((1..=2).contains(&io), "{io} of 2");
    assert!((1..=4).contains(&compute), "{compute} of 4");
}

struct Doubler;

#[remote]
impl Doubler {
    fn new() -> Self {
        Self
    }

    fn double(&mut self, x: i64) -> i64 {
        2 * x
    }

    fn double_after(&mut self, x: i64, gate: String) -> i64 {
        pass(&gate);
        2 * x
    }

    fn refuses(&mut self) -> Result<i64, String> {
        Err("no".to_owned())
    }
}

fn pool() -> ActorPool<DoublerHandle, i64> {
    ActorPool::new((0..3).map(|_| Doubler::remote()))
}

fn pool_in_order() {
    let mut pool = pool();
    for _ in 0..2 {
        let doubled: Result<Vec<i64>, Error> = pool.map(|actor, x| actor.double().remote(x), 0..50).collect();
        assert_eq!(doubled.expect("all of them"), (0..50).map(|x| 2 * x).collect::<Vec<_>>());
    }
    // One that is left early does not disturb the next.
    assert_eq!(pool.map(|actor, x| actor.double().remote(x), 0..50).next().expect("one").expect("the first"), 0);
    let doubled: Result<Vec<i64>, Error> = pool.map(|actor, x| actor.double().remote(x), 7..9).collect();
    assert_eq!(doubled.expect("both"), [14, 16]);
    assert!(!pool.has_next());
}

fn pool_unordered() {
    let (mut pool, gate) = (pool(), Gate::new());
    let path = gate.path();
    let call = move |actor: &DoublerHandle, x: i64| -> ObjectRef<i64> {
        if x == 0 { actor.double_after().remote(x, path.clone()) } else { actor.double().remote(x) }
    };
    let mut results = pool.map_unordered(call, 0..20);
    let mut seen: Vec<i64> = (0..19).map(|_| results.next().expect("more").expect("it ends")).collect();
    assert!(!seen.contains(&0), "the first one waits");
    gate.open();
    assert_eq!(results.next().expect("the last").expect("it ends"), 0);
    assert!(results.next().is_none());
    seen.sort_unstable();
    assert_eq!(seen, (1..20).map(|x| 2 * x).collect::<Vec<_>>());
}

fn pool_by_hand() {
    let mut pool = ActorPool::new([Doubler::remote()]);
    assert!(pool.has_free() && !pool.has_next());
    let gate = Gate::new();
    let path = gate.path();
    pool.submit(move |actor: &DoublerHandle| actor.double_after().remote(1, path));
    pool.submit(|actor| actor.double().remote(2));
    assert!(pool.has_next() && !pool.has_free() && pool.pop_idle().is_none());
    match pool.get_next_timeout(Duration::from_millis(20)) {
        Err(Error::TimedOut { .. }) => {}
        other => panic!("the gate is closed, and yet {other:?}"),
    }
    // Another actor takes what waits.
    pool.push(Doubler::remote());
    assert_eq!(pool.get_next_unordered().expect("it ends"), Some(4));
    gate.open();
    assert_eq!(pool.get_next().expect("it ends"), Some(2));
    assert_eq!(pool.get_next().expect("nothing is left"), None);
    assert!(pool.pop_idle().is_some() && pool.pop_idle().is_some() && pool.pop_idle().is_none());
    pool.submit(|actor| actor.double().remote(3));
    assert!(matches!(pool.get_next(), Err(Error::Invalid { .. })), "nobody is there to do it");
    pool.push(Doubler::remote());
    assert_eq!(pool.get_next().expect("now there is"), Some(6));
}

fn pool_failures() {
    let mut pool = ActorPool::new([Doubler::remote()]);
    pool.submit(|actor: &DoublerHandle| actor.refuses().remote());
    pool.submit(|actor| actor.double().remote(2));
    assert!(matches!(pool.get_next(), Err(Error::Application { .. })));
    assert_eq!(pool.get_next().expect("the next one"), Some(4));
}
