//! What others say to a client.

use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use mobula_transport::{
    Address, Envelope, Mailbox, MailboxId, Message, Payload, ProcessAddr, Replier, SendError, Undelivered,
};

use super::entry::{Entry, ObjectHandle, Outcome, Provenance, Settled, Waiter};
use super::lineage::Origin;
use super::pending::Work;
use super::{Client, Inner};
use crate::culprit::Culprit;
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::messages::{
    AwaitRoom, BorrowObjects, CancelObject, ClusterEvent, ExplainTask, FetchBinary, FindArgument, FreeObject,
    GetObject, GroupGone, JobLost, LeaseGranted, LeaseLost, LeasePending, LeaseRedirected, LeasesKept,
    ListPendingTasks, LocateObjects, ReclaimIdle, ResultKept, ReturnLeases, ReturnObjects, ReturnSpec, StillBorrowed,
    StillReturning, StoredObject, TaskDone, TaskOutcome, TaskYielded, TasksMissing, TasksReturned, WorkerOutput,
};
use crate::resources::group;
use crate::value::Value;

/// The most bytes of a binary in one answer.
const BINARY_PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// A line that a worker printed.
pub type OutputLine = WorkerOutput;

pub(super) struct ClientMailbox(pub(super) Weak<Inner>);

impl Mailbox for ClientMailbox {
    fn deliver(&self, envelope: Envelope) {
        let Some(client) = self.0.upgrade().map(Client) else {
            envelope.reject(SendError::Closed);
            return;
        };
        let kind = envelope.kind();
        if kind == TaskDone::KIND {
            if let Ok((done, mut request)) = envelope.open::<TaskDone>() {
                let payload = request.take_payload();
                client.task_done(done, request.from().process, payload);
            }
        } else if kind == LeaseGranted::KIND {
            if let Ok((granted, request)) = envelope.open::<LeaseGranted>() {
                let raylet = Address { process: request.from().process, mailbox: MailboxId::RAYLET };
                client.lease_granted(granted, raylet);
            }
        } else if kind == GetObject::KIND {
            if let Ok((question, request)) = envelope.open::<GetObject>() {
                client.lend(question, request.into_replier());
            }
        } else {
            client.rare(kind, envelope);
        }
    }
}

