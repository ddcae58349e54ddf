//! What this machine could do at best, measured in the same run as the cases: nothing of Mobula
//! is involved, so a case can be held against the floor under it.
//!
//! | floor | is |
//! |---|---|
//! | thread wake-up | half of a ping-pong between two threads that park and unpark |
//! | copy into faulted memory | one thread's memcpy of 800 MiB into a shared mapping that was written before |
//! | copy into fresh memory | the same into pages that nobody has touched |
//! | QUIC ping-pong | 64 bytes there and back between two processes over one stream |

pub(crate) mod quic;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::measure::median;
use crate::error::CliError;

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floors {
    /// From `unpark` to the woken thread's first step.
    pub(crate) wake_up: Option<Duration>,
    /// Into memory and out of it, 1e9 bytes per second.
    pub(crate) copy: Option<Copying>,
    /// There and back, 64 bytes.
    pub(crate) quic_round_trip: Option<Duration>,
}

impl Floors {
    /// The mean of each, over those that have it.
    pub(crate) fn mean(all: &[Self]) -> Self {
        let copies = || all.iter().filter_map(|floors| floors.copy);
        Self {
            wake_up: mean_time(all.iter().filter_map(|floors| floors.wake_up)),
            copy: match (mean(copies().map(|copy| copy.faulted)), mean(copies().map(|copy| copy.fresh))) {
                (Some(faulted), Some(fresh)) => Some(Copying { faulted, fresh }),
                _ => None,
            },
            quic_round_trip: mean_time(all.iter().filter_map(|floors| floors.quic_round_trip)),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<_> = values.collect();
    (!values.is_empty()).then(|| super::measure::mean_and_sd(&values).0)
}

fn mean_time(times: impl Iterator<Item = Duration>) -> Option<Duration> {
    mean(times.map(|time| time.as_secs_f64())).map(Duration::from_secs_f64)
}

/// How fast bytes are copied, in units of 1e9 bytes per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copying {
    /// Into pages that were written before.
    pub(crate) faulted: f64,
    /// Into pages that nobody has touched.
    pub(crate) fresh: f64,
}

/// Rounds of the thread ping-pong that are timed.
const WAKE_UP_ROUNDS: u32 = 10_000;
/// What is copied at a time: the array of the gigabyte case.
const COPY_BYTES: usize = super::cases::LARGE_NUMBERS * size_of::<i64>();
/// Copies into fresh memory, and as many again into the same; the median counts.
const COPIES: usize = 2;

/// Half of a ping-pong between two threads.
pub(crate) fn wake_up() -> Result<Duration, CliError> {
    let turn = Arc::new(AtomicU64::new(0));
    let asker = std::thread::current();
    let echo = {
        let turn = Arc::clone(&turn);
        std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || {
                for round in 0..u64::from(WAKE_UP_ROUNDS) {
                    take_turn(&turn, 2 * round + 1, &asker);
                }
            })
            .map_err(CliError::system("a thread cannot be started"))?
    };
    let start = Instant::now();
    for round in 0..u64::from(WAKE_UP_ROUNDS) {
        turn.store(2 * round + 1, Ordering::Release);
        echo.thread().unpark();
        wait_for(&turn, 2 * round + 2);
    }
    let elapsed = start.elapsed();
    echo.join()
        .map_err(|_| CliError::Child { what: "the echoing thread".to_owned(), why: "it panicked".to_owned() })?;
    Ok(elapsed / (2 * WAKE_UP_ROUNDS))
}

fn take_turn(turn: &AtomicU64, mine: u64, other: &Thread) {
    wait_for(turn, mine);
    turn.store(mine + 1, Ordering::Release);
    other.unpark();
}

fn wait_for(turn: &AtomicU64, value: u64) {
    while turn.load(Ordering::Acquire) != value {
        std::thread::park();
    }
}

/// Copies into fresh and into faulted shared memory, by one thread.
pub(crate) fn copying() -> Result<Copying, CliError> {
    // Written, so that it is read from memory and not from the system's shared page of zeros.
    let source: Vec<u8> = (0..COPY_BYTES).map(|place| (place >> 3) as u8).collect();
    let mut fresh = Vec::new();
    let mut faulted = Vec::new();
    for _ in 0..COPIES {
        let mut target = shared_memory(COPY_BYTES)?;
        fresh.push(copy_rate(&source, &mut target));
        faulted.push(copy_rate(&source, &mut target));
    }
    Ok(Copying { faulted: median(&mut faulted), fresh: median(&mut fresh) })
}

fn copy_rate(source: &[u8], target: &mut [u8]) -> f64 {
    let start = Instant::now();
    target.copy_from_slice(source);
    std::hint::black_box(target);
    source.len() as f64 / 1e9 / start.elapsed().as_secs_f64()
}

fn shared_memory(len: usize) -> Result<MmapMut, CliError> {
    let what = || CliError::system(format!("{len} bytes of shared memory cannot be had"));
    let file = memfd_create("mobula-floor", MemfdFlags::CLOEXEC).map_err(|error| what()(error.into()))?;
    ftruncate(&file, len as u64).map_err(|error| what()(error.into()))?;
    let file = std::fs::File::from(file);
    // SAFETY: the memory has no name and its descriptor goes no further than this function, so
    // nobody else writes it or makes it shorter.
    unsafe { MmapMut::map_mut(&file) }.map_err(what())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_takes_what_is_copied_into_it() {
        let mut target = shared_memory(1 << 16).unwrap();
        let source: Vec<u8> = (0..1 << 16).map(|place| place as u8).collect();
        assert!(copy_rate(&source, &mut target) > 0.0);
        assert_eq!(target[..], source[..]);
    }

    #[test]
    fn means_are_of_those_that_have_a_value() {
        let of = |micros, faulted| Floors {
            wake_up: Some(Duration::from_micros(micros)),
            copy: Some(Copying { faulted, fresh: 1.0 }),
            quic_round_trip: None,
        };
        let mean = Floors::mean(&[of(10, 8.0), Floors::default(), of(20, 9.0)]);
        assert_eq!(mean.wake_up, Some(Duration::from_micros(15)));
        assert_eq!(mean.copy.map(|copy| copy.faulted), Some(8.5));
        assert_eq!(mean.quic_round_trip, None);
    }

    #[test]
    fn two_threads_wake_each_other() {
        assert!(wake_up().unwrap() > Duration::ZERO);
    }
}
