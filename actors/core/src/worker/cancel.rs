//! Attempts that were cancelled: what has not started does not run, and what runs can ask.
//!
//! Looking costs one atomic read as long as nothing was cancelled.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobula_transport::Address;
use parking_lot::Mutex;

use super::{WorkerShared, current, future};
use crate::culprit::{Culprit, accuse};
use crate::messages::{CancelTask, StillHave};

/// An attempt: its owner, number, and which one it is.
pub(super) type Attempt = (Address, u64, u32);

/// A cancellation may overtake what it cancels by so much.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// So many are remembered that have not ended here: they have ended before, or never arrive.
const REMEMBERED: usize = 10_000;

#[derive(Default)]
struct Inner {
    cancelled: HashSet<Attempt>,
    /// Oldest first; some may have ended.
    order: VecDeque<Attempt>,
}

/// The cancelled attempts of this process, whichever session they belong to.
pub(super) struct Cancelled {
    inner: Mutex<Option<Inner>>,
    count: AtomicUsize,
}

pub(super) static CANCELLED: Cancelled = Cancelled { inner: Mutex::new(None), count: AtomicUsize::new(0) };

impl Cancelled {
    fn add(&self, attempt: Attempt) {
        let mut inner = self.inner.lock();
        let inner = inner.get_or_insert_default();
        if inner.cancelled.insert(attempt) {
            inner.order.push_back(attempt);
        }
        while inner.order.len() > REMEMBERED {
            if let Some(oldest) = inner.order.pop_front() {
                inner.cancelled.remove(&oldest);
            }
        }
        self.count.store(inner.cancelled.len(), Ordering::Release);
    }

    pub(super) fn contains(&self, attempt: &Attempt) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.inner.lock().as_ref().is_some_and(|inner| inner.cancelled.contains(attempt))
    }

    /// It has ended.
    pub(super) fn forget(&self, attempt: &Attempt) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(inner) = &mut *self.inner.lock() {
            inner.cancelled.remove(attempt);
            if inner.cancelled.is_empty() {
                inner.order.clear();
            }
            self.count.store(inner.cancelled.len(), Ordering::Release);
        }
    }
}

/// Whether the task or call that this thread runs was cancelled: its result is of no use to anyone,
/// so it may as well return. False outside of one.
pub fn is_cancelled() -> bool {
    current::attempt().is_some_and(|attempt| CANCELLED.contains(&attempt))
}

impl WorkerShared {
    /// An owner does not want an attempt any more.
    pub(super) fn cancel(self: &Arc<Self>, cancel: &CancelTask) {
        let attempt = (cancel.client, cancel.seq, cancel.attempt);
        // First, so that one that is about to start sees it, or is seen to run.
        CANCELLED.add(attempt);
        future::wake(&attempt);
        let Some(run) = self.history.run_of(&attempt) else { return self.forget_later(attempt) };
        if let Some(how) = cancel.children {
            self.client.cancel_children(run, how);
        }
        if let Some(after) = cancel.end_after.filter(|_| self.own_process) {
            self.end_process(attempt, after);
        }
    }

    /// It waits here, has ended, or is on its way. What is not here by then never comes.
    fn forget_later(self: &Arc<Self>, attempt: Attempt) {
        let worker = self.clone();
        self.endpoint.spawn_task(async move {
            tokio::time::sleep(ARRIVES_WITHIN).await;
            let (client, seq, number) = attempt;
            if worker.missing(&StillHave { client, tasks: vec![(seq, number)] }).is_empty() {
                worker.forget_later(attempt);
            } else {
                CANCELLED.forget(&attempt);
            }
        });
    }

    /// Ends this process if the attempt still runs after a while. The others that run in it are not
    /// to blame, so they run again uncharged.
    fn end_process(self: &Arc<Self>, attempt: Attempt, after: Duration) {
        let worker = self.clone();
        self.endpoint.spawn_task(async move {
            tokio::time::sleep(after).await;
            if worker.history.run_of(&attempt).is_some() {
                let (client, seq, _) = attempt;
                tracing::warn!(task = seq, "ending this worker process: a task was cancelled by force");
                let _accused = accuse(Culprit::Task { owner: client.process.id, seq });
                std::process::abort();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use mobula_transport::{MailboxId, ProcessAddr, ProcessId};

    use super::*;

    #[test]
    fn what_never_ends_here_is_forgotten_at_last() {
        let process = ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS };
        let client = Address { process, mailbox: MailboxId::CLIENT };
        let cancelled = Cancelled { inner: Mutex::new(None), count: AtomicUsize::new(0) };
        let all = REMEMBERED as u64 + 2;
        for seq in 0..all {
            cancelled.add((client, seq, 1));
        }
        assert!(!cancelled.contains(&(client, 1, 1)) && cancelled.contains(&(client, 2, 1)));
        assert!(!cancelled.contains(&(client, 2, 2)), "another attempt is not meant");
        for seq in 0..all {
            cancelled.forget(&(client, seq, 1));
        }
        assert_eq!(cancelled.count.load(Ordering::Acquire), 0);
        assert!(cancelled.inner.lock().as_ref().is_some_and(|inner| inner.order.is_empty()));
    }
}
