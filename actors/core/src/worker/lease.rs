//! The tasks of one lease: run one after the other, each a short-lived actor.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use mobula_transport::{Address, MailboxId, Payload, ProcessId};
use parking_lot::Mutex;

use super::WorkerShared;
use super::call::Call;
use super::current::{self, Running};
use super::gpus::{self, Ids};
use super::slots::Runnable;
use crate::ids::LeaseId;
use crate::messages::{LeaseBlocked, TaskInfo};

struct Inner {
    tasks: VecDeque<Call>,
    /// A thread drains the queue, or is scheduled to.
    active: bool,
    /// How many tasks of this lease wait in `get`.
    lent: u32,
}

/// The tasks of one lease.
pub(crate) struct LeaseQueue {
    lease: LeaseId,
    raylet: Address,
    gpus: Option<Ids>,
    worker: Arc<WorkerShared>,
    inner: Mutex<Inner>,
}

impl LeaseQueue {
    pub(super) fn new(lease: LeaseId, raylet: Address, worker: Arc<WorkerShared>) -> Arc<Self> {
        Arc::new(Self {
            lease,
            raylet,
            gpus: worker.leased_gpus.of(lease),
            worker,
            inner: Mutex::new(Inner { tasks: VecDeque::new(), active: false, lent: 0 }),
        })
    }

    /// Adds tasks whose arguments are here.
    pub(super) fn push(self: &Arc<Self>, tasks: impl IntoIterator<Item = Call>) {
        let mut inner = self.inner.lock();
        inner.tasks.extend(tasks);
        self.activate(&mut inner);
    }

    /// Takes up to `at_most` tasks of this owner from the end.
    pub(super) fn reclaim(&self, owner: Address, at_most: usize) -> Vec<u64> {
        let mut inner = self.inner.lock();
        let mut seqs = Vec::new();
        while seqs.len() < at_most && inner.tasks.back().is_some_and(|task| task.client == owner) {
            seqs.extend(inner.tasks.pop_back().map(|task| task.spec.seq));
        }
        seqs.reverse();
        seqs
    }

    /// The attempts of this owner that wait.
    pub(super) fn waiting(&self, owner: Address, out: &mut HashSet<(u64, u32)>) {
        let inner = self.inner.lock();
        let own = inner.tasks.iter().filter(|task| task.client == owner);
        out.extend(own.map(|task| (task.spec.seq, task.spec.attempt)));
    }

    /// Tells the raylet again whether the lease's CPU is lent; what it was told may have got lost.
    pub(super) fn tell_again(&self, raylet: ProcessId) {
        if self.raylet.process.id == raylet {
            let lent = self.inner.lock().lent > 0;
            self.tell_raylet(lent);
        }
    }

    /// The waiting tasks, for people.
    pub(super) fn describe(&self, out: &mut Vec<TaskInfo>) {
        let inner = self.inner.lock();
        out.extend(inner.tasks.iter().map(|task| self.worker.describe(task, "QUEUED", 0)));
    }

    /// The running task waits: the next one may run, and the node may use the CPU elsewhere.
    pub(super) fn lend(self: &Arc<Self>) {
        let first = {
            let mut inner = self.inner.lock();
            inner.active = false;
            self.activate(&mut inner);
            inner.lent += 1;
            inner.lent == 1
        };
        if first {
            self.tell_raylet(true);
        }
    }

    /// The task goes on. Returns whether its thread drains the queue again.
    pub(super) fn take_back(&self) -> bool {
        let (last, drains) = {
            let mut inner = self.inner.lock();
            inner.lent -= 1;
            let drains = !inner.active;
            inner.active = true;
            (inner.lent == 0, drains)
        };
        if last {
            self.tell_raylet(false);
        }
        drains
    }

    fn tell_raylet(&self, blocked: bool) {
        let message = LeaseBlocked { lease: self.lease, blocked };
        self.worker.endpoint.send(Some(MailboxId::WORKER), self.raylet, message, Payload::new());
    }

    fn activate(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.active && !inner.tasks.is_empty() {
            inner.active = true;
            self.worker.slots.schedule(self.clone());
        }
    }
}

impl LeaseQueue {
    /// The next task; without one the queue is nobody's until there is one again.
    fn next(&self) -> Option<Call> {
        let mut inner = self.inner.lock();
        let task = inner.tasks.pop_front();
        inner.active = task.is_some();
        task
    }
}

impl Runnable for LeaseQueue {
    fn run(self: Arc<Self>) {
        let Some(mut task) = self.next() else { return };
        let before = current::begin(Running {
            slots: Some(self.worker.slots.clone()),
            node: self.worker.node_name.clone(),
            lease: Some(self.clone()),
            actor: None,
            attempt: None,
        });
        let holding = gpus::hold(&self.gpus);
        loop {
            self.worker.run_task(task);
            // Without the lease, another thread took the queue over while this one waited.
            if !current::has_lease() {
                break;
            }
            match self.next() {
                Some(next) => task = next,
                None => break,
            }
        }
        drop(holding);
        drop(current::end(before));
    }
}
