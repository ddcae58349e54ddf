//! Behaviour that users rely on, as a driver program: `mobula-behaviour GROUP [--address ADDRESS]`.
//!
//! The scenarios of a group run one after the other in one session: inside this process, or with
//! an address on a cluster, whose nodes start this very program as their worker. Each prints
//! `ok` or `FAILED`; the program ends with 1 when one has failed. The tests of this package start
//! it both ways; it never runs by itself. A name of [`drivers`] in the place of the group runs
//! that driver.

mod actor_life;
mod actor_sharing;
mod actors;
mod arguments;
mod async_actors;
mod cancel;
mod chaos;
mod collectives;
mod dataset_blocks;
mod dataset_failures;
mod dataset_files;
mod dataset_groups;
mod dataset_order;
mod dataset_rows;
mod dataset_sides;
mod datasets;
mod drivers;
mod explain;
mod failures;
mod gate;
mod gpus;
mod lost_calls;
mod many;
mod memory;
mod placement;
mod reconstruction;
mod references;
mod runtime_env;
mod scheduling;
mod soak;
mod spilling;
mod stores;
mod streaming;
mod tables;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use mobula::Config;

/// One thing that must hold.
struct Scenario {
    name: &'static str,
    run: fn(),
    /// It needs workers that are processes of their own.
    on_cluster_only: bool,
}

/// A scenario that holds everywhere.
const fn everywhere(name: &'static str, run: fn()) -> Scenario {
    Scenario { name, run, on_cluster_only: false }
}

/// A scenario that ends worker processes or looks at more than one node.
const fn on_cluster(name: &'static str, run: fn()) -> Scenario {
    Scenario { name, run, on_cluster_only: true }
}

fn group(name: &str) -> Option<&'static [Scenario]> {
    Some(match name {
        "values" => values::SCENARIOS,
        "arguments" => arguments::SCENARIOS,
        "actors" => actors::SCENARIOS,
        "actor-life" => actor_life::SCENARIOS,
        "actor-sharing" => actor_sharing::SCENARIOS,
        "async-actors" => async_actors::SCENARIOS,
        "cancel" => cancel::SCENARIOS,
        "cancel-by-force" => cancel::BY_FORCE,
        "collectives" => collectives::SCENARIOS,
        "datasets" => datasets::SCENARIOS,
        "data-files" => dataset_files::SCENARIOS,
        "data-groups" => dataset_groups::SCENARIOS,
        "data-laziness" => dataset_rows::LAZINESS,
        "data-map" => dataset_rows::MAP,
        "data-repartition" => dataset_blocks::REPARTITION,
        "data-shuffle" => dataset_order::SHUFFLE,
        "data-sides" => dataset_sides::SCENARIOS,
        "data-sort" => dataset_order::SORT,
        "data-split" => dataset_blocks::SPLIT,
        "explain" => explain::SCENARIOS,
        "failures" => failures::SCENARIOS,
        "gpus" => gpus::SCENARIOS,
        "labels" => scheduling::LABELS,
        "lost-calls" => lost_calls::SCENARIOS,
        "lost-workers" => failures::LOST_WORKERS,
        "many" => many::SCENARIOS,
        "memory" => memory::SCENARIOS,
        "placement" => placement::SCENARIOS,
        "lost-objects" => reconstruction::SCENARIOS,
        "references" => references::SCENARIOS,
        "short-of-memory" => memory::SHORT,
        "runtime-env" => runtime_env::SCENARIOS,
        "scheduling" => scheduling::SCENARIOS,
        "spilling" => spilling::SCENARIOS,
        "spilling-many-gets" => spilling::MANY_GETS,
        "streaming" => streaming::SCENARIOS,
        "streaming-lost-workers" => streaming::LOST_WORKERS,
        "spilling-bounded" => spilling::BOUNDED,
        "seven-cpus" => scheduling::SEVEN_CPUS,
        "two-cpus" => failures::TWO_CPUS,
        "two-nodes" => scheduling::TWO_NODES,
        "two-nodes-groups" => placement::TWO_NODES,
        "stuck" => scheduling::STUCK,
        _ => return None,
    })
}

#[mobula::main]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, address, only) = match arguments[..] {
        [name] => (name, None, None),
        [name, "--address", address] => (name, Some(address), None),
        [name, "--only", only] => (name, None, Some(only)),
        [name, "--address", address, "--only", only] => (name, Some(address), Some(only)),
        _ => {
            eprintln!("usage: mobula-behaviour GROUP [--address ADDRESS] [--only SCENARIO]");
            return ExitCode::from(2);
        }
    };
    let driver = drivers::find(name);
    let scenarios = group(name).unwrap_or_default();
    if driver.is_none() && scenarios.is_empty() {
        eprintln!("there is no group {name}");
        return ExitCode::from(2);
    }
    let config = match address {
        Some(address) => Config::default().address(address),
        None if name.starts_with("spilling") => {
            let small = Config::default().num_cpus(LOCAL_CPUS).object_store_memory(spilling::STORE_BYTES);
            let small = small.spill_dir(spilling::SPILL_DIR);
            if name == "spilling-bounded" { small.spill_limit(spilling::DISK_BYTES) } else { small }
        }
        None if name == "two-cpus" => Config::default().num_cpus(2.0),
        None => Config::default().num_cpus(LOCAL_CPUS).num_gpus(if name == "gpus" { gpus::GPUS } else { 0.0 }),
    };
    let config = if name == "runtime-env" { config.runtime_env(runtime_env::make()) } else { config };
    let session = match mobula::init(config) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("no session: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(driver) = driver {
        let ended = driver();
        session.shutdown();
        return match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{name}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut failed = 0;
    for scenario in scenarios {
        if only.is_some_and(|only| only != scenario.name) {
            continue;
        }
        if scenario.on_cluster_only && address.is_none() {
            continue;
        }
        println!("run     {}", scenario.name);
        let ok = catch_unwind(AssertUnwindSafe(scenario.run)).is_ok();
        println!("{:<7} {}", if ok { "ok" } else { "FAILED" }, scenario.name);
        failed += u32::from(!ok);
    }
    if failed == 0 && !settles(name) {
        failed += 1;
    }
    session.shutdown();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether, after all scenarios of a group, everything is free again and no object is left.
fn settles(group: &str) -> bool {
    let free = || {
        let (available, total) = (mobula::available_resources()?, mobula::cluster_resources()?);
        Ok::<_, mobula::Error>((available == total).then_some(()).ok_or((available, total)))
    };
    let mut last = None;
    let settled = catch_unwind(AssertUnwindSafe(|| {
        gate::wait_until("all resources to be free", || {
            last = free().expect("the cluster answers").err();
            last.is_none()
        });
        stores::wait_until_empty();
    }));
    if settled.is_err() {
        println!("FAILED  {group} leaves something behind: {last:?} (available, total)");
    }
    settled.is_ok()
}

/// CPUs of the session inside this process, whatever the machine has.
const LOCAL_CPUS: f64 = 4.0;
