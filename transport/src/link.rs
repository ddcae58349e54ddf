//! A link: everything this process keeps about another one it talks to. It outlives connections.
//!
//! ```text
//!          send                 welcome                    lost
//!   idle ------> dialing ----------------------> up ----------------> dialing ...
//!     \                                          ^                       |
//!      `---------- accepted a connection --------'      window used up,  |
//!                                                       or known dead    v
//!                                                                       dead
//! ```
//! Two processes may dial each other at once. The side with the smaller id refuses the other's
//! connection while its own is being made, so exactly one survives and nothing is sent on the
//! other. A dialler that names the present connection as its dead predecessor replaces it, and
//! so does one that was born after it (a process that came back under its old id).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::address::{Address, MailboxId, ProcessAddr, ProcessId};
use crate::backoff::Backoff;
use crate::config::Limits;
use crate::core::Core;
use crate::error::{SendError, Undelivered};
use crate::frame::Frame;
use crate::lane::{LANES, Lane};
use crate::network::{Attempt, Connection};
use crate::peers::PeerEvent;

pub(crate) struct Link {
    peer: ProcessAddr,
    lanes: [Lane; LANES],
    state: Mutex<State>,
    /// Nobody has asked for a connection yet; saves senders the lock.
    idle: AtomicBool,
    /// Told of every change of phase.
    changed: Notify,
}

struct State {
    phase: Phase,
    /// The last connection that was up.
    previous: Option<u64>,
}

enum Phase {
    Idle,
    Dialing,
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
    pub(crate) fn new(peer: ProcessAddr) -> Self {
        Self {
            peer,
            lanes: std::array::from_fn(|_| Lane::default()),
            state: Mutex::new(State { phase: Phase::Idle, previous: None }),
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
        matches!(&self.state.lock().phase, Phase::Up(present) if present.nonce == nonce)
    }

    pub(crate) fn drain(&self) {
        self.lanes.iter().for_each(Lane::drain);
    }

    fn connection(&self) -> Option<Arc<dyn Connection>> {
        match &self.state.lock().phase {
            Phase::Up(present) => Some(present.connection.clone()),
            _ => None,
        }
    }

    /// Decides about a connection the peer has made, and takes it over if it is welcome.
    /// Returns also the connection it replaces.
    fn admit(
        &self,
        ours: ProcessId,
        their_previous: Option<u64>,
        made: Made,
    ) -> (Admission, Option<Arc<dyn Connection>>) {
        let mut state = self.state.lock();
        let replaced = match &state.phase {
            Phase::Idle => None,
            Phase::Dialing if ours < self.peer.id => return (Admission::Duplicate, None),
            Phase::Dialing => None,
            Phase::Up(present) if their_previous == Some(present.nonce) || made.born != present.born => {
                Some(present.connection.clone())
            }
            Phase::Up(_) => return (Admission::Duplicate, None),
            Phase::Dead => return (Admission::Dead, None),
        };
        state.raise(made);
        self.idle.store(false, Ordering::Release);
        (Admission::Welcome, replaced)
    }

    /// Takes over a connection we made and the peer has welcomed. `Err` if it is not wanted any
    /// more; else the connection it replaces.
    fn settle(&self, ours: ProcessId, made: Made) -> Result<Option<Arc<dyn Connection>>, ()> {
        let mut state = self.state.lock();
        let replaced = match &state.phase {
            Phase::Idle | Phase::Dialing => None,
            // Both were welcomed (possible only when one side did not know whom it dialled):
            // the one dialled by the smaller id stays.
            Phase::Up(present) if ours < self.peer.id || made.born != present.born => Some(present.connection.clone()),
            Phase::Up(_) | Phase::Dead => return Err(()),
        };
        state.raise(made);
        self.idle.store(false, Ordering::Release);
        Ok(replaced)
    }
}

impl State {
    fn raise(&mut self, made: Made) {
        self.previous = Some(made.nonce);
        self.phase = Phase::Up(made);
    }
}

/// The links of an endpoint.
#[derive(Default)]
pub(crate) struct Links(RwLock<HashMap<ProcessId, Arc<Link>>>);

impl Links {
    pub(crate) fn get(&self, peer: ProcessId) -> Option<Arc<Link>> {
        self.0.read().get(&peer).cloned()
    }

    fn get_or_add(&self, peer: ProcessAddr) -> Arc<Link> {
        if let Some(link) = self.get(peer.id) {
            return link;
        }
        self.0.write().entry(peer.id).or_insert_with(|| Arc::new(Link::new(peer))).clone()
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
        if let Some(gone) = self.peers.gone(peer.id) {
            return Err(gone);
        }
        if self.network.get().is_none() {
            return Err(SendError::Unreachable { process: peer.id, why: "this endpoint has no network".into() });
        }
        Ok(self.links.get_or_add(peer))
    }

