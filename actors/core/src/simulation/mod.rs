//! A whole cluster in one thread, from a seed.
//!
//! The head, five nodes, their workers and two drivers exchange the real messages over a network
//! that delays, breaks and heals under the seed's control, while processes are killed, stopped and
//! started again. What decides is the real thing: [`Gcs`](crate::gcs::Gcs),
//! [`Scheduler`](crate::raylet::Scheduler), and the client's submitter, doubts and attempts. What
//! stands around them (the actors, the worker's threads, the disk, the transport) is played by
//! short copies of its rules, file by file: [`head`], [`node`], [`worker`], [`client`], [`network`].
//! Time jumps from event to event, so a minute of patience costs nothing.
//!
//! ```text
//!   seed ─▶ Scenario ─▶ World ──step──▶ Process ──Cx──▶ World      rules after every event: record
//!           programs    events          head, node,     messages,  rules at the end:        check
//!           faults      links           worker, driver  timers
//! ```
//!
//! The programs are random tasks, actors, calls and placement groups; a plain function foretells
//! what each returns. The rules are the numbered invariants of ARCHITECTURE.md.
//!
//! A failing seed prints what does not hold, the faults that are needed for it, and the command
//! that replays it. `MOBULA_SIM_SEED=7` runs only that seed, with `MOBULA_SIM_TRACE=1` it prints
//! what happens; `MOBULA_SIM_BREAK` breaks a rule on purpose, see [`scenario::Sabotage`].

// What is moved a few thousand times need not be boxed.
#![allow(clippy::large_enum_variant)]

mod check;
mod client;
mod faults;
mod head;
mod message;
mod network;
mod node;
mod process;
mod program;
mod record;
mod scenario;
mod shells;
mod stage;
mod tests;
mod worker;
mod world;

pub(crate) use stage::Stage;
