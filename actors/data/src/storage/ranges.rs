//! Ranges of a file: which requests fetch them, and how they are cut from what came.
//!
//! Entry points: [`coalesce`], [`split`] and [`cut`]. All of it is arithmetic.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The fewest ranges that cover `ranges`, in order, where what lies between two that are closer
/// than `gap` is fetched rather than asked around.
pub(super) fn coalesce(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Cuts a range into blocks of about `block` bytes; the last one takes a short rest, too.
pub(super) fn split(range: &Range<u64>, block: u64) -> Vec<Range<u64>> {
    let block = block.max(1);
    let mut blocks = Vec::new();
    let mut start = range.start;
    while range.end - start > block + block / 4 {
        blocks.push(start..start + block);
        start += block;
    }
    if start < range.end {
        blocks.push(start..range.end);
    }
    blocks
}

/// The bytes of `range` out of pieces that follow each other in the file, each with its start.
/// Copies only where the range lies in more than one.
pub(super) fn cut(pieces: &[(u64, Bytes)], range: &Range<u64>) -> Option<Bytes> {
    let overlap = |(start, bytes): &(u64, Bytes)| {
        let from = range.start.max(*start);
        let to = range.end.min(start + bytes.len() as u64);
        (from < to).then(|| bytes.slice((from - start) as usize..(to - start) as usize))
    };
    let mut parts: Vec<Bytes> = pieces.iter().filter_map(overlap).collect();
    let bytes = match parts.len() {
        0 => Bytes::new(),
        1 => parts.remove(0),
        _ => {
            let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            whole.freeze()
        }
    };
    (bytes.len() as u64 == range.end.saturating_sub(range.start)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_fetched_covers_what_is_wanted_and_is_cut_back_to_it(
            wanted in proptest::collection::vec((0u64..900, 0u64..90), 0..12),
            gap in 0u64..100,
            block in 1u64..200,
        ) {
            let file: Vec<u8> = (0..1000u32).map(|n| (n % 251) as u8).collect();
            let wanted: Vec<_> = wanted.iter().map(|(start, length)| *start..start + length).collect();
            let merged = coalesce(&wanted, gap);
            prop_assert!(merged.windows(2).all(|pair| pair[0].end + gap < pair[1].start));
            let pieces: Vec<_> = merged
                .iter()
                .flat_map(|range| split(range, block))
                .map(|range| (range.start, Bytes::copy_from_slice(&file[range.start as usize..range.end as usize])))
                .collect();
            prop_assert!(pieces.iter().all(|(_, bytes)| bytes.len() as u64 <= block + block / 4));
            for range in wanted {
                let bytes = cut(&pieces, &range).unwrap();
                prop_assert_eq!(&bytes[..], &file[range.start as usize..range.end as usize]);
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_cut() {
        assert_eq!(cut(&[(0, Bytes::from_static(b"abc"))], &(2..5)), None);
        assert_eq!(cut(&[], &(3..3)), Some(Bytes::new()));
    }
}
