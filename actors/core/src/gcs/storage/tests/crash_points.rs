//! The power goes at any time: what was acknowledged is there, and nothing is there by half.
//!
//! What is on the disk then is made from what was written to it, see [`super::recorder`]. After
//! each cut the head opens what is left, and finds exactly the state after one of its commits:
//! not before the last one that was acknowledged, not after the last one that was asked for.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::{ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::recorder::{Cut, Op, Recorder, Walk};
use super::*;
use crate::ids::{NodeId, PlacementGroupId};
use crate::messages::{GroupSpec, PlacementStrategy};

/// A change that the test makes.
#[derive(Clone, Debug)]
enum Change {
    Actor(u8, usize),
    State(u8, u32),
    ForgetActor(u8),
    Job(u8),
    ForgetJob(u8),
    Node(u8, bool),
    ForgetNode(u8),
    Group(u8, usize),
    ForgetGroup(u8),
    Kv(u8, Option<usize>),
}

fn group_id(n: u8) -> PlacementGroupId {
    PlacementGroupId(Uuid::from_u128(n.into()))
}

fn node(n: u8, alive: bool) -> NodeInfo {
    NodeInfo {
        node: NodeId(Uuid::from_u128(n.into())),
        name: format!("n{n}"),
        process: process(),
        head: false,
        total: Resources::new(),
        available: Resources::new(),
        labels: Default::default(),
        alive,
        death_reason: (!alive).then(|| "no heartbeat".to_owned()),
        store_dir: String::new(),
        host_proof: String::new(),
        pid: 1,
    }
}

impl Change {
    fn write(&self) -> Write {
        let bytes = |length: usize| (0..length).map(|n| (n * 31 + length) as u8).collect::<Vec<_>>();
        match *self {
            Self::Actor(n, length) => Write::Actor(Box::new(spec(n.into())), vec![ByteBuf::from(bytes(length))]),
            Self::State(n, incarnation) => {
                Write::ActorState(spec(n.into()).actor, ActorState { incarnation, ..ActorState::default() })
            }
            Self::ForgetActor(n) => Write::ForgetActor(spec(n.into()).actor),
            Self::Job(n) => Write::Job(Box::new(job(n.into()))),
            Self::ForgetJob(n) => Write::ForgetJob(job(n.into()).job),
            Self::Group(n, bundles) => Write::Group(Box::new(GroupRecord {
                spec: GroupSpec {
                    group: group_id(n),
                    job: job(1).job,
                    name: None,
                    strategy: PlacementStrategy::Pack,
                    bundles: vec![Resources::new(); bundles],
                    detached: false,
                },
                placed: vec![None; bundles],
            })),
            Self::ForgetGroup(n) => Write::ForgetGroup(group_id(n)),
            Self::Node(n, alive) => Write::Node(Box::new(node(n, alive))),
            Self::ForgetNode(n) => Write::ForgetNode(node(n, true).node),
            Self::Kv(n, length) => kv(&format!("key{n}"), length.map(bytes).as_deref()),
        }
    }
}

/// What must be found: plain tables.
#[derive(Clone, Default)]
struct Model {
    actors: BTreeMap<Uuid, (ActorSpec, Vec<ByteBuf>)>,
    states: BTreeMap<Uuid, ActorState>,
    jobs: BTreeMap<Uuid, JobInfo>,
    nodes: BTreeMap<Uuid, NodeInfo>,
    groups: BTreeMap<Uuid, GroupRecord>,
    kv: BTreeMap<(String, String), ByteBuf>,
}

