//! Whose turn it is among the calls of one actor: the pure core of [`super::actor`].
//!
//! ```text
//!             ┌ group 0 (limit 2)  ● ● ○ ○        ● runs   ○ waits   ◌ its arguments are on their way
//!   arrival ─▶┤
//!             └ group 1 (limit 1)  ● ◌ ○
//! ```
//!
//! Each concurrency group starts its calls in the order of their arrival, up to its limit at once;
//! groups do not wait for each other. A call that runs alone (`&mut self`) starts when everything
//! that arrived before it has ended; once it is the first of its group, nothing that arrived after
//! it starts before it.

use std::collections::VecDeque;

/// The calls of one actor.
#[derive(Debug)]
pub(super) struct Turns<T> {
    groups: Box<[Group<T>]>,
    arrivals: u64,
    running: u32,
    /// What runs, runs alone.
    alone: bool,
}

#[derive(Debug)]
struct Group<T> {
    limit: u32,
    running: u32,
    /// In the order of their arrival; the first one is never empty.
    calls: VecDeque<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    arrival: u64,
    content: Content<T>,
}

// Nearly every slot is ready when it is made: boxing the calls would cost each of them memory.
#[derive(Debug)]
enum Content<T> {
    OnItsWay,
    Ready {
        call: T,
        alone: bool,
    },
    /// Its call failed before it could run.
    Empty,
}

/// A place in the order, for a call that follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    group: usize,
    arrival: u64,
}

/// A call that runs, to be given back at its end.
#[derive(Debug)]
pub(super) struct Turn {
    group: usize,
}

impl<T> Turns<T> {
    /// Groups by their limits, each at least one; the first is the default one.
    pub(super) fn new(limits: impl IntoIterator<Item = u32>) -> Self {
        let group = |limit: u32| Group { limit: limit.max(1), running: 0, calls: VecDeque::new() };
        Self { groups: limits.into_iter().map(group).collect(), arrivals: 0, running: 0, alone: false }
    }

    /// Whether at most one call ever runs, so that `alone` need not be known.
    pub(super) fn one_at_a_time(&self) -> bool {
        matches!(&*self.groups, [Group { limit: 1, .. }])
    }

    /// A call arrives.
    pub(super) fn push(&mut self, group: usize, call: T, alone: bool) {
        self.add(group, Content::Ready { call, alone });
    }

    /// A call arrives whose arguments follow.
    pub(super) fn reserve(&mut self, group: usize) -> Place {
        let arrival = self.add(group, Content::OnItsWay);
        Place { group, arrival }
    }

    fn add(&mut self, group: usize, content: Content<T>) -> u64 {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.groups[group].calls.push_back(Slot { arrival, content });
        arrival
    }

    /// The call for a reserved place; `None` if it failed before it could run.
    pub(super) fn fill(&mut self, place: Place, call: Option<T>, alone: bool) {
        let group = &mut self.groups[place.group];
        let Ok(position) = group.calls.binary_search_by_key(&place.arrival, |slot| slot.arrival) else { return };
        group.calls[position].content = match call {
            Some(call) => Content::Ready { call, alone },
            None => Content::Empty,
        };
        group.skip_empty();
    }

    /// Whether a call may start now.
    pub(super) fn may_start(&self) -> bool {
        self.first().is_some()
    }

    /// The next call that may start now, which begins to run.
    pub(super) fn start(&mut self) -> Option<(T, Turn)> {
        let index = self.first()?;
        let group = &mut self.groups[index];
        let Some(Slot { content: Content::Ready { call, alone }, .. }) = group.calls.pop_front() else { return None };
        group.skip_empty();
        group.running += 1;
        self.running += 1;
        self.alone = alone;
        Some((call, Turn { group: index }))
    }

    /// A call has ended.
    pub(super) fn end(&mut self, turn: Turn) {
        self.groups[turn.group].running -= 1;
        self.running -= 1;
        self.alone = false;
    }

