//! One task or actor call in the worker, and running it.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Payload, Unsent};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::cancel::CANCELLED;
use super::history::History;
use super::output::{self, Label};
use super::{WorkerShared, current};
use crate::client::{AttemptScope, INLINE_LIMIT_BYTES, ObjectHandle};
use crate::culprit::{Culprit, accuse};
use crate::delivery::{Fate, fate};
use crate::error::{Error, Place};
use crate::ids::{FunctionId, ObjectId};
use crate::messages::{ReturnSpec, StoredObject, TaskDone, TaskInfo, TaskOutcome, TaskSpec};
use crate::registry::{CallError, CallResult, Code, RemoteFunction};
use crate::store::StoreClient;
use crate::value::Value;

/// The pause before a result is sent again when the way to its owner was full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// A task or call whose arguments are here.
pub(super) struct Call {
    pub(super) client: Address,
    pub(super) spec: TaskSpec,
    pub(super) args: Vec<Value>,
}

/// How a call ended, before it is told to anyone.
pub(super) enum Ended {
    Returned(Vec<Value>),
    Failed(Error),
    Panicked(Error),
    /// It could not begin: this argument was not found where it was said to lie.
    ArgumentLost(Box<StoredObject>, String),
}

thread_local! {
    /// Set while user code runs; the hook leaves the panic's message and place in it.
    static PANIC: RefCell<Option<Option<(String, String)>>> = const { RefCell::new(None) };
}

/// Makes panics of user code errors instead of noise on stderr; other panics are printed as ever.
pub(super) fn install_panic_hook() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = PANIC.with_borrow_mut(|panic| match panic {
                Some(slot) => {
                    let location = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
                    *slot = Some((message_of(info.payload()), location));
                    true
                }
                None => false,
            });
            if !kept {
                before(info);
            }
        }));
    });
}

fn message_of(payload: &dyn Any) -> String {
    match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without a message".to_owned()),
    }
}

