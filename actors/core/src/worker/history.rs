//! What runs and what ran lately, for people. Bounded, and cheap enough to be always on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use mobula_transport::Address;
use parking_lot::Mutex;

use super::WorkerShared;
use crate::ids::FunctionId;
use crate::messages::{TaskInfo, TaskSpec};

/// How many ended tasks are remembered.
const REMEMBERED: usize = 1_000;

struct Ended {
    client: Address,
    seq: u64,
    function: FunctionId,
    name: Option<String>,
    failed: bool,
    run_us: u32,
}

struct Begun {
    function: FunctionId,
    name: Option<String>,
    start: Instant,
    /// The number of the run; 0 when it has ended and only its result has not left.
    run: u64,
}

#[derive(Default)]
struct Inner {
    /// By owner, number and attempt: an old attempt may still run, or end, beside a new one.
    running: BTreeMap<(Address, u64, u32), Begun>,
    ended: VecDeque<Ended>,
}

/// The tasks that run and those that ended lately.
#[derive(Default)]
pub(super) struct History(Mutex<Inner>);

impl History {
    pub(super) fn begin(&self, client: Address, spec: &TaskSpec, start: Instant, run: u64) {
        let begun = Begun { function: spec.function, name: spec.name.clone(), start, run };
        self.0.lock().running.insert((client, spec.seq, spec.attempt), begun);
    }

    /// Its result waits for room on its way: that is no end yet.
    pub(super) fn held_up(&self, client: Address, spec: &TaskSpec) {
        let begun = Begun { function: spec.function, name: spec.name.clone(), start: Instant::now(), run: 0 };
        // One that failed before it could run was never begun.
        let mut inner = self.0.lock();
        inner.running.entry((client, spec.seq, spec.attempt)).and_modify(|begun| begun.run = 0).or_insert(begun);
    }

    /// Its result is on its way.
    pub(super) fn record(&self, client: Address, spec: &TaskSpec, failed: bool, run_us: u32) {
        let mut inner = self.0.lock();
        let begun = inner.running.remove(&(client, spec.seq, spec.attempt));
        // One that failed before it could run was never begun.
        let name = begun.map_or_else(|| spec.name.clone(), |begun| begun.name);
        let ended = &mut inner.ended;
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back(Ended { client, seq: spec.seq, function: spec.function, name, failed, run_us });
    }

    /// Whether this attempt runs, or its result has not left yet.
    pub(super) fn runs(&self, client: Address, seq: u64, attempt: u32) -> bool {
        self.0.lock().running.contains_key(&(client, seq, attempt))
    }

    /// The number of the run of an attempt whose code runs.
    pub(super) fn run_of(&self, attempt: &(Address, u64, u32)) -> Option<u64> {
        self.0.lock().running.get(attempt).map(|begun| begun.run).filter(|run| *run > 0)
    }

    pub(super) fn describe(&self, worker: &WorkerShared, out: &mut Vec<TaskInfo>) {
        let inner = self.0.lock();
        for ((client, seq, _), begun) in &inner.running {
            let run_us = begun.start.elapsed().as_micros() as u64;
            let name = begun.name.as_deref();
            out.push(worker.task_info(*client, *seq, begun.function, name, "RUNNING", run_us));
        }
        for ended in &inner.ended {
            let state = if ended.failed { "FAILED" } else { "FINISHED" };
            let (name, run_us) = (ended.name.as_deref(), u64::from(ended.run_us));
            out.push(worker.task_info(ended.client, ended.seq, ended.function, name, state, run_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use mobula_transport::{MailboxId, ProcessAddr, ProcessId};

    use super::*;

    fn spec(attempt: u32) -> TaskSpec {
        let args = smallvec::smallvec![];
        TaskSpec { seq: 7, attempt, function: FunctionId(1), name: None, args, returns: 0 }
    }

    #[test]
    fn the_end_of_an_old_attempt_does_not_hide_the_new_one() {
        let process = ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS };
        let client = Address { process, mailbox: MailboxId::CLIENT };
        let history = History::default();
        history.begin(client, &spec(1), Instant::now(), 1);
        history.begin(client, &spec(2), Instant::now(), 2);
        assert!(history.runs(client, 7, 1) && history.runs(client, 7, 2));
        history.record(client, &spec(1), false, 1);
        assert!(!history.runs(client, 7, 1) && history.runs(client, 7, 2));
        history.held_up(client, &spec(2));
        history.record(client, &spec(2), false, 1);
        assert!(!history.runs(client, 7, 2));
    }
}
