//! A user's actor in its worker: a mailbox, the state, and whose turn it is.

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_transport::{Address, MailboxId};
use parking_lot::{Mutex, RwLock};

use super::WorkerShared;
use super::call::{Call, Ended, wrong_kind};
use super::current::{self, Running};
use super::gpus::{self, Ids};
use super::output::Label;
use super::slots::Runnable;
use crate::client::AttemptScope;
use crate::culprit::{Culprit, accuse};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::ActorId;
use crate::messages::{ActorExited, TaskInfo};
use crate::registry::{Code, Instance};

/// An actor with work gives its thread to others after this long, if others wait.
const TURN: Duration = Duration::from_millis(5);

/// A call in the mailbox. Its place in the order is taken when it arrives, its arguments may
/// follow.
// Nearly every slot is ready when it is made: boxing the calls would cost each of them memory.
#[allow(clippy::large_enum_variant)]
enum Slot {
    Waiting,
    Ready(Call),
    /// Its call failed before it could run.
    Empty,
}

struct Inner {
    calls: VecDeque<Slot>,
    /// The number of the first slot; those behind it count on.
    first_slot: u64,
    /// Threads that run its calls, or are scheduled to.
    active: u32,
    /// Why it has ended, if it has.
    ended: Option<String>,
    /// Its end has been told to the GCS.
    told: bool,
    failed: bool,
}

/// A user's actor.
pub(super) struct ActorCell {
    pub(super) actor: ActorId,
    pub(super) incarnation: u32,
    max_concurrency: u32,
    label: Label,
    gpus: Option<Ids>,
    worker: Arc<WorkerShared>,
    state: RwLock<Option<Instance>>,
    inner: Mutex<Inner>,
}

