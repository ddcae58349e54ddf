//! What a caller may ask for, for one task or one actor.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::task_queue::TaskQueue;
use crate::error::Error;
use crate::ids::PlacementGroupId;
use crate::messages::{CallRules, Strategy, WorkerKind};
use crate::registry::RemoteFunction;
use crate::resources::{CPU, FRACTIONS_PER_UNIT, GPU, Resources, group};
use crate::value::Value;

/// How often a task lost with its worker or node is run again, unless told otherwise.
pub const DEFAULT_MAX_RETRIES: u32 = 3;

/// How many values a streaming task or call may have yielded that were not consumed, unless told
/// otherwise.
pub const DEFAULT_BACKPRESSURE_NUM_OBJECTS: u32 = 16;

/// The most that can be asked for instead.
pub const MAX_BACKPRESSURE_NUM_OBJECTS: u32 = 4_096;

/// What a panic is called where an error's type has a name.
pub const PANIC_TYPE_NAME: &str = "panic";

/// Which failures of its own code make a task run again, as long as it has retries left.
#[derive(Clone, Default)]
pub enum RetryExceptions {
    /// None: they are its result.
    #[default]
    Never,
    /// Every error and every panic.
    Always,
    /// Those whose type's name (of a panic: [`PANIC_TYPE_NAME`]) this accepts.
    If(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl RetryExceptions {
    /// Whether this is a failure of the code that makes it run again.
    pub(crate) fn covers(&self, error: &Error) -> bool {
        let type_name = match error {
            Error::Application { type_name, .. } => type_name,
            Error::Panicked { .. } => PANIC_TYPE_NAME,
            _ => return false,
        };
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::If(accepts) => accepts(type_name),
        }
    }
}

impl fmt::Debug for RetryExceptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::Always => "Always",
            Self::If(_) => "If(..)",
        })
    }
}

/// The options of a task. Made once and shared by many calls: `Arc<TaskOptions>`.
#[derive(Debug)]
pub struct TaskOptions {
    /// What it needs while it runs.
    pub demand: Resources,
    /// Where it may run.
    pub strategy: Strategy,
    /// In which placement group it runs, and in which bundle of it; in any unless given.
    pub group: Option<InGroup>,
    /// In which kind of process.
    pub kind: WorkerKind,
    /// A name for people.
    pub name: Option<String>,
    /// How often it is run again when its worker or node is lost, or its code fails in a way that
    /// makes it run again.
    pub max_retries: u32,
    /// Which failures of its code do.
    pub retry_exceptions: RetryExceptions,
    /// How many values it returns.
    pub returns: u32,
    /// How many values a streaming task may have yielded that were not consumed.
    pub backpressure_num_objects: u32,
    /// The queue of the session that used these options first, so that a call finds it without
    /// looking its shape up.
    pub(crate) queue: OnceLock<(u64, Arc<TaskQueue>)>,
}

impl TaskOptions {
    /// In which kind of process it runs: what has GPUs, in one that sees no others.
    pub(super) fn placed_kind(&self) -> WorkerKind {
        kind_for(self.kind, &self.demand)
    }

    /// What is asked of the nodes.
    pub(super) fn placed_demand(&self) -> Resources {
        within(self.group.as_ref(), &self.demand)
    }
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            demand: one_cpu(),
            strategy: Strategy::Default,
            group: None,
            kind: WorkerKind::Shared,
            name: None,
            max_retries: DEFAULT_MAX_RETRIES,
            retry_exceptions: RetryExceptions::Never,
            returns: 1,
            backpressure_num_objects: DEFAULT_BACKPRESSURE_NUM_OBJECTS,
            queue: OnceLock::new(),
        }
    }
}

impl Clone for TaskOptions {
    fn clone(&self) -> Self {
        Self {
            demand: self.demand.clone(),
            strategy: self.strategy.clone(),
            group: self.group.clone(),
            kind: self.kind,
            name: self.name.clone(),
            max_retries: self.max_retries,
            retry_exceptions: self.retry_exceptions.clone(),
            returns: self.returns,
            backpressure_num_objects: self.backpressure_num_objects,
            queue: OnceLock::new(),
        }
    }
}

