//! A process's way to its node's store.
//!
//! [`StoreClient`] writes objects ([`put`](StoreClient::put), [`create`](StoreClient::create)) and
//! reads them in place ([`get`](StoreClient::get) and its blocking and async forms). What it
//! hands out keeps a *pin*: the store recycles the segment when the last clone of the value is
//! dropped. A value that is still alive in this process is handed out again without asking, and
//! gets for an object that has been asked for wait for the same answer.
//!
//! It does not know who owns an object or whether it can be made again; that is the business of
//! [`crate::client`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use mobula_transport::{
    Address, Endpoint, MailboxId, Message, Payload, PeerEvent, ProcessAddr, ProcessId, Runner, SendError,
};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::directory::has_proof;
use crate::store::mapping::{Mapping, Mappings};
use crate::store::messages::{
    CountPins, DiscardResults, FreeObjects, GetStoreStats, ListObjects, Located, ObjectSummary, OpenClient,
    ReleaseObjects, STORE_SHARD_BASE, STORE_SHARDS, StoreStats, shard_address, shard_of,
};
use crate::store::pins::Pins;
use crate::store::segment::SegmentId;
use crate::store::writer::ObjectWriter;
use crate::value::{Encoding, Value};

mod asking;
mod helper;

use self::helper::{Helper, Wake};

/// How long a question that the store answers at once may take.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// Pins that are given back within this time share a message.
const RELEASE_DELAY: Duration = Duration::from_millis(1);
/// How often a message that must arrive is sent.
const TELL_ATTEMPTS: u32 = 5;
/// How long to wait for the confirmation of such a message.
const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// How long after a connection has changed the pins are counted: what the old one had brought has
/// been read by then. And how long until the next time, while a shard says that this process waits
/// for something: it may be an answer that nobody here waits for any more.
const COUNT_AFTER: Duration = Duration::from_secs(10);

/// What a get ends with.
type Outcome = Result<Arc<Pin>, Error>;
type Callback = Box<dyn FnOnce(Outcome) + Send>;

/// A handle on a store of this machine. Clones share everything.
#[derive(Clone)]
pub struct StoreClient {
    pub(super) inner: Arc<Inner>,
}

impl StoreClient {
    /// A client of the store in the process `store`, whose directory is `store_dir`. Fails unless
    /// `host_proof` is found there: the store is on another machine, or has restarted.
    pub fn connect(endpoint: &Endpoint, store: ProcessAddr, store_dir: &str, host_proof: &str) -> Result<Self, Error> {
        let directory = Path::new(store_dir);
        let same = has_proof(directory, host_proof).map_err(|error| Error::System {
            what: format!("looking for the object store in {store_dir}"),
            why: error.to_string(),
        })?;
        if !same {
            return Err(Error::System {
                what: format!("looking for the object store in {store_dir}"),
                why: "another store lives there: it was restarted, or is on another machine".to_owned(),
            });
        }
        let inner = Arc::new(Inner {
            endpoint: endpoint.clone(),
            store,
            mailbox: endpoint.fresh_mailbox(),
            mappings: Mappings::of(directory),
            state: Mutex::default(),
            connection: AtomicU64::new(0),
            left: AtomicBool::new(false),
        });
        *CLIENTS.lock().entry(inner.ends()).or_default() += 1;
        let helper = Helper::new(Arc::downgrade(&inner));
        let client = endpoint.spawn(Some(inner.mailbox), Runner::Inline, move || helper);
        inner.watch_connection();
        endpoint.send(None, inner.front(), OpenClient { client }, Payload::new());
        Ok(Self { inner })
    }

    /// The process whose store this is.
    pub fn store(&self) -> ProcessAddr {
        self.inner.store
    }

    /// The process uses another store from now on. What this one does not answer is not asked again.
    pub(crate) fn leave(&self) {
        self.inner.left.store(true, Ordering::Release);
    }

    /// Room for an object, to be written in place. Blocks for an answer of the store: for user
    /// threads, never for actors.
    pub fn create(&self, object: ObjectId, encoding: Encoding, size_bytes: u64) -> Result<ObjectWriter, Error> {
        self.create_result(object, 0, encoding, size_bytes)
    }

