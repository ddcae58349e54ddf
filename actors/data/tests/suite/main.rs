//! Plans run over real files, in one thread, without workers.

mod golden;
mod pipeline;
mod support;
