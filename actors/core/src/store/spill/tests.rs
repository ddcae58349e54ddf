use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::store::segment::PAGE_BYTES;

const PAGE: u64 = PAGE_BYTES;
const ME: MailboxId = MailboxId(7);
const STALL: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_secs(300);
const NOW: Duration = Duration::ZERO;

fn user() -> ProcessId {
    ProcessId(Uuid::from_u128(1))
}

fn object(n: u64) -> ObjectId {
    ObjectId { owner: user(), seq: n, index: 0 }
}

/// Sizes in pages.
fn spiller(capacity: u64, high_water: u64, disk: u64) -> Spiller {
    Spiller::new(Limits {
        capacity_bytes: capacity * PAGE,
        high_water_bytes: high_water * PAGE,
        disk_bytes: disk * PAGE,
        file_bytes: 8 * PAGE,
        stall: STALL,
        longest_wait: LONGEST,
        directory: "/spill".to_owned(),
    })
}

fn demand(id: u64, pages: u64) -> Demand {
    Demand { id, to: ME, size_bytes: pages * PAGE, user: user() }
}

/// An object of so many pages that nobody reads.
fn store(spiller: &mut Spiller, n: u64, pages: u64, effects: &mut Vec<Effect>) -> SegmentId {
    let reserved = spiller.ask(demand(n, pages), NOW, effects).expect("room");
    spiller.made(reserved.segment, NOW, effects);
    spiller.shelve(ContentId(n), reserved.segment, (object(n), pages * PAGE), false, NOW, effects);
    reserved.segment
}

/// Takes the job that is to be written out of the effects.
fn job(effects: &mut Vec<Effect>) -> Option<Vec<Part>> {
    let at = effects.iter().position(|effect| matches!(effect, Effect::Write(_)))?;
    match effects.remove(at) {
        Effect::Write(parts) => Some(parts),
        _ => None,
    }
}

fn all(parts: &[Part]) -> Written {
    Written { checksums: parts.iter().map(|part| part.content.0).collect(), error: None }
}

fn contents(parts: &[Part]) -> Vec<u64> {
    parts.iter().map(|part| part.content.0).collect()
}

#[test]
fn above_the_mark_the_oldest_are_written_together_and_their_memory_is_free() {
    let mut spiller = spiller(10, 8, 100);
    let mut effects = Vec::new();
    for n in 1..=8 {
        store(&mut spiller, n, 1, &mut effects);
    }
    assert_eq!(effects, vec![]);
    assert_eq!(spiller.claim(ContentId(1), NOW, &mut effects), Claimed::Here(SegmentId(0)));
    spiller.ask(demand(9, 2), NOW, &mut effects).unwrap();
    let parts = job(&mut effects).unwrap();
    assert_eq!(contents(&parts), [2, 3], "the first is in use");
    assert_eq!((parts[0].extent.file, parts[1].extent.file), (FileId(1), FileId(1)));
    assert_eq!(parts[1].extent.offset, PAGE);
    spiller.written(&parts, all(&parts), NOW, &mut effects);
    assert_eq!(spiller.ledger().used_bytes(), 8 * PAGE);
    let stats = spiller.stats();
    assert_eq!((stats.spilled_objects, stats.disk_objects, stats.disk_bytes), (2, 2, 2 * PAGE));
    assert!(spiller.is_spilled(ContentId(2)) && !spiller.is_spilled(ContentId(1)));
}

#[test]
fn who_finds_no_room_waits_in_line_and_gets_it_in_order() {
    let mut spiller = spiller(10, 10, 100);
    let mut effects = Vec::new();
    store(&mut spiller, 1, 4, &mut effects);
    store(&mut spiller, 2, 4, &mut effects);
    assert_eq!(spiller.ask(demand(3, 6), NOW, &mut effects), None);
    assert_eq!(spiller.ask(demand(4, 1), NOW, &mut effects), None, "a small one does not overtake");
    let parts = job(&mut effects).unwrap();
    assert_eq!(contents(&parts), [1]);
    assert_eq!(effects, vec![Effect::Watch]);
    effects.clear();
    spiller.written(&parts, all(&parts), NOW, &mut effects);
    let told: Vec<u64> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Tell { id, room: Ok(_), .. } => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(told, [3]);
    let parts = job(&mut effects).unwrap();
    assert_eq!(contents(&parts), [2], "for the next in line");
    spiller.written(&parts, all(&parts), NOW, &mut effects);
    assert!(matches!(effects.last(), Some(Effect::Tell { id: 4, room: Ok(_), .. })));
}

