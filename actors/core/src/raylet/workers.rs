//! Worker processes: how they are started, watched and ended.
//!
//! [`Launcher`] is the seam; a node without one runs everything in the worker of its own process,
//! which registers itself with start number 0.

use std::sync::Arc;

use crate::culprit::Culprit;
use crate::messages::{JobInfo, WorkerKind};

/// A worker process to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The number it registers with.
    pub start: u64,
    /// Whose binary, and where its output goes.
    pub job: JobInfo,
    /// Of which kind.
    pub kind: WorkerKind,
    /// The GPUs that it may use.
    pub gpus: Vec<String>,
}

/// What became of a [`Launch`].
#[derive(Clone, Debug)]
pub enum LaunchEvent {
    /// The process runs; it has yet to register.
    Spawned {
        /// Its launch.
        start: u64,
        /// Its operating system id.
        pid: u32,
    },
    /// There is no process.
    Failed {
        /// Its launch.
        start: u64,
        /// Why.
        why: String,
        /// Whether trying again is of no use.
        for_good: bool,
    },
    /// The process has ended.
    Exited {
        /// Its launch.
        start: u64,
        /// Its exit status or signal, in words.
        how: String,
        /// Whose doing that was.
        culprit: Culprit,
    },
}

/// Where a launcher reports; callable from any thread.
pub type Report = Arc<dyn Fn(LaunchEvent) + Send + Sync>;

/// Starts and ends worker processes. No call blocks.
pub trait Launcher: std::fmt::Debug + Send + Sync {
    /// Starts a process.
    fn launch(&self, launch: Launch, report: Report);
    /// Kills the process of a launch, and what it has started; one that is not up yet never comes
    /// up. [`LaunchEvent::Exited`] follows when there was a process.
    fn kill(&self, start: u64);
    /// Kills all of them.
    fn kill_all(&self);
}
