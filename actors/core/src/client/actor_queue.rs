//! The calls of one actor made by this process: sent where the actor lives, in the order that
//! [`CallOrder`] says.
//!
//! ```text
//!   Unknown ──alive──▶ Alive ──worker lost──▶ Unknown ──dead──▶ Dead
//! ```
//!
//! A call that was lost with its worker is made again by the next incarnation as often as
//! `max_task_retries` allows, and fails otherwise: whether it ran, nobody knows.

use std::sync::Arc;

use mobula_transport::{Address, MailboxId, Payload, ProcessAddr, ProcessId, SendError};
use parking_lot::Mutex;

use super::Client;
use super::call_order::{CallOrder, Fallen, Home, Lost};
use super::entry::{Entry, Outcome};
use super::pending::{BATCH_BYTES, Pending, Work, payload_bytes};
use super::task_queue::refused;
use crate::delivery::{Fate, fate, insist};
use crate::error::Error;
use crate::ids::ActorId;
use crate::messages::{ActorLocation, CallRules, KillActor, PushCalls, ResolveActor};

/// The most calls in one message.
const BATCH_LIMIT: usize = 512;

struct Inner {
    order: CallOrder,
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
    rules: CallRules,
    client: Client,
    /// Whether the actor ends when the last handle in this process is dropped.
    ends_with_handles: std::sync::atomic::AtomicBool,
    inner: Mutex<Inner>,
}

