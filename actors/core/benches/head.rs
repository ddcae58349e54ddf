//! A head with many nodes: `cargo bench -p mobula-core --bench head`.
//!
//! The GCS's core by itself, with 2,000 nodes that are simulated: they register, report every second
//! as real ones do, and grant what they are asked for. Prints how long the head has to work for it,
//! beside the time that it has.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mobula_core::gcs::{Effect, Gcs, GcsConfig};
use mobula_core::ids::{ActorId, FunctionId, JobId, LeaseId, NodeId};
use mobula_core::messages::{
    ActorLease, ActorSpec, CallRules, Heartbeat, NodeInfo, RegisterNode, Strategy, WorkerKind,
};
use mobula_core::resources::{CPU, Resources};
use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};
use smallvec::smallvec;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NODES: usize = 2_000;
const CPUS: u32 = 64;
const ACTORS: usize = 20_000;
const ROUNDS: u32 = 30;

fn main() {
    let mut head = Head::new();
    let begun = Instant::now();
    let nodes: Vec<NodeInfo> = (0..NODES).map(node).collect();
    for node in &nodes {
        head.register(node.clone());
    }
    println!("{NODES} nodes of {CPUS} CPUs registered: {:.2} s", begun.elapsed().as_secs_f64());

    let begun = Instant::now();
    for round in 1..=ROUNDS {
        head.now += Duration::from_secs(1);
        for node in &nodes {
            head.beat(node, round);
        }
        head.core.tick(head.now);
        head.carry_out();
    }
    let each = begun.elapsed().as_secs_f64() / f64::from(ROUNDS);
    println!("a second of their reports, each with other resources: {:.1} ms of work", each * 1e3);

    let begun = Instant::now();
    for _ in 0..ACTORS {
        head.create_actor();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let alive = head.core.list_actors().iter().filter(|actor| actor.state == "ALIVE").count();
    assert_eq!(alive, ACTORS, "every actor lives");
    println!("{ACTORS} actors placed on them and made: {seconds:.2} s, {:.0} per second", ACTORS as f64 / seconds);

    let begun = Instant::now();
    for node in &nodes[..NODES / 2] {
        head.core.node_died(node.node, "its rack lost power", head.now);
        head.carry_out();
    }
    let living = head.core.view().nodes.iter().filter(|node| node.alive).count();
    assert_eq!(living, NODES / 2);
    println!("half of the nodes die, with their actors: {:.2} s", begun.elapsed().as_secs_f64());
}

/// The core, and nodes that do as they are told.
struct Head {
    core: Gcs,
    now: Duration,
    next: u64,
}

impl Head {
    fn new() -> Self {
        let config = GcsConfig::new("bench", ProcessId::random());
        Self { core: Gcs::new(config), now: Duration::ZERO, next: 0 }
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn register(&mut self, info: NodeInfo) {
        let request = RegisterNode { info, actors: Vec::new(), processes: Vec::new(), bundles: Vec::new() };
        self.core.register_node(request, self.now).expect("there is room for it");
        self.carry_out();
    }

    fn beat(&mut self, node: &NodeInfo, round: u32) {
        let beat = Heartbeat {
            node: node.node,
            available: cpus(CPUS - round % 2),
            pending: Vec::new(),
            store_used_bytes: 0,
            workers: 1,
            view_version: u64::MAX,
            bundles: Vec::new(),
        };
        self.core.heartbeat(beat, self.now);
        self.carry_out();
    }

    fn create_actor(&mut self) {
        let asker = self.next();
        let spec = ActorSpec {
            actor: ActorId::random(),
            job: JobId::random(),
            owner: Address { process: somewhere(), mailbox: MailboxId::CLIENT },
            class: "Small".to_owned(),
            constructor: FunctionId(1),
            args: smallvec![],
            name: None,
            namespace: "bench".to_owned(),
            demand: cpus(1),
            placement_demand: cpus(1),
            strategy: Strategy::Default,
            kind: WorkerKind::Shared,
            max_concurrency: 1,
            concurrency_groups: Vec::new(),
            max_restarts: 0,
            detached: false,
            rules: CallRules::default(),
        };
        self.core.create_actor(spec, Vec::new(), self.now, asker);
        self.carry_out();
    }

    /// Raylets grant what they are asked for, workers make what they are told to.
    fn carry_out(&mut self) {
        let mut effects: VecDeque<Effect> = self.core.take_effects().into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::LeaseActor { node, request, .. } => {
                    let lease = ActorLease { lease: LeaseId { node, seq: self.next() }, worker: somewhere() };
                    self.core.actor_leased(request.actor, request.incarnation, node, Ok(Ok(lease)), self.now);
                }
                Effect::StartActor { spec, incarnation, .. } => {
                    self.core.actor_started(spec.actor, incarnation, Ok(Ok(())), self.now);
                }
                _ => {}
            }
            effects.extend(self.core.take_effects());
        }
    }
}

fn somewhere() -> ProcessAddr {
    ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS }
}

fn cpus(amount: u32) -> Resources {
    Resources::new().with(CPU, f64::from(amount)).expect("it is an amount")
}

fn node(number: usize) -> NodeInfo {
    NodeInfo {
        node: NodeId::random(),
        name: format!("node-{number}"),
        process: somewhere(),
        head: false,
        total: cpus(CPUS),
        available: cpus(CPUS),
        labels: Default::default(),
        alive: true,
        death_reason: None,
        store_dir: String::new(),
        host_proof: String::new(),
        pid: 1,
    }
}
