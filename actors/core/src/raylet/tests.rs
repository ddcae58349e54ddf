//! The scheduler by itself: scenarios, and in `histories` random ones.

mod accounts;
mod actor_wants;
mod bundles;
mod histories;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};
use uuid::Uuid;

use super::scheduler::MAX_ZERO_DEMAND_LEASES;
use super::{Asker, Effect, Scheduler, SchedulerConfig};
use crate::culprit::Culprit;
use crate::ids::{ActorId, JobId, LeaseId, NodeId};
use crate::messages::*;
use crate::resources::{CPU, Resources};

fn process(n: u128) -> ProcessAddr {
    ProcessAddr { id: ProcessId(Uuid::from_u128(n)), socket: ProcessAddr::IN_PROCESS }
}

fn client(n: u128) -> Address {
    Address { process: process(100 + n), mailbox: MailboxId::CLIENT }
}

fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn cpus(amount: f64) -> Resources {
    Resources::new().with(CPU, amount).unwrap()
}

fn shape_of(demand: Resources) -> Shape {
    Shape { job: job(1), demand, strategy: Strategy::Default, kind: WorkerKind::Shared, retriable: true, near: None }
}

fn remote(n: u128, total: Resources) -> NodeInfo {
    NodeInfo {
        node: node(n),
        name: format!("n{n}"),
        process: process(n),
        head: false,
        available: total.clone(),
        total,
        labels: Default::default(),
        alive: true,
        death_reason: None,
        store_dir: String::new(),
        host_proof: String::new(),
        pid: 1,
    }
}

/// A raylet with a world around it that does what it is told.
struct Env {
    core: Scheduler,
    /// Which queue of each shape the clients use.
    queue: u64,
    now: Duration,
    held: BTreeMap<LeaseId, (Address, Shape)>,
    starts: BTreeMap<u64, (JobId, WorkerKind)>,
    workers: BTreeSet<ProcessAddr>,
    next_worker: u128,
    granted: BTreeMap<(Address, Shape), u64>,
    redirected: BTreeMap<(Address, Shape), u64>,
    order: Vec<Address>,
    askers: BTreeSet<Asker>,
    next_asker: Asker,
    actor_leases: Vec<ActorLease>,
    refused: Vec<LeaseActorError>,
    notes: Vec<LeasePending>,
    kept: Vec<LeasesKept>,
    reclaims: Vec<Address>,
    redirects: Vec<LeaseRedirected>,
    lost: Vec<LeaseLost>,
    gone: Vec<(Address, GroupGone)>,
    stopped: Vec<ProcessAddr>,
}

impl Env {
    fn new(total: Resources) -> Self {
        let mut env = Self::empty(total, true);
        assert!(env.core.worker_ready(0, process(1), 1, env.now));
        env.workers.insert(process(1));
        env
    }

    fn empty(total: Resources, in_process: bool) -> Self {
        let config = SchedulerConfig {
            node: node(1),
            name: "n1".to_owned(),
            process: process(1),
            total,
            gpus: Vec::new(),
            labels: Default::default(),
            in_process,
        };
        Self {
            core: Scheduler::new(config),
            queue: 1,
            now: Duration::ZERO,
            held: BTreeMap::new(),
            starts: BTreeMap::new(),
            workers: BTreeSet::new(),
            next_worker: 1_000,
            granted: BTreeMap::new(),
            redirected: BTreeMap::new(),
            order: Vec::new(),
            askers: BTreeSet::new(),
            next_asker: 0,
            actor_leases: Vec::new(),
            refused: Vec::new(),
            notes: Vec::new(),
            kept: Vec::new(),
            reclaims: Vec::new(),
            redirects: Vec::new(),
            lost: Vec::new(),
            gone: Vec::new(),
            stopped: Vec::new(),
        }
    }

    fn want(&mut self, who: u128, shape: &Shape, target: u64) {
        self.want_hops(who, shape, target, 0);
    }

    fn want_hops(&mut self, who: u128, shape: &Shape, target: u64, hops: u8) {
        let (client, shape) = (client(who), shape.clone());
        self.core.want(WantLeases { client, shape, queue: self.queue, target, what: "t".to_owned(), hops }, self.now);
        self.absorb();
    }

