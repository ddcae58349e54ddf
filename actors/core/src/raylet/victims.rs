//! Which worker is ended when a node is about to run out of memory: [`MemoryGuard`].
//!
//! Before the system kills whatever it likes (the raylet, say, and with it all work of the node), a
//! worker is chosen whose loss costs the least: one without work, then tasks that can run again, then
//! tasks that cannot, and actors last, whose state is lost. Among those of a kind it is the youngest,
//! since the least work is lost with it and the others may get to their end. A worker that holds
//! little is spared while another holds more: its end would not help.
//!
//! A shared worker is worth what the dearest of its work is. Nobody knows which of its tasks has
//! taken the memory, so none is charged with an attempt: those that ran are counted apart, and run
//! again in processes of their own, where the next kill finds the right one.

use std::time::Duration;

use mobula_transport::ProcessId;

use super::pool::WorkerSlot;
use super::scheduler::Scheduler;
use crate::memory::Usage;

/// After a kill the memory has to come back before another one is decided on.
const PAUSE: Duration = Duration::from_millis(1_000);
/// A worker with less of all memory than this is spared while another has more.
const WORTH_PERMILLE: u64 = 100;

/// What is lost with a worker, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// It has no work.
    Nothing,
    /// Tasks that run again.
    Retriable,
    /// Tasks that do not.
    Final,
    /// The state of actors.
    Actors,
}

/// A worker that could be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) worker: ProcessId,
    pub(super) pid: u32,
    pub(super) loss: Loss,
    /// The number of its latest lease: they count up.
    pub(super) youngest: u64,
    pub(super) private_bytes: u64,
}

impl Scheduler {
    /// The worker processes that could be ended to save the node; who has how much is to be seen.
    pub(super) fn memory_suspects(&self) -> Vec<Suspect> {
        let own = self.pool.workers().filter(|slot| slot.job.is_some());
        let suspect = |slot: &WorkerSlot| {
            let leases = slot.leases.iter().filter_map(|seq| self.leases.get(seq));
            let loss = leases.map(|lease| match lease.actor {
                Some(_) => Loss::Actors,
                None if lease.shape.retriable => Loss::Retriable,
                None => Loss::Final,
            });
            Suspect {
                worker: slot.worker.id,
                pid: slot.pid,
                loss: loss.max().unwrap_or(Loss::Nothing),
                youngest: slot.leases.last().copied().unwrap_or(0),
                private_bytes: 0,
            }
        };
        own.map(suspect).collect()
    }
}

/// Decides when a worker is ended, and which.
#[derive(Debug)]
pub(super) struct MemoryGuard {
    threshold: f64,
    ended_at: Option<Duration>,
}

impl MemoryGuard {
    /// One that acts when more than this part of the memory is in use.
    pub(super) fn new(threshold: f64) -> Self {
        Self { threshold, ended_at: None }
    }

