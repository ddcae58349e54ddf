//! After a broken connection: what is in flight, what is held, and what counts.

use std::collections::BTreeSet;

use mobula_transport::{Address, ProcessAddr, ProcessId};

use super::{Effect, Submitter};
use crate::ids::LeaseId;

impl Submitter {
    /// The raylet of this process, if leases were asked of it.
    pub(crate) fn raylet_at(&self, process: ProcessId) -> Option<Address> {
        let asked = self.asked.keys().copied();
        asked.chain(self.leases.values().map(|state| state.raylet)).find(|raylet| raylet.process.id == process)
    }

    /// The leases that this raylet granted.
    pub(crate) fn leases_from(&self, raylet: Address) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().filter(move |(_, state)| state.raylet == raylet).map(|(lease, _)| *lease)
    }

    /// The tasks in flight to this worker process, and its address.
    pub(crate) fn in_flight_at(&self, worker: ProcessId) -> Vec<(ProcessAddr, u64)> {
        let leases = self.leases.values().filter(|state| state.worker.id == worker);
        leases.flat_map(|state| state.in_flight.iter().map(|(seq, _)| (state.worker, *seq))).collect()
    }

    /// The connection to a worker broke and is up again: its answers may have got lost.
    pub(crate) fn reconnected(&mut self, worker: ProcessId) {
        for state in self.leases.values_mut().filter(|state| state.worker.id == worker) {
            state.reclaiming = false;
        }
    }

    /// A raylet cannot be reached: what was asked of it is not waited for any more. What it has
    /// granted in all stays known, since it counts on when it is reached again. `home` is the one to
    /// ask from now on, if the other was this queue's own.
    pub(crate) fn raylet_unreachable(&mut self, raylet: ProcessId, home: Address, out: &mut Vec<Effect>) {
        for (_, asked) in self.asked.iter_mut().filter(|(address, _)| address.process.id == raylet) {
            asked.target = asked.answered;
        }
        if self.home.process.id == raylet {
            self.home = home;
        }
        self.ask(out);
    }

    /// After a broken connection the raylet says which leases are ours and how many it has granted
    /// or redirected in all. Returns what is in flight under leases that are over.
    pub(crate) fn leases_kept(
        &mut self,
        raylet: Address,
        kept: &BTreeSet<LeaseId>,
        done: u64,
        now_us: u64,
        out: &mut Vec<Effect>,
    ) -> Vec<(ProcessAddr, u64)> {
        if let Some(asked) = self.asked.get_mut(&raylet) {
            let outstanding = asked.target - asked.answered;
            // A raylet that has forgotten us counts from the beginning.
            asked.target = if done < asked.answered { done + outstanding } else { asked.target.max(done) };
            asked.answered = done;
            // Also when nothing is wanted: that may be what got lost.
            out.push(Effect::Want { raylet });
        }
        let over: Vec<LeaseId> = self.leases_from(raylet).filter(|lease| !kept.contains(lease)).collect();
        let mut doubtful = Vec::new();
        for lease in over {
            let Some(state) = self.leases.get_mut(&lease) else { continue };
            // What runs may end; nothing new is started.
            state.leaving = true;
            doubtful.extend(state.in_flight.iter().map(|(seq, _)| (state.worker, *seq)));
            self.settle(lease, now_us, out);
        }
        self.ask(out);
        doubtful
    }
}
