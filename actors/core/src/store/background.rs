//! Threads for what must not happen on an actor's thread: making, removing, mapping and faulting
//! memory. They start when there is something to do and end when there is nothing for a while.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long a thread waits for more before it ends.
const LINGER: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A few threads and the jobs they share, first come, first served.
///
/// The queue has no bound of its own: every job belongs to a segment or to a request that waits
/// for it, and those are bounded where they are made.
pub(crate) struct Background {
    name: &'static str,
    max_threads: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    waiting: usize,
}

impl Background {
    /// With no threads at all, [`run`](Self::run) does its job in place.
    pub(crate) fn new(name: &'static str, max_threads: usize) -> Arc<Self> {
        Arc::new(Self { name, max_threads, queue: Mutex::default(), wake: Condvar::new() })
    }

    /// How many jobs wait for a thread.
    pub(crate) fn backlog(&self) -> usize {
        self.queue.lock().jobs.len()
    }

    /// Does `job` on one of the threads.
    pub(crate) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        #[cfg(test)]
        if crate::simulation::Stage::current().is_some() {
            return job();
        }
        if self.max_threads == 0 {
            return job();
        }
        let mut queue = self.queue.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.waiting >= queue.jobs.len() || queue.threads >= self.max_threads {
            drop(queue);
            self.wake.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let this = self.clone();
        let spawned = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || this.work());
        if let Err(error) = spawned {
            let mut queue = self.queue.lock();
            queue.threads -= 1;
            // Another thread will do it; without any, it must be this one.
            let orphaned = if queue.threads == 0 { queue.jobs.drain(..).collect() } else { Vec::new() };
            drop(queue);
            tracing::warn!(name = self.name, %error, "cannot start a thread; doing its work in place");
            orphaned.into_iter().for_each(|job| job());
        }
    }

    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A job's panic is its own: the answers it owed fail as dropped.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(name = self.name, "a background job panicked");
                }
                queue = self.queue.lock();
                continue;
            }
            queue.waiting += 1;
            let timed_out = self.wake.wait_for(&mut queue, LINGER).timed_out();
            queue.waiting -= 1;
            if timed_out && queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Background({}, {} jobs wait)", self.name, self.backlog())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_and_a_panic_takes_no_others_along() {
        let background = Background::new("test", 2);
        let (tell, told) = mpsc::channel();
        for n in 0..100 {
            let tell = tell.clone();
            background.run(move || {
                assert!(n % 10 != 3, "on purpose");
                tell.send(n).unwrap();
            });
        }
        drop(tell);
        let mut done: Vec<i32> = told.iter().collect();
        done.sort_unstable();
        let expected: Vec<i32> = (0..100).filter(|n| n % 10 != 3).collect();
        assert_eq!(done, expected);
    }
}
