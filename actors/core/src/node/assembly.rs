//! A store and a raylet at one endpoint: what heads, nodes and drivers without a node have in
//! common.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use mobula_transport::{Address, Credentials, Endpoint, Payload};
use parking_lot::Mutex;

use super::NodeError;
use super::resources::{bytes_as_fractions, default_memory_bytes, gpu_ids};
use crate::ids::NodeId;
use crate::labels::{self, Labels};
use crate::memory;
use crate::messages::{DrainNode, NodeInfo, NodeLeaves};
use crate::raylet::server::{MemoryWatch, RayletConfig, RayletEvent};
use crate::raylet::spawn::{Spawn, SpawnConfig};
use crate::raylet::workers::Launcher;
use crate::resources::{GPU, MEMORY, OBJECT_STORE_MEMORY, Resources};
use crate::store::{Store, StoreConfig, StoreHandle};
use crate::worker::VISIBLE_GPUS_VARIABLE;

/// How long a node may take to be taken in by the head.
const REGISTERED_WITHIN: Duration = Duration::from_secs(20);
/// Between the heartbeats of a node.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the head may take to hear that a node leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// How long an endpoint may take to send what it has accepted.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// What a node is besides what it has.
#[derive(Clone, Debug, Default)]
pub struct NodeTraits {
    /// Its labels.
    pub labels: Labels,
    /// How it watches its memory.
    pub memory: MemoryWatch,
}

/// What a node is put together from.
pub(crate) struct Plan {
    pub(crate) endpoint: Endpoint,
    pub(crate) gcs: Address,
    pub(crate) name: String,
    pub(crate) head: bool,
    pub(crate) resources: Resources,
    pub(crate) store: StoreConfig,
    pub(crate) traits: NodeTraits,
    /// How worker processes are started; none when the node starts no processes.
    pub(crate) processes: Option<Processes>,
}

/// How a node starts worker processes.
pub(crate) enum Processes {
    /// Really.
    Spawned(ProcessPlan),
    /// As a simulation does.
    #[cfg(test)]
    Played(Arc<dyn Launcher>),
}

/// Where worker processes find their credentials and binaries.
pub(crate) struct ProcessPlan {
    pub(crate) dir: PathBuf,
    pub(crate) credentials: Credentials,
}

/// A running raylet and store.
#[derive(Debug)]
pub struct NodeParts {
    endpoint: Endpoint,
    gcs: Address,
    raylet: Address,
    info: NodeInfo,
    store: StoreHandle,
    launcher: Option<Arc<dyn Launcher>>,
    /// Removed when the node stops.
    own_dir: Option<PathBuf>,
    events: Mutex<mpsc::Receiver<RayletEvent>>,
}

impl NodeParts {
    pub(super) fn start(plan: Plan) -> Result<Self, NodeError> {
        let parts = Self::assemble(plan)?;
        match parts.next_event(REGISTERED_WITHIN) {
            Some(RayletEvent::Registered | RayletEvent::StopAsked(_)) => Ok(parts),
            Some(RayletEvent::Refused(why)) => {
                parts.end();
                Err(NodeError::Refused { why })
            }
            None => {
                parts.end();
                Err(NodeError::Silent { within: REGISTERED_WITHIN })
            }
        }
    }