#[test]
fn a_larger_object_than_the_store_is_refused_at_once() {
    let mut spiller = spiller(10, 8, 100);
    let mut effects = Vec::new();
    assert_eq!(spiller.ask(demand(1, 11), NOW, &mut effects), None);
    assert!(matches!(&effects[..], [Effect::Tell { id: 1, room: Err(Error::StoreFull { .. }), .. }]));
}

#[test]
fn two_who_wait_for_each_other_both_end() {
    let mut spiller = spiller(10, 8, 100);
    let mut effects = Vec::new();
    for n in 1..=2 {
        spiller.ask(demand(n, 4), NOW, &mut effects).unwrap();
    }
    for n in 3..=4 {
        assert_eq!(spiller.ask(demand(n, 4), NOW, &mut effects), None);
    }
    effects.clear();
    assert!(spiller.tick(STALL - Duration::from_millis(1), &mut effects));
    assert_eq!(effects, vec![]);
    assert!(!spiller.tick(STALL, &mut effects));
    let full = |effect: &Effect| matches!(effect, Effect::Tell { room: Err(Error::StoreFull { .. }), .. });
    assert_eq!(effects.iter().filter(|effect| full(effect)).count(), 2);
}

#[test]
fn what_is_claimed_while_it_is_written_stays_and_is_not_written_again() {
    let mut spiller = spiller(10, 4, 100);
    let mut effects = Vec::new();
    let segment = store(&mut spiller, 1, 5, &mut effects);
    let parts = job(&mut effects).unwrap();
    assert_eq!(spiller.claim(ContentId(1), NOW, &mut effects), Claimed::Here(segment));
    spiller.written(&parts, all(&parts), NOW, &mut effects);
    assert!(!spiller.is_spilled(ContentId(1)));
    assert_eq!(spiller.ledger().busy_bytes(), 5 * PAGE);
    spiller.shelve(ContentId(1), segment, (object(1), 5 * PAGE), false, NOW, &mut effects);
    assert_eq!(effects, vec![], "it is clean, and goes when room is needed");
    spiller.ask(demand(2, 8), NOW, &mut effects).unwrap();
    assert!(spiller.is_spilled(ContentId(1)));
    assert_eq!(spiller.stats().spilled_objects, 1);
}

#[test]
fn a_restored_content_keeps_its_place_on_disk() {
    let mut spiller = spiller(10, 4, 100);
    let mut effects = Vec::new();
    store(&mut spiller, 1, 5, &mut effects);
    let parts = job(&mut effects).unwrap();
    spiller.written(&parts, all(&parts), NOW, &mut effects);
    assert_eq!(spiller.claim(ContentId(1), NOW, &mut effects), Claimed::Coming);
    let Some(Effect::Read(read)) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!((read.extent, read.checksum), (parts[0].extent, 1));
    assert_eq!(spiller.claim(ContentId(1), NOW, &mut effects), Claimed::Coming, "one restore serves all");
    spiller.read(ContentId(1), ReadEnd::Done, NOW, &mut effects);
    let segment = read.reserved.segment;
    assert_eq!(effects, vec![Effect::Restored { object: object(1), content: ContentId(1), result: Ok(segment) }]);
    effects.clear();
    assert_eq!(spiller.stats().restored_bytes, 5 * PAGE);
    spiller.discard(ContentId(1), Some(segment), NOW, &mut effects);
    assert_eq!(effects, vec![Effect::Remove(FileId(1))]);
    spiller.removed(FileId(1), NOW, &mut effects);
    assert_eq!((spiller.ledger().used_bytes(), spiller.stats().disk_bytes), (0, 0));
}