    fn lease_actor(&mut self, n: u128, shape: Shape, placement: Resources) {
        self.next_asker += 1;
        self.askers.insert(self.next_asker);
        let request =
            LeaseActor { actor: ActorId(Uuid::from_u128(n)), incarnation: 0, shape, placement_demand: placement };
        self.core.lease_actor(client(99), request, self.now, self.next_asker);
        self.absorb();
    }

    fn give_back(&mut self, lease: LeaseId) {
        self.core.return_leases(&[lease], self.now);
        self.held.remove(&lease);
        self.absorb();
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.core.tick(self.now);
        self.absorb();
    }

    fn all_workers_ready(&mut self) {
        while let Some((start, _)) = self.starts.pop_first() {
            self.ready(start);
        }
    }

    fn ready(&mut self, start: u64) {
        self.next_worker += 1;
        let worker = process(self.next_worker);
        self.workers.insert(worker);
        assert!(self.core.worker_ready(start, worker, 7, self.now), "an awaited worker is taken");
        self.absorb();
    }

    /// Notes what the core asked for, and checks what must hold after every event.
    fn absorb(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Grant(to, grant) => {
                    assert!(self.workers.contains(&grant.worker), "granted on a worker that lives");
                    *self.granted.entry((to, grant.shape.clone())).or_default() += 1;
                    self.order.push(to);
                    let before = self.held.insert(grant.lease, (to, grant.shape));
                    assert!(before.is_none(), "a lease is granted once");
                }
                Effect::Redirect(to, redirect) => {
                    *self.redirected.entry((to, redirect.shape.clone())).or_default() += redirect.count;
                    self.redirects.push(redirect);
                }
                Effect::Lost(_, lost) => {
                    self.held.remove(&lost.lease);
                    self.lost.push(lost);
                }
                Effect::GroupGone(to, gone) => {
                    self.held.retain(|_, (owner, shape)| (*owner, &*shape) != (to, &gone.shape));
                    self.granted.remove(&(to, gone.shape.clone()));
                    self.redirected.remove(&(to, gone.shape.clone()));
                    self.gone.push((to, gone));
                }
                Effect::Kept(_, kept) => self.kept.push(kept),
                Effect::Pending(_, note) => self.notes.push(note),
                Effect::ReclaimIdle(to) => self.reclaims.push(to),
                Effect::ActorLeased(asker, answer) => {
                    assert!(self.askers.remove(&asker), "an asker is answered once");
                    match answer {
                        Ok(lease) => self.actor_leases.push(lease),
                        Err(error) => self.refused.push(error),
                    }
                }
                Effect::ForgetAsker(asker) => {
                    assert!(self.askers.remove(&asker), "a forgotten asker was waiting");
                }
                Effect::LeaseGpus(worker, _) => assert!(self.core.config.in_process && worker == process(1)),
                Effect::StartWorker { start, job, kind, .. } => {
                    assert!(self.starts.insert(start, (job, kind)).is_none());
                }
                Effect::StopWorker { worker, .. } => {
                    assert!(self.workers.remove(&worker), "only a living worker is stopped, once");
                    self.stopped.push(worker);
                }
                Effect::AbortStart(start) => {
                    assert!(self.starts.remove(&start).is_some(), "only what starts is aborted");
                }
            }
        }
        let mut sum = self.core.charged();
        sum.add(self.core.available());
        assert_eq!(sum, self.core.config.total, "leased + free == total");
        assert_eq!(
            self.core.actor_leases.len(),
            self.core.leases.values().filter(|lease| lease.actor.is_some()).count()
        );
        self.core.check_gpus();
        let zero = self.held.values().filter(|(_, shape)| shape.demand.is_empty()).count();
        assert!(zero <= MAX_ZERO_DEMAND_LEASES);
        for (at, ticket) in self.core.line.iter().enumerate() {
            assert!(!self.core.line.iter().skip(at + 1).any(|other| other == ticket), "nobody stands in line twice");
        }
        for ((client, shape), want) in &self.core.wants {
            let ticket = super::line::Ticket::Client(*client, shape.clone());
            assert!(want.need() == 0 || want.in_line, "who needs one stands in line");
            assert!(!want.in_line || self.core.line.contains(&ticket));
        }
    }
}

#[test]
fn grants_up_to_what_there_is() {
    let mut env = Env::new(cpus(2.0));
    env.want(1, &shape_of(cpus(0.5)), 10);
    assert_eq!(env.held.len(), 4);
    assert_eq!(env.core.pending(env.now).first().map(|line| line.count), Some(6));
    let one = *env.held.keys().next().unwrap();
    env.give_back(one);
    assert_eq!(env.held.len(), 4, "the next one in line got it");
}

