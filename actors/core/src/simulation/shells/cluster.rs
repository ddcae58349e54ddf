//! The cluster: processes on machines, and who hears whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::sim::{SimNetwork, SimOptions};
use mobula_transport::{
    Address, Endpoint, EndpointConfig, Envelope, Mailbox, MailboxId, Message, ProcessAddr, ProcessId,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::driver::Driver;
use super::head::Head;
use super::workers::{Player, Workers};
use crate::messages::{NodeInfo, ReturnLeases};
use crate::node::played::{Plan, Processes};
use crate::node::{NodeParts, NodeTraits};
use crate::raylet::server::{MemoryWatch, RayletEvent};
use crate::resources::{MEMORY, Resources};
use crate::simulation::head::Disk;
use crate::simulation::program::{Action, Code, Program};
use crate::simulation::record::Record;
use crate::simulation::scenario::{Sabotage, Scenario};
use crate::simulation::stage::{Life, Stage};
use crate::simulation::world::{HEAD, HEAD_PROCESS, NODES, process};
use crate::store::StoreConfig;

/// Where the head listens, over its restarts.
pub(super) const HEAD_SOCKET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)), 6380);
const STORE_BYTES: u64 = 64 << 20;
/// How often the events of a node are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A simulated cluster; clones are the same one.
#[derive(Clone)]
pub(super) struct Cluster(Arc<Inner>);

struct Inner {
    /// Tells the clusters of one process apart.
    number: u64,
    network: SimNetwork,
    stage: Stage,
    base: tempfile::TempDir,
    totals: Vec<Resources>,
    sabotage: Option<Sabotage>,
    codes: BTreeMap<u64, Arc<Code>>,
    programs: Vec<Program>,
    disk: Arc<Mutex<Disk>>,
    record: Mutex<Record>,
    random: Mutex<StdRng>,
    state: Mutex<State>,
    workers: Workers,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    nodes: [Option<Node>; NODES],
    drivers: Vec<Driver>,
    /// Where the living processes are.
    machines: BTreeMap<ProcessId, usize>,
    cuts: BTreeMap<u64, Cut>,
    next_cut: u64,
    /// Pairs that are cut off from each other now.
    apart: BTreeSet<(ProcessId, ProcessId)>,
}

/// A running node.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) parts: Arc<NodeParts>,
    pub(super) life: Life,
    pub(super) registered: bool,
}

/// Who does not hear whom.
#[derive(Clone, Debug)]
pub(super) enum Cut {
    Machines(usize, usize),
    Process(ProcessId),
}

