//! Which workers there are: one shared by the tasks of each job, and processes of one lease each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::{ProcessAddr, ProcessId};

use crate::ids::JobId;
use crate::messages::{WorkerInfo, WorkerKind};

/// The first wait after a worker failed to start; it doubles with every failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest such wait.
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(30);

/// A worker process that has registered.
#[derive(Clone, Debug)]
pub(super) struct WorkerSlot {
    pub(super) worker: ProcessAddr,
    pub(super) pid: u32,
    pub(super) kind: WorkerKind,
    /// None for the worker in the raylet's own process, which serves every job.
    pub(super) job: Option<JobId>,
    pub(super) leases: BTreeSet<u64>,
    pub(super) stopping: bool,
}

/// A worker process that was started and has not registered.
#[derive(Clone, Debug)]
struct Start {
    job: JobId,
    kind: WorkerKind,
    /// The lease it is started for, for a process of its own.
    lease: Option<u64>,
}

/// A job's last failures to start a worker.
#[derive(Clone, Debug)]
struct Failure {
    times: u32,
    until: Duration,
    for_good: bool,
    why: String,
}

/// Whether there is a worker for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Supply {
    /// This one.
    Ready(ProcessAddr),
    /// It starts; ask again when it has registered.
    Starting,
    /// It has to be started.
    Missing,
    /// It failed; in words, and whether trying again is of no use.
    Failed(String, bool),
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    in_process: bool,
    workers: BTreeMap<ProcessId, WorkerSlot>,
    /// The shared worker of each job that has one.
    shared: BTreeMap<JobId, ProcessAddr>,
    starts: BTreeMap<u64, Start>,
    failures: BTreeMap<(JobId, WorkerKind), Failure>,
    next_start: u64,
}

impl Pool {
    pub(super) fn new(in_process: bool) -> Self {
        Self { in_process, ..Self::default() }
    }

    /// Whether a lease of this kind can have a worker now.
    pub(super) fn supply(&self, job: JobId, kind: WorkerKind, now: Duration) -> Supply {
        if self.in_process {
            let local = self.workers.values().find(|slot| slot.job.is_none() && !slot.stopping);
            return local.map_or(Supply::Starting, |slot| Supply::Ready(slot.worker));
        }
        if kind == WorkerKind::Shared {
            if let Some(worker) = self.shared.get(&job) {
                return Supply::Ready(*worker);
            }
            if self.shared_start(job).is_some() {
                return Supply::Starting;
            }
        }
        match self.failures.get(&(job, kind)) {
            Some(failure) if failure.for_good || failure.until > now => {
                Supply::Failed(failure.why.clone(), failure.for_good)
            }
            _ => Supply::Missing,
        }
    }

    /// Notes that a worker is started, and numbers it.
    pub(super) fn start(&mut self, job: JobId, kind: WorkerKind, lease: Option<u64>) -> u64 {
        self.next_start += 1;
        self.starts.insert(self.next_start, Start { job, kind, lease });
        self.next_start
    }

    /// A worker has registered. None when it was not expected, else the lease it was started for.
    pub(super) fn ready(&mut self, start: u64, worker: ProcessAddr, pid: u32) -> Option<Option<u64>> {
        let mut slot =
            WorkerSlot { worker, pid, kind: WorkerKind::Shared, job: None, leases: BTreeSet::new(), stopping: false };
        let lease = if start == 0 {
            if !self.in_process {
                return None;
            }
            None
        } else {
            let start = self.starts.remove(&start)?;
            self.failures.remove(&(start.job, start.kind));
            slot.kind = start.kind;
            slot.job = Some(start.job);
            if start.kind == WorkerKind::Shared {
                self.shared.insert(start.job, worker);
            }
            start.lease
        };
        self.workers.insert(worker.id, slot);
        Some(lease)
    }

