//! The producing end of a stream: what user code yields is stored, reported and paused here.
//!
//! ```text
//!   the iterator ── item ─▶ Outlet ─▶ store, if it is large ─▶ TaskYielded ─▶ owner
//!        ▲                    │                                    │
//!        └── the next one ◀───┴──── room for it? ◀── Consumed(n) ──┘
//! ```
//!
//! A report is sent again until it is answered, so the owner has every item before it hears of the
//! end. The thread waits in two places, and lends its CPU there: for room, before the iterator is
//! asked for the next item, and for the last answers. It is woken when the attempt is cancelled.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use mobula_transport::{Address, Endpoint, MailboxId, Payload, SendError};
use parking_lot::Mutex;

use super::WorkerShared;
use super::actor::ActorCell;
use super::call::Ended;
use super::cancel::is_cancelled;
use super::current::block_on;
use super::output::Label;
use crate::client::{Client, INLINE_LIMIT_BYTES, ObjectHandle};
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::{AwaitRoom, ReturnSpec, StreamNews, StreamSpec, TaskSpec, TaskYielded};
use crate::registry::{CallError, RemoteFunction};
use crate::store::StoreClient;
use crate::value::Value;

/// How long one question to the owner may take before it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The pause before something is said again that has not reached the owner.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// An owner that could not be reached for so long is taken for dead.
const OWNER_SILENCE: Duration = Duration::from_secs(60);

/// Where a streaming function puts what it yields.
pub struct Outlet {
    shared: Arc<Shared>,
    spec: StreamSpec,
    yielded: u32,
    /// The actor whose method it is.
    cell: Option<Arc<ActorCell>>,
}

struct Shared {
    endpoint: Endpoint,
    client: Client,
    store: StoreClient,
    function: &'static str,
    owner: Address,
    seq: u64,
    attempt: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    consumed: u32,
    /// Reports that were not answered.
    unheard: u32,
    /// The owner is asked for room.
    asking: bool,
    /// Why nothing more is to be yielded.
    over: Option<Error>,
    waker: Option<Waker>,
}

/// One item, until the owner has heard of it.
struct Report {
    message: TaskYielded,
    payload: Payload,
    /// What it refers to.
    _held: Vec<ObjectHandle>,
    /// Since when the owner is out of reach.
    silent_since: Option<Instant>,
}

impl Outlet {
    /// Waits until one more item may be yielded; to be called before it is made.
    ///
    /// # Errors
    /// Nobody wants another one: [`Error::TaskCancelled`], or what happened to the owner.
    pub fn room(&mut self) -> Result<(), CallError> {
        self.check()?;
        let next = self.yielded + 1;
        if next <= self.spec.skip {
            return Ok(());
        }
        let needed = next.saturating_sub(self.spec.window);
        if self.shared.state.lock().consumed >= needed {
            return Ok(());
        }
        self.wait(|shared, state| {
            let there = state.consumed >= needed;
            if !there && !std::mem::replace(&mut state.asking, true) {
                return Look::Ask(shared.clone(), needed);
            }
            if there { Look::Done } else { Look::Wait }
        })
    }

    /// Yields an item.
    ///
    /// # Errors
    /// As [`room`](Self::room), and [`Error::StoreFull`].
    pub fn give(&mut self, value: Value) -> Result<(), CallError> {
        self.check()?;
        self.yielded += 1;
        if self.yielded <= self.spec.skip {
            return Ok(());
        }
        let shared = &self.shared;
        let held: Vec<_> = value.refs.iter().cloned().collect();
        let refs = held.iter().map(|handle| handle.contained_in(self.yielded)).collect();
        let mut payload = Payload::new();
        let item = if value.len() <= INLINE_LIMIT_BYTES {
            payload.push(value.data);
            ReturnSpec::Inline(value.encoding)
        } else {
            let object = ObjectId { owner: shared.owner.process.id, seq: shared.seq, index: self.yielded };
            ReturnSpec::Stored(shared.store.put_result(object, shared.attempt, value.encoding, &value.slices())?)
        };
        let message = TaskYielded { seq: shared.seq, attempt: shared.attempt, index: self.yielded, item, refs };
        let report = Report { message, payload, _held: held.clone(), silent_since: None };
        shared.state.lock().unheard += 1;
        let sender = shared.clone();
        shared.client.secure(held, move || sender.send(report));
        Ok(())
    }

