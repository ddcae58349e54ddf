//! The seeds that are run, and what is printed of those that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::judge;
use crate::simulation::record::Stats;
use crate::simulation::scenario::{Sabotage, Scenario};

/// Seeds of each of the tests that run them side by side.
const SEEDS: u64 = 10;
/// Runs this seed alone.
const SEED_VARIABLE: &str = "MOBULA_SHELLS_SEED";
/// Breaks a rule on purpose.
const BREAK_VARIABLE: &str = "MOBULA_SHELLS_BREAK";
/// Prints what happens.
const TRACE_VARIABLE: &str = "MOBULA_SHELLS_TRACE";

/// Runs a scenario; a panic of the shells counts as a broken rule.
fn outcome(scenario: &Scenario) -> Result<Stats, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a test may have a runtime");
    let run = AssertUnwindSafe(|| mobula_transport::sim::block_on(runtime, judge::run(scenario)));
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

fn scenario_of(seed: u64) -> Scenario {
    let sabotage = std::env::var(BREAK_VARIABLE).ok().and_then(|name| Sabotage::named(&name));
    Scenario { sabotage, ..Scenario::of(seed) }
}

fn run_seeds(first: u64, test: &str) {
    let alone = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let seeds = alone.map_or(first..first + SEEDS, |seed: u64| seed..seed + 1);
    if std::env::var_os(TRACE_VARIABLE).is_some() {
        let printing = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).without_time().try_init();
        printing.expect("nobody else prints");
    }
    let mut stats = Stats::default();
    for seed in seeds {
        let scenario = scenario_of(seed);
        match outcome(&scenario) {
            Ok(of_seed) => stats.add(&of_seed),
            Err(why) => panic!(
                "seed {seed}: {why}\n\nfaults: {:#?}\n\nreplay: {SEED_VARIABLE}={seed} cargo test -p mobula-core --lib \
                 simulation::shells::tests::{test} -- --exact --nocapture\n",
                scenario.faults
            ),
        }
    }
    println!("{stats}");
}

#[test]
fn the_shells_keep_their_word_under_faults_1() {
    run_seeds(0, "the_shells_keep_their_word_under_faults_1");
}

#[test]
fn the_shells_keep_their_word_under_faults_2() {
    run_seeds(SEEDS, "the_shells_keep_their_word_under_faults_2");
}

/// Breaking a rule on purpose is noticed within a few seeds.
#[test]
fn a_broken_rule_is_noticed_in_the_shells() {
    for sabotage in Sabotage::ALL {
        let noticed =
            (0..10).any(|seed| outcome(&Scenario { sabotage: Some(sabotage), ..Scenario::of(seed) }).is_err());
        assert!(noticed, "nobody notices {sabotage:?}");
    }
}
