//! The inside of an endpoint: mailboxes, requests in flight, streams, timers. The crate's other
//! parts meet here; users see [`Endpoint`](crate::Endpoint).

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::actor::{Actor, Handlers};
use crate::address::{MailboxId, ProcessAddr, ProcessId, Sender};
use crate::arbiter::Arbiters;
use crate::asker::Asker;
use crate::bulk::{BulkNetwork, BulkSource, TRANSPORT_MAILBOX, TransportMailbox};
use crate::config::{EndpointConfig, Limits, RuntimeChoice};
use crate::endpoint::Mailbox;
use crate::envelope::{Body, Envelope, RawReply};
use crate::error::{SendError, Undelivered};
use crate::link::Links;
use crate::message::{Message, Payload};
use crate::metrics::Metrics;
use crate::network::Network;
use crate::peers::{PeerEvent, Peers};
use crate::pending::{NEVER_US, Pending, Waiter};
use crate::quic::QuicNetwork;
use crate::refusals::Refusals;
use crate::runtime::Runtime;
use crate::stream::Sinks;

/// Shards of the mailbox table; a power of two.
const MAILBOX_SHARDS: usize = 16;
/// The sweeper looks at most this often.
const SWEEP_GAP: Duration = Duration::from_millis(1);

pub(crate) struct Core {
    process: ProcessAddr,
    mailboxes: [RwLock<HashMap<MailboxId, Arc<dyn Mailbox>>>; MAILBOX_SHARDS],
    next_mailbox: AtomicU64,
    pending: Pending,
    sinks: Sinks,
    sweeper: Arc<Notify>,
    started_at: Instant,
    handlers: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    pub(crate) peers: Peers,
    pub(crate) arbiters: Arbiters,
    pub(crate) runtime: Runtime,
    pub(crate) limits: Limits,
    /// Tells this endpoint from a predecessor under the same id.
    pub(crate) born: u64,
    /// See [`EndpointConfig::comes_back`].
    pub(crate) comes_back: bool,
    pub(crate) metrics: Metrics,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) links: Links,
    pub(crate) network: OnceLock<Arc<dyn Network>>,
    /// The same network, where it is QUIC: for joins and bulk.
    pub(crate) quic: Mutex<Option<Arc<QuicNetwork>>>,
    pub(crate) bulk_source: Mutex<Option<Arc<dyn BulkSource>>>,
    bulk: OnceLock<Arc<dyn BulkNetwork>>,
    seed: u64,
    closed: AtomicBool,
}

impl Core {
    /// A core whose process others dial at `socket`; `refusals` are those of its network.
    pub(crate) fn new(
        runtime: Runtime,
        config: &EndpointConfig,
        socket: SocketAddr,
        refusals: Arc<Refusals>,
    ) -> Arc<Self> {
        let process = ProcessAddr { id: config.process.unwrap_or_else(ProcessId::random), socket };
        let borrowed = config.runtime == RuntimeChoice::Current;
        let core = Arc::new(Self {
            process,
            mailboxes: std::array::from_fn(|_| RwLock::default()),
            next_mailbox: AtomicU64::new(MailboxId::FIRST_DYNAMIC.0),
            pending: Pending::new(),
            sinks: Sinks::default(),
            sweeper: Arc::new(Notify::new()),
            started_at: Instant::now(),
            handlers: Mutex::default(),
            peers: Peers::default(),
            arbiters: Arbiters::new(config.arbiters, borrowed),
            runtime,
            born: rand::random(),
            comes_back: config.comes_back,
            limits: config.limits,
            metrics: Metrics::default(),
            refusals,
            links: Links::default(),
            network: OnceLock::new(),
            quic: Mutex::default(),
            bulk_source: Mutex::default(),
            bulk: OnceLock::new(),
            seed: config.seed.unwrap_or_else(rand::random),
            closed: AtomicBool::new(false),
        });
        core.spawn_task(sweep(Arc::downgrade(&core), core.sweeper.clone()));
        core
    }

