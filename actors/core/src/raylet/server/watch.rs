//! Watches the node's memory, and ends a worker before the system does worse.

use std::time::Duration;

use mobula_transport::{Context, ProcessId};

use super::RayletServer;
use crate::culprit::Culprit;
use crate::memory::{self, Usage};
use crate::raylet::victims::MemoryGuard;

/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// More than this part of the memory in use, and a worker is ended; unless another is given.
pub const DEFAULT_MEMORY_THRESHOLD: f64 = 0.95;

/// How a node watches its memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryWatch {
    /// What the private memory of the raylet and its workers together is held against; that of the
    /// machine, or of the control group, with everything in it, unless given.
    pub limit_bytes: Option<u64>,
    /// More than this part of it in use, and a worker is ended; never at 1.
    pub threshold: f64,
}

impl Default for MemoryWatch {
    fn default() -> Self {
        Self { limit_bytes: None, threshold: DEFAULT_MEMORY_THRESHOLD }
    }
}

/// What is known of the node's memory.
pub(super) struct Watching {
    watch: MemoryWatch,
    guard: MemoryGuard,
    /// Somebody is looking.
    looking: bool,
}

impl Watching {
    pub(super) fn new(watch: MemoryWatch) -> Self {
        Self { guard: MemoryGuard::new(watch.threshold), watch, looking: false }
    }
}

/// What was seen: the usage, and the private memory of workers.
type Seen = (Option<Usage>, Vec<(ProcessId, u64)>);

impl RayletServer {
    /// Begins to watch; where all work is in this very process there is nobody to be ended.
    pub(super) fn watch_memory(&self, ctx: &mut Context<Self>) {
        if self.config.launcher.is_some() && self.watching.watch.threshold < 1.0 {
            ctx.every(LOOK_EVERY, |raylet, ctx| raylet.look_at_memory(ctx));
        }
    }

    /// Reads it off this thread: a process that is short of memory answers late.
    fn look_at_memory(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.watching.looking, true) {
            return;
        }
        let workers: Vec<(ProcessId, u32)> =
            self.core.memory_suspects().into_iter().map(|suspect| (suspect.worker, suspect.pid)).collect();
        let (watch, poster) = (self.watching.watch.clone(), ctx.poster());
        ctx.spawn(async move {
            // One that panicked has seen nothing, and the next one looks again.
            let seen = tokio::task::spawn_blocking(move || look(&watch, workers)).await.unwrap_or_default();
            poster.post(move |raylet: &mut Self, ctx| raylet.seen_memory(seen, ctx));
        });
    }

    fn seen_memory(&mut self, (usage, workers): Seen, ctx: &mut Context<Self>) {
        self.watching.looking = false;
        let Some(usage) = usage else { return };
        let mut suspects = self.core.memory_suspects();
        for suspect in &mut suspects {
            let seen = workers.iter().find(|(worker, _)| *worker == suspect.worker);
            suspect.private_bytes = seen.map_or(0, |(_, bytes)| *bytes);
        }
        let now = self.now(ctx);
        let Some(worker) = self.watching.guard.choose(usage, &suspects, now) else { return };
        let Some(start) = self.by_process.get(&worker).copied() else { return };
        let Usage { used_bytes, limit_bytes } = usage;
        tracing::warn!(%worker, used_bytes, limit_bytes, "a worker is ended: the node is about to run out of memory");
        if let Some(started) = self.starts.get_mut(&start) {
            started.ended_for_memory = Some(usage);
        }
        self.kill(start);
    }

    /// How a worker ended that was ended for want of memory, and why that was.
    pub(super) fn memory_verdict(&self, usage: Usage) -> (String, Culprit) {
        let Usage { used_bytes, limit_bytes } = usage;
        let how = format!(
            "its worker was ended before node {} would run out of memory: {} of {} MiB were in use",
            self.config.info.name,
            used_bytes >> 20,
            limit_bytes >> 20
        );
        (how, Culprit::Memory { used_bytes, limit_bytes })
    }
}

fn look(watch: &MemoryWatch, workers: Vec<(ProcessId, u32)>) -> Seen {
    let private = || -> Vec<(ProcessId, u64)> {
        workers.iter().map(|(worker, pid)| (*worker, memory::private_bytes(*pid))).collect()
    };
    match watch.limit_bytes {
        Some(limit_bytes) => {
            let workers = private();
            let own = memory::private_bytes(std::process::id());
            let used_bytes = own + workers.iter().map(|(_, bytes)| bytes).sum::<u64>();
            (Some(Usage { used_bytes, limit_bytes }), workers)
        }
        // Nobody is looked at while there is enough.
        None => match memory::machine() {
            Some(usage) if usage.is_above(watch.threshold) => (Some(usage), private()),
            usage => (usage, Vec::new()),
        },
    }
}
