//! What the thread is running, and lending its CPU while it waits.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::actor::{ActorCell, End};
use super::cancel::{Attempt, CANCELLED};
use super::future::Awake;
use super::lease::LeaseQueue;
use super::output;
use super::slots::Slots;
use crate::error::Error;
use crate::ids::ActorId;
use crate::messages::{ActorSpec, CallRules};

/// What a thread runs that belongs to user code.
pub(super) struct Running {
    /// The threads that it is one of; none on the runtime for user code.
    pub(super) slots: Option<Slots>,
    /// The node's name.
    pub(super) node: Arc<str>,
    /// The lease it runs under, while it has the right to drain that lease's queue.
    pub(super) lease: Option<Arc<LeaseQueue>>,
    /// The actor whose code it runs, if it is one's.
    pub(super) actor: Option<RunningActor>,
    /// The attempt of a task or call that it runs, and the number of this run.
    pub(super) attempt: Option<(Attempt, u64)>,
}

/// An actor whose code a thread runs.
#[derive(Clone)]
pub(super) struct RunningActor {
    pub(super) spec: Arc<ActorSpec>,
    /// None while it is made.
    pub(super) cell: Option<Arc<ActorCell>>,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Marks the thread as running user code; the guard gives back what was running before.
pub(super) fn begin(running: Running) -> Option<Running> {
    RUNNING.replace(Some(running))
}

/// The user code is over; returns what it still had.
pub(super) fn end(before: Option<Running>) -> Option<Running> {
    RUNNING.replace(before)
}

/// Whether the thread has the right to drain its lease's queue.
pub(super) fn has_lease() -> bool {
    RUNNING.with_borrow(|running| running.as_ref().is_some_and(|running| running.lease.is_some()))
}

/// The thread runs this attempt of a task or call. Returns the number of the run, which no other
/// run of this process has.
pub(super) fn runs(attempt: Attempt) -> u64 {
    /// Threads count by themselves, so that they do not get into each other's way.
    const RUNS_OF_A_THREAD: u64 = 1 << 40;
    static THREADS: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static LAST: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) * RUNS_OF_A_THREAD);
    }
    let run = LAST.get() + 1;
    LAST.set(run);
    RUNNING.with_borrow_mut(|running| {
        if let Some(running) = running {
            running.attempt = Some((attempt, run));
        }
    });
    run
}

/// The attempt that the thread runs.
pub(super) fn attempt() -> Option<Attempt> {
    RUNNING.with_borrow(|running| running.as_ref()?.attempt).map(|(attempt, _)| attempt)
}

/// The number of the task or call that the thread runs; 0 outside of one.
pub(crate) fn current_run() -> u64 {
    RUNNING.with_borrow(|running| running.as_ref().and_then(|running| running.attempt)).map_or(0, |(_, run)| run)
}

/// The name of the node on which the calling task or actor runs; `None` outside of one.
pub fn node_name() -> Option<String> {
    RUNNING.with_borrow(|running| running.as_ref().map(|running| running.node.to_string()))
}

fn actor() -> Option<RunningActor> {
    RUNNING.with_borrow(|running| running.as_ref()?.actor.clone())
}

/// The actor whose constructor or method this thread runs: its id, its type's name and how its calls
/// are treated; `None` outside of one.
pub fn current_actor() -> Option<(ActorId, String, CallRules)> {
    actor().map(|actor| (actor.spec.actor, actor.spec.class.clone(), actor.spec.rules))
}

/// Ends the actor whose method this thread runs, when what it runs has ended. Calls that wait fail,
/// and it is not made again.
///
/// ```
/// // Not a method of an actor.
/// assert!(mobula_core::worker::exit_actor().is_err());
/// ```
///
/// # Errors
/// [`Error::Invalid`] outside of an actor's methods.
pub fn exit_actor() -> Result<(), Error> {
    match actor().and_then(|actor| actor.cell) {
        Some(cell) => {
            cell.stop("it has exited", End::Exited);
            Ok(())
        }
        None => Err(Error::Invalid { what: "exit_actor is for the methods of actors".to_owned() }),
    }
}

/// While it lives, the thread waits and somebody else may use its CPU.
pub(crate) struct Lent {
    slots: Option<Slots>,
    lease: Option<Arc<LeaseQueue>>,
}

/// Lends the CPU of the task this thread runs, if it runs one. Called when a wait has turned out
/// to be a long one.
pub(crate) fn lend_cpu() -> Lent {
    RUNNING.with_borrow_mut(|running| match running {
        None => Lent { slots: None, lease: None },
        Some(running) => {
            let lease = running.lease.take();
            if let Some(lease) = &lease {
                lease.lend();
            }
            if let Some(slots) = &running.slots {
                slots.begin_waiting();
            }
            Lent { slots: running.slots.clone(), lease }
        }
    })
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(slots) = &self.slots {
            slots.end_waiting();
        }
        if let Some(lease) = self.lease.take()
            && lease.take_back()
        {
            RUNNING.with_borrow_mut(|running| {
                if let Some(running) = running {
                    running.lease = Some(lease);
                }
            });
        }
        if self.slots.is_some() {
            output::goes_on();
        }
    }
}

/// Waits in `wait`. On a thread of the runtime for user code, another one takes its place meanwhile:
/// an async method that blocks in `get` does not hold up the others.
pub(crate) fn asleep<R>(wait: impl FnOnce() -> R) -> R {
    let on_runtime = RUNNING.with_borrow(|running| running.as_ref().is_some_and(|running| running.slots.is_none()));
    let may = || Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if on_runtime && may() { tokio::task::block_in_place(wait) } else { wait() }
}

struct ThreadWaker {
    thread: std::thread::Thread,
    woken: AtomicBool,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs an async function on this thread, lending the CPU while it waits. Timers, sockets and
/// spawned futures of user code live on a runtime of their own. When the task that this thread runs
/// is cancelled, the future is dropped where it waits.
///
/// # Errors
/// [`Error::System`] when that runtime cannot be started; [`Error::TaskCancelled`].
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Error> {
    let runtime = user_runtime()?;
    let _entered = runtime.enter();
    let signal = Arc::new(ThreadWaker { thread: std::thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(signal.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let attempt = attempt();
    let mut awake = None;
    loop {
        if attempt.is_some_and(|attempt| CANCELLED.contains(&attempt)) {
            return Err(Error::TaskCancelled { function: "an async function".to_owned() });
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        if let (None, Some(attempt)) = (&awake, attempt) {
            awake = Some(Awake::new(attempt, &waker));
            // It may have been cancelled before it could be woken.
            continue;
        }
        let mut lent = None;
        let woken = || signal.woken.swap(false, Ordering::AcqRel);
        crate::client::wait_until(woken, None, || lent = Some(lend_cpu()));
        drop(lent);
    }
}

pub(super) fn user_runtime() -> Result<&'static tokio::runtime::Runtime, Error> {
    static RUNTIME: OnceLock<Result<tokio::runtime::Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("mobula-async")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())
    });
    runtime
        .as_ref()
        .map_err(|why| Error::System { what: "starting the runtime of async functions".to_owned(), why: why.clone() })
}
