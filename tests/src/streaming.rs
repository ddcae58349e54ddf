//! Streaming tasks and calls: items in order, errors, backpressure, giving up, retries.

use std::time::Duration;

use mobula::{Bytes, Error, ObjectRef, ObjectRefStream, Value, cancel, explain, get, get_timeout, kill, put, remote};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::stores::{objects, wait_until_empty};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("five yields arrive in order, then the end", five),
    everywhere("a value arrives as soon as it was yielded", at_once),
    everywhere("an error at the third: two values, the error, the end", error_at_third),
    everywhere("a panic at the third: two values, the panic, the end", panic_at_third),
    everywhere("a stream that cannot be made fails in its first value", not_made),
    everywhere("the producer waits for its consumer", backpressure),
    everywhere("a producer that waits lends its CPU", lends_its_cpu),
    everywhere("large values lie in the store until they are dropped", large),
    everywhere("an abandoned stream ends its producer and leaves no objects behind", abandoned),
    everywhere("a hundred streams that are dropped at once leave nothing behind", dropped_at_once),
    everywhere("of a cancelled stream what has come can be taken, then comes the error", cancelled),
    everywhere("methods of actors stream", methods),
    everywhere("a panic in a stream of an actor ends it", method_panics),
    everywhere("an actor that is killed while its stream waits ends it", killed),
    everywhere("async code takes a stream side by side with others", in_async_code),
    everywhere("references inside values go with them", references),
    everywhere("code that fails and is retried repeats no value", retried_error),
    everywhere("a task takes the stream of another one", nested),
    everywhere("a stream is explained like any task", explained),
    everywhere("a thousand values through a window of three", many),
];

/// Scenarios that end worker processes.
pub(crate) const LOST_WORKERS: &[Scenario] = &[
    on_cluster("a stream whose worker is lost goes on without repeating a value", worker_lost),
    on_cluster("so it does when its worker is killed from outside", worker_killed),
    on_cluster("and fails after what has come when it may not run again", worker_lost_for_good),
    on_cluster("an actor's stream fails after what has come when it is lost", actor_lost),
    on_cluster("an actor's stream goes on when it may be made again", actor_made_again),
    on_cluster("the owner's death ends the producer", owner_dies),
];

/// No wait is as long as this unless something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Large enough for the store.
const SIZE: usize = 200 * 1024;

/// The next value; the stream has one.
#[track_caller]
fn take<T: Value>(stream: &mut ObjectRefStream<T>) -> Result<T, Error> {
    let next = stream.next_timeout(PATIENCE).expect("something comes");
    get_timeout(next.expect("that is not the end"), PATIENCE)
}

#[track_caller]
fn assert_over<T>(mut stream: ObjectRefStream<T>) {
    assert!(stream.next_timeout(PATIENCE).expect("something comes").is_none(), "it goes on");
    assert!(stream.next().is_none(), "it stays at its end");
}

fn all_cpus_free() {
    let total = mobula::cluster_resources().expect("the cluster answers");
    wait_until("all CPUs to be free", || {
        mobula::available_resources().expect("the cluster answers").get("CPU") == total.get("CPU")
    });
}

#[remote]
fn count_to(count: u64) -> impl Iterator<Item = u64> {
    0..count
}

fn five() {
    let stream = count_to.remote(5);
    let completed = stream.completed();
    let refs: Vec<ObjectRef<u64>> = stream.collect();
    assert_eq!(get(&refs).expect("five numbers"), [0, 1, 2, 3, 4]);
    get(&completed).expect("it has come to its end");
    assert_eq!(count_to.remote(0).count(), 0);
    // As the argument of another task a value of a stream is like any other.
    assert_eq!(get(&plus_one.remote(&refs[4])).expect("it is passed on"), 5);
}

#[remote]
fn plus_one(x: u64) -> u64 {
    x + 1
}

#[remote]
fn gated(gate: String, before: u64, after: u64) -> impl Iterator<Item = u64> {
    (0..before + after).inspect(move |number| {
        if *number == before {
            pass(&gate);
        }
    })
}

