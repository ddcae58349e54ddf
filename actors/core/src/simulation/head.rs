//! The head: a real [`Gcs`], with a disk, and around it what `gcs::server` does: what must not be
//! forgotten leaves when it is stored.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};
use rand::RngExt;
use serde_bytes::ByteBuf;

use super::message::{Answer, Ask, Body, Input, Peer, Then, Timer, Way};
use super::process::{Cx, MS, Out, SECOND};
use super::world::process;
use crate::gcs::{ActorState, Asker, Effect, Gcs, GcsConfig, GroupRecord, Reply, Snapshot, Write};
use crate::ids::{ActorId, JobId, NodeId, PlacementGroupId};
use crate::messages::*;

const TICK_US: u64 = 250 * MS;
const LEASE_WITHIN: Duration = Duration::from_secs(180);
const BUNDLES_WITHIN: Duration = Duration::from_secs(30);
const START_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// The wall clock when the simulation begins.
const EPOCH_UNIX_S: u64 = 1_700_000_000;

/// What the head has stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    actors: BTreeMap<ActorId, (ActorSpec, Vec<ByteBuf>, ActorState)>,
    jobs: BTreeMap<JobId, JobInfo>,
    nodes: BTreeMap<NodeId, NodeInfo>,
    groups: BTreeMap<PlacementGroupId, GroupRecord>,
}

impl Disk {
    pub(super) fn store(&mut self, write: Write) {
        match write {
            Write::Actor(spec, payload) => {
                self.actors.insert(spec.actor, (*spec, payload, ActorState::default()));
            }
            Write::ActorState(actor, state) => {
                if let Some(stored) = self.actors.get_mut(&actor) {
                    stored.2 = state;
                }
            }
            Write::ForgetActor(actor) => drop(self.actors.remove(&actor)),
            Write::Job(info) => drop(self.jobs.insert(info.job, *info)),
            Write::ForgetJob(job) => drop(self.jobs.remove(&job)),
            Write::Node(info) => drop(self.nodes.insert(info.node, *info)),
            Write::ForgetNode(node) => drop(self.nodes.remove(&node)),
            Write::Group(record) => drop(self.groups.insert(record.spec.group, *record)),
            Write::ForgetGroup(group) => drop(self.groups.remove(&group)),
            Write::Kv { .. } => {}
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            actors: self.actors.values().cloned().collect(),
            jobs: self.jobs.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            groups: self.groups.values().cloned().collect(),
            kv: Vec::new(),
        }
    }
}

/// The head's process.
pub(super) struct Head {
    pub(super) core: Gcs,
    epoch_us: u64,
    ticked: Duration,
    ways: BTreeMap<Asker, Way>,
    next_asker: Asker,
    /// What is being stored, and what waits for it.
    commits: VecDeque<(Vec<Write>, Vec<Effect>)>,
    disk: Disk,
    subscribers: Vec<(Way, Subscribe)>,
}

impl Head {
    pub(super) fn new(disk: Disk, now_us: u64) -> Self {
        let mut config = GcsConfig::new("simulated", process(super::world::HEAD_PROCESS).id);
        config.epoch_unix_s = EPOCH_UNIX_S + now_us / SECOND;
        Self {
            core: Gcs::restore(config, disk.snapshot(), Duration::ZERO),
            epoch_us: now_us,
            ticked: Duration::ZERO,
            ways: BTreeMap::new(),
            next_asker: 0,
            commits: VecDeque::new(),
            disk,
            subscribers: Vec::new(),
        }
    }

    /// What is on the disk when the head dies: `late` of what was being stored got there, though
    /// nobody has heard of it.
    pub(super) fn crash(mut self, late: usize) -> Disk {
        for (writes, _) in self.commits.drain(..).take(late) {
            writes.into_iter().for_each(|write| self.disk.store(write));
        }
        self.disk
    }

    fn now(&self, cx: &Cx<'_>) -> Duration {
        Duration::from_micros(cx.now_us - self.epoch_us)
    }