    /// [`create`](Self::create) for what this attempt of a task returns.
    fn create_result(
        &self,
        object: ObjectId,
        attempt: u32,
        encoding: Encoding,
        size_bytes: u64,
    ) -> Result<ObjectWriter, Error> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.inner.ask_for_room(object, attempt, encoding, size_bytes, move |room| {
            // The thread below listens until it is told.
            let _ = tell.send(room);
        });
        #[cfg(test)]
        if let Some(stage) = crate::simulation::Stage::current() {
            let room = stage.receive(&told).unwrap_or(Err(Error::Send(SendError::Closed)));
            return ObjectWriter::open(self.inner.clone(), object, encoding, size_bytes, room?);
        }
        // Unused only when the endpoint's tables go.
        let segment = told.recv().unwrap_or(Err(Error::Send(SendError::Closed)))?;
        ObjectWriter::open(self.inner.clone(), object, encoding, size_bytes, segment)
    }

    /// Writes an object that consists of `parts`, one after the other. Blocks: for user threads,
    /// never for actors.
    pub fn put(&self, object: ObjectId, encoding: Encoding, parts: &[&[u8]]) -> Result<StoredObject, Error> {
        self.put_result(object, 0, encoding, parts)
    }

    /// [`put`](Self::put) for what this attempt (from 1) of a task returns.
    pub fn put_result(
        &self,
        object: ObjectId,
        attempt: u32,
        encoding: Encoding,
        parts: &[&[u8]],
    ) -> Result<StoredObject, Error> {
        let size_bytes = parts.iter().map(|part| part.len() as u64).sum();
        let mut writer = self.create_result(object, attempt, encoding, size_bytes)?;
        writer.fill(parts);
        writer.seal()
    }

    /// The object's value, pulled to this node if need be. `done` runs once: on this thread if
    /// the value is at hand, else on whatever thread brings or maps it, and must be short.
    pub fn get(
        &self,
        wanted: &StoredObject,
        deadline: Duration,
        done: impl FnOnce(Result<Value, Error>) + Send + 'static,
    ) {
        let mappings = self.inner.mappings.clone();
        let located = move |outcome: Outcome| match outcome {
            Err(error) => done(Err(error)),
            // Mapping takes the lock of the process's memory, which another thread may hold for
            // a while: not on this thread, which may be one that reads a socket.
            Ok(pin) if pin.is_mapped() => done(pin.value()),
            Ok(pin) => mappings.background().run(move || done(pin.value())),
        };
        if let Some(waiter) = self.inner.locate(wanted, Box::new(located)) {
            self.inner.watch(wanted.object, waiter, deadline);
        }
    }

    /// [`get`](Self::get) for a thread that may block.
    pub fn get_blocking(&self, wanted: &StoredObject, deadline: Duration) -> Result<Value, Error> {
        let slot = Arc::new((Mutex::new(None), Condvar::new()));
        let filled = slot.clone();
        let waiter = self.inner.locate(
            wanted,
            Box::new(move |outcome| {
                *filled.0.lock() = Some(outcome);
                filled.1.notify_one();
            }),
        );
        let until = std::time::Instant::now() + deadline;
        let mut outcome = slot.0.lock();
        while outcome.is_none() {
            if slot.1.wait_until(&mut outcome, until).timed_out() {
                break;
            }
        }
        let answer = outcome.take();
        drop(outcome);
        match answer {
            Some(outcome) => outcome?.value(),
            None => {
                if let Some(waiter) = waiter {
                    self.inner.stop_waiting(wanted.object, waiter);
                }
                Err(Error::TimedOut { after: deadline })
            }
        }
    }

    /// [`get`](Self::get) as a future, which needs no particular runtime. It ends when the
    /// object's fate is known.
    pub async fn fetch(&self, wanted: &StoredObject) -> Result<Value, Error> {
        self.pin(wanted, None).await?.value()
    }

    /// [`fetch`](Self::fetch) with a deadline.
    pub async fn fetch_within(&self, wanted: &StoredObject, deadline: Duration) -> Result<Value, Error> {
        self.pin(wanted, Some(deadline)).await?.value()
    }

    /// The value, if it is alive in this process; asks nobody.
    pub fn at_hand(&self, object: &ObjectId) -> Option<Value> {
        self.inner.live(object)?.value().ok()
    }

    /// The objects are needed no longer, wherever they lie; copies are freed too.
    pub fn free(&self, objects: &[StoredObject]) {
        self.inner.flush_releases();
        let mut shards: BTreeMap<Address, Vec<ObjectId>> = BTreeMap::new();
        for stored in objects {
            let object = stored.object;
            // Those that took copies hear of it from where they took them; if that is gone, the
            // one of this node at least does not stay.
            let here = Some(self.inner.store).filter(|store| !stored.nodes.contains(store));
            for node in stored.nodes.iter().copied().chain(here) {
                shards.entry(shard_address(node, &object)).or_default().push(object);
            }
        }
        for (to, objects) in shards {
            tell(&self.inner.endpoint, to, FreeObjects { objects }, TELL_ATTEMPTS);
        }
    }

    /// These attempts of tasks do not count: what they have left in the store of `node` goes, what
    /// other attempts have stored under the same ids stays.
    pub fn discard(&self, node: ProcessAddr, results: impl IntoIterator<Item = (ObjectId, u32)>) {
        let mut shards: BTreeMap<Address, Vec<(ObjectId, u32)>> = BTreeMap::new();
        for (object, attempt) in results {
            shards.entry(shard_address(node, &object)).or_default().push((object, attempt));
        }
        for (to, results) in shards {
            tell(&self.inner.endpoint, to, DiscardResults { results }, TELL_ATTEMPTS);
        }
    }

    /// What the store holds and has done.
    pub async fn stats(&self) -> Result<StoreStats, Error> {
        let answer = self.inner.endpoint.request(self.inner.front(), GetStoreStats, Payload::new(), ASK_DEADLINE);
        Ok(answer.await?.0)
    }

    /// The store's objects in order of their ids, at most `limit`.
    pub async fn list(&self, limit: u32) -> Result<Vec<ObjectSummary>, Error> {
        let mut all = Vec::new();
        for shard in 0..STORE_SHARDS {
            let to = Address { process: self.inner.store, mailbox: MailboxId(STORE_SHARD_BASE.0 + shard) };
            let answer = self.inner.endpoint.request(to, ListObjects { limit }, Payload::new(), ASK_DEADLINE);
            all.extend(answer.await?.0);
        }
        all.sort_by_key(|summary: &ObjectSummary| summary.object);
        all.truncate(limit as usize);
        Ok(all)
    }

    /// The directory of the store's shared memory.
    pub(crate) fn directory(&self) -> &Path {
        self.inner.mappings.directory()
    }

    pub(crate) fn mappings(&self) -> &Arc<Mappings> {
        &self.inner.mappings
    }

    /// What has the object in this process, without making a value of it.
    pub(crate) async fn pin(&self, wanted: &StoredObject, deadline: Option<Duration>) -> Outcome {
        let (tell, told) = oneshot::channel();
        let waiter = self.inner.locate(
            wanted,
            Box::new(move |outcome| {
                // Nobody listens if the future was dropped; then the pin goes back.
                let _ = tell.send(outcome);
            }),
        );
        if let (Some(waiter), Some(deadline)) = (waiter, deadline) {
            self.inner.watch(wanted.object, waiter, deadline);
        }
        // The callback is dropped unused only when the endpoint's tables go.
        told.await.unwrap_or(Err(Error::Send(SendError::Closed)))
    }
}

