//! The front: what concerns the store as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mobula_transport::{Actor, Address, Context, Handlers, MailboxId, Payload, ProcessId};

use super::shared::{FetchEnded, ProcessDied, PullEnded, PullObject, RoomFound, Shared, WatchDecay, WatchRoom};
use crate::ids::ObjectId;
use crate::store::arrival;
use crate::store::bulk::Fetcher;
use crate::store::client::StoreClient;
use crate::store::ledger::{DECAY_EVERY, Reserved};
use crate::store::messages::{GetStoreStats, Located, OpenClient, SegmentsDropped};
use crate::store::pull::{self, Ask, Failure, PULL_WINDOW_BYTES, PullManager};
use crate::store::segment::SegmentId;
use crate::value::Encoding;

/// How often is looked after those who wait for room.
const WATCH_ROOM_EVERY: Duration = Duration::from_millis(250);

/// What concerns the store as a whole.
pub(super) struct Front {
    shared: Arc<Shared>,
    client: StoreClient,
    fetcher: Arc<dyn Fetcher>,
    pulls: PullManager,
    /// Fetches that wait for room.
    wanted: BTreeMap<u64, Wanted>,
    /// Those who want to hear of dropped segments.
    clients: BTreeMap<ProcessId, Vec<Address>>,
}

/// An object to be fetched.
struct Wanted {
    object: ObjectId,
    encoding: Encoding,
    size_bytes: u64,
    ask: Ask,
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
        table.on::<WatchRoom>(|front, _, request, ctx| {
            if front.shared.is_own(&request) {
                ctx.later(WATCH_ROOM_EVERY, Self::watch_room);
            }
        });
        table.on::<RoomFound>(|front, message, request, _| {
            if front.shared.is_own(&request) {
                front.room_found(message);
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
    pub(super) fn new(shared: Arc<Shared>, client: StoreClient, fetcher: Arc<dyn Fetcher>) -> Self {
        let pulls = PullManager::new(PULL_WINDOW_BYTES);
        Self { shared, client, fetcher, pulls, wanted: BTreeMap::new(), clients: BTreeMap::new() }
    }

    /// Gives back the memory that has been idle for too long, and looks again later if need be.
    fn decay(&mut self, ctx: &mut Context<Self>) {
        let (dropped, mut more) = self.shared.pool.decay();
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

    /// Ends the wait of those who have waited for room for too long.
    fn watch_room(&mut self, ctx: &mut Context<Self>) {
        if self.shared.pool.tell(|spiller, now, effects| spiller.tick(now, effects)) {
            ctx.later(WATCH_ROOM_EVERY, Self::watch_room);
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
                pull::Effect::Start { object, encoding, size_bytes, ask } => {
                    self.fetch(Wanted { object, encoding, size_bytes, ask });
                }
                pull::Effect::GiveUp { object, error } => {
                    self.shared.tell_shard(&object, PullEnded { object, result: Err(error) });
                }
            }
        }
    }

    /// Finds room for the object, then fetches it; either may take long and ends in
    /// [`FetchEnded`].
    fn fetch(&mut self, wanted: Wanted) {
        let user = self.shared.endpoint.process().id;
        let (id, reserved) = self.shared.ask_for_room(MailboxId::STORE, wanted.size_bytes, user);
        match reserved {
            Some(reserved) => self.fetch_into(reserved, wanted),
            None => {
                self.wanted.insert(id, wanted);
            }
        }
    }

    fn room_found(&mut self, RoomFound { id, room }: RoomFound) {
        match (self.wanted.remove(&id), room) {
            (Some(wanted), Ok(reserved)) => self.fetch_into(reserved, wanted),
            (Some(Wanted { object, encoding, size_bytes, .. }), Err(error)) => {
                self.fetch_ended(FetchEnded { object, encoding, size_bytes, result: Err(Failure::Here(error)) });
            }
            // Not reached: nobody takes a demand of the front back.
            (None, Ok(reserved)) => self.shared.give_back(reserved),
            (None, Err(_)) => {}
        }
    }

    fn fetch_into(&self, reserved: Reserved, wanted: Wanted) {
        let Wanted { object, encoding, size_bytes, ask } = wanted;
        let ended = {
            let shared = self.shared.clone();
            move |result: Result<SegmentId, Failure>| {
                shared.tell(MailboxId::STORE, FetchEnded { object, encoding, size_bytes, result });
            }
        };
        let (shared, fetcher, mappings) = (self.shared.clone(), self.fetcher.clone(), self.client.mappings().clone());
        self.shared.pool.io().run(move || {
            let dropped = reserved.dropped.clone();
            arrival::fetch(&shared, &mappings, &*fetcher, ask, (object, size_bytes), reserved, ended);
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
