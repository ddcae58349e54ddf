//! The phases of a link. Pure: an event goes in, what follows from it comes out.
//!
//! ```text
//!          wanted                 dialled                    broke
//!   idle ---------> dialing ----------------------> up ----------------> dialing ...
//!     \                                             ^ |                     |
//!      `------------------ accepted ----------------' | gone                | gave up, gone
//!                                                     `------> dead <-------'
//! ```
//! Two processes may dial each other at once. The side with the smaller id refuses the other's
//! connection while its own is being made, so exactly one survives and nothing is sent on the
//! other. A dialler that names the present connection as its dead predecessor replaces it, and
//! so does one that was born after it (a process that came back under its old id).

use std::sync::Arc;

use crate::address::ProcessId;
use crate::network::Connection;

/// The phase of one link and what is remembered across phases.
pub(crate) struct Phases {
    ours: ProcessId,
    peer: ProcessId,
    phase: Phase,
    /// The last connection that was up.
    previous: Option<u64>,
    /// How many rounds of dialling were begun.
    rounds: u64,
}

enum Phase {
    Idle,
    /// The task of this round, and no other, makes attempts.
    Dialing {
        round: u64,
    },
    Up(Made),
    Dead,
}

/// A connection past its hello.
pub(crate) struct Made {
    /// Names it.
    pub(crate) nonce: u64,
    /// Tells the peer from a predecessor under the same id.
    pub(crate) born: u64,
    pub(crate) connection: Arc<dyn Connection>,
}

/// What happens to a link.
pub(crate) enum Event {
    /// Something was queued.
    Wanted,
    /// The peer has made a connection; `previous` names the one it holds for dead.
    Accepted { previous: Option<u64>, made: Made },
    /// A connection of ours was welcomed.
    Dialled { made: Made },
    /// The connection `nonce` broke.
    Broke { nonce: u64 },
    /// The attempts of a round have come to nothing.
    GaveUp { round: u64 },
    /// The process is dead.
    Gone,
}

/// What follows from an event.
pub(crate) enum Step {
    /// Nothing.
    Stay,
    /// The connection that the event brought does not count: there is another one.
    Duplicate,
    /// The connection that the event brought does not count: the link is dead.
    Dead,
    /// A round of dialling begins.
    Dial { round: u64 },
    /// The link has this connection now, in place of `replaced`.
    Up { nonce: u64, replaced: Option<Made> },
    /// The link has lost its connection, and a round of dialling begins.
    Interrupted { round: u64 },
    /// The link is dead now; its connection, if it had one, must be closed.
    Ended { last: Option<Made> },
}

impl Phases {
    /// A link of process `ours` to process `peer`.
    pub(crate) fn new(ours: ProcessId, peer: ProcessId) -> Self {
        Self { ours, peer, phase: Phase::Idle, previous: None, rounds: 0 }
    }

