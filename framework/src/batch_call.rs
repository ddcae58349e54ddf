//! Functions over batches, with their parameters.

use arrow::record_batch::RecordBatch;
use mobula_core::error::Error;
use mobula_core::registry::CallError;
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
pub fn batch_call(
    function: &'static str,
    encode: impl FnOnce() -> Result<Vec<Encoded>, Error>,
) -> BatchCall {
    BatchCall {
        function,
        parameters: encode(),
    }
}

/// A function of a batch that runs inside a data task, where its batch need not be encoded.
pub struct BatchFunction {
    /// The function's full name.
    pub name: &'static str,
    /// The function, with its other arguments encoded.
    pub call: fn(RecordBatch, &[Encoded]) -> Result<RecordBatch, CallError>,
}

inventory::collect!(BatchFunction);
