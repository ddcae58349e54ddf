//! The scheduler's state and its events: wants, leases, lending, deaths.
//!
//! Who is served next is in `line`, which node in `redirect`, which worker in `pool`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, ProcessAddr, ProcessId};

use super::actor_wants::ActorWant;
use super::bundles::{Bundle, GONE_GROUPS_KEPT};
use super::gpus::{Gpus, Held};
use super::line::{Ticket, Want};
use super::pool::{Pool, WorkerSlot};
use super::redirect::Remotes;
use crate::culprit::Culprit;
use crate::ids::{ActorId, JobId, LeaseId, NodeId, PlacementGroupId};
use crate::labels::Labels;
use crate::messages::{
    ActorLease, ForgetQueue, GroupGone, HeldLeases, HostedActor, LeaseActorError, LeaseGpus, LeaseGranted, LeaseLost,
    LeasePending, LeaseRedirected, LeasesDone, LeasesKept, PendingDemand, Shape, WantLeases, WorkerInfo, WorkerKind,
};
use crate::recent::Recent;
use crate::resources::{GPU, Resources, group};

/// Task leases that need nothing: a node holds so many of them at once.
pub(super) const MAX_ZERO_DEMAND_LEASES: usize = 256;
/// Needs (one for each client and shape) that a node keeps.
const MAX_WANTS: usize = 100_000;
/// Jobs whose end is remembered, so that late messages of theirs are dropped.
const ENDED_JOBS_KEPT: usize = 1_000;

/// Names a request that waits for its answer; the shell keeps the way back under this number.
pub type Asker = u64;

/// What a node is.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The raylet's process.
    pub process: ProcessAddr,
    /// What it has.
    pub total: Resources,
    /// The ids of its GPUs; numbers where there are none.
    pub gpus: Vec<String>,
    /// Its labels.
    pub labels: Labels,
    /// Whether tasks run in the raylet's own process, once a worker there has registered.
    pub in_process: bool,
}

/// What the shell is to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Tell a client that it has a lease.
    Grant(Address, LeaseGranted),
    /// Send a client to another raylet.
    Redirect(Address, LeaseRedirected),
    /// Tell a client that its lease is over.
    Lost(Address, LeaseLost),
    /// Tell a client what counts, after a broken connection.
    Kept(Address, LeasesKept),
    /// Tell a client why it waits.
    Pending(Address, LeasePending),
    /// Tell a client that the placement group of a shape is no more.
    GroupGone(Address, GroupGone),
    /// Ask a client for leases it has no use for.
    ReclaimIdle(Address),
    /// Answer the GCS's request for an actor's worker.
    ActorLeased(Asker, Result<ActorLease, LeaseActorError>),
    /// That request is not answered any more.
    ForgetAsker(Asker),
    /// Start a worker process; what becomes of it goes to [`Scheduler::worker_ready`] or
    /// [`Scheduler::worker_failed`].
    StartWorker {
        /// The number it registers with.
        start: u64,
        /// Whose binary.
        job: JobId,
        /// Of which kind.
        kind: WorkerKind,
        /// The GPUs that it may use.
        gpus: Vec<String>,
    },
    /// Tell a worker that several leases share which GPUs one of them has.
    LeaseGpus(ProcessAddr, LeaseGpus),
    /// End a worker process, gently or not.
    StopWorker {
        /// The worker.
        worker: ProcessAddr,
        /// Why.
        why: String,
        /// Whether it is killed at once: nobody waits for what runs in it.
        kill: bool,
    },
    /// End a worker process that has not registered yet.
    AbortStart(u64),
}

/// A lease that is out, or whose worker process is starting.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) client: Address,
    pub(super) shape: Arc<Shape>,
    pub(super) actor: Option<(ActorId, u32)>,
    /// None while its process starts.
    pub(super) worker: Option<ProcessAddr>,
    /// Its GPUs.
    pub(super) gpus: Held,
    /// Its task waits in `get`: its CPU is free for others.
    pub(super) lent: bool,
    /// The connection to its client broke: the client may not know that it holds it.
    pub(super) doubtful: bool,
}

