//! The cases: the same work under the same names as `ray microbenchmark`, so that figures can be
//! held against each other line by line.
//!
//! | Ray | here |
//! |---|---|
//! | `ray.put(0)` | `put(0_i64)` |
//! | a task or method that returns `b"ok"` | returns `Bytes` of `ok` |
//! | an array of 100 x 2^20 `int64` | an [`Array`] of as many `i64` |
//! | `multiprocessing.cpu_count() // 2` | the same of the driver's machine, at least 1 |
//!
//! | a bundle of 0.001 of a custom resource | of 0.001 CPU |
//!
//! Ray's `ray_perf.py` measures the async actors too; they are not here.

use std::time::Duration;

use mobula::{Array, Bundle, Bytes, Error, ObjectRef, PlacementGroup, get, put, remote, remove_placement_group, wait};

/// One line of the benchmark.
pub(crate) struct Case {
    /// Its name, as Ray has it.
    pub(crate) name: &'static str,
    /// Ray's figures for it.
    pub(crate) ray: Ray,
    /// What bounds it from below.
    pub(crate) bound: Bound,
    /// Makes the actors and objects it needs.
    pub(crate) prepare: fn() -> Result<Prepared, Error>,
}

/// What Ray does per second.
#[derive(Clone, Copy)]
pub(crate) struct Ray {
    /// Ray 2.60.0 on the reference machine: 2 virtual CPUs, 24 GiB.
    pub(crate) measured: f64,
    /// From the least to the most that Ray itself has published, on 64 virtual CPUs.
    pub(crate) published: (f64, f64),
}

/// The hardware that bounds a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Nothing that is measured here.
    None,
    /// One answer at a time: thread wake-ups and, between processes, the wire.
    RoundTrip,
    /// Copying into memory, units of 1e9 bytes.
    Copy,
}

/// A case that can be run.
pub(crate) struct Prepared {
    /// How many units one call counts for.
    pub(crate) units: f64,
    /// Does the work once.
    pub(crate) call: Box<dyn FnMut() -> Result<(), Error>>,
}

/// All of them, in Ray's order.
pub(crate) const CASES: &[Case] = &[
    case("single client get calls", 7_373.0, (4_031.0, 10_620.0), Bound::None, get_calls),
    case("single client put calls", 1_564.0, (3_836.0, 5_173.0), Bound::None, put_calls),
    case("multi client put calls", 1_127.0, (16_526.0, 16_526.0), Bound::None, multi_put_calls),
    case(PUT_GIGABYTES, 2.7, (15.0, 20.0), Bound::Copy, put_gigabytes),
    case("multi client put gigabytes", 7.0, (25.0, 38.0), Bound::Copy, multi_put_gigabytes),
    case("single client tasks and get batch", 1.56, (5.8, 6.7), Bound::None, tasks_and_get_batch),
    case("single client get object containing 10k refs", 11.7, (8.9, 13.4), Bound::None, get_10k_refs),
    case("single client wait 1k refs", 1.33, (4.9, 5.1), Bound::None, wait_1k_refs),
    case("single client tasks sync", 530.0, (805.0, 981.0), Bound::RoundTrip, tasks_sync),
    case("single client tasks async", 1_723.0, (7_175.0, 8_041.0), Bound::None, tasks_async),
    case("multi client tasks async", 1_753.0, (21_230.0, 21_230.0), Bound::None, multi_tasks_async),
    case("1:1 actor calls sync", 1_115.0, (1_763.0, 2_012.0), Bound::RoundTrip, actor_sync),
    case("1:1 actor calls async", 3_263.0, (8_664.0, 8_664.0), Bound::None, actor_async),
    case("1:1 actor calls concurrent", 4_146.0, (5_775.0, 5_775.0), Bound::None, actor_concurrent),
    case("1:n actor calls async", 3_412.0, (8_038.0, 8_038.0), Bound::None, one_to_n),
    case("n:n actor calls async", 4_261.0, (27_376.0, 27_376.0), Bound::None, n_to_n),
    case("n:n actor calls with arg async", 1_304.0, (2_759.0, 2_759.0), Bound::None, n_to_n_with_arg),
    case("placement group create/removal", 428.0, (589.0, 765.0), Bound::None, placement_groups),
];

/// The case whose first call tells what fresh memory costs.
pub(crate) const PUT_GIGABYTES: &str = "single client put gigabytes";

const fn case(
    name: &'static str,
    measured: f64,
    published: (f64, f64),
    bound: Bound,
    prepare: fn() -> Result<Prepared, Error>,
) -> Case {
    Case { name, ray: Ray { measured, published }, bound, prepare }
}

