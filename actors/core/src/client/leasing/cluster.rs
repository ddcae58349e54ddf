//! The model itself: a client, nodes and their workers, the head, and what travels between them.

mod broken;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::super::doubts::Doubts;
use super::super::pending::Attempts;
use super::super::submitter::{Effect, Submitter};
use super::{Gives, Phase};
use crate::ids::{FunctionId, JobId, LeaseId, NodeId};
use crate::messages::{
    ClusterView, ForgetQueue, HeldLeases, LeaseGranted, LeaseRedirected, LeasesKept, NodeInfo, Shape,
    Strategy as Placing, WantLeases, WorkerKind,
};
use crate::raylet::{Effect as RayletEffect, Scheduler, SchedulerConfig};
use crate::resources::{CPU, Resources};

pub(super) const MS: u64 = 1_000;
/// A raylet tells the head of a change after so long.
const REPORT_US: u64 = 50 * MS;
const CLIENT_TICK_US: u64 = 5 * MS;
/// When the client tries to reach a lost raylet again; sooner than in earnest.
const REACH_AGAIN_US: u64 = 500 * MS;
const RAYLET_TICK_US: u64 = 100 * MS;
/// By then all that can run has to run.
const PATIENCE_US: u64 = 20_000 * MS;

fn process(n: u128) -> ProcessAddr {
    ProcessAddr { id: ProcessId(Uuid::from_u128(n)), socket: ProcessAddr::IN_PROCESS }
}

fn raylet(n: usize) -> Address {
    Address { process: process(1 + n as u128), mailbox: MailboxId::RAYLET }
}

fn node_at(raylet: Address) -> usize {
    raylet.process.id.0.as_u128() as usize - 1
}

fn node(n: usize) -> NodeId {
    NodeId(Uuid::from_u128(1 + n as u128))
}

fn node_of(lease: LeaseId) -> usize {
    lease.node.0.as_u128() as usize - 1
}

fn worker(n: usize) -> ProcessAddr {
    process(1_000 + n as u128)
}

/// The node whose connection to the client carries a message.
fn node_between(from: Place, to: Place) -> Option<usize> {
    match (from, to) {
        (Place::Client, Place::Raylet(n) | Place::Worker(n)) | (Place::Raylet(n) | Place::Worker(n), Place::Client) => {
            Some(n)
        }
        _ => None,
    }
}

fn client() -> Address {
    Address { process: process(100), mailbox: MailboxId::CLIENT }
}

fn cpus(amount: f64) -> Resources {
    Resources::new().with(CPU, amount).expect("a positive number")
}

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Client,
    Raylet(usize),
    Worker(usize),
    Head,
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Want(usize, WantLeases),
    Forget(usize, ForgetQueue),
    /// The user cancels a task.
    Cancel(u64),
    CancelTask(Attempt),
    Return(usize, LeaseId),
    Granted(LeaseGranted),
    Redirected(usize, LeaseRedirected),
    ReclaimIdle,
    Push(LeaseId, Vec<Attempt>),
    Reclaim(LeaseId, u32),
    Returned(LeaseId, Vec<u64>),
    Done(Attempt),
    StillHave(usize, Vec<Attempt>),
    Missing(usize, Vec<Attempt>),
    Held(usize, Vec<LeaseId>),
    Kept(usize, LeasesKept),
    /// The connections between the client and a node break; whether the client and whether the
    /// node stop trying before there are new ones.
    Break(usize, Gives),
    /// They have stopped trying.
    Lost(usize, Gives),
    /// The client tries again.
    ReachAgain(usize),
    Connected(usize),
    Report(usize, Resources),
    Resources(usize, usize, Resources),
    ReportDue(usize),
    WorkerReady(usize, u64),
    ClientTick,
    RayletTick(usize),
}

/// A connection that is being made again.
#[derive(Default)]
struct Broken {
    /// What was sent since.
    queued: Vec<(Place, Place, Event)>,
    client_gave_up: bool,
    node_gave_up: bool,
}

/// A task's number and that of a push of it.
type Attempt = (u64, u32);

/// A task that has not ended, as the client sees it.
struct Task {
    function: FunctionId,
    /// Which submitter has it.
    of: usize,
    attempts: Attempts,
    lease: Option<LeaseId>,
    /// It is only waited for until its worker is done with it.
    cancelled: bool,
}

