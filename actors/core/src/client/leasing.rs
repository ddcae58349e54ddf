//! A whole cluster's leasing as a model: real schedulers and a real submitter, which exchange
//! messages that take a random time, over connections that break and swallow what is on its way.
//! Nothing of it runs: the model says when a task ends.

mod cluster;

use proptest::prelude::*;

use self::cluster::{Cluster, Event, MS};

/// A batch of tasks of which none ends before all have started.
#[derive(Clone, Debug)]
struct Phase {
    spread: bool,
    /// Tasks of this kind have run, and were short: several go to one lease, until it is stuck.
    known: bool,
    /// How long they go on running when all have started.
    hold_ms: u64,
    /// In tenths of a CPU.
    demand: u32,
    /// How much of the cluster they fill, in percent.
    fill: u32,
    pause_ms: u64,
    /// Queues that nobody uses are forgotten afterwards.
    forget: bool,
    /// How many of the tasks are cancelled meanwhile, in percent.
    cancel: u32,
}

/// Who gives up on a connection.
#[derive(Clone, Copy, Debug)]
struct Gives {
    client: bool,
    node: bool,
}

fn phase() -> impl Strategy<Value = Phase> {
    (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        0..2_500_u64,
        prop_oneof![Just(5_u32), Just(10)],
        20..=100_u32,
        0..300_u64,
        prop_oneof![2 => Just(0_u32), 1 => 0..=100_u32],
    )
        .prop_map(|(spread, known, forget, hold_ms, demand, fill, pause_ms, cancel)| Phase {
            spread,
            known,
            forget,
            hold_ms,
            demand,
            fill,
            pause_ms,
            cancel,
        })
}

/// Mostly nobody: the connection comes back soon.
fn gives() -> impl Strategy<Value = Gives> {
    let gives = |client, node| Just(Gives { client, node });
    prop_oneof![3 => gives(false, false), 1 => gives(true, false), 1 => gives(false, true), 1 => gives(true, true)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tasks_that_wait_for_each_other_all_get_leases(
        seed: u64,
        delay_ms in 1..60_u64,
        start_ms in 0..1_500_u64,
        home in 0..4_u32,
        others in prop::collection::vec(1..4_u32, 1..4),
        phases in prop::collection::vec(phase(), 1..5),
    ) {
        let nodes: Vec<u32> = std::iter::once(home).chain(others).collect();
        let mut cluster = Cluster::new(seed, delay_ms, start_ms, &nodes);
        for phase in &phases {
            cluster.run(phase);
        }
    }

    #[test]
    fn what_a_broken_connection_swallows_is_made_good(
        seed: u64,
        delay_ms in 1..60_u64,
        start_ms in 0..500_u64,
        home in 0..4_u32,
        others in prop::collection::vec(1..4_u32, 1..4),
        breaks in prop::collection::vec((0..6_000_u64, 0..4_usize, gives()), 1..20),
        phases in prop::collection::vec(phase(), 1..4),
    ) {
        let nodes: Vec<u32> = std::iter::once(home).chain(others).collect();
        let mut cluster = Cluster::new(seed, delay_ms, start_ms, &nodes);
        for (at_ms, n, gives) in breaks {
            cluster.at(at_ms * MS, Event::Break(n % nodes.len(), gives));
        }
        for phase in &phases {
            cluster.run(&Phase { spread: false, ..phase.clone() });
        }
        // What nobody needs any more is free again, whatever got lost.
        let until = cluster.now_us + 5_000 * MS;
        while cluster.now_us < until {
            cluster.step();
        }
        for (scheduler, total) in cluster.nodes.iter().zip(&cluster.totals) {
            prop_assert_eq!(scheduler.available(), total);
            prop_assert!(scheduler.pending(cluster.now()).is_empty(), "nobody wants anything any more");
        }
    }
}
