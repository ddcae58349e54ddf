//! A process's view of a store's segments.
//!
//! [`Mapping`] is one segment, mapped; [`Mappings`] keeps those of one store, so that a segment
//! that comes back with another object is already mapped and its pages are known to this
//! process. All clients and the store itself share one [`Mappings`] per process and directory.
//! Readers map read-only; who writes maps writable, and reads what it wrote there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use memmap2::{Advice, MmapOptions, MmapRaw};
use parking_lot::Mutex;

use crate::store::background::Background;
use crate::store::segment::SegmentId;

/// Mappings that a process keeps. The system allows 65,530 by default, to all users of memory.
const MAX_MAPPINGS: usize = 16_384;
/// Memory is faulted in and copied in pieces of this size, so that threads share the work evenly
/// and a page is still in the cache when it is written.
const PIECE_BYTES: usize = 1 << 20;
/// From this size on, several threads copy.
const PARALLEL_COPY_BYTES: usize = 16 << 20;
/// At most so many threads copy one object.
const COPY_THREADS: usize = 4;

/// One segment in this process's memory.
pub(crate) struct Mapping {
    map: MmapRaw,
    writable: bool,
    /// So many bytes from the first have been faulted in.
    faulted_bytes: AtomicUsize,
}

impl Mapping {
    fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        let map = if writable { MmapRaw::map_raw(&file)? } else { MmapOptions::new().map_raw_read_only(&file)? };
        Ok(Self { map, writable, faulted_bytes: AtomicUsize::new(0) })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The first `len` bytes, or as many as there are.
    ///
    /// # Safety
    /// The segment must hold a sealed object that is pinned for as long as the slice is used.
    pub(crate) unsafe fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: the mapping is at least that long and lives as long as `self`; the caller
        // answers for nobody writing to it.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), len.min(self.len())) }
    }

    /// The first `len` bytes, or as many as there are, to be written.
    ///
    /// # Safety
    /// The segment must have been created for the caller and not be sealed; no other slice of it
    /// may be in use. The mapping must be writable.
    #[allow(clippy::mut_from_ref, reason = "the memory belongs to the segment, not to the mapping")]
    pub(crate) unsafe fn bytes_mut(&self, len: usize) -> &mut [u8] {
        debug_assert!(self.writable);
        // SAFETY: as in `bytes`; the caller answers for being the only one.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), len.min(self.len())) }
    }

    /// So many bytes from the first can be touched without a fault.
    pub(crate) fn faulted_bytes(&self) -> usize {
        self.faulted_bytes.load(Ordering::Relaxed)
    }

    /// Makes the first `len` bytes known to this process, so that touching them does not fault.
    /// Blocks while the pages are zeroed or looked up.
    pub(crate) fn fault_in(&self, len: usize) {
        let len = len.min(self.len());
        let from = self.faulted_bytes.load(Ordering::Relaxed);
        if len <= from {
            return;
        }
        if len - from < PARALLEL_COPY_BYTES {
            self.fault_piece(from, len);
        } else {
            in_pieces(len - from, |start, end| self.fault_piece(from + start, from + end));
        }
        self.faulted_bytes.fetch_max(len, Ordering::Relaxed);
    }

    /// Copies `parts`, one after the other, to the start of the segment, with several threads if
    /// it is much. Blocks.
    ///
    /// # Safety
    /// As for [`bytes_mut`](Self::bytes_mut).
    pub(crate) unsafe fn fill(&self, parts: &[&[u8]]) {
        debug_assert!(self.writable);
        let mut ends = Vec::with_capacity(parts.len());
        let mut total = 0usize;
        for part in parts {
            total += part.len();
            ends.push(total);
        }
        assert!(total <= self.len(), "the caller reserved room for what it copies");
        let faulted = self.faulted_bytes.load(Ordering::Relaxed);
        let copy = |start: usize, end: usize| {
            if end > faulted {
                self.fault_piece(start.max(faulted), end);
            }
            let mut at = start;
            let mut part = ends.partition_point(|end| *end <= start);
            while at < end {
                let first = ends[part] - parts[part].len();
                let until = ends[part].min(end);
                let from = &parts[part][at - first..until - first];
                // SAFETY: `at + from.len() <= end <= total <= len`; pieces do not overlap, and the
                // caller answers for nobody else using the segment, so `from` is not in it.
                unsafe {
                    let to = self.map.as_mut_ptr().add(at);
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
                }
                at = until;
                part += 1;
            }
        };
        if total < PARALLEL_COPY_BYTES {
            copy(0, total);
        } else {
            in_pieces(total, copy);
        }
        self.faulted_bytes.fetch_max(total, Ordering::Relaxed);
    }

    fn fault_piece(&self, start: usize, end: usize) {
        if end - start < PIECE_BYTES / 4 {
            return; // Cheaper by touching it.
        }
        let start = start & !4095;
        let advice = if self.writable { Advice::PopulateWrite } else { Advice::PopulateRead };
        // An older kernel does not know this advice; then touching the pages faults them.
        let _ = self.map.advise_range(advice, start, end - start);
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len())
    }
}

/// Calls `work(start, end)` for all pieces of `0..total`, on several threads.
fn in_pieces(total: usize, work: impl Fn(usize, usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let start = next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
            if start >= total {
                return;
            }
            work(start, (start + PIECE_BYTES).min(total));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(COPY_THREADS);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without another thread this one does it alone.
            let _ = std::thread::Builder::new().name("mobula-copy".to_owned()).spawn_scoped(scope, run);
        }
        run();
    });
}

