//! The library of taxi-etl over real and over made-up files.

mod cleaning;
mod generating;
mod interrupting;
mod printing;
mod s3;
#[path = "../../../../tests/tests/support/shared.rs"]
mod shared;
mod support;
