//! The network between the processes of the simulation, as `transport` promises it: order is kept
//! per pair and lane; a connection that breaks swallows what is on its way, and both sides hear of
//! it, not at the same moment; what is queued meanwhile travels over the next connection; who cannot
//! be reached for a while is lost, and what was queued for it comes back.

use std::collections::BTreeMap;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId, SendError};
use rand::RngExt;

use super::message::{Answer, Ask, Body, Input, Peer, Then};
use super::process::{Asking, MS, SECOND};
use super::world::{Event, World};

/// How long one round of dialling tries.
const WINDOW_US: u64 = 5 * SECOND;
/// A connection over which nothing came for so long is broken.
const IDLE_US: u64 = 10 * SECOND;

/// What travels over a connection.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    OneWay { from: Address, to: Address, body: Body },
    Ask { id: u64, from: Address, to: Address, ask: Ask },
    Answer { id: u64, lane: usize, answer: Result<Answer, SendError> },
    Event { id: u64, event: crate::messages::ClusterEvent },
}

impl Frame {
    fn lane(&self) -> usize {
        let system = |mailbox| matches!(mailbox, MailboxId::GCS | MailboxId::RAYLET);
        match self {
            Self::OneWay { from, to, .. } | Self::Ask { from, to, .. } => {
                if system(from.mailbox) || system(to.mailbox) {
                    0
                } else {
                    1 + usize::from(to.mailbox == MailboxId::CLIENT)
                }
            }
            Self::Answer { lane, .. } => *lane,
            Self::Event { .. } => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Dialing(u64),
    Up(u64),
}

/// One side of a link.
#[derive(Debug, Default)]
struct End {
    state: State,
    queued: Vec<Frame>,
}

/// What two processes have between them.
#[derive(Debug, Default)]
pub(super) struct Link {
    ends: BTreeMap<ProcessId, End>,
    /// The last connection that broke: what it carried does not arrive.
    swallowed: u64,
    /// Held back while their machines are apart: the sender, the connection, what it carries.
    held: Vec<(ProcessId, u64, Frame)>,
    last_us: BTreeMap<(ProcessId, usize), u64>,
}

fn pair(a: ProcessId, b: ProcessId) -> (ProcessId, ProcessId) {
    (a.min(b), a.max(b))
}

fn unreachable(process: ProcessId) -> SendError {
    SendError::Unreachable { process, why: "the connection broke".to_owned() }
}

impl World {
    /// A process sends.
    pub(super) fn send_frame(&mut self, from: ProcessAddr, to: ProcessAddr, frame: Frame) {
        let Some(process) = self.processes.get(&from.id) else { return };
        if process.gone.contains(&to.id) {
            let error = SendError::Gone { process: to.id, why: "it is known to be dead".to_owned() };
            return self.bounce(from.id, frame, &error);
        }
        if from.id == to.id {
            return self.at(0, Event::Arrive { from, to: to.id, connection: 0, frame });
        }
        let end = self.links.entry(pair(from.id, to.id)).or_default().ends.entry(from.id).or_default();
        match end.state {
            State::Up(connection) => self.transmit(from, to.id, connection, frame),
            State::Dialing(_) => end.queued.push(frame),
            State::Idle => {
                end.queued.push(frame);
                self.dial(from.id, to.id);
            }
        }
    }

    fn transmit(&mut self, from: ProcessAddr, to: ProcessId, connection: u64, frame: Frame) {
        let apart = self.are_apart(from.id, to);
        let delay_us = self.random.random_range(0..=self.delay_us);
        let now_us = self.now_us;
        let Some(link) = self.links.get_mut(&pair(from.id, to)) else { return };
        if link.swallowed == connection {
            self.record.stats.lost += 1;
            return;
        }
        if apart {
            return link.held.push((from.id, connection, frame));
        }
        let last = link.last_us.entry((from.id, frame.lane())).or_default();
        *last = (now_us + delay_us).max(*last);
        let after = *last - now_us;
        self.at(after, Event::Arrive { from, to, connection, frame });
    }

    /// A frame has come through.
    pub(super) fn arrive(&mut self, from: ProcessAddr, to: ProcessId, connection: u64, frame: Frame) {
        if from.id != to {
            let link = self.links.get(&pair(from.id, to));
            let up = link.is_some_and(|link| {
                link.swallowed != connection && link.ends.get(&to).is_some_and(|end| end.state == State::Up(connection))
            });
            if !up {
                self.record.stats.lost += 1;
                return;
            }
        }
        self.record.stats.messages += 1;
        let input = match frame {
            Frame::OneWay { from, body, .. } => Input::Message { from, body },
            Frame::Ask { id, from, to, ask } => {
                let frame = Frame::Ask { id, from, to, ask: ask.clone() };
                let way = super::message::Way { asker: from.process, id, lane: frame.lane() };
                Input::Asked { from: from.process, way, ask }
            }
            Frame::Answer { id, answer, .. } => {
                let asking = self.processes.get_mut(&to).and_then(|process| process.asking.remove(&id));
                let Some(Asking { then, .. }) = asking else { return };
                Input::Answered { then, answer }
            }
            Frame::Event { id, event } => {
                let open = self.processes.get(&to).is_some_and(|process| process.asking.contains_key(&id));
                if !open {
                    return;
                }
                Input::Event(event)
            }
        };
        self.input(to, input);
    }

    /// Gives back to its sender what cannot be delivered.
    fn bounce(&mut self, sender: ProcessId, frame: Frame, error: &SendError) {
        match frame {
            Frame::OneWay { to, .. } => self.input_soon(sender, Input::Bounced { to, error: error.clone() }),
            Frame::Ask { id, .. } => self.fail_asking(sender, id, error.clone()),
            Frame::Answer { .. } | Frame::Event { .. } => {}
        }
    }

    /// A question gets this instead of an answer.
    pub(super) fn fail_asking(&mut self, process: ProcessId, id: u64, error: SendError) {
        let asking = self.processes.get_mut(&process).and_then(|process| process.asking.remove(&id));
        if let Some(Asking { then, .. }) = asking {
            self.input_soon(process, Input::Answered { then, answer: Err(error) });
        }
    }

    fn fail_asking_of(&mut self, process: ProcessId, of: ProcessId, error: &SendError) {
        let Some(host) = self.processes.get(&process) else { return };
        let ids: Vec<u64> = host.asking.iter().filter(|(_, asking)| asking.of == of).map(|(id, _)| *id).collect();
        for id in ids {
            self.fail_asking(process, id, error.clone());
        }
    }

    fn dial(&mut self, at: ProcessId, peer: ProcessId) {
        self.next_round += 1;
        let round = self.next_round;
        let Some(end) = self.links.get_mut(&pair(at, peer)).and_then(|link| link.ends.get_mut(&at)) else { return };
        end.state = State::Dialing(round);
        let soon = self.random.random_range(0..=self.delay_us);
        self.at(soon, Event::Attempt { at, peer, round });
        self.at(WINDOW_US, Event::GiveUp { at, peer, round });
    }

    fn is_dialing(&self, at: ProcessId, peer: ProcessId, round: u64) -> bool {
        let end = self.links.get(&pair(at, peer)).and_then(|link| link.ends.get(&at));
        self.processes.contains_key(&at) && end.is_some_and(|end| end.state == State::Dialing(round))
    }

    /// One try to connect.
    pub(super) fn attempt(&mut self, at: ProcessId, peer: ProcessId, round: u64) {
        if !self.is_dialing(at, peer, round) {
            return;
        }
        let answers = |id| self.processes.get(&id).is_some_and(|process| process.stopped.is_none());
        if !answers(at) || !answers(peer) || self.are_apart(at, peer) {
            let later = self.random.random_range(50 * MS..500 * MS);
            return self.at(later, Event::Attempt { at, peer, round });
        }
        if self.processes[&peer].gone.contains(&at) {
            return self.mark_gone(at, peer, "it holds this process for dead".to_owned());
        }
        self.next_connection += 1;
        let connection = self.next_connection;
        for (side, other) in [(at, peer), (peer, at)] {
            let link = self.links.entry(pair(at, peer)).or_default();
            let end = link.ends.entry(side).or_default();
            let before = std::mem::replace(&mut end.state, State::Up(connection));
            let queued = std::mem::take(&mut end.queued);
            if let State::Up(_) = before {
                self.interrupted(side, other);
            }
            let from = self.processes[&side].addr;
            for frame in queued {
                self.transmit(from, other, connection, frame);
            }
            self.input_soon(side, Input::Peer(Peer::Connected(other)));
        }
    }

    /// A round of dialling has come to nothing.
    pub(super) fn give_up(&mut self, at: ProcessId, peer: ProcessId, round: u64) {
        if !self.is_dialing(at, peer, round) {
            return;
        }
        let error = unreachable(peer);
        self.close_end(at, peer, &error);
        self.input_soon(at, Input::Peer(Peer::Lost(peer)));
    }

    /// This side has nothing of the link any more. Returns its connection.
    fn close_end(&mut self, at: ProcessId, peer: ProcessId, error: &SendError) -> State {
        let end = self.links.get_mut(&pair(at, peer)).and_then(|link| link.ends.remove(&at)).unwrap_or_default();
        self.fail_asking_of(at, peer, error);
        for frame in end.queued {
            self.bounce(at, frame, error);
        }
        end.state
    }

    fn interrupted(&mut self, at: ProcessId, peer: ProcessId) {
        self.fail_asking_of(at, peer, &unreachable(peer));
        self.input_soon(at, Input::Peer(Peer::Interrupted(peer)));
    }

    /// One side sees that a connection is no more.
    pub(super) fn notice(&mut self, at: ProcessId, peer: ProcessId, connection: u64) {
        let end = self.links.get(&pair(at, peer)).and_then(|link| link.ends.get(&at));
        if self.processes.contains_key(&at) && end.is_some_and(|end| end.state == State::Up(connection)) {
            self.interrupted(at, peer);
            self.dial(at, peer);
        }
    }

    /// The connection between two processes breaks: what is on its way is lost.
    pub(super) fn break_connection(&mut self, a: ProcessId, b: ProcessId) {
        let Some(link) = self.links.get_mut(&pair(a, b)) else { return };
        let up: Vec<(ProcessId, u64)> = link
            .ends
            .iter()
            .filter_map(|(id, end)| match end.state {
                State::Up(connection) => Some((*id, connection)),
                _ => None,
            })
            .collect();
        let Some(newest) = up.iter().map(|(_, connection)| *connection).max() else { return };
        link.swallowed = newest;
        self.record.stats.lost += link.held.len() as u64;
        link.held.clear();
        self.record.stats.breaks += 1;
        for (at, connection) in up {
            let peer = if at == a { b } else { a };
            let notice = self.random.random_range(0..=50 * MS);
            self.at(notice, Event::Notice { at, peer, connection });
        }
    }

    /// All links of a process, by the other side.
    pub(super) fn links_of(&self, process: ProcessId) -> Vec<ProcessId> {
        self.links
            .keys()
            .filter(|(a, b)| *a == process || *b == process)
            .map(|(a, b)| if *a == process { *b } else { *a })
            .collect()
    }

    /// A process is no more: its own side is gone at once, the others see it after a while. What it
    /// has sent until then may arrive.
    pub(super) fn forget_links(&mut self, process: ProcessId) {
        for peer in self.links_of(process) {
            let Some(link) = self.links.get_mut(&pair(process, peer)) else { continue };
            link.ends.remove(&process);
            link.held.retain(|(from, ..)| *from == process);
            if let Some(State::Up(connection)) = link.ends.get(&peer).map(|end| end.state) {
                let notice = self.random.random_range(0..=2 * SECOND);
                self.at(notice, Event::Notice { at: peer, peer: process, connection });
            }
        }
    }

    /// A process learns that another one is dead.
    pub(super) fn mark_gone(&mut self, at: ProcessId, dead: ProcessId, why: String) {
        let Some(process) = self.processes.get_mut(&at).filter(|_| at != dead) else { return };
        if !process.gone.insert(dead) {
            return;
        }
        let error = SendError::Gone { process: dead, why: why.clone() };
        if let State::Up(connection) = self.close_end(at, dead, &error) {
            if let Some(link) = self.links.get_mut(&pair(at, dead)) {
                link.swallowed = connection;
            }
            let notice = self.random.random_range(0..=100 * MS);
            self.at(notice, Event::Notice { at: dead, peer: at, connection });
        }
        self.input_soon(at, Input::Peer(Peer::Gone(dead, why)));
    }

    /// Machines are apart, or a process is stopped: its connections break after a silence.
    pub(super) fn watch_silence(&mut self, a: ProcessId, b: ProcessId) {
        if let Some(link) = self.links.get(&pair(a, b)) {
            let newest = link.ends.values().filter_map(|end| match end.state {
                State::Up(connection) => Some(connection),
                _ => None,
            });
            if let Some(connection) = newest.max() {
                let after = self.random.random_range(IDLE_US - 2 * SECOND..=IDLE_US);
                self.at(after, Event::Silent { a, b, connection });
            }
        }
    }

    /// Nothing was heard for the whole time.
    pub(super) fn silent(&mut self, a: ProcessId, b: ProcessId, connection: u64) {
        let stopped = |id| self.processes.get(&id).is_some_and(|process| process.stopped.is_some());
        let same = self.links.get(&pair(a, b)).is_some_and(|link| {
            link.ends.values().any(|end| end.state == State::Up(connection)) && link.swallowed != connection
        });
        if same && (self.are_apart(a, b) || stopped(a) || stopped(b)) {
            self.break_connection(a, b);
        }
    }

    /// Two machines hear each other again: what was held back goes on its way.
    pub(super) fn release_held(&mut self) {
        let links: Vec<(ProcessId, ProcessId)> =
            self.links.iter().filter(|(_, link)| !link.held.is_empty()).map(|(pair, _)| *pair).collect();
        for (a, b) in links {
            if self.are_apart(a, b) {
                continue;
            }
            let held = self.links.get_mut(&(a, b)).map(|link| std::mem::take(&mut link.held)).unwrap_or_default();
            for (from, connection, frame) in held {
                let from = ProcessAddr { id: from, socket: ProcessAddr::IN_PROCESS };
                self.transmit(from, if from.id == a { b } else { a }, connection, frame);
            }
        }
    }

    /// Asks on behalf of a process, which hears the answer or why there is none.
    pub(super) fn ask_frame(&mut self, from: Address, to: Address, ask: Ask, within_us: u64, then: Then) {
        self.next_ask += 1;
        let id = self.next_ask;
        let Some(process) = self.processes.get_mut(&from.process.id) else { return };
        process.asking.insert(id, Asking { of: to.process.id, then });
        let generation = process.generation;
        // A stream is open until it breaks.
        if !matches!(ask, Ask::Subscribe(_)) {
            self.at(within_us, Event::Overdue { process: from.process.id, generation, id });
        }
        self.send_frame(from.process, to.process, Frame::Ask { id, from, to, ask });
    }
}
