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
mod actors;
mod borrowing;
mod borrows;
mod call_order;
mod cancel;
mod doubts;
mod entry;
mod explain;
mod fetch;
pub(crate) mod groups;
mod home;
#[cfg(test)]
mod leasing;
mod lineage;
mod mailbox;
mod options;
mod pending;
mod places;
mod queues;
mod reconcile;
mod scope;
mod session;
mod stores;
mod stream;
mod streaming;
mod submit;
mod submitter;
mod task_queue;
#[cfg(test)]
mod tests;
mod values;
mod watching;
mod wire_ref;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mobula_transport::{Address, Endpoint, MailboxId, Message, Payload, ProcessId, SendError};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::actor_queue::ActorQueue;
use self::borrowing::Borrowing;
pub(crate) use self::doubts::Doubts;
pub(crate) use self::entry::wait_until;
use self::explain::Failures;
use self::lineage::Lineages;
use self::pending::{Pending, PendingTable, Work};
use self::queues::Queues;
use crate::collective::Collectives;
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::ids::{ActorId, JobId, ObjectId};
use crate::messages::{ClusterStatus, FinishJob, GetClusterStatus};
use crate::store::StoreClient;

/// The pure parts, for the simulation of a whole cluster.
#[cfg(test)]
pub(crate) use self::{
    pending::Attempts,
    submitter::{Effect as SubmitEffect, Submitter},
};

pub use self::actors::ActorHandle;
pub use self::entry::ObjectHandle;
pub use self::mailbox::OutputLine;
pub use self::options::{
    ActorOptions, AsTask, CallOptions, DEFAULT_BACKPRESSURE_NUM_OBJECTS, DEFAULT_MAX_RETRIES, InGroup,
    MAX_BACKPRESSURE_NUM_OBJECTS, PANIC_TYPE_NAME, RetryExceptions, TaskOptions,
};
pub use self::pending::Arg;
pub(crate) use self::scope::{AttemptScope, Suspended};
pub use self::scope::{Refs, capture};
pub use self::session::Entered;
pub use self::streaming::StreamHandle;
pub use self::wire_ref::WIRE_REF_BYTES;

/// Values up to this size travel in messages; larger ones lie in the store.
pub const INLINE_LIMIT_BYTES: usize = 100 * 1024;

/// How long one question to the GCS may take before it is asked again.
const GCS_DEADLINE: Duration = Duration::from_secs(30);
/// How long a question that waits for the head to come back is repeated.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

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
    home: home::Home,
    /// Another home is looked for.
    homeless: AtomicBool,
    job: JobId,
    namespace: String,
    binary: Option<std::path::PathBuf>,
    /// Other files that nodes may fetch, by their hash.
    served: Mutex<BTreeMap<String, std::path::PathBuf>>,
    output: Option<Box<dyn Fn(OutputLine) + Send + Sync>>,
    /// Tells sessions of one process apart.
    session: u64,
    started: Instant,
    next_seq: AtomicU64,
    pub(crate) pending: PendingTable,
    streams: streaming::Streams,
    /// Work that failed lately, for people.
    failures: Failures,
    queues: Queues,
    /// Raylets that were asked for leases by queues that are forgotten: they may yet have granted one.
    forgotten_at: Mutex<BTreeMap<ProcessId, Address>>,
    actors: Mutex<HashMap<ActorId, Weak<ActorQueue>>>,
    /// Who waits for the end of actors.
    watched: Mutex<watching::Watched>,
    /// Placement groups of which something is to be heard.
    groups: Mutex<groups::Groups>,
    /// References that other processes have, and that this one has of others.
    borrowing: Borrowing,
    /// How lost results can be made again.
    lineages: Lineages,
    /// What the constructors of actors were given that are not made yet, or may be made again.
    constructors: Mutex<HashMap<ActorId, actors::Constructor>>,
    /// Work that a broken connection may have swallowed.
    doubts: Mutex<Doubts>,
    /// Processes whose connection broke and is not up again.
    broken: Mutex<BTreeSet<ProcessId>>,
    /// The members of collective groups in this process.
    collectives: Collectives,
    /// Counts settled objects while a thread is in `wait`.
    settled: AtomicU64,
    waiting: AtomicUsize,
    waiting_threads: Mutex<Vec<std::thread::Thread>>,
    ticking: AtomicBool,
    open: AtomicBool,
    /// Why the job ended before the session did.
    lost: OnceLock<Error>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.endpoint.process().id)
    }
}

