//! Which piece of the data goes when, and what becomes of it where.
//!
//! The data are cut into as many parts as there are members, and each part into pieces. A part
//! travels round the ring, and [`Ring`] is the list of what one member does about that, in order:
//! it takes a piece from its left neighbour, adds its own numbers to it or keeps it, and passes it
//! on to its right one. [`apply`] carries a step out. Nothing here knows how pieces travel: links
//! are queues that keep the order, with room for at least [`BURST`] pieces and
//! [one](crate::collective::call) more.
//!
//! ```text
//!   member 1 of 4, reducing and gathering, one band:
//!
//!   hop 0   part 0              own numbers ──▶      BURST pieces of it
//!   hop 1   part 3    ──▶ + own             ──▶
//!   hop 2   part 2    ──▶ + own             ──▶
//!   hop 3   part 1    ──▶ + own, kept       ──▶      the sum is whole: gathering begins
//!   hop 4   part 0    ──▶ kept              ──▶
//!   hop 5   part 3    ──▶ kept              ──▶
//!   hop 6   part 2    ──▶ kept
//! ```
//! Long parts are done in *bands* of [`BURST`] pieces, one after the other: so a piece is still in
//! the cache when it is passed on, and a link needs no more room than that.
//!
//! No order of events can make the ring stand still. All members go through the same sequence of
//! (band, hop, piece), so one that waits for a piece waits for a neighbour that is further back in
//! it, and so one that waits for room, as soon as a link has room for more than a hop's pieces; a
//! circle of those cannot be.

use std::ops::Range;

use super::element::{Element, ReduceOp, bytes_of, bytes_of_mut};

/// So many pieces of a part follow each other on a link.
pub(super) const BURST: usize = 4;

/// A member's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) rank: usize,
    pub(super) world: usize,
}

impl Seat {
    /// The rank of who comes next.
    pub(super) fn right(self) -> usize {
        (self.rank + 1) % self.world
    }

    /// The rank of who comes before.
    pub(super) fn left(self) -> usize {
        (self.rank + self.world - 1) % self.world
    }
}

/// How far the parts travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Part `p` is added up on its way to member `p`.
    Reduce,
    /// Part `p` goes from member `p` to all others.
    Gather,
    /// The one, then the other.
    Both,
}

/// What a member does with a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Where it is in the data.
    pub(super) piece: Range<usize>,
    /// It comes from the left; otherwise it is this member's own.
    pub(super) receive: bool,
    /// This member's numbers are added to it.
    pub(super) add: bool,
    /// This member keeps it.
    pub(super) keep: bool,
    /// It goes on to the right.
    pub(super) send: bool,
}

/// The steps of one member.
#[derive(Clone, Debug)]
pub(super) struct Ring<'a> {
    seat: Seat,
    course: Course,
    /// Part `p` is `bounds[p]..bounds[p + 1]`.
    bounds: &'a [usize],
    piece_len: usize,
    hops: usize,
    bands: usize,
    band: usize,
    hop: usize,
    /// In the present band of the present hop's part.
    piece: usize,
}

impl<'a> Ring<'a> {
    /// The steps of the member at `seat` for data whose parts have these bounds (one more than
    /// there are members), in pieces of `piece_len` numbers.
    pub(super) fn new(seat: Seat, course: Course, bounds: &'a [usize], piece_len: usize) -> Self {
        debug_assert!(bounds.len() == seat.world + 1 && seat.rank < seat.world && piece_len > 0);
        let around = seat.world - 1;
        let longest = bounds.windows(2).map(|part| part[1] - part[0]).max().unwrap_or(0);
        let hops = match course {
            Course::Reduce | Course::Gather => around,
            Course::Both => 2 * around,
        };
        // Alone there is nothing to do.
        let bands = if around == 0 { 0 } else { longest.div_ceil(piece_len).div_ceil(BURST) };
        Self { seat, course, bounds, piece_len, hops, bands, band: 0, hop: 0, piece: 0 }
    }

    /// The part that passes this member at the present hop.
    fn part(&self) -> Range<usize> {
        let Seat { rank, world } = self.seat;
        // Who begins with a part: the member after the one that is to have its sum, or its own.
        let lead = usize::from(self.course != Course::Gather);
        let part = (rank + 2 * world - (self.hop + lead) % world) % world;
        self.bounds[part]..self.bounds[part + 1]
    }

    fn step(&self, piece: Range<usize>) -> Step {
        let around = self.seat.world - 1;
        let receive = self.hop > 0;
        let reduces = self.course != Course::Gather;
        Step {
            piece,
            receive,
            add: receive && reduces && self.hop <= around,
            keep: receive && (!reduces || self.hop >= around),
            send: self.hop < self.hops,
        }
    }
}

impl Iterator for Ring<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        while self.band < self.bands {
            let part = self.part();
            let from = part.start + (self.band * BURST + self.piece) * self.piece_len;
            if self.piece < BURST && from < part.end {
                self.piece += 1;
                return Some(self.step(from..part.end.min(from + self.piece_len)));
            }
            self.piece = 0;
            self.hop += 1;
            if self.hop > self.hops {
                self.hop = 0;
                self.band += 1;
            }
        }
        None
    }
}

/// The bounds of `world` parts of `len` numbers that are as equal as can be, the longer ones first.
pub(super) fn even_bounds(len: usize, world: usize) -> Vec<usize> {
    (0..=world).map(|part| part * (len / world) + part.min(len % world)).collect()
}

/// The bounds of parts of these lengths.
pub(super) fn bounds_of(lengths: &[usize]) -> Vec<usize> {
    let mut end = 0;
    let ends = lengths.iter().map(|len| {
        end += len;
        end
    });
    std::iter::once(0).chain(ends).collect()
}

/// The caller's memory.
pub(super) enum Memory<'a, T> {
    /// All members have, and get, the whole.
    Whole(&'a mut [T]),
    /// Each member has the whole and gets its part, which begins at `start` and holds the member's
    /// own numbers beforehand.
    Part { data: &'a [T], mine: &'a mut [T], start: usize },
}

impl<T> Memory<'_, T> {
    fn own(&self, piece: Range<usize>) -> &[T] {
        match self {
            Self::Whole(data) => &data[piece],
            Self::Part { data, .. } => &data[piece],
        }
    }

    fn kept(&mut self, piece: Range<usize>) -> &mut [T] {
        match self {
            Self::Whole(data) => &mut data[piece],
            Self::Part { mine, start, .. } => &mut mine[piece.start - *start..piece.end - *start],
        }
    }
}

/// Carries `step` out: `incoming` is the piece from the left, if it receives one, and `outgoing`
/// takes the one for the right, if it sends one. Both are as long as the piece.
pub(super) fn apply<T: Element>(
    step: &Step,
    op: ReduceOp,
    memory: &mut Memory<'_, T>,
    incoming: &[u8],
    outgoing: &mut [u8],
) {
    let piece = step.piece.clone();
    match (step.receive, step.add, step.keep) {
        (false, ..) => outgoing.copy_from_slice(bytes_of(memory.own(piece))),
        (true, true, false) => T::combine(op, incoming, memory.own(piece), outgoing),
        (true, true, true) => {
            let kept = memory.kept(piece);
            T::combine_into_own(op, incoming, kept);
            if step.send {
                outgoing.copy_from_slice(bytes_of(kept));
            }
        }
        (true, false, _) => {
            bytes_of_mut(memory.kept(piece)).copy_from_slice(incoming);
            if step.send {
                outgoing.copy_from_slice(incoming);
            }
        }
    }
}

#[cfg(test)]
mod tests;
