//! Work whose connection broke: the pure core that knows which tasks to ask a worker about, and
//! when.
//!
//! A connection that breaks may have swallowed messages in both directions: a task on its way, or
//! its result. When it is up again the worker is asked what it still has of what was in flight.
//! What it has stays in doubt and is asked for again, ever less often, until it has ended: its
//! result may have been on its way at that very moment.

use std::collections::BTreeMap;

use mobula_transport::{ProcessAddr, ProcessId};

/// The first wait before the same is asked again; it doubles.
const ASK_AGAIN_US: u64 = 1_000_000;
/// The longest such wait.
const ASK_AGAIN_AT_MOST_US: u64 = 60_000_000;

#[derive(Debug)]
struct Doubt {
    worker: ProcessAddr,
    /// The tasks and calls that were in flight, with their attempts.
    tasks: BTreeMap<u64, u32>,
    /// When to ask; none while there is no connection.
    ask_at_us: Option<u64>,
    pause_us: u64,
}

/// What is in doubt, by worker process.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    of: BTreeMap<ProcessId, Doubt>,
}

impl Doubts {
    /// These may be lost; they are asked for when the worker is [`connected`](Self::connected).
    pub(crate) fn add(&mut self, worker: ProcessAddr, tasks: impl IntoIterator<Item = (u64, u32)>) {
        let doubt = self.of.entry(worker.id).or_insert_with(|| Doubt {
            worker,
            tasks: BTreeMap::new(),
            ask_at_us: None,
            pause_us: ASK_AGAIN_US,
        });
        doubt.tasks.extend(tasks);
    }

    /// Its connection is broken.
    pub(crate) fn interrupted(&mut self, worker: ProcessId) {
        if let Some(doubt) = self.of.get_mut(&worker) {
            doubt.ask_at_us = None;
        }
    }

    /// It can be asked.
    pub(crate) fn connected(&mut self, worker: ProcessId, now_us: u64) {
        if let Some(doubt) = self.of.get_mut(&worker) {
            doubt.ask_at_us = Some(now_us);
            doubt.pause_us = ASK_AGAIN_US;
        }
    }

    /// It is dead, and its tasks with it.
    pub(crate) fn lost(&mut self, worker: ProcessId) {
        self.of.remove(&worker);
    }

    /// Whether nothing is in doubt.
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whom to ask for what now. `pending` says whether an attempt has not ended.
    pub(crate) fn due(
        &mut self,
        now_us: u64,
        pending: impl Fn(u64, u32) -> bool,
    ) -> Vec<(ProcessAddr, Vec<(u64, u32)>)> {
        let mut questions = Vec::new();
        self.of.retain(|_, doubt| {
            if doubt.ask_at_us.is_none_or(|at| at > now_us) {
                return true;
            }
            doubt.tasks.retain(|seq, attempt| pending(*seq, *attempt));
            if doubt.tasks.is_empty() {
                return false;
            }
            doubt.ask_at_us = Some(now_us + doubt.pause_us);
            doubt.pause_us = (2 * doubt.pause_us).min(ASK_AGAIN_AT_MOST_US);
            questions.push((doubt.worker, doubt.tasks.iter().map(|(seq, attempt)| (*seq, *attempt)).collect()));
            true
        });
        questions
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn worker() -> ProcessAddr {
        ProcessAddr { id: ProcessId(Uuid::from_u128(1)), socket: ProcessAddr::IN_PROCESS }
    }

    #[test]
    fn asks_when_connected_and_again_until_all_has_ended() {
        let mut doubts = Doubts::default();
        doubts.add(worker(), [(1, 1), (2, 1)]);
        assert!(doubts.due(0, |_, _| true).is_empty(), "there is no connection");
        doubts.connected(worker().id, 5);
        assert_eq!(doubts.due(5, |_, _| true), [(worker(), vec![(1, 1), (2, 1)])]);
        assert!(doubts.due(6, |_, _| true).is_empty());
        assert_eq!(doubts.due(5 + ASK_AGAIN_US, |seq, _| seq == 2), [(worker(), vec![(2, 1)])]);
        assert!(doubts.due(5 + ASK_AGAIN_US + 1, |_, _| false).is_empty());
        assert!(doubts.due(u64::MAX, |_, _| false).is_empty());
        assert!(doubts.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_stays_in_doubt_unasked(
            ends in prop::collection::vec(0..200_u64, 1..20),
            breaks in prop::collection::vec(0..200_u64, 0..5),
        ) {
            let mut doubts = Doubts::default();
            let all: BTreeSet<u64> = (0..ends.len() as u64).collect();
            doubts.add(worker(), all.iter().map(|seq| (*seq, 1)));
            doubts.connected(worker().id, 0);
            let mut asked_us = BTreeMap::new();
            for second in 0..400_u64 {
                if breaks.contains(&second) {
                    doubts.interrupted(worker().id);
                    doubts.connected(worker().id, second * 1_000_000);
                }
                let pending = |seq: u64, _| ends[seq as usize] > second;
                for (_, tasks) in doubts.due(second * 1_000_000, pending) {
                    for (seq, _) in tasks {
                        prop_assert!(pending(seq, 1), "asked for what has ended");
                        asked_us.insert(seq, second);
                    }
                }
                for seq in all.iter().filter(|seq| pending(**seq, 1)) {
                    let asked = asked_us.get(seq).copied().unwrap_or(0);
                    prop_assert!(second - asked <= ASK_AGAIN_AT_MOST_US / 1_000_000 + 1);
                }
            }
            prop_assert!(doubts.is_empty());
        }
    }
}
