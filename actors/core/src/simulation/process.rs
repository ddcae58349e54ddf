//! One process of the simulation, and what it can do to the world: everything goes through [`Cx`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};
use rand::rngs::StdRng;

use super::client::Driver;
use super::head::Head;
use super::message::{Answer, Ask, Body, Input, Then, Timer, Way};
use super::node::Node;
use super::record::Record;
use super::worker::Worker;
use crate::culprit::Culprit;
use crate::messages::ClusterEvent;

pub(super) const MS: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000 * MS;

/// What runs in a process.
pub(super) enum Host {
    Head(Box<Head>),
    Node(Box<Node>),
    Worker(Box<Worker>),
    Driver(Box<Driver>),
}

/// A process.
pub(super) struct Process {
    pub(super) addr: ProcessAddr,
    /// On which machine: what is partitioned are machines.
    pub(super) machine: usize,
    /// Tells it from earlier ones under the same id.
    pub(super) generation: u64,
    pub(super) host: Host,
    /// While it is stopped: what happens to it when it goes on.
    pub(super) stopped: Option<Vec<Input>>,
    /// Whom it knows to be dead.
    pub(super) gone: BTreeSet<ProcessId>,
    /// Its questions that are not answered.
    pub(super) asking: BTreeMap<u64, Asking>,
}

/// A question that waits.
pub(super) struct Asking {
    pub(super) of: ProcessId,
    pub(super) then: Then,
}

/// What a process asks the world to do.
pub(super) enum Out {
    Send { from: MailboxId, to: Address, body: Body },
    Ask { from: MailboxId, to: Address, ask: Ask, within: Duration, then: Then },
    Answer { way: Way, answer: Result<Answer, SendError> },
    Event { way: Way, event: ClusterEvent },
    After { us: u64, timer: Timer },
    MarkGone { process: ProcessId, why: String },
    Launch { start: u64 },
    Kill { start: u64 },
    Exit { how: String, culprit: Culprit },
}

/// How a process acts on the world.
pub(super) struct Cx<'a> {
    pub(super) now_us: u64,
    pub(super) me: ProcessAddr,
    pub(super) random: &'a mut StdRng,
    pub(super) record: &'a mut Record,
    pub(super) out: Vec<Out>,
}

impl Cx<'_> {
    pub(super) fn address(&self, mailbox: MailboxId) -> Address {
        Address { process: self.me, mailbox }
    }

    pub(super) fn send(&mut self, from: MailboxId, to: Address, body: Body) {
        self.out.push(Out::Send { from, to, body });
    }

    pub(super) fn ask(&mut self, from: MailboxId, to: Address, ask: Ask, within: Duration, then: Then) {
        self.out.push(Out::Ask { from, to, ask, within, then });
    }

    /// As `delivery::insist`: told again until it is answered or the receiver is known to be dead.
    pub(super) fn insist(&mut self, from: MailboxId, to: Address, ask: Ask) {
        let from = self.address(from);
        self.insist_after(from, to, ask, Duration::from_millis(100));
    }

    fn insist_after(&mut self, from: Address, to: Address, ask: Ask, pause: Duration) {
        let then = Then::Insisted { from, to, ask: Box::new(ask.clone()), pause };
        self.ask(from.mailbox, to, ask, Duration::from_secs(30), then);
    }

    pub(super) fn answer(&mut self, way: Way, answer: Answer) {
        self.out.push(Out::Answer { way, answer: Ok(answer) });
    }

    pub(super) fn after(&mut self, us: u64, timer: Timer) {
        self.out.push(Out::After { us, timer });
    }

    /// Deals with what is the same in every process. False when it is the host's.
    fn common(&mut self, input: &Input) -> bool {
        match input {
            Input::Timer(Timer::InsistAgain { from, to, ask, pause }) => {
                self.insist_after(*from, *to, (**ask).clone(), *pause);
            }
            Input::Answered { then: Then::Insisted { from, to, ask, pause }, answer } => {
                use crate::delivery::{Fate, fate};
                if answer.as_ref().is_err_and(|error| matches!(fate(error), Fate::Doubtful | Fate::Full)) {
                    let longer = (*pause * 2).min(Duration::from_secs(5));
                    let timer = Timer::InsistAgain { from: *from, to: *to, ask: ask.clone(), pause: longer };
                    self.after(pause.as_micros() as u64, timer);
                }
            }
            _ => return false,
        }
        true
    }
}

impl Host {
    pub(super) fn handle(&mut self, input: Input, cx: &mut Cx<'_>) {
        if cx.common(&input) {
            return;
        }
        match self {
            Self::Head(head) => head.handle(input, cx),
            Self::Node(node) => node.handle(input, cx),
            Self::Worker(worker) => worker.handle(input, cx),
            Self::Driver(driver) => driver.handle(input, cx),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Head(_) => "head",
            Self::Node(_) => "node",
            Self::Worker(_) => "worker",
            Self::Driver(_) => "driver",
        }
    }
}
