//! Random histories of a cluster, against the invariants that [`Env`] checks.

use proptest::prelude::{Just, ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Join(u128),
    Beat(u128, u8),
    NodeDies(u128),
    WorkerDies(u128),
    Create { n: u128, named: bool, restarts: i32, big: bool, process: bool },
    Resolve(u128, u128),
    Kill(u128, bool),
    Lease(usize, LeaseAnswer),
    Start(usize, StartAnswer),
    Exits(u128),
    Stops,
    ProcessGone(u128),
    Pass(u64),
    Restart,
}

fn step() -> impl Generator<Value = Step> {
    let lease = prop_oneof![
        6 => Just(LeaseAnswer::Granted),
        2 => Just(LeaseAnswer::NoRoom),
        1 => Just(LeaseAnswer::Failed),
        1 => Just(LeaseAnswer::Lost),
    ];
    let start = prop_oneof![6 => Just(StartAnswer::Made), 1 => Just(StartAnswer::Failed), 1 => Just(StartAnswer::Lost)];
    prop_oneof![
        2 => (1..4_u128).prop_map(Step::Join),
        2 => (1..4_u128, 0..5_u8).prop_map(|(n, free)| Step::Beat(n, free)),
        1 => (1..4_u128).prop_map(Step::NodeDies),
        1 => (1..4_u128).prop_map(Step::WorkerDies),
        6 => (1..9_u128, any::<bool>(), -1..3_i32, any::<bool>(), any::<bool>())
            .prop_map(|(n, named, restarts, big, process)| Step::Create { n, named, restarts, big, process }),
        3 => (1..10_u128, 60..63_u128).prop_map(|(n, from)| Step::Resolve(n, from)),
        2 => (1..9_u128, any::<bool>()).prop_map(|(n, no_restart)| Step::Kill(n, no_restart)),
        8 => (any::<usize>(), lease).prop_map(|(at, answer)| Step::Lease(at, answer)),
        8 => (any::<usize>(), start).prop_map(|(at, answer)| Step::Start(at, answer)),
        1 => (1..9_u128).prop_map(Step::Exits),
        2 => Just(Step::Stops),
        1 => (60..63_u128).prop_map(Step::ProcessGone),
        2 => (0..3_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

fn play(env: &mut Env, step: Step) {
    match step {
        Step::Join(n) => env.join(n, 4.0),
        Step::Beat(n, free) => drop(env.beat(n, f64::from(free))),
        Step::NodeDies(n) => env.node_dies(n),
        Step::WorkerDies(n) => env.worker_dies(n),
        Step::Create { n, named, restarts, big, process } => {
            env.create(ActorSpec {
                name: named.then(|| format!("name{}", n % 3)),
                max_restarts: restarts,
                demand: if big { cpus(2.0) } else { Resources::new() },
                kind: if process { WorkerKind::Process } else { WorkerKind::Shared },
                ..spec(n)
            });
        }
        Step::Resolve(n, from) => drop(env.resolve(n, from)),
        Step::Kill(n, no_restart) => env.kill(n, no_restart),
        Step::Lease(at, answer) => env.answer_lease(at, answer),
        Step::Start(at, answer) => env.answer_start(at, answer),
        Step::Exits(n) => {
            let living = env.core.actors.get(&actor(n)).map(|entry| entry.incarnation);
            let made = |incarnation: &u32| env.out.values().any(|held| *held == (actor(n), *incarnation));
            if let Some(incarnation) = living.filter(made) {
                env.starts_asked.retain(|asked| (asked.actor, asked.incarnation) != (actor(n), incarnation));
                env.exit(actor(n), incarnation, "panicked", true);
            }
        }
        Step::Stops => env.stop_all(),
        Step::ProcessGone(n) => env.core.process_gone(process(n).id, "gone", env.now),
        Step::Pass(ms) => env.pass(ms),
        Step::Restart => env.restart(),
    }
    env.absorb();
}

/// Everything is ended: nobody waits any more, no lease is out, no name is taken.
fn end(env: &mut Env) {
    for n in 1..9 {
        env.kill(n, true);
    }
    env.pass(40_000);
    for n in 1..4 {
        env.join(n, 4.0);
    }
    for _ in 0..60 {
        env.stop_all();
        env.answer_lease(0, LeaseAnswer::Granted);
        env.answer_start(0, StartAnswer::Made);
    }
    env.pass(40_000);
    assert!(env.waiting.is_empty(), "never answered: {:?}", env.waiting);
    assert!(env.core.names.is_empty());
    assert!(env.core.lingering.is_empty() && env.core.leases.is_empty(), "{:?}", env.core.lingering);
    let alive = env.alive_nodes.clone();
    env.out.retain(|lease, _| alive.contains(&lease.node.0.as_u128()));
    assert!(env.out.is_empty(), "leases nobody gave back: {:?}", env.out);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_the_invariants(steps in prop::collection::vec(step(), 1..100)) {
        let mut env = Env::new();
        env.join(1, 4.0);
        for step in steps {
            play(&mut env, step);
        }
        end(&mut env);
    }
}
