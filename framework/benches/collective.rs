//! How fast members of a group reduce large data: `cargo bench -p mobula --bench collective`.
//!
//! Four actors in processes of their own reduce 256 MiB of f32 each. For that, each member has to
//! move 2 (n - 1) / n times as many bytes, in memory at best: so the floor is measured in the same
//! run, in turns (A B B A), as the time in which all four copy that many bytes from one place to
//! another, at the same time. The slowest member counts.

use std::time::Instant;

use mobula::collective::{Group, GroupConfig, GroupError, ReduceOp};
use mobula::{Config, Error, ObjectRef, Session, get, remote};
use mobula_core::node::{Head, HeadConfig, HeadNetwork, Offer};
use mobula_core::store::StoreConfig;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MEMBERS: u32 = 4;
const BYTES: usize = 256 << 20;
/// What a member moves at least.
const MOVED_BYTES: usize = 2 * (MEMBERS as usize - 1) * BYTES / MEMBERS as usize;
/// How often both are measured in a row.
const ROUNDS: usize = 5;

struct Member {
    group: Group,
    data: Vec<f32>,
    copy: Vec<u8>,
}

#[remote]
impl Member {
    fn new(rank: u32, shared: bool) -> Result<Self, GroupError> {
        let group = Group::join(GroupConfig::new(format!("bench-{shared}"), MEMBERS, rank).shared_memory(shared))?;
        Ok(Self { group, data: vec![1.0; BYTES / size_of::<f32>()], copy: vec![1; BYTES] })
    }

    /// The seconds of one allreduce.
    fn reduce(&mut self) -> Result<f64, GroupError> {
        self.data.fill(1.0);
        self.group.barrier()?;
        let begun = Instant::now();
        self.group.allreduce(&mut self.data, ReduceOp::Sum)?;
        let seconds = begun.elapsed().as_secs_f64();
        assert!(self.data.iter().all(|number| *number == MEMBERS as f32));
        Ok(seconds)
    }

    /// The seconds in which it copies as many bytes as an allreduce has to move.
    fn copy(&mut self) -> Result<f64, GroupError> {
        self.group.barrier()?;
        let begun = Instant::now();
        let mut left = MOVED_BYTES;
        while left > 0 {
            let now = left.min(BYTES);
            // SAFETY: the bytes of numbers, which are initialised, for as long as `data` is borrowed.
            let data = unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<u8>(), now) };
            self.copy[..now].copy_from_slice(data);
            std::hint::black_box(&mut self.copy);
            left -= now;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// The microseconds of one small allreduce, and of one barrier.
    fn small(&mut self, calls: u32) -> Result<(f64, f64), GroupError> {
        let per_call = |begun: Instant| begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls);
        self.group.barrier()?;
        let begun = Instant::now();
        for _ in 0..calls {
            self.group.allreduce(&mut self.data[..16], ReduceOp::Max)?;
        }
        let reduce = per_call(begun);
        let begun = Instant::now();
        for _ in 0..calls {
            self.group.barrier()?;
        }
        Ok((reduce, per_call(begun)))
    }
}

#[mobula::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let credentials = dir.path().join("credentials");
    let head = Head::start(HeadConfig {
        cluster: "bench".to_owned(),
        name: "head".to_owned(),
        resources: Offer::default().resources()?,
        store: StoreConfig { capacity_bytes: Some(64 << 20), ..StoreConfig::default() },
        traits: Default::default(),
        network: Some(HeadNetwork {
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            dir: dir.path().join("head"),
            credentials: credentials.clone(),
        }),
    })?;
    let address = head.address().ok_or("the head listens")?.to_string();
    let session = Session::start(Config::default().address(address).credentials(credentials))?;
    let measured = {
        let _entered = session.enter();
        measure()
    };
    session.shutdown();
    head.stop();
    Ok(measured?)
}

fn measure() -> Result<(), Error> {
    println!(
        "allreduce of {} MiB of f32 over {MEMBERS} processes, {} CPUs; each has to move {} MiB",
        BYTES >> 20,
        std::thread::available_parallelism().map_or(1, usize::from),
        MOVED_BYTES >> 20
    );
    for shared in [true, false] {
        let members: Vec<MemberHandle> =
            (0..MEMBERS).map(|rank| Member::options().num_cpus(0.0).process_worker().remote(rank, shared)).collect();
        let all = |calls: Vec<ObjectRef<f64>>| Ok::<_, Error>(get(&calls)?.into_iter().fold(0.0, f64::max));
        let reduce = || all(members.iter().map(|member| member.reduce().remote()).collect());
        let copy = || all(members.iter().map(|member| member.copy().remote()).collect());
        // Warm: memory, caches, connections.
        reduce()?;
        copy()?;
        let (mut reduced, mut copied) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                reduced.push(reduce()?);
                copied.push(copy()?);
            } else {
                copied.push(copy()?);
                reduced.push(reduce()?);
            }
        }
        let way = if shared { "through shared memory" } else { "in messages" };
        let (reduced, copied) = (median(reduced), median(copied));
        println!(
            "{way:>22}: {:.0} ms, {:.2} GB/s per member; copied in {:.0} ms, {:.2} GB/s: {:.2} times the floor",
            reduced * 1e3,
            MOVED_BYTES as f64 / reduced / 1e9,
            copied * 1e3,
            MOVED_BYTES as f64 / copied / 1e9,
            reduced / copied
        );
        let small: Vec<_> = members.iter().map(|member| member.small().remote(2_000_u32)).collect();
        let small = get(&small)?;
        let slowest = |of: fn(&(f64, f64)) -> f64| small.iter().map(of).fold(0.0, f64::max);
        println!("{way:>22}: 16 numbers {:.0} us, a barrier {:.0} us", slowest(|it| it.0), slowest(|it| it.1));
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