impl WorkerShared {
    /// The registered function, or why there is none.
    pub(super) fn function(&self, id: FunctionId) -> Result<&'static RemoteFunction, Error> {
        let unknown = || Error::UnknownFunction { function: format!("{:016x}", id.0) };
        self.registry.function(id).ok_or_else(unknown)
    }

    /// The thread begins with this attempt. Returns the number of its run.
    pub(super) fn begin(&self, client: Address, spec: &TaskSpec, start: Instant) -> u64 {
        let run = current::runs((client, spec.seq, spec.attempt));
        self.history.begin(client, spec, start, run);
        run
    }

    /// The function of an attempt that has begun; an error if it was cancelled.
    pub(super) fn wanted(&self, client: Address, spec: &TaskSpec) -> Result<&'static RemoteFunction, Error> {
        let function = self.function(spec.function)?;
        match CANCELLED.contains(&(client, spec.seq, spec.attempt)) {
            true => Err(Error::TaskCancelled { function: function.name.to_owned() }),
            false => Ok(function),
        }
    }

    fn place(&self, function: &RemoteFunction) -> Box<Place> {
        Box::new(Place {
            function: function.name.to_owned(),
            node: self.config.node_name.clone(),
            pid: std::process::id(),
        })
    }

    /// Runs user code: its errors and panics become values.
    pub(super) fn run_code<T>(
        &self,
        function: &'static RemoteFunction,
        label: Label,
        code: impl FnOnce() -> Result<T, CallError>,
    ) -> Result<T, (Error, bool)> {
        let _entered = self.client.enter();
        let _printing = output::prints_as(label);
        PANIC.set(Some(None));
        let result = catch_unwind(AssertUnwindSafe(code));
        let panic = PANIC.take().flatten();
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(CallError::System(error))) => Err((error, false)),
            Ok(Err(CallError::Application { type_name, message, causes })) => {
                Err((Error::Application { place: self.place(function), type_name, message, causes }, false))
            }
            Err(payload) => {
                let (message, location) =
                    panic.unwrap_or_else(|| (message_of(&*payload), "an unknown place".to_owned()));
                Err((Error::Panicked { place: self.place(function), message, location }, true))
            }
        }
    }

    /// Runs a plain task and tells its owner how it ended.
    pub(super) fn run_task(&self, task: Call) {
        let Call { client, spec, args } = task;
        let start = Instant::now();
        self.begin(client, &spec, start);
        let _accused = accuse(Culprit::Task { owner: client.process.id, seq: spec.seq });
        let scope = AttemptScope::begin();
        let ended = match self.wanted(client, &spec) {
            Err(error) => Ended::Failed(error),
            Ok(function) => match function.code {
                Code::Task(code) => {
                    let label = Label::of_task(function, spec.name.as_deref());
                    self.run_values(function, label, || code(args))
                }
                Code::Stream(code) => {
                    let label = Label::of_task(function, spec.name.as_deref());
                    self.run_stream(function, label, client, &spec, None, |outlet| code(args, outlet))
                }
                _ => Ended::Failed(wrong_kind(function, "a task")),
            },
        };
        self.tell_end(client, spec, ended, start, scope.still_held());
    }

    pub(super) fn run_values(
        &self,
        function: &'static RemoteFunction,
        label: Label,
        code: impl FnOnce() -> CallResult,
    ) -> Ended {
        match self.run_code(function, label, code) {
            Ok(values) => Ended::Returned(values),
            Err((error, false)) => Ended::Failed(error),
            Err((error, true)) => Ended::Panicked(error),
        }
    }

    /// Tells the owner that a task or call ended without having begun.
    pub(super) fn tell(&self, client: Address, spec: TaskSpec, ended: Ended, start: Instant) {
        self.tell_end(client, spec, ended, start, Vec::new());
    }

    /// Tells the owner how a task or call ended; large results go into the store first. The
    /// references that it has got and kept, and those in its results, are borrowed before.
    pub(super) fn tell_end(
        &self,
        client: Address,
        spec: TaskSpec,
        ended: Ended,
        start: Instant,
        mut borrowed: Vec<ObjectHandle>,
    ) {
        let run_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut payload = Payload::new();
        let mut refs = Vec::new();
        let outcome = match ended {
            Ended::Returned(values) => match self.commit(client, &spec, values, &mut payload, &mut refs) {
                Ok(specs) => TaskOutcome::Returned(specs),
                Err(error) => {
                    payload.clear();
                    TaskOutcome::Failed(Box::new(error))
                }
            },
            Ended::Failed(error) | Ended::Panicked(error) => TaskOutcome::Failed(Box::new(error)),
            Ended::ArgumentLost(lost, why) => TaskOutcome::ArgumentLost(lost, why),
        };
        CANCELLED.forget(&(client, spec.seq, spec.attempt));
        let mut done = TaskDone { seq: spec.seq, attempt: spec.attempt, outcome, run_us, refs: Vec::new() };
        if matches!(done.outcome, TaskOutcome::Returned(_)) && !refs.is_empty() {
            done.refs = refs.iter().map(|(result, handle)| handle.contained_in(*result)).collect();
            let held: Vec<_> = refs.into_iter().map(|(_, handle)| handle).collect();
            borrowed.extend(held.iter().cloned());
            self.client.hold_returned(client.process, spec.seq, spec.attempt, held);
        }
        if borrowed.is_empty() {
            return deliver(&self.endpoint, &self.store, &self.history, client, spec, done, payload);
        }
        self.history.held_up(client, &spec);
        let (endpoint, store, history) = (self.endpoint.clone(), self.store.clone(), self.history.clone());
        self.client.secure(borrowed, move || deliver(&endpoint, &store, &history, client, spec, done, payload));
    }

    /// The values as they are told to the owner. When one cannot be stored, none is.
    fn commit(
        &self,
        client: Address,
        spec: &TaskSpec,
        values: Vec<Value>,
        payload: &mut Payload,
        refs: &mut Vec<(u32, ObjectHandle)>,
    ) -> Result<SmallVec<[ReturnSpec; 1]>, Error> {
        if values.len() != spec.returns as usize {
            let what = format!("the function returned {} values, {} were expected", values.len(), spec.returns);
            return Err(Error::Invalid { what });
        }
        let mut inline_bytes = 0;
        let mut specs: SmallVec<[ReturnSpec; 1]> = SmallVec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            refs.extend(value.refs.iter().map(|handle| (index as u32, handle.clone())));
            inline_bytes += value.len();
            if inline_bytes <= INLINE_LIMIT_BYTES {
                specs.push(ReturnSpec::Inline(value.encoding));
                payload.push(value.data);
            } else {
                inline_bytes -= value.len();
                let object = ObjectId { owner: client.process.id, seq: spec.seq, index: index as u32 };
                match self.store.put_result(object, spec.attempt, value.encoding, &value.slices()) {
                    Ok(stored) => specs.push(ReturnSpec::Stored(stored)),
                    Err(error) => {
                        discard(&self.store, spec.attempt, &specs);
                        return Err(error);
                    }
                }
            }
        }
        Ok(specs)
    }

    /// A call, for people.
    pub(super) fn describe(&self, call: &Call, state: &str, run_us: u64) -> TaskInfo {
        self.task_info(call.client, call.spec.seq, call.spec.function, call.spec.name.as_deref(), state, run_us)
    }

    pub(super) fn task_info(
        &self,
        client: Address,
        seq: u64,
        function: FunctionId,
        name: Option<&str>,
        state: &str,
        run_us: u64,
    ) -> TaskInfo {
        let registered = self.registry.function(function).map_or("?", RemoteFunction::plain_name);
        TaskInfo {
            task: format!("{}-{seq}", client.process.id),
            name: name.unwrap_or(registered).to_owned(),
            state: state.to_owned(),
            node: self.config.node_name.clone(),
            pid: std::process::id(),
            run_us,
        }
    }
}

