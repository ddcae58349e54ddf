//! Runs tasks as short-lived actors in its slots, and hosts user actors.
//!
//! The worker's mailbox ([`MailboxId::WORKER`]) only sorts: it never runs user code. Tasks go to
//! the queue of their lease, calls to the mailbox of their actor; both are drained by slot
//! threads. Arguments that lie in a store are brought here before the task is queued.
//!
//! ```text
//!   PushTasks ─▶ arguments here? ─▶ LeaseQueue ─┐
//!                                               ├─▶ slot thread ─▶ user code ─▶ TaskDone
//!   PushCalls ─▶ place in the order ▶ ActorCell ┘
//! ```
//!
//! A panic ends the call (for an actor, the actor), never the worker. The entry type is
//! [`Worker`]; worker *processes* are started by [`crate::raylet`] and [`crate::node`].

mod actor;
mod bring;
mod call;
mod cancel;
mod current;
mod future;
mod gpus;
mod history;
mod lease;
mod missing;
pub(crate) mod output;
mod slots;
mod stream;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mobula_transport::{Address, Endpoint, Envelope, Mailbox, MailboxId, Message, Payload, Replier, SendError};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::actor::{ActorCell, End, drop_state};
use self::bring::{Lost, Missing};
use self::call::{Call, Ended, wrong_kind};
use self::current::{Running, RunningActor};
use self::gpus::LeasedGpus;
use self::history::History;
use self::lease::LeaseQueue;
use self::output::Label;
use self::slots::{Runnable, Slots};
use crate::client::{AttemptScope, Client};
use crate::culprit::{Culprit, accuse};
use crate::error::Error;
use crate::ids::{ActorId, LeaseId};
use crate::messages::{
    ArgSpec, CancelTask, LeaseGpus, ListTasks, PushCalls, PushTasks, ReclaimTasks, StartActor, StillHave, StopActor,
    StopWorker, TaskInfo, TaskSpec, TasksReturned, WorkerConfig,
};
use crate::registry::{Code, DuplicateFunction, Registry};
use crate::store::StoreClient;
use crate::value::Value;

pub use self::cancel::is_cancelled;
pub(crate) use self::current::{asleep, current_run, lend_cpu};
pub use self::current::{block_on, current_actor, exit_actor, node_name};
pub(crate) use self::gpus::set_process_gpus;
pub use self::gpus::{VISIBLE_GPUS_VARIABLE, gpu_ids};
pub use self::stream::Outlet;

/// Queues of ended leases are forgotten when there are more than this.
const LEASES_KEPT: usize = 256;

/// What a worker needs to know.
pub struct WorkerSetup {
    /// The process's endpoint.
    pub endpoint: Endpoint,
    /// The client through which user code in this process submits work of its own.
    pub client: Client,
    /// The node's store.
    pub store: StoreClient,
    /// What the raylet answered to [`crate::messages::RegisterWorker`].
    pub config: WorkerConfig,
    /// The GCS.
    pub gcs: Address,
    /// Whether the process is there for the worker alone, and may be ended with it.
    pub own_process: bool,
}

/// A worker of this process.
pub struct Worker(Arc<WorkerShared>);

pub(crate) struct WorkerShared {
    endpoint: Endpoint,
    client: Client,
    store: StoreClient,
    config: WorkerConfig,
    node_name: Arc<str>,
    gcs: Address,
    own_process: bool,
    registry: &'static Registry,
    slots: Slots,
    leases: Mutex<HashMap<LeaseId, Arc<LeaseQueue>>>,
    leased_gpus: LeasedGpus,
    actors: Mutex<HashMap<ActorId, Arc<ActorCell>>>,
    /// Actors that are being made, and why not any more, if they were told to stop meanwhile. Only
    /// looked up by key; locked before `actors`.
    constructing: Mutex<HashMap<(ActorId, u32), Option<String>>>,
    /// Work whose arguments are on their way here.
    bringing: Mutex<HashSet<(Address, u64, u32)>>,
    history: Arc<History>,
    stop: tokio::sync::watch::Sender<Option<String>>,
}

