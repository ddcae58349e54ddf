//! Which blocks of a file to fetch ahead, and which are not needed any more.
//!
//! Entry type: [`Window`], a pure core. It is told which ranges will be read, each from its
//! start to its end but all of them in turn, as the Parquet reader does with the columns of a
//! row group; and then how far they are read. It keeps the next blocks of every range on their
//! way while they fit into its bytes.
//!
//! ```text
//! wanted   [ a ][ b ]   [      c      ]     ranges, each with the position it is read to
//! blocks   [   0    ]   [  1 ][ 2 ][ 3]     close ranges share blocks, long ones have many
//! ```

use std::ops::Range;

use super::ranges::{coalesce, split};

/// What will be read, and what is held of it.
#[derive(Debug)]
pub(super) struct Window {
    wanted: Vec<Wanted>,
    blocks: Vec<Block>,
    held_bytes: u64,
    max_bytes: u64,
}

/// A range that will be read.
#[derive(Debug)]
struct Wanted {
    range: Range<u64>,
    /// Up to here it is read.
    position: u64,
    blocks: Range<usize>,
}

/// A part of the file that one request fetches.
#[derive(Debug)]
struct Block {
    range: Range<u64>,
    /// It is on its way or here.
    held: bool,
}

impl Window {
    /// A window over `ranges` that fetches at most `max_bytes` ahead of what is read.
    pub(super) fn new(ranges: &[Range<u64>], max_bytes: u64) -> Window {
        let regions = coalesce(ranges, MAX_GAP);
        let each = max_bytes / (2 * regions.len().max(1) as u64);
        let block_bytes = each.clamp(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES);
        let blocks: Vec<_> = regions
            .iter()
            .flat_map(|region| split(region, block_bytes))
            .map(|range| Block { range, held: false })
            .collect();
        let wanted = ranges.iter().filter(|range| !range.is_empty()).map(|range| Wanted {
            range: range.clone(),
            position: range.start,
            blocks: blocks.partition_point(|block| block.range.end <= range.start)
                ..blocks.partition_point(|block| block.range.start < range.end),
        });
        let wanted = wanted.collect();
        Window { wanted, blocks, held_bytes: 0, max_bytes }
    }

    /// The blocks that hold `range`, if it was said to be read.
    pub(super) fn blocks_of(&self, range: &Range<u64>) -> Option<Range<usize>> {
        let wanted = self.wanted.iter().find(|wanted| covers(&wanted.range, range))?;
        let blocks = &self.blocks[wanted.blocks.clone()];
        let first = wanted.blocks.start + blocks.partition_point(|block| block.range.end <= range.start);
        let end = wanted.blocks.start + blocks.partition_point(|block| block.range.start < range.end);
        Some(first..end.max(first + 1).min(wanted.blocks.end))
    }

    /// Where a block is in the file.
    pub(super) fn range(&self, block: usize) -> Range<u64> {
        self.blocks[block].range.clone()
    }

    /// A block is on its way now, whether or not it fits.
    pub(super) fn hold(&mut self, block: usize) {
        let block = &mut self.blocks[block];
        if !block.held {
            block.held = true;
            self.held_bytes += block.range.end - block.range.start;
        }
    }

    /// Of the ranges with `at` in them, what is before `position` is read, and what is after it
    /// is not, though it may have been before. Gives the blocks that nothing needs any more.
    pub(super) fn passed(&mut self, at: u64, position: u64) -> Vec<usize> {
        let mut touched = Vec::new();
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.range.contains(&at)) {
            wanted.position = position.min(wanted.range.end);
            touched.extend(wanted.blocks.clone());
        }
        let mut done = Vec::new();
        for index in touched {
            if self.blocks[index].held && !self.is_needed(index) {
                let block = &mut self.blocks[index];
                block.held = false;
                self.held_bytes -= block.range.end - block.range.start;
                done.push(index);
            }
        }
        done
    }

    /// The blocks to fetch now, the most urgent first; they count as held from here on. `at` is
    /// where was read last.
    pub(super) fn ahead(&mut self, at: Option<u64>) -> Vec<usize> {
        let is_here = |wanted: &Wanted| at.is_some_and(|at| wanted.range.contains(&at));
        let unread = |wanted: &&Wanted| wanted.position < wanted.range.end;
        let next = |wanted: &Wanted, depth: usize| {
            let blocks = &self.blocks[wanted.blocks.clone()];
            let current = blocks.partition_point(|block| block.range.end <= wanted.position);
            let block = wanted.blocks.start + current + depth;
            (block < wanted.blocks.end).then_some(block)
        };
        let mut candidates = Vec::new();
        for depth in 0..=DEPTH {
            candidates.extend(self.wanted.iter().filter(|w| is_here(w)).filter(unread).filter_map(|w| next(w, depth)));
        }
        for depth in 0..=DEPTH {
            candidates.extend(self.wanted.iter().filter(unread).filter_map(|w| next(w, depth)));
        }
        let mut started = Vec::new();
        for block in candidates {
            let length = self.blocks[block].range.end - self.blocks[block].range.start;
            if !self.blocks[block].held && self.held_bytes + length <= self.max_bytes {
                self.hold(block);
                started.push(block);
            }
        }
        started
    }

    fn is_needed(&self, block: usize) -> bool {
        let end = self.blocks[block].range.end;
        let needs = |wanted: &Wanted| wanted.blocks.contains(&block) && wanted.position < wanted.range.end.min(end);
        self.wanted.iter().any(needs)
    }
}

