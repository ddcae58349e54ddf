//! What the client asks its store, and asks again when a connection broke: for room, and for objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mobula_transport::{Payload, SendError};
use tokio::time::Instant;

use super::Inner;
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::messages::{AbandonCreation, CreateObject, GetObjects, shard_address};
use crate::store::segment::SegmentId;
use crate::store::server::LONGEST_ROOM_WAIT;
use crate::value::Encoding;

/// How long the store may take to find room and make a segment: the wait for room ends before.
const CREATE_DEADLINE: Duration = LONGEST_ROOM_WAIT.saturating_add(Duration::from_secs(30));
/// How long a store may take to tell an object's fate. Callers have deadlines of their own; this
/// one only ends what a lost answer would keep for ever.
const FATE_DEADLINE: Duration = Duration::from_secs(3600);
/// A store that could not be reached for so long is given up, if nobody says before that it is dead.
const STORE_SILENCE: Duration = Duration::from_secs(60);
/// The pause before it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A question that is asked again in a moment. Whoever waits for the answer hears of it when that
/// moment never comes, since the session ends.
struct AskAgain {
    inner: Arc<Inner>,
    wanted: Option<StoredObject>,
}

impl AskAgain {
    fn ask(mut self, silent_since: Instant) {
        if let Some(wanted) = self.wanted.take() {
            self.inner.ask_since(wanted, Some(silent_since));
        }
    }
}

impl Drop for AskAgain {
    fn drop(&mut self) {
        if let Some(wanted) = self.wanted.take() {
            self.inner.located(wanted.object, Err(Error::Send(SendError::Closed)));
        }
    }
}

impl Inner {
    /// Room for an object. `done` runs once, at the deadline at the latest.
    pub(crate) fn ask_for_room(
        self: &Arc<Self>,
        object: ObjectId,
        attempt: u32,
        encoding: Encoding,
        size_bytes: u64,
        done: impl FnOnce(Result<SegmentId, Error>) + Send + 'static,
    ) {
        self.flush_releases();
        self.ask_for_room_since(object, attempt, encoding, size_bytes, None, done);
    }

    fn ask_for_room_since(
        self: &Arc<Self>,
        object: ObjectId,
        attempt: u32,
        encoding: Encoding,
        size_bytes: u64,
        silent_since: Option<Instant>,
        done: impl FnOnce(Result<SegmentId, Error>) + Send + 'static,
    ) {
        /// Counts the creations of a process, whichever client asks for them.
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let message = CreateObject { object, encoding, size_bytes, attempt, number };
        let (this, to) = (self.clone(), shard_address(self.store, &object));
        self.endpoint.request_with(to, message, Payload::new(), CREATE_DEADLINE, move |answer| match answer {
            Ok((room, _)) => done(room.map(|room| room.segment)),
            Err(error) => {
                // The room may have been found, and only the answer got lost.
                insist(&this.endpoint, this.mailbox, to, AbandonCreation { number });
                if !this.is_silence(&error, silent_since) {
                    return done(Err(error.into()));
                }
                let since = silent_since.unwrap_or_else(Instant::now);
                this.endpoint.clone().spawn_task(async move {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                    this.ask_for_room_since(object, attempt, encoding, size_bytes, Some(since), done);
                });
            }
        });
    }

    /// Asks the store for an object; the answer goes to [`Inner::located`].
    pub(super) fn ask(self: &Arc<Self>, wanted: StoredObject) {
        self.ask_since(wanted, None);
    }

    /// `silent_since`: when the store was first found to be out of reach, if it was the last time.
    fn ask_since(self: &Arc<Self>, wanted: StoredObject, silent_since: Option<Instant>) {
        let this = self.clone();
        let object = wanted.object;
        let to = shard_address(self.store, &object);
        // One at a time: an answer is on its way as soon as its pin is counted.
        let message = GetObjects { objects: vec![wanted.clone()] };
        self.endpoint.request_with(to, message, Payload::new(), FATE_DEADLINE, move |answer| {
            let result = match answer {
                // One was asked for; a store that answers nothing does not know it.
                Ok((mut results, _)) => results
                    .pop()
                    .unwrap_or_else(|| Err(Error::ObjectLost { object, why: "the store gave no answer".to_owned() })),
                // A connection that broke says nothing of the object.
                Err(error) if this.is_silence(&error, silent_since) && this.is_awaited(&object) => {
                    let since = silent_since.unwrap_or_else(Instant::now);
                    let endpoint = this.endpoint.clone();
                    let again = AskAgain { inner: this, wanted: Some(wanted) };
                    endpoint.spawn_task(async move {
                        tokio::time::sleep(ASK_AGAIN_AFTER).await;
                        again.ask(since);
                    });
                    return;
                }
                Err(error) => Err(Error::Send(error)),
            };
            this.located(object, result);
        });
    }

    /// Whether somebody waits for the object.
    fn is_awaited(&self, object: &ObjectId) -> bool {
        self.state.lock().asked.get(object).is_some_and(|asked| !asked.waiters.is_empty())
    }

    /// Whether a question may be asked again: nobody knows that the store is dead, this process has not
    /// left it, and it has not been out of reach for too long.
    fn is_silence(&self, error: &SendError, since: Option<Instant>) -> bool {
        matches!(error, SendError::Unreachable { .. })
            && !self.left.load(Ordering::Acquire)
            && since.is_none_or(|since| since.elapsed() < STORE_SILENCE)
    }
}
