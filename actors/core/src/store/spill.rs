//! Pure: what lies in memory and what on disk, what is written when, and who waits for room.
//!
//! [`Spiller`] owns the [`ledger`](super::ledger) of the store's memory and the books of its spill
//! [`files`]. The shards' [tables](super::table) hand it every sealed content that nobody reads
//! ([`shelve`](Spiller::shelve)) and take it back for a reader ([`claim`](Spiller::claim)); in
//! between it may be written to disk, given up, and brought back.
//!
//! ```text
//!              shelve                 written, still unread
//!   taken ───────────────▶ unread ──────────────────────────▶ on disk
//!     ▲ ◀───── claim ───────┘  │ given up for something           │ claim
//!     │                        │ (has another place)              ▼
//!     │                        └────────────────────────▶  waits for room
//!     └──────────── read ◀──── being read ◀── granted ────────────┘
//! ```
//!
//! - What is unread and *clean* (another node has it too, or the disk) is given up when room is
//!   needed, what is *dirty* has to be written first. Above the high-water mark, and while somebody
//!   waits for room, dirty contents are written, oldest use first, one job at a time; what is claimed
//!   while it is being written stays in memory, and is clean from then on.
//! - What is restored keeps its place on disk until it is freed.
//! - Whoever finds no room waits in one line, in the order of arrival: creations, pulls and restores.
//!   Waiting ends with room, or with an error when nothing has moved for [`Limits::stall`], or
//!   after [`Limits::longest_wait`]. So creations that wait for each other end too.
//! - When the disk takes no more (its bound, or an error of the system) nothing is lost: contents
//!   stay in memory, and those who wait for room are told why there is none.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_transport::{MailboxId, ProcessId};

use crate::error::Error;
use crate::ids::ObjectId;
use crate::store::ledger::{Full, Ledger, Reserved};
use crate::store::segment::{ContentId, SegmentId, class_bytes};

mod effect;
pub(crate) mod files;

pub(crate) use self::effect::{Demand, Effect, NotRestored, Part, Read, ReadEnd, Written};
use self::files::{Extent, FileId, Files, padded};

/// So many objects are written by one job at most.
pub(crate) const JOB_OBJECTS: usize = 1024;
/// After a failed write the disk is left alone for so long.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So many may wait for room; more are refused.
pub(crate) const MAX_WAITING: usize = 65_536;

/// What a spiller keeps to.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The store's memory.
    pub(crate) capacity_bytes: u64,
    /// Beyond this, dirty contents are written to disk.
    pub(crate) high_water_bytes: u64,
    /// What the spill files may take; nothing is spilled if it is 0.
    pub(crate) disk_bytes: u64,
    /// How large a file that several objects share becomes; also what one job writes at most, except
    /// for a larger object, which has a job and a file of its own.
    pub(crate) file_bytes: u64,
    /// Who waits for room fails when nothing has moved for so long.
    pub(crate) stall: Duration,
    /// And after so long in any case.
    pub(crate) longest_wait: Duration,
    /// Where the files are, for errors.
    pub(crate) directory: String,
}

/// What a claim finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// In this segment; whoever claimed it holds it.
    Here(SegmentId),
    /// On disk; [`Effect::Restored`] will follow.
    Coming,
    /// It was given up.
    Gone,
}

/// Counts for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpillStats {
    /// Written since the start.
    pub(crate) spilled_bytes: u64,
    pub(crate) spilled_objects: u64,
    /// Read back since the start.
    pub(crate) restored_bytes: u64,
    pub(crate) restored_objects: u64,
    /// What the files take now.
    pub(crate) disk_bytes: u64,
    /// How many objects of use are in them.
    pub(crate) disk_objects: u64,
    /// What they may take.
    pub(crate) disk_limit_bytes: u64,
    /// How many wait for room.
    pub(crate) waiting: u64,
}

/// The memory and the disk of one store.
#[derive(Debug)]
pub(crate) struct Spiller {
    limits: Limits,
    ledger: Ledger,
    files: Files,
    contents: BTreeMap<ContentId, Content>,
    /// Unread and nowhere else, by when they were used last.
    dirty: BTreeMap<u64, ContentId>,
    next_turn: u64,
    queue: VecDeque<Waiting>,
    /// Whether [`tick`](Self::tick) is being called.
    watched: bool,
    /// When somebody got room last, or there was more of it.
    moved: Duration,
    /// Whether a job is under way.
    writing: bool,
    /// What the disk said when it was tried last.
    trouble: Option<Trouble>,
    stats: SpillStats,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    retry_at: Duration,
}

