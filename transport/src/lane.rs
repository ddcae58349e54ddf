//! A lane: frames on their way to one process, in order, written in batches.
//!
//! Senders encode on their own threads and append; one writer per lane takes everything that is
//! there and writes it at once. The writer is woken only when it sleeps, so a thousand messages
//! cost one wake-up.
//!
//! A lane outlives connections. It is open to one of them at a time, the one it was
//! [raised](Lane::raise) for; the writer of another gets nothing, since what it took would be
//! written into a connection that is no more.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::address::MailboxId;
use crate::error::SendError;
use crate::frame::{Frame, FrameReader, FrameType, HEADER_BYTES};
use crate::message::Payload;

/// Lanes per direction of a connection. Lane 0 carries what concerns the GCS and raylets, so that
/// heartbeats and leases do not wait behind tasks and results.
pub(crate) const LANES: usize = 3;

/// Parts at least this large are queued as they are; smaller ones are copied together.
const CHUNK_FROM_BYTES: usize = 16 * 1024;
/// Copied frames are handed on in chunks of about this size: what is sent stays in memory until
/// the whole chunk is acknowledged.
const CHUNK_BYTES: usize = 128 * 1024;
/// How far over the bound answers may queue; they cannot be bounced to a sender that waits.
const ANSWERS_FACTOR: usize = 2;

/// The lane for messages from `sender` to `receiver`; the same pair always has the same lane.
pub(crate) fn lane_of(sender: Option<MailboxId>, receiver: Option<MailboxId>) -> usize {
    let system = |id: Option<MailboxId>| matches!(id, Some(MailboxId::GCS | MailboxId::RAYLET));
    if system(sender) || system(receiver) {
        return 0;
    }
    let key = receiver.map_or(0, |id| id.0);
    // Fibonacci hashing: neighbouring ids spread over the lanes.
    1 + (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % (LANES - 1)
}

#[derive(Default)]
pub(crate) struct Lane(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    sealed: Vec<Bytes>,
    tail: Vec<u8>,
    bytes: usize,
    frames: u64,
    /// The connection that may take frames.
    connection: Option<u64>,
    /// Handed to the connection, not known to be taken by it.
    writing: Vec<Bytes>,
    /// Present while the writer sleeps.
    writer: Option<Waker>,
    /// Stream producers that wait for the queue to shrink.
    waiting_for_room: Vec<Waker>,
    draining: bool,
    closed: Option<SendError>,
}

/// What a writer takes from a lane at once.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) frames: u64,
}

impl Lane {
    /// Appends a frame: `head` holds everything but the payload's bytes, which are taken out unless
    /// the frame is refused.
    pub(crate) fn push(
        &self,
        head: &[u8],
        payload: &mut Payload,
        answer: bool,
        limit_bytes: usize,
    ) -> Result<(), SendError> {
        let writer = {
            let mut queue = self.0.lock();
            if let Some(error) = &queue.closed {
                return Err(error.clone());
            }
            let bound = if answer { ANSWERS_FACTOR * limit_bytes } else { limit_bytes };
            if queue.bytes >= bound {
                return Err(SendError::MailboxFull { limit: limit_bytes });
            }
            queue.bytes += head.len();
            queue.frames += 1;
            queue.tail.extend_from_slice(head);
            for part in payload.drain(..) {
                queue.bytes += part.len();
                if part.len() < CHUNK_FROM_BYTES {
                    queue.tail.extend_from_slice(&part);
                } else {
                    queue.seal();
                    queue.sealed.push(part);
                }
            }
            if queue.tail.len() >= CHUNK_BYTES {
                queue.seal();
            }
            queue.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        Ok(())
    }

    /// Opens the lane to the connection `nonce`.
    pub(crate) fn raise(&self, nonce: u64) {
        let mut queue = self.0.lock();
        debug_assert!(queue.writing.is_empty(), "the connection before it was interrupted");
        if queue.closed.is_none() {
            queue.connection = Some(nonce);
        }
    }

    /// Everything that is queued, for the writer of the connection `nonce`; `None` once the lane
    /// is not open to it any more, or drained and empty.
    pub(crate) fn poll_batch(&self, nonce: u64, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        let mut queue = self.0.lock();
        if queue.connection != Some(nonce) {
            return Poll::Ready(None);
        }
        // Asking for more means that the connection has taken all of the batch before.
        queue.writing.clear();
        if queue.frames == 0 {
            if queue.draining {
                return Poll::Ready(None);
            }
            queue.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let batch = queue.take();
        queue.writing.extend(batch.chunks.iter().cloned());
        let room = std::mem::take(&mut queue.waiting_for_room);
        drop(queue);
        room.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(batch))
    }

    /// Ready when less than `limit_bytes` are queued, or nothing will be sent any more.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, limit_bytes: usize) -> Poll<()> {
        let mut queue = self.0.lock();
        if queue.bytes < limit_bytes || queue.closed.is_some() {
            return Poll::Ready(());
        }
        queue.waiting_for_room.push(cx.waker().clone());
        Poll::Pending
    }

