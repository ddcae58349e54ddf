//! Why a message was not answered: [`SendError`], which also crosses the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::{Address, ProcessAddr, ProcessId};
use crate::message::Payload;

/// Why a message did not arrive or was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SendError {
    /// The process is known to be dead; it will never answer again.
    #[error("process {process} is gone: {why}")]
    Gone {
        /// The dead process.
        process: ProcessId,
        /// How it is known to be dead.
        why: String,
    },
    /// The process did not answer the network, or the connection broke while the request was on
    /// its way: it may or may not have been carried out.
    #[error("process {process} cannot be reached: {why}")]
    Unreachable {
        /// The silent process.
        process: ProcessId,
        /// What the network said.
        why: String,
    },
    /// No answer within the deadline.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The deadline that passed.
        after: Duration,
    },
    /// The process lives, but has no such actor (any more).
    #[error("no such actor in that process; it may have stopped")]
    NoSuchActor,
    /// The receiver's mailbox, or the queue towards its process, is at its bound.
    #[error("the mailbox or queue is full (limit {limit}); slow down or retry later")]
    MailboxFull {
        /// The bound that was met (messages for a mailbox, bytes for a queue).
        limit: usize,
    },
    /// The actor does not handle this message.
    #[error("the actor has no handler for message `{name}` (kind {kind:#010x})")]
    UnknownMessage {
        /// The message's wire number.
        kind: u32,
        /// The message's name, where it is known.
        name: String,
    },
    /// The bytes are not a message of that name: the two processes run different versions.
    #[error("message `{name}` cannot be decoded: {why}")]
    Undecodable {
        /// The message's name.
        name: String,
        /// What the decoder said.
        why: String,
    },
    /// The message does not fit in a frame; send large data through the bulk channel.
    #[error("message of {size_bytes} bytes is over the limit of {limit_bytes}; use the bulk channel")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A bulk body was not as long as announced.
    #[error("the body had {received_bytes} bytes (or more) of {announced_bytes} announced")]
    WrongLength {
        /// What the source said first.
        announced_bytes: u64,
        /// What came.
        received_bytes: u64,
    },
    /// The endpoint, stream or sink was closed.
    #[error("closed")]
    Closed,
    /// The receiver dropped the request without answering it.
    #[error("the receiver dropped the request without answering")]
    Dropped,
    /// The receiver refused.
    #[error("refused: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// The receiver has what was asked for, but wants it to be asked of another process.
    #[error("it is to be had from {process} instead")]
    Elsewhere {
        /// The other one.
        process: ProcessAddr,
    },
}

impl SendError {
    /// Whether the same message may succeed when sent again, later, to the same address.
    /// (A retry can make the receiver see the message twice.)
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::MailboxFull { .. } => true,
            Self::Gone { .. }
            | Self::NoSuchActor
            | Self::UnknownMessage { .. }
            | Self::Undecodable { .. }
            | Self::TooLarge { .. }
            | Self::WrongLength { .. }
            | Self::Closed
            | Self::Dropped
            | Self::Refused { .. }
            | Self::Elsewhere { .. } => false,
        }
    }
}

/// Why it could not be found out which process listens at an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// Nothing answered.
    #[error("no answer within {after:?}")]
    Silent {
        /// The deadline that passed.
        after: Duration,
    },
    /// The certificate of one side is not of the other's cluster.
    #[error("a process of another cluster answers: {why}")]
    Foreign {
        /// What TLS said.
        why: String,
    },
    /// What answers does not speak this protocol.
    #[error("what answers speaks another protocol: {why}")]
    OtherProtocol {
        /// What the network said.
        why: String,
    },
    /// The process refused.
    #[error("refused: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// The own endpoint was closed meanwhile.
    #[error("closed")]
    Closed,
}

/// A one-way message that is not on its way, back in its sender's hands.
#[derive(Debug)]
pub struct Unsent<M> {
    /// The message.
    pub message: M,
    /// What was to travel beside it.
    pub payload: Payload,
    /// Why it was not sent.
    pub error: SendError,
}

/// A one-way message that could not be delivered, returned to the mailbox it was sent from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undelivered {
    /// Where it was going.
    pub to: Address,
    /// Which message it was ([`Message::KIND`](crate::Message::KIND)).
    pub kind: u32,
    /// Why it did not arrive.
    pub error: SendError,
}

crate::message!(Undelivered);
