//! The store of a node: shards, and the front that serves the store as a whole.
//!
//! A [`Shard`] owns its part of the table and answers on the thread that asks; what takes time
//! (making a file, giving memory back) is done on the pool's threads and answered from there. The
//! [`Front`] keeps the clients, the pulls and the decay of idle memory. All of them are thin
//! shells: [`table`](super::table), [`pull`](super::pull) and [`ledger`](super::ledger) decide.
//!
//! ```text
//!   clients ──▶ shard 0..7 ──Pull──▶ front ──▶ Fetcher (bulk streams)
//!                  ▲    ◀── Pulled ────┘
//!                  └──── pool (ledger + files), shared
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mobula_transport::{
    Actor, Address, Context, Endpoint, Handlers, MailboxId, Message, Payload, ProcessAddr, ProcessId, Replier, Request,
    Runner, SendError,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::{NodeId, ObjectId};
use crate::messages::StoredObject;
use crate::store::arrival;
use crate::store::bulk::{self, Fetcher};
use crate::store::client::{StoreClient, tell};
use crate::store::directory::{SHARED_MEMORY, StoreDirectory};
use crate::store::ledger::{DECAY_EVERY, Reserved};
use crate::store::messages::{
    AbandonCreation, AbortObject, CountPins, CreateObject, DiscardResults, FreeObjects, GetObjects, GetStoreStats,
    ListObjects, Located, OpenClient, ReleaseObjects, STORE_SHARD_BASE, STORE_SHARDS, SealObject, Segment,
    SegmentsDropped, StoreStats, shard_address,
};
use crate::store::pool::{IO_THREADS, MAX_MAKING, Pool, capacity_bytes};
use crate::store::pull::{self, Failure, PULL_WINDOW_BYTES, PullManager};
use crate::store::segment::SegmentId;
use crate::store::table::{self, Table, WaiterId};
use crate::value::Encoding;

/// Objects that one message may ask for.
pub const MAX_GET_OBJECTS: usize = 1 << 20;
/// Bits of a waiter's number that say which object of its message it waits for.
const WAITER_INDEX_BITS: u32 = 20;
/// How often a free is forwarded to a store that took a copy.
const FORWARD_ATTEMPTS: u32 = 3;

/// How to set up a node's store.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// In which directory the store makes its own; `/dev/shm` unless given.
    pub base: Option<PathBuf>,
    /// How much memory it may take; 30 % of the machine's unless given. Never more than 90 % of
    /// what is free there.
    pub capacity_bytes: Option<u64>,
    /// Whether slow work is done on the thread that asks for it. For simulations: another thread
    /// would race with their paused time.
    pub in_place: bool,
}

/// A node's store. Start it once per endpoint.
#[derive(Debug)]
pub struct Store;

impl Store {
    /// Makes the store's directory, removes what crashed predecessors left, and starts the
    /// store's actors at `endpoint`.
    pub fn start(endpoint: &Endpoint, node: NodeId, config: StoreConfig) -> Result<StoreHandle, Error> {
        let base = config.base.unwrap_or_else(|| {
            let shared = PathBuf::from(SHARED_MEMORY);
            if shared.is_dir() { shared } else { std::env::temp_dir() }
        });
        let failed = |error: std::io::Error| Error::System {
            what: format!("setting up the object store in {}", base.display()),
            why: error.to_string(),
        };
        let directory = StoreDirectory::create(&base, node).map_err(failed)?;
        let capacity = capacity_bytes(&base, config.capacity_bytes).map_err(failed)?;
        let (store_dir, proof) = (directory.path().to_string_lossy().into_owned(), directory.proof().to_owned());
        let shared = Arc::new(Shared {
            pool: Pool::new(directory, capacity, if config.in_place { 0 } else { IO_THREADS }),
            endpoint: endpoint.clone(),
            objects: std::array::from_fn(|_| AtomicU64::new(0)),
            pulled_bytes: AtomicU64::new(0),
            served_bytes: AtomicU64::new(0),
            decay_armed: AtomicBool::new(false),
        });
        for index in 0..STORE_SHARDS {
            let shard = Shard::new(shared.clone(), index as usize);
            endpoint.spawn(Some(MailboxId(STORE_SHARD_BASE.0 + index)), Runner::Inline, move || shard);
        }
        let client = StoreClient::connect(endpoint, endpoint.process(), &store_dir, &proof)?;
        let fetcher = bulk::start(endpoint, &client, &shared)?;
        let front = Front::new(shared.clone(), client.clone(), fetcher);
        endpoint.spawn(Some(MailboxId::STORE), Runner::Inline, move || front);
        Ok(StoreHandle { shared, client })
    }
}

