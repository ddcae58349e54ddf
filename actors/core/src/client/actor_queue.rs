//! The calls of one actor made by this process: kept in order, and sent where the actor lives.
//!
//! ```text
//!   Resolving ──alive──▶ Alive ──worker lost──▶ Resolving ──dead──▶ Dead
//! ```
//!
//! A call leaves when all calls before it have left and its arguments are ready, so calls whose
//! arguments become ready in any order still arrive in the order they were made.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use mobula_transport::{Address, MailboxId, Payload, ProcessAddr, ProcessId, SendError};
use parking_lot::Mutex;

use super::Client;
use super::entry::{Entry, Outcome};
use super::pending::{BATCH_BYTES, payload_bytes};
use super::task_queue::refused;
use crate::delivery::{Fate, fate, insist};
use crate::error::Error;
use crate::ids::ActorId;
use crate::messages::{ActorLocation, KillActor, PushCalls, ResolveActor};

/// The most calls in one message.
const BATCH_LIMIT: usize = 512;

enum State {
    Resolving,
    Alive { worker: ProcessAddr, incarnation: u32 },
    Dead(Box<Error>),
}

struct Inner {
    state: State,
    /// Calls that have not left, oldest first.
    waiting: VecDeque<u64>,
    /// Those among them whose arguments are not ready.
    unready: HashSet<u64>,
    /// Calls that have left and not ended, and where they went.
    in_flight: BTreeMap<u64, ProcessAddr>,
    /// Settled when the constructor has returned.
    ready: Vec<Arc<Entry>>,
    /// The first incarnation has been seen alive, or the actor is dead.
    constructed: bool,
    /// A thread is sending calls; it will send what others add meanwhile, too.
    sending: bool,
    /// Calls are sent one by one: a message with several was refused.
    alone: bool,
}

/// The calls of one actor made by this process.
pub(crate) struct ActorQueue {
    actor: ActorId,
    class: String,
    client: Client,
    /// Whether the actor ends when the last handle in this process is dropped.
    ends_with_handles: std::sync::atomic::AtomicBool,
    inner: Mutex<Inner>,
}

impl ActorQueue {
    pub(crate) fn new(actor: ActorId, class: String, client: &Client, ends_with_handles: bool) -> Arc<Self> {
        Arc::new(Self {
            actor,
            class,
            client: client.clone(),
            ends_with_handles: ends_with_handles.into(),
            inner: Mutex::new(Inner {
                state: State::Resolving,
                waiting: VecDeque::new(),
                unready: HashSet::new(),
                in_flight: BTreeMap::new(),
                ready: Vec::new(),
                constructed: false,
                sending: false,
                alone: false,
            }),
        })
    }

    pub(crate) fn actor(&self) -> ActorId {
        self.actor
    }

