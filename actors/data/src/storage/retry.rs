//! Making a request again when that may help.
//!
//! Entry types: [`Failure`], what went wrong with one attempt and whether another may help, and
//! [`Retry`], which makes the attempts. Between them it waits, twice as long each time, with a
//! part left to chance so that many tasks do not come back at once. When a store says that it
//! is asked too much, all requests of its client wait, those that have not begun, too.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::{Instant, sleep_until};

use super::options::StorageOptions;

/// What went wrong with one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// What happened, for people.
    pub(super) cause: String,
}

/// What a failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// It may pass: a broken connection, a server's own error.
    Passing,
    /// No connection came about, which may pass.
    Unreachable,
    /// No connection can come about: the other side is not whom the URL means, or says so in a way
    /// that nobody believes.
    Untrusted,
    /// The store is asked too much. It may say how long it wants to be left alone.
    Throttled(Option<Duration>),
    /// There is no such object.
    NotFound,
    /// There is no such bucket.
    NoSuchBucket,
    /// Who asks may not, or nobody knows who asks.
    Denied,
    /// The object is not the one that was opened.
    Changed,
    /// The bucket is in this region.
    OtherRegion(String),
    /// Another attempt would end the same.
    Lasting,
}

impl Failure {
    pub(super) fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into() }
    }

    pub(super) fn passing(cause: impl Into<String>) -> Self {
        Self::new(Kind::Passing, cause)
    }

    pub(super) fn lasting(cause: impl Into<String>) -> Self {
        Self::new(Kind::Lasting, cause)
    }

    pub(super) fn changed(cause: impl Into<String>) -> Self {
        Self::new(Kind::Changed, cause)
    }

    /// Whether another attempt may end better.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Passing | Kind::Unreachable | Kind::Throttled(_))
    }
}

/// The last failure, and how many attempts there were.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) attempts: u32,
}

/// Makes the requests of one client, again and again if need be.
#[derive(Debug)]
pub(super) struct Retry {
    max_attempts: u32,
    first_wait: Duration,
    /// Before this, no request of the client begins.
    quiet_until: Mutex<Option<Instant>>,
}

impl Retry {
    pub(super) fn new(options: &StorageOptions) -> Self {
        Self { max_attempts: options.max_attempts, first_wait: options.first_wait, quiet_until: Mutex::new(None) }
    }

    /// Makes attempts until one ends well, none may help any more, or they are used up.
    pub(super) async fn run<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        for attempts in 1.. {
            self.quiet().await;
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if !failure.may_pass() || attempts >= self.max_attempts {
                return Err(Failed { failure, attempts });
            }
            let wait = self.wait_after(attempts, &failure.kind, rand::rng().random_range(0.0..1.0));
            tracing::debug!(attempts, cause = failure.cause, ?wait, "a request to a store is made again");
            let until = Instant::now() + wait;
            if matches!(failure.kind, Kind::Throttled(_)) {
                let mut quiet_until = self.quiet_until.lock();
                *quiet_until = Some(quiet_until.map_or(until, |other| other.max(until)));
            }
            sleep_until(until).await;
        }
        Err(Failed { failure: Failure::lasting("no attempt was made"), attempts: 0 })
    }

    /// Waits while the store is left alone.
    async fn quiet(&self) {
        loop {
            let until = *self.quiet_until.lock();
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// How long to wait after so many attempts. `chance` is from 0 to 1.
    fn wait_after(&self, attempts: u32, kind: &Kind, chance: f64) -> Duration {
        let doubled = 2u32.saturating_pow(attempts.saturating_sub(1));
        let (first, at_least) = match kind {
            Kind::Throttled(asked) => (self.first_wait * THROTTLED_FACTOR, asked.unwrap_or_default()),
            _ => (self.first_wait, Duration::ZERO),
        };
        let wait = first.saturating_mul(doubled).min(MAX_WAIT);
        wait.mul_f64(0.5 + chance / 2.0).max(at_least.min(MAX_ASKED_WAIT))
    }
}

/// The longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// The longest wait that a server may ask for.
const MAX_ASKED_WAIT: Duration = Duration::from_secs(120);
/// How much longer to wait where a store is asked too much.
const THROTTLED_FACTOR: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn retry(max_attempts: u32) -> Retry {
        Retry::new(&StorageOptions { max_attempts, ..StorageOptions::default() })
    }

    fn paused<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn waits_double_and_end_growing_and_a_store_may_ask_for_more() {
        let retry = retry(8);
        let wait = |attempts, kind: Kind| retry.wait_after(attempts, &kind, 1.0);
        assert_eq!(wait(1, Kind::Passing), Duration::from_millis(100));
        assert_eq!(wait(3, Kind::Passing), Duration::from_millis(400));
        assert_eq!(wait(40, Kind::Passing), MAX_WAIT);
        assert_eq!(wait(1, Kind::Throttled(None)), Duration::from_millis(400));
        assert_eq!(wait(1, Kind::Throttled(Some(Duration::from_secs(7)))), Duration::from_secs(7));
        assert_eq!(wait(1, Kind::Throttled(Some(Duration::MAX))), MAX_ASKED_WAIT);
        assert_eq!(retry.wait_after(1, &Kind::Passing, 0.0), Duration::from_millis(50));
    }

    #[test]
    fn attempts_are_counted_and_lasting_failures_end_them() {
        let retry = Retry { first_wait: Duration::ZERO, ..retry(3) };
        let made = Cell::new(0);
        let failing = |failure: Failure| {
            made.set(0);
            let attempt = || {
                made.set(made.get() + 1);
                std::future::ready(Err::<(), _>(failure.clone()))
            };
            let failed = paused(retry.run(attempt)).unwrap_err();
            assert_eq!((failed.attempts, &failed.failure), (made.get(), &failure));
            made.get()
        };
        assert_eq!(failing(Failure::passing("broken")), 3);
        assert_eq!(failing(Failure::new(Kind::Throttled(None), "slow down")), 3);
        assert_eq!(failing(Failure::new(Kind::Unreachable, "connection refused")), 3);
        assert_eq!(failing(Failure::new(Kind::Untrusted, "its certificate is not trusted")), 1);
        assert_eq!(failing(Failure::lasting("no")), 1);
        assert_eq!(failing(Failure::changed("other")), 1);
    }

    #[test]
    fn who_is_told_to_slow_down_holds_back_others() {
        let retry = Retry { first_wait: Duration::from_millis(5), ..retry(2) };
        let asked = Duration::from_millis(30);
        paused(async {
            let start = Instant::now();
            let mut first = true;
            let throttled = retry.run(|| {
                let throttled = std::mem::take(&mut first);
                async move { if throttled { Err(Failure::new(Kind::Throttled(Some(asked)), "")) } else { Ok(()) } }
            });
            let other = async {
                tokio::task::yield_now().await;
                retry.run(|| async { Ok(Instant::now()) }).await.unwrap()
            };
            let (done, began) = futures::future::join(throttled, other).await;
            done.unwrap();
            assert!(began >= start + asked);
        });
    }
}