/// Calls per batch where Ray says `range(1000)`.
const BATCH: usize = 1_000;
/// Tasks that each client of "multi client tasks async" submits.
const TASKS_PER_CLIENT: usize = 10_000;
/// Its clients, and the tasks of "n:n actor calls async".
const CLIENTS: usize = 4;
/// Calls to each actor of the 1:n and n:n cases.
const CALLS_PER_ACTOR: usize = 5_000;
/// Numbers in the array of "single client put gigabytes": 800 MiB.
pub(crate) const LARGE_NUMBERS: usize = 100 * 1024 * 1024;
/// Numbers in each array of "multi client put gigabytes": 80 MiB.
const MEDIUM_NUMBERS: usize = 10 * 1024 * 1024;
/// Placement groups that are made before the first is removed.
const GROUPS: usize = 100;
/// How long one of them may take.
const GROUP_WITHIN: Duration = Duration::from_secs(30);
/// References in the object of "get object containing 10k refs".
const REFS: usize = 10_000;

// ---- tasks and actors --------------------------------------------------------------------------

#[remote]
fn small_value() -> Bytes {
    Bytes::from_static(b"ok")
}

#[remote]
fn put_small_values(count: usize) -> Result<(), Error> {
    for _ in 0..count {
        put(0_i64)?;
    }
    Ok(())
}

#[remote]
fn put_arrays(count: usize) -> Result<(), Error> {
    for _ in 0..count {
        put(vec![0_i64; MEDIUM_NUMBERS])?;
    }
    Ok(())
}

#[remote]
fn object_containing_refs(count: usize) -> Result<Vec<ObjectRef<i64>>, Error> {
    (0..count).map(|_| put(1_i64)).collect()
}

#[remote]
fn call_actors(actors: Vec<EchoHandle>, calls: usize) -> Result<(), Error> {
    let results: Vec<_> = (0..calls).map(|call| actors[call % actors.len()].small_value().remote()).collect();
    get(results).map(drop)
}

/// Ray's `Actor`.
struct Echo;

#[remote(num_cpus = 0)]
impl Echo {
    fn new() -> Self {
        Self
    }

    fn small_value(&self) -> Bytes {
        Bytes::from_static(b"ok")
    }

    fn small_value_arg(&self, _argument: i64) -> Bytes {
        Bytes::from_static(b"ok")
    }

    fn small_value_batch(&self, count: usize) -> Result<(), Error> {
        let results: Vec<_> = (0..count).map(|_| small_value.remote()).collect();
        get(results).map(drop)
    }
}

/// Ray's `Client`: an actor that calls others.
struct Caller {
    servers: Vec<EchoHandle>,
}

#[remote(num_cpus = 0)]
impl Caller {
    fn new(servers: Vec<EchoHandle>) -> Self {
        Self { servers }
    }

    fn small_value_batch(&self, count: usize) -> Result<(), Error> {
        let mut results = Vec::with_capacity(count * self.servers.len());
        for server in &self.servers {
            results.extend((0..count).map(|_| server.small_value().remote()));
        }
        get(results).map(drop)
    }

    fn small_value_batch_arg(&self, count: usize) -> Result<(), Error> {
        let argument = put(0_i64)?;
        let mut results = Vec::with_capacity(count * self.servers.len());
        for server in &self.servers {
            results.extend((0..count).map(|_| server.small_value_arg().remote(&argument)));
        }
        get(results).map(drop)
    }
}

// ---- the cases ---------------------------------------------------------------------------------

fn prepared(units: f64, call: impl FnMut() -> Result<(), Error> + 'static) -> Result<Prepared, Error> {
    Ok(Prepared { units, call: Box::new(call) })
}

fn get_calls() -> Result<Prepared, Error> {
    let value = put(0_i64)?;
    prepared(1.0, move || get(&value).map(drop))
}

fn put_calls() -> Result<Prepared, Error> {
    prepared(1.0, || put(0_i64).map(drop))
}

fn multi_put_calls() -> Result<Prepared, Error> {
    prepared(1_000.0, || {
        let puts: Vec<_> = (0..10).map(|_| put_small_values.remote(100_usize)).collect();
        get(puts).map(drop)
    })
}

