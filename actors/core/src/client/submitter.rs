//! The pure core of submitting: which task goes to which lease, and how many leases to ask for.
//!
//! One [`Submitter`] serves the tasks of one shape. It knows no clock, no socket and no thread:
//! events and the time go in, [`Effect`]s come out.
//!
//! ```text
//!   enqueue ──▶ queue ──▶ lease (up to about 2 ms of work each) ──▶ done
//!                 ▲               │
//!                 └── reclaimed ──┘   when a lease is stuck behind a long task
//! ```
//!
//! A lease runs its tasks one after the other. How much is pushed ahead is bounded by time, not by
//! number: the running time of each function is learned, a function never seen before counts as a
//! full share. So a million tiny tasks travel in large batches, while long ones are handed out one
//! by one to whoever is free.

mod asking;
mod broken;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use mobula_transport::{Address, ProcessAddr, ProcessId};

use crate::ids::{FunctionId, LeaseId};

/// How much work a lease is given ahead.
const AHEAD_US: u64 = 2_000;
/// How many tasks a lease is given ahead at most.
const AHEAD_TASKS: usize = 1_024;
/// With fewer tasks in flight a lease gets the next at once; with more, in batches of [`BATCH`].
const EAGER_TASKS: usize = 16;
/// How many tasks make a batch worth sending while the lease is busy.
const BATCH: usize = 32;
/// The most tasks in one message.
const BATCH_LIMIT: usize = 512;
/// An idle lease is given back after this long.
const IDLE_US: u64 = 10_000;
/// What is wanted and has not come is said again after this long; a message may have been lost.
const REPEAT_US: u64 = 1_000_000;
/// A lease with tasks waiting that has finished nothing for this long is stuck.
const STUCK_US: u64 = 5_000;

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Send these tasks to the lease's worker.
    Push { lease: LeaseId, worker: ProcessAddr, raylet: Address, tasks: Vec<u64> },
    /// Tell the raylet how many leases are wanted: what [`Submitter::wanted_of`] says when it is sent.
    Want { raylet: Address },
    /// Give the lease back.
    Return { raylet: Address, lease: LeaseId },
    /// Ask the worker for tasks that it has not started.
    Reclaim { lease: LeaseId, worker: ProcessAddr, at_most: u32 },
}

/// A task in the queue.
#[derive(Debug, Clone, Copy)]
struct Queued {
    seq: u64,
    function: FunctionId,
    /// What it counts in `queued_us`.
    estimate_us: u64,
}

#[derive(Debug)]
struct Lease {
    worker: ProcessAddr,
    raylet: Address,
    in_flight: VecDeque<(u64, u64)>,
    ahead_us: u64,
    idle_since_us: u64,
    progress_us: u64,
    reclaiming: bool,
    /// It gave tasks back and has finished none since: it gets no others.
    stuck: bool,
    /// It runs one task and is given back: the worker is a process of that task's own.
    one_task: bool,
    /// The way to its worker is full: it takes no new task until the next tick.
    full: bool,
    /// Others wait for it: it takes no new task and is given back when those it has have ended.
    leaving: bool,
}

#[derive(Debug, Default)]
struct Asked {
    target: u64,
    answered: u64,
    hops: u8,
}

/// The tasks of one shape and the leases they run under.
#[derive(Debug)]
pub(crate) struct Submitter {
    home: Address,
    /// Every task has a worker process of its own.
    one_task: bool,
    queue: VecDeque<Queued>,
    /// The estimated running time of the queue, as it was when each task was queued.
    queued_us: u64,
    leases: BTreeMap<LeaseId, Lease>,
    asked: BTreeMap<Address, Asked>,
    repeated_us: u64,
    /// A raylet has said that it will never grant a lease: while others do, no more are asked for
    /// than once in [`REPEAT_US`].
    resigned: bool,
    run_us: HashMap<FunctionId, u64>,
}

impl Submitter {
    /// A submitter that asks the raylet at `home` first; with `one_task` it gives every task a
    /// lease of its own.
    pub(crate) fn new(home: Address, one_task: bool) -> Self {
        Self {
            home,
            one_task,
            queue: VecDeque::new(),
            queued_us: 0,
            leases: BTreeMap::new(),
            asked: BTreeMap::new(),
            repeated_us: 0,
            resigned: false,
            run_us: HashMap::new(),
        }
    }

