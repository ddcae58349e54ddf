//! Streams: the shell around [`super::stream`], and what a consumer holds of one.
//!
//! A [`Streaming`] is there as long as the work is pending or its [`StreamHandle`] lives. What comes
//! is kept as it came and becomes an object when the consumer takes it; until then nobody has a
//! reference to it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use mobula_transport::{Payload, Replier};
use parking_lot::Mutex;

use super::entry::{Entry, Latch, Outcome, Provenance, Waiter};
use super::lineage::Origin;
use super::stream::{Answer, Next, Stream};
use super::values::deadline_of;
use super::{Client, ObjectHandle, Refs};
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::{AwaitRoom, Cancel, ReturnSpec, StreamNews, StreamSpec, TaskYielded};
use crate::value::Value;

/// An item that nobody has a reference to.
struct Item {
    outcome: Outcome,
    provenance: Option<Box<Provenance>>,
}

struct Inner {
    core: Stream<Item, Box<Error>, Replier<StreamNews>>,
    /// The consumer, while it waits; there is one.
    waiter: Option<Waiter>,
}

/// A stream of this process.
pub(crate) struct Streaming {
    client: Client,
    seq: u64,
    inner: Mutex<Inner>,
}

impl Streaming {
    pub(super) fn new(client: &Client, seq: u64, window: u32) -> Arc<Self> {
        let inner = Inner { core: Stream::new(window), waiter: None };
        let stream = Arc::new(Self { client: client.clone(), seq, inner: Mutex::new(inner) });
        client.0.streams.lock().insert(seq, Arc::downgrade(&stream));
        stream
    }

    /// This attempt is sent. What is of no use since then is dropped later, for the caller may hold
    /// locks.
    pub(super) fn begins(&self, attempt: u32) -> StreamSpec {
        let mut inner = self.inner.lock();
        StreamSpec { skip: inner.core.begins(attempt), window: inner.core.window() }
    }

    /// The latest attempt was lost with its worker. Returns what it may have stored that does not count.
    pub(super) fn lost(&self) -> impl Iterator<Item = ObjectId> + use<> {
        let (owner, seq) = (self.client.address().process.id, self.seq);
        let stale: RangeInclusive<u32> = self.inner.lock().core.lost();
        stale.map(move |index| ObjectId { owner, seq, index })
    }

    /// The work has ended, with this error if it failed.
    pub(super) fn ends(&self, error: Option<&Error>) {
        self.event(|inner| inner.core.ends(error.map(|error| Box::new(error.clone()))));
    }

    /// Whatever an event brings about happens after the lock is released: an answer to a worker in
    /// this process may come back as its next report, and what is dropped may free objects.
    fn event<R>(&self, event: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.lock();
        let before = inner.core.received();
        let result = event(&mut inner);
        let due = inner.core.due();
        let moved = inner.core.received() != before || inner.core.is_ended();
        let waiter = if moved { inner.waiter.take() } else { None };
        let (strays, spare) = (inner.core.strays(), inner.core.spare());
        drop(inner);
        if let Some((asker, answer)) = due {
            asker.reply(answer.into());
        }
        if let Some(waiter) = waiter {
            waiter.tell();
        }
        for Item { outcome, provenance } in strays {
            if let (Outcome::Stored(stored), Some(made)) = (outcome, provenance) {
                for node in stored.nodes {
                    self.client.store().discard(node, [(stored.object, made.attempt)]);
                }
            }
        }
        drop(spare);
        result
    }

    /// The next one, if it is there or none comes any more; else the waiter is told when to look again.
    fn next(&self, waiter: impl FnOnce() -> Waiter) -> Poll<Option<ObjectHandle>> {
        let next = self.event(|inner| {
            let next = inner.core.next();
            if let Next::Wait = next {
                inner.waiter = Some(waiter());
            }
            next
        });
        let (index, Item { outcome, provenance }) = match next {
            Next::Item(index, item) => (index, item),
            Next::Failed(index, error) => (index, Item { outcome: Outcome::Failed(error), provenance: None }),
            Next::Over => return Poll::Ready(None),
            Next::Wait => return Poll::Pending,
        };
        let owner = self.client.address().process.id;
        let entry = Entry::new(ObjectId { owner, seq: self.seq, index }, &self.client);
        entry.settle_with(outcome, provenance);
        Poll::Ready(Some(ObjectHandle(entry)))
    }