pub(super) struct Cluster {
    pub(super) now_us: u64,
    random: StdRng,
    delay_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    /// Which of them are messages, and between whom.
    messages: BTreeMap<(u64, u64), (Place, Place)>,
    /// The nodes whose connections to the client are broken.
    broken: BTreeMap<usize, Broken>,
    next_event: u64,
    /// When the last message of each pair arrives: they do not overtake each other.
    last_us: BTreeMap<(Place, Place), u64>,
    pub(super) nodes: Vec<Scheduler>,
    pub(super) totals: Vec<Resources>,
    report_due: Vec<bool>,
    reported: Vec<Resources>,
    start_us: u64,
    submitters: Vec<(Shape, Submitter)>,
    /// The number of each submitter's queue; a forgotten one is followed by the next.
    queues: Vec<u64>,
    /// The raylets of forgotten queues.
    forgotten_at: BTreeSet<usize>,
    tasks: BTreeMap<u64, Task>,
    doubts: Doubts,
    /// The worker's queue of each lease; the first task runs.
    workers: BTreeMap<LeaseId, VecDeque<Attempt>>,
    started: BTreeMap<u64, usize>,
    /// Tasks up to here may end.
    ended: u64,
    finished: BTreeSet<u64>,
    cancelled: BTreeSet<u64>,
    next_task: u64,
}

impl Cluster {
    pub(super) fn new(seed: u64, delay_ms: u64, start_ms: u64, cpus_of: &[u32]) -> Self {
        let totals: Vec<Resources> = cpus_of
            .iter()
            .map(|n| match n {
                // It only stores objects.
                0 => Resources::new().with("object_store_memory", 1e6).expect("a positive number"),
                n => cpus(f64::from(*n)),
            })
            .collect();
        let infos: Vec<NodeInfo> = totals.iter().enumerate().map(|(n, total)| info(n, total)).collect();
        let nodes = totals
            .iter()
            .enumerate()
            .map(|(n, total)| {
                let config = SchedulerConfig {
                    node: node(n),
                    name: format!("n{n}"),
                    process: raylet(n).process,
                    total: total.clone(),
                    gpus: Vec::new(),
                    labels: Default::default(),
                    in_process: false,
                };
                let mut scheduler = Scheduler::new(config);
                scheduler.set_view(ClusterView { nodes: infos.clone() }, Duration::ZERO);
                scheduler
            })
            .collect();
        let mut cluster = Self {
            now_us: 0,
            random: StdRng::seed_from_u64(seed),
            delay_us: delay_ms * MS,
            events: BTreeMap::new(),
            messages: BTreeMap::new(),
            broken: BTreeMap::new(),
            next_event: 0,
            last_us: BTreeMap::new(),
            nodes,
            report_due: vec![false; totals.len()],
            reported: totals.clone(),
            start_us: start_ms * MS,
            totals,
            submitters: Vec::new(),
            queues: Vec::new(),
            forgotten_at: BTreeSet::new(),
            tasks: BTreeMap::new(),
            doubts: Doubts::default(),
            workers: BTreeMap::new(),
            started: BTreeMap::new(),
            ended: 0,
            finished: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            next_task: 1,
        };
        cluster.at(CLIENT_TICK_US, Event::ClientTick);
        for n in 0..cpus_of.len() {
            cluster.at(RAYLET_TICK_US, Event::RayletTick(n));
        }
        cluster
    }

