//! A value as bytes: what travels in replies, lies in the store, and is handed to a function.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::client::{INLINE_LIMIT_BYTES, Refs};

/// How a value's bytes are to be read.
///
/// The core never looks inside; the framework's codecs and the data blocks do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Encoding(pub u8);

impl Encoding {
    /// MessagePack, written through serde.
    pub const MSGPACK: Self = Self(0);
    /// Bytes as they are.
    pub const RAW: Self = Self(1);
    /// An Arrow IPC stream of one batch, its buffers aligned to 64 bytes.
    pub const ARROW: Self = Self(2);
    /// Numbers, little-endian and aligned to their size; the element type's code is added.
    pub const NUMBERS: Self = Self(16);
}

/// An encoded value. Cloning it is cheap; its bytes may lie in the node's shared memory, which
/// they keep from being recycled until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Value {
    /// How to read the bytes.
    pub encoding: Encoding,
    /// The bytes, read-only.
    pub data: Bytes,
    /// The references that were written into the bytes, held as long as the value is; none where
    /// the bytes came from elsewhere.
    pub refs: Refs,
    /// More bytes, behind `data`: only a large value that code has just returned has some, on its
    /// way into the store, where they are written one after the other.
    pub(crate) rest: Vec<Bytes>,
}

impl Value {
    /// A value of these bytes, without references inside.
    pub fn new(encoding: Encoding, data: impl Into<Bytes>) -> Self {
        Self { encoding, data: data.into(), refs: Refs::default(), rest: Vec::new() }
    }

    /// A value for code to return: the concatenation of `parts`, which are copied once, into the
    /// store, if they are large.
    pub fn returned(encoding: Encoding, mut parts: Vec<Bytes>) -> Self {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if bytes <= INLINE_LIMIT_BYTES {
            return Self::new(encoding, parts.concat());
        }
        let rest = parts.split_off(1);
        Self { rest, ..Self::new(encoding, parts.remove(0)) }
    }

    /// All of its bytes, in order.
    pub(crate) fn slices(&self) -> Vec<&[u8]> {
        std::iter::once(&self.data).chain(&self.rest).map(AsRef::as_ref).collect()
    }

    /// The value `()`: MessagePack's nil, which is how serde writes it.
    pub(crate) fn unit() -> Self {
        Self::new(Encoding::MSGPACK, Bytes::from_static(&[0xc0]))
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.data.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}
