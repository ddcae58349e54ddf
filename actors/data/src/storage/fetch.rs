//! A part of a file on its way.
//!
//! Entry type: [`Fetch`]. It is fetched whether or not anybody waits, and given up when nobody
//! holds it any more.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;

use super::runtime::{handle, wait};
use crate::error::DataError;

/// A part of a file on its way, or here.
#[derive(Clone)]
pub(super) struct Fetch(Arc<Fetching>);

struct Fetching {
    bytes: Shared<BoxFuture<'static, Result<Bytes, DataError>>>,
    task: Option<AbortHandle>,
}

impl Fetch {
    /// Begins to fetch. `path` is the file's, for errors.
    pub(super) fn start(path: &str, fetch: impl Future<Output = Result<Bytes, DataError>> + Send + 'static) -> Fetch {
        let handle = match handle() {
            Ok(handle) => handle,
            Err(error) => return Fetch::ended(Err(error)),
        };
        let task = handle.spawn(fetch);
        let abort = task.abort_handle();
        let path = path.to_owned();
        let bytes = task.map(move |ended| {
            ended.unwrap_or_else(|error| Err(DataError::Read { path, cause: format!("reading ended early: {error}") }))
        });
        Fetch(Arc::new(Fetching { bytes: bytes.boxed().shared(), task: Some(abort) }))
    }

    /// Waits until it is here.
    pub(super) fn wait(&self) -> Result<Bytes, DataError> {
        if let Some(bytes) = self.0.bytes.peek() {
            return bytes.clone();
        }
        // The task is not given up while this waits.
        let held = self.clone();
        wait(async move { held.0.bytes.clone().await })
    }

    fn ended(bytes: Result<Bytes, DataError>) -> Fetch {
        let bytes = futures::future::ready(bytes).boxed().shared();
        Fetch(Arc::new(Fetching { bytes, task: None }))
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fetch").field(&self.0.bytes.peek().map(Result::is_ok)).finish()
    }
}
