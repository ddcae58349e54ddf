//! The untyped client: submits work, owns its results, fetches values.
//!
//! There is one [`Client`] per process and session, at [`MailboxId::CLIENT`]. It knows functions
//! by their registration and values as bytes; the framework puts types on top. Whoever submits a
//! task owns its results (principle 6): this client keeps the task until its end has been seen,
//! runs it again when its worker is lost, and answers others who borrow a reference.
//!
//! ```text
//!   submit ─▶ arguments ready? ─▶ TaskQueue (one per shape) ─▶ lease ─▶ worker
//!   call   ─▶ arguments ready? ─▶ ActorQueue (one per actor) ─────────▶ worker
//!                                    get ◀─ Entry ◀─ TaskDone ◀───────────┘
//! ```
//!
//! Nothing here blocks but [`Client::get`], [`Client::wait`], [`Client::put`] of a large value and
//! the calls that ask the GCS; they are for user threads.

mod actor_queue;
mod doubts;
mod entry;
mod fetch;
#[cfg(test)]
mod leasing;
mod mailbox;
mod options;
mod pending;
mod reconcile;
mod session;
mod submitter;
mod task_queue;
mod wire_ref;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mobula_transport::{Address, Endpoint, MailboxId, Message, Payload, ProcessId, SendError};
use parking_lot::Mutex;
use smallvec::SmallVec;

use self::actor_queue::ActorQueue;
use self::doubts::Doubts;
pub(crate) use self::entry::wait_until;
use self::entry::{Entry, Latch, Outcome, Waiter};
use self::pending::{Pending, PendingTable, Work};
use self::task_queue::TaskQueue;
use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId, ObjectId};
use crate::messages::{
    ActorSpec, ArgSpec, ClusterStatus, CreateActor, FindActor, FinishJob, GetClusterStatus, KillActor, Shape,
};
use crate::registry::RemoteFunction;
use crate::store::StoreClient;
use crate::value::{Encoding, Value};

pub use self::entry::ObjectHandle;
pub use self::mailbox::OutputLine;
pub use self::options::{ActorOptions, DEFAULT_MAX_RETRIES, TaskOptions};
pub use self::pending::Arg;
pub use self::session::Entered;
pub use self::wire_ref::WIRE_REF_BYTES;

/// Values up to this size travel in messages; larger ones lie in the store.
pub const INLINE_LIMIT_BYTES: usize = 100 * 1024;

/// Arguments of at least this size draw a task to the node that has them.
const LOCALITY_BYTES: u64 = 1024 * 1024;

/// How long one question to the GCS may take before it is asked again.
const GCS_DEADLINE: Duration = Duration::from_secs(30);

/// How often a busy client looks at its leases.
const TICK: Duration = Duration::from_millis(5);

/// How long after a failed question it is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What a client needs to know.
pub struct ClientSetup {
    /// The process's endpoint.
    pub endpoint: Endpoint,
    /// The GCS.
    pub gcs: Address,
    /// The raylet that is asked first.
    pub raylet: Address,
    /// The node's store.
    pub store: StoreClient,
    /// The job.
    pub job: JobId,
    /// Where names of actors are looked up and given.
    pub namespace: String,
    /// The driver's binary, served to nodes that do not have it.
    pub binary: Option<std::path::PathBuf>,
    /// Receives what workers print.
    pub output: Option<Box<dyn Fn(OutputLine) + Send + Sync>>,
}

/// Submits work, owns its results, fetches values. Cloning is cheap.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    endpoint: Endpoint,
    gcs: Address,
    raylet: Address,
    store: StoreClient,
    job: JobId,
    namespace: String,
    binary: Option<std::path::PathBuf>,
    output: Option<Box<dyn Fn(OutputLine) + Send + Sync>>,
    /// Tells sessions of one process apart.
    session: u64,
    started: Instant,
    next_seq: AtomicU64,
    pub(crate) pending: PendingTable,
    queues: Mutex<HashMap<Shape, Arc<TaskQueue>>>,
    actors: Mutex<HashMap<ActorId, Weak<ActorQueue>>>,
    /// Owned objects of which a reference has left the process inside a value.
    exported: Mutex<HashMap<ObjectId, Arc<Entry>>>,
    /// Work that a broken connection may have swallowed.
    doubts: Mutex<Doubts>,
    /// Processes whose connection broke and is not up again.
    broken: Mutex<BTreeSet<ProcessId>>,
    /// Counts settled objects while a thread is in `wait`.
    settled: AtomicU64,
    waiting: AtomicUsize,
    waiting_threads: Mutex<Vec<std::thread::Thread>>,
    ticking: AtomicBool,
    open: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.endpoint.process().id)
    }
}

