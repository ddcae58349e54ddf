//! A driver that uses everything, round after round, while its cluster falls apart under it: tasks,
//! actors, objects small and large, more of them than the stores hold, references inside values,
//! placement groups, work that submits work. A round is the same each time, so that what the cluster
//! needs must not grow; each answer is compared with what it must be.
//!
//! It goes on until the file [`ENDS`] is in its folder, for one round at least. What may be lost with a process (a call that
//! runs at most once, what was put on a node that is dead) is counted; nothing else may be.

use std::time::Duration;

use mobula::{
    Bundle, Bytes, Error, ObjectRef, PlacementGroup, PlacementStrategy, get, put, remote, remove_placement_group,
};

use crate::chaos::{Call, Fates, Noting, OFTEN, file_of, mix, mixes};
use crate::gate::folder;

/// The name of the file that ends the driver after its round.
const ENDS: &str = "soak-ends";
/// Tasks of a layer, and layers of a round.
const LAYER: u64 = 40;
const LAYERS: usize = 3;
const ACTORS: usize = 4;
/// Calls of each actor beside each part of a round, and how many parts there are.
const CALLS: u64 = 20;
const PARTS: usize = 5;
/// Large results of a round, each so large: more than the stores of the test's nodes hold.
const LARGE: u64 = 30;
const LARGE_BYTES: usize = 8 << 20;
/// What is put in a round, small and large.
const SMALL_PUTS: u64 = 20;
const LARGE_PUTS: u64 = 3;
/// How often something that a dying process got in the way of is tried.
const TRIES: u32 = 20;
/// How long it is waited between.
const PAUSE: Duration = Duration::from_millis(500);
/// A group is given up after so long, and made anew.
const PLACED_WITHIN: Duration = Duration::from_secs(60);

fn fill(seed: u64) -> u8 {
    (mix(seed, 7) % 251) as u8
}

#[remote]
fn large(seed: u64) -> Bytes {
    Bytes::from(vec![fill(seed); LARGE_BYTES])
}

/// The length, the first and the last byte.
fn look(bytes: &[u8]) -> (usize, u8, u8) {
    (bytes.len(), bytes[0], bytes[bytes.len() - 1])
}

#[remote]
fn look_at(bytes: Bytes) -> (usize, u8, u8) {
    look(&bytes)
}

/// Borrows what it is not given to read at once.
#[remote]
fn look_inside(inside: Vec<ObjectRef<Bytes>>) -> Result<Vec<(usize, u8, u8)>, Error> {
    inside.iter().map(|one| get(one).map(|bytes| look(&bytes))).collect()
}

/// Submits work of its own, and owns the results.
#[remote]
fn delegates(first: u64) -> Result<u64, Error> {
    let own: Vec<_> = (first..first + 3).map(|n| mixes.options().max_retries(OFTEN).remote(n, n + 1)).collect();
    Ok(get(&own)?.into_iter().fold(0, mix))
}

fn delegated(first: u64) -> u64 {
    (first..first + 3).map(|n| mix(n, n + 1)).fold(0, mix)
}

/// Keeps a reference, and gives it back.
struct Keeper(Option<ObjectRef<Bytes>>);

#[remote]
impl Keeper {
    fn new() -> Self {
        Self(None)
    }

    fn keep(&mut self, reference: Vec<ObjectRef<Bytes>>) -> usize {
        let count = reference.len();
        self.0 = reference.into_iter().next();
        count
    }

    fn give_back(&mut self) -> Vec<ObjectRef<Bytes>> {
        self.0.take().into_iter().collect()
    }
}

type Part = fn(&mut Sums, u64) -> Result<(), Error>;

/// What was done, and what became of it.
#[derive(Default)]
struct Sums {
    rounds: u64,
    tasks: u64,
    objects: u64,
    groups: u64,
    kept: u64,
    tried_again: u64,
    lost: u64,
}

