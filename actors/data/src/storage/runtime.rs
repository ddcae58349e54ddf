//! The runtime that waits for the network: one per process, started when first needed.
//!
//! Entry point: [`wait`]. What it is given runs on the runtime's own threads, so that the caller
//! needs none and may itself be a thread of another one.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::DataError;

/// Runs `future` on the runtime and blocks until it is done.
pub(super) fn wait<T, F>(future: F) -> Result<T, DataError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, DataError>> + Send + 'static,
{
    let (done, result) = mpsc::sync_channel(1);
    handle()?.spawn(async move {
        // Nobody is left to hear of it when the caller's thread is gone.
        let _ = done.send(future.await);
    });
    // The sender is dropped unused only if the future panicked or the process ends.
    result.recv().unwrap_or_else(|_| Err(broken("a request ended without an answer")))
}

/// The runtime.
pub(super) fn handle() -> Result<Handle, DataError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(THREADS).thread_name(NAME).enable_all().build();
    match RUNTIME.get_or_init(|| start().map_err(|error| error.to_string())) {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(cause) => Err(broken(cause)),
    }
}

fn broken(cause: &str) -> DataError {
    DataError::Remote { path: "storage".into(), operation: "reach".into(), attempts: 1, cause: cause.into() }
}

/// They only move bytes and check sums.
const THREADS: usize = 2;
const NAME: &str = "mobula-storage";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_another_runtime_may_wait() {
        assert_eq!(wait(async { Ok(1) }), Ok(1));
        let other = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        assert_eq!(
            other.block_on(async { tokio::task::spawn_blocking(|| wait(async { Ok(2) })).await.unwrap() }),
            Ok(2)
        );
        // Not for anybody to do, but no reason to panic.
        assert_eq!(other.block_on(async { wait(async { Ok(3) }) }), Ok(3));
    }

    #[test]
    fn a_panic_is_an_error_and_not_a_hang() {
        assert!(wait::<(), _>(async { panic!("expected by this test") }).is_err());
    }
}
