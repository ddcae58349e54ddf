//! Calls: from typed arguments to a submission, from its handles to typed references.
//!
//! The shape of a call is written as a function type whose parameters are the values and whose
//! result is what `.remote(..)` returns: `fn(i64, f64) -> ObjectRef<f64>`. Everything that
//! depends on the number of parameters is written out here, once, by a macro.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_core::client::{self, ActorHandle, Arg, Client, ObjectHandle, RetryExceptions};
use mobula_core::error::Error;
use mobula_core::registry::RemoteFunction;
use smallvec::SmallVec;

use crate::actor::{ActorRef, RemoteClass, RemoteHandle, check_class};
use crate::argument::{Argument, IntoArg};
use crate::object::{ObjectRef, current};
use crate::options::{ActorOptions, TaskOptions};
use crate::stream::ObjectRefStream;
use crate::value::Value;

/// What `.remote(..)` returns: an [`ObjectRef`], a tuple of them (`num_returns`), or an
/// [`ObjectRefStream`].
pub trait Results: sealed::Sealed + Sized {
    #[doc(hidden)]
    const COUNT: u32;
    #[doc(hidden)]
    fn submit(
        client: &Client,
        function: &'static RemoteFunction,
        args: Args,
        options: &Arc<client::TaskOptions>,
    ) -> Result<Self, Error>;
    #[doc(hidden)]
    fn call(
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        args: Args,
        options: Option<Arc<client::CallOptions>>,
    ) -> Result<Self, Error>;
    #[doc(hidden)]
    fn failed(error: Arc<Error>) -> Self;
}

/// Results that come one after the other.
pub trait Streams: Results {}

impl<T: Value> Streams for ObjectRefStream<T> {}

impl<T: Value> sealed::Sealed for ObjectRefStream<T> {}

impl<T: Value> Results for ObjectRefStream<T> {
    const COUNT: u32 = 1;

    fn submit(
        client: &Client,
        function: &'static RemoteFunction,
        args: Args,
        options: &Arc<client::TaskOptions>,
    ) -> Result<Self, Error> {
        client.submit_stream(function, args, options).map(Self::new)
    }

    fn call(
        actor: &ActorHandle,
        method: &'static RemoteFunction,
        args: Args,
        options: Option<Arc<client::CallOptions>>,
    ) -> Result<Self, Error> {
        actor.client().call_stream(actor, method, args, options).map(Self::new)
    }

    fn failed(error: Arc<Error>) -> Self {
        Self::failed(error)
    }
}

/// The shape of a task or method: `fn(A, B) -> ObjectRef<R>`.
pub trait Signature {
    /// What a call of it returns.
    type Results: Results;
}

type Args = SmallVec<[Arg; 2]>;

mod sealed {
    #[doc(hidden)]
    pub trait Sealed {}
}

impl<T: Value> sealed::Sealed for ObjectRef<T> {}

/// How references are made of the handles of a call's results.
macro_rules! from_handles {
    ($handles:ident => $references:expr) => {
        fn submit(
            client: &Client,
            function: &'static RemoteFunction,
            args: Args,
            options: &Arc<client::TaskOptions>,
        ) -> Result<Self, Error> {
            let $handles = client.submit(function, args, options);
            Ok($references)
        }

        fn call(
            actor: &ActorHandle,
            method: &'static RemoteFunction,
            args: Args,
            options: Option<Arc<client::CallOptions>>,
        ) -> Result<Self, Error> {
            let $handles = actor.client().call_with(actor, method, args, Self::COUNT, options);
            Ok($references)
        }
    };
}

impl<T: Value> Results for ObjectRef<T> {
    const COUNT: u32 = 1;

    from_handles!(handles => next(&mut handles.into_iter()));

    fn failed(error: Arc<Error>) -> Self {
        Self::failed(error)
    }
}

fn next<T>(handles: &mut impl Iterator<Item = ObjectHandle>) -> ObjectRef<T> {
    match handles.next() {
        Some(handle) => ObjectRef::new(handle),
        None => ObjectRef::failed(Arc::new(Error::System {
            what: "a call".to_owned(),
            why: "the session made fewer objects than the function returns".to_owned(),
        })),
    }
}