impl Client {
    fn rare(&self, kind: u32, envelope: Envelope) {
        let queues = &self.0.queues;
        if kind == LeaseRedirected::KIND {
            if let Ok((redirected, request)) = envelope.open::<LeaseRedirected>()
                && let Some(queue) = queues.numbered(&redirected.shape, redirected.queue)
            {
                let from = Address { process: request.from().process, mailbox: MailboxId::RAYLET };
                queue.redirected(self, from, redirected.to, redirected.count, redirected.hops);
            }
        } else if kind == LeaseLost::KIND {
            if let Ok((lost, _)) = envelope.open::<LeaseLost>() {
                self.process_gone(lost.worker.id, &lost.why, lost.culprit);
            }
        } else if kind == GroupGone::KIND {
            if let Ok((gone, _)) = envelope.open::<GroupGone>() {
                self.group_gone(&gone);
            }
        } else if kind == ClusterEvent::KIND {
            if let Ok((ClusterEvent::ProcessDied { process, why, culprit }, request)) = envelope.open::<ClusterEvent>()
                && request.from().process.id == self.endpoint().process().id
            {
                self.process_gone(process.id, &why, culprit);
            }
        } else if kind == JobLost::KIND {
            if let Ok((lost, request)) = envelope.open::<JobLost>()
                && request.from().process.id == self.endpoint().process().id
            {
                self.job_lost(&lost.why);
            }
        } else if kind == CancelObject::KIND {
            if let Ok((cancel, _)) = envelope.open::<CancelObject>()
                && cancel.object.owner == self.endpoint().process().id
            {
                self.cancel_work(cancel.object.seq, cancel.how);
            }
        } else if kind == LeasePending::KIND {
            if let Ok((pending, request)) = envelope.open::<LeasePending>() {
                if pending.hopeless {
                    if let Some(queue) = queues.get(&pending.shape) {
                        let raylet = Address { process: request.from().process, mailbox: MailboxId::RAYLET };
                        queue.give_up(self, raylet, &pending.why);
                    }
                } else if pending.infeasible && group::group_of(&pending.shape.demand).is_some() {
                    self.look_for_group(&pending);
                } else if pending.infeasible {
                    tracing::warn!(demand = %pending.shape.demand, "no node can run this: {}", pending.why);
                }
            }
        } else if kind == ReclaimIdle::KIND {
            if envelope.open::<ReclaimIdle>().is_ok() {
                for queue in self.task_queues() {
                    queue.give_back_idle(self);
                }
            }
        } else if kind == TasksReturned::KIND {
            if let Ok((returned, _)) = envelope.open::<TasksReturned>() {
                self.tasks_returned(returned);
            }
        } else if kind == TasksMissing::KIND {
            if let Ok((missing, request)) = envelope.open::<TasksMissing>() {
                self.tasks_missing(request.from().process.id, &missing);
            }
        } else if kind == LeasesKept::KIND {
            if let Ok((kept, request)) = envelope.open::<LeasesKept>() {
                let raylet = Address { process: request.from().process, mailbox: MailboxId::RAYLET };
                self.leases_kept(raylet, kept);
            }
        } else if kind == WorkerOutput::KIND {
            if let Ok((output, _)) = envelope.open::<WorkerOutput>()
                && let Some(print) = &self.0.output
            {
                print(output);
            }
        } else if kind == FetchBinary::KIND {
            if let Ok((fetch, request)) = envelope.open::<FetchBinary>() {
                self.serve_binary(fetch, request.into_replier());
            }
        } else if kind == ExplainTask::KIND {
            if let Ok((question, request)) = envelope.open::<ExplainTask>() {
                self.explain_owned(question.seq, request.into_replier());
            }
        } else if kind == ListPendingTasks::KIND {
            if let Ok((question, request)) = envelope.open::<ListPendingTasks>() {
                self.list_pending(question.limit, request.into_replier());
            }
        } else if kind == Undelivered::KIND {
            if let Ok((what, _)) = envelope.open::<Undelivered>() {
                tracing::debug!(to = %what.to, error = %what.error, "a message came back");
                // What a broken connection has swallowed is asked for when it is up again.
                if what.to.mailbox == MailboxId::RAYLET && fate(&what.error) == Fate::Dead {
                    // It may have died before it was first asked: an argument drew the task there. Not
                    // on this thread, which may be the one that asks, under a queue's lock.
                    let (client, process, why) = (self.clone(), what.to.process.id, what.error.to_string());
                    self.endpoint().spawn_task(async move {
                        client.process_gone(process, &why, Culprit::Unknown);
                    });
                }
                if what.to.mailbox == MailboxId::WORKER {
                    match fate(&what.error) {
                        Fate::Dead => {
                            self.process_gone(what.to.process.id, &what.error.to_string(), Culprit::Unknown);
                        }
                        Fate::Refused => self.refused(what.to.process.id, what.kind, &what.error),
                        Fate::Doubtful | Fate::Full => {}
                    }
                } else if what.to.mailbox == MailboxId::RAYLET {
                    self.raylet_unsent(what.to, &what.error);
                }
            }
        } else {
            self.about_references(kind, envelope);
        }
    }

