//! Pure: who gives an object to whom when many nodes want it.
//!
//! The store that an object was written to gives it to [`FANOUT`] others; whoever asks after them is
//! sent to one of those that have asked before, which does the same. So the bytes leave the first
//! store a few times, however many nodes there are, and reach all of them in a number of steps that
//! grows with the logarithm of their number.
//!
//! ```text
//!                   source                  asked in this order: a b c d e f
//!                  ╱      ╲
//!                 a        b                each is sent to the first of those before it
//!                ╱ ╲      ╱ ╲               that has not given it to two yet
//!               c   d    e   f
//! ```
//! A store that is asked while it still pulls the object waits for it. Nobody waits in a circle: who
//! asks is sent only to those that have asked before it, and keeps its place as long as it pulls. Who
//! had a copy, gave it up and asks anew is given it by the source itself.

use std::collections::BTreeMap;

use mobula_transport::{ProcessAddr, ProcessId};

/// To how many others a store gives an object.
pub(crate) const FANOUT: u32 = 2;
/// Who has been sent to so many that failed is given the object by the source.
pub(crate) const MAX_FAILED: usize = 3;

/// What a store that asks for an object is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Here it comes.
    Give,
    /// That one gives it.
    Elsewhere(ProcessAddr),
}

/// The stores that have, or want, copies of an object.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// In the order in which they asked.
    peers: BTreeMap<u64, Peer>,
    places: BTreeMap<ProcessId, u64>,
    next_place: u64,
    /// To how many this store itself gives it.
    given: u32,
}

#[derive(Debug)]
struct Peer {
    process: ProcessAddr,
    /// How many were sent to it.
    given: u32,
    /// It has failed somebody who was.
    failed: bool,
}

impl Copies {
    /// This store, where the object was written, is asked for it by `peer`, which was sent to those
    /// in `failed` before.
    pub(crate) fn ask(&mut self, peer: ProcessAddr, failed: &[ProcessId]) -> Answer {
        for failed in failed {
            let place = self.places.get(failed);
            if let Some(failed) = place.and_then(|place| self.peers.get_mut(place)) {
                failed.failed = true;
            }
        }
        let known = self.places.contains_key(&peer.id);
        let place = self.note(peer);
        if known && failed.is_empty() {
            if let Some(again) = self.peers.get_mut(&place) {
                again.failed = false;
            }
            return Answer::Give;
        }
        if failed.len() >= MAX_FAILED {
            return Answer::Give;
        }
        if self.given < FANOUT {
            self.given += 1;
            return Answer::Give;
        }
        let mut before = self.peers.range_mut(..place).map(|(_, peer)| peer).filter(|peer| !peer.failed);
        match before.find(|peer| peer.given < FANOUT) {
            Some(peer) => {
                peer.given += 1;
                Answer::Elsewhere(peer.process)
            }
            // Too many have failed.
            None => Answer::Give,
        }
    }

    /// `peer` takes a copy from here.
    pub(crate) fn note(&mut self, peer: ProcessAddr) -> u64 {
        let place = *self.places.entry(peer.id).or_insert_with(|| {
            self.next_place += 1;
            self.next_place
        });
        self.peers.entry(place).or_insert(Peer { process: peer, given: 0, failed: false });
        place
    }

    /// The process is dead.
    pub(crate) fn died(&mut self, process: ProcessId) {
        if let Some(place) = self.places.remove(&process) {
            self.peers.remove(&place);
        }
    }

    /// All who may have a copy.
    pub(crate) fn processes(&self) -> Vec<ProcessAddr> {
        self.peers.values().map(|peer| peer.process).collect()
    }
}

#[cfg(test)]
mod tests;