impl Lease {
    /// What it holds now.
    pub(super) fn charged(&self) -> Resources {
        let mut charged = self.shape.demand.clone();
        if self.lent {
            charged.subtract(&self.lendable());
        }
        charged
    }

    /// What of it is free for others while its task waits.
    fn lendable(&self) -> Resources {
        let mut cpus = Resources::new();
        for (name, fractions) in self.shape.demand.iter().filter(|(name, _)| group::is_cpu(name)) {
            cpus.set(name, fractions);
        }
        cpus
    }
}

/// The raylet's pure core. Times are durations since an arbitrary start; effects gather until
/// [`Scheduler::take_effects`].
#[derive(Debug)]
pub struct Scheduler {
    pub(super) config: SchedulerConfig,
    pub(super) available: Resources,
    pub(super) gpus: Gpus,
    pub(super) wants: BTreeMap<(Address, Arc<Shape>), Want>,
    pub(super) actor_wants: BTreeMap<(ActorId, u32), ActorWant>,
    pub(super) line: VecDeque<Ticket>,
    /// What the first one in line that was passed over too often needs.
    pub(super) kept_free: Resources,
    pub(super) leases: BTreeMap<u64, Lease>,
    /// The leases of actors.
    pub(super) actor_leases: BTreeMap<(ActorId, u32), u64>,
    pub(super) next_lease: u64,
    /// Leases of tasks that need nothing.
    pub(super) zero_leases: usize,
    pub(super) pool: Pool,
    pub(super) remotes: Remotes,
    /// No new work is taken.
    pub(super) draining: bool,
    pub(super) ended_jobs: VecDeque<JobId>,
    /// What placement groups hold here, by group and index.
    pub(super) bundles: BTreeMap<(PlacementGroupId, u32), Bundle>,
    /// How often bundles were set aside.
    pub(super) bundle_turns: u64,
    /// Placement groups that were removed.
    pub(super) gone_groups: Recent<PlacementGroupId>,
    /// When a client was last asked for idle leases.
    pub(super) reclaimed: BTreeMap<Address, Duration>,
    /// Clients that could not be told what counts.
    pub(super) unkept: BTreeSet<Address>,
    /// Losses of leases that could not be told.
    pub(super) unlost: Vec<(Address, LeaseLost)>,
    /// Ends of placement groups that could not be told.
    pub(super) ungone: Vec<(Address, GroupGone)>,
    pub(super) effects: Vec<Effect>,
}

impl Scheduler {
    /// A node with everything free.
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            available: config.total.clone(),
            gpus: Gpus::new(&config.gpus, config.total.fractions(GPU)),
            pool: Pool::new(config.in_process),
            remotes: Remotes::default(),
            draining: false,
            config,
            wants: BTreeMap::new(),
            actor_wants: BTreeMap::new(),
            line: VecDeque::new(),
            kept_free: Resources::new(),
            leases: BTreeMap::new(),
            actor_leases: BTreeMap::new(),
            next_lease: 0,
            zero_leases: 0,
            ended_jobs: VecDeque::new(),
            bundles: BTreeMap::new(),
            bundle_turns: 0,
            gone_groups: Recent::new(GONE_GROUPS_KEPT),
            reclaimed: BTreeMap::new(),
            unkept: BTreeSet::new(),
            unlost: Vec::new(),
            ungone: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// What is to be done, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What the node has, bundles of placement groups included.
    pub fn total(&self) -> &Resources {
        &self.config.total
    }

    /// What is free; negative where lent resources were taken back.
    pub fn available(&self) -> &Resources {
        &self.available
    }

    /// Takes no new work; what waits is sent to other nodes, what is not used is asked for.
    pub fn drain(&mut self, now: Duration) {
        self.draining = true;
        self.place_all(now);
        let holders: BTreeSet<Address> =
            self.leases.values().filter(|lease| lease.actor.is_none()).map(|lease| lease.client).collect();
        self.effects.extend(holders.into_iter().map(Effect::ReclaimIdle));
    }

    /// Whether no task has a lease; actors do not end by themselves.
    pub fn has_no_tasks(&self) -> bool {
        self.leases.len() == self.actor_leases.len()
    }