impl fmt::Debug for StoreClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreClient({})", self.inner.store)
    }
}

/// Sends a message whose second arrival changes nothing, again if the network failed.
pub(crate) fn tell<M: Message<Reply = ()> + Clone>(endpoint: &Endpoint, to: Address, message: M, attempts: u32) {
    let again = (endpoint.clone(), message.clone());
    endpoint.request_with(to, message, Payload::new(), TELL_DEADLINE, move |answer| match answer {
        Ok(_) => {}
        Err(error) if error.is_retriable() && attempts > 1 => {
            let (endpoint, message) = again;
            tell(&endpoint, to, message, attempts - 1);
        }
        Err(error) => tracing::debug!(%to, name = M::NAME, %error, "a store did not hear"),
    });
}

/// What all clones of a client share.
pub(crate) struct Inner {
    endpoint: Endpoint,
    store: ProcessAddr,
    mailbox: MailboxId,
    mappings: Arc<Mappings>,
    state: Mutex<State>,
    /// Counts the changes of the connection to the store.
    connection: AtomicU64,
    /// Another store is used now.
    left: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Pins that are alive in this process.
    live: HashMap<ObjectId, Weak<Pin>>,
    /// Objects the store has been asked for.
    asked: HashMap<ObjectId, Asked>,
    pins: Pins,
    release_armed: bool,
    next_waiter: u64,
    /// Deadlines of those who wait in `asked`; entries of waiters that are gone mean nothing.
    deadlines: BTreeSet<(Instant, u64, ObjectId)>,
    /// For when the helper's timer is set.
    timer: Option<Instant>,
}