/// The options of an actor.
#[derive(Debug, Clone)]
pub struct ActorOptions {
    /// Its public name.
    pub name: Option<String>,
    /// The namespace of the name; the session's unless given.
    pub namespace: Option<String>,
    /// What it holds while it lives; nothing by default.
    pub demand: Resources,
    /// What must be free to place it; one CPU by default.
    pub placement_demand: Resources,
    /// Where it may live.
    pub strategy: Strategy,
    /// In which placement group it lives, and in which bundle of it; in any unless given.
    pub group: Option<InGroup>,
    /// In which kind of process.
    pub kind: WorkerKind,
    /// How many `&self` calls may run at once.
    pub max_concurrency: u32,
    /// How many of each concurrency group's.
    pub concurrency_groups: Vec<(String, u32)>,
    /// How often it is made again after a failure of the system; -1 without end.
    pub max_restarts: i32,
    /// Whether it outlives its job.
    pub detached: bool,
    /// How its calls are treated.
    pub rules: CallRules,
    /// Whether a living actor of the same name is taken instead of failing.
    pub get_if_exists: bool,
}

impl Default for ActorOptions {
    fn default() -> Self {
        Self {
            name: None,
            namespace: None,
            demand: Resources::new(),
            placement_demand: one_cpu(),
            strategy: Strategy::Default,
            group: None,
            kind: WorkerKind::Shared,
            max_concurrency: 1,
            concurrency_groups: Vec::new(),
            max_restarts: 0,
            detached: false,
            rules: CallRules::default(),
            get_if_exists: false,
        }
    }
}

/// The options of one call, where they differ from the rules of its actor.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// How often it is made again when it was lost with its worker, or its code fails in a way that
    /// makes it run again; -1 without end.
    pub max_task_retries: Option<i32>,
    /// Which failures of its code do.
    pub retry_exceptions: RetryExceptions,
    /// How many values a streaming call may have yielded that were not consumed;
    /// [`DEFAULT_BACKPRESSURE_NUM_OBJECTS`] unless given.
    pub backpressure_num_objects: Option<u32>,
    /// How its stored results are made again if they are lost after it has ended; without it they cannot be.
    pub as_task: Option<AsTask>,
}

/// A task that gives what a call gave: for calls whose results depend on nothing that their actor has been
/// through since it was made. It is submitted when a stored result of the call is lost with its node.
#[derive(Clone, Debug)]
pub struct AsTask {
    /// Takes [`first`](Self::first), then the arguments of the call, and returns as many results as it did.
    pub function: &'static RemoteFunction,
    /// How it is submitted; how often, too.
    pub options: Arc<TaskOptions>,
    /// What it takes before the arguments of the call: what the actor was made from.
    pub first: Value,
}

/// In the room of a placement group.
#[derive(Debug, Clone)]
pub struct InGroup {
    /// The group.
    pub group: PlacementGroupId,
    /// One of its bundles; any unless given.
    pub index: Option<u32>,
    /// What its bundles reserve.
    pub bundles: Arc<[Resources]>,
}

impl InGroup {
    /// Whether work with this demand can ever run there.
    pub(super) fn check(&self, demand: &Resources) -> Result<(), Error> {
        let bundles = match self.index {
            Some(index) => self.bundles.get(index as usize).map_or(&[][..], std::slice::from_ref),
            None => &self.bundles,
        };
        if bundles.iter().any(|bundle| bundle.covers(demand)) {
            return Ok(());
        }
        let which = match self.index {
            Some(index) => format!("bundle {index} of the placement group has"),
            None => "no bundle of the placement group has more than".to_owned(),
        };
        let largest = bundles.iter().max().cloned().unwrap_or_default();
        Err(Error::Invalid { what: format!("{demand} is needed, {which} {largest}") })
    }
}

/// What is asked of the nodes for this demand: of a placement group's room, if it is to run in one.
pub(super) fn within(group: Option<&InGroup>, demand: &Resources) -> Resources {
    match group {
        Some(inside) => group::inside(inside.group, inside.index, demand),
        None => demand.clone(),
    }
}

/// Which kind of process work with this demand needs.
pub(super) fn kind_for(kind: WorkerKind, demand: &Resources) -> WorkerKind {
    if demand.fractions(GPU) > 0 { WorkerKind::Process } else { kind }
}

fn one_cpu() -> Resources {
    let mut demand = Resources::new();
    demand.set(CPU, FRACTIONS_PER_UNIT);
    demand
}
