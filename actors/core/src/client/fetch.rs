//! Fetching: from the owner of a borrowed reference, and from the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_transport::{Address, SendError};

use super::Client;
use super::entry::{Entry, Latch, Outcome};
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::messages::{GetObject, ReturnSpec, StoredObject};
use crate::value::Value;

/// How long the owner may take before it is asked again; it answers when the object is ready.
const OWNER_DEADLINE: Duration = Duration::from_secs(30);

/// An owner that could not be reached for so long is taken for dead.
const OWNER_SILENCE: Duration = Duration::from_secs(60);

/// How long a pull from another node may take when the caller set no limit. Progress is watched
/// below this, by the pull itself.
const STORE_DEADLINE: Duration = Duration::from_secs(600);

impl Client {
    /// Asks the owner of a borrowed object for it, once.
    pub(super) fn fetch(&self, entry: &Arc<Entry>) {
        let Some(lender) = entry.lender() else { return };
        if entry.is_settled() || !entry.begin_fetch() {
            return;
        }
        self.ask_lender(entry.clone(), lender, None);
    }

    /// `silent_since`: when the owner was first found to be out of reach, if it was the last time.
    fn ask_lender(&self, entry: Arc<Entry>, lender: Address, silent_since: Option<Instant>) {
        let client = self.clone();
        let question = GetObject { object: entry.id() };
        let endpoint = self.endpoint().clone();
        endpoint.request_with(lender, question, Vec::new(), OWNER_DEADLINE, move |answer| match answer {
            Ok((Ok(ReturnSpec::Inline(encoding)), payload)) => {
                let data = payload.into_iter().next().unwrap_or_default();
                entry.settle(Outcome::Inline(Value::new(encoding, data)));
            }
            Ok((Ok(ReturnSpec::Stored(stored)), _)) => entry.settle(Outcome::Stored(Box::new(stored))),
            Ok((Err(error), _)) => entry.settle(Outcome::Failed(Box::new(error))),
            // It is alive and has no answer yet.
            Err(SendError::TimedOut { .. }) if client.is_open() => client.ask_lender(entry, lender, None),
            // A connection that broke is no death, and a full way is none either.
            Err(error)
                if matches!(fate(&error), Fate::Doubtful | Fate::Full)
                    && client.is_open()
                    && silent_since.is_none_or(|since| since.elapsed() < OWNER_SILENCE) =>
            {
                let (silent_since, again) = (silent_since.unwrap_or_else(Instant::now), client.clone());
                client.again_soon(move || again.ask_lender(entry, lender, Some(silent_since)));
            }
            Err(error) => {
                let why = error.to_string();
                entry.settle(Outcome::Failed(Box::new(Error::OwnerDied { object: entry.id(), why })));
            }
        });
    }

    /// Reads the stored ones among `values`, pulling them to this node where needed.
    pub(super) fn read_stored(
        &self,
        stored: Vec<(usize, Box<StoredObject>)>,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
        values: &mut [Option<Value>],
    ) -> Result<(), Error> {
        if stored.is_empty() {
            return Ok(());
        }
        let latch = Latch::new(stored.len());
        let results = Arc::new(parking_lot::Mutex::new(Vec::with_capacity(stored.len())));
        let patience = deadline.map_or(STORE_DEADLINE, |deadline| deadline.saturating_duration_since(Instant::now()));
        for (position, location) in stored {
            let (latch, results) = (latch.clone(), results.clone());
            self.store().get(&location, patience, move |result| {
                results.lock().push((position, result));
                latch.count_down();
            });
        }
        let mut lent = None;
        // The store answers every request by its deadline, so this wait ends.
        let in_time = latch.wait(deadline, || lent = Some(crate::worker::lend_cpu()));
        drop(lent);
        if !in_time {
            return Err(Error::TimedOut { after: timeout.unwrap_or_default() });
        }
        let mut results = std::mem::take(&mut *results.lock());
        results.sort_by_key(|(position, _)| *position);
        for (position, result) in results {
            values[position] = Some(result?);
        }
        Ok(())
    }
}