impl Worker {
    /// Starts the worker at [`MailboxId::WORKER`] of the endpoint.
    ///
    /// # Errors
    /// [`DuplicateFunction`] when two functions are registered under one name.
    pub fn start(setup: WorkerSetup) -> Result<Self, DuplicateFunction> {
        call::install_panic_hook();
        let shared = Arc::new(WorkerShared {
            slots: Slots::start(setup.config.slots as usize),
            registry: Registry::global()?,
            endpoint: setup.endpoint,
            client: setup.client,
            store: setup.store,
            node_name: setup.config.node_name.as_str().into(),
            config: setup.config,
            gcs: setup.gcs,
            own_process: setup.own_process,
            leases: Mutex::default(),
            leased_gpus: LeasedGpus::default(),
            actors: Mutex::default(),
            constructing: Mutex::default(),
            bringing: Mutex::default(),
            history: Arc::default(),
            stop: tokio::sync::watch::Sender::new(None),
        });
        shared.endpoint.attach(MailboxId::WORKER, Arc::new(WorkerMailbox(shared.clone())));
        shared.watch_raylet();
        Ok(Self(shared))
    }

    /// Resolves when the raylet has told the worker to leave, with the reason.
    pub async fn told_to_stop(&self) -> String {
        let mut stop = self.0.stop.subscribe();
        match stop.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the worker is gone".to_owned(),
        }
    }

    /// The actors that live here, with their incarnations.
    #[cfg(test)]
    pub(crate) fn hosted(&self) -> std::collections::BTreeMap<ActorId, u32> {
        self.0.actors.lock().iter().map(|(actor, cell)| (*actor, cell.incarnation)).collect()
    }

    /// Ends all actors and lets the threads leave. User code that runs is not interrupted.
    pub fn shutdown(&self) {
        self.0.endpoint.detach(MailboxId::WORKER);
        let actors: Vec<_> = self.0.actors.lock().drain().map(|(_, actor)| actor).collect();
        for actor in actors {
            actor.stop("its worker was shut down", End::Stopped);
        }
        self.0.leases.lock().clear();
        self.0.slots.stop();
    }
}

struct WorkerMailbox(Arc<WorkerShared>);

impl Mailbox for WorkerMailbox {
    fn deliver(&self, envelope: Envelope) {
        let worker = &self.0;
        let kind = envelope.kind();
        if kind == PushTasks::KIND {
            if let Ok((push, mut request)) = envelope.open::<PushTasks>() {
                worker.push_tasks(push, request.take_payload());
            }
        } else if kind == PushCalls::KIND {
            if let Ok((push, mut request)) = envelope.open::<PushCalls>() {
                worker.push_calls(push, request.take_payload());
            }
        } else if kind == ReclaimTasks::KIND {
            if let Ok((reclaim, _)) = envelope.open::<ReclaimTasks>() {
                worker.reclaim(&reclaim);
            }
        } else if kind == CancelTask::KIND {
            if let Ok((cancel, _)) = envelope.open::<CancelTask>() {
                worker.cancel(&cancel);
            }
        } else if kind == StillHave::KIND {
            if let Ok((question, _)) = envelope.open::<StillHave>() {
                worker.look_for(question);
            }
        } else if kind == StartActor::KIND {
            if let Ok((start, mut request)) = envelope.open::<StartActor>() {
                let payload = request.take_payload();
                worker.start_actor(start, payload, request.into_replier());
            }
        } else if kind == StopActor::KIND {
            if let Ok((stop, request)) = envelope.open::<StopActor>() {
                worker.stop_actor(stop);
                request.reply(());
            }
        } else if kind == LeaseGpus::KIND {
            if let Ok((told, _)) = envelope.open::<LeaseGpus>() {
                worker.leased_gpus.told(told);
            }
        } else if kind == StopWorker::KIND {
            if let Ok((stop, _)) = envelope.open::<StopWorker>() {
                worker.stop.send_replace(Some(stop.why));
            }
        } else if kind == ListTasks::KIND {
            if let Ok((_, request)) = envelope.open::<ListTasks>() {
                request.reply(worker.list_tasks());
            }
        } else if kind == mobula_transport::Undelivered::KIND {
            // An owner that is gone needs no answer; one that is only out of reach asks again.
        } else {
            envelope.reject(SendError::UnknownMessage { kind, name: String::new() });
        }
    }
}

