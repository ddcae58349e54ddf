//! One object as this process knows it: pending, ready or failed, and who waits for it.
//!
//! An [`ObjectHandle`] is a counted reference to an [`Entry`]. When the last one in the process is
//! dropped, and no other process borrows the object, an owned object that lies in a store is freed
//! there; a borrowed one is given back to its owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use mobula_transport::{Address, ProcessAddr};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::lineage::Origin;
use super::{Client, Refs};
use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::value::Value;

/// How long a waiting thread polls before it sleeps. A sleeping thread costs about 50 µs to wake,
/// so a short task is over sooner than its waiter could have gone to sleep and come back.
const SPIN: Duration = Duration::from_micros(100);

const PENDING: u8 = 0;
const READY: u8 = 1;
const FAILED: u8 = 2;

/// What became of an object.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Its value is here.
    Inline(Value),
    /// It lies in a store.
    Stored(Box<StoredObject>),
    /// There is none.
    Failed(Box<Error>),
}

impl Outcome {
    /// The value `()`.
    pub(crate) fn unit() -> Self {
        Self::Inline(Value::unit())
    }
}

/// Who is told when an object is ready.
pub(crate) enum Waiter {
    /// A thread that waits for several objects.
    Latch(Arc<Latch>),
    /// Anything else.
    Call(Box<dyn FnOnce() + Send>),
}

impl Waiter {
    pub(crate) fn tell(self) {
        match self {
            Self::Latch(latch) => latch.count_down(),
            Self::Call(call) => call(),
        }
    }
}

/// What is known of a stored object beside its place.
#[derive(Default)]
pub(crate) struct Provenance {
    /// The references inside it; those of a value that is not stored are with it.
    pub(crate) _contains: Refs,
    pub(crate) origin: Origin,
    /// Which attempt of its task has made it.
    pub(crate) attempt: u32,
}

/// What became of an outcome.
pub(crate) enum Settled {
    /// It is the first.
    First,
    /// It stands in the place of one that was lost: there, made by that attempt.
    Instead(Box<StoredObject>, u32),
    /// Another one counts.
    Ignored,
}

/// What there is to do about lost bytes.
pub(crate) enum Loss {
    /// Nothing: another outcome is known by now.
    Over(Waiter),
    /// They are being made again; the waiter is told.
    Joined,
    /// They are to be made again; the waiter is told.
    New(Origin),
}

#[derive(Default)]
struct Inner {
    outcome: Option<Outcome>,
    /// Only for what is stored.
    provenance: Option<Box<Provenance>>,
    /// The bytes are lost, and another outcome is on its way.
    lost: bool,
    waiters: SmallVec<[Waiter; 1]>,
    fetching: bool,
}

/// One object as this process knows it.
pub(crate) struct Entry {
    id: ObjectId,
    /// The client to ask for it; `None` when this process owns it.
    lender: Option<Address>,
    /// The number under which it is borrowed.
    loan: u64,
    state: AtomicU8,
    /// Set when a reference was written into a value, so that it may come back.
    pub(crate) exported: AtomicBool,
    inner: Mutex<Inner>,
    client: Client,
}

impl Entry {
    /// An object of this process.
    pub(crate) fn new(id: ObjectId, client: &Client) -> Arc<Self> {
        Self::make(id, None, 0, client)
    }

    /// An object of another process, borrowed under this number.
    pub(crate) fn borrowed(id: ObjectId, lender: Address, loan: u64, client: &Client) -> Arc<Self> {
        Self::make(id, Some(lender), loan, client)
    }

