//! Many things at once in one process: `cargo bench -p mobula --bench many`.
//!
//! Makes 10,000 actors and calls each of them while all are alive, then queues a million tasks
//! behind one that waits, lets it go, and gets all results. Prints what each costs in memory
//! (the process's private memory, before and after) and how fast the queue drains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mobula::{Config, Error, get, remote};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ACTORS: usize = 10_000;
const TASKS: usize = 1_000_000;

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

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::default().num_cpus(1.0))?;
    // What the first ones of everything need is not counted.
    get(Small::remote().call().remote())?;
    get(one.remote())?;

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
