//! The way from one member to another: pieces in order, with bounded room.
//!
//! A link is either slots in [shared memory](super::segment), or messages where memory is not
//! shared: [`Outbox`] and [`Inbox`] are the ends of such a link. Both ends belong to the thread
//! that carries the group's calls out; only what is in an `Arc` is seen by the mailbox.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{Address, Endpoint, Replier, SendError};
use parking_lot::Mutex;

use super::bell::Bell;
use super::member::Member;
use super::messages::{Lane, SendPiece};
use super::segment::{SLOTS, Segment};

/// How long the receiver may take to read a piece: as long as user code computes between two
/// calls. A lost connection or process ends the request at once.
const READ_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// How often a piece is sent when the network fails.
const SEND_ATTEMPTS: u32 = 5;
/// Between two attempts.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where pieces go.
pub(super) struct Outgoing {
    /// So many in all.
    sent: u64,
    way: WayOut,
}

enum WayOut {
    Shared(Arc<Segment>),
    Messages(Arc<Outbox>),
}

impl Outgoing {
    pub(super) fn shared(segment: Arc<Segment>) -> Self {
        Self { sent: 0, way: WayOut::Shared(segment) }
    }

    pub(super) fn messages(outbox: Arc<Outbox>) -> Self {
        Self { sent: 0, way: WayOut::Messages(outbox) }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn has_room(&self) -> bool {
        match &self.way {
            WayOut::Shared(segment) => segment.has_room(self.sent),
            WayOut::Messages(outbox) => self.sent - outbox.read.load(Ordering::Acquire) < SLOTS as u64,
        }
    }

    /// Whether all that was sent has been read; known of messages only.
    #[cfg(test)]
    pub(super) fn is_read(&self) -> bool {
        match &self.way {
            WayOut::Shared(_) => true,
            WayOut::Messages(outbox) => outbox.read.load(Ordering::Acquire) == self.sent,
        }
    }

    /// Rung when there may be room.
    pub(super) fn bell(&self) -> &Bell {
        match &self.way {
            WayOut::Shared(segment) => segment.sender(),
            WayOut::Messages(outbox) => &outbox.bell,
        }
    }

    /// Sends a piece of `len` bytes that `fill` writes. There must be [room](Self::has_room).
    pub(super) fn write<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let number = self.sent;
        self.sent += 1;
        match &self.way {
            WayOut::Shared(segment) => segment.write(number, len, fill),
            WayOut::Messages(outbox) => {
                let mut piece = vec![0; len];
                let filled = fill(&mut piece);
                outbox.send(number, piece.into(), SEND_ATTEMPTS);
                filled
            }
        }
    }
}

/// Where pieces come from.
pub(super) struct Incoming {
    /// So many in all.
    taken: u64,
    way: WayIn,
}

enum WayIn {
    Shared(Arc<Segment>),
    Messages(Arc<Inbox>),
}

impl Incoming {
    pub(super) fn shared(segment: Arc<Segment>) -> Self {
        Self { taken: 0, way: WayIn::Shared(segment) }
    }

    pub(super) fn messages(inbox: Arc<Inbox>) -> Self {
        Self { taken: 0, way: WayIn::Messages(inbox) }
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn has_piece(&self) -> bool {
        match &self.way {
            WayIn::Shared(segment) => segment.has_piece(self.taken),
            WayIn::Messages(inbox) => inbox.has(self.taken),
        }
    }

    /// Rung when a piece may have come.
    pub(super) fn bell(&self) -> &Bell {
        match &self.way {
            WayIn::Shared(segment) => segment.receiver(),
            WayIn::Messages(inbox) => &inbox.bell,
        }
    }

    /// Reads the next piece, which must [have come](Self::has_piece).
    pub(super) fn read<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> R {
        let number = self.taken;
        self.taken += 1;
        match &self.way {
            WayIn::Shared(segment) => segment.read(number, read),
            WayIn::Messages(inbox) => match inbox.take(number) {
                Some((piece, replier)) => {
                    let result = read(&piece);
                    replier.reply(());
                    result
                }
                // Only this thread takes pieces; nothing is what a caller reads that did not look.
                None => read(&[]),
            },
        }
    }
}

/// The sending end of a link of messages.
pub(super) struct Outbox {
    pub(super) member: Weak<Member>,
    pub(super) endpoint: Endpoint,
    pub(super) lane: Lane,
    /// The sender's rank.
    pub(super) rank: u32,
    /// The receiver.
    pub(super) to: Address,
    pub(super) to_rank: u32,
    /// So many pieces have been read there.
    pub(super) read: AtomicU64,
    pub(super) bell: Bell,
}

impl Outbox {
    fn send(self: &Arc<Self>, number: u64, piece: Bytes, attempts: u32) {
        let (outbox, again) = (self.clone(), piece.clone());
        let message = SendPiece { lane: self.lane, rank: self.rank, number };
        self.endpoint.request_with(self.to, message, vec![piece], READ_WITHIN, move |answer| match answer {
            Ok(_) => {
                outbox.read.fetch_add(1, Ordering::Release);
                outbox.bell.ring();
            }
            // The receiver puts those that overtake each other in order.
            Err(error) if error.is_retriable() && attempts > 1 => {
                let endpoint = outbox.endpoint.clone();
                endpoint.spawn_task(async move {
                    tokio::time::sleep(SEND_AGAIN_AFTER).await;
                    outbox.send(number, again, attempts - 1);
                });
            }
            Err(error) => {
                if let Some(member) = outbox.member.upgrade() {
                    member.undelivered(outbox.to_rank, &error);
                }
            }
        });
    }
}

/// The receiving end of a link of messages.
#[derive(Default)]
pub(super) struct Inbox {
    pieces: Mutex<Pieces>,
    pub(super) bell: Bell,
}

#[derive(Default)]
struct Pieces {
    /// So many have been taken.
    taken: u64,
    come: BTreeMap<u64, (Bytes, Replier<()>)>,
}

impl Inbox {
    /// A piece has come, perhaps not for the first time.
    pub(super) fn put(&self, number: u64, piece: Bytes, replier: Replier<()>) {
        {
            let mut pieces = self.pieces.lock();
            if number < pieces.taken {
                drop(pieces);
                return replier.reply(());
            }
            if number - pieces.taken >= SLOTS as u64 {
                drop(pieces);
                return replier.fail(SendError::MailboxFull { limit: SLOTS });
            }
            pieces.come.insert(number, (piece, replier));
        }
        self.bell.ring();
    }

    fn has(&self, number: u64) -> bool {
        self.pieces.lock().come.contains_key(&number)
    }

    fn take(&self, number: u64) -> Option<(Bytes, Replier<()>)> {
        let mut pieces = self.pieces.lock();
        pieces.taken = number + 1;
        pieces.come.remove(&number)
    }
}

/// Something on which the thread of a group may be waiting.
pub(super) enum Waited {
    Segment(Arc<Segment>),
    Inbox(Arc<Inbox>),
    Outbox(Arc<Outbox>),
}

impl Waited {
    /// Has the thread look up.
    pub(super) fn ring(&self) {
        match self {
            // The other member looks up too, which does no harm.
            Self::Segment(segment) => {
                segment.receiver().ring();
                segment.sender().ring();
            }
            Self::Inbox(inbox) => inbox.bell.ring(),
            Self::Outbox(outbox) => outbox.bell.ring(),
        }
    }
}