struct Asked {
    /// The question as it was put.
    wanted: StoredObject,
    waiters: Vec<Waiter>,
}

struct Waiter {
    id: u64,
    wanted: StoredObject,
    deadline: Option<Duration>,
    done: Callback,
}

impl Inner {
    pub(crate) fn store(&self) -> ProcessAddr {
        self.store
    }

    pub(crate) fn map(&self, segment: SegmentId, writable: bool) -> Result<Arc<Mapping>, Error> {
        self.mappings.open(segment, writable).map_err(|error| Error::System {
            what: format!("mapping segment {segment} of the object store"),
            why: error.to_string(),
        })
    }

    /// Tells a shard something whose second arrival changes nothing.
    pub(crate) fn tell_shard<M: Message<Reply = ()> + Clone>(&self, object: &ObjectId, message: M) {
        tell(&self.endpoint, shard_address(self.store, object), message, TELL_ATTEMPTS);
    }

    fn front(&self) -> Address {
        Address { process: self.store, mailbox: MailboxId::STORE }
    }

    fn live(&self, object: &ObjectId) -> Option<Arc<Pin>> {
        self.state.lock().live.get(object).and_then(Weak::upgrade)
    }

    /// Finds the object; where that does not happen at once, returns the waiter's number.
    fn locate(self: &Arc<Self>, wanted: &StoredObject, done: Callback) -> Option<u64> {
        let object = wanted.object;
        let mut state = self.state.lock();
        if let Some(pin) = state.live.get(&object).and_then(Weak::upgrade) {
            drop(state);
            done(Ok(pin));
            return None;
        }
        state.next_waiter += 1;
        let id = state.next_waiter;
        let waiter = Waiter { id, wanted: wanted.clone(), deadline: None, done };
        if let Some(asked) = state.asked.get_mut(&object) {
            asked.waiters.push(waiter);
            return Some(id);
        }
        state.asked.insert(object, Asked { wanted: wanted.clone(), waiters: vec![waiter] });
        drop(state);
        self.ask(wanted.clone());
        // Whoever is still waiting was not answered in place.
        let state = self.state.lock();
        let waits = state.asked.get(&object).is_some_and(|asked| asked.waiters.iter().any(|waiter| waiter.id == id));
        waits.then_some(id)
    }

