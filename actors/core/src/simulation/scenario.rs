//! What a seed stands for: a cluster, its programs and what goes wrong.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::faults::{DRIVERS, Fault};
use super::process::MS;
use super::program::{Program, TOOL, TOOL_NODES, cpus};
use super::world::NODES;
use crate::resources::Resources;

/// A rule that the simulation breaks on purpose, to show that breaking it is noticed. A run is told
/// by `MOBULA_SIM_BREAK`, with the name of one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// A raylet overhears every third lease that is given back.
    LoseReturns,
    /// Every fifth task returns something else.
    WrongResults,
    /// The head says that something is stored before it is.
    AnswerEarly,
    /// A worker runs every third call of an actor twice.
    RunTwice,
}

impl Sabotage {
    pub(super) const ALL: [Self; 4] = [Self::LoseReturns, Self::WrongResults, Self::AnswerEarly, Self::RunTwice];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sabotage| format!("{sabotage:?}") == name)
    }
}

/// Everything that is decided before a simulation begins.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) delay_us: u64,
    pub(super) totals: Vec<Resources>,
    pub(super) programs: Vec<Program>,
    pub(super) faults: Vec<(u64, Fault)>,
    pub(super) sabotage: Option<Sabotage>,
}

impl Scenario {
    pub(super) fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let totals = (0..NODES)
            .map(|n| {
                let total = cpus(4.0);
                if TOOL_NODES.contains(&n) { total.with(TOOL, 2.0).unwrap_or_default() } else { total }
            })
            .collect();
        let delay_us = [MS / 10, MS, 10 * MS, 60 * MS][random.random_range(0..4_usize)];
        let programs = (0..DRIVERS).map(|index| Program::random(&mut random, index)).collect();
        // One in five is a calm one: then nothing may fail.
        let many = if random.random_range(0..5) == 0 { 0 } else { random.random_range(1..12) };
        let mut faults: Vec<_> = (0..many).map(|_| Fault::random(&mut random)).collect();
        faults.sort_by_key(|(at_us, _)| *at_us);
        Self { seed, delay_us, totals, programs, faults, sabotage: None }
    }
}
