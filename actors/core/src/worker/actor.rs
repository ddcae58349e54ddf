//! A user's actor in its worker: its calls, whose turn it is, and the state.
//!
//! [`Turns`] decides which calls run. Slot threads take them; an async method's future is handed to
//! the runtime for user code and keeps its turn until it has ended, without keeping the thread
//! ([`super::future`]).

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, Payload, ProcessId};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::WorkerShared;
use super::call::{Call, Ended, wrong_kind};
use super::current::{self, Running, RunningActor};
use super::future::{self, AsyncCall};
use super::gpus::{self, Ids};
use super::output::Label;
use super::slots::Runnable;
use super::stream::Outlet;
use super::turns::{Place, Turn, Turns};
use crate::client::{AttemptScope, ObjectHandle};
use crate::culprit::{Culprit, accuse};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::{ActorId, LeaseId};
use crate::messages::{ActorExited, ActorSpec, LeaseBlocked, TaskInfo, TaskSpec};
use crate::registry::{Code, Instance};
use crate::value::Value;

/// An actor with work gives its thread to others after this long, if others wait.
const TURN: Duration = Duration::from_millis(5);

/// The state, shared with the futures of the async methods that run.
pub(super) type State = Arc<dyn Any + Send + Sync>;

struct Inner {
    turns: Turns<Call>,
    /// A thread has been called to take the next call and has not come yet.
    coming: bool,
    /// Why it has ended, if it has.
    ended: Option<(String, End)>,
    /// Its end has been told to the GCS.
    told: bool,
}

/// The CPU of an actor is lent while this lives.
pub(super) struct Lent(Arc<ActorCell>);

impl Drop for Lent {
    fn drop(&mut self) {
        let mut lent = self.0.lent.lock();
        *lent -= 1;
        if *lent == 0 {
            self.0.tell_raylet(false);
        }
    }
}

/// How an actor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By a failure of its code: its restart policy applies.
    Failed,
    /// It was told to end.
    Stopped,
    /// By itself. Calls that have begun end first, also where they wait.
    Exited,
}

/// A user's actor.
pub(super) struct ActorCell {
    pub(super) actor: ActorId,
    pub(super) incarnation: u32,
    /// What it was made by.
    spec: Arc<ActorSpec>,
    /// The names of its concurrency groups; the first one is the default one, which has none.
    groups: Box<[String]>,
    label: Label,
    gpus: Option<Ids>,
    lease: LeaseId,
    /// How many of its calls wait for arguments that are made again.
    lent: Mutex<u32>,
    worker: Arc<WorkerShared>,
    /// Nobody waits for the lock: whose turn it is has been settled before. None while an async
    /// method with `&mut self` has it, and after the end.
    state: RwLock<Option<State>>,
    /// It ends at once: futures are dropped where they wait.
    pub(super) aborted: AtomicBool,
    inner: Mutex<Inner>,
}

impl ActorCell {
    pub(super) fn new(
        spec: Arc<ActorSpec>,
        incarnation: u32,
        lease: LeaseId,
        instance: Instance,
        worker: Arc<WorkerShared>,
    ) -> Arc<Self> {
        let default = (String::new(), spec.max_concurrency);
        let all = std::iter::once(&default).chain(&spec.concurrency_groups);
        let (groups, limits): (Vec<String>, Vec<u32>) = all.cloned().unzip();
        Arc::new(Self {
            actor: spec.actor,
            incarnation,
            label: Label::of_actor(&spec.class),
            spec,
            groups: groups.into(),
            gpus: worker.leased_gpus.of(lease),
            lease,
            lent: Mutex::new(0),
            worker,
            state: RwLock::new(Some(instance.into())),
            aborted: AtomicBool::new(false),
            inner: Mutex::new(Inner { turns: Turns::new(limits), coming: false, ended: None, told: false }),
        })
    }

