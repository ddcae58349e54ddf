//! The functions that plans name, found where the program registered them.
//!
//! Entry types: [`BatchFunction`], which the `#[remote]` macro submits for every function whose
//! first parameter is a batch, and [`RegisteredFunctions`], which finds them by name. Inside a
//! task the batch is handed over as it is; only the other arguments were encoded, once, where
//! the plan was made.

use std::collections::HashMap;
use std::sync::OnceLock;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use mobula_core::registry::CallError;
use mobula_core::value::{Encoding, Value};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, FormatError};
use crate::execute::BatchFunctions;

/// A function of a batch that runs inside a data task.
pub struct BatchFunction {
    /// `crate@version::path`, unique in the program.
    pub name: &'static str,
    /// The function, with its other arguments encoded.
    pub call: fn(RecordBatch, &[Value]) -> Result<RecordBatch, BatchError>,
}

inventory::collect!(BatchFunction);

/// Why a call of a function with a batch failed.
#[derive(Debug, Clone)]
pub enum BatchError {
    /// The function said so, or its other arguments could not be read.
    Call(CallError),
    /// The batch, or what the function gave, does not fit its types.
    Format(FormatError),
}

impl BatchError {
    /// The error of a run, in which `function` was called.
    #[must_use]
    pub fn of(self, function: &str) -> DataError {
        let function = function.to_owned();
        match self {
            Self::Call(error) => DataError::Function { function, cause: cause(&error) },
            Self::Format(error) => DataError::Format { function, error },
        }
    }
}

impl From<CallError> for BatchError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<mobula_core::error::Error> for BatchError {
    fn from(error: mobula_core::error::Error) -> Self {
        Self::Call(error.into())
    }
}

impl From<FormatError> for BatchError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// An encoded argument of a function, as a plan carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// How to read the bytes.
    pub encoding: Encoding,
    /// The bytes.
    pub data: Bytes,
}

impl From<&Value> for Parameter {
    fn from(value: &Value) -> Self {
        Self { encoding: value.encoding, data: value.data.clone() }
    }
}

/// All functions that were registered when the program was linked.
#[derive(Debug, Clone, Copy, Default)]
pub struct RegisteredFunctions;

impl RegisteredFunctions {
    fn find(name: &str) -> Option<&'static BatchFunction> {
        static BY_NAME: OnceLock<HashMap<&'static str, &'static BatchFunction>> = OnceLock::new();
        let all = || inventory::iter::<BatchFunction>().map(|f| (f.name, f));
        BY_NAME.get_or_init(|| all().collect()).get(name).copied()
    }
}

impl BatchFunctions for RegisteredFunctions {
    fn call(&self, function: &str, params: &[Parameter], batch: RecordBatch) -> Result<RecordBatch, DataError> {
        let found = Self::find(function).ok_or_else(|| DataError::UnknownFunction { function: function.into() })?;
        (found.call)(batch, &values(params)).map_err(|error| error.of(function))
    }
}

/// Parameters as values.
pub(crate) fn values(params: &[Parameter]) -> Vec<Value> {
    params.iter().map(|param| Value::new(param.encoding, param.data.clone())).collect()
}

/// The error of a function with the errors behind it, outermost first.
fn cause(error: &CallError) -> String {
    match error {
        CallError::Application { message, causes, .. } => {
            let mut text = message.clone();
            for cause in causes {
                text.push_str(": ");
                text.push_str(cause);
            }
            text
        }
        CallError::System(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    inventory::submit! {
        BatchFunction {
            name: "test@1::first",
            call: |batch, params| {
                let rows = usize::from(params[0].data[0]);
                if rows > batch.num_rows() {
                    return Err(CallError::Application {
                        type_name: "TooFew".into(),
                        message: "too few rows".into(),
                        causes: vec!["the batch is small".into()],
                    }
                    .into());
                }
                Ok(batch.slice(0, rows))
            },
        }
    }

    #[test]
    fn a_registered_function_is_called_with_its_arguments() {
        let values = Arc::new(Int64Array::from_iter_values(0..9)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("n", values)]).unwrap();
        let call = |name: &str, rows: u8| {
            let parameter = Parameter::from(&Value::new(Encoding::RAW, vec![rows]));
            RegisteredFunctions.call(name, &[parameter], batch.clone())
        };
        assert_eq!(call("test@1::first", 4).unwrap().num_rows(), 4);
        assert_eq!(
            call("test@1::first", 10).unwrap_err().to_string(),
            "function test@1::first failed: too few rows: the batch is small"
        );
        assert!(matches!(call("test@1::second", 4), Err(DataError::UnknownFunction { .. })));
    }
}
