//! A link: everything this process keeps about another one it talks to. It outlives connections.
//!
//! What happens to a link is decided by [`phase`], which is pure. Each step is one change under
//! the link's lock: the phase, the lanes and the order of the news change together, so nobody
//! ever sees a half of it. What calls other people's code (failing requests, returning messages,
//! telling watchers) follows when the lock is free. Connections come and go on the endpoint's
//! thread only; the end of a link may come from any.

mod dial;
mod phase;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::address::{Address, MailboxId, ProcessAddr, ProcessId};
use crate::core::Core;
use crate::error::{SendError, Undelivered};
use crate::frame::Frame;
use crate::identity::Role;
use crate::lane::{LANES, Lane};
use crate::peers::{PeerEvent, Peers};
pub(crate) use phase::Made;
use phase::{Event, Phases, Step};

pub(crate) struct Link {
    peer: ProcessAddr,
    lanes: [Lane; LANES],
    phases: Mutex<Phases>,
    /// Nobody has asked for a connection yet; saves senders the lock.
    idle: AtomicBool,
    /// Told of every change of phase.
    changed: Notify,
}

/// What becomes of a connection somebody else made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is the link's connection now.
    Welcome,
    /// Our own counts.
    Duplicate,
    /// The link is dead.
    Dead,
}

impl Link {
    pub(crate) fn new(ours: ProcessId, peer: ProcessAddr) -> Self {
        Self {
            peer,
            lanes: std::array::from_fn(|_| Lane::default()),
            phases: Mutex::new(Phases::new(ours, peer.id)),
            idle: AtomicBool::new(true),
            changed: Notify::new(),
        }
    }

    pub(crate) fn peer(&self) -> ProcessAddr {
        self.peer
    }

    pub(crate) fn lane(&self, index: usize) -> &Lane {
        &self.lanes[index]
    }

    /// Whether `nonce` names the present connection.
    pub(crate) fn is_current(&self, nonce: u64) -> bool {
        self.phases.lock().is_up(nonce)
    }

    /// What the peer's certificate was issued for, while a connection stands.
    pub(crate) fn role(&self) -> Option<Role> {
        self.phases.lock().present()?.connection.role()
    }

    pub(crate) fn drain(&self) {
        self.lanes.iter().for_each(Lane::drain);
    }

    /// One whole step: the phase, the lanes and the order of the news. Returns also the one-way
    /// messages that are to be returned to their senders. `why` is what they will read.
    fn step(&self, event: Event, why: &SendError, peers: &Peers) -> (Step, Vec<Frame>) {
        let process = self.peer.id;
        let interrupted = || {
            peers.announce(PeerEvent::Interrupted { process, why: text_of(why) });
            self.lanes.iter().flat_map(Lane::interrupted).collect()
        };
        let mut phases = self.phases.lock();
        let step = phases.on(event);
        let mut doubtful = Vec::new();
        match &step {
            Step::Stay | Step::Duplicate | Step::Dead => return (step, doubtful),
            Step::Dial { .. } => {}
            Step::Up { nonce, replaced } => {
                if replaced.is_some() {
                    doubtful = interrupted();
                }
                self.lanes.iter().for_each(|lane| lane.raise(*nonce));
                peers.announce(PeerEvent::Connected { process });
            }
            Step::Interrupted { .. } => doubtful = interrupted(),
            Step::Ended { .. } => {
                doubtful = self.lanes.iter().flat_map(|lane| lane.close(why.clone())).collect();
                peers.announce(match why {
                    SendError::Gone { .. } => PeerEvent::Gone { process, why: text_of(why) },
                    _ => PeerEvent::Lost { process, why: text_of(why) },
                });
            }
        }
        self.idle.store(phases.is_idle(), Ordering::Release);
        (step, doubtful)
    }
}

/// What the network said, without the sentence around it.
fn text_of(error: &SendError) -> String {
    match error {
        SendError::Gone { why, .. } | SendError::Unreachable { why, .. } => why.clone(),
        error => error.to_string(),
    }
}

/// The links of an endpoint.
#[derive(Default)]
pub(crate) struct Links(RwLock<HashMap<ProcessId, Arc<Link>>>);

impl Links {
    pub(crate) fn get(&self, peer: ProcessId) -> Option<Arc<Link>> {
        self.0.read().get(&peer).cloned()
    }

    /// The link to `peer`, added unless the peer is known to be dead. That is asked under the
    /// lock, so that who declares it dead afterwards finds the link.
    fn get_or_add(&self, ours: ProcessId, peer: ProcessAddr, peers: &Peers) -> Result<Arc<Link>, SendError> {
        let mut links = self.0.write();
        match peers.gone(peer.id) {
            Some(gone) => Err(gone),
            None => Ok(links.entry(peer.id).or_insert_with(|| Arc::new(Link::new(ours, peer))).clone()),
        }
    }

    fn remove(&self, link: &Arc<Link>) {
        let mut links = self.0.write();
        if links.get(&link.peer.id).is_some_and(|present| Arc::ptr_eq(present, link)) {
            links.remove(&link.peer.id);
        }
    }

