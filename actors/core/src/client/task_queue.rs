//! The shell around a [`Submitter`]: one queue of tasks of one shape.

use std::collections::BTreeSet;
use std::sync::Arc;

use mobula_transport::{Address, MailboxId, Payload, ProcessAddr, ProcessId, SendError};
use parking_lot::Mutex;

use super::Client;
use super::pending::{BATCH_BYTES, Work, payload_bytes};
use super::submitter::{Effect, Submitter};
use crate::culprit::Culprit;
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::ids::{FunctionId, LeaseId, ObjectId};
use crate::messages::{PushTasks, ReclaimTasks, ReturnLeases, Shape, WantLeases, WorkerKind};

/// One queue of tasks of one shape.
pub(crate) struct TaskQueue {
    shape: Shape,
    /// Tells it from earlier ones of the same shape.
    number: u64,
    submitter: Mutex<Submitter>,
    /// Held while a want is sent, so that the raylet hears of the latest one last.
    wanting: Mutex<()>,
    /// The function submitted first, to name the need to people.
    what: String,
}

impl std::fmt::Debug for TaskQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskQueue({:?})", self.shape)
    }
}

impl TaskQueue {
    pub(crate) fn new(shape: Shape, number: u64, home: Address, what: String) -> Self {
        let one_task = shape.kind == WorkerKind::Process;
        Self { shape, number, submitter: Mutex::new(Submitter::new(home, one_task)), wanting: Mutex::new(()), what }
    }

    /// A task is ready to run.
    pub(crate) fn enqueue(self: &Arc<Self>, client: &Client, seq: u64, function: FunctionId) {
        self.step(client, |submitter, now_us, out| submitter.enqueue(seq, function, now_us, out));
        client.arm_ticker();
    }

    /// A raylet granted a lease.
    pub(crate) fn granted(self: &Arc<Self>, client: &Client, lease: LeaseId, worker: ProcessAddr, raylet: Address) {
        self.step(client, |submitter, now_us, out| submitter.granted(lease, worker, raylet, now_us, out));
        client.arm_ticker();
    }

    /// A raylet sends us to another one.
    pub(crate) fn redirected(self: &Arc<Self>, client: &Client, from: Address, to: Address, count: u64, hops: u8) {
        self.step(client, |submitter, _, out| submitter.redirected(from, to, count, hops, out));
    }

    /// A task has ended.
    pub(crate) fn done(self: &Arc<Self>, client: &Client, lease: LeaseId, seq: u64, function: FunctionId, run_us: u32) {
        self.step(client, |submitter, now_us, out| submitter.done(lease, seq, function, run_us, now_us, out));
    }

    /// A worker gave tasks back.
    pub(crate) fn reclaimed(self: &Arc<Self>, client: &Client, lease: LeaseId, seqs: &[u64]) {
        self.step(client, |submitter, now_us, out| {
            let tasks = uncharge(client, submitter, lease, seqs);
            submitter.reclaimed(lease, &tasks, now_us, out);
        });
    }

    /// This worker does not have an attempt. If that is where it went and it is the latest, it may
    /// have run there, so it counts, and the task runs again.
    pub(crate) fn missing(self: &Arc<Self>, client: &Client, worker: ProcessId, seq: u64, attempt: u32) {
        let (mut known, mut raylet) = (false, None);
        self.step(client, |submitter, now_us, out| {
            // Under the submitter's lock, as everything that ends or begins an attempt.
            let lease = client.0.pending.with(seq, |pending| match pending.work {
                Work::Task { lease, .. } if pending.attempts.number() == attempt => lease,
                _ => None,
            });
            let Some(lease) = lease.flatten() else { return };
            raylet = submitter.raylet_of(lease);
            known = submitter.missing(lease, worker, seq, now_us, out);
        });
        if known {
            let why = "the worker does not have it: its connection broke, or it refused the message";
            let stale = self.again(client, seq, Charge::Attempt, why);
            discard(client, raylet, stale);
        }
    }

    /// The tasks in flight to this worker process.
    pub(crate) fn in_flight_at(&self, worker: ProcessId) -> Vec<(ProcessAddr, u64)> {
        self.submitter.lock().in_flight_at(worker)
    }

    /// The connection to a worker broke and is up again.
    pub(crate) fn reconnected(&self, worker: ProcessId) {
        self.submitter.lock().reconnected(worker);
    }

