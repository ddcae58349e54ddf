//! What the members of a group must agree on before they exchange numbers.
//!
//! A [`Call`] goes from every member to its right neighbour before the pieces, and everyone
//! compares what comes from the left with what it was asked to do itself. Two members that are
//! not neighbours can only differ if two neighbours do.

use std::fmt;

use super::element::{Element, ReduceOp, type_name};

/// The bytes of a call on a link.
pub(super) const CALL_BYTES: usize = 40;

/// Which of a group's methods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    AllReduce(ReduceOp),
    ReduceScatter(ReduceOp),
    AllGather,
    Broadcast {
        root: u32,
    },
    Barrier,
    /// From one member to another.
    Send,
}

/// A call of a method, as far as its members must agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    /// The how manieth it is, from 1.
    pub(super) number: u64,
    pub(super) kind: Kind,
    /// Which numbers.
    pub(super) element: u8,
    /// How many numbers.
    pub(super) len: u64,
    /// A hash of the bounds of the parts.
    pub(super) parts: u64,
}

impl Call {
    pub(super) fn new<T: Element>(number: u64, kind: Kind, bounds: &[usize]) -> Self {
        let len = bounds.last().copied().unwrap_or(0) as u64;
        let bytes: Vec<u8> = bounds.iter().flat_map(|bound| (*bound as u64).to_le_bytes()).collect();
        Self { number, kind, element: T::CODE, len, parts: xxhash_rust::xxh3::xxh3_64(&bytes) }
    }

    pub(super) fn to_bytes(self) -> [u8; CALL_BYTES] {
        let op = |op| match op {
            ReduceOp::Sum => 0,
            ReduceOp::Min => 1,
            ReduceOp::Max => 2,
        };
        let (kind, detail) = match self.kind {
            Kind::AllReduce(with) => (0, op(with)),
            Kind::ReduceScatter(with) => (1, op(with)),
            Kind::AllGather => (2, 0),
            Kind::Broadcast { root } => (3, root),
            Kind::Barrier => (4, 0),
            Kind::Send => (5, 0),
        };
        let words = [self.number, kind << 32 | u64::from(detail), self.element.into(), self.len, self.parts];
        let mut bytes = [0; CALL_BYTES];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// Nothing for bytes that no member writes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; CALL_BYTES] = bytes.try_into().ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        let [number, kind, element, len, parts] = [0, 1, 2, 3, 4].map(|at: usize| u64::from_le_bytes(words[at]));
        let detail = kind as u32;
        let op = || match detail {
            0 => Some(ReduceOp::Sum),
            1 => Some(ReduceOp::Min),
            2 => Some(ReduceOp::Max),
            _ => None,
        };
        let kind = match kind >> 32 {
            0 => Kind::AllReduce(op()?),
            1 => Kind::ReduceScatter(op()?),
            2 => Kind::AllGather,
            3 => Kind::Broadcast { root: detail },
            4 => Kind::Barrier,
            5 => Kind::Send,
            _ => return None,
        };
        Some(Self { number, kind, element: u8::try_from(element).ok()?, len, parts })
    }
}

impl fmt::Display for Call {
    /// `call 3: allreduce (sum) of 10 f32`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, len, parts, .. } = self;
        let numbers = type_name(self.element);
        match self.kind {
            Kind::AllReduce(op) => write!(f, "call {number}: allreduce ({op}) of {len} {numbers}"),
            Kind::ReduceScatter(op) => {
                write!(f, "call {number}: reduce_scatter ({op}) of {len} {numbers} in parts {parts:x}")
            }
            Kind::AllGather => write!(f, "call {number}: all_gather of {len} {numbers} in parts {parts:x}"),
            Kind::Broadcast { root } => write!(f, "call {number}: broadcast of {len} {numbers} from rank {root}"),
            Kind::Barrier => write!(f, "call {number}: barrier"),
            Kind::Send => write!(f, "send {number} of {len} {numbers}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_call_is_read_as_it_was_written(number: u64, which in 0..8usize, root: u32, bounds: Vec<u16>) {
            let kind = [
                Kind::AllReduce(ReduceOp::Sum), Kind::AllReduce(ReduceOp::Max), Kind::ReduceScatter(ReduceOp::Min),
                Kind::AllGather, Kind::Broadcast { root }, Kind::Barrier, Kind::Send, Kind::ReduceScatter(ReduceOp::Sum),
            ][which];
            let bounds: Vec<usize> = bounds.into_iter().map(usize::from).collect();
            let call = Call::new::<i64>(number, kind, &bounds);
            prop_assert_eq!(Call::from_bytes(&call.to_bytes()), Some(call));
        }

        #[test]
        fn any_bytes_are_a_call_or_none(bytes: Vec<u8>) {
            if let Some(call) = Call::from_bytes(&bytes) {
                prop_assert_eq!(&call.to_bytes()[..8], &bytes[..8]);
                prop_assert!(!call.to_string().is_empty());
            }
        }
    }

    #[test]
    fn a_call_reads_well() {
        let call = Call::new::<f32>(3, Kind::AllReduce(ReduceOp::Sum), &[0, 4, 10]);
        assert_eq!(call.to_string(), "call 3: allreduce (sum) of 10 f32");
    }
}