    /// Something was queued: sees to it that a connection is made.
    pub(crate) fn want_connection(self: &Arc<Self>, link: &Arc<Link>) {
        if !link.idle.load(Ordering::Acquire) {
            return;
        }
        {
            let mut state = link.state.lock();
            if !matches!(state.phase, Phase::Idle) {
                return;
            }
            state.phase = Phase::Dialing;
            link.idle.store(false, Ordering::Release);
        }
        self.spawn_task(dial(self.clone(), link.clone()));
    }

    /// A process has connected to us.
    pub(crate) fn link_accepted(
        self: &Arc<Self>,
        link: &Arc<Link>,
        their_previous: Option<u64>,
        made: Made,
    ) -> Admission {
        let (admission, replaced) = link.admit(self.process().id, their_previous, made);
        if let Some(old) = replaced {
            old.close();
            self.link_broken(link, "the peer has replaced the connection");
        }
        if admission == Admission::Welcome {
            self.link_is_up(link);
        }
        admission
    }

    /// A connection of ours was welcomed; `false` if it is not needed any more.
    pub(crate) fn link_dialled(self: &Arc<Self>, link: &Arc<Link>, made: Made) -> bool {
        match link.settle(self.process().id, made) {
            Err(()) => false,
            Ok(replaced) => {
                if let Some(old) = replaced {
                    old.close();
                    self.link_broken(link, "two connections were made at once");
                }
                self.link_is_up(link);
                true
            }
        }
    }

    fn link_is_up(&self, link: &Link) {
        self.metrics.connections.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(peer = %link.peer, "connected");
        link.changed.notify_waiters();
        self.peers.tell(PeerEvent::Connected { process: link.peer.id });
    }

    /// The connection `nonce` is lost; if it was the present one, a new one is made.
    pub(crate) fn link_interrupted(self: &Arc<Self>, link: &Arc<Link>, nonce: u64, why: &str) {
        {
            let mut state = link.state.lock();
            match &state.phase {
                Phase::Up(present) if present.nonce == nonce => {}
                _ => return,
            }
            state.phase = Phase::Dialing;
        }
        if self.is_closed() {
            return;
        }
        self.link_broken(link, why);
        self.peers.tell(PeerEvent::Interrupted { process: link.peer.id, why: why.to_owned() });
        self.spawn_task(dial(self.clone(), link.clone()));
    }

    /// Fails what was on its way over a connection that is no more.
    fn link_broken(&self, link: &Link, why: &str) {
        let error = SendError::Unreachable { process: link.peer.id, why: why.to_owned() };
        // The lanes first: a request queued between the two steps fails needlessly, which its
        // asker can retry; the other way round it would wait for an answer to a dropped frame.
        let doubtful: Vec<Frame> = link.lanes.iter().flat_map(Lane::interrupted).collect();
        self.fail_pending(Some(link.peer.id), &error);
        self.bounce(link, doubtful, &error);
    }

    /// The process could not be reached, or is dead: everything for it fails with `error`.
    pub(crate) fn link_ended(self: &Arc<Self>, link: &Arc<Link>, error: &SendError) {
        let connection = link.connection();
        link.state.lock().phase = Phase::Dead;
        self.links.remove(link);
        if let Some(connection) = connection {
            connection.close();
        }
        let left: Vec<Frame> = link.lanes.iter().flat_map(|lane| lane.close(error.clone())).collect();
        link.changed.notify_waiters();
        self.fail_pending(Some(link.peer.id), error);
        self.bounce(link, left, error);
    }

    fn bounce(&self, link: &Link, frames: Vec<Frame>, error: &SendError) {
        for frame in frames.into_iter().filter(|frame| frame.head.sender != 0) {
            let to = Address { process: link.peer, mailbox: MailboxId(frame.head.mailbox) };
            let what = Undelivered { to, kind: frame.head.kind, error: error.clone() };
            self.undelivered(MailboxId(frame.head.sender), what);
        }
    }
}

impl Core {
    /// Finds out which process listens at `socket`.
    pub(crate) async fn discover(
        self: &Arc<Self>,
        socket: SocketAddr,
        deadline: Duration,
    ) -> Result<ProcessAddr, SendError> {
        let Some(network) = self.network.get().cloned() else {
            return Err(SendError::Refused { why: "this endpoint has no network".into() });
        };
        let limits = Limits { reconnect_window: deadline, ..self.limits };
        let seed = self.seed_of(u64::from(socket.port()));
        let core = self.clone();
        let (tell, told) = oneshot::channel();
        // On the endpoint's runtime, whatever the caller's is.
        self.spawn_task(async move {
            let mut backoff = Backoff::new(&limits, seed);
            let found = loop {
                let begun = Instant::now();
                let attempt = network.clone().discover(core.clone(), socket);
                let why = match tokio::time::timeout(deadline, attempt).await {
                    Ok(Ok(peer)) => break Ok(peer),
                    Ok(Err(Attempt::Refused(why) | Attempt::Gone(why))) => {
                        break Err(SendError::Refused { why });
                    }
                    Ok(Err(Attempt::Failed(why))) => why,
                    Ok(Err(Attempt::Up | Attempt::Duplicate)) | Err(_) => "no answer".to_owned(),
                };
                match backoff.next(begun.elapsed()) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        tracing::debug!(%socket, why, "nobody found");
                        break Err(SendError::TimedOut { after: deadline });
                    }
                }
            };
            let _ = tell.send(found);
        });
        told.await.unwrap_or(Err(SendError::Closed))
    }
}