#[derive(Debug)]
struct Content {
    object: ObjectId,
    size_bytes: u64,
    /// Another node has it too.
    copy: bool,
    /// Where it is in memory, or will be.
    segment: Option<SegmentId>,
    state: State,
    /// Where it is on disk.
    image: Option<Image>,
    /// Part of the job that is under way.
    writing: bool,
    /// Nobody wants it any more; it goes when it is neither written nor read.
    dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Its table has it.
    Taken,
    Unread {
        turn: u64,
    },
    OnDisk,
    WaitsForRoom,
    Reading,
}

#[derive(Clone, Copy, Debug)]
struct Image {
    extent: Extent,
    checksum: u64,
}

#[derive(Debug)]
struct Waiting {
    who: Who,
    size_bytes: u64,
    user: ProcessId,
    since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Asks { id: u64, to: MailboxId },
    Restore(ContentId),
}

impl Spiller {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            ledger: Ledger::new(limits.capacity_bytes),
            files: Files::new(limits.disk_bytes, limits.file_bytes),
            limits,
            contents: BTreeMap::new(),
            dirty: BTreeMap::new(),
            next_turn: 0,
            queue: VecDeque::new(),
            watched: false,
            moved: Duration::ZERO,
            writing: false,
            trouble: None,
            stats: SpillStats::default(),
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn stats(&self) -> SpillStats {
        SpillStats {
            disk_bytes: self.files.disk_bytes(),
            disk_limit_bytes: self.files.limit_bytes(),
            waiting: self.queue.len() as u64,
            ..self.stats
        }
    }

    /// Whether the content is on disk alone.
    pub(crate) fn is_spilled(&self, content: ContentId) -> bool {
        self.contents
            .get(&content)
            .is_some_and(|content| matches!(content.state, State::OnDisk | State::WaitsForRoom | State::Reading))
    }

    /// Room, if there is some at once; otherwise it is told when there is.
    pub(crate) fn ask(&mut self, demand: Demand, now: Duration, effects: &mut Vec<Effect>) -> Option<Reserved> {
        let Demand { id, to, size_bytes, user } = demand;
        if class_bytes(size_bytes).is_none_or(|class| class > self.limits.capacity_bytes) {
            let capacity_bytes = self.limits.capacity_bytes;
            let error = Error::StoreFull { size_bytes, free_bytes: capacity_bytes, capacity_bytes };
            effects.push(Effect::Tell { to, id, room: Err(error) });
            return None;
        }
        if self.queue.len() >= MAX_WAITING {
            let error = self.no_room(size_bytes);
            effects.push(Effect::Tell { to, id, room: Err(error) });
            return None;
        }
        let at_once = if self.queue.is_empty() { self.reserve(size_bytes, user, effects).ok() } else { None };
        if at_once.is_none() {
            self.queue.push_back(Waiting { who: Who::Asks { id, to }, size_bytes, user, since: now });
        }
        self.plan(now, effects);
        at_once
    }

    /// Who asked does not want the room any more. Nothing happens if it has been told.
    pub(crate) fn cancel(&mut self, to: MailboxId, id: u64, now: Duration, effects: &mut Vec<Effect>) {
        self.leave(Who::Asks { id, to });
        self.pump(now, effects);
    }

    /// A fresh segment has its file.
    pub(crate) fn made(&mut self, segment: SegmentId, now: Duration, effects: &mut Vec<Effect>) {
        self.ledger.made(segment);
        self.pump(now, effects);
    }

    /// A fresh segment could not be made.
    pub(crate) fn failed(&mut self, segment: SegmentId, now: Duration, effects: &mut Vec<Effect>) {
        self.ledger.failed(segment);
        self.moved = now;
        self.pump(now, effects);
    }

    /// Nobody needs the segment, which never held a content.
    pub(crate) fn recycle(&mut self, segment: SegmentId, now: Duration, effects: &mut Vec<Effect>) {
        self.ledger.recycle(segment, now);
        self.moved = now;
        self.pump(now, effects);
    }

    /// The idle segments whose time is over.
    pub(crate) fn decay(&mut self, now: Duration) -> Vec<SegmentId> {
        self.ledger.decay(now)
    }

