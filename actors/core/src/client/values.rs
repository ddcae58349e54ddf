//! Values: storing them, and waiting for those that are being made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::entry::{Entry, Latch, Outcome, Provenance, Waiter, wait_until};
use super::home::may_have_gone;
use super::{Client, INLINE_LIMIT_BYTES, Inner, ObjectHandle, Refs, no_session};
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::value::{Encoding, Value};

impl Client {
    /// Stores a value; the reference to it owns it.
    ///
    /// # Errors
    /// [`Error::StoreFull`] when it is large and the store has no room.
    pub fn put(&self, value: Value) -> Result<ObjectHandle, Error> {
        if value.len() <= INLINE_LIMIT_BYTES {
            return self.settled_object(Outcome::Inline(value));
        }
        self.put_large(value.encoding, &[&value.data], value.refs.clone())
    }

    /// Stores the concatenation of `parts` as one value, written once.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_parts(&self, encoding: Encoding, parts: &[&[u8]]) -> Result<ObjectHandle, Error> {
        self.check_open()?;
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if size <= INLINE_LIMIT_BYTES {
            return self.settled_object(Outcome::Inline(Value::new(encoding, parts.concat())));
        }
        self.put_large(encoding, parts, Refs::default())
    }

    /// Stores a value with these references inside.
    pub(super) fn put_large(&self, encoding: Encoding, parts: &[&[u8]], refs: Refs) -> Result<ObjectHandle, Error> {
        self.check_open()?;
        let id = self.next_object();
        let stored = self.write(id, encoding, parts)?;
        let entry = Entry::new(id, self);
        let provenance = Provenance { _contains: refs, ..Provenance::default() };
        entry.settle_with(Outcome::Stored(Box::new(stored)), Some(Box::new(provenance)));
        Ok(ObjectHandle(entry))
    }

    /// Writes an object into the store of this node, or of the one that this client moves to meanwhile.
    fn write(&self, id: ObjectId, encoding: Encoding, parts: &[&[u8]]) -> Result<StoredObject, Error> {
        loop {
            let store = self.store();
            match store.put(id, encoding, parts) {
                Err(Error::Send(error)) if may_have_gone(&error) && self.is_open() => {
                    let (tell, told) = std::sync::mpsc::channel();
                    self.when_moved(store.store().id, move |writes| {
                        let _ = tell.send(writes);
                    });
                    let lent = crate::worker::lend_cpu();
                    // It is told in any case, as in `get`.
                    let writes = crate::worker::asleep(|| told.recv().unwrap_or(false));
                    drop(lent);
                    if !writes {
                        return Err(error.into());
                    }
                }
                written => return written,
            }
        }
    }

    fn settled_object(&self, outcome: Outcome) -> Result<ObjectHandle, Error> {
        self.check_open()?;
        let entry = Entry::new(self.next_object(), self);
        entry.settle(outcome);
        Ok(ObjectHandle(entry))
    }

    /// Waits for the objects and returns their values, in order.
    ///
    /// # Errors
    /// The error of the first object that failed; [`Error::TimedOut`].
    pub fn get(&self, objects: &[ObjectHandle], timeout: Option<Duration>) -> Result<Vec<Value>, Error> {
        let deadline = deadline_of(timeout);
        self.settle_all(objects, timeout, deadline)?;
        let mut values: Vec<Option<Value>> = Vec::with_capacity(objects.len());
        let mut stored = Vec::new();
        for object in objects {
            match object.0.outcome() {
                Some(Outcome::Inline(value)) => values.push(Some(value)),
                Some(Outcome::Failed(error)) => return Err(*error),
                Some(Outcome::Stored(location)) => {
                    stored.push((values.len(), location));
                    values.push(None);
                }
                None => {
                    return Err(Error::TimedOut { after: timeout.unwrap_or_default() });
                }
            }
        }
        self.read_stored(objects, stored, deadline, timeout, &mut values)?;
        Ok(values.into_iter().flatten().collect())
    }

    /// Waits until every object has settled.
    fn settle_all(
        &self,
        objects: &[ObjectHandle],
        timeout: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let unsettled: SmallVec<[&ObjectHandle; 1]> = objects.iter().filter(|object| !object.is_settled()).collect();
        if unsettled.is_empty() {
            return Ok(());
        }
        let latch = Latch::new(unsettled.len());
        for object in &unsettled {
            self.fetch(&object.0);
            if object.0.add_waiter(Waiter::Latch(latch.clone())).is_err() {
                latch.count_down();
            }
        }
        let mut lent = None;
        let in_time = latch.wait(deadline, || lent = Some(crate::worker::lend_cpu()));
        drop(lent);
        if in_time { Ok(()) } else { Err(Error::TimedOut { after: timeout.unwrap_or_default() }) }
    }

    /// Resolves when the object is ready.
    pub fn get_future(
        &self,
        object: &ObjectHandle,
    ) -> impl Future<Output = Result<Value, Error>> + Send + 'static + use<> {
        let (client, object) = (self.clone(), object.clone());
        async move {
            client.fetch(&object.0);
            let (tell, told) = tokio::sync::oneshot::channel();
            object.0.on_settled(move || {
                let _ = tell.send(());
            });
            if told.await.is_err() {
                return Err(no_session());
            }
            loop {
                let stored = match object.0.outcome() {
                    Some(Outcome::Inline(value)) => return Ok(value),
                    Some(Outcome::Failed(error)) => return Err(*error),
                    Some(Outcome::Stored(stored)) => stored,
                    None => return Err(no_session()),
                };
                let store = client.store();
                match store.fetch(&stored).await {
                    Err(Error::Send(error)) if may_have_gone(&error) && client.is_open() => {
                        let (tell, told) = tokio::sync::oneshot::channel();
                        client.when_moved(store.store().id, move |reads| {
                            let _ = tell.send(reads);
                        });
                        if !told.await.unwrap_or(false) {
                            return Err(error.into());
                        }
                    }
                    Err(Error::ObjectLost { why, .. }) => {
                        let (tell, told) = tokio::sync::oneshot::channel();
                        let tell = move || {
                            let _ = tell.send(());
                        };
                        client.recover(&object.0, &stored.nodes, &why, Waiter::Call(Box::new(tell)));
                        if told.await.is_err() {
                            return Err(no_session());
                        }
                    }
                    read => return read,
                }
            }
        }
    }

    /// Waits until `num_returns` of the objects are ready (or failed), or the time is over.
    /// Returns the positions of those that are ready, at most `num_returns` of them, and of all
    /// others, each in the order given.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an object is given twice or `num_returns` is more than there are.
    pub fn wait(
        &self,
        objects: &[ObjectHandle],
        num_returns: usize,
        timeout: Option<Duration>,
    ) -> Result<(Vec<usize>, Vec<usize>), Error> {
        if num_returns > objects.len() {
            let what = format!("wait for {num_returns} of {} objects can never end", objects.len());
            return Err(Error::Invalid { what });
        }
        check_distinct(objects)?;
        let deadline = deadline_of(timeout);
        for object in objects.iter().filter(|object| object.0.lender().is_some()) {
            self.fetch(&object.0);
        }
        let waiting = Waiting::begin(&self.0);
        let mut lent = None;
        loop {
            let seen = self.0.settled.load(Ordering::SeqCst);
            let ready = objects.iter().filter(|object| object.is_settled()).take(num_returns).count();
            if ready >= num_returns || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let changed = || self.0.settled.load(Ordering::SeqCst) != seen;
            wait_until(changed, deadline, || {
                lent.get_or_insert_with(crate::worker::lend_cpu);
            });
        }
        drop(waiting);
        drop(lent);
        let mut ready = Vec::with_capacity(num_returns);
        let mut others = Vec::with_capacity(objects.len() - num_returns);
        for (position, object) in objects.iter().enumerate() {
            if ready.len() < num_returns && object.is_settled() { &mut ready } else { &mut others }.push(position);
        }
        Ok((ready, others))
    }

    /// An object has settled: threads in `wait` look again.
    pub(crate) fn note_settled(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.settled.fetch_add(1, Ordering::SeqCst);
            for thread in &*self.0.waiting_threads.lock() {
                thread.unpark();
            }
        }
    }
}

/// A thread in `wait`.
struct Waiting<'a> {
    inner: &'a Inner,
    thread: std::thread::ThreadId,
}

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner) -> Self {
        let thread = std::thread::current();
        let id = thread.id();
        inner.waiting_threads.lock().push(thread);
        inner.waiting.fetch_add(1, Ordering::SeqCst);
        Self { inner, thread: id }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.waiting.fetch_sub(1, Ordering::SeqCst);
        let mut threads = self.inner.waiting_threads.lock();
        if let Some(position) = threads.iter().position(|thread| thread.id() == self.thread) {
            threads.swap_remove(position);
        }
    }
}

/// When a wait of this length is over; one that no clock sees the end of has no end.
pub(super) fn deadline_of(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

fn check_distinct(objects: &[ObjectHandle]) -> Result<(), Error> {
    let mut addresses: Vec<*const Entry> = objects.iter().map(|object| Arc::as_ptr(&object.0)).collect();
    addresses.sort_unstable();
    if addresses.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid { what: "wait was given the same object twice".to_owned() });
    }
    Ok(())
}