    /// The connection is lost, and the lane is closed to it: keeps the one-way messages it had
    /// not begun to take, and returns those it may or may not have sent. Requests and answers are
    /// dropped; their askers are told.
    pub(crate) fn interrupted(&self) -> Vec<Frame> {
        let mut queue = self.0.lock();
        queue.connection = None;
        let doubtful = one_ways(std::mem::take(&mut queue.writing));
        let waiting = queue.take();
        for frame in one_ways(waiting.chunks) {
            queue.requeue(&frame);
        }
        let mut sleepers = std::mem::take(&mut queue.waiting_for_room);
        sleepers.extend(queue.writer.take());
        drop(queue);
        sleepers.into_iter().for_each(Waker::wake);
        doubtful
    }

    /// Closes the lane: pushes fail with `error`. Returns the one-way messages that are left.
    pub(crate) fn close(&self, error: SendError) -> Vec<Frame> {
        let (left, sleepers) = {
            let mut queue = self.0.lock();
            queue.closed = Some(error);
            queue.connection = None;
            let mut chunks = std::mem::take(&mut queue.writing);
            chunks.extend(queue.take().chunks);
            let mut sleepers = std::mem::take(&mut queue.waiting_for_room);
            sleepers.extend(queue.writer.take());
            (chunks, sleepers)
        };
        sleepers.into_iter().for_each(Waker::wake);
        one_ways(left)
    }