/// A running store.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    shared: Arc<Shared>,
    client: StoreClient,
}

impl StoreHandle {
    /// The store's directory, for [`StoreClient::connect`].
    pub fn store_dir(&self) -> String {
        self.shared.pool.directory().path().to_string_lossy().into_owned()
    }

    /// The proof that a process sees the store's directory.
    pub fn host_proof(&self) -> String {
        self.shared.pool.directory().proof().to_owned()
    }

    /// A client in the store's own process.
    pub fn client(&self) -> StoreClient {
        self.client.clone()
    }

    /// A process is dead: what it read is released, what it was writing is given up, what it owned
    /// is freed. Only for processes that really are dead: one that lives could see memory that is
    /// used again.
    pub fn process_died(&self, process: ProcessId) {
        let endpoint = &self.shared.endpoint;
        for index in 0..STORE_SHARDS {
            let shard = endpoint.address_of(MailboxId(STORE_SHARD_BASE.0 + index));
            endpoint.send(None, shard, ProcessDied { process }, Payload::new());
        }
        endpoint.send(None, endpoint.address_of(MailboxId::STORE), ProcessDied { process }, Payload::new());
    }

    /// What the store holds and has done.
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    /// Ends the store's actors and removes its directory. Values that are still alive stay
    /// readable. Blocks while memory is given back.
    pub fn shutdown(&self) {
        let endpoint = &self.shared.endpoint;
        let shards = (0..STORE_SHARDS).map(|index| MailboxId(STORE_SHARD_BASE.0 + index));
        for mailbox in shards.chain([MailboxId::STORE]) {
            if let Some(actor) = endpoint.detach(mailbox) {
                actor.close();
            }
        }
        if let Err(error) = self.shared.pool.directory().remove() {
            tracing::warn!(%error, "cannot remove the object store's directory");
        }
    }
}

/// What the actors of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) endpoint: Endpoint,
    /// How many objects each shard has.
    objects: [AtomicU64; STORE_SHARDS as usize],
    pub(crate) pulled_bytes: AtomicU64,
    pub(crate) served_bytes: AtomicU64,
    /// Whether the front looks after idle memory.
    decay_armed: AtomicBool,
}

impl Shared {
    fn stats(&self) -> StoreStats {
        let (used_bytes, idle_bytes, capacity_bytes) = self.pool.sums();
        StoreStats {
            used_bytes,
            idle_bytes,
            capacity_bytes,
            objects: self.objects.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
            pulled_bytes: self.pulled_bytes.load(Ordering::Relaxed),
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
        }
    }

    /// Sends a message to an actor of this store.
    pub(crate) fn tell<M: Message>(&self, mailbox: MailboxId, message: M) {
        self.endpoint.send(None, self.endpoint.address_of(mailbox), message, Payload::new());
    }

    fn tell_shard<M: Message>(&self, object: &ObjectId, message: M) {
        let to = shard_address(self.endpoint.process(), object);
        self.endpoint.send(None, to, message, Payload::new());
    }

    /// Whether a message was sent by this process; those between the store's actors must be.
    fn is_own<M: Message>(&self, request: &Request<M>) -> bool {
        request.from().process.id == self.endpoint.process().id
    }

