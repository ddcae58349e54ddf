//! Pure: which objects a shard has, who reads them, who waits for them.
//!
//! [`Table`] is told what was asked and what happened, and says what is to be done: answer a
//! waiter, recycle a segment, pull an object. It knows no bytes, files or messages.
//!
//! ```text
//!  create ─▶ creating ──seal──▶ sealed ◀── pulled ── pulling ◀── get (elsewhere)
//!               │ abort          │ │ ▲
//!               ▼                │ │ └──── get ──── shelved   nobody reads it: in memory or on disk
//!            recycled            │ └─ last release ────▲
//!                                ▼ free
//!                             condemned ── last pin released ──▶ discarded
//! ```
//!
//! - An object may be created several times (attempts of one task): the latest attempt wins, as it
//!   does with the owner, and of one attempt the first seal. The segments of the others are recycled.
//!   An attempt that does not count can be discarded without harm to another one.
//! - The objects of a dead owner are freed: nobody can ask for them any more.
//! - What a sealed object consists of is its *content*. When nobody reads it, it is given to the
//!   [`spiller`](super::spill), which may move it to disk, or give it up if it is a *copy* (all that is
//!   pulled is); a get takes it back with `claim`, and waits where it has to be read from disk first.
//! - A freed object is gone for new gets at once; its content goes when the last process that reads it
//!   has released it or is dead.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mobula_transport::{ProcessAddr, ProcessId};
use smallvec::SmallVec;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::broadcast::{Answer, Copies};
use crate::store::messages::{CreateObject, HeldPins, Located, ObjectState, ObjectSummary};
use crate::store::segment::{ContentId, SegmentId};
use crate::store::spill::{Claimed, NotRestored};
use crate::value::Encoding;

/// Who waits for an object; made up by the caller.
pub(crate) type WaiterId = u64;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Tell the waiter. Where this locates a segment, the asking process now has a pin on it.
    Answer { waiter: WaiterId, result: Result<Located, Error> },
    /// Nobody needs the segment, in which nothing was sealed.
    Recycle(SegmentId),
    /// Nobody reads the content in the segment: the spiller has it from now on.
    Shelve { content: ContentId, segment: SegmentId, object: ObjectId, size_bytes: u64, copy: bool },
    /// Nobody needs the content any more, wherever it is; in the segment if the table had it.
    Discard(ContentId, Option<SegmentId>),
    /// Fetch the object from one of its nodes.
    Pull(StoredObject),
    /// These processes' stores took copies of the object: free them there too.
    ForwardFree(ObjectId, Vec<ProcessAddr>),
}

/// How an object is served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Serve {
    pub(crate) answer: Answer,
    /// It is still on its way here.
    pub(crate) waits: bool,
}

/// The objects of one shard.
#[derive(Debug)]
pub(crate) struct Table {
    /// This store's own process.
    me: ProcessId,
    objects: HashMap<ObjectId, Entry>,
    /// Objects being written, by the segment they are written to.
    creations: BTreeMap<SegmentId, Creation>,
    /// What is sealed, condemned contents too.
    contents: BTreeMap<ContentId, Held>,
    /// Segments with contents that somebody reads.
    read: BTreeMap<SegmentId, ContentId>,
    next_content: u64,
    /// Numbers of other tables lie between those of this one.
    content_step: u64,
    processes: BTreeMap<ProcessId, Holdings>,
}

#[derive(Debug, Default)]
struct Entry {
    sealed: Option<ContentId>,
    creating: u32,
    pulling: bool,
    /// Where it is being pulled from.
    sources: Vec<ProcessAddr>,
    waiters: Vec<Waiter>,
    /// Stores that fetched the object from here, or were sent to others for it.
    copies: Copies,
}

#[derive(Debug)]
struct Waiter {
    id: WaiterId,
    process: ProcessId,
}

#[derive(Debug)]
struct Creation {
    object: ObjectId,
    encoding: Encoding,
    size_bytes: u64,
    attempt: u32,
    by: ProcessId,
    /// The writer's number for it.
    number: u64,
    /// The object was freed, or the attempt discarded meanwhile.
    freed: bool,
}

