//! Requests that wait for their answer.
//!
//! A [`Pending`] table gives every request an id and keeps its waiter until the answer, a
//! failure or the deadline takes it out. It is sharded by asking thread so that two threads do
//! not meet on a lock, and it arms no timer per request: each shard remembers a lower bound of
//! its earliest deadline, one sweeper sleeps until the earliest of them, and only an insertion
//! that is earlier than all before wakes it.
//!
//! The table has no clock: times come in as microseconds since the endpoint started.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::address::ProcessId;
use crate::envelope::RawReply;
use crate::error::SendError;

/// Number of shards; a power of two, its logarithm is the width of the id's lowest field.
const SHARDS: usize = 16;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();
/// Bits of an id that name a slot: 2^28 requests in flight per shard.
const SLOT_BITS: u32 = 28;
/// An empty shard that once held more slots than this gives its memory back.
const KEEP_SLOTS: usize = 4096;
/// "No deadline".
pub(crate) const NEVER_US: u64 = u64::MAX;

/// Who waits for an answer.
pub(crate) enum Waiter {
    /// One reply, handed to a callback on the delivering thread.
    Once(Box<dyn FnOnce(RawReply) + Send>),
    /// A stream of replies.
    Stream(Arc<dyn Inbox>),
}

/// The receiving end of a stream of replies.
pub(crate) trait Inbox: Send + Sync {
    /// Takes the next item.
    fn item(&self, item: RawReply);
    /// No more items; `error` says whether the stream ended early.
    fn end(&self, error: Option<SendError>);
}

impl Waiter {
    /// Tells the waiter that no (further) answer will come.
    pub(crate) fn fail(self, error: SendError) {
        match self {
            Self::Once(call) => call(RawReply::Failed(error)),
            Self::Stream(inbox) => inbox.end(Some(error)),
        }
    }
}

/// The table of requests in flight.
pub(crate) struct Pending {
    shards: [Shard; SHARDS],
    /// When the sweeper will look next; insertions with an earlier deadline lower it.
    armed_us: AtomicU64,
}

#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Slots>);

struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    generation: u32,
    earliest_us: u64,
}

impl Default for Slots {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), generation: 0, earliest_us: NEVER_US }
    }
}

struct Slot {
    generation: u32,
    peer: ProcessId,
    deadline_us: u64,
    allowed: Duration,
    waiter: Option<Waiter>,
}

/// What an insertion asks of the caller.
pub(crate) struct Inserted {
    pub(crate) id: u64,
    /// The sweeper sleeps past this deadline and must be woken.
    pub(crate) wake_sweeper: bool,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()), armed_us: AtomicU64::new(NEVER_US) }
    }

    /// Adds a waiter for an answer of `peer`.
    pub(crate) fn insert(&self, peer: ProcessId, deadline_us: u64, allowed: Duration, waiter: Waiter) -> Inserted {
        let shard = thread_shard();
        let id = self.shards[shard].0.lock().insert(shard, peer, deadline_us, allowed, waiter);
        let wake_sweeper = deadline_us < self.armed_us.load(Ordering::Acquire)
            && deadline_us < self.armed_us.fetch_min(deadline_us, Ordering::AcqRel);
        Inserted { id, wake_sweeper }
    }

    /// Takes the waiter of `id` out, if it still waits.
    pub(crate) fn take(&self, id: u64) -> Option<Waiter> {
        self.shards[shard_of(id)].0.lock().take(id)
    }

    /// Takes the waiter of `id` out, if it waits for `peer`: nobody else can answer.
    pub(crate) fn take_from(&self, peer: ProcessId, id: u64) -> Option<Waiter> {
        let mut slots = self.shards[shard_of(id)].0.lock();
        if slots.slot(id)?.peer == peer { slots.take(id) } else { None }
    }

    /// The stream inbox waiting for `peer` under `id`, left in place.
    pub(crate) fn stream(&self, peer: ProcessId, id: u64) -> Option<Arc<dyn Inbox>> {
        let slots = self.shards[shard_of(id)].0.lock();
        match slots.slot(id).filter(|slot| slot.peer == peer)?.waiter.as_ref()? {
            Waiter::Stream(inbox) => Some(inbox.clone()),
            Waiter::Once(_) => None,
        }
    }

    /// Takes out everything whose deadline has passed, in the order of deadlines, and returns it
    /// with the time of the next look.
    pub(crate) fn expired(&self, now_us: u64) -> (Vec<(Waiter, Duration)>, u64) {
        // Lowered again below and by insertions meanwhile: neither can be missed.
        self.armed_us.store(NEVER_US, Ordering::Release);
        let mut due = Vec::new();
        let mut next_us = NEVER_US;
        for shard in &self.shards {
            let mut slots = shard.0.lock();
            if slots.earliest_us <= now_us {
                slots.expire(now_us, &mut due);
            }
            next_us = next_us.min(slots.earliest_us);
        }
        due.sort_by_key(|(deadline_us, id, ..)| (*deadline_us, *id));
        let next_us = self.armed_us.fetch_min(next_us, Ordering::AcqRel).min(next_us);
        (due.into_iter().map(|(_, _, waiter, allowed)| (waiter, allowed)).collect(), next_us)
    }

    /// Takes out everything that waits for `peer` (`None`: for anyone), oldest id first.
    pub(crate) fn take_peer(&self, peer: Option<ProcessId>) -> Vec<Waiter> {
        let mut taken = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            let mut slots = shard.0.lock();
            let ids: Vec<u64> = (0..slots.slots.len())
                .filter(|&at| {
                    let slot = &slots.slots[at];
                    slot.waiter.is_some() && peer.is_none_or(|peer| slot.peer == peer)
                })
                .map(|at| id_of(slots.slots[at].generation, at, index))
                .collect();
            taken.extend(ids.into_iter().filter_map(|id| Some((id, slots.take(id)?))));
        }
        taken.sort_by_key(|(id, _)| *id);
        taken.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// How many requests wait.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                let slots = shard.0.lock();
                slots.slots.len() - slots.free.len()
            })
            .sum()
    }
}

