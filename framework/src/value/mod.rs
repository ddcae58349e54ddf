//! Values: what can be an argument, a result or an object, and how it becomes bytes.
//!
//! Every type with `serde` is a [`Value`]. Four kinds are not written through serde when they
//! *are* the value (and not a part of one), so that they can be read where they lie:
//!
//! | type | bytes | read back |
//! |---|---|---|
//! | [`Bytes`] | as they are | in place |
//! | `Vec` of a [`Number`] | little-endian | one bulk copy |
//! | [`Array`] of a [`Number`] | the same | in place |
//! | [`Batch`] | an Arrow IPC stream, buffers aligned to 64 bytes | in place |
//!
//! All else is MessagePack with named fields. A value is encoded exactly once, at `put`, at a
//! call or at return, in a local session too.

use std::any::{Any, TypeId, type_name};
use std::cell::Cell;

use bytes::Bytes;
use mobula_core::client::capture;
use mobula_core::error::Error;
use mobula_core::value::{Encoding, Value as Encoded};
use mobula_data::ipc;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod array;
mod batch;
#[cfg(test)]
mod tests;

pub use array::{Array, Number};
pub use batch::Batch;

/// A type whose values can cross to other tasks, actors and nodes: everything that serde can
/// write and read, that owns its parts and may move to another thread.
///
/// There is nothing to implement; derive `Serialize` and `Deserialize`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross to a task, an actor or another node",
    note = "a value implements serde's `Serialize` and `DeserializeOwned`, is `Send` and borrows nothing: derive `serde::Serialize` and `serde::Deserialize`"
)]
pub trait Value: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// A value's bytes, in the pieces in which they already lie in memory.
pub(crate) enum Parts {
    /// In one piece.
    Whole(Encoded),
    /// In several, to be written one after the other.
    Pieces(Encoding, Vec<Bytes>),
}

impl Parts {
    /// The value in one piece.
    pub(crate) fn into_encoded(self) -> Encoded {
        match self {
            Self::Whole(value) => value,
            Self::Pieces(encoding, pieces) => {
                let mut data = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
                for piece in pieces {
                    data.extend_from_slice(&piece);
                }
                Encoded::new(encoding, data)
            }
        }
    }
}

/// Encodes a value. Bytes, numbers and batches are not copied.
pub(crate) fn encode_parts<T: Value>(value: T) -> Result<Parts, Error> {
    match encode_in_place(value) {
        Ok(parts) => parts,
        Err(value) => encode_through_serde(&value).map(Parts::Whole),
    }
}

/// Encodes a value into one piece.
pub fn encode<T: Value>(value: T) -> Result<Encoded, Error> {
    encode_parts(value).map(Parts::into_encoded)
}

/// Decodes a value.
pub(crate) fn decode<T: Value>(value: Encoded) -> Result<T, Error> {
    if value.encoding == Encoding::MSGPACK {
        return decode_through_serde(&value.data);
    }
    decode_in_place(value)
}

fn encode_in_place<T: Value>(value: T) -> Result<Result<Parts, Error>, T> {
    let id = TypeId::of::<T>();
    let mut slot = Some(value);
    if id == TypeId::of::<Bytes>()
        && let Some(bytes) = take::<T, Bytes>(&mut slot)
    {
        return Ok(Ok(Parts::Whole(Encoded::new(Encoding::RAW, bytes))));
    }
    if id == TypeId::of::<Batch>()
        && let Some(batch) = take::<T, Batch>(&mut slot)
    {
        let pieces = ipc::encode(&batch).map_err(|error| cannot::<T>("encoded", error));
        return Ok(pieces.map(|pieces| Parts::Pieces(Encoding::ARROW, pieces)));
    }
    macro_rules! numbers {
        ($($number:ty)*) => {$(
            if id == TypeId::of::<Vec<$number>>()
                && let Some(numbers) = take::<T, Vec<$number>>(&mut slot)
            {
                return Ok(Ok(Parts::Whole(Array::from(numbers).into_encoded())));
            }
            if id == TypeId::of::<Array<$number>>()
                && let Some(numbers) = take::<T, Array<$number>>(&mut slot)
            {
                return Ok(Ok(Parts::Whole(numbers.into_encoded())));
            }
        )*};
    }
    numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);
    slot.map_or_else(|| Ok(Err(cannot::<T>("encoded", "it was taken twice"))), Err)
}

