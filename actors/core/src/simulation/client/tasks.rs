//! Tasks: submitted, run again, cancelled. As `client::submit`, `client::task_queue` and
//! `client::cancel`.

use std::sync::Arc;

use mobula_transport::{Address, MailboxId, ProcessId};

use super::super::message::{Body, Outcome};
use super::super::process::Cx;
use super::super::program::Code;
use super::{Arg, Client, Task, Work};
use crate::client::Attempts;
use crate::culprit::Culprit;
use crate::error::Error;
use crate::ids::{FunctionId, LeaseId};
use crate::messages::{LeasePending, Shape};
use crate::resources::group;

/// See `client::task_queue`.
#[derive(Clone, Copy)]
enum Charge {
    Attempt,
    Spared,
    Nothing,
}

impl Client {
    pub(in crate::simulation) fn submit(
        &mut self,
        code: Arc<Code>,
        args: Vec<Arg>,
        shape: Shape,
        max_retries: u32,
        parent: u64,
        cx: &mut Cx<'_>,
    ) -> u64 {
        let seq = self.next_seq();
        cx.record.submitted(&code);
        let unsettled = self.unsettled(&args);
        let work = Work::Task { shape, queued: false, lease: None };
        let attempts = Attempts::default();
        let ready = unsettled.is_empty();
        self.tasks.insert(seq, Task { code, args, work, attempts, max_retries, parent, cancelled: false, unsettled });
        if ready {
            self.arguments_settled(seq, cx);
        }
        seq
    }

    /// A task that a running task submits.
    pub(in crate::simulation) fn submit_child(&mut self, code: &Arc<Code>, run: u64, cx: &mut Cx<'_>) -> u64 {
        let shape = cx.record.child_shape(self.job);
        self.submit(code.clone(), vec![Arg::Value(0)], shape, u32::MAX, run, cx)
    }

    pub(super) fn enqueue_new(&mut self, seq: u64, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(&seq) else { return };
        let Work::Task { shape, queued, .. } = &mut task.work else { return };
        *queued = true;
        let (shape, function) = (shape.clone(), FunctionId(task.code.function));
        self.ensure_queue(&shape);
        self.enqueue(&shape, seq, function, cx);
    }

    fn enqueue(&mut self, shape: &Shape, seq: u64, function: FunctionId, cx: &mut Cx<'_>) {
        self.step(shape, cx, |s, now_us, out| s.enqueue(seq, function, now_us, out));
        self.arm_ticker(cx);
    }

    pub(super) fn task_done(&mut self, seq: u64, attempt: u32, outcome: Outcome, run_us: u32, cx: &mut Cx<'_>) {
        if self.tasks.get(&seq).is_none_or(|task| task.attempts.number() != attempt) {
            return;
        }
        let Some(task) = self.tasks.remove(&seq) else { return };
        let function = FunctionId(task.code.function);
        enum After {
            Task(Shape, Option<LeaseId>),
            Call(crate::ids::ActorId, bool),
        }
        let after = match &task.work {
            Work::Task { shape, lease, .. } => After::Task(shape.clone(), *lease),
            Work::Call { actor } => After::Call(*actor, matches!(outcome, Err(Error::ActorDied { .. }))),
        };
        let cancelled = task.cancelled;
        self.end(seq, task, outcome, cx);
        match after {
            After::Task(shape, Some(lease)) => {
                self.step(&shape, cx, |s, now_us, out| s.done(lease, seq, function, run_us, now_us, out));
            }
            After::Task(..) => {}
            After::Call(actor, died) => {
                if died && !cancelled {
                    self.suspect(actor, cx);
                }
                self.call_done(actor, seq);
            }
        }
    }

    /// Tasks that have not started were no attempt. Those that are in flight under the lease.
    fn uncharge(&mut self, shape: &Shape, lease: LeaseId, seqs: &[u64]) -> Vec<(u64, FunctionId)> {
        let mut back = Vec::new();
        for seq in seqs {
            if !self.queues.get(shape).is_some_and(|queue| queue.submitter.holds(lease, *seq)) {
                continue;
            }
            let Some(task) = self.tasks.get_mut(seq) else { continue };
            if let Work::Task { lease, .. } = &mut task.work
                && lease.take().is_some()
            {
                task.attempts.uncharge();
            }
            back.push((*seq, FunctionId(task.code.function)));
        }
        back
    }

    pub(super) fn tasks_returned(&mut self, lease: LeaseId, seqs: &[u64], cx: &mut Cx<'_>) {
        let of = seqs.iter().find_map(|seq| match &self.tasks.get(seq)?.work {
            Work::Task { shape, queued: true, .. } => Some(shape.clone()),
            _ => None,
        });
        let (shapes, seqs) = match of {
            Some(shape) => (vec![shape], seqs),
            None => (self.shapes(), &[][..]),
        };
        for shape in shapes {
            let tasks = self.uncharge(&shape, lease, seqs);
            self.step(&shape, cx, |s, now_us, out| s.reclaimed(lease, &tasks, now_us, out));
        }
    }