fn at_once() {
    let gate = Gate::new();
    let mut stream = gated.remote(gate.path(), 2, 1);
    assert_eq!((take(&mut stream), take(&mut stream)), (Ok(0), Ok(1)));
    let nothing = stream.next_timeout(Duration::from_millis(20));
    assert!(matches!(nothing, Err(Error::TimedOut { .. })), "{nothing:?}");
    let completed = stream.completed();
    assert!(mobula::wait(&[completed], 1, Duration::ZERO).expect("a session").0.is_empty());
    gate.open();
    assert_eq!(take(&mut stream), Ok(2));
    assert_over(stream);
}

#[remote]
fn fails_at(third: u64) -> impl Iterator<Item = Result<u64, std::io::Error>> {
    (1..10).map(move |number| if number == third { Err(std::io::Error::other("the third")) } else { Ok(number) })
}

fn error_at_third() {
    let mut stream = fails_at.remote(3);
    let completed = stream.completed();
    assert_eq!((take(&mut stream), take(&mut stream)), (Ok(1), Ok(2)));
    match take(&mut stream) {
        Err(Error::Application { place, message, .. }) => {
            assert_eq!(message, "the third");
            assert!(place.function.ends_with("streaming::fails_at"), "{place:?}");
        }
        other => panic!("expected the function's own error, not {other:?}"),
    }
    assert_over(stream);
    assert!(matches!(get(&completed), Err(Error::Application { .. })));
}

#[remote]
fn panics_at(third: u64) -> impl Iterator<Item = u64> {
    (1..10).inspect(move |number| assert!(*number != third, "because of the third"))
}

fn panic_at_third() {
    let mut stream = panics_at.remote(3);
    assert_eq!((take(&mut stream), take(&mut stream)), (Ok(1), Ok(2)));
    match take(&mut stream) {
        Err(Error::Panicked { message, .. }) => assert_eq!(message, "because of the third"),
        other => panic!("expected a panic, not {other:?}"),
    }
    assert_over(stream);
    assert_eq!(get(&plus_one.remote(1)).expect("the worker lives on"), 2);
}

fn not_made() {
    for window in [0, 5_000] {
        let mut stream = count_to.options().backpressure_num_objects(window).remote(5);
        match take(&mut stream) {
            Err(Error::Invalid { what }) => assert!(what.contains("1 to 4096"), "{what}"),
            other => panic!("expected an invalid option, not {other:?}"),
        }
        assert_over(stream);
    }
    let mut stream = count_to.options().num_cpus(-1.0).remote(5);
    assert!(matches!(take(&mut stream), Err(Error::Invalid { .. })));
    assert_over(stream);
    // An argument that has failed.
    let mut stream = count_to.remote(get_fails.remote());
    assert!(matches!(take(&mut stream), Err(Error::Panicked { .. })));
    assert_over(stream);
}

#[remote]
fn get_fails() -> u64 {
    panic!("as it should")
}

#[remote]
fn counted(tally: String, size: usize) -> impl Iterator<Item = Bytes> {
    std::iter::repeat_with(move || {
        let fill = count(&tally) as u8;
        Bytes::from(vec![fill; size])
    })
}

/// How many values a producer makes when nobody takes more than this.
fn made_by(tally: &Tally) -> u64 {
    let mut before = 0;
    wait_until("the producer to wait", || {
        std::thread::sleep(Duration::from_millis(50));
        before == std::mem::replace(&mut before, tally.get()) && before > 0
    });
    before
}

fn backpressure() {
    let tally = Tally::new();
    let mut stream = counted.options().backpressure_num_objects(3).remote(tally.path(), 10);
    assert_eq!(made_by(&tally), 3);
    assert_eq!(take(&mut stream).expect("the first")[0], 1);
    wait_until("the fourth to be made", || tally.get() == 4);
    for fill in 2..5 {
        assert_eq!(take(&mut stream).expect("it goes on")[0], fill);
        assert!(tally.get() <= u64::from(fill) + 3, "it is too far ahead");
    }
    drop(stream);
    let tally = Tally::new();
    let _stream = counted.remote(tally.path(), 10);
    assert_eq!(made_by(&tally), 16, "the default");
}