    pub(crate) fn recycle(&self, segment: SegmentId, now: tokio::time::Instant) {
        let decays = self.pool.recycle(segment, now);
        if decays && !self.decay_armed.swap(true, Ordering::AcqRel) {
            self.tell(MailboxId::STORE, WatchDecay);
        }
    }

    /// Reserves a segment for `user`, and makes it on a thread of the pool where that takes time.
    /// `done` runs on this thread or on that one. Returns the segment if one was reserved; `done`
    /// then gets the same with the error if it could not be made.
    fn allocate(
        self: &Arc<Self>,
        size_bytes: u64,
        user: ProcessId,
        done: impl FnOnce(Result<Segment, NotMade>) + Send + 'static,
    ) -> Option<SegmentId> {
        let reserved = match self.reserve(size_bytes, user) {
            Ok(reserved) => reserved,
            Err(error) => {
                done(Err(NotMade { reserved: None, error }));
                return None;
            }
        };
        let segment = Segment { segment: reserved.segment, class_bytes: reserved.class_bytes };
        if !reserved.fresh && reserved.dropped.is_empty() {
            done(Ok(segment));
        } else {
            let this = self.clone();
            self.pool.io().run(move || {
                let made = this.pool.make(&reserved);
                done(match made {
                    Ok(()) => Ok(segment),
                    Err(error) => Err(NotMade { reserved: Some(segment.segment), error }),
                });
                this.announce(reserved.dropped);
            });
        }
        Some(segment.segment)
    }

    /// A segment, not made yet.
    fn reserve(&self, size_bytes: u64, user: ProcessId) -> Result<Reserved, Error> {
        if self.pool.io().backlog() >= MAX_MAKING {
            return Err(Error::Send(SendError::MailboxFull { limit: MAX_MAKING }));
        }
        let reserved = self.pool.reserve(size_bytes, user)?;
        for (segment, object) in &reserved.evicted {
            self.tell_shard(object, Evicted { segment: *segment, object: *object });
        }
        Ok(reserved)
    }

    /// The files of these segments are gone.
    fn announce(&self, segments: Vec<SegmentId>) {
        if !segments.is_empty() {
            self.tell(MailboxId::STORE, SegmentsDropped { segments });
        }
    }
}

/// A segment could not be had.
struct NotMade {
    /// It had been reserved (it no longer is).
    reserved: Option<SegmentId>,
    error: Error,
}

// ---- messages between the store's own actors ----------------------------------------------------

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ProcessDied {
    process: ProcessId,
}
mobula_transport::message!(ProcessDied);

/// To a shard: the room for a creation could not be made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct CreationFailed {
    segment: SegmentId,
    by: ProcessId,
}
mobula_transport::message!(CreationFailed);

/// To a shard: a copy was given up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Evicted {
    segment: SegmentId,
    object: ObjectId,
}
mobula_transport::message!(Evicted);

/// To a shard: another store fetched the object.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Served {
    pub(crate) object: ObjectId,
    pub(crate) peer: ProcessAddr,
}
mobula_transport::message!(Served);

/// To the front: bring this object here.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PullObject(StoredObject);
mobula_transport::message!(PullObject);

/// To the front: a fetch has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FetchEnded {
    object: ObjectId,
    encoding: Encoding,
    size_bytes: u64,
    result: Result<SegmentId, Failure>,
}
mobula_transport::message!(FetchEnded);

/// To a shard: a pull has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PullEnded {
    object: ObjectId,
    result: Result<Located, Error>,
}
mobula_transport::message!(PullEnded);

/// To the front: there is idle memory beyond the bound.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct WatchDecay;
mobula_transport::message!(WatchDecay);

// ---- shards -------------------------------------------------------------------------------------

/// One part of the table.
struct Shard {
    shared: Arc<Shared>,
    index: usize,
    table: Table,
    /// Questions that wait for some of their answers.
    batches: HashMap<u64, Batch>,
    next_batch: u64,
    effects: Vec<table::Effect>,
}

struct Batch {
    results: Vec<Option<Result<Located, Error>>>,
    left: usize,
    replier: Replier<Vec<Result<Located, Error>>>,
}