#[test]
fn a_damaged_content_is_lost_and_says_why() {
    let mut spiller = spiller(10, 4, 100);
    let mut effects = Vec::new();
    store(&mut spiller, 1, 5, &mut effects);
    let parts = job(&mut effects).unwrap();
    spiller.written(&parts, all(&parts), NOW, &mut effects);
    spiller.claim(ContentId(1), NOW, &mut effects);
    effects.clear();
    spiller.read(ContentId(1), ReadEnd::Damaged("a bit is wrong".to_owned()), NOW, &mut effects);
    assert_eq!(effects[0], Effect::Remove(FileId(1)));
    let Effect::Restored { result: Err(NotRestored { error, lost: true }), .. } = &effects[1] else {
        panic!("{effects:?}")
    };
    assert!(error.to_string().contains("a bit is wrong") && error.to_string().contains("/spill"), "{error}");
    assert_eq!(spiller.claim(ContentId(1), NOW, &mut effects), Claimed::Gone);
}

#[test]
fn a_disk_that_takes_no_more_loses_nothing_and_is_told_to_who_waited() {
    let mut spiller = spiller(10, 10, 4);
    let mut effects = Vec::new();
    store(&mut spiller, 1, 4, &mut effects);
    store(&mut spiller, 2, 5, &mut effects);
    assert_eq!(spiller.ask(demand(3, 5), NOW, &mut effects), None);
    let parts = job(&mut effects).unwrap();
    let failed = Written { checksums: vec![], error: Some("no space left".to_owned()) };
    spiller.written(&parts, failed, NOW, &mut effects);
    assert_eq!(job(&mut effects), None, "not again at once");
    effects.clear();
    spiller.removed(FileId(1), NOW, &mut effects);
    assert_eq!(job(&mut effects), None, "nor because of what it left");
    let later = RETRY_AFTER;
    spiller.tick(later, &mut effects);
    let again = job(&mut effects).unwrap();
    assert_eq!(contents(&again), [1]);
    spiller.written(&again, all(&again), later, &mut effects);
    effects.clear();
    // There is room for the third now, and none on disk for the second.
    assert_eq!(spiller.ask(demand(4, 1), later, &mut effects), None);
    spiller.tick(later + STALL, &mut effects);
    let Some(Effect::Tell { id: 4, room: Err(error), .. }) = effects.first() else { panic!("{effects:?}") };
    let Error::OutOfDisk { used_bytes, limit_bytes, .. } = error else { panic!("{error:?}") };
    assert_eq!((*used_bytes, *limit_bytes), (4 * PAGE, 4 * PAGE));
    let Claimed::Here(_) = spiller.claim(ContentId(2), later, &mut effects) else { panic!("it stays") };
}

#[test]
fn files_are_shared_up_to_their_size_and_holes_are_given_back() {
    let mut spiller = spiller(100, 0, 100);
    let mut effects = Vec::new();
    let mut files = Vec::new();
    for n in 1..=12 {
        store(&mut spiller, n, if n == 10 { 20 } else { 2 }, &mut effects);
        while let Some(parts) = job(&mut effects) {
            files.extend(parts.iter().map(|part| part.extent.file.0));
            spiller.written(&parts, all(&parts), NOW, &mut effects);
        }
    }
    assert_eq!(files, [1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 3, 3], "the large one has its own");
    effects.clear();
    spiller.discard(ContentId(1), None, NOW, &mut effects);
    let Some(Effect::Punch(extent)) = effects.pop() else { panic!("{effects:?}") };
    let before = spiller.stats().disk_bytes;
    spiller.punched(extent, NOW, &mut effects);
    assert_eq!(before - spiller.stats().disk_bytes, 2 * PAGE);
}

// ---- against a plain model ----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Ask(u64),
    Cancel(usize),
    Seal(usize, bool),
    Abort(usize),
    NotMade(usize),
    Shelve(usize),
    Claim(usize),
    Free(usize),
    Write(usize, bool),
    Read(usize, u8),
    Disk(usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..14).prop_map(Step::Ask),
        1 => any::<usize>().prop_map(Step::Cancel),
        6 => (any::<usize>(), proptest::bool::weighted(0.2)).prop_map(|(n, copy)| Step::Seal(n, copy)),
        1 => any::<usize>().prop_map(Step::Abort),
        1 => any::<usize>().prop_map(Step::NotMade),
        4 => any::<usize>().prop_map(Step::Shelve),
        5 => any::<usize>().prop_map(Step::Claim),
        3 => any::<usize>().prop_map(Step::Free),
        5 => (any::<usize>(), proptest::bool::weighted(0.3)).prop_map(|(n, fails)| Step::Write(n, fails)),
        4 => (any::<usize>(), 0u8..8).prop_map(|(n, how)| Step::Read(n, how)),
        3 => (any::<usize>(), proptest::bool::weighted(0.8)).prop_map(|(n, works)| Step::Disk(n, works)),
        1 => (1u64..40).prop_map(Step::Wait),
    ]
}