    fn about_references(&self, kind: u32, envelope: Envelope) {
        if kind == TaskYielded::KIND {
            if let Ok((yielded, mut request)) = envelope.open::<TaskYielded>() {
                let payload = request.take_payload();
                self.task_yielded(yielded, payload, request.into_replier());
            }
        } else if kind == AwaitRoom::KIND {
            if let Ok((wait, request)) = envelope.open::<AwaitRoom>() {
                self.await_room(&wait, request.into_replier());
            }
        } else if kind == BorrowObjects::KIND {
            if let Ok((borrow, request)) = envelope.open::<BorrowObjects>() {
                let unknown = self.lend_to(request.from().process, borrow.loans);
                request.reply(unknown);
            }
        } else if kind == ReturnObjects::KIND {
            if let Ok((back, request)) = envelope.open::<ReturnObjects>() {
                self.given_back(request.from().process.id, &back.loans);
                request.reply(());
            }
        } else if kind == StillBorrowed::KIND {
            if let Ok((question, request)) = envelope.open::<StillBorrowed>() {
                request.reply(self.not_borrowed(question.loans));
            }
        } else if kind == ResultKept::KIND {
            if let Ok((kept, request)) = envelope.open::<ResultKept>() {
                self.result_kept(request.from().process.id, &kept.attempts);
                request.reply(());
            }
        } else if kind == LocateObjects::KIND {
            if let Ok((question, request)) = envelope.open::<LocateObjects>() {
                request.reply(self.places_of(&question.objects));
            }
        } else if kind == FreeObject::KIND {
            if let Ok((free, request)) = envelope.open::<FreeObject>() {
                self.free_for_borrower(&free.object);
                request.reply(());
            }
        } else if kind == FindArgument::KIND {
            if let Ok((find, request)) = envelope.open::<FindArgument>() {
                self.find_argument(&find, request.into_replier());
            }
        } else if kind == StillReturning::KIND {
            if let Ok((question, request)) = envelope.open::<StillReturning>() {
                let worker = request.from().process.id;
                request.reply(self.not_returning(worker, question.attempts));
            }
        } else {
            envelope.reject(SendError::UnknownMessage { kind, name: String::new() });
        }
    }

    fn task_done(&self, done: TaskDone, worker: ProcessAddr, payload: Payload) {
        if let TaskOutcome::Failed(error) = &done.outcome
            && (self.runs_again(&done, error) || self.call_runs_again(&done, error))
        {
            return;
        }
        if let TaskOutcome::ArgumentLost(lost, why) = &done.outcome
            && self.find_argument_of(&done, lost, why)
        {
            return;
        }
        if !done.refs.is_empty() {
            self.begin_taking(worker.id, done.seq, done.attempt);
        }
        let Some(mut pending) = self.0.pending.take_attempt(done.seq, done.attempt) else {
            return discard(self, worker, done);
        };
        let (seq, run_us) = (done.seq, done.run_us);
        if let Work::Call { actor, .. } = &pending.work {
            // First: whoever gets the result finds room for the next call.
            actor.done(done.seq);
        }
        let mut payload = payload.into_iter();
        match done.outcome {
            _ if pending.cancelled => discard(self, worker, done),
            TaskOutcome::Returned(specs) => {
                // Before the arguments go: what the results refer to may be among them.
                if let Some(stream) = &pending.stream {
                    stream.ends(None);
                }
                let mut contained = self.take_over(worker, done.seq, done.attempt, &done.refs);
                let stored = specs.iter().any(|spec| matches!(spec, ReturnSpec::Stored(_)));
                let origin = if stored || pending.rerun.is_some() {
                    self.0.lineages.origin(done.seq, &mut pending)
                } else {
                    Origin::default()
                };
                for (result, (entry, spec)) in pending.returns.iter().zip(specs).enumerate() {
                    let refs = contained.of(result);
                    match spec {
                        ReturnSpec::Inline(encoding) => {
                            let data = payload.next().unwrap_or_default();
                            entry.settle(Outcome::Inline(Value { refs, ..Value::new(encoding, data) }));
                        }
                        ReturnSpec::Stored(stored) => {
                            let provenance =
                                Provenance { _contains: refs, origin: origin.clone(), attempt: done.attempt };
                            self.settle_stored(entry, stored, provenance);
                        }
                    }
                }
            }
            TaskOutcome::ArgumentLost(lost, why) => {
                let error = Box::new(Error::ObjectLost { object: lost.object, why });
                self.0.failures.record(seq, &pending, &error);
                pending.settle_failed(&error);
            }
            TaskOutcome::Failed(error) => {
                self.0.failures.record(seq, &pending, &error);
                pending.settle_failed(&error);
            }
        }
        if let Work::Task { queue: Some(queue), lease: Some(lease), .. } = &pending.work {
            queue.done(self, *lease, seq, pending.id, run_us);
        }
    }