    /// The raylet of this process, if leases were asked of it.
    pub(crate) fn raylet_at(&self, process: ProcessId) -> Option<Address> {
        self.submitter.lock().raylet_at(process)
    }

    /// The leases that this raylet granted.
    pub(crate) fn leases_from(&self, raylet: Address) -> Vec<LeaseId> {
        self.submitter.lock().leases_from(raylet).collect()
    }

    /// What a raylet counts, after a broken connection. Returns the tasks under leases that are over.
    pub(crate) fn leases_kept(
        self: &Arc<Self>,
        client: &Client,
        raylet: Address,
        kept: &BTreeSet<LeaseId>,
        done: u64,
    ) -> Vec<(ProcessAddr, u64)> {
        let mut doubtful = Vec::new();
        self.step(client, |submitter, now_us, out| {
            doubtful = submitter.leases_kept(raylet, kept, done, now_us, out);
        });
        doubtful
    }

    /// A task that waits here is not to run any more.
    pub(crate) fn remove(self: &Arc<Self>, client: &Client, seq: u64) {
        self.step(client, |submitter, _, out| {
            submitter.remove(seq, out);
        });
    }

    /// The worker of a lease, while it is held.
    pub(crate) fn worker_of(&self, lease: LeaseId) -> Option<ProcessAddr> {
        self.submitter.lock().worker_of(lease)
    }

    /// What its tasks have in common.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What a raylet calls it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it has no tasks and no leases, and wants none.
    pub(crate) fn is_idle(&self) -> bool {
        self.submitter.lock().is_idle()
    }

    /// The raylets that count for it.
    pub(crate) fn asked(&self) -> Vec<Address> {
        self.submitter.lock().asked()
    }

    /// The worker of a lease is gone. Who has ended it is charged with an attempt; if nobody knows
    /// who that was, the first task in flight, which was running. The others run again uncharged.
    fn lost(self: &Arc<Self>, client: &Client, lease: LeaseId, why: &str, culprit: Culprit) {
        let (mut in_flight, mut raylet) = (Vec::new(), None);
        self.step(client, |submitter, _, out| {
            raylet = submitter.raylet_of(lease);
            in_flight = submitter.lost(lease, out);
        });
        let mut stale = Vec::new();
        for (position, seq) in in_flight.into_iter().enumerate() {
            let charge = match culprit {
                _ if culprit == (Culprit::Task { owner: client.address().process.id, seq }) => Charge::Attempt,
                Culprit::Unknown if position == 0 => Charge::Attempt,
                Culprit::Task { .. } | Culprit::Actor if position == 0 => Charge::Spared,
                Culprit::Memory { used_bytes, limit_bytes } if position == 0 => {
                    Charge::Memory { used_bytes, limit_bytes }
                }
                _ => Charge::Nothing,
            };
            stale.extend(self.again(client, seq, charge, why));
        }
        discard(client, raylet, stale);
    }

    /// A task runs again, if it may. Returns what the attempt may have stored before it was lost.
    fn again(self: &Arc<Self>, client: &Client, seq: u64, charge: Charge, why: &str) -> Vec<(ObjectId, u32)> {
        let mut stale = Vec::new();
        // Not under the lock of the pending work, which is taken under a queue's.
        let apart = matches!(charge, Charge::Memory { .. }).then(|| self.in_own_process(client));
        let next = client.0.pending.with(seq, |pending| {
            let Work::Task { options, lease, queue } = &mut pending.work else {
                return None;
            };
            // One that the lease was about to be sent has not been.
            let pushed = lease.take().is_some();
            if pushed {
                let attempt = pending.attempts.number();
                stale.extend(pending.returns.iter().map(|entry| (entry.id(), attempt)));
                stale.extend(pending.stream.iter().flat_map(|stream| stream.lost()).map(|item| (item, attempt)));
            }
            if pending.cancelled {
                return Some(Ok(None));
            }
            let attempts = options.max_retries.saturating_add(1);
            let charged = match charge {
                Charge::Attempt => true,
                Charge::Spared => pushed && !pending.attempts.spare(),
                Charge::Memory { used_bytes, limit_bytes } if pushed => {
                    let times = pending.attempts.end_for_memory();
                    if options.max_retries == 0 || times > MAX_MEMORY_RETRIES {
                        let (function, why) = (pending.function.name.to_owned(), why.to_owned());
                        return Some(Err(Error::OutOfMemory { function, why, used_bytes, limit_bytes, times }));
                    }
                    // In a process of its own: should it be the one that takes the memory, it is ended alone.
                    queue.clone_from(&apart);
                    return Some(Ok(Some((pending.id, apart.clone()))));
                }
                Charge::Memory { .. } => false,
                Charge::Nothing => {
                    if pushed {
                        pending.attempts.uncharge();
                    }
                    false
                }
            };
            if charged && pushed && pending.attempts.charged() >= attempts {
                let (function, why) = (pending.function.name.to_owned(), why.to_owned());
                let attempt = pending.attempts.charged();
                return Some(Err(Error::WorkerDied { function, why, attempt, attempts }));
            }
            Some(Ok(Some((pending.id, None))))
        });
        match next.flatten() {
            None => {}
            Some(Err(error)) => client.fail_pending(seq, &error),
            Some(Ok(None)) => drop(client.0.pending.take(seq)),
            Some(Ok(Some((function, queue)))) => {
                tracing::warn!(task = seq, why, ?charge, "a task runs again");
                queue.as_ref().unwrap_or(self).enqueue(client, seq, function);
            }
        }
        stale
    }

