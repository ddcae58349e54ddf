//! How a case is timed, as Ray's own microbenchmark does it: called for a while to warm up, then
//! in windows of which each gives a rate.

use std::time::{Duration, Instant};

use crate::error::CliError;

/// How long and how often a case is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Called at least so long before anything counts.
    pub(crate) warmup: Duration,
    /// How long one window is, at least; a call that has begun is finished.
    pub(crate) window: Duration,
    /// How many windows there are.
    pub(crate) windows: u32,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// The mean of the windows' rates, in the case's units.
    pub(crate) per_second: f64,
    /// Their standard deviation.
    pub(crate) sd: f64,
    /// How long the very first call took, cold.
    pub(crate) first_call: Duration,
}

/// Times `call`, each of which counts for `units`.
pub(crate) fn measure(
    pace: Pace,
    units: f64,
    mut call: impl FnMut() -> Result<(), CliError>,
) -> Result<Measured, CliError> {
    let start = Instant::now();
    call()?;
    let first_call = start.elapsed();
    let mut calls = 1_u64;
    while start.elapsed() < pace.warmup {
        call()?;
        calls += 1;
    }
    // The clock is read once per tenth of a warm-up's calls, so that reading it costs nothing.
    let step = calls / 10 + 1;
    let mut rates = Vec::new();
    for _ in 0..pace.windows {
        let start = Instant::now();
        let mut calls = 0_u64;
        loop {
            for _ in 0..step {
                call()?;
            }
            calls += step;
            let elapsed = start.elapsed();
            if elapsed >= pace.window {
                rates.push(units * calls as f64 / elapsed.as_secs_f64());
                break;
            }
        }
    }
    let (per_second, sd) = mean_and_sd(&rates);
    Ok(Measured { per_second, sd, first_call })
}

/// Mean and (population) standard deviation.
pub(crate) fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// The middle value; the lower one of two.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_counts_and_the_first_failure_ends_it() {
        let pace = Pace { warmup: Duration::ZERO, window: Duration::ZERO, windows: 3 };
        let mut calls = 0;
        let measured = measure(pace, 10.0, || {
            calls += 1;
            Ok(())
        })
        .unwrap();
        // One cold call, which is the warm-up too, and one per window.
        assert_eq!(calls, 4);
        assert!(measured.per_second > 0.0);

        let failed = measure(pace, 1.0, || Err(CliError::Usage("no".to_owned())));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }

    #[test]
    fn statistics() {
        assert_eq!(mean_and_sd(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), (5.0, 2.0));
        assert_eq!(mean_and_sd(&[3.0]), (3.0, 0.0));
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0]), 1.0);
        assert!(median(&mut []).is_nan());
    }
}
