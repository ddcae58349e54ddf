//! Leases: getting and losing them, and what a broken connection swallowed. As `client::task_queue`,
//! `client::queues` and `client::reconcile`.

use std::collections::BTreeSet;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};

use super::super::message::Body;
use super::super::process::Cx;
use super::{Client, Queue, TICK_US, Work};
use crate::client::{SubmitEffect, Submitter};
use crate::culprit::Culprit;
use crate::ids::LeaseId;
use crate::messages::{ForgetQueue, HeldLeases, LeaseGranted, LeasesKept, Shape, WantLeases, WorkerKind};

impl Client {
    pub(super) fn is_numbered(&self, shape: &Shape, number: u64) -> bool {
        self.queues.get(shape).is_some_and(|queue| queue.number == number)
    }

    pub(super) fn ensure_queue(&mut self, shape: &Shape) {
        if !self.queues.contains_key(shape) {
            let number = self.next_seq();
            let submitter = Submitter::new(self.home, shape.kind == WorkerKind::Process);
            self.queues.insert(shape.clone(), Queue { number, submitter });
        }
    }

    pub(super) fn step<R: Default>(
        &mut self,
        shape: &Shape,
        cx: &mut Cx<'_>,
        event: impl FnOnce(&mut Submitter, u64, &mut Vec<SubmitEffect>) -> R,
    ) -> R {
        let mut out = Vec::new();
        let Some(queue) = self.queues.get_mut(shape) else { return R::default() };
        let result = event(&mut queue.submitter, cx.now_us, &mut out);
        for effect in out {
            self.carry_out(shape, effect, cx);
        }
        result
    }

    fn carry_out(&mut self, shape: &Shape, effect: SubmitEffect, cx: &mut Cx<'_>) {
        let me = MailboxId::CLIENT;
        match effect {
            SubmitEffect::Want { raylet } => {
                let Some(queue) = self.queues.get(shape) else { return };
                let Some((target, hops)) = queue.submitter.wanted_of(raylet) else { return };
                let what = String::new();
                let (client, queue) = (self.address(), queue.number);
                let want = WantLeases { client, shape: shape.clone(), queue, target, what, hops };
                cx.send(me, raylet, Body::Want(want));
            }
            SubmitEffect::Return { raylet, lease } => cx.send(me, raylet, Body::Return(vec![lease])),
            SubmitEffect::Reclaim { lease, worker, at_most } => {
                let to = Address { process: worker, mailbox: MailboxId::WORKER };
                cx.send(me, to, Body::Reclaim { lease, at_most });
            }
            SubmitEffect::Push { lease, worker, raylet, tasks } => self.push(shape, lease, worker, raylet, tasks, cx),
        }
    }

    fn push(
        &mut self,
        shape: &Shape,
        lease: LeaseId,
        worker: ProcessAddr,
        raylet: Address,
        seqs: Vec<u64>,
        cx: &mut Cx<'_>,
    ) {
        let mut runs = Vec::new();
        for seq in seqs {
            if !self.queues.get(shape).is_some_and(|queue| queue.submitter.holds(lease, seq)) {
                continue;
            }
            match self.tasks.get_mut(&seq).filter(|task| !task.cancelled) {
                Some(task) => {
                    task.attempts.push();
                    if let Work::Task { lease: under, .. } = &mut task.work {
                        *under = Some(lease);
                    }
                    runs.extend(self.run_of(seq));
                }
                None => {
                    // The result of an earlier attempt came after all, or it was cancelled.
                    self.tasks.remove(&seq);
                    self.step(shape, cx, |s, now_us, out| s.forget(lease, seq, now_us, out));
                }
            }
        }
        if !runs.is_empty() {
            let to = Address { process: worker, mailbox: MailboxId::WORKER };
            cx.send(MailboxId::CLIENT, to, Body::Push { lease, raylet, runs });
        }
    }