#[test]
fn a_repeated_or_lowered_target_changes_nothing() {
    let mut env = Env::new(cpus(4.0));
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 2);
    env.want(1, &shape, 2);
    assert_eq!(env.held.len(), 2);
    env.want(1, &shape, 9);
    env.want(1, &shape, 4);
    env.give_back(*env.held.keys().next().unwrap());
    assert_eq!(env.held.len(), 3, "four were wanted in total and four were given");
}

#[test]
fn clients_take_turns() {
    let mut env = Env::new(cpus(1.0));
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 100);
    env.want(2, &shape, 100);
    env.order.clear();
    for _ in 0..20 {
        env.give_back(*env.held.keys().next().unwrap());
    }
    let first = env.order.iter().filter(|who| **who == client(1)).count();
    assert_eq!(first, 10, "turns: {:?}", env.order);
}

#[test]
fn a_large_need_is_not_starved_by_small_ones() {
    let mut env = Env::new(cpus(4.0));
    env.want(1, &shape_of(cpus(1.0)), 10_000);
    env.want(2, &shape_of(cpus(4.0)), 1);
    let mut returned = 0;
    while !env.held.values().any(|(who, _)| *who == client(2)) {
        env.give_back(*env.held.keys().next().unwrap());
        returned += 1;
        assert!(returned < 100, "client 2 never got its four CPUs");
    }
}

#[test]
fn a_large_need_is_not_starved_by_newcomers() {
    let mut env = Env::new(cpus(4.0));
    env.want(1, &shape_of(cpus(1.0)), 3);
    env.want(2, &shape_of(cpus(4.0)), 1);
    for newcomer in 3..100 {
        env.want(newcomer, &shape_of(cpus(1.0)), 1);
        let oldest = *env.held.keys().next().unwrap();
        if env.held[&oldest].0 == client(2) {
            return;
        }
        env.give_back(oldest);
    }
    panic!("client 2 never got its four CPUs");
}

#[test]
fn lending_lets_others_run_and_is_taken_back_at_once() {
    let mut env = Env::new(cpus(1.0));
    env.want(1, &shape_of(cpus(1.0)), 1);
    env.want(2, &shape_of(cpus(1.0)), 1);
    let parent = *env.held.keys().next().unwrap();
    env.core.lease_blocked(parent, true, env.now);
    env.absorb();
    assert_eq!(env.held.len(), 2);
    env.core.lease_blocked(parent, false, env.now);
    env.absorb();
    assert_eq!(env.core.available().fractions(CPU), -10_000);
    env.give_back(parent);
    assert_eq!(env.core.available().fractions(CPU), 0);
}

#[test]
fn what_fits_nowhere_is_told_at_once_and_once() {
    let mut env = Env::new(cpus(2.0));
    let shape = shape_of(cpus(3.0));
    env.want(1, &shape, 1);
    env.want(1, &shape, 2);
    env.pass(5_000);
    assert_eq!(env.notes.len(), 1);
    assert!(env.notes[0].infeasible && env.notes[0].why.contains("CPU 3"), "{:?}", env.notes);
    env.core.node_joined(remote(2, cpus(4.0)), env.now);
    env.absorb();
    assert_eq!(env.redirects.len(), 1, "a node that can run it joined");
    assert_eq!(env.redirects[0].count, 2);
}

/// Else a task would wait for ever in a placement group that was made and removed while this node
/// heard nothing of the cluster: its client asks the head only when it is told that it waits.
#[test]
fn after_missed_events_it_is_told_again_what_fits_nowhere() {
    let mut env = Env::new(cpus(2.0));
    let shape = shape_of(cpus(3.0));
    env.want(1, &shape, 1);
    env.pass(5_000);
    assert_eq!(env.notes.len(), 1);
    env.core.events_missed(env.now);
    env.absorb();
    env.pass(5_000);
    assert_eq!(env.notes.len(), 2, "once more, and once");
}

#[test]
fn waiting_is_told_after_a_while_and_idle_leases_are_asked_for() {
    let mut env = Env::new(cpus(1.0));
    env.want(1, &shape_of(cpus(1.0)), 1);
    env.want(2, &shape_of(cpus(0.5)), 1);
    env.pass(200);
    assert_eq!(env.reclaims, vec![client(1)]);
    assert!(env.notes.is_empty());
    env.pass(1_000);
    assert!(env.notes[0].why.contains("CPU") && !env.notes[0].infeasible, "{:?}", env.notes);
}