    pub(super) fn at(&mut self, after_us: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now_us + after_us, self.next_event), event);
    }

    fn send(&mut self, from: Place, to: Place, event: Event) {
        let between = node_between(from, to);
        if let Some(broken) = between.and_then(|n| self.broken.get_mut(&n)) {
            broken.queued.push((from, to, event));
            return;
        }
        let arrives = self.now_us + self.random.random_range(0..=self.delay_us);
        let last = self.last_us.entry((from, to)).or_default();
        *last = arrives.max(*last);
        let after = *last - self.now_us;
        self.at(after, event);
        self.messages.insert((self.now_us + after, self.next_event), (from, to));
    }

    /// A task runs again.
    fn again(&mut self, seq: u64, charged: bool) {
        let Some(task) = self.tasks.get_mut(&seq) else { return };
        if task.cancelled {
            self.tasks.remove(&seq);
            return;
        }
        if task.lease.take().is_some() && !charged {
            task.attempts.uncharge();
        }
        let (at, function) = (task.of, task.function);
        self.submit(at, |submitter, now_us, out| submitter.enqueue(seq, function, now_us, out));
    }

    /// Whether this attempt waits or runs at a worker, or it or its result is on its way.
    fn lives(&self, attempt: Attempt) -> bool {
        let queued = self.broken.values().flat_map(|broken| &broken.queued).map(|(_, _, event)| event);
        let carries = |event: &Event| match event {
            Event::Push(_, tasks) => tasks.contains(&attempt),
            Event::Done(done) => *done == attempt,
            _ => false,
        };
        self.workers.values().any(|queue| queue.contains(&attempt)) || self.events.values().chain(queued).any(carries)
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.now_us)
    }

    /// Submits tasks and waits until all have started; then they end.
    pub(super) fn run(&mut self, phase: &Phase) -> BTreeMap<usize, usize> {
        let strategy = if phase.spread { Placing::Spread } else { Placing::Default };
        let demand = cpus(f64::from(phase.demand) / 10.0);
        let each: Vec<i64> = self.totals.iter().map(|total| total.fractions(CPU) / demand.fractions(CPU)).collect();
        let room: i64 = each.iter().sum();
        let working = each.iter().filter(|room| **room > 0).count() as i64;
        let least = each.iter().filter(|room| **room > 0).min().copied().unwrap_or(0);
        let tasks = (room * i64::from(phase.fill) / 100).max(1) as u64;
        let shape = Shape {
            job: JobId(Uuid::from_u128(1)),
            demand,
            strategy,
            kind: WorkerKind::Shared,
            retriable: true,
            near: None,
        };
        let at = match self.submitters.iter().position(|(known, _)| *known == shape) {
            Some(at) => at,
            None => {
                self.submitters.push((shape, Submitter::new(raylet(0), false)));
                self.queues.push(1);
                self.submitters.len() - 1
            }
        };
        let fresh = !self.workers.keys().any(|lease| self.submitters[at].1.has_lease(*lease));
        let first = self.next_task;
        for _ in 0..tasks {
            let seq = self.next_task;
            self.next_task += 1;
            let function = FunctionId(if phase.known { 0 } else { first });
            self.tasks
                .insert(seq, Task { function, of: at, attempts: Attempts::default(), lease: None, cancelled: false });
            self.submit(at, |submitter, now_us, out| submitter.enqueue(seq, function, now_us, out));
        }
        let deadline = self.now_us + PATIENCE_US;
        for seq in first..self.next_task {
            if self.random.random_range(0..100) < phase.cancel {
                let after_us = self.random.random_range(0..500 * MS);
                self.at(after_us, Event::Cancel(seq));
            }
        }
        while (first..self.next_task).any(|seq| !self.started.contains_key(&seq) && !self.cancelled.contains(&seq)) {
            self.step();
            let ran = (first..self.next_task).filter(|seq| self.started.contains_key(seq)).count();
            assert!(self.now_us < deadline, "{ran} of {tasks} tasks started: {:?}", self.nodes);
        }
        let mut used = BTreeMap::new();
        for seq in first..self.next_task {
            if let Some(n) = self.started.get(&seq) {
                *used.entry(*n).or_default() += 1;
            }
        }
        // A lease that is still there from before is used first.
        if phase.spread && fresh && !phase.known && phase.cancel == 0 {
            let share = (tasks as i64 / working).min(least);
            for (n, room) in each.iter().enumerate().filter(|(_, room)| **room > 0) {
                let got = used.get(&n).copied().unwrap_or(0) as i64;
                assert!(got >= share, "node {n} with room for {room} got {got}, its share is {share}: {used:?}");
            }
        }
        let until = self.now_us + phase.hold_ms * MS;
        while self.now_us < until {
            self.step();
        }
        self.ended = self.next_task - 1;
        let leases: Vec<LeaseId> = self.workers.keys().copied().collect();
        for lease in leases {
            self.work(lease);
        }
        let deadline = self.now_us + PATIENCE_US;
        while (first..self.next_task).any(|seq| !self.finished.contains(&seq) && !self.cancelled.contains(&seq)) {
            self.step();
            assert!(self.now_us < deadline, "the end of a task was never heard of");
        }
        let until = self.now_us + phase.pause_ms * MS;
        while self.now_us < until {
            self.step();
        }
        if phase.forget {
            self.forget_idle();
        }
        used
    }

    fn cancel(&mut self, seq: u64) {
        let Some(task) = self.tasks.get_mut(&seq) else { return };
        self.cancelled.insert(seq);
        task.cancelled = true;
        let (at, attempt) = (task.of, (seq, task.attempts.number()));
        match task.lease {
            Some(lease) => self.send(Place::Client, Place::Worker(node_of(lease)), Event::CancelTask(attempt)),
            None => {
                self.tasks.remove(&seq);
                self.submit(at, |submitter, _, out| {
                    submitter.remove(seq, out);
                });
            }
        }
    }

    /// Forgets the queues without tasks, leases and wants, as a client with many shapes does.
    fn forget_idle(&mut self) {
        for at in 0..self.submitters.len() {
            let (shape, submitter) = &self.submitters[at];
            let asked: Vec<usize> = submitter.asked().iter().map(|raylet| node_at(*raylet)).collect();
            if !submitter.is_idle() || asked.iter().any(|n| self.broken.contains_key(n)) {
                continue;
            }
            let forget = ForgetQueue { client: client(), shape: shape.clone(), queue: self.queues[at] };
            self.queues[at] += 1;
            self.submitters[at].1 = Submitter::new(raylet(0), false);
            for n in asked {
                self.forgotten_at.insert(n);
                self.send(Place::Client, Place::Raylet(n), Event::Forget(n, forget.clone()));
            }
        }
    }

    pub(super) fn step(&mut self) {
        let (at, event) = self.events.pop_first().expect("the ticks never end");
        let (at_us, _) = at;
        self.messages.remove(&at);
        self.now_us = at_us;
        let now = self.now();
        match event {
            Event::Want(n, want) => self.nodes[n].want(want, now),
            Event::Cancel(seq) => self.cancel(seq),
            Event::CancelTask(attempt) => {
                // One that runs goes on; one that waits does not run, and its end is told.
                let waits = |(_, queue): &(&LeaseId, &VecDeque<Attempt>)| queue.iter().skip(1).any(|a| *a == attempt);
                let lease = self.workers.iter().find(waits).map(|(lease, _)| *lease);
                if let Some(lease) = lease {
                    self.workers.entry(lease).or_default().retain(|other| *other != attempt);
                    self.send(Place::Worker(node_of(lease)), Place::Client, Event::Done(attempt));
                }
            }
            Event::Forget(n, forget) => self.nodes[n].forget_queue(forget),
            Event::Return(n, lease) => self.nodes[n].return_leases(&[lease], now),
            Event::Resources(n, of, available) => self.nodes[n].resources_changed(vec![(node(of), available)], now),
            Event::RayletTick(n) => {
                if self.nodes[n].is_busy() {
                    self.nodes[n].tick(now);
                }
                self.at(RAYLET_TICK_US, Event::RayletTick(n));
            }
            Event::Granted(grant) => {
                let (at, n) = (self.submitter_of(&grant.shape), node_of(grant.lease));
                if self.queues[at] != grant.queue {
                    return self.send(Place::Client, Place::Raylet(n), Event::Return(n, grant.lease));
                }
                let from = raylet(n);
                self.submit(at, |s, now_us, out| s.granted(grant.lease, grant.worker, from, now_us, out));
            }
            Event::Redirected(from, redirected) => {
                let at = self.submitter_of(&redirected.shape);
                if self.queues[at] != redirected.queue {
                    return;
                }
                let LeaseRedirected { to, count, hops, .. } = redirected;
                self.submit(at, |s, _, out| s.redirected(raylet(from), to, count, hops, out));
            }
            Event::ReclaimIdle => {
                for at in 0..self.submitters.len() {
                    self.submit(at, Submitter::give_back_idle);
                }
            }
            Event::Push(lease, tasks) => {
                self.workers.entry(lease).or_default().extend(tasks);
                self.work(lease);
            }
            Event::Reclaim(lease, at_most) => {
                let queue = self.workers.entry(lease).or_default();
                let keep = queue.len().saturating_sub(at_most as usize).max(1).min(queue.len());
                let back: Vec<u64> = queue.split_off(keep).into_iter().map(|(seq, _)| seq).collect();
                self.send(Place::Worker(node_of(lease)), Place::Client, Event::Returned(lease, back));
            }
            Event::Returned(lease, back) => {
                for at in 0..self.submitters.len() {
                    if self.submitters[at].1.has_lease(lease) {
                        let held = back.iter().filter(|seq| self.submitters[at].1.holds(lease, **seq));
                        let held: Vec<u64> = held.copied().collect();
                        let mut back = Vec::new();
                        for seq in held {
                            let Some(task) = self.tasks.get_mut(&seq) else { continue };
                            if task.lease.take().is_some() {
                                task.attempts.uncharge();
                            }
                            back.push((seq, task.function));
                        }
                        self.submit(at, |s, now_us, out| s.reclaimed(lease, &back, now_us, out));
                    }
                }
            }
            Event::Done((seq, attempt)) => {
                let latest = self.tasks.get(&seq).is_some_and(|task| task.attempts.number() == attempt);
                if latest && let Some(task) = self.tasks.remove(&seq) {
                    self.finished.insert(seq);
                    if let Some(lease) = task.lease {
                        self.submit(task.of, |s, now_us, out| s.done(lease, seq, task.function, 10, now_us, out));
                    }
                }
            }
            Event::StillHave(n, asked) => {
                let queues = self.workers.iter().filter(|(lease, _)| node_of(**lease) == n);
                let here: BTreeSet<Attempt> = queues.flat_map(|(_, queue)| queue).copied().collect();
                let missing = asked.into_iter().filter(|attempt| !here.contains(attempt)).collect();
                self.send(Place::Worker(n), Place::Client, Event::Missing(n, missing));
            }
            Event::Missing(n, missing) => {
                for (seq, attempt) in missing {
                    let task = self.tasks.get(&seq).filter(|task| task.attempts.number() == attempt);
                    let Some((at, lease)) = task.and_then(|task| Some((task.of, task.lease?))) else { continue };
                    let mut known = false;
                    self.submit(at, |s, now_us, out| known = s.missing(lease, worker(n).id, seq, now_us, out));
                    if known {
                        assert!(!self.lives((seq, attempt)), "task {seq} is not missing, it is at {lease:?}");
                        self.again(seq, true);
                    }
                }
            }
            Event::Held(n, leases) => self.nodes[n].held_leases(&HeldLeases { client: client(), leases }, now),
            Event::Kept(n, kept) => {
                let leases: BTreeSet<LeaseId> = kept.leases.iter().copied().collect();
                for at in 0..self.submitters.len() {
                    let (shape, queue) = (&self.submitters[at].0, self.queues[at]);
                    let done = kept.done.iter().find(|done| done.shape == *shape && done.queue == queue);
                    let done = done.map_or(0, |done| done.count);
                    let mut found = Vec::new();
                    self.submit(at, |s, now_us, out| {
                        found = s.leases_kept(raylet(n), &leases, done, now_us, out);
                    });
                    let workers: BTreeSet<ProcessId> = found.iter().map(|(worker, _)| worker.id).collect();
                    self.doubt(found);
                    for worker in workers {
                        self.doubts.connected(worker, self.now_us);
                    }
                }
                self.ask_doubtful();
            }
            Event::Break(n, gives) => self.break_connection(n, gives),
            Event::Lost(n, gives) => self.lost(n, gives),
            Event::ReachAgain(n) => {
                if self.broken.contains_key(&n) {
                    self.tell_held(n);
                }
            }
            Event::Connected(n) => self.connected(n),
            Event::ReportDue(n) => {
                self.report_due[n] = false;
                self.reported[n] = self.nodes[n].available().clone();
                self.send(Place::Raylet(n), Place::Head, Event::Report(n, self.reported[n].clone()));
            }
            Event::WorkerReady(n, start) => {
                self.nodes[n].worker_ready(start, worker(n), 1, now);
            }
            Event::Report(of, available) => {
                for n in 0..self.nodes.len() {
                    self.send(Place::Head, Place::Raylet(n), Event::Resources(n, of, available.clone()));
                }
            }
            Event::ClientTick => {
                self.ask_doubtful();
                for at in 0..self.submitters.len() {
                    self.submit(at, |submitter, now_us, out| {
                        submitter.tick(now_us, out);
                    });
                }
                self.at(CLIENT_TICK_US, Event::ClientTick);
            }
        }
        for n in 0..self.nodes.len() {
            self.act(n);
        }
    }

    fn submitter_of(&self, shape: &Shape) -> usize {
        self.submitters.iter().position(|(known, _)| known == shape).expect("only what was asked for is answered")
    }

    fn submit(&mut self, at: usize, event: impl FnOnce(&mut Submitter, u64, &mut Vec<Effect>)) {
        let mut out = Vec::new();
        event(&mut self.submitters[at].1, self.now_us, &mut out);
        self.carry_out(at, out);
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Want { raylet } => {
                    let Some((target, hops)) = self.submitters[at].1.wanted_of(raylet) else { continue };
                    let n = node_at(raylet);
                    let shape = self.submitters[at].0.clone();
                    let want = WantLeases {
                        client: client(),
                        shape,
                        queue: self.queues[at],
                        target,
                        what: String::new(),
                        hops,
                    };
                    self.send(Place::Client, Place::Raylet(n), Event::Want(n, want));
                }
                Effect::Return { lease, .. } => {
                    let n = node_of(lease);
                    self.send(Place::Client, Place::Raylet(n), Event::Return(n, lease));
                }
                Effect::Push { lease, tasks: seqs, .. } => {
                    let mut tasks = Vec::new();
                    for seq in seqs {
                        if !self.submitters[at].1.holds(lease, seq) {
                            continue;
                        }
                        let wanted = self.tasks.get_mut(&seq).filter(|task| !task.cancelled);
                        let Some(task) = wanted else {
                            self.tasks.remove(&seq);
                            self.submit(at, |s, now_us, out| {
                                s.forget(lease, seq, now_us, out);
                            });
                            continue;
                        };
                        task.attempts.push();
                        task.lease = Some(lease);
                        tasks.push((seq, task.attempts.number()));
                    }
                    self.send(Place::Client, Place::Worker(node_of(lease)), Event::Push(lease, tasks));
                }
                Effect::Reclaim { lease, at_most, .. } => {
                    self.send(Place::Client, Place::Worker(node_of(lease)), Event::Reclaim(lease, at_most));
                }
            }
        }
    }

    /// The worker starts the first task of a lease, and ends those that may end.
    fn work(&mut self, lease: LeaseId) {
        let n = node_of(lease);
        while let Some((seq, attempt)) = self.workers.get(&lease).and_then(|queue| queue.front().copied()) {
            self.started.insert(seq, n);
            if seq > self.ended {
                return;
            }
            self.workers.entry(lease).or_default().pop_front();
            self.send(Place::Worker(n), Place::Client, Event::Done((seq, attempt)));
        }
    }

    fn act(&mut self, n: usize) {
        for effect in self.nodes[n].take_effects() {
            match effect {
                RayletEffect::Grant(_, grant) => self.send(Place::Raylet(n), Place::Client, Event::Granted(grant)),
                RayletEffect::Redirect(_, redirected) => {
                    self.send(Place::Raylet(n), Place::Client, Event::Redirected(n, redirected));
                }
                RayletEffect::Kept(_, kept) => self.send(Place::Raylet(n), Place::Client, Event::Kept(n, kept)),
                RayletEffect::ReclaimIdle(_) => self.send(Place::Raylet(n), Place::Client, Event::ReclaimIdle),
                RayletEffect::Pending(..) => {}
                RayletEffect::StartWorker { start, .. } => {
                    let after_us = self.random.random_range(0..=self.start_us);
                    self.at(after_us, Event::WorkerReady(n, start));
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        if *self.nodes[n].available() != self.reported[n] && !self.report_due[n] {
            self.report_due[n] = true;
            self.at(REPORT_US, Event::ReportDue(n));
        }
    }
}

fn info(n: usize, total: &Resources) -> NodeInfo {
    NodeInfo {
        node: node(n),
        name: format!("n{n}"),
        process: raylet(n).process,
        head: n == 0,
        available: total.clone(),
        total: total.clone(),
        labels: Default::default(),
        alive: true,
        death_reason: None,
        store_dir: String::new(),
        host_proof: String::new(),
        pid: 1,
    }
}