    /// The writer ends when it has written what is queued.
    pub(crate) fn drain(&self) {
        let writer = {
            let mut queue = self.0.lock();
            queue.draining = true;
            queue.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    #[cfg(test)]
    fn queued_bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Queue {
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.sealed.push(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }

    fn take(&mut self) -> Batch {
        self.seal();
        Batch {
            chunks: std::mem::take(&mut self.sealed),
            bytes: std::mem::take(&mut self.bytes),
            frames: std::mem::take(&mut self.frames),
        }
    }

    fn requeue(&mut self, frame: &Frame) {
        let bytes = crate::frame::rebuild(frame);
        self.bytes += bytes.len();
        self.frames += 1;
        self.tail.extend_from_slice(&bytes);
    }
}

/// The one-way messages among frames of our own.
fn one_ways(chunks: Vec<Bytes>) -> Vec<Frame> {
    let mut reader = FrameReader::new(usize::MAX);
    let mut frames = Vec::new();
    for chunk in chunks {
        let fed = reader.feed(chunk, |frame| {
            if frame.head.frame_type == FrameType::Tell {
                frames.push(frame);
            }
        });
        debug_assert!(fed.is_ok(), "a lane holds whole frames of its own version");
    }
    frames
}

const _: () = assert!(CHUNK_BYTES > CHUNK_FROM_BYTES + HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Head, encode};
    use proptest::prelude::*;
    use std::future::poll_fn;

    fn push(lane: &Lane, frame_type: FrameType, n: u64, part: usize, limit: usize) -> Result<(), SendError> {
        let head = Head { frame_type, kind: 1, mailbox: 2, sender: 3, correlation: n };
        let mut payload = vec![Bytes::from(vec![n as u8; part])];
        let mut bytes = Vec::new();
        encode(&mut bytes, head, "n", Some(&n), &payload, 1 << 24).unwrap();
        lane.push(&bytes, &mut payload, frame_type == FrameType::Reply, limit)
    }

    fn batch(lane: &Lane) -> Option<Batch> {
        batch_of(lane, 1)
    }

    fn batch_of(lane: &Lane, connection: u64) -> Option<Batch> {
        let mut cx = Context::from_waker(Waker::noop());
        match lane.poll_batch(connection, &mut cx) {
            Poll::Ready(batch) => batch,
            Poll::Pending => None,
        }
    }

    /// A lane that is open to connection 1.
    fn lane() -> Lane {
        let lane = Lane::default();
        lane.raise(1);
        lane
    }

    #[test]
    fn a_batch_holds_everything_in_order() {
        let lane = lane();
        for n in 0..100 {
            push(&lane, FrameType::Tell, n, if n % 7 == 0 { 20_000 } else { 10 }, 1 << 24).unwrap();
        }
        let batch = batch(&lane).unwrap();
        assert_eq!(batch.frames, 100);
        assert_eq!(batch.bytes, batch.chunks.iter().map(Bytes::len).sum::<usize>());
        let frames = one_ways(batch.chunks);
        assert!(frames.iter().map(|frame| frame.head.correlation).eq(0..100));
        assert_eq!(lane.queued_bytes(), 0);
    }

    #[test]
    fn the_queue_is_bounded_and_answers_have_some_room_more() {
        let lane = lane();
        while push(&lane, FrameType::Tell, 1, 100, 1000).is_ok() {}
        assert_eq!(push(&lane, FrameType::Tell, 1, 0, 1000), Err(SendError::MailboxFull { limit: 1000 }));
        assert!(lane.queued_bytes() < 1300);
        push(&lane, FrameType::Reply, 1, 0, 1000).unwrap();
        assert!(batch(&lane).is_some());
        push(&lane, FrameType::Tell, 1, 100, 1000).unwrap();
    }

    #[test]
    fn a_lost_connection_keeps_what_it_had_not_taken() {
        let lane = lane();
        push(&lane, FrameType::Tell, 1, 0, 1 << 20).unwrap();
        push(&lane, FrameType::Ask, 2, 0, 1 << 20).unwrap();
        let taken = batch(&lane).unwrap();
        assert_eq!(taken.frames, 2);
        push(&lane, FrameType::Ask, 3, 0, 1 << 20).unwrap();
        push(&lane, FrameType::Tell, 4, 30_000, 1 << 20).unwrap();
        push(&lane, FrameType::Tell, 5, 0, 1 << 20).unwrap();
        let doubtful = lane.interrupted();
        assert_eq!(doubtful.iter().map(|f| f.head.correlation).collect::<Vec<_>>(), [1]);
        // Nobody takes anything until the next connection stands, and then nobody else.
        assert!(batch(&lane).is_none());
        lane.raise(2);
        assert!(batch(&lane).is_none());
        let batch = |lane: &Lane| batch_of(lane, 2);
        let kept = one_ways(batch(&lane).unwrap().chunks);
        assert_eq!(kept.iter().map(|f| f.head.correlation).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(kept[0].payload[0].len(), 30_000);
        // Taken once and asked for more: written.
        assert!(batch(&lane).is_none());
        assert!(lane.interrupted().is_empty());
        push(&lane, FrameType::Tell, 6, 0, 1 << 20).unwrap();
        assert_eq!(lane.close(SendError::Closed).len(), 1);
        assert_eq!(push(&lane, FrameType::Tell, 7, 0, 1 << 20), Err(SendError::Closed));
    }

    #[tokio::test]
    async fn the_writer_is_woken_and_drained() {
        let lane = std::sync::Arc::new(lane());
        let theirs = lane.clone();
        let writer = tokio::spawn(async move {
            let mut frames = 0;
            while let Some(batch) = poll_fn(|cx| theirs.poll_batch(1, cx)).await {
                frames += batch.frames;
            }
            frames
        });
        for n in 0..10 {
            push(&lane, FrameType::Tell, n, 0, 1 << 20).unwrap();
            tokio::task::yield_now().await;
        }
        lane.drain();
        assert_eq!(writer.await.unwrap(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_sleeps_ends_when_its_connection_is_lost() {
        let lane = std::sync::Arc::new(lane());
        let theirs = lane.clone();
        let writer = tokio::spawn(async move { poll_fn(|cx| theirs.poll_batch(1, cx)).await.is_none() });
        tokio::task::yield_now().await;
        lane.interrupted();
        lane.raise(2);
        // Paused time ends the wait as soon as nothing else can happen.
        let ended = tokio::time::timeout(std::time::Duration::from_secs(1), writer).await;
        assert!(ended.expect("it was woken").unwrap());
    }

    /// What happens to a lane.
    #[derive(Debug, Clone)]
    enum Happens {
        Push {
            tell: bool,
            part: usize,
        },
        /// The writer of the connection that was raised so many connections ago asks for more.
        Poll {
            back: u64,
        },
        Interrupted,
        Raise,
    }

    fn history() -> impl Strategy<Value = Vec<Happens>> {
        let event = prop_oneof![
            6 => (any::<bool>(), prop_oneof![4 => 0usize..50, 1 => Just(CHUNK_FROM_BYTES)])
                .prop_map(|(tell, part)| Happens::Push { tell, part }),
            6 => prop_oneof![3 => Just(0u64), 1 => 0u64..3].prop_map(|back| Happens::Poll { back }),
            2 => Just(Happens::Interrupted),
            2 => Just(Happens::Raise),
        ];
        prop::collection::vec(event, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Every one-way message has one fate: written by a living connection, returned as
        /// doubtful by the connection that was writing it, or kept. Nobody else takes any, and
        /// what is taken is taken in the order in which it was pushed.
        #[test]
        fn every_one_way_message_has_one_fate(history in history()) {
            let lane = Lane::default();
            let numbers = |frames: Vec<Frame>| frames.iter().map(|f| f.head.correlation).collect::<Vec<_>>();
            let (mut connection, mut living) = (0u64, false);
            let (mut told, mut written, mut writing, mut doubtful) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let mut taken: Vec<u64> = Vec::new();
            for (n, happens) in history.into_iter().enumerate() {
                match happens {
                    Happens::Push { tell, part } => {
                        let n = n as u64;
                        let frame_type = if tell { FrameType::Tell } else { FrameType::Ask };
                        push(&lane, frame_type, n, part, 1 << 30).unwrap();
                        told.extend(tell.then_some(n));
                    }
                    Happens::Poll { back } => {
                        let batch = batch_of(&lane, connection.saturating_sub(back));
                        if back > 0 || !living {
                            // A writer whose connection is no more.
                            prop_assert!(batch.is_none());
                            continue;
                        }
                        written.append(&mut writing);
                        writing = batch.map_or_else(Vec::new, |batch| numbers(one_ways(batch.chunks)));
                        taken.extend(&writing);
                    }
                    Happens::Interrupted => {
                        living = false;
                        let returned = numbers(lane.interrupted());
                        prop_assert_eq!(&returned, &writing);
                        doubtful.append(&mut writing);
                    }
                    Happens::Raise if living => {}
                    Happens::Raise => {
                        connection += 1;
                        living = true;
                        lane.raise(connection);
                    }
                }
            }
            prop_assert!(taken.is_sorted());
            let left = numbers(lane.close(SendError::Closed));
            prop_assert!(left.starts_with(&writing), "what is being written is doubtful too");
            let mut fates = [written, doubtful, left].concat();
            fates.sort_unstable();
            prop_assert_eq!(fates, told);
        }
    }

    #[test]
    fn pairs_keep_their_lane() {
        let (gcs, worker) = (Some(MailboxId::GCS), Some(MailboxId::WORKER));
        assert_eq!(lane_of(gcs, worker), 0);
        assert_eq!(lane_of(worker, gcs), 0);
        assert_eq!(lane_of(None, Some(MailboxId::RAYLET)), 0);
        for id in 3..1000 {
            let lane = lane_of(None, Some(MailboxId(id)));
            assert!((1..LANES).contains(&lane));
            assert_eq!(lane, lane_of(Some(MailboxId(9)), Some(MailboxId(id))));
        }
    }
}