#[derive(Debug)]
struct Held {
    object: ObjectId,
    encoding: Encoding,
    size_bytes: u64,
    /// The attempt that made it; means nothing for a copy.
    attempt: u32,
    pins: u32,
    copy: bool,
    /// Not the object's content any more; to be discarded when its last pin goes.
    condemned: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// In this segment, and read.
    Here(SegmentId),
    /// The spiller has it.
    Shelved,
    /// The spiller has been asked for it.
    Coming,
}

/// What a process has to give back when it dies.
#[derive(Debug, Default)]
struct Holdings {
    pins: BTreeMap<SegmentId, u32>,
    creations: BTreeSet<SegmentId>,
}

impl Table {
    /// The table of shard `index` of so many.
    pub(crate) fn new(me: ProcessId, index: u64, shards: u64) -> Self {
        Self {
            me,
            objects: HashMap::new(),
            creations: BTreeMap::new(),
            contents: BTreeMap::new(),
            read: BTreeMap::new(),
            next_content: index,
            content_step: shards,
            processes: BTreeMap::new(),
        }
    }

    /// How many objects there are, in whatever state.
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    /// `by` begins to write an object to `segment`.
    pub(crate) fn create(&mut self, segment: SegmentId, new: &CreateObject, by: ProcessId) {
        let CreateObject { object, encoding, size_bytes, attempt, number } = *new;
        self.objects.entry(object).or_default().creating += 1;
        let creation = Creation { object, encoding, size_bytes, attempt, by, number, freed: false };
        self.creations.insert(segment, creation);
        self.processes.entry(by).or_default().creations.insert(segment);
    }

    /// The writer has written everything.
    pub(crate) fn seal(&mut self, segment: SegmentId, by: ProcessId, effects: &mut Vec<Effect>) {
        if self.creations.get(&segment).is_none_or(|creation| creation.by != by) {
            return;
        }
        let Some(creation) = self.end_creation(segment) else {
            return;
        };
        let Creation { object, encoding, size_bytes, attempt, freed, .. } = creation;
        if freed {
            effects.push(Effect::Recycle(segment));
            return;
        }
        let place = Place::Here(segment);
        let held = Held { object, encoding, size_bytes, attempt, pins: 0, copy: false, condemned: false, place };
        self.settle(segment, held, effects);
    }

    /// The writer has never heard of a segment for its creation of this number.
    pub(crate) fn abandon(&mut self, number: u64, by: ProcessId, effects: &mut Vec<Effect>) {
        let mut own = self.processes.get(&by).into_iter().flat_map(|holdings| &holdings.creations).copied();
        let segment = own.find(|segment| self.creations.get(segment).is_some_and(|creation| creation.number == number));
        if let Some(segment) = segment {
            self.abort(segment, by, true, effects);
        }
    }

    /// The writer gives up. With `recycle` the segment is intact.
    pub(crate) fn abort(&mut self, segment: SegmentId, by: ProcessId, recycle: bool, effects: &mut Vec<Effect>) {
        if self.creations.get(&segment).is_none_or(|creation| creation.by != by) {
            return;
        }
        let Some(creation) = self.end_creation(segment) else {
            return;
        };
        if recycle {
            effects.push(Effect::Recycle(segment));
        }
        if !creation.freed {
            self.lost_hope(creation.object, "the process that wrote it gave up", effects);
        }
    }

