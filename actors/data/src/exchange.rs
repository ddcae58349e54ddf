//! Rows of many blocks put together anew: the work of one task on either side of an exchange.
//!
//! Before it, a [`Partitioner`](partition::Partitioner) cuts a block's rows into parts; after it,
//! a task takes one part of every block and sorts, shuffles, groups or joins their rows. What
//! happens to the rows of a part is arrow's and DataFusion's work. Which task does what is the
//! executor's.
//!
//! ```text
//!   block 0 ─▶ part 0 │ part 1 │ part 2          all rows of a key, a range of keys or a share
//!   block 1 ─▶ part 0 │ part 1 │ part 2          by chance are in the parts of one number
//!                 └──────▶ task 0: sort, shuffle, group, join ─▶ block 0
//! ```

pub mod aggregate;
mod floats;
pub mod flow;
pub mod join;
pub mod keys;
pub mod partition;
mod quantile;
pub mod rows;
mod sums;
