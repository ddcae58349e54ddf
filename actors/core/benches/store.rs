//! The object store against the hardware: put of 800 MiB, warm and cold, beside a plain copy into
//! memory that is already there and into fresh memory; small objects; 1 GiB from the store of one
//! process to that of another over the loopback; and 1 GiB from one process to eight.
//!
//! `cargo bench -p mobula-core --bench store [-- put|small|pull|broadcast]`. Every case runs in turns with
//! its floor, so that a noisy machine is noisy for both; medians are printed, and their ratio.
//!
//! What fresh memory costs is up to the machine: a virtual one may take back what has been free
//! for some seconds, and to give it again takes its host ten times as long as to clear it. So the
//! floor of the cold pull keeps its memory while the pull takes its own, each of them comes first
//! in half of the rounds, and their means are printed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memmap2::MmapRaw;
use mobula_core::ids::{NodeId, ObjectId};
use mobula_core::messages::StoredObject;
use mobula_core::store::{Store, StoreClient, StoreConfig, StoreHandle};
use mobula_core::value::Encoding;
use mobula_transport::identity::{ClusterAuthority, Credentials, Role};
use mobula_transport::{Endpoint, EndpointConfig};

/// As in the binaries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;
const PUT_BYTES: usize = 800 * MIB;
const ROUNDS: usize = 5;
const PULL_BYTES: usize = 1 << 30;
/// Even, so that the pull and its floor come first equally often.
const PULL_ROUNDS: usize = 6;
/// Set in the environment of the process that serves an object: where its credentials are.
const SERVE: &str = "MOBULA_BENCH_STORE_SERVE";
/// Set in the environment of a process that receives a broadcast: where its credentials are.
const RECEIVE: &str = "MOBULA_BENCH_STORE_RECEIVE";
const RECEIVERS: usize = 8;
/// The store of each node in the broadcast.
const BROADCAST_STORE_BYTES: u64 = 3 << 29;
const SOON: Duration = Duration::from_secs(60);

fn main() {
    if let Ok(credentials) = std::env::var(SERVE) {
        return serve(credentials.as_ref());
    }
    if let Ok(credentials) = std::env::var(RECEIVE) {
        return receive(credentials.as_ref());
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|arg| arg == name);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{threads} CPUs; medians of {ROUNDS} rounds");
    if wanted("put") {
        put();
    }
    if wanted("small") {
        small();
    }
    if wanted("pull") {
        pull();
    }
    if wanted("broadcast") {
        broadcast();
    }
}

struct Node {
    endpoint: Endpoint,
    store: StoreHandle,
    client: StoreClient,
}

impl Node {
    fn start(endpoint: Endpoint) -> Self {
        Self::start_with(endpoint, StoreConfig::default())
    }

    fn start_with(endpoint: Endpoint, config: StoreConfig) -> Self {
        let store = Store::start(&endpoint, NodeId::random(), config).expect("a store in /dev/shm");
        let client = store.client();
        Self { endpoint, store, client }
    }

    fn local() -> Self {
        Self::start(Endpoint::in_process(EndpointConfig::default()).expect("an endpoint"))
    }

    fn object(&self, seq: u64) -> ObjectId {
        ObjectId { owner: self.endpoint.process().id, seq, index: 0 }
    }
}

/// A file in shared memory of that size, mapped.
fn mapping(len: usize) -> MmapRaw {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file in /dev/shm");
    file.set_len(len as u64).expect("room in /dev/shm");
    MmapRaw::map_raw(&file).expect("a mapping")
}

fn copy_into(to: &MmapRaw, from: &[u8]) {
    assert!(from.len() <= to.len());
    // SAFETY: the mapping is this function's alone and long enough.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), from.len()) }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed(), result)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn report(name: &str, bytes: usize, time: Duration, floor: Option<Duration>) {
    let rate = bytes as f64 / time.as_secs_f64() / 1e9;
    let ratio = floor.map(|floor| format!("  {:4.0} % of the floor", 100.0 * floor.as_secs_f64() / time.as_secs_f64()));
    println!("{name:52} {:8.1} ms {rate:6.2} GB/s{}", time.as_secs_f64() * 1e3, ratio.unwrap_or_default());
}

