//! Actors: making, finding and ending them, and the counted [`ActorHandle`].

use std::sync::{Arc, Weak};

use mobula_transport::{MailboxId, Payload};
use smallvec::SmallVec;

use super::actor_queue::ActorQueue;
use super::entry::{Entry, Outcome};
use super::options::{kind_for, within};
use super::{ActorOptions, Arg, Client, GCS_DEADLINE, ObjectHandle};
use crate::delivery::insist;
use crate::error::Error;
use crate::ids::{ActorId, FunctionId};
use crate::messages::{ActorLocation, ActorSpec, ArgSpec, CallRules, CreateActor, FindActor, KillActor};
use crate::registry::{Code, RemoteFunction};

/// The method that every actor has.
const TERMINATE_NAME: &str = "mobula-core::terminate";
static TERMINATE: RemoteFunction =
    RemoteFunction { name: TERMINATE_NAME, signature: "", group: "", code: Code::Terminate };

inventory::submit! {
    RemoteFunction { name: TERMINATE_NAME, signature: "", group: "", code: Code::Terminate }
}

/// A counted reference to an actor. When the last handle of the process that made the actor is
/// dropped, the actor ends after its pending calls, unless it is detached or a handle was sent
/// elsewhere.
#[derive(Clone)]
pub struct ActorHandle(pub(crate) Arc<ActorQueue>);

impl std::fmt::Debug for ActorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ActorHandle({} {})", self.0.class(), self.0.actor())
    }
}

impl ActorHandle {
    /// The actor's id.
    pub fn id(&self) -> ActorId {
        self.0.actor()
    }

    /// The name of the actor's type.
    pub fn class(&self) -> &str {
        self.0.class()
    }

    /// How its calls are treated, which goes along with its id.
    pub fn rules(&self) -> CallRules {
        self.0.rules()
    }

    /// The client of the session that the handle belongs to.
    pub fn client(&self) -> &Client {
        self.0.client()
    }

    /// The id to be sent elsewhere. From now on the actor stays until its job ends or it is killed.
    pub fn export(&self) -> ActorId {
        self.0.keep();
        self.0.actor()
    }
}

/// What an actor is made from: held, so that the objects and the references in it live.
pub(super) struct Constructor {
    _args: SmallVec<[Arg; 2]>,
    /// Whether it may be made again.
    again: bool,
}

impl Client {
    /// Makes an actor; its handle is there at once. A constructor's error surfaces on the calls.
    pub fn create_actor(
        &self,
        constructor: &'static RemoteFunction,
        class: &str,
        args: SmallVec<[Arg; 2]>,
        options: ActorOptions,
    ) -> ActorHandle {
        let actor = ActorId::random();
        let queue = ActorQueue::new(actor, class.to_owned(), options.rules, self, !options.detached);
        self.0.actors.lock().insert(actor, Arc::downgrade(&queue));
        let args = self.store_large(args);
        let constructor_args = Constructor { _args: args.clone(), again: options.max_restarts != 0 };
        self.0.constructors.lock().insert(actor, constructor_args);
        let dependencies = self.unsettled(&args);
        let (started, class) = (queue.clone(), class.to_owned());
        self.wait_for(dependencies, move |client| {
            client.register_actor(&started, constructor, class, &args, options);
        });
        ActorHandle(queue)
    }

    fn register_actor(
        &self,
        queue: &Arc<ActorQueue>,
        constructor: &'static RemoteFunction,
        class: String,
        args: &[Arg],
        options: ActorOptions,
    ) {
        if let Some(Err(error)) = options.group.as_ref().map(|group| group.check(&options.placement_demand)) {
            return queue.located(ActorLocation::Dead(Box::new(error)));
        }
        let mut payload = Payload::new();
        let mut specs = SmallVec::new();
        for arg in args {
            let outcome = match arg {
                Arg::Value(value) => Some(Outcome::Inline(value.clone())),
                Arg::Object(handle) => handle.0.outcome(),
            };
            match outcome {
                Some(Outcome::Inline(value)) => {
                    payload.push(value.data);
                    specs.push(ArgSpec::Inline(value.encoding));
                }
                Some(Outcome::Stored(stored)) => specs.push(ArgSpec::Stored(*stored)),
                Some(Outcome::Failed(error)) => {
                    queue.located(ActorLocation::Dead(error));
                    return;
                }
                // `wait_for` calls only when every argument has settled.
                None => return,
            }
        }
        let spec = ActorSpec {
            actor: queue.actor(),
            job: self.job(),
            owner: self.address(),
            class,
            constructor: FunctionId::of(constructor.name),
            args: specs,
            name: options.name,
            namespace: options.namespace.unwrap_or_else(|| self.0.namespace.clone()),
            demand: within(options.group.as_ref(), &options.demand),
            placement_demand: within(options.group.as_ref(), &options.placement_demand),
            strategy: options.strategy,
            kind: kind_for(options.kind, &options.demand),
            max_concurrency: options.max_concurrency.max(1),
            concurrency_groups: options.concurrency_groups,
            max_restarts: options.max_restarts,
            detached: options.detached,
            rules: options.rules,
        };
        self.ask_to_create(queue.clone(), spec, payload);
    }

