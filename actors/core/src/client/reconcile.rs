//! What got lost with a connection, found out when it is up again.
//!
//! One-way messages that a connection had taken when it broke may or may not have arrived. So
//! after every break this client asks each worker what it still has of the work in flight, and
//! tells each raylet which leases it holds:
//!
//! ```text
//!   StillHave ─▶ worker    TasksMissing ─▶ client    run again, or fail as "fate unknown"
//!   HeldLeases ─▶ raylet   LeasesKept ───▶ client    what it granted in all, and what still counts
//! ```
//!
//! A process that could not be reached for longer than the transport tries is given up for what
//! runs there, but not for what it counts: when it is reached after all, the same is asked.
//!
//! Question and answer travel in the same order as what they ask about (pushes and results,
//! wants and grants), so what is on its way when the question is answered is not taken for lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, Message, Payload, PeerEvent, ProcessAddr, ProcessId, SendError};

use super::Client;
use super::actor_queue::ActorQueue;
use super::pending::Work;
use super::task_queue::TaskQueue;
use crate::culprit::Culprit;
use crate::delivery::{Fate, fate};
use crate::ids::LeaseId;
use crate::messages::{HeldLeases, LeasesDone, LeasesKept, PushCalls, PushTasks, StillHave, TasksMissing};

/// The most tasks in one question.
const QUESTION_LIMIT: usize = 4_096;

/// How long after a raylet was lost it is tried again.
const REACH_AGAIN: Duration = Duration::from_secs(5);

impl Client {
    /// Something is known of another process.
    pub(super) fn peer_event(&self, event: PeerEvent) {
        self.collectives().peer_event(&event);
        match event {
            PeerEvent::Interrupted { process, .. } => {
                self.borrowing_interrupted(process);
                self.interrupted(process);
            }
            PeerEvent::Connected { process } => {
                self.borrowing_connected(process);
                self.home_found(process);
                self.reconnected(process);
            }
            PeerEvent::Lost { process, why } => {
                self.borrowing_interrupted(process);
                self.process_unreachable(process, &why);
                self.reach_again(process);
            }
            PeerEvent::Gone { process, why } => self.process_gone(process, &why, Culprit::Unknown),
            _ => {}
        }
    }

    /// A process is known to be dead: what it had is lost, what it counted does not matter.
    pub(crate) fn process_gone(&self, process: ProcessId, why: &str, culprit: Culprit) {
        self.0.doubts.lock().lost(process);
        self.0.broken.lock().remove(&process);
        self.0.forgotten_at.lock().remove(&process);
        self.borrower_gone(process);
        for queue in self.task_queues() {
            queue.process_gone(self, process, why, culprit);
        }
        for actor in self.actor_queues() {
            actor.process_gone(process, why);
        }
        self.home_lost(process);
    }

    /// Something could not be said to a raylet. If that is dead, another one has sent us there which
    /// had not heard of it: what was asked of it is asked of our own again.
    pub(super) fn raylet_unsent(&self, raylet: Address, error: &SendError) {
        if fate(error) != Fate::Dead {
            return;
        }
        if raylet == self.raylet() {
            // Without our own there is nobody to ask until there is another one.
            self.home_lost(raylet.process.id);
        } else {
            // A moment later: until our own has heard of that death, it sends us there again at once.
            let (client, why) = (self.clone(), error.to_string());
            self.again_soon(move || client.process_gone(raylet.process.id, &why, Culprit::Unknown));
        }
    }

    /// A process could not be reached for a while. What runs there runs again elsewhere; but a
    /// raylet counts on, and holds leases for this client, until both agree again.
    pub(super) fn process_unreachable(&self, process: ProcessId, why: &str) {
        self.0.doubts.lock().lost(process);
        let queues = self.task_queues();
        if self.raylet_at(process, &queues).is_some() {
            self.0.broken.lock().insert(process);
        } else {
            self.0.broken.lock().remove(&process);
        }
        for queue in queues {
            queue.process_unreachable(self, process, why);
        }
        for actor in self.actor_queues() {
            actor.process_unreachable(process, why);
        }
        self.home_lost(process);
    }