    /// Whether nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0
    }

    /// The calls that are here and have not started.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.groups.iter().flat_map(|group| &group.calls).filter_map(|slot| match &slot.content {
            Content::Ready { call, .. } => Some(call),
            Content::OnItsWay | Content::Empty => None,
        })
    }

    /// Takes out all that has not started, in the order of arrival.
    pub(super) fn clear(&mut self) -> Vec<T> {
        let mut slots: Vec<Slot<T>> = self.groups.iter_mut().flat_map(|group| group.calls.drain(..)).collect();
        slots.sort_by_key(|slot| slot.arrival);
        let call = |slot: Slot<T>| match slot.content {
            Content::Ready { call, .. } => Some(call),
            Content::OnItsWay | Content::Empty => None,
        };
        slots.into_iter().filter_map(call).collect()
    }

    /// The group whose first call is the next to start.
    fn first(&self) -> Option<usize> {
        if self.alone {
            return None;
        }
        let mut next: Option<(u64, usize)> = None;
        // The first call that is to run alone, and whether anything before it has not started.
        let mut barrier: Option<(u64, usize)> = None;
        let mut oldest = u64::MAX;
        for (index, group) in self.groups.iter().enumerate() {
            let Some(Slot { arrival, content }) = group.calls.front() else { continue };
            oldest = oldest.min(*arrival);
            match content {
                Content::Ready { alone: true, .. } => {
                    if barrier.is_none_or(|(before, _)| *arrival < before) {
                        barrier = Some((*arrival, index));
                    }
                }
                Content::Ready { alone: false, .. } if group.running < group.limit => {
                    if next.is_none_or(|(before, _)| *arrival < before) {
                        next = Some((*arrival, index));
                    }
                }
                Content::Ready { .. } | Content::OnItsWay | Content::Empty => {}
            }
        }
        match (next, barrier) {
            (next, None) => next.map(|(_, index)| index),
            (Some((arrival, index)), Some((barrier, _))) if arrival < barrier => Some(index),
            (_, Some((arrival, index))) => (self.running == 0 && arrival == oldest).then_some(index),
        }
    }
}

