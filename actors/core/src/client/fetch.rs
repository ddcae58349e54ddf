//! Fetching: from the owner of a borrowed reference, and from the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mobula_transport::{Address, ProcessAddr, ProcessId, SendError};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::Client;
use super::entry::{Entry, Latch, Loss, ObjectHandle, Outcome, Waiter};
use super::home::may_have_gone;
use crate::delivery::{Fate, fate};
use crate::error::Error;
use crate::messages::{GetObject, Nodes, ReturnSpec, StoredObject};
use crate::value::Value;

/// How long the owner may take before it is asked again; it answers when the object is ready.
const OWNER_DEADLINE: Duration = Duration::from_secs(30);

/// An owner that could not be reached for so long is taken for dead.
const OWNER_SILENCE: Duration = Duration::from_secs(60);

/// How long a pull from another node may take when the caller set no limit. Progress is watched
/// below this, by the pull itself.
const STORE_DEADLINE: Duration = Duration::from_secs(600);

/// A position, and where the object is said to lie.
type Stored = (usize, Box<StoredObject>);

/// A position, where the object was said to lie, and why it is not there.
type Lost = (usize, Box<StoredObject>, String);

impl Client {
    /// Asks the owner of a borrowed object for it, once.
    pub(super) fn fetch(&self, entry: &Arc<Entry>) {
        let Some(lender) = entry.lender() else { return };
        if entry.is_settled() || !entry.begin_fetch() {
            return;
        }
        self.ask_lender(entry.clone(), lender, SmallVec::new(), None);
    }

    /// The bytes of a stored object were not found where it was said to lie. They are made again, or
    /// the owner is asked; the waiter is told when another outcome is known.
    pub(super) fn recover(&self, entry: &Arc<Entry>, tried: &[ProcessAddr], why: &str, waiter: Waiter) {
        match entry.lost_at(tried, waiter) {
            Loss::Over(waiter) => waiter.tell(),
            Loss::Joined => {}
            Loss::New(origin) => match entry.lender() {
                Some(lender) => self.ask_lender(entry.clone(), lender, tried.into(), None),
                None => {
                    if let Err(error) = self.make_again(entry.id(), &origin, why) {
                        entry.settle(Outcome::Failed(Box::new(error)));
                    }
                }
            },
        }
    }

    /// `tried`: where the object was not found. `silent_since`: when the owner was first found to be
    /// out of reach, if it was the last time.
    fn ask_lender(&self, entry: Arc<Entry>, lender: Address, tried: Nodes, silent_since: Option<Instant>) {
        let client = self.clone();
        let question = GetObject { object: entry.id(), tried: tried.clone() };
        let endpoint = self.endpoint().clone();
        endpoint.request_with(lender, question, Vec::new(), OWNER_DEADLINE, move |answer| match answer {
            Ok((Ok(ReturnSpec::Inline(encoding)), payload)) => {
                let data = payload.into_iter().next().unwrap_or_default();
                entry.settle(Outcome::Inline(Value::new(encoding, data)));
            }
            Ok((Ok(ReturnSpec::Stored(stored)), _)) => entry.settle(Outcome::Stored(Box::new(stored))),
            Ok((Err(error), _)) => entry.settle(Outcome::Failed(Box::new(error))),
            // It is alive and has no answer yet.
            Err(SendError::TimedOut { .. }) if client.is_open() => client.ask_lender(entry, lender, tried, None),
            // A connection that broke is no death, and a full way is none either.
            Err(error)
                if matches!(fate(&error), Fate::Doubtful | Fate::Full)
                    && client.is_open()
                    && silent_since.is_none_or(|since| since.elapsed() < OWNER_SILENCE) =>
            {
                let (silent_since, again) = (silent_since.unwrap_or_else(Instant::now), client.clone());
                client.again_soon(move || again.ask_lender(entry, lender, tried, Some(silent_since)));
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
        objects: &[ObjectHandle],
        mut stored: Vec<Stored>,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
        values: &mut [Option<Value>],
    ) -> Result<(), Error> {
        while !stored.is_empty() {
            let (lost, again) = self.read_once(stored, deadline, timeout, values)?;
            stored = self.find_lost(objects, lost, deadline, timeout, values)?;
            stored.extend(again);
        }
        Ok(())
    }

    /// Waits until it is known what became of lost objects. Returns those that lie elsewhere now.
    fn find_lost(
        &self,
        objects: &[ObjectHandle],
        lost: Vec<Lost>,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
        values: &mut [Option<Value>],
    ) -> Result<Vec<Stored>, Error> {
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let latch = Latch::new(lost.len());
        for (position, tried, why) in &lost {
            self.recover(&objects[*position].0, &tried.nodes, why, Waiter::Latch(latch.clone()));
        }
        let mut lent = None;
        let in_time = latch.wait(deadline, || lent = Some(crate::worker::lend_cpu()));
        drop(lent);
        if !in_time {
            return Err(Error::TimedOut { after: timeout.unwrap_or_default() });
        }
        let mut stored = Vec::new();
        for (position, tried, _) in lost {
            match objects[position].0.outcome() {
                Some(Outcome::Inline(value)) => values[position] = Some(value),
                Some(Outcome::Stored(location)) => stored.push((position, location)),
                Some(Outcome::Failed(error)) => return Err(*error),
                // What is settled stays so.
                None => stored.push((position, tried)),
            }
        }
        Ok(stored)
    }

    /// Reads what is where it is said to be. Returns the others, with the reasons, and what is to be
    /// read again, since this client has moved meanwhile.
    fn read_once(
        &self,
        stored: Vec<Stored>,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
        values: &mut [Option<Value>],
    ) -> Result<(Vec<Lost>, Vec<Stored>), Error> {
        let store = self.store();
        let latch = Latch::new(stored.len());
        let results = Arc::new(parking_lot::Mutex::new(Vec::with_capacity(stored.len())));
        let patience = deadline.map_or(STORE_DEADLINE, |deadline| deadline.saturating_duration_since(Instant::now()));
        for (position, location) in stored {
            let (latch, results) = (latch.clone(), results.clone());
            let place = location.clone();
            store.get(&location, patience, move |result| {
                results.lock().push((position, place, result));
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
        results.sort_by_key(|(position, ..)| *position);
        let (mut lost, mut again) = (Vec::new(), Vec::new());
        let mut orphaned = None;
        for (position, place, result) in results {
            match result {
                Ok(value) => values[position] = Some(value),
                Err(Error::ObjectLost { why, .. }) => lost.push((position, place, why)),
                Err(Error::Send(error)) if may_have_gone(&error) && self.is_open() => {
                    again.push((position, place));
                    orphaned = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = orphaned {
            self.wait_for_home(store.store().id, error, deadline, timeout)?;
        }
        Ok((lost, again))
    }

    /// The node through which objects are read is dead: waits until they can be read elsewhere.
    fn wait_for_home(
        &self,
        lost: ProcessId,
        why: SendError,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let (latch, reads) = (Latch::new(1), Arc::new(AtomicBool::new(false)));
        let (told, found) = (latch.clone(), reads.clone());
        self.when_moved(lost, move |reads| {
            found.store(reads, Ordering::Release);
            told.count_down();
        });
        let mut lent = None;
        // It is told in any case, after a while, or when the session ends.
        let in_time = latch.wait(deadline, || lent = Some(crate::worker::lend_cpu()));
        drop(lent);
        match (in_time, reads.load(Ordering::Acquire)) {
            (true, true) => Ok(()),
            (true, false) => Err(why.into()),
            (false, _) => Err(Error::TimedOut { after: timeout.unwrap_or_default() }),
        }
    }
}