    /// The store has answered.
    fn located(self: &Arc<Self>, object: ObjectId, result: Result<Located, Error>) {
        let outcome =
            result.map(|located| Arc::new(Pin { inner: self.clone(), object, located, mapping: OnceLock::new() }));
        let mut state = self.state.lock();
        let asked = state.asked.remove(&object);
        let Some(Asked { wanted, mut waiters }) = asked else {
            return;
        };
        let mut again = Vec::new();
        if let Ok(pin) = &outcome {
            state.pins.received(shard_of(&object), pin.located.segment);
            state.live.insert(object, Arc::downgrade(pin));
            if let Some(mapping) = self.mappings.cached(pin.located.segment, false) {
                // It is empty, so this succeeds.
                let _ = pin.mapping.set(mapping);
            }
        } else {
            // Those who know of a node that was not asked for it have not heard the last word.
            let knows_more = |waiter: &Waiter| waiter.wanted.nodes.iter().any(|node| !wanted.nodes.contains(node));
            (again, waiters) = waiters.into_iter().partition(knows_more);
        }
        drop(state);
        for waiter in waiters {
            (waiter.done)(outcome.clone());
        }
        for waiter in again {
            let Waiter { wanted, deadline, done, .. } = waiter;
            if let (Some(id), Some(deadline)) = (self.locate(&wanted, done), deadline) {
                self.watch(wanted.object, id, deadline);
            }
        }
    }

    /// Ends the wait with [`Error::TimedOut`] after `deadline`.
    fn watch(&self, object: ObjectId, waiter: u64, deadline: Duration) {
        let at = Instant::now() + deadline;
        let mut state = self.state.lock();
        let waiting = state.asked.get_mut(&object).and_then(|asked| asked.waiters.iter_mut().find(|w| w.id == waiter));
        let Some(waiting) = waiting else { return };
        waiting.deadline = Some(deadline);
        state.deadlines.insert((at, waiter, object));
        let earlier = state.timer.is_none_or(|timer| at < timer);
        if earlier {
            state.timer = Some(at);
        }
        drop(state);
        if earlier {
            self.call_helper(Wake::Deadlines);
        }
    }

    fn stop_waiting(&self, object: ObjectId, waiter: u64) -> Option<Waiter> {
        let mut state = self.state.lock();
        let waiters = &mut state.asked.get_mut(&object)?.waiters;
        let at = waiters.iter().position(|other| other.id == waiter)?;
        Some(waiters.remove(at))
    }

    /// Tells those whose deadline has passed; returns how long until the next one.
    fn sweep_deadlines(&self, now: Instant) -> Option<Duration> {
        loop {
            let (waiter, object) = {
                let mut state = self.state.lock();
                match state.deadlines.first().copied() {
                    None => {
                        state.timer = None;
                        return None;
                    }
                    Some((at, ..)) if at > now => {
                        state.timer = Some(at);
                        return Some(at - now);
                    }
                    Some((_, waiter, object)) => {
                        state.deadlines.pop_first();
                        (waiter, object)
                    }
                }
            };
            if let Some(waiter) = self.stop_waiting(object, waiter) {
                (waiter.done)(Err(Error::TimedOut { after: waiter.deadline.unwrap_or_default() }));
            }
        }
    }

    fn release(&self, object: ObjectId, segment: SegmentId, pin: *const Pin) {
        let mut state = self.state.lock();
        if state.live.get(&object).is_some_and(|live| std::ptr::eq(live.as_ptr(), pin)) {
            state.live.remove(&object);
        }
        state.pins.dropped(shard_of(&object), segment);
        let arm = !std::mem::replace(&mut state.release_armed, true);
        drop(state);
        if arm {
            self.call_helper(Wake::Releases);
        }
    }

    /// Has the pins given back that nobody uses any more, before anything else is asked.
    fn flush_releases(&self) {
        if self.state.lock().pins.has_unused() {
            self.call_helper(Wake::Flush);
        }
    }

    /// Gives back the pins nobody uses any more. Only for the helper, which does one thing after
    /// the other: what is counted must not be given back at the same time.
    fn give_back(&self) {
        let releases = self.state.lock().pins.give_back();
        for (mailbox, segments) in releases {
            let to = Address { process: self.store, mailbox };
            self.endpoint.send(Some(self.mailbox), to, ReleaseObjects { segments }, Payload::new());
        }
    }

