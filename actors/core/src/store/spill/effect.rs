//! What a [`Spiller`](super::Spiller) is asked for, what it says is to be done, and how that may end.

use mobula_transport::{MailboxId, ProcessId};
use serde::{Deserialize, Serialize};

use super::files::{Extent, FileId};
use crate::error::Error;
use crate::ids::ObjectId;
use crate::store::ledger::Reserved;
use crate::store::segment::{ContentId, SegmentId};

/// Room that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Made up by who asks.
    pub(crate) id: u64,
    /// Who wants to hear of it.
    pub(crate) to: MailboxId,
    pub(crate) size_bytes: u64,
    /// Which process will write there.
    pub(crate) user: ProcessId,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Who waited for room has it, or has waited in vain.
    Tell { to: MailboxId, id: u64, room: Result<Reserved, Error> },
    /// Write these contents, then say [`written`](super::Spiller::written).
    Write(Vec<Part>),
    /// Make the segment and fill it from the disk, then say [`read`](super::Spiller::read).
    Read(Read),
    /// For the object's shard: the content is in memory again, for it to hold, or why it is not.
    Restored { object: ObjectId, content: ContentId, result: Result<SegmentId, NotRestored> },
    /// For the object's shard: the copy was given up.
    Evicted { object: ObjectId, content: ContentId },
    /// Give this place back to the file system, then say [`punched`](super::Spiller::punched).
    Punch(Extent),
    /// Remove the file, then say [`removed`](super::Spiller::removed).
    Remove(FileId),
    /// Call [`tick`](super::Spiller::tick) now and then until it says that nobody waits.
    Watch,
}

/// A content to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) content: ContentId,
    pub(crate) segment: SegmentId,
    pub(crate) extent: Extent,
}

/// A content to be read.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) content: ContentId,
    pub(crate) reserved: Reserved,
    pub(crate) extent: Extent,
    pub(crate) checksum: u64,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Written {
    /// The checksums of those that were written, from the first.
    pub(crate) checksums: Vec<u64>,
    /// Why the others were not.
    pub(crate) error: Option<String>,
}

/// What became of a [`Read`].
#[derive(Debug, PartialEq)]
pub(crate) enum ReadEnd {
    /// It is in its segment.
    Done,
    /// What is on disk is not what was written there.
    Damaged(String),
    /// The segment could not be made.
    NoSegment(Error),
    /// It may work later; the segment is intact.
    Failed(Error),
}

/// Why a content is not in memory again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NotRestored {
    pub(crate) error: Error,
    /// It never will be.
    pub(crate) lost: bool,
}
