//! The GCS as an actor: feeds the core, carries out its effects.
//!
//! Answers that must not be forgotten wait for the commit of what they promise; everything else
//! goes out at once. Subscribers have a bounded queue each; one that does not keep up loses its
//! stream, and begins again with the present view.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mobula_transport::identity::{JoinPolicy, Role};
use mobula_transport::{
    Actor, Address, Context, Endpoint, Handlers, MailboxId, PeerEvent, Replier, ReplySink, Runner, SendError,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::state::{Asker, Effect, Gcs, GcsConfig, Reply, Snapshot, Write};
use super::storage::{Storage, Volatile};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::JobId;
use crate::messages::*;

/// How often time is told to the core.
const TICK: Duration = Duration::from_millis(250);
/// Events that may wait for one subscriber.
const SUBSCRIBER_QUEUE: usize = 8_192;
/// Subscribers there can be.
const MAX_SUBSCRIBERS: usize = 10_000;
/// How long a raylet may take to start a worker process for an actor, binary and all.
const LEASE_WITHIN: Duration = Duration::from_secs(180);
/// How long a raylet may take to set room aside or say that it may be used.
const BUNDLES_WITHIN: Duration = Duration::from_secs(30);
/// How long a constructor may run; its worker's death ends it earlier.
const START_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// Answers that wait for their commit; with more, changes are refused until the disk has caught up.
const MAX_UNCOMMITTED: usize = 100_000;
/// Bytes that wait for the disk; with more, likewise.
const MAX_UNSTORED_BYTES: usize = 128 << 20;

/// Starts the GCS at [`MailboxId::GCS`] of the endpoint.
///
/// With `joining` it hands out the tokens of that policy to the operator.
pub fn start(
    endpoint: &Endpoint,
    mut config: GcsConfig,
    snapshot: Snapshot,
    storage: Box<dyn Storage>,
    joining: Option<Arc<JoinPolicy>>,
) -> Address {
    config.epoch_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    endpoint.spawn(Some(MailboxId::GCS), Runner::Arbiter, move || GcsServer {
        core: Gcs::restore(config, snapshot, Duration::ZERO),
        epoch: Instant::now(),
        ticked: Duration::ZERO,
        storage,
        joining,
        ways: HashMap::new(),
        next_asker: 0,
        commits: 0,
        uncommitted: 0,
        unstored: false,
        subscribers: Vec::new(),
    })
}

/// The way back of an answer.
enum Way {
    Done(Replier<Result<(), Error>>),
    Located(Replier<ActorLocation>),
    Ended(Replier<Option<ActorEnd>>),
    Job(Replier<Result<JobRegistered, Error>>),
    Finished(Replier<()>),
    Changed(Replier<Result<bool, Error>>),
}

struct GcsServer {
    core: Gcs,
    epoch: Instant,
    /// When it was told the time last.
    ticked: Duration,
    storage: Box<dyn Storage>,
    joining: Option<Arc<JoinPolicy>>,
    /// Only looked up by key, never iterated.
    ways: HashMap<Asker, Way>,
    next_asker: Asker,
    /// Groups of writes that are not on disk yet.
    commits: usize,
    /// Answers that wait for them.
    uncommitted: usize,
    /// The last commit failed: what it was to store is in memory only.
    unstored: bool,
    subscribers: Vec<(Subscribe, mpsc::Sender<ClusterEvent>)>,
}

impl Actor for GcsServer {
    const NAME: &'static str = "gcs";

    fn handlers(table: &mut Handlers<Self>) {
        nodes(table);
        jobs(table);
        actors(table);
        groups(table);
        kv(table);
        table.on::<CloseGcs>(|gcs, _, request, ctx| {
            // Waits for the disk; nothing else is to be done any more.
            gcs.storage = Box::new(Volatile);
            request.reply(());
            ctx.stop();
        });
    }

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.epoch = ctx.now();
        ctx.every(TICK, |gcs, ctx| {
            let now = gcs.now(ctx);
            gcs.core.ticks_after(now.saturating_sub(gcs.ticked), now);
            gcs.ticked = now;
            gcs.core.tick(now);
            gcs.act(ctx);
        });
        let poster = ctx.poster();
        ctx.endpoint().watch_peers(move |event| {
            if let PeerEvent::Gone { process, why, .. } = event {
                poster.post(move |gcs, ctx| {
                    let now = gcs.now(ctx);
                    gcs.core.process_gone(process, &why, now);
                    gcs.act(ctx);
                });
            }
        });
        self.act(ctx);
    }
}

