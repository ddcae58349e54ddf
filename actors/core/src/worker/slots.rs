//! The threads that run user code.
//!
//! There are as many running threads as the worker has slots. A thread that waits inside Mobula
//! (`get`, `wait`, an await) does not count while it waits, so another one takes its place; user
//! code that blocks in its own ways is noticed by a monitor, which adds threads while work waits
//! and none is taken up. Threads beyond the slots leave when they have been idle for a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long an idle thread polls before it sleeps; waking it costs about 50 µs.
const SPIN: Duration = Duration::from_micros(100);
/// A thread beyond the slots leaves when idle for this long.
const EXTRA_IDLE: Duration = Duration::from_secs(5);
/// How often the monitor looks whether work is taken up.
const MONITOR_PERIOD: Duration = Duration::from_millis(3);
/// The most threads of one worker.
pub(crate) const THREAD_LIMIT: usize = 2_048;
/// The stack of a slot thread; user code gets what the main thread of most systems has.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Something that has work for a thread.
pub(crate) trait Runnable: Send + Sync {
    /// Works until there is nothing left or it is somebody else's turn.
    fn run(self: Arc<Self>);
}

struct State {
    queue: VecDeque<Arc<dyn Runnable>>,
    threads: usize,
    idle: usize,
    /// Idle threads that have been told to wake and have not done so; they are not idle any more.
    woken: usize,
    /// Threads that wait inside Mobula.
    waiting: usize,
    /// Counts what was taken from the queue, for the monitor.
    taken: u64,
    monitor_sleeps: bool,
    stopping: bool,
}

struct Shared {
    slots: usize,
    /// In a simulation threads take turns, and leave when there is nothing to do.
    #[cfg(test)]
    stage: Option<crate::simulation::Stage>,
    state: Mutex<State>,
    work: Condvar,
    monitor: Condvar,
    queued: AtomicUsize,
    spinning: AtomicUsize,
}

/// The threads of one worker. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Shared>);