impl Model {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Actor(spec, payload) => drop(self.actors.insert(spec.actor.0, (*spec, payload))),
            Write::ActorState(actor, state) => drop(self.states.insert(actor.0, state)),
            Write::ForgetActor(actor) => {
                self.actors.remove(&actor.0);
                self.states.remove(&actor.0);
            }
            Write::Job(job) => drop(self.jobs.insert(job.job.0, *job)),
            Write::ForgetJob(job) => drop(self.jobs.remove(&job.0)),
            Write::Node(info) => drop(self.nodes.insert(info.node.0, *info)),
            Write::ForgetNode(node) => drop(self.nodes.remove(&node.0)),
            Write::Group(record) => drop(self.groups.insert(record.spec.group.0, *record)),
            Write::ForgetGroup(group) => drop(self.groups.remove(&group.0)),
            Write::Kv { namespace, key, value: Some(value) } => drop(self.kv.insert((namespace, key), value)),
            Write::Kv { namespace, key, value: None } => drop(self.kv.remove(&(namespace, key))),
        }
    }

    fn shown(&self) -> String {
        let state = |id: &Uuid| self.states.get(id).cloned().unwrap_or_default();
        let actors = self.actors.iter().map(|(id, (spec, payload))| (spec.clone(), payload.clone(), state(id)));
        let kv = self.kv.iter().map(|((namespace, key), value)| (namespace.clone(), key.clone(), value.clone()));
        show(&Snapshot {
            actors: actors.collect(),
            jobs: self.jobs.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            groups: self.groups.values().cloned().collect(),
            kv: kv.collect(),
        })
    }
}

fn show(snapshot: &Snapshot) -> String {
    format!("{snapshot:?}")
}

fn start(disk: &Recorder) -> Result<(Durable, Snapshot, HeadIds), StorageError> {
    let disk = disk.clone();
    Durable::start("a disk".to_owned(), Box::new(move || disk::open(disk.clone())), MAX_BACKLOG_BYTES)
}

/// A head's disk, and the states that it may be found in.
struct Lives {
    disk: Recorder,
    /// What was on it when this life began.
    before: Vec<u8>,
    model: Model,
    /// The model after each commit of this life, and before the first.
    states: Vec<Model>,
    ids: Option<HeadIds>,
    /// Whether others know them, so that they must stay.
    ids_are_known: bool,
}

impl Lives {
    fn new() -> Self {
        let states = vec![Model::default()];
        Self {
            disk: Recorder::default(),
            before: Vec::new(),
            model: Model::default(),
            states,
            ids: None,
            ids_are_known: false,
        }
    }

    /// Runs a head with these commits: each is waited for, or all of them at the end.
    fn live(&mut self, commits: &[Vec<Change>], waiting: bool, refusals: Option<(usize, usize)>) {
        let (mut storage, found, ids) = start(&self.disk).unwrap();
        assert_eq!(show(&found), self.model.shown());
        assert_eq!(*self.ids.get_or_insert(ids), ids, "a head keeps its ids");
        self.disk.note(Op::Begun);
        if let Some((after, times)) = refusals {
            self.disk.refuse(after, times);
        }
        for commit in commits {
            let writes: Vec<Write> = commit.iter().map(Change::write).collect();
            for write in &writes {
                self.model.apply(write.clone());
            }
            self.states.push(self.model.clone());
            let number = self.states.len() - 1;
            self.disk.note(Op::Asked(number));
            let (disk, (tell, told)) = (self.disk.clone(), channel());
            let answer = Box::new(move |result: Result<(), String>| {
                if result.is_ok() {
                    disk.note(Op::Acknowledged(number));
                }
                // Nobody waits for it if not `waiting`.
                let _ = tell.send(());
            });
            assert!(storage.commit(writes, answer).is_none());
            if waiting {
                told.recv_timeout(Duration::from_secs(30)).unwrap();
            }
        }
        drop(storage);
    }

    /// The head after a cut finds one of the states that it may; which one is returned.
    fn check(&self, cut: &Cut) -> usize {
        let disk = Recorder::with(cut.bytes.clone());
        let (storage, found, ids) = start(&disk).unwrap_or_else(|error| panic!("{error}"));
        drop(storage);
        let found = show(&found);
        let state = (cut.acknowledged..=cut.asked).find(|n| self.states[*n].shown() == found);
        let state = state.unwrap_or_else(|| {
            panic!("not one of the states {}..={}:\n{found}", cut.acknowledged, cut.asked);
        });
        if cut.begun || self.ids_are_known {
            assert_eq!(Some(ids), self.ids, "a head keeps its ids");
        }
        state
    }