fn nodes(table: &mut Handlers<GcsServer>) {
    table.on::<RegisterNode>(|gcs, message, request, ctx| {
        let name = message.info.name.clone();
        let now = gcs.now(ctx);
        let answer = gcs.core.register_node(message, now);
        match &answer {
            Ok(_) => tracing::info!(node = %name, "node registered"),
            Err(why) => tracing::warn!(node = %name, %why, "node refused"),
        }
        request.reply(answer);
        gcs.act(ctx);
    });
    table.on::<Heartbeat>(|gcs, message, request, ctx| {
        let now = gcs.now(ctx);
        request.reply(gcs.core.heartbeat(message, now));
        gcs.act(ctx);
    });
    table.on::<NodeLeaves>(|gcs, message, request, ctx| {
        let now = gcs.now(ctx);
        gcs.core.node_died(message.node, &message.why, now);
        gcs.act(ctx);
        request.reply(());
    });
    table.on::<ProcessUp>(|gcs, message, request, ctx| {
        gcs.core.process_up(message.node, message.process, message.pid);
        gcs.act(ctx);
        request.reply(());
    });
    table.on::<ProcessDown>(|gcs, message, request, ctx| {
        let now = gcs.now(ctx);
        gcs.core.process_down(&message, now);
        gcs.act(ctx);
        request.reply(());
    });
    table.on::<DeadAmong>(|gcs, message, request, _| request.reply(gcs.core.dead_among(&message.processes)));
    table.on::<GetClusterStatus>(|gcs, _, request, ctx| {
        let uptime = gcs.now(ctx);
        request.reply(gcs.core.status(uptime));
    });
    table.on::<GetRefusals>(|_, _, request, ctx| request.reply(ctx.endpoint().refusals()));
    table.on::<NewToken>(|gcs, message, request, ctx| {
        let role = ctx.endpoint().role_of(request.from().process.id);
        request.reply(new_token(gcs.joining.as_deref(), role, message.valid_s));
    });
    table.on::<Subscribe>(|gcs, to, request, ctx| gcs.subscribe(to, request.into_stream(), ctx));
}

fn jobs(table: &mut Handlers<GcsServer>) {
    table.on::<RegisterJob>(|gcs, message, request, ctx| {
        let asker = gcs.way(Way::Job(request.into_replier()));
        let now = gcs.now(ctx);
        if gcs.may_write(asker) {
            gcs.core.register_job(JobId::random(), message, now, asker);
        }
        gcs.act(ctx);
    });
    table.on::<JobHeartbeat>(|gcs, message, request, ctx| {
        let now = gcs.now(ctx);
        request.reply(gcs.core.job_heartbeat(message.job, now));
    });
    table.on::<FinishJob>(|gcs, message, request, ctx| {
        let from = request.from().process.id;
        let asker = gcs.way(Way::Finished(request.into_replier()));
        let now = gcs.now(ctx);
        gcs.core.finish_job(message.job, from, now, asker);
        gcs.act(ctx);
    });
    table.on::<GetJob>(|gcs, message, request, _| request.reply(gcs.core.job(message.job).cloned()));
}

fn actors(table: &mut Handlers<GcsServer>) {
    table.on::<CreateActor>(|gcs, message, mut request, ctx| {
        let payload = request.take_payload();
        let asker = gcs.way(Way::Done(request.into_replier()));
        let now = gcs.now(ctx);
        if gcs.may_write(asker) {
            gcs.core.create_actor(message.spec, payload, now, asker);
        }
        gcs.act(ctx);
    });
    table.on::<ResolveActor>(|gcs, message, request, ctx| {
        let from = request.from().process.id;
        let asker = gcs.way(Way::Located(request.into_replier()));
        let now = gcs.now(ctx);
        gcs.core.resolve_actor(message.actor, from, now, asker);
        gcs.act(ctx);
    });
    table.on::<WatchActor>(|gcs, message, request, ctx| {
        let from = request.from().process.id;
        let asker = gcs.way(Way::Ended(request.into_replier()));
        gcs.core.watch_actor(message.actor, from, asker);
        gcs.act(ctx);
    });
    table.on::<FindActor>(|gcs, message, request, _| {
        request.reply(gcs.core.find_actor(&message.name, &message.namespace));
    });
    table.on::<KillActor>(|gcs, message, request, ctx| {
        let asker = gcs.way(Way::Done(request.into_replier()));
        let now = gcs.now(ctx);
        gcs.core.kill_actor(message.actor, message.no_restart, &message.why, now, asker);
        gcs.act(ctx);
    });
    table.on::<ActorExited>(|gcs, message, request, ctx| {
        let asker = gcs.way(Way::Finished(request.into_replier()));
        let now = gcs.now(ctx);
        gcs.core.actor_exited(&message, now, asker);
        gcs.act(ctx);
    });
    table.on::<LeaseLost>(|gcs, message, _, ctx| {
        let now = gcs.now(ctx);
        gcs.core.lease_lost(message.lease, &message.why, now);
        gcs.act(ctx);
    });
    table.on::<ListActors>(|gcs, _, request, _| request.reply(gcs.core.list_actors()));
    table.on::<ExplainActor>(|gcs, message, request, _| request.reply(gcs.core.explain_actor(message.actor)));
}

