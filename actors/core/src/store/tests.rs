use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{Endpoint, EndpointConfig, ProcessAddr, ProcessId};
use smallvec::smallvec;

use super::*;
use crate::error::Error;
use crate::ids::{NodeId, ObjectId};
use crate::messages::StoredObject;
use crate::store::messages::{ObjectState, StoreStats};
use crate::value::Encoding;

mod processes;
mod simulated;
mod spilling;

const SOON: Duration = Duration::from_secs(20);
/// After so long without any room a store says so.
const SHORTLY: Duration = Duration::from_millis(500);
const MIB: usize = 1 << 20;

/// A store in a directory of its own, and a client in the same process.
pub(super) struct Local {
    _base: tempfile::TempDir,
    pub(super) endpoint: Endpoint,
    pub(super) store: StoreHandle,
    pub(super) client: StoreClient,
}

impl Local {
    fn new(capacity_bytes: usize) -> Self {
        Self::at(Endpoint::in_process(EndpointConfig::default()).unwrap(), capacity_bytes)
    }

    pub(super) fn at(endpoint: Endpoint, capacity_bytes: usize) -> Self {
        Self::with(endpoint, capacity_bytes, false)
    }

    fn with(endpoint: Endpoint, capacity_bytes: usize, in_place: bool) -> Self {
        Self::in_base(tempfile::tempdir_in("/dev/shm").unwrap(), endpoint, capacity_bytes, in_place)
    }

    fn in_base(base: tempfile::TempDir, endpoint: Endpoint, capacity_bytes: usize, in_place: bool) -> Self {
        // Nothing is spilled: with these stores it is seen when they are full, and soon.
        let spill = StoreConfig { spill_limit_bytes: Some(0), room_stall: Some(SHORTLY), ..StoreConfig::default() };
        Self::spilling(base, endpoint, StoreConfig { capacity_bytes: Some(capacity_bytes as u64), in_place, ..spill })
    }