fn put() {
    let source = vec![7u8; PUT_BYTES];
    let faulted = mapping(PUT_BYTES);
    copy_into(&faulted, &source);

    let node = Node::local();
    let put = |node: &Node, seq| node.client.put(node.object(seq), Encoding::RAW, &[&source]).expect("room");
    let first = put(&node, 0);
    node.client.free(&[first]);
    let (mut warm, mut copies) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS as u64 {
        copies.push(timed(|| copy_into(&faulted, &source)).0);
        let (time, stored) = timed(|| put(&node, round));
        warm.push(time);
        node.client.free(&[stored]);
    }
    let floor = median(copies);
    report("copy into faulted shared memory, 1 thread (floor)", PUT_BYTES, floor, None);
    report("put, warm", PUT_BYTES, median(warm), Some(floor));
    node.store.shutdown();
    drop(faulted);

    let (mut cold, mut faults) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let fault = || {
            let fresh = mapping(PUT_BYTES);
            let time = timed(|| copy_into(&fresh, &source)).0;
            drop(fresh);
            time
        };
        let store = || {
            let node = Node::local();
            let time = timed(|| put(&node, 0)).0;
            node.store.shutdown();
            node.endpoint.shutdown(Duration::ZERO);
            time
        };
        if round % 2 == 0 {
            faults.push(fault());
            cold.push(store());
        } else {
            cold.push(store());
            faults.push(fault());
        }
    }
    let floor = median(faults);
    report("copy into fresh shared memory, 1 thread (floor)", PUT_BYTES, floor, None);
    report("put, cold", PUT_BYTES, median(cold), Some(floor));
}

fn small() {
    let node = Node::local();
    let data = vec![7u8; 100 << 10];
    const COUNT: u64 = 20_000;
    let each = |name: &str, time: Duration| {
        let per = time.as_secs_f64() / COUNT as f64;
        println!("{name:52} {:8.2} us {:10.0} /s", per * 1e6, 1.0 / per);
    };
    let (time, ()) = timed(|| {
        for n in 0..COUNT {
            let stored = node.client.put(node.object(n), Encoding::RAW, &[&data]).expect("room");
            node.client.free(&[stored]);
        }
    });
    each("put and free of 100 KiB, one at a time", time);
    let kept: Vec<_> =
        (0..1000).map(|n| node.client.put(node.object(n), Encoding::RAW, &[&data]).expect("room")).collect();
    let (time, ()) = timed(|| {
        for n in 0..COUNT {
            let stored = &kept[n as usize % kept.len()];
            drop(node.client.get_blocking(stored, SOON).expect("it is there"));
        }
    });
    each("get and drop", time);
    let held = node.client.get_blocking(&kept[0], SOON).expect("it is there");
    let (time, ()) = timed(|| {
        for _ in 0..COUNT {
            drop(node.client.get_blocking(&kept[0], SOON).expect("it is there"));
        }
    });
    each("get of what is alive in this process", time);
    drop(held);
    node.store.shutdown();
}

fn bind(credentials: &Path) -> Endpoint {
    let credentials = Credentials::load(credentials).expect("credentials");
    Endpoint::bind(EndpointConfig { credentials: Some(credentials), ..EndpointConfig::default() }).expect("a socket")
}

/// The other process: puts an object, says where, and serves it until its input ends.
fn serve(credentials: &Path) {
    let node = Node::start(bind(credentials));
    let stored = node.client.put(node.object(0), Encoding::RAW, &[&vec![7u8; PULL_BYTES]]).expect("room");
    println!("{}", serde_json::to_string(&stored).expect("plain data"));
    let _ = std::io::stdin().lines().next();
    node.store.shutdown();
}

/// As much fresh memory as a pull takes.
fn fresh_memory() -> MmapRaw {
    let memory = mapping(PULL_BYTES);
    memory.advise(memmap2::Advice::PopulateWrite).expect("room in /dev/shm");
    memory
}

