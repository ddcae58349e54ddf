//! A member of a group: its mailbox, and what it knows of the others.
//!
//! The mailbox takes links, pieces that come in messages, and news of members that have ended. It
//! never touches data and never blocks; the thread that carries out the group's calls looks here
//! when it has to wait, and is rung when there is something to see.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use mobula_transport::{
    Address, Endpoint, Envelope, Mailbox, MailboxId, Message, PeerEvent, ProcessId, Replier, SendError,
};
use parking_lot::Mutex;

use super::bell::Bell;
use super::error::GroupError;
use super::gathering::Gathering;
use super::link::{Inbox, Incoming, Waited};
use super::messages::{Formed, IsForming, JoinGroup, Lane, MemberEnded, OpenLink, SendPiece, Withdraw};
use super::segment::Segment;
use crate::store::tell;

/// How often the others are told that a member has ended.
const TELL_ATTEMPTS: u32 = 5;

/// The groups to which this process's members belong, so that they hear of dead processes.
#[derive(Default)]
pub(crate) struct Collectives(Mutex<BTreeMap<MailboxId, Weak<Member>>>);

impl Collectives {
    pub(super) fn add(&self, member: &Arc<Member>) {
        self.0.lock().insert(member.mailbox, Arc::downgrade(member));
    }

    pub(super) fn remove(&self, member: &Member) {
        self.0.lock().remove(&member.mailbox);
    }

    /// What is known about another process has changed.
    pub(crate) fn peer_event(&self, event: &PeerEvent) {
        if let PeerEvent::Gone { process, why } = event {
            for member in self.members() {
                member.process_gone(*process, why);
            }
        }
    }

    /// The session ends.
    pub(crate) fn close(&self) {
        for member in self.members() {
            member.session_ends();
        }
    }

    fn members(&self) -> Vec<Arc<Member>> {
        self.0.lock().values().filter_map(Weak::upgrade).collect()
    }
}

/// What a thread cannot do without.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    /// Everyone, in the call of this number.
    Everyone(u64),
    /// Another piece than the first `taken` ones that this rank sends directly.
    PieceFrom { rank: u32, taken: u64 },
    /// That this rank reads what is sent to it directly.
    ReaderAt(u32),
}

/// What a member that has left was good for.
#[derive(Clone, Copy, Debug)]
struct Left {
    calls: u64,
    direct: u64,
}

/// A member, as its mailbox and its thread share it.
pub(crate) struct Member {
    pub(super) endpoint: Endpoint,
    pub(super) mailbox: MailboxId,
    pub(super) rank: u32,
    /// Rung when somebody comes to a group that is forming, or a link is there.
    pub(super) bell: Bell,
    /// There is something that a thread that waits must see.
    noticed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By rank, once the group has formed.
    members: Vec<Address>,
    /// At rank 0, while it forms.
    forming: Option<Forming>,
    /// Links that were announced.
    known: BTreeSet<(Lane, u32)>,
    /// Links that are there and that the thread has not taken yet.
    open: BTreeMap<(Lane, u32), Incoming>,
    inboxes: BTreeMap<(Lane, u32), Arc<Inbox>>,
    waited: Vec<Waited>,
    left: BTreeMap<u32, Left>,
    failure: Option<GroupError>,
}

struct Forming {
    gathering: Gathering,
    waiting: Waiting,
}

/// Members who wait for a group to form, by rank.
pub(super) type Waiting = BTreeMap<u32, Replier<Result<Formed, GroupError>>>;

impl Member {
    /// A member at a mailbox of its own.
    pub(super) fn start(endpoint: &Endpoint, rank: u32) -> Arc<Self> {
        let member = Arc::new(Self {
            endpoint: endpoint.clone(),
            mailbox: endpoint.fresh_mailbox(),
            rank,
            bell: Bell::default(),
            noticed: AtomicBool::new(false),
            state: Mutex::default(),
        });
        endpoint.attach(member.mailbox, Arc::new(MemberMailbox(member.clone())));
        member
    }

    pub(super) fn address(&self) -> Address {
        self.endpoint.address_of(self.mailbox)
    }

    // ---- a group that forms --------------------------------------------------------------------

    /// Rank 0 begins to gather the others.
    pub(super) fn gather(&self, gathering: Gathering) {
        self.state.lock().forming = Some(Forming { gathering, waiting: Waiting::new() });
    }

    /// Whether all have come.
    pub(super) fn is_complete(&self) -> bool {
        self.state.lock().forming.as_ref().is_some_and(|forming| forming.gathering.members().is_some())
    }

