//! What survives a restart of the head: [`Storage`], with redb behind it.
//!
//! Commits run on a thread of their own and are grouped: everything that arrived while the last
//! commit was being synced goes into the next one. A commit that fails (the disk is full) is told to
//! whoever waits for it, and tried again with the next one: the state in memory has it already. How
//! much waits is known, so that the GCS can refuse changes before it is too much. A head without a
//! directory keeps nothing.
//!
//! After a crash at any time, a power cut too, the state is that after the last acknowledged commit,
//! or after a later one that was under way: see `storage/disk.rs`.

mod disk;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use uuid::Uuid;

use super::groups::GroupRecord;
use super::state::{ActorState, Snapshot, Write};
use crate::messages::{ActorSpec, JobInfo, NodeInfo};

/// The layout of the tables; a file of another version is refused.
const FORMAT: u64 = 2;
/// Commits are grouped up to so many writes.
const MAX_GROUP: usize = 4_096;
/// Writes that are kept while the disk refuses them.
const MAX_BACKLOG: usize = 100_000;
/// Their bytes. The GCS refuses what it can long before; the ends of actors and jobs it cannot refuse.
const MAX_BACKLOG_BYTES: usize = 512 << 20;
/// What a write counts besides its values.
const WRITE_BYTES: usize = 512;
/// How often they are tried again, if nothing else is to be stored.
const RETRY_EVERY: Duration = Duration::from_secs(1);

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const ACTORS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("actors");
const ACTOR_STATES: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("actor_states");
const JOBS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("jobs");
const NODES: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("nodes");
const GROUPS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("groups");
const KV: TableDefinition<'static, (&str, &str), &[u8]> = TableDefinition::new("kv");

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another head has it open.
    #[error(
        "another head keeps its state at {path}; end that one with `mobula stop`, or start this one with another --dir"
    )]
    InUse {
        /// The file.
        path: String,
    },
    /// The database refused.
    #[error("the head's state at {path}: {source}{advice}", advice = advice(.source))]
    Database {
        /// The file.
        path: String,
        /// What redb said.
        #[source]
        source: redb::Error,
    },
    /// What is on disk is not what was written.
    #[error(
        "the head's state at {path} is damaged ({source}); put back a copy of it, or start with another --dir: the \
         cluster then begins anew, without its named actors, jobs, placement groups and stored values"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What redb found.
        #[source]
        source: redb::Error,
    },
    /// A record is of another version.
    #[error("the head's state at {path} was written by another version ({what}); start with another --dir")]
    Format {
        /// The file.
        path: String,
        /// What did not fit.
        what: String,
    },
    /// The disk refused for so long that not all changes could be kept.
    #[error("the head's state at {path} misses changes that the disk refused; make room and restart the head")]
    Lost {
        /// The file.
        path: String,
    },
    /// The committing thread could not be started.
    #[error("cannot start the thread that stores the head's state: {0}")]
    Thread(#[source] std::io::Error),
}

impl StorageError {
    fn of(path: &str, source: redb::Error) -> Self {
        let path = path.to_owned();
        match source {
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path },
            redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => Self::Damaged { path, source },
            // So redb calls a file that does not begin as its own do.
            redb::Error::Io(ref error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Damaged { path, source }
            }
            source => Self::Database { path, source },
        }
    }
}

fn advice(source: &redb::Error) -> &'static str {
    match source {
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            "; make room on that disk, what could not be stored is tried again"
        }
        _ => "",
    }
}

/// Called when a group of writes is on disk, or with why it is not.
pub type Committed = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Where writes go.
pub trait Storage: Send {
    /// Stores `writes`, in the order of the calls, and then calls `done`, on another thread. Hands
    /// `done` back when there is nothing to wait for.
    fn commit(&mut self, writes: Vec<Write>, done: Committed) -> Option<Committed>;

    /// How much was given to [`Storage::commit`] and is not stored yet.
    fn unstored_bytes(&self) -> usize;
}

/// Keeps nothing: for a head that ends with its process.
#[derive(Debug, Default)]
pub struct Volatile;