    pub(crate) fn on(&mut self, event: Event) -> Step {
        match event {
            Event::Wanted => match self.phase {
                Phase::Idle => Step::Dial { round: self.dial() },
                _ => Step::Stay,
            },
            Event::Accepted { previous, made } => self.accepted(previous, made),
            Event::Dialled { made } => self.dialled(made),
            Event::Broke { nonce } => {
                if self.is_up(nonce) {
                    Step::Interrupted { round: self.dial() }
                } else {
                    Step::Stay
                }
            }
            Event::GaveUp { round } => {
                if self.dials(round) {
                    self.end()
                } else {
                    Step::Stay
                }
            }
            Event::Gone => self.end(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether `nonce` names the present connection.
    pub(crate) fn is_up(&self, nonce: u64) -> bool {
        matches!(&self.phase, Phase::Up(present) if present.nonce == nonce)
    }

    /// The present connection.
    pub(crate) fn present(&self) -> Option<&Made> {
        match &self.phase {
            Phase::Up(present) => Some(present),
            _ => None,
        }
    }

    /// Whether it is this round's task that makes attempts.
    pub(crate) fn dials(&self, round: u64) -> bool {
        matches!(self.phase, Phase::Dialing { round: present } if present == round)
    }

    /// The last connection that was up.
    pub(crate) fn previous(&self) -> Option<u64> {
        self.previous
    }

    fn accepted(&mut self, their_previous: Option<u64>, made: Made) -> Step {
        match &self.phase {
            Phase::Idle => self.raise(made),
            Phase::Dialing { .. } if self.ours < self.peer => Step::Duplicate,
            Phase::Dialing { .. } => self.raise(made),
            Phase::Up(present) if their_previous == Some(present.nonce) || made.born != present.born => {
                self.raise(made)
            }
            Phase::Up(_) => Step::Duplicate,
            Phase::Dead => Step::Dead,
        }
    }

    fn dialled(&mut self, made: Made) -> Step {
        match &self.phase {
            Phase::Idle | Phase::Dialing { .. } => self.raise(made),
            // Both were welcomed (possible only when one side did not know whom it dialled):
            // the one dialled by the smaller id stays.
            Phase::Up(present) if self.ours < self.peer || made.born != present.born => self.raise(made),
            Phase::Up(_) => Step::Duplicate,
            Phase::Dead => Step::Dead,
        }
    }

    fn raise(&mut self, made: Made) -> Step {
        let nonce = made.nonce;
        self.previous = Some(nonce);
        let replaced = match std::mem::replace(&mut self.phase, Phase::Up(made)) {
            Phase::Up(replaced) => Some(replaced),
            _ => None,
        };
        Step::Up { nonce, replaced }
    }

    fn dial(&mut self) -> u64 {
        self.rounds += 1;
        self.phase = Phase::Dialing { round: self.rounds };
        self.rounds
    }

    fn end(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Dead) {
            Phase::Dead => Step::Stay,
            Phase::Up(last) => Step::Ended { last: Some(last) },
            Phase::Idle | Phase::Dialing { .. } => Step::Ended { last: None },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use uuid::Uuid;

    struct Nothing;

    impl Connection for Nothing {
        fn close(&self) {}
    }

    pub(in crate::link) fn made(nonce: u64, born: u64) -> Made {
        Made { nonce, born, connection: Arc::new(Nothing) }
    }

    pub(in crate::link) fn id(n: u128) -> ProcessId {
        ProcessId(Uuid::from_u128(n))
    }

    /// A link of process 5 to process `peer`, which is being dialled if `dialing`.
    fn link(peer: u128, dialing: bool) -> Phases {
        let mut phases = Phases::new(id(5), id(peer));
        if dialing {
            phases.on(Event::Wanted);
        }
        phases
    }

    fn accept(phases: &mut Phases, previous: Option<u64>, nonce: u64, born: u64) -> Step {
        phases.on(Event::Accepted { previous, made: made(nonce, born) })
    }

    #[test]
    fn of_two_simultaneous_dials_the_smaller_ids_counts() {
        for (dialing, peer, welcome) in [(false, 4, true), (false, 6, true), (true, 4, true), (true, 6, false)] {
            let mut link = link(peer, dialing);
            let step = accept(&mut link, None, 1, 1);
            match welcome {
                true => assert!(matches!(step, Step::Up { nonce: 1, replaced: None })),
                false => assert!(matches!(step, Step::Duplicate)),
            }
            assert_eq!(link.is_up(1), welcome);
        }
    }

    #[test]
    fn a_standing_connection_is_replaced_only_by_who_knows_it_is_dead() {
        let mut link = link(6, false);
        assert!(matches!(accept(&mut link, None, 1, 1), Step::Up { .. }));
        // The peer's other dial, under way when its first was welcomed.
        assert!(matches!(accept(&mut link, None, 2, 1), Step::Duplicate));
        assert!(matches!(accept(&mut link, Some(7), 3, 1), Step::Duplicate));
        assert!(link.is_up(1));
        // It has lost the connection we still hold for alive.
        let step = accept(&mut link, Some(1), 4, 1);
        assert!(matches!(step, Step::Up { nonce: 4, replaced: Some(Made { nonce: 1, .. }) }));
        // It was born again, and knows of no connection at all.
        let step = accept(&mut link, None, 5, 2);
        assert!(matches!(step, Step::Up { nonce: 5, replaced: Some(Made { nonce: 4, .. }) }));
        assert!(matches!(link.on(Event::Gone), Step::Ended { last: Some(Made { nonce: 5, .. }) }));
        assert!(matches!(accept(&mut link, Some(5), 6, 2), Step::Dead));
        assert!(matches!(link.on(Event::Gone), Step::Stay));
    }

    #[test]
    fn our_own_dial_yields_to_a_connection_that_stands() {
        let mut smaller = link(4, true);
        assert!(matches!(accept(&mut smaller, None, 1, 1), Step::Up { .. }));
        assert!(matches!(smaller.on(Event::Dialled { made: made(2, 1) }), Step::Duplicate));
        assert!(smaller.is_up(1));
        let mut larger = link(6, false);
        assert!(matches!(accept(&mut larger, None, 1, 1), Step::Up { .. }));
        assert!(matches!(larger.on(Event::Dialled { made: made(2, 1) }), Step::Up { replaced: Some(_), .. }));
        assert!(larger.is_up(2));
    }

    #[test]
    fn a_round_that_is_over_gives_up_nothing() {
        let mut link = link(6, true);
        assert!(link.dials(1));
        link.on(Event::Dialled { made: made(1, 1) });
        assert!(matches!(link.on(Event::GaveUp { round: 1 }), Step::Stay));
        assert!(matches!(link.on(Event::Broke { nonce: 1 }), Step::Interrupted { round: 2 }));
        assert!(matches!(link.on(Event::GaveUp { round: 1 }), Step::Stay));
        assert!(link.dials(2) && !link.dials(1));
        assert_eq!(link.previous(), Some(1));
        assert!(matches!(link.on(Event::GaveUp { round: 2 }), Step::Ended { last: None }));
    }
}