    /// The queue of the same tasks in processes of their own.
    fn in_own_process(self: &Arc<Self>, client: &Client) -> Arc<Self> {
        if self.shape.kind == WorkerKind::Process {
            return self.clone();
        }
        let shape = Shape { kind: WorkerKind::Process, ..self.shape.clone() };
        let home = self.submitter.lock().home();
        client.0.queues.of(shape, |shape| Self::new(shape, client.next_seq(), home, self.what.clone()))
    }

    /// A process is dead; its leases with it.
    pub(crate) fn process_gone(self: &Arc<Self>, client: &Client, process: ProcessId, why: &str, culprit: Culprit) {
        self.worker_lost(client, process, why, culprit);
        self.step(client, |submitter, _, out| submitter.raylet_gone(process, client.raylet(), out));
    }

    /// A process cannot be reached; what runs there runs again elsewhere.
    pub(crate) fn process_unreachable(self: &Arc<Self>, client: &Client, process: ProcessId, why: &str) {
        self.worker_lost(client, process, why, Culprit::Unknown);
        self.step(client, |submitter, _, out| submitter.raylet_unreachable(process, client.raylet(), out));
    }

    fn worker_lost(self: &Arc<Self>, client: &Client, process: ProcessId, why: &str, culprit: Culprit) {
        let leases = self.submitter.lock().leases_of(process);
        for lease in leases {
            self.lost(client, lease, why, culprit);
        }
    }

    /// The client has another home, since the one before was lost.
    pub(crate) fn moves(self: &Arc<Self>, client: &Client, lost: ProcessId) {
        self.step(client, |submitter, _, out| submitter.raylet_unreachable(lost, client.raylet(), out));
        client.arm_ticker();
    }

    /// Time passes. Returns whether another tick is needed.
    pub(crate) fn tick(self: &Arc<Self>, client: &Client) -> bool {
        let mut again = false;
        self.step(client, |submitter, now_us, out| again = submitter.tick(now_us, out));
        again
    }

    /// Others wait for resources.
    pub(crate) fn give_back_idle(self: &Arc<Self>, client: &Client) {
        self.step(client, |submitter, now_us, out| submitter.give_back_idle(now_us, out));
    }

    /// This raylet can never start its worker: what waits fails, unless others can.
    pub(crate) fn give_up(self: &Arc<Self>, client: &Client, raylet: Address, why: &str) {
        let mut waiting = Vec::new();
        self.step(client, |submitter, _, out| waiting = submitter.give_up(raylet, out));
        for seq in waiting {
            let function = client.0.pending.with(seq, |pending| pending.function.name.to_owned()).unwrap_or_default();
            client.fail_pending(seq, &Error::NoWorker { function, why: why.to_owned() });
        }
    }

    /// Nothing of its shape can run any more: all its tasks fail with this.
    pub(crate) fn end(self: &Arc<Self>, client: &Client, error: &Error) {
        let mut all = Vec::new();
        self.step(client, |submitter, _, out| all = submitter.end(out));
        for seq in all {
            client.fail_pending(seq, error);
        }
    }