impl Actor for Shard {
    const NAME: &'static str = "store-shard";

    fn handlers(table: &mut Handlers<Self>) {
        table.on::<CreateObject>(|shard, message, request, _| shard.create(message, request));
        table.on::<SealObject>(|shard, message, request, ctx| {
            shard.table.seal(message.segment, request.from().process.id, &mut shard.effects);
            shard.carry_out(ctx);
            request.reply(());
        });
        table.on::<AbortObject>(|shard, message, request, ctx| {
            shard.table.abort(message.segment, request.from().process.id, true, &mut shard.effects);
            shard.carry_out(ctx);
            request.reply(());
        });
        table.on::<AbandonCreation>(|shard, message, request, ctx| {
            shard.table.abandon(message.number, request.from().process.id, &mut shard.effects);
            shard.carry_out(ctx);
            request.reply(());
        });
        table.on::<GetObjects>(|shard, message, request, ctx| shard.get(message, request, ctx));
        table.on::<ReleaseObjects>(|shard, message, request, ctx| {
            let process = request.from().process.id;
            for (segment, pins) in message.segments {
                shard.table.release(segment, process, pins, &mut shard.effects);
            }
            shard.carry_out(ctx);
        });
        table.on::<CountPins>(|shard, _, request, _| {
            let held = shard.table.pins_of(request.from().process.id);
            request.reply(held);
        });
        table.on::<FreeObjects>(|shard, message, request, ctx| {
            let shared = shard.shared.clone();
            let mut retain = |segment, object| shared.pool.retain(segment, object);
            for object in message.objects {
                shard.table.free(object, &mut retain, &mut shard.effects);
            }
            shard.carry_out(ctx);
            request.reply(());
        });
        table.on::<DiscardResults>(|shard, message, request, ctx| {
            for (object, attempt) in message.results {
                shard.table.discard(object, attempt, &mut shard.effects);
            }
            shard.carry_out(ctx);
            request.reply(());
        });
        table.on::<ListObjects>(|shard, message, request, _| {
            let mut list = shard.table.list();
            list.truncate(message.limit as usize);
            request.reply(list);
        });
        table.on::<CreationFailed>(|shard, message, request, ctx| {
            if shard.shared.is_own(&request) {
                shard.table.abort(message.segment, message.by, false, &mut shard.effects);
                shard.carry_out(ctx);
            }
        });
        table.on::<Evicted>(|shard, message, request, ctx| {
            if shard.shared.is_own(&request) {
                shard.table.evicted(message.segment, message.object);
                shard.carry_out(ctx);
            }
        });
        table.on::<Served>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                shard.table.served(message.object, message.peer);
            }
        });
        table.on::<PullEnded>(|shard, message, request, ctx| {
            if shard.shared.is_own(&request) {
                let effects = &mut shard.effects;
                match message.result {
                    Ok(Located { segment, encoding, size_bytes }) => {
                        shard.table.pulled(message.object, encoding, size_bytes, segment, effects);
                    }
                    Err(error) => shard.table.pull_failed(message.object, error, effects),
                }
                shard.carry_out(ctx);
            }
        });
        table.on::<ProcessDied>(|shard, message, request, ctx| {
            if shard.shared.is_own(&request) {
                let shared = shard.shared.clone();
                let mut retain = |segment, object| shared.pool.retain(segment, object);
                shard.table.process_died(message.process, &mut retain, &mut shard.effects);
                shard.carry_out(ctx);
            }
        });
    }
}

impl Shard {
    fn new(shared: Arc<Shared>, index: usize) -> Self {
        let table = Table::new(shared.endpoint.process().id);
        Self { shared, index, table, batches: HashMap::new(), next_batch: 0, effects: Vec::new() }
    }