    pub(super) fn tasks_missing(&mut self, worker: ProcessId, missing: &[(u64, u32)], cx: &mut Cx<'_>) {
        for (seq, attempt) in missing {
            let Some(task) = self.tasks.get(seq).filter(|task| task.attempts.number() == *attempt) else { continue };
            match &task.work {
                Work::Call { actor } => self.call_missing(*actor, worker, *seq, cx),
                Work::Task { shape, lease: Some(lease), .. } => {
                    let (shape, lease) = (shape.clone(), *lease);
                    let known = self.step(&shape, cx, |s, now_us, out| s.missing(lease, worker, *seq, now_us, out));
                    if known {
                        self.again(*seq, Charge::Attempt, "the worker does not have it", cx);
                    }
                }
                Work::Task { .. } => {}
            }
        }
    }

    pub(super) fn lease_lost(&mut self, shape: &Shape, lease: LeaseId, why: &str, culprit: Culprit, cx: &mut Cx<'_>) {
        let in_flight = self.step(shape, cx, |s, _, out| s.lost(lease, out));
        for (position, seq) in in_flight.into_iter().enumerate() {
            let charge = match culprit {
                _ if culprit == (Culprit::Task { owner: self.me.id, seq }) => Charge::Attempt,
                Culprit::Unknown if position == 0 => Charge::Attempt,
                Culprit::Task { .. } | Culprit::Actor if position == 0 => Charge::Spared,
                _ => Charge::Nothing,
            };
            self.again(seq, charge, why, cx);
        }
    }

    fn again(&mut self, seq: u64, charge: Charge, why: &str, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(&seq) else { return };
        let Work::Task { shape, lease, .. } = &mut task.work else { return };
        let pushed = lease.take().is_some();
        let (shape, function) = (shape.clone(), FunctionId(task.code.function));
        if task.cancelled {
            self.tasks.remove(&seq);
            return;
        }
        let attempts = task.max_retries.saturating_add(1);
        let charged = match charge {
            Charge::Attempt => true,
            Charge::Spared => pushed && !task.attempts.spare(),
            Charge::Nothing => {
                if pushed {
                    task.attempts.uncharge();
                }
                false
            }
        };
        if charged && pushed && task.attempts.charged() >= attempts {
            let attempt = task.attempts.charged();
            let error = Error::WorkerDied { function: String::new(), why: why.to_owned(), attempt, attempts };
            return self.fail(seq, &error, cx);
        }
        self.enqueue(&shape, seq, function, cx);
    }

    /// A raylet says why a shape waits.
    pub(super) fn told_pending(&mut self, from: Address, pending: &LeasePending, cx: &mut Cx<'_>) {
        if pending.hopeless {
            let waiting = self.step(&pending.shape, cx, |s, _, out| s.give_up(from, out));
            for seq in waiting {
                let error = Error::NoWorker { function: String::new(), why: pending.why.clone() };
                self.fail(seq, &error, cx);
            }
        } else if pending.infeasible && group::group_of(&pending.shape.demand).is_some() {
            self.look_for_group(&pending.shape, cx);
        }
    }

    // ---- cancelling -----------------------------------------------------------------------------

    pub(in crate::simulation) fn cancel_children(&mut self, run: u64, cx: &mut Cx<'_>) {
        let children: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.parent == run).map(|(seq, _)| *seq).collect();
        for seq in children {
            self.cancel(seq, cx);
        }
    }

    pub(in crate::simulation) fn cancel(&mut self, seq: u64, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(&seq) else { return };
        if std::mem::replace(&mut task.cancelled, true) {
            return;
        }
        let attempt = task.attempts.number();
        let code = task.code.clone();
        enum Place {
            Here(Option<Shape>),
            Sent(Shape, LeaseId),
            Call(crate::ids::ActorId),
        }
        let place = match &task.work {
            Work::Task { shape, lease: Some(lease), .. } => Place::Sent(shape.clone(), *lease),
            Work::Task { shape, queued, .. } => Place::Here(queued.then(|| shape.clone())),
            Work::Call { actor } => Place::Call(*actor),
        };
        cx.record.cancelled(&code);
        self.settle(seq, Err(Error::TaskCancelled { function: String::new() }), cx);
        let worker = match place {
            Place::Here(shape) => {
                self.tasks.remove(&seq);
                if let Some(shape) = shape {
                    self.step(&shape, cx, |s, _, out| s.remove(seq, out));
                }
                return;
            }
            Place::Sent(shape, lease) => self.queues.get(&shape).and_then(|queue| queue.submitter.worker_of(lease)),
            Place::Call(actor) => {
                let worker = self.worker_of_call(actor, seq);
                if worker.is_none() {
                    self.tasks.remove(&seq);
                    self.call_is_ready(actor, seq, cx);
                }
                worker
            }
        };
        if let Some(worker) = worker {
            let to = Address { process: worker, mailbox: MailboxId::WORKER };
            cx.send(MailboxId::CLIENT, to, Body::Cancel { seq, attempt, recursive: true });
        }
    }
}
