//! The actors of a cluster and the untyped client that everything above is built on.
//!
//! | room | what lives there |
//! |---|---|
//! | [`gcs`] | the head's global state: nodes, jobs, actors, names, key-value, health |
//! | [`raylet`] | a node's resources, leases and worker processes |
//! | [`store`] | a node's objects in shared memory, and pulling them from other nodes |
//! | [`worker`] | runs tasks and hosts user actors |
//! | [`client`] | submits, owns and fetches: functions by id, values as bytes |
//! | [`collective`] | rings of actors that reduce and gather numbers |
//! | [`explain`] | why something waits, where it ran, why it failed |
//! | [`node`] | puts these together into a head, a node, or all of it in one process |
//!
//! What they say to each other is in [`messages`]; what can go wrong in [`error`].

pub mod client;
pub mod collective;
pub mod culprit;
mod delivery;
pub mod error;
pub mod explain;
#[doc(hidden)]
pub mod fuzzing;
pub mod gcs;
pub mod ids;
pub mod labels;
pub mod logging;
pub mod memory;
pub mod messages;
pub mod node;
pub mod package;
mod printed;
pub mod raylet;
mod recent;
pub mod registry;
pub mod resources;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod value;
pub mod worker;
