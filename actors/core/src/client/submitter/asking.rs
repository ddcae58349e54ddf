//! How many leases to ask for.

use super::{AHEAD_TASKS, AHEAD_US, Effect, Submitter};
use crate::ids::FunctionId;

/// How many leases may be asked for at once.
const WANT_LIMIT: u64 = 256;

impl Submitter {
    pub(super) fn estimate_us(&self, function: FunctionId) -> u64 {
        self.run_us.get(&function).copied().unwrap_or(AHEAD_US).min(AHEAD_US)
    }

    /// How many more leases the queue could use: one for each share of work ahead.
    pub(super) fn need(&self) -> u64 {
        if self.one_task {
            return (self.queue.len() as u64).min(WANT_LIMIT);
        }
        self.queued_us.div_ceil(AHEAD_US).clamp(1, WANT_LIMIT).min(self.queue.len() as u64)
    }

    /// What was unknown when a task was queued may be known now. Looks at the head of the queue
    /// only and scales up, because a queue may hold a million tasks.
    pub(super) fn estimate_again(&mut self) {
        let head = self.queue.len().min(AHEAD_TASKS);
        if head == 0 {
            self.queued_us = 0;
            return;
        }
        let head_us: u64 = self.queue.iter().take(head).map(|queued| self.estimate_us(queued.function)).sum();
        self.queued_us = head_us.saturating_mul(self.queue.len() as u64) / head as u64;
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.asked.values().map(|asked| asked.target - asked.answered).sum()
    }

    /// Asks for more leases when that is clearly needed; small differences wait for the tick.
    pub(super) fn ask(&mut self, out: &mut Vec<Effect>) {
        if self.queue.is_empty() {
            return;
        }
        let outstanding = self.outstanding();
        let need = self.need();
        if need > outstanding && (outstanding <= 8 || need >= outstanding * 2) {
            self.raise(need - outstanding, out);
        }
    }

    pub(super) fn want_exactly(&mut self, out: &mut Vec<Effect>) {
        let (need, outstanding) = (self.need(), self.outstanding());
        if need > outstanding {
            self.raise(need - outstanding, out);
        }
    }

    /// Whether something runs, or may be granted.
    pub(super) fn has_hope(&self) -> bool {
        !self.leases.is_empty() || self.outstanding() > 0
    }

    pub(super) fn raise(&mut self, count: u64, out: &mut Vec<Effect>) {
        if self.resigned && self.has_hope() {
            return;
        }
        self.resigned = false;
        let asked = self.asked.entry(self.home).or_default();
        asked.target += count;
        asked.hops = 0;
        out.push(Effect::Want { raylet: self.home });
    }

    /// Nothing waits any more: withdraw what was asked for and has not come.
    pub(super) fn withdraw(&mut self, out: &mut Vec<Effect>) {
        for (raylet, asked) in &mut self.asked {
            if asked.target > asked.answered {
                asked.target = asked.answered;
                out.push(Effect::Want { raylet: *raylet });
            }
        }
    }
}
