//! The same cluster with its shells: the actors, clients, stores and the worker's own code.
//!
//! Where the simulation around this folder plays what stands around the cores, here everything is
//! real that `node` puts together: the GCS and the raylets as actors, clients, workers with slots
//! and user code in them, stores in shared memory, over the transport's simulated network. Time is
//! paused, and threads that run user code take turns with the runtime ([`super::stage`]). Played
//! are processes (an endpoint each, which vanishes when it is killed), the head's disk, and who
//! starts workers ([`cluster`]).
//!
//! ```text
//!   seed ─▶ Scenario ─▶ Cluster   head, 5 nodes, workers ─┐
//!                       drivers   programs over Client  ──┼─▶ Record (rules as they are broken)
//!                       faults    kill, break, cut off  ──┘   judge  (rules when all has healed)
//! ```
//!
//! Programs, faults, the record and its rules are those of the simulation of the cores; here some
//! results are large and lie in stores. A failing seed prints the command that replays it.
//! `MOBULA_SHELLS_SEED=7` runs only that seed, with `MOBULA_SHELLS_TRACE=1` it prints what happens;
//! `MOBULA_SHELLS_BREAK` breaks a rule on purpose, see [`Sabotage`](super::scenario::Sabotage).
//!
//! The raylets that drivers ask first live on, as in the simulation of the cores. Not played: a
//! process that is stopped and goes on (it is cut off instead), async methods, spilling,
//! collectives, runtime environments. `home.rs` and `explain` read files on threads of their own,
//! which is why a history may differ in the order of two messages that are sent at the same moment.

mod cluster;
mod driver;
mod faults;
mod functions;
mod head;
mod judge;
mod tests;
mod workers;
