//! The typed face on a running local session. One session serves all tests, as one serves a
//! program; what a test makes it owns.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, Int64Array, RecordBatch, StringArray};
use mobula::{Batch, Bytes, Config, Error, ObjectRef, Session, get, get_timeout, put, remote, wait};
use serde::{Deserialize, Serialize};

/// The session of all tests here; tests of sessions themselves make their own.
fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| Session::start(Config::default().num_cpus(4)).unwrap())
}

#[remote]
fn add_one(n: i64) -> i64 {
    n + 1
}

#[remote(num_cpus = 0)]
fn free() -> String {
    "free".to_owned()
}

#[remote]
fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

#[test]
fn a_chain_of_tasks() {
    let _session = session().enter();
    let mut n = put(0).unwrap();
    for _ in 0..100 {
        n = add_one.remote(&n);
    }
    assert_eq!(get(&n).unwrap(), 100);
    assert_eq!(get(&free.remote()).unwrap(), "free");
}

#[test]
fn get_keeps_the_order_and_repeats_duplicates() {
    let _session = session().enter();
    let mut objects: Vec<ObjectRef<i64>> = (0..10).map(|n| add_one.remote(n)).collect();
    objects.push(objects[3].clone());
    assert_eq!(get(&objects).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 4]);
    let (n, text) = get((&objects[0], free.remote())).unwrap();
    assert_eq!((n, text.as_str()), (1, "free"));
    assert_eq!(get(&[] as &[ObjectRef<i64>]).unwrap(), [0; 0]);
}

#[test]
fn waiting() {
    let _session = session().enter();
    let quick: Vec<ObjectRef<i64>> = (0..4).map(|n| add_one.remote(n)).collect();
    let (ready, rest) = wait(&quick, 1, None).unwrap();
    assert_eq!((ready.len(), rest.len()), (1, 3));
    let (ready, rest) = wait(&quick, 4, None).unwrap();
    assert_eq!((ready.len(), rest.len()), (4, 0));

    let slow = [sleep_ms.remote(0_u64), sleep_ms.remote(2_000_u64)];
    let (ready, rest) = wait(&slow, 2, Duration::from_millis(500)).unwrap();
    assert_eq!((ready.len(), rest.len()), (1, 1));
    assert_eq!(get(&ready[0]).unwrap(), 0);
    let twice = [quick[0].clone(), quick[0].clone()];
    assert!(matches!(wait(&twice, 1, None), Err(Error::Invalid { .. })));
    assert!(wait::<i64>(&[], 1, None).unwrap().0.is_empty());
}

#[test]
fn a_get_that_times_out_can_be_repeated() {
    let _session = session().enter();
    let slow = sleep_ms.remote(400_u64);
    assert!(matches!(get_timeout(&slow, Duration::from_millis(100)), Err(Error::TimedOut { .. })));
    assert_eq!(get(&slow).unwrap(), 400);
}

// ---- values ------------------------------------------------------------------------------------

#[test]
fn what_is_put_comes_back() {
    let _session = session().enter();
    assert_eq!(get(&put(0).unwrap()).unwrap(), 0);
    assert_eq!(get(&put(0.9).unwrap()).unwrap(), 0.9);
    assert_eq!(get(&put(1_i64 << 62).unwrap()).unwrap(), 1 << 62);
    assert_eq!(get(&put(String::new()).unwrap()).unwrap(), "");
    assert_eq!(get(&put("日本 \u{1f980}".to_owned()).unwrap()).unwrap(), "日本 \u{1f980}");
    assert_eq!(get(&put(None::<u8>).unwrap()).unwrap(), None);
    assert_eq!(get(&put(Vec::<Vec<()>>::new()).unwrap()).unwrap(), Vec::<Vec<()>>::new());
}

#[remote]
fn sum(numbers: &[f64]) -> f64 {
    numbers.iter().sum()
}

#[remote]
fn address(numbers: &[f64]) -> usize {
    numbers.as_ptr() as usize
}

#[remote]
fn squares(count: u32) -> Vec<f64> {
    (0..count).map(|n| f64::from(n).powi(2)).collect()
}