    /// Whether another item is wanted.
    fn check(&self) -> Result<(), CallError> {
        if let Some(error) = &self.shared.state.lock().over {
            return Err(error.clone().into());
        }
        if let Some(cell) = self.cell.as_ref().filter(|cell| cell.aborted.load(Ordering::Acquire)) {
            return Err(cell.ended().into());
        }
        if is_cancelled() { Err(self.shared.cancelled().into()) } else { Ok(()) }
    }

    /// Waits until the owner has heard of everything.
    fn finish(&self) -> Result<(), CallError> {
        if self.shared.state.lock().unheard == 0 {
            return self.check();
        }
        self.wait(|_, state| if state.unheard == 0 { Look::Done } else { Look::Wait })
    }

    fn wait(&self, look: impl Fn(&Arc<Shared>, &mut State) -> Look) -> Result<(), CallError> {
        let waited = block_on(poll_fn(|context| {
            loop {
                if let Err(error) = self.check() {
                    return Poll::Ready(Err(error));
                }
                let mut state = self.shared.state.lock();
                // It may have ended since the check, and then nobody wakes this thread any more.
                if let Some(error) = &state.over {
                    return Poll::Ready(Err(error.clone().into()));
                }
                match look(&self.shared, &mut state) {
                    Look::Done => return Poll::Ready(Ok(())),
                    Look::Wait => {
                        state.waker = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                    // Not under the lock: the answer may come at once.
                    Look::Ask(shared, consumed) => {
                        drop(state);
                        shared.ask(consumed, None);
                    }
                }
            }
        }));
        waited.unwrap_or_else(|error| match error {
            // It does not know whose wait this is.
            Error::TaskCancelled { .. } => Err(self.shared.cancelled().into()),
            error => Err(error.into()),
        })
    }
}

/// What a look at the state has found.
enum Look {
    Done,
    Wait,
    Ask(Arc<Shared>, u32),
}

/// What becomes of something that was not answered.
enum Unanswered {
    /// It is said again; the owner has been out of reach since then.
    Again(Option<Instant>),
    /// The owner has been out of reach for too long. Whether it has heard is not known.
    Silent(Error),
    /// The owner will never hear of it.
    Over(Error),
}

impl Shared {
    fn cancelled(&self) -> Error {
        Error::TaskCancelled { function: self.function.to_owned() }
    }

    /// Something has changed: whoever waits looks again.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state.lock();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn send(self: Arc<Self>, report: Report) {
        let (message, payload) = (report.message.clone(), report.payload.clone());
        let shared = self.clone();
        self.endpoint.request_from(
            Some(MailboxId::WORKER),
            self.owner,
            message,
            payload,
            ANSWER_WITHIN,
            move |answer| shared.answered(report, answer.map(|(news, _)| news)),
        );
    }

    fn answered(self: Arc<Self>, report: Report, answer: Result<StreamNews, SendError>) {
        let over = match answer {
            Ok(StreamNews::Consumed(count)) => {
                return self.change(|state| {
                    state.unheard -= 1;
                    state.consumed = state.consumed.max(count);
                });
            }
            Ok(StreamNews::Enough) => return self.give_up(self.cancelled()),
            Ok(StreamNews::Unwanted) => self.cancelled(),
            Err(error) => match self.unanswered(error, report.silent_since) {
                Unanswered::Again(silent_since) => {
                    let report = Report { silent_since, ..report };
                    return self.later(move |shared| shared.send(report));
                }
                // Perhaps it has the item: if not, it throws away what a lost attempt has left.
                Unanswered::Silent(error) => return self.give_up(error),
                Unanswered::Over(error) => error,
            },
        };
        if let ReturnSpec::Stored(stored) = &report.message.item {
            self.store.discard(self.store.store(), [(stored.object, self.attempt)]);
        }
        self.give_up(over);
    }

