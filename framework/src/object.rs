//! References to objects: fetching, waiting, passing on.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mobula_core::client::{Client, ObjectHandle};
use mobula_core::error::Error;
use mobula_core::ids::{NodeId, ObjectId};
use mobula_core::messages::Cancel;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::value::{Array, Number, Parts, Value, decode, encode_parts};

/// A reference to an object: the result of a task or call, or a value that was put.
///
/// It is had at once, long before the value. Cloning it is cheap; the object stays while any
/// reference to it does, in whichever process, and is freed when the last one is dropped. Pass it as an argument and the task gets the value; put it *inside* a
/// value and it stays a reference. Fetch the value with [`get`] or, in async code, by `.await`.
///
/// What can go wrong (an argument that cannot be encoded, no session, an error or a panic in the
/// task, a lost node) comes out of the `get`.
pub struct ObjectRef<T> {
    inner: Inner,
    value: PhantomData<fn() -> T>,
}

#[derive(Clone)]
enum Inner {
    Live(ObjectHandle),
    /// There never was an object: the call could not be made.
    Failed(Arc<Error>),
}

impl<T> ObjectRef<T> {
    pub(crate) fn new(handle: ObjectHandle) -> Self {
        Self { inner: Inner::Live(handle), value: PhantomData }
    }

    pub(crate) fn failed(error: Arc<Error>) -> Self {
        Self { inner: Inner::Failed(error), value: PhantomData }
    }

    /// The object's id; `None` when the call that should have made it could not be made.
    pub fn id(&self) -> Option<ObjectId> {
        match &self.inner {
            Inner::Live(handle) => Some(handle.id()),
            Inner::Failed(_) => None,
        }
    }

    /// Whether a value or an error is there, as far as this process knows.
    pub(crate) fn is_settled(&self) -> bool {
        self.handle().map_or(true, ObjectHandle::is_settled)
    }

    pub(crate) fn into_handle(self) -> Result<ObjectHandle, Arc<Error>> {
        match self.inner {
            Inner::Live(handle) => Ok(handle),
            Inner::Failed(error) => Err(error),
        }
    }

    pub(crate) fn handle(&self) -> Result<&ObjectHandle, &Arc<Error>> {
        match &self.inner {
            Inner::Live(handle) => Ok(handle),
            Inner::Failed(error) => Err(error),
        }
    }
}

impl<N: Number> ObjectRef<Vec<N>> {
    /// The same object, to be read in place instead of copied into a vector.
    pub fn as_array(&self) -> ObjectRef<Array<N>> {
        ObjectRef { inner: self.inner.clone(), value: PhantomData }
    }
}

impl<T> Clone for ObjectRef<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), value: PhantomData }
    }
}

/// Two references are equal when they are of the same object.
impl<T> PartialEq for ObjectRef<T> {
    fn eq(&self, other: &Self) -> bool {
        match (&self.inner, &other.inner) {
            (Inner::Live(one), Inner::Live(other)) => one.id() == other.id(),
            (Inner::Failed(one), Inner::Failed(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl<T> Eq for ObjectRef<T> {}

impl<T> Hash for ObjectRef<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.inner {
            Inner::Live(handle) => handle.id().hash(state),
            Inner::Failed(error) => Arc::as_ptr(error).hash(state),
        }
    }
}

impl<T> fmt::Display for ObjectRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Live(handle) => fmt::Display::fmt(&handle.id(), f),
            Inner::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

impl<T> fmt::Debug for ObjectRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectRef<{}>({self})", std::any::type_name::<T>())
    }
}

impl<T: Value> IntoFuture for ObjectRef<T> {
    type Output = Result<T, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let handle = self.into_handle().map_err(unshared)?;
            let client = handle.client().clone();
            let encoded = client.get_future(&handle).await?;
            let _entered = client.enter();
            handle.decode(|| decode(encoded))
        })
    }
}

impl<T: Value> IntoFuture for &ObjectRef<T> {
    type Output = Result<T, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        self.clone().into_future()
    }
}

/// A reference inside a value, as it is written.
#[derive(Serialize, Deserialize)]
enum Wire {
    Live(#[serde(with = "serde_bytes")] Vec<u8>),
    Failed(Error),
}

/// As a part of a value a reference stays a reference; the reader becomes a borrower, and the object
/// stays while a reference to it does, anywhere. Only where it is written by other means than a
/// value of Mobula's (with `serde_json`, say) nobody can tell who has it: then the object stays until
/// the session ends.
impl<T> Serialize for ObjectRef<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.inner {
            Inner::Live(handle) => Wire::Live(handle.to_wire().to_vec()).serialize(serializer),
            Inner::Failed(error) => Wire::Failed(Error::clone(error)).serialize(serializer),
        }
    }
}

