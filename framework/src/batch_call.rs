//! Functions over batches, with their parameters.

use mobula_core::error::Error;
use mobula_core::value::Value as Encoded;

/// A remote function of a batch together with its other arguments: `clean.with(Limits { .. })`,
/// or the function itself where it has no others.
///
/// `Dataset::map_batches` takes one.
#[derive(Clone, Debug)]
pub struct BatchCall {
    function: &'static str,
    parameters: Result<Vec<Encoded>, Error>,
}

impl BatchCall {
    /// The function's full name, `crate@version::path`.
    pub fn function(&self) -> &'static str {
        self.function
    }

    /// Its encoded arguments after the batch.
    ///
    /// # Errors
    /// [`Error::Codec`] when one could not be encoded.
    pub fn parameters(&self) -> Result<&[Encoded], Error> {
        self.parameters.as_deref().map_err(Clone::clone)
    }
}

/// Encodes the parameters of a call.
pub fn batch_call(function: &'static str, encode: impl FnOnce() -> Result<Vec<Encoded>, Error>) -> BatchCall {
    let parameters = encode();
    // A plan carries bytes, to wherever it runs.
    for parameter in parameters.iter().flatten() {
        parameter.refs.keep_for_session();
    }
    BatchCall { function, parameters }
}