    /// Gives the core its networks; once.
    pub(crate) fn set_network(self: &Arc<Self>, network: Arc<dyn Network>, bulk: Arc<dyn BulkNetwork>) {
        let first = self.network.set(network).is_ok() && self.bulk.set(bulk).is_ok();
        debug_assert!(first, "an endpoint has one network");
        self.attach(TRANSPORT_MAILBOX, Arc::new(TransportMailbox(Arc::downgrade(self))));
    }

    pub(crate) fn bulk_network(&self) -> Option<Arc<dyn BulkNetwork>> {
        self.bulk.get().cloned()
    }

    pub(crate) fn process(&self) -> ProcessAddr {
        self.process
    }

    pub(crate) fn seed_of(&self, salt: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(&salt.to_le_bytes(), self.seed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn spawn_task(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(future)
    }

    // --- mailboxes ---

    pub(crate) fn next_mailbox(&self) -> MailboxId {
        MailboxId(self.next_mailbox.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn attach(&self, id: MailboxId, mailbox: Arc<dyn Mailbox>) -> Option<Arc<dyn Mailbox>> {
        if self.is_closed() {
            return Some(mailbox);
        }
        self.shard(id).write().insert(id, mailbox)
    }

    pub(crate) fn detach(&self, id: MailboxId) -> Option<Arc<dyn Mailbox>> {
        self.shard(id).write().remove(&id)
    }

    /// Detaches `mailbox` unless another one has taken its place.
    pub(crate) fn detach_exactly(&self, id: MailboxId, mailbox: &Arc<dyn Mailbox>) {
        let mut shard = self.shard(id).write();
        if shard.get(&id).is_some_and(|present| Arc::ptr_eq(present, mailbox)) {
            shard.remove(&id);
        }
    }

    fn shard(&self, id: MailboxId) -> &RwLock<HashMap<MailboxId, Arc<dyn Mailbox>>> {
        &self.mailboxes[id.0 as usize % MAILBOX_SHARDS]
    }

    /// Hands an envelope to its mailbox, or tells its sender that there is none.
    pub(crate) fn deliver(&self, envelope: Envelope) {
        let mailbox = self.shard(envelope.to).read().get(&envelope.to).cloned();
        match mailbox {
            Some(mailbox) => mailbox.deliver(envelope),
            None => envelope.reject(SendError::NoSuchActor),
        }
    }

    /// Returns a one-way message to the actor that sent it.
    pub(crate) fn undelivered(&self, sender: MailboxId, what: Undelivered) {
        self.metrics.undelivered.fetch_add(1, Ordering::Relaxed);
        self.deliver(Envelope {
            from: Sender { process: what.to.process, mailbox: Some(what.to.mailbox) },
            to: sender,
            kind: Undelivered::KIND,
            body: Body::Local(Box::new(what)),
            payload: Payload::new(),
            asker: Asker::nobody(),
        });
    }

    /// The handlers of an actor type, made once.
    pub(crate) fn handlers<A: Actor>(&self) -> Arc<Handlers<A>> {
        let mut tables = self.handlers.lock();
        if let Some(table) = tables.get(&TypeId::of::<A>())
            && let Ok(table) = table.clone().downcast::<Handlers<A>>()
        {
            return table;
        }
        let table = Arc::new(Handlers::<A>::of_type());
        tables.insert(TypeId::of::<A>(), table.clone());
        table
    }

    // --- requests ---

    /// Registers a waiter for an answer of `peer` and returns its id.
    pub(crate) fn expect(&self, peer: ProcessId, deadline: Option<Duration>, waiter: Waiter) -> u64 {
        let deadline_us = match deadline {
            Some(allowed) => micros(self.started_at.elapsed()).saturating_add(micros(allowed)).min(NEVER_US - 1),
            None => NEVER_US,
        };
        let inserted = self.pending.insert(peer, deadline_us, deadline.unwrap_or(Duration::MAX), waiter);
        if inserted.wake_sweeper {
            self.sweeper.notify_one();
        }
        inserted.id
    }

    /// Drops the waiter of `id`; whether it still waited.
    pub(crate) fn forget(&self, id: u64) -> bool {
        self.pending.take(id).is_some()
    }

    /// The answer of `peer` to `id`; late and foreign answers go nowhere.
    pub(crate) fn answer(&self, peer: ProcessId, id: u64, answer: RawReply) {
        match (self.pending.take_from(peer, id), answer) {
            (Some(Waiter::Once(call)), answer) => call(answer),
            (Some(waiter @ Waiter::Stream(_)), RawReply::Failed(error)) => waiter.fail(error),
            (Some(Waiter::Stream(inbox)), answer) => {
                inbox.item(answer);
                inbox.end(None);
            }
            (None, _) => {}
        }
    }

    /// Everything that waits for `peer` (`None`: for anyone) fails.
    pub(crate) fn fail_pending(&self, peer: Option<ProcessId>, error: &SendError) {
        for waiter in self.pending.take_peer(peer) {
            waiter.fail(error.clone());
        }
        self.sinks.close_peer(peer);
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Fails what is overdue; returns when to look again, if ever.
    fn sweep(&self) -> Option<Instant> {
        let now_us = micros(self.started_at.elapsed());
        let (due, next_us) = self.pending.expired(now_us);
        for (waiter, after) in due {
            waiter.fail(SendError::TimedOut { after });
        }
        let gap_us = micros(SWEEP_GAP);
        (next_us != NEVER_US).then(|| self.started_at + Duration::from_micros(next_us.max(now_us + gap_us)))
    }

    // --- streams ---

    pub(crate) fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    /// An item of `peer` for the stream `id`; `false` if nobody reads it any more.
    pub(crate) fn stream_item(&self, peer: ProcessId, id: u64, item: RawReply) -> bool {
        match self.pending.stream(peer, id) {
            Some(inbox) => {
                inbox.item(item);
                true
            }
            None => false,
        }
    }

    pub(crate) fn stream_end(&self, peer: ProcessId, id: u64, error: Option<SendError>) {
        if let Some(Waiter::Stream(inbox)) = self.pending.take_from(peer, id) {
            inbox.end(error);
        }
    }

    // --- peers ---

    /// `process` is dead: what waits for it and what is sent to it fails at once.
    pub(crate) fn mark_gone(self: &Arc<Self>, process: ProcessId, why: String) {
        if process == self.process.id || !self.peers.mark_gone(process, &why) {
            return;
        }
        let error = SendError::Gone { process, why: why.clone() };
        // The end of a link tells; without one there is as much to tell.
        if !self.links.get(process).is_some_and(|link| self.link_gone(&link, &error)) {
            self.fail_pending(Some(process), &error);
            self.peers.announce(PeerEvent::Gone { process, why });
            self.peers.tell_announced();
        }
    }

    // --- the end ---

    /// Refuses new messages; `false` if the endpoint was closed before.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Ends the actors, the waiters and the threads.
    pub(crate) fn end(&self, patience: Duration) {
        let mut mailboxes: Vec<(MailboxId, Arc<dyn Mailbox>)> =
            self.mailboxes.iter().flat_map(|shard| std::mem::take(&mut *shard.write())).collect();
        mailboxes.sort_by_key(|(id, _)| *id);
        for (_, mailbox) in mailboxes {
            mailbox.close();
        }
        self.fail_pending(None, &SendError::Closed);
        if let Some(bulk) = self.bulk_network() {
            bulk.close();
        }
        self.arbiters.stop();
        self.runtime.stop(patience);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.sweeper.notify_one();
    }
}

/// Fails overdue requests: sleeps until the earliest deadline, or until an earlier one is made.
async fn sweep(core: Weak<Core>, wake: Arc<Notify>) {
    loop {
        let Some(next) = core.upgrade().map(|core| core.sweep()) else { return };
        match next {
            None => wake.notified().await,
            Some(at) => tokio::select! {
                biased;
                () = wake.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