/// The mapped segments of one store.
pub(crate) struct Mappings {
    directory: PathBuf,
    mapped: Mutex<BTreeMap<SegmentId, Arc<Mapping>>>,
    /// Unmaps: that takes 25 ms for 800 MiB.
    background: Arc<Background>,
}

impl Mappings {
    /// Those of the store in `directory`, shared in this process.
    pub(crate) fn of(directory: &Path) -> Arc<Self> {
        static ALL: OnceLock<Mutex<BTreeMap<PathBuf, Weak<Mappings>>>> = OnceLock::new();
        let mut all = ALL.get_or_init(Mutex::default).lock();
        all.retain(|_, mappings| mappings.strong_count() > 0);
        if let Some(mappings) = all.get(directory).and_then(Weak::upgrade) {
            return mappings;
        }
        let mappings = Arc::new(Self {
            directory: directory.to_owned(),
            mapped: Mutex::default(),
            background: Background::new("mobula-map", 1),
        });
        all.insert(directory.to_owned(), Arc::downgrade(&mappings));
        mappings
    }

    /// The store's directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A thread for mapping where the caller must not.
    pub(crate) fn background(&self) -> &Arc<Background> {
        &self.background
    }

    /// The segment, if it is mapped already and, if asked for, writable.
    pub(crate) fn cached(&self, segment: SegmentId, writable: bool) -> Option<Arc<Mapping>> {
        self.mapped.lock().get(&segment).filter(|mapping| mapping.writable || !writable).cloned()
    }

    /// The segment, mapped now if need be.
    pub(crate) fn open(&self, segment: SegmentId, writable: bool) -> io::Result<Arc<Mapping>> {
        if let Some(mapping) = self.cached(segment, writable) {
            return Ok(mapping);
        }
        let mapping = Arc::new(Mapping::open(&self.directory.join(segment.file_name()), writable)?);
        let mut surplus = Vec::new();
        {
            let mut mapped = self.mapped.lock();
            surplus.extend(mapped.insert(segment, mapping.clone()));
            if mapped.len() > MAX_MAPPINGS {
                let unused = mapped.iter().filter(|(_, mapping)| Arc::strong_count(mapping) == 1);
                let oldest: Vec<_> = unused.map(|(segment, _)| *segment).take(MAX_MAPPINGS / 8).collect();
                surplus.extend(oldest.iter().filter_map(|segment| mapped.remove(segment)));
            }
        }
        self.unmap(surplus);
        Ok(mapping)
    }

    /// The segments are gone.
    pub(crate) fn forget(&self, segments: &[SegmentId]) {
        let mut mapped = self.mapped.lock();
        let gone: Vec<_> = segments.iter().filter_map(|segment| mapped.remove(segment)).collect();
        drop(mapped);
        self.unmap(gone);
    }

    fn unmap(&self, mappings: Vec<Arc<Mapping>>) {
        if !mappings.is_empty() {
            self.background.run(move || drop(mappings));
        }
    }
}

impl fmt::Debug for Mappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mappings").field("directory", &self.directory).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use proptest::prelude::*;

    use super::*;

    fn segment_of(bytes: u64) -> (tempfile::TempDir, Arc<Mappings>) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        File::create(directory.path().join("seg-1")).unwrap().set_len(bytes).unwrap();
        let mappings = Mappings::of(directory.path());
        (directory, mappings)
    }

    #[test]
    fn one_process_maps_a_segment_once() {
        let (directory, mappings) = segment_of(8192);
        assert!(Arc::ptr_eq(&mappings, &Mappings::of(directory.path())));
        let read = mappings.open(SegmentId(1), false).unwrap();
        let write = mappings.open(SegmentId(1), true).unwrap();
        assert!(!Arc::ptr_eq(&read, &write));
        assert!(Arc::ptr_eq(&write, &mappings.open(SegmentId(1), false).unwrap()));
        // SAFETY: this test is the only user of the segment.
        unsafe { write.bytes_mut(3) }.copy_from_slice(b"abc");
        // SAFETY: as above.
        assert_eq!(unsafe { read.bytes(3) }, b"abc");
        mappings.forget(&[SegmentId(1)]);
        assert!(mappings.cached(SegmentId(1), false).is_none());
    }

    #[test]
    fn a_missing_segment_is_an_error() {
        let (_directory, mappings) = segment_of(8192);
        assert!(mappings.open(SegmentId(2), false).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn fill_concatenates(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..8)) {
            let (_directory, mappings) = segment_of(32 << 10);
            let mapping = mappings.open(SegmentId(1), true).unwrap();
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            // SAFETY: this test is the only user of the segment.
            unsafe { mapping.fill(&slices) };
            let whole = parts.concat();
            // SAFETY: as above.
            prop_assert_eq!(unsafe { mapping.bytes(whole.len()) }, &whole[..]);
        }
    }

    #[test]
    fn large_copies_are_shared_and_whole() {
        let total = PARALLEL_COPY_BYTES + 12_345;
        let (_directory, mappings) = segment_of(total as u64);
        let mapping = mappings.open(SegmentId(1), true).unwrap();
        let whole: Vec<u8> = (0..total as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (a, rest) = whole.split_at(7);
        let (b, c) = rest.split_at(5 << 20);
        for _ in 0..2 {
            // SAFETY: this test is the only user of the segment.
            unsafe { mapping.fill(&[a, &[], b, c]) };
            // SAFETY: as above.
            assert!(unsafe { mapping.bytes(total) } == &whole[..]);
        }
    }
}
