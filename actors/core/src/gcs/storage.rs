//! What survives a restart of the head: [`Storage`], with redb behind it.
//!
//! Commits run on a thread of their own and are grouped: everything that arrived while the last
//! commit was being synced goes into the next one. A commit that fails (the disk is full) is told to
//! whoever waits for it, and tried again with the next one: the state in memory has it already. A
//! head without a directory keeps nothing.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use uuid::Uuid;

use super::state::{ActorState, Snapshot, Write};
use crate::messages::{ActorSpec, JobInfo};

/// The layout of the tables; a file of another version is refused.
const FORMAT: u64 = 1;
/// Commits are grouped up to so many writes.
const MAX_GROUP: usize = 4_096;
/// Writes that are kept while the disk refuses them.
const MAX_BACKLOG: usize = 100_000;
/// How often they are tried again, if nothing else is to be stored.
const RETRY_EVERY: Duration = Duration::from_secs(1);

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const ACTORS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("actors");
const ACTOR_STATES: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("actor_states");
const JOBS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("jobs");
const KV: TableDefinition<'static, (&str, &str), &[u8]> = TableDefinition::new("kv");

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The database refused.
    #[error("the head's state at {path}: {source}{advice}", advice = advice(.source))]
    Database {
        /// The file.
        path: String,
        /// What redb said.
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

fn advice(source: &redb::Error) -> &'static str {
    match source {
        redb::Error::DatabaseAlreadyOpen => "; another head is using it",
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
}

/// Keeps nothing: for a head that ends with its process.
#[derive(Debug, Default)]
pub struct Volatile;

impl Storage for Volatile {
    fn commit(&mut self, _writes: Vec<Write>, done: Committed) -> Option<Committed> {
        Some(done)
    }
}

type Group = (Vec<Write>, Committed);

/// redb in a file.
#[derive(Debug)]
pub struct Durable {
    queue: Option<mpsc::Sender<Group>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Durable {
    /// Opens or makes the file, and reads what is in it, with the numbers by which the head is
    /// known: the cluster's id and the GCS's process, the same ones after every restart.
    ///
    /// # Errors
    /// [`StorageError`] when another head has it open, or it cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Snapshot, HeadIds), StorageError> {
        let shown = path.display().to_string();
        let failed = |source: redb::Error| StorageError::Database { path: shown.clone(), source };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let ids = prepare(&database, &shown)?;
        let snapshot = load(&database, &shown)?;
        let (queue, groups) = mpsc::channel();
        let writer = Writer { path: path.to_owned(), database: Some(database), backlog: Vec::new(), lost: false };
        let thread = std::thread::Builder::new()
            .name("mobula-gcs-disk".to_owned())
            .spawn(move || writer.run(&groups))
            .map_err(StorageError::Thread)?;
        Ok((Self { queue: Some(queue), thread: Some(thread) }, snapshot, ids))
    }
}

impl Storage for Durable {
    fn commit(&mut self, writes: Vec<Write>, done: Committed) -> Option<Committed> {
        let queue = self.queue.as_ref()?;
        if let Err(mpsc::SendError((_, done))) = queue.send((writes, done)) {
            done(Err("the thread that stores the head's state has ended".to_owned()));
        }
        None
    }
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
    let failed = |source: redb::Error| StorageError::Database { path: path.to_owned(), source };
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
    for table in [ACTORS, ACTOR_STATES, JOBS] {
        write.open_table(table).map_err(|error| failed(error.into()))?;
    }
    write.open_table(KV).map_err(|error| failed(error.into()))?;
    write.commit().map_err(|error| failed(error.into()))?;
    Ok(ids)
}

fn load(database: &Database, path: &str) -> Result<Snapshot, StorageError> {
    let failed = |source: redb::Error| StorageError::Database { path: path.to_owned(), source };
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
    path: PathBuf,
    /// Closed after an error: redb takes nothing more before it was opened again.
    database: Option<Database>,
    /// Writes that failed. The state in memory has them, so they go before all others.
    backlog: Vec<Write>,
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
        self.backlog.extend(writes);
        if self.lost {
            self.backlog.clear();
            return Err(StorageError::Lost { path: self.path.display().to_string() });
        }
        if self.backlog.is_empty() {
            return Ok(());
        }
        let stored = self.write();
        match &stored {
            Ok(()) => self.backlog.clear(),
            Err(error) => {
                tracing::error!(%error, waiting = self.backlog.len(), "the head's state could not be stored");
                self.database = None;
                self.lost = self.backlog.len() > MAX_BACKLOG;
            }
        }
        stored
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let failed = |source: redb::Error| StorageError::Database { path: self.path.display().to_string(), source };
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::create(&self.path).map_err(|error| failed(error.into()))?,
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
mod tests {
    use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::error::Error;
    use crate::ids::{ActorId, FunctionId, JobId};
    use crate::messages::{Strategy, WorkerKind};
    use crate::resources::Resources;

    fn process() -> ProcessAddr {
        ProcessAddr { id: ProcessId(Uuid::from_u128(1)), socket: ProcessAddr::IN_PROCESS }
    }

    fn job(n: u128) -> JobInfo {
        JobInfo {
            job: JobId(Uuid::from_u128(n)),
            name: "p".to_owned(),
            driver: process(),
            binary: None,
            digest: 1,
            namespace: "ns".to_owned(),
            started_unix_s: 1,
            ended_unix_s: None,
        }
    }

    fn spec(n: u128) -> ActorSpec {
        ActorSpec {
            actor: ActorId(Uuid::from_u128(n)),
            job: JobId(Uuid::from_u128(1)),
            owner: Address { process: process(), mailbox: MailboxId::CLIENT },
            class: "Counter".to_owned(),
            constructor: FunctionId(3),
            args: smallvec::smallvec![],
            name: Some("a".to_owned()),
            namespace: "ns".to_owned(),
            demand: Resources::new(),
            placement_demand: Resources::new(),
            strategy: Strategy::Spread,
            kind: WorkerKind::Process,
            max_concurrency: 1,
            max_restarts: -1,
            detached: true,
        }
    }

    fn kv(key: &str, value: Option<&[u8]>) -> Write {
        let value = value.map(|value| ByteBuf::from(value.to_vec()));
        Write::Kv { namespace: "ns".to_owned(), key: key.to_owned(), value }
    }

    /// Commits, and waits until it is on disk.
    fn commit(storage: &mut Durable, writes: Vec<Write>) {
        let (tell, told) = channel();
        let handed_back = storage.commit(writes, Box::new(move |result| tell.send(result).unwrap()));
        assert!(handed_back.is_none());
        told.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gcs.redb");
        let (mut storage, empty, ids) = Durable::open(&path).unwrap();
        assert!(empty.actors.is_empty() && empty.jobs.is_empty() && empty.kv.is_empty());
        let dead = Error::Invalid { what: "no".to_owned() };
        let state = ActorState { incarnation: 3, restarts: 2, started: Some(3), dead: Some(dead) };
        commit(
            &mut storage,
            vec![
                Write::Job(Box::new(job(1))),
                Write::Job(Box::new(job(2))),
                Write::Actor(Box::new(spec(5)), vec![ByteBuf::from(vec![1, 2])]),
                Write::Actor(Box::new(spec(6)), vec![]),
                kv("a", Some(b"1")),
                kv("b", Some(b"2")),
            ],
        );
        let more = vec![
            Write::ActorState(spec(5).actor, state.clone()),
            Write::ForgetActor(spec(6).actor),
            Write::ForgetJob(job(2).job),
            kv("a", None),
            kv("b", Some(b"3")),
        ];
        commit(&mut storage, more);
        drop(storage);

        let (_storage, found, again) = Durable::open(&path).unwrap();
        assert_eq!(again, ids, "a head keeps its ids");
        assert_eq!(found.jobs.iter().map(|found| found.job).collect::<Vec<_>>(), [job(1).job]);
        let [(actor, payload, kept)] = &found.actors[..] else { panic!("{:?}", found.actors) };
        assert_eq!((actor.actor, &payload[..], kept), (spec(5).actor, &[ByteBuf::from(vec![1, 2])][..], &state));
        assert_eq!(actor.max_restarts, -1);
        assert_eq!(found.kv, [("ns".to_owned(), "b".to_owned(), ByteBuf::from(b"3".to_vec()))]);
    }

    #[test]
    fn commits_are_answered_in_order_and_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (mut storage, ..) = Durable::open(&dir.path().join("gcs.redb")).unwrap();
        let (tell, told) = channel();
        for n in 0..500 {
            let tell = tell.clone();
            let writes = if n % 3 == 0 { vec![] } else { vec![kv(&format!("k{n}"), Some(b"v"))] };
            storage.commit(writes, Box::new(move |result| tell.send((n, result)).unwrap()));
        }
        drop(storage);
        for expected in 0..500 {
            assert_eq!(told.recv().unwrap(), (expected, Ok(())));
        }
    }

    /// A file system of its own that is soon full; none where this process may not mount.
    struct Tiny(tempfile::TempDir);

    impl Tiny {
        fn mount(size_bytes: usize) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let mut command = std::process::Command::new("mount");
            command.args(["-t", "tmpfs", "-o", &format!("size={size_bytes}"), "tmpfs"]).arg(dir.path());
            command.output().is_ok_and(|output| output.status.success()).then_some(Self(dir))
        }
    }

    impl Drop for Tiny {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
        }
    }

    #[test]
    fn a_full_disk_is_told_and_nothing_is_lost() {
        let Some(tiny) = Tiny::mount(64 << 20) else {
            println!("skipped: this process may not mount a file system");
            return;
        };
        let path = tiny.0.path().join("gcs.redb");
        let (mut storage, ..) = Durable::open(&path).unwrap();
        commit(&mut storage, vec![kv("before", Some(b"1"))]);
        let filler = tiny.0.path().join("filler");
        // As much as there is room for.
        let _ = std::fs::write(&filler, vec![1; 64 << 20]);
        let try_to = |storage: &mut Durable, writes| {
            let (tell, told) = channel();
            storage.commit(writes, Box::new(move |result| tell.send(result).unwrap()));
            told.recv_timeout(Duration::from_secs(30)).unwrap()
        };
        for n in 0..2 {
            let large = vec![7; 2 << 20];
            let error = try_to(&mut storage, vec![kv(&format!("large{n}"), Some(&large))]).unwrap_err();
            assert!(error.contains("No space left") && error.contains("make room"), "{error}");
        }
        // What depends on it is not promised either.
        assert!(try_to(&mut storage, vec![]).is_err());
        std::fs::remove_file(&filler).unwrap();
        commit(&mut storage, vec![kv("large1", Some(b"2"))]);
        drop(storage);
        let (_storage, found, _) = Durable::open(&path).unwrap();
        let sizes: Vec<_> = found.kv.iter().map(|(_, key, value)| (key.as_str(), value.len())).collect();
        assert_eq!(sizes, [("before", 1), ("large0", 2 << 20), ("large1", 1)]);
    }

    #[test]
    fn a_second_head_and_another_format_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gcs.redb");
        let first = Durable::open(&path).unwrap();
        let error = Durable::open(&path).unwrap_err();
        assert!(error.to_string().contains("another head"), "{error}");
        drop(first);

        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("format", 9_u128.to_le_bytes().as_slice()).unwrap();
        write.commit().unwrap();
        drop(database);
        let error = Durable::open(&path).unwrap_err();
        assert!(matches!(error, StorageError::Format { .. }), "{error}");
    }
}