impl WorkerShared {
    fn push_tasks(self: &Arc<Self>, push: PushTasks, payload: Payload) {
        let queue = self.lease_queue(push.lease, push.raylet);
        let mut parts = payload.into_iter();
        let mut here = Vec::with_capacity(push.tasks.len());
        for spec in push.tasks {
            let inline: Vec<bytes::Bytes> = parts.by_ref().take(inline_count(&spec)).collect();
            if is_inline(&spec) {
                here.push(Call { client: push.client, args: inline_values(&spec, inline), spec });
                continue;
            }
            let queue = queue.clone();
            self.bring(push.client, spec, inline, Lost::HandBack, move |worker, client, spec, result| match result {
                Ok(args) => queue.push([Call { client, spec, args }]),
                Err(missing) => worker.tell(client, spec, missing.into(), Instant::now()),
            });
        }
        queue.push(here);
    }

    fn push_calls(self: &Arc<Self>, push: PushCalls, payload: Payload) {
        let cell = self.actors.lock().get(&push.actor).cloned();
        let cell = cell.filter(|cell| cell.incarnation == push.incarnation);
        let mut parts = payload.into_iter();
        for spec in push.calls {
            let inline: Vec<bytes::Bytes> = parts.by_ref().take(inline_count(&spec)).collect();
            let Some(cell) = &cell else {
                let why = "it does not live in this worker any more".to_owned();
                let error = Error::ActorDied { actor: push.actor, why };
                self.tell(push.client, spec, Ended::Failed(error), Instant::now());
                continue;
            };
            if is_inline(&spec) {
                cell.push(Call { client: push.client, args: inline_values(&spec, inline), spec });
                continue;
            }
            let place = cell.reserve(&spec);
            let cell = cell.clone();
            let lost = Lost::Ask(cell.clone());
            self.bring(push.client, spec, inline, lost, move |worker, client, spec, result| match result {
                Ok(args) => cell.fill(place, Some(Call { client, spec, args })),
                Err(missing) => {
                    cell.fill(place, None);
                    worker.tell(client, spec, missing.into(), Instant::now());
                }
            });
        }
    }

