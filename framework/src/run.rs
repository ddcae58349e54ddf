//! The worker's side of a remote function: what the code that the macros generate is made of.
//!
//! ```text
//!  Vec<Encoded> ── Arguments::take ──▶ the user's function ── returned / caught ──▶ CallResult
//! ```

use std::any::{Any, type_name};
use std::error::Error as StdError;
use std::fmt::Display;
use std::future::Future;

use mobula_core::error::Error;
use mobula_core::registry::{CallError, CallResult};
use mobula_core::value::Value as Encoded;
use mobula_core::worker::{self, Outlet};

use crate::value::{Value, decode, encode};

/// The encoded arguments of a call, taken one after the other.
pub struct Arguments {
    function: &'static str,
    values: std::vec::IntoIter<Encoded>,
}

impl Arguments {
    /// The arguments of a function that has `expected` parameters.
    pub fn new(function: &'static str, values: Vec<Encoded>, expected: usize) -> Result<Self, CallError> {
        if values.len() == expected {
            return Ok(Self { function, values: values.into_iter() });
        }
        Err(CallError::System(Error::Codec {
            what: format!("the arguments of {function}"),
            doing: "decoded".to_owned(),
            why: format!("there are {}, it has {expected} parameters", values.len()),
        }))
    }

    /// The next argument, for the parameter of this name.
    pub fn take<A: Value>(&mut self, name: &str) -> Result<A, CallError> {
        let named = |error| match error {
            Error::Codec { what, doing, why } => {
                Error::Codec { what: format!("argument {name} of {} ({what})", self.function), doing, why }
            }
            error => error,
        };
        // `new` counted them.
        let value = self.values.next().unwrap_or_else(|| Encoded::new(mobula_core::value::Encoding::RAW, Vec::new()));
        decode(value).map_err(|error| CallError::System(named(error)))
    }
}

/// The result of a function that returns one value.
pub fn returned<T: Value>(value: T) -> CallResult {
    Ok(vec![encode(value)?])
}

/// Yields what an iterator gives, until it ends, an item is an error, or nobody wants another one.
pub fn yield_all<I>(
    outlet: &mut Outlet,
    items: impl IntoIterator<Item = I>,
    encoded: impl Fn(I) -> Result<Encoded, CallError>,
) -> Result<(), CallError> {
    let mut items = items.into_iter();
    loop {
        outlet.room()?;
        match items.next() {
            Some(item) => outlet.give(encoded(item)?)?,
            None => return Ok(()),
        }
    }
}

/// A result, whatever alias it is written as.
pub trait Fallible {
    /// The type of its value.
    type Value;
}

impl<T, E> Fallible for Result<T, E> {
    type Value = T;
}

// ---- errors ------------------------------------------------------------------------------------

/// An error that a user's function returned, of a type of which little is known.
///
/// The macros call `(&&&&Caught::new(error)).catch()`; method lookup takes the first of the
/// traits below that the error's type allows: a standard error, what derefs to one (`Box<dyn
/// Error>`, `anyhow::Error`), what becomes one, or anything that can be displayed.
pub struct Caught<E> {
    error: std::cell::RefCell<Option<E>>,
}

impl<E> Caught<E> {
    /// Holds the error.
    pub fn new(error: E) -> Self {
        Self { error: std::cell::RefCell::new(Some(error)) }
    }
}

/// A standard error: type, message and sources; a Mobula error passes through as it is.
pub trait CatchError {
    /// What is sent to the caller.
    fn catch(&self) -> CallError;
}

impl<E: StdError + 'static> CatchError for &&&Caught<E> {
    fn catch(&self) -> CallError {
        let Some(error) = self.error.take() else {
            return caught_twice::<E>();
        };
        match (&error as &dyn Any).downcast_ref::<Error>() {
            Some(error) => CallError::System(error.clone()),
            None => application::<E>(&error, error.source()),
        }
    }
}

/// What can be looked at as a standard error.
pub trait CatchErrorRef {
    /// What is sent to the caller.
    fn catch(&self) -> CallError;
}

impl<E: AsRef<dyn StdError + 'static> + Display> CatchErrorRef for &&Caught<E> {
    fn catch(&self) -> CallError {
        let Some(error) = self.error.take() else {
            return caught_twice::<E>();
        };
        boxed::<E>(error.as_ref())
    }
}

