//! What the storage keeps, and what it says when the disk refuses.

mod crash_points;
mod recorder;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use redb::StorageBackend;

use super::*;
use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId};
use crate::messages::{CallRules, EndReason, Strategy, WorkerKind};
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
        env: Default::default(),
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
        concurrency_groups: Vec::new(),
        max_restarts: -1,
        detached: true,
        rules: CallRules::default(),
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
    let state =
        ActorState { incarnation: 3, restarts: 2, started: Some(3), dead: Some(dead), end: EndReason::NodeDied };
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

/// A disk in memory that refuses when it is told to.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<(std::sync::Mutex<Vec<u8>>, AtomicBool)>);

impl Disk {
    fn fill(&self, full: bool) {
        self.0.1.store(full, Ordering::SeqCst);
    }

    fn has_room(&self) -> std::io::Result<()> {
        if self.0.1.load(Ordering::SeqCst) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn open(&self, max_backlog_bytes: usize) -> (Durable, Snapshot) {
        let disk = self.clone();
        let open: Open = Box::new(move || disk::open(disk.clone()));
        let (storage, snapshot, _) = Durable::start("a disk".to_owned(), open, max_backlog_bytes).unwrap();
        (storage, snapshot)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = offset as usize;
        out.copy_from_slice(&self.0.0.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.has_room()?;
        self.0.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.has_room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.has_room()?;
        let at = offset as usize;
        self.0.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn try_to(storage: &mut Durable, writes: Vec<Write>) -> Result<(), String> {
    let (tell, told) = channel();
    storage.commit(writes, Box::new(move |result| tell.send(result).unwrap()));
    told.recv_timeout(Duration::from_secs(30)).unwrap()
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let disk = Disk::default();
    let (mut storage, _) = disk.open(MAX_BACKLOG_BYTES);
    commit(&mut storage, vec![kv("before", Some(b"1"))]);
    assert_eq!(storage.unstored_bytes(), 0);
    disk.fill(true);
    for n in 0..2 {
        let large = vec![7; 2 << 20];
        let error = try_to(&mut storage, vec![kv(&format!("large{n}"), Some(&large))]).unwrap_err();
        assert!(error.contains("make room"), "{error}");
    }
    // What depends on it is not promised either.
    assert!(try_to(&mut storage, vec![]).is_err());
    assert!(storage.unstored_bytes() > 4 << 20);
    disk.fill(false);
    commit(&mut storage, vec![kv("large1", Some(b"2"))]);
    assert_eq!(storage.unstored_bytes(), 0);
    drop(storage);
    let (_storage, found) = disk.open(MAX_BACKLOG_BYTES);
    let sizes: Vec<_> = found.kv.iter().map(|(_, key, value)| (key.as_str(), value.len())).collect();
    assert_eq!(sizes, [("before", 1), ("large0", 2 << 20), ("large1", 1)]);
}

#[test]
fn what_cannot_be_kept_any_more_is_told_for_ever() {
    let disk = Disk::default();
    let (mut storage, _) = disk.open(1 << 20);
    disk.fill(true);
    let large = vec![7; 2 << 20];
    assert!(try_to(&mut storage, vec![kv("large", Some(&large))]).is_err());
    disk.fill(false);
    for _ in 0..2 {
        let error = try_to(&mut storage, vec![kv("small", Some(b"1"))]).unwrap_err();
        assert!(error.contains("restart the head"), "{error}");
    }
    assert!(storage.unstored_bytes() > 2 << 20, "the GCS goes on refusing changes");
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
