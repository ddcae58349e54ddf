//! Waiting for something that another thread, or another process, makes true.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::thread::futex;

/// How long a thread polls before it sleeps; waking it costs about 50 µs.
const SPIN: Duration = Duration::from_micros(100);
/// A wait that is longer than this lends its CPU.
const LEND_AFTER: Duration = Duration::from_millis(1);
/// A sleeper looks again after this time, rung or not: whoever was to ring may have been killed
/// just before.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Wakes those who wait for something. Lies in shared memory too: it holds no pointer.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Changes when it is rung.
    rung: AtomicU32,
    /// How many sleep, or are about to. One that is killed meanwhile is counted for ever, which
    /// only costs the others a call of the system.
    asleep: AtomicU32,
}

impl Bell {
    /// To be called after what others wait for has been made true.
    pub(super) fn ring(&self) {
        // Either this sees the sleeper, or that sees what was made true: both do the one and then
        // look for the other, with a fence between.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) != 0 {
            self.rung.fetch_add(1, Ordering::Release);
            // It fails for addresses that are no memory only.
            let _ = futex::wake(&self.rung, futex::Flags::empty(), i32::MAX as u32);
        }
    }

    /// Blocks until `done`, or until `deadline`; returns whether it is done. Lends the CPU of the
    /// task this thread runs, if it takes long.
    pub(super) fn wait(&self, mut done: impl FnMut() -> bool, deadline: Instant) -> bool {
        let begun = Instant::now();
        loop {
            // Yielding gives the processor to whoever does the work, if it is waiting for one.
            for _ in 0..16 {
                if done() {
                    return true;
                }
                std::thread::yield_now();
            }
            if begun.elapsed() >= SPIN {
                break;
            }
        }
        let mut lent = None;
        loop {
            self.asleep.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let rung = self.rung.load(Ordering::Acquire);
            let is_done = done();
            let now = Instant::now();
            if !is_done && now < deadline {
                let patience = if lent.is_some() { LOOK_AGAIN } else { LEND_AFTER };
                self.sleep(rung, patience.min(deadline - now));
            }
            self.asleep.fetch_sub(1, Ordering::Relaxed);
            if is_done || now >= deadline {
                return is_done;
            }
            if lent.is_none() && begun.elapsed() >= LEND_AFTER {
                lent = Some(crate::worker::lend_cpu());
            }
        }
    }

    /// Returns when rung since `rung` was read, after `timeout`, or for no reason.
    fn sleep(&self, rung: u32, timeout: Duration) {
        let timeout = futex::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        // Not `PRIVATE`: the bell may be shared between processes. Whatever it returns, the caller
        // looks itself.
        let _ = futex::wait(&self.rung, futex::Flags::empty(), rung, Some(&timeout));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn nobody_sleeps_through_it() {
        const ROUNDS: u64 = 2_000;
        let (ping, pong) = (Bell::default(), Bell::default());
        let (sent, back) = (AtomicU64::new(0), AtomicU64::new(0));
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    assert!(ping.wait(|| sent.load(Ordering::Acquire) == round, deadline));
                    if round % 200 == 0 {
                        // Long enough for the other one to fall asleep.
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    back.store(round, Ordering::Release);
                    pong.ring();
                }
            });
            for round in 1..=ROUNDS {
                sent.store(round, Ordering::Release);
                ping.ring();
                assert!(pong.wait(|| back.load(Ordering::Acquire) == round, deadline));
            }
        });
        assert_eq!((ping.asleep.into_inner(), pong.asleep.into_inner()), (0, 0));
    }

    #[test]
    fn a_wait_has_an_end() {
        assert!(!Bell::default().wait(|| false, Instant::now() + Duration::from_millis(3)));
    }
}