#[test]
fn large_arrays_are_read_in_place_by_everyone() {
    let _session = session().enter();
    let numbers = put(vec![1.0; 1_000_000]).unwrap();
    assert_eq!(get(&sum.remote(&numbers)).unwrap(), 1e6);
    let here = get(&numbers.as_array()).unwrap().as_ptr() as usize;
    assert_eq!(get(&[address.remote(&numbers), address.remote(&numbers)]).unwrap(), [here, here]);
    // A large result lies in the store too.
    let made = squares.remote(100_000_u32);
    let array = get(&made.as_array()).unwrap();
    assert_eq!((array[3], array.len()), (9.0, 100_000));
    assert_eq!(array.as_ptr(), get(&made.as_array()).unwrap().as_ptr());
    assert_eq!(get(&made).unwrap()[99_999], 99_999_f64.powi(2));
    // Every way to pass numbers.
    assert_eq!(get(&sum.remote(vec![1.0, 2.0])).unwrap(), 3.0);
    assert_eq!(get(&sum.remote([1.0, 2.0])).unwrap(), 3.0);
    assert_eq!(get(&sum.remote(&[1.0, 2.0][..])).unwrap(), 3.0);
    assert_eq!(get(&sum.remote(array)).unwrap(), (0..100_000).map(|n| f64::from(n).powi(2)).sum::<f64>());
}

#[remote]
fn concat(left: Bytes, right: &Bytes) -> Bytes {
    [left, right.clone()].concat().into()
}

#[remote]
fn middle(batch: &RecordBatch) -> RecordBatch {
    batch.slice(1, batch.num_rows() - 2)
}

#[test]
fn large_bytes_and_batches_are_read_in_place() {
    let _session = session().enter();
    let bytes = put(Bytes::from(vec![7; 1 << 20])).unwrap();
    let both = get(&concat.remote(&bytes, &bytes)).unwrap();
    assert_eq!((both.len(), both[0]), (2 << 20, 7));
    assert_eq!(get(&bytes).unwrap().as_ptr(), get(&bytes).unwrap().as_ptr());

    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..100_000).map(|n| format!("t{n}"))));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", text)]).unwrap();
    let stored = put(Batch::from(batch.clone())).unwrap();
    let (first, second) = (get(&stored).unwrap(), get(&stored).unwrap());
    assert_eq!(*first, batch);
    let values = |batch: &Batch| batch.column(0).to_data().buffers()[0].as_ptr();
    assert_eq!(values(&first), values(&second), "it was copied");
    assert_eq!(*get(&middle.remote(middle.remote(&stored))).unwrap(), batch.slice(2, 99_996));
    assert_eq!(*get(&middle.remote(&batch)).unwrap(), batch.slice(1, 99_998));
}

// ---- arguments ---------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct Nested {
    object: ObjectRef<i64>,
    list: Vec<ObjectRef<Vec<u8>>>,
    counter: Option<CounterHandle>,
}

#[remote]
fn open(nested: Nested) -> Result<i64, Error> {
    let lengths: usize = get(&nested.list)?.iter().map(Vec::len).sum();
    let hits = match nested.counter {
        Some(counter) => get(&counter.increment().remote())?,
        None => 0,
    };
    Ok(get(&nested.object)? + lengths as i64 + hits)
}

#[remote]
fn wrap(object: ObjectRef<i64>) -> Vec<ObjectRef<i64>> {
    vec![object, add_one.remote(10)]
}

#[test]
fn nested_references_stay_references() {
    let _session = session().enter();
    let object = add_one.remote(1);
    let list = vec![put(vec![0; 10]).unwrap(), put(vec![0; 300_000]).unwrap()];
    let counter = Counter::remote(0);
    let nested = Nested { object: object.clone(), list, counter: Some(counter.clone()) };
    assert_eq!(get(&open.remote(nested)).unwrap(), 2 + 300_010 + 1);
    assert_eq!(get(&counter.increment().remote()).unwrap(), 2);

    // A parameter that is itself a reference takes a reference as its value.
    let wrapped = get(&wrap.remote(object.clone())).unwrap();
    assert_eq!(get(&wrapped).unwrap(), [2, 11]);
    // The references outlive everything that made them.
    drop((object, counter));
    assert_eq!(get(&wrapped[0]).unwrap(), 2);
}

#[remote(num_returns = 3)]
fn divide(a: i64, b: i64) -> Result<(i64, i64, String), String> {
    if b == 0 { Err(format!("{a} by zero")) } else { Ok((a / b, a % b, format!("{a}/{b}"))) }
}