impl Storage for Volatile {
    fn commit(&mut self, _writes: Vec<Write>, done: Committed) -> Option<Committed> {
        Some(done)
    }

    fn unstored_bytes(&self) -> usize {
        0
    }
}

type Group = (Vec<Write>, Committed);

/// Opens the database, at the start and after each failure.
type Open = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send>;

/// redb in a file.
#[derive(Debug)]
pub struct Durable {
    queue: Option<mpsc::Sender<Group>>,
    thread: Option<std::thread::JoinHandle<()>>,
    unstored_bytes: Arc<AtomicUsize>,
}

impl Durable {
    /// Opens or makes the file, and reads what is in it, with the numbers by which the head is
    /// known: the cluster's id and the GCS's process, the same ones after every restart.
    ///
    /// # Errors
    /// [`StorageError`] when another head has it open, or it cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Snapshot, HeadIds), StorageError> {
        let file = path.to_owned();
        Self::start(path.display().to_string(), Box::new(move || disk::open_file(&file)), MAX_BACKLOG_BYTES)
    }

    fn start(shown: String, open: Open, max_backlog_bytes: usize) -> Result<(Self, Snapshot, HeadIds), StorageError> {
        let database = open().map_err(|error| StorageError::of(&shown, error.into()))?;
        let ids = prepare(&database, &shown)?;
        let snapshot = load(&database, &shown)?;
        let (queue, groups) = mpsc::channel();
        let unstored_bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            path: shown,
            open,
            database: Some(database),
            backlog: Vec::new(),
            backlog_bytes: 0,
            max_backlog_bytes,
            unstored_bytes: unstored_bytes.clone(),
            lost: false,
        };
        let thread = std::thread::Builder::new()
            .name("mobula-gcs-disk".to_owned())
            .spawn(move || writer.run(&groups))
            .map_err(StorageError::Thread)?;
        Ok((Self { queue: Some(queue), thread: Some(thread), unstored_bytes }, snapshot, ids))
    }
}

impl Storage for Durable {
    fn commit(&mut self, writes: Vec<Write>, done: Committed) -> Option<Committed> {
        let queue = self.queue.as_ref()?;
        self.unstored_bytes.fetch_add(size_bytes(&writes), Ordering::Relaxed);
        if let Err(mpsc::SendError((_, done))) = queue.send((writes, done)) {
            done(Err("the thread that stores the head's state has ended".to_owned()));
        }
        None
    }

    fn unstored_bytes(&self) -> usize {
        self.unstored_bytes.load(Ordering::Relaxed)
    }
}

/// What these writes take, roughly.
fn size_bytes(writes: &[Write]) -> usize {
    let size = |write: &Write| match write {
        Write::Actor(_, payload) => payload.iter().map(|part| part.len()).sum(),
        Write::Kv { namespace, key, value } => namespace.len() + key.len() + value.as_ref().map_or(0, |v| v.len()),
        Write::Group(record) => WRITE_BYTES * record.spec.bundles.len(),
        Write::ActorState(..)
        | Write::ForgetActor(_)
        | Write::Job(_)
        | Write::ForgetJob(_)
        | Write::Node(_)
        | Write::ForgetNode(_)
        | Write::ForgetGroup(_) => 0_usize,
    };
    writes.iter().map(|write| WRITE_BYTES + size(write)).sum()
}

impl Drop for Durable {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It ends when it has written what was queued; a panic there was reported by it.
            let _ = thread.join();
        }
    }
}

/// By what a head is known to others; kept over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadIds {
    /// The cluster.
    pub cluster: Uuid,
    /// The GCS's process: its address stays good when the head restarts.
    pub process: Uuid,
}

