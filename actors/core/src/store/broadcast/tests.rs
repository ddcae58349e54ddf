use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::pull::{Ask, Effect, Failure, PullManager};
use crate::value::Encoding;

fn node(n: usize) -> ProcessAddr {
    let id = ProcessId(Uuid::from_u128(n as u128));
    ProcessAddr { id, socket: SocketAddr::from((Ipv4Addr::LOCALHOST, n as u16)) }
}

#[test]
fn the_first_two_are_served_and_each_of_the_others_by_one_before_it() {
    let mut copies = Copies::default();
    let answers: Vec<Answer> = (1..=8).map(|n| copies.ask(node(n), &[])).collect();
    let by = |n| Answer::Elsewhere(node(n));
    assert_eq!(answers, [Answer::Give, Answer::Give, by(1), by(1), by(2), by(2), by(3), by(3)]);
    assert_eq!(copies.processes().len(), 8);
}

#[test]
fn who_was_sent_to_one_that_failed_is_sent_to_another_and_in_the_end_served() {
    let mut copies = Copies::default();
    for n in 1..=4 {
        copies.ask(node(n), &[]);
    }
    let failed = |n: &[usize]| n.iter().map(|n| node(*n).id).collect::<Vec<_>>();
    assert_eq!(copies.ask(node(4), &failed(&[1])), Answer::Elsewhere(node(2)), "no later one, which may wait for it");
    assert_eq!(copies.ask(node(5), &[]), Answer::Elsewhere(node(2)), "nobody is sent to who failed");
    copies.died(node(2).id);
    assert_eq!(copies.ask(node(4), &failed(&[1, 2])), Answer::Elsewhere(node(3)));
    assert_eq!(copies.ask(node(4), &failed(&[1, 2, 3])), Answer::Give);
}

#[test]
fn who_gave_its_copy_up_is_served_again() {
    let mut copies = Copies::default();
    for n in 1..=4 {
        copies.ask(node(n), &[]);
    }
    assert_eq!(copies.ask(node(3), &[]), Answer::Give);
}

// ---- a cluster of pull managers -----------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Want(usize),
    Advance(usize),
    Kill(usize),
    Evict(usize),
    /// What it is just being sent breaks off.
    Break(usize),
}

const NODES: usize = 10;

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let some = 1..NODES;
    let fault = u32::from(faults);
    prop_oneof![
        4 => some.clone().prop_map(Step::Want),
        12 => any::<usize>().prop_map(Step::Advance),
        fault => some.clone().prop_map(Step::Kill),
        fault => some.prop_map(Step::Evict),
        fault => any::<usize>().prop_map(Step::Break),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Idle,
    Pulling,
    Has,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Asked,
    Waits,
    Sending,
}

#[derive(Debug)]
struct Request {
    from: usize,
    ask: Ask,
    stage: Stage,
}

