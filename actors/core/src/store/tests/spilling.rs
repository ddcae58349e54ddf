//! Stores that spill: real files, and what users see of them.

use super::processes::{SmallFileSystem, bind};
use super::*;

/// A store of so many MiB that spills to a directory of its own.
struct Spilling {
    local: Local,
    dir: tempfile::TempDir,
}

fn spilling(capacity_mib: usize, config: StoreConfig) -> Spilling {
    spilling_at(Endpoint::in_process(EndpointConfig::default()).unwrap(), capacity_mib, config)
}

fn spilling_at(endpoint: Endpoint, capacity_mib: usize, config: StoreConfig) -> Spilling {
    let dir = tempfile::tempdir().unwrap();
    let spill_dir = config.spill_dir.clone().or_else(|| Some(dir.path().to_owned()));
    let capacity_bytes = Some((capacity_mib * MIB) as u64);
    let config = StoreConfig { capacity_bytes, spill_dir, ..config };
    let local = Local::spilling(tempfile::tempdir_in("/dev/shm").unwrap(), endpoint, config);
    Spilling { local, dir }
}

/// The spill files of a store.
fn files(local: &Local) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(local.store.spill_dir()).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("spill-")).collect()
}

fn put(local: &Local, n: u64, bytes: usize) -> Result<StoredObject, Error> {
    local.client.put(object(n), Encoding::RAW, &[&pattern(bytes, n as u32)])
}

fn check(local: &Local, stored: &StoredObject) {
    let value = local.client.get_blocking(stored, SOON).unwrap();
    assert!(value.data == pattern(stored.size_bytes as usize, stored.object.seq as u32), "{}", stored.object);
}

fn is_spilled(local: &Local, stored: &StoredObject) -> bool {
    let list = block_on(local.client.list(1000)).unwrap();
    list.iter().any(|summary| summary.object == stored.object && summary.state == ObjectState::Spilled)
}

#[test]
fn a_store_takes_more_than_it_holds_and_gives_back_what_was_put() {
    let store = spilling(16, StoreConfig::default());
    let local = &store.local;
    let size = |n: u64| MIB + n as usize * 7919 % (3 * MIB);
    let stored: Vec<_> = (0..60).map(|n| put(local, n, size(n)).unwrap()).collect();
    for n in 0..90usize {
        check(local, &stored[n * 37 % 60]);
    }
    let stats = local.stats();
    assert!(stats.used_bytes <= stats.capacity_bytes, "{stats:?}");
    assert!(stats.disk_bytes > 60 << 20 && stats.restored_objects > 30, "{stats:?}");
    assert!(stats.spilled_objects <= 60, "what is restored is not written again: {stats:?}");
    // Many objects share a file.
    assert!((files(local).len() as u64) < stats.disk_objects / 8, "{:?}", files(local));
    local.client.free(&stored);
    local.until("all is given back", |stats| stats.used_bytes == 0 && stats.objects == 0);
    local.until("the disk too", |stats| stats.disk_bytes == 0 && stats.disk_objects == 0);
    assert_eq!(files(local), Vec::<std::path::PathBuf>::new());
}

/// The figures of Ray's own test.
#[test]
fn four_results_of_half_a_store_are_spilled_and_three_come_back() {
    let store = spilling(100, StoreConfig::default());
    let local = &store.local;
    let data = |n: u64| vec![n as u8; 50 * MIB];
    let put = |n| local.client.put(object(n), Encoding::RAW, &[&data(n)]).unwrap();
    let stored: Vec<_> = (0..4).map(put).collect();
    local.until("three are on disk", |stats| stats.disk_objects == 3);
    for stored in stored.iter().rev() {
        assert!(local.client.get_blocking(stored, SOON).unwrap().data == data(stored.object.seq));
    }
    local.until("the last one too", |stats| stats.spilled_objects == 4);
    let stats = local.stats();
    assert_eq!((stats.spilled_bytes, stats.spilled_objects), (200 * MIB as u64, 4));
    assert_eq!((stats.restored_bytes, stats.restored_objects), (150 * MIB as u64, 3));
}

#[test]
fn an_object_in_use_is_not_spilled() {
    let store = spilling(16, StoreConfig::default());
    let local = &store.local;
    let held = put(local, 0, 4 * MIB).unwrap();
    let value = local.client.get_blocking(&held, SOON).unwrap();
    let stored: Vec<_> = (1..20).map(|n| put(local, n, 2 * MIB).unwrap()).collect();
    local.until("most are on disk", |stats| stats.disk_objects >= 14);
    assert!(!is_spilled(local, &held) && is_spilled(local, &stored[0]));
    assert!(value.data == pattern(4 * MIB, 0));
    drop(value);
    local.until("then it is the oldest no more", |_| {
        put(local, 100, 3 * MIB).map(|stored| local.client.free(&[stored])).unwrap();
        !is_spilled(local, &held)
    });
    for n in 30..40 {
        put(local, n, 2 * MIB).unwrap();
    }
    local.until("and in the end it goes", |_| is_spilled(local, &held));
    check(local, &held);
}