impl<T> Group<T> {
    fn skip_empty(&mut self) {
        while self.calls.pop_front_if(|slot| matches!(slot.content, Content::Empty)).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Event {
        Push { group: usize, alone: bool },
        Reserve { group: usize },
        Fill { which: usize, fails: bool, alone: bool },
        Start,
        End { which: usize },
    }

    fn event(groups: usize) -> impl Strategy<Value = Event> {
        let any_group = 0..groups;
        prop_oneof![
            4 => (any_group.clone(), prop::bool::weighted(0.3)).prop_map(|(group, alone)| Event::Push { group, alone }),
            1 => any_group.prop_map(|group| Event::Reserve { group }),
            1 => (0..64_usize, any::<bool>(), any::<bool>())
                .prop_map(|(which, fails, alone)| Event::Fill { which, fails, alone }),
            5 => Just(Event::Start),
            4 => (0..64_usize).prop_map(|which| Event::End { which }),
        ]
    }

    /// A call, by its number in the order of arrival.
    #[derive(Clone, Copy, Debug)]
    struct Call {
        number: u64,
        group: usize,
        alone: bool,
    }

    struct Model {
        limits: Vec<u32>,
        turns: Turns<Call>,
        arrived: u64,
        /// Not started and not failed, by number; none while it is on its way.
        waiting: BTreeMap<u64, Option<Call>>,
        on_their_way: Vec<(Place, u64, usize)>,
        running: Vec<(Turn, Call)>,
    }

    impl Model {
        fn step(&mut self, event: Event) {
            match event {
                Event::Push { group, alone } => {
                    let call = Call { number: self.arrived, group, alone };
                    self.waiting.insert(self.arrived, Some(call));
                    self.arrived += 1;
                    self.turns.push(group, call, alone);
                }
                Event::Reserve { group } => {
                    let place = self.turns.reserve(group);
                    self.on_their_way.push((place, self.arrived, group));
                    self.waiting.insert(self.arrived, None);
                    self.arrived += 1;
                }
                Event::Fill { which, fails, alone } => {
                    if self.on_their_way.is_empty() {
                        return;
                    }
                    let (place, number, group) = self.on_their_way.swap_remove(which % self.on_their_way.len());
                    let call = (!fails).then_some(Call { number, group, alone });
                    match call {
                        Some(call) => self.waiting.insert(number, Some(call)),
                        None => self.waiting.remove(&number),
                    };
                    self.turns.fill(place, call, alone);
                }
                Event::Start => {
                    if let Some((call, turn)) = self.turns.start() {
                        self.check_start(call);
                        self.waiting.remove(&call.number);
                        self.running.push((turn, call));
                    }
                }
                Event::End { which } => {
                    if !self.running.is_empty() {
                        let (turn, _) = self.running.swap_remove(which % self.running.len());
                        self.turns.end(turn);
                    }
                }
            }
        }

        fn check_start(&self, call: Call) {
            assert!(self.running.iter().all(|(_, other)| !other.alone), "beside one that runs alone");
            assert!(!call.alone || self.running.is_empty(), "alone beside another");
            let beside = self.running.iter().filter(|(_, other)| other.group == call.group).count();
            assert!(beside < self.limits[call.group] as usize, "more than its group may");
            for (number, other) in self.waiting.range(..call.number) {
                let same_group = match other {
                    Some(other) => other.group == call.group,
                    None => self.on_their_way.iter().any(|(_, n, group)| n == number && *group == call.group),
                };
                assert!(!same_group, "before another of its group");
                assert!(!call.alone, "alone before what arrived earlier");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn turns_are_taken_in_order_and_within_limits(
            limits in prop::collection::vec(1_u32..4, 1..4),
            events in prop::collection::vec(event(3), 0..80),
        ) {
            let mut model = Model {
                turns: Turns::new(limits.clone()),
                arrived: 0,
                waiting: BTreeMap::new(),
                on_their_way: Vec::new(),
                running: Vec::new(),
                limits: limits.clone(),
            };
            for event in events {
                let event = match event {
                    Event::Push { group, alone } => Event::Push { group: group % limits.len(), alone },
                    Event::Reserve { group } => Event::Reserve { group: group % limits.len() },
                    other => other,
                };
                model.step(event);
                prop_assert_eq!(model.turns.is_idle(), model.running.is_empty());
                // Nothing stands still: what is here and first may start when nothing runs.
                let first = model.waiting.first_key_value().and_then(|(_, call)| *call);
                prop_assert!(!model.running.is_empty() || first.is_none() || model.turns.may_start());
            }
            // Everything that is here gets its turn.
            while !model.on_their_way.is_empty() {
                model.step(Event::Fill { which: 0, fails: false, alone: true });
            }
            for _ in 0..4 * model.arrived {
                model.step(Event::Start);
                model.step(Event::End { which: 0 });
            }
            prop_assert!(model.waiting.is_empty(), "{:?} never start", model.waiting);
            prop_assert!(model.turns.clear().is_empty());
        }
    }

    #[test]
    fn a_group_that_is_full_does_not_hold_up_another() {
        let mut turns = Turns::new([1, 1]);
        turns.push(0, "first", false);
        turns.push(0, "second", false);
        turns.push(1, "other", false);
        let (first, turn) = turns.start().unwrap();
        assert_eq!(first, "first");
        assert_eq!(turns.start().unwrap().0, "other");
        assert!(!turns.may_start());
        turns.end(turn);
        assert_eq!(turns.start().unwrap().0, "second");
    }

    #[test]
    fn what_runs_alone_waits_for_all_before_it_and_holds_back_all_after_it() {
        let mut turns = Turns::new([2, 2]);
        turns.push(1, "before", false);
        turns.push(0, "alone", true);
        turns.push(1, "after", false);
        let (_, before) = turns.start().unwrap();
        assert!(!turns.may_start());
        turns.end(before);
        let (alone, turn) = turns.start().unwrap();
        assert_eq!(alone, "alone");
        assert!(!turns.may_start());
        turns.end(turn);
        assert_eq!(turns.start().unwrap().0, "after");
    }
}
