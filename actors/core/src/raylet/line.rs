//! Who is served next.
//!
//! Clients, shapes and actors stand in one line. A pass gives each at most one lease, and whoever
//! got one goes to the end, so that a client with a million tasks does not keep another waiting.
//! Who does not fit is passed over, but not for ever: after [`MAX_PASSED_OVER`] others were served
//! the first such ticket has what it needs kept free for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, ProcessAddr};

use super::pool::Supply;
use super::scheduler::{Effect, Lease, MAX_ZERO_DEMAND_LEASES, Scheduler};
use crate::ids::ActorId;
use crate::messages::{ActorLease, LeaseGranted, LeasePending, Shape, WorkerKind};
use crate::resources::{FRACTIONS_PER_UNIT, Resources};

/// Others that may be served before one that waits for more room than they needed.
const MAX_PASSED_OVER: u32 = 32;
/// Who waits so long is told why.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// A client is asked for idle leases at most this often.
const RECLAIM_EVERY: Duration = Duration::from_millis(50);
/// Processes of one lease each that may be starting at once.
const MAX_STARTING_PROCESSES: usize = 64;

/// A place in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    Client(Address, Arc<Shape>),
    Actor(ActorId, u32),
}

/// A client's need of one shape. Kept until the client forgets it, since its target is a running
/// total.
#[derive(Clone, Debug)]
pub(super) struct Want {
    /// The client's number for its queue; what is counted is counted for that one.
    pub(super) queue: u64,
    pub(super) target: u64,
    /// Granted and redirected so far.
    pub(super) done: u64,
    /// Leases whose process is starting.
    pub(super) starting: u64,
    pub(super) what: String,
    pub(super) hops: u8,
    /// Of a need that is spread: how many of the missing ones are this node's share.
    pub(super) spread_here: u64,
    pub(super) in_line: bool,
    pub(super) since: Duration,
    pub(super) passed_over: u32,
    /// What the client was last told.
    pub(super) told: Option<Waiting>,
}

impl Want {
    pub(super) fn new(queue: u64, now: Duration) -> Self {
        Self {
            queue,
            target: 0,
            done: 0,
            starting: 0,
            what: String::new(),
            hops: 0,
            spread_here: 0,
            in_line: false,
            since: now,
            passed_over: 0,
            told: None,
        }
    }

    /// How many are missing.
    pub(super) fn need(&self) -> u64 {
        self.target.saturating_sub(self.done).saturating_sub(self.starting)
    }
}

/// Why a ticket is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Too little of this resource is free.
    Busy(String, i64, i64),
    /// Enough of GPUs is free, but not of single ones.
    Scattered,
    /// Too many leases that need nothing are out.
    TooMany,
    /// Its worker is starting.
    WorkerStarts,
    /// Its worker failed to start.
    WorkerFailed(String, bool),
    /// No node of the cluster can ever run it.
    Infeasible(String),
}

impl Waiting {
    /// Whether it can never run, and the reason in words.
    pub(super) fn into_words(self) -> (bool, String) {
        let units = |fractions: i64| fractions as f64 / FRACTIONS_PER_UNIT as f64;
        match self {
            Self::Busy(name, needed, free) => {
                (false, format!("{name} {} is needed, {} is free", units(needed), units(free.max(0))))
            }
            Self::Scattered => (
                false,
                "enough of its GPUs is free together, but in parts of several: it waits for whole ones".to_owned(),
            ),
            Self::TooMany => {
                (false, format!("{MAX_ZERO_DEMAND_LEASES} leases without resources are out, the limit of a node"))
            }
            Self::WorkerStarts => (false, "its worker process is starting".to_owned()),
            Self::WorkerFailed(why, for_good) => (for_good, format!("its worker process did not start: {why}")),
            Self::Infeasible(why) => (true, why),
        }
    }

    /// Whether it says the same to a person, numbers aside.
    fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Busy(name, needed, _), Self::Busy(other, also, _)) => name == other && needed == also,
            _ => self == other,
        }
    }
}

/// Who waits for room (nobody in particular for an actor), and what it needs.
type Waiter<'a> = (Option<(Address, &'a Arc<Shape>)>, &'a Resources);

enum Served {
    /// It got one and wants more.
    More,
    /// It needs no more, or is no more.
    Done,
    /// It has to wait for room.
    NoRoom,
    /// It has to wait for something else.
    Waits,
}