impl Sums {
    /// Tries until it works. What it makes must be new each time.
    fn surely<T>(&mut self, what: &str, mut make: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            match make() {
                Ok(value) => return Ok(value),
                Err(error) if error.is_retriable() && tries < TRIES => {
                    println!("tried again, {what}: {error}");
                    tries += 1;
                    self.tried_again += 1;
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    println!("FAILED, {what}: {error}");
                    return Err(error);
                }
            }
        }
    }

    /// What is lost with a process is counted, everything else is an error.
    fn unless_lost<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(
                error @ (Error::ObjectLost { .. }
                | Error::OwnerDied { .. }
                | Error::ActorDied { .. }
                | Error::ActorUnavailable { .. }),
            ) => {
                println!("lost: {error}");
                self.lost += 1;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn layers(&mut self, round: u64) -> Result<(), Error> {
        let task = mixes.options().max_retries(OFTEN);
        let mut expected: Vec<u64> = (0..LAYER).map(|n| n + round).collect();
        let mut results =
            self.surely("small puts", || expected.iter().map(|n| put(*n)).collect::<Result<Vec<_>, _>>())?;
        for layer in 0..LAYERS {
            let other = |n: usize| (n * 7 + layer + 1) % expected.len();
            results = (0..results.len()).map(|n| task.remote(&results[n], &results[other(n)])).collect();
            expected = (0..expected.len()).map(|n| mix(expected[n], expected[other(n)])).collect();
            self.tasks += LAYER;
        }
        assert_eq!(get(&results)?, expected, "round {round}");
        let outer = delegates.options().max_retries(OFTEN).retry_exceptions(true);
        let nested: Vec<_> = (0..4).map(|n| outer.remote(round + n)).collect();
        self.tasks += 16;
        assert_eq!(get(&nested)?, (0..4).map(|n| delegated(round + n)).collect::<Vec<_>>());
        Ok(())
    }

    /// Results that have no room in memory together, as arguments, inside arguments, and here.
    fn large_results(&mut self, round: u64) -> Result<(), Error> {
        let seeds: Vec<u64> = (0..LARGE).map(|n| round * LARGE + n).collect();
        let task = large.options().max_retries(OFTEN);
        let made: Vec<_> = seeds.iter().map(|seed| task.remote(*seed)).collect();
        let seen = |seed: &u64| (LARGE_BYTES, fill(*seed), fill(*seed));
        let expected: Vec<_> = seeds.iter().map(seen).collect();
        let reader = look_at.options().max_retries(OFTEN);
        let looks: Vec<_> = made.iter().map(|one| reader.remote(one)).collect();
        assert_eq!(get(&looks)?, expected);
        let inside = look_inside.options().max_retries(OFTEN).retry_exceptions(true);
        assert_eq!(get(&inside.remote(made[..3].to_vec()))?, expected[..3]);
        for (one, expected) in made.iter().zip(&expected) {
            let bytes = self.surely("a large result", || get(one))?;
            assert_eq!(look(&bytes), *expected);
        }
        self.tasks += 2 * LARGE + 1;
        self.objects += LARGE;
        Ok(())
    }

    fn puts(&mut self, round: u64) -> Result<(), Error> {
        let numbers: Vec<ObjectRef<u64>> = (0..SMALL_PUTS).map(|n| put(round + n)).collect::<Result<_, _>>()?;
        assert_eq!(get(&numbers)?, (0..SMALL_PUTS).map(|n| round + n).collect::<Vec<_>>());
        for n in 0..LARGE_PUTS {
            let bytes = Bytes::from(vec![fill(round + n); LARGE_BYTES]);
            let one = self.surely("a large put", || put(bytes.clone()))?;
            let there = self.surely("what was put", || match get(&one) {
                // That is for ever.
                Err(error @ Error::ObjectLost { .. }) => Ok(Err(error)),
                other => other.map(Ok),
            })?;
            if let Some(found) = self.unless_lost(there)? {
                assert!(found == bytes, "what was put is another");
            }
        }
        self.objects += SMALL_PUTS + LARGE_PUTS;
        Ok(())
    }

    /// An actor keeps the only other reference.
    fn keeps(&mut self, round: u64) -> Result<(), Error> {
        let keeper = Keeper::options().max_restarts(-1).remote();
        let one = large.options().max_retries(OFTEN).remote(round);
        let kept = get(&keeper.keep().remote(vec![one.clone()]));
        self.tasks += 1;
        drop(one);
        if self.unless_lost(kept)?.is_none() {
            return Ok(());
        }
        let back = get(&keeper.give_back().remote());
        // None if the actor has lost its memory with its process.
        if let Some([one]) = self.unless_lost(back)?.as_deref() {
            let bytes = self.surely("what an actor kept", || get(one))?;
            assert_eq!(look(&bytes), (LARGE_BYTES, fill(round), fill(round)));
            self.kept += 1;
        }
        Ok(())
    }

    fn group(&mut self, round: u64) -> Result<(), Error> {
        let group = loop {
            let bundles = (0..2).map(|_| Bundle::cpus(1.0));
            let group = PlacementGroup::new(bundles).strategy(PlacementStrategy::Spread).create()?;
            if self.surely("a placement group", || group.wait(PLACED_WITHIN))? {
                break group;
            }
            remove_placement_group(&group)?;
            self.tried_again += 1;
        };
        let task = mixes.options().max_retries(OFTEN).placement_group(&group);
        let inside: Vec<_> = (0..4).map(|n| task.remote(round, n)).collect();
        assert_eq!(get(&inside)?, (0..4).map(|n| mix(round, n)).collect::<Vec<_>>());
        self.tasks += 4;
        self.groups += 1;
        remove_placement_group(&group)
    }
}

/// Runs until it is told to end.
pub(crate) fn driver() -> Result<(), Error> {
    let handles: Vec<_> = (0..ACTORS)
        .map(|actor| Noting::options().max_restarts(-1).remote(file_of(actor).to_string_lossy().into_owned()))
        .collect();
    println!("soak begins");
    let mut sums = Sums::default();
    let mut fates = Fates::new(ACTORS);
    loop {
        let round = sums.rounds;
        let mut calls = Vec::new();
        let parts: [Part; PARTS] = [Sums::layers, Sums::large_results, Sums::puts, Sums::keeps, Sums::group];
        for (first, part) in (round * PARTS as u64..).zip(parts) {
            for (actor, handle) in handles.iter().enumerate() {
                let numbers = first * CALLS..(first + 1) * CALLS;
                calls.extend(numbers.map(|number| Call { actor, number, double: handle.note().remote(number) }));
            }
            part(&mut sums, round)?;
        }
        fates.settle(calls)?;
        sums.rounds += 1;
        println!("soak: round {round} is right");
        if folder().join(ENDS).exists() {
            break;
        }
    }
    fates.check();
    let Sums { rounds, tasks, objects, groups, kept, tried_again, lost } = sums;
    let answered = fates.answered();
    let figures = [
        ("rounds", rounds),
        ("tasks right", tasks),
        ("calls answered", answered as u64),
        ("calls lost with their actor", fates.lost as u64),
        ("objects put and made", objects),
        ("references kept by actors", kept),
        ("placement groups", groups),
        ("lost otherwise, as they may be", lost),
        ("tried again", tried_again),
    ];
    for (name, figure) in figures {
        println!("figure: {name:<34}{figure:>12}");
    }
    Ok(())
}
