//! Pure: which objects are fetched when, and from which node.
//!
//! [`PullManager`] admits pulls in the order in which they were asked for, bounded by the bytes
//! in flight; an object larger than the bound goes alone. A source that fails is followed by the
//! next one; when none is left the object is lost, with the reasons. Asking again for an object
//! that is being pulled only adds its sources.
//!
//! A source that many ask may name another store to be asked instead (see
//! [`broadcast`](super::broadcast)), which has the object or is pulling it itself. If that one fails
//! the source is asked again, and told which ones have failed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use mobula_transport::{ProcessAddr, ProcessId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::value::Encoding;

/// Bytes of objects that may be on their way to this store at once.
pub(crate) const PULL_WINDOW_BYTES: u64 = 512 << 20;
/// Objects that may be on their way at once.
pub(crate) const PULL_STREAMS: usize = 64;
/// How often one source is tried when the failure may pass.
pub(crate) const ATTEMPTS_PER_SOURCE: u32 = 2;
/// How often a source may name another one before that counts as its failure.
pub(crate) const MAX_REDIRECTS: u32 = 4;
/// So many reasons are kept for the final error.
const REASONS_KEPT: usize = 4;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Fetch the object, then say [`PullManager::done`] or [`PullManager::failed`].
    Start { object: ObjectId, encoding: Encoding, size_bytes: u64, ask: Ask },
    /// No source could give the object.
    GiveUp { object: ObjectId, error: Error },
}

/// Whom to ask for an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) process: ProcessAddr,
    /// It was named by a source, and may have to wait for the object itself.
    pub(crate) relay: bool,
    /// Those that it named before, and that have failed.
    pub(crate) failed: Vec<ProcessId>,
}

/// Why a source did not give the object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// This store cannot take it, from whatever source.
    Here(Error),
    /// The source failed; `passing` when it may succeed later.
    Source { why: String, passing: bool },
    /// The source wants it to be fetched from this one.
    Elsewhere(ProcessAddr),
}

/// The pulls of a store.
#[derive(Debug)]
pub(crate) struct PullManager {
    window_bytes: u64,
    in_flight_bytes: u64,
    running: usize,
    pulls: BTreeMap<ObjectId, Pull>,
    queue: VecDeque<ObjectId>,
}

#[derive(Debug)]
struct Pull {
    encoding: Encoding,
    size_bytes: u64,
    /// Those not tried yet, or to be tried again, in order.
    sources: VecDeque<ProcessAddr>,
    /// How often each was tried.
    tried: BTreeMap<ProcessAddr, u32>,
    reasons: Vec<String>,
    /// The source that was asked; waiting in the queue if none.
    running: Option<ProcessAddr>,
    /// The one it has named.
    relay: Option<ProcessAddr>,
    /// Those that were named and have failed.
    failed: Vec<ProcessId>,
    redirects: u32,
}

impl PullManager {
    pub(crate) fn new(window_bytes: u64) -> Self {
        Self { window_bytes, in_flight_bytes: 0, running: 0, pulls: BTreeMap::new(), queue: VecDeque::new() }
    }

    /// The object is wanted, and some of the nodes that have it are known.
    pub(crate) fn want(&mut self, wanted: StoredObject, effects: &mut Vec<Effect>) {
        let StoredObject { object, encoding, size_bytes, nodes } = wanted;
        let queue = &mut self.queue;
        let pull = self.pulls.entry(object).or_insert_with(|| {
            queue.push_back(object);
            Pull {
                encoding,
                size_bytes,
                sources: VecDeque::new(),
                tried: BTreeMap::new(),
                reasons: Vec::new(),
                running: None,
                relay: None,
                failed: Vec::new(),
                redirects: 0,
            }
        });
        for node in nodes {
            if let Entry::Vacant(untried) = pull.tried.entry(node) {
                untried.insert(0);
                pull.sources.push_back(node);
            }
        }
        self.admit(effects);
    }

    /// The object has arrived.
    pub(crate) fn done(&mut self, object: ObjectId, effects: &mut Vec<Effect>) {
        if self.stop(object).is_some() {
            self.pulls.remove(&object);
        }
        self.admit(effects);
    }

