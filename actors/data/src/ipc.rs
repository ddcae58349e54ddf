//! Arrow batches as bytes: an IPC stream of one batch.
//!
//! Writing hands out the batch's own buffers, so that the store can take them without a copy in
//! between; every message and buffer starts at a multiple of 64 bytes, so that a stream in shared
//! memory is read in place.

use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamEncoder};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

/// The alignment of messages and buffers, a cache line and the widest vector register.
const ALIGNMENT_BYTES: usize = 64;

/// The pieces of the stream, in order.
pub fn encode(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let options = IpcWriteOptions::try_new(ALIGNMENT_BYTES, false, MetadataVersion::V5)?;
    let mut encoder = StreamEncoder::try_new_with_options(batch.schema_ref(), options)?;
    let mut pieces = encoder.encode(batch)?;
    pieces.extend(encoder.finish()?);
    Ok(pieces.into_iter().map(|piece| Bytes::from_owner(Piece(piece))).collect())
}

/// The batch of a stream, borrowing its bytes where they are aligned.
///
/// Lengths, offsets and text are checked (a scan of the text columns, no copy): the bytes may
/// come from another node.
pub fn decode(data: Bytes) -> Result<RecordBatch, ArrowError> {
    let mut rest = Buffer::from(data);
    let mut decoder = StreamDecoder::new();
    let batch = decoder.decode(&mut rest)?;
    match (batch, decoder.decode(&mut rest)?) {
        (Some(batch), None) => {
            decoder.finish()?;
            Ok(batch)
        }
        (None, _) => Err(ArrowError::IpcError("the stream has no batch".to_owned())),
        (_, Some(_)) => Err(ArrowError::IpcError("the stream has more than one batch".to_owned())),
    }
}

/// A buffer as the owner of bytes.
struct Piece(Buffer);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}
