//! Objects that have no room in memory, in a store of [`STORE_BYTES`].

use mobula::{Bytes, Error, ObjectRef, get, put, remote};

use crate::gate::{folder, wait_until};
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("results that have no room come back in any order", results),
    everywhere("spilled objects are arguments like others", arguments),
    everywhere("values in use stay where they are while others are spilled", in_use),
    everywhere("an object larger than the store is an error", too_large),
];

/// What takes its time.
pub(crate) const MANY_GETS: &[Scenario] =
    &[everywhere("a small store takes 100 arrays, and 1,000 random gets are what was put", many_arrays)];

/// Scenarios of a store that may write [`DISK_BYTES`] to its disk.
pub(crate) const BOUNDED: &[Scenario] =
    &[everywhere("a full disk is an error to the writer and loses nothing", full_disk)];

/// How small the store is.
pub(crate) const STORE_BYTES: u64 = 75 << 20;
/// How much of its disk it may have, where that is bounded.
pub(crate) const DISK_BYTES: u64 = 100 << 20;
/// Where it spills to: what is tested is not how fast a disk is, and others need that too.
pub(crate) const SPILL_DIR: &str = "/dev/shm";
const MIB: usize = 1 << 20;

/// Bytes that repeat after so long that no two arrays of a test are equal.
struct Pattern(Bytes);

impl Pattern {
    const LONGEST: usize = 24_000_000;

    fn new() -> Self {
        let words = (0..Self::LONGEST as u64 / 8 + 1000).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self(Bytes::from(words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()))
    }

    /// The array of this number: 8 to 24 MB.
    fn array(&self, n: usize) -> Bytes {
        self.0.slice(n * 8..n * 8 + 8_000_000 + n * 1_999_993 % 16_000_000)
    }
}

fn many_arrays() {
    let pattern = Pattern::new();
    let arrays: Vec<ObjectRef<Bytes>> =
        (0..100).map(|n| put(pattern.array(n)).expect("a store that spills has room")).collect();
    let mut random = 1u64;
    for _ in 0..1000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (random >> 33) as usize % 100;
        assert!(get(&arrays[n]).expect("it comes back") == pattern.array(n), "array {n}");
    }
}

#[remote]
fn filled(length: usize, fill: u8) -> Bytes {
    Bytes::from(vec![fill; length])
}

#[remote]
fn first_and_length(bytes: Bytes) -> (u8, usize) {
    (bytes[0], bytes.len())
}

fn results() {
    let blobs: Vec<_> = (0..12u8).map(|n| filled.remote(20 * MIB, n)).collect();
    for (n, blob) in blobs.iter().enumerate().rev() {
        assert!(get(blob).expect("it comes back") == vec_of(n as u8), "result {n}");
    }
}

fn arguments() {
    let blobs: Vec<_> = (0..8u8).map(|n| put(vec_of(n)).expect("room")).collect();
    let firsts: Vec<_> = blobs.iter().map(|blob| first_and_length.remote(blob)).collect();
    for (n, first) in firsts.iter().enumerate() {
        assert_eq!(get(first).expect("it ran"), (n as u8, 20 * MIB));
    }
}

fn vec_of(fill: u8) -> Bytes {
    Bytes::from(vec![fill; 20 * MIB])
}

fn in_use() {
    let held = put(vec_of(7)).expect("room");
    let value = get(&held).expect("it is there");
    let place = value.as_ptr();
    let others: Vec<_> = (0..8u8).map(|n| put(vec_of(n)).expect("room")).collect();
    assert!(value == vec_of(7));
    assert_eq!(get(&held).expect("it is still there").as_ptr(), place);
    drop(value);
    for (n, other) in others.iter().enumerate() {
        assert!(get(other).expect("it comes back") == vec_of(n as u8));
    }
    assert_eq!(get(&held).expect("it comes back")[0], 7);
}

fn full_disk() {
    let room = STORE_BYTES + DISK_BYTES;
    let mut kept = Vec::new();
    let error = loop {
        assert!(kept.len() as u64 <= room / (20 * MIB as u64), "more than memory and disk hold");
        match put(vec_of(kept.len() as u8)) {
            Ok(blob) => kept.push(blob),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::OutOfDisk { .. }), "{error}");
    assert!(kept.len() as u64 * 20 * MIB as u64 > STORE_BYTES, "it has written to its disk");
    let error = get(&filled.remote(20 * MIB, 1)).expect_err("nor has a result room");
    assert!(matches!(error, Error::OutOfDisk { .. }), "{error}");
    // What is in memory cannot make room for what is on disk until something goes.
    kept.truncate(kept.len() / 2);
    for (n, blob) in kept.iter().enumerate() {
        assert!(get(blob).expect("nothing is lost") == vec_of(n as u8), "object {n}");
    }
    put(vec_of(1)).expect("there is room again");
}

/// A driver of a store of 100 MiB: four results of half of that, read back from the last to the first.
pub(crate) fn four_results() -> Result<(), Error> {
    let blobs: Vec<_> = (0..4u8).map(|n| filled.remote(50 * MIB, n)).collect();
    mobula::wait(&blobs, blobs.len(), None)?;
    println!("results are there");
    for (n, blob) in blobs.iter().enumerate().rev() {
        assert!(get(blob)?.iter().all(|byte| usize::from(*byte) == n), "result {n}");
    }
    println!("results were read");
    let counted = folder().join("counted");
    wait_until("the counts to be read", || counted.exists());
    Ok(())
}

fn too_large() {
    let error = put(Bytes::from(vec![1; STORE_BYTES as usize + 1])).expect_err("it cannot fit");
    assert!(matches!(error, Error::StoreFull { .. }), "{error}");
    assert!(error.to_string().contains("object_store_memory"), "{error}");
    let error = get(&filled.remote(STORE_BYTES as usize + 1, 1)).expect_err("nor as a result");
    assert!(matches!(error, Error::StoreFull { .. }), "{error}");
}
