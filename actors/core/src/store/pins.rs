//! Pure: the pins that a process has on the segments of its store, as the process knows them.
//!
//! A pin comes with an answer and goes with a message. When a connection breaks both may be lost,
//! and then the store counts a pin that nobody will give back. So after a break the process asks
//! each shard what it counts ([`CountPins`](super::messages::CountPins)), takes over what it knows
//! nothing of, and gives it back like any other ([`settle`](Pins::settle)).
//!
//! ```text
//!   process ── ReleaseObjects ─▶ ── CountPins ─▶ shard        in this order, and
//!   process ◀─ Located ── ◀─ HeldPins ────────── shard        in this one:
//! ```
//! all that was given back before the question is not in the answer any more, or was lost; all
//! that was granted before the answer has arrived before it, or was lost. Nothing may be given
//! back in between, so that the difference is what was lost.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use mobula_transport::MailboxId;

use crate::store::segment::SegmentId;

/// Pins to give back, for one message.
pub(crate) type Releases = Vec<(SegmentId, u32)>;

/// The pins of a process at one store.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// What the store counts at least: received, and not given back. By shard.
    held: BTreeMap<(MailboxId, SegmentId), u32>,
    /// What nobody here uses any more.
    unused: BTreeMap<MailboxId, Releases>,
    /// Shards that are being asked; until they answer nothing is given back to them.
    asked: BTreeSet<MailboxId>,
}

impl Pins {
    /// The shard has granted one.
    pub(crate) fn received(&mut self, shard: MailboxId, segment: SegmentId) {
        *self.held.entry((shard, segment)).or_default() += 1;
    }

    /// Nobody uses one of them any more.
    pub(crate) fn dropped(&mut self, shard: MailboxId, segment: SegmentId) {
        self.unused.entry(shard).or_default().push((segment, 1));
    }

    /// Whether [`give_back`](Self::give_back) has something to give.
    pub(crate) fn has_unused(&self) -> bool {
        self.unused.keys().any(|shard| !self.asked.contains(shard))
    }

