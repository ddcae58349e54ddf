//! The submitter by itself: scenarios, and random histories against a model of one raylet.

use std::collections::BTreeSet;

use mobula_transport::MailboxId;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ids::NodeId;

fn process(n: u128) -> ProcessAddr {
    let socket = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    ProcessAddr { id: ProcessId(Uuid::from_u128(n)), socket }
}

fn raylet(n: u128) -> Address {
    Address { process: process(n), mailbox: MailboxId::RAYLET }
}

/// A model of one raylet with `slots` CPUs and workers that run what they are given.
struct World {
    submitter: Submitter,
    now_us: u64,
    slots: usize,
    target: u64,
    granted: u64,
    next_lease: u64,
    live: BTreeMap<LeaseId, VecDeque<u64>>,
    durations: Vec<u64>,
    finished: BTreeSet<u64>,
    pushes: u64,
}

impl World {
    fn new(slots: usize, durations: Vec<u64>) -> Self {
        Self {
            submitter: Submitter::new(raylet(1), false),
            now_us: 0,
            slots,
            target: 0,
            granted: 0,
            next_lease: 0,
            live: BTreeMap::new(),
            durations,
            finished: BTreeSet::new(),
            pushes: 0,
        }
    }

    fn function(&self, seq: u64) -> FunctionId {
        FunctionId(self.durations[seq as usize] % 3)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Push { lease, tasks, .. } => {
                    self.pushes += 1;
                    assert!(!tasks.is_empty() && tasks.len() <= BATCH_LIMIT);
                    let queue = self.live.get_mut(&lease).expect("pushed to a lease it does not hold");
                    for seq in tasks {
                        assert!(!self.finished.contains(&seq), "task {seq} pushed after its end");
                        assert!(!queue.contains(&seq), "task {seq} pushed twice");
                        queue.push_back(seq);
                    }
                }
                Effect::Want { raylet } => {
                    self.target = self.submitter.wanted_of(raylet).map_or(0, |(target, _)| target);
                }
                Effect::Return { lease, .. } => {
                    let queue = self.live.remove(&lease).expect("returned a lease it does not hold");
                    assert!(queue.is_empty(), "returned a lease with tasks in flight");
                }
                Effect::Reclaim { lease, at_most, .. } => {
                    let queue = self.live.get_mut(&lease).expect("reclaimed from a lost lease");
                    let keep = queue.len().saturating_sub(at_most as usize).max(1).min(queue.len());
                    let back: Vec<u64> = queue.split_off(keep).into();
                    let back: Vec<_> = back.into_iter().map(|seq| (seq, self.function(seq))).collect();
                    self.event(|submitter, now_us, out| submitter.reclaimed(lease, &back, now_us, out));
                }
            }
        }
    }

    fn event(&mut self, event: impl FnOnce(&mut Submitter, u64, &mut Vec<Effect>)) {
        let mut out = Vec::new();
        event(&mut self.submitter, self.now_us, &mut out);
        self.carry_out(out);
    }

    fn grant(&mut self) {
        while self.live.len() < self.slots && self.granted < self.target {
            self.granted += 1;
            self.next_lease += 1;
            let lease = LeaseId { node: NodeId(Uuid::from_u128(1)), seq: self.next_lease };
            self.live.insert(lease, VecDeque::new());
            self.event(|submitter, now_us, out| submitter.granted(lease, process(9), raylet(1), now_us, out));
        }
    }

    /// Every lease finishes its first task.
    fn work(&mut self) {
        let leases: Vec<LeaseId> = self.live.keys().copied().collect();
        let mut slowest = 0;
        for lease in leases {
            let Some(seq) = self.live.get_mut(&lease).and_then(VecDeque::pop_front) else {
                continue;
            };
            let run_us = self.durations[seq as usize];
            slowest = slowest.max(run_us);
            self.finished.insert(seq);
            let function = self.function(seq);
            self.event(|s, now_us, out| s.done(lease, seq, function, run_us as u32, now_us, out));
        }
        self.now_us += slowest.max(1);
    }

    fn lose_one(&mut self) {
        let Some(lease) = self.live.keys().next().copied() else {
            return;
        };
        self.live.remove(&lease);
        let mut out = Vec::new();
        let lost = self.submitter.lost(lease, &mut out);
        assert_eq!(out.len(), 1, "a lost lease is given back");
        for seq in lost {
            let function = self.function(seq);
            self.event(|submitter, now_us, out| submitter.enqueue(seq, function, now_us, out));
        }
    }

    fn tick(&mut self) -> bool {
        self.now_us += 5_000;
        let mut again = false;
        self.event(|submitter, now_us, out| again = submitter.tick(now_us, out));
        again
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_task_runs_and_every_lease_goes_back(
        slots in 1usize..5,
        durations in prop::collection::vec(prop_oneof![Just(1u64), 1u64..200, 1_000u64..100_000], 1..200),
        losses in prop::collection::vec(0usize..40, 0..3),
    ) {
        let count = durations.len() as u64;
        let mut world = World::new(slots, durations);
        for seq in 0..count {
            let function = world.function(seq);
            world.event(|submitter, now_us, out| submitter.enqueue(seq, function, now_us, out));
            if seq % 7 == 0 {
                world.grant();
            }
        }
        let mut rounds = 0;
        while world.finished.len() < count as usize {
            world.grant();
            if losses.contains(&rounds) {
                world.lose_one();
            }
            world.work();
            if rounds % 3 == 0 {
                world.tick();
            }
            rounds += 1;
            prop_assert!(rounds < 3 * count as usize + 100, "the queue does not drain");
        }
        for _ in 0..10 {
            world.grant();
            world.tick();
        }
        prop_assert!(world.live.is_empty(), "leases are kept");
        prop_assert!(!world.tick(), "an idle submitter wants no ticks");
        prop_assert_eq!(world.submitter.queued(), 0);
    }
}

