//! What goes wrong in a simulation, and when.

use mobula_transport::ProcessId;
use rand::RngExt;
use rand::rngs::StdRng;

use super::process::{Host, MS, SECOND};
use super::program::PROGRAM_US;
use super::world::{HEAD, HEAD_PROCESS, NODES, World, process};
use crate::culprit::Culprit;

/// Drivers run on the first machines. A driver lives and dies with the raylet that it asks first,
/// so these are never killed or kept from the head for long.
pub(super) const DRIVERS: usize = 2;
/// By then whoever was away is back, or is held for dead.
pub(super) const LONGEST_US: u64 = 16 * SECOND;
/// So long a machine with a driver may be away: shorter than the silence after which it is dead.
const SHORT_US: u64 = 3 * SECOND;

/// Something that goes wrong. `pick` chooses among what there is at that time.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    KillWorker { pick: usize },
    KillNode { machine: usize },
    KillHead,
    KillDriver { index: usize },
    Break { pick: usize },
    Part { a: usize, b: usize, for_us: u64 },
    Isolate { machine: usize, for_us: u64 },
    StopWorker { pick: usize, for_us: u64 },
    StopNode { machine: usize, for_us: u64 },
    StopHead { for_us: u64 },
}

impl Fault {
    pub(super) fn random(random: &mut StdRng) -> (u64, Self) {
        let at_us = random.random_range(0..PROGRAM_US + 2 * SECOND);
        let pick = random.random_range(0..1_000);
        let any = random.random_range(0..NODES);
        let mortal = random.random_range(DRIVERS..NODES);
        let long = random.random_range(10 * MS..LONGEST_US);
        let short = random.random_range(10 * MS..SHORT_US);
        let fault = match random.random_range(0..100) {
            0..22 => Self::KillWorker { pick },
            22..32 => Self::KillNode { machine: mortal },
            32..42 => Self::KillHead,
            42..62 => Self::Break { pick },
            62..70 => Self::Part { a: any, b: mortal, for_us: long },
            70..76 => Self::Part { a: mortal, b: HEAD, for_us: long },
            76..82 => Self::Part { a: any, b: HEAD, for_us: short },
            82..87 => Self::Isolate { machine: mortal, for_us: long },
            87..91 => Self::StopWorker { pick, for_us: long },
            91..95 => Self::StopNode { machine: mortal, for_us: long },
            95..99 => Self::StopHead { for_us: long },
            _ => Self::KillDriver { index: random.random_range(0..DRIVERS) },
        };
        (at_us, fault)
    }
}

impl World {
    pub(super) fn inflict(&mut self, fault: Fault) {
        let stats = &mut self.record.stats;
        match fault {
            Fault::KillWorker { .. } | Fault::KillNode { .. } | Fault::KillHead | Fault::KillDriver { .. } => {
                stats.crashes += 1;
            }
            Fault::Part { .. } | Fault::Isolate { .. } => stats.partitions += 1,
            Fault::StopWorker { .. } | Fault::StopNode { .. } | Fault::StopHead { .. } => stats.stops += 1,
            Fault::Break { .. } => {}
        }
        match fault {
            Fault::KillWorker { pick } => {
                if let Some(worker) = self.nth_worker(pick) {
                    self.kill(worker, "signal 9", Culprit::Unknown);
                }
            }
            Fault::KillNode { machine } => {
                if let Some(raylet) = self.raylets[machine] {
                    self.kill(raylet.id, "signal 9", Culprit::Unknown);
                }
            }
            Fault::KillHead => self.kill(process(HEAD_PROCESS).id, "signal 9", Culprit::Unknown),
            Fault::KillDriver { index } => {
                self.kill(process(100 + index as u128).id, "signal 9", Culprit::Unknown);
            }
            Fault::Break { pick } => {
                let links: Vec<(ProcessId, ProcessId)> = self.links.keys().copied().collect();
                if let Some((a, b)) = links.get(pick % links.len().max(1)).copied() {
                    self.break_connection(a, b);
                }
            }
            Fault::Part { a, b, for_us } => {
                if a != b {
                    self.part(a, b, for_us);
                }
            }
            Fault::Isolate { machine, for_us } => {
                for other in (0..=HEAD).filter(|other| *other != machine) {
                    self.part(machine, other, for_us);
                }
            }
            Fault::StopWorker { pick, for_us } => {
                if let Some(worker) = self.nth_worker(pick) {
                    self.stop(worker, for_us);
                }
            }
            Fault::StopNode { machine, for_us } => {
                if let Some(raylet) = self.raylets[machine] {
                    self.stop(raylet.id, for_us);
                }
            }
            Fault::StopHead { for_us } => self.stop(process(HEAD_PROCESS).id, for_us),
        }
    }

    fn nth_worker(&self, pick: usize) -> Option<ProcessId> {
        let is_worker = |host: &Host| matches!(host, Host::Worker(_));
        let all: Vec<ProcessId> =
            self.processes.iter().filter(|(_, process)| is_worker(&process.host)).map(|(id, _)| *id).collect();
        all.get(pick % all.len().max(1)).copied()
    }
}
