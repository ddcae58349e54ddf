use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn node(n: u16) -> ProcessAddr {
    let id = ProcessId(Uuid::from_u128(u128::from(n)));
    ProcessAddr { id, socket: SocketAddr::from((Ipv4Addr::LOCALHOST, n)) }
}

fn object(n: u64) -> ObjectId {
    ObjectId { owner: ProcessId(Uuid::nil()), seq: n, index: 0 }
}

fn wanted(n: u64, size_bytes: u64, nodes: &[u16]) -> StoredObject {
    let nodes = nodes.iter().map(|n| node(*n)).collect();
    StoredObject { object: object(n), encoding: Encoding::RAW, size_bytes, nodes }
}

fn start(n: u64, size_bytes: u64, source: u16) -> Effect {
    let ask = Ask { process: node(source), relay: false, failed: vec![] };
    Effect::Start { object: object(n), encoding: Encoding::RAW, size_bytes, ask }
}

fn source_failed(passing: bool) -> Failure {
    Failure::Source { why: "broken".to_owned(), passing }
}

#[test]
fn the_window_holds_back_and_the_order_is_kept() {
    let mut pulls = PullManager::new(100);
    let mut effects = Vec::new();
    pulls.want(wanted(1, 60, &[1]), &mut effects);
    pulls.want(wanted(2, 60, &[1]), &mut effects);
    pulls.want(wanted(3, 10, &[1]), &mut effects);
    pulls.want(wanted(1, 60, &[1]), &mut effects);
    assert_eq!(effects, vec![start(1, 60, 1)], "a small one does not overtake");
    effects.clear();
    pulls.done(object(1), &mut effects);
    assert_eq!(effects, vec![start(2, 60, 1), start(3, 10, 1)]);
    effects.clear();
    pulls.want(wanted(4, 1000, &[2]), &mut effects);
    pulls.done(object(2), &mut effects);
    assert_eq!(effects, vec![]);
    pulls.done(object(3), &mut effects);
    assert_eq!(effects, vec![start(4, 1000, 2)], "larger than the window: alone");
}

#[test]
fn the_next_source_follows_and_passing_failures_get_another_try() {
    let mut pulls = PullManager::new(100);
    let mut effects = Vec::new();
    pulls.want(wanted(1, 60, &[1, 2]), &mut effects);
    pulls.failed(object(1), source_failed(true), &mut effects);
    pulls.failed(object(1), source_failed(false), &mut effects);
    pulls.failed(object(1), source_failed(true), &mut effects);
    assert_eq!(effects[..3], [start(1, 60, 1), start(1, 60, 2), start(1, 60, 1)]);
    let Effect::GiveUp { error: Error::ObjectLost { why, .. }, .. } = &effects[3] else { panic!("{effects:?}") };
    assert!(why.contains(&node(1).to_string()) && why.contains("broken"), "{why}");
}

#[test]
fn a_full_store_ends_the_pull_at_once() {
    let mut pulls = PullManager::new(100);
    let mut effects = Vec::new();
    pulls.want(wanted(1, 60, &[1, 2]), &mut effects);
    let full = Error::StoreFull { size_bytes: 60, free_bytes: 1, capacity_bytes: 2 };
    pulls.failed(object(1), Failure::Here(full.clone()), &mut effects);
    assert_eq!(effects[1..], [Effect::GiveUp { object: object(1), error: full }]);
}

#[test]
fn dead_nodes_are_not_asked() {
    let mut pulls = PullManager::new(100);
    let mut effects = Vec::new();
    pulls.want(wanted(1, 100, &[1]), &mut effects);
    pulls.want(wanted(2, 100, &[2]), &mut effects);
    pulls.node_died(node(2).id, &mut effects);
    pulls.done(object(1), &mut effects);
    assert!(matches!(&effects[1], Effect::GiveUp { object: lost, .. } if *lost == object(2)), "{effects:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Want(u64, Vec<u16>),
    Done(usize),
    Failed(usize, bool),
    Full(usize),
    Died(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..12, proptest::collection::vec(1u16..5, 1..3)).prop_map(|(n, nodes)| Step::Want(n, nodes)),
        3 => any::<usize>().prop_map(Step::Done),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, passing)| Step::Failed(n, passing)),
        1 => any::<usize>().prop_map(Step::Full),
        1 => (1u16..5).prop_map(Step::Died),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The window is kept, an object is fetched once at a time, and every wish ends.
    #[test]
    fn every_wish_ends(steps in proptest::collection::vec(step(), 1..60)) {
        let size = |object: ObjectId| 10 + object.seq * 7;
        let mut pulls = PullManager::new(100);
        let mut running: BTreeMap<ObjectId, u64> = BTreeMap::new();
        let mut open: BTreeSet<ObjectId> = BTreeSet::new();
        let mut drain = 0;
        let mut steps = steps.into_iter();
        loop {
            let mut effects = Vec::new();
            let nth = |running: &BTreeMap<ObjectId, u64>, n: usize| {
                (!running.is_empty()).then(|| *running.keys().nth(n % running.len()).unwrap())
            };
            match steps.next() {
                Some(Step::Want(n, nodes)) => {
                    open.insert(object(n));
                    pulls.want(wanted(n, size(object(n)), &nodes), &mut effects);
                }
                Some(Step::Done(n)) => if let Some(object) = nth(&running, n) {
                    running.remove(&object);
                    open.remove(&object);
                    pulls.done(object, &mut effects);
                },
                Some(Step::Failed(n, passing)) => if let Some(object) = nth(&running, n) {
                    running.remove(&object);
                    pulls.failed(object, source_failed(passing), &mut effects);
                },
                Some(Step::Full(n)) => if let Some(object) = nth(&running, n) {
                    running.remove(&object);
                    let full = Error::StoreFull { size_bytes: 1, free_bytes: 0, capacity_bytes: 0 };
                    pulls.failed(object, Failure::Here(full), &mut effects);
                },
                Some(Step::Died(n)) => pulls.node_died(node(n).id, &mut effects),
                None => match nth(&running, 0) {
                    Some(object) => {
                        drain += 1;
                        prop_assert!(drain < 500, "tries without end");
                        running.remove(&object);
                        pulls.failed(object, source_failed(true), &mut effects);
                    }
                    None => break,
                }
            }
            for effect in effects {
                match effect {
                    Effect::Start { object, size_bytes, .. } => {
                        prop_assert!(open.contains(&object));
                        prop_assert_eq!(running.insert(object, size_bytes), None, "fetched twice at once");
                    }
                    Effect::GiveUp { object, .. } => {
                        prop_assert!(open.remove(&object), "given up twice");
                        prop_assert!(!running.contains_key(&object));
                    }
                }
                prop_assert!(running.len() == 1 || running.values().sum::<u64>() <= 100 || running.is_empty());
            }
        }
        prop_assert!(open.is_empty(), "forgotten: {open:?}");
        prop_assert!(pulls.pulls.is_empty() && pulls.queue.is_empty() && pulls.in_flight_bytes == 0);
    }
}
