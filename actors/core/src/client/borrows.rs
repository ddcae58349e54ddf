//! Who holds a reference to whose object, over processes: two pure tables.
//!
//! An owner keeps an object while one of its own handles lives, or while another process has it on
//! *loan* ([`Lent`]). A process that has got a reference from elsewhere borrows it ([`Borrowed`]):
//! under a number of its own, one for all of its handles, from the first handle to the last.
//!
//! ```text
//!   borrower ── BorrowObjects (object, number) ──▶ owner    answered: from now on it holds
//!   borrower ── ReturnObjects (object, number) ──▶ owner    told until it is answered
//!   owner ───── StillBorrowed (object, number) ──▶ borrower now and then, while it has something
//! ```
//!
//! Numbers count up in their process, so both messages may come twice and in any order: a loan that
//! is given back takes nothing with it that was begun later. What is left over, because a message
//! came very late or a process died, is found by the question.
//!
//! A reference that has only just arrived is no loan yet, and need not become one: whoever has sent
//! it keeps it for so long. What *covers* it like that is the business of [`super::borrowing`].

use std::collections::{BTreeMap, HashMap};

use mobula_transport::{ProcessAddr, ProcessId};
use smallvec::SmallVec;

use crate::ids::ObjectId;

#[cfg(test)]
mod tests;

/// An object, and the borrower's number for its loan.
pub(super) type Loan = (ObjectId, u64);

/// The most loans in one message.
pub(super) const LOANS_PER_MESSAGE: usize = 4_096;

/// A borrower that has not answered for so long is taken for dead.
pub(super) const BORROWER_SILENCE_US: u64 = 30_000_000;

// ---- the borrower ------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Somebody else holds it for this process.
    Covered,
    /// The owner was asked, and may or may not have heard it.
    Asked,
    /// The owner holds it for this process.
    Acknowledged,
}

#[derive(Debug)]
struct Held<E> {
    owner: ProcessAddr,
    number: u64,
    stage: Stage,
    entry: E,
}

/// What a process has of others. `E` is how it finds its own record of an object.
#[derive(Debug)]
pub(super) struct Borrowed<E> {
    last: u64,
    of: HashMap<ObjectId, Held<E>>,
    /// To be given back.
    back: BTreeMap<ProcessAddr, Vec<Loan>>,
}

impl<E> Default for Borrowed<E> {
    fn default() -> Self {
        Self { last: 0, of: HashMap::new(), back: BTreeMap::new() }
    }
}

impl<E> Borrowed<E> {
    /// The record of an object.
    pub(super) fn get(&self, object: &ObjectId) -> Option<&E> {
        self.of.get(object).map(|held| &held.entry)
    }

    /// The number of the next loan.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The first handle of an object is here. If there is a record of earlier ones, they are gone.
    pub(super) fn begin(&mut self, (object, number): Loan, owner: ProcessAddr, entry: E) {
        let held = Held { owner, number, stage: Stage::Covered, entry };
        if let Some(earlier) = self.of.insert(object, held) {
            self.give_back(object, &earlier);
        }
    }

    /// The last handle of the loan with this number is gone. Returns whether something is now to be
    /// given back.
    pub(super) fn dropped(&mut self, object: ObjectId, number: u64) -> bool {
        // Of a later one that has taken its place, `begin` has seen to it.
        if self.of.get(&object).is_some_and(|held| held.number == number)
            && let Some(held) = self.of.remove(&object)
        {
            self.give_back(object, &held);
        }
        !self.back.is_empty()
    }

    fn give_back(&mut self, object: ObjectId, held: &Held<E>) {
        if held.stage != Stage::Covered {
            self.back.entry(held.owner).or_default().push((object, held.number));
        }
    }

    /// What is to be given back, to whom.
    pub(super) fn take_back(&mut self) -> BTreeMap<ProcessAddr, Vec<Loan>> {
        std::mem::take(&mut self.back)
    }

    /// Those of the objects whose owner has not acknowledged the loan are asked for; to be told to
    /// the owners.
    pub(super) fn ask(&mut self, objects: impl IntoIterator<Item = ObjectId>) -> BTreeMap<ProcessAddr, Vec<Loan>> {
        let mut asked: BTreeMap<ProcessAddr, Vec<Loan>> = BTreeMap::new();
        for object in objects {
            if let Some(held) = self.of.get_mut(&object)
                && held.stage != Stage::Acknowledged
            {
                held.stage = Stage::Asked;
                asked.entry(held.owner).or_default().push((object, held.number));
            }
        }
        asked
    }

    /// The owner has heard of these loans.
    pub(super) fn acknowledged(&mut self, loans: &[Loan]) {
        for (object, number) in loans {
            if let Some(held) = self.of.get_mut(object)
                && held.number == *number
            {
                held.stage = Stage::Acknowledged;
            }
        }
    }

    /// The connection to an owner was broken, and it may have taken this process for dead: what has
    /// been asked of it is to be asked again.
    pub(super) fn ask_again(&mut self, owner: ProcessId) -> Vec<Loan> {
        let mut loans = Vec::new();
        for (object, held) in &mut self.of {
            if held.owner.id == owner && held.stage != Stage::Covered {
                held.stage = Stage::Asked;
                loans.push((*object, held.number));
            }
        }
        loans.sort_unstable();
        loans
    }

