use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// An item says which attempt has made it, and which one it is.
type Item = (u32, u32);
type Tested = Stream<Item, &'static str, u32>;

fn consume(stream: &mut Tested) -> Vec<Next<Item, &'static str>> {
    let mut all = Vec::new();
    loop {
        match stream.next() {
            next @ (Next::Over | Next::Wait) => {
                all.push(next);
                return all;
            }
            next => all.push(next),
        }
    }
}

fn heard(answer: Answer) -> bool {
    matches!(answer, Answer::Consumed(_))
}

#[test]
fn items_come_in_order_whatever_the_order_in_which_they_are_told() {
    let mut stream = Tested::new(5);
    assert_eq!(stream.begins(1), 0);
    for index in [2, 1, 2, 4, 3, 1] {
        assert!(heard(stream.comes(1, index, (1, index))));
    }
    stream.ends(None);
    let items = (1..=4).map(|index| Next::Item(index, (1, index)));
    assert_eq!(consume(&mut stream), items.chain([Next::Over]).collect::<Vec<_>>());
    assert_eq!(stream.spare(), [(1, 2), (1, 1)], "what came twice");
}

#[test]
fn an_error_comes_once_after_the_items_before_it() {
    let mut stream = Tested::new(5);
    stream.begins(1);
    assert!(heard(stream.comes(1, 1, (1, 1))) && heard(stream.comes(1, 2, (1, 2))));
    stream.ends(Some("third"));
    stream.ends(Some("later"));
    let expected = [Next::Item(1, (1, 1)), Next::Item(2, (1, 2)), Next::Failed(3, "third"), Next::Over];
    assert_eq!(consume(&mut stream), expected);
    assert_eq!(stream.next(), Next::Over);
}

#[test]
fn the_next_attempt_leaves_out_what_has_come() {
    let mut stream = Tested::new(4);
    stream.begins(1);
    assert!(heard(stream.comes(1, 1, (1, 1))) && heard(stream.comes(1, 2, (1, 2))));
    assert_eq!(stream.next(), Next::Item(1, (1, 1)));
    assert!(heard(stream.comes(1, 4, (1, 4))));
    assert_eq!(stream.lost(), 3..=5, "the fourth does not count without the third");
    assert_eq!(stream.comes(1, 3, (1, 3)), Answer::Unwanted, "nobody listens to a lost attempt");
    assert_eq!(stream.begins(2), 2);
    assert_eq!(stream.comes(1, 3, (1, 3)), Answer::Unwanted);
    assert!(heard(stream.comes(2, 3, (2, 3))));
    // The first attempt was only out of reach, and tells again what it was not answered.
    assert_eq!(stream.comes(1, 2, (1, 2)), Answer::Enough, "its bytes count");
    assert_eq!(stream.comes(1, 3, (1, 3)), Answer::Unwanted, "those of the second attempt do");
    stream.ends(None);
    assert_eq!(stream.comes(2, 3, (2, 3)), Answer::Enough);
    assert_eq!(consume(&mut stream), [Next::Item(2, (1, 2)), Next::Item(3, (2, 3)), Next::Over]);
}

#[test]
fn who_waits_for_room_is_answered_when_there_is_some_and_when_nobody_wants_more() {
    let mut stream = Tested::new(1);
    stream.begins(1);
    assert!(heard(stream.comes(1, 1, (1, 1))));
    assert_eq!(stream.comes(1, 2, (1, 2)), Answer::Unwanted, "there is no room for it");
    stream.asks(1, 1, 7);
    assert_eq!(stream.due(), None);
    assert_eq!(stream.asks(1, 1, 8), Some(7), "it has asked again");
    stream.next();
    assert_eq!(stream.due(), Some((8, Answer::Consumed(1))));
    assert_eq!(stream.due(), None);
    stream.asks(1, 2, 9);
    assert_eq!(stream.due(), None);
    stream.abandon();
    assert_eq!(stream.due(), Some((9, Answer::Unwanted)));
    stream.asks(1, 0, 10);
    assert_eq!(stream.due(), Some((10, Answer::Unwanted)));
}

#[test]
fn an_abandoned_stream_gives_back_everything() {
    let mut stream = Tested::new(5);
    stream.begins(1);
    for index in [1, 2, 4] {
        assert!(heard(stream.comes(1, index, (1, index))));
    }
    stream.next();
    assert_eq!(stream.abandon(), [(1, 2)]);
    assert_eq!(stream.strays(), [(1, 4)]);
    assert_eq!(stream.comes(1, 3, (1, 3)), Answer::Unwanted);
    assert_eq!(stream.next(), Next::Over);
}

/// What happens next in a random history.
#[derive(Clone, Debug)]
enum Event {
    /// The producer yields, if it may.
    Yields,
    /// One of the messages on their way arrives; its answer may be lost, then it is told again.
    Arrives(usize, bool),
    Consumes,
    /// The worker is taken for dead, and the next attempt begins. Its messages are lost with it, or
    /// it was only out of reach.
    Dies(bool),
    /// The work is cancelled.
    Cancelled,
    /// The consumer is gone.
    Abandoned,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => Just(Event::Yields),
        60 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Event::Arrives(which, again)),
        30 => Just(Event::Consumes),
        10 => any::<bool>().prop_map(Event::Dies),
        1 => Just(Event::Cancelled),
        1 => Just(Event::Abandoned),
    ]
}

