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
    failed: bool,
    run_us: u32,
}

struct Begun {
    client: Address,
    attempt: u32,
    function: FunctionId,
    name: Option<String>,
    start: Instant,
}

#[derive(Default)]
struct Inner {
    running: BTreeMap<(Address, u64), Begun>,
    ended: VecDeque<Ended>,
}

/// The tasks that run and those that ended lately.
#[derive(Default)]
pub(super) struct History(Mutex<Inner>);

impl History {
    pub(super) fn begin(&self, client: Address, spec: &TaskSpec, start: Instant) {
        let begun = Begun { client, attempt: spec.attempt, function: spec.function, name: spec.name.clone(), start };
        self.0.lock().running.insert((client, spec.seq), begun);
    }

    pub(super) fn record(&self, client: Address, spec: &TaskSpec, failed: bool, run_us: u32) {
        let mut inner = self.0.lock();
        inner.running.remove(&(client, spec.seq));
        let ended = &mut inner.ended;
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back(Ended { client, seq: spec.seq, function: spec.function, failed, run_us });
    }

    /// Whether this attempt runs.
    pub(super) fn runs(&self, client: Address, seq: u64, attempt: u32) -> bool {
        self.0.lock().running.get(&(client, seq)).is_some_and(|begun| begun.attempt == attempt)
    }

    pub(super) fn describe(&self, worker: &WorkerShared, out: &mut Vec<TaskInfo>) {
        let inner = self.0.lock();
        for ((_, seq), begun) in &inner.running {
            let run_us = begun.start.elapsed().as_micros() as u64;
            let name = begun.name.as_deref();
            out.push(worker.task_info(begun.client, *seq, begun.function, name, "RUNNING", run_us));
        }
        for ended in &inner.ended {
            let state = if ended.failed { "FAILED" } else { "FINISHED" };
            out.push(worker.task_info(ended.client, ended.seq, ended.function, None, state, u64::from(ended.run_us)));
        }
    }
}