    /// The fetch that was started has failed.
    pub(crate) fn failed(&mut self, object: ObjectId, failure: Failure, effects: &mut Vec<Effect>) {
        if let Failure::Elsewhere(process) = failure {
            return self.redirected(object, process, effects);
        }
        let Some(source) = self.stop(object) else {
            return;
        };
        // `stop` found it.
        let Some(pull) = self.pulls.get_mut(&object) else {
            return;
        };
        match (failure, pull.relay.take()) {
            (Failure::Here(error), _) => {
                self.pulls.remove(&object);
                effects.push(Effect::GiveUp { object, error });
            }
            (Failure::Source { why, .. }, Some(relay)) => {
                pull.reasons.push(format!("from {relay}: {why}"));
                pull.failed.push(relay.id);
                // It is the source's word that has failed, not the source: this is no new attempt.
                *pull.tried.entry(source).or_default() -= 1;
                pull.sources.push_front(source);
                self.queue.push_front(object);
            }
            (Failure::Source { why, passing }, None) => {
                pull.reasons.push(format!("from {source}: {why}"));
                let tries = pull.tried.entry(source).or_default();
                if passing && *tries < ATTEMPTS_PER_SOURCE {
                    pull.sources.push_back(source);
                }
                // It has waited its turn once: the next source goes first.
                self.queue.push_front(object);
            }
            // Handled above.
            (Failure::Elsewhere(_), _) => {}
        }
        self.admit(effects);
    }

    /// The source has named another one.
    fn redirected(&mut self, object: ObjectId, process: ProcessAddr, effects: &mut Vec<Effect>) {
        let Some(pull) = self.pulls.get_mut(&object) else { return };
        let Some(source) = pull.running else { return };
        let useless = process == source || pull.failed.contains(&process.id);
        if pull.relay.is_some() || useless || pull.redirects >= MAX_REDIRECTS {
            let why = format!("it names {process} again and again");
            return self.failed(object, Failure::Source { why, passing: false }, effects);
        }
        pull.redirects += 1;
        pull.relay = Some(process);
        let ask = Ask { process, relay: true, failed: Vec::new() };
        let (encoding, size_bytes) = (pull.encoding, pull.size_bytes);
        effects.push(Effect::Start { object, encoding, size_bytes, ask });
    }

    /// A node is gone for good: it will not be asked. (A running fetch from it fails by itself.)
    pub(crate) fn node_died(&mut self, node: ProcessId, effects: &mut Vec<Effect>) {
        for pull in self.pulls.values_mut() {
            pull.sources.retain(|source| source.id != node);
        }
        self.admit(effects);
    }

    /// Ends the running fetch of the object, if there is one.
    fn stop(&mut self, object: ObjectId) -> Option<ProcessAddr> {
        let pull = self.pulls.get_mut(&object)?;
        let source = pull.running.take()?;
        self.in_flight_bytes -= pull.size_bytes;
        self.running -= 1;
        Some(source)
    }

    fn admit(&mut self, effects: &mut Vec<Effect>) {
        while let Some(&object) = self.queue.front() {
            // What is queued is in `pulls`.
            let Some(pull) = self.pulls.get_mut(&object) else {
                self.queue.pop_front();
                continue;
            };
            let Some(&source) = pull.sources.front() else {
                self.queue.pop_front();
                let mut reasons = std::mem::take(&mut pull.reasons);
                reasons.truncate(REASONS_KEPT);
                if reasons.is_empty() {
                    reasons.push("every node that had it is gone".to_owned());
                }
                self.pulls.remove(&object);
                let error = Error::ObjectLost { object, why: reasons.join("; ") };
                effects.push(Effect::GiveUp { object, error });
                continue;
            };
            let fits = self.in_flight_bytes + pull.size_bytes <= self.window_bytes && self.running < PULL_STREAMS;
            if !fits && self.running > 0 {
                return;
            }
            self.queue.pop_front();
            pull.sources.pop_front();
            *pull.tried.entry(source).or_default() += 1;
            pull.running = Some(source);
            self.in_flight_bytes += pull.size_bytes;
            self.running += 1;
            let (encoding, size_bytes) = (pull.encoding, pull.size_bytes);
            let ask = Ask { process: source, relay: false, failed: pull.failed.clone() };
            effects.push(Effect::Start { object, encoding, size_bytes, ask });
        }
    }
}

#[cfg(test)]
mod tests;
