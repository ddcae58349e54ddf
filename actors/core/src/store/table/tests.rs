use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn process(n: u128) -> ProcessId {
    ProcessId(Uuid::from_u128(n))
}

fn node(n: u16) -> ProcessAddr {
    let socket = SocketAddr::from((Ipv4Addr::LOCALHOST, n));
    ProcessAddr { id: process(1000 + u128::from(n)), socket }
}

fn object(n: u64) -> ObjectId {
    ObjectId { owner: process(0), seq: n, index: 0 }
}

fn stored(n: u64, nodes: &[ProcessAddr]) -> StoredObject {
    StoredObject { object: object(n), encoding: Encoding::RAW, size_bytes: 100, nodes: nodes.iter().copied().collect() }
}

/// The creation of an object by this attempt of its task.
fn new(n: u64, attempt: u32) -> CreateObject {
    CreateObject { object: object(n), encoding: Encoding::RAW, size_bytes: 100, attempt, number: 0 }
}

fn table() -> Table {
    Table::new(node(0).id, 0, 1)
}

/// Nothing that is shelved is moved: content n lies in segment n.
fn keep(content: ContentId) -> Claimed {
    Claimed::Here(SegmentId(content.0))
}

fn shelve(content: u64, segment: u64, n: u64, copy: bool) -> Effect {
    let (content, segment, object) = (ContentId(content), SegmentId(segment), object(n));
    Effect::Shelve { content, segment, object, size_bytes: 100, copy }
}

fn discard(content: u64, segment: Option<u64>) -> Effect {
    Effect::Discard(ContentId(content), segment.map(SegmentId))
}

fn located(n: u64) -> Located {
    Located { segment: SegmentId(n), encoding: Encoding::RAW, size_bytes: 100 }
}

fn is_lost(effect: &Effect, waiter: WaiterId) -> bool {
    matches!(effect, Effect::Answer { waiter: told, result: Err(Error::ObjectLost { .. }) } if *told == waiter)
}

#[test]
fn a_get_waits_for_the_seal_and_its_pin_defers_the_free() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.get(7, process(2), &stored(1, &[node(0)]), &mut keep, &mut effects);
    assert_eq!(effects, vec![]);
    table.seal(SegmentId(1), process(9), &mut effects);
    assert_eq!(effects, vec![], "only the writer seals");
    table.seal(SegmentId(1), process(1), &mut effects);
    assert_eq!(effects, vec![Effect::Answer { waiter: 7, result: Ok(located(1)) }]);
    effects.clear();
    table.free(object(1), &mut effects);
    table.get(8, process(2), &stored(1, &[node(0)]), &mut keep, &mut effects);
    assert!(is_lost(&effects[0], 8), "a freed object is gone for new gets: {effects:?}");
    effects.clear();
    table.release(SegmentId(1), process(2), 1, &mut effects);
    assert_eq!(effects, vec![discard(1, Some(1))]);
    assert_eq!(table.len(), 0);
}

#[test]
fn the_first_seal_wins() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.create(SegmentId(2), &new(1, 1), process(2));
    table.seal(SegmentId(2), process(2), &mut effects);
    assert_eq!(effects, vec![shelve(1, 2, 1, false)]);
    effects.clear();
    table.seal(SegmentId(1), process(1), &mut effects);
    assert_eq!(effects, vec![Effect::Recycle(SegmentId(1))]);
    effects.clear();
    table.get(1, process(3), &stored(1, &[node(0)]), &mut |_| Claimed::Here(SegmentId(2)), &mut effects);
    assert_eq!(effects, vec![Effect::Answer { waiter: 1, result: Ok(located(2)) }]);
}

#[test]
fn the_death_of_the_last_writer_is_told_to_the_waiters() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.create(SegmentId(2), &new(1, 1), process(2));
    table.get(1, process(3), &stored(1, &[node(0)]), &mut keep, &mut effects);
    table.process_died(process(1), &mut effects);
    assert_eq!(effects, vec![Effect::Recycle(SegmentId(1))]);
    effects.clear();
    table.abort(SegmentId(2), process(2), true, &mut effects);
    assert_eq!(effects[0], Effect::Recycle(SegmentId(2)));
    assert!(is_lost(&effects[1], 1));
    assert_eq!(table.len(), 0);
}

