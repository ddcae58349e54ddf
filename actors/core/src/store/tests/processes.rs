//! Stores and clients in different processes, and stores of different nodes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use mobula_transport::Credentials;
use mobula_transport::identity::{ClusterAuthority, Role};
use serde::{Deserialize, Serialize};

use super::*;

/// Set in the environment of a process that is to read an object: what, and where.
const READ: &str = "MOBULA_TEST_STORE_READER";

pub(super) fn bind() -> Endpoint {
    static AUTHORITY: OnceLock<ClusterAuthority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| ClusterAuthority::create("test").unwrap());
    bind_with(authority.credentials(Role::Node).unwrap())
}

fn bind_with(credentials: Credentials) -> Endpoint {
    let config = EndpointConfig { credentials: Some(credentials), ..EndpointConfig::default() };
    Endpoint::bind(config).unwrap()
}

#[derive(Serialize, Deserialize)]
struct ToRead {
    credentials: String,
    store: ProcessAddr,
    store_dir: String,
    host_proof: String,
    stored: StoredObject,
}

/// Another process with a client of `local`'s store, reading one object.
struct Reader {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
    process: ProcessId,
}

impl Reader {
    fn start(local: &Local, credentials: &std::path::Path, stored: &StoredObject) -> Self {
        let to_read = ToRead {
            credentials: credentials.to_string_lossy().into_owned(),
            store: local.endpoint.process(),
            store_dir: local.store.store_dir(),
            host_proof: local.store.host_proof(),
            stored: stored.clone(),
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::tests::processes::the_reading_process", "--exact", "--nocapture"])
            .env(READ, serde_json::to_string(&to_read).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let say = child.stdin.take().unwrap();
        let hear = BufReader::new(child.stdout.take().unwrap());
        let mut reader = Self { child, say, hear, process: ProcessId::random() };
        reader.process = reader.answer("process ").parse().map(ProcessId).unwrap();
        reader
    }

    /// The rest of the first line that starts so; the test harness of the child talks too.
    fn answer(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.hear.read_line(&mut line).unwrap() > 0, "the reader ended");
            if let Some(rest) = line.trim().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    fn sum(&mut self) -> String {
        writeln!(self.say).unwrap();
        self.answer("sum ")
    }
}

fn sum(data: &[u8]) -> String {
    format!("{:x}", xxhash_rust::xxh3::xxh3_64(data))
}

/// Not a test of its own: the other process of those below.
#[test]
fn the_reading_process() {
    let Ok(to_read) = std::env::var(READ) else {
        return;
    };
    let to_read: ToRead = serde_json::from_str(&to_read).unwrap();
    let endpoint = bind_with(Credentials::load(to_read.credentials.as_ref()).unwrap());
    let client = StoreClient::connect(&endpoint, to_read.store, &to_read.store_dir, &to_read.host_proof).unwrap();
    let value = client.get_blocking(&to_read.stored, SOON).unwrap();
    println!("\nprocess {}", endpoint.process().id.0);
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("\nsum {}", sum(&value.data));
    }
}

#[test]
fn a_process_that_reads_keeps_the_memory_until_it_dies() {
    let authority = ClusterAuthority::create("test").unwrap();
    let credentials = tempfile::tempdir().unwrap();
    authority.credentials(Role::Node).unwrap().save(credentials.path()).unwrap();
    let endpoint = bind_with(authority.credentials(Role::Node).unwrap());
    let local = Local::at(endpoint, 64 * MIB);
    let data = pattern(2 * MIB, 3);
    let stored = local.client.put(object(1), Encoding::RAW, &[&data]).unwrap();
    let mut reader = Reader::start(&local, credentials.path(), &stored);
    assert_eq!(reader.sum(), sum(&data));
    local.client.free(&[stored]);
    // As much as the store has, of the same size: none of it may be the reader's segment.
    for n in 2..30 {
        local.client.put(object(n), Encoding::RAW, &[&pattern(2 * MIB, n as u32)]).unwrap();
    }
    assert_eq!(reader.sum(), sum(&data));
    assert_eq!(local.stats().used_bytes, 29 * 2 * MIB as u64);
    reader.child.kill().unwrap();
    reader.child.wait().unwrap();
    local.store.process_died(reader.process);
    local.until("the dead reader's pin is gone", |stats| stats.used_bytes == 28 * 2 * MIB as u64);
}

/// Two nodes with a store each, in this process but connected by QUIC alone.
fn two_nodes(capacity_bytes: usize) -> (Local, Local) {
    (Local::at(bind(), capacity_bytes), Local::at(bind(), capacity_bytes))
}

#[test]
fn an_object_is_pulled_once_and_freed_everywhere() {
    let (one, two) = two_nodes(64 * MIB);
    let data = pattern(20 * MIB + 3, 5);
    let stored = one.client.put(object(1), Encoding::NUMBERS, &[&data]).unwrap();
    let (tell, told) = mpsc::channel();
    for _ in 0..10 {
        let tell = tell.clone();
        two.client.get(&stored, SOON, move |value| tell.send(value).unwrap());
    }
    let values: Vec<_> = (0..10).map(|_| told.recv().unwrap().unwrap()).collect();
    assert!(values[0].data == data);
    assert_eq!(values[0].encoding, Encoding::NUMBERS);
    assert!(values.iter().all(|value| value.data.as_ptr() == values[0].data.as_ptr()));
    assert_eq!(two.stats().pulled_bytes, data.len() as u64);
    assert_eq!(one.stats().served_bytes, data.len() as u64);
    let list = block_on(two.client.list(10)).unwrap();
    assert_eq!((list[0].state, list[0].pins), (ObjectState::Copy, 1));
    one.client.free(&[stored]);
    one.until("freed where it was made", |stats| stats.used_bytes == 0 && stats.objects == 0);
    two.until("the copy is gone for new readers", |stats| stats.objects == 0);
    assert!(values[9].data == data, "but not for the present ones");
    drop(values);
    two.until("freed where it was copied to", |stats| stats.used_bytes == 0);
}

#[test]
fn an_object_that_eight_nodes_want_spreads_through_them() {
    const EACH: usize = 3 * MIB;
    let source = Local::at(bind(), 16 * MIB);
    let receivers: Vec<Local> = (0..8).map(|_| Local::at(bind(), 16 * MIB)).collect();
    let data = pattern(EACH, 5);
    let stored = source.client.put(object(1), Encoding::RAW, &[&data]).unwrap();
    let (tell, told) = mpsc::channel();
    for receiver in &receivers {
        // Twice: the second one is not sent again.
        for _ in 0..2 {
            let tell = tell.clone();
            receiver.client.get(&stored, SOON, move |value| tell.send(value).unwrap());
        }
    }
    for _ in 0..16 {
        assert!(told.recv().unwrap().unwrap().data == data);
    }
    assert!(source.stats().served_bytes <= 3 * EACH as u64, "{:?}", source.stats());
    let served: u64 = receivers.iter().chain([&source]).map(|node| node.stats().served_bytes).sum();
    assert_eq!(served, 8 * EACH as u64, "each of them got it once");
    source.client.free(&[stored]);
    for receiver in &receivers {
        receiver.until("freed everywhere", |stats| stats.used_bytes == 0 && stats.objects == 0);
    }
}

#[test]
fn a_node_that_gave_its_copy_up_passes_nobody_on() {
    let source = Local::at(bind(), 16 * MIB);
    let receivers: Vec<Local> = (0..4).map(|_| Local::at(bind(), 16 * MIB)).collect();
    let stored = source.client.put(object(1), Encoding::RAW, &[&pattern(MIB, 5)]).unwrap();
    for receiver in &receivers[..2] {
        assert_eq!(receiver.client.get_blocking(&stored, SOON).unwrap().len(), MIB);
        // A free that reaches the copies alone stands for giving them up.
        receiver.client.inner.tell_shard(&object(1), crate::store::messages::FreeObjects { objects: vec![object(1)] });
        receiver.until("it is given up", |stats| stats.objects == 0);
    }
    // One that is gone is passed over as well.
    for receiver in &receivers[2..] {
        receiver.endpoint.mark_gone(receivers[0].endpoint.process().id, "its power cable was pulled".to_owned());
        assert!(receiver.client.get_blocking(&stored, SOON).unwrap().data == pattern(MIB, 5));
    }
}

#[test]
fn a_pull_waits_for_the_seal() {
    let (one, two) = two_nodes(64 * MIB);
    let mut writer = one.client.create(object(1), Encoding::RAW, 3).unwrap();
    let stored = StoredObject {
        object: object(1),
        encoding: Encoding::RAW,
        size_bytes: 3,
        nodes: smallvec![one.endpoint.process()],
    };
    let (tell, told) = mpsc::channel();
    two.client.get(&stored, SOON, move |value| tell.send(value).unwrap());
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    writer.as_mut_slice().copy_from_slice(b"abc");
    writer.seal().unwrap();
    assert_eq!(&told.recv().unwrap().unwrap().data[..], b"abc");
}

#[test]
fn the_next_source_helps_when_one_is_gone_and_the_last_failure_has_its_reasons() {
    let (one, two) = two_nodes(64 * MIB);
    let three = Local::at(bind(), 64 * MIB);
    let data = pattern(MIB, 5);
    let mut stored = one.client.put(object(1), Encoding::RAW, &[&data]).unwrap();
    stored.nodes.push(two.endpoint.process());
    two.client.get_blocking(&stored, SOON).unwrap();
    three.endpoint.mark_gone(one.endpoint.process().id, "its power cable was pulled".to_owned());
    assert!(three.client.get_blocking(&stored, SOON).unwrap().data == data);
    assert_eq!(two.stats().served_bytes, MIB as u64);

    let mut unknown = stored.clone();
    unknown.object = object(2);
    let lost = three.client.get_blocking(&unknown, SOON).unwrap_err().to_string();
    assert!(lost.contains("power cable") && lost.contains("never sealed"), "{lost}");
    three.until("the room for it is given back", |stats| stats.objects == 1 && stats.used_bytes == MIB as u64);
}

#[test]
fn a_node_that_goes_away_takes_what_was_being_sent_to_it_along() {
    let (one, two) = two_nodes(256 * MIB);
    let stored = one.client.put(object(1), Encoding::RAW, &[&pattern(128 * MIB, 5)]).unwrap();
    let (tell, told) = mpsc::channel();
    two.client.get(&stored, SOON, move |value| drop(tell.send(value.map(|value| value.len()))));
    two.until("it is under way", |stats| stats.used_bytes > 0);
    two.endpoint.shutdown(Duration::ZERO);
    // Whoever waits there is told; it may just have been done.
    let _ = told.recv_timeout(SOON).unwrap();
    one.client.free(&[stored]);
    one.until("nothing is kept for it", |stats| stats.used_bytes == 0 && stats.objects == 0);
}

#[test]
fn an_object_of_another_size_is_not_taken() {
    let (one, two) = two_nodes(64 * MIB);
    let mut stored = one.client.put(object(1), Encoding::RAW, &[b"abcd"]).unwrap();
    stored.size_bytes = 3;
    let lost = two.client.get_blocking(&stored, SOON).unwrap_err();
    assert!(matches!(&lost, Error::ObjectLost { why, .. } if why.contains("4 bytes")), "{lost}");
}

#[test]
fn unread_copies_make_room_and_a_full_store_refuses_to_pull() {
    let (one, two) = two_nodes(4 * MIB);
    let stored: Vec<_> =
        (0..4).map(|n| one.client.put(object(n), Encoding::RAW, &[&pattern(MIB, n as u32)]).unwrap()).collect();
    for round in 0..2 {
        for (n, stored) in stored.iter().enumerate() {
            let value = two.client.get_blocking(stored, SOON).unwrap();
            assert!(value.data == pattern(MIB, n as u32), "round {round}");
        }
    }
    assert_eq!(two.stats().pulled_bytes, 4 * MIB as u64, "all four fit");
    // Another object takes the place of the copy that was read first.
    two.until("the pins are back", |_| {
        let put = two.client.put(object(9), Encoding::RAW, &[&pattern(2 * MIB, 9)]);
        put.is_ok()
    });
    assert!(two.client.get_blocking(&stored[3], SOON).unwrap().data == pattern(MIB, 3));
    let held = two.client.get_blocking(&stored[0], SOON).unwrap();
    let other = two.client.get_blocking(&stored[1], SOON).unwrap();
    let full = two.client.get_blocking(&stored[2], SOON).unwrap_err();
    assert!(matches!(full, Error::StoreFull { .. }), "{full}");
    drop((held, other));
}

#[test]
fn an_empty_object_travels_too() {
    let (one, two) = two_nodes(MIB);
    let stored = one.client.put(object(1), Encoding::RAW, &[]).unwrap();
    assert!(two.client.get_blocking(&stored, SOON).unwrap().is_empty());
}

/// A file system of so many bytes, where this user may make one.
pub(super) struct SmallFileSystem(std::path::PathBuf);

impl SmallFileSystem {
    pub(super) fn mount(at: &std::path::Path, bytes: usize) -> Option<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "mobula-test"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn shared_memory_that_others_fill_is_a_full_store_and_no_signal() {
    let base = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(_small) = SmallFileSystem::mount(base.path(), 64 * MIB) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let one = Local::at(bind(), 64 * MIB);
    let base = tempfile::tempdir_in(base.path()).unwrap();
    let intruder = base.path().join("intruder");
    let two = Local::in_base(base, bind(), 64 * MIB, false);
    assert!(two.stats().capacity_bytes > 50 * MIB as u64);
    std::fs::write(&intruder, vec![1; 44 * MIB]).unwrap();
    // 20 MiB are left: 30 do not fit, neither written here nor pulled, though the ledger has room.
    let data = pattern(30 * MIB, 1);
    let full = two.client.put(object(1), Encoding::RAW, &[&data]).unwrap_err();
    assert!(matches!(full, Error::StoreFull { .. }), "{full}");
    let stored = one.client.put(object(2), Encoding::RAW, &[&data]).unwrap();
    let full = two.client.get_blocking(&stored, SOON).unwrap_err();
    assert!(matches!(full, Error::StoreFull { .. }), "{full}");
    two.until("nothing is left of either", |stats| stats.used_bytes == 0 && stats.objects == 0);
    std::fs::remove_file(&intruder).unwrap();
    assert!(two.client.get_blocking(&stored, SOON).unwrap().data == data);
}
