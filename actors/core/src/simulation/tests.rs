//! The seeds that are run, what is printed of them, and the regressions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::check;
use super::record::Stats;
use super::scenario::{Sabotage, Scenario};

/// Seeds of each of the tests that run them side by side.
const SEEDS: u64 = 125;

/// Runs a scenario; what the cores themselves assert counts as a rule.
fn outcome(scenario: &Scenario, trace: bool) -> Result<Stats, String> {
    catch_unwind(AssertUnwindSafe(|| check::run(scenario, trace))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

/// Leaves out what is not needed for the failure: one fault after the other.
fn shrunk(mut scenario: Scenario) -> Scenario {
    let fails = |scenario: &Scenario| outcome(scenario, false).is_err();
    let mut at = 0;
    while at < scenario.faults.len() {
        let mut fewer = scenario.clone();
        fewer.faults.remove(at);
        if fails(&fewer) { scenario = fewer } else { at += 1 }
    }
    scenario
}

fn seed_of_environment() -> Option<u64> {
    std::env::var("MOBULA_SIM_SEED").ok().and_then(|seed| seed.parse().ok())
}

fn scenario_of(seed: u64) -> Scenario {
    let sabotage = std::env::var("MOBULA_SIM_BREAK").ok().and_then(|name| Sabotage::named(&name));
    Scenario { sabotage, ..Scenario::of(seed) }
}

/// Runs the share of one test, or the one seed that was asked for.
fn run_seeds(first: u64, test: &str) {
    let seeds = match seed_of_environment() {
        Some(seed) => seed..seed + 1,
        None => first..first + SEEDS,
    };
    let trace = std::env::var_os("MOBULA_SIM_TRACE").is_some();
    let mut stats = Stats::default();
    let mut failed: Vec<(u64, String)> = Vec::new();
    for seed in seeds {
        match outcome(&scenario_of(seed), trace) {
            Ok(of_seed) => stats.add(&of_seed),
            Err(why) => failed.push((seed, why)),
        }
    }
    println!("{stats}");
    let Some((seed, why)) = failed.first() else { return };
    let needed = shrunk(scenario_of(*seed)).faults;
    let others: Vec<String> = failed[1..].iter().map(|(seed, why)| format!("{seed}: {why:.200}")).collect();
    panic!(
        "seed {seed}: {why}\n\nneeded for it: {needed:#?}\n\nreplay: MOBULA_SIM_SEED={seed} cargo test -p mobula-core \
         --lib simulation::tests::{test} -- --exact --nocapture\n\nother seeds that fail:\n{}\n",
        others.join("\n")
    );
}

#[test]
fn a_cluster_keeps_its_word_under_faults_1() {
    run_seeds(0, "a_cluster_keeps_its_word_under_faults_1");
}

#[test]
fn a_cluster_keeps_its_word_under_faults_2() {
    run_seeds(SEEDS, "a_cluster_keeps_its_word_under_faults_2");
}

#[test]
fn a_cluster_keeps_its_word_under_faults_3() {
    run_seeds(2 * SEEDS, "a_cluster_keeps_its_word_under_faults_3");
}

#[test]
fn a_cluster_keeps_its_word_under_faults_4() {
    run_seeds(3 * SEEDS, "a_cluster_keeps_its_word_under_faults_4");
}

/// The same seed is the same history, to the last message.
#[test]
fn a_seed_is_one_history() {
    for seed in [3, 8] {
        let run = || outcome(&Scenario::of(seed), false).map(|stats| stats.to_string());
        assert_eq!(run(), run());
    }
}

/// Breaking a rule on purpose is noticed within a few seeds.
#[test]
fn a_broken_rule_is_noticed() {
    for sabotage in Sabotage::ALL {
        let noticed = (0..40).any(|seed| {
            let scenario = Scenario { sabotage: Some(sabotage), ..Scenario::of(seed) };
            outcome(&scenario, false).is_err()
        });
        assert!(noticed, "nobody notices {sabotage:?}");
    }
}