    /// A task is ready to run.
    pub(crate) fn enqueue(&mut self, seq: u64, function: FunctionId, now_us: u64, out: &mut Vec<Effect>) {
        let estimate_us = self.estimate_us(function);
        self.queued_us += estimate_us;
        self.queue.push_back(Queued { seq, function, estimate_us });
        self.fill(false, now_us, out);
        self.ask(out);
    }

    /// A raylet granted a lease.
    pub(crate) fn granted(
        &mut self,
        lease: LeaseId,
        worker: ProcessAddr,
        raylet: Address,
        now_us: u64,
        out: &mut Vec<Effect>,
    ) {
        let asked = self.asked.entry(raylet).or_default();
        asked.answered += 1;
        asked.target = asked.target.max(asked.answered);
        self.leases.insert(
            lease,
            Lease {
                worker,
                raylet,
                in_flight: VecDeque::new(),
                ahead_us: 0,
                idle_since_us: now_us,
                progress_us: now_us,
                reclaiming: false,
                stuck: false,
                one_task: self.one_task,
                full: false,
                leaving: false,
            },
        );
        self.fill(true, now_us, out);
        self.ask(out);
    }

    /// A raylet sends us to another one for `count` of the leases.
    pub(crate) fn redirected(&mut self, from: Address, to: Address, count: u64, hops: u8, out: &mut Vec<Effect>) {
        let asked = self.asked.entry(from).or_default();
        asked.answered += count;
        asked.target = asked.target.max(asked.answered);
        let need = self.need().saturating_sub(self.outstanding());
        let count = count.min(need);
        if count > 0 {
            let other = self.asked.entry(to).or_default();
            other.target += count;
            other.hops = hops;
            out.push(Effect::Want { raylet: to });
        }
        self.ask(out);
    }

    /// A task of this lease has ended, after running for `run_us`.
    pub(crate) fn done(
        &mut self,
        lease: LeaseId,
        seq: u64,
        function: FunctionId,
        run_us: u32,
        now_us: u64,
        out: &mut Vec<Effect>,
    ) {
        let run_us = u64::from(run_us).max(1);
        let learned = self.run_us.entry(function).or_insert(run_us);
        // Rises at once, so that a function that turned slow is not pushed ahead; falls slowly.
        *learned = if run_us > *learned { run_us } else { (*learned * 7 + run_us) / 8 };
        if let Some(state) = self.leases.get_mut(&lease) {
            state.forget(seq);
            state.progress_us = now_us;
            state.stuck = false;
            if state.in_flight.is_empty() {
                state.idle_since_us = now_us;
            }
            if state.one_task || (state.leaving && state.in_flight.is_empty()) {
                out.push(Effect::Return { raylet: state.raylet, lease });
                self.leases.remove(&lease);
            }
        }
        if !self.queue.is_empty() {
            self.fill(false, now_us, out);
            self.ask(out);
        } else {
            self.withdraw(out);
        }
    }

    /// The worker gave these back unstarted. Those that were not in flight under the lease (it was
    /// lost meanwhile, and they are queued again) are left alone.
    pub(crate) fn reclaimed(
        &mut self,
        lease: LeaseId,
        tasks: &[(u64, FunctionId)],
        now_us: u64,
        out: &mut Vec<Effect>,
    ) {
        if let Some(state) = self.leases.get_mut(&lease) {
            state.reclaiming = false;
        }
        self.put_in_front(lease, tasks, now_us, out);
    }

    /// These could not be sent, because the way to the worker is full.
    pub(crate) fn unsent(&mut self, lease: LeaseId, tasks: &[(u64, FunctionId)], now_us: u64, out: &mut Vec<Effect>) {
        if let Some(state) = self.leases.get_mut(&lease) {
            state.full = true;
        }
        self.put_in_front(lease, tasks, now_us, out);
    }

