//! A mixed load for a long time, and something killed every ten seconds: all answers are right, and
//! in the end there is no more of anything than there was before.
//!
//! `MOBULA_SOAK_SECONDS` says for how long: 1800 is the full length. `MOBULA_SOAK_SEED` chooses who is
//! killed. In the first third of the time it is workers, nodes and the head; after that the head and
//! one node are left alone, so that what they keep can be compared over time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::binaries::behaviour;
use crate::support::blows::{Seeded, kill_node, marks, signal_worker, wait_until_nothing_is_left};
use crate::support::cluster::{Cluster, is_alive};
use crate::support::process::Program;
use crate::support::{setting, wait_until};

/// Seconds when nobody asks for more.
const SECONDS: u64 = 120;
const BLOW_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The longest that a round may take without anybody calling it stuck.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// How long the head is away.
const HEAD_AWAY: Duration = Duration::from_millis(500);
/// CPUs of each node; the head has none.
const CPUS: u32 = 2;
/// The first is never killed.
const NODES: usize = 3;
/// The object store of each: a round's objects have no room in it at once.
const STORE_BYTES: &str = "67108864";
/// How many threads and open files head and raylet may have more than after the first round.
const MORE_THREADS: usize = 6;
const MORE_FILES: usize = 12;
/// By how much their memory may be larger in the last third of the time than in the middle one. An
/// allocator keeps what its largest moment needed.
const MORE_MEMORY_PERCENT: u64 = 10;
const MORE_MEMORY_BYTES: u64 = 16 << 20;
/// What either needs at most; the objects are in shared memory and do not count.
const MOST_MEMORY_BYTES: u64 = 96 << 20;

/// What a process has of that which must not grow.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    threads: usize,
    files: usize,
}

fn holdings(pid: i32) -> Holdings {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    Holdings { threads: count("task"), files: count("fd") }
}

/// The process's own memory, shared memory apart.
fn memory_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The memory of one process over time.
#[derive(Default)]
struct Course(Vec<(Duration, u64)>);

impl Course {
    fn note(&mut self, when: Duration, pid: i32) {
        self.0.extend(memory_bytes(pid).map(|bytes| (when, bytes)));
    }

    /// The median of the `third`th third of the time.
    fn of_third(&self, third: u32, length: Duration) -> u64 {
        let within = |when: Duration| when >= length * third / 3 && when < length * (third + 1) / 3;
        let mut found: Vec<u64> = self.0.iter().filter(|(when, _)| within(*when)).map(|(_, bytes)| *bytes).collect();
        found.sort_unstable();
        found[found.len() / 2]
    }

    /// Middle and last third, and whether it has stopped growing.
    fn verdict(&self, length: Duration) -> (u64, u64, bool) {
        let (middle, last) = (self.of_third(1, length), self.of_third(2, length));
        (middle, last, last <= middle + middle * MORE_MEMORY_PERCENT / 100 + MORE_MEMORY_BYTES)
    }
}

#[derive(Debug, Default)]
struct Killed {
    workers: u32,
    nodes: u32,
    heads: u32,
}

/// The nodes whose traces on the machine are looked for in the end.
fn note_nodes(cluster: &Cluster, seen: &mut BTreeSet<String>) {
    seen.extend(cluster.node_list().iter().filter_map(|node| Some(node["node"].as_str()?.to_owned())));
}

fn join(cluster: &mut Cluster, spill_dir: &Path) {
    let spill_dir = spill_dir.to_string_lossy();
    cluster.join_with(CPUS, &["--object-store-memory", STORE_BYTES, "--spill-dir", &spill_dir]);
}

fn start_driver(cluster: &Cluster) -> Program {
    let mut command = cluster.family().command(behaviour());
    command.args(["soak", "--address", cluster.address()]);
    Program::start("a driver for a long time", command)
}

fn end_of(driver: &mut Program) {
    let status = driver.wait();
    assert!(status.success(), "{status}\n{}\n{}", driver.stdout(), driver.stderr());
}