    /// Starts store and raylet. That the head has taken the node in is an event.
    pub(crate) fn assemble(plan: Plan) -> Result<Self, NodeError> {
        labels::check(&plan.traits.labels)?;
        let node = NodeId::random();
        let endpoint = plan.endpoint;
        let store = Store::start(&endpoint, node, plan.store)?;
        let mut total = plan.resources;
        let gpus = gpu_ids(total.units(GPU), std::env::var(VISIBLE_GPUS_VARIABLE).ok().as_deref())?;
        let store_bytes = store.stats().capacity_bytes;
        if !total.is_empty() && total.fractions(MEMORY) == 0 {
            total.set(MEMORY, bytes_as_fractions(default_memory_bytes(memory::machine(), store_bytes)));
        }
        total.set(OBJECT_STORE_MEMORY, bytes_as_fractions(store_bytes));
        let info = NodeInfo {
            node,
            name: plan.name,
            process: endpoint.process(),
            head: plan.head,
            available: total.clone(),
            total,
            labels: plan.traits.labels,
            alive: true,
            death_reason: None,
            store_dir: store.store_dir(),
            host_proof: store.host_proof(),
            pid: std::process::id(),
        };
        let (launcher, own_dir) = match plan.processes {
            None => (None, None),
            Some(Processes::Spawned(processes)) => {
                let (spawn, dir) = launcher(&endpoint, plan.gcs, &info, processes)?;
                (Some(spawn as Arc<dyn Launcher>), Some(dir))
            }
            #[cfg(test)]
            Some(Processes::Played(launcher)) => (Some(launcher), None),
        };
        let (tell, events) = mpsc::channel();
        let (of_dead, of_use) = (store.clone(), store.clone());
        let raylet = crate::raylet::server::start(
            &endpoint,
            RayletConfig {
                info: info.clone(),
                gcs: plan.gcs,
                launcher: launcher.clone(),
                gpus,
                memory: plan.traits.memory,
                heartbeat: HEARTBEAT,
                deaths: Arc::new(move |process| of_dead.process_died(process)),
                store_used_bytes: Arc::new(move || of_use.stats().used_bytes),
                // Nobody listens any more when the node has been dropped.
                events: Arc::new(move |event| drop(tell.send(event))),
            },
        );
        Ok(Self { endpoint, gcs: plan.gcs, raylet, info, store, launcher, own_dir, events: Mutex::new(events) })
    }

    /// The process's endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The GCS.
    pub fn gcs(&self) -> Address {
        self.gcs
    }

    /// The raylet.
    pub fn raylet(&self) -> Address {
        self.raylet
    }

    /// The node.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// The node's store.
    pub fn store(&self) -> &StoreHandle {
        &self.store
    }

    /// Waits for something the node's owner has to know: that it was asked to stop, or that the
    /// head does not want it any more.
    pub fn next_event(&self, within: Duration) -> Option<RayletEvent> {
        match self.events.lock().recv_timeout(within) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(RayletEvent::StopAsked("its raylet has ended".to_owned())),
        }
    }

    /// Takes no new work, waits for what runs until the deadline, tells the head and stops. What
    /// still runs then is killed.
    pub fn drain(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let why = "it was asked to stop".to_owned();
        let drain = DrainNode { why: why.clone() };
        if let Err(error) = self.endpoint.request_blocking(self.raylet, drain, Payload::new(), within) {
            tracing::info!(%error, "work that did not end in time is ended now");
        }
        let left = deadline.saturating_duration_since(Instant::now()).min(LEAVE_WITHIN).max(FLUSH_WITHIN);
        let leaves = NodeLeaves { node: self.info.node, why };
        if let Err(error) = self.endpoint.request_blocking(self.gcs, leaves, Payload::new(), left) {
            tracing::debug!(%error, "the head did not hear that this node leaves");
        }
        self.end();
    }

    /// Ends processes, store and endpoint at once.
    pub(super) fn end(&self) {
        if let Some(launcher) = &self.launcher {
            launcher.kill_all();
        }
        self.store.shutdown();
        self.endpoint.shutdown(FLUSH_WITHIN);
        if let Some(dir) = &self.own_dir
            && let Err(error) = std::fs::remove_dir_all(dir)
        {
            tracing::debug!(%error, dir = %dir.display(), "cannot remove the node's directory");
        }
    }
}

fn launcher(
    endpoint: &Endpoint,
    gcs: Address,
    info: &NodeInfo,
    processes: ProcessPlan,
) -> Result<(Arc<Spawn>, PathBuf), NodeError> {
    let own = processes.dir.join("nodes").join(info.node.to_string());
    let credentials = own.join("credentials");
    std::fs::create_dir_all(&own).map_err(NodeError::system(format!("making {}", own.display())))?;
    processes.credentials.save(&credentials)?;
    let last_words = own.join("last-words");
    std::fs::create_dir_all(&last_words).map_err(NodeError::system(format!("making {}", last_words.display())))?;
    let config = SpawnConfig {
        worker: crate::raylet::server::worker_config(info),
        raylet: info.process,
        gcs,
        credentials,
        store_dir: info.store_dir.clone(),
        host_proof: info.host_proof.clone(),
        binaries: processes.dir.join("binaries"),
        envs: own.join("envs"),
        last_words,
    };
    let spawn = Spawn::start(endpoint, config).map_err(NodeError::system("starting the thread that starts workers"))?;
    Ok((Arc::new(spawn), own))
}
