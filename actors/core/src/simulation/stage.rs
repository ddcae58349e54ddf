//! Threads of user code in a simulation: they take turns with the runtime's.
//!
//! User code blocks, in `get`, in `wait`, in whatever takes its time; a runtime whose time is paused
//! must not, and a thread that ran beside it would race with its clock. So of all threads of a
//! simulation one runs at a time. The entry type is [`Stage`].
//!
//! ```text
//!   runtime's thread ──hand over──▶ thread of user code
//!    (stands still)  ◀──give back── waits: for a moment of simulated time, and looks again
//! ```
//!
//! What is random comes from the stage, too. A thread whose process has been killed never comes back
//! from where it waits: it unwinds.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mobula_transport::ProcessId;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// How soon a waiting thread looks again for the first time; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Its longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
const STACK_BYTES: usize = 2 * 1024 * 1024;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
    static TURN: RefCell<Option<Arc<Turn>>> = const { RefCell::new(None) };
}

/// The threads of a simulated process, and what is random there.
#[derive(Clone)]
pub(crate) struct Stage {
    runtime: Handle,
    random: Arc<Mutex<StdRng>>,
    life: Life,
}

/// Whether a simulated process lives.
#[derive(Clone, Default)]
pub(super) struct Life(Arc<Living>);

#[derive(Default)]
struct Living {
    over: AtomicBool,
    ended: Notify,
    process: OnceLock<ProcessId>,
}

impl Life {
    pub(super) fn of(process: ProcessId) -> Self {
        let life = Self::default();
        let _ = life.0.process.set(process);
        life
    }

    pub(super) fn process(&self) -> Option<ProcessId> {
        self.0.process.get().copied()
    }

    pub(super) fn end(&self) {
        self.0.over.store(true, Ordering::Release);
        self.0.ended.notify_waiters();
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    pub(super) async fn ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.is_over() {
                return;
            }
            ended.await;
        }
    }
}

/// Why a thread of a killed process unwinds.
struct Killed;

/// Whose turn it is: a thread's, or the runtime's.
#[derive(Default)]
struct Turn {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// The thread waits for so long.
    Waits(Duration),
    #[default]
    Ready,
    Runs,
    Over,
    /// The simulation has ended under it.
    Abandoned,
}

impl Turn {
    /// The thread runs until it waits. Returns for how long, or nothing when it has ended.
    fn hand_over(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        *state = State::Runs;
        self.changed.notify_all();
        loop {
            match *state {
                State::Waits(pause) => return Some(pause),
                State::Over => return None,
                _ => self.changed.wait(&mut state),
            }
        }
    }

    /// It is the runtime's turn, for so long at least. Returns with the thread's next one, unless it is
    /// abandoned.
    fn give_back(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if *state == State::Runs {
            *state = State::Waits(pause);
            self.changed.notify_all();
        }
        self.next(state)
    }

    /// Returns with the thread's first turn.
    fn begin(&self) -> bool {
        self.next(self.state.lock())
    }

    fn next(&self, mut state: MutexGuard<'_, State>) -> bool {
        loop {
            match *state {
                State::Runs => return true,
                State::Over | State::Abandoned => return false,
                _ => self.changed.wait(&mut state),
            }
        }
    }
}

/// Hands over to a thread again and again; dropped with the runtime, it lets the thread go.
struct Hands(Arc<Turn>);

impl Drop for Hands {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if *state != State::Over {
            *state = State::Abandoned;
            self.0.changed.notify_all();
        }
    }
}

impl Stage {
    /// A stage on the runtime that the caller is in.
    pub(super) fn new(seed: u64) -> Self {
        let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self { runtime: Handle::current(), random, life: Life::default() }
    }

    /// The same stage, for another process.
    pub(super) fn of(&self, life: Life) -> Self {
        Self { life, ..self.clone() }
    }

    /// The stage that this thread is on, if it is in a simulation.
    pub(crate) fn current() -> Option<Self> {
        STAGE.with_borrow(Clone::clone)
    }

    /// Puts this thread on the stage; returns what `code` does there.
    pub(super) fn on<R>(&self, code: impl FnOnce() -> R) -> R {
        let before = STAGE.replace(Some(self.clone()));
        let result = code();
        STAGE.set(before);
        result
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    pub(crate) fn uuid(&self) -> Uuid {
        Uuid::from_u128(self.random.lock().random())
    }

    /// Runs `code` on a thread of its own, in turns with the runtime's.
    pub(crate) fn perform(&self, code: impl FnOnce() + Send + 'static) {
        if self.life.is_over() {
            return;
        }
        let turn = Arc::new(Turn::default());
        let (stage, own) = (self.clone(), turn.clone());
        let thread = std::thread::Builder::new().name("mobula-simulated".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            if own.begin() {
                let runtime = stage.runtime.clone();
                let _inside = runtime.enter();
                TURN.set(Some(own.clone()));
                let performed = stage.on(|| catch_unwind(AssertUnwindSafe(code)));
                if let Err(panic) = performed
                    && !panic.is::<Killed>()
                {
                    // Printed by the hook; who waits for what it was to do fails the run.
                    eprintln!("a thread of the simulation panicked");
                }
                TURN.set(None);
            }
            let mut state = own.state.lock();
            *state = State::Over;
            own.changed.notify_all();
        });
        spawned.expect("a test may start threads");
        let life = self.life.clone();
        self.runtime.spawn(async move {
            let hands = Hands(turn);
            while let Some(pause) = hands.0.hand_over() {
                tokio::select! {
                    biased;
                    () = life.ended() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    /// Lets simulated time pass. A thread whose process is killed meanwhile unwinds.
    pub(crate) fn sleep(&self, pause: Duration) {
        let turn = TURN.with_borrow(Clone::clone).expect("the runtime's thread must not block");
        let goes_on = !self.life.is_over() && turn.give_back(pause) && !self.life.is_over();
        if !goes_on && !std::thread::panicking() {
            resume_unwind(Box::new(Killed));
        }
    }

    /// Waits until `done`; returns whether that was in time.
    pub(crate) fn wait(&self, done: &dyn Fn() -> bool, deadline: Option<Instant>) -> bool {
        let mut pause = FIRST_PAUSE;
        while !done() {
            let left = deadline.map_or(pause, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return done();
            }
            self.sleep(pause.min(left));
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        true
    }

    /// Waits for what is told.
    pub(crate) fn receive<T>(&self, told: &Receiver<T>) -> Result<T, RecvError> {
        loop {
            match told.try_recv() {
                Ok(received) => return Ok(received),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => self.sleep(FIRST_PAUSE),
            }
        }
    }

    /// Waits for a future.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            self.sleep(FIRST_PAUSE);
        }
    }
}
