//! Streams: the results of a task or call that yields them one after the other.

use std::fmt;
use std::future::poll_fn;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use mobula_core::client::StreamHandle;
use mobula_core::error::Error;
use mobula_core::messages::Cancel;

use crate::object::{Cancellable, ObjectRef};

/// What a streaming task or call yields: references to its values, in order, each as soon as it was
/// yielded. Ray calls it `ObjectRefGenerator`.
///
/// A `#[remote]` function or method streams when its result is written `impl Iterator<Item = T>`, or
/// `impl Iterator<Item = Result<T, E>>` for one that may fail on the way. Its caller gets an
/// `ObjectRefStream<T>` at once, which is an iterator itself:
///
/// ```
/// use mobula::{Config, Error, remote};
///
/// #[remote]
/// fn lines(text: &str) -> impl Iterator<Item = Result<f64, std::num::ParseFloatError>> {
///     text.lines().map(str::parse)
/// }
///
/// #[mobula::main]
/// fn main() -> Result<(), Error> {
///     mobula::init(Config::default())?;
///     let mut numbers = lines.remote("0.5\n1.5\nmany\n3.5");
///     let mut sum = 0.0;
///     let failed = loop {
///         let Some(number) = numbers.next() else { panic!("there is no end before the error") };
///         match mobula::get(&number) {
///             Ok(number) => sum += number,
///             Err(error) => break error,
///         }
///     };
///     assert_eq!(sum, 2.0);
///     assert!(matches!(failed, Error::Application { .. }));
///     assert!(numbers.next().is_none());
///     Ok(())
/// }
/// ```
///
/// **Errors.** The last reference is one whose `get` fails, when an item is an `Err`, the code
/// panics, the task is cancelled or lost for good, or could not be submitted. Then the stream ends.
///
/// **Backpressure.** The producer waits when
/// [`backpressure_num_objects`](crate::TaskOptions::backpressure_num_objects) values were yielded and
/// not taken. Taken means: [`next`](Iterator::next) has returned the reference.
///
/// **Retries.** When the worker or node is lost, a task runs again, up to its `max_retries`, and yields
/// again; values that have come before are left out, by their place in the stream. So what a
/// retried function yields should be the same each time. A call of an actor does so with
/// `max_task_retries`.
///
/// **Lost values.** Large values lie in the store of the node that ran the task. If that is lost with
/// a value that has come, the `get` of it fails with [`Error::ObjectLost`]: a stream is not run again
/// for one of its values.
///
/// **Giving up.** Dropping it cancels the task or call, which ends when it yields next, and frees what
/// was not taken. The references that were taken are ordinary ones and stay.
#[must_use = "dropping a stream cancels what yields it"]
pub struct ObjectRefStream<T> {
    inner: Inner,
    value: PhantomData<fn() -> T>,
}

enum Inner {
    Live(StreamHandle),
    /// There never was a stream: the call could not be made. The error, until it was given.
    Failed(Arc<Error>, bool),
}

impl<T> ObjectRefStream<T> {
    pub(crate) fn new(handle: StreamHandle) -> Self {
        Self { inner: Inner::Live(handle), value: PhantomData }
    }

    pub(crate) fn failed(error: Arc<Error>) -> Self {
        Self { inner: Inner::Failed(error, false), value: PhantomData }
    }

    /// The next value's reference, when it was yielded; `None` at the end. For async code; dropping the
    /// future loses nothing.
    ///
    /// ```
    /// # use mobula::remote;
    /// #[remote]
    /// fn squares(count: u64) -> impl Iterator<Item = u64> {
    ///     (0..count).map(|x| x * x)
    /// }
    ///
    /// # #[mobula::main]
    /// # async fn main() -> Result<(), mobula::Error> {
    /// # mobula::init(mobula::Config::default())?;
    /// let mut stream = squares.remote(4);
    /// let mut sum = 0;
    /// while let Some(square) = stream.next_async().await {
    ///     sum += square.await?;
    /// }
    /// assert_eq!(sum, 14);
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_async(&mut self) -> impl Future<Output = Option<ObjectRef<T>>> + Send {
        poll_fn(|context| match &mut self.inner {
            Inner::Live(handle) => handle.poll_next(context).map(|next| next.map(ObjectRef::new)),
            Inner::Failed(error, given) => failure(error, given).into(),
        })
    }

    /// [`next`](Iterator::next), but not longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when nothing came in time; it may come later.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<ObjectRef<T>>, Error> {
        match &mut self.inner {
            Inner::Live(handle) => Ok(handle.next(Some(timeout))?.map(ObjectRef::new)),
            Inner::Failed(error, given) => Ok(failure(error, given)),
        }
    }

    /// A reference that is ready when everything was yielded, whether or not it was taken; its `get`
    /// fails with the error that ended the stream.
    ///
    /// It is no use to wait for it while the producer waits for room.
    pub fn completed(&self) -> ObjectRef<()> {
        match &self.inner {
            Inner::Live(handle) => ObjectRef::new(handle.completed().clone()),
            Inner::Failed(error, _) => ObjectRef::failed(error.clone()),
        }
    }
}

fn failure<T>(error: &Arc<Error>, given: &mut bool) -> Option<ObjectRef<T>> {
    (!std::mem::replace(given, true)).then(|| ObjectRef::failed(error.clone()))
}

/// Waits for each value to be yielded; a task that waits here lends its CPU to others meanwhile.
impl<T> Iterator for ObjectRefStream<T> {
    type Item = ObjectRef<T>;

    fn next(&mut self) -> Option<ObjectRef<T>> {
        match &mut self.inner {
            // Without a timeout there is no error.
            Inner::Live(handle) => handle.next(None).ok().flatten().map(ObjectRef::new),
            Inner::Failed(error, given) => failure(error, given),
        }
    }
}

impl<T> FusedIterator for ObjectRefStream<T> {}

impl<T> Cancellable for ObjectRefStream<T> {
    fn cancel_with(&self, how: Cancel) {
        self.completed().cancel_with(how);
    }
}

impl<T> fmt::Debug for ObjectRefStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectRefStream<{}>({})", std::any::type_name::<T>(), self.completed())
    }
}
