//! The actor seam: an [`Actor`] is a plain struct with a table of handlers, one typed message
//! each. Two runners carry the same actors:
//!
//! - [`Runner::Arbiter`]: an actix actor on an actix arbiter, a thread of its own for many actors;
//! - [`Runner::Inline`]: no thread; a message is handled on the thread that delivers it, under
//!   flat combining. For short handlers that never block.
//!
//! Only `arbiter.rs` names types of actix. Stopping an actor runs no protocol: whoever waits for
//! it is answered [`SendError::NoSuchActor`].

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::address::{Address, MailboxId};
use crate::endpoint::Endpoint;
use crate::envelope::{Envelope, Request};
use crate::error::{SendError, Undelivered};
use crate::message::{Message, Payload};

/// An actor: state, and a handler for every message it understands.
///
/// ```
/// use mobula_transport::{Actor, Handlers, message};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Add(i64);
/// message!(Add => i64);
///
/// struct Counter(i64);
///
/// impl Actor for Counter {
///     const NAME: &'static str = "counter";
///     fn handlers(table: &mut Handlers<Self>) {
///         table.on::<Add>(|counter, Add(n), request, _ctx| {
///             counter.0 += n;
///             request.reply(counter.0);
///         });
///     }
/// }
/// ```
pub trait Actor: Sized + Send + 'static {
    /// What logs call it.
    const NAME: &'static str;
    /// Messages that may wait; one more is answered [`SendError::MailboxFull`].
    const MAILBOX_LIMIT: usize = 65_536;

    /// Fills in the handlers; called once per actor type and endpoint.
    fn handlers(table: &mut Handlers<Self>);

    /// Runs before the first message.
    fn started(&mut self, ctx: &mut Context<Self>) {
        let _ = ctx;
    }

    /// A one-way message of this actor could not be delivered.
    fn undelivered(&mut self, what: Undelivered, ctx: &mut Context<Self>) {
        let _ = ctx;
        tracing::debug!(actor = Self::NAME, to = %what.to, error = %what.error, "undelivered");
    }
}

/// Who runs an actor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runner {
    /// An actix arbiter of the endpoint's pool.
    Arbiter,
    /// The delivering thread.
    Inline,
}

type Handler<A> = Box<dyn Fn(&mut A, Envelope, &mut Context<A>) + Send + Sync>;

/// What an actor type does with each kind of message.
pub struct Handlers<A: Actor> {
    /// Sorted by kind: an actor has few messages, a binary search beats hashing.
    table: Vec<(u32, Handler<A>)>,
}

impl<A: Actor> Handlers<A> {
    pub(crate) fn of_type() -> Self {
        let mut handlers = Self { table: Vec::new() };
        A::handlers(&mut handlers);
        handlers.table.sort_by_key(|(kind, _)| *kind);
        handlers
    }

    /// Handles `M` with `handler`; the last one given for a message counts.
    pub fn on<M: Message>(&mut self, handler: impl Fn(&mut A, M, Request<M>, &mut Context<A>) + Send + Sync + 'static) {
        self.table.retain(|(kind, _)| *kind != M::KIND);
        self.table.push((
            M::KIND,
            Box::new(move |actor, envelope, ctx| {
                if let Ok((message, request)) = envelope.open::<M>() {
                    handler(actor, message, request, ctx);
                }
            }),
        ));
    }

    fn handle(&self, actor: &mut A, envelope: Envelope, ctx: &mut Context<A>) {
        let kind = envelope.kind();
        match self.table.binary_search_by_key(&kind, |(kind, _)| *kind) {
            Ok(at) => (self.table[at].1)(actor, envelope, ctx),
            Err(_) if kind == Undelivered::KIND => {
                if let Ok((what, _)) = envelope.open::<Undelivered>() {
                    actor.undelivered(what, ctx);
                }
            }
            Err(_) => envelope.reject(SendError::UnknownMessage { kind, name: String::new() }),
        }
    }
}

impl<A: Actor> std::fmt::Debug for Handlers<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handlers<{}>({} messages)", A::NAME, self.table.len())
    }
}

/// Something to do with the actor, from outside.
pub(crate) type Call<A> = Box<dyn FnOnce(&mut A, &mut Context<A>) + Send>;

/// One thing in an actor's queue.
pub(crate) enum Work<A: Actor> {
    Message(Envelope),
    Call(Call<A>),
}