    /// Adds a call whose arguments are here; a dead actor's call is answered at once.
    pub(super) fn push(self: &Arc<Self>, call: Call) {
        let mut inner = self.inner.lock();
        if let Some((why, _)) = &inner.ended {
            let error = self.died(why);
            drop(inner);
            self.worker.tell(call.client, call.spec, Ended::Failed(error), Instant::now());
            return;
        }
        let (group, alone) = self.how(&inner, &call.spec);
        inner.turns.push(group, call, alone);
        self.go_on(&mut inner);
    }

    /// Takes a place in the order for a call whose arguments are on their way.
    pub(super) fn reserve(&self, spec: &TaskSpec) -> Place {
        let mut inner = self.inner.lock();
        let (group, _) = self.how(&inner, spec);
        inner.turns.reserve(group)
    }

    /// The call for a reserved place; `None` if it failed before it could run.
    pub(super) fn fill(self: &Arc<Self>, place: Place, call: Option<Call>) {
        let mut inner = self.inner.lock();
        if let Some((why, _)) = &inner.ended {
            let error = self.died(why);
            drop(inner);
            if let Some(call) = call {
                self.worker.tell(call.client, call.spec, Ended::Failed(error), Instant::now());
            }
            return;
        }
        let alone = call.as_ref().is_some_and(|call| self.how(&inner, &call.spec).1);
        inner.turns.fill(place, call, alone);
        self.go_on(&mut inner);
    }

    /// A call waits for an argument that is made again, and so do those after it: until what is returned is
    /// dropped, the node may use the CPU elsewhere, for the making above all.
    pub(super) fn lend(self: &Arc<Self>) -> Lent {
        let mut lent = self.lent.lock();
        *lent += 1;
        if *lent == 1 {
            self.tell_raylet(true);
        }
        Lent(self.clone())
    }

    /// Tells the raylet again whether the CPU is lent; what it was told may have got lost.
    pub(super) fn tell_again(&self, raylet: ProcessId) {
        let lent = self.lent.lock();
        if self.worker.client.raylet().process.id == raylet {
            self.tell_raylet(*lent > 0);
        }
    }

    fn tell_raylet(&self, blocked: bool) {
        let message = LeaseBlocked { lease: self.lease, blocked };
        let raylet = self.worker.client.raylet();
        self.worker.endpoint.send(Some(MailboxId::WORKER), raylet, message, Payload::new());
    }

    /// The attempts of this owner that wait.
    pub(super) fn waiting(&self, owner: Address, out: &mut HashSet<(u64, u32)>) {
        let inner = self.inner.lock();
        let own = inner.turns.waiting().filter(|call| call.client == owner);
        out.extend(own.map(|call| (call.spec.seq, call.spec.attempt)));
    }

    /// Ends the actor: what waits fails, code that runs ends first (futures where they wait, unless
    /// it exits), then the state is dropped.
    pub(super) fn stop(self: &Arc<Self>, why: &str, end: End) {
        let mut inner = self.inner.lock();
        let before = inner.ended.as_ref().map(|(_, end)| *end);
        if before.is_some_and(|before| before != End::Exited || end == End::Exited) {
            return;
        }
        // Who exits may be told to end before it has.
        if before.is_none() {
            inner.ended = Some((why.to_owned(), end));
        }
        let calls = inner.turns.clear();
        if end != End::Exited {
            self.aborted.store(true, Ordering::Release);
        }
        // Somebody has to drop the state, on a thread for user code.
        self.go_on(&mut inner);
        drop(inner);
        if end != End::Exited {
            future::wake_all();
        }
        for call in calls {
            self.worker.tell(call.client, call.spec, Ended::Failed(self.died(why)), Instant::now());
        }
    }

    pub(super) fn describe(&self, out: &mut Vec<TaskInfo>) {
        let inner = self.inner.lock();
        out.extend(inner.turns.waiting().map(|call| self.worker.describe(call, "QUEUED", 0)));
    }

    fn died(&self, why: &str) -> Error {
        Error::ActorDied { actor: self.actor, why: why.to_owned() }
    }

