//! Streams of replies: one request, many answers, at the pace of the asker.
//!
//! ```text
//!   asker                                    producer
//!   open_stream ------- request ----------->  into_stream
//!               <------ item, item ... -----  ReplySink::send   (spends a credit, or waits)
//!   next        ------- credit(n) --------->                    (n items were read)
//!               <------ end / error --------  end / drop
//!   drop        ------- cancel ------------>  send fails with Closed
//! ```
//! At most [`STREAM_WINDOW_ITEMS`] items are on their way or unread at any time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::ProcessId;
use crate::asker::Asker;
use crate::core::Core;
use crate::envelope::RawReply;
use crate::error::SendError;
use crate::message::Payload;
use crate::pending::Inbox;

/// How many items of a stream may be on their way or unread.
pub const STREAM_WINDOW_ITEMS: u32 = 64;

/// Names a producer: the asking process and the id of its request.
pub(crate) type ProducerKey = (ProcessId, u64);

/// The producing end of a stream of replies. Dropping it without [`end`](Self::end) ends the
/// stream with [`SendError::Dropped`].
pub struct ReplySink<R> {
    asker: Option<Asker>,
    window: Arc<SinkWindow>,
    reply: PhantomData<fn(R)>,
}

impl<R: Serialize + DeserializeOwned + Send + 'static> ReplySink<R> {
    pub(crate) fn new(asker: Asker) -> Self {
        let window = Arc::new(SinkWindow::default());
        if !asker.wants_stream() {
            window.close();
            asker.fail(SendError::Refused { why: "the answer is a stream; use open_stream".into() });
            return Self { asker: None, window, reply: PhantomData };
        }
        if let Some((core, key)) = asker.producer() {
            core.sinks().add(key, window.clone());
        }
        Self { asker: Some(asker), window, reply: PhantomData }
    }

    /// Sends one item, waiting until the asker has room for it. [`SendError::Closed`] once the
    /// asker has gone.
    pub async fn send(&mut self, item: R) -> Result<(), SendError> {
        self.send_with(item, Payload::new()).await
    }

    /// Sends one item with bytes beside it.
    pub async fn send_with(&mut self, item: R, payload: Payload) -> Result<(), SendError> {
        poll_fn(|cx| self.window.poll_credit(cx)).await?;
        let Some(asker) = &self.asker else { return Err(SendError::Closed) };
        poll_fn(|cx| asker.poll_room(cx)).await;
        asker.item(item, payload)
    }

    /// Whether the asker has gone.
    pub fn is_closed(&self) -> bool {
        self.window.is_closed()
    }

    /// Ends the stream.
    pub fn end(mut self) {
        if let Some(asker) = self.leave() {
            asker.end();
        }
    }

    /// Ends the stream with an error.
    pub fn fail(mut self, error: SendError) {
        if let Some(asker) = self.leave() {
            asker.fail(error);
        }
    }
}

impl<R> ReplySink<R> {
    fn leave(&mut self) -> Option<Asker> {
        let asker = self.asker.take()?;
        if let Some((core, key)) = asker.producer() {
            core.sinks().remove(key);
        }
        Some(asker)
    }
}

impl<R> Drop for ReplySink<R> {
    fn drop(&mut self) {
        // Dropping the asker answers `Dropped`.
        drop(self.leave());
    }
}

impl<R> fmt::Debug for ReplySink<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySink").field("closed", &self.window.is_closed()).finish()
    }
}

/// The receiving end of a stream of replies. Dropping it tells the producer to stop.
pub struct ReplyStream<R> {
    core: Arc<Core>,
    id: u64,
    name: &'static str,
    producer: ProcessId,
    inbox: Arc<StreamInbox>,
    unacknowledged: u32,
    reply: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned + Send + 'static> ReplyStream<R> {
    pub(crate) fn new(
        core: Arc<Core>,
        id: u64,
        name: &'static str,
        producer: ProcessId,
        inbox: Arc<StreamInbox>,
    ) -> Self {
        Self { core, id, name, producer, inbox, unacknowledged: 0, reply: PhantomData }
    }