    /// Those of the loans that this process does not have, or not any more.
    pub(super) fn not_held(&self, mut loans: Vec<Loan>) -> Vec<Loan> {
        loans.retain(|(object, number)| self.of.get(object).is_none_or(|held| held.number != *number));
        loans
    }
}

// ---- the owner ---------------------------------------------------------------------------------

#[derive(Debug)]
struct Loaned<H> {
    handle: H,
    to: SmallVec<[ProcessId; 2]>,
}

#[derive(Debug)]
struct Borrower {
    address: ProcessAddr,
    objects: BTreeMap<ObjectId, u64>,
    /// The last object that it was asked about.
    asked_to: Option<ObjectId>,
    /// Since when it gives no answers.
    silent_since_us: Option<u64>,
}

/// What others have of this process. `H` keeps an object.
///
/// Handles that are of no use any more are returned: dropping one may come back to this table.
#[derive(Debug)]
pub(super) struct Lent<H> {
    of: HashMap<ObjectId, Loaned<H>>,
    borrowers: BTreeMap<ProcessId, Borrower>,
}

impl<H> Default for Lent<H> {
    fn default() -> Self {
        Self { of: HashMap::new(), borrowers: BTreeMap::new() }
    }
}

impl<H> Lent<H> {
    pub(super) fn is_empty(&self) -> bool {
        self.borrowers.is_empty()
    }

    /// A process borrows an object, kept by `handle` from now on.
    pub(super) fn lend(&mut self, borrower: ProcessAddr, (object, number): Loan, handle: H) -> Option<H> {
        let fresh = || Borrower { address: borrower, objects: BTreeMap::new(), asked_to: None, silent_since_us: None };
        let known = self.borrowers.entry(borrower.id).or_insert_with(fresh);
        let held = known.objects.entry(object).or_insert(number);
        *held = number.max(*held);
        match self.of.entry(object) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Loaned { handle, to: SmallVec::from_elem(borrower.id, 1) });
                None
            }
            std::collections::hash_map::Entry::Occupied(mut occupied) => {
                let to = &mut occupied.get_mut().to;
                if !to.contains(&borrower.id) {
                    to.push(borrower.id);
                }
                Some(handle)
            }
        }
    }

    /// A process has given these back, or does not know of them.
    pub(super) fn given_back(&mut self, borrower: ProcessId, loans: &[Loan]) -> Vec<H> {
        let Some(known) = self.borrowers.get_mut(&borrower) else { return Vec::new() };
        let mut over = Vec::new();
        for (object, number) in loans {
            if known.objects.get(object).is_some_and(|held| held <= number) {
                known.objects.remove(object);
                over.push(*object);
            }
        }
        if known.objects.is_empty() {
            self.borrowers.remove(&borrower);
        }
        self.end(borrower, over)
    }

    /// A process is dead, and with it whatever it has held.
    pub(super) fn died(&mut self, borrower: ProcessId) -> Vec<H> {
        match self.borrowers.remove(&borrower) {
            Some(known) => self.end(borrower, known.objects.into_keys()),
            None => Vec::new(),
        }
    }

    fn end(&mut self, borrower: ProcessId, objects: impl IntoIterator<Item = ObjectId>) -> Vec<H> {
        let mut handles = Vec::new();
        for object in objects {
            let Some(loaned) = self.of.get_mut(&object) else { continue };
            loaned.to.retain(|to| *to != borrower);
            if loaned.to.is_empty()
                && let Some(loaned) = self.of.remove(&object)
            {
                handles.push(loaned.handle);
            }
        }
        handles
    }

    /// What to ask each borrower about: a part of what it has, the next part the next time.
    pub(super) fn questions(&mut self) -> Vec<(ProcessAddr, Vec<Loan>)> {
        let mut questions = Vec::with_capacity(self.borrowers.len());
        for known in self.borrowers.values_mut() {
            let from = match known.asked_to {
                Some(last) => (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded),
                None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
            };
            let loans: Vec<Loan> =
                known.objects.range(from).take(LOANS_PER_MESSAGE).map(|(object, number)| (*object, *number)).collect();
            known.asked_to = loans.last().map(|(object, _)| *object).filter(|_| loans.len() == LOANS_PER_MESSAGE);
            questions.push((known.address, loans));
        }
        questions
    }

    /// A borrower has answered.
    pub(super) fn heard_of(&mut self, borrower: ProcessId) {
        if let Some(known) = self.borrowers.get_mut(&borrower) {
            known.silent_since_us = None;
        }
    }

    /// A borrower has not answered. When that goes on for too long, it counts as dead.
    pub(super) fn silent(&mut self, borrower: ProcessId, now_us: u64) -> Vec<H> {
        let Some(known) = self.borrowers.get_mut(&borrower) else { return Vec::new() };
        let since_us = *known.silent_since_us.get_or_insert(now_us);
        if now_us.saturating_sub(since_us) < BORROWER_SILENCE_US {
            return Vec::new();
        }
        self.died(borrower)
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<H> {
        self.borrowers.clear();
        self.of.drain().map(|(_, loaned)| loaned.handle).collect()
    }
}