#[test]
fn one_pull_serves_all_who_wait_and_new_sources_are_added() {
    let mut table = table();
    let mut effects = Vec::new();
    table.get(1, process(1), &stored(1, &[node(1)]), &mut keep, &mut effects);
    table.get(2, process(2), &stored(1, &[node(1), node(0)]), &mut keep, &mut effects);
    table.get(3, process(2), &stored(1, &[node(1), node(2)]), &mut keep, &mut effects);
    assert_eq!(effects, vec![Effect::Pull(stored(1, &[node(1)])), Effect::Pull(stored(1, &[node(2)]))]);
    effects.clear();
    table.pulled(object(1), Encoding::RAW, 100, SegmentId(5), &mut effects);
    let told: Vec<_> = (1..=3).map(|waiter| Effect::Answer { waiter, result: Ok(located(5)) }).collect();
    assert_eq!(effects, told);
    effects.clear();
    table.process_died(process(2), &mut effects);
    assert_eq!(effects, vec![]);
    table.release(SegmentId(5), process(1), 1, &mut effects);
    assert_eq!(effects, vec![shelve(1, 5, 1, true)]);
}

#[test]
fn an_evicted_copy_is_pulled_again() {
    let mut table = table();
    let mut effects = Vec::new();
    table.get(1, process(1), &stored(1, &[node(1)]), &mut keep, &mut effects);
    table.pulled(object(1), Encoding::RAW, 100, SegmentId(5), &mut effects);
    table.release(SegmentId(5), process(1), 1, &mut effects);
    effects.clear();
    table.get(2, process(1), &stored(1, &[node(1)]), &mut |_| Claimed::Gone, &mut effects);
    assert_eq!(effects, vec![Effect::Pull(stored(1, &[node(1)]))]);
    effects.clear();
    table.pulled(object(1), Encoding::RAW, 100, SegmentId(6), &mut effects);
    table.release(SegmentId(6), process(1), 1, &mut effects);
    // The news of the first eviction comes late and means nothing.
    table.evicted(ContentId(1));
    assert_eq!(table.len(), 1);
    table.evicted(ContentId(2));
    assert_eq!(table.len(), 0);
}

#[test]
fn many_gets_of_a_spilled_object_are_one_claim() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.seal(SegmentId(1), process(1), &mut effects);
    assert_eq!(effects, vec![shelve(1, 1, 1, false)]);
    effects.clear();
    assert_eq!(table.list(&|_| true)[0].state, ObjectState::Spilled);
    let mut claims = 0;
    let mut claim = |_| {
        claims += 1;
        Claimed::Coming
    };
    for waiter in 1..=3 {
        table.get(waiter, process(2), &stored(1, &[node(0)]), &mut claim, &mut effects);
    }
    assert_eq!(claims, 1);
    assert_eq!(effects, vec![]);
    table.restored(ContentId(1), Ok(SegmentId(7)), &mut effects);
    let told: Vec<_> = (1..=3).map(|waiter| Effect::Answer { waiter, result: Ok(located(7)) }).collect();
    assert_eq!(effects, told);
    effects.clear();
    assert_eq!(table.list(&|_| true)[0].state, ObjectState::Sealed);
    table.release(SegmentId(7), process(2), 3, &mut effects);
    assert_eq!(effects, vec![shelve(1, 7, 1, false)]);
}

#[test]
fn what_cannot_be_restored_is_an_error_and_stays_unless_it_is_lost() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.seal(SegmentId(1), process(1), &mut effects);
    let error = Error::ObjectLost { object: object(1), why: "test".to_owned() };
    for lost in [false, true] {
        table.get(1, process(2), &stored(1, &[node(0)]), &mut |_| Claimed::Coming, &mut effects);
        effects.clear();
        table.restored(ContentId(1), Err(NotRestored { error: error.clone(), lost }), &mut effects);
        assert!(is_lost(&effects[0], 1), "{effects:?}");
        assert_eq!(table.len(), usize::from(!lost));
    }
}

