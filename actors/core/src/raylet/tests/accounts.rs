//! What tests see of a scheduler's accounts, here and in the simulation of a whole cluster.

use std::sync::Arc;

use super::*;

impl Scheduler {
    /// What leases and bundles hold.
    pub(crate) fn charged(&self) -> Resources {
        let mut sum = Resources::new();
        for lease in self.leases.values() {
            sum.add(&lease.charged());
        }
        self.bundles.values().for_each(|bundle| sum.add(&bundle.demand));
        sum
    }

    /// The leases of tasks that are out.
    pub(crate) fn task_leases(&self) -> Vec<(LeaseId, Address, Arc<Shape>)> {
        let of_tasks = self.leases.iter().filter(|(_, lease)| lease.actor.is_none());
        of_tasks.map(|(seq, lease)| (self.lease_id(*seq), lease.client, lease.shape.clone())).collect()
    }
}