    /// What is to be told to each shard, now and in this order.
    pub(crate) fn give_back(&mut self) -> Vec<(MailboxId, Releases)> {
        let mut all = Vec::new();
        let asked = &self.asked;
        self.unused.retain(|shard, releases| {
            let now = !asked.contains(shard);
            if now {
                all.push((*shard, std::mem::take(releases)));
            }
            !now
        });
        for (shard, releases) in &all {
            for (segment, pins) in releases {
                if let Entry::Occupied(mut held) = self.held.entry((*shard, *segment)) {
                    *held.get_mut() = held.get().saturating_sub(*pins);
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
            }
        }
        all
    }

    /// The shard is asked what it counts. False if it is being asked already.
    pub(crate) fn ask(&mut self, shard: MailboxId) -> bool {
        self.asked.insert(shard)
    }

    /// The shard has answered, or (`None`) the answer was lost. What is not known here is to be
    /// given back.
    pub(crate) fn settle(&mut self, shard: MailboxId, counted: Option<&[(SegmentId, u32)]>) {
        self.asked.remove(&shard);
        for (segment, pins) in counted.unwrap_or_default() {
            let held = self.held.entry((shard, *segment)).or_default();
            let unknown = pins.saturating_sub(*held);
            *held += unknown;
            if unknown > 0 {
                self.unused.entry(shard).or_default().push((*segment, unknown));
            }
            if *held == 0 {
                self.held.remove(&(shard, *segment));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SHARD: MailboxId = MailboxId(0x100);

    #[derive(Debug)]
    enum Question {
        Get(SegmentId),
        Release(Releases),
        Count,
    }

    #[derive(Debug)]
    enum Answer {
        Located(SegmentId),
        Counted(Releases),
    }

    /// A store that only counts, a process, and what is on its way between them.
    #[derive(Default)]
    struct World {
        counted: BTreeMap<SegmentId, u32>,
        pins: Pins,
        used: Vec<SegmentId>,
        there: VecDeque<Question>,
        back: VecDeque<Answer>,
    }

    impl World {
        fn flush(&mut self) {
            for (_, releases) in self.pins.give_back() {
                self.there.push_back(Question::Release(releases));
            }
        }

        fn count(&mut self) {
            if self.pins.ask(SHARD) {
                self.there.push_back(Question::Count);
            }
        }

        fn arrive_there(&mut self) {
            match self.there.pop_front() {
                None => {}
                Some(Question::Get(segment)) => {
                    *self.counted.entry(segment).or_default() += 1;
                    self.back.push_back(Answer::Located(segment));
                }
                Some(Question::Release(releases)) => {
                    for (segment, pins) in releases {
                        let counted = self.counted.get_mut(&segment).expect("a pin was given back that is not there");
                        *counted = counted.checked_sub(pins).expect("more pins were given back than there are");
                    }
                }
                Some(Question::Count) => {
                    let counted = self.counted.iter().map(|(segment, pins)| (*segment, *pins));
                    self.back.push_back(Answer::Counted(counted.filter(|(_, pins)| *pins > 0).collect()));
                }
            }
        }

        fn arrive_here(&mut self) {
            match self.back.pop_front() {
                None => {}
                Some(Answer::Located(segment)) => {
                    self.pins.received(SHARD, segment);
                    self.used.push(segment);
                }
                Some(Answer::Counted(counted)) => self.pins.settle(SHARD, Some(&counted)),
            }
        }

        /// The connection breaks: from some place on, all that is on its way is lost.
        fn lose(&mut self, there: usize, back: usize) {
            self.there.truncate(there);
            self.back.truncate(back);
            while !self.there.is_empty() {
                self.arrive_there();
            }
            self.back.truncate(back);
            while !self.back.is_empty() {
                self.arrive_here();
            }
            self.pins.settle(SHARD, None);
        }

        fn step(&mut self, (what, n): (u8, usize)) {
            match what {
                0..3 => self.there.push_back(Question::Get(SegmentId(n as u64 % 4))),
                3 | 4 if !self.used.is_empty() => {
                    let segment = self.used.swap_remove(n % self.used.len());
                    self.pins.dropped(SHARD, segment);
                }
                5 => self.flush(),
                6 => self.lose(n % 4, n / 4 % 4),
                7 => self.count(),
                8 | 9 => self.arrive_there(),
                _ => self.arrive_here(),
            }
            for segment in 0..4 {
                let used = self.used.iter().filter(|used| used.0 == segment).count() as u32;
                let counted = self.counted.get(&SegmentId(segment)).copied().unwrap_or_default();
                assert!(used <= counted, "a segment that is read could be used for something else");
            }
        }

        fn calm(&mut self) {
            while !(self.there.is_empty() && self.back.is_empty()) {
                self.arrive_there();
                self.arrive_here();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever is lost, no pin goes that is needed, and in the end none stays that is not.
        #[test]
        fn pins_come_back_whatever_is_lost(steps in prop::collection::vec((0_u8..12, 0_usize..16), 0..80)) {
            let mut world = World::default();
            steps.into_iter().for_each(|step| world.step(step));
            world.calm();
            world.count();
            world.calm();
            world.flush();
            world.calm();
            for segment in 0..4 {
                let used = world.used.iter().filter(|used| used.0 == segment).count() as u32;
                prop_assert_eq!(world.counted.get(&SegmentId(segment)).copied().unwrap_or_default(), used);
            }
            for segment in std::mem::take(&mut world.used) {
                world.pins.dropped(SHARD, segment);
            }
            world.flush();
            world.calm();
            prop_assert!(world.counted.values().all(|pins| *pins == 0));
            prop_assert!(world.pins.held.is_empty() && !world.pins.has_unused());
        }
    }
}
