//! Sending and asking: the half of [`Endpoint`] that hot paths use.
//!
//! To an actor of this process a message is moved; for another process it is encoded here, on the
//! sender's thread.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::address::{Address, MailboxId, Sender};
use crate::asker::Asker;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::envelope::{Body, Envelope, RawReply};
use crate::error::{SendError, Undelivered, Unsent};
use crate::frame::{FrameType, Head};
use crate::lane::lane_of;
use crate::message::{Message, Payload};
use crate::pending::Waiter;
use crate::stream::{ReplyStream, StreamInbox};

impl Endpoint {
    /// Sends a one-way message; never blocks. If it cannot be delivered, the mailbox `from`
    /// receives an [`Undelivered`].
    pub fn send<M: Message>(&self, from: Option<MailboxId>, to: Address, message: M, payload: Payload) {
        if let Err(unsent) = self.dispatch(Way::Tell, from, to, message, payload)
            && let Some(from) = from
        {
            self.core().undelivered(from, Undelivered { to, kind: M::KIND, error: unsent.error });
        }
    }

    /// [`send`](Self::send) for a sender that knows what to do with a message that cannot even be
    /// queued: it comes back. What fails later returns as [`Undelivered`].
    ///
    /// # Errors
    /// [`Unsent`]: the message, its payload, and why it is not on its way.
    pub fn try_send<M: Message>(
        &self,
        from: Option<MailboxId>,
        to: Address,
        message: M,
        payload: Payload,
    ) -> Result<(), Box<Unsent<M>>> {
        self.dispatch(Way::Tell, from, to, message, payload)
    }

    /// Asks and returns the answer as a future, which needs no particular runtime. Dropping the
    /// future gives up waiting; the receiver is not told.
    pub fn request<M: Message>(
        &self,
        to: Address,
        message: M,
        payload: Payload,
        deadline: Duration,
    ) -> RequestFuture<M::Reply> {
        let (tell, answer) = oneshot::channel();
        let id = self.ask(None, to, message, payload, deadline, move |result| {
            // The future may be gone by now.
            let _ = tell.send(result);
        });
        RequestFuture { core: self.core().clone(), id, answer }
    }

    /// Asks and hands the answer to `done`, on whatever thread delivers it: `done` must be short
    /// and never block. The primitive under the other ways to ask.
    pub fn request_with<M: Message>(
        &self,
        to: Address,
        message: M,
        payload: Payload,
        deadline: Duration,
        done: impl FnOnce(Result<(M::Reply, Payload), SendError>) + Send + 'static,
    ) {
        self.ask(None, to, message, payload, deadline, done);
    }

    /// [`request_with`](Self::request_with) in the name of the actor `from`.
    pub fn request_from<M: Message>(
        &self,
        from: Option<MailboxId>,
        to: Address,
        message: M,
        payload: Payload,
        deadline: Duration,
        done: impl FnOnce(Result<(M::Reply, Payload), SendError>) + Send + 'static,
    ) {
        self.ask(from, to, message, payload, deadline, done);
    }

    /// Asks and blocks the calling thread until the answer. For user threads: never from an
    /// actor, a callback or a task of the endpoint, which would wait for itself.
    pub fn request_blocking<M: Message>(
        &self,
        to: Address,
        message: M,
        payload: Payload,
        deadline: Duration,
    ) -> Result<(M::Reply, Payload), SendError> {
        let slot = Arc::new((Mutex::new(None), Condvar::new()));
        let filled = slot.clone();
        self.ask::<M>(None, to, message, payload, deadline, move |result| {
            *filled.0.lock() = Some(result);
            filled.1.notify_one();
        });
        let mut result = slot.0.lock();
        loop {
            // The deadline's sweep fills the slot at the latest.
            if let Some(result) = result.take() {
                return result;
            }
            slot.1.wait(&mut result);
        }
    }