/// What becomes a standard error.
pub trait CatchIntoBox {
    /// What is sent to the caller.
    fn catch(&self) -> CallError;
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> CatchIntoBox for &Caught<E> {
    fn catch(&self) -> CallError {
        let Some(error) = self.error.take() else {
            return caught_twice::<E>();
        };
        let error: Box<dyn StdError + Send + Sync> = error.into();
        boxed::<E>(&*error)
    }
}

/// Anything with a message.
pub trait CatchDisplay {
    /// What is sent to the caller.
    fn catch(&self) -> CallError;
}

impl<E: Display> CatchDisplay for Caught<E> {
    fn catch(&self) -> CallError {
        let Some(error) = self.error.take() else {
            return caught_twice::<E>();
        };
        application::<E>(&error, None)
    }
}

fn boxed<E>(error: &(dyn StdError + 'static)) -> CallError {
    match error.downcast_ref::<Error>() {
        Some(error) => CallError::System(error.clone()),
        None => application::<E>(error, error.source()),
    }
}

fn application<E>(error: &dyn Display, source: Option<&dyn StdError>) -> CallError {
    let causes = std::iter::successors(source, |error: &&dyn StdError| StdError::source(*error));
    CallError::Application {
        type_name: type_name::<E>().to_owned(),
        message: error.to_string(),
        causes: causes.take(MAX_CAUSES).map(ToString::to_string).collect(),
    }
}

fn caught_twice<E>() -> CallError {
    CallError::System(Error::System {
        what: format!("an error of type {}", type_name::<E>()),
        why: "it was taken twice".to_owned(),
    })
}

/// Sources of an error that are told; a chain that goes in a circle must end somewhere.
const MAX_CAUSES: usize = 32;

// ---- actors ------------------------------------------------------------------------------------

/// The state of an actor that is only reached by `&mut`, and so need not be `Sync`.
pub struct Exclusive<T>(T);

// SAFETY: a shared reference to it gives no access to the state.
unsafe impl<T: Send> Sync for Exclusive<T> {}

impl<T: Send + 'static> Exclusive<T> {
    /// Holds the state.
    pub fn new(state: T) -> Self {
        Self(state)
    }

    /// The state in an instance made by this type's constructor.
    pub fn state_mut<'a>(instance: &'a mut (dyn Any + Send + Sync), method: &str) -> Result<&'a mut T, CallError> {
        match instance.downcast_mut::<Self>() {
            Some(cell) => Ok(&mut cell.0),
            None => Err(another_type::<T>(method)),
        }
    }
}

/// The state of an actor that `&self` methods reach from several threads.
pub struct Shared<T>(T);

impl<T: Send + Sync + 'static> Shared<T> {
    /// Holds the state.
    pub fn new(state: T) -> Self {
        Self(state)
    }

    /// The state in an instance made by this type's constructor.
    pub fn state_mut<'a>(instance: &'a mut (dyn Any + Send + Sync), method: &str) -> Result<&'a mut T, CallError> {
        match instance.downcast_mut::<Self>() {
            Some(cell) => Ok(&mut cell.0),
            None => Err(another_type::<T>(method)),
        }
    }

    /// The state in an instance made by this type's constructor.
    pub fn state_ref<'a>(instance: &'a (dyn Any + Send + Sync), method: &str) -> Result<&'a T, CallError> {
        match instance.downcast_ref::<Self>() {
            Some(cell) => Ok(&cell.0),
            None => Err(another_type::<T>(method)),
        }
    }
}

fn another_type<T>(method: &str) -> CallError {
    CallError::System(Error::Invalid {
        what: format!("{method} was called on an actor that is not a {}", type_name::<T>()),
    })
}

// ---- async -------------------------------------------------------------------------------------

/// Runs an async task or constructor to its end on this thread; while it waits, others may use its CPU.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, CallError> {
    worker::block_on(future).map_err(CallError::System)
}

/// Runs an async `main`. Should there be no runtime for it, the program ends as one whose `main`
/// returned that error: `main` itself may return anything, or nothing at all.
pub fn block_on_main<F: Future>(future: F) -> F::Output {
    match worker::block_on(future) {
        Ok(output) => output,
        Err(error) => {
            eprintln!("Error: {error}");
            std::process::exit(1);
        }
    }
}