    /// Ends the gathering: all members, or who is missing. Whoever comes now is refused; those who
    /// wait are to be answered.
    pub(super) fn end_gathering(&self) -> (Result<Vec<Address>, Vec<u32>>, Waiting) {
        match self.state.lock().forming.take() {
            Some(Forming { gathering, waiting }) => (gathering.members().ok_or(gathering.missing()), waiting),
            None => (Err(Vec::new()), Waiting::new()),
        }
    }

    /// The group has formed.
    pub(super) fn formed(&self, members: Vec<Address>) {
        self.state.lock().members = members;
    }

    fn join(&self, join: JoinGroup, replier: Replier<Result<Formed, GroupError>>) {
        {
            let mut state = self.state.lock();
            let Some(forming) = &mut state.forming else {
                drop(state);
                // As if it had left: a later group of the name has another mailbox.
                return replier.fail(SendError::NoSuchActor);
            };
            if let Err(error) = forming.gathering.join(join.rank, join.world, join.address) {
                drop(state);
                return replier.reply(Err(error));
            }
            // A first question of the same member has lost its asker.
            forming.waiting.insert(join.rank, replier);
        }
        self.bell.ring();
    }

    fn withdraw(&self, withdraw: &Withdraw) -> Vec<u32> {
        let mut state = self.state.lock();
        let Some(forming) = &mut state.forming else { return Vec::new() };
        let missing = forming.gathering.missing();
        forming.gathering.withdraw(withdraw.rank, withdraw.address);
        missing
    }

    // ---- links ---------------------------------------------------------------------------------

    pub(super) fn member(&self, rank: u32) -> Option<Address> {
        self.state.lock().members.get(rank as usize).copied()
    }

    /// The link from `rank`, once it is there.
    pub(super) fn take_link(&self, lane: Lane, rank: u32) -> Option<Incoming> {
        self.state.lock().open.remove(&(lane, rank))
    }

    pub(super) fn has_link(&self, lane: Lane, rank: u32) -> bool {
        self.state.lock().open.contains_key(&(lane, rank))
    }

    /// The thread may wait on this from now on.
    pub(super) fn will_wait_on(&self, waited: Waited) {
        self.state.lock().waited.push(waited);
    }

    fn open_link(self: &Arc<Self>, open: OpenLink, replier: Replier<bool>) {
        let link = (open.lane, open.rank);
        let Some(file) = open.file else {
            {
                let mut state = self.state.lock();
                if state.known.insert(link) {
                    let inbox = Arc::<Inbox>::default();
                    state.waited.push(Waited::Inbox(inbox.clone()));
                    state.inboxes.insert(link, inbox.clone());
                    state.open.insert(link, Incoming::messages(inbox));
                }
            }
            self.bell.ring();
            return replier.reply(true);
        };
        if self.state.lock().known.contains(&link) {
            return replier.reply(true);
        }
        let member = self.clone();
        // Opening and mapping a file may block, which no thread that reads a socket does.
        self.endpoint.runtime().spawn_blocking(move || match Segment::open(Path::new(&file)) {
            Ok(segment) => {
                {
                    let segment = Arc::new(segment);
                    let mut state = member.state.lock();
                    if state.known.insert(link) {
                        state.waited.push(Waited::Segment(segment.clone()));
                        state.open.insert(link, Incoming::shared(segment));
                    }
                }
                member.bell.ring();
                replier.reply(true);
            }
            Err(error) => {
                tracing::debug!(%file, %error, "the memory of another member's link is not to be seen here");
                replier.reply(false);
            }
        });
    }

    fn piece(&self, envelope: Envelope) {
        let Ok((message, mut request)) = envelope.open::<SendPiece>() else { return };
        let inbox = self.state.lock().inboxes.get(&(message.lane, message.rank)).cloned();
        match (inbox, request.take_payload().pop()) {
            (Some(inbox), Some(piece)) => inbox.put(message.number, piece, request.into_replier()),
            _ => request.fail(SendError::Refused { why: "a piece without a link, or without bytes".to_owned() }),
        }
    }

    // ---- the end -------------------------------------------------------------------------------

    /// Whether a thread that waits should ask for [`trouble`](Self::trouble).
    pub(super) fn noticed(&self) -> bool {
        self.noticed.load(Ordering::Acquire)
    }

