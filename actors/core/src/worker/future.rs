//! Async methods: their futures run on the runtime for user code.
//!
//! While it is polled, a future's thread is what a slot thread is to a sync method: it knows the
//! session, the label and the attempt, and a panic ends the call. Where it waits, it can be dropped:
//! when its call was cancelled, or its actor ends at once.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use mobula_transport::Address;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::actor::ActorCell;
use super::call::{Ended, wrong_kind};
use super::cancel::{Attempt, CANCELLED};
use super::current::{self, Running};
use super::gpus;
use super::turns::Turn;
use crate::client::{INLINE_LIMIT_BYTES, Suspended};
use crate::culprit::{Culprit, accuse};
use crate::error::Error;
use crate::messages::TaskSpec;
use crate::registry::{CallFuture, Code, RemoteFunction};
use crate::value::Value;

/// Wakes what waits in this process for work that may be cancelled meanwhile.
static WAKERS: Mutex<BTreeMap<Attempt, Waker>> = Mutex::new(BTreeMap::new());

/// While it lives, its attempt is woken when it is cancelled.
pub(super) struct Awake(Attempt);

impl Awake {
    pub(super) fn new(attempt: Attempt, waker: &Waker) -> Self {
        WAKERS.lock().insert(attempt, waker.clone());
        Self(attempt)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        WAKERS.lock().remove(&self.0);
    }
}

/// An attempt was cancelled: it looks again, if it waits here.
pub(super) fn wake(attempt: &Attempt) {
    let waker = WAKERS.lock().get(attempt).cloned();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// All look again, for an actor has ended: rarely, and one look too many does no harm.
pub(super) fn wake_all() {
    let wakers: Vec<Waker> = WAKERS.lock().values().cloned().collect();
    wakers.into_iter().for_each(Waker::wake);
}

/// A call of an async method that has begun.
pub(super) struct AsyncCall {
    pub(super) cell: Arc<ActorCell>,
    pub(super) function: &'static RemoteFunction,
    pub(super) client: Address,
    pub(super) spec: TaskSpec,
    pub(super) args: Vec<Value>,
    pub(super) turn: Turn,
    pub(super) start: Instant,
    /// The number of its run.
    pub(super) run: u64,
}

impl AsyncCall {
    /// Runs the call to its end, tells it and gives back its turn.
    pub(super) async fn drive(self) {
        let Self { cell, function, client, spec, args, turn, start, run } = self;
        let attempt = (client, spec.seq, spec.attempt);
        let mut polls = Polls { cell: cell.clone(), function, attempt, run, awake: None, read: Suspended::default() };
        let ended = match function.code {
            Code::AsyncRef(code) => match cell.share() {
                Some(state) => polls.run(code(&*state, args)).await,
                None => Ended::Failed(cell.ended()),
            },
            Code::AsyncMut(code) => match cell.take() {
                Some(mut state) => {
                    let ended = match Arc::get_mut(&mut state) {
                        Some(state) => polls.run(code(state, args)).await,
                        None => Ended::Failed(cell.ended()),
                    };
                    cell.give_back(state);
                    ended
                }
                None => Ended::Failed(cell.ended()),
            },
            _ => Ended::Failed(wrong_kind(function, "an async method")),
        };
        let Polls { awake, read, .. } = polls;
        drop(awake);
        let held = read.still_held();
        let is_large =
            matches!(&ended, Ended::Returned(values) if values.iter().any(|value| value.len() > INLINE_LIMIT_BYTES));
        if is_large {
            // The store may have to make room first: others go on meanwhile.
            tokio::task::block_in_place(|| cell.conclude(client, spec, ended, start, held));
        } else {
            cell.conclude(client, spec, ended, start, held);
        }
        cell.end(turn);
    }
}

/// What is needed whenever a future is polled.
struct Polls {
    cell: Arc<ActorCell>,
    function: &'static RemoteFunction,
    attempt: Attempt,
    run: u64,
    awake: Option<Awake>,
    /// The references that it has read.
    read: Suspended,
}

impl Polls {
    async fn run(&mut self, future: CallFuture<'_>) -> Ended {
        let mut future = Some(future);
        poll_fn(|context| self.poll(context, &mut future)).await
    }

    fn poll(&mut self, context: &mut Context<'_>, future: &mut Option<CallFuture<'_>>) -> Poll<Ended> {
        // First, so that who cancels it finds it, or it sees that it was cancelled.
        self.awake.get_or_insert_with(|| Awake::new(self.attempt, context.waker()));
        let (cell, function) = (&self.cell, self.function);
        let worker = cell.worker();
        let before = current::begin(Running {
            slots: None,
            node: worker.node_name.clone(),
            lease: None,
            actor: Some(cell.running()),
            attempt: Some((self.attempt, self.run)),
        });
        let accused = accuse(Culprit::Actor);
        let scope = self.read.resume();
        let holding = gpus::hold(cell.gpus());
        let ended = if cell.aborted.load(Ordering::Acquire) {
            Some(Ended::Failed(cell.ended()))
        } else if CANCELLED.contains(&self.attempt) {
            Some(Ended::Failed(Error::TaskCancelled { function: function.name.to_owned() }))
        } else {
            let poll = || match future.as_mut().map(|future| future.as_mut().poll(context)) {
                Some(Poll::Ready(result)) => result.map(Some),
                Some(Poll::Pending) | None => Ok(None),
            };
            match worker.run_code(function, cell.label(), poll) {
                Ok(None) => None,
                Ok(Some(values)) => Some(Ended::Returned(values)),
                Err((error, false)) => Some(Ended::Failed(error)),
                Err((error, true)) => Some(Ended::Panicked(error)),
            }
        };
        if ended.is_some() {
            // What it holds is user code's, too.
            let dropped = worker.run_code(function, cell.label(), || {
                drop(future.take());
                Ok(())
            });
            if let Err((error, _)) = dropped {
                tracing::warn!(%error, "a call's future panicked while it was dropped");
            }
        }
        drop(holding);
        self.read.suspend(scope);
        drop(accused);
        current::end(before);
        ended.map_or(Poll::Pending, Poll::Ready)
    }
}
