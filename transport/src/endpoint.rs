//! The [`Endpoint`]: where a process's actors live and from where messages are sent.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::actor::{Actor, Runner};
use crate::address::{Address, MailboxId, ProcessAddr, ProcessId, Sender};
use crate::config::EndpointConfig;
use crate::core::Core;
use crate::envelope::{Asker, Body, Envelope, RawReply};
use crate::error::{SendError, Undelivered};
use crate::message::{Message, Payload};
use crate::metrics::MetricsSnapshot;
use crate::peers::PeerEvent;
use crate::pending::Waiter;
use crate::runtime::Runtime;
use crate::stream::{ReplyStream, StreamInbox};

/// A process's place in the world of actors. Cheap to clone; call
/// [`shutdown`](Self::shutdown) when done, since actors keep their endpoint alive.
#[derive(Clone)]
pub struct Endpoint {
    core: Arc<Core>,
}

/// What receives envelopes: the raw seam below actors, for hot paths.
pub trait Mailbox: Send + Sync {
    /// Takes a message. Runs on the delivering thread and must not block.
    fn deliver(&self, envelope: Envelope);

    /// The endpoint is closing.
    fn close(&self) {}
}

/// Why an endpoint could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A thread or runtime could not be made.
    #[error("cannot start the endpoint's thread: {0}")]
    Thread(#[source] io::Error),
}

impl Endpoint {
    /// An endpoint of this process alone.
    pub fn in_process(config: EndpointConfig) -> Result<Self, BindError> {
        let runtime =
            Runtime::start(config.runtime, "mobula-net").map_err(BindError::Thread)?;
        let process = ProcessAddr {
            id: config.process.unwrap_or_else(ProcessId::random),
            socket: ProcessAddr::IN_PROCESS,
        };
        let seed = config.seed.unwrap_or_else(rand::random);
        let core =
            Core::new(process, runtime, config.runtime, config.arbiters, config.limits, seed);
        Ok(Self { core })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// This process.
    pub fn process(&self) -> ProcessAddr {
        self.core.process()
    }

    /// The address of an actor of this process.
    pub fn address_of(&self, mailbox: MailboxId) -> Address {
        Address { process: self.process(), mailbox }
    }

    /// Starts an actor under `id`, or under a fresh id, and returns its address. An actor that
    /// had the id before no longer receives messages.
    pub fn spawn<A: Actor>(
        &self,
        id: Option<MailboxId>,
        runner: Runner,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Address {
        let id = id.unwrap_or_else(|| self.core.next_mailbox());
        let handlers = self.core.handlers::<A>();
        match runner {
            Runner::Inline => crate::inline::spawn(self, id, handlers, make),
            Runner::Arbiter => {
                crate::arbiter::spawn(self, &self.core.arbiters, id, handlers, make);
            }
        }
        self.address_of(id)
    }

    /// A fresh mailbox id, for [`attach`](Self::attach).
    pub fn fresh_mailbox(&self) -> MailboxId {
        self.core.next_mailbox()
    }

    /// Puts a raw mailbox under `id` and returns the one it replaces. On a closed endpoint the
    /// mailbox itself comes back.
    pub fn attach(&self, id: MailboxId, mailbox: Arc<dyn Mailbox>) -> Option<Arc<dyn Mailbox>> {
        self.core.attach(id, mailbox)
    }

    /// Takes the mailbox `id` away; later messages are answered [`SendError::NoSuchActor`].
    pub fn detach(&self, id: MailboxId) -> Option<Arc<dyn Mailbox>> {
        self.core.detach(id)
    }

    /// Sends a one-way message; never blocks. If it cannot be delivered, the mailbox `from`
    /// receives an [`Undelivered`].
    pub fn send<M: Message>(
        &self,
        from: Option<MailboxId>,
        to: Address,
        message: M,
        payload: Payload,
    ) {
        if let Err(error) = self.refusal(to.process.id) {
            self.bounce(from, to, M::KIND, error);
            return;
        }
        let asker = match from {
            Some(from) => Asker::local_sender(self.core.clone(), from, to, M::KIND),
            None => Asker::nobody(),
        };
        self.core.deliver(self.envelope(from, to, message, payload, asker));
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
        RequestFuture { core: self.core.clone(), id, answer }
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
    pub fn open_stream<M: Message>(
        &self,
        to: Address,
        message: M,
        payload: Payload,
    ) -> ReplyStream<M::Reply> {
        let inbox = Arc::new(StreamInbox::default());
        let id = self.core.expect(to.process.id, None, Waiter::Stream(inbox.clone()));
        let stream = ReplyStream::new(self.core.clone(), id, M::NAME, to.process.id, inbox);
        match self.refusal(to.process.id) {
            Err(error) => self.core.answer(id, RawReply::Failed(error)),
            Ok(()) => {
                let asker = Asker::local(self.core.clone(), id, true);
                self.core.deliver(self.envelope(None, to, message, payload, asker));
            }
        }
        stream
    }

    /// Declares a process dead: requests to it, pending and later, fail at once with
    /// [`SendError::Gone`].
    pub fn mark_gone(&self, process: ProcessId, why: String) {
        self.core.mark_gone(process, why);
    }

    /// Calls `watcher` on every change in what is known about other processes. It runs on the
    /// endpoint's thread and must be short.
    pub fn watch_peers(&self, watcher: impl FnMut(PeerEvent) + Send + 'static) {
        self.core.peers.watch(Box::new(watcher));
    }

    /// What was counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.core.metrics.snapshot(self.core.requests_in_flight() as u64)
    }

    /// Runs a future on the endpoint's thread. It must not block.
    pub fn spawn_task(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.core.spawn_task(future)
    }

    /// The tokio runtime of the endpoint's thread.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.core.runtime.handle()
    }

    /// Refuses new messages, gives queued ones up to `drain` to leave, then ends actors,
    /// requests ([`SendError::Closed`]) and threads. Blocks up to `drain`, except on the
    /// endpoint's own thread and in simulations, where it does not wait.
    pub fn shutdown(&self, drain: Duration) {
        if self.core.close() {
            self.core.end(drain);
        }
    }

    pub(crate) fn seed_of(&self, salt: u64) -> u64 {
        self.core.seed_of(salt)
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
        if let Err(error) = self.refusal(to.process.id) {
            waiter.fail(error);
            return 0;
        }
        let id = self.core.expect(to.process.id, Some(deadline), waiter);
        let asker = Asker::local(self.core.clone(), id, false);
        self.core.deliver(self.envelope(from, to, message, payload, asker));
        id
    }

    fn envelope<M: Message>(
        &self,
        from: Option<MailboxId>,
        to: Address,
        message: M,
        payload: Payload,
        asker: Asker,
    ) -> Envelope {
        Envelope {
            from: Sender { process: self.process(), mailbox: from },
            to: to.mailbox,
            kind: M::KIND,
            body: Body::Local(Box::new(message)),
            payload,
            asker,
        }
    }

    /// Why nothing can be sent to `process` from here, if so.
    fn refusal(&self, process: ProcessId) -> Result<(), SendError> {
        if self.core.is_closed() {
            return Err(SendError::Closed);
        }
        if process == self.process().id {
            return Ok(());
        }
        Err(self.core.peers.gone(process).unwrap_or_else(|| SendError::Unreachable {
            process,
            why: "this endpoint has no network".into(),
        }))
    }

    fn bounce(&self, from: Option<MailboxId>, to: Address, kind: u32, error: SendError) {
        if let Some(from) = from {
            self.core.undelivered(from, Undelivered { to, kind, error });
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.process())
    }
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
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(SendError::Closed)))
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
