//! Actors: made, found, called. As `client::actors` and `client::actor_queue`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};

use super::super::message::{Answer, Ask, Body, Then, Timer};
use super::super::process::Cx;
use super::super::program::Code;
use super::super::world::gcs;
use super::{Arg, Client, GCS_WITHIN, RETRY_US, Task, Work};
use crate::client::Attempts;
use crate::error::Error;
use crate::ids::ActorId;
use crate::messages::{ActorLocation, ActorSpec};

enum State {
    Resolving,
    Alive { worker: ProcessAddr, incarnation: u32 },
    Dead(Error),
}

/// The calls of one actor made by this client.
pub(super) struct ActorQueue {
    state: State,
    waiting: VecDeque<u64>,
    unready: BTreeSet<u64>,
    in_flight: BTreeMap<u64, ProcessAddr>,
}

impl ActorQueue {
    fn new() -> Self {
        Self { state: State::Resolving, waiting: VecDeque::new(), unready: BTreeSet::new(), in_flight: BTreeMap::new() }
    }

    pub(super) fn in_flight_at(&self, worker: ProcessId) -> Vec<(ProcessAddr, u64)> {
        self.in_flight.iter().filter(|(_, to)| to.id == worker).map(|(seq, to)| (*to, *seq)).collect()
    }

    pub(super) fn describe(&self) -> String {
        let state = match &self.state {
            State::Resolving => "resolving".to_owned(),
            State::Alive { worker, incarnation } => format!("alive in {worker:?} as {incarnation}"),
            State::Dead(error) => format!("dead: {error}"),
        };
        format!("{state}, waiting {:?} unready {:?} in flight {:?}", self.waiting, self.unready, self.in_flight)
    }
}

impl Client {
    pub(in crate::simulation) fn create_actor(&mut self, spec: ActorSpec, cx: &mut Cx<'_>) {
        self.actors.insert(spec.actor, ActorQueue::new());
        self.ask_to_create(spec, cx);
    }

    pub(super) fn ask_to_create(&mut self, spec: ActorSpec, cx: &mut Cx<'_>) {
        cx.ask(MailboxId::CLIENT, gcs(), Ask::CreateActor(spec.clone()), GCS_WITHIN, Then::Created(spec));
    }

    pub(super) fn created(&mut self, spec: ActorSpec, answer: Result<Answer, SendError>, cx: &mut Cx<'_>) {
        match answer {
            Ok(Answer::Done(Ok(()))) => self.resolve(spec.actor, cx),
            Ok(Answer::Done(Err(error))) => self.located(spec.actor, ActorLocation::Dead(Box::new(error)), cx),
            Err(error) if error.is_retriable() => cx.after(RETRY_US, Timer::CreateAgain(Box::new(spec))),
            Err(error) => {
                cx.insist(MailboxId::CLIENT, gcs(), Ask::KillActor { actor: spec.actor, no_restart: true });
                self.located(spec.actor, ActorLocation::Dead(Box::new(error.into())), cx);
            }
            Ok(other) => unreachable!("{other:?}"),
        }
    }

    pub(super) fn resolve(&mut self, actor: ActorId, cx: &mut Cx<'_>) {
        cx.ask(MailboxId::CLIENT, gcs(), Ask::Resolve(actor), GCS_WITHIN, Then::Located(actor));
    }

    pub(super) fn resolved(&mut self, actor: ActorId, answer: Result<Answer, SendError>, cx: &mut Cx<'_>) {
        match answer {
            Ok(Answer::Located(location)) => self.located(actor, location, cx),
            Err(SendError::Closed) | Ok(_) => unreachable!("{answer:?}"),
            Err(_) => cx.after(RETRY_US, Timer::ResolveAgain(actor)),
        }
    }

    fn located(&mut self, actor: ActorId, location: ActorLocation, cx: &mut Cx<'_>) {
        let Some(queue) = self.actors.get_mut(&actor) else { return };
        match location {
            ActorLocation::Alive { worker, incarnation } => {
                queue.state = State::Alive { worker, incarnation };
                self.send_ready(actor, cx);
            }
            ActorLocation::Dead(error) => {
                queue.state = State::Dead((*error).clone());
                let mut seqs: Vec<u64> = std::mem::take(&mut queue.in_flight).into_keys().collect();
                seqs.extend(queue.waiting.drain(..));
                queue.unready.clear();
                for seq in seqs {
                    self.fail(seq, &error, cx);
                }
            }
        }
    }

