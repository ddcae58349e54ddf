//! A shard: one part of the table, and what clients ask of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mobula_transport::{Actor, Handlers, MailboxId, ProcessId, Replier, Request, SendError};

use super::MAX_GET_OBJECTS;
use super::shared::{
    CreationFailed, Evicted, ProcessDied, PullEnded, PullObject, Restored, RoomFound, ServeObject, Shared, ToServe,
};
use crate::error::Error;
use crate::store::broadcast::Answer;
use crate::store::client::tell;
use crate::store::ledger::Reserved;
use crate::store::messages::{
    AbandonCreation, AbortObject, CountPins, CreateObject, DiscardResults, FreeObjects, GetObjects, ListObjects,
    Located, ReleaseObjects, STORE_SHARD_BASE, STORE_SHARDS, SealObject, Segment, shard_address,
};
use crate::store::table::{self, Serve, Table, WaiterId};

/// Bits of a waiter's number that say which object of its message it waits for.
const WAITER_INDEX_BITS: u32 = 20;
/// How often a free is forwarded to a store that took a copy.
const FORWARD_ATTEMPTS: u32 = 3;

/// One part of the table.
pub(super) struct Shard {
    shared: Arc<Shared>,
    index: u64,
    table: Table,
    /// Creations that wait for room.
    wanted: BTreeMap<u64, Wanted>,
    /// Questions that wait for some of their answers.
    batches: HashMap<u64, Batch>,
    next_batch: u64,
    effects: Vec<table::Effect>,
}

struct Wanted {
    message: CreateObject,
    by: ProcessId,
    replier: Replier<Result<Segment, Error>>,
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
        table.on::<SealObject>(|shard, message, request, _| {
            shard.table.seal(message.segment, request.from().process.id, &mut shard.effects);
            shard.carry_out();
            request.reply(());
        });
        table.on::<AbortObject>(|shard, message, request, _| {
            shard.table.abort(message.segment, request.from().process.id, true, &mut shard.effects);
            shard.carry_out();
            request.reply(());
        });
        table.on::<AbandonCreation>(|shard, message, request, _| {
            let by = request.from().process.id;
            shard.stop_wanting(|wanted| wanted.by == by && wanted.message.number == message.number);
            shard.table.abandon(message.number, by, &mut shard.effects);
            shard.carry_out();
            request.reply(());
        });
        table.on::<GetObjects>(|shard, message, request, _| shard.get(message, request));
        table.on::<ReleaseObjects>(|shard, message, request, _| {
            let process = request.from().process.id;
            for (segment, pins) in message.segments {
                shard.table.release(segment, process, pins, &mut shard.effects);
            }
            shard.carry_out();
        });
        table.on::<CountPins>(|shard, _, request, _| {
            let held = shard.table.pins_of(request.from().process.id);
            request.reply(held);
        });
        table.on::<FreeObjects>(|shard, message, request, _| {
            for object in message.objects {
                shard.table.free(object, &mut shard.effects);
            }
            shard.carry_out();
            request.reply(());
        });
        table.on::<DiscardResults>(|shard, message, request, _| {
            for (object, attempt) in message.results {
                shard.table.discard(object, attempt, &mut shard.effects);
            }
            shard.carry_out();
            request.reply(());
        });
        table.on::<ListObjects>(|shard, message, request, _| {
            let mut list = shard.table.list(&|content| shard.shared.pool.look(|spiller| spiller.is_spilled(content)));
            list.truncate(message.limit as usize);
            request.reply(list);
        });
        table.on::<CreationFailed>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                shard.table.abort(message.segment, message.by, false, &mut shard.effects);
                shard.carry_out();
            }
        });
        table.on::<Evicted>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                shard.table.evicted(message.content);
                shard.carry_out();
            }
        });
        table.on::<Restored>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                shard.table.restored(message.content, message.result, &mut shard.effects);
                shard.carry_out();
            }
        });
        table.on::<RoomFound>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                shard.room_found(message);
            }
        });
        table.on::<ServeObject>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                let ServeObject { object, peer, failed } = message;
                request.reply(match shard.table.serve(object, peer, &failed) {
                    Serve { answer: Answer::Elsewhere(process), .. } => ToServe::Elsewhere(process),
                    Serve { answer: Answer::Give, waits: true } => ToServe::WhenPulled,
                    Serve { answer: Answer::Give, waits: false } => ToServe::Now,
                });
            }
        });
        table.on::<PullEnded>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                let effects = &mut shard.effects;
                match message.result {
                    Ok(Located { segment, encoding, size_bytes }) => {
                        shard.table.pulled(message.object, encoding, size_bytes, segment, effects);
                    }
                    Err(error) => shard.table.pull_failed(message.object, error, effects),
                }
                shard.carry_out();
            }
        });
        table.on::<ProcessDied>(|shard, message, request, _| {
            if shard.shared.is_own(&request) {
                shard.stop_wanting(|wanted| wanted.by == message.process);
                shard.table.process_died(message.process, &mut shard.effects);
                shard.carry_out();
            }
        });
    }
}

