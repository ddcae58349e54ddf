//! The raylet as an actor: feeds the scheduler, carries out its effects, keeps in touch with the
//! GCS.

mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{
    Actor, Address, Context, Endpoint, Handlers, MailboxId, Message, Payload, PeerEvent, ProcessAddr, ProcessId,
    Replier, Runner, SendError, Undelivered,
};
use tokio::time::Instant;

use self::watch::Watching;
use super::scheduler::{Asker, Effect, Scheduler, SchedulerConfig};
use super::workers::{Launch, LaunchEvent, Launcher, Report};
use crate::culprit::Culprit;
use crate::delivery::{Fate, fate, insist};
use crate::ids::JobId;
use crate::memory::Usage;
use crate::messages::*;
use crate::resources::{CPU, FRACTIONS_PER_UNIT, Resources};

pub use self::watch::{DEFAULT_MEMORY_THRESHOLD, MemoryWatch};

/// How often time is told to the scheduler while someone waits.
const TICK: Duration = Duration::from_millis(100);
/// How soon after a change the GCS hears what is free, before its heartbeat is due.
const REPORT_AFTER: Duration = Duration::from_millis(50);
/// How long a request to the GCS may take.
const GCS_WITHIN: Duration = Duration::from_secs(5);
/// The wait before the GCS is asked again after it did not answer.
const GCS_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A head that was not heard of for so long will not come back: the node stops, and so do drivers.
pub(crate) const HEAD_AWAITED: Duration = Duration::from_secs(300);
/// How often the GCS is asked whether clients that cannot be reached live.
const ASK_FOR_UNREACHABLE: Duration = Duration::from_secs(5);
/// How long a worker process may take from its start to its registration.
const REGISTER_WITHIN: Duration = Duration::from_secs(30);
/// How long a worker that was told to stop may finish what it runs.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same for one that nobody waits for.
const KILL_GRACE: Duration = Duration::from_millis(200);

/// What a raylet is started with.
pub struct RayletConfig {
    /// The node.
    pub info: NodeInfo,
    /// The GCS.
    pub gcs: Address,
    /// Starts worker processes; none when work runs in this process, by a worker that registers
    /// itself.
    pub launcher: Option<Arc<dyn Launcher>>,
    /// The ids of the node's GPUs.
    pub gpus: Vec<String>,
    /// How the node watches its memory.
    pub memory: MemoryWatch,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Told of every process that is known to be dead.
    pub deaths: Arc<dyn Fn(ProcessId) + Send + Sync>,
    /// Bytes in the node's store.
    pub store_used_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told what the node's owner has to know.
    pub events: Arc<dyn Fn(RayletEvent) + Send + Sync>,
}

/// What the owner of a node has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RayletEvent {
    /// The GCS has taken the node in.
    Registered,
    /// The GCS has refused the node, or has declared it dead: it cannot go on.
    Refused(String),
    /// Someone has asked the node to drain and stop.
    StopAsked(String),
}

/// Starts the raylet at [`MailboxId::RAYLET`] of the endpoint.
pub fn start(endpoint: &Endpoint, config: RayletConfig) -> Address {
    endpoint.spawn(Some(MailboxId::RAYLET), Runner::Arbiter, move || {
        let scheduler = Scheduler::new(SchedulerConfig {
            node: config.info.node,
            name: config.info.name.clone(),
            process: config.info.process,
            total: config.info.total.clone(),
            gpus: config.gpus.clone(),
            labels: config.info.labels.clone(),
            in_process: config.launcher.is_none(),
        });
        RayletServer {
            core: scheduler,
            epoch: Instant::now(),
            gcs_heard: Duration::ZERO,
            registered: false,
            reported: config.info.total.clone(),
            report_due: false,
            watching: Watching::new(config.memory.clone()),
            config,
            askers: HashMap::new(),
            next_asker: 0,
            starts: HashMap::new(),
            by_process: HashMap::new(),
            unreachable: BTreeSet::new(),
            drained: None,
        }
    })
}

/// What the workers of a node are told.
pub(crate) fn worker_config(info: &NodeInfo) -> WorkerConfig {
    let slots = (info.total.fractions(CPU) + FRACTIONS_PER_UNIT - 1) / FRACTIONS_PER_UNIT;
    WorkerConfig { node: info.node, node_name: info.name.clone(), slots: u32::try_from(slots).unwrap_or(1).max(1) }
}

