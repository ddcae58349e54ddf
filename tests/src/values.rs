//! Values and waiting.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use mobula::{Array, Bytes, Error, ObjectRef, Value, get, get_timeout, put, remote, wait};

use crate::gate::{Gate, pass};
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("what is put comes out the same", round_trips),
    everywhere("large values come out the same", large_round_trips),
    everywhere("a large array is read where it lies", read_in_place),
    everywhere("get of ten references keeps their order, twice named comes twice", order),
    everywhere("wait for one of four, and for all four", wait_for_some),
    everywhere("wait returns what is ready at its time-out", wait_times_out),
    everywhere("wait refuses duplicates and takes an empty list", wait_of_odd_lists),
    everywhere("get fails at its time-out, and succeeds later", get_times_out),
    everywhere("a chain of 100 tasks", chain),
    everywhere("tasks that need no CPU", no_cpu),
    everywhere("many small tasks", many),
    everywhere("two results of one task", two_results),
    everywhere("awaiting a reference", awaited),
    everywhere("init again is an error, unless it may be", init_twice),
    everywhere("the resources of the cluster", resources),
];

#[remote]
fn echo_text(text: String) -> String {
    text
}

#[remote]
fn add_one(number: i64) -> i64 {
    number + 1
}

#[remote]
fn after(gate: String, number: i64) -> i64 {
    pass(&gate);
    number
}

#[remote(num_cpus = 0.0)]
fn free_of_charge(number: i64) -> i64 {
    number
}

#[remote]
fn ramp(length: u64) -> Vec<f64> {
    (0..length).map(|i| i as f64).collect()
}

#[remote]
fn blob(length: u64, fill: u8) -> Bytes {
    Bytes::from(vec![fill; usize::try_from(length).expect("it fits")])
}

#[remote(num_returns = 2)]
fn divided(a: i64, b: i64) -> (i64, i64) {
    (a / b, a % b)
}

#[remote]
async fn awaits(one: ObjectRef<i64>, other: ObjectRef<i64>) -> Result<i64, Error> {
    Ok(one.await? + other.await?)
}

#[remote]
fn adds_nested(numbers: Vec<ObjectRef<i64>>) -> Result<i64, Error> {
    Ok(get(&numbers)?.into_iter().sum())
}

fn round_trip<T: Value + Clone + PartialEq + Debug>(value: T) {
    let reference = put(value.clone()).expect("it can be put");
    assert_eq!(get(&reference).expect("it can be got"), value);
    // And once more: getting does not consume.
    assert_eq!(get(&reference).expect("it can be got again"), value);
}

fn round_trips() {
    round_trip(0_i64);
    round_trip(0.9_f64);
    round_trip(1_i64 << 62);
    round_trip(u64::MAX);
    round_trip(String::new());
    round_trip("Mobula birostris – 鱝 🐟".to_owned());
    round_trip(None::<i64>);
    round_trip(Some(String::new()));
    round_trip(());
    round_trip(Vec::<i64>::new());
    round_trip(Vec::<Vec<String>>::new());
    round_trip(vec![Vec::<String>::new(), vec![String::new()]]);
    round_trip(BTreeMap::<String, Vec<(u8, Option<bool>)>>::new());
    round_trip(BTreeMap::from([("a".to_owned(), vec![(1_u8, Some(true)), (2, None)])]));
    let text = get(&echo_text.remote("ñandú")).expect("text crosses");
    assert_eq!(text, "ñandú");
}