#[test]
fn many_small_tasks_travel_in_few_messages() {
    let mut world = World::new(2, vec![1; 10_000]);
    for seq in 0..10_000 {
        world.event(|submitter, now_us, out| submitter.enqueue(seq, FunctionId(1), now_us, out));
        world.grant();
    }
    while world.finished.len() < 10_000 {
        world.work();
    }
    assert!(world.pushes < 1_000, "{} messages for 10,000 tasks", world.pushes);
}

#[test]
fn a_long_queue_gives_others_a_turn() {
    let mut submitter = Submitter::new(raylet(1), false);
    let (lease, mut out) = (LeaseId { node: NodeId(uuid::Uuid::from_u128(1)), seq: 1 }, Vec::new());
    for seq in 0..5_000 {
        submitter.enqueue(seq, FunctionId(1), 0, &mut out);
    }
    submitter.granted(lease, process(9), raylet(1), 0, &mut out);
    let pushed: Vec<u64> = out
        .iter()
        .filter_map(|effect| match effect {
            Effect::Push { tasks, .. } => Some(tasks.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    out.clear();
    submitter.give_back_idle(1, &mut out);
    for seq in pushed {
        submitter.done(lease, seq, FunctionId(1), 10, 2, &mut out);
    }
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Push { .. })), "it takes no new task: {out:?}");
    assert!(out.iter().any(|effect| matches!(effect, Effect::Return { lease: given, .. } if *given == lease)));
    assert!(out.iter().any(|effect| matches!(effect, Effect::Want { .. })), "it stands in line again");
}

#[test]
fn long_tasks_go_to_whoever_is_free() {
    let mut world = World::new(4, vec![50_000; 4]);
    for seq in 0..4 {
        let function = world.function(seq);
        world.event(|submitter, now_us, out| submitter.enqueue(seq, function, now_us, out));
    }
    world.grant();
    assert_eq!(world.live.len(), 4);
    assert!(world.live.values().all(|queue| queue.len() == 1));
}

#[test]
fn tasks_behind_one_that_turned_out_long_are_taken_back() {
    let mut world = World::new(1, vec![1; 100]);
    for seq in 0..100 {
        world.event(|submitter, now_us, out| submitter.enqueue(seq, FunctionId(1), now_us, out));
    }
    world.grant();
    world.work();
    let ahead = world.live.values().next().map_or(0, VecDeque::len);
    assert!(ahead > 50, "small tasks are pushed ahead, {ahead} were");
    // The first one now runs for long; a second slot becomes free.
    world.slots = 2;
    for _ in 0..3 {
        world.tick();
        world.grant();
    }
    assert_eq!(world.live.len(), 2);
    assert!(world.live.values().all(|queue| !queue.is_empty()));
}

fn lease(seq: u64) -> LeaseId {
    LeaseId { node: NodeId(Uuid::from_u128(1)), seq }
}

#[test]
fn what_finds_the_way_full_is_pushed_again_after_the_next_tick() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    submitter.enqueue(7, FunctionId(1), 0, &mut out);
    submitter.granted(lease(1), process(9), raylet(1), 0, &mut out);
    out.clear();
    submitter.unsent(lease(1), &[(7, FunctionId(1))], 1, &mut out);
    let pushes = |out: &[Effect]| out.iter().filter(|effect| matches!(effect, Effect::Push { .. })).count();
    assert_eq!((pushes(&out), submitter.queued()), (0, 1));
    submitter.tick(5_000, &mut out);
    assert_eq!((pushes(&out), submitter.queued()), (1, 0));
}