    /// Every link, in the order of ids.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = self.0.read().values().cloned().collect();
        links.sort_by_key(|link| link.peer.id);
        links
    }
}

impl Core {
    /// The link to `peer`, made if need be.
    pub(crate) fn link(&self, peer: ProcessAddr) -> Result<Arc<Link>, SendError> {
        if let Some(link) = self.links.get(peer.id) {
            return Ok(link);
        }
        if self.network.get().is_none() {
            let gone = self.peers.gone(peer.id);
            let why = "this endpoint has no network".into();
            return Err(gone.unwrap_or(SendError::Unreachable { process: peer.id, why }));
        }
        self.links.get_or_add(self.process().id, peer, &self.peers)
    }

    /// Something was queued: sees to it that a connection is made.
    pub(crate) fn want_connection(self: &Arc<Self>, link: &Arc<Link>) {
        if link.idle.load(Ordering::Acquire) {
            // Nothing can fail by it, so nobody reads the reason.
            self.link_event(link, Event::Wanted, &SendError::Closed);
        }
    }

    /// A process has connected to us.
    pub(crate) fn link_accepted(
        self: &Arc<Self>,
        link: &Arc<Link>,
        their_previous: Option<u64>,
        made: Made,
    ) -> Admission {
        let why = unreachable(link, "the peer has replaced the connection");
        match self.link_event(link, Event::Accepted { previous: their_previous, made }, &why) {
            Step::Up { .. } => Admission::Welcome,
            Step::Dead => Admission::Dead,
            _ => Admission::Duplicate,
        }
    }

    /// A connection of ours was welcomed; `false` if it is not needed any more.
    pub(crate) fn link_dialled(self: &Arc<Self>, link: &Arc<Link>, made: Made) -> bool {
        let why = unreachable(link, "two connections were made at once");
        matches!(self.link_event(link, Event::Dialled { made }, &why), Step::Up { .. })
    }

    /// The connection `nonce` is lost; if it was the present one, a new one is made.
    pub(crate) fn link_interrupted(self: &Arc<Self>, link: &Arc<Link>, nonce: u64, why: &str) {
        // A closing endpoint tells everyone by itself, and connects no more.
        if !self.is_closed() {
            self.link_event(link, Event::Broke { nonce }, &unreachable(link, why));
        }
    }

    /// A round of dialling has come to nothing.
    fn link_given_up(self: &Arc<Self>, link: &Arc<Link>, round: u64, why: String) {
        tracing::debug!(peer = %link.peer, why, "unreachable");
        self.link_event(link, Event::GaveUp { round }, &unreachable(link, &why));
    }

    /// The process is dead; whether the link was not yet.
    pub(crate) fn link_gone(self: &Arc<Self>, link: &Arc<Link>, gone: &SendError) -> bool {
        matches!(self.link_event(link, Event::Gone, gone), Step::Ended { .. })
    }

    /// Takes a step and carries out what follows from it outside the link's lock.
    fn link_event(self: &Arc<Self>, link: &Arc<Link>, event: Event, why: &SendError) -> Step {
        let (step, doubtful) = link.step(event, why, &self.peers);
        let broken = match &step {
            Step::Stay | Step::Duplicate | Step::Dead => return step,
            Step::Dial { .. } => false,
            Step::Up { replaced, .. } => {
                self.metrics.connections.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(peer = %link.peer, "connected");
                if let Some(old) = replaced {
                    old.connection.close();
                }
                replaced.is_some()
            }
            Step::Interrupted { .. } => true,
            Step::Ended { last } => {
                // Before requests fail: who asks again on the spot gets a new link.
                self.links.remove(link);
                if let Some(last) = last {
                    last.connection.close();
                }
                true
            }
        };
        link.changed.notify_waiters();
        if broken {
            // After the lanes: a request queued between the two steps fails needlessly, which its
            // asker can retry; the other way round it would wait for an answer to a dropped frame.
            self.fail_pending(Some(link.peer.id), why);
            self.bounce(link, doubtful, why);
        }
        // To begin to dial is no news, and it is done by whoever sends: telling there what others
        // have announced would run watchers under the sender's locks.
        if !matches!(step, Step::Dial { .. }) {
            self.peers.tell_announced();
        }
        if let Step::Dial { round } | Step::Interrupted { round } = &step {
            self.spawn_task(dial::dial(self.clone(), link.clone(), *round));
        }
        step
    }

    fn bounce(&self, link: &Link, frames: Vec<Frame>, error: &SendError) {
        for frame in frames.into_iter().filter(|frame| frame.head.sender != 0) {
            let to = Address { process: link.peer, mailbox: MailboxId(frame.head.mailbox) };
            let what = Undelivered { to, kind: frame.head.kind, error: error.clone() };
            self.undelivered(MailboxId(frame.head.sender), what);
        }
    }
}