impl ActorQueue {
    pub(crate) fn new(
        actor: ActorId,
        class: String,
        rules: CallRules,
        client: &Client,
        ends_with_handles: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            actor,
            class,
            rules,
            client: client.clone(),
            ends_with_handles: ends_with_handles.into(),
            inner: Mutex::new(Inner {
                order: CallOrder::new(),
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

    pub(crate) fn rules(&self) -> CallRules {
        self.rules
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
        let error = match inner.order.dead() {
            Some(error) => Some(error.clone()),
            None => self.too_many(&inner),
        };
        if let Some(error) = error {
            drop(inner);
            self.client.fail_pending(seq, &error);
            return;
        }
        inner.order.add(seq, ready);
        drop(inner);
        self.send_ready();
    }

    fn too_many(&self, inner: &Inner) -> Option<Error> {
        let limit = self.rules.max_pending_calls?;
        let over = inner.order.pending() >= limit as usize;
        over.then_some(Error::PendingCallsLimitExceeded { actor: self.actor, limit })
    }

    /// The arguments of a call are ready; or one has failed and the call with it, and those behind
    /// it need not wait.
    pub(crate) fn arguments_settled(self: &Arc<Self>, seq: u64) {
        self.inner.lock().order.arguments_settled(seq);
        self.send_ready();
    }

    /// A call has ended.
    pub(crate) fn done(&self, seq: u64) {
        self.inner.lock().order.done(seq);
    }

    /// `entry` is settled when the constructor has returned.
    pub(crate) fn notify_ready(&self, entry: Arc<Entry>) {
        let mut inner = self.inner.lock();
        match inner.order.dead() {
            Some(error) => {
                let error = error.clone();
                drop(inner);
                entry.settle(Outcome::Failed(Box::new(error)));
            }
            None if inner.constructed => {
                drop(inner);
                entry.settle(Outcome::unit());
            }
            None => inner.ready.push(entry),
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

    fn resolve_soon(self: &Arc<Self>) {
        let queue = Arc::downgrade(self);
        self.client.again_soon(move || {
            if let Some(queue) = queue.upgrade() {
                queue.resolve();
            }
        });
    }

    /// The GCS said where the actor is.
    pub(crate) fn located(self: &Arc<Self>, location: ActorLocation) {
        let mut inner = self.inner.lock();
        match location {
            ActorLocation::Alive { worker, incarnation } => {
                let known = inner.order.alive(Home { worker, incarnation }, self.may_run_again());
                inner.constructed = true;
                let ready = std::mem::take(&mut inner.ready);
                drop(inner);
                self.client.constructed(self.actor);
                if known {
                    self.send_ready();
                } else {
                    self.resolve_soon();
                }
                for entry in ready {
                    entry.settle(Outcome::unit());
                }
            }
            ActorLocation::Dead(error) => {
                let seqs = inner.order.die(error.clone());
                let ready = std::mem::take(&mut inner.ready);
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

    /// A worker process is dead. Calls that had left fail, for nobody knows whether they ran, unless
    /// they may run again; those, and the ones that wait, go to the next incarnation, if there is
    /// one.
    pub(crate) fn process_gone(self: &Arc<Self>, process: ProcessId, why: &str) {
        self.leave(process, true, &Error::ActorDied { actor: self.actor, why: why.to_owned() });
    }

    /// A worker process cannot be reached. As when it is dead, but the incarnation may live on there.
    pub(crate) fn process_unreachable(self: &Arc<Self>, process: ProcessId, why: &str) {
        self.leave(process, false, &Error::ActorUnavailable { actor: self.actor, why: why.to_owned() });
    }

    fn leave(self: &Arc<Self>, process: ProcessId, dead: bool, error: &Error) {
        let Lost { failed, ask } = self.inner.lock().order.process_lost(process, dead, self.may_run_again());
        for seq in failed {
            self.client.fail_pending(seq, error);
        }
        if ask {
            // The GCS may not know of it yet and name the same worker again: not at once, or question
            // and answer would chase each other.
            self.resolve_soon();
        }
    }

    /// Whether a call may be made again by what is known of its attempts.
    fn may_run_again(&self) -> impl Fn(u64) -> bool + '_ {
        |seq| self.client.0.pending.with(seq, |pending| self.has_retries(pending)) == Some(true)
    }

    fn has_retries(&self, pending: &Pending) -> bool {
        let own = match &pending.work {
            Work::Call { options: Some(options), .. } => options.max_task_retries,
            _ => None,
        };
        let max = own.unwrap_or(self.rules.max_task_retries);
        !pending.cancelled && (max < 0 || pending.attempts.charged() <= max.unsigned_abs())
    }

    /// The calls in flight to this worker process.
    pub(crate) fn in_flight_at(&self, worker: ProcessId) -> Vec<(ProcessAddr, u64)> {
        self.inner.lock().order.in_flight_at(worker).collect()
    }

    /// The worker that a call was sent to, while it has not ended.
    pub(crate) fn worker_of(&self, seq: u64) -> Option<ProcessAddr> {
        self.inner.lock().order.home_of(seq).map(|home| home.worker)
    }

    /// How many calls are sent before this one, if it waits.
    pub(crate) fn ahead_of(&self, seq: u64) -> Option<usize> {
        self.inner.lock().order.before(seq)
    }

    /// This worker does not have a call. If that is where it went, nobody knows whether it ran.
    pub(crate) fn missing(self: &Arc<Self>, worker: ProcessId, seq: u64) {
        let may = self.may_run_again()(seq);
        let fallen = self.inner.lock().order.missing(worker, seq, may);
        match fallen {
            Fallen::Elsewhere => {}
            Fallen::Waits => self.send_ready(),
            Fallen::Fails => {
                let why = "the connection to its worker broke".to_owned();
                self.client.fail_pending(seq, &Error::ActorUnavailable { actor: self.actor, why });
            }
        }
    }

    /// An attempt of a call has failed with this error. Returns whether the call is made again.
    pub(crate) fn runs_again(self: &Arc<Self>, seq: u64, attempt: u32, error: &Error) -> bool {
        let died = matches!(error, Error::ActorDied { actor, .. } if *actor == self.actor);
        let may = self.client.0.pending.with(seq, |pending| {
            let Work::Call { options, .. } = &pending.work else { return None };
            let covered = options.as_ref().is_some_and(|options| options.retry_exceptions.covers(error));
            let current = pending.attempts.number() == attempt;
            current.then(|| (died || covered) && self.has_retries(pending))
        });
        let Some(may) = may.flatten() else { return false };
        if died {
            let (fallen, ask) = self.inner.lock().order.refused(seq, may);
            if ask {
                self.resolve();
            }
            // One that waits already is not in flight any more.
            return fallen == Fallen::Waits || (fallen == Fallen::Elsewhere && may);
        }
        if may {
            self.inner.lock().order.again(seq);
            self.send_ready();
        }
        may
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
        let (mut ended, mut failed) = (Vec::new(), Vec::new());
        while let Some(home) = inner.order.next() {
            let mut calls = Vec::new();
            let mut payload = Payload::new();
            while calls.len() < BATCH_LIMIT
                && payload_bytes(&payload) < BATCH_BYTES
                && let Some(seq) = inner.order.leave()
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
                    Some(Ok(spec)) => calls.push(spec),
                    // An argument has failed while it waited.
                    Some(Err(error)) => {
                        inner.order.done(seq);
                        failed.push((seq, error));
                    }
                    None => {
                        inner.order.done(seq);
                        ended.push(seq);
                    }
                }
                if inner.alone {
                    break;
                }
            }
            if calls.is_empty() {
                continue;
            }
            drop(inner);
            let Home { worker, incarnation } = home;
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
        for seq in ended {
            drop(self.client.0.pending.take(seq));
        }
        for (seq, error) in failed {
            self.client.fail_pending(seq, &error);
        }
    }

    /// A message with calls could not even be queued. Returns whether to go on sending now.
    fn unsent(self: &Arc<Self>, push: &PushCalls, error: &SendError, worker: ProcessAddr) -> bool {
        let fate = fate(error);
        if let (Fate::Refused, [call]) = (fate, &push.calls[..]) {
            let mut inner = self.inner.lock();
            inner.order.done(call.seq);
            inner.alone = false;
            drop(inner);
            self.client.fail_pending(call.seq, &refused(self.class(), error));
            return true;
        }
        if fate == Fate::Doubtful {
            self.process_unreachable(worker.id, &error.to_string());
            return true;
        }
        // They have certainly not run, so they wait again, and that does not count.
        let mut inner = self.inner.lock();
        for seq in inner.order.stayed(push.calls.iter().map(|call| call.seq)) {
            self.client.0.pending.with(seq, |pending| pending.attempts.uncharge());
        }
        // Of several calls one is too large: alone it is known which.
        inner.alone = fate == Fate::Refused;
        drop(inner);
        match fate {
            Fate::Dead => self.process_gone(worker.id, &error.to_string()),
            Fate::Full => {
                let queue = Arc::downgrade(self);
                self.client.again_soon(move || {
                    if let Some(queue) = queue.upgrade() {
                        queue.send_ready();
                    }
                });
            }
            Fate::Refused | Fate::Doubtful => {}
        }
        fate != Fate::Full
    }
}

impl Drop for ActorQueue {
    fn drop(&mut self) {
        self.client.forget_actor(self.actor);
        // The actor may not have been made yet; then it never is.
        for entry in std::mem::take(&mut self.inner.get_mut().ready) {
            let why = "the last handle to it was dropped before it was made".to_owned();
            entry.settle(Outcome::Failed(Box::new(Error::ActorDied { actor: self.actor, why })));
        }
        // Handles and pending calls keep the queue alive, so here every call has ended and nobody
        // in this process can make another one.
        if *self.ends_with_handles.get_mut() && self.inner.get_mut().order.dead().is_none() {
            self.client.forget_constructor(self.actor);
            let why = "the last handle to it was dropped".to_owned();
            let kill = KillActor { actor: self.actor, no_restart: true, why };
            insist(self.client.endpoint(), MailboxId::CLIENT, self.client.gcs(), kill);
        }
    }
}