    /// The next item; `None` after the end. An error is the last item.
    pub async fn next(&mut self) -> Option<Result<(R, Payload), SendError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(R, Payload), SendError>>> {
        let raw = match self.inbox.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(raw)) => raw,
        };
        self.unacknowledged += 1;
        if self.unacknowledged >= STREAM_WINDOW_ITEMS / 2 && !self.inbox.has_ended() {
            self.core.stream_credit(self.producer, self.id, self.unacknowledged);
            self.unacknowledged = 0;
        }
        Poll::Ready(Some(raw.open(self.name)))
    }
}

impl<R: DeserializeOwned + Send + 'static> futures::Stream for ReplyStream<R> {
    type Item = Result<(R, Payload), SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<R> Drop for ReplyStream<R> {
    fn drop(&mut self) {
        let waiting = self.core.forget(self.id);
        if waiting && !self.inbox.has_ended() {
            self.core.stream_cancel(self.producer, self.id);
        }
    }
}

impl<R> fmt::Debug for ReplyStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyStream").field("message", &self.name).finish_non_exhaustive()
    }
}

/// Items that arrived and were not read yet.
#[derive(Default)]
pub(crate) struct StreamInbox(Mutex<InboxState>);

#[derive(Default)]
struct InboxState {
    items: VecDeque<RawReply>,
    ended: bool,
    waker: Option<Waker>,
}

impl StreamInbox {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<RawReply>> {
        let mut state = self.0.lock();
        match state.items.pop_front() {
            Some(raw) => Poll::Ready(Some(raw)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.0.lock().ended
    }

    fn update(&self, change: impl FnOnce(&mut InboxState)) {
        let waker = {
            let mut state = self.0.lock();
            if state.ended {
                return;
            }
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Inbox for StreamInbox {
    fn item(&self, item: RawReply) {
        self.update(|state| {
            if state.items.len() < STREAM_WINDOW_ITEMS as usize {
                state.items.push_back(item);
            } else {
                // Only a producer that ignores its credits gets here.
                state.items.push_back(RawReply::Failed(SendError::MailboxFull { limit: STREAM_WINDOW_ITEMS as usize }));
                state.ended = true;
            }
        });
    }

    fn end(&self, error: Option<SendError>) {
        self.update(|state| {
            state.ended = true;
            state.items.extend(error.map(RawReply::Failed));
        });
    }
}

/// What a producer may still send.
pub(crate) struct SinkWindow(Mutex<WindowState>);

struct WindowState {
    credits: u32,
    closed: bool,
    waker: Option<Waker>,
}

impl Default for SinkWindow {
    fn default() -> Self {
        Self(Mutex::new(WindowState { credits: STREAM_WINDOW_ITEMS, closed: false, waker: None }))
    }
}

impl SinkWindow {
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut state = self.0.lock();
        if state.closed {
            Poll::Ready(Err(SendError::Closed))
        } else if state.credits > 0 {
            state.credits -= 1;
            Poll::Ready(Ok(()))
        } else {
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    fn close(&self) {
        self.change(|state| state.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut WindowState)) {
        let waker = {
            let mut state = self.0.lock();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The producers of this process.
#[derive(Default)]
pub(crate) struct Sinks(Mutex<HashMap<ProducerKey, Arc<SinkWindow>>>);

impl Sinks {
    fn add(&self, key: ProducerKey, window: Arc<SinkWindow>) {
        self.0.lock().insert(key, window);
    }

    fn remove(&self, key: ProducerKey) {
        self.0.lock().remove(&key);
    }

    /// The asker has read `items` items.
    pub(crate) fn credit(&self, key: ProducerKey, items: u32) {
        let window = self.0.lock().get(&key).cloned();
        if let Some(window) = window {
            window.change(|state| {
                state.credits = state.credits.saturating_add(items).min(STREAM_WINDOW_ITEMS);
            });
        }
    }

    /// The asker has gone.
    pub(crate) fn close(&self, key: ProducerKey) {
        let window = self.0.lock().remove(&key);
        if let Some(window) = window {
            window.close();
        }
    }

    /// The asking process (`None`: every one) has gone.
    pub(crate) fn close_peer(&self, peer: Option<ProcessId>) {
        let mut closed: Vec<(ProducerKey, Arc<SinkWindow>)> = {
            let mut sinks = self.0.lock();
            sinks.extract_if(|key, _| peer.is_none_or(|peer| key.0 == peer)).collect()
        };
        closed.sort_by_key(|(key, _)| *key);
        for (_, window) in closed {
            window.close();
        }
    }
}
