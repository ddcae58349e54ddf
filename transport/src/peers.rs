//! What is known about other processes: who is gone for good, and who wants to hear of changes.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::Mutex;

use crate::address::ProcessId;
use crate::error::SendError;

/// How many dead processes are remembered; the oldest are forgotten first (they are then merely
/// unreachable).
const GONE_MEMORY: usize = 8192;

/// A change in what is known about another process.
///
/// What a watcher hears of one process, in this order:
/// ```text
///   ( Connected  Interrupted )*  [ Connected ]  ( Lost | Gone )
/// ```
/// and, after `Lost`, perhaps all of it again. Whenever a connection that stood is no more,
/// whether it broke or the other side has replaced it, [`Interrupted`](Self::Interrupted) comes
/// before the `Connected` of the next one (unless the process is `Gone` altogether). That is the
/// only sign that one-way messages which the network had already taken may be lost: who sends
/// such messages must compare notes with the other side when it hears it. Messages that were
/// still queued are sent over the next connection, in order, and are not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A connection stands.
    Connected {
        /// The process.
        process: ProcessId,
    },
    /// The connection that stood is no more; another one is being made, or was made by the other
    /// side. Requests in flight have failed; one-way messages that were already on their way may
    /// or may not have arrived.
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
    news: Mutex<News>,
}

#[derive(Default)]
struct News {
    untold: VecDeque<PeerEvent>,
    telling: bool,
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

    /// Puts an event in its place among the others; [`tell_announced`](Self::tell_announced)
    /// tells it. Calls nobody, so it may be used under a lock.
    pub(crate) fn announce(&self, event: PeerEvent) {
        self.news.lock().untold.push_back(event);
    }

    /// Tells the watchers what was announced, one event after the other. A watcher may cause
    /// further events (by declaring a process dead, say); they are told after the present one.
    /// Never called by who merely sends: a watcher may take the locks that a sender holds.
    pub(crate) fn tell_announced(&self) {
        if std::mem::replace(&mut self.news.lock().telling, true) {
            return;
        }
        loop {
            let event = {
                let mut news = self.news.lock();
                let Some(event) = news.untold.pop_front() else {
                    news.telling = false;
                    return;
                };
                event
            };
            // Taken out meanwhile, so that a watcher may also add one.
            let mut watchers = std::mem::take(&mut *self.watchers.lock());
            for watcher in &mut watchers {
                // One that panics must not keep the others, or itself, from later events.
                if catch_unwind(AssertUnwindSafe(|| watcher(event.clone()))).is_err() {
                    tracing::error!(?event, "a watcher of peers panicked");
                }
            }
            let mut added = self.watchers.lock();
            watchers.append(&mut added);
            *added = watchers;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_watcher_may_cause_events_and_add_watchers() {
        let peers = Arc::new(Peers::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (inner, log) = (Arc::downgrade(&peers), seen.clone());
        let process = ProcessId::random();
        peers.watch(Box::new(move |event| {
            log.lock().push(event.clone());
            let Some(peers) = inner.upgrade() else { return };
            if let PeerEvent::Connected { process } = event {
                peers.announce(PeerEvent::Gone { process, why: "seen".into() });
                peers.tell_announced();
                peers.watch(Box::new(|_| {}));
            }
        }));
        peers.announce(PeerEvent::Connected { process });
        peers.tell_announced();
        assert_eq!(seen.lock().len(), 2);
        assert_eq!(peers.watchers.lock().len(), 2);
    }

    #[test]
    fn a_watcher_that_panics_keeps_nobody_from_later_events() {
        let peers = Peers::default();
        let seen = Arc::new(Mutex::new(0));
        let count = seen.clone();
        peers.watch(Box::new(|_| panic!("on purpose")));
        peers.watch(Box::new(move |_| *count.lock() += 1));
        for _ in 0..2 {
            peers.announce(PeerEvent::Connected { process: ProcessId::random() });
            peers.tell_announced();
        }
        assert_eq!(*seen.lock(), 2);
    }

    #[test]
    fn the_dead_are_remembered_up_to_a_bound() {
        let peers = Peers::default();
        let first = ProcessId::random();
        assert!(peers.mark_gone(first, "a"));
        assert!(!peers.mark_gone(first, "b"));
        assert_eq!(peers.gone(first), Some(SendError::Gone { process: first, why: "a".into() }));
        for _ in 0..GONE_MEMORY {
            peers.mark_gone(ProcessId::random(), "c");
        }
        assert_eq!(peers.gone(first), None);
        assert_eq!(peers.gone.lock().why.len(), GONE_MEMORY);
    }
}
