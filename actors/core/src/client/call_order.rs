//! The order of one actor's calls: the pure core that knows which call leaves next, where to, and
//! what becomes of those that had left when the actor's worker is lost.
//!
//! ```text
//!   add ─▶ waiting ──leave──▶ in flight ──done──▶ (ended)
//!             ▲                   │
//!             └─ may run again ───┴─ may not ──▶ fails: nobody knows whether it ran
//! ```
//!
//! A call leaves when all calls before it have left and its arguments are ready. What comes back
//! takes its old place in the order, before everything that was made after it. So the calls of one
//! thread reach each incarnation in the order in which they were made, and one that may not be
//! made again reaches at most one incarnation, once.

use std::collections::{BTreeMap, HashSet, VecDeque};

use mobula_transport::{ProcessAddr, ProcessId};

use crate::error::Error;

/// Where the actor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) worker: ProcessAddr,
    pub(super) incarnation: u32,
}

#[derive(Debug)]
enum Place {
    /// The GCS is asked.
    Unknown,
    Alive(Home),
    Dead(Box<Error>),
}

/// What the loss of a process, or of an incarnation, means for the calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// These fail.
    pub(super) failed: Vec<u64>,
    /// The GCS is to be asked where the actor is now.
    pub(super) ask: bool,
}

/// What becomes of one call that was thought to be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallen {
    /// It waits, and will leave again.
    Waits,
    /// It is over.
    Fails,
    /// It is not in flight there: what was said is old.
    Elsewhere,
}

/// The calls of one actor made by this process.
#[derive(Debug)]
pub(super) struct CallOrder {
    place: Place,
    /// Calls that have not left, in the order in which they are to.
    waiting: VecDeque<u64>,
    /// Those among them whose arguments are not ready.
    unready: HashSet<u64>,
    /// Calls that have left and not ended, and where they went.
    in_flight: BTreeMap<u64, Home>,
    /// Incarnations below this one have ended, whatever the GCS may still say.
    ended_below: u32,
}

