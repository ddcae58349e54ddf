//! The asker of a message: whoever is owed an answer or wants it back, in this process or another.

use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;

use crate::address::{Address, MailboxId};
use crate::core::Core;
use crate::envelope::RawReply;
use crate::error::{SendError, Undelivered};
use crate::frame::{FrameType, Head};
use crate::message::Payload;
use crate::stream::ProducerKey;
use crate::wire::WayBack;

/// Who waits for the fate of a message, and how to tell them. Tells them exactly once.
pub(crate) struct Asker(Option<Waiting>);

enum Waiting {
    /// A one-way message of an actor of this process.
    LocalSender { core: Arc<Core>, sender: MailboxId, to: Address, kind: u32 },
    /// A request of this process.
    Local { core: Arc<Core>, id: u64, stream: bool },
    /// A one-way message of an actor of another process.
    RemoteSender { way: WayBack, sender: u64, mailbox: u64, kind: u32 },
    /// A request of another process.
    Remote { way: WayBack, id: u64, stream: bool },
}

impl Asker {
    /// A one-way message nobody wants back.
    pub(crate) fn nobody() -> Self {
        Self(None)
    }

    /// A one-way message to be returned to `sender` if it cannot be delivered.
    pub(crate) fn local_sender(core: Arc<Core>, sender: MailboxId, to: Address, kind: u32) -> Self {
        Self(Some(Waiting::LocalSender { core, sender, to, kind }))
    }

    /// A request waiting in this process's table.
    pub(crate) fn local(core: Arc<Core>, id: u64, stream: bool) -> Self {
        Self(Some(Waiting::Local { core, id, stream }))
    }

    /// A one-way message of another process, to be returned to its actor `sender`.
    pub(crate) fn remote_sender(way: WayBack, sender: u64, mailbox: u64, kind: u32) -> Self {
        Self(Some(Waiting::RemoteSender { way, sender, mailbox, kind }))
    }

    /// A request of another process.
    pub(crate) fn remote(way: WayBack, id: u64, stream: bool) -> Self {
        Self(Some(Waiting::Remote { way, id, stream }))
    }

    pub(crate) fn wants_reply(&self) -> bool {
        matches!(self.0, Some(Waiting::Local { .. } | Waiting::Remote { .. }))
    }

    pub(crate) fn wants_stream(&self) -> bool {
        matches!(self.0, Some(Waiting::Local { stream: true, .. } | Waiting::Remote { stream: true, .. }))
    }

    /// The single answer; on a stream its only item.
    pub(crate) fn reply<R: Serialize + Send + 'static>(mut self, reply: R, payload: Payload) {
        match self.0.take() {
            None | Some(Waiting::LocalSender { .. } | Waiting::RemoteSender { .. }) => {}
            Some(Waiting::Local { core, id, .. }) => {
                core.answer(core.process().id, id, RawReply::Local(Box::new(reply), payload));
            }
            Some(Waiting::Remote { way, id, .. }) => {
                way.answer(FrameType::Reply, id, &reply, payload);
            }
        }
    }

    /// Tells the asker that there will be no answer.
    pub(crate) fn fail(mut self, error: SendError) {
        self.fail_in_place(error);
    }

    fn fail_in_place(&mut self, error: SendError) {
        match self.0.take() {
            None => {}
            Some(Waiting::LocalSender { core, sender, to, kind }) => {
                core.undelivered(sender, Undelivered { to, kind, error });
            }
            Some(Waiting::Local { core, id, .. }) => core.answer(core.process().id, id, RawReply::Failed(error)),
            Some(Waiting::RemoteSender { way, sender, mailbox, kind }) => {
                way.undelivered(sender, mailbox, kind, &error);
            }
            Some(Waiting::Remote { way, id, .. }) => way.fail(id, &error),
        }
    }

    /// Whether the way to the asker has room for another item of a stream.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Some(Waiting::Remote { way, .. }) => {
                way.link.lane(way.lane).poll_room(cx, way.core.limits.lane_queue_bytes)
            }
            _ => Poll::Ready(()),
        }
    }

    /// One item of a stream.
    pub(crate) fn item<R: Serialize + Send + 'static>(&self, reply: R, mut payload: Payload) -> Result<(), SendError> {
        match &self.0 {
            Some(Waiting::Local { core, id, stream: true }) => {
                if core.stream_item(core.process().id, *id, RawReply::Local(Box::new(reply), payload)) {
                    Ok(())
                } else {
                    Err(SendError::Closed)
                }
            }
            Some(Waiting::Remote { way, id, stream: true }) => {
                let frame_type = FrameType::Item;
                let head = Head { frame_type, kind: 0, mailbox: 0, sender: 0, correlation: *id };
                way.core.transmit(&way.link, way.lane, head, Some(&reply), &mut payload)
            }
            _ => Err(SendError::Closed),
        }
    }

    /// The end of a stream.
    pub(crate) fn end(mut self) {
        match self.0.take() {
            Some(Waiting::Local { core, id, .. }) => core.stream_end(core.process().id, id, None),
            Some(Waiting::Remote { way, id, .. }) => way.end(id),
            _ => {}
        }
    }

    /// The endpoint and key a stream's producer is registered under.
    pub(crate) fn producer(&self) -> Option<(Arc<Core>, ProducerKey)> {
        match &self.0 {
            Some(Waiting::Local { core, id, .. }) => Some((core.clone(), (core.process().id, *id))),
            Some(Waiting::Remote { way, id, .. }) => Some((way.core.clone(), (way.link.peer().id, *id))),
            _ => None,
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // A one-way message was delivered all the same; only a request is owed an answer.
        if self.wants_reply() {
            self.fail_in_place(SendError::Dropped);
        }
    }
}