#[test]
fn several_results_are_objects_of_their_own() {
    let _session = session().enter();
    let (quotient, remainder, text) = divide.remote(17, 5);
    assert_eq!(get((&quotient, &remainder, &text)).unwrap(), (3, 2, "17/5".to_owned()));
    assert_eq!(get(&add_one.remote(&quotient)).unwrap(), 4);
    let (quotient, _, text) = divide.remote(1, 0);
    assert!(matches!(get(&quotient), Err(Error::Application { message, .. }) if message == "1 by zero"));
    assert!(get(&text).is_err());
}

// ---- errors ------------------------------------------------------------------------------------

#[remote]
fn parse(text: &str) -> Result<i64, std::num::ParseIntError> {
    text.parse()
}

#[remote]
fn panics(message: &str) {
    panic!("{message}");
}

#[test]
fn errors_and_panics_say_what_and_where_and_reach_those_who_need_the_value() {
    let _session = session().enter();
    let failed = parse.remote("1x");
    let Err(Error::Application { place, type_name, message, .. }) = get(&failed) else { panic!("it parsed") };
    assert!(place.function.ends_with("session::parse") && place.pid == std::process::id(), "{place}");
    assert_eq!(
        (type_name.as_str(), message.as_str()),
        ("core::num::error::ParseIntError", "invalid digit found in string",)
    );
    let dependent = add_one.remote(add_one.remote(&failed));
    assert!(matches!(get(&dependent), Err(Error::Application { .. })));
    assert_eq!(wait(&[dependent], 1, None).unwrap().0.len(), 1, "a failed object is ready");

    let Err(Error::Panicked { message, location, .. }) = get(&panics.remote("out of fish")) else {
        panic!("it returned")
    };
    assert_eq!(message, "out of fish");
    assert!(location.contains("session.rs"), "{location}");
    assert_eq!(get(&parse.remote("8")).unwrap(), 8, "the worker lives on");
}