    /// The next life begins with what a cut has left.
    fn begin_anew(&mut self, cut: Cut) {
        let state = self.check(&cut);
        self.ids_are_known |= cut.begun;
        self.ids = self.ids.filter(|_| self.ids_are_known);
        self.model = self.states[state].clone();
        self.states = vec![self.model.clone()];
        self.before = cut.bytes.clone();
        self.disk = Recorder::with(cut.bytes);
    }
}

/// A bit of everything, small and large.
fn a_history() -> Vec<Vec<Change>> {
    vec![
        vec![Change::Job(1), Change::Actor(1, 10), Change::Kv(1, Some(100))],
        vec![Change::State(1, 1), Change::Group(1, 3), Change::Node(1, true), Change::Node(2, true)],
        vec![Change::Actor(2, 5_000), Change::Kv(2, Some(70_000))],
        vec![],
        vec![Change::ForgetActor(1), Change::Kv(1, None), Change::Job(2), Change::Node(1, false)],
        vec![
            Change::State(2, 7),
            Change::ForgetGroup(1),
            Change::Kv(2, Some(3)),
            Change::ForgetJob(1),
            Change::ForgetNode(1),
        ],
    ]
}

#[test]
fn a_write_cut_anywhere_leaves_a_state_that_was_asked_for_and_none_before_the_acknowledged() {
    let mut lives = Lives::new();
    lives.live(&a_history(), true, None);
    // A second head, after a good end, with commits that share a group.
    lives.live(&[vec![Change::Job(3)], vec![Change::Kv(3, Some(9))], vec![Change::Kv(3, None)]], false, None);
    let log = lives.disk.log();
    let mut walk = Walk::new(Vec::new(), &log);
    let mut cuts = 0;
    loop {
        for length in walk.lengths(cuts * 7_919) {
            lives.check(&walk.cut_inside(length));
            cuts += 1;
        }
        lives.check(&walk.cut_here());
        cuts += 1;
        if walk.step().is_none() {
            break;
        }
    }
    println!("{cuts} cuts of {} operations", log.len());
    assert!(cuts > 1_000, "only {cuts} cuts");
}

fn change() -> impl Generator<Value = Change> {
    prop_oneof![
        (1..6_u8, 0..9_000_usize).prop_map(|(n, length)| Change::Actor(n, length)),
        (1..6_u8, 0..9_u32).prop_map(|(n, incarnation)| Change::State(n, incarnation)),
        (1..6_u8).prop_map(Change::ForgetActor),
        (1..6_u8).prop_map(Change::Job),
        (1..6_u8).prop_map(Change::ForgetJob),
        (1..6_u8, 1..5_usize).prop_map(|(n, bundles)| Change::Group(n, bundles)),
        (1..6_u8).prop_map(Change::ForgetGroup),
        (1..6_u8, any::<bool>()).prop_map(|(n, alive)| Change::Node(n, alive)),
        (1..6_u8).prop_map(Change::ForgetNode),
        (1..6_u8, prop::option::of(0..9_000_usize)).prop_map(|(n, length)| Change::Kv(n, length)),
    ]
}

/// A head's commits, whether each is waited for, what the disk refuses, when the power goes, and
/// which part of what was not synced is lost then.
type Life = (Vec<Vec<Change>>, bool, Option<(usize, usize)>, f64, u64);

