//! A cluster whose processes are killed, stopped and disconnected while a driver works on it.
//!
//! What is killed when follows from a seed. `MOBULA_CHAOS_SEED` replays one; `MOBULA_CHAOS_TASKS` and
//! `MOBULA_CHAOS_ACTORS` say how much work there is: 20000 and 200 take some minutes.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::support::binaries::behaviour;
use crate::support::blows::{Seeded, kill_node, marks, signal_worker, wait_until_nothing_is_left};
use crate::support::cluster::Cluster;
use crate::support::process::Program;
use crate::support::{DEADLINE, setting};

/// CPUs of each node; the head has none.
const CPUS: u32 = 2;
const NODES: usize = 3;
/// A blow comes at most so long after the driver has come further.
const PAUSE: Duration = Duration::from_millis(500);
/// How long something stays stopped: less than it takes to be declared dead.
const STOPPED: Duration = Duration::from_millis(1_500);

/// What is done to the cluster, and how often it was.
#[derive(Debug, Default)]
struct Blows {
    workers_killed: u32,
    workers_stopped: u32,
    nodes_killed: u32,
    nodes_stopped: u32,
    heads_killed: u32,
}

impl Blows {
    fn strike(&mut self, cluster: &mut Cluster, driver: &Program, seeded: &mut Seeded) {
        match seeded.below(10) {
            0..4 => self.workers_killed += u32::from(signal_worker(cluster, driver, seeded, Signal::KILL).is_some()),
            4..6 => {
                if let Some(worker) = signal_worker(cluster, driver, seeded, Signal::STOP) {
                    std::thread::sleep(STOPPED);
                    let _ = kill_process(worker, Signal::CONT);
                    self.workers_stopped += 1;
                }
            }
            6 => {
                let node = seeded.below(cluster.nodes().len());
                cluster.nodes()[node].signal(Signal::STOP);
                std::thread::sleep(STOPPED);
                cluster.nodes()[node].signal(Signal::CONT);
                self.nodes_stopped += 1;
            }
            7..9 => {
                let node = seeded.below(cluster.nodes().len());
                kill_node(cluster, node);
                cluster.join(CPUS);
                self.nodes_killed += 1;
            }
            _ => {
                cluster.kill_head();
                std::thread::sleep(PAUSE);
                cluster.restart_head(0);
                self.heads_killed += 1;
            }
        }
    }
}

/// Waits until the driver has printed more, or ended. False if it does neither.
fn wait_for_progress(driver: &mut Program, seen: &mut usize) -> bool {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let now = marks(driver, "chaos: ");
        if now > *seen || driver.try_wait().is_some() {
            *seen = now;
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn everything_is_right_while_workers_nodes_and_the_head_are_killed() {
    let seed = setting("MOBULA_CHAOS_SEED", 1);
    println!("replay with MOBULA_CHAOS_SEED={seed}");
    let mut seeded = Seeded(seed);
    let mut cluster = Cluster::start(0, 0);
    for _ in 0..NODES {
        cluster.join(CPUS);
    }
    cluster.wait_for_nodes(NODES + 1);
    let mut command = cluster.family().command(behaviour());
    command.args(["chaos", "--address", cluster.address()]);
    for variable in ["MOBULA_CHAOS_TASKS", "MOBULA_CHAOS_ACTORS"] {
        if let Ok(value) = std::env::var(variable) {
            command.env(variable, value);
        }
    }
    let mut driver = Program::start("a driver in the chaos", command);
    driver.wait_for_output("that it works", |output| output.contains("chaos begins").then_some(()));
    let mut blows = Blows::default();
    let mut seen = 0;
    // One blow for each time that it has come further: faster, and it may never come anywhere.
    while driver.try_wait().is_none() {
        let came_further = wait_for_progress(&mut driver, &mut seen);
        assert!(
            came_further,
            "it goes on no more after {blows:?}:\n{}\n{}\n{}",
            driver.stdout(),
            driver.stderr(),
            cluster.status()
        );
        std::thread::sleep(PAUSE.mul_f64(seeded.below(100) as f64 / 100.0));
        if driver.try_wait().is_none() {
            blows.strike(&mut cluster, &driver, &mut seeded);
        }
    }
    let status = driver.wait();
    assert!(status.success(), "{status} after {blows:?}\n{}\n{}", driver.stdout(), driver.stderr());
    println!("{}{blows:?}", driver.stdout());

    // Nothing is left of it.
    wait_until_nothing_is_left(&cluster, NODES + 1);
}