    pub(super) fn handle(&mut self, input: Input, cx: &mut Cx<'_>) {
        let now = self.now(cx);
        match input {
            Input::Start => cx.after(TICK_US, Timer::HeadTick),
            Input::Timer(Timer::HeadTick) => {
                self.core.ticks_after(now.saturating_sub(self.ticked), now);
                self.ticked = now;
                self.core.tick(now);
                cx.after(TICK_US, Timer::HeadTick);
            }
            Input::Timer(Timer::Stored) => {
                if let Some((writes, promises)) = self.commits.pop_front() {
                    writes.into_iter().for_each(|write| self.disk.store(write));
                    promises.into_iter().for_each(|promise| self.carry_out(promise, cx));
                }
                return;
            }
            Input::Peer(Peer::Gone(process, why)) => {
                self.forget_subscriber(process);
                self.core.process_gone(process, &why, now);
            }
            Input::Peer(Peer::Interrupted(process) | Peer::Lost(process)) => self.forget_subscriber(process),
            Input::Message { body, .. } => match body {
                Body::Lost(lost) => self.core.lease_lost(lost.lease, &lost.why, now),
                other => unreachable!("nobody says this to the head: {other:?}"),
            },
            Input::Asked { from, way, ask } => self.asked(from, way, ask, now, cx),
            Input::Answered { then, answer } => self.answered(then, answer, now),
            _ => {}
        }
        self.act(cx);
    }

    fn forget_subscriber(&mut self, process: ProcessId) {
        self.subscribers.retain(|(way, _)| way.asker.id != process);
    }

    fn way(&mut self, way: Way) -> Asker {
        self.next_asker += 1;
        self.ways.insert(self.next_asker, way);
        self.next_asker
    }

    fn asked(&mut self, from: ProcessAddr, way: Way, ask: Ask, now: Duration, cx: &mut Cx<'_>) {
        match ask {
            Ask::RegisterNode(register) => {
                let answer = self.core.register_node(register, now);
                cx.answer(way, Answer::Registered(answer));
            }
            Ask::Heartbeat(beat) => {
                let answer = self.core.heartbeat(beat, now);
                cx.answer(way, Answer::Beat(answer));
            }
            Ask::ProcessUp(up) => {
                self.core.process_up(up.node, up.process, up.pid);
                cx.answer(way, Answer::Unit);
            }
            Ask::ProcessDown(down) => {
                self.core.process_down(&down, now);
                self.act(cx);
                cx.answer(way, Answer::Unit);
            }
            Ask::DeadAmong(processes) => {
                let dead = self.core.dead_among(&processes);
                cx.answer(way, Answer::Dead(dead));
            }
            Ask::Subscribe(to) => {
                if to == Subscribe::Everything {
                    cx.out.push(Out::Event { way, event: ClusterEvent::View(self.core.told_view()) });
                }
                self.subscribers.push((way, to));
            }
            Ask::GetJob(job) => cx.answer(way, Answer::Job(self.core.job(job).cloned())),
            Ask::JobHeartbeat(job) => {
                let runs = self.core.job_heartbeat(job, now);
                cx.answer(way, Answer::Runs(runs));
            }
            Ask::RegisterJob => {
                let job = JobId(from.id.0);
                let request = RegisterJob {
                    driver: from,
                    name: "sim".to_owned(),
                    binary: None,
                    digest: 1,
                    namespace: None,
                    env: JobEnv::default(),
                };
                let asker = self.way(way);
                self.core.register_job(job, request, now, asker);
            }
            Ask::CreateActor(spec) => {
                let asker = self.way(way);
                self.core.create_actor(spec, Vec::new(), now, asker);
            }
            Ask::Resolve(actor) => {
                let asker = self.way(way);
                self.core.resolve_actor(actor, from.id, now, asker);
            }
            Ask::KillActor { actor, no_restart } => {
                let asker = self.way(way);
                self.core.kill_actor(actor, no_restart, "it was killed", now, asker);
            }
            Ask::Exited(exited) => {
                let asker = self.way(way);
                self.core.actor_exited(&exited, now, asker);
            }
            Ask::CreateGroup(spec) => {
                let asker = self.way(way);
                self.core.create_group(spec, now, asker);
            }
            Ask::WaitGroup(group) => {
                let asker = self.way(way);
                self.core.wait_group(group, from.id, now, asker);
            }
            Ask::RemoveGroup(group) => {
                let asker = self.way(way);
                self.core.remove_group(group, now, asker);
            }
            other => unreachable!("nobody asks the head this: {other:?}"),
        }
    }

    fn answered(&mut self, then: Then, answer: Result<Answer, SendError>, now: Duration) {
        match (then, answer) {
            (Then::Leased { actor, incarnation, node }, answer) => {
                let answer = answer.map(|answer| match answer {
                    Answer::Leased(leased) => leased,
                    other => unreachable!("{other:?}"),
                });
                self.core.actor_leased(actor, incarnation, node, answer, now);
            }
            (Then::Started { actor, incarnation }, answer) => {
                let answer = answer.map(|answer| match answer {
                    Answer::Done(started) => started,
                    other => unreachable!("{other:?}"),
                });
                self.core.actor_started(actor, incarnation, answer, now);
            }
            (Then::Prepared { group, round, node }, answer) => {
                let answer = answer.map(|answer| match answer {
                    Answer::Prepared(prepared) => prepared,
                    other => unreachable!("{other:?}"),
                });
                self.core.bundles_prepared(group, round, node, answer, now);
            }
            (Then::Committed { group, round, node }, answer) => {
                let answer = answer.map(|answer| match answer {
                    Answer::Committed(committed) => committed,
                    other => unreachable!("{other:?}"),
                });
                self.core.bundles_committed(group, round, node, answer);
            }
            (other, _) => unreachable!("{other:?}"),
        }
    }