/// Connects a link, again and again within its window.
async fn dial(core: Arc<Core>, link: Arc<Link>) {
    let peer = link.peer;
    let Some(network) = core.network.get().cloned() else { return };
    let mut backoff = Backoff::new(&core.limits, core.seed_of(peer.id.0.as_u128() as u64));
    loop {
        let changed = link.changed.notified();
        let previous = {
            let state = link.state.lock();
            if !matches!(state.phase, Phase::Dialing) || core.is_closed() {
                return;
            }
            state.previous
        };
        let begun = Instant::now();
        let attempt = if peer.is_dialable() {
            network.clone().attempt(core.clone(), link.clone(), previous).await
        } else {
            Attempt::Failed("it does not listen".into())
        };
        let why = match attempt {
            Attempt::Up => return,
            Attempt::Gone(why) => return core.mark_gone(peer.id, why),
            Attempt::Refused(why) => return lose(&core, &link, why),
            Attempt::Duplicate => "it is connecting to us, but has not arrived".to_owned(),
            Attempt::Failed(why) => why,
        };
        match backoff.next(begun.elapsed()) {
            None => return lose(&core, &link, why),
            Some(pause) => {
                let _ = tokio::time::timeout(pause, changed).await;
            }
        }
    }
}

fn lose(core: &Arc<Core>, link: &Arc<Link>, why: String) {
    if !matches!(link.state.lock().phase, Phase::Dialing) {
        return;
    }
    tracing::debug!(peer = %link.peer, why, "unreachable");
    let process = link.peer.id;
    core.link_ended(link, &SendError::Unreachable { process, why: why.clone() });
    core.peers.tell(PeerEvent::Lost { process, why });
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    struct Nothing;

    impl Connection for Nothing {
        fn close(&self) {}
    }

    fn made(nonce: u64, born: u64) -> Made {
        Made { nonce, born, connection: Arc::new(Nothing) }
    }

    fn id(n: u128) -> ProcessId {
        ProcessId(Uuid::from_u128(n))
    }

    /// A link of process 5 to process `peer`, which is being dialled if `dialing`.
    fn link(peer: u128, dialing: bool) -> Link {
        let link = Link::new(ProcessAddr { id: id(peer), socket: ProcessAddr::IN_PROCESS });
        if dialing {
            link.state.lock().phase = Phase::Dialing;
        }
        link
    }

    #[test]
    fn of_two_simultaneous_dials_the_smaller_ids_counts() {
        for (dialing, peer, expected) in [
            (false, 4, Admission::Welcome),
            (false, 6, Admission::Welcome),
            (true, 4, Admission::Welcome),
            (true, 6, Admission::Duplicate),
        ] {
            let link = link(peer, dialing);
            let (admission, replaced) = link.admit(id(5), None, made(1, 1));
            assert_eq!(admission, expected, "dialing {dialing}, peer {peer}");
            assert!(replaced.is_none());
            assert_eq!(link.is_current(1), expected == Admission::Welcome);
        }
    }

    #[test]
    fn a_standing_connection_is_replaced_only_by_who_knows_it_is_dead() {
        let link = link(6, false);
        assert_eq!(link.admit(id(5), None, made(1, 1)).0, Admission::Welcome);
        // The peer's other dial, under way when its first was welcomed.
        assert_eq!(link.admit(id(5), None, made(2, 1)).0, Admission::Duplicate);
        assert_eq!(link.admit(id(5), Some(7), made(3, 1)).0, Admission::Duplicate);
        assert!(link.is_current(1));
        // It has lost the connection we still hold for alive.
        let (admission, replaced) = link.admit(id(5), Some(1), made(4, 1));
        assert!(admission == Admission::Welcome && replaced.is_some() && link.is_current(4));
        // It was born again, and knows of no connection at all.
        let (admission, replaced) = link.admit(id(5), None, made(5, 2));
        assert!(admission == Admission::Welcome && replaced.is_some() && link.is_current(5));
        link.state.lock().phase = Phase::Dead;
        assert_eq!(link.admit(id(5), Some(5), made(6, 2)).0, Admission::Dead);
    }

    #[test]
    fn our_own_dial_yields_to_a_connection_that_stands() {
        let smaller = link(4, true);
        assert_eq!(smaller.admit(id(5), None, made(1, 1)).0, Admission::Welcome);
        assert!(smaller.settle(id(5), made(2, 1)).is_err());
        assert!(smaller.is_current(1));
        let larger = link(6, false);
        assert_eq!(larger.admit(id(5), None, made(1, 1)).0, Admission::Welcome);
        assert!(larger.settle(id(5), made(2, 1)).is_ok_and(|replaced| replaced.is_some()));
        assert!(larger.is_current(2));
    }
}
