//! How a group forms.
//!
//! Rank 0 writes its address under the group's name into the cluster's key-value table and gathers
//! the others; these look it up there and come. When all have come, rank 0 removes the entry and
//! tells everyone who the members are. A group is known by the mailboxes of its members, which are
//! never used twice: a later group of the same name has nothing to do with what is left of an
//! earlier one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_transport::{Address, Message, Payload, SendError};

use super::error::GroupError;
use super::gathering::Gathering;
use super::group::GroupConfig;
use super::link::{Outbox, Outgoing, Waited};
use super::member::{Member, Need};
use super::messages::{Formed, IsForming, JoinGroup, Lane, OpenLink, Withdraw};
use super::segment::Segment;
use crate::client::Client;
use crate::error::Error;
use crate::messages::{KvDelete, KvGet, KvPut};
use crate::worker::lend_cpu;

/// Between two looks at the key-value table: at first, and at most.
const LOOK_AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How long one question may take before it is asked again.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// How long rank 0 may take to say who is missing.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Forms a group in the name of one member.
pub(super) struct Joining<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a GroupConfig,
    pub(super) member: &'a Arc<Member>,
    pub(super) deadline: Instant,
}

impl Joining<'_> {
    /// Blocks until all have come.
    pub(super) fn form(&self) -> Result<Formed, GroupError> {
        if self.config.rank == 0 { self.lead() } else { self.follow() }
    }

    fn lead(&self) -> Result<Formed, GroupError> {
        let GroupConfig { name, world_size, .. } = self.config;
        self.member.gather(Gathering::new(name.clone(), *world_size, self.member.address()));
        let announced = if *world_size > 1 { self.announce() } else { Ok(()) };
        if announced.is_ok() {
            self.member.bell.wait(|| self.member.is_complete() || self.member.noticed(), self.deadline);
        }
        let trouble = self.member.trouble(Need::Everyone(0));
        let (members, waiting) = self.member.end_gathering();
        if announced.is_ok() && *world_size > 1 {
            // Before anyone hears that the group has formed, and may form the next one.
            let delete = KvDelete { namespace: self.namespace(), key: name.clone() };
            if let Err(error) = self.ask_gcs(delete, Instant::now() + ASK_DEADLINE) {
                tracing::warn!(group = %name, %error, "the entry of a group stays in the key-value table");
            }
        }
        let formed = announced.and_then(|()| match (trouble, members) {
            (Some(trouble), _) => Err(trouble),
            (None, Ok(members)) => Ok(Formed { members, piece_bytes: self.config.piece_bytes }),
            (None, Err(ranks)) => Err(self.missing(ranks)),
        });
        for replier in waiting.into_values() {
            replier.reply(formed.clone());
        }
        formed
    }

    /// Writes this member's address under the group's name.
    fn announce(&self) -> Result<(), GroupError> {
        let GroupConfig { name, .. } = self.config;
        let value = rmp_serde::to_vec(&self.member.address())
            .map_err(|error| GroupError::System { what: "writing an address".to_owned(), why: error.to_string() })?;
        let mut put = KvPut { namespace: self.namespace(), key: name.clone(), value, overwrite: false };
        let mut pause = LOOK_AGAIN_AFTER.0;
        loop {
            if self.ask_gcs(put.clone(), self.deadline)?? {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                let what = format!("another rank 0 gathers a group {name:?}; give each group its own name");
                return Err(GroupError::Mismatch { what });
            }
            // Somebody gathers under this name, or was killed while it did.
            let incumbent = self.look_up()?;
            put.overwrite = incumbent.is_some_and(|other| !self.ask(other, IsForming).unwrap_or(false));
            if !put.overwrite {
                self.pause(&mut pause);
            }
        }
    }

    fn follow(&self) -> Result<Formed, GroupError> {
        let GroupConfig { rank, world_size, .. } = *self.config;
        let address = self.member.address();
        let mut leader = None;
        let mut pause = LOOK_AGAIN_AFTER.0;
        while Instant::now() < self.deadline {
            if let Some(found) = self.look_up()? {
                leader = Some(found);
                let join = JoinGroup { rank, world: world_size, address };
                // Rank 0 knows better who is missing: it should be the first to give up.
                let within = self.deadline.saturating_duration_since(Instant::now()) + LAST_WORDS;
                match self.ask_within(found, join, within) {
                    Ok(formed) => return formed,
                    // It is dead, has formed its group, or the network failed: look again.
                    Err(error) => tracing::debug!(%error, "rank 0 does not gather"),
                }
            }
            self.pause(&mut pause);
        }
        let withdraw = Withdraw { rank, address };
        let ranks = leader.and_then(|leader| self.ask_within(leader, withdraw, LAST_WORDS).ok());
        Err(self.missing(ranks.filter(|ranks| !ranks.is_empty()).unwrap_or_else(|| vec![0])))
    }

    fn missing(&self, ranks: Vec<u32>) -> GroupError {
        GroupError::Missing { name: self.config.name.clone(), ranks, after: self.config.join_timeout }
    }

    /// Where the table says that rank 0 is.
    fn look_up(&self) -> Result<Option<Address>, GroupError> {
        let get = KvGet { namespace: self.namespace(), key: self.config.name.clone() };
        let value = self.ask_gcs(get, self.deadline)?;
        Ok(value.and_then(|value| rmp_serde::from_slice(&value).ok()))
    }

    fn namespace(&self) -> String {
        format!("{NAMESPACE}{}", self.client.namespace())
    }

    /// Waits, and the next time longer.
    fn pause(&self, pause: &mut Duration) {
        rest(*pause);
        *pause = (*pause * 2).min(LOOK_AGAIN_AFTER.1);
    }

    fn ask_gcs<M: Message + Clone>(&self, message: M, deadline: Instant) -> Result<M::Reply, GroupError> {
        loop {
            match self.ask(self.client.gcs(), message.clone()) {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    rest(LOOK_AGAIN_AFTER.1);
                }
                answer => return answer.map_err(|error| Error::from(error).into()),
            }
        }
    }

    fn ask<M: Message>(&self, to: Address, message: M) -> Result<M::Reply, SendError> {
        self.ask_within(to, message, ASK_DEADLINE)
    }

    fn ask_within<M: Message>(&self, to: Address, message: M, within: Duration) -> Result<M::Reply, SendError> {
        let lent = lend_cpu();
        let answer = self.member.endpoint.request_blocking(to, message, Payload::new(), within);
        drop(lent);
        answer.map(|(reply, _)| reply)
    }

    /// Blocks: makes a link to `rank`, through shared memory if both see the same.
    pub(super) fn link_to(&self, lane: Lane, rank: u32, piece_bytes: usize) -> Result<Outgoing, GroupError> {
        let Some(to) = self.member.member(rank) else {
            return Err(GroupError::MemberLeft { rank });
        };
        let own_rank = self.member.rank;
        if self.config.shared_memory {
            match Segment::create(self.client.store().directory(), piece_bytes) {
                Ok((segment, file)) => {
                    let path = file.path().to_string_lossy().into_owned();
                    let open = OpenLink { lane, rank: own_rank, file: Some(path) };
                    if self.open(rank, to, open)? {
                        let segment = Arc::new(segment);
                        self.member.will_wait_on(Waited::Segment(segment.clone()));
                        return Ok(Outgoing::shared(segment));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no shared memory for a link between members of a group: they use messages");
                }
            }
        }
        if !self.open(rank, to, OpenLink { lane, rank: own_rank, file: None })? {
            return Err(GroupError::MemberLeft { rank });
        }
        let outbox = Arc::new(Outbox {
            member: Arc::downgrade(self.member),
            endpoint: self.member.endpoint.clone(),
            lane,
            rank: own_rank,
            to,
            to_rank: rank,
            read: Default::default(),
            bell: Default::default(),
        });
        self.member.will_wait_on(Waited::Outbox(outbox.clone()));
        Ok(Outgoing::messages(outbox))
    }

    fn open(&self, rank: u32, to: Address, open: OpenLink) -> Result<bool, GroupError> {
        loop {
            match self.ask(to, open.clone()) {
                Ok(opened) => return Ok(opened),
                Err(error) if error.is_retriable() && Instant::now() < self.deadline => {
                    rest(LOOK_AGAIN_AFTER.1);
                }
                Err(error) => {
                    let error = GroupError::of_send(rank, &error);
                    self.member.fail(error.clone(), true);
                    return Err(error);
                }
            }
        }
    }
}

fn rest(duration: Duration) {
    let lent = lend_cpu();
    std::thread::sleep(duration);
    drop(lent);
}

/// Before the job's namespace, so that users' keys are apart.
const NAMESPACE: &str = "collective:";