impl<A: Actor> Work<A> {
    /// Answers for work that will not be done.
    pub(crate) fn refuse(self, error: SendError) {
        match self {
            Self::Message(envelope) => envelope.reject(error),
            Self::Call(_) => {}
        }
    }
}

/// The queue of an actor, as its context and posters see it.
pub(crate) trait Port<A: Actor>: Send + Sync {
    /// Queues a call; `false` if the actor has stopped.
    fn post(&self, call: Call<A>) -> bool;
}

/// Hands work to an actor from any thread; does not keep it alive.
pub struct Poster<A: Actor>(Weak<dyn Port<A>>);

impl<A: Actor> Poster<A> {
    /// Runs `call` as the actor's next work; `false` if the actor has stopped.
    pub fn post(&self, call: impl FnOnce(&mut A, &mut Context<A>) + Send + 'static) -> bool {
        self.0.upgrade().is_some_and(|port| port.post(Box::new(call)))
    }
}

impl<A: Actor> Clone for Poster<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Actor> std::fmt::Debug for Poster<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Poster<{}>", A::NAME)
    }
}

/// Names a timer of one actor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(u64);

type Repeat<A> = Box<dyn FnMut(&mut A, &mut Context<A>) + Send>;

struct Timer<A: Actor> {
    task: tokio::task::AbortHandle,
    /// Absent for one-shot timers, and while it runs.
    repeat: Option<Repeat<A>>,
}

/// What an actor can do: the seams for time, randomness, spawning and sending.
pub struct Context<A: Actor> {
    endpoint: Endpoint,
    id: MailboxId,
    port: Weak<dyn Port<A>>,
    random: Option<Box<StdRng>>,
    timers: HashMap<TimerId, Timer<A>>,
    next_timer: u64,
    stopping: bool,
}

impl<A: Actor> Context<A> {
    pub(crate) fn new(endpoint: Endpoint, id: MailboxId, port: Weak<dyn Port<A>>) -> Self {
        Self { endpoint, id, port, random: None, timers: HashMap::new(), next_timer: 0, stopping: false }
    }

    /// The endpoint the actor lives at.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The actor's own address.
    pub fn address(&self) -> Address {
        self.endpoint.address_of(self.id)
    }

    /// The time; stands still in a paused simulation.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// The actor's random numbers, seeded from the endpoint's seed and the mailbox.
    pub fn random(&mut self) -> &mut StdRng {
        let seed = self.endpoint.seed_of(self.id.0);
        self.random.get_or_insert_with(|| Box::new(StdRng::seed_from_u64(seed)))
    }

