//! A node's objects in shared memory, and pulling them from other nodes.

pub(crate) mod background;
pub(crate) mod directory;
pub(crate) mod ledger;
pub(crate) mod mapping;
pub mod messages;
pub(crate) mod pool;
pub(crate) mod pull;
pub(crate) mod segment;
pub(crate) mod table;

pub use segment::SegmentId;