    /// A report is not answered any more, and nothing more is to be yielded.
    fn give_up(&self, why: Error) {
        self.change(|state| {
            state.unheard -= 1;
            state.over.get_or_insert(why);
        });
    }

    /// Asks the owner to tell when so many items are consumed.
    fn ask(self: Arc<Self>, consumed: u32, silent_since: Option<Instant>) {
        let message = AwaitRoom { seq: self.seq, attempt: self.attempt, consumed };
        let shared = self.clone();
        let heard = move |answer: Result<(StreamNews, Payload), SendError>| match answer {
            Ok((StreamNews::Consumed(count), _)) => shared.change(|state| {
                state.asking = false;
                state.consumed = state.consumed.max(count);
            }),
            Ok((StreamNews::Enough | StreamNews::Unwanted, _)) => {
                let cancelled = shared.cancelled();
                shared.change(|state| {
                    state.over.get_or_insert(cancelled);
                });
            }
            // Whoever waited has left.
            Err(_) if shared.state.lock().over.is_some() => {}
            // The consumer takes its time: that is no silence.
            Err(SendError::TimedOut { .. }) => shared.ask(consumed, None),
            Err(error) => match shared.unanswered(error, silent_since) {
                Unanswered::Again(since) => shared.later(move |shared| shared.ask(consumed, since)),
                Unanswered::Silent(error) | Unanswered::Over(error) => shared.change(|state| {
                    state.over.get_or_insert(error);
                }),
            },
        };
        self.endpoint.request_from(Some(MailboxId::WORKER), self.owner, message, Payload::new(), ANSWER_WITHIN, heard);
    }

    fn unanswered(&self, error: SendError, silent_since: Option<Instant>) -> Unanswered {
        let since = silent_since.unwrap_or_else(Instant::now);
        match fate(&error) {
            Fate::Full => Unanswered::Again(None),
            Fate::Doubtful if since.elapsed() < OWNER_SILENCE => Unanswered::Again(Some(since)),
            Fate::Doubtful => Unanswered::Silent(Error::Send(error)),
            Fate::Dead | Fate::Refused => Unanswered::Over(Error::Send(error)),
        }
    }

    fn later(self: Arc<Self>, then: impl FnOnce(Arc<Self>) + Send + 'static) {
        let endpoint = self.endpoint.clone();
        endpoint.spawn_task(async move {
            tokio::time::sleep(AGAIN_AFTER).await;
            then(self);
        });
    }
}

impl WorkerShared {
    /// Runs code that streams. It ends when the owner has heard of everything that it has yielded.
    pub(super) fn run_stream(
        &self,
        function: &'static RemoteFunction,
        label: Label,
        owner: Address,
        task: &TaskSpec,
        cell: Option<Arc<ActorCell>>,
        code: impl FnOnce(&mut Outlet) -> Result<(), CallError>,
    ) -> Ended {
        let Some(spec) = task.stream else {
            let what = format!("{} streams, and its caller does not expect that", function.name);
            return Ended::Failed(Error::Invalid { what });
        };
        let shared = Arc::new(Shared {
            endpoint: self.endpoint.clone(),
            client: self.client.clone(),
            store: self.store.clone(),
            function: function.name,
            owner,
            seq: task.seq,
            attempt: task.attempt,
            state: Mutex::default(),
        });
        let mut outlet = Outlet { shared, spec, yielded: 0, cell };
        let ran = self.run_code(function, label, || code(&mut outlet));
        let finished = outlet.finish();
        outlet.shared.change(|state| {
            let over = outlet.shared.cancelled();
            state.over.get_or_insert(over);
        });
        match (ran, finished) {
            (Err((error, true)), _) => Ended::Panicked(error),
            (Err((error, false)), _) => Ended::Failed(error),
            (Ok(()), Err(CallError::System(error))) => Ended::Failed(error),
            (Ok(()), _) => Ended::Returned(vec![Value::unit()]),
        }
    }
}
