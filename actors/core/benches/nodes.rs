//! A cluster of 2,000 nodes: `cargo bench -p mobula-core --bench nodes`.
//!
//! The nodes are simulated: the GCS's core and 2,000 schedulers, which are the real ones, hand each
//! other their messages at once, without network, processes or disk. So what is measured is the work
//! of deciding, and that it is enough for so many nodes. Prints how long it takes, beside the time
//! that there is. As a test it does less of everything.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use mobula_core::gcs::{self, Gcs, GcsConfig};
use mobula_core::ids::{ActorId, FunctionId, JobId, LeaseId, NodeId};
use mobula_core::messages::{
    ActorSpec, CallRules, ClusterEvent, Heartbeat, NodeInfo, RegisterNode, Shape, Strategy, WantLeases, WorkerKind,
};
use mobula_core::raylet::{self, Scheduler, SchedulerConfig};
use mobula_core::resources::{CPU, Resources};
use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};
use smallvec::smallvec;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CPUS: u32 = 64;

/// How much is done.
struct Work {
    nodes: usize,
    seconds: u32,
    tasks: u64,
    actors: usize,
}

fn main() {
    let work = if std::env::args().any(|arg| arg == "--bench") {
        Work { nodes: 2_000, seconds: 30, tasks: 100_000, actors: 20_000 }
    } else {
        Work { nodes: 300, seconds: 1, tasks: 2_000, actors: 1_000 }
    };
    let mut cluster = Cluster::new();
    let begun = Instant::now();
    (0..work.nodes).for_each(|number| cluster.join(number));
    let (all, head) = (begun.elapsed(), cluster.head);
    println!(
        "{} nodes of {CPUS} CPUs joined: {:.2} s of work for the head, {:.1} ms for each node, which hears of all others",
        work.nodes,
        head.as_secs_f64(),
        (all - head).as_secs_f64() * 1e3 / work.nodes as f64,
    );

    (cluster.head, cluster.told) = (Duration::ZERO, 0);
    let begun = Instant::now();
    for second in 1..=work.seconds {
        cluster.beats(|_| cpus(CPUS - second % 2));
    }
    let (all, head) = (begun.elapsed() / work.seconds, cluster.head / work.seconds);
    println!(
        "a second of their reports, all of them changed: {:.1} ms of work for the head, {:.0} us for each node, which \
         hears of {} others",
        head.as_secs_f64() * 1e3,
        (all - head).as_secs_f64() * 1e6 / work.nodes as f64,
        cluster.told / u64::from(work.seconds),
    );
    // Everybody hears what is really free.
    (0..if work.seconds > 1 { 10 } else { 1 }).for_each(|_| cluster.beats(|node| node.available().clone()));

    let begun = Instant::now();
    let rounds = cluster.run_tasks(work.tasks);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} tasks of one driver found a node and ended: {seconds:.2} s, {:.0} per second, in {rounds} rounds of messages",
        work.tasks,
        work.tasks as f64 / seconds
    );

    let begun = Instant::now();
    for _ in 0..work.actors {
        cluster.create_actor();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let alive = cluster.gcs.list_actors().iter().filter(|actor| actor.state == "ALIVE").count();
    assert_eq!(alive, work.actors, "every actor lives");
    println!(
        "{} actors placed on them and made: {seconds:.2} s, {:.0} per second",
        work.actors,
        work.actors as f64 / seconds
    );

    cluster.head = Duration::ZERO;
    let begun = Instant::now();
    let dying: Vec<NodeId> = cluster.nodes.keys().copied().take(work.nodes / 2).collect();
    for node in dying {
        cluster.nodes.remove(&node);
        let begun = Instant::now();
        cluster.gcs.node_died(node, "its rack lost power", cluster.now);
        cluster.head += begun.elapsed();
        cluster.act();
    }
    let living = cluster.gcs.view().nodes.iter().filter(|node| node.alive).count();
    assert_eq!(living, work.nodes / 2);
    let (all, head) = (begun.elapsed(), cluster.head);
    println!(
        "half of the nodes die, with their actors: {:.2} s of work for the head, {:.1} ms for each node that is left",
        head.as_secs_f64(),
        (all - head).as_secs_f64() * 1e3 / living as f64,
    );
}