#[test]
fn half_full_nodes_send_on_and_hops_are_bounded() {
    let mut env = Env::new(cpus(4.0));
    env.core.node_joined(remote(2, cpus(4.0)), env.now);
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 4);
    assert_eq!((env.held.len(), env.redirects.iter().map(|r| r.count).sum::<u64>()), (2, 2));
    env.want_hops(2, &shape, 2, 3);
    assert_eq!(env.held.len(), 4, "it was sent on often enough");
}

#[test]
fn what_was_sent_here_stays_while_there_is_room() {
    let mut env = Env::new(cpus(2.0));
    env.core.node_joined(remote(2, cpus(4.0)), env.now);
    env.want_hops(1, &shape_of(cpus(1.0)), 3, 1);
    assert_eq!((env.held.len(), env.redirects.iter().map(|r| r.count).sum::<u64>()), (2, 1));
}

#[test]
fn what_is_spread_goes_to_every_node_in_turn_and_waits_there_for_a_moment() {
    let mut env = Env::new(cpus(2.0));
    let mut full = remote(2, cpus(4.0));
    full.available = Resources::new();
    env.core.node_joined(full, env.now);
    let shape = Shape { strategy: Strategy::Spread, ..shape_of(cpus(1.0)) };
    env.want(1, &shape, 4);
    assert_eq!((env.held.len(), env.redirects.iter().map(|r| r.count).sum::<u64>()), (2, 2));
    env.redirects.clear();
    env.want_hops(2, &shape, 1, 1);
    env.core.resources_changed(vec![(node(2), cpus(4.0))], env.now);
    env.absorb();
    assert!(env.redirects.is_empty(), "it is this node's share");
    env.pass(400);
    assert_eq!(env.redirects.len(), 1, "it has waited long enough");
}

#[test]
fn a_need_that_was_sent_on_too_often_looks_around_again_after_a_rest() {
    let mut env = Env::new(cpus(1.0));
    env.core.node_joined(remote(2, cpus(4.0)), env.now);
    env.want_hops(1, &shape_of(cpus(1.0)), 2, 200);
    assert_eq!((env.held.len(), env.redirects.len()), (1, 0));
    env.pass(400);
    assert_eq!(env.redirects.iter().map(|r| (r.count, r.hops)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn what_was_sent_to_a_node_counts_there_for_a_while_only() {
    let mut env = Env::new(cpus(1.0));
    env.core.node_joined(remote(2, cpus(1.0)), env.now);
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 2);
    assert_eq!((env.held.len(), env.redirects.len()), (1, 1));
    env.want(1, &shape, 3);
    env.core.resources_changed(vec![(node(2), cpus(1.0))], env.now);
    env.absorb();
    assert_eq!(env.redirects.len(), 1, "what was sent there has not arrived yet");
    // The client had no use for it any more, so that node reports nothing new.
    env.pass(400);
    assert_eq!(env.redirects.len(), 2);
}

#[test]
fn a_need_near_its_data_stays() {
    let mut env = Env::new(cpus(1.0));
    env.core.node_joined(remote(2, cpus(64.0)), env.now);
    let mut shape = shape_of(cpus(1.0));
    shape.near = Some(process(1));
    env.want(1, &shape, 3);
    assert_eq!((env.held.len(), env.redirects.len()), (1, 0));
    env.pass(1_000);
    assert!(env.redirects.is_empty());
    env.pass(1_500);
    assert_eq!(env.redirects.len(), 1, "nothing became free there for long");
}

#[test]
fn leases_that_their_client_does_not_know_are_free_after_a_broken_connection() {
    let mut env = Env::new(cpus(3.0));
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 2);
    let known = *env.held.keys().next().unwrap();
    env.core.interrupted(client(1).process.id);
    env.want(1, &shape, 3);
    let after = *env.held.keys().last().unwrap();
    env.core.held_leases(&HeldLeases { client: client(1), leases: vec![known] }, env.now);
    env.absorb();
    let kept = env.kept.pop().unwrap();
    assert_eq!(kept.leases, [known, after], "what was granted since is on its way");
    assert_eq!(kept.done, [LeasesDone { shape, queue: 1, count: 3 }]);
    assert_eq!(env.core.available(), &cpus(1.0));
}

#[test]
fn a_grant_that_cannot_be_sent_does_not_count() {
    let mut env = Env::new(cpus(1.0));
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 1);
    let (lease, _) = env.held.pop_first().unwrap();
    let granted = LeaseGranted { lease, shape, queue: 1, worker: process(1) };
    env.core.grant_unsent(client(1), &granted);
    assert_eq!(env.core.available(), &cpus(1.0));
    env.pass(100);
    assert_eq!(env.held.len(), 1, "it is granted again");
}