#[test]
fn many_gets_of_a_spilled_object_are_one_restore() {
    let store = spilling(8, StoreConfig::default());
    let local = &store.local;
    let stored = put(local, 0, 4 * MIB).unwrap();
    put(local, 1, 4 * MIB).unwrap();
    local.until("the older one is on disk", |_| is_spilled(local, &stored));
    let (tell, told) = mpsc::channel();
    for _ in 0..10 {
        let tell = tell.clone();
        local.client.get(&stored, SOON, move |value| tell.send(value).unwrap());
    }
    let values: Vec<_> = (0..10).map(|_| told.recv().unwrap().unwrap()).collect();
    assert!(values.iter().all(|value| value.data.as_ptr() == values[0].data.as_ptr()));
    assert_eq!(local.stats().restored_objects, 1);
}

#[test]
fn a_spilled_object_is_served_to_other_nodes() {
    let store = spilling_at(bind(), 8, StoreConfig::default());
    let local = &store.local;
    let stored = put(local, 0, 4 * MIB).unwrap();
    put(local, 1, 4 * MIB).unwrap();
    local.until("it is on disk", |_| is_spilled(local, &stored));
    let other = Local::at(bind(), 8 * MIB);
    check(&other, &stored);
    local.client.free(&[stored]);
    other.until("its copy is freed with it", |stats| stats.objects == 0);
}

#[test]
fn creations_that_find_no_room_wait_for_it() {
    let store = spilling(8, StoreConfig::default());
    let local = &store.local;
    let held = put(local, 0, 7 * MIB).unwrap();
    let value = local.client.get_blocking(&held, SOON).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| put(local, 1, 4 * MIB).unwrap());
        local.until("it waits", |stats| stats.waiting_for_room == 1);
        drop(value);
        check(local, &waiting.join().unwrap());
    });
    check(local, &held);
}

#[test]
fn who_waits_in_vain_is_told_and_a_dead_process_waits_no_more() {
    let store = spilling(8, StoreConfig { room_stall: Some(SHORTLY), ..StoreConfig::default() });
    let local = &store.local;
    let full = put(local, 0, 9 * MIB).unwrap_err();
    assert!(matches!(full, Error::StoreFull { .. }), "larger than the store: {full}");
    let (one, two) = (object(1), object(2));
    let writers = [one, two].map(|object| local.client.create(object, Encoding::RAW, 3 * MIB as u64).unwrap());
    // Each of two writers that has something half-written wants more.
    let ends: Vec<_> = std::thread::scope(|scope| {
        let waiting = [3, 4].map(|n| scope.spawn(move || put(local, n, 4 * MIB)));
        waiting.map(|thread| thread.join().unwrap()).into()
    });
    assert!(ends.iter().all(|end| matches!(end, Err(Error::StoreFull { .. }))), "{ends:?}");
    local.client.inner.ask_for_room(object(5), 0, Encoding::RAW, 4 * MIB as u64, |_| {});
    local.until("it waits", |stats| stats.waiting_for_room == 1);
    local.store.process_died(local.endpoint.process().id);
    local.until("nobody waits", |stats| stats.waiting_for_room == 0 && stats.used_bytes == 0);
    drop(writers);
}

#[test]
fn the_bound_on_the_disk_is_an_error_to_the_writer_and_loses_nothing() {
    let config =
        StoreConfig { spill_limit_bytes: Some(12 * MIB as u64), room_stall: Some(SHORTLY), ..StoreConfig::default() };
    let store = spilling(8, config);
    full_disk(&store, 12);
}

#[test]
fn a_full_disk_is_an_error_to_the_writer_and_loses_nothing() {
    let at = tempfile::tempdir().unwrap();
    let Some(_small) = SmallFileSystem::mount(at.path(), 12 * MIB + 64 * 1024) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let config = StoreConfig {
        spill_dir: Some(at.path().to_owned()),
        spill_limit_bytes: Some(1 << 40),
        room_stall: Some(SHORTLY),
        ..StoreConfig::default()
    };
    let store = spilling(8, config);
    full_disk(&store, 12);
}

/// Puts objects until memory and disk take no more.
fn full_disk(store: &Spilling, disk_mib: u64) {
    let local = &store.local;
    let mut stored = Vec::new();
    let error = loop {
        match put(local, stored.len() as u64, MIB) {
            Ok(object) => stored.push(object),
            Err(error) => break error,
        }
        assert!(stored.len() < 40, "it should be full: {:?}", local.stats());
    };
    let Error::OutOfDisk { directory, .. } = &error else { panic!("{error}") };
    assert_eq!(*directory, local.store.spill_dir().to_string_lossy());
    assert!(error.to_string().contains("--spill-limit"), "{error}");
    assert!(stored.len() as u64 >= disk_mib + 6, "{} of them fit", stored.len());
    // All that was stored can be read, though restoring some means giving others up.
    let (kept, given_up) = stored.split_at(stored.len() - 4);
    local.client.free(given_up);
    for object in kept {
        check(local, object);
    }
    local.client.free(kept);
    local.until("all is given back", |stats| stats.used_bytes == 0 && stats.disk_bytes == 0);
    check(local, &put(local, 100, 4 * MIB).unwrap());
}

