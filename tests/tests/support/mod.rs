//! What the tests share: binaries, processes that cannot outlive a test, clusters, the data
//! beside the project, and Python as an oracle.
//!
//! Three rules hold everywhere. Every wait has a [`DEADLINE`]; nothing asserts how long
//! something took; and whatever a test starts is gone when it ends, however it ends.

pub(crate) mod binaries;
pub(crate) mod blows;
pub(crate) mod cluster;
pub(crate) mod oracle;
pub(crate) mod process;
pub(crate) mod shared;

pub(crate) use self::shared::skip;

use std::time::{Duration, Instant};

/// The longest any single wait may take, generous enough for a busy machine and a debug build.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives something; fails, saying what was waited for, when the
/// [`DEADLINE`] has passed.
pub(crate) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// What a variable of the environment says of how much a test does, or what is usual.
pub(crate) fn setting<T: std::str::FromStr>(variable: &str, usual: T) -> T {
    let Ok(text) = std::env::var(variable) else { return usual };
    text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}"))
}