    /// Asks the shards what they count, and gives back what is not known here. As for
    /// [`give_back`](Self::give_back).
    fn count_pins(self: &Arc<Self>) {
        let connection = self.connection.load(Ordering::Acquire);
        if CLIENTS.lock().get(&self.ends()).is_some_and(|clients| *clients > 1) {
            // What is not known to this client may be another one's.
            return;
        }
        self.give_back();
        for shard in (0..STORE_SHARDS).map(|shard| MailboxId(STORE_SHARD_BASE.0 + shard)) {
            if !self.state.lock().pins.ask(shard) {
                continue;
            }
            let this = Arc::downgrade(self);
            let to = Address { process: self.store, mailbox: shard };
            self.endpoint.request_with(to, CountPins, Payload::new(), ASK_DEADLINE, move |answer| {
                let Some(this) = this.upgrade() else { return };
                // An answer over another connection may have overtaken others.
                let same = this.connection.load(Ordering::Acquire) == connection;
                let held = answer.ok().map(|(held, _)| held).filter(|_| same);
                let unsure = held.as_ref().is_none_or(|held| held.waiting > 0);
                this.state.lock().pins.settle(shard, held.as_ref().map(|held| &held.pins[..]));
                this.flush_releases();
                if unsure {
                    this.call_helper(Wake::Count);
                }
            });
        }
    }

    /// Has the pins counted when the connection to the store has broken.
    fn watch_connection(self: &Arc<Self>) {
        let (this, store) = (Arc::downgrade(self), self.store.id);
        self.endpoint.watch_peers(move |event| {
            let (process, first) = match event {
                PeerEvent::Connected { process } => (process, true),
                PeerEvent::Interrupted { process, .. } | PeerEvent::Lost { process, .. } => (process, false),
                _ => return,
            };
            if process == store
                && let Some(this) = this.upgrade()
            {
                let before = this.connection.fetch_add(1, Ordering::AcqRel);
                // Before the first connection there was nothing to lose.
                if !(first && before == 0) {
                    this.call_helper(Wake::Count);
                }
            }
        });
    }

    fn ends(&self) -> (ProcessId, ProcessId) {
        (self.endpoint.process().id, self.store.id)
    }

    fn call_helper(&self, wake: Wake) {
        self.endpoint.send(None, self.endpoint.address_of(self.mailbox), wake, Payload::new());
    }
}

/// How many clients a process has at a store: the store counts the pins of a process.
static CLIENTS: Mutex<BTreeMap<(ProcessId, ProcessId), usize>> = Mutex::new(BTreeMap::new());

impl Drop for Inner {
    fn drop(&mut self) {
        self.give_back();
        let mut clients = CLIENTS.lock();
        if let Some(left) = clients.get_mut(&self.ends()) {
            *left -= 1;
            if *left == 0 {
                clients.remove(&self.ends());
            }
        }
        drop(clients);
        if let Some(helper) = self.endpoint.detach(self.mailbox) {
            helper.close();
        }
    }
}

/// One pin on an object, given back when it is dropped.
pub(crate) struct Pin {
    inner: Arc<Inner>,
    object: ObjectId,
    located: Located,
    mapping: OnceLock<Arc<Mapping>>,
}

impl Pin {
    fn is_mapped(&self) -> bool {
        self.mapping.get().is_some()
    }

    /// Where the object lies in this process; maps it if need be.
    pub(crate) fn mapping(&self) -> Result<&Arc<Mapping>, Error> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let mapping = self.inner.map(self.located.segment, false)?;
        Ok(self.mapping.get_or_init(|| mapping))
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.located.size_bytes
    }

    /// The object's bytes, in place, for as long as somebody has them.
    pub(crate) fn value(self: &Arc<Self>) -> Result<Value, Error> {
        self.mapping()?;
        let data = Bytes::from_owner(Pinned(self.clone()));
        Ok(Value::new(self.located.encoding, data))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.inner.release(self.object, self.located.segment, self);
    }
}

/// The owner of a value's bytes.
struct Pinned(Arc<Pin>);

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        match self.0.mapping.get() {
            // SAFETY: the object is sealed, and pinned as long as `self` lives.
            Some(mapping) => unsafe { mapping.bytes(self.0.located.size_bytes as usize) },
            // Not reached: `value` maps first.
            None => &[],
        }
    }
}