    pub(super) fn arm_ticker(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.ticking, true) {
            cx.after(TICK_US, super::Timer::ClientTick);
        }
    }

    pub(super) fn tick(&mut self, cx: &mut Cx<'_>) {
        self.ticking = false;
        let mut again = self.ask_doubtful(cx);
        for shape in self.shapes() {
            again |= self.step(&shape, cx, Submitter::tick);
        }
        if again {
            self.arm_ticker(cx);
        }
    }

    pub(super) fn lease_granted(&mut self, granted: LeaseGranted, raylet: Address, cx: &mut Cx<'_>) {
        if !self.is_numbered(&granted.shape, granted.queue) {
            return cx.send(MailboxId::CLIENT, raylet, Body::Return(vec![granted.lease]));
        }
        let (lease, worker) = (granted.lease, granted.worker);
        self.step(&granted.shape, cx, |s, now_us, out| s.granted(lease, worker, raylet, now_us, out));
        self.arm_ticker(cx);
    }

    /// Forgets queues that nobody uses.
    pub(in crate::simulation) fn forget_idle_queues(&mut self, cx: &mut Cx<'_>) {
        for shape in self.shapes() {
            let submitter = &self.queues[&shape].submitter;
            let used =
                self.tasks.values().any(|task| matches!(&task.work, Work::Task { shape: of, .. } if *of == shape));
            let asked = submitter.asked();
            if used || !submitter.is_idle() || asked.iter().any(|raylet| self.broken.contains(&raylet.process.id)) {
                continue;
            }
            let Some(queue) = self.queues.remove(&shape) else { continue };
            for raylet in asked {
                self.forgotten_at.insert(raylet.process.id, raylet);
                let forget = ForgetQueue { client: self.address(), shape: shape.clone(), queue: queue.number };
                cx.send(MailboxId::CLIENT, raylet, Body::Forget(forget));
            }
        }
    }

    // ---- after a broken connection --------------------------------------------------------------

    pub(super) fn interrupted(&mut self, process: ProcessId, cx: &mut Cx<'_>) {
        self.broken.insert(process);
        self.doubts.interrupted(process);
        let mut found: Vec<(ProcessAddr, u64)> =
            self.queues.values().flat_map(|queue| queue.submitter.in_flight_at(process)).collect();
        found.extend(self.actors.values().flat_map(|actor| actor.in_flight_at(process)));
        self.doubt(found, cx);
    }

    fn doubt(&mut self, found: Vec<(ProcessAddr, u64)>, cx: &mut Cx<'_>) {
        if found.is_empty() {
            return;
        }
        for (worker, seq) in found {
            if let Some(task) = self.tasks.get(&seq) {
                self.doubts.add(worker, [(seq, task.attempts.number())]);
            }
        }
        self.arm_ticker(cx);
    }

    pub(super) fn reconnected(&mut self, process: ProcessId, cx: &mut Cx<'_>) {
        if !self.broken.remove(&process) {
            return;
        }
        for queue in self.queues.values_mut() {
            queue.submitter.reconnected(process);
        }
        self.doubts.connected(process, cx.now_us);
        self.ask_doubtful(cx);
        self.tell_held(process, cx);
    }

    fn raylet_at(&self, process: ProcessId) -> Option<Address> {
        let asked = self.queues.values().find_map(|queue| queue.submitter.raylet_at(process));
        asked.or_else(|| self.forgotten_at.get(&process).copied())
    }

    pub(super) fn tell_held(&self, process: ProcessId, cx: &mut Cx<'_>) {
        let Some(raylet) = self.raylet_at(process) else { return };
        let leases = self.queues.values().flat_map(|queue| queue.submitter.leases_from(raylet)).collect();
        cx.send(MailboxId::CLIENT, raylet, Body::Held(HeldLeases { client: self.address(), leases }));
    }

    pub(super) fn ask_doubtful(&mut self, cx: &mut Cx<'_>) -> bool {
        let tasks = &self.tasks;
        let pending = |seq, attempt| tasks.get(&seq).is_some_and(|task| task.attempts.number() == attempt);
        for (worker, asked) in self.doubts.due(cx.now_us, pending) {
            let to = Address { process: worker, mailbox: MailboxId::WORKER };
            cx.send(MailboxId::CLIENT, to, Body::StillHave(asked));
        }
        !self.doubts.is_empty()
    }

    pub(super) fn leases_kept(&mut self, raylet: Address, kept: LeasesKept, cx: &mut Cx<'_>) {
        let leases: BTreeSet<LeaseId> = kept.leases.into_iter().collect();
        for done in &kept.done {
            if !self.is_numbered(&done.shape, done.queue) {
                let forget = ForgetQueue { client: self.address(), shape: done.shape.clone(), queue: done.queue };
                cx.send(MailboxId::CLIENT, raylet, Body::Forget(forget));
            }
        }
        let mut doubtful = Vec::new();
        for shape in self.shapes() {
            let number = self.queues[&shape].number;
            let counted = kept.done.iter().find(|done| done.queue == number && done.shape == shape);
            let done = counted.map_or(0, |done| done.count);
            doubtful.extend(self.step(&shape, cx, |s, now_us, out| s.leases_kept(raylet, &leases, done, now_us, out)));
        }
        let workers: BTreeSet<ProcessId> = doubtful.iter().map(|(worker, _)| worker.id).collect();
        self.doubt(doubtful, cx);
        for worker in workers {
            self.doubts.connected(worker, cx.now_us);
        }
        self.ask_doubtful(cx);
    }

    pub(super) fn process_gone(&mut self, process: ProcessId, why: &str, culprit: Culprit, cx: &mut Cx<'_>) {
        self.doubts.lost(process);
        self.broken.remove(&process);
        self.forgotten_at.remove(&process);
        for shape in self.shapes() {
            self.worker_lost(&shape, process, why, culprit, cx);
            let home = self.home;
            self.step(&shape, cx, |s, _, out| s.raylet_gone(process, home, out));
        }
        self.actors_left(process, why, true, cx);
    }

    pub(super) fn process_unreachable(&mut self, process: ProcessId, cx: &mut Cx<'_>) {
        self.doubts.lost(process);
        if self.raylet_at(process).is_some() {
            self.broken.insert(process);
        } else {
            self.broken.remove(&process);
        }
        let why = "it cannot be reached";
        for shape in self.shapes() {
            self.worker_lost(&shape, process, why, Culprit::Unknown, cx);
            let home = self.home;
            self.step(&shape, cx, |s, _, out| s.raylet_unreachable(process, home, out));
        }
        self.actors_left(process, why, false, cx);
    }

    fn worker_lost(&mut self, shape: &Shape, process: ProcessId, why: &str, culprit: Culprit, cx: &mut Cx<'_>) {
        for lease in self.queues.get(shape).map(|queue| queue.submitter.leases_of(process)).unwrap_or_default() {
            self.lease_lost(shape, lease, why, culprit, cx);
        }
    }
}