    /// A started worker did not register. What it was to be, if it was awaited.
    pub(super) fn failed(
        &mut self,
        start: u64,
        why: &str,
        for_good: bool,
        now: Duration,
    ) -> Option<(JobId, WorkerKind, Option<u64>)> {
        let start = self.starts.remove(&start)?;
        let times = self.failures.get(&(start.job, start.kind)).map_or(0, |failure| failure.times);
        let wait = RETRY_AFTER.saturating_mul(1 << times.min(8)).min(RETRY_AFTER_AT_MOST);
        let failure = Failure { times: times + 1, until: now + wait, for_good, why: why.to_owned() };
        self.failures.insert((start.job, start.kind), failure);
        Some((start.job, start.kind, start.lease))
    }

    /// A worker is dead; what it was.
    pub(super) fn died(&mut self, process: ProcessId) -> Option<WorkerSlot> {
        let slot = self.workers.remove(&process)?;
        self.forget_shared(&slot);
        Some(slot)
    }

    /// The worker is to leave and serves no new lease. None when that was known, else whether it
    /// is to be killed at once.
    pub(super) fn stop(&mut self, process: ProcessId) -> Option<bool> {
        let slot = self.workers.get_mut(&process).filter(|slot| !slot.stopping && slot.job.is_some())?;
        slot.stopping = true;
        let slot = slot.clone();
        self.forget_shared(&slot);
        Some(slot.kind == WorkerKind::Process)
    }

    fn forget_shared(&mut self, slot: &WorkerSlot) {
        if let Some(job) = slot.job
            && self.shared.get(&job).is_some_and(|worker| worker.id == slot.worker.id)
        {
            self.shared.remove(&job);
        }
    }

    pub(super) fn attach(&mut self, process: ProcessId, lease: u64) {
        if let Some(slot) = self.workers.get_mut(&process) {
            slot.leases.insert(lease);
        }
    }

    pub(super) fn detach(&mut self, process: ProcessId, lease: u64) {
        if let Some(slot) = self.workers.get_mut(&process) {
            slot.leases.remove(&lease);
        }
    }

    pub(super) fn lease_count(&self, process: ProcessId) -> usize {
        self.workers.get(&process).map_or(0, |slot| slot.leases.len())
    }

    pub(super) fn shared_worker(&self, job: JobId) -> Option<ProcessAddr> {
        self.shared.get(&job).copied()
    }

    /// The start of the job's shared worker, while it has not registered.
    pub(super) fn shared_start(&self, job: JobId) -> Option<u64> {
        self.starts
            .iter()
            .find(|(_, start)| start.job == job && start.kind == WorkerKind::Shared)
            .map(|(number, _)| *number)
    }

    /// Gives up on it.
    pub(super) fn abort_shared_start(&mut self, job: JobId) -> Option<u64> {
        let start = self.shared_start(job)?;
        self.starts.remove(&start);
        Some(start)
    }

    /// Gives up on the process that is started for a lease.
    pub(super) fn abort_process_start(&mut self, lease: u64) -> Option<u64> {
        let number = self.starts.iter().find(|(_, start)| start.lease == Some(lease)).map(|(number, _)| *number)?;
        self.starts.remove(&number);
        Some(number)
    }

    /// Processes of a job that have not registered yet.
    pub(super) fn starting(&self, job: JobId) -> usize {
        self.starts.values().filter(|start| start.job == job).count()
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &WorkerSlot> {
        self.workers.values()
    }

    pub(super) fn describe(&self, node: &str) -> Vec<WorkerInfo> {
        self.workers
            .values()
            .map(|slot| WorkerInfo {
                node: node.to_owned(),
                pid: slot.pid,
                process: slot.worker,
                kind: match (slot.job, slot.kind) {
                    (None, _) => "in-process",
                    (_, WorkerKind::Shared) => "shared",
                    (_, WorkerKind::Process) => "process",
                }
                .to_owned(),
                job: slot.job,
                leases: slot.leases.len() as u32,
                gpus: Vec::new(),
                state: if slot.stopping { "STOPPING" } else { "READY" }.to_owned(),
            })
            .collect()
    }
}
