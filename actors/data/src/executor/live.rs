//! What a run and those of its blocks that run in its own process know of each other.
//!
//! Entry types: [`Live`], made by the driver for a run, and [`RunId`], by which a block finds
//! it. A block in another process finds nothing; it is heard of when it is done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::execute::Progress;

/// Names a run, and the process it is driven from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct RunId {
    process: u64,
    run: u64,
}

/// What the blocks of a run have done so far, and whether they are to stop.
#[derive(Debug, Default)]
pub(super) struct Counters {
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    ended: AtomicBool,
}

impl Counters {
    /// Adds what a block did; false if it is to stop.
    pub(super) fn add(&self, progress: Progress) -> bool {
        self.rows_in.fetch_add(progress.rows_in, Ordering::Relaxed);
        self.rows_out.fetch_add(progress.rows_out, Ordering::Relaxed);
        !self.ended.load(Ordering::Relaxed)
    }

    /// What was added.
    pub(super) fn sum(&self) -> Progress {
        Progress { rows_in: self.rows_in.load(Ordering::Relaxed), rows_out: self.rows_out.load(Ordering::Relaxed) }
    }
}

/// A run that is under way. When it is dropped, its blocks in this process stop at their next
/// batch.
pub(super) struct Live {
    pub(super) id: RunId,
    pub(super) counters: Arc<Counters>,
}

impl Live {
    pub(super) fn begin() -> Self {
        let live = Self { id: RunId { process: *PROCESS, run: rand::random() }, counters: Arc::default() };
        RUNS.lock().insert(live.id, Arc::clone(&live.counters));
        live
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.counters.ended.store(true, Ordering::Relaxed);
        RUNS.lock().remove(&self.id);
    }
}

/// The run of a block.
pub(super) enum Found {
    /// It is driven from this process.
    Here(Arc<Counters>),
    /// It was, and has ended.
    Ended,
    /// It is driven from another process.
    Elsewhere,
}

pub(super) fn find(id: RunId) -> Found {
    if id.process != *PROCESS {
        return Found::Elsewhere;
    }
    RUNS.lock().get(&id).map_or(Found::Ended, |counters| Found::Here(Arc::clone(counters)))
}

/// Tells this process from others.
static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);

/// The runs driven from this process.
static RUNS: Mutex<BTreeMap<RunId, Arc<Counters>>> = Mutex::new(BTreeMap::new());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_finds_its_run_as_long_as_it_lasts() {
        let live = Live::begin();
        let Found::Here(counters) = find(live.id) else { panic!("a run of this process") };
        assert!(counters.add(Progress { rows_in: 3, rows_out: 2 }));
        assert_eq!(live.counters.sum(), Progress { rows_in: 3, rows_out: 2 });
        let id = live.id;
        drop(live);
        assert!(!counters.add(Progress::default()));
        assert!(matches!(find(id), Found::Ended));
        assert!(matches!(find(RunId { process: !*PROCESS, run: 1 }), Found::Elsewhere));
    }
}