    pub(crate) fn class(&self) -> &str {
        &self.class
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A handle has left the process: the actor now stays until its job ends or it is killed.
    pub(crate) fn keep(&self) {
        self.ends_with_handles.store(false, std::sync::atomic::Ordering::Relaxed);
    }

    /// Adds a call, after all made before. `ready` says whether its arguments are.
    pub(crate) fn enqueue(self: &Arc<Self>, seq: u64, ready: bool) {
        let mut inner = self.inner.lock();
        if let State::Dead(error) = &inner.state {
            let error = error.clone();
            drop(inner);
            self.client.fail_pending(seq, &error);
            return;
        }
        inner.waiting.push_back(seq);
        if !ready {
            inner.unready.insert(seq);
        }
        drop(inner);
        self.send_ready();
    }

    /// The arguments of a call are ready; or one has failed and the call with it, and those behind
    /// it need not wait.
    pub(crate) fn arguments_settled(self: &Arc<Self>, seq: u64) {
        self.inner.lock().unready.remove(&seq);
        self.send_ready();
    }

    /// A call has ended.
    pub(crate) fn done(&self, seq: u64) {
        self.inner.lock().in_flight.remove(&seq);
    }

    /// `entry` is settled when the constructor has returned.
    pub(crate) fn notify_ready(&self, entry: Arc<Entry>) {
        let mut inner = self.inner.lock();
        match &inner.state {
            State::Dead(error) => {
                let error = error.clone();
                drop(inner);
                entry.settle(Outcome::Failed(error));
            }
            _ if inner.constructed => {
                drop(inner);
                entry.settle(Outcome::unit());
            }
            _ => inner.ready.push(entry),
        }
    }

    /// Asks the GCS where the actor is, until it is alive or dead.
    pub(crate) fn resolve(self: &Arc<Self>) {
        let queue = Arc::downgrade(self);
        let (client, actor) = (self.client.clone(), self.actor);
        client.clone().ask_gcs(ResolveActor { actor }, move |answer| {
            let Some(queue) = queue.upgrade() else { return };
            match answer {
                Ok(location) => queue.located(location),
                Err(error) if client.is_open() && !matches!(error, mobula_transport::SendError::Closed) => {
                    tracing::debug!(%actor, %error, "asking the GCS for the actor again");
                    client.again_soon(move || queue.resolve());
                }
                Err(error) => queue.located(ActorLocation::Dead(Box::new(error.into()))),
            }
        });
    }

    /// The GCS said where the actor is.
    pub(crate) fn located(self: &Arc<Self>, location: ActorLocation) {
        let mut inner = self.inner.lock();
        match location {
            ActorLocation::Alive { worker, incarnation } => {
                inner.state = State::Alive { worker, incarnation };
                inner.constructed = true;
                let ready = std::mem::take(&mut inner.ready);
                drop(inner);
                self.client.constructed(self.actor);
                self.send_ready();
                for entry in ready {
                    entry.settle(Outcome::unit());
                }
            }
            ActorLocation::Dead(error) => {
                inner.state = State::Dead(error.clone());
                let ready = std::mem::take(&mut inner.ready);
                let mut seqs: Vec<u64> = std::mem::take(&mut inner.in_flight).into_keys().collect();
                seqs.extend(inner.waiting.drain(..));
                inner.unready.clear();
                drop(inner);
                self.client.forget_constructor(self.actor);
                for entry in ready {
                    entry.settle(Outcome::Failed(error.clone()));
                }
                for seq in seqs {
                    self.client.fail_pending(seq, &error);
                }
            }
        }
    }

    /// A worker process is dead. Calls that had left fail, for nobody knows whether they ran;
    /// those that wait go to the next incarnation, if there is one.
    pub(crate) fn process_gone(self: &Arc<Self>, process: ProcessId, why: &str) {
        self.leave(process, &Error::ActorDied { actor: self.actor, why: why.to_owned() });
    }

    /// A worker process cannot be reached. Calls that had left fail, for nobody knows whether they
    /// ran; those that wait go where the GCS says that the actor is.
    pub(crate) fn process_unreachable(self: &Arc<Self>, process: ProcessId, why: &str) {
        self.leave(process, &Error::ActorUnavailable { actor: self.actor, why: why.to_owned() });
    }

    fn leave(self: &Arc<Self>, process: ProcessId, error: &Error) {
        let mut inner = self.inner.lock();
        let here = matches!(&inner.state, State::Alive { worker, .. } if worker.id == process);
        if here {
            inner.state = State::Resolving;
        }
        // Whatever is known of the actor by now, what went to that process gets no answer.
        let seqs: Vec<u64> =
            inner.in_flight.extract_if(.., |_, worker| worker.id == process).map(|(seq, _)| seq).collect();
        drop(inner);
        for seq in seqs {
            self.client.fail_pending(seq, error);
        }
        if here {
            // The GCS may not know of it yet and name the same worker again: not at once, or question
            // and answer would chase each other.
            let queue = Arc::downgrade(self);
            self.client.again_soon(move || {
                if let Some(queue) = queue.upgrade() {
                    queue.resolve();
                }
            });
        }
    }

    /// The calls in flight to this worker process.
    pub(crate) fn in_flight_at(&self, worker: ProcessId) -> Vec<(ProcessAddr, u64)> {
        let inner = self.inner.lock();
        inner.in_flight.iter().filter(|(_, to)| to.id == worker).map(|(seq, to)| (*to, *seq)).collect()
    }

    /// The worker that a call was sent to, while it has not ended.
    pub(crate) fn worker_of(&self, seq: u64) -> Option<ProcessAddr> {
        self.inner.lock().in_flight.get(&seq).copied()
    }

    /// How many calls are sent before this one, if it waits.
    pub(crate) fn ahead_of(&self, seq: u64) -> Option<usize> {
        self.inner.lock().waiting.iter().position(|waiting| *waiting == seq)
    }

    /// This worker does not have a call. If that is where it went, nobody knows whether it ran.
    pub(crate) fn missing(&self, worker: ProcessId, seq: u64) {
        let mut inner = self.inner.lock();
        if inner.in_flight.get(&seq).is_some_and(|to| to.id == worker) {
            inner.in_flight.remove(&seq);
            drop(inner);
            let why = "the connection to its worker broke".to_owned();
            self.client.fail_pending(seq, &Error::ActorUnavailable { actor: self.actor, why });
        }
    }

    /// The worker answered a call with an actor-died error: ask the GCS what became of the actor.
    pub(crate) fn suspect(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        if matches!(inner.state, State::Alive { .. }) {
            inner.state = State::Resolving;
            drop(inner);
            self.resolve();
        }
    }

    /// Fails every call; the session is over.
    pub(crate) fn close(self: &Arc<Self>, error: &Error) {
        self.keep();
        self.located(ActorLocation::Dead(Box::new(error.clone())));
    }

    /// Sends the calls whose turn it is. One thread at a time, so that two threads' calls cannot
    /// overtake each other; and not under the lock, because a worker in this process may answer
    /// before the sending returns.
    fn send_ready(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        if inner.sending {
            return;
        }
        inner.sending = true;
        let mut cancelled = Vec::new();
        while let State::Alive { worker, incarnation } = inner.state
            && inner.front_is_ready()
        {
            let mut calls = Vec::new();
            let mut payload = Payload::new();
            while calls.len() < BATCH_LIMIT
                && payload_bytes(&payload) < BATCH_BYTES
                && inner.front_is_ready()
                && let Some(seq) = inner.waiting.pop_front()
            {
                // One whose argument failed, or that was cancelled, is not pending any more.
                let spec = self.client.0.pending.with(seq, |pending| {
                    if pending.cancelled {
                        return None;
                    }
                    pending.attempts.push();
                    Some(pending.to_spec(seq, &mut payload))
                });
                match spec.flatten() {
                    Some(spec) => {
                        inner.in_flight.insert(seq, worker);
                        calls.push(spec);
                    }
                    None => cancelled.push(seq),
                }
                if inner.alone {
                    break;
                }
            }
            if calls.is_empty() {
                continue;
            }
            drop(inner);
            let push = PushCalls { client: self.client.address(), actor: self.actor, incarnation, calls };
            let to = Address { process: worker, mailbox: MailboxId::WORKER };
            let sent = self.client.endpoint().try_send(Some(MailboxId::CLIENT), to, push, payload);
            let goes_on = match sent {
                Ok(()) => true,
                Err(unsent) => self.unsent(&unsent.message, &unsent.error, worker),
            };
            inner = self.inner.lock();
            if !goes_on {
                break;
            }
        }
        inner.sending = false;
        drop(inner);
        // Nobody will hear of their end: they were on their way back when they were cancelled.
        for seq in cancelled {
            drop(self.client.0.pending.take(seq));
        }
    }

    /// A message with calls could not even be queued. Returns whether to go on sending now.
    fn unsent(self: &Arc<Self>, push: &PushCalls, error: &SendError, worker: ProcessAddr) -> bool {
        let fate = fate(error);
        if let (Fate::Refused, [call]) = (fate, &push.calls[..]) {
            let mut inner = self.inner.lock();
            inner.in_flight.remove(&call.seq);
            inner.alone = false;
            drop(inner);
            self.client.fail_pending(call.seq, &refused(self.class(), error));
            return true;
        }
        match fate {
            Fate::Dead => {
                self.process_gone(worker.id, &error.to_string());
                return true;
            }
            Fate::Doubtful => {
                self.process_unreachable(worker.id, &error.to_string());
                return true;
            }
            Fate::Full | Fate::Refused => {}
        }
        let mut inner = self.inner.lock();
        for call in push.calls.iter().rev() {
            // One that has failed meanwhile (the actor is dead) does not come back.
            if inner.in_flight.remove(&call.seq).is_some() {
                inner.waiting.push_front(call.seq);
            }
        }
        // Of several calls one is too large: alone it is known which.
        inner.alone = fate == Fate::Refused;
        drop(inner);
        if fate == Fate::Full {
            let queue = Arc::downgrade(self);
            self.client.again_soon(move || {
                if let Some(queue) = queue.upgrade() {
                    queue.send_ready();
                }
            });
        }
        fate == Fate::Refused
    }
}

impl Inner {
    fn front_is_ready(&self) -> bool {
        self.waiting.front().is_some_and(|seq| self.unready.is_empty() || !self.unready.contains(seq))
    }
}

impl Drop for ActorQueue {
    fn drop(&mut self) {
        self.client.forget_actor(self.actor);
        // Handles and pending calls keep the queue alive, so here every call has ended and nobody
        // in this process can make another one.
        if *self.ends_with_handles.get_mut() && !matches!(self.inner.get_mut().state, State::Dead(_)) {
            self.client.forget_constructor(self.actor);
            let why = "the last handle to it was dropped".to_owned();
            let kill = KillActor { actor: self.actor, no_restart: true, why };
            insist(self.client.endpoint(), MailboxId::CLIENT, self.client.gcs(), kill);
        }
    }
}
