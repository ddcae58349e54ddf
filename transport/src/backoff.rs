//! When to try again: exponential pauses with seeded jitter inside a window. Pure.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::config::Limits;

/// The pauses between attempts to connect.
pub(crate) struct Backoff {
    random: StdRng,
    pause: Duration,
    longest: Duration,
    left: Duration,
}

impl Backoff {
    pub(crate) fn new(limits: &Limits, seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            pause: limits.backoff_min,
            longest: limits.backoff_max,
            left: limits.reconnect_window,
        }
    }

    /// The next pause, after an attempt that took `spent`; `None` once the window is used up.
    pub(crate) fn next(&mut self, spent: Duration) -> Option<Duration> {
        self.left = self.left.checked_sub(spent)?;
        if self.left.is_zero() {
            return None;
        }
        // Half to all of the pause, so that many peers of one dead process do not march in step.
        let pause = self.pause.mul_f64(self.random.random_range(0.5..=1.0)).min(self.left);
        self.pause = (self.pause * 2).min(self.longest);
        self.left -= pause;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_window_is_kept(seed: u64, spent_ms in 0u64..50) {
            let limits = Limits::default();
            let mut backoff = Backoff::new(&limits, seed);
            let mut same = Backoff::new(&limits, seed);
            let (mut total, mut attempts) = (Duration::ZERO, 0);
            let spent = Duration::from_millis(spent_ms);
            while let Some(pause) = backoff.next(spent) {
                prop_assert_eq!(Some(pause), same.next(spent));
                prop_assert!(pause <= limits.backoff_max);
                total += pause + spent;
                attempts += 1;
            }
            prop_assert!(total <= limits.reconnect_window);
            prop_assert!((8..60).contains(&attempts));
        }
    }
}