/// A worker process from its start to its end.
struct Started {
    /// The digest its binary must have; none while its job is asked for.
    digest: Option<u64>,
    process: Option<ProcessAddr>,
    spawned: bool,
    /// It was killed when this much memory was in use.
    ended_for_memory: Option<Usage>,
}

struct RayletServer {
    config: RayletConfig,
    core: Scheduler,
    watching: Watching,
    epoch: Instant,
    /// When the GCS last answered.
    gcs_heard: Duration,
    registered: bool,
    /// What the GCS was last told to be free.
    reported: Resources,
    report_due: bool,
    askers: HashMap<Asker, Replier<Result<ActorLease, LeaseActorError>>>,
    next_asker: Asker,
    starts: HashMap<u64, Started>,
    by_process: HashMap<ProcessId, u64>,
    /// Clients that could not be reached.
    unreachable: BTreeSet<ProcessId>,
    /// Who waits for what runs to end.
    drained: Option<Replier<()>>,
}

impl Actor for RayletServer {
    const NAME: &'static str = "raylet";

    fn handlers(table: &mut Handlers<Self>) {
        leases(table);
        bundles(table);
        workers(table);
        table.on::<DrainNode>(|raylet, message, request, ctx| {
            tracing::info!(why = %message.why, "draining");
            let now = raylet.now(ctx);
            raylet.core.drain(now);
            raylet.drained = Some(request.into_replier());
            raylet.act(ctx);
        });
        table.on::<StopNode>(|raylet, message, request, _| {
            (raylet.config.events)(RayletEvent::StopAsked(message.why));
            request.reply(());
        });
    }

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.epoch = ctx.now();
        ctx.every(TICK, |raylet, ctx| {
            if raylet.core.is_busy() {
                let now = raylet.now(ctx);
                raylet.core.tick(now);
                raylet.act(ctx);
            }
        });
        ctx.every(self.config.heartbeat, |raylet, ctx| raylet.heartbeat(ctx));
        self.watch_memory(ctx);
        ctx.every(ASK_FOR_UNREACHABLE, |raylet, ctx| raylet.ask_for_unreachable(ctx));
        let poster = ctx.poster();
        ctx.endpoint().watch_peers(move |event| match event {
            PeerEvent::Gone { process, why, .. } => {
                poster.post(move |raylet, ctx| raylet.process_died(process, &why, ctx));
            }
            PeerEvent::Interrupted { process, .. } => {
                poster.post(move |raylet, _| raylet.core.interrupted(process));
            }
            // Also what waited for a connection did not arrive.
            PeerEvent::Lost { process, .. } => {
                poster.post(move |raylet, _| {
                    raylet.core.interrupted(process);
                    raylet.unreachable.insert(process);
                });
            }
            PeerEvent::Connected { process } => {
                poster.post(move |raylet, _| {
                    raylet.unreachable.remove(&process);
                });
            }
            _ => {}
        });
        self.register(ctx);
    }

    fn undelivered(&mut self, what: Undelivered, ctx: &mut Context<Self>) {
        // A client that is gone cannot use its leases; one that is only unreachable is judged by
        // the GCS.
        if matches!(what.error, SendError::Gone { .. } | SendError::NoSuchActor) && what.to != self.config.gcs {
            let now = self.now(ctx);
            self.core.client_died(what.to.process.id, now);
            self.act(ctx);
        }
    }
}

fn leases(table: &mut Handlers<RayletServer>) {
    table.on::<WantLeases>(|raylet, message, _, ctx| {
        tracing::trace!(node = %raylet.config.info.name, ?message, "wanted");
        let now = raylet.now(ctx);
        raylet.core.want(message, now);
        raylet.act(ctx);
    });
    table.on::<ForgetQueue>(|raylet, message, _, _| raylet.core.forget_queue(message));
    table.on::<ReturnLeases>(|raylet, message, _, ctx| {
        let now = raylet.now(ctx);
        raylet.core.return_leases(&message.leases, now);
        raylet.act(ctx);
    });
    table.on::<HeldLeases>(|raylet, message, _, ctx| {
        let now = raylet.now(ctx);
        raylet.core.held_leases(&message, now);
        raylet.act(ctx);
    });
    table.on::<LeaseBlocked>(|raylet, message, _, ctx| {
        let now = raylet.now(ctx);
        raylet.core.lease_blocked(message.lease, message.blocked, now);
        raylet.act(ctx);
    });
    table.on::<LeaseActor>(|raylet, message, request, ctx| {
        raylet.next_asker += 1;
        let asker = raylet.next_asker;
        raylet.askers.insert(asker, request.into_replier());
        let (now, gcs) = (raylet.now(ctx), raylet.config.gcs);
        raylet.core.lease_actor(gcs, message, now, asker);
        raylet.act(ctx);
    });
    table.on::<CancelActorLease>(|raylet, message, _, ctx| {
        let now = raylet.now(ctx);
        raylet.core.cancel_actor(message.actor, message.incarnation, now);
        raylet.act(ctx);
    });
}

