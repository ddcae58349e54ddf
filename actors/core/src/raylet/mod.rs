//! A node's resources, leases and worker processes.
//!
//! [`Scheduler`] is the pure core: who waits, who holds a lease, which worker serves it, which
//! other node a need is sent to. [`server`] is the actor around it; [`workers`] starts, watches
//! and ends the processes.
//!
//! ```text
//!  WantLeases ──▶ line ──▶ room here and a worker?  ──▶ LeaseGranted     ◀── ReturnLeases
//!                  │  ▲        no room │                    │                LeaseBlocked
//!                  │  └────────────────┘                    └─ worker died ─▶ LeaseLost
//!                  └─ better elsewhere ──▶ LeaseRedirected
//! ```
//!
//! It does not see tasks: those go straight from the client to the leased worker.

mod actor_wants;
mod binaries;
mod bundles;
mod envs;
mod gpus;
mod line;
mod output;
mod pool;
mod redirect;
mod scheduler;
pub mod server;
pub mod spawn;
#[cfg(test)]
mod tests;
mod victims;
pub mod workers;

pub use scheduler::{Asker, Effect, Scheduler, SchedulerConfig};
