//! Which block is submitted next, when enough is known, and what of the results counts.
//!
//! Entry type: [`Schedule`]. It is pure: settled blocks go in, the next block to submit comes
//! out. What it decides depends on the results in source order, never on which of them came
//! first: the answer, and the error, are those that running the blocks one by one would give.

/// The blocks of a run, by position in source order.
#[derive(Debug)]
pub(super) struct Schedule<T, E> {
    settled: Vec<Option<Result<(u64, T), E>>>,
    /// At most so many are under way.
    window: usize,
    /// So many rows are enough.
    limit: u64,
    /// At most so many are submitted from the first one on that is not done.
    ahead: usize,
    /// So many of those that are done were given out.
    given: usize,
    next: usize,
    under_way: usize,
    /// All blocks before this one are done, and have `front_rows` rows.
    front: usize,
    front_rows: u64,
    first_failed: usize,
}

impl<T, E> Schedule<T, E> {
    /// `blocks` blocks, `window` of them at once, until there are `limit` rows.
    pub(super) fn new(blocks: usize, window: usize, limit: Option<u64>) -> Self {
        Self {
            settled: (0..blocks).map(|_| None).collect(),
            window: window.max(1),
            limit: limit.unwrap_or(u64::MAX),
            ahead: usize::MAX,
            given: 0,
            next: 0,
            under_way: 0,
            front: 0,
            front_rows: 0,
            first_failed: usize::MAX,
        }
    }

    /// Submits no more than `blocks` blocks from the first one on that is not done: what is done
    /// waits for that one, and is not to pile up.
    pub(super) fn ahead(mut self, blocks: usize) -> Self {
        self.ahead = blocks.max(1);
        self
    }

    /// The block to submit now, if there is one.
    pub(super) fn submit(&mut self) -> Option<usize> {
        let wanted = self.next < self.settled.len() && self.first_failed == usize::MAX && !self.is_decided();
        if !wanted || self.under_way >= self.window || self.next - self.front >= self.ahead {
            return None;
        }
        self.under_way += 1;
        self.next += 1;
        Some(self.next - 1)
    }

    /// Block `index` is done, with so many rows, or has failed.
    pub(super) fn settle(&mut self, index: usize, result: Result<(u64, T), E>) {
        let Some(slot @ None) = self.settled.get_mut(index) else {
            return;
        };
        self.under_way -= 1;
        if result.is_err() {
            self.first_failed = self.first_failed.min(index);
        }
        *slot = Some(result);
        while !self.is_decided()
            && let Some(Some(Ok((rows, _)))) = self.settled.get(self.front)
        {
            self.front_rows = self.front_rows.saturating_add(*rows);
            self.front += 1;
        }
    }

    /// The next result in source order, each once, as soon as all before it are done.
    pub(super) fn give(&mut self) -> Option<&mut T> {
        if self.given >= self.front {
            return None;
        }
        self.given += 1;
        match self.settled.get_mut(self.given - 1) {
            Some(Some(Ok((_, value)))) => Some(value),
            _ => None,
        }
    }

    /// Whether nothing that is still under way can change the outcome.
    pub(super) fn is_decided(&self) -> bool {
        self.front == self.settled.len() || self.front_rows >= self.limit || self.front == self.first_failed
    }

    /// Whether a block has failed; no more are submitted then.
    pub(super) fn has_failed(&self) -> bool {
        self.first_failed != usize::MAX
    }

    /// The results that count, in source order, or the first error of those that are known.
    pub(super) fn finish(self) -> Result<Vec<T>, E> {
        let failed = self.front_rows < self.limit && self.first_failed != usize::MAX;
        let counted = if failed { usize::MAX } else { self.front };
        let settled = self.settled.into_iter().take(counted).flatten();
        settled.map(|result| result.map(|(_, value)| value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs blocks that end as `blocks` say, in an order that `picks` decides.
    fn run(
        blocks: &[Result<u64, ()>],
        window: usize,
        limit: Option<u64>,
        picks: &[usize],
    ) -> (Result<Vec<usize>, usize>, usize) {
        run_ahead(blocks, window, usize::MAX, limit, picks)
    }

    /// The same; no more than `ahead` blocks lie between the first one that is not done and the last
    /// one submitted. What is given out on the way is what there is in the end.
    fn run_ahead(
        blocks: &[Result<u64, ()>],
        window: usize,
        ahead: usize,
        limit: Option<u64>,
        picks: &[usize],
    ) -> (Result<Vec<usize>, usize>, usize) {
        let mut schedule = Schedule::new(blocks.len(), window, limit).ahead(ahead);
        let mut given = Vec::new();
        let mut done = std::collections::BTreeSet::new();
        let mut under_way = Vec::new();
        let mut submitted = 0;
        let mut picks = picks.iter().cycle();
        loop {
            while let Some(index) = schedule.submit() {
                assert_eq!(index, submitted, "submitted in source order, each once");
                submitted += 1;
                under_way.push(index);
            }
            assert!(under_way.len() <= window);
            let first_not_done = (0..).find(|index| !done.contains(index)).unwrap();
            assert!(submitted - first_not_done.min(submitted) <= ahead);
            while let Some(index) = schedule.give() {
                given.push(*index);
            }
            if schedule.is_decided() {
                let outcome = schedule.finish();
                match &outcome {
                    Ok(all) => assert_eq!(&given, all),
                    Err(failed) => assert!(given.iter().copied().eq(0..given.len()) && given.len() <= *failed),
                }
                return (outcome, submitted);
            }
            let pick = picks.next().unwrap() % under_way.len();
            let index = under_way.swap_remove(pick);
            done.insert(index);
            schedule.settle(index, blocks[index].map(|rows| (rows, index)).map_err(|()| index));
        }
    }

    #[test]
    fn results_come_in_source_order_and_the_first_error_wins() {
        let blocks = [Ok(1), Ok(2), Err(()), Ok(3), Err(())];
        assert_eq!(run(&blocks[..2], 2, None, &[1]).0, Ok(vec![0, 1]));
        assert_eq!(run(&blocks, 5, None, &[4, 3]).0, Err(2));
        // What comes after enough rows is neither waited for nor asked.
        assert_eq!(run(&blocks, 5, Some(3), &[4, 0]).0, Ok(vec![0, 1]));
        assert_eq!(run(&blocks, 1, Some(3), &[0]), (Ok(vec![0, 1]), 2));
        assert_eq!(run(&blocks, 1, Some(0), &[0]), (Ok(vec![]), 0));
    }

    #[test]
    fn an_error_is_told_even_if_those_before_it_are_not_waited_for() {
        let mut schedule: Schedule<(), &str> = Schedule::new(3, 3, None);
        while schedule.submit().is_some() {}
        schedule.settle(2, Err("late"));
        schedule.settle(1, Err("early"));
        assert!(schedule.has_failed() && !schedule.is_decided());
        assert_eq!(schedule.finish(), Err("early"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_outcome_is_that_of_one_block_at_a_time(
            blocks in proptest::collection::vec(prop_oneof![9 => (0u64..4).prop_map(Ok), 1 => Just(Err(()))], 0..20),
            window in 1usize..8,
            ahead in 1usize..8,
            limit in proptest::option::of(0u64..30),
            picks in proptest::collection::vec(0usize..100, 1..30),
        ) {
            prop_assert_eq!(&run_ahead(&blocks, window, ahead, limit, &picks).0, &run(&blocks, 1, limit, &[0]).0);
            prop_assert_eq!(run(&blocks, window, limit, &picks).0, run(&blocks, 1, limit, &[0]).0);
        }
    }
}