    /// Why its calls fail from now on.
    pub(super) fn ended(&self) -> Error {
        let ended = self.inner.lock().ended.clone();
        self.died(ended.as_ref().map_or("it has ended", |(why, _)| why))
    }

    /// A call's group, and whether it runs beside no other. Where no call ever does, that need not
    /// be looked up.
    fn how(&self, inner: &Inner, spec: &TaskSpec) -> (usize, bool) {
        if inner.turns.one_at_a_time() {
            return (DEFAULT_GROUP, false);
        }
        let Some(function) = self.worker.registry.function(spec.function) else { return (DEFAULT_GROUP, false) };
        let group = self.groups.iter().position(|group| group == function.group).unwrap_or(DEFAULT_GROUP);
        (group, matches!(function.code, Code::MethodMut(_) | Code::AsyncMut(_) | Code::StreamMut(_) | Code::Terminate))
    }

    /// Calls a thread if there is something to do for it.
    fn go_on(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.coming && (inner.turns.may_start() || inner.is_over()) {
            inner.coming = true;
            self.worker.slots.schedule(self.clone());
        }
    }

    /// The next call for this thread, after the one that it has run, if any.
    fn next(self: &Arc<Self>, over: Over) -> Option<(Call, Turn)> {
        let mut inner = self.inner.lock();
        match over {
            Over::Came => inner.coming = false,
            Over::Ended(turn) => inner.turns.end(turn),
            Over::HandedOn => {}
        }
        let next = inner.turns.start();
        if next.is_none() && inner.is_over() {
            inner.told = true;
            drop(inner);
            self.finish();
            return None;
        }
        // With room for more at once, the next call gets a thread of its own.
        self.go_on(&mut inner);
        next
    }

    /// A call has ended, and whoever ran it does not take the next one.
    pub(super) fn end(self: &Arc<Self>, turn: Turn) {
        let mut inner = self.inner.lock();
        inner.turns.end(turn);
        self.go_on(&mut inner);
    }

    /// Drops the state and tells the GCS.
    fn finish(&self) {
        let state = self.state.write().take();
        drop_state(self.actor, state);
        self.worker.forget_actor(self.actor, self.incarnation);
        let (why, end) = self.inner.lock().ended.clone().unwrap_or((String::new(), End::Stopped));
        let exited = ActorExited { actor: self.actor, incarnation: self.incarnation, why, failed: end == End::Failed };
        // The head may be away, and nobody else can tell it.
        insist(&self.worker.endpoint, MailboxId::WORKER, self.worker.gcs, exited);
    }

    fn run_call(self: &Arc<Self>, call: Call, turn: Turn) -> Over {
        let Call { client, spec, args } = call;
        let start = Instant::now();
        let run = self.worker.begin(client, &spec, start);
        let _accused = accuse(Culprit::Actor);
        let scope = AttemptScope::begin();
        let _holding = gpus::hold(&self.gpus);
        let ended = match self.worker.wanted(client, &spec) {
            Err(error) => Ended::Failed(error),
            Ok(function) => match function.code {
                Code::MethodMut(code) => match self.state.write().as_mut().and_then(Arc::get_mut) {
                    Some(state) => self.worker.run_values(function, self.label.clone(), || code(state, args)),
                    None => Ended::Failed(self.ended()),
                },
                Code::MethodRef(code) => match &*self.state.read() {
                    Some(state) => self.worker.run_values(function, self.label.clone(), || code(&**state, args)),
                    None => Ended::Failed(self.ended()),
                },
                Code::StreamMut(code) => match self.state.write().as_mut().and_then(Arc::get_mut) {
                    Some(state) => {
                        let (label, cell) = (self.label.clone(), Some(self.clone()));
                        let code = |outlet: &mut Outlet| code(state, args, outlet);
                        self.worker.run_stream(function, label, client, &spec, cell, code)
                    }
                    None => Ended::Failed(self.ended()),
                },
                Code::StreamRef(code) => match &*self.state.read() {
                    Some(state) => {
                        let (label, cell) = (self.label.clone(), Some(self.clone()));
                        let code = |outlet: &mut Outlet| code(&**state, args, outlet);
                        self.worker.run_stream(function, label, client, &spec, cell, code)
                    }
                    None => Ended::Failed(self.ended()),
                },
                Code::AsyncRef(_) | Code::AsyncMut(_) => {
                    let runtime = match current::user_runtime() {
                        Ok(runtime) => runtime,
                        Err(error) => {
                            self.conclude(client, spec, Ended::Failed(error), start, Vec::new());
                            return Over::Ended(turn);
                        }
                    };
                    let call = AsyncCall { cell: self.clone(), function, client, spec, args, turn, start, run };
                    runtime.spawn(call.drive());
                    return Over::HandedOn;
                }
                Code::Terminate => {
                    self.stop("it was terminated, after the calls before", End::Exited);
                    Ended::Returned(vec![Value::unit()])
                }
                _ => Ended::Failed(wrong_kind(function, "a method")),
            },
        };
        self.conclude(client, spec, ended, start, scope.still_held());
        Over::Ended(turn)
    }

