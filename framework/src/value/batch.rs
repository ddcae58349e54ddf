//! Arrow batches as values.

use std::fmt;
use std::ops::Deref;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use mobula_data::ipc;

/// An Arrow [`RecordBatch`] as a value: read back, it borrows the object store's memory.
///
/// Functions made remote name `RecordBatch` itself; this type appears where a batch is put, or
/// comes out of a `get`. It derefs to the batch.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::Int64Array;
/// use arrow::record_batch::RecordBatch;
/// use mobula::Batch;
///
/// let columns = [("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as _)];
/// let batch = Batch::from(RecordBatch::try_from_iter(columns)?);
/// assert_eq!(batch.num_rows(), 3);
/// # Ok::<(), arrow::error::ArrowError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Batch(RecordBatch);

impl Batch {
    /// The batch itself.
    pub fn into_inner(self) -> RecordBatch {
        self.0
    }
}

impl Deref for Batch {
    type Target = RecordBatch;

    fn deref(&self) -> &RecordBatch {
        &self.0
    }
}

impl From<RecordBatch> for Batch {
    fn from(batch: RecordBatch) -> Self {
        Self(batch)
    }
}

impl From<Batch> for RecordBatch {
    fn from(batch: Batch) -> Self {
        batch.0
    }
}

/// As a part of a value: the bytes of an Arrow IPC stream.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pieces = ipc::encode(&self.0).map_err(S::Error::custom)?;
        serializer.serialize_bytes(&pieces.concat())
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Stream;

        impl Visitor<'_> for Stream {
            type Value = Batch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of an Arrow IPC stream")
            }

            fn visit_bytes<E: serde::de::Error>(self, data: &[u8]) -> Result<Batch, E> {
                self.visit_byte_buf(data.to_vec())
            }

            fn visit_byte_buf<E: serde::de::Error>(self, data: Vec<u8>) -> Result<Batch, E> {
                ipc::decode(Bytes::from(data)).map(Batch).map_err(E::custom)
            }
        }

        deserializer.deserialize_byte_buf(Stream).map_err(D::Error::custom)
    }
}