fn life() -> impl Generator<Value = Life> {
    let commits = prop::collection::vec(prop::collection::vec(change(), 0..4), 0..5);
    (commits, any::<bool>(), prop::option::weighted(0.3, (0..40_usize, 1..6_usize)), 0.0..=1.0_f64, any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn heads_that_lose_what_was_not_synced_one_after_the_other_lose_nothing_they_acknowledged(
        history in prop::collection::vec(life(), 1..4),
    ) {
        let mut lives = Lives::new();
        for (commits, waiting, refusals, when, mut seed) in history {
            lives.live(&commits, waiting, refusals);
            let log = lives.disk.log();
            let mut walk = Walk::new(lives.before.clone(), &log);
            for _ in 0..(log.len() as f64 * when) as usize {
                walk.step();
            }
            let threshold = seed % 5;
            let cut = walk.cut_with_losses(|| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) % 4 < threshold
            });
            lives.begin_anew(cut);
        }
    }
}

/// redb's header lies within.
const HEADER: usize = 512;

/// What the head says to a disk of which one bit is another.
fn opened(bytes: Vec<u8>) -> Result<String, StorageError> {
    let disk = Recorder::with(bytes);
    start(&disk).map(|(_storage, found, _)| show(&found))
}

/// Flips a bit of the header's each byte, and of a sample of the rest; counts what is told, and calls
/// `found` with what is found where nothing is told.
fn flip_bits(whole: &[u8], mut found: impl FnMut(usize, String)) -> usize {
    let used = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at);
    let used: Vec<usize> = used.filter(|at| *at >= HEADER).collect();
    let mut told = 0;
    for (n, at) in (0..HEADER).chain(used.iter().copied().step_by(1 + used.len() / 250)).enumerate() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << (n % 8);
        match catch_unwind(AssertUnwindSafe(|| opened(bytes))) {
            Ok(Ok(state)) => found(at, state),
            Ok(Err(error)) => {
                assert!(matches!(error, StorageError::Damaged { .. }), "byte {at}: {error:?}");
                assert!(error.to_string().contains("another --dir"), "{error}");
                told += 1;
            }
            Err(_) => panic!("a flipped bit in byte {at} ends the head"),
        }
    }
    told
}

#[test]
fn a_flipped_bit_is_told_or_does_no_harm() {
    let mut lives = Lives::new();
    lives.live(&a_history(), true, None);
    let good = lives.model.shown();
    let mut harmless = 0;
    let told = flip_bits(&lives.disk.bytes(), |at, found| {
        assert_eq!(found, good, "a flipped bit in byte {at} is not noticed");
        harmless += 1;
    });
    println!("{told} told, {harmless} harmless");
    assert!(told > 100 && harmless > 0);
}

/// The last commit of a head that was killed may be damaged or cut short: nobody can tell which.
#[test]
fn a_flipped_bit_after_a_crash_costs_the_last_commit_at_most() {
    let mut lives = Lives::new();
    lives.live(&a_history(), true, None);
    let log = lives.disk.log();
    let mut walk = Walk::new(Vec::new(), &log);
    let last = a_history().len();
    while let Some(op) = walk.step() {
        if matches!(op, Op::Acknowledged(n) if *n == last) {
            break;
        }
    }
    let may = [lives.states[last - 1].shown(), lives.states[last].shown()];
    let mut times = [0, 0];
    let told = flip_bits(&walk.cut_here().bytes, |at, found| {
        let which = may.iter().position(|state| *state == found);
        times[which.unwrap_or_else(|| panic!("a flipped bit in byte {at}: {found}"))] += 1;
    });
    println!("{told} told, {} without the last commit, {} harmless", times[0], times[1]);
    assert!(times[1] > 0);
}

#[test]
fn a_file_that_lost_its_beginning_is_damaged_and_not_made_anew() {
    let mut lives = Lives::new();
    lives.live(&a_history(), true, None);
    for lost in [1, 9, 512, 4_096] {
        let mut bytes = lives.disk.bytes();
        bytes[..lost].fill(0);
        let error = opened(bytes).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{lost}: {error:?}");
    }
}

#[test]
fn a_file_that_is_too_short_is_damaged() {
    let mut lives = Lives::new();
    lives.live(&a_history(), true, None);
    let whole = lives.disk.bytes();
    for part in 1..64 {
        let error = opened(whole[..whole.len() * part / 64].to_vec()).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{part}/64: {error:?}");
    }
}