    fn make(id: ObjectId, lender: Option<Address>, loan: u64, client: &Client) -> Arc<Self> {
        Arc::new(Self {
            id,
            lender,
            loan,
            state: AtomicU8::new(PENDING),
            exported: AtomicBool::new(false),
            inner: Mutex::default(),
            client: client.clone(),
        })
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    pub(crate) fn lender(&self) -> Option<Address> {
        self.lender
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it is ready or failed.
    pub(crate) fn is_settled(&self) -> bool {
        self.state.load(Ordering::Acquire) != PENDING
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if self.is_settled() { self.inner.lock().outcome.clone() } else { None }
    }

    /// The first outcome is kept; a later one changes nothing.
    pub(crate) fn settle(&self, outcome: Outcome) {
        self.settle_with(outcome, None);
    }

    /// [`settle`](Self::settle) with what is known beside it. It counts, too, if what was known is
    /// lost.
    pub(crate) fn settle_with(&self, outcome: Outcome, provenance: Option<Box<Provenance>>) -> Settled {
        let (waiters, settled, before) = {
            let mut inner = self.inner.lock();
            let before = std::mem::replace(&mut inner.provenance, provenance);
            let settled = match inner.outcome.take() {
                None => Settled::First,
                Some(Outcome::Stored(lost)) if inner.lost => {
                    Settled::Instead(lost, before.as_ref().map_or(0, |before| before.attempt))
                }
                other => {
                    inner.outcome = other;
                    let ignored = std::mem::replace(&mut inner.provenance, before);
                    drop(inner);
                    drop(ignored);
                    return Settled::Ignored;
                }
            };
            inner.lost = false;
            let state = if matches!(outcome, Outcome::Failed(_)) { FAILED } else { READY };
            inner.outcome = Some(outcome);
            self.state.store(state, Ordering::Release);
            (std::mem::take(&mut inner.waiters), settled, before)
        };
        waiters.into_iter().for_each(Waiter::tell);
        self.client.note_settled();
        drop(before);
        settled
    }

    /// The bytes were not found at this place. The waiter is told when another outcome is known.
    pub(crate) fn lost_at(&self, tried: &[ProcessAddr], waiter: Waiter) -> Loss {
        let mut inner = self.inner.lock();
        match &inner.outcome {
            None => {}
            Some(Outcome::Stored(stored)) if stored.nodes[..] == *tried => {}
            Some(_) => return Loss::Over(waiter),
        }
        inner.waiters.push(waiter);
        if inner.outcome.is_none() || std::mem::replace(&mut inner.lost, true) {
            return Loss::Joined;
        }
        Loss::New(inner.provenance.as_ref().map(|known| known.origin.clone()).unwrap_or_default())
    }

    /// A stored object lies in these stores, too. False if it is not a stored one.
    pub(crate) fn add_places(&self, nodes: &[ProcessAddr]) -> bool {
        match &mut self.inner.lock().outcome {
            Some(Outcome::Stored(stored)) => {
                let known = stored.nodes.clone();
                stored.nodes.extend(nodes.iter().copied().filter(|node| !known.contains(node)));
                true
            }
            _ => false,
        }
    }

    /// The value is of no use any more: this is the outcome from now on, unless it has failed before.
    /// Returns the one before.
    pub(crate) fn forget(&self, error: Error) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        if let Some(Outcome::Failed(_)) = inner.outcome {
            return None;
        }
        let before = inner.outcome.replace(Outcome::Failed(Box::new(error)));
        self.state.store(FAILED, Ordering::Release);
        inner.lost = false;
        let (provenance, waiters) = (inner.provenance.take(), std::mem::take(&mut inner.waiters));
        drop(inner);
        drop(provenance);
        waiters.into_iter().for_each(Waiter::tell);
        self.client.note_settled();
        before
    }

    /// How a stored object came to be.
    pub(crate) fn origin(&self) -> Origin {
        self.inner.lock().provenance.as_ref().map(|known| known.origin.clone()).unwrap_or_default()
    }

    /// Adds a waiter, unless the object is settled: then the waiter comes back.
    pub(crate) fn add_waiter(&self, waiter: Waiter) -> Result<(), Waiter> {
        let mut inner = self.inner.lock();
        if inner.outcome.is_some() {
            return Err(waiter);
        }
        inner.waiters.push(waiter);
        Ok(())
    }

    /// Calls `call` when the object is settled, at once if it is.
    pub(crate) fn on_settled(&self, call: impl FnOnce() + Send + 'static) {
        if let Err(Waiter::Call(call)) = self.add_waiter(Waiter::Call(Box::new(call))) {
            call();
        }
    }

    /// Whether this call is the one that should ask the lender for the object.
    pub(crate) fn begin_fetch(&self) -> bool {
        let mut inner = self.inner.lock();
        if inner.outcome.is_some() || inner.fetching {
            return false;
        }
        inner.fetching = true;
        true
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Only an owner frees; a borrower's copy of the location means nothing to the store.
        if self.lender.is_some() {
            return self.client.borrowed_dropped(self.id, self.loan);
        }
        if *self.exported.get_mut() {
            self.client.exported_dropped(&self.id);
        }
        if let Some(Outcome::Stored(stored)) = &self.inner.get_mut().outcome {
            self.client.free_stored(stored);
        }
    }
}

/// A counted reference to an object.
///
/// Cloning adds a local reference, dropping takes one away. It keeps its session's client alive.
#[derive(Clone)]
pub struct ObjectHandle(pub(crate) Arc<Entry>);

impl ObjectHandle {
    /// The object's id.
    pub fn id(&self) -> ObjectId {
        self.0.id()
    }

    /// Whether a value or an error is there, so that `get` would not wait for the work itself.
    pub fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    /// The client that owns the object, as far as this process knows.
    pub fn owner(&self) -> Address {
        self.0.lender().unwrap_or_else(|| self.client().address())
    }

    /// The client of the session that the handle belongs to.
    pub fn client(&self) -> &Client {
        self.0.client()
    }
}

impl std::fmt::Debug for ObjectHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectHandle({})", self.0.id())
    }
}

/// Lets one thread wait until several things have happened.
pub(crate) struct Latch {
    remaining: AtomicUsize,
    thread: Thread,
}

impl Latch {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { remaining: AtomicUsize::new(count), thread: std::thread::current() })
    }

    pub(crate) fn count_down(&self) {
        // The thread handle outlives the latch's owner, so unparking it late does no harm.
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.thread.unpark();
        }
    }

    /// Waits on the thread that made the latch. `before_sleep` is called once, if polling was not
    /// enough. Returns whether everything happened in time.
    pub(crate) fn wait(&self, deadline: Option<Instant>, before_sleep: impl FnOnce()) -> bool {
        let done = || self.remaining.load(Ordering::Acquire) == 0;
        wait_until(done, deadline, before_sleep)
    }
}

/// Polls for a moment, then sleeps until `done`; whoever makes it true unparks this thread.
pub(crate) fn wait_until(done: impl Fn() -> bool, deadline: Option<Instant>, before_sleep: impl FnOnce()) -> bool {
    if done() {
        return true;
    }
    #[cfg(test)]
    if let Some(stage) = crate::simulation::Stage::current() {
        before_sleep();
        return stage.wait(&done, deadline);
    }
    let start = Instant::now();
    loop {
        // Yielding gives the processor to whoever does the work, if it is waiting for one.
        for _ in 0..16 {
            std::thread::yield_now();
            if done() {
                return true;
            }
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return done();
        }
        if now - start >= SPIN {
            break;
        }
    }
    before_sleep();
    crate::worker::asleep(|| {
        loop {
            if done() {
                return true;
            }
            match deadline {
                None => std::thread::park(),
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        return done();
                    }
                    std::thread::park_timeout(deadline - now);
                }
            }
        }
    })
}