impl Slots {
    pub(crate) fn start(slots: usize) -> Self {
        Self(Arc::new(Shared {
            slots: slots.max(1),
            #[cfg(test)]
            stage: crate::simulation::Stage::current(),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                threads: 0,
                idle: 0,
                woken: 0,
                waiting: 0,
                taken: 0,
                monitor_sleeps: false,
                stopping: false,
            }),
            work: Condvar::new(),
            monitor: Condvar::new(),
            queued: AtomicUsize::new(0),
            spinning: AtomicUsize::new(0),
        }))
    }

    /// Has a thread run this soon.
    pub(crate) fn schedule(&self, runnable: Arc<dyn Runnable>) {
        let mut state = self.0.state.lock();
        if state.stopping {
            return;
        }
        state.queue.push_back(runnable);
        let queued = state.queue.len();
        self.0.queued.store(queued, Ordering::Release);
        // A polling thread sees the queue by itself.
        if queued > self.0.spinning.load(Ordering::Acquire) {
            self.wake_or_add(&mut state);
        }
    }

    /// Whether something waits for a thread.
    pub(crate) fn has_queued(&self) -> bool {
        self.0.queued.load(Ordering::Acquire) > 0
    }

    /// This thread begins to wait inside Mobula.
    pub(crate) fn begin_waiting(&self) {
        let mut state = self.0.state.lock();
        state.waiting += 1;
        if !state.queue.is_empty() {
            self.wake_or_add(&mut state);
        }
    }

    /// This thread goes on. For a moment more threads than slots may run.
    pub(crate) fn end_waiting(&self) {
        self.0.state.lock().waiting -= 1;
    }

    /// Lets the threads leave; what is queued is dropped.
    pub(crate) fn stop(&self) {
        let dropped = {
            let mut state = self.0.state.lock();
            state.stopping = true;
            self.0.queued.store(0, Ordering::Release);
            std::mem::take(&mut state.queue)
        };
        self.0.work.notify_all();
        self.0.monitor.notify_all();
        drop(dropped);
    }

    fn wake_or_add(&self, state: &mut State) {
        if state.idle > 0 {
            // Counted here, so that two wake-ups in a row wake two threads.
            state.idle -= 1;
            state.woken += 1;
            self.0.work.notify_one();
        } else if state.threads < self.0.slots + state.waiting {
            self.add_thread(state);
        } else if state.monitor_sleeps {
            state.monitor_sleeps = false;
            self.0.monitor.notify_one();
        }
    }

    fn add_thread(&self, state: &mut State) {
        if state.threads >= THREAD_LIMIT {
            return;
        }
        let slots = self.clone();
        #[cfg(test)]
        if let Some(stage) = &self.0.stage {
            state.threads += 1;
            return stage.perform(move || slots.work());
        }
        let first = state.threads == 0;
        let spawned = std::thread::Builder::new()
            .name("mobula-slot".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || slots.work());
        match spawned {
            Ok(_) => state.threads += 1,
            Err(error) => {
                tracing::error!(%error, threads = state.threads, "a slot thread could not be started")
            }
        }
        if first {
            let slots = self.clone();
            let spawned = std::thread::Builder::new()
                .name("mobula-monitor".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || slots.watch());
            if let Err(error) = spawned {
                tracing::error!(%error, "the monitor of the slot threads could not be started");
            }
        }
    }

    fn work(&self) {
        while let Some(runnable) = self.next() {
            runnable.run();
        }
    }

    fn next(&self) -> Option<Arc<dyn Runnable>> {
        if let Some(runnable) = self.take(&mut self.0.state.lock()) {
            return Some(runnable);
        }
        #[cfg(test)]
        let polls = self.0.stage.is_none();
        #[cfg(not(test))]
        let polls = true;
        if polls {
            self.spin();
        }
        let mut state = self.0.state.lock();
        loop {
            if let Some(runnable) = self.take(&mut state) {
                return Some(runnable);
            }
            #[cfg(test)]
            let leaves = state.stopping || self.0.stage.is_some();
            #[cfg(not(test))]
            let leaves = state.stopping;
            if leaves {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let extra = state.threads > self.0.slots + state.waiting;
            let timed_out = if extra {
                self.0.work.wait_for(&mut state, EXTRA_IDLE).timed_out()
            } else {
                self.0.work.wait(&mut state);
                false
            };
            if state.woken > 0 {
                state.woken -= 1;
            } else {
                state.idle -= 1;
            }
            if timed_out && state.queue.is_empty() && state.threads > self.0.slots + state.waiting {
                state.threads -= 1;
                return None;
            }
        }
    }

    fn take(&self, state: &mut State) -> Option<Arc<dyn Runnable>> {
        let runnable = state.queue.pop_front()?;
        state.taken += 1;
        self.0.queued.store(state.queue.len(), Ordering::Release);
        Some(runnable)
    }

    /// Polls for a moment, one thread at a time.
    fn spin(&self) {
        if self.0.spinning.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let start = Instant::now();
        while !self.has_queued() && start.elapsed() < SPIN {
            for _ in 0..8 {
                std::thread::yield_now();
            }
        }
        self.0.spinning.store(0, Ordering::Release);
    }

    /// Adds a thread whenever work has waited for a whole period and nothing was taken up.
    fn watch(&self) {
        let mut state = self.0.state.lock();
        let mut taken_before = state.taken;
        while !state.stopping {
            if state.queue.is_empty() {
                state.monitor_sleeps = true;
                self.0.monitor.wait(&mut state);
            } else {
                self.0.monitor.wait_for(&mut state, MONITOR_PERIOD);
            }
            if !state.queue.is_empty() && state.taken == taken_before && state.idle == 0 {
                self.add_thread(&mut state);
            }
            taken_before = state.taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Job(Box<dyn Fn() + Send + Sync>);
    impl Runnable for Job {
        fn run(self: Arc<Self>) {
            (self.0)();
        }
    }

    fn job(f: impl Fn() + Send + Sync + 'static) -> Arc<dyn Runnable> {
        Arc::new(Job(Box::new(f)))
    }

    #[test]
    fn code_that_blocks_in_its_own_way_does_not_stop_the_others() {
        let slots = Slots::start(1);
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        slots.schedule(job(move || {
            let _ = blocked.lock().recv();
        }));
        let (tell, told) = mpsc::channel();
        slots.schedule(job(move || {
            let _ = tell.send(7);
        }));
        assert_eq!(told.recv(), Ok(7));
        drop(release);
        slots.stop();
    }

    #[test]
    fn everything_scheduled_runs_once() {
        let slots = Slots::start(2);
        let (tell, told) = mpsc::channel();
        for i in 0..10_000 {
            let tell = tell.clone();
            slots.schedule(job(move || {
                let _ = tell.send(i);
            }));
        }
        drop(tell);
        let mut seen: Vec<i32> = told.iter().take(10_000).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
        slots.stop();
    }
}