struct Cluster {
    gcs: Gcs,
    nodes: BTreeMap<NodeId, (NodeInfo, Scheduler)>,
    /// Who answers at an address.
    raylets: BTreeMap<ProcessId, NodeId>,
    now: Duration,
    next: u64,
    /// Time that the head has worked, and of how many nodes it has told each of the others.
    head: Duration,
    told: u64,
    driver: Driver,
}

/// Wants leases, and gives them back as soon as it has them.
struct Driver {
    address: Address,
    shape: Shape,
    wanted: BTreeMap<NodeId, u64>,
    asks: VecDeque<(NodeId, u8)>,
    granted: Vec<LeaseId>,
}

impl Cluster {
    fn new() -> Self {
        let shape = Shape {
            job: JobId::random(),
            demand: cpus(1),
            strategy: Strategy::Default,
            kind: WorkerKind::Shared,
            retriable: true,
            near: None,
        };
        let address = Address { process: somewhere(), mailbox: MailboxId::CLIENT };
        let driver = Driver { address, shape, wanted: BTreeMap::new(), asks: VecDeque::new(), granted: Vec::new() };
        Self {
            gcs: Gcs::new(GcsConfig::new("bench", ProcessId::random())),
            nodes: BTreeMap::new(),
            raylets: BTreeMap::new(),
            now: Duration::ZERO,
            next: 0,
            head: Duration::ZERO,
            told: 0,
            driver,
        }
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn join(&mut self, number: usize) {
        let (node, process) = (NodeId::random(), somewhere());
        let config = SchedulerConfig {
            node,
            name: format!("node-{number}"),
            process,
            total: cpus(CPUS),
            gpus: Vec::new(),
            labels: Default::default(),
            in_process: false,
        };
        let info = NodeInfo {
            node,
            name: config.name.clone(),
            process,
            head: false,
            total: cpus(CPUS),
            available: cpus(CPUS),
            labels: Default::default(),
            alive: true,
            death_reason: None,
            store_dir: String::new(),
            host_proof: String::new(),
            pid: 1,
        };
        let request =
            RegisterNode { info: info.clone(), actors: Vec::new(), processes: Vec::new(), bundles: Vec::new() };
        let begun = Instant::now();
        self.gcs.register_node(request, self.now).expect("there is room for it");
        self.head += begun.elapsed();
        let mut scheduler = Scheduler::new(config);
        scheduler.set_view(self.gcs.view(), self.now);
        self.nodes.insert(node, (info, scheduler));
        self.raylets.insert(process.id, node);
        self.act();
    }

    /// A second passes, in which all nodes report.
    fn beats(&mut self, free: impl Fn(&Scheduler) -> Resources) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let share = Duration::from_secs(1) / ids.len() as u32;
        for node in ids {
            self.now += share;
            let beat = Heartbeat {
                node,
                available: free(&self.nodes[&node].1),
                pending: Vec::new(),
                store_used_bytes: 0,
                workers: 1,
                bundles: Vec::new(),
            };
            let begun = Instant::now();
            self.gcs.heartbeat(beat, self.now);
            self.head += begun.elapsed();
            self.act();
        }
        let begun = Instant::now();
        self.gcs.tick(self.now);
        self.head += begun.elapsed();
        self.act();
    }