fn decode_in_place<T: Value>(value: Encoded) -> Result<T, Error> {
    let id = TypeId::of::<T>();
    if id == TypeId::of::<()>() && value.is_empty() {
        return cast(());
    }
    if id == TypeId::of::<Bytes>() && matches!(value.encoding, Encoding::RAW | array::BYTES) {
        return cast(value.data);
    }
    if id == TypeId::of::<Batch>() && value.encoding == Encoding::ARROW {
        let batch = ipc::decode(value.data).map_err(|error| cannot::<T>("decoded", error))?;
        return cast(Batch::from(batch));
    }
    macro_rules! numbers {
        ($($number:ty)*) => {$(
            if id == TypeId::of::<Vec<$number>>() {
                return cast(Array::<$number>::vec_from_encoded(&value)?);
            }
            if id == TypeId::of::<Array<$number>>() {
                return cast(Array::<$number>::from_encoded(value)?);
            }
        )*};
    }
    numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);
    Err(cannot::<T>("decoded", format_args!("its bytes are {}, not a serde value", encoding_name(value.encoding))))
}

fn encode_through_serde<T: Serialize>(value: &T) -> Result<Encoded, Error> {
    // Written to a buffer that the thread keeps, then copied to memory of the right size; a value
    // whose own code encodes others finds an empty buffer.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let mut serializer = rmp_serde::Serializer::new(&mut buffer).with_struct_map();
    let (written, refs) = capture(|| value.serialize(&mut serializer));
    let data = match buffer.as_slice() {
        // Small numbers, flags, nothing at all: no memory to reserve.
        [byte] => {
            let byte = usize::from(*byte);
            Bytes::from_static(&EVERY_BYTE[byte..=byte])
        }
        small if small.len() <= KEPT_BYTES => Bytes::copy_from_slice(small),
        _ => Bytes::from(std::mem::take(&mut buffer)),
    };
    BUFFER.set(buffer);
    written.map_err(|error| cannot::<T>("encoded", error))?;
    let mut encoded = Encoded::new(Encoding::MSGPACK, data);
    encoded.refs = refs;
    Ok(encoded)
}

fn decode_through_serde<T: DeserializeOwned>(data: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(data).map_err(|error| cannot::<T>("decoded", error))
}

/// The value out of the slot, if it is a `U`.
fn take<T: 'static, U: 'static>(slot: &mut Option<T>) -> Option<U> {
    (slot as &mut dyn Any).downcast_mut::<Option<U>>()?.take()
}

/// A value of a type that is known to be `T` by its id.
fn cast<T: 'static, U: 'static>(value: U) -> Result<T, Error> {
    take(&mut Some(value)).ok_or_else(|| cannot::<T>("decoded", format_args!("it is a {}", type_name::<U>())))
}

/// The error of a codec, naming the type.
pub(crate) fn cannot<T>(doing: &str, why: impl std::fmt::Display) -> Error {
    Error::Codec {
        what: format!("a value of type {}", type_name::<T>()),
        doing: doing.to_owned(),
        why: why.to_string(),
    }
}

fn encoding_name(encoding: Encoding) -> String {
    match encoding {
        Encoding::MSGPACK => "MessagePack".to_owned(),
        Encoding::RAW => "raw bytes".to_owned(),
        Encoding::ARROW => "an Arrow batch".to_owned(),
        Encoding(code) => match array::number_name(code) {
            Some(name) => format!("an array of {name}"),
            None => format!("of the unknown encoding {code}"),
        },
    }
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The largest value that is copied out of the thread's buffer; a larger one takes it along.
const KEPT_BYTES: usize = 4096;

/// Every value of one byte.
static EVERY_BYTE: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        bytes[byte] = byte as u8;
        byte += 1;
    }
    bytes
};