#[test]
fn a_queue_is_counted_from_the_beginning_after_its_client_has_forgotten_the_one_before() {
    let mut env = Env::new(cpus(3.0));
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 2);
    for lease in env.held.keys().copied().collect::<Vec<_>>() {
        env.give_back(lease);
    }
    // The message that says so may have got lost.
    for told in [true, false] {
        if told {
            env.core.forget_queue(ForgetQueue { client: client(1), shape: shape.clone(), queue: env.queue });
            assert!(env.core.wants.is_empty());
        }
        env.queue += 1;
        env.want(1, &shape, 1);
        assert_eq!(env.held.len(), 1, "one is wanted, one is granted");
        let lease = *env.held.keys().next().unwrap();
        env.give_back(lease);
    }
    // Late words about an older queue change nothing.
    env.core.forget_queue(ForgetQueue { client: client(1), shape: shape.clone(), queue: env.queue - 1 });
    env.queue -= 1;
    env.want(1, &shape, 9);
    assert!(env.held.is_empty());
    assert_eq!(env.core.wants.len(), 1);
}

#[test]
fn what_counts_is_told_later_as_it_is_then() {
    let mut env = Env::new(cpus(2.0));
    let shape = shape_of(cpus(1.0));
    env.want(1, &shape, 1);
    env.core.kept_unsent(client(1));
    env.want(1, &shape, 2);
    assert!(env.core.is_busy());
    env.pass(100);
    let kept = env.kept.pop().unwrap();
    assert_eq!((kept.leases.len(), kept.done), (2, vec![LeasesDone { shape, queue: 1, count: 2 }]));
    assert!(!env.core.is_busy());
}

#[test]
fn a_loss_that_cannot_be_told_is_told_later() {
    let mut env = Env::new(cpus(1.0));
    env.want(1, &shape_of(cpus(1.0)), 1);
    env.core.worker_died(process(1).id, "killed", Culprit::Unknown, env.now);
    env.absorb();
    let lost = env.lost.pop().unwrap();
    env.core.lost_unsent(client(1), lost.clone());
    assert!(env.core.is_busy());
    env.pass(100);
    assert_eq!(env.lost.iter().map(|again| again.lease).collect::<Vec<_>>(), [lost.lease]);
    assert!(!env.core.is_busy());
}

#[test]
fn a_reason_that_cannot_be_told_is_told_later() {
    let mut env = Env::new(cpus(1.0));
    env.want(1, &shape_of(cpus(8.0)), 1);
    let note = env.notes.pop().unwrap();
    env.core.pending_unsent(client(1), &note);
    env.pass(100);
    assert_eq!(env.notes.pop().unwrap().why, note.why);
}

#[test]
fn affinity_goes_where_it_must() {
    let mut env = Env::new(cpus(4.0));
    env.core.node_joined(remote(2, cpus(1.0)), env.now);
    let mut shape = shape_of(cpus(1.0));
    shape.strategy = Strategy::NodeAffinity { node: node(2), soft: false };
    env.want(1, &shape, 3);
    assert_eq!(env.redirects.iter().map(|r| r.count).sum::<u64>(), 3);
    shape.strategy = Strategy::NodeAffinity { node: node(9), soft: false };
    env.want(1, &shape, 1);
    let last = env.notes.last().unwrap();
    assert!(last.infeasible && !last.hopeless && last.why.contains("dead or unknown"), "it may be on its way");
    shape.strategy = Strategy::NodeAffinity { node: node(9), soft: true };
    env.want(1, &shape, 1);
    assert_eq!(env.held.len(), 1);
    // Of a node that is dead nobody need hope that it joins.
    shape.strategy = Strategy::NodeAffinity { node: node(2), soft: false };
    env.want(1, &shape, 4);
    env.core.node_died(node(2), env.now);
    env.absorb();
    env.want(2, &shape, 1);
    assert!(env.notes.last().is_some_and(|note| note.hopeless && note.why.contains("dead")), "{:?}", env.notes);
}

