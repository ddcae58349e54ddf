//! A client: the real [`Submitter`]s, [`Doubts`] and [`Attempts`], and around them the rules of
//! `client`: what is run again, what fails, what is asked again. [`Driver`] is a client with a
//! program.

mod actors;
mod groups;
mod leases;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};

use self::actors::ActorQueue;
use self::groups::Awaited;
use super::message::{Answer, Ask, Body, Input, Outcome, Peer, Then, Timer};
use super::process::{Cx, MS, SECOND};
use super::program::{Action, Code, Program};
use super::worker::{follow, heard};
use super::world::gcs;
use crate::client::{Attempts, Doubts, Submitter};
use crate::error::Error;
use crate::ids::{ActorId, JobId, LeaseId, PlacementGroupId};
use crate::messages::Shape;

/// How often a client that has leases looks at them; rarer than in earnest.
const TICK_US: u64 = 20 * MS;
const RETRY_US: u64 = 100 * MS;
const GCS_WITHIN: Duration = Duration::from_secs(30);
const JOB_BEAT_US: u64 = SECOND;
const FOLLOW_AGAIN_US: u64 = 500 * MS;

/// An argument.
#[derive(Clone, Debug)]
pub(super) enum Arg {
    Value(u64),
    Object(u64),
}

/// Where work goes.
enum Work {
    Task { shape: Shape, queued: bool, lease: Option<LeaseId> },
    Call { actor: ActorId },
}

/// A task or call whose end has not been seen.
struct Task {
    code: Arc<Code>,
    args: Vec<Arg>,
    work: Work,
    attempts: Attempts,
    max_retries: u32,
    /// The run that has submitted it, in a worker.
    parent: u64,
    cancelled: bool,
    /// Arguments that are not there yet.
    unsettled: BTreeSet<u64>,
}

/// The tasks of one shape.
struct Queue {
    number: u64,
    submitter: Submitter,
}

/// The client of a process.
pub(super) struct Client {
    me: ProcessAddr,
    home: Address,
    job: JobId,
    next_seq: u64,
    queues: BTreeMap<Shape, Queue>,
    tasks: BTreeMap<u64, Task>,
    actors: BTreeMap<ActorId, ActorQueue>,
    groups: BTreeMap<PlacementGroupId, Awaited>,
    doubts: Doubts,
    broken: BTreeSet<ProcessId>,
    forgotten_at: BTreeMap<ProcessId, Address>,
    ticking: bool,
    /// What has settled.
    pub(super) results: BTreeMap<u64, Outcome>,
}

impl Client {
    pub(super) fn new(me: ProcessAddr, home: Address, job: JobId) -> Self {
        Self {
            me,
            home,
            job,
            next_seq: 0,
            queues: BTreeMap::new(),
            tasks: BTreeMap::new(),
            actors: BTreeMap::new(),
            groups: BTreeMap::new(),
            doubts: Doubts::default(),
            broken: BTreeSet::new(),
            forgotten_at: BTreeMap::new(),
            ticking: false,
            results: BTreeMap::new(),
        }
    }

    fn address(&self) -> Address {
        Address { process: self.me, mailbox: MailboxId::CLIENT }
    }

    fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Whether nothing is pending.
    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// What is pending, for people.
    pub(super) fn describe(&self) -> String {
        let of = |task: &Task| match &task.work {
            Work::Task { lease, queued, shape } => {
                format!(
                    "task {} lease {lease:?} queued {queued} unsettled {:?} {shape:?}",
                    task.code.id, task.unsettled
                )
            }
            Work::Call { actor } => format!("call {} of {actor} unsettled {:?}", task.code.id, task.unsettled),
        };
        let tasks: Vec<String> = self.tasks.iter().map(|(seq, task)| format!("{seq}: {}", of(task))).collect();
        let queues: Vec<String> = self.queues.values().map(|queue| format!("{:?}", queue.submitter)).collect();
        let actors: Vec<String> = self.actors.iter().map(|(id, queue)| format!("{id}: {}", queue.describe())).collect();
        format!("{}\n  {}\n  {}", tasks.join("\n  "), queues.join("\n  "), actors.join("\n  "))
    }