fn groups(table: &mut Handlers<GcsServer>) {
    table.on::<CreateGroup>(|gcs, message, request, ctx| {
        let now = gcs.now(ctx);
        let asker = gcs.way(Way::Done(request.into_replier()));
        if gcs.may_write(asker) {
            gcs.core.create_group(message.spec, now, asker);
        }
        gcs.act(ctx);
    });
    table.on::<RemoveGroup>(|gcs, message, request, ctx| {
        let now = gcs.now(ctx);
        let asker = gcs.way(Way::Finished(request.into_replier()));
        gcs.core.remove_group(message.group, now, asker);
        gcs.act(ctx);
    });
    table.on::<WaitGroup>(|gcs, message, request, ctx| {
        let (from, now) = (request.from().process.id, gcs.now(ctx));
        let asker = gcs.way(Way::Done(request.into_replier()));
        gcs.core.wait_group(message.group, from, now, asker);
        gcs.act(ctx);
    });
    table.on::<ListGroups>(|gcs, _, request, _| request.reply(gcs.core.list_groups()));
}

fn kv(table: &mut Handlers<GcsServer>) {
    table.on::<KvPut>(|gcs, message, request, ctx| {
        let asker = gcs.way(Way::Changed(request.into_replier()));
        if gcs.may_write(asker) {
            let value = serde_bytes::ByteBuf::from(message.value);
            gcs.core.kv_put(message.namespace, message.key, value, message.overwrite, asker);
        }
        gcs.act(ctx);
    });
    table.on::<KvDelete>(|gcs, message, request, ctx| {
        let asker = gcs.way(Way::Changed(request.into_replier()));
        if gcs.may_write(asker) {
            gcs.core.kv_delete(message.namespace, message.key, asker);
        }
        gcs.act(ctx);
    });
    table.on::<KvGet>(|gcs, message, request, _| request.reply(gcs.core.kv_get(&message.namespace, &message.key)));
    table.on::<KvKeys>(|gcs, message, request, _| {
        request.reply(gcs.core.kv_keys(&message.namespace, &message.prefix));
    });
}

/// A new token, for the operator alone: whoever has it is a node.
fn new_token(joining: Option<&JoinPolicy>, role: Option<Role>, valid_s: u64) -> Result<String, TokenRefused> {
    let joining = joining.ok_or(TokenRefused::Alone)?;
    if role != Some(Role::Operator) {
        return Err(TokenRefused::NotOperator);
    }
    if !(1..=MAX_TOKEN_VALID_S).contains(&valid_s) {
        return Err(TokenRefused::Validity { valid_s });
    }
    Ok(joining.new_token(Duration::from_secs(valid_s)).to_string())
}

impl GcsServer {
    fn now(&self, ctx: &Context<Self>) -> Duration {
        ctx.now().duration_since(self.epoch)
    }

    fn way(&mut self, way: Way) -> Asker {
        self.next_asker += 1;
        self.ways.insert(self.next_asker, way);
        self.next_asker
    }

    /// Refuses a change while too many wait for the disk.
    fn may_write(&mut self, asker: Asker) -> bool {
        let limit = if self.uncommitted >= MAX_UNCOMMITTED {
            MAX_UNCOMMITTED
        } else if self.storage.unstored_bytes() > MAX_UNSTORED_BYTES {
            MAX_UNSTORED_BYTES
        } else {
            return true;
        };
        self.refuse(asker, SendError::MailboxFull { limit });
        false
    }

