//! Random histories of one actor's calls against a plain model of the world around them: workers
//! that run what they were sent in order, a network that loses what is on its way when a worker
//! dies, and a GCS whose answers may be old.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mobula_transport::{ProcessAddr, ProcessId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ids::ActorId;

fn home(incarnation: u32) -> Home {
    let id = ProcessId(Uuid::from_u128(u128::from(incarnation) + 1));
    Home { worker: ProcessAddr { id, socket: ProcessAddr::IN_PROCESS }, incarnation }
}

fn died() -> Box<Error> {
    Box::new(Error::ActorDied { actor: ActorId(Uuid::nil()), why: "the test wants it so".to_owned() })
}

fn sent_to(order: &mut CallOrder) -> Vec<(u64, u32)> {
    std::iter::from_fn(|| {
        let incarnation = order.next()?.incarnation;
        order.leave().map(|seq| (seq, incarnation))
    })
    .collect()
}

#[test]
fn a_call_that_is_not_ready_holds_back_those_behind_it() {
    let mut order = CallOrder::new();
    for (seq, ready) in [(1, true), (2, false), (3, true)] {
        assert!(order.add(seq, ready));
    }
    assert_eq!(order.next(), None, "nobody knows where it lives");
    assert!(order.alive(home(0), |_| false));
    assert_eq!(sent_to(&mut order), [(1, 0)]);
    order.arguments_settled(2);
    assert_eq!(sent_to(&mut order), [(2, 0), (3, 0)]);
}

#[test]
fn what_was_lost_goes_before_what_was_made_later() {
    let mut order = CallOrder::new();
    order.alive(home(0), |_| true);
    (1..=4).for_each(|seq| assert!(order.add(seq, true)));
    sent_to(&mut order);
    order.done(1);
    assert!(order.add(5, true));
    let lost = order.process_lost(home(0).worker.id, true, |seq| seq != 3);
    assert_eq!(lost, Lost { failed: vec![3], ask: true });
    assert!(!order.alive(home(0), |_| true), "that one is dead, whatever the GCS says");
    assert!(order.alive(home(1), |_| true));
    assert_eq!(sent_to(&mut order), [(2, 1), (4, 1), (5, 1)]);
}

#[test]
fn a_new_incarnation_takes_over_what_the_old_one_has_not_answered() {
    let mut order = CallOrder::new();
    order.alive(home(0), |_| true);
    (1..=3).for_each(|seq| assert!(order.add(seq, true)));
    sent_to(&mut order);
    // The old one was told to end: it refuses what waited there, one after the other.
    assert_eq!(order.refused(2, true), (Fallen::Waits, true));
    assert!(order.alive(home(1), |seq| seq != 1));
    assert_eq!(sent_to(&mut order), [(2, 1), (3, 1)], "3 does not come behind what follows");
    assert_eq!(order.refused(1, false), (Fallen::Fails, false), "1 still ran in the old one");
    assert_eq!(order.pending(), 2);
}

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Call {
        ready: bool,
    },
    ArgumentsReady(usize),
    Send,
    Run,
    /// The oldest answer on its way arrives.
    Answer,
    /// The worker process dies, with what it has and what is on its way to it or from it.
    Kill,
    /// The client hears of that.
    HearOfDeath {
        gone: bool,
    },
    /// The incarnation ends in a worker that lives on: what waits there is refused.
    End,
    /// The GCS answers; `old` with what was true one incarnation ago.
    Locate {
        old: bool,
    },
    /// What is on its way to the worker is lost, and asked for.
    LoseMessages,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<bool>().prop_map(|ready| Event::Call { ready }),
        3 => any::<prop::sample::Index>().prop_map(|index| Event::ArgumentsReady(index.index(64))),
        6 => Just(Event::Send),
        6 => Just(Event::Run),
        6 => Just(Event::Answer),
        1 => Just(Event::Kill),
        2 => any::<bool>().prop_map(|gone| Event::HearOfDeath { gone }),
        1 => Just(Event::End),
        3 => any::<bool>().prop_map(|old| Event::Locate { old }),
        1 => Just(Event::LoseMessages),
    ]
}

