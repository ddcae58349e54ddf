//! A link's memory where both members see the same: a ring of slots between two processes.
//!
//! ```text
//!   0      magic, size of a slot
//!   128    sent: so many pieces in all                (written by the sender)
//!   256    taken: so many of them are read            (written by the receiver)
//!   384    bells: of the receiver, of the sender
//!   640    the lengths of what is in the slots
//!   4096   slot 0, slot 1, ...                        piece n is in slot n mod SLOTS
//! ```
//! The sender makes a file in the directory of its node's store, with its memory reserved, so that
//! touching it cannot fail; the receiver maps it, and the file is removed. The memory is there
//! until both have unmapped it or are dead: nothing is left of a member that is killed, but a file
//! that it had not removed yet, which goes with the store's directory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::MmapRaw;
use rustix::fs::{FallocateFlags, fallocate};
use uuid::Uuid;

use super::bell::Bell;
use super::ring::BURST;

/// Pieces that may be on a link: those of a hop, the call before them, and as many again, so that
/// neighbours need not keep step.
pub(super) const SLOTS: usize = 2 * BURST;
/// Where the first slot is.
const HEADER_BYTES: usize = 4096;
/// Says what the file is.
const MAGIC: u64 = u64::from_le_bytes(*b"mobring1");

/// What is written by one side alone has a cache line (and the one fetched with it) of its own.
#[repr(C, align(128))]
struct Line<T>(T);

#[repr(C)]
struct Header {
    magic: AtomicU64,
    slot_bytes: AtomicU64,
    sent: Line<AtomicU64>,
    taken: Line<AtomicU64>,
    receiver: Line<Bell>,
    sender: Line<Bell>,
    lengths: Line<[AtomicU32; SLOTS]>,
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES && align_of::<Header>() <= HEADER_BYTES);

/// The memory of one link, mapped.
pub(super) struct Segment {
    map: MmapRaw,
    slot_bytes: usize,
}