    /// Why what the thread needs will never come, if that is known.
    pub(super) fn trouble(&self, need: Need) -> Option<GroupError> {
        let state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Some(failure.clone());
        }
        let gone = match need {
            Need::Everyone(call) => state.left.iter().find(|(_, left)| left.calls < call).map(|(rank, _)| *rank),
            Need::PieceFrom { rank, taken } => state.left.get(&rank).filter(|left| left.direct <= taken).map(|_| rank),
            Need::ReaderAt(rank) => state.left.get(&rank).map(|_| rank),
        };
        gone.map(|rank| GroupError::MemberLeft { rank })
    }

    /// The group is at its end; the first reason stays.
    pub(super) fn fail(&self, error: GroupError, tell_others: bool) {
        {
            let mut state = self.state.lock();
            if state.failure.is_some() {
                return;
            }
            state.failure = Some(error.clone());
        }
        tracing::debug!(rank = self.rank, %error, "a group has failed");
        self.look_up();
        if tell_others {
            self.tell_others(|_| MemberEnded { rank: self.rank, calls: 0, direct: 0, failure: Some(error.clone()) });
        }
    }

    /// Leaves: nothing comes from here any more.
    pub(super) fn leave(&self, calls: u64, direct: impl Fn(u32) -> u64) {
        self.endpoint.detach(self.mailbox);
        let failed = self.state.lock().failure.is_some();
        // Those who wait for a group that is forming.
        drop(self.end_gathering());
        if !failed {
            self.tell_others(|to| MemberEnded { rank: self.rank, calls, direct: direct(to), failure: None });
        }
    }

    fn session_ends(&self) {
        self.fail(crate::client::no_session().into(), false);
        let left = GroupError::MemberLeft { rank: self.rank };
        self.tell_others(|_| MemberEnded { rank: self.rank, calls: 0, direct: 0, failure: Some(left.clone()) });
    }

    /// A message to this rank will never arrive.
    pub(super) fn undelivered(&self, rank: u32, error: &SendError) {
        // One that has said that it leaves has read all that it needed.
        let has_left = self.state.lock().left.contains_key(&rank);
        if !(has_left && matches!(error, SendError::NoSuchActor | SendError::Gone { .. })) {
            self.fail(GroupError::of_send(rank, error), true);
        }
    }

    fn process_gone(&self, process: ProcessId, why: &str) {
        let (died, tell_others) = {
            let mut state = self.state.lock();
            if let Some(forming) = &mut state.forming {
                for rank in forming.gathering.gone(process) {
                    forming.waiting.remove(&rank);
                }
            }
            let world = state.members.len() as u32;
            let died = |rank: &u32| {
                let address = state.members.get(*rank as usize);
                address.is_some_and(|address| address.process.id == process) && !state.left.contains_key(rank)
            };
            // All hear it from the cluster, so it is enough if the neighbours tell.
            let near = |rank: u32| (rank + 1) % world == self.rank || (self.rank + 1) % world == rank;
            let died: Vec<u32> = (0..world).filter(died).collect();
            let tell_others = died.iter().any(|rank| near(*rank));
            (died, tell_others)
        };
        if let Some(rank) = died.first() {
            self.fail(GroupError::MemberDied { rank: *rank, why: why.to_owned() }, tell_others);
        }
    }

    fn ended(&self, ended: MemberEnded) {
        match ended.failure {
            Some(failure) => self.fail(failure, false),
            None => {
                let left = Left { calls: ended.calls, direct: ended.direct };
                self.state.lock().left.insert(ended.rank, left);
                self.look_up();
            }
        }
    }

    fn look_up(&self) {
        self.noticed.store(true, Ordering::Release);
        self.bell.ring();
        for waited in &self.state.lock().waited {
            waited.ring();
        }
    }

    fn tell_others(&self, message: impl Fn(u32) -> MemberEnded) {
        let members = self.state.lock().members.clone();
        for (rank, address) in (0..).zip(members) {
            if rank != self.rank {
                tell(&self.endpoint, address, message(rank), TELL_ATTEMPTS);
            }
        }
    }
}

struct MemberMailbox(Arc<Member>);

impl Mailbox for MemberMailbox {
    fn deliver(&self, envelope: Envelope) {
        let member = &self.0;
        let kind = envelope.kind();
        if kind == SendPiece::KIND {
            member.piece(envelope);
        } else if kind == OpenLink::KIND {
            if let Ok((open, request)) = envelope.open::<OpenLink>() {
                member.open_link(open, request.into_replier());
            }
        } else if kind == MemberEnded::KIND {
            if let Ok((ended, request)) = envelope.open::<MemberEnded>() {
                member.ended(ended);
                request.reply(());
            }
        } else if kind == JoinGroup::KIND {
            if let Ok((join, request)) = envelope.open::<JoinGroup>() {
                member.join(join, request.into_replier());
            }
        } else if kind == Withdraw::KIND {
            if let Ok((withdraw, request)) = envelope.open::<Withdraw>() {
                request.reply(member.withdraw(&withdraw));
            }
        } else if kind == IsForming::KIND {
            if let Ok((IsForming, request)) = envelope.open::<IsForming>() {
                request.reply(member.state.lock().forming.is_some());
            }
        } else {
            envelope.reject(SendError::UnknownMessage { kind, name: String::new() });
        }
    }

    fn close(&self) {
        self.0.fail(crate::client::no_session().into(), false);
    }
}