    /// `process` wants to read the object. `claim` takes a shelved content back.
    pub(crate) fn get(
        &mut self,
        waiter: WaiterId,
        process: ProcessId,
        wanted: &StoredObject,
        claim: &mut dyn FnMut(ContentId) -> Claimed,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(content) = self.objects.get(&wanted.object).and_then(|entry| entry.sealed) {
            match self.take_back(content, claim) {
                Claimed::Here(_) => {
                    let result = self.pin(content, process);
                    effects.push(Effect::Answer { waiter, result });
                    return;
                }
                Claimed::Coming => {
                    let entry = self.objects.entry(wanted.object).or_default();
                    entry.waiters.push(Waiter { id: waiter, process });
                    return;
                }
                Claimed::Gone => self.forget(content),
            }
        }
        let entry = self.objects.entry(wanted.object).or_default();
        let me = self.me;
        let news = |node: &ProcessAddr| node.id != me && !entry.sources.contains(node);
        let nodes: SmallVec<[_; 1]> = wanted.nodes.iter().copied().filter(news).collect();
        if !nodes.is_empty() {
            entry.pulling = true;
            entry.sources.extend(&nodes);
            effects.push(Effect::Pull(StoredObject { nodes, ..wanted.clone() }));
        } else if !entry.pulling && entry.creating == 0 {
            self.objects.remove(&wanted.object);
            let why = "it is not in the store that should have it: it was freed, or never sealed".to_owned();
            let result = Err(Error::ObjectLost { object: wanted.object, why });
            effects.push(Effect::Answer { waiter, result });
            return;
        }
        entry.waiters.push(Waiter { id: waiter, process });
    }

    /// A pull has brought the object into `segment`.
    pub(crate) fn pulled(
        &mut self,
        object: ObjectId,
        encoding: Encoding,
        size_bytes: u64,
        segment: SegmentId,
        effects: &mut Vec<Effect>,
    ) {
        match self.objects.get_mut(&object) {
            Some(entry) if entry.pulling => {
                entry.pulling = false;
                entry.sources.clear();
                let place = Place::Here(segment);
                let held =
                    Held { object, encoding, size_bytes, attempt: 0, pins: 0, copy: true, condemned: false, place };
                self.settle(segment, held, effects);
            }
            _ => effects.push(Effect::Recycle(segment)),
        }
    }

    /// A pull has failed for good.
    pub(crate) fn pull_failed(&mut self, object: ObjectId, error: Error, effects: &mut Vec<Effect>) {
        let Some(entry) = self.objects.get_mut(&object) else {
            return;
        };
        if !std::mem::take(&mut entry.pulling) {
            return;
        }
        entry.sources.clear();
        if entry.sealed.is_none() && entry.creating == 0 {
            answer_all(entry, &error, effects);
        }
        self.tidy(object);
    }

    /// `process` gives back `pins` of its pins on the segment.
    pub(crate) fn release(&mut self, segment: SegmentId, process: ProcessId, pins: u32, effects: &mut Vec<Effect>) {
        let Some(holdings) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(own) = holdings.pins.get_mut(&segment) else {
            return;
        };
        let given = pins.min(*own);
        *own -= given;
        if *own == 0 {
            holdings.pins.remove(&segment);
            self.tidy_process(process);
        }
        self.unpin(segment, given, effects);
    }

    /// What `process` has, and waits for.
    pub(crate) fn pins_of(&self, process: ProcessId) -> HeldPins {
        let pins = self.processes.get(&process).map(|holdings| holdings.pins.iter().map(|(s, n)| (*s, *n)).collect());
        let waiters = self.objects.values().flat_map(|entry| &entry.waiters);
        let waiting = waiters.filter(|waiter| waiter.process == process).count();
        HeldPins { pins: pins.unwrap_or_default(), waiting: u32::try_from(waiting).unwrap_or(u32::MAX) }
    }

    /// The owner needs the object no longer.
    pub(crate) fn free(&mut self, object: ObjectId, effects: &mut Vec<Effect>) {
        let Some(mut entry) = self.objects.remove(&object) else {
            return;
        };
        if entry.creating > 0 {
            self.creations
                .values_mut()
                .filter(|creation| creation.object == object)
                .for_each(|creation| creation.freed = true);
        }
        let why = "it was freed while it was being waited for".to_owned();
        answer_all(&mut entry, &Error::ObjectLost { object, why }, effects);
        if let Some(content) = entry.sealed {
            self.condemn(content, effects);
        }
        let copies = entry.copies.processes();
        if !copies.is_empty() {
            effects.push(Effect::ForwardFree(object, copies));
        }
    }

