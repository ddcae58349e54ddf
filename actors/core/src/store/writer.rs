//! An object while it is being written.

use std::fmt;
use std::sync::Arc;

use smallvec::smallvec;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::messages::StoredObject;
use crate::store::client::Inner;
use crate::store::mapping::Mapping;
use crate::store::messages::{AbortObject, SealObject};
use crate::store::segment::SegmentId;
use crate::value::Encoding;

/// An object of fixed size that this process writes in place. [`seal`](Self::seal) makes it
/// readable; dropping the writer instead gives the room back.
pub struct ObjectWriter {
    inner: Arc<Inner>,
    object: ObjectId,
    encoding: Encoding,
    size_bytes: u64,
    segment: SegmentId,
    /// Absent only while it could not be made.
    mapping: Option<Arc<Mapping>>,
    sealed: bool,
}

impl ObjectWriter {
    pub(crate) fn open(
        inner: Arc<Inner>,
        object: ObjectId,
        encoding: Encoding,
        size_bytes: u64,
        segment: SegmentId,
    ) -> Result<Self, Error> {
        // The writer is there before the mapping, so that the room goes back if that fails.
        let mut writer = Self { inner, object, encoding, size_bytes, segment, mapping: None, sealed: false };
        writer.mapping = Some(writer.inner.map(segment, true)?);
        Ok(writer)
    }

    /// The object's size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The object's bytes, to be written. They begin at a page and hold whatever was there before.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &self.mapping {
            // SAFETY: the store gave the segment to this writer alone, and it is not sealed; the
            // exclusive borrow of the writer makes this the only slice. It was mapped writable.
            Some(mapping) => unsafe { mapping.bytes_mut(self.size_bytes as usize) },
            None => &mut [],
        }
    }

    /// Writes `parts`, one after the other, from the object's start: with several threads if it
    /// is much, and without faulting page by page where the memory is fresh.
    ///
    /// # Panics
    /// If the parts are longer than the object.
    pub fn fill(&mut self, parts: &[&[u8]]) {
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        assert!(total <= self.size_bytes, "{total} bytes do not fit in an object of {}", self.size_bytes);
        if let Some(mapping) = &self.mapping {
            // SAFETY: as in `as_mut_slice`.
            unsafe { mapping.fill(parts) }
        }
    }

    /// The object is written: from now on it can be read, by every process of the node, and will
    /// never change.
    pub fn seal(mut self) -> Result<StoredObject, Error> {
        self.sealed = true;
        self.inner.tell_shard(&self.object, SealObject { segment: self.segment });
        Ok(StoredObject {
            object: self.object,
            encoding: self.encoding,
            size_bytes: self.size_bytes,
            nodes: smallvec![self.inner.store()],
        })
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        if !self.sealed {
            self.inner.tell_shard(&self.object, AbortObject { segment: self.segment });
        }
    }
}

impl fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectWriter({}, {} bytes)", self.object, self.size_bytes)
    }
}
