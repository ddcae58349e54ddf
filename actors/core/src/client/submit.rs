//! Submitting tasks and calls: registered at once, sent when their arguments are ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mobula_transport::{Address, MailboxId};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::entry::{Entry, Outcome};
use super::options::{CallOptions, DEFAULT_BACKPRESSURE_NUM_OBJECTS, MAX_BACKPRESSURE_NUM_OBJECTS};
use super::pending::{Arg, Attempts, Pending, Work};
use super::streaming::{StreamHandle, Streaming};
use super::task_queue::TaskQueue;
use super::{ActorHandle, Client, INLINE_LIMIT_BYTES, ObjectHandle, TaskOptions};
use crate::error::Error;
use crate::ids::{FunctionId, ObjectId};
use crate::messages::Shape;
use crate::registry::RemoteFunction;

/// Arguments of at least this size draw a task to the node that has them.
const LOCALITY_BYTES: u64 = 1024 * 1024;

impl Client {
    /// Submits a task and returns the references to its results at once. One that streams is to be
    /// submitted with [`submit_stream`](Self::submit_stream).
    pub fn submit(
        &self,
        function: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        options: &Arc<TaskOptions>,
    ) -> SmallVec<[ObjectHandle; 1]> {
        self.submit_any(function, args, options).0
    }

    /// Submits a task that streams, and returns what it will yield at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not stream.
    pub fn submit_stream(
        &self,
        function: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        options: &Arc<TaskOptions>,
    ) -> Result<StreamHandle, Error> {
        self.submit_any(function, args, options).1.ok_or_else(|| no_stream(function))
    }

    fn submit_any(
        &self,
        function: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        options: &Arc<TaskOptions>,
    ) -> (SmallVec<[ObjectHandle; 1]>, Option<StreamHandle>) {
        let work = Work::Task { options: options.clone(), queue: None, lease: None };
        let Registered { seq, results: handles, ready } = self.register(function, args, options.returns, work);
        if let Some(Err(error)) = options.group.as_ref().map(|group| group.check(&options.demand)) {
            self.fail_pending(seq, &error);
            return handles;
        }
        match ready {
            Ready::Now => self.dependencies_ready(seq),
            Ready::Later(dependencies) => self.wait_for(dependencies, move |client| client.dependencies_ready(seq)),
        }
        handles
    }

    /// Calls an actor's method and returns the references to its results at once. Calls of one
    /// process arrive in the order they were made.
    pub fn call(
        &self,
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        returns: u32,
    ) -> SmallVec<[ObjectHandle; 1]> {
        self.call_with(actor, method, args, returns, None)
    }

    /// [`call`](Self::call) with options of its own.
    pub fn call_with(
        &self,
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        returns: u32,
        options: Option<Arc<CallOptions>>,
    ) -> SmallVec<[ObjectHandle; 1]> {
        self.call_any(actor, method, args, returns, options).0
    }

    /// Calls a method that streams, and returns what it will yield at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not stream.
    pub fn call_stream(
        &self,
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        options: Option<Arc<CallOptions>>,
    ) -> Result<StreamHandle, Error> {
        self.call_any(actor, method, args, 1, options).1.ok_or_else(|| no_stream(method))
    }

    fn call_any(
        &self,
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        returns: u32,
        options: Option<Arc<CallOptions>>,
    ) -> (SmallVec<[ObjectHandle; 1]>, Option<StreamHandle>) {
        let queue = &actor.0;
        let work = Work::Call { actor: queue.clone(), options };
        let Registered { seq, results: handles, ready } = self.register(method, args, returns, work);
        match ready {
            Ready::Now => match self.failed_argument(seq) {
                Some(error) => self.fail_pending(seq, &error),
                None => queue.enqueue(seq, true),
            },
            Ready::Later(dependencies) => {
                queue.enqueue(seq, false);
                let queue = queue.clone();
                self.wait_for(dependencies, move |client| match client.failed_argument(seq) {
                    Some(error) => {
                        client.fail_pending(seq, &error);
                        queue.arguments_settled(seq);
                    }
                    None => queue.arguments_settled(seq),
                });
            }
        }
        handles
    }

    fn register(
        &self,
        function: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        returns: u32,
        work: Work,
    ) -> Registered {
        let seq = self.next_seq();
        let owner = self.0.endpoint.process().id;
        let args = self.store_large(args);
        let returns: SmallVec<[Arc<Entry>; 1]> =
            (0..returns).map(|index| Entry::new(ObjectId { owner, seq, index }, self)).collect();
        let handles: SmallVec<[ObjectHandle; 1]> = returns.iter().map(|entry| ObjectHandle(entry.clone())).collect();
        let window = match &work {
            Work::Task { options, .. } => options.backpressure_num_objects,
            Work::Call { options, .. } => options
                .as_ref()
                .and_then(|options| options.backpressure_num_objects)
                .unwrap_or(DEFAULT_BACKPRESSURE_NUM_OBJECTS),
        };
        let stream = function.code.streams().then(|| Streaming::new(self, seq, window));
        let dependencies = self.unsettled(&args);
        let pending = Pending {
            function,
            id: FunctionId::of(function.name),
            args,
            returns,
            stream: stream.clone(),
            attempts: Attempts::default(),
            work,
            parent: crate::worker::current_run(),
            cancelled: false,
            rerun: None,
        };
        self.0.pending.insert(seq, Box::new(pending));
        if !self.is_open() {
            self.fail_pending(seq, &self.closed());
        }
        if stream.is_some() && !(1..=MAX_BACKPRESSURE_NUM_OBJECTS).contains(&window) {
            let what = format!("backpressure_num_objects is {window}: ask for 1 to {MAX_BACKPRESSURE_NUM_OBJECTS}");
            self.fail_pending(seq, &Error::Invalid { what });
        }
        let ready = if dependencies.is_empty() { Ready::Now } else { Ready::Later(dependencies) };
        let stream = stream.zip(handles.first()).map(|(stream, end)| StreamHandle::new(stream, end.clone()));
        Registered { seq, results: (handles, stream), ready }
    }

