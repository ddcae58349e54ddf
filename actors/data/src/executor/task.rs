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
use super::{RunError, uuid_text};
use crate::error::DataError;
use crate::execute::{BlockContext, BlockReport, run_block};
use crate::function::RegisteredFunctions;
use crate::ipc;
use crate::planner::{BlockTask, Stage, StageSink};

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
    signature: "(Order, BlockTask) -> (Answer, RecordBatch?)",
    group: "",
    code: Code::Task(run_block_task),
};

inventory::submit! {
    RemoteFunction {
        name: RUN_BLOCK_NAME,
        signature: "(Order, BlockTask) -> (Answer, RecordBatch?)", group: "",
        code: Code::Task(run_block_task),
    }
}

fn run_block_task(args: Vec<Value>) -> CallResult {
    let [order, task] = args.as_slice() else {
        let what = "run_block takes an order and a block".to_owned();
        return Err(CallError::System(Error::Invalid { what }));
    };
    let Order { run, stage } = decode(order).map_err(system)?;
    let task: BlockTask = decode(task).map_err(system)?;
    let (result, batches) = match run_here(&task, &stage, run) {
        Ok((report, batches)) => (Ok(report), batches),
        Err(error) => (Err(error), Vec::new()),
    };
    let node = mobula_core::worker::node_name().unwrap_or_default();
    let mut values = vec![encode(&Answer { node, result }).map_err(system)?];
    if matches!(stage.sink, StageSink::Batches) {
        values.push(encode_batches(&batches).map_err(system)?);
    }
    Ok(values)
}

fn run_here(task: &BlockTask, stage: &Stage, run: RunId) -> Result<(BlockReport, Vec<RecordBatch>), DataError> {
    let counters = match find(run) {
        Found::Here(counters) => Some(counters),
        Found::Elsewhere => None,
        Found::Ended => return Err(DataError::Cancelled),
    };
    let started = Instant::now();
    let attempt = uuid_text();
    let context = BlockContext {
        functions: &RegisteredFunctions,
        progress: &|progress| match &counters {
            Some(counters) if !counters.add(progress) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
        clock: &|| started.elapsed(),
        attempt: &attempt,
    };
    let output = run_block(task, stage, &context)?;
    Ok((output.report, output.batches))
}

/// All rows of a block as one batch; no bytes if there are none.
fn encode_batches(batches: &[RecordBatch]) -> Result<Value, RunError> {
    let Some(first) = batches.first() else {
        return Ok(Value::new(Encoding::ARROW, Vec::new()));
    };
    let whole = arrow::compute::concat_batches(&first.schema(), batches).map_err(|error| codec("encoded", &error))?;
    let pieces = ipc::encode(&whole).map_err(|error| codec("encoded", &error))?;
    Ok(Value::new(Encoding::ARROW, pieces.concat()))
}

pub(super) fn decode_batches(value: Value) -> Result<Option<RecordBatch>, RunError> {
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

fn system(error: RunError) -> CallError {
    CallError::System(match error {
        RunError::Core(error) => error,
        error => Error::Invalid { what: error.to_string() },
    })
}
