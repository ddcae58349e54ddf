//! Who is who: processes, mailboxes and the addresses made of them.
//!
//! A [`ProcessId`] names one incarnation of an endpoint: a process that restarts gets a new one,
//! so a message can never reach the successor of the actor it was meant for.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One incarnation of a process's endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub Uuid);

impl ProcessId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for ProcessId {
    /// The first eight hex digits: enough for logs, not for comparing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", (self.0.as_u128() >> 96) as u32)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessId({self})")
    }
}

/// An actor inside a process. Ids below 2^32 are given by the program, the others by
/// [`Endpoint::spawn`](crate::Endpoint::spawn).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MailboxId(pub u64);

impl MailboxId {
    /// The global control service, on the head.
    pub const GCS: Self = Self(1);
    /// The node's raylet.
    pub const RAYLET: Self = Self(2);
    /// The node's object store.
    pub const STORE: Self = Self(3);
    /// A worker process's task runner.
    pub const WORKER: Self = Self(4);
    /// A driver's or worker's client side.
    pub const CLIENT: Self = Self(5);
    /// The first id the endpoint gives out by itself.
    pub const FIRST_DYNAMIC: Self = Self(1 << 32);
}

impl fmt::Display for MailboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::GCS => f.write_str("gcs"),
            Self::RAYLET => f.write_str("raylet"),
            Self::STORE => f.write_str("store"),
            Self::WORKER => f.write_str("worker"),
            Self::CLIENT => f.write_str("client"),
            Self(id) => write!(f, "{id}"),
        }
    }
}

/// A process and where it listens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ProcessAddr {
    /// Which incarnation.
    pub id: ProcessId,
    /// Where it listens; [`IN_PROCESS`](Self::IN_PROCESS) when nobody can dial it.
    pub socket: SocketAddr,
}

impl ProcessAddr {
    /// The socket of a process that does not listen.
    pub const IN_PROCESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

    /// Whether another process can dial this one.
    pub fn is_dialable(&self) -> bool {
        self.socket.port() != 0
    }
}

impl fmt::Display for ProcessAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_dialable() { write!(f, "{}@{}", self.id, self.socket) } else { write!(f, "{}", self.id) }
    }
}

/// Where a message goes: an actor of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Address {
    /// The process the actor lives in.
    pub process: ProcessAddr,
    /// The actor.
    pub mailbox: MailboxId,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.process, self.mailbox)
    }
}

/// Who sent a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// The sending process.
    pub process: ProcessAddr,
    /// The sending actor, if an actor sent it.
    pub mailbox: Option<MailboxId>,
}

impl Sender {
    /// Where to answer with a message of one's own, if an actor sent this one.
    pub fn address(&self) -> Option<Address> {
        self.mailbox.map(|mailbox| Address { process: self.process, mailbox })
    }
}