/// One call, as the model knows it.
#[derive(Default)]
struct Made {
    charged: i64,
    runs: i64,
    /// Some when it has ended: whether it succeeded.
    ended: Option<bool>,
}

struct World {
    order: CallOrder,
    retries: i64,
    calls: BTreeMap<u64, Made>,
    unready: BTreeSet<u64>,
    /// The incarnation that lives.
    incarnation: u32,
    /// By incarnation: calls that have arrived and not run.
    there: BTreeMap<u32, VecDeque<(u64, i64)>>,
    /// Pushed and not arrived.
    on_the_way: VecDeque<(u64, i64, u32)>,
    /// Answers on their way: call, attempt, from, whether it ran.
    answers: VecDeque<(u64, i64, u32, bool)>,
    /// Dead processes that the client has not heard of.
    unheard: Vec<u32>,
    /// The last call that each incarnation has run.
    last_run: BTreeMap<u32, u64>,
    /// Messages got lost though their worker lives: what came later may have run before.
    lost_messages: bool,
}

impl World {
    fn new(retries: i64) -> Self {
        Self {
            order: CallOrder::new(),
            retries,
            calls: BTreeMap::new(),
            unready: BTreeSet::new(),
            incarnation: 0,
            there: BTreeMap::new(),
            on_the_way: VecDeque::new(),
            answers: VecDeque::new(),
            unheard: Vec::new(),
            last_run: BTreeMap::new(),
            lost_messages: false,
        }
    }

    fn end(&mut self, seq: u64, well: bool) {
        let made = self.calls.get_mut(&seq).unwrap();
        assert!(made.ended.replace(well).is_none(), "call {seq} ended twice");
    }

