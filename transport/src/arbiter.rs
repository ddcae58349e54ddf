//! The arbiter runner: actix actors. The only file that names types of actix.
//!
//! A message goes into the actor's own bounded queue; the actix actor takes the queue's content
//! as a stream of batches, so a thousand messages cost one wake-up of the arbiter's thread, and
//! the mailbox bound is honoured (actix's `do_send` ignores it).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::task::{self, Poll, Waker};
use std::thread;
use std::time::Duration;

use actix::{ActorContext as _, StreamHandler};
use actix_rt::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;

use crate::actor::{Actor, Call, Context, Handlers, Port, Stage, Work};
use crate::address::MailboxId;
use crate::core::Core;
use crate::endpoint::{Endpoint, Mailbox};
use crate::envelope::Envelope;
use crate::error::SendError;

/// How much of its queue an actor handles before the arbiter's other actors have a turn.
const TURN: usize = 256;
/// How long the pool's first thread may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a future on this runtime, with an arbiter for the actors of [`RuntimeChoice::Current`].
///
/// [`RuntimeChoice::Current`]: crate::RuntimeChoice::Current
pub(crate) fn block_on<F: Future>(runtime: tokio::runtime::Runtime, future: F) -> F::Output {
    System::with_tokio_rt(move || runtime).block_on(future)
}

/// Starts `make()` as an actix actor under `id`.
pub(crate) fn spawn<A: Actor>(
    endpoint: &Endpoint,
    arbiters: &Arbiters,
    id: MailboxId,
    handlers: Arc<Handlers<A>>,
    make: impl FnOnce() -> A + Send + 'static,
) {
    let queue = Arc::new(Queue {
        id,
        core: Arc::downgrade(endpoint.core()),
        state: Mutex::new(QueueState { waiting: VecDeque::new(), waker: None, closed: false }),
    });
    endpoint.core().attach(id, queue.clone());
    let endpoint = endpoint.clone();
    let for_actor = queue.clone();
    let started = arbiters.next().is_some_and(|arbiter| {
        arbiter.spawn_fn(move || {
            let weak = Arc::downgrade(&for_actor);
            let port: Weak<dyn Port<A>> = weak;
            let ctx = Context::new(endpoint, id, port);
            let shell = Shell { stage: Box::new(Stage::new(make(), ctx, handlers)), queue: for_actor };
            let _: actix::Addr<Shell<A>> = actix::Actor::start(shell);
        })
    });
    if !started {
        tracing::error!(actor = A::NAME, "no arbiter runs; the actor cannot start");
        queue.close_and_refuse();
    }
}

/// The threads of the arbiter runner; started with the first actor that needs one.
pub(crate) struct Arbiters {
    wanted: usize,
    /// Use the actix system of the starting thread (a simulation) instead of threads of our own.
    current: bool,
    pool: Mutex<Option<Pool>>,
    turn: AtomicUsize,
}

struct Pool {
    handles: Vec<ArbiterHandle>,
    /// Ours to stop; absent for a borrowed system.
    system: Option<System>,
}

impl Arbiters {
    pub(crate) fn new(wanted: usize, current: bool) -> Self {
        Self { wanted: wanted.max(1), current, pool: Mutex::new(None), turn: AtomicUsize::new(0) }
    }

    fn next(&self) -> Option<ArbiterHandle> {
        let mut pool = self.pool.lock();
        if pool.is_none() {
            *pool = if self.current { Pool::borrow() } else { Pool::start(self.wanted) };
        }
        let handles = &pool.as_ref()?.handles;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        handles.get(turn % handles.len().max(1)).cloned()
    }

    /// Stops the threads; their actors are dropped.
    pub(crate) fn stop(&self) {
        if let Some(Pool { system: Some(system), .. }) = self.pool.lock().take() {
            system.stop();
        }
    }
}

impl Drop for Arbiters {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pool {
    fn borrow() -> Option<Self> {
        Some(Self { handles: vec![Arbiter::try_current()?], system: None })
    }