/// A counted reference to an actor. When the last handle of the process that made the actor is
/// dropped, the actor ends after its pending calls, unless it is detached or a handle was sent
/// elsewhere.
#[derive(Clone)]
pub struct ActorHandle(pub(crate) Arc<ActorQueue>);

impl std::fmt::Debug for ActorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ActorHandle({} {})", self.0.class(), self.0.actor())
    }
}

impl ActorHandle {
    /// The actor's id.
    pub fn id(&self) -> ActorId {
        self.0.actor()
    }

    /// The name of the actor's type.
    pub fn class(&self) -> &str {
        self.0.class()
    }

    /// The client of the session that the handle belongs to.
    pub fn client(&self) -> &Client {
        self.0.client()
    }

    /// The id to be sent elsewhere. From now on the actor stays until its job ends or it is killed.
    pub fn export(&self) -> ActorId {
        self.0.keep();
        self.0.actor()
    }
}

impl Client {
    /// Starts the client of this endpoint.
    pub fn start(setup: ClientSetup) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(1);
        let client = Self(Arc::new(Inner {
            endpoint: setup.endpoint,
            gcs: setup.gcs,
            raylet: setup.raylet,
            store: setup.store,
            job: setup.job,
            namespace: setup.namespace,
            binary: setup.binary,
            output: setup.output,
            session: SESSIONS.fetch_add(1, Ordering::Relaxed),
            started: Instant::now(),
            next_seq: AtomicU64::new(1),
            pending: PendingTable::default(),
            queues: Mutex::default(),
            actors: Mutex::default(),
            exported: Mutex::default(),
            doubts: Mutex::default(),
            broken: Mutex::default(),
            settled: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            waiting_threads: Mutex::default(),
            ticking: AtomicBool::new(false),
            open: AtomicBool::new(true),
        }));
        client.attach();
        client
    }

    /// The job this client works for.
    pub fn job(&self) -> JobId {
        self.0.job
    }

    /// The process's endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// The node's store.
    pub fn store(&self) -> &StoreClient {
        &self.0.store
    }

    /// Where names of actors are looked up unless told otherwise.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The client's own address.
    pub fn address(&self) -> Address {
        self.0.endpoint.address_of(MailboxId::CLIENT)
    }

    /// The GCS.
    pub fn gcs(&self) -> Address {
        self.0.gcs
    }

    /// The raylet that is asked first.
    pub fn raylet(&self) -> Address {
        self.0.raylet
    }

    /// Whether the session has not been shut down.
    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    // ---- submitting ----------------------------------------------------------------------------

    /// Submits a task and returns the references to its results at once.
    pub fn submit(
        &self,
        function: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        options: &Arc<TaskOptions>,
    ) -> SmallVec<[ObjectHandle; 1]> {
        let work = Work::Task { options: options.clone(), queue: None, lease: None };
        let (seq, handles, ready) = self.register(function, args, options.returns, work);
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
        let queue = &actor.0;
        let (seq, handles, ready) = self.register(method, args, returns, Work::Call { actor: queue.clone() });
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

    /// Makes an actor; its handle is there at once. A constructor's error surfaces on the calls.
    pub fn create_actor(
        &self,
        constructor: &'static RemoteFunction,
        class: &str,
        args: SmallVec<[Arg; 2]>,
        options: ActorOptions,
    ) -> ActorHandle {
        let actor = ActorId::random();
        let queue = ActorQueue::new(actor, class.to_owned(), self, !options.detached);
        self.0.actors.lock().insert(actor, Arc::downgrade(&queue));
        let args = self.store_large(args);
        let dependencies = self.unsettled(&args);
        let (started, class) = (queue.clone(), class.to_owned());
        self.wait_for(dependencies, move |client| {
            client.register_actor(&started, constructor, class, &args, options);
            // The arguments stay until the GCS has recorded the actor.
            drop(args);
        });
        ActorHandle(queue)
    }

    fn register_actor(
        &self,
        queue: &Arc<ActorQueue>,
        constructor: &'static RemoteFunction,
        class: String,
        args: &[Arg],
        options: ActorOptions,
    ) {
        let mut payload = Payload::new();
        let mut specs = SmallVec::new();
        for arg in args {
            let outcome = match arg {
                Arg::Value(value) => Some(Outcome::Inline(value.clone())),
                Arg::Object(handle) => handle.0.outcome(),
            };
            match outcome {
                Some(Outcome::Inline(value)) => {
                    payload.push(value.data);
                    specs.push(ArgSpec::Inline(value.encoding));
                }
                Some(Outcome::Stored(stored)) => {
                    // A restart needs the object again, so it stays as long as the session.
                    if let Arg::Object(handle) = arg {
                        self.export(&handle.0);
                    }
                    specs.push(ArgSpec::Stored(*stored));
                }
                Some(Outcome::Failed(error)) => {
                    queue.located(crate::messages::ActorLocation::Dead(error));
                    return;
                }
                // `wait_for` calls only when every argument has settled.
                None => return,
            }
        }
        let spec = ActorSpec {
            actor: queue.actor(),
            job: self.job(),
            owner: self.address(),
            class,
            constructor: FunctionId::of(constructor.name),
            args: specs,
            name: options.name,
            namespace: options.namespace.unwrap_or_else(|| self.0.namespace.clone()),
            demand: options.demand,
            placement_demand: options.placement_demand,
            strategy: options.strategy,
            kind: options.kind,
            max_concurrency: options.max_concurrency.max(1),
            max_restarts: options.max_restarts,
            detached: options.detached,
        };
        self.ask_to_create(queue.clone(), spec, payload);
    }

    /// Asks the GCS to make an actor, until it has answered. It knows an actor by its id, so
    /// asking twice makes one.
    fn ask_to_create(&self, queue: Arc<ActorQueue>, spec: ActorSpec, payload: Payload) {
        let client = self.clone();
        let question = CreateActor { spec: spec.clone() };
        let parts = payload.clone();
        self.0.endpoint.request_with(self.0.gcs, question, parts, GCS_DEADLINE, move |answer| match answer {
            Ok((Ok(()), _)) => queue.resolve(),
            Ok((Err(error), _)) => queue.located(crate::messages::ActorLocation::Dead(Box::new(error))),
            Err(error) if error.is_retriable() && client.is_open() => {
                tracing::debug!(actor = %spec.actor, %error, "asking the GCS again to make the actor");
                client.clone().again_soon(move || client.ask_to_create(queue, spec, payload));
            }
            Err(error) => {
                // It may have been made all the same, and nobody would ever call it.
                let why = format!("its maker did not hear that it was made: {error}");
                client.tell_gcs(KillActor { actor: spec.actor, no_restart: true, why });
                queue.located(crate::messages::ActorLocation::Dead(Box::new(error.into())));
            }
        });
    }

    /// The last handle of an actor is gone.
    pub(crate) fn forget_actor(&self, actor: ActorId) {
        let mut actors = self.0.actors.lock();
        if actors.get(&actor).is_some_and(|queue| queue.strong_count() == 0) {
            actors.remove(&actor);
        }
    }

    /// Resolves to unit when the actor's constructor has returned, or to its error.
    pub fn ready(&self, actor: &ActorHandle) -> ObjectHandle {
        let entry = Entry::new(self.next_object(), None, self);
        actor.0.notify_ready(entry.clone());
        ObjectHandle(entry)
    }

    /// The living actor of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchActor`], or the failure to reach the GCS.
    pub fn find_actor(&self, name: &str, namespace: Option<&str>) -> Result<ActorHandle, Error> {
        let namespace = namespace.unwrap_or(&self.0.namespace).to_owned();
        let question = FindActor { name: name.to_owned(), namespace };
        match self.ask_gcs_blocking(question)? {
            Some(found) => Ok(self.actor(found.actor, &found.class)),
            None => Err(Error::NoSuchActor { name: name.to_owned() }),
        }
    }

    /// A handle to an actor of which only the id is known (a named one, or one sent as a value).
    pub fn actor(&self, actor: ActorId, class: &str) -> ActorHandle {
        let mut actors = self.0.actors.lock();
        if let Some(queue) = actors.get(&actor).and_then(Weak::upgrade) {
            return ActorHandle(queue);
        }
        let queue = ActorQueue::new(actor, class.to_owned(), self, false);
        actors.insert(actor, Arc::downgrade(&queue));
        drop(actors);
        queue.resolve();
        ActorHandle(queue)
    }

    /// Ends an actor. Calls that wait fail; a call that runs ends first.
    ///
    /// # Errors
    /// The failure to reach the GCS.
    pub fn kill(&self, actor: &ActorHandle, no_restart: bool) -> Result<(), Error> {
        let why = "it was killed by a call of kill".to_owned();
        self.ask_gcs_blocking(KillActor { actor: actor.id(), no_restart, why })?
    }

    // ---- values --------------------------------------------------------------------------------

    /// Stores a value; the reference to it owns it.
    ///
    /// # Errors
    /// [`Error::StoreFull`] when it is large and the store has no room.
    pub fn put(&self, value: Value) -> Result<ObjectHandle, Error> {
        if value.len() <= INLINE_LIMIT_BYTES {
            return self.settled_object(Outcome::Inline(value));
        }
        self.put_parts(value.encoding, &[&value.data])
    }

    /// Stores the concatenation of `parts` as one value, written once.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_parts(&self, encoding: Encoding, parts: &[&[u8]]) -> Result<ObjectHandle, Error> {
        self.check_open()?;
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if size <= INLINE_LIMIT_BYTES {
            return self.settled_object(Outcome::Inline(Value::new(encoding, parts.concat())));
        }
        let id = self.next_object();
        let stored = self.0.store.put(id, encoding, parts)?;
        let entry = Entry::new(id, None, self);
        entry.settle(Outcome::Stored(Box::new(stored)));
        Ok(ObjectHandle(entry))
    }

    fn settled_object(&self, outcome: Outcome) -> Result<ObjectHandle, Error> {
        self.check_open()?;
        let entry = Entry::new(self.next_object(), None, self);
        entry.settle(outcome);
        Ok(ObjectHandle(entry))
    }

    /// Waits for the objects and returns their values, in order.
    ///
    /// # Errors
    /// The error of the first object that failed; [`Error::TimedOut`].
    pub fn get(&self, objects: &[ObjectHandle], timeout: Option<Duration>) -> Result<Vec<Value>, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        self.settle_all(objects, timeout, deadline)?;
        let mut values: Vec<Option<Value>> = Vec::with_capacity(objects.len());
        let mut stored = Vec::new();
        for object in objects {
            match object.0.outcome() {
                Some(Outcome::Inline(value)) => values.push(Some(value)),
                Some(Outcome::Failed(error)) => return Err(*error),
                Some(Outcome::Stored(location)) => {
                    stored.push((values.len(), location));
                    values.push(None);
                }
                None => {
                    return Err(Error::TimedOut { after: timeout.unwrap_or_default() });
                }
            }
        }
        self.read_stored(stored, deadline, timeout, &mut values)?;
        Ok(values.into_iter().flatten().collect())
    }

    /// Waits until every object has settled.
    fn settle_all(
        &self,
        objects: &[ObjectHandle],
        timeout: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let unsettled: SmallVec<[&ObjectHandle; 1]> = objects.iter().filter(|object| !object.is_settled()).collect();
        if unsettled.is_empty() {
            return Ok(());
        }
        let latch = Latch::new(unsettled.len());
        for object in &unsettled {
            self.fetch(&object.0);
            if object.0.add_waiter(Waiter::Latch(latch.clone())).is_err() {
                latch.count_down();
            }
        }
        let mut lent = None;
        let in_time = latch.wait(deadline, || lent = Some(crate::worker::lend_cpu()));
        drop(lent);
        if in_time { Ok(()) } else { Err(Error::TimedOut { after: timeout.unwrap_or_default() }) }
    }

    /// Resolves when the object is ready.
    pub fn get_future(
        &self,
        object: &ObjectHandle,
    ) -> impl Future<Output = Result<Value, Error>> + Send + 'static + use<> {
        let (client, object) = (self.clone(), object.clone());
        async move {
            client.fetch(&object.0);
            let (tell, told) = tokio::sync::oneshot::channel();
            object.0.on_settled(move || {
                let _ = tell.send(());
            });
            if told.await.is_err() {
                return Err(no_session());
            }
            match object.0.outcome() {
                Some(Outcome::Inline(value)) => Ok(value),
                Some(Outcome::Failed(error)) => Err(*error),
                Some(Outcome::Stored(stored)) => client.0.store.fetch(&stored).await,
                None => Err(no_session()),
            }
        }
    }

    /// Waits until `num_returns` of the objects are ready (or failed), or the time is over.
    /// Returns the positions of those that are ready, at most `num_returns` of them, and of all
    /// others, each in the order given.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an object is given twice or `num_returns` is more than there are.
    pub fn wait(
        &self,
        objects: &[ObjectHandle],
        num_returns: usize,
        timeout: Option<Duration>,
    ) -> Result<(Vec<usize>, Vec<usize>), Error> {
        if num_returns > objects.len() {
            let what = format!("wait for {num_returns} of {} objects can never end", objects.len());
            return Err(Error::Invalid { what });
        }
        check_distinct(objects)?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        for object in objects.iter().filter(|object| object.0.lender().is_some()) {
            self.fetch(&object.0);
        }
        let waiting = Waiting::begin(&self.0);
        let mut lent = None;
        loop {
            let seen = self.0.settled.load(Ordering::SeqCst);
            let ready = objects.iter().filter(|object| object.is_settled()).take(num_returns).count();
            if ready >= num_returns || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let changed = || self.0.settled.load(Ordering::SeqCst) != seen;
            wait_until(changed, deadline, || {
                lent.get_or_insert_with(crate::worker::lend_cpu);
            });
        }
        drop(waiting);
        drop(lent);
        let mut ready = Vec::with_capacity(num_returns);
        let mut others = Vec::with_capacity(objects.len() - num_returns);
        for (position, object) in objects.iter().enumerate() {
            if ready.len() < num_returns && object.is_settled() { &mut ready } else { &mut others }.push(position);
        }
        Ok((ready, others))
    }

    // ---- the cluster ---------------------------------------------------------------------------

    /// The cluster's nodes, resources, pending demands and jobs.
    ///
    /// # Errors
    /// The failure to reach the GCS.
    pub fn status(&self) -> Result<ClusterStatus, Error> {
        self.ask_gcs_blocking(GetClusterStatus)
    }

    /// How many tasks wait in this process for a lease.
    pub fn queued_tasks(&self) -> usize {
        self.0.queues.lock().values().map(|queue| queue.queued()).sum()
    }

    /// Ends the session: everything pending fails, leases go back, the job is finished.
    pub fn shutdown(&self) {
        if !self.0.open.swap(false, Ordering::AcqRel) {
            return;
        }
        let error = no_session();
        let queues: Vec<_> = self.0.queues.lock().drain().map(|(_, queue)| queue).collect();
        for queue in queues {
            queue.close(self);
        }
        let actors: Vec<_> = self.0.actors.lock().drain().filter_map(|(_, queue)| queue.upgrade()).collect();
        for actor in actors {
            actor.close(&error);
        }
        for (_, pending) in self.0.pending.drain() {
            pending.fail(&error);
        }
        let exported = std::mem::take(&mut *self.0.exported.lock());
        drop(exported);
        let finish = FinishJob { job: self.0.job };
        let _ = self.0.endpoint.request_blocking(self.0.gcs, finish, Payload::new(), Duration::from_secs(5));
        self.0.endpoint.detach(MailboxId::CLIENT);
    }

    // ---- inside --------------------------------------------------------------------------------

    pub(crate) fn now_us(&self) -> u64 {
        self.0.started.elapsed().as_micros() as u64
    }

    fn next_seq(&self) -> u64 {
        self.0.next_seq.fetch_add(1, Ordering::Relaxed)
    }

    fn next_object(&self) -> ObjectId {
        ObjectId { owner: self.0.endpoint.process().id, seq: self.next_seq(), index: 0 }
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.is_open() { Ok(()) } else { Err(no_session()) }
    }

    fn register(
        &self,
        function: &'static RemoteFunction,
        args: SmallVec<[Arg; 2]>,
        returns: u32,
        work: Work,
    ) -> (u64, SmallVec<[ObjectHandle; 1]>, Ready) {
        let seq = self.next_seq();
        let owner = self.0.endpoint.process().id;
        let args = self.store_large(args);
        let returns: SmallVec<[Arc<Entry>; 1]> =
            (0..returns).map(|index| Entry::new(ObjectId { owner, seq, index }, None, self)).collect();
        let handles = returns.iter().map(|entry| ObjectHandle(entry.clone())).collect();
        let dependencies = self.unsettled(&args);
        let pending = Pending { function, id: FunctionId::of(function.name), args, returns, attempt: 0, work };
        self.0.pending.insert(seq, Box::new(pending));
        if !self.is_open() {
            self.fail_pending(seq, &no_session());
        }
        let ready = if dependencies.is_empty() { Ready::Now } else { Ready::Later(dependencies) };
        (seq, handles, ready)
    }

    /// Values too large for a message become objects. If the store has no room for one, the work
    /// fails with that, as it would with any argument that failed.
    fn store_large(&self, mut args: SmallVec<[Arg; 2]>) -> SmallVec<[Arg; 2]> {
        for arg in &mut args {
            if let Arg::Value(value) = arg
                && value.len() > INLINE_LIMIT_BYTES
            {
                let stored = self.put_parts(value.encoding, &[&value.data]).unwrap_or_else(|error| {
                    let entry = Entry::new(self.next_object(), None, self);
                    entry.settle(Outcome::Failed(Box::new(error)));
                    ObjectHandle(entry)
                });
                *arg = Arg::Object(stored);
            }
        }
        args
    }

    fn unsettled(&self, args: &[Arg]) -> Vec<ObjectHandle> {
        args.iter()
            .filter_map(|arg| match arg {
                Arg::Object(handle) if !handle.is_settled() => Some(handle.clone()),
                _ => None,
            })
            .collect()
    }

    /// Calls `then` when all of them have settled; on this thread if they have.
    fn wait_for(&self, objects: Vec<ObjectHandle>, then: impl FnOnce(&Client) + Send + 'static) {
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

    fn failed_argument(&self, seq: u64) -> Option<Box<Error>> {
        self.0.pending.with(seq, |pending| pending.failed_argument()).flatten()
    }

    /// All arguments of a task have settled: it goes into its queue.
    fn dependencies_ready(&self, seq: u64) {
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
    }

    fn queue_of(&self, pending: &Pending) -> Option<Arc<TaskQueue>> {
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
            demand: options.demand.clone(),
            strategy: options.strategy.clone(),
            kind: options.kind,
            near,
        };
        let home = near.map_or(self.0.raylet, |process| Address { process, mailbox: MailboxId::RAYLET });
        let what = options.name.clone().unwrap_or_else(|| pending.function.name.to_owned());
        let queue = {
            let mut queues = self.0.queues.lock();
            queues.entry(shape.clone()).or_insert_with(|| Arc::new(TaskQueue::new(shape, home, what))).clone()
        };
        if near.is_none() {
            let _ = options.queue.set((self.0.session, queue.clone()));
        }
        Some(queue)
    }

    pub(crate) fn fail_pending(&self, seq: u64, error: &Error) {
        if let Some(pending) = self.0.pending.take(seq) {
            pending.fail(error);
        }
    }

    /// An object has settled: threads in `wait` look again.
    pub(crate) fn note_settled(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.settled.fetch_add(1, Ordering::SeqCst);
            for thread in &*self.0.waiting_threads.lock() {
                thread.unpark();
            }
        }
    }

    fn export(&self, entry: &Arc<Entry>) {
        if entry.lender().is_none() && !entry.exported.swap(true, Ordering::AcqRel) {
            self.0.exported.lock().insert(entry.id(), entry.clone());
        }
    }

    pub(crate) fn free_stored(&self, stored: &crate::messages::StoredObject) {
        self.0.store.free(std::slice::from_ref(stored));
    }

    fn ask_gcs_blocking<M: Message>(&self, message: M) -> Result<M::Reply, Error> {
        self.check_open()?;
        let answer = self.0.endpoint.request_blocking(self.0.gcs, message, Payload::new(), GCS_DEADLINE);
        answer.map(|(reply, _)| reply).map_err(Error::from)
    }

    pub(crate) fn ask_gcs<M: Message>(
        &self,
        message: M,
        then: impl FnOnce(Result<M::Reply, SendError>) + Send + 'static,
    ) {
        let then = move |answer: Result<(M::Reply, Payload), SendError>| then(answer.map(|(reply, _)| reply));
        self.0.endpoint.request_with(self.0.gcs, message, Payload::new(), GCS_DEADLINE, then);
    }

    pub(crate) fn tell_gcs<M: Message>(&self, message: M) {
        self.0.endpoint.send(Some(MailboxId::CLIENT), self.0.gcs, message, Payload::new());
    }

    /// Runs `then` a moment later, off this thread.
    pub(crate) fn again_soon(&self, then: impl FnOnce() + Send + 'static) {
        self.0.endpoint.spawn_task(async move {
            tokio::time::sleep(RETRY_DELAY).await;
            then();
        });
    }

    /// Looks at the leases every [`TICK`] until nothing needs looking at.
    pub(crate) fn arm_ticker(&self) {
        if self.0.ticking.load(Ordering::Relaxed) || self.0.ticking.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        self.0.endpoint.spawn_task(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(client) = weak.upgrade().map(Client) else {
                    return;
                };
                client.0.ticking.store(false, Ordering::Release);
                let mut again = client.ask_doubtful();
                for queue in client.task_queues() {
                    again |= queue.tick(&client);
                }
                // Someone may have armed a new ticker meanwhile; then this one ends.
                if !again || client.0.ticking.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    fn process_lost(&self, process: ProcessId, why: &str) {
        self.0.doubts.lock().lost(process);
        self.0.broken.lock().remove(&process);
        for queue in self.task_queues() {
            queue.process_lost(self, process, why);
        }
        for actor in self.actor_queues() {
            actor.process_lost(process, why);
        }
    }

    fn attach(&self) {
        self.0.endpoint.attach(MailboxId::CLIENT, Arc::new(mailbox::ClientMailbox(Arc::downgrade(&self.0))));
        let weak = Arc::downgrade(&self.0);
        self.0.endpoint.watch_peers(move |event| {
            if let Some(client) = weak.upgrade().map(Client) {
                client.peer_event(event);
            }
        });
    }
}

enum Ready {
    Now,
    Later(Vec<ObjectHandle>),
}

/// A thread in `wait`.
struct Waiting<'a> {
    inner: &'a Inner,
    thread: std::thread::ThreadId,
}

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner) -> Self {
        let thread = std::thread::current();
        let id = thread.id();
        inner.waiting_threads.lock().push(thread);
        inner.waiting.fetch_add(1, Ordering::SeqCst);
        Self { inner, thread: id }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.waiting.fetch_sub(1, Ordering::SeqCst);
        let mut threads = self.inner.waiting_threads.lock();
        if let Some(position) = threads.iter().position(|thread| thread.id() == self.thread) {
            threads.swap_remove(position);
        }
    }
}

fn check_distinct(objects: &[ObjectHandle]) -> Result<(), Error> {
    let mut addresses: Vec<*const Entry> = objects.iter().map(|object| Arc::as_ptr(&object.0)).collect();
    addresses.sort_unstable();
    if addresses.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid { what: "wait was given the same object twice".to_owned() });
    }
    Ok(())
}

pub(crate) fn no_session() -> Error {
    Error::NoSession { what: "the session was shut down; call init to start another".to_owned() }
}
