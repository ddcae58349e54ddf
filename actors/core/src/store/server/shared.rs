//! What the actors of a store share, and what they say to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mobula_transport::{Endpoint, MailboxId, Message, Payload, ProcessAddr, ProcessId, Request, SendError};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::disk::{Disk, ReadError};
use crate::store::ledger::Reserved;
use crate::store::messages::{Located, STORE_SHARDS, SegmentsDropped, StoreStats, shard_address};
use crate::store::pool::{MAX_MAKING, Pool};
use crate::store::pull::Failure;
use crate::store::segment::{ContentId, SegmentId};
use crate::store::spill::{Demand, Effect, NotRestored, Part, Read, ReadEnd, SpillStats};
use crate::value::Encoding;

/// What the actors of a store share.
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) disk: Disk,
    pub(crate) endpoint: Endpoint,
    /// How many objects each shard has.
    pub(super) objects: [AtomicU64; STORE_SHARDS as usize],
    pub(crate) pulled_bytes: AtomicU64,
    pub(crate) served_bytes: AtomicU64,
    /// Counts the demands for room.
    demands: AtomicU64,
    /// Whether the front looks after idle memory.
    pub(super) decay_armed: AtomicBool,
}

impl Shared {
    pub(super) fn new(pool: Pool, disk: Disk, endpoint: Endpoint) -> Self {
        Self {
            pool,
            disk,
            endpoint,
            objects: std::array::from_fn(|_| AtomicU64::new(0)),
            pulled_bytes: AtomicU64::new(0),
            served_bytes: AtomicU64::new(0),
            demands: AtomicU64::new(0),
            decay_armed: AtomicBool::new(false),
        }
    }

    pub(super) fn stats(&self) -> StoreStats {
        let (used_bytes, idle_bytes, capacity_bytes, spill) = self.pool.look(|spiller| {
            let ledger = spiller.ledger();
            (ledger.used_bytes(), ledger.idle_bytes(), ledger.capacity_bytes(), spiller.stats())
        });
        let SpillStats {
            spilled_bytes,
            spilled_objects,
            restored_bytes,
            restored_objects,
            disk_bytes,
            disk_objects,
            disk_limit_bytes,
            waiting,
        } = spill;
        StoreStats {
            used_bytes,
            idle_bytes,
            capacity_bytes,
            objects: self.objects.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
            pulled_bytes: self.pulled_bytes.load(Ordering::Relaxed),
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            spilled_bytes,
            spilled_objects,
            restored_bytes,
            restored_objects,
            disk_bytes,
            disk_objects,
            disk_limit_bytes,
            waiting_for_room: waiting,
        }
    }

    /// Sends a message to an actor of this store.
    pub(crate) fn tell<M: Message>(&self, mailbox: MailboxId, message: M) {
        self.endpoint.send(None, self.endpoint.address_of(mailbox), message, Payload::new());
    }

    pub(super) fn tell_shard<M: Message>(&self, object: &ObjectId, message: M) {
        let to = shard_address(self.endpoint.process(), object);
        self.endpoint.send(None, to, message, Payload::new());
    }

    /// Whether a message was sent by this process; those between the store's actors must be.
    pub(super) fn is_own<M: Message>(&self, request: &Request<M>) -> bool {
        request.from().process.id == self.endpoint.process().id
    }

    /// Room for `user` to write so many bytes, for the actor `to`: at once, or told to it by this
    /// number in a [`RoomFound`].
    pub(super) fn ask_for_room(&self, to: MailboxId, size_bytes: u64, user: ProcessId) -> (u64, Option<Reserved>) {
        let id = self.demands.fetch_add(1, Ordering::Relaxed);
        if self.pool.io().backlog() >= MAX_MAKING {
            let room = Err(Error::Send(SendError::MailboxFull { limit: MAX_MAKING }));
            self.tell(to, RoomFound { id, room });
            return (id, None);
        }
        let demand = Demand { id, to, size_bytes, user };
        (id, self.pool.tell(|spiller, now, effects| spiller.ask(demand, now, effects)))
    }

    /// The room that was found is not wanted any more.
    pub(super) fn give_back(self: &Arc<Self>, reserved: Reserved) {
        let this = self.clone();
        self.pool.io().run(move || {
            if this.pool.make(&reserved).is_ok() {
                this.pool.recycle(reserved.segment);
            }
            this.announce(reserved.dropped);
        });
    }

    /// The files of these segments are gone.
    pub(super) fn announce(&self, segments: Vec<SegmentId>) {
        if !segments.is_empty() {
            self.tell(MailboxId::STORE, SegmentsDropped { segments });
        }
    }