impl Scheduler {
    /// Serves a ticket that has just come, or puts it at the end of the line. Nothing has become
    /// free, so those in line still wait for what they waited for.
    pub(super) fn serve_newcomer(&mut self, ticket: Ticket, now: Duration) {
        let kept_free = self.kept_free.clone();
        let mut grants = 0;
        loop {
            match self.serve_one(&ticket, &kept_free, now) {
                Served::More => grants += 1,
                Served::Done => {
                    grants += 1;
                    break;
                }
                Served::NoRoom | Served::Waits => {
                    self.line.push_back(ticket);
                    break;
                }
            }
        }
        if let Some(first) = self.line.front().cloned() {
            self.pass_over(&first, grants);
        }
    }

    /// Serves the line until nobody in it can be served.
    pub(super) fn serve(&mut self, now: Duration) {
        loop {
            let mut served = Vec::new();
            let mut grants = 0_u32;
            let mut passed: Vec<(Ticket, u32)> = Vec::new();
            let mut kept_free = Resources::new();
            for _ in 0..self.line.len() {
                let Some(ticket) = self.line.pop_front() else { break };
                match self.serve_one(&ticket, &kept_free, now) {
                    Served::More => {
                        grants += 1;
                        served.push(ticket);
                    }
                    Served::Done => grants += 1,
                    Served::NoRoom => {
                        if kept_free.is_empty()
                            && let Some(need) = self.overdue(&ticket)
                        {
                            kept_free = need;
                        }
                        passed.push((ticket.clone(), grants));
                        self.line.push_back(ticket);
                    }
                    Served::Waits => self.line.push_back(ticket),
                }
            }
            for (ticket, before) in passed {
                self.pass_over(&ticket, grants - before);
            }
            self.line.extend(served);
            self.kept_free = kept_free;
            if grants == 0 {
                return;
            }
        }
    }

    /// What a ticket needs, if it was passed over too often and could run here.
    fn overdue(&self, ticket: &Ticket) -> Option<Resources> {
        let (passed_over, need) = match ticket {
            Ticket::Client(client, shape) => {
                let want = self.wants.get(&(*client, shape.clone()))?;
                (want.passed_over, &shape.demand)
            }
            Ticket::Actor(actor, incarnation) => {
                let want = self.actor_wants.get(&(*actor, *incarnation))?;
                (want.passed_over, &want.need)
            }
        };
        (passed_over >= MAX_PASSED_OVER && self.config.total.covers(need)).then(|| need.clone())
    }

    fn pass_over(&mut self, ticket: &Ticket, by: u32) {
        let passed_over = match ticket {
            Ticket::Client(client, shape) => {
                self.wants.get_mut(&(*client, shape.clone())).map(|want| &mut want.passed_over)
            }
            Ticket::Actor(actor, incarnation) => {
                self.actor_wants.get_mut(&(*actor, *incarnation)).map(|want| &mut want.passed_over)
            }
        };
        if let Some(passed_over) = passed_over {
            *passed_over = passed_over.saturating_add(by);
        }
    }

    fn serve_one(&mut self, ticket: &Ticket, kept_free: &Resources, now: Duration) -> Served {
        match ticket {
            Ticket::Client(client, shape) => self.serve_client(*client, shape, kept_free, now),
            Ticket::Actor(actor, incarnation) => self.serve_actor((*actor, *incarnation), kept_free, now),
        }
    }

    fn serve_client(&mut self, client: Address, shape: &Arc<Shape>, kept_free: &Resources, now: Duration) -> Served {
        let key = (client, shape.clone());
        let Some(want) = self.wants.get_mut(&key) else { return Served::Done };
        if want.need() == 0 {
            want.in_line = false;
            return Served::Done;
        }
        if !self.may_run_here(shape) {
            return Served::Waits;
        }
        if !self.fits(&shape.demand, kept_free)
            || !self.has_gpus_for(&shape.demand)
            || (shape.demand.is_empty() && self.zero_leases >= MAX_ZERO_DEMAND_LEASES)
        {
            return Served::NoRoom;
        }
        let Some(worker) = self.worker_for(shape, now) else { return Served::Waits };
        let seq = self.take_lease(client, shape.clone(), None, worker);
        let lease = self.lease_id(seq);
        let Some(want) = self.wants.get_mut(&key) else { return Served::Done };
        if let Some(worker) = worker {
            let granted = LeaseGranted { lease, shape: Shape::clone(shape), queue: want.queue, worker };
            self.effects.push(Effect::Grant(client, granted));
        }
        match worker {
            Some(_) => want.done += 1,
            None => want.starting += 1,
        }
        want.spread_here = want.spread_here.saturating_sub(1);
        want.since = now;
        want.passed_over = 0;
        want.told = None;
        want.in_line = want.need() > 0;
        if want.in_line { Served::More } else { Served::Done }
    }