    /// What this attempt has stored as the object, or still writes, is of no use.
    pub(crate) fn discard(&mut self, object: ObjectId, attempt: u32, effects: &mut Vec<Effect>) {
        let Some(entry) = self.objects.get_mut(&object) else { return };
        let of_attempt = |held: &Held| !held.copy && held.attempt == attempt;
        let sealed = entry.sealed.filter(|content| self.contents.get(content).is_some_and(of_attempt));
        if sealed.is_some() {
            entry.sealed = None;
        }
        for creation in self.creations.values_mut() {
            if creation.object == object && creation.attempt == attempt && !creation.freed {
                creation.freed = true;
                entry.creating -= 1;
            }
        }
        if let Some(content) = sealed {
            self.condemn(content, effects);
        }
        self.lost_hope(object, "the attempt of its task does not count any more", effects);
    }

    /// The store of `peer` asks for the object, for which it was sent to those in `failed` before.
    pub(crate) fn serve(&mut self, object: ObjectId, peer: ProcessAddr, failed: &[ProcessId]) -> Serve {
        let Some(entry) = self.objects.get_mut(&object) else {
            return Serve { answer: Answer::Give, waits: false };
        };
        let sealed = entry.sealed.and_then(|content| self.contents.get(&content));
        let written_here = sealed.map_or(entry.creating > 0, |held| !held.copy);
        if written_here {
            return Serve { answer: entry.copies.ask(peer, failed), waits: false };
        }
        entry.copies.note(peer);
        Serve { answer: Answer::Give, waits: entry.pulling }
    }

    /// The spiller gave the copy up.
    pub(crate) fn evicted(&mut self, content: ContentId) {
        if let Some(Held { object, place: Place::Shelved, .. }) = self.contents.get(&content) {
            let object = *object;
            self.forget(content);
            self.tidy(object);
        }
    }

    /// The spiller has brought the content back to a segment, or it has not.
    pub(crate) fn restored(
        &mut self,
        content: ContentId,
        result: Result<SegmentId, NotRestored>,
        effects: &mut Vec<Effect>,
    ) {
        // What was discarded meanwhile is not waited for, and the spiller knows of it.
        let Some(held) = self.contents.get_mut(&content).filter(|held| held.place == Place::Coming) else {
            return;
        };
        let object = held.object;
        // A content that is not condemned is its object's.
        let Some(entry) = self.objects.get_mut(&object) else { return };
        match result {
            Ok(segment) => {
                held.place = Place::Here(segment);
                self.read.insert(segment, content);
                let waiters = std::mem::take(&mut entry.waiters);
                self.answer_with(content, waiters, effects);
            }
            Err(NotRestored { error, lost }) => {
                held.place = Place::Shelved;
                answer_all(entry, &error, effects);
                if lost {
                    self.forget(content);
                }
                self.tidy(object);
            }
        }
    }

    /// A process is dead: its pins are released, what it wrote is given up, its waiters forgotten,
    /// and what it owned is freed.
    pub(crate) fn process_died(&mut self, process: ProcessId, effects: &mut Vec<Effect>) {
        let mut owned: Vec<ObjectId> = self.objects.keys().copied().filter(|object| object.owner == process).collect();
        owned.sort_unstable();
        for object in owned {
            self.free(object, effects);
        }
        // The dead process may also have been a peer that took copies; in object order, so that
        // the effects do not depend on the hasher.
        let mut waiting: Vec<ObjectId> = Vec::new();
        for (object, entry) in &mut self.objects {
            entry.copies.died(process);
            let before = entry.waiters.len();
            entry.waiters.retain(|waiter| waiter.process != process);
            if entry.waiters.len() != before {
                waiting.push(*object);
            }
        }
        for object in waiting {
            self.tidy(object);
        }
        let Some(holdings) = self.processes.remove(&process) else {
            return;
        };
        for segment in holdings.creations {
            let Some(creation) = self.end_creation(segment) else {
                continue;
            };
            effects.push(Effect::Recycle(segment));
            if !creation.freed {
                self.lost_hope(creation.object, "the process that wrote it died", effects);
            }
        }
        for (segment, pins) in holdings.pins {
            self.unpin(segment, pins, effects);
        }
    }