fn large_round_trips() {
    // Around the size to which results travel inside the reply, and well above it.
    for length in [0, 1, 100 * 1024 - 64, 100 * 1024, 100 * 1024 + 1, 3 << 20] {
        let bytes = Bytes::from((0..length).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
        round_trip(bytes);
        let made = get(&blob.remote(length as u64, 7)).expect("a task makes it");
        assert_eq!(made.len(), length);
        assert!(made.iter().all(|byte| *byte == 7));
    }
    round_trip((0..50_000).map(f64::from).collect::<Vec<f64>>());
    round_trip((0..50_000).map(|i| format!("text {i}")).collect::<Vec<String>>());
}

fn read_in_place() {
    let reference = ramp.remote(1_000_000).as_array();
    let first: Array<f64> = get(&reference).expect("the array");
    let second: Array<f64> = get(&reference).expect("the array again");
    assert_eq!(first.len(), 1_000_000);
    assert_eq!(first[999_999], 999_999.0);
    // Principle 4: written once, read in place; two reads are the same memory.
    assert_eq!(first.as_ptr(), second.as_ptr(), "the second get copied");
    // A read array outlives its reference.
    drop(reference);
    assert_eq!(second.iter().take(3).sum::<f64>(), 3.0);
}

fn order() {
    let references: Vec<_> = (0..10).map(|i| add_one.remote(i)).collect();
    assert_eq!(get(&references).expect("ten results"), (1..=10).collect::<Vec<_>>());
    let twice = vec![references[3].clone(), references[1].clone(), references[3].clone()];
    assert_eq!(get(&twice).expect("duplicates repeat"), [4, 2, 4]);
    assert_eq!(get(&Vec::<ObjectRef<i64>>::new()).expect("nothing"), Vec::<i64>::new());
}

fn wait_for_some() {
    let references: Vec<_> = (0..4).map(|i| add_one.remote(i)).collect();
    let (ready, rest) = wait(&references, 1, None).expect("one");
    assert_eq!((ready.len(), rest.len()), (1, 3));
    let (ready, rest) = wait(&references, 4, None).expect("all");
    assert_eq!((ready.len(), rest.len()), (4, 0));
    assert_eq!(get(&ready).expect("in their order"), [1, 2, 3, 4]);
}

fn wait_times_out() {
    let gate = Gate::new();
    let quick = add_one.remote(0);
    let slow = after.remote(gate.path(), 5);
    get(&quick).expect("the quick one is ready");
    let both = [slow.clone(), quick];
    let (ready, rest) = wait(&both, 2, Duration::from_millis(500)).expect("a time-out is no error here");
    assert_eq!((ready.len(), rest.len()), (1, 1));
    assert_eq!(get(&ready).expect("the quick one"), [1]);
    gate.open();
    let (ready, rest) = wait(&both, 2, None).expect("both, in the end");
    assert_eq!((ready.len(), rest.len()), (2, 0));
    assert_eq!(get(&slow).expect("the slow one"), 5);
}

fn wait_of_odd_lists() {
    let one = add_one.remote(0);
    let twice = [one.clone(), one];
    assert!(matches!(wait(&twice, 1, None), Err(Error::Invalid { .. })), "duplicates are an error");
    let (ready, rest) = wait(Vec::<ObjectRef<i64>>::new(), 1, None).expect("an empty list");
    assert_eq!((ready.len(), rest.len()), (0, 0));
}

fn get_times_out() {
    let gate = Gate::new();
    let slow = after.remote(gate.path(), 3);
    match get_timeout(&slow, Duration::from_millis(100)) {
        Err(Error::TimedOut { .. }) => {}
        other => panic!("expected a time-out, not {other:?}"),
    }
    gate.open();
    assert_eq!(get(&slow).expect("the work went on"), 3);
}

fn chain() {
    let mut number = put(0_i64).expect("put");
    for _ in 0..100 {
        number = add_one.remote(&number);
    }
    assert_eq!(get(&number).expect("the end of the chain"), 100);
}

fn no_cpu() {
    let references: Vec<_> = (0..50).map(|i| free_of_charge.remote(i)).collect();
    assert_eq!(get(&references).expect("all of them"), (0..50).collect::<Vec<_>>());
    assert_eq!(get(&add_one.options().num_cpus(0.0).remote(6)).expect("by option too"), 7);
}

fn many() {
    let references: Vec<_> = (0..5_000).map(|i| add_one.remote(i)).collect();
    assert_eq!(get(&references).expect("all of them").iter().sum::<i64>(), (1..=5_000).sum::<i64>());
}

fn two_results() {
    let (quotient, rest) = divided.remote(17, 5);
    assert_eq!(get((&quotient, &rest)).expect("both"), (3, 2));
    let sum = adds_nested.remote(vec![quotient, rest]);
    assert_eq!(get(&sum).expect("each is an object of its own"), 5);
}

fn awaited() {
    let one = add_one.remote(1);
    let other = add_one.remote(2);
    // Passed inside nothing they would be resolved; a vector keeps them references.
    let sum = adds_nested.remote(vec![one, other]);
    assert_eq!(get(&sum).expect("a task gets"), 5);
    let held = put(add_one.remote(10)).expect("a reference is a value");
    let other = put(add_one.remote(20)).expect("a reference is a value");
    assert_eq!(get(&awaits.remote(held, other)).expect("a task awaits"), 32);
}

fn init_twice() {
    match mobula::init(mobula::Config::default()) {
        Err(Error::Invalid { .. } | Error::NoSession { .. }) => {}
        Err(other) => panic!("another error than expected: {other:?}"),
        Ok(_) => panic!("a second session was made"),
    }
}

fn resources() {
    let all = mobula::cluster_resources().expect("the cluster answers");
    let free = mobula::available_resources().expect("the cluster answers");
    for name in ["CPU", "memory", "object_store_memory"] {
        assert!(all.get(name).is_some_and(|amount| *amount > 0.0), "no {name} in {all:?}");
        assert!(free.get(name).is_some_and(|amount| *amount <= all[name]), "{name} in {free:?}");
    }
    let nodes = mobula::nodes().expect("the cluster answers");
    assert!(nodes.iter().any(|node| node.alive), "no node lives in {nodes:?}");
}