    /// The task is not with the worker any more; the caller decides what becomes of it. False when
    /// it was not in flight under the lease.
    pub(crate) fn forget(&mut self, lease: LeaseId, seq: u64, now_us: u64, out: &mut Vec<Effect>) -> bool {
        let known = self.leases.get_mut(&lease).is_some_and(|state| state.forget(seq));
        self.settle(lease, now_us, out);
        known
    }

    /// This worker does not have the task. False when it was not there that the lease sent it.
    pub(crate) fn missing(
        &mut self,
        lease: LeaseId,
        worker: ProcessId,
        seq: u64,
        now_us: u64,
        out: &mut Vec<Effect>,
    ) -> bool {
        let there = self.leases.get(&lease).is_some_and(|state| state.worker.id == worker);
        there && self.forget(lease, seq, now_us, out)
    }

    fn put_in_front(&mut self, lease: LeaseId, tasks: &[(u64, FunctionId)], now_us: u64, out: &mut Vec<Effect>) {
        for (seq, function) in tasks.iter().rev() {
            if self.leases.get_mut(&lease).is_some_and(|state| state.forget(*seq)) {
                let estimate_us = self.estimate_us(*function);
                self.queued_us += estimate_us;
                self.queue.push_front(Queued { seq: *seq, function: *function, estimate_us });
            }
        }
        self.settle(lease, now_us, out);
        self.fill(true, now_us, out);
        self.ask(out);
    }

    /// Tasks have left a lease without having run.
    fn settle(&mut self, lease: LeaseId, now_us: u64, out: &mut Vec<Effect>) {
        let Some(state) = self.leases.get_mut(&lease).filter(|state| state.in_flight.is_empty()) else { return };
        state.stuck = false;
        state.idle_since_us = now_us;
        if state.leaving {
            out.push(Effect::Return { raylet: state.raylet, lease });
            self.leases.remove(&lease);
        }
    }

    /// The lease's worker is dead or cannot be reached. Returns the tasks that were in flight, in
    /// the order they were pushed: the first one was running, the others had probably not started.
    /// The lease is given back all the same: a raylet whose worker is only out of reach from here
    /// would keep it for ever, and one whose worker is dead does not mind.
    pub(crate) fn lost(&mut self, lease: LeaseId, out: &mut Vec<Effect>) -> Vec<u64> {
        let Some(state) = self.leases.remove(&lease) else { return Vec::new() };
        out.push(Effect::Return { raylet: state.raylet, lease });
        state.in_flight.into_iter().map(|(seq, _)| seq).collect()
    }

