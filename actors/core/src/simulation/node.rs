//! A node: a real [`Scheduler`], and around it what `raylet::server` does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};

use super::message::{Answer, Ask, Body, Input, Peer, Then, Timer, Way};
use super::process::{Cx, MS, Out, SECOND};
use super::world::gcs;
use crate::culprit::Culprit;
use crate::ids::{JobId, NodeId};
use crate::messages::*;
use crate::raylet::{Asker, Effect, Scheduler, SchedulerConfig};
use crate::resources::Resources;

const TICK_US: u64 = 100 * MS;
const REPORT_US: u64 = 50 * MS;
const GCS_WITHIN: Duration = Duration::from_secs(5);
const GCS_AGAIN_US: u64 = 500 * MS;
const HEARTBEAT_US: u64 = SECOND;
const ASK_FOR_UNREACHABLE_US: u64 = 5 * SECOND;
const REGISTER_WITHIN_US: u64 = 30 * SECOND;
const STOP_GRACE_US: u64 = 5 * SECOND;
const KILL_GRACE_US: u64 = 200 * MS;

struct Started {
    job: JobId,
    process: Option<ProcessAddr>,
}

/// A raylet's process.
pub(super) struct Node {
    pub(super) core: Scheduler,
    pub(super) id: NodeId,
    pub(super) machine: usize,
    pub(super) total: Resources,
    addr: ProcessAddr,
    epoch_us: u64,
    pub(super) registered: bool,
    reported: Resources,
    report_due: bool,
    askers: BTreeMap<Asker, Way>,
    next_asker: Asker,
    starts: BTreeMap<u64, Started>,
    by_process: BTreeMap<ProcessId, u64>,
    unreachable: BTreeSet<ProcessId>,
}

impl Node {
    pub(super) fn new(addr: ProcessAddr, id: NodeId, machine: usize, total: Resources, now_us: u64) -> Self {
        let name = format!("n{machine}");
        let config = SchedulerConfig {
            node: id,
            name,
            process: addr,
            total: total.clone(),
            labels: BTreeMap::new(),
            gpus: Vec::new(),
            in_process: false,
        };
        Self {
            core: Scheduler::new(config),
            id,
            machine,
            reported: total.clone(),
            total,
            addr,
            epoch_us: now_us,
            registered: false,
            report_due: false,
            askers: BTreeMap::new(),
            next_asker: 0,
            starts: BTreeMap::new(),
            by_process: BTreeMap::new(),
            unreachable: BTreeSet::new(),
        }
    }

    /// The job of a worker that is being started.
    pub(super) fn job_of(&self, start: u64) -> Option<JobId> {
        self.starts.get(&start).map(|started| started.job)
    }

    pub(super) fn now(&self, now_us: u64) -> Duration {
        Duration::from_micros(now_us - self.epoch_us)
    }

