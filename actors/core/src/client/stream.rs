//! What the owner of a stream knows of it: the pure core.
//!
//! A streaming task or call yields items, numbered from 1. Its worker reports each one and waits
//! for an answer; the consumer takes them in order. [`Stream`] sees to it that every item counts
//! once, whatever is told twice, late, out of order or by an attempt that does not count any more,
//! and that the producer is never more than a window ahead of the consumer.
//!
//! ```text
//!   worker                               owner                               consumer
//!     │ begins with ◀── skip 2, window 3 ──┤ 2 items came from earlier attempts  │
//!     ├── item 3 ─▶ comes ── Heard ───────▶│── 3 is next ───────────────────────▶│ next
//!     ├── room until 1 is consumed? ──────▶│ ... the answer waits until then     │
//!     │                             ◀──────┤◀──────────────────────── next ──────┤
//!     ├── the end, all reports answered ──▶│── after what has come: the end ────▶│
//! ```
//!
//! Nobody may throw away the bytes of an item that counts, and somebody must throw away all others:
//! the worker those that it is told not to be wanted, the owner those that a lost attempt has left
//! ([`Stream::lost`]), the [strays](Stream::strays), and what an abandoned stream still has.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

/// The state of one stream. `T` is an item, `E` an error, `R` whoever waits for room.
#[derive(Debug)]
pub(crate) struct Stream<T, E, R> {
    window: u32,
    /// The attempt that is listened to; none before the first one, and after one was lost.
    attempt: Option<u32>,
    /// Items 1 to this one have come.
    received: u32,
    /// Items 1 to this one were given to the consumer.
    consumed: u32,
    /// Those between, in order.
    items: VecDeque<T>,
    /// Those of this attempt that came before one of a lower number did.
    early: BTreeMap<u32, T>,
    /// No item comes any more.
    ended: bool,
    /// What is to be given to the consumer after the last item.
    error: Option<E>,
    asker: Option<Asker<R>>,
    /// The attempts that were begun, and how many items had come before each: who has made which.
    begun: Vec<(u32, u32)>,
    strays: Vec<T>,
    spare: Vec<T>,
}

#[derive(Debug)]
struct Asker<R> {
    attempt: u32,
    until: u32,
    who: R,
}

/// What a worker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has been heard; so many items are consumed.
    Consumed(u32),
    /// It has been heard before, and its bytes count; nobody wants another item of this attempt.
    Enough,
    /// Nobody wants items of this attempt; the bytes of this one are of no use.
    Unwanted,
}

/// What the consumer gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<T, E> {
    /// The item of this number.
    Item(u32, T),
    /// The stream has failed in the place of the item of this number. Given once.
    Failed(u32, E),
    /// There are no more.
    Over,
    /// None has come yet.
    Wait,
}

impl<T, E, R> Stream<T, E, R> {
    /// A stream whose producer may be so many items ahead of its consumer; at least one.
    pub(crate) fn new(window: u32) -> Self {
        Self {
            window: window.max(1),
            attempt: None,
            received: 0,
            consumed: 0,
            items: VecDeque::new(),
            early: BTreeMap::new(),
            ended: false,
            error: None,
            asker: None,
            begun: Vec::new(),
            strays: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// How far the producer may be ahead.
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// Whether no item comes any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// How many items have come.
    pub(crate) fn received(&self) -> u32 {
        self.received
    }

    /// This attempt is sent to a worker; earlier ones do not count any more. Returns how many items
    /// it need not report.
    pub(crate) fn begins(&mut self, attempt: u32) -> u32 {
        self.attempt = Some(attempt);
        self.begun.retain(|(_, before)| *before < self.received);
        self.begun.push((attempt, self.received));
        self.strays.extend(std::mem::take(&mut self.early).into_values());
        self.received
    }

    /// The latest attempt was lost with its worker. Returns the items that it may have stored without
    /// anyone having heard of it, or that do not count since one before them is missing.
    pub(crate) fn lost(&mut self) -> RangeInclusive<u32> {
        self.attempt = None;
        self.spare.extend(std::mem::take(&mut self.early).into_values());
        self.received + 1..=self.consumed.saturating_add(self.window)
    }

    /// An attempt reports an item. One that does not become part of the stream is a spare one.
    pub(crate) fn comes(&mut self, attempt: u32, index: u32, item: T) -> Answer {
        let known = index > 0 && index <= self.received && self.maker(index) == Some(attempt);
        let room = index > self.received && index <= self.consumed.saturating_add(self.window);
        if self.ended || self.attempt != Some(attempt) || !(known || room) {
            self.spare.push(item);
            return if known { Answer::Enough } else { Answer::Unwanted };
        }
        if known || self.early.contains_key(&index) {
            self.spare.push(item);
        } else {
            self.early.insert(index, item);
            while let Some(item) = self.early.remove(&(self.received + 1)) {
                self.received += 1;
                self.items.push_back(item);
            }
        }
        Answer::Consumed(self.consumed)
    }

    /// The attempt that has made an item that has come.
    fn maker(&self, index: u32) -> Option<u32> {
        self.begun.iter().rev().find(|(_, before)| *before < index).map(|(attempt, _)| *attempt)
    }

    /// The work has ended, with this error if it failed. Only the first end counts.
    pub(crate) fn ends(&mut self, error: Option<E>) {
        if !self.ended {
            self.ended = true;
            self.error = error;
            self.strays.extend(std::mem::take(&mut self.early).into_values());
        }
    }

    /// The consumer takes the next one.
    pub(crate) fn next(&mut self) -> Next<T, E> {
        if let Some(item) = self.items.pop_front() {
            self.consumed += 1;
            return Next::Item(self.consumed, item);
        }
        match self.error.take() {
            Some(error) => Next::Failed(self.received + 1, error),
            None if self.ended => Next::Over,
            None => Next::Wait,
        }
    }

    /// Nobody will take another one. Returns those that have come and count; they are to be freed.
    pub(crate) fn abandon(&mut self) -> VecDeque<T> {
        self.ends(None);
        self.error = None;
        std::mem::take(&mut self.items)
    }

    /// An attempt wants to hear when so many items are consumed. Who has asked before is forgotten.
    pub(crate) fn asks(&mut self, attempt: u32, until: u32, who: R) -> Option<R> {
        self.asker.replace(Asker { attempt, until, who }).map(|before| before.who)
    }

    /// Who is to be answered now; to be called after every event.
    pub(crate) fn due(&mut self) -> Option<(R, Answer)> {
        let asker = self.asker.as_ref()?;
        let answer = if self.ended || self.attempt != Some(asker.attempt) {
            Answer::Unwanted
        } else if self.consumed >= asker.until {
            Answer::Consumed(self.consumed)
        } else {
            return None;
        };
        self.asker.take().map(|asker| (asker.who, answer))
    }

    /// Items whose reports were answered, and that do not count all the same, since one before them
    /// never came. What they have stored is to be thrown away.
    pub(crate) fn strays(&mut self) -> Vec<T> {
        std::mem::take(&mut self.strays)
    }

    /// What was told twice, or was not wanted. To be dropped where that may do anything.
    pub(crate) fn spare(&mut self) -> Vec<T> {
        std::mem::take(&mut self.spare)
    }
}

#[cfg(test)]
mod tests;
