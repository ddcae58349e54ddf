//! Which nodes' room has changed since subscribers were told of it.
//!
//! All nodes hear of the room of all others, so what is told grows with the square of their number.
//! A bucket of tokens bounds it: each subscriber hears of [`PER_SECOND`] nodes a second, of
//! [`BURST`] at once. In a cluster of hundreds of nodes news go out at once; in one of thousands
//! whose nodes all change all the time, each one's turn comes every few seconds.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::NodeId;

/// Of how many nodes a subscriber hears in a second, in the long run.
const PER_SECOND: f64 = 250.0;
/// Of how many it hears at once after a quiet time.
const BURST: f64 = 250.0;
/// What has to wait for its turn is told of so many nodes together.
const TOGETHER: usize = 50;

/// Nodes in the order in which they changed.
#[derive(Debug, Default)]
pub(super) struct Untold {
    order: VecDeque<NodeId>,
    known: BTreeSet<NodeId>,
    /// Tokens that were used and have not come back yet.
    used: f64,
    /// When they were counted.
    at: Duration,
}

impl Untold {
    /// The room of this node has changed.
    pub(super) fn add(&mut self, node: NodeId) {
        if self.known.insert(node) {
            self.order.push_back(node);
        }
    }

    /// Those that subscribers are to be told of now.
    pub(super) fn take(&mut self, now: Duration) -> Vec<NodeId> {
        if self.order.is_empty() {
            return Vec::new();
        }
        self.used = (self.used - now.saturating_sub(self.at).as_secs_f64() * PER_SECOND).max(0.0);
        self.at = now;
        let tokens = (BURST - self.used) as usize;
        let count = tokens.min(self.order.len());
        if count < TOGETHER.min(self.order.len()) {
            return Vec::new();
        }
        self.used += count as f64;
        let taken: Vec<NodeId> = self.order.drain(..count).collect();
        for node in &taken {
            self.known.remove(node);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn node(n: u16) -> NodeId {
        NodeId(Uuid::from_u128(n.into()))
    }

    #[test]
    fn a_change_in_a_quiet_cluster_is_told_at_once() {
        let mut untold = Untold::default();
        for second in 0..100 {
            let now = Duration::from_secs(second);
            untold.add(node(1));
            untold.add(node(2));
            untold.add(node(1));
            assert_eq!(untold.take(now), [node(1), node(2)]);
            assert_eq!(untold.take(now), []);
        }
    }

    proptest! {
        /// Whatever changes when: nobody hears of more nodes than is allowed, each node is told
        /// once after its last change, and within the time that its turn takes.
        #[test]
        fn every_change_is_told_in_its_turn(changes in prop::collection::vec((0_u16..2_000, 0_u64..20), 1..3_000)) {
            let mut untold = Untold::default();
            let mut waits = BTreeSet::new();
            let (mut now, mut told) = (Duration::ZERO, 0.0);
            let mut tell = |untold: &mut Untold, waits: &mut BTreeSet<NodeId>, now: Duration| {
                for node in untold.take(now) {
                    assert!(waits.remove(&node), "told without a change");
                    told += 1.0;
                }
                assert!(told <= BURST + now.as_secs_f64() * PER_SECOND + 1e-6, "{told} by {now:?}");
            };
            for (number, pause_ms) in changes {
                now += Duration::from_millis(pause_ms);
                untold.add(node(number));
                waits.insert(node(number));
                tell(&mut untold, &mut waits, now);
            }
            let rest = waits.len() as f64;
            // As often as the head's clock ticks.
            for _ in 0..(4.0 * rest / PER_SECOND).ceil() as u32 + 4 {
                now += Duration::from_millis(250);
                tell(&mut untold, &mut waits, now);
            }
            prop_assert!(waits.is_empty(), "{} of {rest} were not told", waits.len());
        }
    }
}