impl Shard {
    pub(super) fn new(shared: Arc<Shared>, index: u64) -> Self {
        let table = Table::new(shared.endpoint.process().id, index, STORE_SHARDS);
        Self {
            shared,
            index,
            table,
            wanted: BTreeMap::new(),
            batches: HashMap::new(),
            next_batch: 0,
            effects: Vec::new(),
        }
    }

    fn mailbox(&self) -> MailboxId {
        MailboxId(STORE_SHARD_BASE.0 + self.index)
    }

    fn create(&mut self, message: CreateObject, request: Request<CreateObject>) {
        let by = request.from().process.id;
        let (id, reserved) = self.shared.ask_for_room(self.mailbox(), message.size_bytes, by);
        let wanted = Wanted { message, by, replier: request.into_replier() };
        match reserved {
            Some(reserved) => self.begin(wanted, reserved),
            None => {
                self.wanted.insert(id, wanted);
            }
        }
    }

    fn room_found(&mut self, RoomFound { id, room }: RoomFound) {
        match (self.wanted.remove(&id), room) {
            (Some(wanted), Ok(reserved)) => self.begin(wanted, reserved),
            (Some(wanted), Err(error)) => wanted.replier.reply(Err(error)),
            // Whoever wanted it died meanwhile, or gave up.
            (None, Ok(reserved)) => self.shared.give_back(reserved),
            (None, Err(_)) => {}
        }
    }

    /// There is room: makes the segment where that takes time on a thread of the pool, and answers.
    fn begin(&mut self, wanted: Wanted, reserved: Reserved) {
        let Wanted { message, by, replier } = wanted;
        let segment = Segment { segment: reserved.segment, class_bytes: reserved.class_bytes };
        self.table.create(reserved.segment, &message, by);
        self.count();
        if !reserved.fresh && reserved.dropped.is_empty() {
            return replier.reply(Ok(segment));
        }
        let shared = self.shared.clone();
        self.shared.pool.io().run(move || {
            let made = shared.pool.make(&reserved);
            if made.is_err() {
                // Where this actor is busy now, it hears of it later.
                shared.tell_shard(&message.object, CreationFailed { segment: reserved.segment, by });
            }
            replier.reply(made.map(|()| segment));
            shared.announce(reserved.dropped);
        });
    }

    /// Those who wait for room and are such do not any more.
    fn stop_wanting(&mut self, such: impl Fn(&Wanted) -> bool) {
        let ids: Vec<u64> = self.wanted.iter().filter(|(_, wanted)| such(wanted)).map(|(id, _)| *id).collect();
        for id in ids {
            self.wanted.remove(&id);
            let to = self.mailbox();
            self.shared.pool.tell(|spiller, now, effects| spiller.cancel(to, id, now, effects));
        }
    }

    fn get(&mut self, message: GetObjects, request: Request<GetObjects>) {
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
        let mut claim = |content| shared.pool.tell(|spiller, now, effects| spiller.claim(content, now, effects));
        for (index, wanted) in message.objects.iter().enumerate() {
            let waiter = (batch << WAITER_INDEX_BITS) | index as u64;
            self.table.get(waiter, process, wanted, &mut claim, &mut self.effects);
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                table::Effect::Answer { waiter, result } => self.answer(waiter, result),
                table::Effect::Recycle(segment) => self.shared.pool.recycle(segment),
                table::Effect::Shelve { content, segment, object, size_bytes, copy } => {
                    self.shared.pool.tell(|spiller, now, effects| {
                        spiller.shelve(content, segment, (object, size_bytes), copy, now, effects);
                    });
                }
                table::Effect::Discard(content, segment) => {
                    self.shared.pool.tell(|spiller, now, effects| spiller.discard(content, segment, now, effects));
                }
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
        self.shared.objects[self.index as usize].store(self.table.len() as u64, Ordering::Relaxed);
    }
}
