//! The messages between clients, raylets, workers and the GCS.
//!
//! ```text
//!  client ── WantLeases ──▶ raylet          client ── CreateActor ──▶ GCS ── LeaseActor ──▶ raylet
//!  client ◀─ LeaseGranted ─ raylet                                    GCS ── StartActor ──▶ worker
//!  client ── PushTasks ───▶ worker          client ── ResolveActor ─▶ GCS
//!  client ◀─ TaskDone ───── worker          client ── PushCalls ────▶ worker ── TaskDone ──▶ client
//!  client ── ReturnLeases ▶ raylet          worker ── ActorExited ──▶ GCS
//! ```
//!
//! The store's own messages are in [`crate::store`].

mod actor;
mod borrow;
mod cluster;
mod explain;
mod group;
mod job;
mod kv;
mod lease;
mod task;
mod worker;

pub use self::actor::*;
pub use self::borrow::*;
pub use self::cluster::*;
pub use self::explain::*;
pub use self::group::*;
pub use self::job::*;
pub use self::kv::*;
pub use self::lease::*;
pub use self::task::*;
pub use self::worker::*;
