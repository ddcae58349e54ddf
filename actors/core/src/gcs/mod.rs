//! The head's global state: nodes, jobs, actors, names, key-value and health.
//!
//! [`Gcs`] is the pure core: an event and the time go in, [`Effect`]s come out; it has no clock,
//! socket or thread. [`server`] is the actor around it, [`storage`] what survives a restart.
//!
//! ```text
//!            CreateActor                LeaseActor             StartActor
//!  client ───────────────▶ PENDING ──────────────▶ (raylet) ──────────────▶ STARTING ──▶ ALIVE
//!                             ▲   no room: try another node,                   │           │
//!                             │   or wait until something is free              │ constructor's error
//!                             └──────────── RESTARTING ◀── worker or node died ┴─┬─────────┘
//!                                                                                ▼
//!                                                                               DEAD
//! ```
//!
//! It does not know where objects are (their owners do) nor which tasks run (the raylets and the
//! submitters do).

mod actors;
mod bundles;
mod groups;
mod incarnations;
mod jobs;
mod kv;
pub(crate) mod nodes;
pub(crate) mod placement;
mod placing;
pub mod server;
mod state;
pub mod storage;
#[cfg(test)]
mod tests;
mod untold;

pub use groups::GroupRecord;
pub use state::{ActorState, Asker, Effect, Gcs, GcsConfig, Reply, Snapshot, Write};
