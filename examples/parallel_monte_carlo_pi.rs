//! Pi by throwing darts, on all CPUs, with an actor that hears how far everyone is.
//!
//! ```text
//! cargo run --example parallel_monte_carlo_pi
//! ```

use std::time::Duration;

use mobula::{Config, Error, get, remote, wait};

const TASKS: u64 = 16;
const DARTS_PER_TASK: u64 = 400_000;
const REPORT_EVERY: u64 = 50_000;

/// Collects what the tasks report.
struct Progress {
    darts: u64,
    hits: u64,
}

#[remote]
impl Progress {
    fn new() -> Self {
        Self { darts: 0, hits: 0 }
    }

    fn report(&mut self, darts: u64, hits: u64) {
        self.darts += darts;
        self.hits += hits;
    }

    fn so_far(&self) -> (u64, u64) {
        (self.darts, self.hits)
    }
}

/// Throws darts at the unit square and counts those inside the quarter circle. The seed makes the
/// answer the same however many CPUs there are.
#[remote]
fn throw_darts(seed: u64, darts: u64, progress: ProgressHandle) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut coordinate = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let (mut hits, mut reported) = (0, 0);
    for dart in 1..=darts {
        let (x, y) = (coordinate(), coordinate());
        hits += u64::from(x * x + y * y < 1.0);
        if dart % REPORT_EVERY == 0 {
            // Not waited for: a report costs this task next to nothing.
            progress.report().remote(REPORT_EVERY, hits - reported);
            reported = hits;
        }
    }
    hits
}

#[mobula::main]
fn main() -> Result<(), Error> {
    let session = mobula::init(Config::from_env()?)?;
    let progress = Progress::remote();
    let tasks: Vec<_> = (1..=TASKS).map(|seed| throw_darts.remote(seed, DARTS_PER_TASK, progress.clone())).collect();

    loop {
        let (_, rest) = wait(&tasks, tasks.len(), Duration::from_millis(100))?;
        let (darts, hits) = get(progress.so_far().remote())?;
        let done = darts * 40 / (TASKS * DARTS_PER_TASK);
        let bar: String = (0..40).map(|place| if place < done { '#' } else { '.' }).collect();
        println!("[{bar}] {darts:>8} darts, pi is about {:.5}", 4.0 * hits as f64 / darts.max(1) as f64);
        if rest.is_empty() {
            break;
        }
    }

    let hits: u64 = get(&tasks)?.into_iter().sum();
    println!("pi is {:.6}, by {} darts", 4.0 * hits as f64 / (TASKS * DARTS_PER_TASK) as f64, TASKS * DARTS_PER_TASK);
    session.shutdown();
    Ok(())
}
