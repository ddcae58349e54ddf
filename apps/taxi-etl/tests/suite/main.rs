//! The library of taxi-etl over real and over made-up files.

mod cleaning;
mod generating;
#[path = "../../../../tests/tests/support/shared.rs"]
mod shared;
mod support;