impl<'de, T> Deserialize<'de> for ObjectRef<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::Failed(error) => Ok(Self::failed(Arc::new(error))),
            Wire::Live(wire) => {
                let client = current().map_err(D::Error::custom)?;
                client.handle_from_wire(&wire).map(Self::new).map_err(D::Error::custom)
            }
        }
    }
}

/// What [`get`] can fetch: a reference (`&r` or `r`), a slice, vector or array of them, or a
/// tuple of references of different types.
pub trait Get {
    /// What comes out: a `T`, a `Vec<T>`, or a tuple.
    type Output;

    #[doc(hidden)]
    fn get_within(self, timeout: Option<Duration>) -> Result<Self::Output, Error>;
}

impl<T: Value> Get for &ObjectRef<T> {
    type Output = T;

    fn get_within(self, timeout: Option<Duration>) -> Result<T, Error> {
        let handle = self.handle().map_err(|error| Error::clone(error))?;
        let client = handle.client();
        let encoded = client.get(std::slice::from_ref(handle), timeout)?.into_iter().next();
        let encoded = encoded.ok_or_else(|| missing(1, 0))?;
        let _entered = client.enter();
        handle.decode(|| decode(encoded))
    }
}

impl<T: Value> Get for ObjectRef<T> {
    type Output = T;

    fn get_within(self, timeout: Option<Duration>) -> Result<T, Error> {
        (&self).get_within(timeout)
    }
}

impl<T: Value> Get for &[ObjectRef<T>] {
    type Output = Vec<T>;

    fn get_within(self, timeout: Option<Duration>) -> Result<Vec<T>, Error> {
        let handles = self.iter().map(|object| object.handle().cloned().map_err(|error| Error::clone(error)));
        let handles = handles.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = handles.first() else {
            return Ok(Vec::new());
        };
        let client = first.client();
        let encoded = client.get(&handles, timeout)?;
        if encoded.len() != handles.len() {
            return Err(missing(handles.len(), encoded.len()));
        }
        let _entered = client.enter();
        encoded.into_iter().zip(&handles).map(|(encoded, handle)| handle.decode(|| decode(encoded))).collect()
    }
}

macro_rules! get_as_slice {
    ($([$($generic:tt)*] $from:ty;)*) => {$(
        impl<T: Value $($generic)*> Get for $from {
            type Output = Vec<T>;

            fn get_within(self, timeout: Option<Duration>) -> Result<Vec<T>, Error> {
                self[..].get_within(timeout)
            }
        }
    )*};
}

get_as_slice! {
    [] &Vec<ObjectRef<T>>;
    [] Vec<ObjectRef<T>>;
    [, const LEN: usize] &[ObjectRef<T>; LEN];
    [, const LEN: usize] [ObjectRef<T>; LEN];
}

macro_rules! get_tuple {
    ($($name:ident: $variable:ident)*) => {
        impl<$($name: Get),*> Get for ($($name,)*) {
            type Output = ($($name::Output,)*);

            fn get_within(self, timeout: Option<Duration>) -> Result<Self::Output, Error> {
                let start = std::time::Instant::now();
                let ($($variable,)*) = self;
                Ok(($($variable.get_within(timeout.map(|timeout| timeout.saturating_sub(start.elapsed())))?,)*))
            }
        }
    };
}

get_tuple!(A: a B: b);
get_tuple!(A: a B: b C: c);
get_tuple!(A: a B: b C: c D: d);

/// The value of an object, or of several in their order; waits until they are ready.
///
/// A task that waits here lends its CPU to others meanwhile. In async code, await the reference
/// instead.
///
/// # Errors
/// The first failure, in the order of the references: the task's own error or panic, a lost
/// worker, actor, object or owner.
pub fn get<G: Get>(objects: G) -> Result<G::Output, Error> {
    objects.get_within(None)
}

/// [`get`], but not longer than `timeout`.
///
/// # Errors
/// As [`get`]; [`Error::TimedOut`] when not all were ready in time. The work goes on, and a later
/// `get` may succeed.
pub fn get_timeout<G: Get>(objects: G, timeout: Duration) -> Result<G::Output, Error> {
    objects.get_within(Some(timeout))
}