#[test]
fn what_is_freed_while_it_is_being_restored_is_discarded_at_once() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.seal(SegmentId(1), process(1), &mut effects);
    table.get(1, process(2), &stored(1, &[node(0)]), &mut |_| Claimed::Coming, &mut effects);
    effects.clear();
    table.free(object(1), &mut effects);
    assert!(is_lost(&effects[0], 1));
    assert_eq!(effects[1..], [discard(1, None)]);
    effects.clear();
    table.restored(ContentId(1), Ok(SegmentId(7)), &mut effects);
    assert_eq!(effects, vec![], "the spiller knows that nobody wants it");
}

#[test]
fn a_free_follows_the_copies_and_drops_a_late_pull() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.seal(SegmentId(1), process(1), &mut effects);
    table.serve(object(1), node(3), &[]);
    table.free(object(1), &mut effects);
    assert_eq!(effects[1..], [discard(1, None), Effect::ForwardFree(object(1), vec![node(3)])]);
    effects.clear();
    table.get(1, process(1), &stored(2, &[node(1)]), &mut keep, &mut effects);
    table.free(object(2), &mut effects);
    assert!(is_lost(&effects[1], 1));
    effects.clear();
    table.pulled(object(2), Encoding::RAW, 100, SegmentId(9), &mut effects);
    assert_eq!(effects, vec![Effect::Recycle(SegmentId(9))]);
}

#[test]
fn the_latest_attempt_wins_and_discarding_another_one_does_not_harm_it() {
    let mut table = table();
    let mut effects = Vec::new();
    for (n, attempt) in [(1, 1), (2, 2), (3, 1)] {
        table.create(SegmentId(n), &new(1, attempt), process(n.into()));
    }
    table.seal(SegmentId(1), process(1), &mut effects);
    assert_eq!(effects, vec![shelve(1, 1, 1, false)]);
    table.seal(SegmentId(2), process(2), &mut effects);
    assert_eq!(effects[1..], [discard(1, None), shelve(2, 2, 1, false)], "superseded");
    table.seal(SegmentId(3), process(3), &mut effects);
    assert_eq!(effects[3..], [Effect::Recycle(SegmentId(3))], "too late");
    effects.clear();
    table.discard(object(1), 1, &mut effects);
    table.get(1, process(3), &stored(1, &[node(0)]), &mut keep, &mut effects);
    assert_eq!(effects, vec![Effect::Answer { waiter: 1, result: Ok(located(2)) }]);
}

#[test]
fn what_a_discarded_attempt_has_stored_or_still_writes_goes() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.seal(SegmentId(1), process(1), &mut effects);
    table.create(SegmentId(2), &new(2, 1), process(1));
    table.create(SegmentId(3), &new(2, 2), process(2));
    effects.clear();
    table.discard(object(1), 1, &mut effects);
    assert_eq!(effects, vec![discard(1, None)]);
    effects.clear();
    table.discard(object(2), 1, &mut effects);
    table.seal(SegmentId(2), process(1), &mut effects);
    assert_eq!(effects, vec![Effect::Recycle(SegmentId(2))]);
    effects.clear();
    table.seal(SegmentId(3), process(2), &mut effects);
    assert_eq!(effects, vec![shelve(2, 3, 2, false)]);
    effects.clear();
    table.get(1, process(3), &stored(2, &[node(0)]), &mut |_| Claimed::Here(SegmentId(3)), &mut effects);
    assert_eq!(effects, vec![Effect::Answer { waiter: 1, result: Ok(located(3)) }], "the other attempt's stays");
}

#[test]
fn an_abandoned_creation_gives_its_room_back() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &CreateObject { number: 5, ..new(1, 0) }, process(1));
    table.create(SegmentId(2), &CreateObject { number: 6, ..new(2, 0) }, process(1));
    table.create(SegmentId(3), &CreateObject { number: 5, ..new(3, 0) }, process(2));
    table.abandon(5, process(1), &mut effects);
    table.abandon(5, process(1), &mut effects);
    assert_eq!(effects, vec![Effect::Recycle(SegmentId(1))]);
    assert_eq!(table.len(), 2);
}

