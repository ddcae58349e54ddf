//! Pure: which segments exist, what they are used for, and what they add up to.
//!
//! [`Ledger`] decides; the [`pool`](super::pool) makes and removes the files. It has no clock and
//! no files of its own: the time is an argument, what is to be removed is a result.
//!
//! ```text
//!              reserve                    recycle
//!   (nothing) ────────▶ busy ──────────────────────────▶ idle ──▶ dropped (decay, or room needed)
//!                        │ ▲      ◀──── reserve ─────────┘
//!            set_evictable │ │ retain
//!                        ▼ │
//!                     evictable ──▶ taken over or dropped (room needed)
//! ```
//!
//! *Busy* memory belongs to an object, *evictable* memory to one that nobody here reads and that can
//! be had again (another node has it too, or the disk), *idle* memory to nobody: its pages are kept because fresh
//! ones cost seven times the copy. Busy + evictable + idle never exceeds the capacity.

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_transport::ProcessId;
use serde::{Deserialize, Serialize};

use crate::store::segment::{ContentId, SegmentId, class_bytes};

/// The idle pool decays to at most this.
pub(crate) const IDLE_KEEP_BYTES: u64 = 256 << 20;
/// How long a segment beyond [`IDLE_KEEP_BYTES`] may lie idle before it decays. With a look every
/// [`DECAY_EVERY`] and the time that unmapping takes this stays under ten seconds.
pub(crate) const IDLE_KEEP: Duration = Duration::from_secs(7);
/// How often decay is looked after while there is something to decay.
pub(crate) const DECAY_EVERY: Duration = Duration::from_secs(1);
/// So many segments of a class are looked at for one that the asking process had before.
const SAME_USER_SEARCH: usize = 16;

/// The store's memory.
#[derive(Debug)]
pub(crate) struct Ledger {
    capacity_bytes: u64,
    /// Busy and evictable.
    used_bytes: u64,
    evictable_bytes: u64,
    idle_bytes: u64,
    next_segment: u64,
    next_turn: u64,
    segments: BTreeMap<SegmentId, Slot>,
    /// By class; within a class the one that became idle last is last.
    idle: BTreeMap<u64, Vec<SegmentId>>,
    /// By the turn in which they became idle, oldest first.
    idle_order: BTreeMap<u64, SegmentId>,
    /// By the turn in which they became evictable, oldest first.
    evictable: BTreeMap<u64, SegmentId>,
}

#[derive(Debug)]
struct Slot {
    class_bytes: u64,
    state: State,
    /// Who had it last, and so probably still has it mapped.
    user: ProcessId,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Its file is being made; `returned` when it was given back before that was done.
    Making {
        returned: Option<Duration>,
    },
    Busy,
    Evictable {
        turn: u64,
        content: ContentId,
    },
    Idle {
        turn: u64,
        since: Duration,
    },
}

/// A segment for an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) segment: SegmentId,
    pub(crate) class_bytes: u64,
    /// Whether its file has to be made (and then [`Ledger::made`] or [`Ledger::failed`] called).
    pub(crate) fresh: bool,
    /// Segments whose files are to be removed first.
    pub(crate) dropped: Vec<SegmentId>,
    /// Contents that were given up for it.
    pub(crate) evicted: Vec<(SegmentId, ContentId)>,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) free_bytes: u64,
    pub(crate) capacity_bytes: u64,
}