    /// Does what the spiller says.
    pub(super) fn carry_out(self: &Arc<Self>, effects: Vec<Effect>, decays: bool) {
        if decays && !self.decay_armed.swap(true, Ordering::AcqRel) {
            self.tell(MailboxId::STORE, WatchDecay);
        }
        for effect in effects {
            match effect {
                Effect::Tell { to, id, room } => self.tell(to, RoomFound { id, room }),
                Effect::Write(parts) => {
                    let this = self.clone();
                    self.disk.writer().run(move || this.write(&parts));
                }
                Effect::Read(read) => {
                    let this = self.clone();
                    self.disk.readers().run(move || this.read(read));
                }
                Effect::Restored { object, content, result } => {
                    self.tell_shard(&object, Restored { content, result });
                }
                Effect::Evicted { object, content } => self.tell_shard(&object, Evicted { content }),
                Effect::Punch(extent) => {
                    let this = self.clone();
                    self.disk.writer().run(move || {
                        if this.disk.punch(extent) {
                            this.pool.tell(|spiller, now, effects| spiller.punched(extent, now, effects));
                        }
                    });
                }
                Effect::Remove(file) => {
                    let this = self.clone();
                    self.disk.writer().run(move || {
                        this.disk.remove_file(file);
                        this.pool.tell(|spiller, now, effects| spiller.removed(file, now, effects));
                    });
                }
                Effect::Watch => self.tell(MailboxId::STORE, WatchRoom),
            }
        }
    }

    /// Blocks: writes contents to disk.
    fn write(&self, parts: &[Part]) {
        let written = self.disk.write(self.pool.directory(), parts);
        if let Some(error) = &written.error {
            let directory = self.disk.path().display();
            tracing::warn!(%directory, %error, "cannot spill objects; they stay in memory");
        }
        self.pool.tell(|spiller, now, effects| spiller.written(parts, written, now, effects));
    }

    /// Blocks: brings a content back from disk.
    fn read(&self, read: Read) {
        let Read { content, reserved, extent, checksum } = read;
        let end = match self.pool.make_file(&reserved) {
            Err(error) => {
                self.pool.unmake(&reserved);
                ReadEnd::NoSegment(self.pool.error(&reserved, &error))
            }
            Ok(file) => {
                self.pool.made(&reserved);
                match self.disk.read(extent, checksum, &file) {
                    Ok(()) => ReadEnd::Done,
                    Err(ReadError::Damaged(why)) => ReadEnd::Damaged(why),
                    Err(ReadError::System(error)) => ReadEnd::Failed(Error::System {
                        what: "reading an object from disk".to_owned(),
                        why: error.to_string(),
                    }),
                }
            }
        };
        self.announce(reserved.dropped);
        self.pool.tell(|spiller, now, effects| spiller.read(content, end, now, effects));
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("pool", &self.pool).field("disk", &self.disk).finish_non_exhaustive()
    }
}

// ---- messages between the store's own actors ----------------------------------------------------

/// To all: this process is dead.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct ProcessDied {
    pub(super) process: ProcessId,
}
mobula_transport::message!(ProcessDied);

/// To who asked for room: there is some, or there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RoomFound {
    pub(super) id: u64,
    pub(super) room: Result<Reserved, Error>,
}
mobula_transport::message!(RoomFound);

/// To a shard: the room for a creation could not be made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct CreationFailed {
    pub(super) segment: SegmentId,
    pub(super) by: ProcessId,
}
mobula_transport::message!(CreationFailed);

/// To a shard: a copy was given up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Evicted {
    pub(super) content: ContentId,
}
mobula_transport::message!(Evicted);

/// To a shard: a content is in memory again, or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Restored {
    pub(super) content: ContentId,
    pub(super) result: Result<SegmentId, NotRestored>,
}
mobula_transport::message!(Restored);

/// To a shard: another store asks for the object, for which it was sent to those in `failed` before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServeObject {
    pub(crate) object: ObjectId,
    pub(crate) peer: ProcessAddr,
    pub(crate) failed: Vec<ProcessId>,
}
mobula_transport::message!(ServeObject => ToServe);

/// How to serve it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ToServe {
    /// It is here, or will be when it is sealed.
    Now,
    /// It is being pulled.
    WhenPulled,
    /// That one is to be asked.
    Elsewhere(ProcessAddr),
}

/// To the front: bring this object here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PullObject(pub(super) StoredObject);
mobula_transport::message!(PullObject);

/// To the front: a fetch has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FetchEnded {
    pub(super) object: ObjectId,
    pub(super) encoding: Encoding,
    pub(super) size_bytes: u64,
    pub(super) result: Result<SegmentId, Failure>,
}
mobula_transport::message!(FetchEnded);

/// To a shard: a pull has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PullEnded {
    pub(super) object: ObjectId,
    pub(super) result: Result<Located, Error>,
}
mobula_transport::message!(PullEnded);

/// To the front: there is idle memory beyond the bound.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WatchDecay;
mobula_transport::message!(WatchDecay);

/// To the front: somebody waits for room.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WatchRoom;
mobula_transport::message!(WatchRoom);
