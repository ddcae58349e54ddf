//! Random histories against the scheduler's invariants.

use proptest::prelude::{ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::culprit::Culprit;
use crate::ids::PlacementGroupId;
use crate::resources::GPU;
use crate::resources::group::inside;

#[derive(Clone, Debug)]
enum Step {
    Want { who: u128, shape: usize, more: u64, hops: u8 },
    Withdraw { who: u128, shape: usize },
    Return(usize),
    Blocked(usize, bool),
    Actor { n: u128, shape: usize, placement: usize },
    CancelActor(u128),
    Ready(usize),
    Failed(usize),
    WorkerDies(usize),
    ClientDies(u128),
    JobEnds(u128),
    Join(u128),
    NodeDies(u128),
    Prepare { group: u128, round: u64, bundles: Vec<(u32, u8)> },
    Commit { group: u128, round: u64 },
    GiveBack { group: u128, round: Option<u64> },
    Pass(u64),
}

fn group(n: u128) -> PlacementGroupId {
    PlacementGroupId(Uuid::from_u128(n))
}

fn shapes() -> Vec<Shape> {
    let gpus = |amount: f64| Resources::new().with(GPU, amount).unwrap();
    let demands = [cpus(1.0), cpus(0.5), cpus(3.0), cpus(9.0), Resources::new(), gpus(0.5), gpus(1.0), gpus(0.2)];
    let mut shapes: Vec<Shape> = demands.into_iter().map(shape_of).collect();
    shapes[1].job = job(2);
    shapes.push(Shape { kind: WorkerKind::Process, ..shape_of(cpus(1.0)) });
    shapes.push(Shape { strategy: Strategy::Spread, ..shape_of(cpus(0.5)) });
    let elsewhere = Strategy::NodeAffinity { node: node(2), soft: false };
    shapes.push(shape_of(inside(group(1), Some(0), &cpus(1.0))));
    shapes.push(shape_of(inside(group(2), None, &cpus(0.5))));
    shapes.push(Shape { kind: WorkerKind::Process, ..shape_of(inside(group(1), None, &Resources::new())) });
    shapes.push(Shape { kind: WorkerKind::Process, ..shape_of(inside(group(1), None, &gpus(0.5))) });
    shapes.push(shape_of(inside(group(2), Some(0), &gpus(1.0))));
    shapes.push(Shape { strategy: elsewhere, near: Some(process(1)), ..shape_of(cpus(1.0)) });
    shapes
}

fn step() -> impl Generator<Value = Step> {
    let shape = 0..shapes().len();
    prop_oneof![
        6 => (1..4_u128, shape.clone(), 1..6_u64, 0..5_u8)
            .prop_map(|(who, shape, more, hops)| Step::Want { who, shape, more, hops }),
        1 => (1..4_u128, shape.clone()).prop_map(|(who, shape)| Step::Withdraw { who, shape }),
        6 => any::<usize>().prop_map(Step::Return),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, blocked)| Step::Blocked(n, blocked)),
        2 => (1..6_u128, shape, 0..4_usize).prop_map(|(n, shape, placement)| Step::Actor { n, shape, placement }),
        1 => (1..6_u128).prop_map(Step::CancelActor),
        4 => any::<usize>().prop_map(Step::Ready),
        1 => any::<usize>().prop_map(Step::Failed),
        1 => any::<usize>().prop_map(Step::WorkerDies),
        1 => (1..4_u128).prop_map(Step::ClientDies),
        1 => (2..4_u128).prop_map(Step::JobEnds),
        1 => (2..4_u128).prop_map(Step::Join),
        1 => (2..4_u128).prop_map(Step::NodeDies),
        2 => (1..3_u128, 1..4_u64, prop::collection::vec((0..3_u32, 1..3_u8), 1..3))
            .prop_map(|(group, round, bundles)| Step::Prepare { group, round, bundles }),
        2 => (1..3_u128, 1..4_u64).prop_map(|(group, round)| Step::Commit { group, round }),
        1 => (1..3_u128, prop::option::of(1..4_u64)).prop_map(|(group, round)| Step::GiveBack { group, round }),
        3 => (0..1_500_u64).prop_map(Step::Pass),
    ]
}

fn nth<K: Copy, V>(map: &BTreeMap<K, V>, n: usize) -> Option<K> {
    (!map.is_empty()).then(|| *map.keys().nth(n % map.len()).unwrap())
}