    /// I1: nothing is leased that is not there; only a task that takes its CPU back may overdraw.
    fn check_overdraft(&self, before: &Resources, cx: &mut Cx<'_>) {
        for (name, free) in self.core.available().iter().filter(|(_, free)| *free < 0) {
            if free < before.fractions(name).min(0) {
                cx.record.violated(format!("I1: node {} has leased more {name} than it has: {free}", self.machine));
            }
        }
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            node: self.id,
            name: format!("n{}", self.machine),
            process: self.addr,
            head: false,
            total: self.core.total().clone(),
            available: self.core.available().clone(),
            labels: BTreeMap::new(),
            alive: true,
            death_reason: None,
            store_dir: String::new(),
            host_proof: String::new(),
            pid: 1,
        }
    }

    pub(super) fn handle(&mut self, input: Input, cx: &mut Cx<'_>) {
        let now = self.now(cx.now_us);
        let before = self.core.available().clone();
        let takes_back = matches!(
            &input,
            Input::Message { body: Body::Blocked(LeaseBlocked { blocked: false, .. }), .. }
                | Input::Asked { ask: Ask::ReturnBundles(_), .. }
        );
        match input {
            Input::Start => {
                cx.after(TICK_US, Timer::RayletTick);
                cx.after(HEARTBEAT_US, Timer::Beat);
                cx.after(ASK_FOR_UNREACHABLE_US, Timer::AskForUnreachable);
                self.register(now, cx);
            }
            Input::Timer(timer) => self.timer(timer, now, cx),
            Input::Message { from, body } => self.message(from, body, now, cx),
            Input::Asked { from, way, ask } => self.asked(from, way, ask, now, cx),
            Input::Answered { then, answer } => self.answered(then, answer, now, cx),
            Input::Event(event) => self.on_event(event, now, cx),
            Input::Bounced { to, error } => {
                if matches!(error, SendError::Gone { .. } | SendError::NoSuchActor) && to != gcs() {
                    self.core.client_died(to.process.id, now);
                }
            }
            Input::Peer(Peer::Gone(process, why)) => self.process_died(process, &why, now, cx),
            Input::Peer(Peer::Interrupted(process)) => self.core.interrupted(process),
            Input::Peer(Peer::Lost(process)) => {
                self.core.interrupted(process);
                self.unreachable.insert(process);
            }
            Input::Peer(Peer::Connected(process)) => drop(self.unreachable.remove(&process)),
            Input::Exited { start, how, culprit } => self.worker_exited(start, &how, culprit, now, cx),
            Input::LaunchFailed { start } => self.start_failed(start, "no memory", false, now),
        }
        if !takes_back {
            self.check_overdraft(&before, cx);
        }
        self.act(cx);
    }

    fn timer(&mut self, timer: Timer, now: Duration, cx: &mut Cx<'_>) {
        match timer {
            Timer::RayletTick => {
                cx.after(TICK_US, Timer::RayletTick);
                if self.core.is_busy() {
                    self.core.tick(now);
                }
            }
            Timer::Beat => {
                cx.after(HEARTBEAT_US, Timer::Beat);
                self.heartbeat(now, cx);
            }
            Timer::Report => {
                self.report_due = false;
                if *self.core.available() != self.reported {
                    self.heartbeat(now, cx);
                }
            }
            Timer::AskForUnreachable => {
                cx.after(ASK_FOR_UNREACHABLE_US, Timer::AskForUnreachable);
                self.unreachable.retain(|process| self.core.is_client(*process));
                if !self.unreachable.is_empty() {
                    let question = Ask::DeadAmong(self.unreachable.iter().copied().collect());
                    cx.ask(MailboxId::RAYLET, gcs(), question, GCS_WITHIN, Then::Unreachable);
                }
            }
            Timer::RegisterAgain => self.register(now, cx),
            Timer::SubscribeAgain => self.subscribe(cx),
            Timer::Kill { start } => {
                if self.starts.contains_key(&start) {
                    cx.out.push(Out::Kill { start });
                }
            }
            Timer::NotRegistered { start } => {
                if self.starts.get(&start).is_some_and(|started| started.process.is_none()) {
                    cx.out.push(Out::Kill { start });
                    self.start_failed(start, "it did not register", false, now);
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn message(&mut self, from: Address, body: Body, now: Duration, cx: &mut Cx<'_>) {
        match body {
            Body::Want(want) => self.core.want(want, now),
            Body::Forget(forget) => self.core.forget_queue(forget),
            Body::Return(leases) => {
                if !cx.record.loses_return() {
                    self.core.return_leases(&leases, now);
                }
            }
            Body::Held(held) => self.core.held_leases(&held, now),
            Body::Blocked(blocked) => self.core.lease_blocked(blocked.lease, blocked.blocked, now),
            Body::CancelActor(cancel) => self.core.cancel_actor(cancel.actor, cancel.incarnation, now),
            other => unreachable!("{from:?} says this to a raylet: {other:?}"),
        }
    }

    fn asked(&mut self, from: ProcessAddr, way: Way, ask: Ask, now: Duration, cx: &mut Cx<'_>) {
        match ask {
            Ask::LeaseActor(request) => {
                self.next_asker += 1;
                self.askers.insert(self.next_asker, way);
                self.core.lease_actor(gcs(), request, now, self.next_asker);
            }
            Ask::Prepare(prepare) => cx.answer(way, Answer::Prepared(self.core.prepare_bundles(&prepare, now))),
            Ask::Commit(commit) => cx.answer(way, Answer::Committed(self.core.commit_bundles(&commit, now))),
            Ask::ReturnBundles(back) => {
                self.core.return_bundles(&back, now);
                cx.answer(way, Answer::Unit);
            }
            Ask::RegisterWorker { start } => {
                let welcome = self.register_worker(start, from, now, cx);
                cx.answer(way, Answer::Welcome(welcome));
            }
            other => unreachable!("nobody asks a raylet this: {other:?}"),
        }
    }

    fn answered(&mut self, then: Then, answer: Result<Answer, SendError>, now: Duration, cx: &mut Cx<'_>) {
        match (then, answer) {
            (Then::Registered, Ok(Answer::Registered(Ok(())))) => {
                if !std::mem::replace(&mut self.registered, true) {
                    self.subscribe(cx);
                }
            }
            (Then::Registered, Ok(Answer::Registered(Err(why)))) => self.refused(why, cx),
            (Then::Registered | Then::Beat, Err(error @ SendError::Gone { .. })) => self.refused(error.to_string(), cx),
            (Then::Registered, _) => cx.after(GCS_AGAIN_US, Timer::RegisterAgain),
            (Then::Beat, Ok(Answer::Beat(HeartbeatReply::Unknown))) => self.register(now, cx),
            (Then::Beat, _) => {}
            (Then::JobOf { start }, Ok(Answer::Job(Some(_)))) => {
                if self.starts.contains_key(&start) {
                    cx.out.push(Out::Launch { start });
                    cx.after(REGISTER_WITHIN_US, Timer::NotRegistered { start });
                }
            }
            (Then::JobOf { start }, Ok(_)) => self.start_failed(start, "the head does not know the job", true, now),
            (Then::JobOf { start }, Err(_)) => self.start_failed(start, "the head did not say", false, now),
            (Then::Review(job), Ok(Answer::Job(info))) => {
                if info.is_none_or(|info| info.ended_unix_s.is_some()) {
                    self.core.job_finished(job, now);
                }
            }
            (Then::Unreachable, Ok(Answer::Dead(dead))) => {
                for process in dead {
                    self.process_died(process, "the head does not know it any more", now, cx);
                }
            }
            (Then::Unreachable | Then::Review(_), _) => {}
            (Then::Stream, _) => cx.after(GCS_AGAIN_US, Timer::SubscribeAgain),
            (other, answer) => unreachable!("{other:?}: {answer:?}"),
        }
    }

    fn refused(&mut self, why: String, cx: &mut Cx<'_>) {
        cx.out.push(Out::Exit { how: format!("the head does not want it: {why}"), culprit: Culprit::Unknown });
    }

    fn register(&mut self, now: Duration, cx: &mut Cx<'_>) {
        self.core.forget_actor_wants(now);
        self.reported = self.core.available().clone();
        let message = RegisterNode {
            info: self.info(),
            actors: self.core.hosted_actors(),
            processes: self.core.processes(),
            bundles: self.core.held_bundles(),
        };
        cx.ask(MailboxId::RAYLET, gcs(), Ask::RegisterNode(message), GCS_WITHIN, Then::Registered);
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>) {
        cx.ask(MailboxId::RAYLET, gcs(), Ask::Subscribe(Subscribe::Everything), GCS_WITHIN, Then::Stream);
    }

    fn heartbeat(&mut self, now: Duration, cx: &mut Cx<'_>) {
        if !self.registered {
            return;
        }
        self.reported = self.core.available().clone();
        let beat = Heartbeat {
            node: self.id,
            available: self.reported.clone(),
            pending: self.core.pending(now),
            store_used_bytes: 0,
            workers: self.core.processes().len() as u32,
            bundles: self.core.held_bundles(),
        };
        cx.ask(MailboxId::RAYLET, gcs(), Ask::Heartbeat(beat), GCS_WITHIN, Then::Beat);
    }

    fn on_event(&mut self, event: ClusterEvent, now: Duration, cx: &mut Cx<'_>) {
        match event {
            ClusterEvent::View(view) => {
                self.core.set_view(view, now);
                self.core.events_missed(now);
                // Which of the jobs here still run?
                for job in self.core.jobs() {
                    cx.ask(MailboxId::RAYLET, gcs(), Ask::GetJob(job), GCS_WITHIN, Then::Review(job));
                }
            }
            ClusterEvent::NodeJoined(info) => self.core.node_joined(info, now),
            ClusterEvent::RoomChanged { node, named } => self.core.room_changed(node, &named, now),
            ClusterEvent::GroupRemoved(group) => self.core.group_gone(group),
            ClusterEvent::NodeDied { node, why, .. } if node.node == self.id => self.refused(why, cx),
            ClusterEvent::NodeDied { node, why, processes } => {
                self.core.node_died(node.node, now);
                for process in processes.iter().chain([&node.process]) {
                    self.process_died(process.id, &why, now, cx);
                }
            }
            ClusterEvent::ProcessDied { process, why, .. } => self.process_died(process.id, &why, now, cx),
            ClusterEvent::JobFinished(job) => self.core.job_finished(job, now),
            ClusterEvent::Resources(changes) => self.core.resources_changed(changes, now),
        }
    }

    fn process_died(&mut self, process: ProcessId, why: &str, now: Duration, cx: &mut Cx<'_>) {
        if process != self.addr.id {
            self.unreachable.remove(&process);
            cx.out.push(Out::MarkGone { process, why: why.to_owned() });
            self.core.client_died(process, now);
        }
    }

    fn register_worker(&mut self, start: u64, from: ProcessAddr, now: Duration, cx: &mut Cx<'_>) -> bool {
        let Some(started) = self.starts.get_mut(&start) else { return false };
        started.process = Some(from);
        self.by_process.insert(from.id, start);
        if !self.core.worker_ready(start, from, 1, now) {
            return false;
        }
        let up = ProcessUp { node: self.id, process: from, pid: 1 };
        cx.insist(MailboxId::RAYLET, gcs(), Ask::ProcessUp(up));
        true
    }

    fn start_failed(&mut self, start: u64, why: &str, for_good: bool, now: Duration) {
        if self.starts.remove(&start).is_some() {
            self.core.worker_failed(start, why, for_good, now);
        }
    }

    fn worker_exited(&mut self, start: u64, how: &str, culprit: Culprit, now: Duration, cx: &mut Cx<'_>) {
        let Some(started) = self.starts.remove(&start) else { return };
        let Some(process) = started.process else {
            return self.core.worker_failed(start, how, false, now);
        };
        self.by_process.remove(&process.id);
        let culprit = match culprit {
            Culprit::Task { owner, .. } if owner == process.id => Culprit::Unknown,
            known => known,
        };
        self.core.worker_died(process.id, how, culprit, now);
        self.act(cx);
        cx.out.push(Out::MarkGone { process: process.id, why: how.to_owned() });
        let down = ProcessDown { node: self.id, process, why: how.to_owned(), culprit };
        cx.insist(MailboxId::RAYLET, gcs(), Ask::ProcessDown(down));
    }

    fn act(&mut self, cx: &mut Cx<'_>) {
        let me = MailboxId::RAYLET;
        for effect in self.core.take_effects() {
            match effect {
                Effect::Grant(client, granted) => cx.send(me, client, Body::Granted(granted)),
                Effect::Redirect(client, redirected) => cx.send(me, client, Body::Redirected(redirected)),
                Effect::Kept(client, kept) => cx.send(me, client, Body::Kept(kept)),
                Effect::Lost(client, lost) => cx.send(me, client, Body::Lost(lost)),
                Effect::Pending(client, pending) => cx.send(me, client, Body::Pending(pending)),
                Effect::GroupGone(client, gone) => cx.send(me, client, Body::GroupGone(gone)),
                Effect::ReclaimIdle(client) => cx.send(me, client, Body::ReclaimIdle),
                Effect::ActorLeased(asker, answer) => {
                    if let Some(way) = self.askers.remove(&asker) {
                        cx.answer(way, Answer::Leased(answer));
                    }
                }
                Effect::ForgetAsker(asker) => {
                    if let Some(way) = self.askers.remove(&asker) {
                        cx.out.push(Out::Answer { way, answer: Err(SendError::Dropped) });
                    }
                }
                Effect::StartWorker { start, job, .. } => {
                    self.starts.insert(start, Started { job, process: None });
                    cx.ask(me, gcs(), Ask::GetJob(job), GCS_WITHIN, Then::JobOf { start });
                }
                Effect::StopWorker { worker, kill, .. } => {
                    let Some(start) = self.by_process.get(&worker.id).copied() else { continue };
                    cx.send(me, Address { process: worker, mailbox: MailboxId::WORKER }, Body::StopWorker);
                    cx.after(if kill { KILL_GRACE_US } else { STOP_GRACE_US }, Timer::Kill { start });
                }
                Effect::LeaseGpus(..) => unreachable!("there are no GPUs here"),
                Effect::AbortStart(start) => {
                    cx.out.push(Out::Kill { start });
                    self.starts.remove(&start);
                }
            }
        }
        if self.registered && !self.report_due && *self.core.available() != self.reported {
            self.report_due = true;
            cx.after(REPORT_US, Timer::Report);
        }
    }
}