    fn may(calls: &BTreeMap<u64, Made>, retries: i64) -> impl Fn(u64) -> bool + '_ {
        move |seq| {
            let made = &calls[&seq];
            made.ended.is_none() && (retries < 0 || made.charged <= retries)
        }
    }

    fn arrive(&mut self) {
        while let Some((seq, attempt, to)) = self.on_the_way.pop_front() {
            if to == self.incarnation {
                self.there.entry(to).or_default().push_back((seq, attempt));
            } else if !self.unheard.contains(&to) {
                // Its process lives on, and says that the incarnation does not.
                self.answers.push_back((seq, attempt, to, false));
            }
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Call { ready } => {
                let seq = self.calls.len() as u64 + 1;
                self.calls.insert(seq, Made::default());
                if !ready {
                    self.unready.insert(seq);
                }
                assert!(self.order.add(seq, ready));
            }
            Event::ArgumentsReady(index) => {
                if let Some(seq) = self.unready.iter().nth(index % self.unready.len().max(1)).copied() {
                    self.unready.remove(&seq);
                    self.order.arguments_settled(seq);
                }
            }
            Event::Send => {
                for (seq, incarnation) in sent_to(&mut self.order) {
                    let made = self.calls.get_mut(&seq).unwrap();
                    if made.ended.is_some() {
                        self.order.done(seq);
                        continue;
                    }
                    assert!(!self.unready.contains(&seq), "{seq} left without its arguments");
                    made.charged += 1;
                    self.on_the_way.push_back((seq, made.charged, incarnation));
                }
            }
            Event::Run => {
                self.arrive();
                let next = self.there.get_mut(&self.incarnation).and_then(VecDeque::pop_front);
                if let Some((seq, attempt)) = next {
                    self.calls.get_mut(&seq).unwrap().runs += 1;
                    let last = self.last_run.insert(self.incarnation, seq).unwrap_or(0);
                    assert!(last < seq || self.lost_messages, "{seq} after {last}");
                    self.answers.push_back((seq, attempt, self.incarnation, true));
                }
            }
            Event::Answer => self.answer(),
            Event::Kill => {
                let dead = self.incarnation;
                self.there.remove(&dead);
                self.on_the_way.retain(|(_, _, to)| *to != dead);
                self.answers.retain(|(_, _, from, _)| *from != dead);
                self.unheard.push(dead);
                self.incarnation += 1;
            }
            Event::HearOfDeath { gone } => {
                if let Some(dead) = self.unheard.pop() {
                    let may = Self::may(&self.calls, self.retries);
                    let lost = self.order.process_lost(home(dead).worker.id, gone, may);
                    lost.failed.into_iter().for_each(|seq| self.end(seq, false));
                }
            }
            Event::End => {
                self.arrive();
                let ended = self.incarnation;
                for (seq, attempt) in self.there.remove(&ended).unwrap_or_default() {
                    self.answers.push_back((seq, attempt, ended, false));
                }
                self.incarnation += 1;
            }
            Event::Locate { old } => {
                let incarnation = self.incarnation.saturating_sub(u32::from(old));
                self.order.alive(home(incarnation), Self::may(&self.calls, self.retries));
            }
            Event::LoseMessages => {
                let (kept, lost): (Vec<_>, Vec<_>) =
                    self.on_the_way.drain(..).partition(|(_, _, to)| self.unheard.contains(to));
                self.on_the_way = kept.into();
                self.lost_messages |= !lost.is_empty();
                for (seq, attempt, to) in lost {
                    let current = self.calls[&seq].ended.is_none() && self.calls[&seq].charged == attempt;
                    let may = Self::may(&self.calls, self.retries)(seq);
                    if current && self.order.missing(home(to).worker.id, seq, may) == Fallen::Fails {
                        self.end(seq, false);
                    }
                }
            }
        }
    }

    fn answer(&mut self) {
        let Some((seq, attempt, _, ran)) = self.answers.pop_front() else { return };
        let made = &self.calls[&seq];
        // As the client: the end of an old attempt is none.
        if made.ended.is_some() || made.charged != attempt {
            return;
        }
        if ran {
            self.order.done(seq);
            return self.end(seq, true);
        }
        let may = Self::may(&self.calls, self.retries)(seq);
        if let (Fallen::Fails, _) = self.order.refused(seq, may) {
            self.end(seq, false);
        }
    }

    /// Nothing goes wrong any more: everything that can end does.
    fn settle(&mut self) {
        for seq in std::mem::take(&mut self.unready) {
            self.order.arguments_settled(seq);
        }
        for _ in 0..2 * self.calls.len() + 8 {
            while !self.unheard.is_empty() {
                self.step(Event::HearOfDeath { gone: true });
            }
            self.step(Event::Locate { old: false });
            self.step(Event::Send);
            while !self.on_the_way.is_empty()
                || self.there.get(&self.incarnation).is_some_and(|there| !there.is_empty())
            {
                self.step(Event::Run);
            }
            while !self.answers.is_empty() {
                self.answer();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn calls_keep_their_order_and_all_of_them_end(
        events in prop::collection::vec(event(), 0..120),
        retries in prop_oneof![Just(0_i64), Just(1), Just(3), Just(-1)],
        dies in any::<bool>(),
    ) {
        let mut world = World::new(retries);
        for event in events {
            world.step(event);
        }
        if dies {
            for seq in world.order.die(died()) {
                if world.calls[&seq].ended.is_none() {
                    world.end(seq, false);
                }
            }
            prop_assert!(!world.order.add(u64::MAX, true));
        } else {
            world.settle();
        }
        for (seq, made) in &world.calls {
            prop_assert!(made.ended.is_some(), "{} never ends", seq);
            prop_assert!(retries < 0 || made.runs <= 1 + retries, "{} ran {} times", seq, made.runs);
            prop_assert!(retries >= 0 || dies || made.ended == Some(true), "{} has retries left", seq);
        }
        prop_assert_eq!(world.order.pending(), 0);
    }
}