#[test]
fn a_node_that_only_stores_sends_everything_on() {
    let total = Resources::new().with("object_store_memory", 1e6).unwrap();
    let mut env = Env::empty(total, false);
    env.core.node_joined(remote(2, cpus(1.0)), env.now);
    env.want(1, &shape_of(cpus(1.0)), 5);
    env.want(1, &shape_of(Resources::new()), 2);
    assert_eq!(env.redirects.iter().map(|r| r.count).sum::<u64>(), 7);
    assert!(env.starts.is_empty());
}

#[test]
fn leases_that_need_nothing_are_bounded() {
    let mut env = Env::new(cpus(1.0));
    env.want(1, &shape_of(Resources::new()), 1_000_000);
    assert_eq!(env.held.len(), MAX_ZERO_DEMAND_LEASES);
}

#[test]
fn one_shared_worker_serves_a_job_and_leaves_with_it() {
    let mut env = Env::empty(cpus(4.0), false);
    env.want(1, &shape_of(cpus(1.0)), 3);
    assert_eq!((env.starts.len(), env.held.len()), (1, 0));
    env.all_workers_ready();
    assert_eq!(env.held.len(), 3);
    env.core.job_finished(job(1), env.now);
    env.held.clear();
    env.absorb();
    assert_eq!(env.stopped.len(), 1);
    assert_eq!(env.core.available(), &cpus(4.0));
}

#[test]
fn processes_that_are_long_in_starting_do_not_hold_up_another_job() {
    let mut env = Env::empty(cpus(200.0), false);
    let own = |n| Shape { job: job(n), kind: WorkerKind::Process, ..shape_of(cpus(1.0)) };
    env.want(1, &own(1), 100);
    let waits_for_its_binary = env.starts.len();
    assert!(waits_for_its_binary < 100);
    env.want(2, &own(2), 1);
    assert_eq!(env.starts.len(), waits_for_its_binary + 1);
}

#[test]
fn a_process_worker_has_one_lease_and_leaves_with_it() {
    let mut env = Env::empty(cpus(2.0), false);
    let mut shape = shape_of(cpus(1.0));
    shape.kind = WorkerKind::Process;
    env.want(1, &shape, 5);
    assert_eq!(env.starts.len(), 2, "no more than there is room for");
    env.all_workers_ready();
    let lease = *env.held.keys().next().unwrap();
    env.give_back(lease);
    assert_eq!((env.stopped.len(), env.starts.len()), (1, 1), "the next one starts");
}

#[test]
fn a_worker_that_fails_is_tried_again_later_or_never() {
    let mut env = Env::empty(cpus(2.0), false);
    env.want(1, &shape_of(cpus(1.0)), 1);
    env.lease_actor(7, shape_of(Resources::new()), cpus(1.0));
    let (start, _) = env.starts.pop_first().unwrap();
    env.core.worker_failed(start, "no binary", false, env.now);
    env.absorb();
    assert!(matches!(env.refused[..], [LeaseActorError::WorkerFailed(_)]));
    assert!(env.notes[0].why.contains("no binary") && !env.notes[0].infeasible);
    assert!(env.starts.is_empty());
    env.pass(1_100);
    let (start, _) = env.starts.pop_first().expect("tried again");
    env.core.worker_failed(start, "other functions", true, env.now);
    env.absorb();
    env.pass(100_000);
    assert!(env.starts.is_empty() && env.notes.last().unwrap().hopeless);
    env.want(1, &shape_of(cpus(1.0)), 0);
    let told = env.notes.len();
    env.want(1, &shape_of(cpus(1.0)), 1);
    env.pass(100);
    assert!(env.notes.len() > told && env.notes.last().unwrap().hopeless, "whoever asks later is told, too");
}

#[test]
fn a_dead_worker_loses_its_leases() {
    let mut env = Env::empty(cpus(2.0), false);
    env.want(1, &shape_of(cpus(1.0)), 2);
    env.lease_actor(7, shape_of(Resources::new()), Resources::new());
    env.all_workers_ready();
    let worker = *env.workers.iter().next().unwrap();
    env.workers.remove(&worker);
    assert!(env.core.worker_died(worker.id, "signal 9", Culprit::Unknown, env.now));
    env.absorb();
    assert_eq!(env.lost.len(), 3);
    assert_eq!(env.core.available(), &cpus(2.0));
}
