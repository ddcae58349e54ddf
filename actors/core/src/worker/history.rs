//! What ran lately, for people. Bounded, and cheap enough to be always on.

use std::collections::VecDeque;

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

/// The tasks that ended lately.
#[derive(Default)]
pub(super) struct History(Mutex<VecDeque<Ended>>);

impl History {
    pub(super) fn record(&self, client: Address, spec: &TaskSpec, failed: bool, run_us: u32) {
        let mut ended = self.0.lock();
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back(Ended { client, seq: spec.seq, function: spec.function, failed, run_us });
    }

    pub(super) fn describe(&self, worker: &WorkerShared, out: &mut Vec<TaskInfo>) {
        for ended in &*self.0.lock() {
            let state = if ended.failed { "FAILED" } else { "FINISHED" };
            out.push(worker.task_info(ended.client, ended.seq, ended.function, None, state, u64::from(ended.run_us)));
        }
    }
}