    /// The leases whose worker is this process.
    pub(crate) fn leases_of(&self, worker: ProcessId) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, state)| state.worker.id == worker).map(|(id, _)| *id).collect()
    }

    /// The raylet that granted the lease, while it is held.
    pub(crate) fn raylet_of(&self, lease: LeaseId) -> Option<Address> {
        self.leases.get(&lease).map(|state| state.raylet)
    }

    /// Whether the lease is held.
    #[cfg(test)]
    pub(crate) fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// A raylet is dead: what was asked of it will not come. `home` is the one to ask from now on,
    /// if the dead one was this queue's own.
    pub(crate) fn raylet_gone(&mut self, raylet: ProcessId, home: Address, out: &mut Vec<Effect>) {
        self.asked.retain(|address, _| address.process.id != raylet);
        if self.home.process.id == raylet {
            self.home = home;
        }
        self.ask(out);
    }

    /// What the raylet is to be told now: the total and the hops of the need.
    pub(crate) fn wanted_of(&self, raylet: Address) -> Option<(u64, u8)> {
        self.asked.get(&raylet).map(|asked| (asked.target, asked.hops))
    }

    /// Whether the task is in flight under the lease.
    pub(crate) fn holds(&self, lease: LeaseId, seq: u64) -> bool {
        let in_flight = self.leases.get(&lease).map(|state| &state.in_flight);
        // The tasks just handed out are the last ones.
        in_flight.is_some_and(|in_flight| in_flight.iter().rev().any(|(other, _)| *other == seq))
    }

    /// Time passes. Returns whether another tick is needed.
    pub(crate) fn tick(&mut self, now_us: u64, out: &mut Vec<Effect>) -> bool {
        self.give_back(now_us, IDLE_US, out);
        for (id, state) in &mut self.leases {
            state.full = false;
            let stuck = now_us.saturating_sub(state.progress_us) >= STUCK_US;
            if stuck && !state.reclaiming && state.in_flight.len() > 1 {
                state.reclaiming = true;
                state.stuck = true;
                let at_most = (state.in_flight.len() - 1) as u32;
                out.push(Effect::Reclaim { lease: *id, worker: state.worker, at_most });
            }
        }
        if !self.queue.is_empty() {
            self.fill(true, now_us, out);
            self.estimate_again();
            let repeat = now_us.saturating_sub(self.repeated_us) >= REPEAT_US;
            self.resigned &= !repeat;
            self.want_exactly(out);
            if repeat {
                self.repeated_us = now_us;
                let waiting = self.asked.iter().filter(|(_, asked)| asked.target > asked.answered);
                out.extend(waiting.map(|(raylet, _)| Effect::Want { raylet: *raylet }));
            }
        }
        !self.leases.is_empty() || !self.queue.is_empty()
    }

    /// Others wait for resources: gives back what is idle now. With work of its own left it gives
    /// one lease and stands in line for it again, so that a long queue does not keep others
    /// waiting until it is empty.
    pub(crate) fn give_back_idle(&mut self, now_us: u64, out: &mut Vec<Effect>) {
        if self.queue.is_empty() {
            return self.give_back(now_us, 0, out);
        }
        if self.leases.values().any(|state| state.leaving) {
            return;
        }
        let least = self.leases.iter_mut().min_by_key(|(id, state)| (state.ahead_us, **id));
        let Some((id, state)) = least.map(|(id, state)| (*id, state)) else {
            return;
        };
        state.leaving = true;
        if state.in_flight.is_empty() {
            let raylet = state.raylet;
            self.leases.remove(&id);
            out.push(Effect::Return { raylet, lease: id });
        }
        self.want_exactly(out);
    }

    /// The session ends: everything is given back and nothing is wanted any more.
    pub(crate) fn close(&mut self, out: &mut Vec<Effect>) {
        self.queue.clear();
        self.queued_us = 0;
        for (lease, state) in std::mem::take(&mut self.leases) {
            out.push(Effect::Return { raylet: state.raylet, lease });
        }
        self.withdraw(out);
    }

    /// No lease will ever come from this raylet. While others grant some, what waits is left to
    /// them; if there are none, it fails: it is returned, and nothing is wanted any more.
    pub(crate) fn give_up(&mut self, raylet: Address, out: &mut Vec<Effect>) -> Vec<u64> {
        if let Some(asked) = self.asked.get_mut(&raylet).filter(|asked| asked.target > asked.answered) {
            asked.target = asked.answered;
            out.push(Effect::Want { raylet });
        }
        if self.has_hope() {
            self.resigned = true;
            if self.home == raylet
                && let Some(other) = self.leases.values().map(|state| state.raylet).find(|other| *other != raylet)
            {
                self.home = other;
            }
            return Vec::new();
        }
        self.queued_us = 0;
        std::mem::take(&mut self.queue).into_iter().map(|queued| queued.seq).collect()
    }

    /// Nothing of this shape can run any more, and its leases are over: returns all there is.
    pub(crate) fn end(&mut self, out: &mut Vec<Effect>) -> Vec<u64> {
        self.withdraw(out);
        self.queued_us = 0;
        let mut all: Vec<u64> = std::mem::take(&mut self.queue).into_iter().map(|queued| queued.seq).collect();
        for (_, state) in std::mem::take(&mut self.leases) {
            all.extend(state.in_flight.into_iter().map(|(seq, _)| seq));
        }
        all
    }

    /// A task that waits is not to run any more. False when it does not wait.
    pub(crate) fn remove(&mut self, seq: u64, out: &mut Vec<Effect>) -> bool {
        // Who cancels many mostly cancels the last ones.
        let Some(position) = self.queue.iter().rposition(|queued| queued.seq == seq) else { return false };
        if let Some(queued) = self.queue.remove(position) {
            self.queued_us = self.queued_us.saturating_sub(queued.estimate_us);
        }
        if self.queue.is_empty() {
            self.withdraw(out);
        }
        true
    }

    /// The worker of a lease, while it is held.
    pub(crate) fn worker_of(&self, lease: LeaseId) -> Option<ProcessAddr> {
        self.leases.get(&lease).map(|state| state.worker)
    }

    /// Whether it has no tasks and no leases, and wants none.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.leases.is_empty() && self.outstanding() == 0
    }

    /// The raylet that is asked first.
    pub(crate) fn home(&self) -> Address {
        self.home
    }

    /// The raylets that were asked for leases.
    pub(crate) fn asked(&self) -> Vec<Address> {
        self.asked.keys().copied().collect()
    }

    /// How many tasks are served before this one, if it waits for a lease.
    pub(crate) fn ahead_of(&self, seq: u64) -> Option<usize> {
        self.queue.iter().position(|queued| queued.seq == seq)
    }

    /// How many tasks wait for a lease.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn give_back(&mut self, now_us: u64, idle_us: u64, out: &mut Vec<Effect>) {
        if !self.queue.is_empty() {
            return;
        }
        self.leases.retain(|id, state| {
            let idle = state.in_flight.is_empty() && now_us.saturating_sub(state.idle_since_us) >= idle_us;
            if idle {
                out.push(Effect::Return { raylet: state.raylet, lease: *id });
            }
            !idle
        });
    }

    /// Hands out queued tasks. Unless `eager`, a busy lease is left alone until a batch is ready.
    fn fill(&mut self, eager: bool, now_us: u64, out: &mut Vec<Effect>) {
        while !self.queue.is_empty() {
            // The least loaded lease; ties go to the lower id.
            let Some((id, state)) = self
                .leases
                .iter_mut()
                .filter(|(_, state)| !state.reclaiming && state.has_room())
                .min_by_key(|(id, state)| (state.ahead_us, state.in_flight.len(), **id))
            else {
                return;
            };
            // A busy lease has enough to do until a batch is worth a message.
            let busy = state.in_flight.len() >= EAGER_TASKS;
            if busy && !eager {
                let front = self.queue.front().and_then(|queued| self.run_us.get(&queued.function));
                let room_tasks = (AHEAD_US - state.ahead_us) / front.copied().unwrap_or(AHEAD_US).max(1);
                let room = (AHEAD_TASKS - state.in_flight.len()).min(room_tasks as usize);
                if self.queue.len() < BATCH || room < BATCH {
                    return;
                }
            }
            if state.in_flight.is_empty() {
                state.progress_us = now_us;
            }
            let mut tasks = Vec::new();
            while tasks.len() < BATCH_LIMIT
                && state.has_room()
                && let Some(queued) = self.queue.pop_front()
            {
                let estimate = self.run_us.get(&queued.function).copied().unwrap_or(AHEAD_US);
                // A long task does not go behind others: it would wait for them while another
                // lease might be free.
                if estimate >= AHEAD_US && !state.in_flight.is_empty() {
                    self.queue.push_front(queued);
                    break;
                }
                self.queued_us = self.queued_us.saturating_sub(queued.estimate_us);
                state.in_flight.push_back((queued.seq, estimate));
                state.ahead_us += estimate;
                tasks.push(queued.seq);
            }
            if tasks.is_empty() {
                return;
            }
            out.push(Effect::Push { lease: *id, worker: state.worker, raylet: state.raylet, tasks });
        }
    }
}

impl Lease {
    fn has_room(&self) -> bool {
        let room_tasks = if self.one_task { 1 } else { AHEAD_TASKS };
        !self.leaving && !self.stuck && !self.full && self.ahead_us < AHEAD_US && self.in_flight.len() < room_tasks
    }

    /// False when the task was not in flight.
    fn forget(&mut self, seq: u64) -> bool {
        // Tasks end in the order they were pushed, unless one lent its CPU: usually the front.
        let position = self.in_flight.iter().position(|(other, _)| *other == seq);
        let Some((_, estimate)) = position.and_then(|position| self.in_flight.remove(position)) else { return false };
        self.ahead_us = self.ahead_us.saturating_sub(estimate);
        true
    }
}