fn pull() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = ClusterAuthority::create("bench").expect("an authority");
    authority.credentials(Role::Node).and_then(|mine| mine.save(directory.path())).expect("credentials");
    let (mut fresh, mut cold, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..PULL_ROUNDS {
        let mut other = Command::new(std::env::current_exe().expect("this program"))
            .env(SERVE, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let mut line = String::new();
        BufReader::new(other.stdout.take().expect("piped")).read_line(&mut line).expect("what it serves");
        let stored: StoredObject = serde_json::from_str(&line).expect("what it serves");
        let node = Node::start(bind(directory.path()));
        let get = || {
            let (time, value) = timed(|| node.client.get_blocking(&stored, SOON).expect("it is served"));
            assert!(value.len() == PULL_BYTES && value.data[PULL_BYTES - 1] == 7);
            drop(value);
            // Only the copy: what the other process has stays.
            let copy = StoredObject { nodes: [node.endpoint.process()].into_iter().collect(), ..stored.clone() };
            node.client.free(&[copy]);
            while node.store.stats().used_bytes > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            time
        };
        // Who comes first may find memory that was in use just now.
        if round % 2 == 0 {
            cold.push(get());
        }
        let (time, kept) = timed(fresh_memory);
        fresh.push(time);
        if round % 2 == 1 {
            cold.push(get());
        }
        drop(kept);
        warm.extend((0..3).map(|_| get()));
        node.store.shutdown();
        node.endpoint.shutdown(Duration::from_secs(1));
        drop(other.stdin.take());
        other.wait().expect("it ends");
    }
    let mean = |times: Vec<Duration>| times.iter().sum::<Duration>() / times.len() as u32;
    let floor = mean(fresh);
    report("fault in fresh shared memory, 1 thread (floor)", PULL_BYTES, floor, None);
    report("pull from another process, cold", PULL_BYTES, mean(cold), Some(floor));
    report("pull from another process, warm", PULL_BYTES, median(warm), None);
}

fn broadcast_node(credentials: &Path) -> Node {
    let config = StoreConfig { capacity_bytes: Some(BROADCAST_STORE_BYTES), ..StoreConfig::default() };
    Node::start_with(bind(credentials), config)
}

/// One of those who receive a broadcast: says that it is ready, pulls what it is told to, says so.
fn receive(credentials: &Path) {
    let node = broadcast_node(credentials);
    println!("ready");
    let mut lines = std::io::stdin().lines();
    let stored = lines.next().expect("what to pull").expect("text");
    let stored: StoredObject = serde_json::from_str(&stored).expect("what to pull");
    let value = node.client.get_blocking(&stored, SOON * 10).expect("it is served");
    assert!(value.len() == PULL_BYTES && value.data[PULL_BYTES - 1] == 7);
    println!("done");
    // It may be passing it on.
    lines.next();
    drop(value);
    node.store.shutdown();
}

fn broadcast() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = ClusterAuthority::create("bench").expect("an authority");
    authority.credentials(Role::Node).and_then(|mine| mine.save(directory.path())).expect("credentials");
    let source = broadcast_node(directory.path());
    let data = vec![7u8; PULL_BYTES];
    let stored = source.client.put(source.object(0), Encoding::RAW, &[&data]).expect("room");
    let floor = {
        let memory = fresh_memory();
        timed(|| (0..RECEIVERS).for_each(|_| copy_into(&memory, &data))).0
    };
    let mut receivers: Vec<_> = (0..RECEIVERS)
        .map(|_| {
            let mut child = Command::new(std::env::current_exe().expect("this program"))
                .env(RECEIVE, directory.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("another process");
            let output = BufReader::new(child.stdout.take().expect("piped"));
            (child, output)
        })
        .collect();
    let hear = |output: &mut BufReader<std::process::ChildStdout>| {
        let mut line = String::new();
        output.read_line(&mut line).expect("what it says");
        assert!(!line.is_empty(), "a receiver ended");
    };
    receivers.iter_mut().for_each(|(_, output)| hear(output));
    let what = serde_json::to_string(&stored).expect("plain data");
    let (time, ()) = timed(|| {
        for (child, _) in &mut receivers {
            writeln!(child.stdin.as_mut().expect("piped"), "{what}").expect("it listens");
        }
        receivers.iter_mut().for_each(|(_, output)| hear(output));
    });
    report("8 copies into faulted shared memory, 1 thread (floor)", RECEIVERS * PULL_BYTES, floor, None);
    report("broadcast to 8 processes, cold", RECEIVERS * PULL_BYTES, time, Some(floor));
    let served = source.store.stats().served_bytes as f64 / PULL_BYTES as f64;
    println!("{:52} {served:8.2} times", "each byte left the source's store");
    for (mut child, _) in receivers {
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }
    source.store.shutdown();
}