    fn create(&mut self, message: CreateObject, request: Request<CreateObject>) {
        let CreateObject { object, size_bytes, .. } = message;
        let by = request.from().process.id;
        let replier = request.into_replier();
        let shared = self.shared.clone();
        let segment = self.shared.allocate(size_bytes, by, move |made| {
            if let Err(NotMade { reserved: Some(segment), .. }) = made {
                // This actor is busy now, so it hears of it after the creation is in the table.
                shared.tell_shard(&object, CreationFailed { segment, by });
            }
            replier.reply(made.map_err(|not_made| not_made.error));
        });
        if let Some(segment) = segment {
            self.table.create(segment, &message, by);
            self.count();
        }
    }

    fn get(&mut self, message: GetObjects, request: Request<GetObjects>, ctx: &mut Context<Self>) {
        let process = request.from().process.id;
        let count = message.objects.len();
        if count > MAX_GET_OBJECTS {
            let why = format!("{count} objects in one question, at most {MAX_GET_OBJECTS} are allowed");
            return request.fail(SendError::Refused { why });
        }
        self.next_batch += 1;
        let batch = self.next_batch;
        let replier = request.into_replier();
        if count == 0 {
            return replier.reply(Vec::new());
        }
        self.batches.insert(batch, Batch { results: vec![None; count], left: count, replier });
        let shared = self.shared.clone();
        let mut retain = |segment, object| shared.pool.retain(segment, object);
        for (index, wanted) in message.objects.iter().enumerate() {
            let waiter = (batch << WAITER_INDEX_BITS) | index as u64;
            self.table.get(waiter, process, wanted, &mut retain, &mut self.effects);
        }
        self.carry_out(ctx);
    }

    fn carry_out(&mut self, ctx: &mut Context<Self>) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                table::Effect::Answer { waiter, result } => self.answer(waiter, result),
                table::Effect::Recycle(segment) => self.shared.recycle(segment, ctx.now()),
                table::Effect::Evictable(segment, object) => self.shared.pool.set_evictable(segment, object),
                table::Effect::Pull(wanted) => self.shared.tell(MailboxId::STORE, PullObject(wanted)),
                table::Effect::ForwardFree(object, peers) => {
                    for peer in peers {
                        let to = shard_address(peer, &object);
                        let message = FreeObjects { objects: vec![object] };
                        tell(&self.shared.endpoint, to, message, FORWARD_ATTEMPTS);
                    }
                }
            }
        }
        self.effects = effects;
        self.count();
    }

    fn answer(&mut self, waiter: WaiterId, result: Result<Located, Error>) {
        let (number, index) = (waiter >> WAITER_INDEX_BITS, waiter & ((1 << WAITER_INDEX_BITS) - 1));
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.results[index as usize] = Some(result);
        batch.left -= 1;
        if batch.left == 0
            && let Some(batch) = self.batches.remove(&number)
        {
            batch.replier.reply(batch.results.into_iter().flatten().collect());
        }
    }

    fn count(&self) {
        self.shared.objects[self.index].store(self.table.len() as u64, Ordering::Relaxed);
    }
}

// ---- the front ----------------------------------------------------------------------------------

/// What concerns the store as a whole.
struct Front {
    shared: Arc<Shared>,
    client: StoreClient,
    fetcher: Arc<dyn Fetcher>,
    pulls: PullManager,
    /// Those who want to hear of dropped segments.
    clients: BTreeMap<ProcessId, Vec<Address>>,
}

impl Actor for Front {
    const NAME: &'static str = "store-front";

    fn handlers(table: &mut Handlers<Self>) {
        table.on::<OpenClient>(|front, message, _, _| {
            let process = message.client.process.id;
            front.clients.entry(process).or_default().push(message.client);
        });
        table.on::<SegmentsDropped>(|front, message, request, _| {
            if front.shared.is_own(&request) {
                front.announce(&message.segments);
            }
        });
        table.on::<GetStoreStats>(|front, _, request, _| request.reply(front.shared.stats()));
        table.on::<PullObject>(|front, message, request, _| {
            if front.shared.is_own(&request) {
                let mut effects = Vec::new();
                front.pulls.want(message.0, &mut effects);
                front.carry_out(effects);
            }
        });
        table.on::<FetchEnded>(|front, message, request, _| {
            if front.shared.is_own(&request) {
                front.fetch_ended(message);
            }
        });
        table.on::<WatchDecay>(|front, _, request, ctx| {
            if front.shared.is_own(&request) {
                front.decay(ctx);
            }
        });
        table.on::<ProcessDied>(|front, message, request, _| {
            if front.shared.is_own(&request) {
                front.clients.remove(&message.process);
                let mut effects = Vec::new();
                front.pulls.node_died(message.process, &mut effects);
                front.carry_out(effects);
            }
        });
    }
}

