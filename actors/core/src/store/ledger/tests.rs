use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn user(n: u128) -> ProcessId {
    ProcessId(Uuid::from_u128(n))
}

fn content(n: u64) -> ContentId {
    ContentId(n)
}

const MIB: u64 = 1 << 20;

fn fresh(ledger: &mut Ledger, size: u64) -> SegmentId {
    let reserved = ledger.reserve(size, user(1)).unwrap();
    assert!(reserved.fresh);
    ledger.made(reserved.segment);
    reserved.segment
}

#[test]
fn a_recycled_segment_is_used_again_and_the_same_users_first() {
    let mut ledger = Ledger::new(100 * MIB);
    let a = fresh(&mut ledger, 8 * MIB);
    let b = ledger.reserve(8 * MIB, user(2)).unwrap().segment;
    ledger.made(b);
    ledger.recycle(a, Duration::ZERO);
    ledger.recycle(b, Duration::ZERO);
    assert_eq!(ledger.idle_bytes(), 16 * MIB);
    let again = ledger.reserve(8 * MIB - 5, user(1)).unwrap();
    assert_eq!((again.segment, again.fresh), (a, false));
    let other = ledger.reserve(8 * MIB, user(3)).unwrap();
    assert_eq!((other.segment, other.fresh), (b, false));
    assert_eq!((ledger.used_bytes(), ledger.idle_bytes()), (16 * MIB, 0));
}

#[test]
fn idle_segments_make_room_then_copies_then_it_is_full() {
    let mut ledger = Ledger::new(10 * MIB);
    let a = fresh(&mut ledger, 4 * MIB);
    let b = fresh(&mut ledger, 4 * MIB);
    ledger.recycle(a, Duration::ZERO);
    ledger.set_evictable(b, content(7));
    let c = ledger.reserve(6 * MIB, user(1)).unwrap();
    assert_eq!((c.dropped, c.evicted), (vec![a], vec![]));
    let d = ledger.reserve(4 * MIB, user(1)).unwrap();
    assert_eq!((d.segment, d.fresh, d.evicted), (b, false, vec![(b, content(7))]));
    assert!(!ledger.retain(b, content(7)), "the copy is gone");
    assert_eq!(ledger.reserve(1, user(1)).unwrap_err(), Full { free_bytes: 0, capacity_bytes: 10 * MIB });
}

#[test]
fn what_cannot_fit_evicts_nothing() {
    let mut ledger = Ledger::new(10 * MIB);
    let a = fresh(&mut ledger, 4 * MIB);
    let b = fresh(&mut ledger, 2 * MIB);
    ledger.set_evictable(a, content(1));
    let full = ledger.reserve(9 * MIB, user(1)).unwrap_err();
    assert_eq!(full.free_bytes, 8 * MIB);
    assert!(ledger.retain(a, content(1)));
    ledger.recycle(b, Duration::ZERO);
}

#[test]
fn a_segment_given_back_before_it_is_made_waits_for_its_file() {
    let mut ledger = Ledger::new(10 * MIB);
    let a = ledger.reserve(MIB, user(1)).unwrap().segment;
    ledger.recycle(a, Duration::ZERO);
    assert_eq!((ledger.used_bytes(), ledger.idle_bytes()), (MIB, 0));
    ledger.made(a);
    assert_eq!((ledger.used_bytes(), ledger.idle_bytes()), (0, MIB));
    let b = ledger.reserve(2 * MIB, user(1)).unwrap().segment;
    ledger.failed(b);
    assert_eq!((ledger.used_bytes(), ledger.idle_bytes()), (0, MIB));
}

#[test]
fn the_idle_pool_decays_to_its_bound_oldest_first() {
    let mut ledger = Ledger::new(1 << 30);
    let segments: Vec<_> = (0..5).map(|_| fresh(&mut ledger, 100 * MIB)).collect();
    let class = ledger.used_bytes() / 5;
    for (n, segment) in segments.iter().enumerate() {
        ledger.recycle(*segment, Duration::from_secs(n as u64));
    }
    assert!(ledger.decays());
    assert_eq!(ledger.decay(IDLE_KEEP - Duration::from_millis(1)), vec![]);
    assert_eq!(ledger.decay(IDLE_KEEP), vec![segments[0]]);
    assert_eq!(ledger.decay(IDLE_KEEP * 2), vec![segments[1], segments[2]]);
    assert_eq!(ledger.idle_bytes(), 2 * class);
    assert!(!ledger.decays());
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u64, u8),
    Made(usize),
    Failed(usize),
    Recycle(usize),
    Evictable(usize),
    Retain(usize),
    Decay(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => ((1u64..40), 0u8..3).prop_map(|(size, user)| Step::Reserve(size * MIB / 4, user)),
        3 => any::<usize>().prop_map(Step::Made),
        1 => any::<usize>().prop_map(Step::Failed),
        3 => any::<usize>().prop_map(Step::Recycle),
        2 => any::<usize>().prop_map(Step::Evictable),
        2 => any::<usize>().prop_map(Step::Retain),
        1 => (0u64..30).prop_map(Step::Decay),
    ]
}