impl CallOrder {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Unknown,
            waiting: VecDeque::new(),
            unready: HashSet::new(),
            in_flight: BTreeMap::new(),
            ended_below: 0,
        }
    }

    /// Why the actor is dead, if it is.
    pub(super) fn dead(&self) -> Option<&Error> {
        match &self.place {
            Place::Dead(error) => Some(error),
            Place::Unknown | Place::Alive(_) => None,
        }
    }

    /// The calls that have not ended, as far as is known here.
    pub(super) fn pending(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// A call is made, after all before it; false when the actor is dead.
    pub(super) fn add(&mut self, seq: u64, ready: bool) -> bool {
        if self.dead().is_some() {
            return false;
        }
        self.waiting.push_back(seq);
        if !ready {
            self.unready.insert(seq);
        }
        true
    }

    /// The arguments of a call are ready, or it has ended without them.
    pub(super) fn arguments_settled(&mut self, seq: u64) {
        self.unready.remove(&seq);
    }

    /// Where the next call goes, if one may leave now.
    pub(super) fn next(&self) -> Option<Home> {
        match self.place {
            Place::Alive(home) if self.front_is_ready() => Some(home),
            _ => None,
        }
    }

    /// The next call leaves, if it still may.
    pub(super) fn leave(&mut self) -> Option<u64> {
        let home = self.next()?;
        let seq = self.waiting.pop_front()?;
        self.in_flight.insert(seq, home);
        Some(seq)
    }

    /// A call has ended.
    pub(super) fn done(&mut self, seq: u64) {
        self.in_flight.remove(&seq);
    }

    /// Where a call went that has not ended.
    pub(super) fn home_of(&self, seq: u64) -> Option<Home> {
        self.in_flight.get(&seq).copied()
    }

    /// How many calls leave before this one; none when it has left or ended.
    pub(super) fn before(&self, seq: u64) -> Option<usize> {
        self.waiting.iter().position(|waiting| *waiting == seq)
    }

    /// The calls in flight to this process.
    pub(super) fn in_flight_at(&self, process: ProcessId) -> impl Iterator<Item = (ProcessAddr, u64)> {
        let there = self.in_flight.iter().filter(move |(_, home)| home.worker.id == process);
        there.map(|(seq, home)| (home.worker, *seq))
    }

    /// The GCS says that the actor lives there. What went to an earlier incarnation and may run
    /// again does so, since nothing that follows may overtake it; the rest of it ends by itself.
    /// False when that incarnation is known to have ended: the GCS is to be asked again.
    pub(super) fn alive(&mut self, home: Home, may_run_again: impl Fn(u64) -> bool) -> bool {
        if self.dead().is_some() {
            return true;
        }
        if home.incarnation < self.ended_below {
            return false;
        }
        self.place = Place::Alive(home);
        self.ended_below = home.incarnation;
        let old = |seq: &u64, sent: &mut Home| sent.incarnation < home.incarnation && may_run_again(*seq);
        let again: Vec<u64> = self.in_flight.extract_if(.., old).map(|(seq, _)| seq).collect();
        self.wait_again(again);
        true
    }

    /// The actor is dead: returns the calls that fail with it.
    pub(super) fn die(&mut self, error: Box<Error>) -> Vec<u64> {
        self.place = Place::Dead(error);
        self.unready.clear();
        let mut seqs: Vec<u64> = std::mem::take(&mut self.in_flight).into_keys().collect();
        seqs.extend(self.waiting.drain(..));
        seqs
    }

    /// A process is dead, or could not be reached for so long that it is given up; what went there
    /// gets no answer.
    pub(super) fn process_lost(&mut self, process: ProcessId, dead: bool, may_run_again: impl Fn(u64) -> bool) -> Lost {
        let mut lost = Lost::default();
        if let Place::Alive(home) = self.place
            && home.worker.id == process
        {
            self.place = Place::Unknown;
            lost.ask = true;
            if dead {
                self.ended_below = home.incarnation + 1;
            }
        }
        let mut again = Vec::new();
        for (seq, _) in self.in_flight.extract_if(.., |_, home| home.worker.id == process) {
            if may_run_again(seq) { again.push(seq) } else { lost.failed.push(seq) }
        }
        self.wait_again(again);
        lost
    }

    /// A worker does not have a call that went there.
    pub(super) fn missing(&mut self, worker: ProcessId, seq: u64, may_run_again: bool) -> Fallen {
        match self.in_flight.get(&seq) {
            Some(home) if home.worker.id == worker => {
                self.in_flight.remove(&seq);
                self.fall(seq, may_run_again)
            }
            _ => Fallen::Elsewhere,
        }
    }

    /// The worker refused a call, because the incarnation that it went to has ended. Returns also
    /// whether the GCS is to be asked where the actor is now.
    pub(super) fn refused(&mut self, seq: u64, may_run_again: bool) -> (Fallen, bool) {
        let Some(sent) = self.in_flight.remove(&seq) else { return (Fallen::Elsewhere, false) };
        self.ended_below = self.ended_below.max(sent.incarnation + 1);
        let ask = matches!(self.place, Place::Alive(home) if home.incarnation < self.ended_below);
        if ask {
            self.place = Place::Unknown;
        }
        (self.fall(seq, may_run_again), ask)
    }

    /// A call whose code failed is made again.
    pub(super) fn again(&mut self, seq: u64) -> Fallen {
        match self.in_flight.remove(&seq) {
            Some(_) => self.fall(seq, true),
            None => Fallen::Elsewhere,
        }
    }

    /// These were about to leave and did not. Returns those that wait again: not one that has ended
    /// meanwhile.
    pub(super) fn stayed(&mut self, seqs: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let stayed: Vec<u64> = seqs.into_iter().filter(|seq| self.in_flight.remove(seq).is_some()).collect();
        self.wait_again(stayed.clone());
        stayed
    }

    fn fall(&mut self, seq: u64, may_run_again: bool) -> Fallen {
        if !may_run_again {
            return Fallen::Fails;
        }
        self.wait_again(vec![seq]);
        Fallen::Waits
    }

    /// These, oldest first, take their old places among those that wait.
    fn wait_again(&mut self, mut seqs: Vec<u64>) {
        let Some(last) = seqs.last().copied() else { return };
        while self.waiting.front().is_some_and(|seq| *seq < last) {
            seqs.extend(self.waiting.pop_front());
        }
        seqs.sort_unstable();
        for seq in seqs.into_iter().rev() {
            self.waiting.push_front(seq);
        }
    }

    fn front_is_ready(&self) -> bool {
        self.waiting.front().is_some_and(|seq| self.unready.is_empty() || !self.unready.contains(seq))
    }
}

#[cfg(test)]
mod tests;