fn prepare(database: &Database, path: &str) -> Result<HeadIds, StorageError> {
    let failed = |source: redb::Error| StorageError::of(path, source);
    let write = database.begin_write().map_err(|error| failed(error.into()))?;
    let ids = {
        let mut meta = write.open_table(META).map_err(|error| failed(error.into()))?;
        let mut number = |key: &str, fresh: [u8; 16]| -> Result<[u8; 16], StorageError> {
            if let Some(found) = meta.get(key).map_err(|error| failed(error.into()))? {
                return found.value().try_into().map_err(|_| StorageError::Format {
                    path: path.to_owned(),
                    what: format!("{key} has another length"),
                });
            }
            meta.insert(key, fresh.as_slice()).map_err(|error| failed(error.into()))?;
            Ok(fresh)
        };
        let format = u128::from_le_bytes(number("format", u128::from(FORMAT).to_le_bytes())?);
        if format != u128::from(FORMAT) {
            return Err(StorageError::Format { path: path.to_owned(), what: format!("format {format}, not {FORMAT}") });
        }
        HeadIds {
            cluster: Uuid::from_bytes(number("cluster", Uuid::new_v4().into_bytes())?),
            process: Uuid::from_bytes(number("process", Uuid::new_v4().into_bytes())?),
        }
    };
    for table in [ACTORS, ACTOR_STATES, JOBS, NODES, GROUPS] {
        write.open_table(table).map_err(|error| failed(error.into()))?;
    }
    write.open_table(KV).map_err(|error| failed(error.into()))?;
    write.commit().map_err(|error| failed(error.into()))?;
    Ok(ids)
}

fn load(database: &Database, path: &str) -> Result<Snapshot, StorageError> {
    let failed = |source: redb::Error| StorageError::of(path, source);
    let read = database.begin_read().map_err(|error| failed(error.into()))?;
    let mut snapshot = Snapshot::default();
    let states = read.open_table(ACTOR_STATES).map_err(|error| failed(error.into()))?;
    let actors = read.open_table(ACTORS).map_err(|error| failed(error.into()))?;
    for record in actors.iter().map_err(|error| failed(error.into()))? {
        let (id, bytes) = record.map_err(|error| failed(error.into()))?;
        let (spec, payload): (ActorSpec, Vec<ByteBuf>) = decode(bytes.value(), path)?;
        let state = match states.get(id.value()).map_err(|error| failed(error.into()))? {
            Some(bytes) => decode(bytes.value(), path)?,
            None => ActorState::default(),
        };
        snapshot.actors.push((spec, payload, state));
    }
    let jobs = read.open_table(JOBS).map_err(|error| failed(error.into()))?;
    for record in jobs.iter().map_err(|error| failed(error.into()))? {
        let (_, bytes) = record.map_err(|error| failed(error.into()))?;
        snapshot.jobs.push(decode::<JobInfo>(bytes.value(), path)?);
    }
    let nodes = read.open_table(NODES).map_err(|error| failed(error.into()))?;
    for record in nodes.iter().map_err(|error| failed(error.into()))? {
        let (_, bytes) = record.map_err(|error| failed(error.into()))?;
        snapshot.nodes.push(decode::<NodeInfo>(bytes.value(), path)?);
    }
    let groups = read.open_table(GROUPS).map_err(|error| failed(error.into()))?;
    for record in groups.iter().map_err(|error| failed(error.into()))? {
        let (_, bytes) = record.map_err(|error| failed(error.into()))?;
        snapshot.groups.push(decode::<GroupRecord>(bytes.value(), path)?);
    }
    let kv = read.open_table(KV).map_err(|error| failed(error.into()))?;
    for record in kv.iter().map_err(|error| failed(error.into()))? {
        let (key, value) = record.map_err(|error| failed(error.into()))?;
        let (namespace, key) = key.value();
        snapshot.kv.push((namespace.to_owned(), key.to_owned(), ByteBuf::from(value.value().to_vec())));
    }
    Ok(snapshot)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], path: &str) -> Result<T, StorageError> {
    rmp_serde::from_slice(bytes)
        .map_err(|error| StorageError::Format { path: path.to_owned(), what: error.to_string() })
}

/// What the committing thread has.
struct Writer {
    path: String,
    open: Open,
    /// Closed after an error: redb takes nothing more before it was opened again.
    database: Option<Database>,
    /// Writes that failed. The state in memory has them, so they go before all others.
    backlog: Vec<Write>,
    backlog_bytes: usize,
    max_backlog_bytes: usize,
    /// Theirs, and what waits in the queue. When changes were lost it stays, so that no more are made.
    unstored_bytes: Arc<AtomicUsize>,
    /// There were too many of them to keep.
    lost: bool,
}

