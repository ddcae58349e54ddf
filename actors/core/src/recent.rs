//! The latest so many of something.

use std::collections::{BTreeSet, VecDeque};

/// A set that forgets the oldest when there are too many.
#[derive(Clone, Debug)]
pub(crate) struct Recent<T> {
    limit: usize,
    order: VecDeque<T>,
    set: BTreeSet<T>,
}

impl<T: Copy + Ord> Recent<T> {
    /// An empty set for so many.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, order: VecDeque::new(), set: BTreeSet::new() }
    }

    /// False when it was there already.
    pub(crate) fn insert(&mut self, value: T) -> bool {
        if !self.set.insert(value) {
            return false;
        }
        self.order.push_back(value);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }

    pub(crate) fn contains(&self, value: &T) -> bool {
        self.set.contains(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut recent = Recent::new(2);
        assert!(recent.insert(1) && recent.insert(2) && !recent.insert(1));
        assert!(recent.insert(3));
        assert!(!recent.contains(&1) && recent.contains(&2) && recent.contains(&3));
        assert!(recent.insert(1) && !recent.contains(&2));
    }
}
