//! Strangers who were refused: every one is counted by reason, a burst of them is logged once.
//!
//! Refused is who came to us and was turned away, also when the stranger noticed first that our
//! certificate is of another cluster than its own. Who leaves by itself in the middle of a handshake
//! (because it was killed) is not, and is worth no more than a line at the debug level.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// At most one line per this time, however many are refused.
const BURST: Duration = Duration::from_secs(10);
/// What is kept of the reason's text; some of it may come from the stranger.
const WHY_MAX_CHARS: usize = 256;

/// Why a stranger was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It has no certificate, or not one of this cluster.
    Certificate,
    /// It asked for a protocol or a version that is not served here, or made no sense.
    Protocol,
    /// It wanted to join with a token that is unknown or has expired.
    Token,
    /// It connected and then said nothing for too long.
    Silence,
    /// Too many others were being let in at the time.
    Busy,
}

impl Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "no certificate of this cluster",
            Self::Protocol => "another protocol",
            Self::Token => "no valid join token",
            Self::Silence => "silence",
            Self::Busy => "too many at once",
        })
    }
}

/// Whom an endpoint has refused since it started; from
/// [`Endpoint::refusals`](crate::Endpoint::refusals).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RefusalsSnapshot {
    /// How many came without a certificate of this cluster.
    pub certificate: u64,
    /// How many asked for what is not served, or made no sense.
    pub protocol: u64,
    /// How many wanted to join without a valid token.
    pub token: u64,
    /// How many connected and said nothing.
    pub silence: u64,
    /// How many came while too many others were being let in.
    pub busy: u64,
    /// The latest of them.
    pub last: Option<LastRefusal>,
}

impl RefusalsSnapshot {
    /// How many in all.
    pub fn total(&self) -> u64 {
        self.certificate + self.protocol + self.token + self.silence + self.busy
    }

    fn counter(&mut self, reason: RefusalReason) -> &mut u64 {
        match reason {
            RefusalReason::Certificate => &mut self.certificate,
            RefusalReason::Protocol => &mut self.protocol,
            RefusalReason::Token => &mut self.token,
            RefusalReason::Silence => &mut self.silence,
            RefusalReason::Busy => &mut self.busy,
        }
    }
}

/// The latest stranger that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastRefusal {
    /// Why, in one word.
    pub reason: RefusalReason,
    /// Why, in a sentence.
    pub why: String,
    /// Where it came from.
    pub peer: SocketAddr,
    /// When.
    pub at: SystemTime,
}

/// The refusals of an endpoint.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<State>);

#[derive(Default)]
struct State {
    seen: RefusalsSnapshot,
    last_line: Option<Instant>,
    unlogged: u64,
}

impl Refusals {
    pub(crate) fn note(&self, peer: SocketAddr, reason: RefusalReason, why: &dyn Display) {
        let why: String = why.to_string().chars().take(WHY_MAX_CHARS).collect();
        let line = {
            let mut state = self.0.lock();
            *state.seen.counter(reason) += 1;
            state.seen.last = Some(LastRefusal { reason, why: why.clone(), peer, at: SystemTime::now() });
            state.line_due(Instant::now())
        };
        if let Some(before) = line {
            tracing::warn!(%peer, %reason, why, refused_since_last_line = before, "refused a connection");
        }
    }

    pub(crate) fn snapshot(&self) -> RefusalsSnapshot {
        self.0.lock().seen.clone()
    }
}

impl State {
    /// How many were refused without a line, if a line is due.
    fn line_due(&mut self, now: Instant) -> Option<u64> {
        if self.last_line.is_some_and(|last| now.duration_since(last) < BURST) {
            self.unlogged += 1;
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_line() {
        let mut state = State::default();
        let now = Instant::now();
        assert_eq!(state.line_due(now), Some(0));
        assert_eq!(state.line_due(now), None);
        assert_eq!(state.line_due(now + BURST / 2), None);
        assert_eq!(state.line_due(now + BURST), Some(2));
    }

    #[test]
    fn each_reason_has_its_counter_and_the_last_is_kept() {
        let refusals = Refusals::default();
        let peer = |port| SocketAddr::from(([10, 0, 0, 1], port));
        assert_eq!(refusals.snapshot(), RefusalsSnapshot::default());
        refusals.note(peer(1), RefusalReason::Certificate, &"unknown issuer");
        refusals.note(peer(2), RefusalReason::Silence, &"no hello");
        refusals.note(peer(3), RefusalReason::Certificate, &"x".repeat(10 * WHY_MAX_CHARS));
        let seen = refusals.snapshot();
        assert_eq!((seen.certificate, seen.silence, seen.protocol, seen.token), (2, 1, 0, 0));
        assert_eq!(seen.total(), 3);
        let last = seen.last.unwrap();
        assert_eq!((last.reason, last.peer), (RefusalReason::Certificate, peer(3)));
        assert_eq!(last.why.len(), WHY_MAX_CHARS);
    }
}
