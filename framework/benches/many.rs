//! Many things at once in one process: `cargo bench -p mobula --bench many`.
//!
//! The limits that Ray publishes for one node: 10,000 objects as the argument of one task, 3,000
//! results of one task, a get of 10,000 objects, a million queued tasks (behind one that waits);
//! and 10,000 actors that are all alive, 1,000 placement groups that all exist. Prints how long each
//! takes, and what actors and tasks cost in memory (the process's private memory, before and after).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mobula::{Bundle, Config, Error, ObjectRef, PlacementGroup, get, put, remote, remove_placement_group};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ACTORS: usize = 10_000;
const TASKS: usize = 1_000_000;
const ARGUMENTS: u64 = 10_000;
const RETURNS: u64 = 3_000;
const OBJECTS: u64 = 10_000;
const GROUPS: usize = 1_000;

static OPEN: AtomicBool = AtomicBool::new(false);

struct Small {
    calls: u64,
}

#[remote]
impl Small {
    fn new() -> Self {
        Self { calls: 0 }
    }

    fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }
}

#[remote]
fn waits() -> u64 {
    while !OPEN.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    0
}

#[remote]
fn one() -> u64 {
    1
}

#[remote]
fn sums(numbers: Vec<ObjectRef<u64>>) -> Result<u64, Error> {
    Ok(get(&numbers)?.iter().sum())
}

#[remote(backpressure_num_objects = 4_096)]
fn returns(count: u64) -> impl Iterator<Item = u64> {
    0..count
}

/// How long something takes.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    let done = work()?;
    println!("{what}: {:.3} s", begun.elapsed().as_secs_f64());
    Ok(done)
}

fn limits() -> Result<(), Error> {
    let numbers: Vec<_> = (0..ARGUMENTS).map(put).collect::<Result<_, _>>()?;
    let sum = timed(&format!("{ARGUMENTS} objects as the argument of a task"), || get(sums.remote(numbers)))?;
    assert_eq!(sum, (0..ARGUMENTS).sum::<u64>());
    let results = timed(&format!("{RETURNS} results of a task"), || get(&returns.remote(RETURNS).collect::<Vec<_>>()))?;
    assert!(results.into_iter().eq(0..RETURNS));
    let objects: Vec<_> = (0..OBJECTS).map(put).collect::<Result<_, _>>()?;
    let values = timed(&format!("get of {OBJECTS} objects"), || get(&objects))?;
    assert!(values.into_iter().eq(0..OBJECTS));
    let groups = timed(&format!("{GROUPS} placement groups made"), || {
        let share = || PlacementGroup::new([Bundle::cpus(0.0001)]).create();
        let groups: Vec<_> = (0..GROUPS).map(|_| share()).collect::<Result<_, _>>()?;
        get(&groups.iter().map(PlacementGroup::ready).collect::<Vec<_>>())?;
        Ok(groups)
    })?;
    timed(&format!("{GROUPS} placement groups removed"), || groups.iter().try_for_each(remove_placement_group))
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::default().num_cpus(1.0))?;
    // What the first ones of everything need is not counted.
    get(Small::remote().call().remote())?;
    get(one.remote())?;
    limits()?;

    let before = private_bytes();
    let begun = Instant::now();
    let actors: Vec<_> = (0..ACTORS).map(|_| Small::remote()).collect();
    let calls: Vec<_> = actors.iter().map(|actor| actor.call().remote()).collect();
    assert_eq!(get(&calls)?.len(), ACTORS);
    drop(calls);
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = private_bytes().saturating_sub(before) / ACTORS as u64;
    println!("{ACTORS} actors alive, each called: {seconds:.2} s, {:.1} KB each", bytes as f64 / 1e3);
    drop(actors);

    let before = private_bytes();
    let begun = Instant::now();
    let first = waits.remote();
    let tasks: Vec<_> = (0..TASKS).map(|_| one.remote()).collect();
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = private_bytes().saturating_sub(before);
    println!(
        "{TASKS} tasks queued: {seconds:.2} s, {:.0} MB, {:.0} bytes each",
        bytes as f64 / 1e6,
        bytes as f64 / TASKS as f64
    );
    let begun = Instant::now();
    OPEN.store(true, Ordering::Relaxed);
    get(first)?;
    let sum: u64 = get(&tasks)?.iter().sum();
    assert_eq!(sum, TASKS as u64);
    let seconds = begun.elapsed().as_secs_f64();
    println!("and run: {seconds:.2} s, {:.0} per second", TASKS as f64 / seconds);
    session.shutdown();
    Ok(())
}

fn private_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
