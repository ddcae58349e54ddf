//! What is known about other processes: who is gone for good, and who wants to hear of changes.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::address::ProcessId;
use crate::error::SendError;

/// How many dead processes are remembered; the oldest are forgotten first (they are then merely
/// unreachable).
const GONE_MEMORY: usize = 8192;

/// A change in what is known about another process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A connection stands.
    Connected {
        /// The process.
        process: ProcessId,
    },
    /// The connection broke and is being made again. Requests in flight have failed; one-way
    /// messages that were already on their way may or may not have arrived.
    Interrupted {
        /// The process.
        process: ProcessId,
        /// What the network said.
        why: String,
    },
    /// The process could not be reached within the backoff window.
    Lost {
        /// The process.
        process: ProcessId,
        /// What the network said.
        why: String,
    },
    /// The process is known to be dead.
    Gone {
        /// The process.
        process: ProcessId,
        /// How it is known.
        why: String,
    },
}

type Watcher = Box<dyn FnMut(PeerEvent) + Send>;

#[derive(Default)]
pub(crate) struct Peers {
    gone: Mutex<Gone>,
    watchers: Mutex<Vec<Watcher>>,
}

#[derive(Default)]
struct Gone {
    why: HashMap<ProcessId, String>,
    oldest_first: VecDeque<ProcessId>,
}

impl Peers {
    /// Remembers that `process` is dead; `false` if that was known.
    pub(crate) fn mark_gone(&self, process: ProcessId, why: &str) -> bool {
        let mut gone = self.gone.lock();
        if gone.why.contains_key(&process) {
            return false;
        }
        gone.why.insert(process, why.to_owned());
        gone.oldest_first.push_back(process);
        if gone.oldest_first.len() > GONE_MEMORY
            && let Some(oldest) = gone.oldest_first.pop_front()
        {
            gone.why.remove(&oldest);
        }
        true
    }

    /// The error for a dead process, if it is known to be one.
    pub(crate) fn gone(&self, process: ProcessId) -> Option<SendError> {
        let why = self.gone.lock().why.get(&process).cloned()?;
        Some(SendError::Gone { process, why })
    }

    pub(crate) fn watch(&self, watcher: Watcher) {
        self.watchers.lock().push(watcher);
    }

    /// Tells the watchers. They must not cause peer events themselves on this thread.
    pub(crate) fn tell(&self, event: &PeerEvent) {
        for watcher in self.watchers.lock().iter_mut() {
            watcher(event.clone());
        }
    }
}
