//! Placement groups in a whole cluster of pure cores: one GCS and the schedulers of its nodes, with
//! messages that are late or lost, nodes that die, and heads that restart.

use std::collections::VecDeque;

use proptest::prelude::{Just, ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::gcs::GroupRecord;
use crate::gcs::bundles::{Plan, Room, plan};
use crate::gcs::groups::Phase;
use crate::ids::PlacementGroupId;
use crate::messages::{CommitBundles, GroupSpec, PlacementStrategy, PrepareBundles, ReturnBundles};
use crate::raylet::{Scheduler, SchedulerConfig};
use crate::resources::group::without_groups;

const NODES: u128 = 4;
const CPUS: f64 = 4.0;

/// From the GCS to a node.
#[derive(Clone, Debug)]
enum Order {
    Prepare(PrepareBundles),
    Commit(CommitBundles),
    Return(ReturnBundles),
}

/// From a node to the GCS.
#[derive(Clone, Debug)]
enum Answer {
    Prepared(PlacementGroupId, u64, Result<Result<(), Resources>, SendError>),
    Committed(PlacementGroupId, u64, Result<bool, SendError>),
}

struct World {
    gcs: Gcs,
    /// Counts the heads there were: what was asked by an earlier one is answered to nobody.
    head: u64,
    raylets: BTreeMap<NodeId, Scheduler>,
    /// Those that the present head knows.
    registered: BTreeSet<NodeId>,
    orders: BTreeMap<NodeId, VecDeque<(u64, Order)>>,
    answers: BTreeMap<NodeId, VecDeque<(u64, Answer)>>,
    disk: BTreeMap<PlacementGroupId, GroupRecord>,
    waiting: BTreeSet<Asker>,
    answered: BTreeMap<Asker, Result<(), Error>>,
    next_asker: Asker,
    now: Duration,
    next_node: u128,
    /// Removals, and by whom they were asked for.
    removals: Vec<(u128, Asker)>,
    /// Removed, and therefore never to be seen again.
    removed: BTreeSet<u128>,
    /// What a subscriber knows of each node, who heard all events of this head: in all, and free.
    heard: BTreeMap<NodeId, (Resources, Resources)>,
    /// What waits for the disk: writes, and what must not happen before they are stored.
    unstored: VecDeque<(Vec<Write>, Vec<Effect>)>,
}

fn group(n: u128) -> PlacementGroupId {
    PlacementGroupId(Uuid::from_u128(n))
}

fn lost() -> SendError {
    SendError::TimedOut { after: Duration::from_secs(1) }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            gcs: Gcs::new(config()),
            head: 1,
            raylets: BTreeMap::new(),
            registered: BTreeSet::new(),
            orders: BTreeMap::new(),
            answers: BTreeMap::new(),
            disk: BTreeMap::new(),
            waiting: BTreeSet::new(),
            answered: BTreeMap::new(),
            next_asker: 0,
            now: Duration::ZERO,
            next_node: 1,
            removals: Vec::new(),
            removed: BTreeSet::new(),
            heard: BTreeMap::new(),
            unstored: VecDeque::new(),
        };
        for _ in 0..3 {
            world.join();
        }
        while !world.unstored.is_empty() {
            world.disk();
        }
        world
    }

    fn join(&mut self) {
        if self.raylets.len() as u128 >= NODES {
            return;
        }
        let n = self.next_node;
        self.next_node += 1;
        let config = SchedulerConfig {
            node: node(n),
            name: format!("n{n}"),
            process: process(n),
            total: cpus(CPUS),
            gpus: Vec::new(),
            labels: Default::default(),
            in_process: false,
        };
        self.raylets.insert(node(n), Scheduler::new(config));
        self.register(node(n));
    }

    fn register(&mut self, id: NodeId) {
        let Some(raylet) = self.raylets.get(&id) else { return };
        let n = id.0.as_u128();
        let mut info = info(n, CPUS);
        info.total = raylet.total().clone();
        info.available = raylet.available().clone();
        let request = RegisterNode { info, actors: vec![], processes: vec![], bundles: raylet.held_bundles() };
        if self.gcs.register_node(request, self.now).is_ok() {
            self.registered.insert(id);
        } else {
            // It was silent for too long and was declared dead: it ends.
            self.raylets.remove(&id);
            self.break_off(id);
            self.orders.remove(&id);
        }
        self.absorb();
    }

    fn beat(&mut self, id: NodeId) {
        let Some(raylet) = self.raylets.get(&id).filter(|_| self.registered.contains(&id)) else { return };
        let beat = Heartbeat {
            node: id,
            available: raylet.available().clone(),
            pending: vec![],
            store_used_bytes: 0,
            workers: 0,
            bundles: raylet.held_bundles(),
        };
        if matches!(self.gcs.heartbeat(beat, self.now), HeartbeatReply::Unknown) {
            self.registered.remove(&id);
        }
        self.absorb();
    }

    fn create(&mut self, n: u128, strategy: PlacementStrategy, sizes: &[u8]) {
        // A late message; its sender, which has removed the group, sends no other one.
        if self.removed.contains(&n) && !self.gcs.gone_groups.contains(&group(n)) {
            return;
        }
        let bundles = sizes.iter().map(|size| cpus(f64::from(*size))).collect();
        let spec = GroupSpec { group: group(n), job: job(1), name: None, strategy, bundles, detached: true };
        let asker = self.asker();
        self.gcs.create_group(spec, self.now, asker);
        let asker = self.asker();
        self.gcs.wait_group(group(n), process(60).id, self.now, asker);
        self.absorb();
    }

    fn asker(&mut self) -> Asker {
        self.next_asker += 1;
        self.waiting.insert(self.next_asker);
        self.next_asker
    }

    /// As the shell does it: what rests on a write goes out when that is stored.
    fn absorb(&mut self) {
        let (mut writes, mut promises) = (Vec::new(), Vec::new());
        for effect in self.gcs.take_effects() {
            match effect {
                Effect::Write(write) => writes.push(write),
                Effect::Forget(asker) => assert!(self.waiting.remove(&asker), "forgotten once"),
                Effect::Publish(ClusterEvent::NodeJoined(info)) => {
                    self.heard.insert(info.node, (info.total, info.available));
                }
                Effect::Publish(ClusterEvent::RoomChanged { node, named }) => {
                    let (total, free) = self.heard.get_mut(&node).expect("of a node that is known");
                    for (name, in_all, is_free) in named {
                        total.set(&name, in_all);
                        free.set(&name, is_free);
                    }
                }
                Effect::Publish(ClusterEvent::Resources(changes)) => {
                    for (node, free) in changes {
                        self.heard.get_mut(&node).expect("of a node that is known").1 = free;
                    }
                }
                Effect::Publish(ClusterEvent::GroupRemoved(group)) => {
                    self.raylets.values_mut().for_each(|raylet| raylet.group_gone(group));
                }
                Effect::Publish(_) | Effect::MarkGone(..) => {}
                promise => promises.push(promise),
            }
        }
        if writes.is_empty() && self.unstored.is_empty() {
            return promises.into_iter().for_each(|promise| self.keep(promise));
        }
        self.unstored.push_back((writes, promises));
    }

    /// The disk has done its next piece of work.
    fn disk(&mut self) {
        let Some((writes, promises)) = self.unstored.pop_front() else { return };
        for write in writes {
            match write {
                Write::Group(record) => drop(self.disk.insert(record.spec.group, *record)),
                Write::ForgetGroup(group) => drop(self.disk.remove(&group)),
                _ => {}
            }
        }
        promises.into_iter().for_each(|promise| self.keep(promise));
    }

    fn keep(&mut self, promise: Effect) {
        match promise {
            Effect::Answer(asker, reply) => {
                assert!(self.waiting.remove(&asker), "answered once");
                match reply {
                    Reply::Done(answer) => drop(self.answered.insert(asker, answer)),
                    Reply::Finished => drop(self.answered.insert(asker, Ok(()))),
                    other => panic!("nobody asked for this: {other:?}"),
                }
            }
            Effect::PrepareBundles { node, request, .. } => self.order(node, Order::Prepare(request)),
            Effect::CommitBundles { node, request, .. } => self.order(node, Order::Commit(request)),
            Effect::ReturnBundles { raylet, request } => {
                let node = NodeId(raylet.process.id.0);
                self.order(node, Order::Return(request));
            }
            other => panic!("no actors here: {other:?}"),
        }
    }

    fn remove(&mut self, n: u128) {
        self.removed.insert(n);
        let asker = self.asker();
        self.gcs.remove_group(group(n), self.now, asker);
        self.absorb();
        self.removals.push((n, asker));
    }

    fn order(&mut self, node: NodeId, order: Order) {
        let head = self.head;
        self.orders.entry(node).or_default().push_back((head, order));
    }

    /// The next message to a node arrives there.
    fn deliver_order(&mut self, id: NodeId) {
        let Some((head, order)) = self.orders.get_mut(&id).and_then(VecDeque::pop_front) else { return };
        let Some(raylet) = self.raylets.get_mut(&id) else { return };
        let answer = match order {
            Order::Prepare(request) => {
                let answer = raylet.prepare_bundles(&request, self.now);
                Answer::Prepared(request.group, request.round, Ok(answer))
            }
            Order::Commit(request) => {
                Answer::Committed(request.group, request.round, Ok(raylet.commit_bundles(&request, self.now)))
            }
            Order::Return(request) => {
                raylet.return_bundles(&request, self.now);
                return;
            }
        };
        let free = without_groups(raylet.available());
        assert!(free.iter().all(|(_, fractions)| fractions >= 0), "more is set aside than there is: {free}");
        self.answers.entry(id).or_default().push_back((head, answer));
    }

    /// The next answer of a node arrives.
    fn deliver_answer(&mut self, id: NodeId) {
        let Some((head, answer)) = self.answers.get_mut(&id).and_then(VecDeque::pop_front) else { return };
        if head != self.head {
            return;
        }
        match answer {
            Answer::Prepared(group, round, answer) => self.gcs.bundles_prepared(group, round, id, answer, self.now),
            Answer::Committed(group, round, answer) => self.gcs.bundles_committed(group, round, id, answer),
        }
        self.absorb();
    }

    /// The connection to a node breaks: what is on its way is lost. Whoever asked hears of that;
    /// what must arrive is sent again.
    fn break_off(&mut self, id: NodeId) {
        let (orders, answers) = (self.orders.remove(&id), self.answers.remove(&id));
        let mut failed: VecDeque<(u64, Answer)> = VecDeque::new();
        for (head, answer) in answers.into_iter().flatten() {
            failed.push_back((
                head,
                match answer {
                    Answer::Prepared(group, round, _) => Answer::Prepared(group, round, Err(lost())),
                    Answer::Committed(group, round, _) => Answer::Committed(group, round, Err(lost())),
                },
            ));
        }
        for (head, order) in orders.into_iter().flatten() {
            match order {
                Order::Prepare(request) => {
                    failed.push_back((head, Answer::Prepared(request.group, request.round, Err(lost()))));
                }
                Order::Commit(request) => {
                    failed.push_back((head, Answer::Committed(request.group, request.round, Err(lost()))));
                }
                Order::Return(request) if head == self.head => self.order(id, Order::Return(request)),
                Order::Return(_) => {}
            }
        }
        self.answers.insert(id, failed);
    }

    fn node_dies(&mut self, at: usize) {
        let Some(id) = self.raylets.keys().nth(at % self.raylets.len().max(1)).copied() else { return };
        self.raylets.remove(&id);
        self.break_off(id);
        self.orders.remove(&id);
        if self.registered.remove(&id) {
            self.gcs.node_died(id, "killed", self.now);
            self.absorb();
        }
    }

    fn restart(&mut self) {
        self.head += 1;
        let snapshot = Snapshot { groups: self.disk.values().cloned().collect(), ..Snapshot::default() };
        let config = GcsConfig { epoch_unix_s: self.head, ..config() };
        self.gcs = Gcs::restore(config, snapshot, self.now);
        self.registered.clear();
        self.heard.clear();
        self.waiting.clear();
        self.unstored.clear();
        self.absorb();
        // Who was not answered asks again.
        let unanswered: Vec<u128> =
            self.removals.iter().filter(|(_, asker)| !self.answered.contains_key(asker)).map(|(n, _)| *n).collect();
        self.removals.retain(|(_, asker)| self.answered.contains_key(asker));
        unanswered.into_iter().for_each(|n| self.remove(n));
    }

    /// Everything arrives, everybody reports, time passes.
    fn settle(&mut self) {
        for _ in 0..60 {
            let nodes: Vec<NodeId> = self.raylets.keys().copied().collect();
            for id in &nodes {
                if !self.registered.contains(id) {
                    self.register(*id);
                }
            }
            while !self.unstored.is_empty() {
                self.disk();
            }
            for _ in 0..40 {
                let busy: BTreeSet<NodeId> = self.orders.keys().chain(self.answers.keys()).copied().collect();
                for id in busy {
                    self.deliver_order(id);
                    self.deliver_answer(id);
                }
                self.disk();
            }
            nodes.iter().for_each(|id| self.beat(*id));
            self.now += Duration::from_secs(1);
            self.gcs.tick(self.now);
            self.absorb();
        }
    }

    fn check_settled(&self) {
        for n in &self.removed {
            assert!(!self.gcs.groups.contains_key(&group(*n)), "group {n} was removed and is there again");
        }
        for node in self.gcs.nodes.values().filter(|node| node.info.alive) {
            assert!(node.promised.is_empty(), "promised for ever: {}", node.promised);
            let raylet = &self.raylets[&node.info.node];
            assert_eq!(&node.info.total, raylet.total());
            assert_eq!(&node.info.available, raylet.available());
            let (total, free) = &self.heard[&node.info.node];
            assert_eq!((total, free), (raylet.total(), raylet.available()), "as the other nodes know it");
            // A subscriber who comes now knows as much.
            assert_eq!(&node.told, free);
        }
        let rooms: Vec<Room> = self
            .raylets
            .iter()
            .map(|(id, raylet)| Room {
                node: *id,
                total: raylet.total().clone(),
                free: raylet.available().clone(),
                full: false,
            })
            .collect();
        for (id, entry) in &self.gcs.groups {
            let placed = entry.placed();
            let different: BTreeSet<NodeId> = placed.values().copied().collect();
            match entry.record.spec.strategy {
                PlacementStrategy::StrictPack => assert!(different.len() <= 1, "{id}: {placed:?}"),
                PlacementStrategy::StrictSpread => assert_eq!(different.len(), placed.len(), "{id}"),
                _ => {}
            }
            match &entry.phase {
                Phase::Ready => assert!(entry.missing().is_empty()),
                Phase::Waiting => {
                    let plan = plan(entry.record.spec.strategy, &entry.missing(), &placed, &rooms);
                    assert!(!matches!(plan, Plan::Now(_)), "{id} waits though there is room: {plan:?}");
                }
                other => panic!("{id} hangs in {other:?}"),
            }
            assert_eq!(self.disk.get(id), Some(&entry.record), "what is stored is what is known");
        }
        assert_eq!(self.disk.len(), self.gcs.groups.len());
        for (node, raylet) in &self.raylets {
            let mut expected = cpus(CPUS);
            for held in raylet.held_bundles() {
                let entry = self.gcs.groups.get(&held.group).expect("nothing is held for a group that is no more");
                assert!(held.committed, "set aside for ever: {held:?}");
                for index in held.indices {
                    assert_eq!(entry.record.placed[index as usize], Some((*node, held.round)), "held for nobody");
                    expected.subtract(&entry.record.spec.bundles[index as usize]);
                }
            }
            assert_eq!(without_groups(raylet.available()), expected);
            assert_eq!(without_groups(raylet.total()), cpus(CPUS));
        }
        let held: usize = self.raylets.values().flat_map(Scheduler::held_bundles).map(|held| held.indices.len()).sum();
        let placed: usize = self.gcs.groups.values().map(|entry| entry.placed().len()).sum();
        assert_eq!(held, placed);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(u128, PlacementStrategy, Vec<u8>),
    Remove(u128),
    Disk,
    Order(usize),
    Answer(usize),
    Break(usize),
    Beat(usize),
    Join,
    NodeDies(usize),
    Restart,
    Register(usize),
    Pass(u64),
}