fn lends_its_cpu() {
    let tallies: Vec<Tally> = (0..8).map(|_| Tally::new()).collect();
    // More than there are CPUs.
    let start = |tally: &Tally| counted.options().backpressure_num_objects(1).remote(tally.path(), 10);
    let mut streams: Vec<_> = tallies.iter().map(start).collect();
    wait_until("all of them to begin", || tallies.iter().all(|tally| tally.get() == 1));
    assert_eq!(get_timeout(&plus_one.remote(1), PATIENCE).expect("others run"), 2);
    for stream in &mut streams {
        assert_eq!((take(stream).map(|bytes| bytes[0]), take(stream).map(|bytes| bytes[0])), (Ok(1), Ok(2)));
    }
    drop(streams);
    all_cpus_free();
}

#[remote]
fn blocks(count: u8) -> impl Iterator<Item = Bytes> {
    (0..count).map(|fill| Bytes::from(vec![fill; SIZE]))
}

fn large() {
    let mut stream = blocks.remote(5);
    get_timeout(stream.completed(), PATIENCE).expect("there is room for all");
    assert_eq!(objects().len(), 5);
    let kept = stream.next().expect("the first");
    for fill in 1..5 {
        let bytes = take(&mut stream).expect("the next");
        assert!(bytes.len() == SIZE && bytes.iter().all(|byte| *byte == fill), "block {fill} is damaged");
    }
    assert_over(stream);
    wait_until("only the one that is kept to be left", || objects().len() == 1);
    assert_eq!(get(&kept).expect("it is there")[0], 0);
    drop(kept);
    wait_until_empty();
}

#[remote]
fn notices(tally: String, ended: String) -> impl Iterator<Item = Bytes> {
    let noticed = OnDrop(ended);
    std::iter::repeat_with(move || {
        let _ = &noticed;
        count(&tally);
        Bytes::from(vec![1; SIZE])
    })
}

struct OnDrop(String);

impl Drop for OnDrop {
    fn drop(&mut self) {
        count(&self.0);
    }
}

fn abandoned() {
    let (tally, ended) = (Tally::new(), Tally::new());
    let mut stream = notices.options().backpressure_num_objects(4).remote(tally.path(), ended.path());
    let first = stream.next().expect("the first");
    assert_eq!(made_by(&tally), 5);
    let completed = stream.completed();
    drop(stream);
    wait_until("its iterator to be dropped", || ended.get() == 1);
    assert!(matches!(get(&completed), Err(Error::TaskCancelled { .. })));
    assert_eq!(tally.get(), 5, "it went on");
    wait_until("what was not taken to be freed", || objects().len() == 1);
    assert_eq!(get(&first).expect("what was taken stays").len(), SIZE);
    drop(first);
    wait_until_empty();
    all_cpus_free();
}

fn dropped_at_once() {
    let tally = Tally::new();
    for round in 0..100 {
        let mut stream = counted.remote(tally.path(), SIZE);
        if round % 10 == 0 {
            take(&mut stream).expect("one");
        }
    }
    wait_until_empty();
    all_cpus_free();
}

fn cancelled() {
    let tally = Tally::new();
    let mut stream = counted.options().backpressure_num_objects(2).remote(tally.path(), SIZE);
    assert_eq!(made_by(&tally), 2);
    // The second one has come when the first one has been taken and there is a third.
    assert_eq!(take(&mut stream).expect("the first")[0], 1);
    wait_until("the third", || tally.get() == 3);
    cancel(&stream);
    assert_eq!(take(&mut stream).expect("the second")[0], 2);
    let mut last = take(&mut stream);
    if last.is_ok() {
        // It had come as well.
        last = take(&mut stream);
    }
    assert!(matches!(last, Err(Error::TaskCancelled { .. })), "{last:?}");
    assert_over(stream);
    wait_until_empty();
    all_cpus_free();
}