    /// Whether someone waits, so that [`Scheduler::tick`] has something to do.
    pub fn is_busy(&self) -> bool {
        !self.line.is_empty() || !self.unkept.is_empty() || !self.unlost.is_empty() || !self.ungone.is_empty()
    }

    /// A client tells how many leases of a shape it wants.
    pub fn want(&mut self, request: WantLeases, now: Duration) {
        let WantLeases { client, shape, queue, target, what, hops } = request;
        if self.ended_jobs.contains(&shape.job) {
            return;
        }
        if let Some(group) = self.gone_group_of(&shape) {
            return self.tell_gone(client, &shape, group);
        }
        let key = (client, Arc::new(shape));
        if !self.wants.contains_key(&key) && self.wants.len() >= MAX_WANTS {
            let shape = Shape::clone(&key.1);
            let why = format!("the node keeps {MAX_WANTS} different needs, which is its limit; use fewer shapes");
            return self
                .effects
                .push(Effect::Pending(client, LeasePending { shape, infeasible: true, hopeless: true, why }));
        }
        let want = self.wants.entry(key.clone()).or_insert_with(|| Want::new(queue, now));
        if queue < want.queue {
            // On its way since before the client forgot that queue.
            return;
        }
        if queue > want.queue {
            // Whoever stands in line goes on doing so; it is counted anew.
            let (in_line, starting) = (want.in_line, want.starting);
            *want = Want { in_line, starting, ..Want::new(queue, now) };
        }
        if want.need() == 0 {
            want.since = now;
            want.told = None;
        }
        want.target = target;
        want.what = what;
        want.hops = hops;
        want.spread_here = want.spread_here.min(want.need());
        if want.need() == 0 {
            return;
        }
        self.place(&key, now);
        // One that stands in line already waits for something that has not changed.
        if let Some(want) = self.wants.get_mut(&key).filter(|want| want.need() > 0 && !want.in_line) {
            want.in_line = true;
            self.serve_newcomer(Ticket::Client(key.0, key.1), now);
        }
    }

    /// A client has forgotten a queue.
    pub fn forget_queue(&mut self, request: ForgetQueue) {
        let key = (request.client, Arc::new(request.shape));
        let unused = |want: &Want| want.queue == request.queue && want.starting == 0;
        if self.wants.get(&key).is_some_and(unused) {
            self.wants.remove(&key);
            let ticket = Ticket::Client(key.0, key.1);
            self.line.retain(|other| *other != ticket);
        }
    }

    /// Leases come back.
    pub fn return_leases(&mut self, leases: &[LeaseId], now: Duration) {
        let node = self.config.node;
        for lease in leases.iter().filter(|lease| lease.node == node) {
            self.release(lease.seq, "its lease was returned");
        }
        self.serve(now);
    }

    /// The connection to a process broke, or none could be made: what it was told lately, or has
    /// told us, may be lost.
    pub fn interrupted(&mut self, process: ProcessId) {
        for lease in self.leases.values_mut().filter(|lease| lease.actor.is_none()) {
            lease.doubtful |= lease.client.process.id == process;
        }
    }

    /// After a broken connection a client says which leases it holds. Those it does not know of
    /// are free again.
    pub fn held_leases(&mut self, request: &HeldLeases, now: Duration) {
        let (client, node) = (request.client, self.config.node);
        let held: BTreeSet<u64> =
            request.leases.iter().filter(|lease| lease.node == node).map(|lease| lease.seq).collect();
        let of_client = |lease: &&mut Lease| lease.client == client && lease.actor.is_none();
        let mut unknown = Vec::new();
        for (seq, lease) in self.leases.iter_mut().filter(|(_, lease)| of_client(lease)) {
            // One whose worker is starting has not been granted.
            if std::mem::take(&mut lease.doubtful) && lease.worker.is_some() && !held.contains(seq) {
                unknown.push(*seq);
            }
        }
        for seq in unknown {
            self.release(seq, "its client does not know of it");
        }
        self.tell_kept(client);
        self.serve(now);
    }