    /// The objects, in order of their ids. `is_spilled` says which contents are on disk alone.
    pub(crate) fn list(&self, is_spilled: &dyn Fn(ContentId) -> bool) -> Vec<ObjectSummary> {
        let summary = |(object, entry): (&ObjectId, _)| self.summary(*object, entry, is_spilled);
        let mut list: Vec<_> = self.objects.iter().map(summary).collect();
        list.sort_by_key(|summary| summary.object);
        list
    }

    fn summary(&self, object: ObjectId, entry: &Entry, is_spilled: &dyn Fn(ContentId) -> bool) -> ObjectSummary {
        let waiters = u32::try_from(entry.waiters.len()).unwrap_or(u32::MAX);
        let sealed = entry.sealed.and_then(|content| Some((content, self.contents.get(&content)?)));
        if let Some((content, held)) = sealed {
            let spilled = !matches!(held.place, Place::Here(_)) && is_spilled(content);
            let state = match (spilled, held.copy) {
                (true, _) => ObjectState::Spilled,
                (false, true) => ObjectState::Copy,
                (false, false) => ObjectState::Sealed,
            };
            return ObjectSummary { object, size_bytes: held.size_bytes, state, pins: held.pins, waiters };
        }
        let state = if entry.creating > 0 { ObjectState::Creating } else { ObjectState::Pulling };
        let size_bytes = self
            .creations
            .values()
            .find(|creation| creation.object == object)
            .map_or(0, |creation| creation.size_bytes);
        ObjectSummary { object, size_bytes, state, pins: 0, waiters }
    }

    /// Takes a creation out of the books.
    fn end_creation(&mut self, segment: SegmentId) -> Option<Creation> {
        let creation = self.creations.remove(&segment)?;
        if let Some(holdings) = self.processes.get_mut(&creation.by) {
            holdings.creations.remove(&segment);
            self.tidy_process(creation.by);
        }
        if !creation.freed
            && let Some(entry) = self.objects.get_mut(&creation.object)
        {
            entry.creating -= 1;
        }
        Some(creation)
    }

    /// The object's content is in the segment, unless it already has one that is as good.
    fn settle(&mut self, segment: SegmentId, held: Held, effects: &mut Vec<Effect>) {
        let object = held.object;
        let before = self.objects.get(&object).and_then(|entry| entry.sealed);
        if let Some(before) = before {
            let superseded = |older: &Held| !held.copy && !older.copy && older.attempt < held.attempt;
            if !self.contents.get(&before).is_some_and(superseded) {
                effects.push(Effect::Recycle(segment));
                return;
            }
            self.condemn(before, effects);
        }
        self.next_content += self.content_step;
        let content = ContentId(self.next_content);
        let entry = self.objects.entry(object).or_default();
        entry.sealed = Some(content);
        let waiters = std::mem::take(&mut entry.waiters);
        self.contents.insert(content, held);
        self.read.insert(segment, content);
        self.answer_with(content, waiters, effects);
    }

    /// Answers all who waited for the content, which is here now; shelves it if nobody did.
    fn answer_with(&mut self, content: ContentId, waiters: Vec<Waiter>, effects: &mut Vec<Effect>) {
        if waiters.is_empty() {
            self.shelve(content, effects);
        }
        for waiter in waiters {
            let result = self.pin(content, waiter.process);
            effects.push(Effect::Answer { waiter: waiter.id, result });
        }
    }

    /// One way for the object to come into being has ended; tells its waiters if it was the last.
    fn lost_hope(&mut self, object: ObjectId, why: &str, effects: &mut Vec<Effect>) {
        let Some(entry) = self.objects.get_mut(&object) else {
            return;
        };
        if entry.sealed.is_none() && entry.creating == 0 && !entry.pulling {
            answer_all(entry, &Error::ObjectLost { object, why: why.to_owned() }, effects);
        }
        self.tidy(object);
    }