struct Reader {
    lines: Vec<String>,
    read: u64,
}

#[remote]
impl Reader {
    fn new(lines: Vec<String>) -> Self {
        Self { lines, read: 0 }
    }

    fn lines(&mut self) -> impl Iterator<Item = String> {
        self.lines.iter().inspect(|_| self.read += 1).cloned()
    }

    fn lengths(&self, longest: usize) -> impl Iterator<Item = Result<usize, std::io::Error>> {
        let checked = move |line: &String| match line.len() <= longest {
            true => Ok(line.len()),
            false => Err(std::io::Error::other("too long")),
        };
        self.lines.iter().map(checked)
    }

    fn read(&mut self) -> u64 {
        self.read
    }

    #[remote(backpressure_num_objects = 1)]
    fn endless(&mut self, tally: String) -> impl Iterator<Item = u64> {
        std::iter::repeat_with(move || count(&tally))
    }

    fn panics(&mut self) -> impl Iterator<Item = u64> {
        (0..5).inspect(|number| assert!(*number < 2, "because of the third"))
    }
}

fn reader() -> ReaderHandle {
    Reader::remote(["a", "bc", "def"].map(str::to_owned).to_vec())
}

fn methods() {
    let reader = reader();
    let lines: Vec<_> = reader.lines().remote().collect();
    assert_eq!(get(&lines).expect("three lines"), ["a", "bc", "def"]);
    assert_eq!(get(reader.read().remote()).expect("it counts"), 3);
    let mut lengths = reader.lengths().backpressure_num_objects(1).remote(2);
    assert_eq!((take(&mut lengths), take(&mut lengths)), (Ok(1), Ok(2)));
    assert!(matches!(take(&mut lengths), Err(Error::Application { .. })));
    assert_over(lengths);
    // It has its turn for as long as somebody wants it.
    let tally = Tally::new();
    let mut endless = reader.endless().remote(tally.path());
    assert_eq!((take(&mut endless), take(&mut endless)), (Ok(1), Ok(2)));
    let after = reader.read().remote();
    drop(endless);
    assert_eq!(get_timeout(&after, PATIENCE).expect("then it is the next one's"), 3);
    assert!(tally.get() <= 3);
}

fn method_panics() {
    let reader = reader();
    let mut stream = reader.panics().remote();
    assert_eq!((take(&mut stream), take(&mut stream)), (Ok(0), Ok(1)));
    assert!(matches!(take(&mut stream), Err(Error::Panicked { .. })));
    assert_over(stream);
    assert!(matches!(get(reader.read().remote()), Err(Error::ActorDied { .. })));
}

fn killed() {
    let (reader, tally) = (reader(), Tally::new());
    let mut stream = reader.endless().remote(tally.path());
    assert_eq!(take(&mut stream), Ok(1));
    wait_until("the second one", || tally.get() == 2);
    kill(&reader).expect("it is killed");
    let mut ended = take(&mut stream);
    while ended.is_ok() {
        ended = take(&mut stream);
    }
    assert!(matches!(ended, Err(Error::ActorDied { .. })), "{ended:?}");
    assert_over(stream);
}

/// Takes two streams by turns, in async code.
#[remote]
async fn alternately(count: u64) -> Result<Vec<u64>, Error> {
    let (mut left, mut right) = (count_to.remote(count), count_to.remote(count));
    let mut all = Vec::new();
    while let (Some(one), Some(other)) = (left.next_async().await, right.next_async().await) {
        all.extend([one.await?, other.await?]);
    }
    Ok(all)
}

fn in_async_code() {
    assert_eq!(get(alternately.remote(3)).expect("two streams"), [0, 0, 1, 1, 2, 2]);
}

#[remote]
fn with_references(given: Vec<ObjectRef<Bytes>>) -> impl Iterator<Item = Vec<ObjectRef<Bytes>>> {
    (0..3_u8).map(move |fill| {
        let own = put(Bytes::from(vec![fill; SIZE])).expect("there is room");
        vec![given[0].clone(), own]
    })
}