    /// As the server: what promises something waits for the commit of all earlier writes.
    fn act(&mut self, cx: &mut Cx<'_>) {
        let (mut writes, mut promises) = (Vec::new(), Vec::new());
        for effect in self.core.take_effects() {
            match effect {
                Effect::Write(write) => writes.push(write),
                effect if effect.is_promise() => promises.push(effect),
                other => self.carry_out(other, cx),
            }
        }
        if writes.is_empty() && (promises.is_empty() || self.commits.is_empty()) {
            return promises.into_iter().for_each(|promise| self.carry_out(promise, cx));
        }
        let mut takes_us = cx.random.random_range(MS..20 * MS);
        if cx.record.answers_early() {
            takes_us = 2 * SECOND;
            std::mem::take(&mut promises).into_iter().for_each(|promise| self.carry_out(promise, cx));
        }
        self.commits.push_back((writes, promises));
        // Later ones are not stored before earlier ones: one timer each, and the first in line is taken.
        cx.after(takes_us, Timer::Stored);
    }

    fn carry_out(&mut self, effect: Effect, cx: &mut Cx<'_>) {
        let me = MailboxId::GCS;
        let worker_of = |process| Address { process, mailbox: MailboxId::WORKER };
        match effect {
            Effect::Write(_) => unreachable!("taken out before"),
            Effect::Answer(asker, reply) => {
                let Some(way) = self.ways.remove(&asker) else { return };
                cx.answer(
                    way,
                    match reply {
                        Reply::Done(done) => Answer::Done(done),
                        Reply::Located(location) => Answer::Located(location),
                        Reply::Job(job) => Answer::Taken(job.map(|registered| registered.job)),
                        Reply::Finished => Answer::Unit,
                        Reply::Changed(_) | Reply::Ended(_) => unreachable!("nobody asks for keys, or watches"),
                    },
                );
            }
            Effect::Forget(asker) => {
                // Dropping the way back tells the asker, if it still waits.
                if let Some(way) = self.ways.remove(&asker) {
                    cx.out.push(Out::Answer { way, answer: Err(SendError::Dropped) });
                }
            }
            Effect::LeaseActor { raylet, node, request } => {
                let then = Then::Leased { actor: request.actor, incarnation: request.incarnation, node };
                cx.ask(me, raylet, Ask::LeaseActor(request), LEASE_WITHIN, then);
            }
            Effect::CancelActorLease { raylet, actor, incarnation } => {
                cx.send(me, raylet, Body::CancelActor(CancelActorLease { actor, incarnation }));
            }
            Effect::StartActor { worker, spec, incarnation, lease, .. } => {
                let then = Then::Started { actor: spec.actor, incarnation };
                let start = Box::new(StartActor { spec: *spec, incarnation, lease });
                cx.ask(me, worker_of(worker), Ask::StartActor(start), START_WITHIN, then);
            }
            Effect::StopActor { worker, actor, incarnation, why } => {
                cx.insist(me, worker_of(worker), Ask::StopActor(StopActor { actor, incarnation, why }));
            }
            Effect::ReturnLease { raylet, lease } => cx.send(me, raylet, Body::Return(vec![lease])),
            Effect::PrepareBundles { raylet, node, request } => {
                let then = Then::Prepared { group: request.group, round: request.round, node };
                cx.ask(me, raylet, Ask::Prepare(request), BUNDLES_WITHIN, then);
            }
            Effect::CommitBundles { raylet, node, request } => {
                let then = Then::Committed { group: request.group, round: request.round, node };
                cx.ask(me, raylet, Ask::Commit(request), BUNDLES_WITHIN, then);
            }
            Effect::ReturnBundles { raylet, request } => cx.insist(me, raylet, Ask::ReturnBundles(request)),
            Effect::Publish(event) => {
                for (way, to) in self.subscribers.clone() {
                    if event.is_for(to) {
                        cx.out.push(Out::Event { way, event: event.clone() });
                    }
                }
            }
            Effect::MarkGone(process, why) => cx.out.push(Out::MarkGone { process, why }),
        }
    }
}