    /// Tells how a call has ended, and which references it keeps; a panic ends the actor.
    pub(super) fn conclude(
        self: &Arc<Self>,
        client: Address,
        spec: TaskSpec,
        ended: Ended,
        start: Instant,
        kept: Vec<ObjectHandle>,
    ) {
        if let Ended::Panicked(error) = &ended {
            // Its state may be half changed: nobody may see it again.
            self.stop(&error.to_string(), End::Failed);
        }
        self.worker.tell_end(client, spec, ended, start, kept);
    }

    /// What its threads know of it.
    pub(super) fn running(self: &Arc<Self>) -> RunningActor {
        RunningActor { spec: self.spec.clone(), cell: Some(self.clone()) }
    }

    pub(super) fn worker(&self) -> &Arc<WorkerShared> {
        &self.worker
    }

    pub(super) fn gpus(&self) -> &Option<Ids> {
        &self.gpus
    }

    pub(super) fn label(&self) -> Label {
        self.label.clone()
    }

    /// The state, for a future that shares it.
    pub(super) fn share(&self) -> Option<State> {
        self.state.read().clone()
    }

    /// The state, for a future that has it alone and then [gives it back](Self::give_back).
    pub(super) fn take(&self) -> Option<State> {
        self.state.write().take()
    }

    pub(super) fn give_back(&self, state: State) {
        *self.state.write() = Some(state);
    }
}

/// What lies behind a thread that asks for its next call.
enum Over {
    /// It has just come.
    Came,
    /// It has run this one to its end.
    Ended(Turn),
    /// It has handed one on, which keeps its turn.
    HandedOn,
}

/// The calls that name no group.
const DEFAULT_GROUP: usize = 0;

/// A panic in the user's `Drop` must not take the slot thread with it.
pub(super) fn drop_state<T>(actor: ActorId, state: T) {
    let _accused = accuse(Culprit::Actor);
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(state))).is_err() {
        tracing::warn!(%actor, "the actor panicked while it was dropped");
    }
}

impl Inner {
    /// Nothing runs any more, and that has not been told.
    fn is_over(&self) -> bool {
        self.ended.is_some() && !self.told && self.turns.is_idle()
    }
}

impl Runnable for ActorCell {
    fn run(self: Arc<Self>) {
        let start = Instant::now();
        let before = current::begin(Running {
            slots: Some(self.worker.slots.clone()),
            node: self.worker.node_name.clone(),
            lease: None,
            actor: Some(self.running()),
            attempt: None,
        });
        let mut over = Over::Came;
        while let Some((call, turn)) = self.next(over) {
            over = self.run_call(call, turn);
            if self.worker.slots.has_queued() && start.elapsed() > TURN {
                // Others have their turn; this actor comes back for the rest.
                if let Over::Ended(turn) = over {
                    self.end(turn);
                }
                break;
            }
        }
        drop(current::end(before));
    }
}