    /// The worker to be ended now, if one is.
    pub(super) fn choose(&mut self, usage: Usage, suspects: &[Suspect], now: Duration) -> Option<ProcessId> {
        if !usage.is_above(self.threshold) || self.ended_at.is_some_and(|at| now.saturating_sub(at) < PAUSE) {
            return None;
        }
        let worth = |suspect: &&Suspect| {
            suspect.private_bytes.saturating_mul(1_000) >= usage.limit_bytes.saturating_mul(WORTH_PERMILLE)
        };
        let order = |suspect: &&Suspect| (suspect.loss, std::cmp::Reverse(suspect.youngest), suspect.worker);
        let chosen = suspects.iter().filter(worth).min_by_key(order).or_else(|| suspects.iter().min_by_key(order))?;
        self.ended_at = Some(now);
        Some(chosen.worker)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const FULL: Usage = Usage { used_bytes: 960, limit_bytes: 1_000 };
    const LATER: Duration = PAUSE;

    fn process(n: u128) -> ProcessId {
        ProcessId(Uuid::from_u128(n))
    }

    fn suspect(n: u128, loss: Loss, youngest: u64, private_bytes: u64) -> Suspect {
        Suspect { worker: process(n), pid: n as u32, loss, youngest, private_bytes }
    }

    #[test]
    fn the_cheapest_loss_and_of_those_the_youngest() {
        use Loss::{Actors, Final, Nothing, Retriable};
        type Case<'a> = (&'a str, &'a [(Loss, u64, u64)], Option<u128>);
        let table: &[Case<'_>] = &[
            ("nobody is there", &[], None),
            ("the only one", &[(Actors, 1, 500)], Some(0)),
            ("the youngest that runs again", &[(Retriable, 3, 300), (Retriable, 7, 300), (Retriable, 5, 900)], Some(1)),
            ("one that runs again before a younger that does not", &[(Final, 9, 900), (Retriable, 1, 130)], Some(1)),
            ("one that does not before an actor", &[(Actors, 9, 900), (Final, 1, 130)], Some(1)),
            ("one without work first", &[(Retriable, 9, 900), (Nothing, 1, 130)], Some(1)),
            ("one that holds little is spared", &[(Retriable, 9, 90), (Retriable, 1, 300)], Some(1)),
            ("whatever that costs", &[(Nothing, 9, 99), (Actors, 1, 100)], Some(1)),
            ("unless all hold little", &[(Final, 9, 10), (Retriable, 1, 19)], Some(1)),
        ];
        for (what, workers, expected) in table {
            let suspects: Vec<Suspect> =
                (0..).zip(*workers).map(|(n, (loss, youngest, bytes))| suspect(n, *loss, *youngest, *bytes)).collect();
            let chosen = MemoryGuard::new(0.95).choose(FULL, &suspects, Duration::ZERO);
            assert_eq!(chosen, expected.map(process), "{what}");
        }
    }

    #[test]
    fn memory_is_given_time_to_come_back() {
        let mut guard = MemoryGuard::new(0.95);
        let suspects = [suspect(1, Loss::Retriable, 1, 500)];
        let calm = Usage { used_bytes: 950, ..FULL };
        assert_eq!(guard.choose(calm, &suspects, Duration::ZERO), None);
        assert_eq!(guard.choose(FULL, &suspects, Duration::ZERO), Some(process(1)));
        assert_eq!(guard.choose(FULL, &suspects, LATER / 2), None);
        assert_eq!(guard.choose(FULL, &suspects, LATER), Some(process(1)));
        assert_eq!(MemoryGuard::new(1.0).choose(FULL, &suspects, LATER), None, "one is never above");
    }

    proptest! {
        #[test]
        fn nothing_dearer_is_ended_than_has_to_be(
            used in 0..1_100_u64,
            workers in prop::collection::vec((0..4_u8, 0..100_u64, 0..200_u64), 0..20),
        ) {
            let losses = [Loss::Nothing, Loss::Retriable, Loss::Final, Loss::Actors];
            let suspects: Vec<Suspect> = (0..)
                .zip(workers)
                .map(|(n, (loss, youngest, bytes))| suspect(n, losses[loss as usize], youngest, bytes))
                .collect();
            let usage = Usage { used_bytes: used, limit_bytes: 1_000 };
            let chosen = MemoryGuard::new(0.95).choose(usage, &suspects, Duration::ZERO);
            let mut worth: Vec<&Suspect> = suspects.iter().filter(|suspect| suspect.private_bytes >= 100).collect();
            if worth.is_empty() {
                worth = suspects.iter().collect();
            }
            prop_assert_eq!(chosen.is_some(), used > 950 && !suspects.is_empty());
            if let Some(chosen) = chosen {
                let chosen = worth.iter().find(|suspect| suspect.worker == chosen).expect("one of them");
                for other in &worth {
                    prop_assert!(other.loss >= chosen.loss);
                    prop_assert!(other.loss > chosen.loss || other.youngest <= chosen.youngest);
                }
            }
        }
    }
}