/// A stream, its producers as workers play them, and its consumer.
struct World {
    stream: Tested,
    window: u32,
    /// How many items there are.
    length: u32,
    attempt: u32,
    yielded: u32,
    /// As the producer knows it.
    consumed: u32,
    unheard: BTreeSet<u32>,
    stopped: bool,
    /// Reports on their way, those of lost attempts too.
    way: Vec<Item>,
    taken: Vec<Item>,
    stored: BTreeSet<Item>,
    /// What was thrown away, by whomever.
    thrown: BTreeSet<Item>,
    ended_early: bool,
    over: bool,
}

impl World {
    fn new(window: u32, length: u32) -> Self {
        let mut stream = Tested::new(window);
        stream.begins(1);
        Self {
            stream,
            window,
            length,
            attempt: 1,
            yielded: 0,
            consumed: 0,
            unheard: BTreeSet::new(),
            stopped: false,
            way: Vec::new(),
            taken: Vec::new(),
            stored: BTreeSet::new(),
            thrown: BTreeSet::new(),
            ended_early: false,
            over: false,
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Yields if self.stopped || self.stream.ended => {}
            Event::Yields if self.yielded == self.length => {
                if self.unheard.is_empty() {
                    self.stream.ends(None);
                }
            }
            Event::Yields if self.yielded < self.consumed + self.window => {
                self.yielded += 1;
                self.unheard.insert(self.yielded);
                self.stored.insert((self.attempt, self.yielded));
                self.way.push((self.attempt, self.yielded));
            }
            Event::Yields => drop(self.stream.asks(self.attempt, self.yielded + 1 - self.window, self.attempt)),
            Event::Arrives(..) if self.way.is_empty() => {}
            Event::Arrives(which, again) => {
                let which = which % self.way.len();
                let item = if again { self.way[which] } else { self.way.swap_remove(which) };
                let answer = self.stream.comes(item.0, item.1, item);
                if !again {
                    self.answered(item, answer);
                }
            }
            Event::Consumes => match self.stream.next() {
                Next::Item(index, item) => {
                    assert_eq!(index, item.1, "another item's number");
                    self.taken.push(item);
                }
                Next::Failed(..) | Next::Over => self.over = true,
                Next::Wait => {}
            },
            Event::Dies(_) if self.stream.ended => {}
            Event::Dies(silent) => {
                let stale = self.stream.lost();
                self.thrown.extend(stale.map(|index| (self.attempt, index)));
                if silent {
                    self.way.retain(|(attempt, _)| *attempt != self.attempt);
                }
                self.attempt += 1;
                self.yielded = self.stream.begins(self.attempt);
                (self.consumed, self.stopped) = (0, false);
                self.unheard.clear();
                assert!(self.yielded as usize >= self.taken.len(), "a consumed item is made again");
            }
            Event::Cancelled => {
                self.ended_early |= !self.stream.ended;
                self.stream.ends(Some("cancelled"));
            }
            Event::Abandoned => {
                (self.ended_early, self.over) = (true, true);
                self.thrown.extend(self.stream.abandon());
            }
        }
        self.thrown.extend(self.stream.strays());
        drop(self.stream.spare());
        if let Some((attempt, answer)) = self.stream.due() {
            match answer {
                Answer::Consumed(count) => {
                    assert_eq!(attempt, self.attempt);
                    self.consumed = self.consumed.max(count);
                }
                Answer::Unwanted => assert!(attempt < self.attempt || self.stream.ended),
                Answer::Enough => panic!("nothing was reported"),
            }
        }
        assert!(self.stream.received <= self.stream.consumed + self.window, "the producer is too far ahead");
        assert!(self.stream.items.len() + self.stream.early.len() <= self.window as usize);
    }

    /// The worker of this item hears the answer.
    fn answered(&mut self, item: Item, answer: Answer) {
        let current = item.0 == self.attempt;
        if current {
            self.unheard.remove(&item.1);
        }
        match answer {
            Answer::Consumed(count) => {
                assert!(current, "a lost attempt was listened to");
                self.consumed = self.consumed.max(count);
            }
            Answer::Enough => self.stopped |= current,
            Answer::Unwanted => {
                assert!(!current || self.stream.ended, "an item of the present attempt was refused");
                self.thrown.insert(item);
                self.stopped |= current;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn every_item_is_taken_once_in_order_and_all_stored_bytes_are_accounted_for(
        window in 1..6_u32,
        length in 0..20_u32,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(window, length);
        for event in events {
            world.happens(event);
        }
        // When the random ones are over: whatever brings it to its end.
        for _ in 0..1_000 {
            if world.over && world.way.is_empty() {
                break;
            }
            for event in [Event::Yields, Event::Arrives(0, false), Event::Consumes] {
                world.happens(event);
            }
        }
        prop_assert!(world.over && world.way.is_empty(), "it did not come to its end");
        let indices: Vec<u32> = world.taken.iter().map(|item| item.1).collect();
        let complete: Vec<u32> = (1..=length).collect();
        prop_assert_eq!(&indices[..], &complete[..indices.len()]);
        prop_assert!(world.ended_early || indices == complete, "some are missing");
        // What lies in a store was taken, and will be freed by who has it, or it was thrown away.
        for item in &world.stored {
            let (taken, thrown) = (world.taken.contains(item), world.thrown.contains(item));
            prop_assert!(taken != thrown, "{:?} is taken: {}, thrown away: {}", item, taken, thrown);
        }
    }
}
