//! Arguments: resolved at the top level, references when nested, in every mix.

use mobula::{Bytes, Error, NodeId, ObjectRef, get, put, remote};
use serde::{Deserialize, Serialize};

use crate::gate::{Gate, Tally, count, pass, wait_until};
use crate::{Scenario, everywhere, on_cluster, stores};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a reference at the top level is resolved before the task runs", resolved),
    everywhere("a nested reference stays a reference", nested),
    everywhere("every mix of task and actor, small and large, direct and nested", every_mix),
    everywhere("a reference handed on twice", handed_on),
    on_cluster("an object is sent to a node once, however many want it there", sent_once),
    everywhere("a result may hold references", returned),
    everywhere("an argument that failed fails the task", failed),
    everywhere("borrowed parameters", borrowed),
    everywhere("a thousand references in one argument", thousand),
    everywhere("what cannot be decoded is an error that names it", undecodable),
];

/// Below and well above the size to which values travel inside messages.
const SIZES: [usize; 3] = [10, 100 * 1024 + 1, 2 << 20];

#[derive(Serialize, Deserialize)]
struct Nested {
    bytes: ObjectRef<Bytes>,
}

#[remote]
fn length(bytes: Bytes) -> u64 {
    checked(&bytes)
}

#[remote]
fn nested_length(nested: Nested) -> Result<u64, Error> {
    Ok(checked(&get(&nested.bytes)?))
}

#[remote]
fn make(size: u64) -> Bytes {
    pattern(usize::try_from(size).expect("it fits"))
}

struct Reader;

#[remote]
impl Reader {
    fn new() -> Self {
        Self
    }

    fn length(&mut self, bytes: Bytes) -> u64 {
        checked(&bytes)
    }

    fn nested_length(&mut self, nested: Nested) -> Result<u64, Error> {
        Ok(checked(&get(&nested.bytes)?))
    }
}

fn pattern(size: usize) -> Bytes {
    Bytes::from((0..size).map(|i| (i % 253) as u8).collect::<Vec<u8>>())
}

/// The length, if the content is what [`pattern`] made.
fn checked(bytes: &[u8]) -> u64 {
    assert!(
        bytes.iter().enumerate().all(|(i, byte)| *byte == (i % 253) as u8),
        "the bytes are not those that were sent"
    );
    bytes.len() as u64
}

fn resolved() {
    let reference = put(pattern(10)).expect("put");
    assert_eq!(get(&length.remote(&reference)).expect("resolved"), 10);
    assert_eq!(get(&length.remote(reference)).expect("by value too"), 10);
    assert_eq!(get(&length.remote(make.remote(11))).expect("a task's result too"), 11);
}

#[remote]
fn make_late(gate: String, size: u64) -> Bytes {
    pass(&gate);
    pattern(usize::try_from(size).expect("it fits"))
}

#[remote]
fn nested_late(started: String, nested: Nested) -> Result<u64, Error> {
    count(&started);
    Ok(checked(&get(&nested.bytes)?))
}

fn nested() {
    let (started, gate) = (Tally::new(), Gate::new());
    let bytes = make_late.remote(gate.path(), 12);
    let outer = nested_late.remote(started.path(), Nested { bytes });
    // It starts with the reference, whose value does not exist yet.
    wait_until("the task to start", || started.get() == 1);
    gate.open();
    assert_eq!(get(&outer).expect("the task got it itself"), 12);
}

fn every_mix() {
    let reader = Reader::remote();
    for size in SIZES {
        let expected = size as u64;
        for from_task in [false, true] {
            let reference = || {
                if from_task { make.remote(expected) } else { put(pattern(size)).expect("put") }
            };
            let nested = || Nested { bytes: reference() };
            let what = format!("{size} bytes, from a task: {from_task}");
            assert_eq!(get(&length.remote(pattern(size))).expect(&what), expected, "task, by value, {what}");
            assert_eq!(get(&length.remote(reference())).expect(&what), expected, "task, direct, {what}");
            assert_eq!(get(&nested_length.remote(nested())).expect(&what), expected, "task, nested, {what}");
            assert_eq!(get(&reader.length().remote(pattern(size))).expect(&what), expected, "actor, by value, {what}");
            assert_eq!(get(&reader.length().remote(reference())).expect(&what), expected, "actor, direct, {what}");
            assert_eq!(get(&reader.nested_length().remote(nested())).expect(&what), expected, "actor, nested, {what}");
        }
    }
}