    fn serve_actor(&mut self, key: (ActorId, u32), kept_free: &Resources, now: Duration) -> Served {
        let Some(want) = self.actor_wants.get(&key) else { return Served::Done };
        let (client, shape, asker) = (want.client, want.shape.clone(), want.asker);
        if self.draining || !self.fits(&want.need, kept_free) || !self.has_gpus_for(&shape.demand) {
            return Served::NoRoom;
        }
        match self.worker_for(&shape, now) {
            None => Served::Waits,
            Some(Some(worker)) => {
                self.actor_wants.remove(&key);
                let seq = self.take_lease(client, shape, Some(key), Some(worker));
                let lease = ActorLease { lease: self.lease_id(seq), worker };
                self.effects.push(Effect::ActorLeased(asker, Ok(lease)));
                Served::Done
            }
            Some(None) => {
                self.take_lease(client, shape, Some(key), None);
                if let Some(want) = self.actor_wants.get_mut(&key) {
                    want.starting = true;
                }
                Served::Done
            }
        }
    }

    /// Whether `need` can be taken and `kept_free` still be had.
    fn fits(&self, need: &Resources, kept_free: &Resources) -> bool {
        need.iter().all(|(name, fractions)| {
            self.available.fractions(name).saturating_sub(kept_free.fractions(name)) >= fractions
        })
    }

    /// A worker for a lease of this shape: `None` when the lease has to wait for it, `Some(None)`
    /// when the lease is to be taken and a process started for it.
    fn worker_for(&mut self, shape: &Shape, now: Duration) -> Option<Option<ProcessAddr>> {
        match self.pool.supply(shape.job, shape.kind, now) {
            Supply::Ready(worker) => Some(Some(worker)),
            Supply::Missing if shape.kind == WorkerKind::Shared => {
                let start = self.pool.start(shape.job, shape.kind, None);
                self.effects.push(Effect::StartWorker { start, job: shape.job, kind: shape.kind, gpus: Vec::new() });
                None
            }
            Supply::Missing if self.pool.starting(shape.job) < MAX_STARTING_PROCESSES => Some(None),
            Supply::Missing | Supply::Starting | Supply::Failed(..) => None,
        }
    }

    fn take_lease(
        &mut self,
        client: Address,
        shape: Arc<Shape>,
        actor: Option<(ActorId, u32)>,
        worker: Option<ProcessAddr>,
    ) -> u64 {
        self.next_lease += 1;
        let seq = self.next_lease;
        self.available.subtract(&shape.demand);
        let gpus = self.take_gpus(&shape.demand);
        match worker {
            Some(worker) => {
                self.pool.attach(worker.id, seq);
                self.tell_gpus(seq, worker, &gpus, &gpus);
            }
            None => {
                let (start, gpus) = (self.pool.start(shape.job, shape.kind, Some(seq)), gpus.ids());
                self.effects.push(Effect::StartWorker { start, job: shape.job, kind: shape.kind, gpus });
            }
        }
        let lease = Lease { client, shape, actor, worker, gpus, lent: false, doubtful: false };
        self.count_zero(&lease, 1);
        if let Some(actor) = actor {
            self.actor_leases.insert(actor, seq);
        }
        self.leases.insert(seq, lease);
        seq
    }

    /// The process that was started for a lease is ready.
    pub(super) fn hand_over(&mut self, seq: u64, worker: ProcessAddr) {
        let id = self.lease_id(seq);
        let Some(lease) = self.leases.get_mut(&seq) else { return };
        lease.worker = Some(worker);
        self.pool.attach(worker.id, seq);
        match lease.actor {
            Some(key) => {
                if let Some(want) = self.actor_wants.remove(&key) {
                    let lease = ActorLease { lease: id, worker };
                    self.effects.push(Effect::ActorLeased(want.asker, Ok(lease)));
                }
            }
            None => {
                let mut queue = 0;
                if let Some(want) = self.wants.get_mut(&(lease.client, lease.shape.clone())) {
                    want.starting = want.starting.saturating_sub(1);
                    want.done += 1;
                    queue = want.queue;
                }
                let granted = LeaseGranted { lease: id, shape: Shape::clone(&lease.shape), queue, worker };
                self.effects.push(Effect::Grant(lease.client, granted));
            }
        }
    }

    /// Why something of this shape is not served now.
    pub(super) fn why_waiting(&self, shape: &Shape, need: &Resources, now: Duration) -> Waiting {
        if let Some(why) = self.infeasible(shape) {
            return Waiting::Infeasible(why);
        }
        if let Some(name) = self.available.first_missing(need) {
            return Waiting::Busy(name.to_owned(), need.fractions(name), self.available.fractions(name));
        }
        if !self.has_gpus_for(need) {
            return Waiting::Scattered;
        }
        if need.is_empty() && self.zero_leases >= MAX_ZERO_DEMAND_LEASES {
            return Waiting::TooMany;
        }
        match self.pool.supply(shape.job, shape.kind, now) {
            Supply::Failed(why, for_good) => Waiting::WorkerFailed(why, for_good),
            _ => Waiting::WorkerStarts,
        }
    }

