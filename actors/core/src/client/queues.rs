//! The task queues of a client, one per shape, and forgetting those that nobody uses.
//!
//! A program may use any number of shapes in its life (a demand, a strategy and the node that has
//! the arguments make one), so queues without tasks, leases and wants are forgotten when there are
//! many, here and by the raylets that count for them. Nobody else may hold such a queue: options
//! that were used keep theirs, and a task has its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mobula_transport::{Address, MailboxId, Payload};
use parking_lot::Mutex;

use super::Client;
use super::task_queue::TaskQueue;
use crate::messages::{ForgetQueue, LeasesDone, Shape};

/// With fewer queues none is forgotten.
pub(super) const QUEUES_KEPT: usize = 64;

/// The task queues of a client.
pub(crate) struct Queues {
    by_shape: Mutex<HashMap<Shape, Arc<TaskQueue>>>,
    /// How many make it worth looking for idle ones.
    sweep_at: AtomicUsize,
    sweep_due: AtomicBool,
}

impl Default for Queues {
    fn default() -> Self {
        Self { by_shape: Mutex::default(), sweep_at: QUEUES_KEPT.into(), sweep_due: false.into() }
    }
}

impl Queues {
    /// The queue of this shape; made if there is none.
    pub(super) fn of(&self, shape: Shape, make: impl FnOnce(Shape) -> TaskQueue) -> Arc<TaskQueue> {
        let mut queues = self.by_shape.lock();
        if let Some(queue) = queues.get(&shape) {
            return queue.clone();
        }
        let queue = Arc::new(make(shape.clone()));
        queues.insert(shape, queue.clone());
        if queues.len() > self.sweep_at.load(Ordering::Relaxed) {
            self.sweep_due.store(true, Ordering::Relaxed);
        }
        queue
    }

    /// The queue of this shape.
    pub(super) fn get(&self, shape: &Shape) -> Option<Arc<TaskQueue>> {
        self.by_shape.lock().get(shape).cloned()
    }

    /// The queue of this shape, if it is the one with this number.
    pub(super) fn numbered(&self, shape: &Shape, number: u64) -> Option<Arc<TaskQueue>> {
        self.get(shape).filter(|queue| queue.number() == number)
    }

    pub(super) fn all(&self) -> Vec<Arc<TaskQueue>> {
        self.by_shape.lock().values().cloned().collect()
    }

    pub(super) fn drain(&self) -> Vec<Arc<TaskQueue>> {
        self.by_shape.lock().drain().map(|(_, queue)| queue).collect()
    }

    /// Whether it is time to look for idle queues; cheap.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.sweep_due.load(Ordering::Relaxed)
    }

    /// Takes out what nobody uses, in order of shape.
    fn sweep(&self, may_go: impl Fn(&TaskQueue) -> bool) -> Vec<Arc<TaskQueue>> {
        self.sweep_due.store(false, Ordering::Relaxed);
        let mut queues = self.by_shape.lock();
        // Under the lock nobody can get hold of one that nobody else holds.
        let (idle, used): (HashMap<_, _>, HashMap<_, _>) =
            queues.drain().partition(|(_, queue)| Arc::strong_count(queue) == 1 && queue.is_idle() && may_go(queue));
        *queues = used;
        // Looking is worth it again when there are twice as many.
        self.sweep_at.store(QUEUES_KEPT.max(2 * queues.len()), Ordering::Relaxed);
        drop(queues);
        let mut idle: Vec<_> = idle.into_values().collect();
        idle.sort_by(|a, b| a.shape().cmp(b.shape()));
        idle
    }
}

impl Client {
    /// Forgets the queues that nobody uses. Those of a raylet whose connection is broken stay until
    /// both agree on what it has granted.
    pub(super) fn forget_idle_queues(&self) {
        let broken = self.0.broken.lock().clone();
        let reachable = |queue: &TaskQueue| queue.asked().iter().all(|raylet| !broken.contains(&raylet.process.id));
        for queue in self.0.queues.sweep(reachable) {
            for raylet in queue.asked() {
                self.0.forgotten_at.lock().insert(raylet.process.id, raylet);
                self.forget_queue(raylet, queue.shape().clone(), queue.number());
            }
        }
    }

    /// A raylet counts for these. Those that are not there any more are to be forgotten: the message
    /// that said so got lost.
    pub(super) fn forget_unknown(&self, raylet: Address, done: &[LeasesDone]) {
        for LeasesDone { shape, queue, .. } in done {
            if self.0.queues.numbered(shape, *queue).is_none() {
                self.forget_queue(raylet, shape.clone(), *queue);
            }
        }
    }

    fn forget_queue(&self, raylet: Address, shape: Shape, queue: u64) {
        let forget = ForgetQueue { client: self.address(), shape, queue };
        self.endpoint().send(Some(MailboxId::CLIENT), raylet, forget, Payload::new());
    }
}