    /// A result lies in a store. One that stands in the place of a lost one takes it; one that was
    /// made again beside a lost one is kept beside what there is, which may be lost, too.
    fn settle_stored(&self, entry: &Arc<Entry>, stored: StoredObject, provenance: Provenance) {
        let (attempt, place) = (provenance.attempt, stored.nodes.clone());
        match entry.settle_with(Outcome::Stored(Box::new(stored)), Some(Box::new(provenance))) {
            Settled::First => {}
            // They may be there all the same: their node was only out of reach.
            Settled::Instead(lost, earlier) => {
                for node in lost.nodes.into_iter().filter(|node| !place.contains(node)) {
                    self.store().discard(node, [(entry.id(), earlier)]);
                }
            }
            Settled::Ignored if entry.add_places(&place) => {}
            Settled::Ignored => {
                for node in place {
                    self.store().discard(node, [(entry.id(), attempt)]);
                }
            }
        }
    }

    /// A task could not begin since an argument's bytes were not found: it waits until they are
    /// elsewhere, without its lease, and that was no attempt. False if it is not this attempt's turn.
    fn find_argument_of(&self, done: &TaskDone, lost: &StoredObject, why: &str) -> bool {
        let next = self.0.pending.with(done.seq, |pending| {
            let argument = pending.argument(&lost.object)?;
            let number = pending.attempts.number();
            let Work::Task { queue: Some(queue), lease, .. } = &mut pending.work else { return None };
            if number != done.attempt || pending.cancelled {
                return None;
            }
            let found = (queue.clone(), lease.take()?, pending.id, argument);
            pending.attempts.uncharge();
            Some(found)
        });
        let Some((queue, lease, function, argument)) = next.flatten() else { return false };
        queue.done(self, lease, done.seq, function, done.run_us);
        let (client, seq) = (self.clone(), done.seq);
        let again = Waiter::Call(Box::new(move || client.dependencies_ready(seq)));
        self.recover(&argument.0, &lost.nodes, why, again);
        true
    }

    /// Has a task whose code failed run again, if its options say so and it has retries left.
    fn runs_again(&self, done: &TaskDone, error: &Error) -> bool {
        let next = self.0.pending.with(done.seq, |pending| {
            let attempts = pending.attempts;
            let Work::Task { options, queue: Some(queue), lease } = &mut pending.work else { return None };
            let may = attempts.number() == done.attempt && attempts.charged() <= options.max_retries;
            if !may || pending.cancelled || !options.retry_exceptions.covers(error) {
                return None;
            }
            Some((queue.clone(), lease.take()?, pending.id))
        });
        let Some((queue, lease, function)) = next.flatten() else { return false };
        tracing::debug!(task = done.seq, attempt = done.attempt, %error, "a task whose code failed runs again");
        queue.done(self, lease, done.seq, function, done.run_us);
        queue.enqueue(self, done.seq, function);
        true
    }

    /// Has a call that was lost, or whose code failed, made again, if it may be.
    fn call_runs_again(&self, done: &TaskDone, error: &Error) -> bool {
        let actor = self.0.pending.with(done.seq, |pending| match &pending.work {
            Work::Call { actor, .. } => Some(actor.clone()),
            Work::Task { .. } => None,
        });
        actor.flatten().is_some_and(|actor| actor.runs_again(done.seq, done.attempt, error))
    }

    fn tasks_returned(&self, returned: TasksReturned) {
        let queue = returned.seqs.iter().find_map(|seq| {
            self.0.pending.with(*seq, |pending| match &pending.work {
                Work::Task { queue, .. } => queue.clone(),
                Work::Call { .. } => None,
            })?
        });
        match queue {
            Some(queue) => queue.reclaimed(self, returned.lease, &returned.seqs),
            // Nothing was left to give back: the lease may be asked again.
            None => {
                for queue in self.task_queues() {
                    queue.reclaimed(self, returned.lease, &[]);
                }
            }
        }
    }