fn play(env: &mut Env, targets: &mut BTreeMap<(u128, usize), u64>, step: Step) {
    let shapes = shapes();
    match step {
        Step::Want { who, shape, more, hops } => {
            let target = targets.entry((who, shape)).or_default();
            *target += more;
            let target = *target;
            env.want_hops(who, &shapes[shape], target, hops);
        }
        Step::Withdraw { who, shape } => env.want(who, &shapes[shape], 0),
        Step::Return(n) => {
            if let Some(lease) = nth(&env.held, n) {
                env.give_back(lease);
            }
        }
        Step::Blocked(n, blocked) => {
            if let Some(lease) = nth(&env.held, n) {
                env.core.lease_blocked(lease, blocked, env.now);
            }
        }
        Step::Actor { n, shape, placement } => {
            env.lease_actor(n, shapes[shape].clone(), shapes[placement].demand.clone());
        }
        Step::CancelActor(n) => env.core.cancel_actor(ActorId(Uuid::from_u128(n)), 0, env.now),
        Step::Ready(n) => {
            if let Some(start) = nth(&env.starts, n) {
                env.starts.remove(&start);
                env.ready(start);
            }
        }
        Step::Failed(n) => {
            if let Some(start) = nth(&env.starts, n) {
                env.starts.remove(&start);
                env.core.worker_failed(start, "failed", false, env.now);
            }
        }
        Step::WorkerDies(n) => {
            let living: Vec<ProcessAddr> = env.workers.iter().copied().filter(|w| w.id != process(1).id).collect();
            if !living.is_empty() {
                let worker = living[n % living.len()];
                env.workers.remove(&worker);
                assert!(env.core.worker_died(worker.id, "died", Culprit::Unknown, env.now));
            }
        }
        Step::ClientDies(who) => {
            env.core.client_died(client(who).process.id, env.now);
            env.held.retain(|_, (owner, _)| *owner != client(who));
            env.granted.retain(|(owner, _), _| *owner != client(who));
            env.redirected.retain(|(owner, _), _| *owner != client(who));
            targets.retain(|(owner, _), _| *owner != who);
        }
        Step::JobEnds(n) => {
            env.core.job_finished(job(n), env.now);
            env.held.retain(|_, (_, shape)| shape.job != job(n));
        }
        Step::Join(n) => env.core.node_joined(remote(n, cpus(2.0 * n as f64)), env.now),
        Step::NodeDies(n) => env.core.node_died(node(n), env.now),
        Step::Prepare { group: n, round, bundles } => {
            let bundles: BTreeMap<u32, u8> = bundles.into_iter().collect();
            let demand = |size: u8| cpus(f64::from(size)).with(GPU, f64::from(size - 1)).unwrap();
            let bundles = bundles.into_iter().map(|(index, size)| (index, demand(size))).collect();
            let _ = env.core.prepare_bundles(&PrepareBundles { group: group(n), round, bundles }, env.now);
        }
        Step::Commit { group: n, round } => {
            env.core.commit_bundles(&CommitBundles { group: group(n), round }, env.now);
        }
        Step::GiveBack { group: n, round } => {
            let before = env.gone.len();
            env.core.return_bundles(&ReturnBundles { group: group(n), round }, env.now);
            env.absorb();
            let gone: Vec<Shape> = env.gone[before..].iter().map(|(_, gone)| gone.shape.clone()).collect();
            targets.retain(|(_, shape), _| !gone.contains(&shapes[*shape]));
        }
        Step::Pass(ms) => env.pass(ms),
    }
    env.absorb();
    for (who, shape) in targets.keys() {
        let key = (client(*who), shapes[*shape].clone());
        let given = env.granted.get(&key).unwrap_or(&0) + env.redirected.get(&key).unwrap_or(&0);
        assert!(given <= targets[&(*who, *shape)], "never more than the target");
    }
}

/// Placement groups end, everybody gives back what they get, workers come up, time passes: all that can run has run.
fn drain(env: &mut Env) {
    for n in 1..3 {
        env.core.return_bundles(&ReturnBundles { group: group(n), round: None }, env.now);
        env.absorb();
    }
    for _ in 0..3_000 {
        let waiting = env
            .core
            .wants
            .iter()
            .any(|((_, shape), want)| want.need() + want.starting > 0 && env.core.infeasible(shape).is_none());
        if !waiting && env.askers.is_empty() {
            return;
        }
        env.all_workers_ready();
        for lease in env.held.keys().copied().collect::<Vec<_>>() {
            env.give_back(lease);
        }
        for lease in std::mem::take(&mut env.actor_leases) {
            env.give_back(lease.lease);
        }
        env.pass(100);
    }
    panic!("something that could run was never served: {:?}", env.core.wants);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_the_invariants(in_process: bool, steps in prop::collection::vec(step(), 1..80)) {
        let total = cpus(4.0).with(GPU, 2.0).unwrap();
        let mut env = if in_process { Env::new(total) } else { Env::empty(total, false) };
        let mut targets = BTreeMap::new();
        for step in steps {
            play(&mut env, &mut targets, step);
        }
        drain(&mut env);
    }
}