impl Ledger {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            used_bytes: 0,
            evictable_bytes: 0,
            idle_bytes: 0,
            next_segment: 0,
            next_turn: 0,
            segments: BTreeMap::new(),
            idle: BTreeMap::new(),
            idle_order: BTreeMap::new(),
            evictable: BTreeMap::new(),
        }
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Bytes of segments that hold objects.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes of segments that hold objects and cannot just be given up.
    pub(crate) fn busy_bytes(&self) -> u64 {
        self.used_bytes - self.evictable_bytes
    }

    /// Bytes of segments kept for the next object.
    pub(crate) fn idle_bytes(&self) -> u64 {
        self.idle_bytes
    }

    /// A segment for an object of `size_bytes`, preferably one that `user` had before.
    pub(crate) fn reserve(&mut self, size_bytes: u64, user: ProcessId) -> Result<Reserved, Full> {
        let free_bytes = self.capacity_bytes - self.busy_bytes();
        let full = Full { free_bytes, capacity_bytes: self.capacity_bytes };
        let class_bytes = class_bytes(size_bytes).filter(|class| *class <= free_bytes).ok_or(full)?;

        if let Some(segment) = self.take_idle(class_bytes, user) {
            return Ok(Reserved { segment, class_bytes, fresh: false, dropped: vec![], evicted: vec![] });
        }
        let mut dropped = Vec::new();
        let mut evicted = Vec::new();
        while self.used_bytes + self.idle_bytes + class_bytes > self.capacity_bytes {
            if let Some((_, &segment)) = self.idle_order.first_key_value() {
                self.remove(segment);
                dropped.push(segment);
            } else if let Some((_, &segment)) = self.evictable.first_key_value() {
                let (content, size) = self.evict(segment);
                evicted.push((segment, content));
                if size == class_bytes {
                    self.occupy(segment, user);
                    return Ok(Reserved { segment, class_bytes, fresh: false, dropped, evicted });
                }
                self.segments.remove(&segment);
                dropped.push(segment);
            } else {
                // Not reached: `class_bytes` fits beside what is busy, and only that is left.
                break;
            }
        }
        let segment = SegmentId(self.next_segment);
        self.next_segment += 1;
        self.segments.insert(segment, Slot { class_bytes, state: State::Making { returned: None }, user });
        self.used_bytes += class_bytes;
        Ok(Reserved { segment, class_bytes, fresh: true, dropped, evicted })
    }

    /// The file of a fresh segment is there.
    pub(crate) fn made(&mut self, segment: SegmentId) {
        let Some(slot) = self.segments.get_mut(&segment) else {
            return;
        };
        if let State::Making { returned } = slot.state {
            slot.state = State::Busy;
            if let Some(now) = returned {
                self.recycle(segment, now);
            }
        }
    }

    /// The file of a fresh segment could not be made.
    pub(crate) fn failed(&mut self, segment: SegmentId) {
        let making = |slot: &Slot| matches!(slot.state, State::Making { .. });
        if self.segments.get(&segment).is_some_and(making)
            && let Some(slot) = self.segments.remove(&segment)
        {
            self.used_bytes -= slot.class_bytes;
        }
    }

    /// Nobody needs what is in the segment any more. Ignored for a segment that is not busy.
    pub(crate) fn recycle(&mut self, segment: SegmentId, now: Duration) {
        let turn = self.turn();
        let Some(slot) = self.segments.get_mut(&segment) else {
            return;
        };
        match &mut slot.state {
            State::Making { returned } => *returned = Some(now),
            State::Busy => {
                slot.state = State::Idle { turn, since: now };
                self.used_bytes -= slot.class_bytes;
                self.idle_bytes += slot.class_bytes;
                self.idle.entry(slot.class_bytes).or_default().push(segment);
                self.idle_order.insert(turn, segment);
            }
            State::Evictable { .. } | State::Idle { .. } => {}
        }
    }

    /// The segment holds `content`, which may be given up for something more urgent.
    pub(crate) fn set_evictable(&mut self, segment: SegmentId, content: ContentId) {
        let turn = self.turn();
        let Some(slot) = self.segments.get_mut(&segment) else {
            return;
        };
        if slot.state == State::Busy {
            slot.state = State::Evictable { turn, content };
            self.evictable_bytes += slot.class_bytes;
            self.evictable.insert(turn, segment);
        }
    }

    /// Makes an evictable segment busy again; false when the copy has been given up meanwhile.
    pub(crate) fn retain(&mut self, segment: SegmentId, content: ContentId) -> bool {
        let Some(slot) = self.segments.get_mut(&segment) else {
            return false;
        };
        match slot.state {
            State::Evictable { turn, content: held } if held == content => {
                slot.state = State::Busy;
                self.evictable_bytes -= slot.class_bytes;
                self.evictable.remove(&turn);
                true
            }
            _ => false,
        }
    }

    /// Whether [`decay`](Self::decay) has something to look after, now or later.
    pub(crate) fn decays(&self) -> bool {
        self.idle_bytes > IDLE_KEEP_BYTES
    }

    /// The segments that have been idle for too long; their files are to be removed.
    pub(crate) fn decay(&mut self, now: Duration) -> Vec<SegmentId> {
        let mut dropped = Vec::new();
        while self.decays()
            && let Some((_, &segment)) = self.idle_order.first_key_value()
            && let Some(State::Idle { since, .. }) = self.segments.get(&segment).map(|slot| &slot.state)
            && now.saturating_sub(*since) >= IDLE_KEEP
        {
            self.remove(segment);
            dropped.push(segment);
        }
        dropped
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    /// The most recently used idle segment of the class, one of the same user before others.
    fn take_idle(&mut self, class_bytes: u64, user: ProcessId) -> Option<SegmentId> {
        let list = self.idle.get(&class_bytes)?;
        let same = list
            .iter()
            .rev()
            .take(SAME_USER_SEARCH)
            .find(|segment| self.segments.get(segment).is_some_and(|slot| slot.user == user));
        let segment = *same.or(list.last())?;
        self.unlist_idle(segment);
        self.occupy(segment, user);
        Some(segment)
    }

    /// Takes an idle segment out of the lists and the sum; its slot stays.
    fn unlist_idle(&mut self, segment: SegmentId) {
        let Some(slot) = self.segments.get(&segment) else {
            return;
        };
        let State::Idle { turn, .. } = slot.state else {
            return;
        };
        self.idle_order.remove(&turn);
        self.idle_bytes -= slot.class_bytes;
        if let Some(list) = self.idle.get_mut(&slot.class_bytes) {
            // Mostly near the end: those that come and go are the ones used last.
            if let Some(at) = list.iter().rposition(|other| *other == segment) {
                list.remove(at);
            }
            if list.is_empty() {
                self.idle.remove(&slot.class_bytes);
            }
        }
    }

    fn occupy(&mut self, segment: SegmentId, user: ProcessId) {
        if let Some(slot) = self.segments.get_mut(&segment) {
            slot.state = State::Busy;
            slot.user = user;
            self.used_bytes += slot.class_bytes;
        }
    }

    fn remove(&mut self, segment: SegmentId) {
        self.unlist_idle(segment);
        self.segments.remove(&segment);
    }

    /// Takes an evictable segment out of the list and the sums; its slot stays, to be occupied
    /// or removed.
    fn evict(&mut self, segment: SegmentId) -> (ContentId, u64) {
        // Only called with segments out of `evictable`, whose slots are in that state.
        let Some(Slot { class_bytes, state: State::Evictable { turn, content }, .. }) = self.segments.get(&segment)
        else {
            unreachable!("a listed segment is evictable")
        };
        self.evictable.remove(turn);
        self.evictable_bytes -= class_bytes;
        self.used_bytes -= class_bytes;
        (*content, *class_bytes)
    }
}

#[cfg(test)]
mod tests;
