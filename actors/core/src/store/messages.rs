//! What processes say to a store, and it to them.
//!
//! ```text
//!  client ── CreateObject ──▶ shard      client ── GetObjects ─────▶ shard (pins; pulls if need be)
//!  client ◀─ Segment ──────── shard      client ◀─ Located ────────── shard
//!  client ── SealObject ────▶ shard      client ── ReleaseObjects ─▶ shard
//!  client ── OpenClient ────▶ front      owner ─── FreeObjects ────▶ shard
//!                                        owner ─── DiscardResults ─▶ shard
//!  client ◀─ SegmentsDropped─ front
//! ```
//!
//! An object's shard follows from its id ([`shard_of`]). Nobody waits for the answer to a seal: a
//! shard that has answered `CreateObject` lets every later get wait for the seal.

use mobula_transport::{Address, MailboxId, ProcessAddr, message};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::segment::SegmentId;
use crate::value::Encoding;

/// How many shards a store has.
pub const STORE_SHARDS: u64 = 8;
/// The mailbox of the first shard; the others follow.
pub const STORE_SHARD_BASE: MailboxId = MailboxId(0x100);

/// The mailbox of the shard that has the object, in every store.
pub fn shard_of(object: &ObjectId) -> MailboxId {
    // Numbers of one owner follow each other: spread them evenly, owners' ids shift the start.
    let mixed = object.seq.wrapping_add(u64::from(object.index)).wrapping_add(object.owner.0.as_u128() as u64);
    MailboxId(STORE_SHARD_BASE.0 + mixed % STORE_SHARDS)
}

/// The address of the object's shard in the store of `process`.
pub fn shard_address(process: ProcessAddr, object: &ObjectId) -> Address {
    Address { process, mailbox: shard_of(object) }
}

/// Client to shard: room for an object that this process will write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateObject {
    /// The object.
    pub object: ObjectId,
    /// How it will have to be read.
    pub encoding: Encoding,
    /// Its exact size.
    pub size_bytes: u64,
    /// Which attempt of its task makes it, from 1; 0 for what was put.
    pub attempt: u32,
    /// The asking process's number for this creation; see [`AbandonCreation`].
    pub number: u64,
}
message!(CreateObject => Result<Segment, Error>);

/// Client to shard: the answer to [`CreateObject`] was lost; whatever it said, nothing will be
/// written. Told until it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AbandonCreation {
    /// The creation's number.
    pub number: u64,
}
message!(AbandonCreation => ());

/// Room for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its segment.
    pub segment: SegmentId,
    /// How large the segment's file is.
    pub class_bytes: u64,
}

/// Client to shard: the object is written and will never change. Sent again if the network failed;
/// nobody waits for the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealObject {
    /// Where it was written.
    pub segment: SegmentId,
}
message!(SealObject => ());

/// Client to shard: the object will not be written. As [`SealObject`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AbortObject {
    /// Where it was to be written.
    pub segment: SegmentId,
}
message!(AbortObject => ());

/// Client to shard: pins these objects (all of this shard) for the asking process, and pulls
/// those that are elsewhere. Answered when the fate of each is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetObjects {
    /// The objects.
    pub objects: Vec<StoredObject>,
}
message!(GetObjects => Vec<Result<Located, Error>>);

/// Where an object lies, with one pin for the asking process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// Its segment.
    pub segment: SegmentId,
    /// How to read it.
    pub encoding: Encoding,
    /// How many of the segment's bytes it has, from the first.
    pub size_bytes: u64,
}

/// Client to shard, one way: pins that this process gives back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseObjects {
    /// Segments and how many pins on each.
    pub segments: Vec<(SegmentId, u32)>,
}
message!(ReleaseObjects);

/// Client to shard, after their connection broke: the pins of the asking process. Answers and
/// releases that were lost are found by it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountPins;
message!(CountPins => HeldPins);

/// What a shard counts for a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPins {
    /// Segments and how many pins on each.
    pub pins: Vec<(SegmentId, u32)>,
    /// For how many objects the process waits; some of its questions may have been lost to it.
    pub waiting: u32,
}

/// Owner to shard: nobody needs these objects (all of this shard) any more. As [`SealObject`]. Copies
/// that other stores took are freed by the store they came from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FreeObjects {
    /// The objects.
    pub objects: Vec<ObjectId>,
}
message!(FreeObjects => ());

/// Owner to shard: these attempts of tasks do not count; what they have stored under these ids (all
/// of this shard) is of no use. What another attempt has stored there stays. As [`SealObject`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiscardResults {
    /// The objects, and the attempts.
    pub results: Vec<(ObjectId, u32)>,
}
message!(DiscardResults => ());

/// Anyone to shard: its objects, in order of their ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListObjects {
    /// At most so many.
    pub limit: u32,
}
message!(ListObjects => Vec<ObjectSummary>);

/// An object of a store, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSummary {
    /// The object.
    pub object: ObjectId,
    /// Its size; 0 while it is being pulled.
    pub size_bytes: u64,
    /// Its state.
    pub state: ObjectState,
    /// How often it is pinned.
    pub pins: u32,
    /// How many wait for it.
    pub waiters: u32,
}

/// The state of an object in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectState {
    /// A process writes it.
    Creating,
    /// It is here.
    Sealed,
    /// It is here, pulled from another node; given up when room is needed and nobody reads it.
    Copy,
    /// It is on this node's disk; whoever wants to read it brings it back.
    Spilled,
    /// It is being pulled from another node.
    Pulling,
}

/// Anyone to front: what the store holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetStoreStats;
message!(GetStoreStats => StoreStats);

/// What a store holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Bytes of segments with objects.
    pub used_bytes: u64,
    /// Bytes of segments kept for the next objects.
    pub idle_bytes: u64,
    /// What used and idle may add up to.
    pub capacity_bytes: u64,
    /// How many objects.
    pub objects: u64,
    /// Bytes pulled from other stores since the start.
    pub pulled_bytes: u64,
    /// Bytes served to other stores since the start.
    pub served_bytes: u64,
    /// Bytes of objects that were written to disk since the start.
    pub spilled_bytes: u64,
    /// How many objects that were.
    pub spilled_objects: u64,
    /// Bytes of objects that were read back since the start.
    pub restored_bytes: u64,
    /// How many objects that were.
    pub restored_objects: u64,
    /// What spilled objects take of the disk now.
    pub disk_bytes: u64,
    /// How many objects are on disk now, those that are in memory too among them.
    pub disk_objects: u64,
    /// What spilled objects may take of the disk.
    pub disk_limit_bytes: u64,
    /// How many creations, pulls and restores wait for room.
    pub waiting_for_room: u64,
}

/// Client to front, one way: here is the mailbox that wants to hear of dropped segments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenClient {
    /// The client's mailbox.
    pub client: Address,
}
message!(OpenClient);

/// Store to clients, one way: these segments are gone, unmap them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SegmentsDropped {
    /// The segments.
    pub segments: Vec<SegmentId>,
}
message!(SegmentsDropped);