macro_rules! tuple {
    ($count:literal: $($name:ident)*) => {
        impl<$($name: Value),*> sealed::Sealed for ($(ObjectRef<$name>,)*) {}

        impl<$($name: Value),*> Results for ($(ObjectRef<$name>,)*) {
            const COUNT: u32 = $count;

            from_handles!(handles => {
                let mut handles = handles.into_iter();
                ($(next::<$name>(&mut handles),)*)
            });

            fn failed(error: Arc<Error>) -> Self {
                ($(ObjectRef::<$name>::failed(Arc::clone(&error)),)*)
            }
        }
    };
}

tuple!(2: A B);
tuple!(3: A B C);
tuple!(4: A B C D);
tuple!(5: A B C D E);
tuple!(6: A B C D E F);
tuple!(7: A B C D E F G);
tuple!(8: A B C D E F G H);

/// A method of an actor, to be called: `handle.increment().remote(..)`.
#[must_use = "`.remote(..)` makes the call"]
pub struct Method<'a, F> {
    actor: &'a ActorRef,
    function: &'static RemoteFunction,
    /// None where the actor's rules hold.
    options: Option<Arc<client::CallOptions>>,
    signature: PhantomData<fn() -> F>,
}

impl<'a, F: Signature> Method<'a, F> {
    #[doc(hidden)]
    pub fn new(actor: &'a ActorRef, function: &'static RemoteFunction) -> Self {
        Self { actor, function, options: None, signature: PhantomData }
    }
}

impl<F: Signature> Method<'_, F>
where
    F::Results: Streams,
{
    /// How many values it may have yielded that were not consumed, as
    /// [`TaskOptions::backpressure_num_objects`].
    pub fn backpressure_num_objects(self, objects: u32) -> Self {
        self.set(|options| options.backpressure_num_objects = Some(objects))
    }
}

impl<F> Method<'_, F> {
    /// How often the call is made again when it was lost with its actor's worker: instead of what
    /// [`ActorOptions::max_task_retries`] says for all calls of the actor. -1 is without end.
    ///
    /// A method has its own default with `#[remote(max_task_retries = 3)]` on it.
    pub fn max_task_retries(self, retries: i32) -> Self {
        self.set(|options| options.max_task_retries = Some(retries))
    }

    /// Whether the call is made again when its own code returns an error or panics, as often as
    /// its `max_task_retries` allow; the last error is the result. A panic ends the actor, so that
    /// only one with `max_restarts` can answer the next time.
    ///
    /// A method has its own default with `#[remote(retry_exceptions = true)]` on it.
    pub fn retry_exceptions(self, retry: bool) -> Self {
        let which = if retry { RetryExceptions::Always } else { RetryExceptions::Never };
        self.set(|options| options.retry_exceptions = which)
    }

    /// [`retry_exceptions`](Self::retry_exceptions) for errors of some types only, as
    /// [`TaskOptions::retry_exceptions_if`].
    pub fn retry_exceptions_if(self, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.set(|options| options.retry_exceptions = RetryExceptions::If(Arc::new(accepts)))
    }

    /// What is called, and how.
    pub(crate) fn into_parts(self) -> (ActorRef, &'static RemoteFunction, Option<Arc<client::CallOptions>>) {
        (self.actor.clone(), self.function, self.options)
    }

    fn set(mut self, set: impl FnOnce(&mut client::CallOptions)) -> Self {
        set(Arc::make_mut(self.options.get_or_insert_default()));
        self
    }
}

impl<F> fmt::Debug for Method<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({} of {:?})", self.function.name, self.actor)
    }
}

/// Everything that depends on the number of parameters.
macro_rules! arities {
    ($([$($name:ident: $argument:ident)*])*) => {$(
        impl<R: Results $(, $name)*> Signature for fn($($name),*) -> R {
            type Results = R;
        }

        impl<R: Results $(, $name)*> TaskOptions<fn($($name),*) -> R> {
            /// Submits the task and returns at once.
            #[allow(clippy::too_many_arguments)]
            pub fn remote(&self $(, $argument: impl IntoArg<$name>)*) -> R {
                submit(self.function, &self.options, [$($argument.into_argument()),*])
            }
        }

        impl<R: Results $(, $name)*> Method<'_, fn($($name),*) -> R> {
            /// Makes the call and returns at once. Calls from one caller arrive in the order in
            /// which they were made.
            #[allow(clippy::too_many_arguments)]
            pub fn remote(self $(, $argument: impl IntoArg<$name>)*) -> R {
                call(self.actor, self.function, self.options, [$($argument.into_argument()),*])
            }
        }

        impl<Class: RemoteClass $(, $name)*> ActorOptions<Class, fn($($name),*)> {
            /// Makes the actor and returns its handle at once.
            #[allow(clippy::too_many_arguments)]
            pub fn remote(&self $(, $argument: impl IntoArg<$name>)*) -> Class::Handle {
                create(self.constructor, &self.options, Class::NAME, [$($argument.into_argument()),*])
            }
        }
    )*};
}