    /// Asks the GCS to make an actor, until it has answered. It knows an actor by its id, so
    /// asking twice makes one.
    fn ask_to_create(&self, queue: Arc<ActorQueue>, spec: ActorSpec, payload: Payload) {
        let client = self.clone();
        let question = CreateActor { spec: spec.clone() };
        let parts = payload.clone();
        self.0.endpoint.request_with(self.0.gcs, question, parts, GCS_DEADLINE, move |answer| match answer {
            Ok((Ok(()), _)) => queue.resolve(),
            Ok((Err(error), _)) => queue.located(ActorLocation::Dead(Box::new(error))),
            Err(error) if error.is_retriable() && client.is_open() => {
                tracing::debug!(actor = %spec.actor, %error, "asking the GCS again to make the actor");
                client.clone().again_soon(move || client.ask_to_create(queue, spec, payload));
            }
            Err(error) => {
                // It may have been made all the same, and nobody would ever call it.
                let why = format!("its maker did not hear that it was made: {error}");
                let kill = KillActor { actor: spec.actor, no_restart: true, why };
                insist(client.endpoint(), MailboxId::CLIENT, client.gcs(), kill);
                queue.located(ActorLocation::Dead(Box::new(error.into())));
            }
        });
    }

    /// An actor was made: unless it may be made again, what its constructor was given is needed no
    /// more.
    pub(crate) fn constructed(&self, actor: ActorId) {
        if self.0.constructors.lock().get(&actor).is_some_and(|constructor| !constructor.again) {
            self.forget_constructor(actor);
        }
    }

    /// An actor will not be made again.
    pub(crate) fn forget_constructor(&self, actor: ActorId) {
        let constructor = self.0.constructors.lock().remove(&actor);
        drop(constructor);
    }

    /// The last handle of an actor is gone.
    pub(crate) fn forget_actor(&self, actor: ActorId) {
        let mut actors = self.0.actors.lock();
        if actors.get(&actor).is_some_and(|queue| queue.strong_count() == 0) {
            actors.remove(&actor);
        }
    }

    /// Resolves to unit when the actor's constructor has returned, or to its error.
    pub fn ready(&self, actor: &ActorHandle) -> ObjectHandle {
        let entry = Entry::new(self.next_object(), self);
        actor.0.notify_ready(entry.clone());
        ObjectHandle(entry)
    }

    /// The living actor of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchActor`], or the failure to reach the GCS.
    pub fn find_actor(&self, name: &str, namespace: Option<&str>) -> Result<ActorHandle, Error> {
        let namespace = namespace.unwrap_or(&self.0.namespace).to_owned();
        let question = FindActor { name: name.to_owned(), namespace };
        match self.ask_gcs_blocking(question)? {
            Some(found) => Ok(self.actor(found.actor, &found.class, found.rules)),
            None => Err(Error::NoSuchActor { name: name.to_owned() }),
        }
    }

    /// A handle to an actor of which only the id is known (a named one, or one sent as a value).
    pub fn actor(&self, actor: ActorId, class: &str, rules: CallRules) -> ActorHandle {
        let mut actors = self.0.actors.lock();
        if let Some(queue) = actors.get(&actor).and_then(Weak::upgrade) {
            return ActorHandle(queue);
        }
        let queue = ActorQueue::new(actor, class.to_owned(), rules, self, false);
        actors.insert(actor, Arc::downgrade(&queue));
        drop(actors);
        queue.resolve();
        ActorHandle(queue)
    }

    /// Ends an actor after the calls that were made before, as far as this process has made them or
    /// they have arrived. Resolves to unit when they have ended. It is not made again.
    pub fn terminate(&self, actor: &ActorHandle) -> ObjectHandle {
        let mut ended = self.call(actor, &TERMINATE, SmallVec::new(), 1);
        // One was asked for.
        ended.pop().unwrap_or_else(|| self.ready(actor))
    }

    /// Ends an actor. Calls that wait fail; a call that runs ends first.
    ///
    /// # Errors
    /// The failure to reach the GCS.
    pub fn kill(&self, actor: &ActorHandle, no_restart: bool) -> Result<(), Error> {
        let why = "it was killed by a call of kill".to_owned();
        let kill = KillActor { actor: actor.id(), no_restart, why };
        // A restart more than once costs one each.
        if no_restart { self.ask_gcs_blocking(kill)? } else { self.ask_gcs_once(kill, GCS_DEADLINE)? }
    }
}