#[test]
fn what_comes_back_from_a_lost_lease_is_queued_once() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    submitter.enqueue(7, FunctionId(1), 0, &mut out);
    submitter.granted(lease(1), process(9), raylet(1), 0, &mut out);
    for seq in submitter.lost(lease(1), &mut out) {
        submitter.enqueue(seq, FunctionId(1), 1, &mut out);
    }
    submitter.reclaimed(lease(1), &[(7, FunctionId(1))], 2, &mut out);
    assert_eq!(submitter.queued(), 1);
}

#[test]
fn without_hope_for_a_lease_nothing_is_wanted() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    submitter.enqueue(7, FunctionId(1), 0, &mut out);
    assert_eq!(submitter.give_up(raylet(1), &mut out), [7]);
    assert_eq!((submitter.queued(), submitter.wanted_of(raylet(1))), (0, Some((0, 0))));
    submitter.enqueue(8, FunctionId(1), 1, &mut out);
    assert_eq!(submitter.wanted_of(raylet(1)), Some((1, 0)), "what comes later asks again");
}

#[test]
fn a_raylet_without_hope_does_not_fail_what_others_can_run() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    for seq in 0..4 {
        submitter.enqueue(seq, FunctionId(1), 0, &mut out);
    }
    submitter.redirected(raylet(1), raylet(2), 1, 1, &mut out);
    submitter.granted(lease(1), process(9), raylet(2), 0, &mut out);
    assert_eq!(submitter.queued(), 3);
    assert_eq!(submitter.give_up(raylet(1), &mut out), [0; 0], "a lease works");
    let (target, _) = submitter.wanted_of(raylet(1)).unwrap();
    out.clear();
    submitter.tick(REPEAT_US / 2, &mut out);
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Want { .. })), "not asked for all the time: {out:?}");
    submitter.tick(REPEAT_US, &mut out);
    assert!(out.contains(&Effect::Want { raylet: raylet(2) }), "the one that works is asked: {out:?}");
    assert_eq!(submitter.wanted_of(raylet(1)).unwrap().0, target);
    assert_eq!(submitter.lost(lease(1), &mut out), [0]);
    assert_eq!(submitter.give_up(raylet(2), &mut out), [1, 2, 3], "nothing works any more");
}

#[test]
fn only_the_worker_that_got_a_task_can_say_that_it_is_missing() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    submitter.enqueue(7, FunctionId(1), 0, &mut out);
    submitter.granted(lease(1), process(9), raylet(1), 0, &mut out);
    assert!(!submitter.missing(lease(1), process(8).id, 7, 1, &mut out));
    assert!(submitter.holds(lease(1), 7));
    assert!(submitter.missing(lease(1), process(9).id, 7, 1, &mut out));
    assert!(!submitter.holds(lease(1), 7));
}

#[test]
fn that_nothing_is_wanted_any_more_is_said_again_after_a_break() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    submitter.enqueue(7, FunctionId(1), 0, &mut out);
    submitter.give_up(raylet(1), &mut out);
    out.clear();
    submitter.leases_kept(raylet(1), &BTreeSet::new(), 0, 1, &mut out);
    assert_eq!(out, [Effect::Want { raylet: raylet(1) }]);
    assert_eq!(submitter.wanted_of(raylet(1)), Some((0, 0)));
}

#[test]
fn what_a_raylet_has_granted_in_all_stays_known_while_it_is_out_of_reach() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    submitter.enqueue(7, FunctionId(1), 0, &mut out);
    submitter.granted(lease(1), process(9), raylet(1), 0, &mut out);
    submitter.done(lease(1), 7, FunctionId(1), 10, 1, &mut out);
    submitter.raylet_unreachable(process(1).id, raylet(1), &mut out);
    submitter.enqueue(8, FunctionId(2), 2, &mut out);
    submitter.enqueue(9, FunctionId(2), 2, &mut out);
    assert_eq!(submitter.wanted_of(raylet(1)), Some((2, 0)), "one more than it has granted");
    submitter.raylet_gone(process(1).id, raylet(2), &mut out);
    assert_eq!(submitter.wanted_of(raylet(1)), None);
}

#[test]
fn what_is_removed_from_the_queue_is_not_wanted() {
    let mut submitter = Submitter::new(raylet(1), false);
    let mut out = Vec::new();
    for seq in 0..3 {
        submitter.enqueue(seq, FunctionId(seq), 0, &mut out);
    }
    assert!(submitter.remove(1, &mut out) && !submitter.remove(1, &mut out));
    submitter.remove(0, &mut out);
    submitter.remove(2, &mut out);
    assert_eq!((submitter.queued(), submitter.wanted_of(raylet(1))), (0, Some((0, 0))));
    submitter.granted(lease(1), process(9), raylet(1), 0, &mut out);
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Push { .. })), "{out:?}");
}