/// What the tables, the memory and the disk around a spiller are, as plain as can be.
#[derive(Default)]
struct World {
    now: Duration,
    next: u64,
    /// Who waits for room, in order of arrival.
    asking: BTreeSet<u64>,
    /// Segments that are being written by processes.
    creating: BTreeMap<SegmentId, u64>,
    /// Contents that are of use: their sizes, and what the table knows of them.
    live: BTreeMap<ContentId, (u64, Known)>,
    /// What lies where; what is overwritten is not here any more.
    memory: BTreeMap<SegmentId, ContentId>,
    disk: BTreeMap<(FileId, u64), ContentId>,
    /// What the files take.
    taken: BTreeMap<FileId, u64>,
    job: Option<Vec<Part>>,
    reads: BTreeMap<ContentId, Read>,
    chores: Vec<Effect>,
    watched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Taken(SegmentId),
    Shelved { copy: bool },
    Coming,
}

impl World {
    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Tell { to, id, room } => {
                    prop_assert_eq!(to, ME);
                    prop_assert!(self.asking.remove(&id), "told twice");
                    if let Ok(reserved) = room {
                        prop_assert!(self.asking.first().is_none_or(|first| *first > id), "somebody was overtaken");
                        self.granted(id, &reserved)?;
                    }
                }
                Effect::Write(parts) => {
                    for part in &parts {
                        *self.taken.entry(part.extent.file).or_default() += padded(part.extent.size_bytes);
                        prop_assert!(
                            !self.live.get(&part.content).is_some_and(|(_, known)| matches!(known, Known::Taken(_)))
                        );
                    }
                    prop_assert!(self.job.replace(parts).is_none(), "two jobs at once");
                }
                Effect::Read(read) => {
                    prop_assert_eq!(self.live[&read.content].1, Known::Coming);
                    prop_assert_eq!(read.checksum, read.content.0);
                    self.overwrite(read.reserved.segment)?;
                    prop_assert!(self.reads.insert(read.content, read).is_none(), "read twice at once");
                }
                Effect::Restored { content, result, .. } => {
                    let known = &mut self.live.get_mut(&content).expect("nobody hears of what is freed").1;
                    prop_assert_eq!(*known, Known::Coming);
                    match result {
                        Ok(segment) => {
                            prop_assert_eq!(self.memory.get(&segment), Some(&content), "other bytes");
                            *known = Known::Taken(segment);
                        }
                        Err(NotRestored { lost: true, .. }) => {
                            self.live.remove(&content);
                        }
                        Err(NotRestored { lost: false, .. }) => *known = Known::Shelved { copy: false },
                    }
                }
                Effect::Evicted { content, .. } => {
                    prop_assert_eq!(
                        self.live.remove(&content).map(|(_, known)| known),
                        Some(Known::Shelved { copy: true })
                    );
                }
                Effect::Punch(Extent { file, offset, .. }) => {
                    self.disk.remove(&(file, offset));
                    self.chores.push(effect);
                }
                Effect::Remove(file) => {
                    self.disk.retain(|(other, _), _| *other != file);
                    self.chores.push(effect);
                }
                Effect::Watch => {
                    prop_assert!(!std::mem::replace(&mut self.watched, true));
                }
            }
        }
        Ok(())
    }

    fn granted(&mut self, id: u64, reserved: &Reserved) -> Result<(), TestCaseError> {
        self.overwrite(reserved.segment)?;
        self.creating.insert(reserved.segment, id);
        Ok(())
    }

    /// Somebody else writes there from now on.
    fn overwrite(&mut self, segment: SegmentId) -> Result<(), TestCaseError> {
        prop_assert!(!self.creating.contains_key(&segment), "a segment that is being written is given out");
        let read = |(_, known): &(u64, Known)| *known == Known::Taken(segment);
        prop_assert!(!self.live.values().any(read), "a segment that is read is given out");
        let of_job = self.job.iter().flatten().any(|part| part.segment == segment);
        prop_assert!(!of_job, "a segment that is being spilled is given out");
        prop_assert!(!self.reads.values().any(|read| read.reserved.segment == segment));
        self.memory.remove(&segment);
        Ok(())
    }

    /// Ends the job that is under way; at its place on disk is now what was in memory.
    fn end_job(&mut self, done: usize, fails: bool) -> Option<(Vec<Part>, Written)> {
        let parts = self.job.take()?;
        let done = if fails { done % parts.len() } else { parts.len() };
        let mut checksums = Vec::new();
        for part in &parts[..done] {
            if let Some(content) = self.memory.get(&part.segment) {
                self.disk.insert((part.extent.file, part.extent.offset), *content);
            }
            checksums.push(part.content.0);
        }
        Some((parts, Written { checksums, error: fails.then(|| "broken".to_owned()) }))
    }

    fn agrees(&self, spiller: &Spiller) -> Result<(), TestCaseError> {
        let ledger = spiller.ledger();
        prop_assert!(ledger.used_bytes() + ledger.idle_bytes() <= ledger.capacity_bytes());
        prop_assert_eq!(spiller.files.disk_bytes(), self.taken.values().sum::<u64>(), "the disk's books");
        prop_assert!(spiller.files.disk_bytes() <= spiller.files.limit_bytes());
        for (content, (_, known)) in &self.live {
            let in_memory = |segment| self.memory.get(&segment) == Some(content);
            match known {
                Known::Taken(segment) => prop_assert!(in_memory(*segment), "{content:?} is not where it is read"),
                Known::Shelved { .. } | Known::Coming => {
                    let entry = &spiller.contents[content];
                    let on_disk = entry.image.is_some_and(|Image { extent, .. }| {
                        self.disk.get(&(extent.file, extent.offset)) == Some(content)
                    });
                    let unread = matches!(entry.state, State::Unread { .. });
                    let here = unread && entry.segment.is_some_and(in_memory);
                    prop_assert!(on_disk || here, "{content:?} is lost: {entry:?}");
                    prop_assert_eq!(entry.image.is_some(), on_disk, "an image that is not there");
                }
            }
        }
        // Every byte that is not idle belongs to somebody.
        let class = |pages: u64| class_bytes(pages * PAGE).unwrap();
        let creating: u64 = self.creating.keys().map(|segment| class(self.size_in(*segment))).sum();
        let taken = |(pages, known): &(u64, Known)| matches!(known, Known::Taken(_)).then(|| class(*pages));
        let never_shelved: u64 = self
            .live
            .iter()
            .filter(|(content, _)| !spiller.contents.contains_key(content))
            .filter_map(|(_, entry)| taken(entry))
            .sum();
        let known: u64 = spiller
            .contents
            .values()
            .filter(|entry| entry.segment.is_some())
            .map(|entry| class_bytes(entry.size_bytes).unwrap())
            .sum();
        prop_assert_eq!(ledger.used_bytes(), creating + never_shelved + known, "the memory's books");
        // Whoever could be helped by spilling is being helped.
        let may_write = !spiller.writing && spiller.trouble.as_ref().is_none_or(|t| self.now >= t.retry_at);
        if let Some(oldest) = spiller.dirty.values().next().filter(|_| may_write) {
            let fits = spiller.files.has_room(padded(spiller.contents[oldest].size_bytes));
            let pressed = !spiller.queue.is_empty() || ledger.busy_bytes() > spiller.limits.high_water_bytes;
            prop_assert!(!fits || !pressed || spiller.trouble.is_some(), "nothing is being written");
        }
        prop_assert_eq!(spiller.watched, self.watched, "who looks after those who wait");
        prop_assert!(spiller.watched || spiller.queue.is_empty(), "nobody looks after those who wait");
        Ok(())
    }

    fn size_in(&self, segment: SegmentId) -> u64 {
        size_of(self.creating[&segment])
    }
}

