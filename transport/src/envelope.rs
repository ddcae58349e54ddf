//! A message on its last metres: [`Envelope`] is what a mailbox receives, [`Request`] what a
//! handler answers, [`Replier`] the answer's way back, which any thread may carry away.
//!
//! Every way out of these types answers the asker: an unanswered request that is dropped
//! answers [`SendError::Dropped`], a rejected one-way message returns to its sender as
//! [`Undelivered`].

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::{MailboxId, Sender};
use crate::asker::Asker;
use crate::error::SendError;
use crate::message::{Message, Payload, decode};
use crate::stream::ReplySink;

/// A message as a mailbox receives it, not decoded yet.
pub struct Envelope {
    pub(crate) from: Sender,
    pub(crate) to: MailboxId,
    pub(crate) kind: u32,
    pub(crate) body: Body,
    pub(crate) payload: Payload,
    pub(crate) asker: Asker,
}

/// The message itself.
pub(crate) enum Body {
    /// Moved inside the process.
    Local(Box<dyn Any + Send>),
    /// Encoded, as it came from another process.
    Wire(Bytes),
}

/// What [`Envelope::open`] returns when there was nothing to hand out: the asker has already
/// been told why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message could not be opened; its sender has been told")]
pub struct Answered;

impl Envelope {
    /// The message's kind, to compare with [`Message::kind`].
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// Who sent it.
    pub fn from(&self) -> Sender {
        self.from
    }

    /// The mailbox it was sent to.
    pub fn to(&self) -> MailboxId {
        self.to
    }

    /// Whether the sender waits for an answer.
    pub fn wants_reply(&self) -> bool {
        self.asker.wants_reply()
    }

    /// The message and its request. A message of another kind, or bytes that do not decode, are
    /// answered with a typed error here, and [`Answered`] is returned.
    pub fn open<M: Message>(self) -> Result<(M, Request<M>), Answered> {
        let Self { from, kind, body, payload, asker, .. } = self;
        if kind != M::KIND {
            asker.fail(SendError::UnknownMessage { kind, name: String::new() });
            return Err(Answered);
        }
        let message = match body {
            Body::Local(any) => match any.downcast::<M>() {
                Ok(message) => *message,
                Err(_) => {
                    asker.fail(SendError::Undecodable {
                        name: M::NAME.to_owned(),
                        why: "another type of the same name was sent in process".to_owned(),
                    });
                    return Err(Answered);
                }
            },
            Body::Wire(bytes) => match decode::<M>(M::NAME, &bytes) {
                Ok(message) => message,
                Err(error) => {
                    asker.fail(error);
                    return Err(Answered);
                }
            },
        };
        let replier = Replier { asker, reply: PhantomData };
        Ok((message, Request { from, payload, replier }))
    }

    /// Answers the asker with `error`; a one-way message returns to its sender.
    pub fn reject(self, error: SendError) {
        self.asker.fail(error);
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("kind", &format_args!("{:#010x}", self.kind))
            .field("payload_parts", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// The circumstances of a message in a handler: who sent it, the bytes beside it, the way to
/// answer. For one-way messages answers go nowhere.
pub struct Request<M: Message> {
    from: Sender,
    payload: Payload,
    replier: Replier<M::Reply>,
}

impl<M: Message> Request<M> {
    /// Who sent the message.
    pub fn from(&self) -> Sender {
        self.from
    }

    /// Whether the sender waits for an answer.
    pub fn wants_reply(&self) -> bool {
        self.replier.asker.wants_reply()
    }

    /// The bytes that travelled beside the message; empty the second time.
    pub fn take_payload(&mut self) -> Payload {
        std::mem::take(&mut self.payload)
    }

    /// Answers.
    pub fn reply(self, reply: M::Reply) {
        self.replier.reply(reply);
    }

    /// Answers with bytes beside the reply.
    pub fn reply_with(self, reply: M::Reply, payload: Payload) {
        self.replier.reply_with(reply, payload);
    }

    /// Answers with an error.
    pub fn fail(self, error: SendError) {
        self.replier.fail(error);
    }

    /// The answer's way back alone, to be carried to another thread or into a future.
    pub fn into_replier(self) -> Replier<M::Reply> {
        self.replier
    }

    /// Answers with a stream. Fails the request with [`SendError::Refused`] (and returns a closed
    /// sink) if it was not made with [`Endpoint::open_stream`](crate::Endpoint::open_stream).
    pub fn into_stream(self) -> ReplySink<M::Reply> {
        ReplySink::new(self.replier.asker)
    }
}

impl<M: Message> fmt::Debug for Request<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(M::NAME).field("from", &self.from).finish_non_exhaustive()
    }
}

/// The way back of one answer. Dropping it unanswered answers [`SendError::Dropped`].
pub struct Replier<R> {
    asker: Asker,
    reply: PhantomData<fn(R)>,
}

impl<R: Serialize + DeserializeOwned + Send + 'static> Replier<R> {
    /// Answers.
    pub fn reply(self, reply: R) {
        self.reply_with(reply, Payload::new());
    }

    /// Answers with bytes beside the reply.
    pub fn reply_with(self, reply: R, payload: Payload) {
        self.asker.reply(reply, payload);
    }

    /// Answers with an error.
    pub fn fail(self, error: SendError) {
        self.asker.fail(error);
    }
}

impl<R> fmt::Debug for Replier<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replier")
    }
}

/// An answer on its way to the waiter.
pub(crate) enum RawReply {
    /// Moved inside the process.
    Local(Box<dyn Any + Send>, Payload),
    /// Encoded.
    Wire(Bytes, Payload),
    /// No answer, and why.
    Failed(SendError),
}

impl RawReply {
    /// The typed answer to a message called `name`.
    pub(crate) fn open<R: DeserializeOwned + Send + 'static>(
        self,
        name: &'static str,
    ) -> Result<(R, Payload), SendError> {
        match self {
            Self::Local(any, payload) => match any.downcast::<R>() {
                Ok(reply) => Ok((*reply, payload)),
                Err(_) => {
                    Err(SendError::Undecodable { name: name.to_owned(), why: "the reply has another type".to_owned() })
                }
            },
            Self::Wire(bytes, payload) => Ok((decode(name, &bytes)?, payload)),
            Self::Failed(SendError::UnknownMessage { kind, .. }) => {
                Err(SendError::UnknownMessage { kind, name: name.to_owned() })
            }
            Self::Failed(error) => Err(error),
        }
    }
}