    fn lease_granted(&self, granted: LeaseGranted, raylet: Address) {
        match self.0.queues.numbered(&granted.shape, granted.queue) {
            Some(queue) => queue.granted(self, granted.lease, granted.worker, raylet),
            None => {
                let back = ReturnLeases { leases: vec![granted.lease] };
                self.endpoint().send(Some(MailboxId::CLIENT), raylet, back, Payload::new());
            }
        }
    }

    /// Answers a borrower when the object is ready.
    fn lend(&self, GetObject { object, tried }: GetObject, replier: Replier<Result<ReturnSpec, Error>>) {
        let Some(handle) = self.exported(&object) else {
            let why = "its owner does not know it any more".to_owned();
            replier.reply(Err(Error::ObjectLost { object, why }));
            return;
        };
        if !tried.is_empty() {
            return self.find_for(&handle, &tried, "a borrower did not find it", replier);
        }
        let settled: Arc<Entry> = handle.0.clone();
        handle.0.on_settled(move || tell_outcome(&settled, replier));
    }

    /// A worker did not find an argument of a call.
    fn find_argument(&self, find: &FindArgument, replier: Replier<Result<ReturnSpec, Error>>) {
        let object = find.lost.object;
        match self.0.pending.with(find.seq, |pending| pending.argument(&object)).flatten() {
            Some(argument) => self.find_for(&argument, &find.lost.nodes, &find.why, replier),
            None => replier.reply(Err(Error::ObjectLost { object, why: find.why.clone() })),
        }
    }

    fn find_for(
        &self,
        object: &ObjectHandle,
        tried: &[ProcessAddr],
        why: &str,
        replier: Replier<Result<ReturnSpec, Error>>,
    ) {
        let entry = object.0.clone();
        let tell = Waiter::Call(Box::new(move || tell_outcome(&entry, replier)));
        self.recover(&object.0, tried, why, tell);
    }

    fn serve_binary(&self, fetch: FetchBinary, replier: Replier<Result<u64, String>>) {
        let served = self.0.served.lock().get(&fetch.hash).cloned();
        let Some(path) = served.or_else(|| self.0.binary.clone()) else {
            replier.reply(Err("this driver has no binary to give".to_owned()));
            return;
        };
        // Reading a file may wait for a disk, which no thread that reads a socket does.
        self.endpoint().runtime().spawn_blocking(move || {
            let read = || -> std::io::Result<(u64, Vec<u8>)> {
                let mut file = std::fs::File::open(&path)?;
                let total = file.metadata()?.len();
                file.seek(SeekFrom::Start(fetch.offset))?;
                let mut piece = Vec::new();
                file.take(fetch.length.min(BINARY_PIECE_BYTES)).read_to_end(&mut piece)?;
                Ok((total, piece))
            };
            match read() {
                Ok((total, piece)) => replier.reply_with(Ok(total), vec![Bytes::from(piece)]),
                Err(error) => replier.reply(Err(format!("{}: {error}", path.display()))),
            }
        });
    }
}

fn tell_outcome(entry: &Entry, replier: Replier<Result<ReturnSpec, Error>>) {
    match entry.outcome() {
        Some(Outcome::Inline(value)) => {
            replier.reply_with(Ok(ReturnSpec::Inline(value.encoding)), vec![value.data]);
        }
        Some(Outcome::Stored(stored)) => replier.reply(Ok(ReturnSpec::Stored(*stored))),
        Some(Outcome::Failed(error)) => replier.reply(Err(*error)),
        None => replier.fail(SendError::Dropped),
    }
}

/// An attempt that nobody waits for has ended: what it has stored is of no use.
fn discard(client: &Client, worker: ProcessAddr, done: TaskDone) {
    if !done.refs.is_empty() {
        client.let_go(worker, done.seq, done.attempt);
    }
    let TaskOutcome::Returned(specs) = done.outcome else { return };
    for spec in specs {
        if let ReturnSpec::Stored(stored) = spec {
            for node in stored.nodes {
                client.store().discard(node, [(stored.object, done.attempt)]);
            }
        }
    }
}