    pub(super) fn handle(&mut self, input: Input, cx: &mut Cx<'_>) {
        match input {
            Input::Message { from, body } => self.message(from, body, cx),
            Input::Peer(peer) => match peer {
                Peer::Interrupted(process) => self.interrupted(process, cx),
                Peer::Connected(process) => self.reconnected(process, cx),
                Peer::Lost(process) => {
                    self.process_unreachable(process, cx);
                    if self.broken.contains(&process) {
                        cx.after(5 * SECOND, Timer::ReachAgain(process));
                    }
                }
                Peer::Gone(process, why) => {
                    self.process_gone(process, &why, crate::culprit::Culprit::Unknown, cx);
                }
            },
            Input::Bounced { to, error } => {
                let raylet = to.mailbox == MailboxId::RAYLET && to != self.home;
                if (to.mailbox == MailboxId::WORKER || raylet)
                    && matches!(error, SendError::Gone { .. } | SendError::NoSuchActor)
                {
                    let culprit = crate::culprit::Culprit::Unknown;
                    self.process_gone(to.process.id, &error.to_string(), culprit, cx);
                }
            }
            Input::Timer(Timer::ClientTick) => self.tick(cx),
            Input::Timer(Timer::ReachAgain(process)) => {
                if self.broken.contains(&process) {
                    self.tell_held(process, cx);
                }
            }
            Input::Timer(Timer::CreateAgain(spec)) => self.ask_to_create(*spec, cx),
            Input::Timer(Timer::ResolveAgain(actor)) => self.resolve(actor, cx),
            Input::Timer(Timer::GroupAgain(spec)) => self.ask_for_group(spec, cx),
            Input::Timer(Timer::ReadyAgain(group)) => self.ask_whether_ready(group, cx),
            Input::Answered { then, answer } => match then {
                Then::Created(spec) => self.created(spec, answer, cx),
                Then::Located(actor) => self.resolved(actor, answer, cx),
                Then::GroupMade(spec) => self.group_answered(spec, answer, cx),
                Then::GroupReady(group) => self.ready_answered(group, answer, cx),
                other => unreachable!("{other:?}"),
            },
            other => unreachable!("{other:?}"),
        }
    }

    fn message(&mut self, from: Address, body: Body, cx: &mut Cx<'_>) {
        match body {
            Body::Granted(granted) => self.lease_granted(granted, from, cx),
            Body::Redirected(redirected) => {
                if self.is_numbered(&redirected.shape, redirected.queue) {
                    let (to, count, hops) = (redirected.to, redirected.count, redirected.hops);
                    self.step(&redirected.shape, cx, |s, _, out| s.redirected(from, to, count, hops, out));
                }
            }
            Body::Lost(lost) => self.process_gone(lost.worker.id, &lost.why, lost.culprit, cx),
            Body::Died { process, why, culprit } => self.process_gone(process, &why, culprit, cx),
            Body::Kept(kept) => self.leases_kept(from, kept, cx),
            Body::Pending(pending) => self.told_pending(from, &pending, cx),
            Body::GroupGone(gone) => self.group_gone(&gone, cx),
            Body::ReclaimIdle => {
                for shape in self.shapes() {
                    self.step(&shape, cx, Submitter::give_back_idle);
                }
            }
            Body::Done { seq, attempt, outcome, run_us } => self.task_done(seq, attempt, outcome, run_us, cx),
            Body::Returned { lease, seqs } => self.tasks_returned(lease, &seqs, cx),
            Body::Missing(tasks) => self.tasks_missing(from.process.id, &tasks, cx),
            other => unreachable!("{from:?} says this to a client: {other:?}"),
        }
    }

    fn shapes(&self) -> Vec<Shape> {
        self.queues.keys().cloned().collect()
    }