/// The size of a demand, in pages.
fn size_of(id: u64) -> u64 {
    id % 16
}

fn nth<T: Copy>(mut all: impl Iterator<Item = T> + Clone, n: usize) -> Option<T> {
    let count = all.clone().count();
    (count > 0).then(|| all.nth(n % count))?
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Nothing of use is ever lost or overwritten, no byte of memory or disk is counted twice or
    /// leaked, whoever waits for room is told once and in order, and in the end all is free.
    #[test]
    fn keeps_its_promises(steps in proptest::collection::vec(step(), 1..100), small_disk in any::<bool>()) {
        let mut spiller = spiller(32, 24, if small_disk { 20 } else { 1000 });
        let mut world = World::default();
        for step in steps {
            let mut effects = Vec::new();
            let now = world.now;
            let shelved = |known: &Known| matches!(known, Known::Shelved { .. });
            match step {
                Step::Ask(pages) => {
                    world.next += 1;
                    // The number says the size.
                    let id = world.next * 16 + pages;
                    world.asking.insert(id);
                    if let Some(reserved) = spiller.ask(demand(id, pages), now, &mut effects) {
                        prop_assert!(world.asking.remove(&id) && world.asking.is_empty(), "somebody was overtaken");
                        // What was evicted for it is said first.
                        world.carry_out(std::mem::take(&mut effects))?;
                        world.granted(id, &reserved)?;
                        spiller.made(reserved.segment, now, &mut effects);
                    }
                }
                Step::Cancel(n) => if let Some(id) = nth(world.asking.iter().copied(), n) {
                    world.asking.remove(&id);
                    spiller.cancel(ME, id, now, &mut effects);
                },
                Step::Seal(n, copy) => if let Some(segment) = nth(world.creating.keys().copied(), n) {
                    let pages = world.size_in(segment);
                    world.creating.remove(&segment);
                    spiller.made(segment, now, &mut effects);
                    world.next += 1;
                    let content = ContentId(world.next);
                    world.memory.insert(segment, content);
                    if n % 4 == 0 {
                        world.live.insert(content, (pages, Known::Taken(segment)));
                    } else {
                        world.live.insert(content, (pages, Known::Shelved { copy }));
                        spiller.shelve(content, segment, (object(content.0), pages * PAGE), copy, now, &mut effects);
                    }
                },
                Step::Abort(n) => if let Some(segment) = nth(world.creating.keys().copied(), n) {
                    world.creating.remove(&segment);
                    spiller.made(segment, now, &mut effects);
                    spiller.recycle(segment, now, &mut effects);
                },
                Step::NotMade(n) => if let Some(segment) = nth(world.creating.keys().copied(), n) {
                    world.creating.remove(&segment);
                    spiller.failed(segment, now, &mut effects);
                    // If it had been made before, it is given back instead.
                    spiller.recycle(segment, now, &mut effects);
                },
                Step::Shelve(n) => {
                    let taken = world.live.iter().filter_map(|(content, (pages, known))| match known {
                        Known::Taken(segment) => Some((*content, *pages, *segment)),
                        _ => None,
                    });
                    if let Some((content, pages, segment)) = nth(taken, n) {
                        let known = spiller.contents.get(&content);
                        let copy = known.is_some_and(|entry| entry.copy);
                        world.live.insert(content, (pages, Known::Shelved { copy }));
                        spiller.shelve(content, segment, (object(content.0), pages * PAGE), copy, now, &mut effects);
                    }
                }
                Step::Claim(n) => {
                    let all = world.live.iter().filter(|(_, (_, known))| shelved(known)).map(|(content, _)| *content);
                    if let Some(content) = nth(all, n) {
                        let entry = world.live.get_mut(&content).unwrap();
                        match spiller.claim(content, now, &mut effects) {
                            Claimed::Here(segment) => {
                                prop_assert_eq!(world.memory.get(&segment), Some(&content), "other bytes");
                                entry.1 = Known::Taken(segment);
                            }
                            Claimed::Coming => entry.1 = Known::Coming,
                            Claimed::Gone => prop_assert!(false, "{content:?} is gone"),
                        }
                    }
                }
                Step::Free(n) => if let Some(content) = nth(world.live.keys().copied(), n) {
                    let segment = match world.live.remove(&content).unwrap().1 {
                        Known::Taken(segment) => Some(segment),
                        _ => None,
                    };
                    spiller.discard(content, segment, now, &mut effects);
                },
                Step::Write(n, fails) => if let Some((parts, written)) = world.end_job(n, fails) {
                    spiller.written(&parts, written, now, &mut effects);
                },
                Step::Read(n, how) => if let Some(content) = nth(world.reads.keys().copied(), n) {
                    let read = world.reads.remove(&content).unwrap();
                    let error = Error::System { what: "reading".to_owned(), why: "test".to_owned() };
                    let end = match how {
                        0 => ReadEnd::Damaged("test".to_owned()),
                        1 => ReadEnd::NoSegment(error),
                        _ => {
                            spiller.made(read.reserved.segment, now, &mut effects);
                            if how == 2 { ReadEnd::Failed(error) } else { ReadEnd::Done }
                        }
                    };
                    if how == 0 {
                        spiller.made(read.reserved.segment, now, &mut effects);
                    }
                    let found = world.disk.get(&(read.extent.file, read.extent.offset));
                    if let (ReadEnd::Done, Some(found)) = (&end, found) {
                        world.memory.insert(read.reserved.segment, *found);
                    }
                    spiller.read(content, end, now, &mut effects);
                },
                Step::Disk(n, works) => if !world.chores.is_empty() {
                    match world.chores.remove(n % world.chores.len()) {
                        Effect::Punch(extent) if works => {
                            if let Some(taken) = world.taken.get_mut(&extent.file) {
                                *taken -= padded(extent.size_bytes);
                            }
                            spiller.punched(extent, now, &mut effects);
                        }
                        Effect::Remove(file) => {
                            world.taken.remove(&file);
                            spiller.removed(file, now, &mut effects);
                        }
                        _ => {}
                    }
                },
                Step::Wait(seconds) => {
                    world.now += Duration::from_secs(seconds);
                    world.watched = spiller.tick(world.now, &mut effects);
                }
            }
            world.carry_out(effects)?;
            world.agrees(&spiller)?;
        }
        // All that is under way ends.
        for _ in 0..200 {
            let mut effects = Vec::new();
            let now = world.now;
            if let Some((parts, written)) = world.end_job(0, false) {
                spiller.written(&parts, written, now, &mut effects);
            }
            world.carry_out(std::mem::take(&mut effects))?;
            for (content, read) in std::mem::take(&mut world.reads) {
                spiller.made(read.reserved.segment, now, &mut effects);
                let found = world.disk[&(read.extent.file, read.extent.offset)];
                world.memory.insert(read.reserved.segment, found);
                spiller.read(content, ReadEnd::Done, now, &mut effects);
                world.carry_out(std::mem::take(&mut effects))?;
            }
            world.now += Duration::from_secs(5);
            world.watched = spiller.tick(world.now, &mut effects);
            world.carry_out(effects)?;
            world.agrees(&spiller)?;
        }
        prop_assert!(world.asking.is_empty() && spiller.queue.is_empty(), "somebody waits for ever");
        prop_assert!(!world.live.values().any(|(_, known)| *known == Known::Coming));
        for (content, (_, known)) in std::mem::take(&mut world.live) {
            let mut effects = Vec::new();
            let segment = if let Known::Taken(segment) = known { Some(segment) } else { None };
            spiller.discard(content, segment, world.now, &mut effects);
            world.carry_out(effects)?;
        }
        for segment in std::mem::take(&mut world.creating).into_keys() {
            let mut effects = Vec::new();
            spiller.made(segment, world.now, &mut effects);
            spiller.recycle(segment, world.now, &mut effects);
            world.carry_out(effects)?;
        }
        if let Some((parts, written)) = world.end_job(0, false) {
            let mut effects = Vec::new();
            spiller.written(&parts, written, world.now, &mut effects);
            world.carry_out(effects)?;
        }
        for chore in std::mem::take(&mut world.chores) {
            if let Effect::Remove(file) = chore {
                spiller.removed(file, world.now, &mut Vec::new());
            }
        }
        prop_assert!(spiller.contents.is_empty() && spiller.dirty.is_empty(), "{:?}", spiller.contents);
        prop_assert_eq!((spiller.ledger().used_bytes(), spiller.files.disk_bytes()), (0, 0));
        prop_assert_eq!(spiller.stats().disk_objects, 0);
    }
}
