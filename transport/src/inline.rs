//! The inline runner: an actor without a thread.
//!
//! Whoever delivers a message looks whether the actor is busy. If it is free, the deliverer runs
//! the message and whatever arrives meanwhile (flat combining); if it is busy, the message waits
//! in the queue for the present runner, and the deliverer goes on. Nobody ever blocks on the
//! actor, a handler may send to itself or in a circle, and the order of arrival is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::actor::{Actor, Call, Context, Handlers, Port, Stage, Work};
use crate::address::MailboxId;
use crate::core::Core;
use crate::endpoint::{Endpoint, Mailbox};
use crate::envelope::Envelope;
use crate::error::SendError;

/// How many messages of others one deliverer handles before it passes the rest to the
/// endpoint's own thread, so that no caller is held captive by a busy actor.
const DRAIN_LIMIT: usize = 4096;

/// Starts `make()` as an inline actor under `id`; its `started` runs on this thread.
pub(crate) fn spawn<A: Actor>(
    endpoint: &Endpoint,
    id: MailboxId,
    handlers: Arc<Handlers<A>>,
    make: impl FnOnce() -> A,
) {
    let mailbox = Arc::new_cyclic(|this: &Weak<Inline<A>>| {
        let port: Weak<dyn Port<A>> = this.clone();
        let ctx = Context::new(endpoint.clone(), id, port);
        Inline {
            id,
            core: Arc::downgrade(endpoint.core()),
            this: this.clone(),
            // Busy until `started` has run.
            queue: Mutex::new(Queue { waiting: VecDeque::new(), state: State::Busy }),
            stage: Mutex::new(Some(Stage::new(make(), ctx, handlers))),
        }
    });
    endpoint.core().attach(id, mailbox.clone());
    mailbox.run(|stage, _| stage.start());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Busy,
    Stopped,
}

struct Queue<A: Actor> {
    waiting: VecDeque<Work<A>>,
    state: State,
}

struct Inline<A: Actor> {
    id: MailboxId,
    core: Weak<Core>,
    this: Weak<Self>,
    queue: Mutex<Queue<A>>,
    /// Locked only by the thread that set [`State::Busy`], so never waited for.
    stage: Mutex<Option<Stage<A>>>,
}

impl<A: Actor> Inline<A> {
    /// Queues the work if the actor is busy, else gives it back to be run by the caller, who is
    /// now the runner.
    fn offer(&self, work: Work<A>) -> Option<Work<A>> {
        let refusal = {
            let mut queue = self.queue.lock();
            match (queue.state, &work) {
                (State::Idle, _) => {
                    queue.state = State::Busy;
                    return Some(work);
                }
                (State::Busy, Work::Message(_)) if queue.waiting.len() >= A::MAILBOX_LIMIT => {
                    SendError::MailboxFull { limit: A::MAILBOX_LIMIT }
                }
                (State::Busy, _) => {
                    queue.waiting.push_back(work);
                    return None;
                }
                (State::Stopped, _) => SendError::NoSuchActor,
            }
        };
        work.refuse(refusal);
        None
    }

    fn run_or_queue(&self, work: Work<A>) {
        if let Some(work) = self.offer(work) {
            self.run(|stage, _| stage.perform_one(work));
        }
    }

    /// Runs `first`, then drains the queue. Only for the thread that made the actor busy.
    fn run(&self, first: impl FnOnce(&mut Stage<A>, &mut VecDeque<Work<A>>) -> bool) {
        let mut batch = VecDeque::new();
        let mut handled = 0;
        let alive = {
            let mut slot = self.stage.lock();
            let Some(stage) = slot.as_mut() else { return };
            let mut alive = first(stage, &mut batch);
            loop {
                if !alive {
                    break;
                }
                {
                    let mut queue = self.queue.lock();
                    if queue.waiting.is_empty() {
                        queue.state = State::Idle;
                        return;
                    }
                    if handled < DRAIN_LIMIT {
                        std::mem::swap(&mut queue.waiting, &mut batch);
                    }
                }
                if batch.is_empty() {
                    break;
                }
                handled += batch.len();
                alive = stage.perform(&mut batch);
            }
            alive
        };
        if alive {
            self.pass_on();
        } else {
            self.stop(batch);
        }
    }

    /// Leaves the rest of the queue to the endpoint's thread; the actor stays busy.
    fn pass_on(&self) {
        let (Some(core), Some(this)) = (self.core.upgrade(), self.this.upgrade()) else { return };
        core.spawn_task(async move { this.run(|stage, batch| stage.perform(batch)) });
    }

    fn stop(&self, mut left: VecDeque<Work<A>>) {
        {
            let mut queue = self.queue.lock();
            queue.state = State::Stopped;
            left.append(&mut queue.waiting);
        }
        if let (Some(core), Some(this)) = (self.core.upgrade(), self.this.upgrade()) {
            let this: Arc<dyn Mailbox> = this;
            core.detach_exactly(self.id, &this);
        }
        // Dropped outside both locks: the actor's fields may send messages when they go.
        let stage = self.stage.lock().take();
        drop(stage);
        for work in left {
            work.refuse(SendError::NoSuchActor);
        }
    }
}

impl<A: Actor> Mailbox for Inline<A> {
    fn deliver(&self, envelope: Envelope) {
        self.run_or_queue(Work::Message(envelope));
    }

    fn close(&self) {
        // A call that stops the actor keeps the order with the messages before it.
        self.run_or_queue(Work::Call(Box::new(|_, ctx| ctx.stop())));
    }
}

impl<A: Actor> Port<A> for Inline<A> {
    fn post(&self, call: Call<A>) -> bool {
        if self.queue.lock().state == State::Stopped {
            return false;
        }
        self.run_or_queue(Work::Call(call));
        true
    }
}
