//! Puts the actors together: a head, a node, a worker process, a driver's connection, or all of it
//! in one process.
//!
//! ```text
//!  in one process             head process              node process        worker   driver
//!  ┌──────────────┐          ┌─────┐ ┌────────┐         ┌────────┐        ┌──────┐  ┌──────┐
//!  │ GCS          │          │ GCS │ │ raylet │         │ raylet │ starts │worker│  │client│
//!  │ raylet store │          └─────┘ │ store  │         │ store  │ ─────▶ │client│  └──────┘
//!  │ worker client│           own    └────────┘         └────────┘        └──────┘
//!  └──────────────┘          endpoint
//! ```
//!
//! A head that others can reach has two endpoints: the GCS's keeps its process id over restarts of
//! the head, so that its address stays good, while the raylet and store beside it begin anew.
//!
//! | entry | what it starts |
//! |---|---|
//! | [`Head::start`] | GCS, raylet and store |
//! | [`Node::start`] | raylet and store, joined to a head |
//! | [`worker_process_main`] | the worker of a process that a raylet has started |
//! | [`Connection::open`] | a driver's way to a cluster |

mod assembly;
mod binary;
mod driver;
mod error;
mod events;
mod head;
mod member;
mod paths;
mod resources;
mod runtime_env;
#[cfg(test)]
mod tests;
mod worker;

pub use assembly::{NodeParts, NodeTraits};
pub use binary::describe as describe_binary;
pub(crate) use binary::hash_file;
pub use driver::{Connection, ConnectionConfig};
pub use error::NodeError;
pub use head::{Head, HeadConfig, HeadNetwork};
pub use member::{Node, NodeConfig, join};
pub use paths::{CREDENTIALS_VARIABLE, DEFAULT_PORT, credentials_dir, known_address, parse_address, state_dir};
pub use resources::Offer;
pub use runtime_env::{PackedEnv, RuntimeEnv};
pub use worker::{WORKER_VARIABLE, WorkerEnv, run_worker_if_asked, worker_process_main};

/// For the simulation, which has no processes and may not block.
#[cfg(test)]
pub(crate) mod played {
    pub(crate) use super::assembly::{Plan, Processes};
    pub(crate) use super::driver::heartbeats;
    pub(crate) use super::events::follow;
    pub(crate) use super::worker::{raylet_gone, set_up};
}
