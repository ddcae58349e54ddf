//! One client per way of reaching a store, for the whole process.
//!
//! Entry type: [`Cache`]. A client owns connections and credentials; making one per file would
//! ask the instance's metadata service, or log in again, for every file.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::options::StorageOptions;
use crate::error::DataError;

/// Clients by their options, the latest used last.
pub(super) struct Cache<T>(Mutex<Vec<Entry<T>>>);

type Entry<T> = (StorageOptions, Arc<OnceCell<Arc<T>>>);

impl<T> Cache<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The client for `options`, made by `make` if there is none. Who asks while it is made waits.
    pub(super) async fn get(
        &self,
        options: &StorageOptions,
        make: impl Future<Output = Result<T, DataError>>,
    ) -> Result<Arc<T>, DataError> {
        let cell = self.cell(options);
        cell.get_or_try_init(|| async { make.await.map(Arc::new) }).await.cloned()
    }

    fn cell(&self, options: &StorageOptions) -> Arc<OnceCell<Arc<T>>> {
        let mut entries = self.0.lock();
        let entry = match entries.iter().position(|(of, _)| of == options) {
            Some(index) => entries.remove(index),
            None => (options.clone(), Arc::default()),
        };
        let cell = Arc::clone(&entry.1);
        entries.push(entry);
        if entries.len() > MAX_CLIENTS {
            entries.remove(0);
        }
        cell
    }
}

/// How many clients are kept. Those in use live on without being kept here.
const MAX_CLIENTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_made_once_and_the_longest_unused_goes_first() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cache = Cache::new();
        let options = |n: usize| StorageOptions { region: Some(n.to_string()), ..StorageOptions::default() };
        let get = |n: usize, value: usize| *runtime.block_on(cache.get(&options(n), async { Ok(value) })).unwrap();
        assert_eq!(get(0, 1), 1);
        assert_eq!(get(0, 2), 1);
        for n in 1..MAX_CLIENTS {
            get(n, 1);
        }
        assert_eq!(get(0, 3), 1);
        get(MAX_CLIENTS, 1);
        assert_eq!((get(0, 4), get(1, 4)), (1, 4));
    }
}