fn references() {
    let given = put(Bytes::from(vec![9; SIZE])).expect("there is room");
    let mut stream = with_references.remote(vec![given]);
    let inside: Vec<_> = (0..3).map(|_| take(&mut stream).expect("references")).collect();
    assert_over(stream);
    for (fill, refs) in (0..).zip(&inside) {
        let bytes = get(refs).expect("they are there");
        assert_eq!((bytes[0][0], bytes[1][0]), (9, fill));
    }
    drop(inside);
    wait_until_empty();
    // Those that nobody takes.
    let given = put(Bytes::from(vec![9; SIZE])).expect("there is room");
    let stream = with_references.remote(vec![given]);
    get_timeout(stream.completed(), PATIENCE).expect("it ends");
    drop(stream);
    wait_until_empty();
}

#[remote(retry_exceptions = true, max_retries = 5)]
fn stumbles(tally: String) -> impl Iterator<Item = Result<u64, std::io::Error>> {
    let run = count(&tally);
    // Every run gets one further than the one before.
    (0..5).map(move |number| if number < run { Ok(number) } else { Err(std::io::Error::other("not yet")) })
}

fn retried_error() {
    let tally = Tally::new();
    let mut stream = stumbles.remote(tally.path());
    for number in 0..5 {
        assert_eq!(take(&mut stream), Ok(number));
    }
    assert_over(stream);
    assert_eq!(tally.get(), 5);
}

#[remote]
fn sums(count: u64) -> Result<u64, Error> {
    count_to.options().backpressure_num_objects(1).remote(count).map(get).sum()
}

fn nested() {
    // More than there are CPUs, and each waits for another one.
    let all: Vec<_> = (0..10).map(|_| sums.remote(20)).collect();
    assert_eq!(get(&all).expect("all of them"), [190; 10]);
}

fn explained() {
    let tally = Tally::new();
    let stream = counted.remote(tally.path(), 10);
    assert_eq!(made_by(&tally), 16);
    let why = explain(&stream).expect("it is known");
    assert_eq!((why.state.as_str(), why.name.as_str()), ("RUNNING", "counted"), "{why}");
}

fn many() {
    let mut expected = 0;
    for number in count_to.options().backpressure_num_objects(3).remote(1_000) {
        assert_eq!(get(&number).expect("a number"), expected);
        expected += 1;
    }
    assert_eq!(expected, 1_000);
}

// ---- lost workers ------------------------------------------------------------------------------

/// Values of which every second one is large; ends its process before the value `dies_at`, when the
/// gate is open, until it has done so `times` times.
#[remote(max_retries = 3)]
fn dies(tally: String, gate: String, dies_at: u64, times: u64) -> impl Iterator<Item = Vec<u8>> {
    let run = count(&tally);
    (0..10).map(move |number| {
        if number == dies_at && run <= times {
            pass(&gate);
            std::process::abort();
        }
        vec![number as u8; if number % 2 == 0 { 10 } else { SIZE }]
    })
}

fn worker_lost() {
    // Nothing is taken before it dies; all that has come is; it dies at once.
    for (taken, dies_at) in [(0, 5), (5, 5), (3, 5), (0, 0)] {
        let (tally, gate) = (Tally::new(), Gate::new());
        let mut stream = dies.options().process_worker().remote(tally.path(), gate.path(), dies_at, 2);
        let mut numbers: Vec<u8> = (0..taken).map(|_| take(&mut stream).expect("a value")[0]).collect();
        gate.open();
        wait_until("the third run", || tally.get() == 3);
        for next in stream {
            let value = get_timeout(&next, PATIENCE).expect("it goes on");
            assert_eq!(value.len(), if value[0] % 2 == 0 { 10 } else { SIZE });
            numbers.push(value[0]);
        }
        assert_eq!(numbers, (0..10).collect::<Vec<u8>>());
        assert_eq!(tally.get(), 3);
        wait_until_empty();
    }
    all_cpus_free();
}