    fn pin(&mut self, content: ContentId, process: ProcessId) -> Result<Located, Error> {
        // Only called with a content that is here.
        let Some(held) = self.contents.get_mut(&content) else { unreachable!("a content that is here is known") };
        let Place::Here(segment) = held.place else { unreachable!("a content is pinned where it is here") };
        held.pins += 1;
        *self.processes.entry(process).or_default().pins.entry(segment).or_default() += 1;
        Ok(Located { segment, encoding: held.encoding, size_bytes: held.size_bytes })
    }

    fn unpin(&mut self, segment: SegmentId, pins: u32, effects: &mut Vec<Effect>) {
        let Some(content) = self.read.get(&segment).copied() else { return };
        let Some(held) = self.contents.get_mut(&content) else { return };
        held.pins -= pins;
        if held.pins > 0 {
            return;
        }
        if held.condemned {
            self.contents.remove(&content);
            self.read.remove(&segment);
            effects.push(Effect::Discard(content, Some(segment)));
        } else {
            self.shelve(content, effects);
        }
    }

    /// Nobody reads the content, which is here.
    fn shelve(&mut self, content: ContentId, effects: &mut Vec<Effect>) {
        let Some(held) = self.contents.get_mut(&content) else { return };
        if let Place::Here(segment) = std::mem::replace(&mut held.place, Place::Shelved) {
            self.read.remove(&segment);
            let Held { object, size_bytes, copy, .. } = *held;
            effects.push(Effect::Shelve { content, segment, object, size_bytes, copy });
        }
    }

    /// Takes a content back from the spiller, unless it is here.
    fn take_back(&mut self, content: ContentId, claim: &mut dyn FnMut(ContentId) -> Claimed) -> Claimed {
        let Some(held) = self.contents.get_mut(&content) else { return Claimed::Gone };
        let claimed = match held.place {
            Place::Here(segment) => return Claimed::Here(segment),
            Place::Coming => return Claimed::Coming,
            Place::Shelved => claim(content),
        };
        match claimed {
            Claimed::Here(segment) => {
                held.place = Place::Here(segment);
                self.read.insert(segment, content);
            }
            Claimed::Coming => held.place = Place::Coming,
            Claimed::Gone => {}
        }
        claimed
    }

    fn condemn(&mut self, content: ContentId, effects: &mut Vec<Effect>) {
        let Some(held) = self.contents.get_mut(&content) else { return };
        if held.pins > 0 {
            held.condemned = true;
            return;
        }
        let segment = match held.place {
            Place::Here(segment) => self.read.remove(&segment).map(|_| segment),
            Place::Shelved | Place::Coming => None,
        };
        self.contents.remove(&content);
        effects.push(Effect::Discard(content, segment));
    }

    /// The content does not exist any more.
    fn forget(&mut self, content: ContentId) {
        let Some(held) = self.contents.remove(&content) else { return };
        if let Some(entry) = self.objects.get_mut(&held.object).filter(|entry| entry.sealed == Some(content)) {
            entry.sealed = None;
        }
    }

    /// Removes the entry if nothing is known about the object any more.
    fn tidy(&mut self, object: ObjectId) {
        let empty =
            |entry: &Entry| entry.sealed.is_none() && entry.creating == 0 && !entry.pulling && entry.waiters.is_empty();
        if self.objects.get(&object).is_some_and(empty) {
            self.objects.remove(&object);
        }
    }

    fn tidy_process(&mut self, process: ProcessId) {
        let empty = |holdings: &Holdings| holdings.pins.is_empty() && holdings.creations.is_empty();
        if self.processes.get(&process).is_some_and(empty) {
            self.processes.remove(&process);
        }
    }
}

fn answer_all(entry: &mut Entry, error: &Error, effects: &mut Vec<Effect>) {
    for waiter in entry.waiters.drain(..) {
        effects.push(Effect::Answer { waiter: waiter.id, result: Err(error.clone()) });
    }
}

#[cfg(test)]
mod tests;
