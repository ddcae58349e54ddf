//! Actors: order, state, handles, names, concurrency.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mobula::{Error, get, get_actor, get_actor_in, kill, remote};

use crate::gate::{Gate, pass, wait_until};
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("100 calls run in the order of their submission", in_order),
    everywhere("two handles share one state", two_handles),
    everywhere("a handle goes through tasks and actors", passed),
    everywhere("a constructor's error surfaces on the first call", constructor_fails),
    everywhere("ready resolves when the constructor has returned", ready),
    everywhere("three calls that wait for each other, with max_concurrency 3", meet),
    everywhere("never more calls at once than max_concurrency", never_more),
    everywhere("calls with &mut self never overlap", exclusive),
    everywhere("delegation through three actors", delegation),
    everywhere("an actor is found by its name, and its name is free after it", named),
    everywhere("a name is another one in another namespace", namespaces),
    everywhere("get_if_exists", get_if_exists),
    everywhere("a detached, a dropped and a killed actor", lifetimes),
    everywhere("many actors", many),
];

struct Recorder {
    seen: Vec<i64>,
}

#[remote]
impl Recorder {
    fn new() -> Self {
        Self { seen: Vec::new() }
    }

    fn record(&mut self, number: i64) -> u64 {
        self.seen.push(number);
        self.seen.len() as u64
    }

    fn seen(&mut self) -> Vec<i64> {
        self.seen.clone()
    }
}

#[remote(num_cpus = 0.0)]
fn after(gate: String, number: i64) -> i64 {
    pass(&gate);
    number
}

fn in_order() {
    let recorder = Recorder::remote();
    // Each argument has a gate of its own, and is there before the next one opens; they open in an
    // order that has nothing to do with that of the calls.
    let gates: Vec<Gate> = (0..100).map(|_| Gate::new()).collect();
    let arguments: Vec<_> = (0..100).zip(&gates).map(|(number, gate)| after.remote(gate.path(), number)).collect();
    let calls: Vec<_> = arguments.iter().map(|argument| recorder.record().remote(argument)).collect();
    for step in 0..100 {
        let next = (step * 37 + 11) % 100;
        gates[next].open();
        mobula::wait(&arguments[next..=next], 1, None).expect("it is made");
    }
    assert_eq!(get(&calls).expect("every call"), (1..=100).collect::<Vec<u64>>());
    assert_eq!(get(&recorder.seen().remote()).expect("what it saw"), (0..100).collect::<Vec<_>>());
}

struct Counter {
    hits: i64,
}

#[remote]
impl Counter {
    fn new(start: i64) -> Self {
        Self { hits: start }
    }

    fn add(&mut self, more: i64) -> i64 {
        self.hits += more;
        self.hits
    }

    fn hits(&self) -> i64 {
        self.hits
    }
}

fn two_handles() {
    let counter = Counter::remote(0);
    let other = counter.clone();
    get(&counter.add().remote(1)).expect("one");
    get(&other.add().remote(10)).expect("the other");
    assert_eq!(get(&counter.hits().remote()).expect("both"), 11);
}

#[remote]
fn add_through(counter: CounterHandle, more: i64) -> Result<i64, Error> {
    get(&counter.add().remote(more))
}

struct Relay {
    counter: CounterHandle,
}

#[remote]
impl Relay {
    fn new(counter: CounterHandle) -> Self {
        Self { counter }
    }

    fn add(&mut self, more: i64) -> Result<i64, Error> {
        get(&self.counter.add().remote(more))
    }

    fn counter(&self) -> CounterHandle {
        self.counter.clone()
    }
}

fn passed() {
    let counter = Counter::remote(0);
    assert_eq!(get(&add_through.remote(counter.clone(), 1)).expect("through a task"), 1);
    let relay = Relay::remote(counter.clone());
    assert_eq!(get(&relay.add().remote(2)).expect("through an actor"), 3);
    let back = get(&relay.counter().remote()).expect("a handle comes back");
    assert_eq!(get(&back.add().remote(4)).expect("and is the same actor"), 7);
    assert_eq!(get(&counter.hits().remote()).expect("so it is"), 7);
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the constructor refused")
    }
}

impl std::error::Error for Refused {}

#[derive(Debug)]
struct Fussy;

#[remote]
impl Fussy {
    fn new(fine: bool) -> Result<Self, Refused> {
        if fine { Ok(Self) } else { Err(Refused) }
    }

    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

fn constructor_fails() {
    assert_eq!(get(&Fussy::remote(true).hello().remote()).expect("it was made"), "hello");
    let broken = Fussy::remote(false);
    let error = get(&broken.hello().remote()).expect_err("it was not made");
    assert!(error.to_string().contains("the constructor refused"), "the reason is lost: {error}");
    let error = get(&broken.ready()).expect_err("ready says the same");
    assert!(error.to_string().contains("the constructor refused"), "the reason is lost: {error}");
    get(&broken.hello().remote()).expect_err("and so does every later call");
}

fn ready() {
    let counter = Counter::remote(5);
    get(&counter.ready()).expect("it is ready");
    assert_eq!(get(&counter.hits().remote()).expect("and answers"), 5);
}

/// Calls that wait for each other.
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

    fn meet(&self, expected: u32) -> u32 {
        self.here.fetch_add(1, Ordering::SeqCst);
        wait_until("the others", || self.here.load(Ordering::SeqCst) >= expected);
        expected
    }

