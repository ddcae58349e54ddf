//! A stage as an actor: made with the order that all blocks share, called with one after the other.
//!
//! Entry items: [`MAKE_ACTOR`], its constructor, which makes the objects of the functions that keep
//! a state, and [`RUN_ON_ACTOR`], which runs a block with them.

use std::any::Any;

use mobula_core::error::Error;
use mobula_core::registry::{CallError, CallResult, Code, Instance, RemoteFunction};
use mobula_core::value::Value;

use super::needs::functions;
use super::task::{Order, decode, run_task, system};
use crate::class::Objects;
use crate::error::DataError;

/// The actor's state.
struct StageActor {
    order: Order,
    /// Why a constructor failed becomes the result of every block, with its type.
    objects: Result<Objects, DataError>,
}

macro_rules! registered {
    ($(#[$attribute:meta])* $variable:ident, $name:literal, $signature:literal, $code:expr) => {
        $(#[$attribute])*
        pub(super) static $variable: RemoteFunction = RemoteFunction {
            name: concat!("mobula-data@", env!("CARGO_PKG_VERSION"), "::", $name),
            signature: $signature,
            group: "",
            code: $code,
        };

        inventory::submit! {
            RemoteFunction {
                name: concat!("mobula-data@", env!("CARGO_PKG_VERSION"), "::", $name),
                signature: $signature,
                group: "",
                code: $code,
            }
        }
    };
}

registered!(
    /// Makes the actor of a stage.
    MAKE_ACTOR,
    "StageActor::new",
    "(Order)",
    Code::Constructor(make)
);
registered!(
    /// Runs a block on it.
    RUN_ON_ACTOR,
    "StageActor::run_block",
    "(BlockTask, RecordBatch?..) -> (Answer, RecordBatch?..)",
    Code::MethodMut(run)
);

fn make(args: Vec<Value>) -> Result<Instance, CallError> {
    let [order] = args.as_slice() else {
        return Err(CallError::System(Error::Invalid { what: "an actor of a stage takes an order".to_owned() }));
    };
    let order: Order = decode(order).map_err(system)?;
    let objects = Objects::make(functions(&order.stage.branches));
    Ok(Box::new(StageActor { order, objects }))
}

fn run(state: &mut (dyn Any + Send + Sync), args: Vec<Value>) -> CallResult {
    let actor = state.downcast_mut::<StageActor>().ok_or_else(|| {
        let what = "a block was sent to an actor that runs none".to_owned();
        CallError::System(Error::Invalid { what })
    })?;
    run_task(&actor.order, args, actor.objects.as_ref().map(|objects| objects as _).map_err(Clone::clone))
}