#[test]
fn what_a_dead_process_owned_is_freed() {
    let mut table = table();
    let mut effects = Vec::new();
    table.create(SegmentId(1), &new(1, 1), process(1));
    table.seal(SegmentId(1), process(1), &mut effects);
    table.get(1, process(2), &stored(1, &[node(0)]), &mut keep, &mut effects);
    effects.clear();
    table.process_died(object(1).owner, &mut effects);
    assert_eq!(effects, vec![], "somebody reads it");
    table.release(SegmentId(1), process(2), 1, &mut effects);
    assert_eq!(effects, vec![discard(1, Some(1))]);
}

#[derive(Clone, Debug)]
enum Step {
    Create {
        object: u64,
        attempt: u32,
        by: u128,
    },
    Discard {
        object: u64,
        attempt: u32,
    },
    Seal(usize),
    Abort(usize),
    Abandon(usize),
    Get {
        object: u64,
        by: u128,
        remote: bool,
    },
    Release(usize),
    Free(u64),
    Pulled(usize),
    PullFailed(usize),
    /// Memory of a shelved content is needed: a copy is given up, another one is on disk alone.
    Evict(usize),
    Restored(usize),
    RestoreFailed(usize, bool),
    Died(u128),
}

fn step() -> impl Strategy<Value = Step> {
    let object = 0u64..5;
    let by = 1u128..4;
    prop_oneof![
        3 => (object.clone(), 1u32..4, by.clone())
            .prop_map(|(object, attempt, by)| Step::Create { object, attempt, by }),
        1 => (object.clone(), 1u32..4).prop_map(|(object, attempt)| Step::Discard { object, attempt }),
        1 => any::<usize>().prop_map(Step::Abandon),
        3 => any::<usize>().prop_map(Step::Seal),
        1 => any::<usize>().prop_map(Step::Abort),
        5 => (object.clone(), by.clone(), any::<bool>())
            .prop_map(|(object, by, remote)| Step::Get { object, by, remote }),
        4 => any::<usize>().prop_map(Step::Release),
        1 => object.prop_map(Step::Free),
        2 => any::<usize>().prop_map(Step::Pulled),
        1 => any::<usize>().prop_map(Step::PullFailed),
        2 => any::<usize>().prop_map(Step::Evict),
        2 => any::<usize>().prop_map(Step::Restored),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, lost)| Step::RestoreFailed(n, lost)),
        // Process 0 owns all objects.
        1 => (0u128..4).prop_map(Step::Died),
    ]
}

/// The world around a table, as plain as can be.
#[derive(Default)]
struct World {
    next_segment: u64,
    next_waiter: WaiterId,
    /// Segments given to the table and not given back; the writers of those being written.
    out: BTreeSet<SegmentId>,
    writing: BTreeMap<SegmentId, u128>,
    pulls: BTreeSet<ObjectId>,
    waiting: BTreeMap<WaiterId, u128>,
    /// One entry per pin.
    pins: Vec<(SegmentId, u128)>,
    shelf: BTreeMap<ContentId, Shelved>,
}

struct Shelved {
    /// Absent when it is on disk alone.
    segment: Option<SegmentId>,
    copy: bool,
    /// It has been asked for.
    coming: bool,
}

impl World {
    fn segment(&mut self) -> SegmentId {
        self.next_segment += 1;
        self.out.insert(SegmentId(self.next_segment));
        SegmentId(self.next_segment)
    }

    fn claim(&mut self, content: ContentId) -> Claimed {
        let Some(shelved) = self.shelf.get_mut(&content) else { return Claimed::Gone };
        assert!(!shelved.coming, "claimed twice");
        match shelved.segment {
            Some(segment) => {
                self.shelf.remove(&content);
                Claimed::Here(segment)
            }
            None => {
                shelved.coming = true;
                Claimed::Coming
            }
        }
    }

    fn coming(&self, n: usize) -> Option<ContentId> {
        let coming: Vec<_> = self.shelf.iter().filter(|(_, shelved)| shelved.coming).map(|(c, _)| *c).collect();
        (!coming.is_empty()).then(|| coming[n % coming.len()])
    }