    fn start(wanted: usize) -> Option<Self> {
        let (tell, told) = mpsc::channel();
        let run = move || {
            let runner = System::new();
            let system = System::current();
            let mut handles = vec![system.arbiter().clone()];
            handles.extend((1..wanted).map(|_| Arbiter::new().handle()));
            if tell.send((handles, system)).is_ok()
                && let Err(error) = runner.run()
            {
                tracing::error!(%error, "the actor system failed");
            }
        };
        let thread = thread::Builder::new().name("mobula-actors".into()).spawn(run);
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start the actor thread");
            return None;
        }
        let (handles, system) = told.recv_timeout(START_TIMEOUT).ok()?;
        Some(Self { handles, system: Some(system) })
    }
}

struct Queue<A: Actor> {
    id: MailboxId,
    core: Weak<Core>,
    state: Mutex<QueueState<A>>,
}

struct QueueState<A: Actor> {
    waiting: VecDeque<Work<A>>,
    /// Present while the actor sleeps.
    waker: Option<Waker>,
    closed: bool,
}

impl<A: Actor> Queue<A> {
    fn push(&self, work: Work<A>) {
        let refusal = {
            let mut state = self.state.lock();
            if state.closed {
                SendError::NoSuchActor
            } else if matches!(work, Work::Message(_)) && state.waiting.len() >= A::MAILBOX_LIMIT {
                SendError::MailboxFull { limit: A::MAILBOX_LIMIT }
            } else {
                state.waiting.push_back(work);
                let waker = state.waker.take();
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                return;
            }
        };
        work.refuse(refusal);
    }

    fn close_and_refuse(self: &Arc<Self>) {
        let left = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        if let Some(core) = self.core.upgrade() {
            let this: Arc<dyn Mailbox> = self.clone();
            core.detach_exactly(self.id, &this);
        }
        for work in left {
            work.refuse(SendError::NoSuchActor);
        }
    }
}

impl<A: Actor> Mailbox for Queue<A> {
    fn deliver(&self, envelope: Envelope) {
        self.push(Work::Message(envelope));
    }

    fn close(&self) {
        self.push(Work::Call(Box::new(|_, ctx| ctx.stop())));
    }
}

impl<A: Actor> Port<A> for Queue<A> {
    fn post(&self, call: Call<A>) -> bool {
        if self.state.lock().closed {
            return false;
        }
        self.push(Work::Call(call));
        true
    }
}

/// The queue's content as a stream of batches.
struct Batches<A: Actor>(Arc<Queue<A>>);

impl<A: Actor> futures::Stream for Batches<A> {
    type Item = VecDeque<Work<A>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        if state.waiting.is_empty() {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let turn = state.waiting.len().min(TURN);
        Poll::Ready(Some(state.waiting.drain(..turn).collect()))
    }
}

/// The actix actor around an actor of ours.
struct Shell<A: Actor> {
    stage: Box<Stage<A>>,
    queue: Arc<Queue<A>>,
}

impl<A: Actor> actix::Actor for Shell<A> {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.stage.start() {
            Self::add_stream(Batches(self.queue.clone()), ctx);
        } else {
            self.queue.close_and_refuse();
            ctx.stop();
        }
    }
}

impl<A: Actor> StreamHandler<VecDeque<Work<A>>> for Shell<A> {
    fn handle(&mut self, mut batch: VecDeque<Work<A>>, ctx: &mut Self::Context) {
        if !self.stage.perform(&mut batch) {
            self.queue.close_and_refuse();
            for work in batch {
                work.refuse(SendError::NoSuchActor);
            }
            ctx.stop();
        }
    }
}

impl<A: Actor> Drop for Shell<A> {
    /// The arbiter's thread may end under a living actor; whoever waits must hear of it.
    fn drop(&mut self) {
        self.queue.close_and_refuse();
    }
}