    /// Runs a future on the endpoint's runtime. It must not block.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.endpoint.spawn_task(future);
    }

    /// Runs a future on the endpoint's runtime and hands its output back to the actor.
    pub fn pipe<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(&mut A, T, &mut Self) + Send + 'static,
    ) {
        let poster = self.poster();
        self.endpoint.spawn_task(async move {
            let output = future.await;
            poster.post(move |actor, ctx| then(actor, output, ctx));
        });
    }

    /// A handle by which other threads hand work to this actor.
    pub fn poster(&self) -> Poster<A> {
        Poster(self.port.clone())
    }

    /// Sends a one-way message in this actor's name; if it cannot be delivered,
    /// [`Actor::undelivered`] hears of it.
    pub fn send<M: Message>(&self, to: Address, message: M) {
        self.endpoint.send(Some(self.id), to, message, Payload::new());
    }

    /// [`send`](Self::send) with bytes beside the message.
    pub fn send_with<M: Message>(&self, to: Address, message: M, payload: Payload) {
        self.endpoint.send(Some(self.id), to, message, payload);
    }

    /// Asks in this actor's name; the answer, or why there is none, comes back to the actor.
    pub fn request<M: Message>(
        &self,
        to: Address,
        message: M,
        payload: Payload,
        deadline: Duration,
        then: impl FnOnce(&mut A, Result<(M::Reply, Payload), SendError>, &mut Self) + Send + 'static,
    ) {
        let poster = self.poster();
        self.endpoint.request_from(Some(self.id), to, message, payload, deadline, move |answer| {
            poster.post(move |actor, ctx| then(actor, answer, ctx));
        });
    }

    /// Calls `f` once, after `delay`.
    pub fn later(&mut self, delay: Duration, f: impl FnOnce(&mut A, &mut Self) + Send + 'static) -> TimerId {
        let id = self.timer_id();
        let poster = self.poster();
        let task = self.endpoint.spawn_task(async move {
            tokio::time::sleep(delay).await;
            poster.post(move |actor, ctx| {
                if ctx.timers.remove(&id).is_some() {
                    f(actor, ctx);
                }
            });
        });
        self.timers.insert(id, Timer { task, repeat: None });
        id
    }

    /// Calls `f` every `period`, first after one period. A call that is still waiting in the
    /// queue is not queued twice.
    pub fn every(&mut self, period: Duration, f: impl FnMut(&mut A, &mut Self) + Send + 'static) -> TimerId {
        let id = self.timer_id();
        let poster = self.poster();
        let task = self.endpoint.spawn_task(async move {
            let queued = Arc::new(AtomicBool::new(false));
            let mut next = Instant::now();
            loop {
                // A late tick shifts the following ones instead of bunching them.
                next = (next + period).max(Instant::now());
                tokio::time::sleep_until(next).await;
                if queued.swap(true, Ordering::AcqRel) {
                    continue;
                }
                let done = queued.clone();
                let alive = poster.post(move |actor, ctx| {
                    done.store(false, Ordering::Release);
                    ctx.tick(id, actor);
                });
                if !alive {
                    return;
                }
            }
        });
        self.timers.insert(id, Timer { task, repeat: Some(Box::new(f)) });
        id
    }

    /// Cancels a timer; a timer that has fired or was cancelled is ignored.
    pub fn cancel(&mut self, timer: TimerId) {
        if let Some(timer) = self.timers.remove(&timer) {
            timer.task.abort();
        }
    }

    /// Stops the actor after the present message; what waits in its queue is answered
    /// [`SendError::NoSuchActor`].
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn timer_id(&mut self) -> TimerId {
        self.next_timer += 1;
        TimerId(self.next_timer)
    }

    fn tick(&mut self, id: TimerId, actor: &mut A) {
        let Some(mut repeat) = self.timers.get_mut(&id).and_then(|timer| timer.repeat.take()) else {
            return;
        };
        repeat(actor, self);
        if let Some(timer) = self.timers.get_mut(&id) {
            timer.repeat = Some(repeat);
        }
    }
}

impl<A: Actor> Drop for Context<A> {
    fn drop(&mut self) {
        for timer in self.timers.values() {
            timer.task.abort();
        }
    }
}

impl<A: Actor> std::fmt::Debug for Context<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("actor", &A::NAME).field("id", &self.id).finish()
    }
}

/// An actor with what it needs to run; both runners hold one.
pub(crate) struct Stage<A: Actor> {
    actor: A,
    ctx: Context<A>,
    handlers: Arc<Handlers<A>>,
}

impl<A: Actor> Stage<A> {
    pub(crate) fn new(actor: A, ctx: Context<A>, handlers: Arc<Handlers<A>>) -> Self {
        Self { actor, ctx, handlers }
    }

    /// Runs [`Actor::started`]; `false` if the actor stops.
    pub(crate) fn start(&mut self) -> bool {
        self.guarded(|actor, ctx, _| actor.started(ctx))
    }

    /// Does the work in order; `false` if the actor stops, with what is left still in `batch`.
    pub(crate) fn perform(&mut self, batch: &mut std::collections::VecDeque<Work<A>>) -> bool {
        self.guarded(|actor, ctx, handlers| {
            while !ctx.stopping
                && let Some(work) = batch.pop_front()
            {
                match work {
                    Work::Message(envelope) => handlers.handle(actor, envelope, ctx),
                    Work::Call(call) => call(actor, ctx),
                }
            }
        })
    }

    /// One piece of work; `false` if the actor stops.
    pub(crate) fn perform_one(&mut self, work: Work<A>) -> bool {
        self.guarded(|actor, ctx, handlers| match work {
            Work::Message(envelope) => handlers.handle(actor, envelope, ctx),
            Work::Call(call) => call(actor, ctx),
        })
    }

    /// A handler's panic stops its actor, not the thread that carries it. The state the panic
    /// left behind is dropped unseen, hence unwind safe.
    fn guarded(&mut self, run: impl FnOnce(&mut A, &mut Context<A>, &Handlers<A>)) -> bool {
        let Self { actor, ctx, handlers } = self;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(actor, ctx, handlers)));
        if let Err(panic) = outcome {
            tracing::error!(actor = A::NAME, id = %self.ctx.id, why = panic_text(&*panic), "an actor panicked and was stopped");
            return false;
        }
        !self.ctx.stopping
    }
}

/// The text of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}
