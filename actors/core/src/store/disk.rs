//! A store's spill files: writing objects to them, reading them back, giving room back. Everything
//! here blocks and belongs on the threads of [`Disk::writer`] and [`Disk::readers`].
//!
//! Bytes go through a buffer, not through a mapping: the disk is slower than the copy, and the store
//! itself then never maps, or faults in, what only others read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use xxhash_rust::xxh3::Xxh3Default;

use crate::ids::NodeId;
use crate::store::background::Background;
use crate::store::directory::{OwnedDirectory, SHARED_MEMORY, SPILL_PREFIX, StoreDirectory, private_file};
use crate::store::pool::free_bytes;
use crate::store::spill::files::{Extent, FileId, padded};
use crate::store::spill::{Part, Written};

/// How much is read and written at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Objects that are read back at once.
const READ_THREADS: usize = 2;
/// What part of a disk's free room spilled objects may take unless told otherwise, in percent.
const DEFAULT_FREE_PERCENT: u64 = 80;

/// The spill directory of a living store.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: OwnedDirectory,
    /// One: jobs are written, and room is given back, one after the other.
    writer: Arc<Background>,
    readers: Arc<Background>,
}

/// Why an object could not be read back.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// What is there is not what was written.
    Damaged(String),
    /// The system failed; the object may be intact.
    System(io::Error),
}

impl Disk {
    /// Makes the directory of `node`'s store in `base`, and removes what crashed stores left there.
    /// `in_place` as in [`StoreConfig`](super::StoreConfig).
    pub(crate) fn create(base: &Path, node: NodeId, in_place: bool) -> io::Result<Self> {
        let (directory, ()) = OwnedDirectory::create(base, &format!("{SPILL_PREFIX}{node}"), |_| Ok(()))?;
        let threads = |many| if in_place { 0 } else { many };
        Ok(Self {
            directory,
            writer: Background::new("mobula-spill", threads(1)),
            readers: Background::new("mobula-restore", threads(READ_THREADS)),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn writer(&self) -> &Arc<Background> {
        &self.writer
    }

    pub(crate) fn readers(&self) -> &Arc<Background> {
        &self.readers
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.directory.remove()
    }

    /// Writes contents to their places, up to the first that fails.
    pub(crate) fn write(&self, store: &StoreDirectory, parts: &[Part]) -> Written {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut checksums = Vec::with_capacity(parts.len());
        for part in parts {
            match self.write_one(store, part, &mut buffer) {
                Ok(checksum) => checksums.push(checksum),
                Err(error) => return Written { checksums, error: Some(error.to_string()) },
            }
        }
        Written { checksums, error: None }
    }

    fn write_one(&self, store: &StoreDirectory, part: &Part, buffer: &mut [u8]) -> io::Result<u64> {
        let Extent { file, offset, size_bytes } = part.extent;
        let from = store.open_segment(part.segment)?;
        let path = self.file(file);
        let to = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => private_file(&path)?,
            opened => opened?,
        };
        copy((&from, 0), (&to, offset), size_bytes, buffer)
    }

    /// Fills a segment with what was written at a place, and sees to it that it is that.
    pub(crate) fn read(&self, extent: Extent, checksum: u64, to: &File) -> Result<(), ReadError> {
        let Extent { file, offset, size_bytes } = extent;
        let from = File::open(self.file(file)).map_err(ReadError::of)?;
        let mut buffer = vec![0; BUFFER_BYTES.min(padded(size_bytes) as usize)];
        let found = copy((&from, offset), (to, 0), size_bytes, &mut buffer).map_err(ReadError::of)?;
        if found != checksum {
            let why = format!("the checksum of {size_bytes} bytes is {found:x}, it was {checksum:x}");
            return Err(ReadError::Damaged(why));
        }
        Ok(())
    }

    /// Gives what a place takes back to the file system. False if that cannot be done.
    pub(crate) fn punch(&self, extent: Extent) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = OpenOptions::new()
            .write(true)
            .open(self.file(extent.file))
            .and_then(|file| Ok(fallocate(&file, flags, extent.offset, padded(extent.size_bytes))?));
        punched.is_ok()
    }

    /// Removes a file.
    pub(crate) fn remove_file(&self, file: FileId) {
        let path = self.file(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a spill file");
            }
            // It may never have been made.
            _ => {}
        }
    }

    fn file(&self, file: FileId) -> PathBuf {
        self.path().join(format!("spill-{}", file.0))
    }
}

