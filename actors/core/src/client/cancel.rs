//! Cancelling tasks and calls.
//!
//! The results fail at once, wherever the work is. What has not been sent is forgotten; what has
//! been stays pending, without anyone who waits for it, until its worker has told its end or is
//! gone: so its lease stays busy as long as the code runs, and every way in which work can come back
//! (given up, lost, missing) finds it cancelled and lets it go.

use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, MailboxId, Payload, ProcessAddr};

use super::actor_queue::ActorQueue;
use super::entry::Outcome;
use super::pending::Work;
use super::task_queue::TaskQueue;
use super::{Client, ObjectHandle};
use crate::error::Error;
use crate::ids::LeaseId;
use crate::messages::{Cancel, CancelObject, CancelTask, WorkerKind};

/// How long the code of a task that is to be ended by force may go on in a process that it shares
/// with others.
const FORCE_GRACE: Duration = Duration::from_secs(5);

/// Where cancelled work is.
enum Place {
    /// Waiting for its arguments, or for a lease.
    Here(Option<Arc<TaskQueue>>),
    Sent(Arc<TaskQueue>, LeaseId),
    Call(Arc<ActorQueue>),
}

impl Client {
    /// Cancels the task or call that makes this object, unless it has ended: its results fail with
    /// [`Error::TaskCancelled`]. Returns at once.
    pub fn cancel(&self, object: &ObjectHandle, how: Cancel) {
        if object.is_settled() {
            return;
        }
        match object.0.lender() {
            None => self.cancel_work(object.id().seq, how),
            Some(owner) => {
                let cancel = CancelObject { object: object.id(), how };
                self.endpoint().send(Some(MailboxId::CLIENT), owner, cancel, Payload::new());
            }
        }
    }

    /// Cancels what the task with this number has submitted in this process.
    pub(crate) fn cancel_children(&self, run: u64, how: Cancel) {
        for seq in self.0.pending.submitted_by(run) {
            self.cancel_work(seq, how);
        }
    }

    pub(super) fn cancel_work(&self, seq: u64, how: Cancel) {
        let found = self.0.pending.with(seq, |pending| {
            if std::mem::replace(&mut pending.cancelled, true) {
                return None;
            }
            if let Some(rerun) = &pending.rerun {
                rerun.cancelled();
            }
            let place = match &pending.work {
                Work::Task { queue: Some(queue), lease: Some(lease), .. } => Place::Sent(queue.clone(), *lease),
                Work::Task { queue, .. } => Place::Here(queue.clone()),
                Work::Call { actor, .. } => Place::Call(actor.clone()),
            };
            let error = Box::new(Error::TaskCancelled { function: pending.function.name.to_owned() });
            self.0.failures.record(seq, pending, &error);
            Some((place, pending.returns.clone(), pending.stream.clone(), error, pending.attempts.number()))
        });
        let Some((place, returns, stream, error, attempt)) = found.flatten() else { return };
        if let Some(stream) = stream {
            stream.ends(Some(&error));
        }
        for entry in returns {
            entry.settle(Outcome::Failed(error.clone()));
        }
        match place {
            Place::Here(queue) => {
                drop(self.0.pending.take(seq));
                if let Some(queue) = queue {
                    queue.remove(self, seq);
                }
            }
            Place::Sent(queue, lease) => {
                let grace = match queue.shape().kind {
                    WorkerKind::Process => Duration::ZERO,
                    WorkerKind::Shared => FORCE_GRACE,
                };
                if let Some(worker) = queue.worker_of(lease) {
                    self.tell_cancelled(worker, seq, attempt, how, how.force.then_some(grace));
                }
            }
            Place::Call(actor) => match actor.worker_of(seq) {
                Some(worker) => self.tell_cancelled(worker, seq, attempt, how, None),
                None => {
                    drop(self.0.pending.take(seq));
                    // Those behind it need not wait for its arguments.
                    actor.arguments_settled(seq);
                }
            },
        }
    }

    fn tell_cancelled(&self, worker: ProcessAddr, seq: u64, attempt: u32, how: Cancel, end_after: Option<Duration>) {
        let children = how.recursive.then_some(how);
        let cancel = CancelTask { client: self.address(), seq, attempt, children, end_after };
        let to = Address { process: worker, mailbox: MailboxId::WORKER };
        self.endpoint().send(Some(MailboxId::CLIENT), to, cancel, Payload::new());
    }
}
