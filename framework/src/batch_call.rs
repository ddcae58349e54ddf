//! Functions for datasets, with their arguments.

use mobula_core::error::Error;
use mobula_core::value::Value as Encoded;

/// A remote function of a batch together with its other arguments: `clean.with(Limits { .. })`,
/// or the function itself where it has no others.
///
/// `Dataset::map_batches` takes one. So is a class whose method `call` takes a batch, with the
/// arguments of its constructor: `Scorer::with("model".to_owned())`.
#[derive(Clone, Debug)]
pub struct BatchCall {
    called_as: CalledAs,
    parameters: Result<Vec<Encoded>, Error>,
}

/// What is called, by its full name, `crate@version::path`.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum CalledAs {
    /// A function.
    Function(&'static str),
    /// The method `call` of an object that is made first.
    Class(&'static str),
}

impl BatchCall {
    /// Encodes the parameters of a call.
    #[doc(hidden)]
    pub fn __of(called_as: CalledAs, encode: impl FnOnce() -> Result<Vec<Encoded>, Error>) -> Self {
        let parameters = encode();
        // A plan carries bytes, to wherever it runs.
        for parameter in parameters.iter().flatten() {
            parameter.refs.keep_for_session();
        }
        Self { called_as, parameters }
    }

    /// The full name of the function, or of the class: `crate@version::path`.
    pub fn function(&self) -> &'static str {
        let (CalledAs::Function(name) | CalledAs::Class(name)) = self.called_as;
        name
    }

    /// Whether an object is made and keeps a state from call to call.
    pub fn keeps_state(&self) -> bool {
        matches!(self.called_as, CalledAs::Class(_))
    }

    /// Its encoded arguments after the batch, or those of the constructor.
    ///
    /// # Errors
    /// [`Error::Codec`] when one could not be encoded.
    pub fn parameters(&self) -> Result<&[Encoded], Error> {
        self.parameters.as_deref().map_err(Clone::clone)
    }
}

/// Calls that meet rows one by one.
macro_rules! row_calls {
    ($($(#[$attribute:meta])* $Call:ident;)*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        pub struct $Call(BatchCall);

        impl $Call {
            /// Encodes the parameters of a call.
            #[doc(hidden)]
            pub fn __of(called_as: CalledAs, encode: impl FnOnce() -> Result<Vec<Encoded>, Error>) -> Self {
                Self(BatchCall::__of(called_as, encode))
            }
        }

        /// The same rows, a batch at a time.
        impl From<$Call> for BatchCall {
            fn from(call: $Call) -> Self {
                call.0
            }
        }
    )*};
}

row_calls! {
    /// A `#[remote(rows)]` function that gives a row for a row; `Dataset::map` takes one.
    MapCall;
    /// A `#[remote(rows)]` function that gives a `Vec` of rows for a row; `Dataset::flat_map` takes
    /// one.
    FlatMapCall;
    /// A `#[remote(rows)]` function that says `bool` of a row; `Dataset::filter_rows` takes one.
    FilterCall;
}