    /// Nobody reads the content in the segment. With `copy` another node has it too.
    pub(crate) fn shelve(
        &mut self,
        content: ContentId,
        segment: SegmentId,
        (object, size_bytes): (ObjectId, u64),
        copy: bool,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.next_turn += 1;
        let turn = self.next_turn;
        let entry = self.contents.entry(content).or_insert(Content {
            object,
            size_bytes,
            copy,
            segment: Some(segment),
            state: State::Taken,
            image: None,
            writing: false,
            dropped: false,
        });
        entry.state = State::Unread { turn };
        if entry.copy || entry.image.is_some() {
            self.ledger.set_evictable(segment, content);
        } else if !entry.writing {
            self.dirty.insert(turn, content);
        }
        self.pump(now, effects);
    }

    /// Somebody wants to read a content that was shelved.
    pub(crate) fn claim(&mut self, content: ContentId, now: Duration, effects: &mut Vec<Effect>) -> Claimed {
        let Some(entry) = self.contents.get_mut(&content) else { return Claimed::Gone };
        match (entry.state, entry.segment) {
            (State::Unread { turn }, Some(segment)) => {
                entry.state = State::Taken;
                if self.dirty.remove(&turn).is_none() {
                    // Clean, or being written and then in neither list.
                    self.ledger.retain(segment, content);
                }
                self.plan(now, effects);
                Claimed::Here(segment)
            }
            (State::OnDisk, _) => {
                entry.state = State::WaitsForRoom;
                let size_bytes = entry.size_bytes;
                // Nobody has it mapped: any segment will do.
                let user = entry.object.owner;
                self.queue.push_back(Waiting { who: Who::Restore(content), size_bytes, user, since: now });
                self.pump(now, effects);
                Claimed::Coming
            }
            (State::WaitsForRoom | State::Reading, _) => Claimed::Coming,
            (State::Taken, Some(segment)) => Claimed::Here(segment),
            (State::Taken | State::Unread { .. }, None) => Claimed::Gone,
        }
    }

    /// Nobody wants the content any more, wherever it is. `segment` is where its table has it, if it
    /// has.
    pub(crate) fn discard(
        &mut self,
        content: ContentId,
        segment: Option<SegmentId>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        match self.contents.get_mut(&content) {
            None => {
                // It was never shelved.
                if let Some(segment) = segment {
                    self.ledger.recycle(segment, now);
                }
            }
            Some(entry) => {
                if let State::Unread { turn } = entry.state {
                    self.dirty.remove(&turn);
                    if let Some(segment) = entry.segment {
                        self.ledger.retain(segment, content);
                    }
                    entry.state = State::Taken;
                }
                entry.dropped = true;
                if entry.state == State::WaitsForRoom {
                    entry.state = State::OnDisk;
                    self.leave(Who::Restore(content));
                }
                self.let_go(content, now, effects);
            }
        }
        self.moved = now;
        self.pump(now, effects);
    }

    /// A job has ended.
    pub(crate) fn written(&mut self, parts: &[Part], written: Written, now: Duration, effects: &mut Vec<Effect>) {
        self.writing = false;
        let Written { checksums, error } = written;
        for (n, part) in parts.iter().enumerate() {
            // A content that is being written is not removed.
            let Some(entry) = self.contents.get_mut(&part.content) else { continue };
            entry.writing = false;
            match checksums.get(n) {
                Some(checksum) => {
                    entry.image = Some(Image { extent: part.extent, checksum: *checksum });
                    self.stats.spilled_bytes += entry.size_bytes;
                    self.stats.spilled_objects += 1;
                    self.stats.disk_objects += 1;
                    if entry.dropped {
                        self.let_go(part.content, now, effects);
                    } else if let State::Unread { .. } = entry.state {
                        entry.state = State::OnDisk;
                        if let Some(segment) = entry.segment.take() {
                            self.ledger.recycle(segment, now);
                        }
                    }
                }
                None => {
                    self.files.release(part.extent, effects);
                    if entry.dropped {
                        self.let_go(part.content, now, effects);
                    } else if let State::Unread { turn } = entry.state {
                        self.dirty.insert(turn, part.content);
                    }
                }
            }
        }
        if !checksums.is_empty() {
            self.moved = now;
        }
        self.trouble = error.map(|why| Trouble { why, retry_at: now + RETRY_AFTER });
        self.pump(now, effects);
    }