    /// Values too large for a message become objects. If the store has no room for one, the work
    /// fails with that, as it would with any argument that failed.
    pub(super) fn store_large(&self, mut args: SmallVec<[Arg; 2]>) -> SmallVec<[Arg; 2]> {
        for arg in &mut args {
            if let Arg::Value(value) = arg
                && value.len() > INLINE_LIMIT_BYTES
            {
                let stored = self.put(value.clone()).unwrap_or_else(|error| {
                    let entry = Entry::new(self.next_object(), self);
                    entry.settle(Outcome::Failed(Box::new(error)));
                    ObjectHandle(entry)
                });
                *arg = Arg::Object(stored);
            }
        }
        args
    }

    pub(super) fn unsettled(&self, args: &[Arg]) -> Vec<ObjectHandle> {
        args.iter()
            .filter_map(|arg| match arg {
                Arg::Object(handle) if !handle.is_settled() => Some(handle.clone()),
                _ => None,
            })
            .collect()
    }

    /// Calls `then` when all of them have settled; on this thread if they have.
    pub(super) fn wait_for(&self, objects: Vec<ObjectHandle>, then: impl FnOnce(&Client) + Send + 'static) {
        type Then = Box<dyn FnOnce(&Client) + Send>;
        struct Gate {
            remaining: AtomicUsize,
            client: Client,
            then: Mutex<Option<Then>>,
        }
        impl Gate {
            fn pass(&self) {
                if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let then = self.then.lock().take();
                    if let Some(then) = then {
                        then(&self.client);
                    }
                }
            }
        }
        let gate = Arc::new(Gate {
            // One more than there are, so that the last step is taken here if all have settled.
            remaining: AtomicUsize::new(objects.len() + 1),
            client: self.clone(),
            then: Mutex::new(Some(Box::new(then))),
        });
        for object in objects {
            self.fetch(&object.0);
            let gate = gate.clone();
            object.0.on_settled(move || gate.pass());
        }
        gate.pass();
    }

    pub(super) fn failed_argument(&self, seq: u64) -> Option<Box<Error>> {
        self.0.pending.with(seq, |pending| pending.failed_argument()).flatten()
    }

    /// All arguments of a task have settled: it goes into its queue.
    pub(super) fn dependencies_ready(&self, seq: u64) {
        enum Next {
            Fail(Box<Error>),
            Queue(Arc<TaskQueue>, FunctionId),
        }
        let next = self.0.pending.with(seq, |pending| {
            if let Some(error) = pending.failed_argument() {
                return Some(Next::Fail(error));
            }
            let queue = self.queue_of(pending)?;
            if let Work::Task { queue: own, .. } = &mut pending.work {
                *own = Some(queue.clone());
            }
            Some(Next::Queue(queue, pending.id))
        });
        match next.flatten() {
            Some(Next::Fail(error)) => self.fail_pending(seq, &error),
            Some(Next::Queue(queue, function)) => queue.enqueue(self, seq, function),
            None => {}
        }
        if self.0.queues.is_sweep_due() {
            self.forget_idle_queues();
        }
    }

    pub(super) fn queue_of(&self, pending: &Pending) -> Option<Arc<TaskQueue>> {
        let Work::Task { options, .. } = &pending.work else {
            return None;
        };
        let near = pending
            .stored_arguments()
            .filter(|stored| stored.size_bytes >= LOCALITY_BYTES)
            .max_by_key(|stored| stored.size_bytes)
            .and_then(|stored| stored.nodes.first().copied());
        if near.is_none()
            && let Some((session, queue)) = options.queue.get()
            && *session == self.0.session
        {
            return Some(queue.clone());
        }
        let shape = Shape {
            job: self.0.job,
            demand: options.placed_demand(),
            strategy: options.strategy.clone(),
            kind: options.placed_kind(),
            retriable: options.max_retries > 0,
            near,
        };
        let home = near.map_or_else(|| self.raylet(), |process| Address { process, mailbox: MailboxId::RAYLET });
        let what = options.name.clone().unwrap_or_else(|| pending.function.plain_name().to_owned());
        let queue = self.0.queues.of(shape, |shape| TaskQueue::new(shape, self.next_seq(), home, what));
        if near.is_none() {
            let _ = options.queue.set((self.0.session, queue.clone()));
        }
        Some(queue)
    }
}

fn no_stream(function: &RemoteFunction) -> Error {
    Error::Invalid { what: format!("{} does not stream", function.name) }
}

/// Work that is pending from now on.
struct Registered {
    seq: u64,
    results: (SmallVec<[ObjectHandle; 1]>, Option<StreamHandle>),
    ready: Ready,
}

enum Ready {
    Now,
    Later(Vec<ObjectHandle>),
}