fn bundles(table: &mut Handlers<RayletServer>) {
    table.on::<PrepareBundles>(|raylet, message, request, ctx| {
        let now = raylet.now(ctx);
        request.reply(raylet.core.prepare_bundles(&message, now));
        raylet.act(ctx);
    });
    table.on::<CommitBundles>(|raylet, message, request, ctx| {
        let now = raylet.now(ctx);
        request.reply(raylet.core.commit_bundles(&message, now));
        raylet.act(ctx);
    });
    table.on::<ReturnBundles>(|raylet, message, request, ctx| {
        let now = raylet.now(ctx);
        raylet.core.return_bundles(&message, now);
        request.reply(());
        raylet.act(ctx);
    });
}

fn workers(table: &mut Handlers<RayletServer>) {
    table.on::<RegisterWorker>(|raylet, message, request, ctx| {
        let answer = raylet.register_worker(&message, ctx);
        request.reply(answer);
        raylet.act(ctx);
    });
    table.on::<ListWorkers>(|raylet, _, request, _| request.reply(raylet.core.list_workers()));
    table.on::<GetRefusals>(|_, _, request, ctx| request.reply(ctx.endpoint().refusals()));
}

/// The GCS.
impl RayletServer {
    fn now(&self, ctx: &Context<Self>) -> Duration {
        ctx.now().duration_since(self.epoch)
    }

    fn register(&mut self, ctx: &mut Context<Self>) {
        let now = self.now(ctx);
        self.core.forget_actor_wants(now);
        self.act(ctx);
        let mut info = self.config.info.clone();
        info.available = self.core.available().clone();
        info.total = self.core.total().clone();
        self.reported = info.available.clone();
        let message = RegisterNode {
            info,
            actors: self.core.hosted_actors(),
            processes: self.core.processes(),
            bundles: self.core.held_bundles(),
        };
        ctx.request(self.config.gcs, message, Vec::new(), GCS_WITHIN, |raylet, answer, ctx| {
            match answer {
                Ok((Ok(()), _)) => {
                    raylet.gcs_heard = raylet.now(ctx);
                    if !std::mem::replace(&mut raylet.registered, true) {
                        (raylet.config.events)(RayletEvent::Registered);
                        raylet.subscribe(ctx);
                    }
                }
                Ok((Err(why), _)) => (raylet.config.events)(RayletEvent::Refused(why)),
                Err(error) => {
                    raylet.head_silent(&error, ctx);
                    ctx.later(GCS_AGAIN_AFTER, |raylet, ctx| raylet.register(ctx));
                }
            }
            raylet.act(ctx);
        });
    }

    fn heartbeat(&mut self, ctx: &mut Context<Self>) {
        if !self.registered {
            return;
        }
        let now = self.now(ctx);
        self.reported = self.core.available().clone();
        let beat = Heartbeat {
            node: self.config.info.node,
            available: self.reported.clone(),
            pending: self.core.pending(now),
            store_used_bytes: (self.config.store_used_bytes)(),
            workers: self.core.processes().len() as u32,
            bundles: self.core.held_bundles(),
        };
        ctx.request(self.config.gcs, beat, Vec::new(), GCS_WITHIN, |raylet, answer, ctx| {
            let now = raylet.now(ctx);
            match answer {
                Ok((HeartbeatReply::Known, _)) => raylet.gcs_heard = now,
                Ok((HeartbeatReply::Unknown, _)) => raylet.register(ctx),
                Err(error) => raylet.head_silent(&error, ctx),
            }
            raylet.act(ctx);
        });
    }