    fn shelved_in(&self, segment: SegmentId) -> bool {
        self.shelf.values().any(|shelved| shelved.segment == Some(segment))
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Answer { waiter, result } => {
                    let by = self.waiting.remove(&waiter);
                    prop_assert!(by.is_some(), "a waiter is told once, and only while it lives");
                    if let Ok(located) = result {
                        prop_assert!(self.out.contains(&located.segment), "a recycled segment is read");
                        prop_assert!(!self.writing.contains_key(&located.segment), "an unsealed segment is read");
                        prop_assert!(!self.shelved_in(located.segment), "a shelved segment is read");
                        self.pins.push((located.segment, by.unwrap()));
                    }
                }
                Effect::Recycle(segment) => {
                    prop_assert!(self.out.remove(&segment), "recycled twice: {segment:?}");
                    prop_assert!(self.pins.iter().all(|(pinned, _)| *pinned != segment), "recycled while pinned");
                    prop_assert!(!self.shelved_in(segment), "recycled while it is shelved");
                }
                Effect::Shelve { content, segment, copy, .. } => {
                    prop_assert!(self.pins.iter().all(|(pinned, _)| *pinned != segment), "shelved while pinned");
                    let shelved = Shelved { segment: Some(segment), copy, coming: false };
                    prop_assert!(self.shelf.insert(content, shelved).is_none(), "shelved twice");
                }
                Effect::Discard(content, segment) => {
                    let shelved = self.shelf.remove(&content);
                    prop_assert!(shelved.is_none() || segment.is_none(), "discarded as if the table had it");
                    if let Some(segment) = segment.or(shelved.and_then(|shelved| shelved.segment)) {
                        prop_assert!(self.pins.iter().all(|(pinned, _)| *pinned != segment), "discarded while pinned");
                        prop_assert!(self.out.remove(&segment), "discarded twice: {segment:?}");
                    }
                }
                Effect::Pull(wanted) => {
                    self.pulls.insert(wanted.object);
                }
                Effect::ForwardFree(..) => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every waiter is answered once, no segment is recycled while it is pinned, and when all is
    /// freed and everybody dead every segment has come back.
    #[test]
    fn keeps_its_promises(steps in proptest::collection::vec(step(), 1..60)) {
        let mut table = table();
        let mut world = World::default();
        let nth = |n: usize, len: usize| (len > 0).then(|| n % len);
        for step in steps {
            let mut effects = Vec::new();
            match step {
                Step::Create { object: n, attempt, by } => {
                    let segment = world.segment();
                    world.writing.insert(segment, by);
                    table.create(segment, &CreateObject { number: segment.0, ..new(n, attempt) }, process(by));
                }
                Step::Discard { object: n, attempt } => table.discard(object(n), attempt, &mut effects),
                Step::Abandon(n) => if let Some(n) = nth(n, world.writing.len()) {
                    let (segment, by) = world.writing.iter().nth(n).map(|(s, by)| (*s, *by)).unwrap();
                    world.writing.remove(&segment);
                    table.abandon(segment.0, process(by), &mut effects);
                },
                Step::Seal(n) => if let Some(n) = nth(n, world.writing.len()) {
                    let (segment, by) = world.writing.iter().nth(n).map(|(s, by)| (*s, *by)).unwrap();
                    world.writing.remove(&segment);
                    table.seal(segment, process(by), &mut effects);
                },
                Step::Abort(n) => if let Some(n) = nth(n, world.writing.len()) {
                    let (segment, by) = world.writing.iter().nth(n).map(|(s, by)| (*s, *by)).unwrap();
                    world.writing.remove(&segment);
                    table.abort(segment, process(by), true, &mut effects);
                },
                Step::Get { object: n, by, remote } => {
                    let nodes: &[ProcessAddr] = if remote { &[node(0), node(1)] } else { &[node(0)] };
                    world.next_waiter += 1;
                    let waiter = world.next_waiter;
                    world.waiting.insert(waiter, by);
                    table.get(waiter, process(by), &stored(n, nodes), &mut |c| world.claim(c), &mut effects);
                }
                Step::Release(n) => if let Some(n) = nth(n, world.pins.len()) {
                    let (segment, by) = world.pins.remove(n);
                    table.release(segment, process(by), 1, &mut effects);
                },
                Step::Free(n) => table.free(object(n), &mut effects),
                Step::Pulled(n) => if let Some(n) = nth(n, world.pulls.len()) {
                    let object = *world.pulls.iter().nth(n).unwrap();
                    world.pulls.remove(&object);
                    let segment = world.segment();
                    table.pulled(object, Encoding::RAW, 100, segment, &mut effects);
                },
                Step::PullFailed(n) => if let Some(n) = nth(n, world.pulls.len()) {
                    let object = *world.pulls.iter().nth(n).unwrap();
                    world.pulls.remove(&object);
                    let error = Error::ObjectLost { object, why: "test".to_owned() };
                    table.pull_failed(object, error, &mut effects);
                },
                Step::Evict(n) => {
                    let here: Vec<_> = world.shelf.iter()
                        .filter_map(|(content, shelved)| Some((*content, shelved.segment?, shelved.copy))).collect();
                    if let Some(n) = nth(n, here.len()) {
                        let (content, segment, copy) = here[n];
                        world.out.remove(&segment);
                        if !copy {
                            world.shelf.get_mut(&content).unwrap().segment = None;
                        } else {
                            world.shelf.remove(&content);
                            // The news may come late or not at all: odd ones are never told.
                            if segment.0 % 2 == 0 {
                                table.evicted(content);
                            }
                        }
                    }
                }
                Step::Restored(n) => if let Some(content) = world.coming(n) {
                    world.shelf.remove(&content);
                    let segment = world.segment();
                    table.restored(content, Ok(segment), &mut effects);
                },
                Step::RestoreFailed(n, lost) => if let Some(content) = world.coming(n) {
                    if lost {
                        world.shelf.remove(&content);
                    } else {
                        world.shelf.get_mut(&content).unwrap().coming = false;
                    }
                    let error = Error::ObjectLost { object: object(0), why: "test".to_owned() };
                    table.restored(content, Err(NotRestored { error, lost }), &mut effects);
                },
                Step::Died(by) => {
                    world.writing.retain(|_, writer| *writer != by);
                    world.waiting.retain(|_, waiter| *waiter != by);
                    world.pins.retain(|(_, holder)| *holder != by);
                    table.process_died(process(by), &mut effects);
                }
            }
            world.carry_out(effects)?;
        }
        // Pulls end, writers die, everything is freed.
        let mut effects = Vec::new();
        for object in std::mem::take(&mut world.pulls) {
            let error = Error::ObjectLost { object, why: "test".to_owned() };
            table.pull_failed(object, error, &mut effects);
        }
        world.carry_out(effects)?;
        while let Some(content) = world.coming(0) {
            let mut effects = Vec::new();
            world.shelf.remove(&content);
            let segment = world.segment();
            table.restored(content, Ok(segment), &mut effects);
            world.carry_out(effects)?;
        }
        let mut effects = Vec::new();
        for (segment, by) in std::mem::take(&mut world.writing) {
            table.abort(segment, process(by), true, &mut effects);
        }
        world.carry_out(effects)?;
        prop_assert!(world.waiting.is_empty(), "somebody waits for ever: {:?}", world.waiting);
        for n in 0..5 {
            let mut effects = Vec::new();
            table.free(object(n), &mut effects);
            world.carry_out(effects)?;
        }
        for by in 1..4 {
            let mut effects = Vec::new();
            world.pins.retain(|(_, holder)| *holder != by);
            table.process_died(process(by), &mut effects);
            world.carry_out(effects)?;
        }
        prop_assert!(world.out.is_empty(), "never came back: {:?}", world.out);
        prop_assert_eq!(table.len(), 0);
        prop_assert!(world.shelf.is_empty(), "left on the shelf");
        prop_assert!(table.contents.is_empty() && table.read.is_empty());
        prop_assert!(table.processes.is_empty() && table.creations.is_empty());
    }
}