    fn refuse(&mut self, asker: Asker, error: SendError) {
        match self.ways.remove(&asker) {
            None => {}
            Some(Way::Done(replier)) => replier.fail(error),
            Some(Way::Located(replier)) => replier.fail(error),
            Some(Way::Ended(replier)) => replier.fail(error),
            Some(Way::Job(replier)) => replier.fail(error),
            Some(Way::Finished(replier)) => replier.fail(error),
            Some(Way::Changed(replier)) => replier.fail(error),
        }
    }

    fn act(&mut self, ctx: &mut Context<Self>) {
        let effects = self.core.take_effects();
        if effects.is_empty() {
            return;
        }
        let mut writes: Vec<Write> = Vec::new();
        let mut promises: Vec<Effect> = Vec::new();
        for effect in effects {
            match effect {
                Effect::Write(write) => writes.push(write),
                effect if effect.is_promise() => promises.push(effect),
                other => self.carry_out(other, ctx),
            }
        }
        if writes.is_empty() && (promises.is_empty() || (self.commits == 0 && !self.unstored)) {
            return promises.into_iter().for_each(|promise| self.carry_out(promise, ctx));
        }
        self.commits += 1;
        self.uncommitted += promises.len();
        let poster = ctx.poster();
        let done = Box::new(move |result: Result<(), String>| {
            poster.post(move |gcs, ctx| gcs.committed(promises, result, ctx));
        });
        if let Some(done) = self.storage.commit(writes, done) {
            done(Ok(()));
        }
    }

    fn committed(&mut self, promises: Vec<Effect>, result: Result<(), String>, ctx: &mut Context<Self>) {
        self.commits -= 1;
        self.unstored = result.is_err();
        self.uncommitted -= promises.len();
        for promise in promises {
            match (&result, promise) {
                (Err(why), Effect::Answer(asker, _)) => {
                    self.refuse(asker, SendError::Refused { why: format!("the head could not store it: {why}") });
                }
                (_, promise) => self.carry_out(promise, ctx),
            }
        }
    }

    fn answer(&mut self, asker: Asker, reply: Reply) {
        match (self.ways.remove(&asker), reply) {
            (Some(Way::Done(replier)), Reply::Done(reply)) => replier.reply(reply),
            (Some(Way::Located(replier)), Reply::Located(reply)) => replier.reply(reply),
            (Some(Way::Ended(replier)), Reply::Ended(reply)) => replier.reply(reply),
            (Some(Way::Job(replier)), Reply::Job(reply)) => replier.reply(*reply),
            (Some(Way::Finished(replier)), Reply::Finished) => replier.reply(()),
            (Some(Way::Changed(replier)), Reply::Changed(reply)) => replier.reply(reply),
            (None, _) => {}
            (Some(_), reply) => tracing::error!(?reply, "an answer of the wrong kind"),
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            // Was taken out before.
            Effect::Write(_) => {}
            Effect::Answer(asker, reply) => self.answer(asker, reply),
            Effect::Forget(asker) => drop(self.ways.remove(&asker)),
            Effect::LeaseActor { raylet, node, request } => {
                let (actor, incarnation) = (request.actor, request.incarnation);
                ctx.request(raylet, request, Vec::new(), LEASE_WITHIN, move |gcs, answer, ctx| {
                    let now = gcs.now(ctx);
                    gcs.core.actor_leased(actor, incarnation, node, answer.map(|(answer, _)| answer), now);
                    gcs.act(ctx);
                });
            }
            Effect::CancelActorLease { raylet, actor, incarnation } => {
                ctx.send(raylet, CancelActorLease { actor, incarnation });
            }
            Effect::StartActor { worker, spec, incarnation, lease, payload } => {
                let actor = spec.actor;
                let to = Address { process: worker, mailbox: MailboxId::WORKER };
                let start = StartActor { spec: *spec, incarnation, lease };
                ctx.request(to, start, payload, START_WITHIN, move |gcs, answer, ctx| {
                    let now = gcs.now(ctx);
                    gcs.core.actor_started(actor, incarnation, answer.map(|(answer, _)| answer), now);
                    gcs.act(ctx);
                });
            }
            Effect::StopActor { worker, actor, incarnation, why } => {
                let to = Address { process: worker, mailbox: MailboxId::WORKER };
                insist(ctx.endpoint(), MailboxId::GCS, to, StopActor { actor, incarnation, why });
            }
            Effect::ReturnLease { raylet, lease } => ctx.send(raylet, ReturnLeases { leases: vec![lease] }),
            Effect::PrepareBundles { raylet, node, request } => {
                let (group, round) = (request.group, request.round);
                ctx.request(raylet, request, Vec::new(), BUNDLES_WITHIN, move |gcs, answer, ctx| {
                    let now = gcs.now(ctx);
                    gcs.core.bundles_prepared(group, round, node, answer.map(|(answer, _)| answer), now);
                    gcs.act(ctx);
                });
            }
            Effect::CommitBundles { raylet, node, request } => {
                let (group, round) = (request.group, request.round);
                ctx.request(raylet, request, Vec::new(), BUNDLES_WITHIN, move |gcs, answer, ctx| {
                    gcs.core.bundles_committed(group, round, node, answer.map(|(answer, _)| answer));
                    gcs.act(ctx);
                });
            }
            Effect::ReturnBundles { raylet, request } => insist(ctx.endpoint(), MailboxId::GCS, raylet, request),
            Effect::Publish(event) => self.publish(&event),
            Effect::MarkGone(process, why) => ctx.endpoint().mark_gone(process, why),
        }
    }