/// Numbers, with the process that has made them; the gate is before the fourth.
#[remote]
fn signed(gate: String) -> impl Iterator<Item = (u32, u64)> {
    (0..6).map(move |number| {
        if number == 3 {
            pass(&gate);
        }
        (std::process::id(), number)
    })
}

fn worker_killed() {
    let gate = Gate::new();
    let mut stream = signed.options().process_worker().remote(gate.path());
    let mut all: Vec<(u32, u64)> = (0..3).map(|_| take(&mut stream).expect("a number")).collect();
    let first = all[0].0;
    let killed = std::process::Command::new("kill").args(["-KILL", &first.to_string()]).status();
    assert!(killed.expect("kill can be run").success());
    wait_until("it to end", || !std::path::Path::new(&format!("/proc/{first}")).exists());
    gate.open();
    all.extend((3..6).map(|_| take(&mut stream).expect("another process goes on")));
    assert_over(stream);
    assert_eq!(all.iter().map(|(_, number)| *number).collect::<Vec<_>>(), (0..6).collect::<Vec<_>>());
    let makers: Vec<bool> = all.iter().map(|(pid, _)| *pid == first).collect();
    assert_eq!(makers, [true, true, true, false, false, false]);
    all_cpus_free();
}

fn worker_lost_for_good() {
    let (tally, gate) = (Tally::new(), Gate::new());
    let mut stream = dies.options().process_worker().max_retries(0).remote(tally.path(), gate.path(), 5, 9);
    for number in 0..5 {
        assert_eq!(take(&mut stream).expect("what has come")[0], number);
    }
    gate.open();
    assert!(matches!(take(&mut stream), Err(Error::WorkerDied { .. })));
    assert_over(stream);
    wait_until_empty();
}

struct Mortal;

#[remote]
impl Mortal {
    fn new() -> Self {
        Self
    }

    fn dies(&mut self, tally: String, gate: String, dies_at: u64, times: u64) -> impl Iterator<Item = Vec<u8>> {
        dies.call(tally, gate, dies_at, times)
    }
}

fn actor_lost() {
    let (tally, gate) = (Tally::new(), Gate::new());
    let actor = Mortal::options().process_worker().remote();
    let mut stream = actor.dies().remote(tally.path(), gate.path(), 5, 9);
    for number in 0..5 {
        assert_eq!(take(&mut stream).expect("what has come")[0], number);
    }
    gate.open();
    assert!(matches!(take(&mut stream), Err(Error::ActorDied { .. })));
    assert_over(stream);
    wait_until_empty();
}

fn actor_made_again() {
    let actor = Mortal::options().process_worker().max_restarts(-1).max_task_retries(-1).remote();
    let (tally, gate) = (Tally::new(), Gate::new());
    let mut stream = actor.dies().remote(tally.path(), gate.path(), 5, 2);
    let first = (0..5).map(|_| take(&mut stream).expect("what has come")[0]).collect::<Vec<_>>();
    assert_eq!(first, [0, 1, 2, 3, 4]);
    gate.open();
    let numbers = stream.map(|next| get_timeout(&next, PATIENCE).expect("it goes on")[0]);
    assert_eq!(numbers.collect::<Vec<_>>(), (5..10).collect::<Vec<u8>>());
    assert_eq!(tally.get(), 3);
    wait_until_empty();
}

/// Takes one value and ends its process.
#[remote(max_retries = 0)]
fn leaves(tally: String, ended: String) -> u64 {
    let mut stream = notices.remote(tally, ended);
    get(stream.next().expect("one value")).expect("it can be read");
    std::process::abort()
}

fn owner_dies() {
    let (tally, ended) = (Tally::new(), Tally::new());
    let gone = leaves.options().process_worker().remote(tally.path(), ended.path());
    assert!(matches!(get_timeout(&gone, PATIENCE), Err(Error::WorkerDied { .. })));
    wait_until("its iterator to be dropped", || ended.get() == 1);
    all_cpus_free();
}