/// Makes a value an object, to be passed to many tasks and fetched anywhere.
///
/// # Errors
/// [`Error::Codec`], [`Error::StoreFull`], or [`Error::NoSession`].
pub fn put<T: Value>(value: T) -> Result<ObjectRef<T>, Error> {
    put_with(&current()?, value)
}

pub(crate) fn put_with<T: Value>(client: &Client, value: T) -> Result<ObjectRef<T>, Error> {
    let handle = match encode_parts(value)? {
        Parts::Whole(value) => client.put(value)?,
        Parts::Pieces(encoding, pieces) => {
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
            client.put_parts(encoding, &pieces)?
        }
    };
    Ok(ObjectRef::new(handle))
}

/// References that are ready, and those that are not.
pub type Waited<T> = (Vec<ObjectRef<T>>, Vec<ObjectRef<T>>);

/// What [`wait`] can wait for: a vector of references, or (cloning them) a slice.
pub trait Wait<T> {
    #[doc(hidden)]
    fn into_objects(self) -> Vec<ObjectRef<T>>;
}

impl<T> Wait<T> for Vec<ObjectRef<T>> {
    fn into_objects(self) -> Vec<ObjectRef<T>> {
        self
    }
}

impl<T> Wait<T> for &Vec<ObjectRef<T>> {
    fn into_objects(self) -> Vec<ObjectRef<T>> {
        self.clone()
    }
}

impl<T> Wait<T> for &[ObjectRef<T>] {
    fn into_objects(self) -> Vec<ObjectRef<T>> {
        self.to_vec()
    }
}

impl<T, const LEN: usize> Wait<T> for [ObjectRef<T>; LEN] {
    fn into_objects(self) -> Vec<ObjectRef<T>> {
        Vec::from(self)
    }
}

impl<T, const LEN: usize> Wait<T> for &[ObjectRef<T>; LEN] {
    fn into_objects(self) -> Vec<ObjectRef<T>> {
        self.to_vec()
    }
}

/// Waits until `num_returns` of the objects are ready (a failed one is ready too), or until the
/// timeout, if there is one. Returns at most `num_returns` ready ones, and the rest, both in
/// their order.
///
/// ```
/// # fn f(mut tasks: Vec<mobula::ObjectRef<i64>>) -> Result<(), mobula::Error> {
/// while !tasks.is_empty() {
///     let (done, rest) = mobula::wait(tasks, 1, None)?;
///     println!("{}", mobula::get(&done[0])?);
///     tasks = rest;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Invalid`] when a reference comes twice, or `num_returns` is 0 or more than there are.
pub fn wait<T>(
    objects: impl Wait<T>,
    num_returns: usize,
    timeout: impl Into<Option<Duration>>,
) -> Result<Waited<T>, Error> {
    let objects = objects.into_objects();
    if objects.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let count = objects.len();
    if num_returns == 0 || num_returns > count {
        let what = format!("wait for {num_returns} of {count} objects: ask for 1 to {count}");
        return Err(Error::Invalid { what });
    }

    // A call that could not be made is ready; only the others are waited for.
    let mut live = Vec::with_capacity(count);
    let mut failed = Vec::new();
    for (place, object) in objects.into_iter().enumerate() {
        match object.inner {
            Inner::Live(handle) => live.push(handle),
            Inner::Failed(error) => failed.push((place, error)),
        }
    }
    let ready = match live.first() {
        Some(first) if failed.len() < num_returns => {
            let client = first.client().clone();
            client.wait(&live, num_returns - failed.len(), timeout.into())?.0
        }
        _ => Vec::new(),
    };

    let mut waited = (Vec::with_capacity(num_returns), Vec::with_capacity(count - num_returns));
    let mut ready = ready.into_iter().peekable();
    let mut failed = failed.into_iter().peekable();
    let mut live = live.into_iter().enumerate();
    for place in 0..count {
        let (object, is_ready) = match failed.next_if(|(failed, _)| *failed == place) {
            Some((_, error)) => (ObjectRef::failed(error), true),
            None => match live.next() {
                Some((index, handle)) => (ObjectRef::new(handle), ready.next_if_eq(&index).is_some()),
                None => break,
            },
        };
        if is_ready && waited.0.len() < num_returns {
            waited.0.push(object);
        } else {
            waited.1.push(object);
        }
    }
    Ok(waited)
}

/// Cancels the task that makes this object or stream, with all that it has submitted: [`cancel_with`] the
/// default options.
pub fn cancel<C: Cancellable>(work: &C) {
    cancel_with(work, Cancel::default());
}