    fn work(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
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

/// Notices when it is entered twice.
struct Alone {
    inside: AtomicU32,
    overlaps: u32,
}

#[remote]
impl Alone {
    fn new() -> Self {
        Self { inside: AtomicU32::new(0), overlaps: 0 }
    }

    fn enter(&mut self) -> u32 {
        if self.inside.fetch_add(1, Ordering::SeqCst) != 0 {
            self.overlaps += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.overlaps
    }

    fn look(&self) -> u32 {
        self.inside.load(Ordering::SeqCst)
    }
}

fn exclusive() {
    let alone = Alone::options().max_concurrency(4).remote();
    let mut entered = Vec::new();
    let mut looked = Vec::new();
    for _ in 0..50 {
        entered.push(alone.enter().remote());
        looked.push(alone.look().remote());
    }
    assert!(get(&entered).expect("all").iter().all(|overlaps| *overlaps == 0), "two were inside at once");
    assert!(get(&looked).expect("all").iter().all(|inside| *inside == 0), "a look from beside");
}

#[derive(Default)]
struct Doubler;

#[remote]
impl Doubler {
    fn new() -> Self {
        Self
    }

    fn double(&mut self, i: i64) -> i64 {
        2 * i
    }
}

struct Middle {
    next: DoublerHandle,
}

#[remote]
impl Middle {
    fn new(next: DoublerHandle) -> Self {
        Self { next }
    }

    fn double(&mut self, i: i64) -> Result<i64, Error> {
        get(&self.next.double().remote(i))
    }
}

struct Front {
    next: MiddleHandle,
}

#[remote]
impl Front {
    fn new(next: MiddleHandle) -> Self {
        Self { next }
    }

    fn double(&mut self, i: i64) -> Result<i64, Error> {
        get(&self.next.double().remote(i))
    }
}

fn delegation() {
    let front = Front::remote(Middle::remote(Doubler::remote()));
    let calls: Vec<_> = (0..100).map(|i| front.double().remote(i)).collect();
    assert_eq!(get(&calls).expect("through all three"), (0..100).map(|i| 2 * i).collect::<Vec<_>>());
}

fn named() {
    let name = "hits of the named test";
    let counter = Counter::options().name(name).remote(1);
    get(&counter.ready()).expect("it lives");
    let found = get_actor::<Counter>(name).expect("it is found");
    assert_eq!(get(&found.add().remote(1)).expect("it is the same"), 2);
    assert!(matches!(get_actor::<Recorder>(name), Err(Error::Invalid { .. })), "found as another type");

    let second = Counter::options().name(name).remote(0);
    let error = get(&second.hits().remote()).expect_err("the name is taken");
    assert!(matches!(error, Error::NameTaken { .. }), "not a taken name: {error:?}");

    kill(&counter).expect("it is killed");
    wait_until("the name to be free", || matches!(get_actor::<Counter>(name), Err(Error::NoSuchActor { .. })));
    let third = Counter::options().name(name).remote(7);
    assert_eq!(get(&third.hits().remote()).expect("the name is free again"), 7);
    assert!(matches!(get_actor::<Counter>("nobody"), Err(Error::NoSuchActor { .. })));
}

fn namespaces() {
    let name = "the same name";
    let here = Counter::options().name(name).remote(1);
    let there = Counter::options().name(name).namespace("elsewhere").remote(2);
    let third = Counter::options().name(name).namespace("a third").remote(3);
    get(&[here.ready(), there.ready(), third.ready()]).expect("none takes the name of another");
    let hits =
        |found: Result<CounterHandle, Error>| get(&found.expect("it is found").hits().remote()).expect("it lives");
    assert_eq!(hits(get_actor::<Counter>(name)), 1);
    assert_eq!(hits(get_actor_in::<Counter>(name, "elsewhere")), 2);
    assert_eq!(hits(get_actor_in::<Counter>(name, "a third")), 3);
    assert!(matches!(get_actor_in::<Counter>(name, "nowhere"), Err(Error::NoSuchActor { .. })));

    let second = Counter::options().name(name).namespace("elsewhere").remote(0);
    let error = get(&second.hits().remote()).expect_err("the name is taken there");
    assert!(matches!(error, Error::NameTaken { .. }), "not a taken name: {error:?}");
    kill(&there).expect("it is killed");
    let free = || matches!(get_actor_in::<Counter>(name, "elsewhere"), Err(Error::NoSuchActor { .. }));
    wait_until("the name to be free there", free);
    assert_eq!(hits(get_actor::<Counter>(name)), 1, "and only there");
}

fn get_if_exists() {
    let first = Counter::options().name("once").get_if_exists().remote(1);
    assert_eq!(get(&first.add().remote(1)).expect("made"), 2);
    let second = Counter::options().name("once").get_if_exists().remote(100);
    assert_eq!(get(&second.add().remote(1)).expect("found, not made"), 3);
}

fn lifetimes() {
    let named = "let go";
    let counter = Counter::options().name(named).remote(0);
    let hit = counter.add().remote(1);
    drop(counter);
    assert_eq!(get(&hit).expect("a pending call ends before the actor"), 1);
    wait_until("the actor without handles to end", || get_actor::<Counter>(named).is_err());

    let detached = Counter::options().name("stays").detached().remote(0);
    get(&detached.ready()).expect("it lives");
    drop(detached);
    let found = get_actor::<Counter>("stays").expect("it stays without handles");
    assert_eq!(get(&found.add().remote(2)).expect("and answers"), 2);
    kill(&found).expect("it is killed");
    wait_until("the killed actor to end", || get_actor::<Counter>("stays").is_err());
}

fn many() {
    let counters: Vec<_> = (0..200).map(Counter::remote).collect();
    let hits: Vec<_> = counters.iter().map(|counter| counter.add().remote(1)).collect();
    assert_eq!(get(&hits).expect("all of them"), (1..=200).collect::<Vec<_>>());
}