impl ActorCell {
    pub(super) fn new(
        actor: ActorId,
        incarnation: u32,
        max_concurrency: u32,
        label: Label,
        gpus: Option<Ids>,
        instance: Instance,
        worker: Arc<WorkerShared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            actor,
            incarnation,
            max_concurrency: max_concurrency.max(1),
            label,
            gpus,
            worker,
            state: RwLock::new(Some(instance)),
            inner: Mutex::new(Inner {
                calls: VecDeque::new(),
                first_slot: 0,
                active: 0,
                ended: None,
                told: false,
                failed: false,
            }),
        })
    }

    /// Adds a call whose arguments are here; a dead actor's call is answered at once.
    pub(super) fn push(self: &Arc<Self>, call: Call) {
        let mut inner = self.inner.lock();
        if let Some(why) = &inner.ended {
            let error = self.died(why);
            drop(inner);
            self.worker.tell(call.client, call.spec, Ended::Failed(error), Instant::now());
            return;
        }
        inner.calls.push_back(Slot::Ready(call));
        self.activate(&mut inner);
    }

    /// Takes a place in the order for a call whose arguments are on their way.
    pub(super) fn reserve(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.calls.push_back(Slot::Waiting);
        inner.first_slot + inner.calls.len() as u64 - 1
    }

    /// The call for a reserved place; `None` if it failed before it could run.
    pub(super) fn fill(self: &Arc<Self>, slot: u64, call: Option<Call>) {
        let mut inner = self.inner.lock();
        if let Some(why) = &inner.ended {
            let error = self.died(why);
            drop(inner);
            if let Some(call) = call {
                self.worker.tell(call.client, call.spec, Ended::Failed(error), Instant::now());
            }
            return;
        }
        // Nothing passes a slot that waits, so it is still there.
        let position = (slot - inner.first_slot) as usize;
        inner.calls[position] = call.map_or(Slot::Empty, Slot::Ready);
        inner.skip_empty();
        self.activate(&mut inner);
    }

    /// The attempts of this owner that wait.
    pub(super) fn waiting(&self, owner: Address, out: &mut HashSet<(u64, u32)>) {
        for slot in &self.inner.lock().calls {
            if let Slot::Ready(call) = slot
                && call.client == owner
            {
                out.insert((call.spec.seq, call.spec.attempt));
            }
        }
    }

    /// Ends the actor: what waits fails, what runs ends first, then the state is dropped.
    pub(super) fn stop(self: &Arc<Self>, why: &str, failed: bool) {
        let mut inner = self.inner.lock();
        if inner.ended.is_some() {
            return;
        }
        inner.ended = Some(why.to_owned());
        inner.failed = failed;
        let calls = std::mem::take(&mut inner.calls);
        // Somebody has to drop the state, on a thread for user code.
        if inner.active == 0 {
            inner.active = 1;
            self.worker.slots.schedule(self.clone());
        }
        drop(inner);
        for call in calls {
            if let Slot::Ready(call) = call {
                self.worker.tell(call.client, call.spec, Ended::Failed(self.died(why)), Instant::now());
            }
        }
    }

    pub(super) fn describe(&self, out: &mut Vec<TaskInfo>) {
        for slot in &self.inner.lock().calls {
            if let Slot::Ready(call) = slot {
                out.push(self.worker.describe(call, "QUEUED", 0));
            }
        }
    }

    fn died(&self, why: &str) -> Error {
        Error::ActorDied { actor: self.actor, why: why.to_owned() }
    }

    fn activate(self: &Arc<Self>, inner: &mut Inner) {
        if inner.active < self.max_concurrency && matches!(inner.calls.front(), Some(Slot::Ready(_))) {
            inner.active += 1;
            self.worker.slots.schedule(self.clone());
        }
    }

    fn next(self: &Arc<Self>) -> Option<Call> {
        let mut inner = self.inner.lock();
        match inner.calls.front() {
            Some(Slot::Ready(_)) => match inner.pop() {
                Some(Slot::Ready(call)) => {
                    // With room for more at once, the next call gets a thread of its own.
                    self.activate(&mut inner);
                    Some(call)
                }
                _ => None,
            },
            _ => {
                inner.active -= 1;
                if inner.active == 0 && inner.ended.is_some() && !inner.told {
                    inner.told = true;
                    drop(inner);
                    self.finish();
                }
                None
            }
        }
    }

    /// Drops the state and tells the GCS.
    fn finish(&self) {
        let instance = self.state.write().take();
        drop_state(self.actor, instance);
        self.worker.forget_actor(self.actor, self.incarnation);
        let inner = self.inner.lock();
        let exited = ActorExited {
            actor: self.actor,
            incarnation: self.incarnation,
            why: inner.ended.clone().unwrap_or_default(),
            failed: inner.failed,
        };
        drop(inner);
        // The head may be away, and nobody else can tell it.
        insist(&self.worker.endpoint, MailboxId::WORKER, self.worker.gcs, exited);
    }

    fn run_call(self: &Arc<Self>, call: Call) {
        let Call { client, spec, args } = call;
        let start = Instant::now();
        self.worker.begin(client, &spec, start);
        let _accused = accuse(Culprit::Actor);
        let scope = AttemptScope::begin();
        let _holding = gpus::hold(&self.gpus);
        let ended = match self.worker.wanted(client, &spec) {
            Err(error) => Ended::Failed(error),
            Ok(function) => match function.code {
                Code::MethodMut(code) => match &mut *self.state.write() {
                    Some(instance) => {
                        self.worker.run_values(function, self.label.clone(), || code(&mut **instance, args))
                    }
                    None => Ended::Failed(self.died("it has ended")),
                },
                Code::MethodRef(code) => match &*self.state.read() {
                    Some(instance) => {
                        let instance: &(dyn Any + Send + Sync) = &**instance;
                        self.worker.run_values(function, self.label.clone(), || code(instance, args))
                    }
                    None => Ended::Failed(self.died("it has ended")),
                },
                _ => Ended::Failed(wrong_kind(function, "a method")),
            },
        };
        if let Ended::Panicked(error) = &ended {
            // Its state may be half changed: nobody may see it again.
            self.stop(&error.to_string(), true);
        }
        self.worker.tell_end(client, spec, ended, start, scope.still_held());
    }
}

/// A panic in the user's `Drop` must not take the slot thread with it.
pub(super) fn drop_state<T>(actor: ActorId, state: T) {
    let _accused = accuse(Culprit::Actor);
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(state))).is_err() {
        tracing::warn!(%actor, "the actor panicked while it was dropped");
    }
}

impl Inner {
    fn pop(&mut self) -> Option<Slot> {
        let slot = self.calls.pop_front()?;
        self.first_slot += 1;
        self.skip_empty();
        Some(slot)
    }

    /// The front is never empty.
    fn skip_empty(&mut self) {
        while self.calls.pop_front_if(|slot| matches!(slot, Slot::Empty)).is_some() {
            self.first_slot += 1;
        }
    }
}

impl Runnable for ActorCell {
    fn run(self: Arc<Self>) {
        let start = Instant::now();
        while let Some(call) = self.next() {
            let before = current::begin(Running {
                slots: self.worker.slots.clone(),
                node: self.worker.node_name.clone(),
                lease: None,
                attempt: None,
            });
            self.run_call(call);
            current::end(before);
            if self.worker.slots.has_queued() && start.elapsed() > TURN {
                // Still active: the turn is passed on, not given up.
                self.worker.slots.schedule(self.clone());
                return;
            }
        }
    }
}