impl Cluster {
    /// A head and its nodes.
    pub(super) fn start(number: u64, scenario: &Scenario) -> Self {
        let longest = Duration::from_micros(scenario.delay_us);
        let stage = Stage::new(scenario.seed ^ 0x57a6e);
        let mut codes = BTreeMap::new();
        for (_, action) in scenario.programs.iter().flat_map(|program| &program.actions) {
            if let Action::Task { code, .. } | Action::Call { code, .. } = action {
                codes.extend(code.children.iter().chain([code]).map(|code| (code.id, code.clone())));
            }
        }
        let cluster = Self(Arc::new(Inner {
            number,
            network: SimNetwork::new(scenario.seed, SimOptions { delay: longest / 8..=longest }),
            stage,
            base: tempfile::tempdir_in("/dev/shm").expect("there is shared memory"),
            totals: scenario.totals.clone(),
            sabotage: scenario.sabotage,
            codes,
            programs: scenario.programs.clone(),
            disk: Arc::default(),
            record: Mutex::new(Record::new(scenario)),
            random: Mutex::new(StdRng::seed_from_u64(scenario.seed ^ 0xc1u64)),
            state: Mutex::default(),
            workers: Workers::default(),
        }));
        cluster.start_head();
        for machine in 0..NODES {
            cluster.start_node(machine);
        }
        cluster
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    pub(super) fn network(&self) -> &SimNetwork {
        &self.0.network
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.0.stage
    }

    pub(super) fn disk(&self) -> &Arc<Mutex<Disk>> {
        &self.0.disk
    }

    pub(super) fn record(&self) -> &Mutex<Record> {
        &self.0.record
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.0.workers
    }

    pub(super) fn code(&self, id: u64) -> Option<Arc<Code>> {
        self.0.codes.get(&id).cloned()
    }

    /// What an action of a driver's program runs.
    pub(super) fn code_of(&self, driver: usize, action: usize) -> Option<Arc<Code>> {
        match &self.0.programs[driver].actions[action].1 {
            Action::Task { code, .. } | Action::Call { code, .. } => Some(code.clone()),
            _ => None,
        }
    }

    pub(super) fn drivers_are(&self, drivers: &[Driver]) {
        self.0.state.lock().drivers = drivers.to_vec();
    }

    pub(super) fn kill_driver(&self, index: usize) {
        let driver = self.0.state.lock().drivers.get(index).cloned();
        if let Some(driver) = driver {
            driver.kill(self);
        }
    }

    pub(super) fn random<R>(&self, draw: impl FnOnce(&mut StdRng) -> R) -> R {
        draw(&mut self.0.random.lock())
    }

    pub(super) fn gcs(&self) -> Address {
        let process = ProcessAddr { id: process(HEAD_PROCESS).id, socket: HEAD_SOCKET };
        Address { process, mailbox: MailboxId::GCS }
    }

    // ---- processes ------------------------------------------------------------------------------

    /// A new process on this machine.
    pub(super) fn endpoint(&self, machine: usize) -> Endpoint {
        let endpoint = self.0.network.endpoint(EndpointConfig::default());
        let endpoint = endpoint.expect("the simulated network refuses nobody");
        self.0.state.lock().machines.insert(endpoint.process().id, machine);
        self.cut_and_heal();
        endpoint
    }

    /// A process is no more.
    pub(super) fn forget(&self, process: ProcessId) {
        self.0.state.lock().machines.remove(&process);
    }

    /// A process of a machine vanishes.
    pub(super) fn crash(&self, process: ProcessId, life: &Life) {
        self.forget(process);
        life.end();
        self.0.network.crash(process);
    }

    fn start_head(&self) {
        let head = Head::start(self);
        let mut state = self.0.state.lock();
        state.machines.insert(head.endpoint.process().id, HEAD);
        state.head = Some(head);
        drop(state);
        self.cut_and_heal();
    }

    /// Kills the head; it is started again after a while.
    pub(super) fn kill_head(&self) {
        let Some(head) = self.0.state.lock().head.take() else { return };
        self.forget(head.endpoint.process().id);
        head.crash(self);
        let (cluster, after) = (self.clone(), self.random(|random| random.random_range(100..6_000)));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            cluster.start_head();
        });
    }

    fn start_node(&self, machine: usize) {
        let endpoint = self.endpoint(machine);
        let life = Life::of(endpoint.process().id);
        let player = Arc::new(Player::new(self, machine));
        let mut resources = self.0.totals[machine].clone();
        // What the machine has free is no seed's business.
        resources.set(MEMORY, 1 << 40);
        let base = Some(self.0.base.path().to_owned());
        let plan = Plan {
            endpoint,
            gcs: self.gcs(),
            name: format!("node{machine}"),
            head: false,
            resources,
            store: StoreConfig {
                base: base.clone(),
                spill_dir: base,
                capacity_bytes: Some(STORE_BYTES),
                in_place: true,
                ..StoreConfig::default()
            },
            traits: NodeTraits {
                memory: MemoryWatch { threshold: 1.0, ..MemoryWatch::default() },
                ..NodeTraits::default()
            },
            processes: Some(Processes::Played(player.clone())),
        };
        let parts = self.0.stage.of(life.clone()).on(|| NodeParts::assemble(plan)).expect("a node of the simulation");
        let parts = Arc::new(parts);
        player.belongs_to(parts.info(), self.gcs());
        self.record().lock().node_ids[machine] = parts.info().node;
        if self.0.sabotage == Some(Sabotage::LoseReturns) {
            self.lose_returns(parts.endpoint());
        }
        let node = Node { parts: parts.clone(), life: life.clone(), registered: false };
        self.0.state.lock().nodes[machine] = Some(node);
        let cluster = self.clone();
        tokio::spawn(async move {
            while !life.is_over() {
                match parts.next_event(Duration::ZERO) {
                    Some(RayletEvent::Registered) => cluster.registered(machine),
                    Some(RayletEvent::Refused(_) | RayletEvent::StopAsked(_)) => return cluster.kill_node(machine),
                    None => tokio::time::sleep(LOOK).await,
                }
            }
        });
    }

    fn registered(&self, machine: usize) {
        if let Some(node) = &mut self.0.state.lock().nodes[machine] {
            node.registered = true;
        }
    }

    /// Kills a node with its workers; another one is started there after a while.
    pub(super) fn kill_node(&self, machine: usize) {
        let Some(node) = self.0.state.lock().nodes[machine].take() else { return };
        let process = node.parts.info().process.id;
        self.crash(process, &node.life);
        self.0.workers.end_of_node(self, process);
        let (cluster, after) = (self.clone(), self.random(|random| random.random_range(500..8_000)));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            cluster.start_node(machine);
        });
    }

    /// The node of a machine, if the head has taken it in.
    pub(super) fn node(&self, machine: usize) -> Option<NodeInfo> {
        let state = self.0.state.lock();
        let node = state.nodes[machine].as_ref().filter(|node| node.registered)?;
        Some(node.parts.info().clone())
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
        self.0.state.lock().nodes.iter().flatten().cloned().collect()
    }

    pub(super) fn processes(&self) -> Vec<ProcessId> {
        self.0.state.lock().machines.keys().copied().collect()
    }

    // ---- who hears whom -------------------------------------------------------------------------

    pub(super) fn cut(&self, cut: Cut, for_us: u64) {
        let number = {
            let mut state = self.0.state.lock();
            state.next_cut += 1;
            let number = state.next_cut;
            state.cuts.insert(number, cut);
            number
        };
        self.cut_and_heal();
        let cluster = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(for_us)).await;
            cluster.0.state.lock().cuts.remove(&number);
            cluster.cut_and_heal();
        });
    }

    fn cut_and_heal(&self) {
        let mut state = self.0.state.lock();
        let mut apart = BTreeSet::new();
        for (a, at_a) in &state.machines {
            for (b, at_b) in state.machines.range(..a) {
                let is_cut = |cut: &Cut| match cut {
                    Cut::Machines(one, other) => (at_a, at_b) == (one, other) || (at_a, at_b) == (other, one),
                    Cut::Process(process) => process == a || process == b,
                };
                if state.cuts.values().any(is_cut) {
                    apart.insert((*b, *a));
                }
            }
        }
        let before = std::mem::replace(&mut state.apart, apart.clone());
        drop(state);
        for (a, b) in apart.difference(&before) {
            self.0.network.partition(*a, *b);
        }
        for (a, b) in before.difference(&apart) {
            self.0.network.heal(*a, *b);
        }
    }

    // ---- rules broken on purpose ----------------------------------------------------------------

    fn lose_returns(&self, endpoint: &Endpoint) {
        struct Deaf(Cluster, Arc<dyn Mailbox>);
        impl Mailbox for Deaf {
            fn deliver(&self, envelope: Envelope) {
                if envelope.kind() != ReturnLeases::KIND || !self.0.record().lock().loses_return() {
                    self.1.deliver(envelope);
                }
            }
            fn close(&self) {
                self.1.close();
            }
        }
        if let Some(raylet) = endpoint.detach(MailboxId::RAYLET) {
            endpoint.attach(MailboxId::RAYLET, Arc::new(Deaf(self.clone(), raylet)));
        }
    }
}