/// Sends a result, again and again while the way to the owner is full. One that cannot be sent
/// because the owner is gone is of no use; one that a broken connection swallows is asked for.
///
/// The call counts as running until its result has left: an owner that asks for it meanwhile must
/// not take it for lost.
fn deliver(
    endpoint: &Endpoint,
    store: &StoreClient,
    history: &Arc<History>,
    client: Address,
    spec: TaskSpec,
    done: TaskDone,
    payload: Payload,
) {
    let (failed, run_us) = (!matches!(done.outcome, TaskOutcome::Returned(_)), done.run_us);
    let Err(unsent) = endpoint.try_send(Some(MailboxId::WORKER), client, done, payload) else {
        return history.record(client, &spec, failed, run_us);
    };
    let Unsent { message, payload, error } = *unsent;
    match fate(&error) {
        Fate::Full => {
            history.held_up(client, &spec);
            let (later, store, history) = (endpoint.clone(), store.clone(), history.clone());
            endpoint.spawn_task(async move {
                tokio::time::sleep(FULL_PAUSE).await;
                deliver(&later, &store, &history, client, spec, message, payload);
            });
            return;
        }
        // The owner at least hears why there is no result.
        Fate::Refused => {
            discard_outcome(store, &message);
            let outcome = TaskOutcome::Failed(Box::new(Error::Send(error)));
            let failed = TaskDone { outcome, ..message };
            endpoint.send(Some(MailboxId::WORKER), client, failed, Payload::new());
        }
        // It will never free them.
        Fate::Dead => discard_outcome(store, &message),
        Fate::Doubtful => tracing::debug!(%error, "a result's owner cannot be reached"),
    }
    history.record(client, &spec, failed, run_us);
}

/// Nobody will ever hear of these results.
fn discard_outcome(store: &StoreClient, done: &TaskDone) {
    if let TaskOutcome::Returned(specs) = &done.outcome {
        discard(store, done.attempt, specs);
    }
}

fn discard(store: &StoreClient, attempt: u32, specs: &[ReturnSpec]) {
    let stored = specs.iter().filter_map(|spec| match spec {
        ReturnSpec::Stored(stored) => Some((stored.object, attempt)),
        ReturnSpec::Inline(_) => None,
    });
    store.discard(store.store(), stored);
}

pub(super) fn wrong_kind(function: &RemoteFunction, wanted: &str) -> Error {
    Error::Invalid { what: format!("{} is not {wanted}", function.name) }
}
