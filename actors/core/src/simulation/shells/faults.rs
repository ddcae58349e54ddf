//! What goes wrong, as the simulation of the cores has it.

use super::cluster::{Cluster, Cut};
use crate::culprit::Culprit;
use crate::simulation::faults::Fault;
use crate::simulation::world::HEAD;

impl Cluster {
    pub(super) fn inflict(&self, fault: &Fault) {
        let all = self.processes();
        let workers = self.workers().living();
        let nth = |of: &[mobula_transport::ProcessId], pick: usize| of.get(pick % of.len().max(1)).copied();
        {
            let stats = &mut self.record().lock().stats;
            match fault {
                Fault::KillWorker { .. } | Fault::KillNode { .. } | Fault::KillHead | Fault::KillDriver { .. } => {
                    stats.crashes += 1;
                }
                Fault::Part { .. } | Fault::Isolate { .. } => stats.partitions += 1,
                Fault::StopWorker { .. } | Fault::StopNode { .. } | Fault::StopHead { .. } => stats.stops += 1,
                Fault::Break { .. } => stats.breaks += 1,
            }
        }
        match *fault {
            Fault::KillWorker { pick } => {
                if let Some(worker) = nth(&workers, pick) {
                    self.workers().kill(self, worker, "signal 9", Culprit::Unknown);
                }
            }
            Fault::KillNode { machine } => self.kill_node(machine),
            // A head that stands still while others' time goes on is not to be had here.
            Fault::KillHead | Fault::StopHead { .. } => self.kill_head(),
            Fault::KillDriver { index } => self.kill_driver(index),
            Fault::Break { pick } => {
                if let Some(process) = nth(&all, pick) {
                    for other in all.iter().filter(|other| **other != process) {
                        self.network().break_connection(process, *other);
                    }
                }
            }
            Fault::Part { a, b, for_us } if a != b => self.cut(Cut::Machines(a, b), for_us),
            Fault::Part { .. } => {}
            Fault::Isolate { machine, for_us } => {
                for other in (0..=HEAD).filter(|other| *other != machine) {
                    self.cut(Cut::Machines(machine, other), for_us);
                }
            }
            Fault::StopWorker { pick, for_us } => {
                if let Some(worker) = nth(&workers, pick) {
                    self.cut(Cut::Process(worker), for_us);
                }
            }
            Fault::StopNode { machine, for_us } => {
                if let Some(node) = self.node(machine) {
                    self.cut(Cut::Process(node.process.id), for_us);
                }
            }
        }
    }
}
