//! Segments: the pieces of shared memory that objects lie in, and their size classes.
//!
//! Every object has a segment of its own, a file in the store's directory. Its size is rounded
//! up to a *class*, so that the next object of about that size finds a segment whose pages are
//! already there; a class wastes less than an eighth.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The unit in which memory is given out.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// The largest object: what an offset into a mapping can address with room to spare.
pub(crate) const MAX_OBJECT_BYTES: u64 = 1 << 46;

/// Classes per doubling of the size, as a power of two: 2^3 = 8, so a step is at most an eighth.
const CLASSES_LOG2: u32 = 3;

/// A piece of shared memory of one store. Numbers are never used twice, so a stale one can name
/// a segment that is gone, but never another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// The name of its file in the store's directory.
    pub fn file_name(self) -> String {
        format!("seg-{:x}", self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What is, or was, in a segment: the bytes of one object as one attempt sealed them or one pull
/// brought them. Where they lie may change; numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct ContentId(pub(crate) u64);

/// How large a segment for an object of `size_bytes` is; nothing for a size no store can have.
pub(crate) fn class_bytes(size_bytes: u64) -> Option<u64> {
    if size_bytes > MAX_OBJECT_BYTES {
        return None;
    }
    let size = size_bytes.max(1);
    let step = (1u64 << size.ilog2() >> CLASSES_LOG2).max(PAGE_BYTES);
    Some(size.div_ceil(step) * step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_class_fits_and_wastes_less_than_an_eighth(
            size in prop_oneof![1u64..1 << 20, 1u64..1 << 40, Just(1u64 << 30), Just((1u64 << 30) + 1)]
        ) {
            let class = class_bytes(size).unwrap();
            prop_assert!(class >= size);
            prop_assert_eq!(class % PAGE_BYTES, 0);
            prop_assert!(class - size < PAGE_BYTES.max(size / 8 + 1));
            prop_assert_eq!(class_bytes(class), Some(class), "a class is its own class");
        }
    }

    #[test]
    fn the_ends() {
        assert_eq!(class_bytes(0), Some(PAGE_BYTES));
        assert_eq!(class_bytes(1 << 30), Some(1 << 30));
        assert_eq!(class_bytes(MAX_OBJECT_BYTES + 1), None);
    }
}