    /// Work has ended: who waits for it goes on.
    fn settle(&mut self, seq: u64, outcome: Outcome, cx: &mut Cx<'_>) {
        if self.results.insert(seq, outcome).is_some() {
            cx.record.violated(format!("{:?} has settled {seq} twice", self.me));
        }
        let waiting: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.unsettled.contains(&seq)).map(|(seq, _)| *seq).collect();
        for waiter in waiting {
            let Some(task) = self.tasks.get_mut(&waiter) else { continue };
            task.unsettled.remove(&seq);
            if task.unsettled.is_empty() {
                self.arguments_settled(waiter, cx);
            }
        }
    }

    /// Work ends with this, and it was the last of it.
    fn end(&mut self, seq: u64, task: Task, outcome: Outcome, cx: &mut Cx<'_>) {
        if task.cancelled {
            return;
        }
        let mut args = Vec::new();
        for arg in &task.args {
            args.push(match arg {
                Arg::Value(value) => Some(Ok(*value)),
                Arg::Object(of) => self.results.get(of).cloned(),
            });
        }
        cx.record.ends(&task.code, &args, &outcome, task.attempts.charged(), task.max_retries);
        self.settle(seq, outcome, cx);
    }

    fn fail(&mut self, seq: u64, error: &Error, cx: &mut Cx<'_>) {
        if let Some(task) = self.tasks.remove(&seq) {
            self.end(seq, task, Err(error.clone()), cx);
        }
    }

    fn failed_argument(&self, seq: u64) -> Option<Error> {
        let task = self.tasks.get(&seq)?;
        task.args.iter().find_map(|arg| match arg {
            Arg::Object(of) => self.results.get(of)?.as_ref().err().cloned(),
            Arg::Value(_) => None,
        })
    }

    /// All arguments of a piece of work are there, or have failed.
    fn arguments_settled(&mut self, seq: u64, cx: &mut Cx<'_>) {
        let failed = self.failed_argument(seq);
        let Some(task) = self.tasks.get(&seq) else { return };
        match task.work {
            Work::Call { actor } => {
                if let Some(error) = failed {
                    self.fail(seq, &error, cx);
                }
                self.call_is_ready(actor, seq, cx);
            }
            Work::Task { .. } => match failed {
                Some(error) => self.fail(seq, &error, cx),
                None => self.enqueue_new(seq, cx),
            },
        }
    }

    fn unsettled(&self, args: &[Arg]) -> BTreeSet<u64> {
        let objects = args.iter().filter_map(|arg| match arg {
            Arg::Object(seq) if !self.results.contains_key(seq) => Some(*seq),
            _ => None,
        });
        objects.collect()
    }

    /// What is sent to a worker.
    fn run_of(&self, seq: u64) -> Option<super::message::Run> {
        let task = self.tasks.get(&seq)?;
        let mut args = Vec::new();
        for arg in &task.args {
            args.push(match arg {
                Arg::Value(value) => *value,
                Arg::Object(of) => *self.results.get(of)?.as_ref().ok()?,
            });
        }
        Some(super::message::Run { seq, attempt: task.attempts.number(), code: task.code.clone(), args })
    }
}

/// A driver: a client that carries out a program.
pub(super) struct Driver {
    pub(super) client: Client,
    pub(super) index: usize,
    pub(super) program: Program,
    next_action: usize,
    started_us: u64,
    /// What became of each action: the number of its result, its actor, its group.
    seqs: BTreeMap<usize, u64>,
    job: Option<JobId>,
}

impl Driver {
    pub(super) fn new(addr: ProcessAddr, home: ProcessAddr, index: usize, program: Program) -> Self {
        let home = Address { process: home, mailbox: MailboxId::RAYLET };
        let job = JobId(addr.id.0);
        Self {
            client: Client::new(addr, home, job),
            index,
            program,
            next_action: 0,
            started_us: 0,
            seqs: BTreeMap::new(),
            job: None,
        }
    }

    /// Whether its program has been carried out and all it waits for has ended.
    pub(super) fn is_done(&self) -> bool {
        self.next_action == self.program.actions.len() && self.client.is_idle() && self.awaited_all()
    }

    fn awaited_all(&self) -> bool {
        self.seqs.values().all(|seq| self.client.results.contains_key(seq))
    }

    pub(super) fn describe(&self) -> String {
        let open: Vec<_> = self.seqs.iter().filter(|(_, seq)| !self.client.results.contains_key(seq)).collect();
        let actions = self.program.actions.len();
        format!("action {} of {actions}, open {open:?}\n  {}", self.next_action, self.client.describe())
    }

