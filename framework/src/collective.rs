//! Groups of actors and tasks that reduce and gather numbers together.
//!
//! Each member joins with its rank; then all make the same calls in the same order. A call blocks
//! until the member has its result and lends its CPU while it waits. Sums are added up in an order
//! that the ring of the members fixes, so all of them get the same bits, every time.
//!
//! ```
//! use mobula::collective::{Group, GroupConfig, GroupError, ReduceOp};
//! use mobula::{Config, ObjectRef, get, remote};
//!
//! #[remote]
//! fn member(rank: u32) -> Result<Vec<f64>, GroupError> {
//!     let mut group = Group::join(GroupConfig::new("means", 3, rank))?;
//!     let mut sums = vec![f64::from(rank), 1.0];
//!     group.allreduce(&mut sums, ReduceOp::Sum)?;
//!
//!     let share = group.reduce_scatter(&[1_u64; 7], ReduceOp::Sum)?; // of 3, 2 and 2 numbers
//!     assert_eq!(group.all_gather(&share)?, [3; 7]);
//!     Ok(sums)
//! }
//!
//! #[mobula::main]
//! fn main() -> Result<(), mobula::Error> {
//!     let session = mobula::init(Config::default())?;
//!     let members: Vec<ObjectRef<Vec<f64>>> = (0..3).map(|rank| member.remote(rank)).collect();
//!     assert_eq!(get(&members)?, [[3.0, 3.0]; 3]);
//!     session.shutdown();
//!     Ok(())
//! }
//! ```
//!
//! When a member dies, leaves, or calls something else than the others, all of them get the same
//! [`GroupError`], which says who and why; a new group can then be formed under the same name.
//! Members on one machine exchange their numbers through shared memory, others over the network.

pub use mobula_core::collective::{Element, Group, GroupConfig, GroupError, ReduceOp};