#[remote]
fn pass_on(nested: Nested, hops: u32) -> Result<u64, Error> {
    if hops == 0 {
        return Ok(checked(&get(&nested.bytes)?));
    }
    get(&pass_on.remote(nested, hops - 1))
}

fn handed_on() {
    for size in SIZES {
        let bytes = make.remote(size as u64);
        let answer = pass_on.remote(Nested { bytes }, 2);
        assert_eq!(get(&answer).expect("borrowed from a borrower"), size as u64);
    }
}

fn sent_once() {
    const LARGE: usize = 20 << 20;
    let nodes = mobula::nodes().expect("the cluster answers");
    let away: Vec<_> = nodes.iter().filter(|node| node.alive && node.name != "head").collect();
    let before = stores::pulled_bytes();
    let bytes = put(pattern(LARGE)).expect("put");
    let reads = |node: NodeId| length.options().on_node(node).num_cpus(0.25).remote(&bytes);
    let tasks: Vec<_> = away.iter().flat_map(|node| (0..8).map(|_| reads(node.id))).collect();
    assert!(get(&tasks).expect("they read it").into_iter().all(|read| read == LARGE as u64));
    assert_eq!(stores::pulled_bytes() - before, (LARGE * away.len()) as u64);
}

#[remote]
fn several(size: u64) -> Result<Vec<ObjectRef<Bytes>>, Error> {
    Ok(vec![make.remote(size), put(pattern(usize::try_from(size).expect("it fits")))?])
}

fn returned() {
    for size in SIZES {
        let references = get(&several.remote(size as u64)).expect("a vector of references");
        assert_eq!(references.len(), 2);
        for bytes in get(&references).expect("what they refer to") {
            assert_eq!(checked(&bytes), size as u64);
        }
    }
}

#[remote]
fn fails() -> Result<Bytes, String> {
    Err("no bytes today".to_owned())
}

fn failed() {
    let error = get(&length.remote(fails.remote())).expect_err("the argument failed");
    assert!(error.to_string().contains("no bytes today"), "the reason is lost: {error}");
    let reader = Reader::remote();
    let error = get(&reader.length().remote(fails.remote())).expect_err("the argument failed");
    assert!(error.to_string().contains("no bytes today"), "the reason is lost: {error}");
    assert_eq!(get(&reader.length().remote(pattern(3))).expect("the actor lives on"), 3);
}

#[remote]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[remote]
fn shout(text: &str, times: &u32) -> String {
    text.to_uppercase().repeat(*times as usize)
}

fn borrowed() {
    let numbers: Vec<f64> = (0..100_000).map(f64::from).collect();
    let shared = put(numbers.clone()).expect("put");
    let expected: f64 = numbers.iter().map(|x| x * x).sum();
    assert_eq!(get(&dot.remote(&shared, &shared)).expect("twice the same"), expected);
    assert_eq!(get(&dot.remote(&shared, numbers)).expect("mixed"), expected);
    assert_eq!(get(&shout.remote("ray", 2)).expect("text"), "RAYRAY");
}

#[remote]
fn total(numbers: Vec<ObjectRef<i64>>) -> Result<i64, Error> {
    Ok(get(&numbers)?.into_iter().sum())
}

#[remote]
fn identity(number: i64) -> i64 {
    number
}

fn thousand() {
    let numbers: Vec<_> = (0..1_000).map(|i| identity.remote(i)).collect();
    assert_eq!(get(&total.remote(numbers)).expect("all of them"), 499_500);
}

/// Writes itself as one thing and reads itself as another.
#[derive(Debug)]
struct TwoFaced;

impl Serialize for TwoFaced {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("text")
    }
}

impl<'de> Deserialize<'de> for TwoFaced {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|_| Self)
    }
}

#[remote]
fn takes_two_faced(value: TwoFaced) -> bool {
    let _ = value;
    true
}

fn undecodable() {
    let error = get(&takes_two_faced.remote(TwoFaced)).expect_err("it cannot be read");
    assert!(matches!(error, Error::Codec { .. }), "not a codec error: {error:?}");
    assert!(error.to_string().contains("TwoFaced"), "the type is not named: {error}");
}
