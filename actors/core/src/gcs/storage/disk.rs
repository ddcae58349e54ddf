//! How the head's database is opened: [`open_file`], and [`open`] for whatever else redb can live on.
//!
//! redb finds the last whole commit after a crash at any time, with two exceptions that are seen to
//! here. A file whose *making* was cut short has no magic number yet, and redb takes it for
//! somebody else's: [`Begun`] empties it, so that it is made again; nothing was promised of it. And
//! a file that was closed well is trusted by redb, whatever has become of it since; here every page
//! is checked each time.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, DatabaseError, StorageBackend};

/// What a file of redb's begins with, written when all else of a new file is on disk.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// redb's header lies within; behind it a new file has only zeros until the magic number is there.
const HEADER_BYTES: u64 = 512;
/// How much of a file is looked at in one piece.
const PIECE_BYTES: usize = 64 << 10;

/// Opens or makes the file at `path`, and sees to it that its name is on disk, too.
pub(super) fn open_file(path: &Path) -> Result<Database, DatabaseError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let database = open(FileBackend::new(file)?)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Else a new file could be gone after a power cut, with all that was synced into it.
        File::open(folder)?.sync_all()?;
    }
    Ok(database)
}

/// The same for what is not a file.
pub(super) fn open(backend: impl StorageBackend) -> Result<Database, DatabaseError> {
    let begun = Begun { inner: backend, looked: AtomicBool::new(false) };
    Builder::new().set_check_integrity_on_open(true).create_with_backend(begun)
}

/// A backend that is empty if its database was never made to the end.
///
/// redb asks for the length after it has locked the backend and before anything else, so that is
/// when this looks: nobody else is making it then.
struct Begun<B> {
    inner: B,
    looked: AtomicBool,
}

impl<B> fmt::Debug for Begun<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begun")
    }
}

/// Whether the making of this was cut short: the magic number is not whole, and nothing follows the
/// header. A database in which anything was ever stored, and which has lost its first bytes, has
/// more than that: it is damaged, and stays as it is.
fn is_unfinished(backend: &impl StorageBackend, len: u64) -> io::Result<bool> {
    let mut found = [0; MAGIC.len()];
    let there = MAGIC.len().min(usize::try_from(len).unwrap_or(usize::MAX));
    backend.read(0, &mut found[..there])?;
    let written = found.iter().zip(MAGIC).take_while(|(found, magic)| **found == *magic).count();
    if written == MAGIC.len() || found[written..].iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = HEADER_BYTES;
    while at < len {
        let size = (len - at).min(PIECE_BYTES as u64);
        // At most PIECE_BYTES, which is a usize.
        let piece = &mut piece[..size as usize];
        backend.read(at, piece)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += size;
    }
    Ok(true)
}

impl<B: StorageBackend> StorageBackend for Begun<B> {
    fn len(&self) -> io::Result<u64> {
        let len = self.inner.len()?;
        if len == 0 || self.looked.swap(true, Ordering::Relaxed) || !is_unfinished(&self.inner, len)? {
            return Ok(len);
        }
        tracing::warn!("the head's state was never made to the end; making it again");
        self.inner.set_len(0)?;
        Ok(0)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