/// What the outside believes about a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Belief {
    Making,
    /// Given back while its file was being made.
    MakingReturned,
    Busy,
    Evictable,
    Idle,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The sums agree with a plain list of segments, capacity is kept, nothing busy is ever given
    /// out or dropped.
    #[test]
    fn agrees_with_a_plain_model(steps in proptest::collection::vec(step(), 1..80)) {
        const CAPACITY: u64 = 64 * MIB;
        let mut ledger = Ledger::new(CAPACITY);
        let mut model: BTreeMap<SegmentId, (u64, Belief)> = BTreeMap::new();
        let mut now = Duration::ZERO;
        let pick = |model: &BTreeMap<SegmentId, (u64, Belief)>, n: usize| {
            (!model.is_empty()).then(|| *model.keys().nth(n % model.len()).unwrap())
        };
        for step in steps {
            match step {
                Step::Reserve(size, by) => match ledger.reserve(size, user(u128::from(by))) {
                    Ok(reserved) => {
                        prop_assert!(reserved.class_bytes >= size);
                        for (segment, evicted) in &reserved.evicted {
                            let was = model.insert(*segment, (0, Belief::Idle)).unwrap();
                            prop_assert_eq!(was.1, Belief::Evictable);
                            prop_assert_eq!(*evicted, content(segment.0));
                            model.insert(*segment, (was.0, Belief::Idle));
                        }
                        for segment in &reserved.dropped {
                            let was = model.remove(segment).unwrap();
                            prop_assert_eq!(was.1, Belief::Idle);
                        }
                        let belief = if reserved.fresh { Belief::Making } else { Belief::Busy };
                        let was = model.insert(reserved.segment, (reserved.class_bytes, belief));
                        prop_assert_eq!(was, (!reserved.fresh).then_some((reserved.class_bytes, Belief::Idle)));
                    }
                    Err(full) => {
                        let held: u64 = model.values()
                            .filter(|(_, belief)| !matches!(belief, Belief::Idle | Belief::Evictable))
                            .map(|(class, _)| class).sum();
                        prop_assert_eq!(full.free_bytes, CAPACITY - held);
                        prop_assert!(class_bytes(size).unwrap() > full.free_bytes);
                    }
                },
                Step::Made(n) => if let Some(segment) = pick(&model, n) {
                    ledger.made(segment);
                    let belief = &mut model.get_mut(&segment).unwrap().1;
                    match *belief {
                        Belief::Making => *belief = Belief::Busy,
                        Belief::MakingReturned => *belief = Belief::Idle,
                        _ => {}
                    }
                },
                Step::Failed(n) => if let Some(segment) = pick(&model, n) {
                    ledger.failed(segment);
                    if matches!(model[&segment].1, Belief::Making | Belief::MakingReturned) {
                        model.remove(&segment);
                    }
                },
                Step::Recycle(n) => if let Some(segment) = pick(&model, n) {
                    ledger.recycle(segment, now);
                    let belief = &mut model.get_mut(&segment).unwrap().1;
                    match *belief {
                        Belief::Making => *belief = Belief::MakingReturned,
                        Belief::Busy => *belief = Belief::Idle,
                        _ => {}
                    }
                },
                Step::Evictable(n) => if let Some(segment) = pick(&model, n) {
                    ledger.set_evictable(segment, content(segment.0));
                    let belief = &mut model.get_mut(&segment).unwrap().1;
                    if *belief == Belief::Busy { *belief = Belief::Evictable; }
                },
                Step::Retain(n) => if let Some(segment) = pick(&model, n) {
                    let belief = &mut model.get_mut(&segment).unwrap().1;
                    prop_assert!(!ledger.retain(segment, content(u64::MAX)), "another object");
                    prop_assert_eq!(ledger.retain(segment, content(segment.0)), *belief == Belief::Evictable);
                    if *belief == Belief::Evictable { *belief = Belief::Busy; }
                },
                Step::Decay(seconds) => {
                    now += Duration::from_secs(seconds);
                    for segment in ledger.decay(now) {
                        prop_assert_eq!(model.remove(&segment).unwrap().1, Belief::Idle);
                    }
                }
            }
            let sum = |of: &dyn Fn(Belief) -> bool| -> u64 {
                model.values().filter(|(_, belief)| of(*belief)).map(|(class, _)| class).sum()
            };
            prop_assert_eq!(ledger.idle_bytes(), sum(&|belief| belief == Belief::Idle));
            prop_assert_eq!(ledger.used_bytes(), sum(&|belief| belief != Belief::Idle));
            prop_assert!(ledger.used_bytes() + ledger.idle_bytes() <= CAPACITY);
        }
    }
}
