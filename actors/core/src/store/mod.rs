//! A node's objects in shared memory, and pulling them from other nodes.
//!
//! [`Store`] runs on every node; [`StoreClient`] is a process's way to the store of its node. A
//! large object is written into shared memory once and read in place, read-only, by every process
//! of the node; between nodes it streams from shared memory to shared memory. A segment of that
//! memory is used again only when every process that read it has given it back or is dead. When
//! memory gets short, what nobody reads is written to disk, and read back when it is wanted.
//!
//! ```text
//!  process A                      store                              process B
//!  create ─── CreateObject ──▶ ┌─────────┐
//!  (writes in place)           │ shard   │
//!  seal ───── SealObject ────▶ │ table   │ ◀── GetObjects (pins) ───── get
//!                              │         │ ─── where it lies ────────▶ (reads in place)
//!  free ───── FreeObjects ───▶ │         │ ◀── ReleaseObjects ──────── (last clone dropped)
//!                              └─────────┘
//!                         segment is recycled now
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `segment`, `ledger` | pure: size classes; which segments exist and what they add up to |
//! | `table` | pure: objects, pins, waiters |
//! | `spill` | pure: what lies in memory and what on disk, and who waits for room |
//! | `pull` | pure: what is fetched when, and from where |
//! | `broadcast` | pure: who gives an object to whom when many nodes want it |
//! | `directory`, `pool`, `disk`, `mapping`, `background` | the files, their memory, and the threads for it |
//! | [`messages`] | what processes say to a store |
//! | `server`, `client`, `writer`, `bulk`, `arrival` | the shells |
//!
//! The store does not know who owns an object, how often it is referred to, or how to make it
//! again: the owner frees it, and a lost object is an error to whoever asks.

mod arrival;
mod background;
mod broadcast;
mod bulk;
mod client;
mod directory;
mod disk;
mod ledger;
mod mapping;
pub mod messages;
mod pins;
mod pool;
mod pull;
mod segment;
mod server;
mod spill;
mod table;
mod writer;

pub use client::StoreClient;
pub(crate) use client::tell;
pub use segment::SegmentId;
pub use server::{HIGH_WATER_PERCENT, MAX_GET_OBJECTS, ROOM_STALL, Store, StoreConfig, StoreHandle};
pub use writer::ObjectWriter;

#[cfg(test)]
mod tests;