#[test]
fn awaiting_a_reference() {
    let _session = session().enter();
    let object = add_one.remote(1);
    let (first, second) = (object.clone(), parse.remote("x"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let entered = session().clone();
    runtime.block_on(async move {
        assert_eq!((&first).await.unwrap(), 2);
        assert_eq!(first.await.unwrap(), 2);
        assert!(matches!(second.await, Err(Error::Application { .. })));
        drop(entered);
    });
}

// ---- nesting -----------------------------------------------------------------------------------

#[remote]
fn depth(left: u32) -> Result<u32, Error> {
    if left == 0 { Ok(0) } else { Ok(1 + get(&depth.remote(left - 1))?) }
}

#[remote]
async fn depth_async(left: u32) -> Result<u32, Error> {
    if left == 0 { Ok(0) } else { Ok(1 + depth_async.remote(left - 1).await?) }
}

#[test]
fn tasks_that_wait_for_tasks_lend_their_cpu() {
    let session = Session::start(Config::default().num_cpus(2)).unwrap();
    let _entered = session.enter();
    assert_eq!(get(&depth.remote(8_u32)).unwrap(), 8);
    assert_eq!(get(&depth_async.remote(8_u32)).unwrap(), 8);
    let many: Vec<_> = (0..20).map(|_| depth.remote(5_u32)).collect();
    assert_eq!(get(&many).unwrap(), [5; 20]);
}

// ---- actors ------------------------------------------------------------------------------------

struct Counter {
    hits: i64,
}

#[remote]
impl Counter {
    fn new(start: i64) -> Self {
        Self { hits: start }
    }

    fn increment(&mut self) -> i64 {
        self.add(1)
    }

    fn add(&mut self, n: i64) -> i64 {
        self.hits += n;
        self.hits
    }

    fn push(&mut self, numbers: &[f64]) -> f64 {
        self.hits += numbers.len() as i64;
        numbers.iter().sum()
    }

    fn fail(&mut self, why: String) -> Result<(), String> {
        Err(why)
    }

    fn crash(&mut self) {
        panic!("actor down");
    }
}

#[test]
fn calls_run_in_the_order_they_were_made_however_their_arguments_become_ready() {
    let _session = session().enter();
    let log = Log::remote();
    let delays = [7_u64, 0, 3, 9, 1];
    let calls: Vec<_> = (0..100_usize)
        .map(|n| log.append().remote(sleep_ms.options().num_cpus(0.01).remote(delays[n % 5]), n))
        .collect();
    get(&calls).unwrap();
    assert_eq!(get(&log.entries().remote()).unwrap(), (0..100).collect::<Vec<_>>());
}

#[derive(Default)]
struct Log(Vec<usize>);

#[remote]
impl Log {
    fn new() -> Self {
        Self::default()
    }

    fn append(&mut self, _after_ms: u64, entry: usize) {
        self.0.push(entry);
    }

    fn entries(&self) -> Vec<usize> {
        self.0.clone()
    }
}

#[remote]
fn hit(counter: CounterHandle, times: usize) -> Result<i64, Error> {
    let calls: Vec<_> = (0..times).map(|_| counter.increment().remote()).collect();
    Ok(get(&calls)?.into_iter().max().unwrap_or_default())
}

#[test]
fn handles_share_one_state_and_travel() {
    let _session = session().enter();
    let counter = Counter::remote(add_one.remote(4));
    get(&counter.ready()).unwrap();
    let other = counter.clone();
    assert_eq!(get((&counter.increment().remote(), &other.increment().remote())).unwrap(), (6, 7));
    assert_eq!(get(&hit.remote(counter.clone(), 10_usize)).unwrap(), 17);
    let stored = put(counter.clone()).unwrap();
    assert_eq!(get(&get(&stored).unwrap().increment().remote()).unwrap(), 18);
    let numbers = put(vec![0.5; 50_000]).unwrap();
    assert_eq!(get(&counter.push().remote(&numbers)).unwrap(), 25_000.0);
    assert_eq!(get(&counter.increment().remote()).unwrap(), 50_019);
}

#[test]
fn an_error_ends_the_call_a_panic_the_actor() {
    let _session = session().enter();
    let counter = Counter::remote(0);
    assert!(matches!(get(&counter.fail().remote("no")), Err(Error::Application { message, .. }) if message == "no"));
    assert_eq!(get(&counter.increment().remote()).unwrap(), 1);
    assert!(get(&counter.crash().remote()).unwrap_err().to_string().contains("actor down"));
    assert!(matches!(get(&counter.increment().remote()), Err(Error::ActorDied { .. })));
}

struct Picky;

#[remote]
impl Picky {
    fn new(value: &str) -> Result<Self, String> {
        if value == "good" { Ok(Self) } else { Err(format!("{value} is not good")) }
    }

    fn ping(&self) -> String {
        "pong".to_owned()
    }
}

#[test]
fn a_constructors_error_surfaces_on_the_calls() {
    let _session = session().enter();
    assert_eq!(get(&Picky::remote("good").ping().remote()).unwrap(), "pong");
    let picky = Picky::remote("bad");
    for result in [get(&picky.ping().remote()).map(|_| ()), get(&picky.ready())] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("bad is not good"), "{error}");
    }
    let error = get(&Picky::remote(failing_text.remote()).ping().remote()).unwrap_err();
    assert!(error.to_string().contains("no text"), "{error}");
}

#[remote]
fn failing_text() -> Result<String, String> {
    Err("no text".to_owned())
}

struct Meeting {
    arrived: AtomicUsize,
    inside: AtomicUsize,
    most: AtomicUsize,
}

#[remote]
impl Meeting {
    fn new() -> Self {
        Self { arrived: AtomicUsize::new(0), inside: AtomicUsize::new(0), most: AtomicUsize::new(0) }
    }

