//! Room for work that calls itself as often as its input is deep.
//!
//! Entry function: [`deep`]. A plan has as many levels as operators, one on top of the other, and
//! loops make plans of thousands. What looks at one calls itself for every level, in whatever
//! thread its user has; a thread has a stack of two megabytes, and a level of a debug build takes
//! up to 16 KiB of it.

/// Does `work` on a stack that has room for it: on this one, or on a new one that is given back when
/// the work is done. Whatever calls itself wraps itself in it; where there is room it costs nothing.
pub(crate) fn deep<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(ROOM_BYTES, STACK_BYTES, work)
}

/// What one level takes at most, with all that it calls which does not ask for room itself.
const ROOM_BYTES: usize = 1 << 20;

/// A new stack: address space, of which what is used becomes memory.
const STACK_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(levels: u64) -> u64 {
        let padding = std::hint::black_box([levels; 512]);
        if levels == 0 { 0 } else { deep(|| sum(levels - 1)) + padding[0] }
    }

    /// Four kilobytes for each of its levels are more than any thread of a test has.
    #[test]
    fn work_is_deeper_than_the_stack_of_its_thread() {
        assert_eq!(sum(20_000), 20_000 * 20_001 / 2);
    }
}