impl Front {
    fn new(shared: Arc<Shared>, client: StoreClient, fetcher: Arc<dyn Fetcher>) -> Self {
        let pulls = PullManager::new(PULL_WINDOW_BYTES);
        Self { shared, client, fetcher, pulls, clients: BTreeMap::new() }
    }

    /// Gives back the memory that has been idle for too long, and looks again later if need be.
    fn decay(&mut self, ctx: &mut Context<Self>) {
        let (dropped, mut more) = self.shared.pool.decay(ctx.now());
        if !more {
            self.shared.decay_armed.store(false, Ordering::Release);
            // Who recycled just before that relied on this round.
            more = self.shared.pool.decays() && !self.shared.decay_armed.swap(true, Ordering::AcqRel);
        }
        if more {
            ctx.later(DECAY_EVERY, Self::decay);
        }
        if !dropped.is_empty() {
            let shared = self.shared.clone();
            self.shared.pool.io().run(move || {
                shared.pool.remove(&dropped);
                shared.announce(dropped);
            });
        }
    }

    fn announce(&self, segments: &[SegmentId]) {
        // The store's own process hears of it first and for certain.
        self.client.mappings().forget(segments);
        for client in self.clients.values().flatten() {
            let message = SegmentsDropped { segments: segments.to_vec() };
            self.shared.endpoint.send(None, *client, message, Payload::new());
        }
    }

    fn carry_out(&mut self, effects: Vec<pull::Effect>) {
        for effect in effects {
            match effect {
                pull::Effect::Start { object, encoding, size_bytes, source } => {
                    self.fetch(object, encoding, size_bytes, source);
                }
                pull::Effect::GiveUp { object, error } => {
                    self.shared.tell_shard(&object, PullEnded { object, result: Err(error) });
                }
            }
        }
    }

    /// Finds room for the object, then fetches it; either may take long and ends in
    /// [`FetchEnded`].
    fn fetch(&self, object: ObjectId, encoding: Encoding, size_bytes: u64, source: ProcessAddr) {
        let ended = {
            let shared = self.shared.clone();
            move |result: Result<SegmentId, Failure>| {
                shared.tell(MailboxId::STORE, FetchEnded { object, encoding, size_bytes, result });
            }
        };
        let reserved = match self.shared.reserve(size_bytes, self.shared.endpoint.process().id) {
            Ok(reserved) => reserved,
            Err(error) => return ended(Err(Failure::Here(error))),
        };
        let (shared, fetcher, mappings) = (self.shared.clone(), self.fetcher.clone(), self.client.mappings().clone());
        self.shared.pool.io().run(move || {
            let dropped = reserved.dropped.clone();
            arrival::fetch(&shared, &mappings, &*fetcher, source, (object, size_bytes), reserved, ended);
            shared.announce(dropped);
        });
    }

    fn fetch_ended(&mut self, message: FetchEnded) {
        let FetchEnded { object, encoding, size_bytes, result } = message;
        let mut effects = Vec::new();
        match result {
            Ok(segment) => {
                self.shared.pulled_bytes.fetch_add(size_bytes, Ordering::Relaxed);
                let result = Ok(Located { segment, encoding, size_bytes });
                self.shared.tell_shard(&object, PullEnded { object, result });
                self.pulls.done(object, &mut effects);
            }
            Err(failure) => self.pulls.failed(object, failure, &mut effects),
        }
        self.carry_out(effects);
    }
}