    /// Returns when `count` have come.
    async fn join(&self, count: usize) -> usize {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.arrived.fetch_add(1, Ordering::SeqCst);
        while self.arrived.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        inside
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

#[test]
fn concurrent_calls_meet_but_never_more_than_allowed() {
    let _session = session().enter();
    let meeting = Meeting::options().max_concurrency(3).remote();
    let calls: Vec<_> = (0..3).map(|_| meeting.join().remote(3_usize)).collect();
    get(&calls).unwrap();
    let calls: Vec<_> = (0..30).map(|_| meeting.join().remote(3_usize)).collect();
    get(&calls).unwrap();
    assert!((2..=3).contains(&get(&meeting.most().remote()).unwrap()));
}

struct Forwarder {
    to: Option<ForwarderHandle>,
}

#[remote]
impl Forwarder {
    fn new(to: Option<ForwarderHandle>) -> Self {
        Self { to }
    }

    fn double(&mut self, n: i64) -> Result<i64, Error> {
        match &self.to {
            Some(to) => get(&to.double().remote(n)),
            None => Ok(2 * n),
        }
    }
}

#[test]
fn delegation_through_three_actors() {
    let _session = session().enter();
    let last = Forwarder::remote(None);
    let second = Forwarder::remote(Some(last));
    let first = Forwarder::remote(Some(second));
    let calls: Vec<_> = (0..100).map(|n| first.double().remote(n)).collect();
    assert_eq!(get(&calls).unwrap(), (0..100).map(|n| 2 * n).collect::<Vec<_>>());
}

#[test]
fn named_actors() {
    let _session = session().enter();
    let counter = Counter::options().name("hits").remote(40);
    get(&counter.ready()).unwrap();
    let found = mobula::get_actor::<Counter>("hits").unwrap();
    assert_eq!(get(&found.increment().remote()).unwrap(), 41);
    let error = mobula::get_actor::<Picky>("hits").unwrap_err().to_string();
    assert!(error.contains("Counter") && error.contains("Picky"), "{error}");
    assert!(matches!(mobula::get_actor::<Counter>("nobody"), Err(Error::NoSuchActor { .. })));

    let second = Counter::options().name("hits").remote(0);
    assert!(matches!(get(&second.increment().remote()), Err(Error::NameTaken { .. })));
    let same = Counter::options().name("hits").get_if_exists().remote(0);
    assert_eq!(get(&same.increment().remote()).unwrap(), 42);

    mobula::kill(&counter).unwrap();
    assert!(matches!(get(&counter.increment().remote()), Err(Error::ActorDied { .. })));
    let third = Counter::options().name("hits").remote(7);
    assert_eq!(get(&third.increment().remote()).unwrap(), 8);
}

// ---- sessions ----------------------------------------------------------------------------------

#[test]
fn a_session_ends_and_another_begins() {
    let session = Session::start(Config::default().num_cpus(1.5).resource("fish", 3)).unwrap();
    let entered = session.enter();
    let total = mobula::cluster_resources().unwrap();
    assert_eq!((total["CPU"], total["fish"]), (1.5, 3.0));
    assert_eq!(mobula::nodes().unwrap().len(), 1);
    assert_eq!(get(&free.options().resource("fish", 2).remote()).unwrap(), "free");
    let slow = sleep_ms.remote(60_000_u64);
    session.shutdown();
    session.shutdown();
    assert!(get(&slow).is_err());
    assert!(get(&free.remote()).is_err());
    drop(entered);

    let session = Session::start(Config::default().num_cpus(1)).unwrap();
    let _entered = session.enter();
    assert_eq!(get(&free.remote()).unwrap(), "free");
}

#[test]
fn a_cluster_that_cannot_be_joined_says_why() {
    // Any small file: a test binary is large, and its hash is taken first.
    let binary = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let nobody = Config::default().address("mobula://127.0.0.1:1").worker_binary(binary);
    let error = Session::start(nobody.clone().num_cpus(2)).unwrap_err();
    assert!(matches!(&error, Error::Invalid { what } if what.contains("CPU")), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let error = Session::start(nobody.credentials(dir.path())).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains(&dir.path().display().to_string()), "{error}");
    let error = Session::start(Config::default().address("127.0.0.1:port")).unwrap_err().to_string();
    assert!(error.contains("host:port"), "{error}");
    let error = Session::start(Config::default().num_cpus(-1)).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[test]
fn afterwards_everything_is_free_again() {
    let session = Session::start(Config::default().num_cpus(4)).unwrap();
    let _entered = session.enter();
    let numbers = put(vec![1.0; 500_000]).unwrap();
    let sums: Vec<_> = (0..50).map(|_| sum.remote(&numbers)).collect();
    let counter = Counter::options().num_cpus(2).remote(0);
    get(&counter.push().remote(&numbers)).unwrap();
    get(&sums).unwrap();
    assert!(get(&parse.remote("x")).is_err());
    drop((numbers, sums, counter));
    let start = std::time::Instant::now();
    loop {
        let (now, total) = (mobula::available_resources().unwrap(), mobula::cluster_resources().unwrap());
        if now["CPU"] == total["CPU"] {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{now:?} of {total:?} are free");
        std::thread::sleep(Duration::from_millis(50));
    }
}
