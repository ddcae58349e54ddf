//! What the macros' code names. Not for users; it changes without notice.
#![allow(missing_docs)]

pub use arrow::record_batch::RecordBatch;
pub use inventory;
pub use mobula_core::node::run_worker_if_asked;
pub use mobula_core::registry::{CallError, CallFuture, CallResult, Code, Instance, RemoteFunction};
pub use mobula_core::value::Value as Encoded;
pub use mobula_core::worker::Outlet;
pub use serde;

pub use mobula_data::class::{BatchClass, BatchObject};
pub use mobula_data::function::{BatchError, BatchFunction};

pub use crate::aggregator::{merge, partial};
pub use crate::batch_call::CalledAs;
pub use crate::format::{as_format_error, call_batch, filter_rows, flat_map_rows, map_rows};
pub use crate::options::ASYNC_MAX_CONCURRENCY;
pub use crate::run::{
    Arguments, CatchDisplay, CatchError, CatchErrorRef, CatchIntoBox, Caught, Exclusive, Fallible, Shared, block_on,
    block_on_main, returned, yield_all,
};
pub use crate::session::EndSession;
pub use crate::value::encode;
