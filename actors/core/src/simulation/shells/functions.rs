//! What the workers of the simulation run: tasks and a counter, as the programs describe them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use uuid::Uuid;

use super::cluster::Cluster;
use crate::client::{Arg, Client, ObjectHandle, TaskOptions};
use crate::culprit::accused;
use crate::error::Error;
use crate::ids::{ActorId, FunctionId};
use crate::registry::{CallError, CallResult, Code as FunctionCode, Instance, Registry, RemoteFunction};
use crate::simulation::message::Run;
use crate::simulation::program::{Code, cpus, mix};
use crate::simulation::stage::Stage;
use crate::simulation::world::process;
use crate::value::{Encoding, Value};

pub(super) const TASK: &str = "simulation::task";
pub(super) const COUNTER: &str = "simulation::Counter::new";
pub(super) const COUNT: &str = "simulation::Counter::count";

inventory::submit! { RemoteFunction { name: TASK, signature: "", group: "", code: FunctionCode::Task(task) } }
inventory::submit! { RemoteFunction { name: COUNTER, signature: "", group: "", code: FunctionCode::Constructor(counter) } }
inventory::submit! { RemoteFunction { name: COUNT, signature: "", group: "", code: FunctionCode::MethodMut(count) } }

/// More than fits into a message.
const LARGE_BYTES: usize = 120 * 1024;

/// The clusters that run in this process, by their numbers.
static CLUSTERS: Mutex<BTreeMap<u64, Cluster>> = Mutex::new(BTreeMap::new());

pub(super) fn admit(cluster: &Cluster) {
    CLUSTERS.lock().insert(cluster.number(), cluster.clone());
}

pub(super) fn dismiss(number: u64) {
    let cluster = CLUSTERS.lock().remove(&number);
    drop(cluster);
}

pub(super) fn function(name: &str) -> &'static RemoteFunction {
    let registry = Registry::global().expect("no function is registered twice");
    registry.function(FunctionId::of(name)).expect("it is registered above")
}

/// A number as a value: alone, or again and again in a large one.
pub(super) fn number(value: u64, large: bool) -> Value {
    let times = if large { LARGE_BYTES / size_of::<u64>() } else { 1 };
    Value::new(Encoding::RAW, value.to_le_bytes().repeat(times))
}

/// The number that a value is.
pub(super) fn read(value: &Value) -> u64 {
    let (words, rest) = value.data.as_chunks::<8>();
    let first = words.first().copied().unwrap_or_default();
    assert!(rest.is_empty() && words.iter().all(|word| *word == first), "a value is damaged");
    u64::from_le_bytes(first)
}

/// Whether a task's result lies in a store.
fn is_large(code: &Code) -> bool {
    code.id.is_multiple_of(5)
}

/// What is told to each function first: the cluster and two numbers.
pub(super) fn words(cluster: u64, first: u64, second: u64) -> Arg {
    let bytes: Vec<u8> = [cluster, first, second].iter().flat_map(|word| word.to_le_bytes()).collect();
    Arg::Value(Value::new(Encoding::RAW, bytes))
}

fn header(value: &Value) -> Result<(Cluster, Stage, u64, u64), CallError> {
    let (words, _) = value.data.as_chunks::<8>();
    let [number, first, second] = [0, 1, 2].map(|n| u64::from_le_bytes(words[n]));
    let gone = || CallError::System(Error::Invalid { what: "the simulation is over".to_owned() });
    let cluster = CLUSTERS.lock().get(&number).cloned().ok_or_else(gone)?;
    let stage = Stage::current().ok_or_else(gone)?;
    // A process that has been killed does nothing more.
    stage.sleep(Duration::ZERO);
    Ok((cluster, stage, first, second))
}

fn task(args: Vec<Value>) -> CallResult {
    let (cluster, stage, id, n) = header(&args[0])?;
    let code = cluster.code(id).expect("every code is known");
    let runs = {
        let mut record = cluster.record().lock();
        record.runs(&code);
        record.runs_of(id)
    };
    stage.sleep(Duration::from_micros(code.run_us));
    if runs <= code.crashes {
        let worker = stage.life().process().expect("a worker is a process");
        cluster.workers().kill(&cluster, worker, "its task crashed it", accused());
        stage.sleep(Duration::ZERO);
    }
    let children = children(&cluster, &code)?;
    let numbers: Vec<u64> = std::iter::once(n).chain(args[1..].iter().map(read)).collect();
    let value = cluster.record().lock().maybe_wrong(Ok(mix(&code, &numbers, &children))).map_err(CallError::System)?;
    Ok(vec![number(value, is_large(&code))])
}

/// Submits tasks and waits for them.
fn children(cluster: &Cluster, code: &Code) -> Result<Vec<u64>, CallError> {
    let Some(client) = Client::current() else { return Ok(Vec::new()) };
    let options = Arc::new(TaskOptions { demand: cpus(0.5), max_retries: u32::MAX, ..TaskOptions::default() });
    let submitted: Vec<ObjectHandle> = (code.children.iter())
        .flat_map(|child| client.submit(function(TASK), smallvec![words(cluster.number(), child.id, 0)], &options))
        .collect();
    let values = client.get(&submitted, None).map_err(CallError::System)?;
    Ok(values.iter().map(read).collect())
}

struct Counter {
    actor: ActorId,
    incarnation: u32,
    sum: u64,
}

pub(super) fn constructor_args(cluster: u64, actor: ActorId) -> SmallVec<[Arg; 2]> {
    let (high, low) = actor.0.as_u64_pair();
    smallvec![words(cluster, high, low)]
}

fn counter(args: Vec<Value>) -> Result<Instance, CallError> {
    let (cluster, stage, high, low) = header(&args[0])?;
    let actor = ActorId(Uuid::from_u64_pair(high, low));
    stage.sleep(Duration::from_millis(1));
    let incarnation = cluster.record().lock().next_incarnation(actor);
    Ok(Box::new(Counter { actor, incarnation, sum: 0 }))
}

fn count(state: &mut (dyn Any + Send + Sync), args: Vec<Value>) -> CallResult {
    let (cluster, stage, id, n) = header(&args[0])?;
    let code = cluster.code(id).expect("every code is known");
    stage.sleep(Duration::from_micros(code.run_us));
    assert!(!code.panics, "the program wants it so");
    let counter = state.downcast_mut::<Counter>().expect("it is one");
    counter.sum += code.amount;
    // Codes are numbered by their driver.
    let caller = process(99 + u128::from(id >> 32)).id;
    let twice = cluster.record().lock().runs_twice();
    for _ in 0..if twice { 2 } else { 1 } {
        let run = Run { seq: n, attempt: 0, code: code.clone(), args: Vec::new() };
        cluster.record().lock().calls((counter.actor, counter.incarnation), caller, &run, counter.sum);
    }
    Ok(vec![number(counter.sum, false)])
}