/// What [`cancel`] can cancel: a task or call by the reference to its result, or by its stream.
pub trait Cancellable {
    #[doc(hidden)]
    fn cancel_with(&self, how: Cancel);
}

impl<T> Cancellable for ObjectRef<T> {
    fn cancel_with(&self, how: Cancel) {
        if let Inner::Live(handle) = &self.inner {
            handle.client().cancel(handle, how);
        }
    }
}

/// Cancels the task or call that makes this object or stream, unless it has ended: its results fail at once
/// with [`Error::TaskCancelled`], and with them what waits for them.
///
/// What has not started will not run. Code that runs is not interrupted: it goes on, and its CPU
/// counts as used, until it returns; it may ask [`is_cancelled`](crate::is_cancelled) now and then.
/// With `force`, a process of the task's own is ended at once, and one that it shares with others
/// if its code has not returned after five seconds: what else runs there runs again. Workers inside
/// the driver's process, and actors, are never ended.
///
/// Of a stream, what has been yielded can still be taken; then comes the error. What it would yield
/// next is not wanted any more: its iterator is dropped.
pub fn cancel_with<C: Cancellable>(work: &C, how: Cancel) {
    work.cancel_with(how);
}

/// Frees the bytes of these objects everywhere at once, though references to them remain, in this
/// process or others. Getting one fails with [`Error::ObjectFreed`] from now on, and so does work that
/// needs it; whoever reads the value already goes on reading. An object whose task has not ended is
/// freed when it has.
///
/// Rarely needed: an object is freed by itself when the last reference to it is dropped. Small
/// objects (to 100 KiB) may still be read where they were fetched before.
///
/// ```
/// # fn f() -> Result<(), mobula::Error> {
/// let table = mobula::put(vec![0_u8; 1 << 20])?;
/// mobula::free(&[table.clone()]);
/// assert!(matches!(mobula::get(&table), Err(mobula::Error::ObjectFreed { .. })));
/// # Ok(())
/// # }
/// ```
pub fn free<T>(objects: &[ObjectRef<T>]) {
    let handles: Vec<ObjectHandle> = objects.iter().filter_map(|object| object.handle().ok().cloned()).collect();
    if let Some(first) = handles.first() {
        first.client().free(&handles);
    }
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectLocation {
    /// Its size, encoded.
    pub size_bytes: u64,
    /// The nodes in whose stores it was written; none for a small one (to 100 KiB), which its owner
    /// keeps. Copies that other nodes have fetched are not counted: they come and go.
    pub nodes: Vec<NodeId>,
}

/// Where these objects are, in their order; `None` for one whose value is not there: its task has
/// not ended, or failed.
///
/// ```
/// # fn f() -> Result<(), mobula::Error> {
/// let table = mobula::put(vec![0_u8; 1 << 20])?;
/// let locations = mobula::object_locations(&[table])?;
/// assert!(matches!(&locations[0], Some(table) if table.nodes.len() == 1));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::OwnerDied`] when the owner of one cannot be asked, and the failure to reach the head.
pub fn object_locations<T>(objects: &[ObjectRef<T>]) -> Result<Vec<Option<ObjectLocation>>, Error> {
    let live: Vec<ObjectHandle> = objects.iter().filter_map(|object| object.handle().ok().cloned()).collect();
    let Some(first) = live.first() else {
        return Ok(vec![None; objects.len()]);
    };
    let client = first.client();
    let nodes = client.status()?.view.nodes;
    let mut places = client.locate(&live)?.into_iter();
    let located = objects.iter().map(|object| {
        let place = object.handle().ok().and_then(|_| places.next().flatten())?;
        let having = place.nodes.iter().filter_map(|store| nodes.iter().find(|node| node.process.id == store.id));
        Some(ObjectLocation { size_bytes: place.size_bytes, nodes: having.map(|node| node.node).collect() })
    });
    Ok(located.collect())
}

/// The client of the session this thread works for.
pub(crate) fn current() -> Result<Client, Error> {
    Client::current().ok_or_else(|| Error::NoSession {
        what: "no session is running in this process: call mobula::init(Config::default()) first and keep the session"
            .to_owned(),
    })
}

/// The error itself, out of what is shared between the results of a call.
pub(crate) fn unshared(error: Arc<Error>) -> Error {
    Arc::unwrap_or_clone(error)
}

fn missing(asked: usize, got: usize) -> Error {
    Error::System { what: format!("get of {asked} objects"), why: format!("the session answered with {got} values") }
}