    /// Tells clients why they wait: those that can never be served and those whose worker failed
    /// at once, the others when they have waited for a while; once per change.
    pub(super) fn tell_pending(&mut self, now: Duration, only_failures: bool) {
        let mut notes = Vec::new();
        for ((client, shape), want) in self.wants.iter().filter(|(_, want)| want.need() > 0) {
            let why = self.why_waiting(shape, &shape.demand, now);
            let urgent = matches!(why, Waiting::Infeasible(_) | Waiting::WorkerFailed(..));
            let due = urgent || (!only_failures && now.saturating_sub(want.since) >= TOLD_AFTER);
            if due && !want.told.as_ref().is_some_and(|told| told.same_kind(&why)) {
                notes.push((*client, shape.clone(), why));
            }
        }
        for (client, shape, why) in notes {
            if let Some(want) = self.wants.get_mut(&(client, shape.clone())) {
                want.told = Some(why.clone());
            }
            let bound_to_the_dead = shape.strategy.bound_to().is_some_and(|node| self.is_dead(node));
            let hopeless = matches!(why, Waiting::WorkerFailed(_, true)) || bound_to_the_dead;
            let (infeasible, why) = why.into_words();
            let note = LeasePending { shape: Shape::clone(&shape), infeasible, hopeless, why };
            self.effects.push(Effect::Pending(client, note));
        }
    }

    /// Events of the cluster may have been missed, before those that follow now. Whoever waits for
    /// what is nowhere is told so again: a placement group may have come and gone meanwhile, which the
    /// GCS knows.
    pub fn events_missed(&mut self, now: Duration) {
        for want in self.wants.values_mut().filter(|want| matches!(want.told, Some(Waiting::Infeasible(_)))) {
            want.told = None;
        }
        self.tell_pending(now, true);
    }

    /// Someone waits for room: asks those who hold what it lacks, for another shape or as another
    /// client, to give some of it back.
    pub(super) fn ask_for_idle(&mut self, now: Duration) {
        let waiting: Vec<Waiter<'_>> = self.line.iter().filter_map(|ticket| self.waits_for_room(ticket)).collect();
        if waiting.is_empty() {
            return;
        }
        let useful = |lease: &Lease| {
            waiting.iter().any(|(who, need)| {
                let another = who.is_none_or(|(client, shape)| client != lease.client || *shape != lease.shape);
                let lacking = need.iter().filter(|(name, fractions)| self.available.fractions(name) < *fractions);
                another && lacking.into_iter().any(|(name, _)| lease.shape.demand.fractions(name) > 0)
            })
        };
        let holders: BTreeSet<Address> =
            self.leases.values().filter(|lease| lease.actor.is_none() && useful(lease)).map(|l| l.client).collect();
        self.ask_holders(holders, now);
    }

    /// Somebody needs this much: asks those who hold what is lacking.
    pub(super) fn ask_for_idle_of(&mut self, need: &Resources, now: Duration) {
        let lacks = |lease: &Lease| {
            let mut lacking = need.iter().filter(|(name, fractions)| self.available.fractions(name) < *fractions);
            lease.actor.is_none() && lacking.any(|(name, _)| lease.shape.demand.fractions(name) > 0)
        };
        let holders = self.leases.values().filter(|lease| lacks(lease)).map(|lease| lease.client).collect();
        self.ask_holders(holders, now);
    }

    fn ask_holders(&mut self, holders: BTreeSet<Address>, now: Duration) {
        for client in holders {
            let recently = self.reclaimed.get(&client).is_some_and(|last| now.saturating_sub(*last) < RECLAIM_EVERY);
            if !recently {
                self.reclaimed.insert(client, now);
                self.effects.push(Effect::ReclaimIdle(client));
            }
        }
    }

    /// Whether a ticket waits for room here, where it fits in time.
    fn waits_for_room<'a>(&'a self, ticket: &'a Ticket) -> Option<Waiter<'a>> {
        let (who, need) = match ticket {
            Ticket::Client(client, shape) => (Some((*client, shape)), &shape.demand),
            Ticket::Actor(actor, incarnation) => (None, &self.actor_wants.get(&(*actor, *incarnation))?.need),
        };
        (self.config.total.covers(need) && !self.available.covers(need)).then_some((who, need))
    }
}
