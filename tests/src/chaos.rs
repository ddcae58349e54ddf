//! A driver whose cluster falls apart under it: layers of tasks that need each other's results, and
//! actors that are called all the time. Everything it is told must be right in the end.
//!
//! Tasks run at least once and give what a plain calculation gives. Calls run at most once: each
//! leaves its number in its actor's file, and one that was answered has left it exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use mobula::{Error, ObjectRef, get, remote};

use crate::gate::folder;

/// Tasks of one layer; each needs two of the layer before.
const LAYER: usize = 50;
/// Calls of each actor, between two of which others have their turn.
const CALLS: u64 = 10;
/// So many layers are submitted before their results are looked at.
const LAYERS_AHEAD: usize = 2;
/// More than anybody is killed.
pub(crate) const OFTEN: u32 = 10_000;
/// How long each task and call takes at least, so that something is always under way.
const TAKES: Duration = Duration::from_millis(2);

/// What a task makes of two numbers.
pub(crate) fn mix(one: u64, other: u64) -> u64 {
    (one ^ other.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

#[remote]
pub(crate) fn mixes(one: u64, other: u64) -> u64 {
    std::thread::sleep(TAKES);
    mix(one, other)
}

/// Leaves the numbers that it is called with in a file.
pub(crate) struct Noting {
    file: PathBuf,
}

#[remote]
impl Noting {
    pub(crate) fn new(file: String) -> Self {
        Self { file: PathBuf::from(file) }
    }

    /// Leaves its number, then answers with its double.
    pub(crate) fn note(&mut self, number: u64) -> Result<u64, std::io::Error> {
        std::thread::sleep(TAKES);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
        file.write_all(format!("{number}\n").as_bytes())?;
        Ok(2 * number)
    }
}

fn number_of(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// One call of an actor.
pub(crate) struct Call {
    pub(crate) actor: usize,
    pub(crate) number: u64,
    pub(crate) double: ObjectRef<u64>,
}

/// What became of the calls.
pub(crate) struct Fates {
    /// The numbers that were answered, by actor.
    answered: Vec<Vec<u64>>,
    /// How many were lost with their actor: whether they ran is not known.
    pub(crate) lost: usize,
}

impl Fates {
    /// Of so many actors' calls.
    pub(crate) fn new(actors: usize) -> Self {
        Self { answered: vec![Vec::new(); actors], lost: 0 }
    }

    /// How many calls were answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.iter().map(Vec::len).sum()
    }

    /// Waits for these calls.
    pub(crate) fn settle(&mut self, calls: Vec<Call>) -> Result<(), Error> {
        for call in calls {
            match get(&call.double) {
                Ok(double) => {
                    assert_eq!(double, 2 * call.number);
                    self.answered[call.actor].push(call.number);
                }
                Err(Error::ActorDied { .. } | Error::ActorUnavailable { .. }) => self.lost += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Holds what was answered against what the actors have left in their files.
    pub(crate) fn check(&self) {
        for (actor, answered) in self.answered.iter().enumerate() {
            let noted = fs::read_to_string(file_of(actor)).unwrap_or_default();
            let mut times: BTreeMap<u64, u32> = BTreeMap::new();
            for number in noted.lines() {
                *times.entry(number.parse().expect("a number was noted")).or_default() += 1;
            }
            assert!(times.values().all(|times| *times == 1), "actor {actor} ran calls twice: {times:?}");
            assert!(answered.iter().all(|number| times.contains_key(number)), "actor {actor} answered what never ran");
        }
    }
}

/// Where an actor leaves its numbers.
pub(crate) fn file_of(actor: usize) -> PathBuf {
    folder().join(format!("noted-{actor}"))
}

/// `MOBULA_CHAOS_TASKS` and `MOBULA_CHAOS_ACTORS` say how much there is to do.
pub(crate) fn driver() -> Result<(), Error> {
    let layers = number_of("MOBULA_CHAOS_TASKS", 2_000).div_ceil(LAYER);
    let actors = number_of("MOBULA_CHAOS_ACTORS", 20);
    let handles: Vec<_> = (0..actors)
        .map(|actor| Noting::options().max_restarts(-1).remote(file_of(actor).to_string_lossy().into_owned()))
        .collect();
    println!("chaos begins");

    let task = mixes.options().max_retries(OFTEN);
    let mut expected: Vec<u64> = (0..LAYER as u64).collect();
    let mut results: Vec<ObjectRef<u64>> = expected.iter().map(|n| mobula::put(*n)).collect::<Result<_, _>>()?;
    let mut calls = Vec::new();
    let mut fates = Fates::new(actors);
    for layer in 0..layers {
        let needs = |n: usize| (n, (n * 7 + layer + 1) % LAYER);
        results = (0..LAYER).map(|n| task.remote(&results[needs(n).0], &results[needs(n).1])).collect();
        expected = (0..LAYER).map(|n| mix(expected[needs(n).0], expected[needs(n).1])).collect();
        // Some calls beside them, spread over the run.
        let first = layer as u64 * CALLS / layers as u64;
        let next = (layer as u64 + 1) * CALLS / layers as u64;
        for (actor, handle) in handles.iter().enumerate() {
            calls.extend((first..next).map(|number| Call { actor, number, double: handle.note().remote(number) }));
        }
        if layer % LAYERS_AHEAD == LAYERS_AHEAD - 1 {
            assert_eq!(get(&results)?, expected, "layer {layer}");
            fates.settle(std::mem::take(&mut calls))?;
            println!("chaos: layer {layer} is right");
        }
    }
    assert_eq!(get(&results)?, expected, "the last layer");
    fates.settle(calls)?;
    fates.check();
    let answered = fates.answered();
    println!("chaos ends: {} tasks right, {answered} calls answered, {} lost", layers * LAYER, fates.lost);
    Ok(())
}