    pub(in crate::simulation) fn call(
        &mut self,
        actor: ActorId,
        code: Arc<Code>,
        args: Vec<Arg>,
        cx: &mut Cx<'_>,
    ) -> u64 {
        let seq = self.next_seq();
        cx.record.submitted(&code);
        let unsettled = self.unsettled(&args);
        let ready = unsettled.is_empty();
        let (work, attempts) = (Work::Call { actor }, Attempts::default());
        let task = Task { code, args, work, attempts, max_retries: 0, parent: 0, cancelled: false, unsettled };
        self.tasks.insert(seq, task);
        if ready && let Some(error) = self.failed_argument(seq) {
            self.fail(seq, &error, cx);
            return seq;
        }
        let queue = self.actors.entry(actor).or_insert_with(ActorQueue::new);
        if let State::Dead(error) = &queue.state {
            let error = error.clone();
            self.fail(seq, &error, cx);
            return seq;
        }
        queue.waiting.push_back(seq);
        if !ready {
            queue.unready.insert(seq);
        }
        self.send_ready(actor, cx);
        seq
    }

    pub(super) fn call_is_ready(&mut self, actor: ActorId, seq: u64, cx: &mut Cx<'_>) {
        if let Some(queue) = self.actors.get_mut(&actor) {
            queue.unready.remove(&seq);
        }
        self.send_ready(actor, cx);
    }

    pub(super) fn call_done(&mut self, actor: ActorId, seq: u64) {
        if let Some(queue) = self.actors.get_mut(&actor) {
            queue.in_flight.remove(&seq);
        }
    }

    pub(super) fn worker_of_call(&self, actor: ActorId, seq: u64) -> Option<ProcessAddr> {
        self.actors.get(&actor)?.in_flight.get(&seq).copied()
    }

    pub(super) fn call_missing(&mut self, actor: ActorId, worker: ProcessId, seq: u64, cx: &mut Cx<'_>) {
        let Some(queue) = self.actors.get_mut(&actor) else { return };
        if queue.in_flight.get(&seq).is_some_and(|to| to.id == worker) {
            queue.in_flight.remove(&seq);
            let why = "the connection to its worker broke".to_owned();
            self.fail(seq, &Error::ActorUnavailable { actor, why }, cx);
        }
    }

    /// The worker says that the actor is dead: the head knows what became of it.
    pub(super) fn suspect(&mut self, actor: ActorId, cx: &mut Cx<'_>) {
        let Some(queue) = self.actors.get_mut(&actor) else { return };
        if matches!(queue.state, State::Alive { .. }) {
            queue.state = State::Resolving;
            self.resolve(actor, cx);
        }
    }

    /// A worker process is dead, or cannot be reached.
    pub(super) fn actors_left(&mut self, process: ProcessId, why: &str, dead: bool, cx: &mut Cx<'_>) {
        for actor in self.actors.keys().copied().collect::<Vec<_>>() {
            let Some(queue) = self.actors.get_mut(&actor) else { continue };
            let here = matches!(&queue.state, State::Alive { worker, .. } if worker.id == process);
            if here {
                queue.state = State::Resolving;
            }
            let why = why.to_owned();
            let error = if dead { Error::ActorDied { actor, why } } else { Error::ActorUnavailable { actor, why } };
            let seqs: Vec<u64> =
                queue.in_flight.extract_if(.., |_, worker| worker.id == process).map(|(seq, _)| seq).collect();
            for seq in seqs {
                self.fail(seq, &error, cx);
            }
            if here {
                cx.after(RETRY_US, Timer::ResolveAgain(actor));
            }
        }
    }

    fn send_ready(&mut self, actor: ActorId, cx: &mut Cx<'_>) {
        let Some(queue) = self.actors.get_mut(&actor) else { return };
        let State::Alive { worker, incarnation } = queue.state else { return };
        let mut runs = Vec::new();
        while let Some(seq) = queue.waiting.front().copied().filter(|seq| !queue.unready.contains(seq)) {
            queue.waiting.pop_front();
            match self.tasks.get_mut(&seq) {
                Some(task) if !task.cancelled => {
                    task.attempts.push();
                    queue.in_flight.insert(seq, worker);
                    runs.push(seq);
                }
                _ => drop(self.tasks.remove(&seq)),
            }
        }
        let runs: Vec<_> = runs.into_iter().filter_map(|seq| self.run_of(seq)).collect();
        if !runs.is_empty() {
            let to = Address { process: worker, mailbox: MailboxId::WORKER };
            cx.send(MailboxId::CLIENT, to, Body::PushCalls { actor, incarnation, runs });
        }
    }
}
