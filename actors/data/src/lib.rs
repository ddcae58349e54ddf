//! Datasets: expressions over batches and one schema for files that differ.

pub mod error;
pub mod expr;
pub mod schema;

pub use error::DataError;
pub use expr::{Expr, col, lit};