    /// What the head wants to be done.
    fn act(&mut self) {
        let mut effects: VecDeque<gcs::Effect> = self.gcs.take_effects().into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                gcs::Effect::LeaseActor { node, request, .. } => {
                    let (client, asker) = (self.driver.address, self.next());
                    let Some((_, scheduler)) = self.nodes.get_mut(&node) else { continue };
                    let (actor, incarnation) = (request.actor, request.incarnation);
                    scheduler.lease_actor(client, request, self.now, asker);
                    let leased = settle(scheduler, self.now).into_iter().find_map(|effect| match effect {
                        raylet::Effect::ActorLeased(_, answer) => Some(answer),
                        _ => None,
                    });
                    self.gcs.actor_leased(actor, incarnation, node, Ok(leased.expect("it answers")), self.now);
                }
                gcs::Effect::StartActor { spec, incarnation, .. } => {
                    self.gcs.actor_started(spec.actor, incarnation, Ok(Ok(())), self.now);
                }
                gcs::Effect::Publish(event) => self.publish(&event),
                _ => {}
            }
            effects.extend(self.gcs.take_effects());
        }
    }

    fn publish(&mut self, event: &ClusterEvent) {
        if let ClusterEvent::Resources(changes) = event {
            self.told += changes.len() as u64;
        }
        for (_, scheduler) in self.nodes.values_mut() {
            match event.clone() {
                ClusterEvent::NodeJoined(info) => scheduler.node_joined(info, self.now),
                ClusterEvent::NodeDied { node, .. } => scheduler.node_died(node.node, self.now),
                ClusterEvent::Resources(changes) => scheduler.resources_changed(changes, self.now),
                _ => {}
            }
        }
    }

    /// Wants so many leases of one raylet, goes where it is sent, and gives back what it gets.
    fn run_tasks(&mut self, tasks: u64) -> u32 {
        let first = *self.nodes.keys().next().expect("there are nodes");
        self.driver.wanted.insert(first, tasks);
        self.driver.asks.push_back((first, 0));
        let (mut done, mut rounds) = (0, 0);
        while done < tasks {
            rounds += 1;
            // The time that messages take.
            self.now += Duration::from_millis(10);
            for (node, hops) in std::mem::take(&mut self.driver.asks) {
                let want = WantLeases {
                    client: self.driver.address,
                    shape: self.driver.shape.clone(),
                    queue: 1,
                    target: self.driver.wanted[&node],
                    what: "task".to_owned(),
                    hops,
                };
                self.raylet(node, |scheduler, now| scheduler.want(want, now));
            }
            let mut granted: BTreeMap<NodeId, Vec<LeaseId>> = BTreeMap::new();
            for lease in std::mem::take(&mut self.driver.granted) {
                done += 1;
                granted.entry(lease.node).or_default().push(lease);
            }
            for (node, leases) in granted {
                self.raylet(node, |scheduler, now| scheduler.return_leases(&leases, now));
            }
            if rounds % 10 == 0 {
                let busy: Vec<NodeId> =
                    self.nodes.iter().filter(|(_, (_, node))| node.is_busy()).map(|(id, _)| *id).collect();
                busy.into_iter().for_each(|node| self.raylet(node, |scheduler, now| scheduler.tick(now)));
            }
        }
        rounds
    }

    fn raylet(&mut self, node: NodeId, what: impl FnOnce(&mut Scheduler, Duration)) {
        let Some((_, scheduler)) = self.nodes.get_mut(&node) else { return };
        what(scheduler, self.now);
        for effect in settle(scheduler, self.now) {
            match effect {
                raylet::Effect::Grant(_, granted) => self.driver.granted.push(granted.lease),
                raylet::Effect::Redirect(_, redirected) => {
                    let to = self.raylets[&redirected.to.process.id];
                    *self.driver.wanted.entry(to).or_default() += redirected.count;
                    self.driver.asks.push_back((to, redirected.hops));
                }
                _ => {}
            }
        }
    }

    fn create_actor(&mut self) {
        let asker = self.next();
        let spec = ActorSpec {
            actor: ActorId::random(),
            job: self.driver.shape.job,
            owner: self.driver.address,
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
        self.gcs.create_actor(spec, Vec::new(), self.now, asker);
        self.act();
    }
}

/// What a raylet wants to be done; its workers start at once.
fn settle(scheduler: &mut Scheduler, now: Duration) -> Vec<raylet::Effect> {
    let mut settled = Vec::new();
    loop {
        let effects = scheduler.take_effects();
        if effects.is_empty() {
            return settled;
        }
        for effect in effects {
            match effect {
                raylet::Effect::StartWorker { start, .. } => {
                    scheduler.worker_ready(start, somewhere(), 1, now);
                }
                other => settled.push(other),
            }
        }
    }
}

fn somewhere() -> ProcessAddr {
    ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS }
}

fn cpus(amount: u32) -> Resources {
    Resources::new().with(CPU, f64::from(amount)).expect("it is an amount")
}
