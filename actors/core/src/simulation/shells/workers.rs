//! Worker processes: the real worker and its client at an endpoint of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mobula_transport::{Address, Endpoint, Payload, ProcessAddr, ProcessId};
use parking_lot::Mutex;
use rand::RngExt;

use super::cluster::Cluster;
use crate::client::Client;
use crate::culprit::Culprit;
use crate::ids::ActorId;
use crate::messages::NodeInfo;
use crate::node::WorkerEnv;
use crate::node::played::{raylet_gone, set_up};
use crate::printed::Mark;
use crate::raylet::server::worker_config;
use crate::raylet::workers::{Launch, LaunchEvent, Launcher, Report};
use crate::simulation::stage::Life;
use crate::worker::Worker;

/// As a real worker process has it.
const REGISTERED_WITHIN: Duration = Duration::from_secs(20);

/// The worker processes of a cluster.
#[derive(Default)]
pub(super) struct Workers {
    all: Mutex<BTreeMap<ProcessId, Process>>,
    /// Starts that were given up before there was a process.
    aborted: Mutex<BTreeSet<(ProcessId, u64)>>,
}

struct Process {
    addr: ProcessAddr,
    raylet: ProcessId,
    start: u64,
    life: Life,
    report: Report,
    worker: Arc<Worker>,
    client: Client,
}

impl Workers {
    pub(super) fn living(&self) -> Vec<ProcessId> {
        self.all.lock().keys().copied().collect()
    }

    pub(super) fn addresses(&self) -> Vec<ProcessAddr> {
        self.all.lock().values().map(|process| process.addr).collect()
    }

    /// The actors that live in workers, with their incarnations.
    pub(super) fn hosted(&self) -> Vec<(ActorId, u32)> {
        self.all.lock().values().flat_map(|process| process.worker.hosted()).collect()
    }

    /// A worker process is killed; its raylet hears of it.
    pub(super) fn kill(&self, cluster: &Cluster, process: ProcessId, how: &str, culprit: Culprit) {
        let Some(ended) = self.all.lock().remove(&process) else { return };
        cluster.crash(process, &ended.life);
        let after = cluster.random(|random| random.random_range(0..20));
        let how = how.to_owned();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            (ended.report)(LaunchEvent::Exited { start: ended.start, how, culprit });
            drop((ended.worker, ended.client));
        });
    }

    fn kill_start(&self, cluster: &Cluster, raylet: ProcessId, start: u64) {
        self.aborted.lock().insert((raylet, start));
        let found = self.all.lock().iter().find(|(_, of)| of.raylet == raylet && of.start == start).map(|(id, _)| *id);
        if let Some(process) = found {
            self.kill(cluster, process, "killed by its raylet", Culprit::Unknown);
        }
    }

    /// The workers of a node die with it.
    pub(super) fn end_of_node(&self, cluster: &Cluster, raylet: ProcessId) {
        let own: Vec<ProcessId> =
            self.all.lock().iter().filter(|(_, of)| of.raylet == raylet).map(|(id, _)| *id).collect();
        for process in own {
            self.kill(cluster, process, "its raylet died", Culprit::Unknown);
        }
    }
}

/// Starts the workers of one node.
pub(super) struct Player {
    cluster: Cluster,
    machine: usize,
    node: OnceLock<(NodeInfo, Address)>,
}

impl fmt::Debug for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Player({})", self.machine)
    }
}

impl Player {
    pub(super) fn new(cluster: &Cluster, machine: usize) -> Self {
        Self { cluster: cluster.clone(), machine, node: OnceLock::new() }
    }

    pub(super) fn belongs_to(&self, node: &NodeInfo, gcs: Address) {
        let _ = self.node.set((node.clone(), gcs));
    }
}

impl Launcher for Player {
    fn launch(&self, launch: Launch, report: Report) {
        let Some((node, gcs)) = self.node.get().cloned() else { return };
        let (cluster, machine) = (self.cluster.clone(), self.machine);
        let (after, fails) = cluster.random(|random| (random.random_range(5..400), random.random_range(0..40) == 0));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let start = launch.start;
            if fails {
                let why = "the simulation wants it so".to_owned();
                return report(LaunchEvent::Failed { start, why, for_good: false });
            }
            let lives = cluster.nodes().iter().any(|of| of.parts.info().node == node.node);
            if lives && !cluster.workers().aborted.lock().contains(&(node.process.id, start)) {
                run(cluster, machine, &node, gcs, launch, report).await;
            }
        });
    }

    fn kill(&self, start: u64) {
        if let Some((node, _)) = self.node.get() {
            self.cluster.workers().kill_start(&self.cluster, node.process.id, start);
        }
    }

    fn kill_all(&self) {
        if let Some((node, _)) = self.node.get() {
            self.cluster.workers().end_of_node(&self.cluster, node.process.id);
        }
    }
}

/// A worker process from its start to its end.
async fn run(cluster: Cluster, machine: usize, node: &NodeInfo, gcs: Address, launch: Launch, report: Report) {
    let start = launch.start;
    let endpoint = cluster.endpoint(machine);
    let life = Life::of(endpoint.process().id);
    let raylet = Address { process: node.process, mailbox: mobula_transport::MailboxId::RAYLET };
    let gone = raylet_gone(&endpoint, node.process);
    let env = WorkerEnv {
        start,
        kind: launch.kind,
        mark: Mark::random(),
        last_words: PathBuf::new(),
        raylet: node.process,
        gcs: gcs.process,
        credentials: PathBuf::new(),
        store_dir: node.store_dir.clone(),
        host_proof: node.host_proof.clone(),
        job: launch.job.job,
        namespace: launch.job.namespace.clone(),
        config: worker_config(node),
        gpus: launch.gpus.clone(),
    };
    let set_up = cluster.stage().of(life.clone()).on(|| set_up(&endpoint, env));
    let Ok((client, worker, register)) = set_up else {
        // Its node's store is gone already.
        cluster.crash(endpoint.process().id, &life);
        return report(LaunchEvent::Failed { start, why: "it has no store".to_owned(), for_good: false });
    };
    let worker = Arc::new(worker);
    let process = Process {
        addr: endpoint.process(),
        raylet: node.process.id,
        start,
        life: life.clone(),
        report: report.clone(),
        worker: worker.clone(),
        client,
    };
    cluster.workers().all.lock().insert(endpoint.process().id, process);
    report(LaunchEvent::Spawned { start, pid: std::process::id() });
    let taken_in = endpoint.request(raylet, register, Payload::new(), REGISTERED_WITHIN).await;
    let why = match taken_in {
        Ok((Ok(_), _)) => tokio::select! {
            biased;
            () = life.ended() => return,
            why = worker.told_to_stop() => why,
            why = gone => why.unwrap_or_default(),
        },
        refused => format!("it was not taken in: {refused:?}"),
    };
    leave(&cluster, &endpoint, &why);
}

/// A worker leaves of its own accord.
fn leave(cluster: &Cluster, endpoint: &Endpoint, why: &str) {
    let id = endpoint.process().id;
    let Some(process) = cluster.workers().all.lock().remove(&id) else { return };
    process.worker.shutdown();
    process.client.close();
    process.life.end();
    cluster.forget(id);
    endpoint.shutdown(Duration::from_millis(500));
    (process.report)(LaunchEvent::Exited {
        start: process.start,
        how: format!("it left: {why}"),
        culprit: Culprit::Unknown,
    });
}