impl Client {
    /// Starts the client of this endpoint.
    pub fn start(setup: ClientSetup) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(1);
        let client = Self(Arc::new(Inner {
            endpoint: setup.endpoint,
            gcs: setup.gcs,
            home: home::Home::new(setup.raylet, setup.store),
            homeless: AtomicBool::new(false),
            job: setup.job,
            namespace: setup.namespace,
            binary: setup.binary,
            served: Mutex::default(),
            output: setup.output,
            session: SESSIONS.fetch_add(1, Ordering::Relaxed),
            started: Instant::now(),
            next_seq: AtomicU64::new(1),
            pending: PendingTable::default(),
            streams: streaming::Streams::default(),
            failures: Failures::default(),
            queues: Queues::default(),
            forgotten_at: Mutex::default(),
            actors: Mutex::default(),
            watched: Mutex::default(),
            groups: Mutex::default(),
            borrowing: Borrowing::default(),
            lineages: Lineages::default(),
            constructors: Mutex::default(),
            doubts: Mutex::default(),
            broken: Mutex::default(),
            collectives: Collectives::default(),
            settled: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            waiting_threads: Mutex::default(),
            ticking: AtomicBool::new(false),
            open: AtomicBool::new(true),
            lost: OnceLock::new(),
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

    /// Where names of actors are looked up unless told otherwise.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The client's own address.
    pub fn address(&self) -> Address {
        self.0.endpoint.address_of(MailboxId::CLIENT)
    }

    /// Lets nodes fetch this file by its hash, besides the binary.
    pub fn serve_file(&self, hash: String, path: std::path::PathBuf) {
        self.0.served.lock().insert(hash, path);
    }

    /// The GCS.
    pub fn gcs(&self) -> Address {
        self.0.gcs
    }

    /// Whether the session has not been shut down.
    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
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
        self.task_queues().iter().map(|queue| queue.queued()).sum()
    }

    /// Whether the task that makes `object` is in a worker's hands, as far as this process knows;
    /// one that waits for arguments or a lease, or has ended, is not.
    pub fn is_handed_out(&self, object: &ObjectHandle) -> bool {
        let leased = |pending: &mut Pending| matches!(pending.work, Work::Task { lease: Some(_), .. });
        self.0.pending.with(object.id().seq, leased).unwrap_or(false)
    }

    /// Ends the session: everything pending fails, leases go back, the job is finished.
    pub fn shutdown(&self) {
        if self.close() {
            let finish = FinishJob { job: self.0.job };
            let _ = self.0.endpoint.request_blocking(self.0.gcs, finish, Payload::new(), Duration::from_secs(5));
        }
        self.0.endpoint.detach(MailboxId::CLIENT);
    }

    /// Everything pending fails and leases go back. Returns whether the session was open.
    pub(crate) fn close(&self) -> bool {
        let was_open = self.0.open.swap(false, Ordering::AcqRel);
        if was_open {
            self.fail_all(&no_session());
        }
        was_open
    }

    /// The job is over although nobody has shut the session down: whatever waits fails with that, and
    /// whatever comes.
    fn job_lost(&self, why: &str) {
        let what = format!("{why}; shut this session down and call init to start another");
        let error = self.0.lost.get_or_init(|| Error::NoSession { what });
        if self.0.open.swap(false, Ordering::AcqRel) {
            tracing::error!(job = %self.0.job, %error, "this program's job is over");
            self.fail_all(error);
        }
    }

    /// Nothing is waited for any more, and nothing is held.
    fn fail_all(&self, error: &Error) {
        self.0.collectives.close();
        for queue in self.0.queues.drain() {
            queue.close(self);
        }
        let actors: Vec<_> = self.0.actors.lock().drain().filter_map(|(_, queue)| queue.upgrade()).collect();
        for actor in actors {
            actor.close(error);
        }
        self.stop_watching();
        self.end_groups(error);
        for (_, pending) in self.0.pending.drain() {
            pending.fail(error);
        }
        let constructors = std::mem::take(&mut *self.0.constructors.lock());
        drop(constructors);
        self.end_borrowing();
    }

    // ---- inside --------------------------------------------------------------------------------

    pub(crate) fn collectives(&self) -> &Collectives {
        &self.0.collectives
    }

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
        if self.is_open() { Ok(()) } else { Err(self.closed()) }
    }

    pub(crate) fn fail_pending(&self, seq: u64, error: &Error) {
        if let Some(pending) = self.0.pending.take(seq) {
            self.0.failures.record(seq, &pending, error);
            pending.fail(error);
        }
    }

    pub(crate) fn free_stored(&self, stored: &crate::messages::StoredObject) {
        self.store().free(std::slice::from_ref(stored));
    }

    /// Asks the GCS what may be asked twice. While the head is away this waits for it, up to
    /// [`HEAD_PATIENCE`].
    fn ask_gcs_blocking<M: Message + Clone>(&self, message: M) -> Result<M::Reply, Error> {
        let until = Instant::now() + HEAD_PATIENCE;
        let mut lent = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.ask_gcs_once(message.clone(), GCS_DEADLINE.min(left)) {
                Err(Error::Send(error)) if matches!(fate(&error), Fate::Doubtful | Fate::Full) && !left.is_zero() => {
                    lent.get_or_insert_with(crate::worker::lend_cpu);
                    crate::worker::asleep(|| std::thread::sleep(RETRY_DELAY));
                }
                answer => return answer,
            }
        }
    }

    fn ask_gcs_once<M: Message>(&self, message: M, within: Duration) -> Result<M::Reply, Error> {
        self.check_open()?;
        let answer = self.0.endpoint.request_blocking(self.0.gcs, message, Payload::new(), within);
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

impl Client {
    /// Why the session is not open.
    pub(crate) fn closed(&self) -> Error {
        self.0.lost.get().cloned().unwrap_or_else(no_session)
    }
}

pub(crate) fn no_session() -> Error {
    Error::NoSession { what: "the session was shut down; call init to start another".to_owned() }
}