    /// A content has been read, or not.
    pub(crate) fn read(&mut self, content: ContentId, end: ReadEnd, now: Duration, effects: &mut Vec<Effect>) {
        let Some(entry) = self.contents.get_mut(&content) else { return };
        // While it was being read it had one.
        let Some(segment) = entry.segment else { return };
        entry.state = State::Taken;
        self.moved = now;
        if let ReadEnd::NoSegment(_) = end {
            entry.segment = None;
            // A fresh one is gone, another one is idle again.
            self.ledger.failed(segment);
            self.ledger.recycle(segment, now);
        }
        let object = entry.object;
        let tell = !entry.dropped;
        let result = match end {
            ReadEnd::Done => {
                self.stats.restored_bytes += entry.size_bytes;
                self.stats.restored_objects += 1;
                Ok(segment)
            }
            ReadEnd::Damaged(why) => {
                entry.dropped = true;
                let why = format!("its bytes on disk, in {}, are damaged: {why}", self.limits.directory);
                Err(NotRestored { error: Error::ObjectLost { object, why }, lost: true })
            }
            ReadEnd::NoSegment(error) | ReadEnd::Failed(error) => Err(NotRestored { error, lost: false }),
        };
        if entry.dropped {
            self.let_go(content, now, effects);
        } else if result.is_err() {
            entry.state = State::OnDisk;
            if let Some(segment) = entry.segment.take() {
                self.ledger.recycle(segment, now);
            }
        }
        if tell {
            effects.push(Effect::Restored { object, content, result });
        }
        self.pump(now, effects);
    }

    /// A place in a file has been given back.
    pub(crate) fn punched(&mut self, extent: Extent, now: Duration, effects: &mut Vec<Effect>) {
        self.files.punched(extent);
        self.pump(now, effects);
    }

    /// A file is gone.
    pub(crate) fn removed(&mut self, file: FileId, now: Duration, effects: &mut Vec<Effect>) {
        self.files.removed(file);
        self.pump(now, effects);
    }