    /// Asks for a stream of replies. It has no deadline; it ends with an error when the
    /// producer's process is lost.
    pub fn open_stream<M: Message>(&self, to: Address, message: M, payload: Payload) -> ReplyStream<M::Reply> {
        let inbox = Arc::new(StreamInbox::default());
        let id = self.core().expect(to.process.id, None, Waiter::Stream(inbox.clone()));
        let stream = ReplyStream::new(self.core().clone(), id, M::NAME, to.process.id, inbox);
        self.dispatch_asked(Way::Ask { id, stream: true }, None, to, message, payload);
        stream
    }

    fn ask<M: Message>(
        &self,
        from: Option<MailboxId>,
        to: Address,
        message: M,
        payload: Payload,
        deadline: Duration,
        done: impl FnOnce(Result<(M::Reply, Payload), SendError>) + Send + 'static,
    ) -> u64 {
        let waiter = Waiter::Once(Box::new(move |raw| done(raw.open::<M::Reply>(M::NAME))));
        let id = self.core().expect(to.process.id, Some(deadline), waiter);
        self.dispatch_asked(Way::Ask { id, stream: false }, from, to, message, payload);
        id
    }

    /// Sends a request on its way; if it cannot go, its waiter hears of it.
    fn dispatch_asked<M: Message>(&self, way: Way, from: Option<MailboxId>, to: Address, message: M, payload: Payload) {
        if let Err(unsent) = self.dispatch(way, from, to, message, payload)
            && let Way::Ask { id, .. } = way
        {
            self.core().answer(to.process.id, id, RawReply::Failed(unsent.error));
        }
    }

    /// Moves a message to its actor, or queues it for its process.
    fn dispatch<M: Message>(
        &self,
        way: Way,
        from: Option<MailboxId>,
        to: Address,
        message: M,
        mut payload: Payload,
    ) -> Result<(), Box<Unsent<M>>> {
        let core = self.core();
        if core.is_closed() {
            return Err(Box::new(Unsent { message, payload, error: SendError::Closed }));
        }
        if to.process.id == self.process().id {
            let asker = match (way, from) {
                (Way::Ask { id, stream }, _) => Asker::local(core.clone(), id, stream),
                (Way::Tell, Some(from)) => Asker::local_sender(core.clone(), from, to, M::KIND),
                (Way::Tell, None) => Asker::nobody(),
            };
            core.deliver(Envelope {
                from: Sender { process: self.process(), mailbox: from },
                to: to.mailbox,
                kind: M::KIND,
                body: Body::Local(Box::new(message)),
                payload,
                asker,
            });
            return Ok(());
        }
        let (frame_type, correlation) = match way {
            Way::Tell => (FrameType::Tell, 0),
            Way::Ask { id, stream: false } => (FrameType::Ask, id),
            Way::Ask { id, stream: true } => (FrameType::AskStream, id),
        };
        let sender = from.map_or(0, |from| from.0);
        let head = Head { frame_type, kind: M::KIND, mailbox: to.mailbox.0, sender, correlation };
        let lane = lane_of(from, Some(to.mailbox));
        let queued =
            core.link(to.process).and_then(|link| core.transmit(&link, lane, head, Some(&message), &mut payload));
        queued.map_err(|error| Box::new(Unsent { message, payload, error }))
    }
}

/// What is expected of a message.
#[derive(Clone, Copy)]
enum Way {
    /// Nothing.
    Tell,
    /// An answer, or a stream of them.
    Ask { id: u64, stream: bool },
}

/// The answer to a request, some day.
#[must_use = "dropping the future gives up waiting for the answer"]
pub struct RequestFuture<R> {
    core: Arc<Core>,
    id: u64,
    answer: oneshot::Receiver<Result<(R, Payload), SendError>>,
}

impl<R> Future for RequestFuture<R> {
    type Output = Result<(R, Payload), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The callback is dropped unused only when the endpoint's tables go.
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or(Err(SendError::Closed)))
    }
}

impl<R> Drop for RequestFuture<R> {
    fn drop(&mut self) {
        // Ids are never used twice, so this is harmless after the answer.
        self.core.forget(self.id);
    }
}

impl<R> fmt::Debug for RequestFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFuture").field("id", &self.id).finish_non_exhaustive()
    }
}