    fn abandon(&self) {
        let left = self.event(|inner| {
            // What is left lies in stores, and nobody will drop a reference to it.
            inner.core.abandon()
        });
        for Item { outcome, .. } in left {
            if let Outcome::Stored(stored) = outcome {
                self.client.free_stored(&stored);
            }
        }
        self.client.cancel_work(self.seq, Cancel::default());
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.client.0.streams.lock().remove(&self.seq);
    }
}

/// The streams of a process that somebody may still hear of, by the number of their work.
pub(super) type Streams = Mutex<BTreeMap<u64, Weak<Streaming>>>;

impl Client {
    /// A worker reports an item.
    pub(super) fn task_yielded(&self, yielded: TaskYielded, payload: Payload, replier: Replier<StreamNews>) {
        // An attempt that was given up long ago. The item may be one that counts and is in use, so its
        // bytes stay; if not, they go with the job.
        let Some(stream) = self.stream(yielded.seq) else { return replier.reply(StreamNews::Enough) };
        let held: Vec<_> = yielded.refs.iter().map(|inside| self.handle_of(inside.object, inside.owner)).collect();
        let refs = Refs::from(held.clone());
        let item = match yielded.item {
            ReturnSpec::Inline(encoding) => {
                let data = payload.into_iter().next().unwrap_or_default();
                Item { outcome: Outcome::Inline(Value { refs, ..Value::new(encoding, data) }), provenance: None }
            }
            ReturnSpec::Stored(stored) => {
                let provenance = Provenance { _contains: refs, origin: Origin::Stream, attempt: yielded.attempt };
                Item { outcome: Outcome::Stored(Box::new(stored)), provenance: Some(Box::new(provenance)) }
            }
        };
        let answer = stream.event(|inner| inner.core.comes(yielded.attempt, yielded.index, item));
        match answer {
            Answer::Consumed(_) => self.secure(held, move || replier.reply(answer.into())),
            Answer::Enough | Answer::Unwanted => replier.reply(answer.into()),
        }
    }

    /// A worker waits for room in a stream.
    pub(super) fn await_room(&self, wait: &AwaitRoom, replier: Replier<StreamNews>) {
        match self.stream(wait.seq) {
            Some(stream) => drop(stream.event(|inner| inner.core.asks(wait.attempt, wait.consumed, replier))),
            None => replier.reply(StreamNews::Unwanted),
        }
    }

    fn stream(&self, seq: u64) -> Option<Arc<Streaming>> {
        self.0.streams.lock().get(&seq).and_then(Weak::upgrade)
    }
}

impl From<Answer> for StreamNews {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Consumed(count) => Self::Consumed(count),
            Answer::Enough => Self::Enough,
            Answer::Unwanted => Self::Unwanted,
        }
    }
}

/// What a task or call yields, to be taken in order.
///
/// Dropping it cancels the work if it has not ended, and frees what was not taken.
pub struct StreamHandle {
    stream: Arc<Streaming>,
    completed: ObjectHandle,
}

impl StreamHandle {
    pub(super) fn new(stream: Arc<Streaming>, completed: ObjectHandle) -> Self {
        Self { stream, completed }
    }

    /// The object that is ready when everything was yielded: a unit, or the work's error.
    pub fn completed(&self) -> &ObjectHandle {
        &self.completed
    }

    /// Waits for the next item; its object is settled. One that has failed is the last one.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; the item may come later.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<ObjectHandle>, Error> {
        let deadline = deadline_of(timeout);
        let mut lent = None;
        loop {
            let latch = Latch::new(1);
            if let Poll::Ready(next) = self.stream.next(|| Waiter::Latch(latch.clone())) {
                return Ok(next);
            }
            if !latch.wait(deadline, || {
                lent.get_or_insert_with(crate::worker::lend_cpu);
            }) {
                return Err(Error::TimedOut { after: timeout.unwrap_or_default() });
            }
        }
    }

    /// [`next`](Self::next) for async code.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<ObjectHandle>> {
        self.stream.next(|| {
            let waker = context.waker().clone();
            Waiter::Call(Box::new(move || waker.wake()))
        })
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.stream.abandon();
    }
}

impl std::fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamHandle({})", self.completed.id())
    }
}