arities! {
    []
    [A: a]
    [A: a B: b]
    [A: a B: b C: c]
    [A: a B: b C: c D: d]
    [A: a B: b C: c D: d E: e]
    [A: a B: b C: c D: d E: e F: f]
    [A: a B: b C: c D: d E: e F: f G: g]
    [A: a B: b C: c D: d E: e F: f G: g H: h]
    [A: a B: b C: c D: d E: e F: f G: g H: h I: i]
    [A: a B: b C: c D: d E: e F: f G: g H: h I: i J: j]
    [A: a B: b C: c D: d E: e F: f G: g H: h I: i J: j K: k]
    [A: a B: b C: c D: d E: e F: f G: g H: h I: i J: j K: k L: l]
}

fn submit<R: Results, const LEN: usize>(
    function: &'static RemoteFunction,
    options: &Result<Arc<client::TaskOptions>, Arc<Error>>,
    arguments: [Argument; LEN],
) -> R {
    let submit = || {
        let options = options.as_ref().map_err(Arc::clone)?;
        let arguments = collect(arguments)?;
        R::submit(&current().map_err(Arc::new)?, function, arguments, options).map_err(Arc::new)
    };
    submit().unwrap_or_else(R::failed)
}

fn call<R: Results, const LEN: usize>(
    actor: &ActorRef,
    function: &'static RemoteFunction,
    options: Option<Arc<client::CallOptions>>,
    arguments: [Argument; LEN],
) -> R {
    let call = || {
        let actor = actor.handle()?;
        let arguments = collect(arguments)?;
        R::call(actor, function, arguments, options).map_err(Arc::new)
    };
    call().unwrap_or_else(R::failed)
}

fn create<H: RemoteHandle, const LEN: usize>(
    constructor: &'static RemoteFunction,
    options: &Result<Arc<client::ActorOptions>, Arc<Error>>,
    class: &str,
    arguments: [Argument; LEN],
) -> H {
    let create = || {
        let options = client::ActorOptions::clone(options.as_ref().map_err(Arc::clone)?);
        let arguments = collect(arguments)?;
        let client = current().map_err(Arc::new)?;
        match options.name.clone().filter(|_| options.get_if_exists) {
            None => Ok(client.create_actor(constructor, class, arguments, options)),
            Some(name) => find_or_create(&client, constructor, class, arguments, options, &name).map_err(Arc::new),
        }
    };
    H::from_actor(create().map_or_else(ActorRef::failed, ActorRef::new))
}

/// The living actor of this name, or a new one. Of several programs that do this at once one
/// makes the actor, and all get it.
fn find_or_create(
    client: &Client,
    constructor: &'static RemoteFunction,
    class: &str,
    arguments: Args,
    options: client::ActorOptions,
    name: &str,
) -> Result<ActorHandle, Error> {
    let namespace = options.namespace.clone();
    let find = || match client.find_actor(name, namespace.as_deref()) {
        Ok(actor) => check_class(actor, name, class).map(Some),
        Err(Error::NoSuchActor { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(actor) = find()? {
        return Ok(actor);
    }
    let made = client.create_actor(constructor, class, arguments, options);
    // The head has the name as soon as it has recorded the actor. An actor whose arguments are
    // not ready, or whose constructor has failed, is not there: then it is the one just made.
    let start = Instant::now();
    while start.elapsed() < RECORDED_WITHIN {
        match find()? {
            Some(actor) if actor.id() == made.id() => break,
            Some(actor) => return Ok(actor),
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
    Ok(made)
}

/// How long the head may take to record an actor, after which a race for its name is over.
const RECORDED_WITHIN: Duration = Duration::from_millis(500);
/// Between two looks for a name.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

fn collect<const LEN: usize>(arguments: [Argument; LEN]) -> Result<Args, Arc<Error>> {
    arguments.into_iter().map(|argument| argument.0).collect()
}