impl Segment {
    /// Blocks: makes a segment and its file in `directory`.
    pub(super) fn create(directory: &Path, slot_bytes: usize) -> io::Result<(Self, SegmentFile)> {
        let slot_bytes = slot_bytes.next_multiple_of(64);
        let bytes = HEADER_BYTES + SLOTS * slot_bytes;
        let path = directory.join(format!("link-{}", Uuid::new_v4().simple()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // Removed from here on, whatever happens.
        let owned = SegmentFile(path);
        file.set_len(bytes as u64)?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
        let segment = Self { map: MmapRaw::map_raw(&file)?, slot_bytes };
        segment.header().slot_bytes.store(slot_bytes as u64, Ordering::Relaxed);
        segment.header().magic.store(MAGIC, Ordering::Release);
        Ok((segment, owned))
    }

    /// Blocks: maps the segment that another member has made. Fails where it is not to be seen.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not the memory of a link");
        let bytes = usize::try_from(file.metadata()?.len()).map_err(|_| damaged())?;
        if bytes < HEADER_BYTES {
            return Err(damaged());
        }
        let segment = Self { map: MmapRaw::map_raw(&file)?, slot_bytes: (bytes - HEADER_BYTES) / SLOTS };
        let header = segment.header();
        let intact = header.magic.load(Ordering::Acquire) == MAGIC
            && header.slot_bytes.load(Ordering::Relaxed) == segment.slot_bytes as u64;
        if intact { Ok(segment) } else { Err(damaged()) }
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins at a page, is at least that long and lives as long as `self`;
        // a header is made of atomics, for which any bytes are a value and which other processes
        // may change.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn slot(&self, piece: u64) -> (*mut u8, usize) {
        let slot = (piece % SLOTS as u64) as usize;
        // SAFETY: within the mapping, whose length both ends have checked.
        (unsafe { self.map.as_mut_ptr().add(HEADER_BYTES + slot * self.slot_bytes) }, slot)
    }

    /// Rung when a piece has come, or the receiver must look up for another reason.
    pub(super) fn receiver(&self) -> &Bell {
        &self.header().receiver.0
    }

    /// Rung when a slot is free, or the sender must look up for another reason.
    pub(super) fn sender(&self) -> &Bell {
        &self.header().sender.0
    }

    /// The sender has sent `sent` pieces: is there room for another one?
    pub(super) fn has_room(&self, sent: u64) -> bool {
        sent.wrapping_sub(self.header().taken.0.load(Ordering::Acquire)) < SLOTS as u64
    }

    /// The sender writes piece number `sent`, for which there [is room](Self::has_room).
    ///
    /// # Panics
    /// If the piece is longer than a slot.
    pub(super) fn write<R>(&self, sent: u64, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(len <= self.slot_bytes, "a piece of {len} bytes in a slot of {}", self.slot_bytes);
        let (start, slot) = self.slot(sent);
        // SAFETY: the slot is free, so the receiver does not touch it before `sent` is counted up;
        // there is one sender, which makes one slice at a time.
        let filled = fill(unsafe { std::slice::from_raw_parts_mut(start, len) });
        let header = self.header();
        header.lengths.0[slot].store(len as u32, Ordering::Relaxed);
        header.sent.0.store(sent + 1, Ordering::Release);
        header.receiver.0.ring();
        filled
    }

    /// The receiver has taken `taken` pieces: is there another one?
    pub(super) fn has_piece(&self, taken: u64) -> bool {
        self.header().sent.0.load(Ordering::Acquire) != taken
    }

    /// The receiver reads piece number `taken`, which [has come](Self::has_piece), and frees its
    /// slot.
    pub(super) fn read<R>(&self, taken: u64, read: impl FnOnce(&[u8]) -> R) -> R {
        let (start, slot) = self.slot(taken);
        let len = self.header().lengths.0[slot].load(Ordering::Relaxed) as usize;
        // SAFETY: the piece was sent, so the sender does not touch its slot before `taken` is
        // counted up; and the slice does not leave the slot, whatever the length says.
        let result = read(unsafe { std::slice::from_raw_parts(start, len.min(self.slot_bytes)) });
        self.header().taken.0.store(taken + 1, Ordering::Release);
        self.header().sender.0.ring();
        result
    }
}

/// The file of a segment: removed when this is dropped.
pub(super) struct SegmentFile(PathBuf);

impl SegmentFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SegmentFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "cannot remove the file of a link");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn pieces_come_whole_and_in_order_through_two_mappings() {
        let directory = directory();
        let (sender, file) = Segment::create(directory.path(), 1000).unwrap();
        let receiver = Segment::open(file.path()).unwrap();
        drop(file);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the memory outlives its file");
        const PIECES: u64 = 5_000;
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in 0..PIECES {
                    assert!(sender.sender().wait(|| sender.has_room(piece), deadline));
                    sender.write(piece, (piece % 1001) as usize, |slot| slot.fill(piece as u8));
                }
            });
            for piece in 0..PIECES {
                assert!(receiver.receiver().wait(|| receiver.has_piece(piece), deadline));
                receiver.read(piece, |slot| {
                    assert_eq!(slot.len(), (piece % 1001) as usize);
                    assert!(slot.iter().all(|byte| *byte == piece as u8));
                });
            }
        });
        assert!(!receiver.has_piece(PIECES));
    }

    #[test]
    fn a_link_is_full_when_its_slots_are() {
        let directory = directory();
        let (segment, _file) = Segment::create(directory.path(), 8).unwrap();
        for piece in 0..SLOTS as u64 {
            assert!(segment.has_room(piece));
            segment.write(piece, 0, |_| ());
        }
        assert!(!segment.has_room(SLOTS as u64));
        segment.read(0, |_| ());
        assert!(segment.has_room(SLOTS as u64));
    }

    #[test]
    fn what_is_no_link_is_not_mapped() {
        let directory = directory();
        let path = directory.path().join("other");
        assert!(Segment::open(&path).is_err());
        fs::write(&path, "short").unwrap();
        assert!(Segment::open(&path).is_err());
        fs::write(&path, vec![1; HEADER_BYTES + SLOTS * 64]).unwrap();
        assert!(Segment::open(&path).is_err());
        let (_segment, file) = Segment::create(directory.path(), 64).unwrap();
        OpenOptions::new().write(true).open(file.path()).unwrap().set_len(HEADER_BYTES as u64 + 64).unwrap();
        assert!(Segment::open(file.path()).is_err(), "cut short");
    }
}
