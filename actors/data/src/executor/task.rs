//! A block as a task: what it is sent, what it sends back, and the function that runs it.

use std::ops::ControlFlow;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use mobula_core::error::Error;
use mobula_core::registry::{CallError, CallResult, Code, RemoteFunction};
use mobula_core::value::{Encoding, Value};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::live::{Found, RunId, find};
use super::needs::functions;
use super::{RunError, uuid_text};
use crate::class::Objects;
use crate::error::DataError;
use crate::execute::{BatchFunctions, BlockContext, BlockReport, run_block};
use crate::ipc;
use crate::stage::{BlockTask, Stage};

/// What all blocks of a run are sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) run: RunId,
    pub(super) stage: Stage,
}

/// What a block sends back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Where it ran.
    pub(super) node: String,
    pub(super) result: Result<BlockReport, DataError>,
}

const RUN_BLOCK_NAME: &str = concat!("mobula-data@", env!("CARGO_PKG_VERSION"), "::run_block");

pub(super) static RUN_BLOCK: RemoteFunction = RemoteFunction {
    name: RUN_BLOCK_NAME,
    signature: "(Order, BlockTask, RecordBatch?..) -> (Answer, RecordBatch?..)",
    group: "",
    code: Code::Task(run_block_task),
};

inventory::submit! {
    RemoteFunction {
        name: RUN_BLOCK_NAME,
        signature: "(Order, BlockTask, RecordBatch?..) -> (Answer, RecordBatch?..)", group: "",
        code: Code::Task(run_block_task),
    }
}

fn run_block_task(mut args: Vec<Value>) -> CallResult {
    if args.is_empty() {
        return Err(too_few());
    }
    let block = args.split_off(1);
    let order: Order = decode(&args[0]).map_err(system)?;
    // There are objects to be made only where an actor had run the block, and what it gave was lost.
    let objects = Objects::make(functions(&order.stage.branches));
    run_task(&order, block, objects.as_ref().map(|objects| objects as _).map_err(Clone::clone))
}

/// Runs a block, given with its objects, with these functions; without them its result is why.
pub(super) fn run_task(
    order: &Order,
    mut args: Vec<Value>,
    functions: Result<&dyn BatchFunctions, DataError>,
) -> CallResult {
    if args.is_empty() {
        return Err(too_few());
    }
    let objects = args.split_off(1);
    let task: BlockTask = decode(&args[0]).map_err(system)?;
    let ran = functions.and_then(|functions| run_here(&task, order, &objects, functions));
    let (result, values) = match ran {
        Ok((report, values)) => (Ok(report), values),
        Err(error) => {
            let nothing = Value::new(Encoding::ARROW, Vec::new());
            (Err(error), vec![nothing; order.stage.sink.objects() as usize])
        }
    };
    let node = mobula_core::worker::node_name().unwrap_or_default();
    let answer = encode(&Answer { node, result }).map_err(system)?;
    Ok(std::iter::once(answer).chain(values).collect())
}

fn too_few() -> CallError {
    CallError::System(Error::Invalid { what: "a block is run with an order, a block and its objects".to_owned() })
}

fn run_here(
    task: &BlockTask,
    order: &Order,
    objects: &[Value],
    functions: &dyn BatchFunctions,
) -> Result<(BlockReport, Vec<Value>), DataError> {
    let counters = match find(order.run) {
        Found::Here(counters) => Some(counters),
        Found::Elsewhere => None,
        Found::Ended => return Err(DataError::Cancelled),
    };
    let started = Instant::now();
    let attempt = uuid_text();
    let context = BlockContext {
        functions,
        object: &|index| {
            let value = objects.get(index).ok_or_else(|| lost(index))?;
            decode_batch(value.clone()).map_err(|error| unreadable(index, &error))
        },
        progress: &|progress| match &counters {
            Some(counters) if !counters.add(progress) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
        clock: &|| started.elapsed(),
        attempt: &attempt,
    };
    let output = run_block(task, &order.stage, &context)?;
    let mut report = output.report;
    let ran = started.elapsed();
    let mut values = Vec::with_capacity(output.objects.len());
    for (batches, told) in output.objects.into_iter().zip(&mut report.objects) {
        // One after the other: the rows of a part go when their bytes are there.
        let value = encode_batches(&batches).map_err(|error| unreadable(values.len(), &error))?;
        told.bytes = value.len() as u64;
        values.push(value);
    }
    // Encoding them is the sink's work, too.
    let encoding = (started.elapsed() - ran).as_secs_f64();
    report.seconds += encoding;
    if let Some(sink) = report.operators.last_mut() {
        sink.bytes_out += report.objects.iter().map(|object| object.bytes).sum::<u64>();
        sink.seconds += encoding;
    }
    Ok((report, values))
}

fn lost(index: usize) -> DataError {
    unreadable(index, &"it was not sent")
}

fn unreadable(index: usize, cause: &dyn std::fmt::Display) -> DataError {
    let (operator, cause) = ("exchange".into(), format!("object {index}: {cause}"));
    DataError::Compute { operator, path: String::new(), cause }
}

/// All rows of a block as one batch; no bytes if there are none.
fn encode_batches(batches: &[RecordBatch]) -> Result<Value, RunError> {
    let Some(first) = batches.first() else {
        return Ok(Value::new(Encoding::ARROW, Vec::new()));
    };
    let whole = arrow::compute::concat_batches(&first.schema(), batches).map_err(|error| codec("encoded", &error))?;
    let pieces = ipc::encode(&whole).map_err(|error| codec("encoded", &error))?;
    Ok(Value::returned(Encoding::ARROW, pieces))
}

pub(super) fn decode_batch(value: Value) -> Result<Option<RecordBatch>, RunError> {
    if value.is_empty() {
        return Ok(None);
    }
    ipc::decode(value.data).map(Some).map_err(|error| codec("decoded", &error))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Value, RunError> {
    let data = rmp_serde::to_vec_named(value).map_err(|error| codec("encoded", &error))?;
    Ok(Value::new(Encoding::MSGPACK, data))
}

pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, RunError> {
    rmp_serde::from_slice(&value.data).map_err(|error| codec("decoded", &error))
}

fn codec(doing: &str, error: &dyn std::fmt::Display) -> RunError {
    RunError::Core(Error::Codec { what: "a block".to_owned(), doing: doing.to_owned(), why: error.to_string() })
}

pub(super) fn system(error: RunError) -> CallError {
    CallError::System(match error {
        RunError::Core(error) => error,
        error => Error::Invalid { what: error.to_string() },
    })
}
