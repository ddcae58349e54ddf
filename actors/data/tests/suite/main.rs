//! Plans run over real files, in one thread, without workers.

mod golden;
mod pipeline;
#[path = "../../../../tests/tests/support/shared.rs"]
mod shared;
mod support;