    fn tell_kept(&mut self, client: Address) {
        let granted = |lease: &Lease| lease.client == client && lease.actor.is_none() && lease.worker.is_some();
        let leases = self.leases.iter().filter(|(_, lease)| granted(lease));
        let leases = leases.map(|(seq, _)| self.lease_id(*seq)).collect();
        let wants = self.wants.iter().filter(|((who, _), _)| *who == client);
        let done = wants.map(|((_, shape), want)| LeasesDone {
            shape: Shape::clone(shape),
            queue: want.queue,
            count: want.done,
        });
        let done = done.collect();
        self.effects.push(Effect::Kept(client, LeasesKept { leases, done }));
    }

    /// A client could not be told what counts. By the next tick it may be something else.
    pub fn kept_unsent(&mut self, client: Address) {
        self.unkept.insert(client);
    }

    /// A client could not be told that a lease is lost: it is at the next tick.
    pub fn lost_unsent(&mut self, client: Address, lost: LeaseLost) {
        self.unlost.push((client, lost));
    }

    /// A client could not be told why it waits: it is at the next tick.
    pub fn pending_unsent(&mut self, client: Address, pending: &LeasePending) {
        if let Some(want) = self.wants.get_mut(&(client, Arc::new(pending.shape.clone()))) {
            want.told = None;
        }
    }

    /// A grant could not be sent: it is not counted, and the client waits on.
    pub fn grant_unsent(&mut self, client: Address, granted: &LeaseGranted) {
        self.release(granted.lease.seq, "its client could not be told");
        self.uncount((client, Arc::new(granted.shape.clone())), granted.queue, 1);
    }

    /// A redirect could not be sent.
    pub fn redirect_unsent(&mut self, client: Address, redirected: &LeaseRedirected) {
        self.uncount((client, Arc::new(redirected.shape.clone())), redirected.queue, redirected.count);
    }

    fn uncount(&mut self, key: (Address, Arc<Shape>), queue: u64, count: u64) {
        if let Some(want) = self.wants.get_mut(&key).filter(|want| want.queue == queue) {
            want.done = want.done.saturating_sub(count);
            self.stand_in_line(key);
        }
    }

    /// A task waits in `get`, or goes on.
    pub fn lease_blocked(&mut self, id: LeaseId, blocked: bool, now: Duration) {
        let Some(lease) = self.leases.get_mut(&id.seq).filter(|_| id.node == self.config.node) else { return };
        if lease.lent == blocked {
            return;
        }
        lease.lent = blocked;
        let cpus = lease.lendable();
        if blocked {
            self.available.add(&cpus);
            self.serve(now);
        } else {
            self.available.subtract(&cpus);
        }
    }

    /// A client process is dead: it wants and holds nothing any more.
    pub fn client_died(&mut self, process: ProcessId, now: Duration) {
        self.drop_clients(|client, _| client.process.id == process, "its client died");
        self.serve(now);
    }

    /// A job has ended: its clients want and hold nothing any more, and its worker leaves when no
    /// detached actor lives there.
    pub fn job_finished(&mut self, job: JobId, now: Duration) {
        if self.ended_jobs.contains(&job) {
            return;
        }
        self.ended_jobs.push_back(job);
        if self.ended_jobs.len() > ENDED_JOBS_KEPT {
            self.ended_jobs.pop_front();
        }
        self.drop_clients(|_, shape| shape.job == job, "its job finished");
        if self.pool.shared_start(job).is_some_and(|_| !self.job_has_actor_wants(job))
            && let Some(start) = self.pool.abort_shared_start(job)
        {
            self.effects.push(Effect::AbortStart(start));
        }
        if let Some(worker) = self.pool.shared_worker(job).filter(|worker| self.pool.lease_count(worker.id) == 0) {
            self.retire(worker, "its job finished");
        }
        self.serve(now);
    }