    fn head_silent(&mut self, error: &SendError, ctx: &Context<Self>) {
        let silence = self.now(ctx).saturating_sub(self.gcs_heard);
        tracing::debug!(%error, silence_s = silence.as_secs(), "the head does not answer");
        if silence > HEAD_AWAITED || matches!(error, SendError::Gone { .. }) {
            let why = format!("the head has not answered for {} s: {error}", silence.as_secs());
            (self.config.events)(RayletEvent::Refused(why));
        }
    }

    /// Hears of the cluster's events for as long as the stream lasts, and then begins again.
    fn subscribe(&mut self, ctx: &mut Context<Self>) {
        let stream = ctx.endpoint().open_stream(self.config.gcs, Subscribe::Everything, Vec::new());
        let poster = ctx.poster();
        ctx.spawn(async move {
            let mut stream = stream;
            while let Some(Ok((event, _))) = stream.next().await {
                if !poster.post(move |raylet: &mut Self, ctx| raylet.on_event(event, ctx)) {
                    return;
                }
            }
            tokio::time::sleep(GCS_AGAIN_AFTER).await;
            poster.post(|raylet, ctx| {
                raylet.subscribe(ctx);
            });
        });
    }

    /// Events may have been missed: asks which of the jobs here still run.
    fn review_jobs(&mut self, ctx: &mut Context<Self>) {
        for job in self.core.jobs() {
            ctx.request(self.config.gcs, GetJob { job }, Vec::new(), GCS_WITHIN, move |raylet, answer, ctx| {
                if let Ok((info, _)) = answer
                    && info.is_none_or(|info| info.ended_unix_s.is_some())
                {
                    let now = raylet.now(ctx);
                    raylet.core.job_finished(job, now);
                    raylet.act(ctx);
                }
            });
        }
    }

    /// Clients that cannot be reached may be dead, and the news of it was missed: what they hold would
    /// stay theirs for ever.
    fn ask_for_unreachable(&mut self, ctx: &mut Context<Self>) {
        self.unreachable.retain(|process| self.core.is_client(*process));
        if self.unreachable.is_empty() {
            return;
        }
        let question = DeadAmong { processes: self.unreachable.iter().copied().collect() };
        ctx.request(self.config.gcs, question, Vec::new(), GCS_WITHIN, |raylet, answer, ctx| {
            for process in answer.map(|(dead, _)| dead).unwrap_or_default() {
                raylet.process_died(process, "the head does not know it any more", ctx);
            }
        });
    }

    fn on_event(&mut self, event: ClusterEvent, ctx: &mut Context<Self>) {
        let now = self.now(ctx);
        tracing::trace!(node = %self.config.info.name, ?event, "heard");
        match event {
            ClusterEvent::View(view) => {
                self.core.set_view(view, now);
                self.core.events_missed(now);
                self.review_jobs(ctx);
            }
            ClusterEvent::NodeJoined(info) => self.core.node_joined(info, now),
            ClusterEvent::RoomChanged { node, named } => self.core.room_changed(node, &named, now),
            ClusterEvent::GroupRemoved(group) => self.core.group_gone(group),
            ClusterEvent::NodeDied { node, why, .. } if node.node == self.config.info.node => {
                (self.config.events)(RayletEvent::Refused(format!("the head has declared this node dead: {why}")));
            }
            ClusterEvent::NodeDied { node, why, processes } => {
                self.core.node_died(node.node, now);
                for process in processes.iter().chain([&node.process]) {
                    self.process_died(process.id, &format!("its node {} died: {why}", node.name), ctx);
                }
            }
            ClusterEvent::ProcessDied { process, why, .. } => self.process_died(process.id, &why, ctx),
            ClusterEvent::JobFinished(job) => self.core.job_finished(job, now),
            ClusterEvent::Resources(changes) => self.core.resources_changed(changes, now),
        }
        self.act(ctx);
    }

    fn process_died(&mut self, process: ProcessId, why: &str, ctx: &mut Context<Self>) {
        if process == self.config.info.process.id {
            return;
        }
        let now = self.now(ctx);
        self.unreachable.remove(&process);
        ctx.endpoint().mark_gone(process, why.to_owned());
        self.core.client_died(process, now);
        (self.config.deaths)(process);
        self.act(ctx);
    }
}

