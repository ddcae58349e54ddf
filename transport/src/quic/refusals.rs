//! Refused connections: each is counted, a burst of them is logged once.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// At most one line per this time, however many are refused.
const BURST: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Refusals(Mutex<State>);

#[derive(Default)]
struct State {
    last_line: Option<Instant>,
    unlogged: u64,
}

impl Refusals {
    pub(crate) fn note(&self, metrics: &Metrics, peer: SocketAddr, why: &dyn Display) {
        metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
        if let Some(before) = self.line_due(Instant::now()) {
            tracing::warn!(%peer, %why, refused_since_last_line = before, "refused a connection");
        }
    }

    /// How many were refused without a line, if a line is due.
    fn line_due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.last_line.is_some_and(|last| now.duration_since(last) < BURST) {
            state.unlogged += 1;
            return None;
        }
        state.last_line = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_line() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert_eq!(refusals.line_due(now), Some(0));
        assert_eq!(refusals.line_due(now), None);
        assert_eq!(refusals.line_due(now + BURST / 2), None);
        assert_eq!(refusals.line_due(now + BURST), Some(2));
    }
}