    fn drop_clients(&mut self, dead: impl Fn(&Address, &Shape) -> bool, why: &str) {
        self.wants.retain(|(client, shape), _| !dead(client, shape));
        self.reclaimed.retain(|client, _| self.wants.keys().any(|(waiting, _)| waiting == client));
        let held: Vec<u64> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.actor.is_none() && dead(&lease.client, &lease.shape))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in held {
            self.release(seq, why);
        }
    }

    fn job_has_actor_wants(&self, job: JobId) -> bool {
        self.actor_wants.values().any(|want| want.shape.job == job)
    }

    /// A worker process has registered. False when its start number is not awaited: it is to leave.
    pub fn worker_ready(&mut self, start: u64, worker: ProcessAddr, pid: u32, now: Duration) -> bool {
        let Some(lease) = self.pool.ready(start, worker, pid) else { return false };
        match lease {
            None => {}
            // Its lease was given up while it started.
            Some(seq) if !self.leases.contains_key(&seq) => {
                self.retire(worker, "its lease was given up");
            }
            Some(seq) => self.hand_over(seq, worker),
        }
        self.serve(now);
        true
    }

    /// A worker process did not come up. `for_good` when trying again is of no use.
    pub fn worker_failed(&mut self, start: u64, why: &str, for_good: bool, now: Duration) {
        let Some((job, kind, lease)) = self.pool.failed(start, why, for_good, now) else { return };
        if let Some(lease) = lease.and_then(|seq| self.remove_lease(seq)) {
            match lease.actor {
                Some(actor) => self.fail_actor(actor, why),
                None => self.back_in_line(&lease),
            }
        }
        let actors: Vec<(ActorId, u32)> = self
            .actor_wants
            .iter()
            .filter(|(_, want)| want.shape.job == job && want.shape.kind == kind && !want.starting)
            .map(|(key, _)| *key)
            .collect();
        for actor in actors {
            self.fail_actor(actor, why);
        }
        self.serve(now);
        self.tell_pending(now, true);
    }

    fn fail_actor(&mut self, actor: (ActorId, u32), why: &str) {
        if let Some(want) = self.actor_wants.remove(&actor) {
            let error = LeaseActorError::WorkerFailed(why.to_owned());
            self.effects.push(Effect::ActorLeased(want.asker, Err(error)));
        }
    }

    fn back_in_line(&mut self, lease: &Lease) {
        let key = (lease.client, lease.shape.clone());
        if let Some(want) = self.wants.get_mut(&key) {
            want.starting = want.starting.saturating_sub(1);
            self.stand_in_line(key);
        }
    }

    fn stand_in_line(&mut self, key: (Address, Arc<Shape>)) {
        if let Some(want) = self.wants.get_mut(&key).filter(|want| want.need() > 0 && !want.in_line) {
            want.in_line = true;
            self.line.push_back(Ticket::Client(key.0, key.1));
        }
    }

    /// A worker process has ended: its leases are lost. False when it was not known.
    pub fn worker_died(&mut self, process: ProcessId, why: &str, culprit: Culprit, now: Duration) -> bool {
        let Some(WorkerSlot { worker, leases, .. }) = self.pool.died(process) else { return false };
        for seq in leases {
            if let Some(lease) = self.remove_lease(seq) {
                let lost = LeaseLost { lease: self.lease_id(seq), worker, why: why.to_owned(), culprit };
                self.effects.push(Effect::Lost(lease.client, lost));
            }
        }
        // What it wanted and held itself, for the tasks it had submitted.
        self.client_died(process, now);
        true
    }

    /// Time has passed: gives up on actors that waited too long for room, looks elsewhere for what
    /// waited in vain, tells who waits why, and asks for idle leases. What could not be told before
    /// is told again.
    pub fn tick(&mut self, now: Duration) {
        for client in std::mem::take(&mut self.unkept) {
            self.tell_kept(client);
        }
        let unlost = std::mem::take(&mut self.unlost);
        self.effects.extend(unlost.into_iter().map(|(client, lost)| Effect::Lost(client, lost)));
        let ungone = std::mem::take(&mut self.ungone);
        self.effects.extend(ungone.into_iter().map(|(client, gone)| Effect::GroupGone(client, gone)));
        self.expire_actor_wants(now);
        self.serve(now);
        self.place_rested(now);
        self.tell_pending(now, false);
        self.ask_for_idle(now);
    }

    /// What waits here, by shape, with reasons.
    pub fn pending(&self, now: Duration) -> Vec<PendingDemand> {
        let mut by_shape: BTreeMap<&Shape, PendingDemand> = BTreeMap::new();
        for ((_, shape), want) in self.wants.iter().filter(|(_, want)| want.need() > 0) {
            let line = by_shape.entry(shape).or_insert_with(|| {
                let (infeasible, reason) = self.why_waiting(shape, &shape.demand, now).into_words();
                let what = match group::group_of(&shape.demand) {
                    Some(group) => format!("{} in placement group {group}", want.what),
                    None => want.what.clone(),
                };
                PendingDemand {
                    demand: group::as_asked(&shape.demand),
                    count: 0,
                    what,
                    reason,
                    infeasible,
                    node: self.config.name.clone(),
                }
            });
            line.count += want.need();
        }
        by_shape.into_values().collect()
    }

    /// The actors that hold a lease and have a worker.
    pub fn hosted_actors(&self) -> Vec<HostedActor> {
        self.leases
            .iter()
            .filter_map(|(seq, lease)| {
                let (actor, incarnation) = lease.actor?;
                Some(HostedActor { actor, incarnation, lease: self.lease_id(*seq), worker: lease.worker? })
            })
            .collect()
    }

    /// The jobs that want or hold something here.
    pub fn jobs(&self) -> BTreeSet<JobId> {
        let wanted = self.wants.keys().map(|(_, shape)| shape.job);
        wanted.chain(self.leases.values().map(|lease| lease.shape.job)).collect()
    }

    /// Whether this process wants or holds something here.
    pub fn is_client(&self, process: ProcessId) -> bool {
        let holds = |lease: &Lease| lease.actor.is_none() && lease.client.process.id == process;
        self.wants.keys().any(|(client, _)| client.process.id == process) || self.leases.values().any(holds)
    }

    /// The worker processes and their operating system ids.
    pub fn processes(&self) -> Vec<(ProcessAddr, u32)> {
        self.pool.workers().map(|slot| (slot.worker, slot.pid)).collect()
    }

    /// The workers, for people.
    pub fn list_workers(&self) -> Vec<WorkerInfo> {
        let mut workers = self.pool.describe(&self.config.name);
        for (worker, slot) in workers.iter_mut().zip(self.pool.workers()) {
            let leases = slot.leases.iter().filter_map(|seq| self.leases.get(seq));
            let gpus: BTreeSet<String> = leases.flat_map(|lease| lease.gpus.ids()).collect();
            worker.gpus = gpus.into_iter().collect();
        }
        workers
    }

    pub(super) fn lease_id(&self, seq: u64) -> LeaseId {
        LeaseId { node: self.config.node, seq }
    }

    pub(super) fn count_zero(&mut self, lease: &Lease, change: isize) {
        if lease.actor.is_none() && lease.shape.demand.is_empty() {
            self.zero_leases = self.zero_leases.saturating_add_signed(change);
        }
    }

    /// Forgets a lease and frees what it held.
    fn remove_lease(&mut self, seq: u64) -> Option<Lease> {
        let lease = self.leases.remove(&seq)?;
        self.available.add(&lease.charged());
        self.give_back_gpus(&lease.gpus);
        self.count_zero(&lease, -1);
        if let Some(actor) = lease.actor {
            self.actor_leases.remove(&actor);
        }
        Some(lease)
    }

    /// Takes a lease back from whoever had it.
    pub(super) fn release(&mut self, seq: u64, why: &str) {
        let Some(lease) = self.remove_lease(seq) else { return };
        let Some(worker) = lease.worker else {
            // Its process is still starting.
            if let Some(start) = self.pool.abort_process_start(seq) {
                self.effects.push(Effect::AbortStart(start));
            }
            return;
        };
        self.pool.detach(worker.id, seq);
        self.tell_gpus(seq, worker, &Held::default(), &lease.gpus);
        let own_process = lease.shape.kind == WorkerKind::Process;
        let unused = self.pool.lease_count(worker.id) == 0;
        if unused && (own_process || self.ended_jobs.contains(&lease.shape.job)) {
            self.retire(worker, why);
        }
    }

    fn retire(&mut self, worker: ProcessAddr, why: &str) {
        if let Some(kill) = self.pool.stop(worker.id) {
            self.effects.push(Effect::StopWorker { worker, why: why.to_owned(), kill });
        }
    }
}