    pub(super) fn handle(&mut self, input: Input, cx: &mut Cx<'_>) {
        match input {
            Input::Start | Input::Timer(Timer::RegisterJobAgain) => {
                cx.ask(MailboxId::CLIENT, gcs(), Ask::RegisterJob, GCS_WITHIN, Then::Taken);
            }
            Input::Answered { then: Then::Taken, answer } => match answer {
                Ok(Answer::Taken(Ok(job))) => {
                    self.job = Some(job);
                    self.started_us = cx.now_us;
                    follow(cx);
                    cx.after(JOB_BEAT_US, Timer::JobBeat);
                    cx.after(0, Timer::Act);
                }
                _ => cx.after(SECOND, Timer::RegisterJobAgain),
            },
            Input::Timer(Timer::JobBeat) => {
                if let Some(job) = self.job {
                    cx.ask(MailboxId::CLIENT, gcs(), Ask::JobHeartbeat(job), Duration::from_secs(10), Then::JobBeat);
                }
            }
            Input::Answered { then: Then::JobBeat, answer } => {
                if matches!(answer, Ok(Answer::Runs(false)) | Err(SendError::Gone { .. })) {
                    // The head has ended the job: whatever this program waits for, it waits in vain.
                    let how = "the head has ended its job".to_owned();
                    let culprit = crate::culprit::Culprit::Unknown;
                    return cx.out.push(super::process::Out::Exit { how, culprit });
                }
                cx.after(JOB_BEAT_US, Timer::JobBeat);
            }
            Input::Answered { then: Then::Stream, .. } => cx.after(FOLLOW_AGAIN_US, Timer::SubscribeAgain),
            Input::Timer(Timer::SubscribeAgain) => follow(cx),
            Input::Event(event) => heard(event, cx),
            Input::Timer(Timer::Act) => self.act(cx),
            Input::Timer(Timer::Farewell) => {
                for ask in self.farewell() {
                    cx.insist(MailboxId::CLIENT, gcs(), ask);
                }
            }
            other => self.client.handle(other, cx),
        }
    }

    /// Carries out what is due.
    fn act(&mut self, cx: &mut Cx<'_>) {
        while let Some(at_us) = self.program.actions.get(self.next_action).map(|(at_us, _)| *at_us) {
            let due = self.started_us + at_us;
            if due > cx.now_us {
                return cx.after(due - cx.now_us, Timer::Act);
            }
            let n = self.next_action;
            self.next_action += 1;
            let (_, action) = self.program.actions[n].clone();
            self.carry_out(n, action, cx);
        }
    }

    fn carry_out(&mut self, n: usize, action: Action, cx: &mut Cx<'_>) {
        let args_of = |seqs: &BTreeMap<usize, u64>, deps: &[usize]| -> Vec<Arg> {
            deps.iter().filter_map(|dep| seqs.get(dep)).map(|seq| Arg::Object(*seq)).collect()
        };
        match action {
            Action::Task { code, deps, shape, retries } => {
                let mut args = vec![Arg::Value(n as u64)];
                args.extend(args_of(&self.seqs, &deps));
                let shape = cx.record.shape_of(self.client.job, &shape);
                let seq = self.client.submit(code, args, shape, retries, 0, cx);
                self.seqs.insert(n, seq);
            }
            Action::Actor { actor, spec } => {
                let spec = cx.record.spec_of(self.client.address(), self.client.job, actor, &spec);
                self.client.create_actor(spec, cx);
            }
            Action::Call { actor, code, deps } => {
                let args = args_of(&self.seqs, &deps);
                let seq = self.client.call(actor, code, args, cx);
                self.seqs.insert(n, seq);
            }
            Action::Kill { actor, no_restart } => {
                cx.insist(MailboxId::CLIENT, gcs(), Ask::KillActor { actor, no_restart });
            }
            Action::Cancel { of } => {
                if let Some(seq) = self.seqs.get(&of) {
                    self.client.cancel(*seq, cx);
                }
            }
            Action::Group { group, strategy, bundles } => {
                self.client.create_group(group, strategy, bundles, cx);
            }
            Action::Await { group } => {
                let seq = self.client.group_ready(group, cx);
                self.seqs.insert(n, seq);
            }
            Action::Remove { group } => self.client.remove_group(group, cx),
            Action::Forget => self.client.forget_idle_queues(cx),
        }
    }

    /// Its process.
    pub(super) fn addr(&self) -> ProcessAddr {
        self.client.me
    }

    /// What ends all that the program has made.
    fn farewell(&self) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (_, action) in &self.program.actions {
            match action {
                Action::Actor { actor, .. } => asks.push(Ask::KillActor { actor: *actor, no_restart: true }),
                Action::Group { group, .. } => asks.push(Ask::RemoveGroup(*group)),
                _ => {}
            }
        }
        asks
    }
}
