//! Handles to actors.

use std::fmt;
use std::sync::Arc;

use mobula_core::client::ActorHandle;
use mobula_core::error::Error;
use mobula_core::ids::ActorId;
use mobula_core::messages::CallRules;
use mobula_core::worker;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::object::{ObjectRef, current, unshared};

/// A type made an actor by `#[remote]` on its `impl` block.
pub trait RemoteClass {
    /// Its handle, `CounterHandle` for `Counter`.
    type Handle: RemoteHandle;
    /// Its name in the registry.
    const NAME: &'static str;
}

/// What every actor's handle is.
pub trait RemoteHandle: Sized {
    #[doc(hidden)]
    fn from_actor(actor: ActorRef) -> Self;

    /// The handle without the methods.
    fn actor(&self) -> &ActorRef;

    /// Resolves when the constructor has returned, or to its error. Also as `ready()` of the
    /// handle itself.
    fn actor_ready(&self) -> ObjectRef<()> {
        match self.actor().handle() {
            Ok(actor) => ObjectRef::new(actor.client().ready(actor)),
            Err(error) => ObjectRef::failed(error),
        }
    }
}

/// A handle to an actor of any type.
#[derive(Clone)]
pub struct ActorRef(Result<ActorHandle, Arc<Error>>);

impl ActorRef {
    pub(crate) fn new(handle: ActorHandle) -> Self {
        Self(Ok(handle))
    }

    pub(crate) fn failed(error: Arc<Error>) -> Self {
        Self(Err(error))
    }

    /// The actor's id; `None` when the call that should have made it could not be made.
    pub fn id(&self) -> Option<ActorId> {
        self.0.as_ref().ok().map(ActorHandle::id)
    }

    pub(crate) fn handle(&self) -> Result<&ActorHandle, Arc<Error>> {
        self.0.as_ref().map_err(Arc::clone)
    }
}

impl fmt::Debug for ActorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(actor) => fmt::Debug::fmt(&actor.id(), f),
            Err(error) => write!(f, "ActorRef(failed: {error})"),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Wire {
    Live { actor: ActorId, class: String, rules: CallRules },
    Failed(Error),
}

impl Serialize for ActorRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(actor) => {
                let (class, rules) = (actor.class().to_owned(), actor.rules());
                Wire::Live { actor: actor.export(), class, rules }.serialize(serializer)
            }
            Err(error) => Wire::Failed(Error::clone(error)).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ActorRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::Failed(error) => Ok(Self::failed(Arc::new(error))),
            Wire::Live { actor, class, rules } => {
                let client = current().map_err(D::Error::custom)?;
                Ok(Self::new(client.actor(actor, &class, rules)))
            }
        }
    }
}

/// The living actor of this name in the session's namespace: `get_actor::<Counter>("hits")`.
///
/// # Errors
/// [`Error::NoSuchActor`], or [`Error::Invalid`] when the actor is of another type.
pub fn get_actor<C: RemoteClass>(name: &str) -> Result<C::Handle, Error> {
    find_actor::<C>(name, None)
}

/// [`get_actor`] in another namespace.
///
/// # Errors
/// As [`get_actor`].
pub fn get_actor_in<C: RemoteClass>(name: &str, namespace: &str) -> Result<C::Handle, Error> {
    find_actor::<C>(name, Some(namespace))
}

fn find_actor<C: RemoteClass>(name: &str, namespace: Option<&str>) -> Result<C::Handle, Error> {
    let actor = current()?.find_actor(name, namespace)?;
    let actor = check_class(actor, name, C::NAME)?;
    Ok(C::Handle::from_actor(ActorRef::new(actor)))
}

/// The actor, if it is of this type.
pub(crate) fn check_class(actor: ActorHandle, name: &str, class: &str) -> Result<ActorHandle, Error> {
    if actor.class() == class {
        return Ok(actor);
    }
    let what = format!("the actor named {name:?} is a {}, not a {class}", actor.class());
    Err(Error::Invalid { what })
}

/// Ends an actor for good and at once, whatever its restart policy. Its waiting calls fail. Async
/// methods are dropped where they wait; code that runs is not interrupted in a worker that it
/// shares, but its result is lost. With a process worker, the process is ended.
///
/// Three ways to end an actor:
///
/// | | who | calls that were made before | calls made after |
/// |---|---|---|---|
/// | [`kill`] | anyone | fail, unless they have ended | fail |
/// | [`terminate`] | anyone | end first | fail |
/// | [`exit_actor`](crate::exit_actor) | its own methods | those that have begun end first, the others fail | fail |
///
/// None of them is a failure: the actor is not made again. One whose handles are all gone ends like
/// a killed one, after the calls that were made through them.
///
/// # Errors
/// When the cluster cannot be reached. To kill a dead actor does nothing.
pub fn kill<H: RemoteHandle>(actor: &H) -> Result<(), Error> {
    let actor = actor.actor().handle().map_err(unshared)?;
    actor.client().kill(actor, true)
}

/// Ends an actor for good after the calls that this program has made before, and those of others
/// that have arrived. The reference resolves when they have ended.
///
/// ```
/// # use mobula::{Config, Error, remote};
/// # struct Log(u32);
/// # #[remote]
/// # impl Log {
/// #     fn new() -> Self { Self(0) }
/// #     fn add(&mut self) -> u32 { self.0 += 1; self.0 }
/// # }
/// # #[mobula::main]
/// # fn main() -> Result<(), Error> {
/// # mobula::init(Config::default())?;
/// let log = Log::remote();
/// let last = log.add().remote();
/// mobula::get(mobula::terminate(&log))?;
/// assert_eq!(mobula::get(last)?, 1);
/// assert!(matches!(mobula::get(log.add().remote()), Err(Error::ActorDied { .. })));
/// # Ok(())
/// # }
/// ```
pub fn terminate<H: RemoteHandle>(actor: &H) -> ObjectRef<()> {
    match actor.actor().handle() {
        Ok(actor) => ObjectRef::new(actor.client().terminate(actor)),
        Err(error) => ObjectRef::failed(error),
    }
}

/// The handle of the actor whose constructor or method this is: to pass on, or to be called back.
/// As long as an actor keeps one, it does not end by itself.
///
/// # Errors
/// [`Error::Invalid`] outside of an actor, or when it is of another type.
pub fn current_actor<C: RemoteClass>() -> Result<C::Handle, Error> {
    let Some((id, class, rules)) = worker::current_actor() else {
        return Err(Error::Invalid { what: "current_actor is for constructors and methods of actors".to_owned() });
    };
    if class != C::NAME {
        return Err(Error::Invalid { what: format!("this actor is a {class}, not a {}", C::NAME) });
    }
    Ok(C::Handle::from_actor(ActorRef::new(current()?.actor(id, &class, rules))))
}

/// Ends this life of an actor as if its worker had died: its restart policy applies.
///
/// # Errors
/// As [`kill`].
pub fn kill_and_restart<H: RemoteHandle>(actor: &H) -> Result<(), Error> {
    let actor = actor.actor().handle().map_err(unshared)?;
    actor.client().kill(actor, false)
}