    /// Time has passed. False when there is nothing to look after any more.
    pub(crate) fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) -> bool {
        let Limits { stall, longest_wait, .. } = self.limits;
        let moved = self.moved;
        let over = |waiting: &Waiting| now >= waiting.since + longest_wait || now >= waiting.since.max(moved) + stall;
        if self.queue.iter().any(over) {
            // In the order of arrival.
            let (ended, waiting) = std::mem::take(&mut self.queue).into_iter().partition(over);
            self.queue = waiting;
            let ended: VecDeque<Waiting> = ended;
            for waiting in ended {
                let error = self.no_room(waiting.size_bytes);
                match waiting.who {
                    Who::Asks { id, to } => effects.push(Effect::Tell { to, id, room: Err(error) }),
                    Who::Restore(content) => {
                        if let Some(entry) = self.contents.get_mut(&content) {
                            entry.state = State::OnDisk;
                            let result = Err(NotRestored { error, lost: false });
                            effects.push(Effect::Restored { object: entry.object, content, result });
                        }
                    }
                }
            }
        }
        self.pump(now, effects);
        self.watched = !self.queue.is_empty();
        self.watched
    }

    // ---- in the following, the order of what waits and of what is written is decided ------------

    /// Gives room to those who wait, in order, and sees to it that there will be more.
    fn pump(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(&Waiting { who, size_bytes, user, .. }) = self.queue.front() {
            let Ok(reserved) = self.reserve(size_bytes, user, effects) else { break };
            self.queue.pop_front();
            self.moved = now;
            match who {
                Who::Asks { id, to } => effects.push(Effect::Tell { to, id, room: Ok(reserved) }),
                Who::Restore(content) => self.begin_read(content, reserved, effects),
            }
        }
        self.plan(now, effects);
    }

    fn begin_read(&mut self, content: ContentId, reserved: Reserved, effects: &mut Vec<Effect>) {
        // Who waits for a restore is in the books and on disk.
        let Some(entry) = self.contents.get_mut(&content) else { return };
        let Some(Image { extent, checksum }) = entry.image else { return };
        entry.state = State::Reading;
        entry.segment = Some(reserved.segment);
        effects.push(Effect::Read(Read { content, reserved, extent, checksum }));
    }

    /// Starts a job if there is too much in memory, or too much for the first in line.
    fn plan(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.queue.is_empty() && !std::mem::replace(&mut self.watched, true) {
            effects.push(Effect::Watch);
        }
        if self.writing || self.dirty.is_empty() || self.trouble.as_ref().is_some_and(|t| now < t.retry_at) {
            return;
        }
        let busy = self.ledger.busy_bytes();
        let first = self.queue.front().and_then(|first| class_bytes(first.size_bytes)).unwrap_or(0);
        let lacking = (busy + first).saturating_sub(self.limits.capacity_bytes);
        let wanted = lacking.max(busy.saturating_sub(self.limits.high_water_bytes));
        let mut chosen: Vec<(u64, ContentId, u64)> = Vec::new();
        let (mut freed, mut on_disk) = (0, 0);
        for (turn, content) in &self.dirty {
            let Some(entry) = self.contents.get(content) else { continue };
            let takes = padded(entry.size_bytes);
            if freed >= wanted || chosen.len() >= JOB_OBJECTS || !self.files.has_room(on_disk + takes) {
                break;
            }
            if on_disk + takes > self.limits.file_bytes && !chosen.is_empty() {
                break;
            }
            // Its class was found when it got its segment.
            freed += class_bytes(entry.size_bytes).unwrap_or(0);
            on_disk += takes;
            chosen.push((*turn, *content, entry.size_bytes));
        }
        if chosen.is_empty() {
            return;
        }
        self.writing = true;
        let sizes: Vec<u64> = chosen.iter().map(|(_, _, size)| *size).collect();
        let extents = self.files.place(&sizes);
        let mut parts = Vec::with_capacity(chosen.len());
        for ((turn, content, _), extent) in chosen.into_iter().zip(extents) {
            self.dirty.remove(&turn);
            if let Some(entry) = self.contents.get_mut(&content) {
                entry.writing = true;
                // What is unread is in memory.
                parts.extend(entry.segment.map(|segment| Part { content, segment, extent }));
            }
        }
        effects.push(Effect::Write(parts));
    }

    fn reserve(&mut self, size_bytes: u64, user: ProcessId, effects: &mut Vec<Effect>) -> Result<Reserved, Full> {
        let reserved = self.ledger.reserve(size_bytes, user)?;
        for (_, content) in &reserved.evicted {
            let Some(entry) = self.contents.get_mut(content) else { continue };
            entry.segment = None;
            if entry.image.is_some() {
                entry.state = State::OnDisk;
            } else if let Some(Content { object, .. }) = self.contents.remove(content) {
                effects.push(Effect::Evicted { object, content: *content });
            }
        }
        Ok(reserved)
    }

    fn leave(&mut self, who: Who) {
        if let Some(at) = self.queue.iter().position(|waiting| waiting.who == who) {
            self.queue.remove(at);
        }
    }

    /// Gives back what a dropped content has, unless it is being written or read.
    fn let_go(&mut self, content: ContentId, now: Duration, effects: &mut Vec<Effect>) {
        let in_use = |entry: &Content| entry.writing || entry.state == State::Reading;
        if self.contents.get(&content).is_none_or(in_use) {
            return;
        }
        let Some(entry) = self.contents.remove(&content) else { return };
        if let Some(segment) = entry.segment {
            self.ledger.recycle(segment, now);
        }
        if let Some(image) = entry.image {
            self.stats.disk_objects -= 1;
            self.files.release(image.extent, effects);
        }
    }

    /// Why there is no room for so much.
    fn no_room(&self, size_bytes: u64) -> Error {
        let Limits { capacity_bytes, directory, .. } = &self.limits;
        let limit_bytes = self.files.limit_bytes();
        let out_of_disk = |why: String| Error::OutOfDisk {
            size_bytes,
            directory: directory.clone(),
            used_bytes: self.files.disk_bytes(),
            limit_bytes,
            why,
        };
        let oldest = self.dirty.values().next().and_then(|content| self.contents.get(content));
        match (oldest, &self.trouble) {
            (Some(_), Some(trouble)) => out_of_disk(trouble.why.clone()),
            (Some(oldest), None) if limit_bytes > 0 && !self.files.has_room(padded(oldest.size_bytes)) => {
                out_of_disk("the bound is reached".to_owned())
            }
            _ => Error::StoreFull {
                size_bytes,
                free_bytes: capacity_bytes - self.ledger.busy_bytes(),
                capacity_bytes: *capacity_bytes,
            },
        }
    }
}

#[cfg(test)]
mod tests;