    /// How many tasks are served before this one, and how many wait in all; if it waits for a lease.
    pub(crate) fn standing(&self, seq: u64) -> Option<(usize, usize)> {
        let submitter = self.submitter.lock();
        Some((submitter.ahead_of(seq)?, submitter.queued()))
    }

    /// How many tasks wait for a lease.
    pub(crate) fn queued(&self) -> usize {
        self.submitter.lock().queued()
    }

    /// Gives every lease back; called when the session ends.
    pub(crate) fn close(self: &Arc<Self>, client: &Client) {
        self.step(client, |submitter, _, out| submitter.close(out));
    }

    fn step(self: &Arc<Self>, client: &Client, event: impl FnOnce(&mut Submitter, u64, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        let now_us = client.now_us();
        event(&mut self.submitter.lock(), now_us, &mut effects);
        // Effects are carried out after the lock is released: a push to a worker in this process
        // may run into `done` on another thread before it returns.
        for effect in effects {
            self.carry_out(client, effect);
        }
    }

    fn carry_out(self: &Arc<Self>, client: &Client, effect: Effect) {
        let from = Some(MailboxId::CLIENT);
        let endpoint = client.endpoint();
        match effect {
            Effect::Push { lease, worker, raylet, tasks } => self.push(client, lease, worker, raylet, &tasks),
            Effect::Want { raylet } => {
                let sent = {
                    let _in_order = self.wanting.lock();
                    let Some((target, hops)) = self.submitter.lock().wanted_of(raylet) else { return };
                    let want = WantLeases {
                        client: client.address(),
                        shape: self.shape.clone(),
                        queue: self.number,
                        target,
                        what: self.what.clone(),
                        hops,
                    };
                    endpoint.try_send(from, raylet, want, Payload::new())
                };
                // Not under the lock: others are wanted in its place.
                if let Err(unsent) = sent {
                    client.raylet_unsent(raylet, &unsent.error);
                }
            }
            Effect::Return { raylet, lease } => {
                endpoint.send(from, raylet, ReturnLeases { leases: vec![lease] }, Payload::new());
            }
            Effect::Reclaim { lease, worker, at_most } => {
                let reclaim = ReclaimTasks { lease, client: client.address(), at_most };
                let to = Address { process: worker, mailbox: MailboxId::WORKER };
                if let Err(unsent) = endpoint.try_send(from, to, reclaim, Payload::new()) {
                    match fate(&unsent.error) {
                        // Not asked: the next tick asks again.
                        Fate::Full | Fate::Refused => self.reclaimed(client, lease, &[]),
                        Fate::Dead => client.process_gone(worker.id, &unsent.error.to_string(), Culprit::Unknown),
                        Fate::Doubtful => client.process_unreachable(worker.id, &unsent.error.to_string()),
                    }
                }
            }
        }
    }

    /// Sends tasks to their worker, in messages of a bounded size. A task that has left the lease
    /// since the submitter decided (the worker was lost) is not sent: it has been queued again.
    fn push(self: &Arc<Self>, client: &Client, lease: LeaseId, worker: ProcessAddr, raylet: Address, mut seqs: &[u64]) {
        let address = Address { process: worker, mailbox: MailboxId::WORKER };
        while !seqs.is_empty() {
            let mut payload = Payload::with_capacity(seqs.len());
            let mut tasks = Vec::with_capacity(seqs.len());
            let mut bytes = 0;
            // While they waited: the result of an earlier attempt came after all, or they were cancelled.
            let mut ended = Vec::new();
            // An argument has failed while they waited.
            let mut failed = Vec::new();
            {
                // Under the lock, so that a loss seen meanwhile counts its attempt after this one.
                let submitter = self.submitter.lock();
                while let Some((seq, rest)) = seqs.split_first()
                    && bytes < BATCH_BYTES
                {
                    seqs = rest;
                    if !submitter.holds(lease, *seq) {
                        continue;
                    }
                    let parts = payload.len();
                    let spec = client.0.pending.with(*seq, |pending| {
                        if pending.cancelled {
                            return None;
                        }
                        pending.attempts.push();
                        if let Work::Task { lease: under, .. } = &mut pending.work {
                            *under = Some(lease);
                        }
                        Some(pending.to_spec(*seq, &mut payload))
                    });
                    bytes += payload_bytes(&payload[parts..]);
                    match spec.flatten() {
                        Some(Ok(spec)) => tasks.push(spec),
                        Some(Err(error)) => failed.push((*seq, error)),
                        None => ended.push(*seq),
                    }
                }
            }
            if !ended.is_empty() || !failed.is_empty() {
                for seq in &ended {
                    drop(client.0.pending.take(*seq));
                }
                for (seq, error) in failed {
                    client.fail_pending(seq, &error);
                    ended.push(seq);
                }
                self.step(client, |submitter, now_us, out| {
                    for seq in ended {
                        submitter.forget(lease, seq, now_us, out);
                    }
                });
            }
            if !tasks.is_empty() {
                let push = PushTasks { client: client.address(), job: client.job(), lease, raylet, tasks };
                let sent = client.endpoint().try_send(Some(MailboxId::CLIENT), address, push, payload);
                if let Err(unsent) = sent {
                    self.unsent(client, &unsent.message, &unsent.error, worker);
                }
            }
        }
    }

    /// A message with tasks could not even be queued.
    fn unsent(self: &Arc<Self>, client: &Client, push: &PushTasks, error: &SendError, worker: ProcessAddr) {
        let seqs: Vec<u64> = push.tasks.iter().map(|task| task.seq).collect();
        match (fate(error), &seqs[..]) {
            (Fate::Full, _) => {
                self.step(client, |submitter, now_us, out| {
                    let tasks = uncharge(client, submitter, push.lease, &seqs);
                    submitter.unsent(push.lease, &tasks, now_us, out);
                });
                client.arm_ticker();
            }
            (Fate::Refused, [seq]) => {
                let name = client.0.pending.with(*seq, |pending| pending.function.name);
                self.step(client, |submitter, now_us, out| {
                    submitter.forget(push.lease, *seq, now_us, out);
                });
                client.fail_pending(*seq, &refused(name.unwrap_or("the task"), error));
            }
            // One of them is the cause; alone it is known which.
            (Fate::Refused, _) => {
                for seq in seqs {
                    uncharge(client, &self.submitter.lock(), push.lease, &[seq]);
                    self.push(client, push.lease, worker, push.raylet, &[seq]);
                }
            }
            (Fate::Dead, _) => client.process_gone(worker.id, &error.to_string(), Culprit::Unknown),
            (Fate::Doubtful, _) => client.process_unreachable(worker.id, &error.to_string()),
        }
    }
}

/// What a task is charged with that was lost with its worker.
#[derive(Clone, Copy, Debug)]
enum Charge {
    /// An attempt: it ran, and may have been the cause.
    Attempt,
    /// Nothing, while that does not happen too often: it ran, and something else was the cause.
    Spared,
    /// Nothing: the node ended its worker to save memory, and nobody knows who has taken that. It is
    /// counted apart.
    Memory { used_bytes: u64, limit_bytes: u64 },
    /// Nothing: it had not begun.
    Nothing,
}

/// How often a task runs again after it was ended for want of memory.
const MAX_MEMORY_RETRIES: u32 = 5;

/// What lost attempts may have left in the store of the node whose raylet granted their lease.
fn discard(client: &Client, raylet: Option<Address>, stale: Vec<(ObjectId, u32)>) {
    if let Some(raylet) = raylet {
        client.store().discard(raylet.process, stale);
    }
}

/// Tasks that have not started were no attempt. Returns those in flight under the lease. Under the
/// submitter's lock, so that nobody pushes them again before.
fn uncharge(client: &Client, submitter: &Submitter, lease: LeaseId, seqs: &[u64]) -> Vec<(u64, FunctionId)> {
    let held = seqs.iter().filter(|seq| submitter.holds(lease, **seq));
    held.filter_map(|seq| {
        let function = client.0.pending.with(*seq, |pending| {
            if let Work::Task { lease, .. } = &mut pending.work
                && lease.take().is_some()
            {
                pending.attempts.uncharge();
            }
            pending.id
        });
        function.map(|function| (*seq, function))
    })
    .collect()
}

/// Why work cannot be sent at all.
pub(super) fn refused(function: &str, error: &SendError) -> Error {
    match error {
        SendError::TooLarge { size_bytes, limit_bytes } => Error::Invalid {
            what: format!(
                "the arguments of {function} make a message of {size_bytes} bytes, the limit is {limit_bytes}: \
                 put large values into the store and pass their references"
            ),
        },
        error => Error::Send(error.clone()),
    }
}
