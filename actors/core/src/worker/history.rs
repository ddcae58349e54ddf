//! What runs and what ran lately, for people. Bounded, and cheap enough to be always on.

use std::collections::VecDeque;

use mobula_transport::Address;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::WorkerShared;
use crate::ids::FunctionId;
use crate::messages::{TaskInfo, TaskSpec};

/// Tasks are kept apart by their numbers, so that threads that end one after the other do not wait for
/// each other.
const SHARDS: usize = 16;
/// How many ended tasks each of them remembers.
const REMEMBERED: usize = 64;

/// An attempt: its owner, number, and which one it is. An old attempt may still run, or end, beside a
/// new one.
type Attempt = (Address, u64, u32);

struct Ended {
    client: Address,
    seq: u64,
    function: FunctionId,
    name: Option<String>,
    failed: bool,
    run_us: u32,
    /// When it was recorded, to tell what was before what.
    at: Instant,
}

struct Begun {
    attempt: Attempt,
    function: FunctionId,
    name: Option<String>,
    start: Instant,
    /// The number of the run; 0 when it has ended and only its result has not left.
    run: u64,
}

#[derive(Default)]
struct Inner {
    /// A handful: there is one for each thread that runs or waits.
    running: Vec<Begun>,
    ended: VecDeque<Ended>,
}

impl Inner {
    fn find(&self, attempt: &Attempt) -> Option<&Begun> {
        self.running.iter().find(|begun| begun.attempt == *attempt)
    }
}

/// The tasks that run and those that ended lately.
#[derive(Default)]
pub(super) struct History([Mutex<Inner>; SHARDS]);

impl History {
    fn shard(&self, seq: u64) -> &Mutex<Inner> {
        &self.0[seq as usize % SHARDS]
    }

    pub(super) fn begin(&self, client: Address, spec: &TaskSpec, start: Instant, run: u64) {
        let attempt = (client, spec.seq, spec.attempt);
        let begun = Begun { attempt, function: spec.function, name: spec.name.clone(), start, run };
        self.shard(spec.seq).lock().running.push(begun);
    }

    /// Its result waits for room on its way: that is no end yet.
    pub(super) fn held_up(&self, client: Address, spec: &TaskSpec) {
        let attempt = (client, spec.seq, spec.attempt);
        let mut inner = self.shard(spec.seq).lock();
        match inner.running.iter_mut().find(|begun| begun.attempt == attempt) {
            Some(begun) => begun.run = 0,
            // One that failed before it could run was never begun.
            None => inner.running.push(Begun {
                attempt,
                function: spec.function,
                name: spec.name.clone(),
                start: Instant::now(),
                run: 0,
            }),
        }
    }

    /// Its result is on its way.
    pub(super) fn record(&self, client: Address, spec: &TaskSpec, failed: bool, run_us: u32) {
        let attempt = (client, spec.seq, spec.attempt);
        let at = Instant::now();
        let mut inner = self.shard(spec.seq).lock();
        let begun = inner.running.iter().position(|begun| begun.attempt == attempt);
        // One that failed before it could run was never begun.
        let name = begun.map_or_else(|| spec.name.clone(), |position| inner.running.swap_remove(position).name);
        let ended = &mut inner.ended;
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back(Ended { client, seq: spec.seq, function: spec.function, name, failed, run_us, at });
    }

    /// Whether this attempt runs, or its result has not left yet.
    pub(super) fn runs(&self, client: Address, seq: u64, attempt: u32) -> bool {
        self.shard(seq).lock().find(&(client, seq, attempt)).is_some()
    }

    /// The number of the run of an attempt whose code runs.
    pub(super) fn run_of(&self, attempt: &Attempt) -> Option<u64> {
        self.shard(attempt.1).lock().find(attempt).map(|begun| begun.run).filter(|run| *run > 0)
    }

    /// What runs, then what has ended, each in the order of time.
    pub(super) fn describe(&self, worker: &WorkerShared, out: &mut Vec<TaskInfo>) {
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        for shard in &self.0 {
            let inner = shard.lock();
            running.extend(inner.running.iter().map(|begun| {
                let (client, seq, _) = begun.attempt;
                let (name, run_us) = (begun.name.as_deref(), begun.start.elapsed().as_micros() as u64);
                (begun.start, worker.task_info(client, seq, begun.function, name, "RUNNING", run_us))
            }));
            ended.extend(inner.ended.iter().map(|ended| {
                let state = if ended.failed { "FAILED" } else { "FINISHED" };
                let (name, run_us) = (ended.name.as_deref(), u64::from(ended.run_us));
                (ended.at, worker.task_info(ended.client, ended.seq, ended.function, name, state, run_us))
            }));
        }
        for mut tasks in [running, ended] {
            tasks.sort_by_key(|(at, _)| *at);
            out.extend(tasks.into_iter().map(|(_, info)| info));
        }
    }
}

#[cfg(test)]
mod tests {
    use mobula_transport::{MailboxId, ProcessAddr, ProcessId};

    use super::*;

    fn spec(attempt: u32) -> TaskSpec {
        let args = smallvec::smallvec![];
        TaskSpec { seq: 7, attempt, function: FunctionId(1), name: None, args, returns: 0, stream: None }
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
