//! Which actor of a stage gets which block, and when there is to be one more.
//!
//! Entry type: [`Pool`]. It is pure: blocks that are to run, actors that were made and blocks that
//! ended go in; actors to make and blocks to hand out come out. An actor that is not there yet gets
//! no block, so that one for which there is no room keeps nobody waiting: the others do the work.

use std::collections::{BTreeMap, VecDeque};

/// Blocks that an actor has at once: one that runs, and one whose rows come meanwhile.
pub(super) const BLOCKS_PER_ACTOR: usize = 2;

/// An actor of the pool.
pub(super) type Member = u32;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Make an actor.
    Make(Member),
    /// Let it run this block.
    Hand(Member, usize),
}

/// The actors of a stage and the blocks that wait for one.
#[derive(Debug)]
pub(super) struct Pool {
    min: usize,
    max: usize,
    next: Member,
    making: usize,
    members: BTreeMap<Member, State>,
    waiting: VecDeque<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is being made.
    Made,
    /// It has so many blocks.
    Has(usize),
}

impl Pool {
    /// `min` actors at first, and up to `max` while blocks wait.
    pub(super) fn new(min: usize, max: usize) -> Self {
        let max = max.max(1);
        Self { min: min.clamp(1, max), max, next: 0, making: 0, members: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// A block is to run.
    pub(super) fn want(&mut self, block: usize) {
        self.waiting.push_back(block);
    }

    /// A block is to run again, before those that have not run yet.
    pub(super) fn want_again(&mut self, block: usize) {
        self.waiting.push_front(block);
    }

    /// The next thing to do, if there is one now.
    pub(super) fn step(&mut self) -> Option<Step> {
        if self.members.len() < self.min || self.is_short() {
            let member = self.next;
            self.next += 1;
            self.making += 1;
            self.members.insert(member, State::Made);
            return Some(Step::Make(member));
        }
        if self.waiting.is_empty() {
            return None;
        }
        let has = |(member, state): (&Member, &State)| match state {
            State::Has(blocks) => Some((*blocks, *member)),
            State::Made => None,
        };
        let (blocks, member) = self.members.iter().filter_map(has).min()?;
        // An actor that will soon be there is worth waiting for, unless somebody is idle.
        if blocks >= BLOCKS_PER_ACTOR || (blocks > 0 && self.waiting.len() <= self.making) {
            return None;
        }
        let block = self.waiting.pop_front()?;
        self.members.insert(member, State::Has(blocks + 1));
        Some(Step::Hand(member, block))
    }

    /// Whether one more actor would have something to do. They are made one after the other: one
    /// for which there is no room is followed by none.
    fn is_short(&self) -> bool {
        let idle = self.members.values().any(|state| matches!(state, State::Made | State::Has(0)));
        !self.waiting.is_empty() && !idle && self.members.len() < self.max
    }

    /// An actor was made.
    pub(super) fn made(&mut self, member: Member) {
        if let Some(state @ State::Made) = self.members.get_mut(&member) {
            *state = State::Has(0);
            self.making -= 1;
        }
    }

    /// A block of an actor has ended, well or not.
    pub(super) fn ended(&mut self, member: Member) {
        if let Some(State::Has(blocks)) = self.members.get_mut(&member) {
            *blocks = blocks.saturating_sub(1);
        }
    }

    /// The actors that have nothing to do are no more, and there need not be any from here on; these
    /// they are. None rests while blocks wait.
    pub(super) fn rest(&mut self) -> Vec<Member> {
        if !self.waiting.is_empty() {
            return Vec::new();
        }
        self.min = 0;
        let idle: Vec<Member> =
            self.members.iter().filter(|(_, state)| **state == State::Has(0)).map(|(member, _)| *member).collect();
        for member in &idle {
            self.members.remove(member);
        }
        idle
    }

    /// The actors that have blocks.
    pub(super) fn busy(&self) -> impl Iterator<Item = Member> {
        self.members.iter().filter(|(_, state)| matches!(state, State::Has(1..))).map(|(member, _)| *member)
    }

    /// An actor is no more; its blocks end one by one.
    pub(super) fn lost(&mut self, member: Member) {
        if self.members.remove(&member) == Some(State::Made) {
            self.making -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_actor_gets_every_block_in_order() {
        let mut pool = Pool::new(1, 1);
        (0..10).for_each(|block| pool.want(block));
        assert_eq!(pool.step(), Some(Step::Make(0)));
        assert_eq!(pool.step(), None, "it is not there yet");
        pool.made(0);
        for block in 0..10 {
            assert_eq!(pool.step(), Some(Step::Hand(0, block)));
            if block > 0 {
                assert_eq!(pool.step(), None, "it has two");
                pool.ended(0);
            }
        }
    }

    #[test]
    fn it_grows_one_by_one_while_blocks_wait() {
        let mut pool = Pool::new(1, 3);
        assert_eq!(pool.step(), Some(Step::Make(0)), "even without work");
        assert_eq!(pool.step(), None);
        pool.made(0);
        (0..4).for_each(|block| pool.want(block));
        assert_eq!(pool.step(), Some(Step::Hand(0, 0)));
        assert_eq!(pool.step(), Some(Step::Make(1)));
        // One block is kept for the actor to come.
        assert_eq!((pool.step(), pool.step()), (Some(Step::Hand(0, 1)), None));
        pool.made(1);
        assert_eq!(pool.step(), Some(Step::Hand(1, 2)));
        assert_eq!((pool.step(), pool.step()), (Some(Step::Make(2)), None));
        // There is no room for the third: who is idle takes what was kept for it.
        pool.ended(1);
        assert_eq!((pool.step(), pool.step()), (Some(Step::Hand(1, 3)), None));
    }

    #[test]
    fn a_lost_actor_is_made_anew_and_its_blocks_come_first() {
        let mut pool = Pool::new(2, 2);
        (0..5).for_each(|block| pool.want(block));
        assert_eq!([pool.step(), pool.step()], [Some(Step::Make(0)), Some(Step::Make(1))]);
        pool.made(0);
        pool.made(1);
        assert_eq!([pool.step(), pool.step()], [Some(Step::Hand(0, 0)), Some(Step::Hand(1, 1))]);
        pool.lost(0);
        pool.want_again(0);
        assert_eq!(pool.step(), Some(Step::Make(2)));
        assert_eq!(pool.step(), Some(Step::Hand(1, 0)));
    }

    #[test]
    fn who_has_nothing_to_do_makes_room_and_comes_back() {
        let mut pool = Pool::new(2, 2);
        pool.want(0);
        assert_eq!([pool.step(), pool.step()], [Some(Step::Make(0)), Some(Step::Make(1))]);
        pool.made(0);
        pool.made(1);
        assert!(pool.rest().is_empty(), "a block waits");
        assert_eq!((pool.step(), pool.step()), (Some(Step::Hand(0, 0)), None));
        assert_eq!(pool.rest(), [1]);
        assert_eq!(pool.step(), None, "though there are fewer than were asked for at first");
        pool.ended(0);
        assert_eq!(pool.rest(), [0]);
        pool.want(1);
        assert_eq!(pool.step(), Some(Step::Make(2)));
        pool.made(2);
        assert_eq!(pool.step(), Some(Step::Hand(2, 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn every_block_ends_whoever_is_lost(
            min in 1usize..4,
            more in 0usize..4,
            blocks in 0usize..30,
            room in 1usize..5,
            picks in proptest::collection::vec((0usize..100, 0u8..10), 1..60),
        ) {
            let (max, mut done) = (min + more, vec![false; blocks]);
            let mut pool = Pool::new(min, max);
            (0..blocks).for_each(|block| pool.want(block));
            let (mut making, mut under_way, mut alive) = (Vec::new(), Vec::new(), Vec::new());
            let mut picks = picks.into_iter().map(Some).chain(std::iter::repeat(None));
            while !done.iter().all(|done| *done) {
                while let Some(step) = pool.step() {
                    match step {
                        Step::Make(member) => making.push(member),
                        Step::Hand(member, block) => {
                            prop_assert!(alive.contains(&member) && !done[block]);
                            under_way.push((member, block));
                        }
                    }
                    prop_assert!(making.len() + alive.len() <= max);
                }
                // Only so many find room.
                let makes = !making.is_empty() && alive.len() < room;
                prop_assert!(makes || !under_way.is_empty(), "nothing moves: {pool:?}");
                let (pick, fate) = picks.next().unwrap().unwrap_or((0, 9));
                if fate == 4 {
                    let resting = pool.rest();
                    alive.retain(|one| !resting.contains(one));
                }
                if makes && (under_way.is_empty() || fate < 3) {
                    let member = making.remove(pick % making.len());
                    pool.made(member);
                    alive.push(member);
                } else if fate == 3 {
                    let (member, _) = under_way[pick % under_way.len()];
                    pool.lost(member);
                    alive.retain(|one| *one != member);
                    for (_, block) in under_way.extract_if(.., |(one, _)| *one == member) {
                        pool.want_again(block);
                    }
                } else {
                    let (member, block) = under_way.remove(pick % under_way.len());
                    pool.ended(member);
                    prop_assert!(!std::mem::replace(&mut done[block], true));
                }
            }
        }
    }
}