/// Node 0 has the object, the others want it.
struct World {
    copies: Copies,
    nodes: Vec<(PullManager, State)>,
    requests: Vec<Request>,
    /// How often the object left node 0, and how often it reached each.
    given: u32,
    received: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let nodes = (0..NODES).map(|n| (PullManager::new(100), if n == 0 { State::Has } else { State::Idle }));
        Self {
            copies: Copies::default(),
            nodes: nodes.collect(),
            requests: Vec::new(),
            given: 0,
            received: vec![0; NODES],
        }
    }

    fn object() -> ObjectId {
        ObjectId { owner: node(0).id, seq: 1, index: 0 }
    }

    fn carry_out(&mut self, from: usize, effects: Vec<Effect>) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Start { ask, .. } => self.requests.push(Request { from, ask, stage: Stage::Asked }),
                Effect::GiveUp { error, .. } => prop_assert!(false, "{from} gives up: {error}"),
            }
        }
        Ok(())
    }

    fn want(&mut self, n: usize) -> Result<(), TestCaseError> {
        if !matches!(self.nodes[n].1, State::Idle | State::Pulling) {
            return Ok(());
        }
        self.nodes[n].1 = State::Pulling;
        let nodes = [node(0)].into_iter().collect();
        let wanted = StoredObject { object: Self::object(), encoding: Encoding::RAW, size_bytes: 10, nodes };
        let mut effects = Vec::new();
        self.nodes[n].0.want(wanted, &mut effects);
        self.carry_out(n, effects)
    }

    fn fail(&mut self, at: usize, failure: Failure) -> Result<(), TestCaseError> {
        let from = self.requests.remove(at).from;
        let mut effects = Vec::new();
        self.nodes[from].0.failed(Self::object(), failure, &mut effects);
        self.carry_out(from, effects)
    }

    /// What happens next with a request; false if nothing can.
    fn advance(&mut self, at: usize) -> Result<bool, TestCaseError> {
        let Request { from, ask, stage } = &self.requests[at];
        let (from, to, stage) = (*from, ask.process.id.0.as_u128() as usize, *stage);
        let failed = |why: &str| Failure::Source { why: why.to_owned(), passing: false };
        match (stage, self.nodes[to].1) {
            (_, State::Dead) => self.fail(at, failed("it is dead"))?,
            (Stage::Asked, State::Has) if to == 0 => match self.copies.ask(node(from), &self.requests[at].ask.failed) {
                Answer::Give => {
                    self.given += 1;
                    self.requests[at].stage = Stage::Sending;
                }
                Answer::Elsewhere(process) => self.fail(at, Failure::Elsewhere(process))?,
            },
            (Stage::Asked | Stage::Waits, State::Has) => self.requests[at].stage = Stage::Sending,
            (Stage::Asked, State::Pulling) => self.requests[at].stage = Stage::Waits,
            (Stage::Waits, State::Pulling) => return Ok(false),
            (Stage::Asked | Stage::Waits, State::Idle) => self.fail(at, failed("it is not here"))?,
            (Stage::Sending, _) => {
                self.requests.remove(at);
                self.received[from] += 1;
                self.nodes[from].1 = State::Has;
                let mut effects = Vec::new();
                self.nodes[from].0.done(Self::object(), &mut effects);
                self.carry_out(from, effects)?;
            }
        }
        Ok(true)
    }

    fn kill(&mut self, n: usize) -> Result<(), TestCaseError> {
        self.nodes[n].1 = State::Dead;
        self.requests.retain(|request| request.from != n);
        self.copies.died(node(n).id);
        for other in 0..NODES {
            if self.nodes[other].1 != State::Dead {
                let mut effects = Vec::new();
                self.nodes[other].0.node_died(node(n).id, &mut effects);
                self.carry_out(other, effects)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let count = self.requests.len();
        match step {
            Step::Want(n) => self.want(n)?,
            Step::Advance(n) if count > 0 => drop(self.advance(n % count)?),
            Step::Kill(n) => self.kill(n)?,
            Step::Evict(n) if self.nodes[n].1 == State::Has => {
                self.nodes[n].1 = State::Idle;
            }
            Step::Break(n) if count > 0 => {
                let request = &self.requests[n % count];
                // The source itself does not fail: it would have to be tried for ever.
                if request.stage == Stage::Sending && request.ask.relay {
                    self.fail(n % count, Failure::Source { why: "broken".to_owned(), passing: true })?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets everything end that is under way.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let mut rounds = 0;
        while !self.requests.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 1000, "it never ends: {:?}", self.requests);
            let mut moved = false;
            for at in (0..self.requests.len()).rev() {
                if at < self.requests.len() {
                    moved |= self.advance(at)?;
                }
            }
            prop_assert!(moved, "they wait in a circle: {:?}", self.requests);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whoever wants the object gets it once, and it leaves the source no more often than it may.
    #[test]
    fn without_faults_everyone_gets_it_once(steps in proptest::collection::vec(step(false), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        for n in 1..NODES {
            world.want(n)?;
        }
        world.settle()?;
        prop_assert!(world.nodes.iter().all(|(_, state)| *state == State::Has));
        prop_assert_eq!(&world.received[1..], [1; NODES - 1]);
        prop_assert!(world.given <= FANOUT, "{} times from the source", world.given);
    }

    /// Deaths, broken transfers and copies that were given up cost tries, but nobody waits for ever
    /// and all who live get it.
    #[test]
    fn with_faults_everyone_who_lives_gets_it(steps in proptest::collection::vec(step(true), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        for n in 1..NODES {
            world.want(n)?;
        }
        world.settle()?;
        prop_assert!(world.nodes.iter().all(|(_, state)| matches!(state, State::Has | State::Dead)));
    }
}
