//! What is done to clusters whose processes must not matter, and what must be left of it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::cluster::{Cluster, is_alive};
use super::process::Program;
use super::wait_until;

/// Numbers that follow from a seed.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

/// Sends a signal to one of the worker processes.
pub(crate) fn signal_worker(
    cluster: &mut Cluster,
    driver: &Program,
    seeded: &mut Seeded,
    signal: Signal,
) -> Option<Pid> {
    let mut others: Vec<i32> = cluster.nodes().iter().map(Program::pid).collect();
    others.extend([cluster.head().pid(), driver.pid()]);
    let workers: Vec<i32> = cluster.family().living().into_iter().filter(|pid| !others.contains(pid)).collect();
    let worker = Pid::from_raw(*workers.get(seeded.below(workers.len()))?)?;
    kill_process(worker, signal).ok().map(|()| worker)
}

/// Kills the node of this place in the list; its workers end with it.
pub(crate) fn kill_node(cluster: &mut Cluster, place: usize) {
    let mut node = cluster.nodes().remove(place);
    node.signal(Signal::KILL);
    node.wait();
}

/// How often the driver has said how far it is, in lines that begin like this.
pub(crate) fn marks(driver: &Program, beginning: &str) -> usize {
    driver.stdout().lines().filter(|line| line.starts_with(beginning)).count()
}

/// Waits until so many nodes have everything free and no object, and no worker process is left.
pub(crate) fn wait_until_nothing_is_left(cluster: &Cluster, nodes: usize) {
    cluster.wait_for_nodes(nodes);
    wait_until("everything to be free again", || {
        let amounts = |node: &Value| node["resources"].as_object().cloned().unwrap_or_default();
        let free = |node: &Value| amounts(node).values().all(|amounts| amounts["used"] == 0.0) && node["objects"] == 0;
        cluster.node_list().iter().filter(|node| is_alive(node)).all(free).then_some(())
    });
    wait_until("all worker processes to end", || (cluster.family().living().len() == nodes).then_some(()));
}