    fn spilling(base: tempfile::TempDir, endpoint: Endpoint, config: StoreConfig) -> Self {
        let here = base.path().to_owned();
        let spill_dir = config.spill_dir.clone().unwrap_or_else(|| here.clone());
        let config = StoreConfig { base: Some(here), spill_dir: Some(spill_dir), ..config };
        let store = Store::start(&endpoint, NodeId::random(), config).unwrap();
        let client =
            StoreClient::connect(&endpoint, endpoint.process(), &store.store_dir(), &store.host_proof()).unwrap();
        Self { _base: base, endpoint, store, client }
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Waits until the store's books say so; they follow what happened with a little delay.
    pub(super) fn until(&self, what: &str, holds: impl Fn(&StoreStats) -> bool) {
        let started = std::time::Instant::now();
        while !holds(&self.stats()) {
            assert!(started.elapsed() < SOON, "{what}: {:?}", self.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(super) fn object(n: u64) -> ObjectId {
    ObjectId { owner: ProcessId(uuid::Uuid::from_u128(7)), seq: n, index: 0 }
}

pub(super) fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn what_is_put_is_read_in_place() {
    let local = Local::new(64 * MIB);
    let data = pattern(3 * MIB + 5, 1);
    let stored = local.client.put(object(1), Encoding::RAW, &[&data[..10], &data[10..]]).unwrap();
    assert_eq!(stored.size_bytes, data.len() as u64);
    let one = local.client.get_blocking(&stored, SOON).unwrap();
    assert!(one.data == data);
    let (tell, told) = mpsc::channel();
    local.client.get(&stored, SOON, move |value| tell.send(value).unwrap());
    let two = told.recv().unwrap().unwrap();
    let three = block_on(local.client.fetch(&stored)).unwrap();
    assert_eq!(one.data.as_ptr(), two.data.as_ptr());
    assert_eq!(one.data.as_ptr(), three.data.as_ptr());
    assert_eq!(one.data.as_ptr() as usize % 4096, 0, "values are aligned");
    // A slice keeps the memory as well as the whole.
    let slice: Bytes = one.data.slice(7..9);
    drop((one, two, three));
    local.client.free(std::slice::from_ref(&stored));
    let other = local.client.put(object(2), Encoding::RAW, &[&pattern(3 * MIB + 5, 2)]).unwrap();
    assert_eq!(slice, data[7..9], "pinned bytes stay");
    drop(slice);
    local.client.free(&[other]);
    local.until("all is given back", |stats| stats.used_bytes == 0 && stats.objects == 0);
}

#[test]
fn a_recycled_segment_is_mapped_at_the_same_place() {
    let local = Local::new(64 * MIB);
    let mut addresses = Vec::new();
    for n in 0..3 {
        let data = pattern(2 * MIB, n as u32);
        let stored = local.client.put(object(n), Encoding::RAW, &[&data]).unwrap();
        let value = local.client.get_blocking(&stored, SOON).unwrap();
        assert!(value.data == data);
        addresses.push(value.data.as_ptr() as usize);
        drop(value);
        local.client.free(&[stored]);
    }
    assert_eq!(addresses, [addresses[0]; 3]);
    assert_eq!(local.stats().idle_bytes, 2 * MIB as u64);
}

#[test]
fn a_get_waits_for_the_seal_a_dropped_writer_is_a_loss() {
    let local = Local::new(64 * MIB);
    let stored = |n| StoredObject {
        object: object(n),
        encoding: Encoding::RAW,
        size_bytes: 3,
        nodes: smallvec![local.endpoint.process()],
    };
    let (tell, told) = mpsc::channel();
    let mut good = local.client.create(object(1), Encoding::RAW, 3).unwrap();
    let bad = local.client.create(object(2), Encoding::RAW, 3).unwrap();
    for n in [1, 2, 3] {
        let tell = tell.clone();
        local.client.get(&stored(n), SOON, move |value| tell.send((n, value)).unwrap());
    }
    let (n, never) = told.recv().unwrap();
    assert!(n == 3 && matches!(never, Err(Error::ObjectLost { .. })), "{never:?}");
    good.as_mut_slice().copy_from_slice(b"abc");
    assert!(told.try_recv().is_err(), "not sealed yet");
    good.seal().unwrap();
    let (n, value) = told.recv().unwrap();
    assert_eq!((n, &value.unwrap().data[..]), (1, &b"abc"[..]));
    drop(bad);
    let (n, lost) = told.recv().unwrap();
    assert!(n == 2 && matches!(lost, Err(Error::ObjectLost { .. })), "{lost:?}");
}

#[test]
fn a_get_has_a_deadline_and_a_late_answer_gives_its_pin_back() {
    let local = Local::new(64 * MIB);
    let mut writer = local.client.create(object(1), Encoding::RAW, 3).unwrap();
    let stored = StoredObject {
        object: object(1),
        encoding: Encoding::RAW,
        size_bytes: 3,
        nodes: smallvec![local.endpoint.process()],
    };
    let short = Duration::from_millis(5);
    assert_eq!(local.client.get_blocking(&stored, short).unwrap_err(), Error::TimedOut { after: short });
    let fetched = block_on(local.client.fetch_within(&stored, short));
    assert_eq!(fetched.unwrap_err(), Error::TimedOut { after: short });
    writer.as_mut_slice().copy_from_slice(b"abc");
    writer.seal().unwrap();
    let value = local.client.get_blocking(&stored, SOON).unwrap();
    assert_eq!(&value.data[..], b"abc");
    drop(value);
    local.client.free(&[stored]);
    local.until("the late pin came back", |stats| stats.used_bytes == 0);
}

#[test]
fn a_full_store_says_so_and_has_room_again() {
    let local = Local::new(4 * MIB);
    let data = pattern(MIB, 0);
    let put = |n| local.client.put(object(n), Encoding::RAW, &[&data]);
    let stored: Vec<_> = (0..4).map(|n| put(n).unwrap()).collect();
    let full = put(9).unwrap_err();
    assert!(full.is_retriable());
    let expected = Error::StoreFull { size_bytes: MIB as u64, free_bytes: 0, capacity_bytes: 4 * MIB as u64 };
    assert_eq!(full, expected);
    local.client.free(&stored[2..3]);
    put(9).unwrap();
    // Another size than what lies idle: that has to go first.
    local.client.free(&stored[..2]);
    local.client.put(object(10), Encoding::RAW, &[&data, &data]).unwrap();
    assert_eq!(local.stats().idle_bytes, 0);
}

#[test]
fn a_dead_process_gives_everything_back() {
    let local = Local::new(64 * MIB);
    let stored = local.client.put(object(1), Encoding::RAW, &[b"abc"]).unwrap();
    let value = local.client.get_blocking(&stored, SOON).unwrap();
    let writer = local.client.create(object(2), Encoding::RAW, 3).unwrap();
    local.client.free(&[stored]);
    assert_eq!(local.stats().used_bytes, 2 * 4096);
    local.store.process_died(local.endpoint.process().id);
    local.until("pins and creations are gone", |stats| stats.used_bytes == 0 && stats.objects == 0);
    drop((value, writer));
    local.store.process_died(ProcessId::random());
    assert_eq!(local.stats().idle_bytes, 2 * 4096);
}

#[test]
fn objects_are_listed_and_counted() {
    let local = Local::new(64 * MIB);
    for n in (0..20).rev() {
        local.client.put(object(n), Encoding::RAW, &[b"abc"]).unwrap();
    }
    let _writer = local.client.create(object(20), Encoding::RAW, 5).unwrap();
    let list = block_on(local.client.list(100)).unwrap();
    let ids: Vec<u64> = list.iter().map(|summary| summary.object.seq).collect();
    assert_eq!(ids, (0..21).collect::<Vec<_>>());
    assert_eq!((list[3].state, list[3].size_bytes), (ObjectState::Sealed, 3));
    assert_eq!((list[20].state, list[20].size_bytes), (ObjectState::Creating, 5));
    let stats = block_on(local.client.stats()).unwrap();
    assert_eq!(stats, local.stats());
    assert_eq!(stats.objects, 21);
}

#[test]
fn many_threads_put_get_and_free() {
    let local = Local::new(64 * MIB);
    let client = Arc::new(local.client.clone());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let client = client.clone();
            scope.spawn(move || {
                for n in 0..200 {
                    let id = object(thread * 1000 + n);
                    let data = pattern(1000 + (n as usize * 97) % 50_000, n as u32);
                    let stored = client.put(id, Encoding::RAW, &[&data]).unwrap();
                    let value = client.get_blocking(&stored, SOON).unwrap();
                    client.free(&[stored]);
                    assert!(value.data == data, "freed, but still read");
                }
            });
        }
    });
    local.until("all is given back", |stats| stats.used_bytes == 0 && stats.objects == 0);
}

#[test]
fn a_store_that_is_not_the_one_meant_is_refused() {
    let local = Local::new(MIB);
    let connect = |dir: &str, proof: &str| StoreClient::connect(&local.endpoint, local.endpoint.process(), dir, proof);
    assert!(connect(&local.store.store_dir(), "another").is_err());
    assert!(connect("/nowhere", &local.store.host_proof()).is_err());
    let dir = local.store.store_dir();
    local.store.shutdown();
    assert!(!std::path::Path::new(&dir).exists());
    assert!(local.client.put(object(1), Encoding::RAW, &[b"abc"]).is_err());
}

#[test]
fn an_object_whose_nodes_cannot_be_reached_is_lost() {
    let local = Local::new(MIB);
    let nowhere = ProcessAddr { id: ProcessId::random(), socket: ProcessAddr::IN_PROCESS };
    let stored = StoredObject { object: object(1), encoding: Encoding::RAW, size_bytes: 3, nodes: smallvec![nowhere] };
    let lost = local.client.get_blocking(&stored, SOON).unwrap_err();
    assert!(matches!(lost, Error::ObjectLost { .. }), "{lost:?}");
    local.until("the room for it is given back", |stats| stats.used_bytes == 0 && stats.objects == 0);
}