/// Worker processes.
impl RayletServer {
    fn register_worker(&mut self, message: &RegisterWorker, ctx: &mut Context<Self>) -> Result<WorkerConfig, String> {
        let now = self.now(ctx);
        if message.start != 0 {
            let started = self.starts.get_mut(&message.start).ok_or("this process was given up on; it is to leave")?;
            let expected = started.digest;
            started.process = Some(message.process);
            if expected != Some(message.digest) {
                let why = format!(
                    "the worker's binary has other functions (digest {:016x}) than the driver's (digest {:016x}): \
                     build both from the same sources",
                    message.digest,
                    expected.unwrap_or_default()
                );
                self.core.worker_failed(message.start, &why, true, now);
                return Err(why);
            }
            self.by_process.insert(message.process.id, message.start);
        }
        if !self.core.worker_ready(message.start, message.process, message.pid, now) {
            return Err("no worker with this start number is awaited; it is to leave".to_owned());
        }
        let up = ProcessUp { node: self.config.info.node, process: message.process, pid: message.pid };
        insist(ctx.endpoint(), MailboxId::RAYLET, self.config.gcs, up);
        Ok(worker_config(&self.config.info))
    }

    fn start_worker(&mut self, start: u64, job: JobId, kind: WorkerKind, gpus: Vec<String>, ctx: &mut Context<Self>) {
        self.starts.insert(start, Started { digest: None, process: None, spawned: false, ended_for_memory: None });
        ctx.request(self.config.gcs, GetJob { job }, Vec::new(), GCS_WITHIN, move |raylet, answer, ctx| {
            let (why, for_good) = match answer {
                Ok((Some(info), _)) => return raylet.launch(Launch { start, job: info, kind, gpus }, ctx),
                Ok((None, _)) => (format!("the head does not know job {job}"), true),
                Err(error) => (format!("the head did not say what job {job} runs: {error}"), false),
            };
            raylet.start_failed(start, &why, for_good, ctx);
        });
    }

    fn launch(&mut self, launch: Launch, ctx: &mut Context<Self>) {
        let start = launch.start;
        // Given up on while its job was asked for.
        let Some(started) = self.starts.get_mut(&start) else { return };
        started.digest = Some(launch.job.digest);
        let Some(launcher) = self.config.launcher.clone() else {
            return self.start_failed(start, "this node starts no worker processes", true, ctx);
        };
        let poster = ctx.poster();
        let report: Report = Arc::new(move |event| {
            poster.post(move |raylet: &mut Self, ctx| raylet.on_launch(event, ctx));
        });
        launcher.launch(launch, report);
    }

    fn on_launch(&mut self, event: LaunchEvent, ctx: &mut Context<Self>) {
        match event {
            LaunchEvent::Spawned { start, pid } => {
                tracing::debug!(start, pid, "worker process started");
                if let Some(started) = self.starts.get_mut(&start) {
                    started.spawned = true;
                }
                ctx.later(REGISTER_WITHIN, move |raylet, ctx| {
                    if raylet.starts.get(&start).is_some_and(|started| started.process.is_none()) {
                        let why = format!("it did not register within {} s", REGISTER_WITHIN.as_secs());
                        raylet.kill(start);
                        raylet.start_failed(start, &why, false, ctx);
                    }
                });
            }
            LaunchEvent::Failed { start, why, for_good } => self.start_failed(start, &why, for_good, ctx),
            LaunchEvent::Exited { start, how, culprit } => self.worker_exited(start, &how, culprit, ctx),
        }
    }

    fn start_failed(&mut self, start: u64, why: &str, for_good: bool, ctx: &mut Context<Self>) {
        if self.starts.remove(&start).is_some() {
            tracing::warn!(start, %why, "a worker process did not start");
            let now = self.now(ctx);
            self.core.worker_failed(start, why, for_good, now);
            self.act(ctx);
        }
    }

    fn worker_exited(&mut self, start: u64, how: &str, culprit: Culprit, ctx: &mut Context<Self>) {
        let Some(started) = self.starts.remove(&start) else { return };
        let now = self.now(ctx);
        let Some(process) = started.process else {
            self.core.worker_failed(start, &format!("it ended before it registered: {how}"), false, now);
            return self.act(ctx);
        };
        self.by_process.remove(&process.id);
        let (how, culprit) = match started.ended_for_memory {
            Some(usage) => self.memory_verdict(usage),
            None => (how.to_owned(), culprit),
        };
        let culprit = match culprit {
            // Its owner died with it and will charge nobody.
            Culprit::Task { owner, .. } if owner == process.id => Culprit::Unknown,
            known => known,
        };
        self.core.worker_died(process.id, &how, culprit, now);
        // The leases' loss goes out first: it names the actors, and who is to blame.
        self.act(ctx);
        ctx.endpoint().mark_gone(process.id, how.clone());
        (self.config.deaths)(process.id);
        let node = self.config.info.node;
        let down = ProcessDown { node, process, why: how, culprit };
        insist(ctx.endpoint(), MailboxId::RAYLET, self.config.gcs, down);
    }