impl Slots {
    fn insert(&mut self, shard: usize, peer: ProcessId, deadline_us: u64, allowed: Duration, waiter: Waiter) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        self.earliest_us = self.earliest_us.min(deadline_us);
        let slot = Slot { generation: self.generation, peer, deadline_us, allowed, waiter: Some(waiter) };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at as usize
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        id_of(self.generation, at, shard)
    }

    fn slot(&self, id: u64) -> Option<&Slot> {
        let (generation, at) = parts_of(id);
        self.slots.get(at).filter(|slot| slot.generation == generation)
    }

    fn take(&mut self, id: u64) -> Option<Waiter> {
        let (generation, at) = parts_of(id);
        let slot = self.slots.get_mut(at).filter(|slot| slot.generation == generation)?;
        let waiter = slot.waiter.take()?;
        self.release(at);
        Some(waiter)
    }

    fn release(&mut self, at: usize) {
        self.free.push(at as u32);
        if self.free.len() == self.slots.len() && self.slots.len() > KEEP_SLOTS {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }

    fn expire(&mut self, now_us: u64, due: &mut Vec<(u64, u64, Waiter, Duration)>) {
        self.earliest_us = NEVER_US;
        let mut at = 0;
        while at < self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.waiter.is_some() {
                if slot.deadline_us > now_us {
                    self.earliest_us = self.earliest_us.min(slot.deadline_us);
                } else if let Some(waiter) = slot.waiter.take() {
                    due.push((slot.deadline_us, u64::from(slot.generation), waiter, slot.allowed));
                    self.release(at);
                }
            }
            at += 1;
        }
    }
}

fn id_of(generation: u32, slot: usize, shard: usize) -> u64 {
    (u64::from(generation) << (SLOT_BITS + SHARD_BITS)) | ((slot as u64) << SHARD_BITS) | shard as u64
}

fn shard_of(id: u64) -> usize {
    id as usize & (SHARDS - 1)
}

fn parts_of(id: u64) -> (u32, usize) {
    let slot = (id >> SHARD_BITS) & ((1 << SLOT_BITS) - 1);
    ((id >> (SLOT_BITS + SHARD_BITS)) as u32, slot as usize)
}

/// The shard of the calling thread: threads take turns.
fn thread_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        mine.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn waiter(log: &Arc<Mutex<Vec<u64>>>, key: u64) -> Waiter {
        let log = log.clone();
        Waiter::Once(Box::new(move |_| log.lock().push(key)))
    }

    #[test]
    fn a_taken_id_is_never_valid_again() {
        let table = Pending::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let peer = ProcessId::random();
        let first = table.insert(peer, 10, Duration::ZERO, waiter(&log, 1)).id;
        assert!(table.take_from(ProcessId::random(), first).is_none());
        assert!(table.take_from(peer, first).is_some());
        let second = table.insert(peer, 10, Duration::ZERO, waiter(&log, 2)).id;
        assert_ne!(first, second);
        assert!(table.take(first).is_none());
        assert!(table.take(second).is_some());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn only_an_earlier_deadline_wakes_the_sweeper() {
        let table = Pending::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let peer = ProcessId::random();
        let insert = |at| table.insert(peer, at, Duration::ZERO, waiter(&log, at)).wake_sweeper;
        assert!(insert(100));
        assert!(!insert(100));
        assert!(!insert(200));
        assert!(insert(50));
        assert!(!insert(NEVER_US));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Against a model: every waiter leaves exactly once, by answer or by deadline.
        #[test]
        fn every_waiter_leaves_once(ops in prop::collection::vec((0u8..3, 0u64..100), 1..80)) {
            let table = Pending::new();
            let log = Arc::new(Mutex::new(Vec::new()));
            let peer = ProcessId::random();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let (mut now, mut expected, mut key) = (0u64, 0usize, 0u64);
            for (op, arg) in ops {
                match op {
                    0 => {
                        key += 1;
                        let id = table.insert(peer, now + arg, Duration::ZERO, waiter(&log, key)).id;
                        prop_assert!(model.insert(id, now + arg).is_none());
                    }
                    1 => if let Some(id) = model.keys().nth(arg as usize % model.len().max(1)).copied() {
                        model.remove(&id);
                        prop_assert!(table.take(id).is_some());
                    },
                    _ => {
                        now += arg;
                        let due = model.values().filter(|at| **at <= now).count();
                        model.retain(|_, at| *at > now);
                        let (taken, next) = table.expired(now);
                        expected += due;
                        prop_assert_eq!(taken.len(), due);
                        prop_assert!(model.values().all(|at| next <= *at));
                        for (waiter, _) in taken { waiter.fail(SendError::Dropped); }
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            prop_assert_eq!(log.lock().len(), expected);
            prop_assert_eq!(table.take_peer(Some(peer)).len(), model.len());
        }
    }
}