#[test]
fn a_disk_that_fails_is_tried_again() {
    let store = spilling(8, StoreConfig { room_stall: Some(SHORTLY), ..StoreConfig::default() });
    let local = &store.local;
    std::fs::remove_dir_all(local.store.spill_dir()).unwrap();
    let stored: Vec<_> = (0..2).map(|n| put(local, n, 3 * MIB).unwrap()).collect();
    let error = put(local, 2, 3 * MIB).unwrap_err();
    assert!(matches!(&error, Error::OutOfDisk { why, .. } if why.contains("No such file")), "{error}");
    std::fs::create_dir(local.store.spill_dir()).unwrap();
    local.until("it works again", |_| put(local, 2, 3 * MIB).is_ok());
    stored.iter().for_each(|object| check(local, object));
}

#[test]
fn a_damaged_file_is_a_lost_object_with_the_reason() {
    let store = spilling(8, StoreConfig::default());
    let local = &store.local;
    let stored: Vec<_> = (0..5).map(|n| put(local, n, 2 * MIB).unwrap()).collect();
    local.until("two are on disk", |stats| stats.disk_objects == 2);
    let file = files(local).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[MIB] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = local.client.get_blocking(&stored[0], SOON).unwrap_err();
    assert!(matches!(&error, Error::ObjectLost { why, .. } if why.contains("checksum")), "{error}");
    check(local, &stored[1]);
    let again = local.client.get_blocking(&stored[0], SOON).unwrap_err();
    assert!(matches!(again, Error::ObjectLost { .. }), "{again}");
    std::fs::remove_file(&file).unwrap();
    local.client.free(&stored);
    local.until("all is given back", |stats| stats.used_bytes == 0 && stats.disk_bytes == 0);
}

#[test]
fn what_is_freed_at_any_time_leaves_nothing() {
    let store = spilling(8, StoreConfig::default());
    let local = &store.local;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                let mut kept = Vec::new();
                for n in 0..60 {
                    let stored = put(local, thread * 1000 + n, 100_000 + n as usize * 9973).unwrap();
                    match n % 4 {
                        // Freed while it is being written, or at once.
                        0 => local.client.free(&[stored]),
                        // Freed while somebody reads it.
                        1 => {
                            let value = local.client.get_blocking(&stored, SOON).unwrap();
                            local.client.free(std::slice::from_ref(&stored));
                            assert!(value.data == pattern(value.data.len(), stored.object.seq as u32));
                        }
                        _ => kept.push(stored),
                    }
                    if n % 8 == 7 {
                        // Freed while it is being restored.
                        let wanted = kept.swap_remove(n as usize / 3 % kept.len());
                        let (tell, told) = mpsc::channel();
                        local.client.get(&wanted, SOON, move |value| drop(tell.send(value.map(|v| v.len()))));
                        local.client.free(&[wanted]);
                        // Either it was quick enough, or it is told that it was freed.
                        told.recv_timeout(SOON).unwrap().ok();
                    }
                }
                kept.iter().for_each(|stored| check(local, stored));
                local.client.free(&kept);
            });
        }
    });
    local.until("all is given back", |stats| stats.used_bytes == 0 && stats.objects == 0);
    local.until("the disk too", |stats| stats.disk_bytes == 0 && stats.disk_objects == 0);
}

#[test]
fn what_a_dead_store_left_on_disk_is_removed_by_the_next_one() {
    let first = spilling(8, StoreConfig::default());
    (0..5).for_each(|n| drop(put(&first.local, n, 2 * MIB).unwrap()));
    first.local.until("something is on disk", |stats| stats.disk_objects > 0);
    let living = first.local.store.spill_dir();
    // What a killed store leaves: all that this one has, and nobody who holds the lock.
    let left = first.dir.path().join(format!("mobula-spill-{}", crate::ids::NodeId::random()));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("lock"), "").unwrap();
    for file in files(&first.local) {
        std::fs::copy(&file, left.join(file.file_name().unwrap())).unwrap();
    }
    let spill_dir = Some(first.dir.path().to_owned());
    let second = spilling(8, StoreConfig { spill_dir: spill_dir.clone(), ..StoreConfig::default() });
    assert!(!left.exists() && living.exists(), "a store that lives keeps what it has");
    let third = spilling(8, StoreConfig { spill_dir, ..StoreConfig::default() });
    assert!(living.exists() && second.local.store.spill_dir().exists());
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(third.local.store.spill_dir()).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    third.local.store.shutdown();
    assert!(!third.local.store.spill_dir().exists());
}