    fn kill(&self, start: u64) {
        if let Some(launcher) = &self.config.launcher {
            launcher.kill(start);
        }
    }

    fn stop_worker(&mut self, worker: ProcessAddr, why: String, kill: bool, ctx: &mut Context<Self>) {
        let Some(start) = self.by_process.get(&worker.id).copied() else { return };
        ctx.send(Address { process: worker, mailbox: MailboxId::WORKER }, StopWorker { why });
        ctx.later(if kill { KILL_GRACE } else { STOP_GRACE }, move |raylet, _| {
            if raylet.starts.contains_key(&start) {
                raylet.kill(start);
            }
        });
    }
}

/// Effects.
impl RayletServer {
    fn act(&mut self, ctx: &mut Context<Self>) {
        for effect in self.core.take_effects() {
            tracing::trace!(node = %self.config.info.name, ?effect, "raylet");
            match effect {
                Effect::Grant(client, message) => {
                    if let Some(message) = unsent(ctx, client, message) {
                        self.core.grant_unsent(client, &message);
                    }
                }
                Effect::Redirect(client, message) => {
                    if let Some(message) = unsent(ctx, client, message) {
                        self.core.redirect_unsent(client, &message);
                    }
                }
                Effect::Kept(client, message) => {
                    if unsent(ctx, client, message).is_some() {
                        self.core.kept_unsent(client);
                    }
                }
                Effect::Lost(client, message) => {
                    if let Some(message) = unsent(ctx, client, message) {
                        self.core.lost_unsent(client, message);
                    }
                }
                Effect::Pending(client, message) => {
                    if let Some(message) = unsent(ctx, client, message) {
                        self.core.pending_unsent(client, &message);
                    }
                }
                Effect::GroupGone(client, message) => {
                    if let Some(message) = unsent(ctx, client, message) {
                        self.core.gone_unsent(client, message);
                    }
                }
                // Asked again while someone waits.
                Effect::ReclaimIdle(client) => ctx.send(client, ReclaimIdle),
                Effect::ActorLeased(asker, answer) => {
                    if let Some(replier) = self.askers.remove(&asker) {
                        replier.reply(answer);
                    }
                }
                Effect::ForgetAsker(asker) => drop(self.askers.remove(&asker)),
                Effect::StartWorker { start, job, kind, gpus } => self.start_worker(start, job, kind, gpus, ctx),
                // Arrives before the grant does: the worker is in this very process.
                Effect::LeaseGpus(worker, told) => {
                    ctx.send(Address { process: worker, mailbox: MailboxId::WORKER }, told);
                }
                Effect::StopWorker { worker, why, kill } => self.stop_worker(worker, why, kill, ctx),
                Effect::AbortStart(start) => {
                    self.kill(start);
                    self.starts.remove(&start);
                }
            }
        }
        if self.core.has_no_tasks()
            && let Some(replier) = self.drained.take()
        {
            replier.reply(());
        }
        if self.registered && !self.report_due && *self.core.available() != self.reported {
            self.report_due = true;
            ctx.later(REPORT_AFTER, |raylet, ctx| {
                raylet.report_due = false;
                if *raylet.core.available() != raylet.reported {
                    raylet.heartbeat(ctx);
                }
            });
        }
    }
}

/// Sends to a client; gives the message back when the way is full: it has to be taken back, or
/// sent later.
fn unsent<M: Message>(ctx: &Context<RayletServer>, client: Address, message: M) -> Option<M> {
    let sent = ctx.endpoint().try_send(Some(MailboxId::RAYLET), client, message, Payload::new());
    let unsent = sent.err()?;
    if fate(&unsent.error) == Fate::Full {
        return Some(unsent.message);
    }
    // Whoever is gone is told about like everybody else.
    ctx.send(client, unsent.message);
    None
}