/// The files in the spill directories, but for the locks by which living nodes hold them.
fn spilled_files(spill_dir: &Path) -> Vec<PathBuf> {
    let entries = |of: &Path| -> Vec<PathBuf> {
        fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let all = entries(spill_dir).into_iter().flat_map(|of_node| entries(&of_node));
    all.filter(|path| path.file_name().is_some_and(|name| name != "lock")).collect()
}

#[test]
fn nothing_grows_and_nothing_is_wrong_in_a_long_time_of_kills() {
    let length = Duration::from_secs(setting("MOBULA_SOAK_SECONDS", SECONDS));
    let seed = setting("MOBULA_SOAK_SEED", 1);
    println!("{} s, seed {seed}", length.as_secs());
    let mut seeded = Seeded(seed);
    let spill_home = tempfile::tempdir().expect("a temporary directory");
    let spill_dir = spill_home.path();
    let shown = spill_dir.to_string_lossy();
    let mut cluster = Cluster::start_with(0, 0, &["--object-store-memory", STORE_BYTES, "--spill-dir", &shown]);
    for _ in 0..NODES {
        join(&mut cluster, spill_dir);
    }
    cluster.wait_for_nodes(NODES + 1);

    // A round to warm up: what is there after it should be all there ever is.
    let ends = cluster.family().path("soak-ends");
    fs::write(&ends, b"").expect("the family's home can be written");
    end_of(&mut start_driver(&cluster));
    fs::remove_file(&ends).expect("it is there");
    for entry in fs::read_dir(cluster.family().home()).expect("the home is there").flatten() {
        if entry.file_name().to_string_lossy().starts_with("noted-") {
            fs::remove_file(entry.path()).expect("an actor's file can be removed");
        }
    }
    wait_until_nothing_is_left(&cluster, NODES + 1);
    let before = [holdings(cluster.head().pid()), holdings(cluster.nodes()[0].pid())];

    let mut driver = start_driver(&cluster);
    driver.wait_for_output("that it works", |output| output.contains("soak begins").then_some(()));
    let mut killed = Killed::default();
    let mut seen_nodes = BTreeSet::new();
    let mut courses = [Course::default(), Course::default()];
    let (mut rounds, mut further_at) = (0, Instant::now());
    let began = Instant::now();
    let mut blows = 0;
    while driver.try_wait().is_none() {
        std::thread::sleep(LOOK_EVERY);
        let now = began.elapsed();
        let done = marks(&driver, "soak: ");
        if done > rounds {
            (rounds, further_at) = (done, Instant::now());
        }
        assert!(
            further_at.elapsed() < STUCK_AFTER,
            "stuck after {rounds} rounds and {killed:?}:\n{}\n{}\n{}",
            driver.stdout(),
            driver.stderr(),
            cluster.status()
        );
        if now >= length {
            fs::write(&ends, b"").expect("the family's home can be written");
            continue;
        }
        courses[0].note(now, cluster.head().pid());
        courses[1].note(now, cluster.nodes()[0].pid());
        if now < BLOW_EVERY * (blows + 1) {
            continue;
        }
        note_nodes(&cluster, &mut seen_nodes);
        // One of each kind in any case, however slow the machine is.
        let kinds = if blows < 3 || now < length / 3 { 3 } else { 2 };
        match blows % kinds {
            0 => {
                let worker = signal_worker(&mut cluster, &driver, &mut seeded, Signal::KILL);
                killed.workers += u32::from(worker.is_some());
            }
            1 => {
                kill_node(&mut cluster, 1 + seeded.below(NODES - 1));
                join(&mut cluster, spill_dir);
                killed.nodes += 1;
            }
            _ => {
                cluster.kill_head();
                std::thread::sleep(HEAD_AWAY);
                cluster.restart_head(0);
                killed.heads += 1;
            }
        }
        blows += 1;
    }
    end_of(&mut driver);

    // The figures first: they tell more than the first check that fails.
    wait_until_nothing_is_left(&cluster, NODES + 1);
    let after = [holdings(cluster.head().pid()), holdings(cluster.nodes()[0].pid())];
    let verdicts = courses.each_ref().map(|course| course.verdict(length));
    for line in driver.stdout().lines().filter_map(|line| line.strip_prefix("figure: ")) {
        println!("{line}");
    }
    for (name, count) in [("workers", killed.workers), ("nodes", killed.nodes), ("heads", killed.heads)] {
        println!("{:<34}{count:>12}", format!("{name} killed"));
    }
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    for (n, name) in ["head", "raylet"].into_iter().enumerate() {
        let (middle, last, _) = verdicts[n];
        println!("{:<34}{:>12}{:>12}", format!("{name}: threads before, after"), before[n].threads, after[n].threads);
        println!("{:<34}{:>12}{:>12}", format!("{name}: open files before, after"), before[n].files, after[n].files);
        println!("{:<34}{:>12}{:>12}", format!("{name}: memory middle, last third"), mib(middle), mib(last));
    }

    let spilled: u64 = cluster.node_list().iter().filter_map(|node| node["spilling"]["spilled_objects"].as_u64()).sum();
    println!("{:<34}{spilled:>12}", "objects spilled by who lives");

    assert!(spilled > 0, "nothing was spilled");
    assert!(killed.workers > 0 && killed.nodes > 0 && killed.heads > 0, "too short: {killed:?}");
    for (n, name) in ["head", "raylet"].into_iter().enumerate() {
        assert!(after[n].threads <= before[n].threads + MORE_THREADS, "{name}'s threads");
        assert!(after[n].files <= before[n].files + MORE_FILES, "{name}'s open files");
        assert!(verdicts[n].2, "{name}'s memory grows");
        assert!(verdicts[n].1 <= MOST_MEMORY_BYTES, "{name} needs too much memory");
    }
    let nodes = cluster.node_list();
    for node in nodes.iter().filter(|node| is_alive(node)) {
        assert_eq!(node["object_store_used_bytes"], 0, "{node}");
        assert_eq!(node["spilling"]["disk_objects"], 0, "{node}");
        seen_nodes.remove(node["node"].as_str().unwrap_or_default());
    }
    wait_until("the files of spilled objects to go", || spilled_files(spill_dir).is_empty().then_some(()));
    let left: Vec<PathBuf> = seen_nodes.iter().map(|node| PathBuf::from(format!("/dev/shm/mobula-{node}"))).collect();
    assert!(left.iter().all(|path| !path.exists()), "shared memory of dead nodes is left: {left:?}");
}