impl ReadError {
    fn of(error: io::Error) -> Self {
        use rustix::io::Errno;
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC].map(|errno| errno.raw_os_error());
        match error.raw_os_error() {
            Some(code) if passing.contains(&code) => Self::System(error),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// Copies from a place in one file to a place in another; returns the checksum of what was copied.
fn copy(from: (&File, u64), to: (&File, u64), size_bytes: u64, buffer: &mut [u8]) -> io::Result<u64> {
    let mut checksum = Xxh3Default::new();
    let mut done = 0;
    while done < size_bytes {
        let most = buffer.len().min((size_bytes - done) as usize);
        let chunk = &mut buffer[..most];
        from.0.read_exact_at(chunk, from.1 + done)?;
        checksum.update(chunk);
        to.0.write_all_at(chunk, to.1 + done)?;
        done += most as u64;
    }
    Ok(checksum.digest())
}

/// Where stores spill to unless told otherwise: the directory for temporary files, or, where that is
/// in memory itself, the one for those that stay longer.
pub(crate) fn default_base() -> PathBuf {
    let usual = std::env::temp_dir();
    let lasting = PathBuf::from("/var/tmp");
    if is_memory(&usual) && lasting.is_dir() && !is_memory(&lasting) { lasting } else { usual }
}

/// How much the store may spill in `base`: what was asked for, or its share of what is free there.
pub(crate) fn limit_bytes(base: &Path, asked_bytes: Option<u64>) -> io::Result<u64> {
    match asked_bytes {
        Some(bytes) => Ok(bytes),
        None => Ok(free_bytes(base)? / 100 * DEFAULT_FREE_PERCENT),
    }
}

/// Whether the directory is on the same kind of file system as shared memory.
fn is_memory(path: &Path) -> bool {
    let kind = |path: &Path| rustix::fs::statfs(path).map(|about| about.f_type);
    matches!((kind(path), kind(Path::new(SHARED_MEMORY))), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::{ContentId, SegmentId};

    fn extent(offset: u64, size_bytes: u64) -> Extent {
        Extent { file: FileId(1), offset, size_bytes }
    }

    fn filled(directory: &StoreDirectory, segment: u64, data: &[u8]) -> SegmentId {
        let file = directory.create_segment(SegmentId(segment), padded(data.len() as u64)).unwrap();
        file.write_all_at(data, 0).unwrap();
        SegmentId(segment)
    }

    fn taken(disk: &Disk) -> u64 {
        let about = fs::metadata(disk.file(FileId(1))).unwrap();
        std::os::unix::fs::MetadataExt::blocks(&about) * 512
    }

    #[test]
    fn what_is_written_is_read_back_and_what_is_freed_takes_no_room() {
        let base = tempfile::tempdir_in(SHARED_MEMORY).unwrap();
        let store = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        let disk = Disk::create(base.path(), NodeId::random(), true).unwrap();
        let long: Vec<u8> = (0..3_000_000u32).map(|n| (n >> 3) as u8).collect();
        let part = |n, segment, extent| Part { content: ContentId(n), segment, extent };
        let parts = [
            part(1, filled(&store, 1, b"abc"), extent(0, 3)),
            part(2, filled(&store, 2, &long), extent(4096, long.len() as u64)),
            part(3, filled(&store, 3, b""), extent(4096 + padded(long.len() as u64), 0)),
        ];
        let Written { checksums, error } = disk.write(&store, &parts);
        assert_eq!((checksums.len(), error), (3, None));
        let back = store.create_segment(SegmentId(9), padded(long.len() as u64)).unwrap();
        for (part, checksum) in parts.iter().zip(&checksums) {
            disk.read(part.extent, *checksum, &back).unwrap();
        }
        disk.read(parts[1].extent, checksums[1], &back).unwrap();
        let mut found = vec![0; long.len()];
        back.read_exact_at(&mut found, 0).unwrap();
        assert!(found == long);
        let before = taken(&disk);
        assert!(disk.punch(parts[1].extent));
        assert_eq!(before - taken(&disk), padded(long.len() as u64));
        disk.read(parts[0].extent, checksums[0], &back).unwrap();
        disk.remove_file(FileId(1));
        disk.remove_file(FileId(1));
        assert!(!disk.file(FileId(1)).exists());
    }

    #[test]
    fn damage_is_found_and_a_write_that_fails_says_how_far_it_came() {
        let base = tempfile::tempdir_in(SHARED_MEMORY).unwrap();
        let store = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        let disk = Disk::create(base.path(), NodeId::random(), true).unwrap();
        let good = Part { content: ContentId(1), segment: filled(&store, 1, b"abc"), extent: extent(0, 3) };
        let gone = Part { content: ContentId(2), segment: SegmentId(2), extent: extent(4096, 3) };
        let Written { checksums, error } = disk.write(&store, &[good, gone, good]);
        assert_eq!(checksums.len(), 1);
        assert!(error.is_some());
        let back = store.create_segment(SegmentId(9), 4096).unwrap();
        disk.read(good.extent, checksums[0], &back).unwrap();
        fs::write(disk.file(FileId(1)), b"abd").unwrap();
        assert!(matches!(disk.read(good.extent, checksums[0], &back), Err(ReadError::Damaged(_))));
        fs::write(disk.file(FileId(1)), b"ab").unwrap();
        assert!(matches!(disk.read(good.extent, checksums[0], &back), Err(ReadError::Damaged(_))));
        fs::remove_file(disk.file(FileId(1))).unwrap();
        assert!(matches!(disk.read(good.extent, checksums[0], &back), Err(ReadError::Damaged(_))));
    }
}