fn covers(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && inner.start < outer.end
}

/// What lies between two ranges closer than this is fetched with them: asking once more takes
/// as long as moving about so many bytes.
pub(super) const MAX_GAP: u64 = 1 << 20;
/// How many blocks of a range are fetched ahead of the one that is read.
const DEPTH: usize = 1;
/// The size of a block.
const MIN_BLOCK_BYTES: u64 = 1 << 20;
const MAX_BLOCK_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_columns_come_in_one_block_that_goes_when_all_are_read() {
        let mut window = Window::new(&[0..10, 10..30, 100..120], 64 * MIB);
        assert_eq!(window.ahead(None), [0]);
        assert_eq!(window.range(0), 0..120);
        assert!(window.passed(0, 10).is_empty());
        assert!(window.passed(105, 120).is_empty());
        assert!(window.passed(10, 20).is_empty());
        assert_eq!(window.passed(20, 30), [0]);
        assert_eq!((window.ahead(None), window.held_bytes), (vec![], 0));
    }

    #[test]
    fn every_long_column_has_its_next_blocks_on_their_way() {
        let mut window = Window::new(&[0..100 * MIB, 200 * MIB..300 * MIB], 64 * MIB);
        let started = window.ahead(None);
        let starts: Vec<_> = started.iter().map(|block| window.range(*block).start / MIB).collect();
        assert_eq!(starts, [0, 200, 8, 208]);
        assert_eq!(window.passed(0, 9 * MIB), [0]);
        let started = window.ahead(Some(9 * MIB));
        assert_eq!(started.iter().map(|block| window.range(*block).start / MIB).collect::<Vec<_>>(), [16]);
    }

    #[test]
    fn what_is_read_again_is_held_and_dropped_again() {
        let mut window = Window::new(std::slice::from_ref(&(0..40 * MIB)), 64 * MIB);
        let blocks = window.blocks_of(&(0..40 * MIB)).unwrap();
        for _ in 0..2 {
            blocks.clone().for_each(|block| window.hold(block));
            assert_eq!(window.passed(0, 9 * MIB), [0]);
            assert_eq!(window.passed(9 * MIB, 40 * MIB), blocks.clone().skip(1).collect::<Vec<_>>());
            assert_eq!(window.held_bytes, 0);
        }
    }

    #[test]
    fn what_was_not_announced_is_not_in_the_window() {
        let window = Window::new(&[0..10, 20..30], MIB);
        assert_eq!(window.blocks_of(&(0..10)), Some(0..1));
        assert_eq!(window.blocks_of(&(5..25)), None);
        assert_eq!(window.blocks_of(&(12..15)), None);
    }

    proptest! {
        /// Ranges read in turn, in steps: all blocks of a step are there or fetched then, what is
        /// held ahead stays within bounds, and nothing is left in the end.
        #[test]
        fn held_bytes_are_bounded_and_end_at_none(
            lengths in proptest::collection::vec((1u64..40 * MIB, 0u64..3 * MIB), 1..6),
            step in 100_000u64..5 * MIB,
            max_mib in 1u64..80,
        ) {
            let mut start = 0;
            let mut ranges = Vec::new();
            for (length, gap) in lengths {
                ranges.push(start..start + length);
                start += length + gap;
            }
            let mut window = Window::new(&ranges, max_mib * MIB);
            window.ahead(None);
            let mut positions: Vec<_> = ranges.iter().map(|range| range.start).collect();
            while positions.iter().zip(&ranges).any(|(position, range)| *position < range.end) {
                for (position, range) in positions.iter_mut().zip(&ranges) {
                    let end = (*position + step).min(range.end);
                    if *position == end {
                        continue;
                    }
                    for block in window.blocks_of(&(*position..end)).unwrap() {
                        window.hold(block);
                    }
                    let demanded = ranges.len() as u64 * (2 * MAX_BLOCK_BYTES + step);
                    prop_assert!(window.held_bytes <= window.max_bytes + demanded);
                    window.passed(*position, end);
                    window.ahead(Some(*position));
                    *position = end;
                }
            }
            prop_assert_eq!(window.held_bytes, 0);
        }
    }
}