fn step() -> impl Generator<Value = Step> {
    let strategy = prop_oneof![
        Just(PlacementStrategy::Pack),
        Just(PlacementStrategy::Spread),
        Just(PlacementStrategy::StrictPack),
        Just(PlacementStrategy::StrictSpread),
    ];
    prop_oneof![
        5 => (1..30_u128, strategy, prop::collection::vec(1..4_u8, 1..4)).prop_map(|(n, s, b)| Step::Create(n, s, b)),
        3 => (1..30_u128).prop_map(Step::Remove),
        8 => Just(Step::Disk),
        10 => any::<usize>().prop_map(Step::Order),
        10 => any::<usize>().prop_map(Step::Answer),
        2 => any::<usize>().prop_map(Step::Break),
        3 => any::<usize>().prop_map(Step::Beat),
        1 => Just(Step::Join),
        1 => any::<usize>().prop_map(Step::NodeDies),
        1 => Just(Step::Restart),
        2 => any::<usize>().prop_map(Step::Register),
        2 => (0..2_000_u64).prop_map(Step::Pass),
    ]
}

fn play(world: &mut World, step: Step) {
    let nth = |nodes: &BTreeMap<NodeId, Scheduler>, at: usize| nodes.keys().nth(at % nodes.len().max(1)).copied();
    match step {
        Step::Create(n, strategy, sizes) => world.create(n, strategy, &sizes),
        Step::Remove(n) => world.remove(n),
        Step::Disk => world.disk(),
        Step::Order(at) => nth(&world.raylets, at).into_iter().for_each(|id| world.deliver_order(id)),
        Step::Answer(at) => nth(&world.raylets, at).into_iter().for_each(|id| world.deliver_answer(id)),
        Step::Break(at) => nth(&world.raylets, at).into_iter().for_each(|id| world.break_off(id)),
        Step::Beat(at) => nth(&world.raylets, at).into_iter().for_each(|id| world.beat(id)),
        Step::Join => world.join(),
        Step::NodeDies(at) => world.node_dies(at),
        Step::Restart => world.restart(),
        Step::Register(at) => {
            let id = nth(&world.raylets, at).filter(|id| !world.registered.contains(id));
            id.into_iter().for_each(|id| world.register(id));
        }
        Step::Pass(ms) => {
            world.now += Duration::from_millis(ms);
            world.gcs.tick(world.now);
            world.absorb();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_room_is_ever_lost(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new();
        for step in steps {
            play(&mut world, step);
        }
        world.settle();
        world.check_settled();
        (1..30).for_each(|n| world.remove(n));
        world.settle();
        world.check_settled();
        for raylet in world.raylets.values() {
            assert_eq!(raylet.available(), &cpus(CPUS));
        }
        assert!(world.waiting.is_empty(), "somebody waits for a group that is no more");
    }
}

#[test]
fn a_group_is_ready_when_all_its_nodes_have_said_so() {
    let mut world = World::new();
    world.create(1, PlacementStrategy::StrictSpread, &[2, 2, 2]);
    assert_eq!(world.waiting.len(), 2, "it is not stored yet");
    world.disk();
    assert_eq!(world.waiting.len(), 1, "its maker has the answer, its waiter has not");
    world.settle();
    assert_eq!(world.answered.values().filter(|answer| answer.is_ok()).count(), 2);
    assert_eq!(world.gcs.list_groups()[0].state, "CREATED");
    // A node dies and another one joins: the bundle goes there.
    world.node_dies(0);
    assert_eq!(world.gcs.list_groups()[0].state, "RESCHEDULING");
    world.join();
    world.settle();
    assert_eq!(world.gcs.list_groups()[0].state, "CREATED");
    world.check_settled();
}

#[test]
fn who_waits_for_a_removed_group_hears_of_it() {
    let mut world = World::new();
    world.create(1, PlacementStrategy::Pack, &[3, 3, 3, 3, 3]);
    world.settle();
    assert_eq!(world.gcs.list_groups()[0].state, "PENDING");
    assert!(world.gcs.status(world.now).pending[0].infeasible);
    world.remove(1);
    world.settle();
    assert!(world.waiting.is_empty());
    let gone = |world: &World| {
        world.answered.values().filter(|answer| matches!(answer, Err(Error::GroupRemoved { .. }))).count()
    };
    assert_eq!(gone(&world), 1);
    // Again: nothing; and a late message does not make it again.
    world.remove(1);
    world.create(1, PlacementStrategy::Pack, &[1]);
    world.settle();
    assert_eq!(gone(&world), 3, "neither made nor awaited");
    world.check_settled();
}

#[test]
fn a_group_may_be_awaited_before_it_is_made() {
    let mut world = World::new();
    let asker = world.asker();
    world.gcs.wait_group(group(1), process(61).id, world.now, asker);
    world.create(1, PlacementStrategy::Pack, &[1]);
    world.settle();
    assert_eq!(world.answered.get(&asker), Some(&Ok(())));
    let asker = world.asker();
    world.gcs.wait_group(group(2), process(61).id, world.now, asker);
    world.settle();
    assert!(matches!(world.answered.get(&asker), Some(Err(Error::GroupRemoved { .. }))), "nobody makes it");
}

#[test]
fn groups_wait_for_each_others_room() {
    let mut world = World::new();
    for n in 1..4 {
        world.create(n, PlacementStrategy::StrictSpread, &[4, 4, 4]);
    }
    for n in 1..4 {
        world.settle();
        let ready: Vec<_> = world.gcs.list_groups().into_iter().filter(|info| info.state == "CREATED").collect();
        assert_eq!(ready.iter().map(|info| info.group).collect::<Vec<_>>(), [group(n)]);
        world.remove(n);
    }
}

#[test]
fn a_beat_from_before_the_return_does_not_hide_the_room_of_a_removed_group() {
    let mut world = World::new();
    world.create(1, PlacementStrategy::StrictSpread, &[4, 4, 4]);
    world.settle();
    world.remove(1);
    // These nodes have not heard of it.
    let first_two: Vec<NodeId> = world.raylets.keys().copied().take(2).collect();
    first_two.iter().for_each(|id| world.beat(*id));
    world.create(2, PlacementStrategy::Spread, &[2, 2, 2]);
    world.settle();
    let info = &world.gcs.list_groups()[0];
    let nodes: BTreeSet<_> = info.bundles.iter().map(|(_, node)| node.clone()).collect();
    assert_eq!((info.group, nodes.len()), (group(2), 3), "{nodes:?}");
    world.check_settled();
}