    /// Tries to reach a lost raylet a while later: it may hold leases that nobody uses, and might
    /// never be asked for others. That fails as this try did, or ends in [`Self::reconnected`].
    fn reach_again(&self, process: ProcessId) {
        if !self.0.broken.lock().contains(&process) {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        self.endpoint().spawn_task(async move {
            tokio::time::sleep(REACH_AGAIN).await;
            let Some(client) = weak.upgrade().map(Client) else { return };
            if client.is_open() && client.0.broken.lock().contains(&process) {
                client.tell_held(process, &client.task_queues());
            }
        });
    }

    fn interrupted(&self, process: ProcessId) {
        self.0.broken.lock().insert(process);
        self.0.doubts.lock().interrupted(process);
        self.doubt(self.in_flight_at(process));
    }

    fn in_flight_at(&self, process: ProcessId) -> Vec<(ProcessAddr, u64)> {
        let mut found = Vec::new();
        for queue in self.task_queues() {
            found.extend(queue.in_flight_at(process));
        }
        for actor in self.actor_queues() {
            found.extend(actor.in_flight_at(process));
        }
        found
    }

    /// A worker has refused a message of this kind. It lives, and what else runs there goes on; what
    /// was in the message it does not have, which asking finds out.
    pub(super) fn refused(&self, worker: ProcessId, kind: u32, error: &SendError) {
        tracing::warn!(%worker, kind, %error, "a worker has refused a message");
        if kind == StillHave::KIND {
            // Nor can it be asked: nothing is ever heard of what it has.
            self.process_unreachable(worker, &error.to_string());
        } else if kind == PushTasks::KIND || kind == PushCalls::KIND {
            self.doubt(self.in_flight_at(worker));
            self.0.doubts.lock().connected(worker, self.now_us());
            self.ask_doubtful();
        }
    }

    /// These may be lost.
    fn doubt(&self, found: Vec<(ProcessAddr, u64)>) {
        if found.is_empty() {
            return;
        }
        let attempts: Vec<(ProcessAddr, u64, u32)> = found
            .into_iter()
            .filter_map(|(worker, seq)| {
                let attempt = self.0.pending.with(seq, |pending| pending.attempts.number())?;
                Some((worker, seq, attempt))
            })
            .collect();
        let mut doubts = self.0.doubts.lock();
        for (worker, seq, attempt) in attempts {
            doubts.add(worker, [(seq, attempt)]);
        }
        drop(doubts);
        self.arm_ticker();
    }

    fn reconnected(&self, process: ProcessId) {
        if !self.0.broken.lock().remove(&process) {
            return;
        }
        let queues = self.task_queues();
        for queue in &queues {
            queue.reconnected(process);
        }
        self.0.doubts.lock().connected(process, self.now_us());
        self.ask_doubtful();
        self.tell_held(process, &queues);
    }

    /// Tells a raylet, if this process is one that was asked for leases, which ones are held.
    fn tell_held(&self, process: ProcessId, queues: &[Arc<TaskQueue>]) {
        let Some(raylet) = self.raylet_at(process, queues) else { return };
        let leases: Vec<LeaseId> = queues.iter().flat_map(|queue| queue.leases_from(raylet)).collect();
        let held = HeldLeases { client: self.address(), leases };
        self.endpoint().send(Some(MailboxId::CLIENT), raylet, held, Payload::new());
    }

    /// The raylet of this process, if it was asked for leases.
    fn raylet_at(&self, process: ProcessId, queues: &[Arc<TaskQueue>]) -> Option<Address> {
        let asked = queues.iter().find_map(|queue| queue.raylet_at(process));
        asked.or_else(|| self.0.forgotten_at.lock().get(&process).copied())
    }

    /// Asks what is due to be asked. Returns whether something is in doubt.
    pub(super) fn ask_doubtful(&self) -> bool {
        let pending = |seq, attempt| self.0.pending.with(seq, |pending| pending.attempts.number()) == Some(attempt);
        let (questions, more) = {
            let mut doubts = self.0.doubts.lock();
            if doubts.is_empty() {
                return false;
            }
            (doubts.due(self.now_us(), pending), !doubts.is_empty())
        };
        for (worker, tasks) in questions {
            let to = Address { process: worker, mailbox: MailboxId::WORKER };
            for tasks in tasks.chunks(QUESTION_LIMIT) {
                let question = StillHave { client: self.address(), tasks: tasks.to_vec() };
                self.endpoint().send(Some(MailboxId::CLIENT), to, question, Payload::new());
            }
        }
        more
    }

    /// This worker does not have these, and whatever results it sent have arrived.
    pub(super) fn tasks_missing(&self, worker: ProcessId, missing: &TasksMissing) {
        enum Home {
            Queue(Arc<TaskQueue>),
            Actor(Arc<ActorQueue>),
        }
        for (seq, attempt) in &missing.tasks {
            let home = self.0.pending.with(*seq, |pending| match &pending.work {
                _ if pending.attempts.number() != *attempt => None,
                Work::Task { queue, .. } => queue.clone().map(Home::Queue),
                Work::Call { actor, .. } => Some(Home::Actor(actor.clone())),
            });
            match home.flatten() {
                Some(Home::Queue(queue)) => queue.missing(self, worker, *seq, *attempt),
                Some(Home::Actor(actor)) => actor.missing(worker, *seq),
                None => {}
            }
        }
    }

    /// A raylet says what it has granted, and which leases it still counts as this client's.
    pub(super) fn leases_kept(&self, raylet: Address, kept: LeasesKept) {
        let leases: BTreeSet<LeaseId> = kept.leases.into_iter().collect();
        self.forget_unknown(raylet, &kept.done);
        let mut doubtful = Vec::new();
        for queue in self.task_queues() {
            let counted = |done: &&LeasesDone| done.queue == queue.number() && done.shape == *queue.shape();
            let done = kept.done.iter().find(counted).map_or(0, |done| done.count);
            doubtful.extend(queue.leases_kept(self, raylet, &leases, done));
        }
        // Their leases are over: the workers may be dead, which asking finds out.
        let workers: BTreeSet<ProcessId> = doubtful.iter().map(|(worker, _)| worker.id).collect();
        self.doubt(doubtful);
        for worker in workers {
            self.0.doubts.lock().connected(worker, self.now_us());
        }
        self.ask_doubtful();
    }

    pub(super) fn task_queues(&self) -> Vec<Arc<TaskQueue>> {
        self.0.queues.all()
    }

    pub(super) fn actor_queues(&self) -> Vec<Arc<ActorQueue>> {
        self.0.actors.lock().values().filter_map(Weak::upgrade).collect()
    }
}
