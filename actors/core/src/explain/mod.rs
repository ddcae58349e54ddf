//! Why a task, an actor or a placement group waits, where it ran and why it failed.
//!
//! ```text
//!   id ──▶ whose? ──▶ owner: how far it has come     (ExplainTask)
//!                     GCS: actors, groups, nodes     (ExplainActor, ListGroups, GetClusterStatus)
//!                     worker: running, done, where   (ListTasks)
//!                        └──▶ verdicts on every node ──▶ an explanation, for people and programs
//! ```
//!
//! [`Explainer`] asks; what a node lacks is decided by the pure [`judge`]. Nothing is recorded for
//! this but the latest failures, at their owner.

mod asking;
mod ids;
mod judge;
mod words;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::asking::Explainer;
pub use self::ids::TaskName;
pub use self::judge::{NodeVerdict, Verdict, judge};

/// What is known of a task or call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TaskExplanation {
    /// Its id.
    pub task: String,
    /// The user's name for it, or its function's.
    pub name: String,
    /// Its function, `crate@version::path`; empty where nobody remembers.
    pub function: String,
    /// `PENDING_ARGS_AVAIL`, `PENDING_NODE_ASSIGNMENT`, `PENDING_ACTOR`, `SUBMITTED_TO_WORKER`,
    /// `RUNNING`, `CANCELLED`, `FINISHED` or `FAILED`.
    pub state: String,
    /// Why it waits, in a sentence.
    pub reason: Option<String>,
    /// Attempts so far that count, and how many there may be; none of a call.
    pub attempts: Option<(u32, u32)>,
    /// What it needs while it runs, by name; while it waits.
    pub demand: BTreeMap<String, f64>,
    /// Where it may run; while it waits.
    pub strategy: Option<String>,
    /// The placement group it runs in.
    pub placement_group: Option<String>,
    /// The actor that is called.
    pub actor: Option<String>,
    /// The objects that it waits for (the first ones).
    pub waits_for: Vec<String>,
    /// How many tasks or calls come before it.
    pub ahead: Option<u64>,
    /// What each node has to say to it, while it waits for one.
    pub nodes: Vec<NodeVerdict>,
    /// The node on which it runs or ran.
    pub node: Option<String>,
    /// The worker's operating system id.
    pub pid: Option<u32>,
    /// How long it has run, or ran.
    pub run_us: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is known of an actor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ActorExplanation {
    /// Its id.
    pub actor: String,
    /// Its type.
    pub class: String,
    /// Its name.
    pub name: Option<String>,
    /// `PENDING`, `STARTING`, `ALIVE`, `RESTARTING` or `DEAD`.
    pub state: String,
    /// Why it waits or died.
    pub reason: Option<String>,
    /// How often it was made again.
    pub restarts: u32,
    /// How often it may be; -1 without end.
    pub max_restarts: i32,
    /// What must be free to place it.
    pub demand: BTreeMap<String, f64>,
    /// Where it may live.
    pub strategy: String,
    /// The placement group it lives in.
    pub placement_group: Option<String>,
    /// How many actors with the same needs come before it.
    pub ahead: Option<u64>,
    /// What each node has to say to it, while it waits for one.
    pub nodes: Vec<NodeVerdict>,
    /// The node it is on.
    pub node: Option<String>,
    /// Its worker's operating system id.
    pub pid: Option<u32>,
    /// The job that made it.
    pub job: String,
}

/// What is known of a placement group.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PlacementGroupExplanation {
    /// Its id.
    pub group: String,
    /// Its name.
    pub name: Option<String>,
    /// `PACK`, `SPREAD`, `STRICT_PACK` or `STRICT_SPREAD`.
    pub strategy: String,
    /// `PENDING`, `CREATED` or `RESCHEDULING`.
    pub state: String,
    /// Why it waits.
    pub reason: Option<String>,
    /// Its bundles, in order.
    pub bundles: Vec<BundleExplanation>,
    /// The job that made it.
    pub job: String,
}

/// A bundle of a placement group.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BundleExplanation {
    /// What it reserves.
    pub resources: BTreeMap<String, f64>,
    /// The node that has it.
    pub node: Option<String>,
    /// What each node has to say to it, while none has it.
    pub nodes: Vec<NodeVerdict>,
}
