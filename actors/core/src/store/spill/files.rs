//! Pure: which spill files there are, what is in them, and what they take of the disk.
//!
//! Small objects share files: a job appends to the open file while that stays below about
//! [`SPILL_FILE_BYTES`], a larger object has a file of its own. What has been freed is given back to
//! the file system where it lies (a hole in the file), so that a file that is mostly dead takes
//! little; where the file system cannot do that, the whole file counts until its last object goes.
//!
//! ```text
//!   spill-7   ┌─────────┬───────────┬ ─ ─ ─ ─ ┬─────┐
//!             │ object  │  object   │  (hole)   object
//!             └─────────┴───────────┴ ─ ─ ─ ─ ┴─────┘   every object begins at a page
//! ```

use std::collections::BTreeMap;

use super::Effect;
use crate::store::segment::PAGE_BYTES;

/// How large a file that several objects share becomes.
pub(crate) const SPILL_FILE_BYTES: u64 = 64 << 20;

/// A file in the spill directory. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId(pub(crate) u64);

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) size_bytes: u64,
}

/// What an object of `size_bytes` takes of a file.
pub(crate) fn padded(size_bytes: u64) -> u64 {
    size_bytes.max(1).next_multiple_of(PAGE_BYTES)
}

/// The files of a store.
#[derive(Debug)]
pub(crate) struct Files {
    limit_bytes: u64,
    file_bytes: u64,
    /// What all files take together.
    disk_bytes: u64,
    files: BTreeMap<FileId, SpillFile>,
    /// The one that is appended to.
    open: Option<FileId>,
    next: u64,
}

#[derive(Debug, Default)]
struct SpillFile {
    /// Where the next object goes.
    end: u64,
    /// Objects in it that somebody may want, and those being written.
    live: u64,
    /// What it takes of the disk.
    taken_bytes: u64,
}

impl Files {
    pub(crate) fn new(limit_bytes: u64, file_bytes: u64) -> Self {
        Self { limit_bytes, file_bytes, disk_bytes: 0, files: BTreeMap::new(), open: None, next: 0 }
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What all files take of the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Whether so much more stays within the bound.
    pub(crate) fn has_room(&self, padded_bytes: u64) -> bool {
        self.disk_bytes.checked_add(padded_bytes).is_some_and(|sum| sum <= self.limit_bytes)
    }

    /// Places for objects of these sizes, one after the other in one file.
    pub(crate) fn place(&mut self, sizes: &[u64]) -> Vec<Extent> {
        let total: u64 = sizes.iter().map(|size| padded(*size)).sum();
        let fits = |file: &SpillFile| file.end + total <= self.file_bytes;
        let open = self.open.filter(|open| self.files.get(open).is_some_and(fits));
        let id = open.unwrap_or_else(|| {
            self.next += 1;
            FileId(self.next)
        });
        let file = self.files.entry(id).or_default();
        let mut extents = Vec::with_capacity(sizes.len());
        for size in sizes {
            extents.push(Extent { file: id, offset: file.end, size_bytes: *size });
            file.end += padded(*size);
        }
        file.live += sizes.len() as u64;
        file.taken_bytes += total;
        self.disk_bytes += total;
        if total < self.file_bytes {
            self.open = Some(id);
        }
        extents
    }

    /// Nobody wants what is there any more.
    pub(crate) fn release(&mut self, extent: Extent, effects: &mut Vec<Effect>) {
        let Some(file) = self.files.get_mut(&extent.file) else { return };
        file.live -= 1;
        if file.live > 0 {
            effects.push(Effect::Punch(extent));
            return;
        }
        if self.open == Some(extent.file) {
            self.open = None;
        }
        effects.push(Effect::Remove(extent.file));
    }

    /// The place has been given back to the file system.
    pub(crate) fn punched(&mut self, extent: Extent) {
        if let Some(file) = self.files.get_mut(&extent.file) {
            let bytes = padded(extent.size_bytes);
            file.taken_bytes -= bytes;
            self.disk_bytes -= bytes;
        }
    }

    /// The file is gone.
    pub(crate) fn removed(&mut self, file: FileId) {
        if let Some(file) = self.files.remove(&file) {
            self.disk_bytes -= file.taken_bytes;
        }
    }
}