    fn subscribe(&mut self, to: Subscribe, mut sink: ReplySink<ClusterEvent>, ctx: &mut Context<Self>) {
        self.subscribers.retain(|(_, subscriber)| !subscriber.is_closed());
        if self.subscribers.len() >= MAX_SUBSCRIBERS {
            return sink.fail(SendError::MailboxFull { limit: MAX_SUBSCRIBERS });
        }
        let (queue, mut events) = mpsc::channel(SUBSCRIBER_QUEUE);
        if to == Subscribe::Everything {
            let _ = queue.try_send(ClusterEvent::View(self.core.told_view()));
        }
        self.subscribers.push((to, queue));
        ctx.spawn(async move {
            while let Some(event) = events.recv().await {
                if sink.send(event).await.is_err() {
                    return;
                }
            }
            sink.end();
        });
    }

    fn publish(&mut self, event: &ClusterEvent) {
        self.subscribers.retain(|(to, subscriber)| {
            if !event.is_for(*to) {
                return true;
            }
            match subscriber.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::warn!("a subscriber of the cluster's events does not keep up and is dropped");
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mobula_transport::EndpointConfig;
    use mobula_transport::identity::ClusterAuthority;

    use super::*;
    use crate::gcs::storage::Committed;

    const WITHIN: Duration = Duration::from_secs(20);

    /// A disk that takes nothing.
    struct Broken(Arc<AtomicUsize>);

    impl Storage for Broken {
        fn commit(&mut self, _: Vec<Write>, done: Committed) -> Option<Committed> {
            done(Err("no disk".to_owned()));
            None
        }

        fn unstored_bytes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn only_the_operator_gets_tokens() {
        let policy = JoinPolicy::new(ClusterAuthority::create("test").unwrap(), Role::Node);
        let ask = |role, valid_s| new_token(Some(&policy), role, valid_s);
        assert!(ask(Some(Role::Operator), 60).unwrap().starts_with("mobula1."));
        for other in [None, Some(Role::Node), Some(Role::Driver)] {
            assert_eq!(ask(other, 60), Err(TokenRefused::NotOperator));
        }
        for valid_s in [0, MAX_TOKEN_VALID_S + 1] {
            assert_eq!(ask(Some(Role::Operator), valid_s), Err(TokenRefused::Validity { valid_s }));
        }
        assert_eq!(new_token(None, Some(Role::Operator), 60), Err(TokenRefused::Alone));
    }

    #[test]
    fn nothing_is_promised_that_the_disk_has_not_taken() {
        let endpoint = Endpoint::in_process(EndpointConfig::default()).unwrap();
        let waiting = Arc::new(AtomicUsize::new(0));
        let config = GcsConfig::new("test", endpoint.process().id);
        let gcs = start(&endpoint, config, Snapshot::default(), Box::new(Broken(waiting.clone())), None);
        let put = || {
            let put = KvPut { namespace: "ns".into(), key: "k".into(), value: vec![1], overwrite: false };
            endpoint.request_blocking(gcs, put, vec![], WITHIN)
        };
        assert!(matches!(put(), Err(SendError::Refused { .. })));
        // The state in memory has the key: asked again, nothing is to be written, and yet it is not stored.
        assert!(matches!(put(), Err(SendError::Refused { .. })));
        waiting.store(MAX_UNSTORED_BYTES + 1, Ordering::Relaxed);
        assert!(matches!(put(), Err(SendError::MailboxFull { limit: MAX_UNSTORED_BYTES })));
        endpoint.shutdown(Duration::ZERO);
    }
}
