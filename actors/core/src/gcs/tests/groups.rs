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
    created: BTreeSet<u128>,
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
            created: BTreeSet::new(),
        };
        for _ in 0..3 {
            world.join();
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
            view_version: 0,
            bundles: raylet.held_bundles(),
        };
        if matches!(self.gcs.heartbeat(beat, self.now), HeartbeatReply::Unknown) {
            self.registered.remove(&id);
        }
        self.absorb();
    }

    fn create(&mut self, n: u128, strategy: PlacementStrategy, sizes: &[u8]) {
        // Ids are random: none comes again.
        if !self.created.insert(n) {
            return;
        }
        let bundles = sizes.iter().map(|size| cpus(f64::from(*size))).collect();
        let spec = GroupSpec { group: group(n), job: job(1), name: None, strategy, bundles, detached: true };
        let asker = self.asker();
        self.gcs.create_group(spec, self.now, asker);
        let asker = self.asker();
        self.gcs.wait_group(group(n), process(60).id, asker);
        self.absorb();
    }

    fn asker(&mut self) -> Asker {
        self.next_asker += 1;
        self.waiting.insert(self.next_asker);
        self.next_asker
    }

    fn absorb(&mut self) {
        for effect in self.gcs.take_effects() {
            match effect {
                Effect::Answer(asker, Reply::Done(answer)) => {
                    assert!(self.waiting.remove(&asker), "answered once");
                    self.answered.insert(asker, answer);
                }
                Effect::Forget(asker) => assert!(self.waiting.remove(&asker), "forgotten once"),
                Effect::PrepareBundles { node, request, .. } => self.order(node, Order::Prepare(request)),
                Effect::CommitBundles { node, request, .. } => self.order(node, Order::Commit(request)),
                Effect::ReturnBundles { raylet, request } => {
                    let node = NodeId(raylet.process.id.0);
                    self.order(node, Order::Return(request));
                }
                Effect::Write(Write::Group(record)) => drop(self.disk.insert(record.spec.group, *record)),
                Effect::Write(Write::ForgetGroup(group)) => drop(self.disk.remove(&group)),
                Effect::Publish(_) | Effect::MarkGone(..) | Effect::Write(_) => {}
                other => panic!("no actors here: {other:?}"),
            }
        }
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
            Answer::Committed(group, round, answer) => self.gcs.bundles_committed(group, round, id, answer, self.now),
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
        self.waiting.clear();
        self.absorb();
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
            for _ in 0..40 {
                let busy: BTreeSet<NodeId> = self.orders.keys().chain(self.answers.keys()).copied().collect();
                for id in busy {
                    self.deliver_order(id);
                    self.deliver_answer(id);
                }
            }
            nodes.iter().for_each(|id| self.beat(*id));
            self.now += Duration::from_secs(1);
            self.gcs.tick(self.now);
            self.absorb();
        }
    }

    fn check_settled(&self) {
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
        Step::Remove(n) => {
            world.gcs.remove_group(group(n), "removed", world.now);
            world.absorb();
        }
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
        for n in 1..30 {
            world.gcs.remove_group(group(n), "removed", world.now);
        }
        world.absorb();
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
    world.gcs.remove_group(group(1), "removed", world.now);
    world.absorb();
    assert!(world.waiting.is_empty());
    assert!(world.answered.values().any(|answer| matches!(answer, Err(Error::GroupRemoved { .. }))));
    // Again: nothing.
    world.gcs.remove_group(group(1), "removed", world.now);
    assert!(world.gcs.take_effects().is_empty());
}