fn put_gigabytes() -> Result<Prepared, Error> {
    // Zeros that nobody wrote would all be read from one page that the system shares; these
    // numbers come from memory.
    let array = Array::from((0..LARGE_NUMBERS as i64).collect::<Vec<_>>());
    // As in Ray's script an array of 800 MiB counts as 0.8 GB.
    prepared(0.8, move || put(array.clone()).map(drop))
}

fn multi_put_gigabytes() -> Result<Prepared, Error> {
    prepared(8.0, || {
        let puts: Vec<_> = (0..10).map(|_| put_arrays.remote(10_usize)).collect();
        get(puts).map(drop)
    })
}

fn tasks_and_get_batch() -> Result<Prepared, Error> {
    prepared(1.0, submit_batch)
}

fn get_10k_refs() -> Result<Prepared, Error> {
    let object = object_containing_refs.remote(REFS);
    prepared(1.0, move || get(&object).map(drop))
}

fn wait_1k_refs() -> Result<Prepared, Error> {
    prepared(1.0, || {
        let mut not_ready: Vec<_> = (0..BATCH).map(|_| small_value.remote()).collect();
        while !not_ready.is_empty() {
            (_, not_ready) = wait(&not_ready, 1, None)?;
        }
        Ok(())
    })
}

fn tasks_sync() -> Result<Prepared, Error> {
    prepared(1.0, || get(small_value.remote()).map(drop))
}

fn tasks_async() -> Result<Prepared, Error> {
    prepared(BATCH as f64, submit_batch)
}

fn multi_tasks_async() -> Result<Prepared, Error> {
    let actors = echoes(CLIENTS);
    prepared((TASKS_PER_CLIENT * CLIENTS) as f64, move || {
        let batches: Vec<_> = actors.iter().map(|actor| actor.small_value_batch().remote(TASKS_PER_CLIENT)).collect();
        get(batches).map(drop)
    })
}

fn actor_sync() -> Result<Prepared, Error> {
    let actor = Echo::remote();
    prepared(1.0, move || get(actor.small_value().remote()).map(drop))
}

fn actor_async() -> Result<Prepared, Error> {
    call_batches(Echo::remote())
}

fn actor_concurrent() -> Result<Prepared, Error> {
    call_batches(Echo::options().max_concurrency(16).remote())
}

fn one_to_n() -> Result<Prepared, Error> {
    let actors = echoes(half_the_cpus());
    let count = actors.len();
    let caller = Caller::remote(actors);
    prepared((CALLS_PER_ACTOR * count) as f64, move || get(caller.small_value_batch().remote(CALLS_PER_ACTOR)))
}

fn n_to_n() -> Result<Prepared, Error> {
    let actors = echoes(half_the_cpus());
    prepared((CALLS_PER_ACTOR * CLIENTS) as f64, move || {
        let tasks: Vec<_> = (0..CLIENTS).map(|_| call_actors.remote(actors.clone(), CALLS_PER_ACTOR)).collect();
        get(tasks).map(drop)
    })
}

fn n_to_n_with_arg() -> Result<Prepared, Error> {
    let callers: Vec<_> = echoes(half_the_cpus()).into_iter().map(|actor| Caller::remote(vec![actor])).collect();
    prepared((BATCH * callers.len()) as f64, move || {
        let batches: Vec<_> = callers.iter().map(|caller| caller.small_value_batch_arg().remote(BATCH)).collect();
        get(batches).map(drop)
    })
}

fn placement_groups() -> Result<Prepared, Error> {
    prepared(GROUPS as f64, || {
        let made: Result<Vec<_>, Error> =
            (0..GROUPS).map(|_| PlacementGroup::new([Bundle::cpus(0.001)]).create()).collect();
        let groups = made?;
        for group in &groups {
            if !group.wait(GROUP_WITHIN)? {
                return Err(Error::TimedOut { after: GROUP_WITHIN });
            }
        }
        groups.iter().try_for_each(remove_placement_group)
    })
}

fn submit_batch() -> Result<(), Error> {
    let results: Vec<_> = (0..BATCH).map(|_| small_value.remote()).collect();
    get(results).map(drop)
}

fn call_batches(actor: EchoHandle) -> Result<Prepared, Error> {
    prepared(BATCH as f64, move || {
        let results: Vec<_> = (0..BATCH).map(|_| actor.small_value().remote()).collect();
        get(results).map(drop)
    })
}

fn echoes(count: usize) -> Vec<EchoHandle> {
    (0..count).map(|_| Echo::remote()).collect()
}

/// Submits one task and fetches its result.
pub(crate) fn first_result() -> Result<(), Error> {
    get(small_value.remote()).map(drop)
}

fn half_the_cpus() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}