    fn lease_queue(self: &Arc<Self>, lease: LeaseId, raylet: Address) -> Arc<LeaseQueue> {
        let mut leases = self.leases.lock();
        if leases.len() > LEASES_KEPT && !leases.contains_key(&lease) {
            // Whoever is to fill it, drains it or waits in it holds it, and who wants it has to take it
            // from here.
            leases.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        leases.entry(lease).or_insert_with(|| LeaseQueue::new(lease, raylet, self.clone())).clone()
    }

    fn reclaim(&self, reclaim: &ReclaimTasks) {
        let queue = self.leases.lock().get(&reclaim.lease).cloned();
        let seqs = queue.map_or_else(Vec::new, |queue| queue.reclaim(reclaim.client, reclaim.at_most as usize));
        let returned = TasksReturned { lease: reclaim.lease, seqs };
        self.endpoint.send(Some(MailboxId::WORKER), reclaim.client, returned, Payload::new());
    }

    fn start_actor(self: &Arc<Self>, start: StartActor, payload: Payload, replier: Replier<Result<(), Error>>) {
        // The constructor's arguments are brought like those of a call.
        let spec = TaskSpec {
            seq: 0,
            attempt: start.incarnation + 1,
            function: start.spec.constructor,
            name: start.spec.name.clone(),
            args: start.spec.args.clone(),
            returns: 0,
            stream: None,
        };
        let owner = start.spec.owner;
        let key = (start.spec.actor, start.incarnation);
        self.constructing.lock().insert(key, None);
        let construct = move |worker: &Arc<Self>, result: Result<Vec<Value>, Missing>| match result {
            Err(missing) => {
                worker.constructing.lock().remove(&key);
                replier.reply(Err(missing.into()));
            }
            Ok(args) => {
                let construction =
                    Construction { worker: worker.clone(), work: Mutex::new(Some((start, args, replier))) };
                worker.slots.schedule(Arc::new(construction));
            }
        };
        if is_inline(&spec) {
            construct(self, Ok(inline_values(&spec, payload)));
        } else {
            self.bring(owner, spec, payload, Lost::HandBack, move |worker, _, _, result| construct(worker, result));
        }
    }

    /// An actor that is being made is dropped as soon as its constructor returns.
    fn stop_actor(&self, stop: StopActor) {
        let mut constructing = self.constructing.lock();
        if let Some(stopped) = constructing.get_mut(&(stop.actor, stop.incarnation)) {
            stopped.get_or_insert(stop.why);
            return;
        }
        drop(constructing);
        let actor = self.actors.lock().get(&stop.actor).cloned();
        if let Some(actor) = actor.filter(|actor| actor.incarnation == stop.incarnation) {
            actor.stop(&stop.why, End::Stopped);
        }
    }

    fn forget_actor(&self, actor: ActorId, incarnation: u32) {
        let mut actors = self.actors.lock();
        if actors.get(&actor).is_some_and(|cell| cell.incarnation == incarnation) {
            actors.remove(&actor);
        }
    }

    fn list_tasks(&self) -> Vec<TaskInfo> {
        let mut tasks = Vec::new();
        let leases: Vec<_> = self.leases.lock().values().cloned().collect();
        for lease in leases {
            lease.describe(&mut tasks);
        }
        let actors: Vec<_> = self.actors.lock().values().cloned().collect();
        for actor in actors {
            actor.describe(&mut tasks);
        }
        self.history.describe(self, &mut tasks);
        tasks
    }
}

type ConstructorCall = (StartActor, Vec<Value>, Replier<Result<(), Error>>);

/// An actor's constructor, waiting for a thread.
struct Construction {
    worker: Arc<WorkerShared>,
    work: Mutex<Option<ConstructorCall>>,
}

impl Runnable for Construction {
    fn run(self: Arc<Self>) {
        let Some((start, args, replier)) = self.work.lock().take() else {
            return;
        };
        let worker = &self.worker;
        let accused = accuse(Culprit::Actor);
        let gpus = worker.leased_gpus.of(start.lease);
        let holding = gpus::hold(&gpus);
        let label = Label::of_actor(&start.spec.class);
        let scope = AttemptScope::begin();
        let (spec, incarnation) = (Arc::new(start.spec), start.incarnation);
        let before = current::begin(Running {
            slots: Some(worker.slots.clone()),
            node: worker.node_name.clone(),
            lease: None,
            actor: Some(RunningActor { spec: spec.clone(), cell: None }),
            attempt: None,
        });
        let built = worker.function(spec.constructor).and_then(|function| match function.code {
            Code::Constructor(code) => worker.run_code(function, label, || code(args)).map_err(|(error, _)| error),
            _ => Err(wrong_kind(function, "a constructor")),
        });
        drop(current::end(before));
        drop((accused, holding));
        let borrowed = scope.still_held();
        let actor = spec.actor;
        // Held until it is among the actors, so that who stops it finds it in one place or the other.
        let mut constructing = worker.constructing.lock();
        let stopped = constructing.remove(&(actor, incarnation)).flatten();
        let outcome = match (built, stopped) {
            (Err(error), _) => Err(error),
            (Ok(instance), Some(why)) => {
                // User code, so not under the lock.
                drop(constructing);
                drop_state(actor, instance);
                return replier.reply(Err(Error::ActorDied { actor, why }));
            }
            (Ok(instance), None) => {
                let cell = ActorCell::new(spec, incarnation, start.lease, instance, worker.clone());
                worker.actors.lock().insert(actor, cell);
                Ok(())
            }
        };
        drop(constructing);
        // Who made the actor holds its constructor's references until it hears that it is made.
        worker.client.secure(borrowed, move || replier.reply(outcome));
    }
}

fn is_inline(spec: &TaskSpec) -> bool {
    spec.args.iter().all(|arg| matches!(arg, ArgSpec::Inline(_)))
}

fn inline_count(spec: &TaskSpec) -> usize {
    spec.args.iter().filter(|arg| matches!(arg, ArgSpec::Inline(_))).count()
}

fn inline_values(spec: &TaskSpec, parts: Vec<bytes::Bytes>) -> Vec<Value> {
    let mut parts = parts.into_iter();
    spec.args
        .iter()
        .map(|arg| match arg {
            ArgSpec::Inline(encoding) => Value::new(*encoding, parts.next().unwrap_or_default()),
            // The callers have checked that every argument is inline.
            ArgSpec::Stored(_) => unreachable!("a stored argument among inline ones"),
        })
        .collect()
}