impl Writer {
    fn run(mut self, groups: &mpsc::Receiver<Group>) {
        loop {
            let group = if self.backlog.is_empty() {
                groups.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                groups.recv_timeout(RETRY_EVERY)
            };
            let (mut writes, mut waiting) = (Vec::new(), Vec::new());
            match group {
                Ok((first, done)) => {
                    writes = first;
                    waiting.push(done);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while writes.len() < MAX_GROUP
                && let Ok((more, done)) = groups.try_recv()
            {
                writes.extend(more);
                waiting.push(done);
            }
            let result = self.store(writes).map_err(|error| error.to_string());
            for done in waiting {
                done(result.clone());
            }
        }
        // Nobody waits for the outcome any more.
        let _ = self.store(Vec::new());
    }

    fn store(&mut self, writes: Vec<Write>) -> Result<(), StorageError> {
        if self.lost {
            return Err(StorageError::Lost { path: self.path.clone() });
        }
        self.backlog_bytes += size_bytes(&writes);
        self.backlog.extend(writes);
        if self.backlog.is_empty() {
            return Ok(());
        }
        let stored = self.write();
        match &stored {
            Ok(()) => {
                self.backlog.clear();
                self.unstored_bytes.fetch_sub(std::mem::take(&mut self.backlog_bytes), Ordering::Relaxed);
            }
            Err(error) => {
                tracing::error!(%error, waiting = self.backlog.len(), "the head's state could not be stored");
                self.database = None;
                self.lost = self.backlog.len() > MAX_BACKLOG || self.backlog_bytes > self.max_backlog_bytes;
                if self.lost {
                    self.backlog = Vec::new();
                }
            }
        }
        stored
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let failed = |source: redb::Error| StorageError::of(&self.path, source);
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)().map_err(|error| failed(error.into()))?,
        };
        write_group(&database, &self.backlog).map_err(failed)?;
        self.database = Some(database);
        Ok(())
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    rmp_serde::to_vec(value).map_err(|error| redb::Error::Io(std::io::Error::other(error)))
}

fn write_group(database: &Database, writes: &[Write]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut actors = transaction.open_table(ACTORS)?;
        let mut states = transaction.open_table(ACTOR_STATES)?;
        let mut jobs = transaction.open_table(JOBS)?;
        let mut nodes = transaction.open_table(NODES)?;
        let mut groups = transaction.open_table(GROUPS)?;
        let mut kv = transaction.open_table(KV)?;
        for write in writes {
            match write {
                Write::Actor(spec, payload) => {
                    let id = spec.actor.0.as_u128();
                    actors.insert(id, encode(&(spec, payload))?.as_slice())?;
                }
                Write::ActorState(actor, state) => {
                    states.insert(actor.0.as_u128(), encode(&state)?.as_slice())?;
                }
                Write::ForgetActor(actor) => {
                    actors.remove(actor.0.as_u128())?;
                    states.remove(actor.0.as_u128())?;
                }
                Write::Job(info) => {
                    jobs.insert(info.job.0.as_u128(), encode(&info)?.as_slice())?;
                }
                Write::ForgetJob(job) => {
                    jobs.remove(job.0.as_u128())?;
                }
                Write::Node(info) => {
                    nodes.insert(info.node.0.as_u128(), encode(&info)?.as_slice())?;
                }
                Write::ForgetNode(node) => {
                    nodes.remove(node.0.as_u128())?;
                }
                Write::Group(record) => {
                    groups.insert(record.spec.group.0.as_u128(), encode(&record)?.as_slice())?;
                }
                Write::ForgetGroup(group) => {
                    groups.remove(group.0.as_u128())?;
                }
                Write::Kv { namespace, key, value: Some(value) } => {
                    kv.insert((namespace.as_str(), key.as_str()), value.as_slice())?;
                }
                Write::Kv { namespace, key, value: None } => {
                    kv.remove((namespace.as_str(), key.as_str()))?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