fn unreachable(link: &Link, why: &str) -> SendError {
    SendError::Unreachable { process: link.peer.id, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::phase::tests::{id, made};
    use super::*;

    /// An event of a random history, with numbers to be taken from what has been seen so far.
    #[derive(Debug, Clone)]
    enum Happens {
        Wanted,
        Accepted { previous: Option<usize>, born: u64 },
        Dialled { born: u64 },
        Broke { which: usize },
        GaveUp { which: usize },
        Gone,
    }

    fn history() -> impl Strategy<Value = Vec<Happens>> {
        let event = prop_oneof![
            2 => Just(Happens::Wanted),
            6 => (prop::option::of(0..3usize), 1..3u64)
                .prop_map(|(previous, born)| Happens::Accepted { previous, born }),
            6 => (1..3u64).prop_map(|born| Happens::Dialled { born }),
            6 => (0..3usize).prop_map(|which| Happens::Broke { which }),
            2 => (0..2usize).prop_map(|which| Happens::GaveUp { which }),
            1 => Just(Happens::Gone),
        ];
        prop::collection::vec(event, 0..40)
    }

    /// The `back`-th last of what was seen.
    fn recent<T: Copy>(seen: &[T], back: usize) -> Option<T> {
        seen.len().checked_sub(back + 1).map(|at| seen[at])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Whatever comes in whatever order: never two living connections, the lanes are open to
        /// the living one and to no other, exactly one round dials while the link dials, and
        /// watchers hear of the end of a connection before they hear of the next.
        #[test]
        fn any_order_of_events(peer in prop_oneof![Just(4u128), Just(6)], history in history()) {
            let link = Link::new(id(5), ProcessAddr { id: id(peer), socket: ProcessAddr::IN_PROCESS });
            let (peers, log) = (Peers::default(), Arc::new(Mutex::new(Vec::new())));
            let heard = log.clone();
            peers.watch(Box::new(move |event| heard.lock().push(event)));
            let why = SendError::Unreachable { process: id(peer), why: "test".into() };
            let gone = SendError::Gone { process: id(peer), why: "test".into() };
            let (mut nonces, mut rounds) = (Vec::new(), Vec::new());
            let mut living = BTreeSet::new();
            for happens in history {
                let (event, why) = match happens {
                    Happens::Wanted => (Event::Wanted, &why),
                    Happens::Accepted { previous, born } => {
                        let previous = previous.and_then(|back| recent(&nonces, back));
                        nonces.push(nonces.len() as u64);
                        (Event::Accepted { previous, made: made(nonces.len() as u64 - 1, born) }, &why)
                    }
                    Happens::Dialled { born } => {
                        nonces.push(nonces.len() as u64);
                        (Event::Dialled { made: made(nonces.len() as u64 - 1, born) }, &why)
                    }
                    Happens::Broke { which } => {
                        let Some(nonce) = recent(&nonces, which) else { continue };
                        living.remove(&nonce);
                        (Event::Broke { nonce }, &why)
                    }
                    Happens::GaveUp { which } => {
                        let Some(round) = recent(&rounds, which) else { continue };
                        (Event::GaveUp { round }, &why)
                    }
                    Happens::Gone => (Event::Gone, &gone),
                };
                let (step, _) = link.step(event, why, &peers);
                peers.tell_announced();
                match step {
                    Step::Up { nonce, replaced } => {
                        if let Some(replaced) = replaced {
                            prop_assert!(living.remove(&replaced.nonce));
                        }
                        living.insert(nonce);
                    }
                    Step::Dial { round } | Step::Interrupted { round } => rounds.push(round),
                    Step::Ended { last } => {
                        if let Some(last) = last {
                            prop_assert!(living.remove(&last.nonce));
                        }
                    }
                    Step::Stay | Step::Duplicate | Step::Dead => {}
                }
                prop_assert!(living.len() <= 1, "{living:?}");
                let open: BTreeSet<u64> =
                    nonces.iter().copied().filter(|nonce| link.lanes.iter().all(|lane| is_open(lane, *nonce))).collect();
                prop_assert_eq!(&open, &living);
                let phases = link.phases.lock();
                prop_assert!(living.iter().all(|nonce| phases.is_up(*nonce)));
                let dialling: Vec<u64> = rounds.iter().copied().filter(|round| phases.dials(*round)).collect();
                prop_assert!(dialling.is_empty() || dialling == [rounds[rounds.len() - 1]]);
                prop_assert_eq!(link.idle.load(Ordering::Relaxed), phases.is_idle());
            }
            let mut up = false;
            let log = log.lock();
            for (at, event) in log.iter().enumerate() {
                match event {
                    PeerEvent::Connected { .. } => prop_assert!(!std::mem::replace(&mut up, true)),
                    PeerEvent::Interrupted { .. } => prop_assert!(std::mem::replace(&mut up, false)),
                    PeerEvent::Lost { .. } => prop_assert!(!up && at == log.len() - 1),
                    PeerEvent::Gone { .. } => prop_assert!(at == log.len() - 1),
                }
            }
        }
    }

    fn is_open(lane: &Lane, nonce: u64) -> bool {
        lane.poll_batch(nonce, &mut Context::from_waker(Waker::noop())).is_pending()
    }
}
