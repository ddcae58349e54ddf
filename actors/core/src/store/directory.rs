//! A store's directory in shared memory, how a process proves that it sees the same one, and
//! what becomes of it (and of the one on disk) when the store's process crashes.
//!
//! ```text
//!   /dev/shm/mobula-<node>/      0700
//!     lock                       flock'd by the living store, so free if that is dead
//!     proof                      random text: who can read it runs on this machine
//!     seg-<n>                    one per segment
//!
//!   /tmp/mobula-spill-<node>/    0700, or where StoreConfig says
//!     lock                       likewise
//!     spill-<n>                  spilled objects, see `spill/files`
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use uuid::Uuid;

use crate::ids::NodeId;
use crate::store::segment::SegmentId;

/// Where stores live unless told otherwise.
pub(crate) const SHARED_MEMORY: &str = "/dev/shm";
const PREFIX: &str = "mobula-";
/// How the names of directories for spilled objects begin.
pub(crate) const SPILL_PREFIX: &str = "mobula-spill-";
/// A directory is made under this name and renamed when its lock is held, so that nobody takes
/// a store that is just starting for a dead one.
const STARTING_PREFIX: &str = ".mobula-starting-";
/// A directory that was left while starting is removed when it is this old.
const STARTING_AGE: Duration = Duration::from_secs(60);
const LOCK_FILE: &str = "lock";
const PROOF_FILE: &str = "proof";

/// A directory that goes when its process has died: the next one that is made beside it removes it.
#[derive(Debug)]
pub(crate) struct OwnedDirectory {
    path: PathBuf,
    /// Locked as long as this is open.
    _lock: File,
}

impl OwnedDirectory {
    /// Makes the directory `name` in `base`, where `fill` may put something before others see it, and
    /// removes what crashed stores left there.
    pub(crate) fn create<T>(
        base: &Path,
        name: &str,
        fill: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        remove_leftovers(base);
        let starting = base.join(format!("{STARTING_PREFIX}{}", Uuid::new_v4().simple()));
        let path = base.join(name);
        DirBuilder::new().mode(0o700).create(&starting)?;
        let made = Self::lock(&starting).and_then(|lock| {
            let filled = fill(&starting)?;
            fs::rename(&starting, &path)?;
            Ok((Self { path, _lock: lock }, filled))
        });
        if made.is_err() {
            // The first error tells more than a second one would.
            let _ = fs::remove_dir_all(&starting);
        }
        made
    }

    fn lock(starting: &Path) -> io::Result<File> {
        let lock = private_file(&starting.join(LOCK_FILE))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(lock)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

/// The directory of a living store.
#[derive(Debug)]
pub(crate) struct StoreDirectory {
    directory: OwnedDirectory,
    proof: String,
}

impl StoreDirectory {
    /// Makes the directory of `node`'s store in `base`, and removes what crashed stores left.
    pub(crate) fn create(base: &Path, node: NodeId) -> io::Result<Self> {
        let (directory, proof) = OwnedDirectory::create(base, &format!("{PREFIX}{node}"), |starting| {
            let proof = Uuid::new_v4().simple().to_string();
            private_file(&starting.join(PROOF_FILE))?.write_all(proof.as_bytes())?;
            Ok(proof)
        })?;
        Ok(Self { directory, proof })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The text in its file `proof`.
    pub(crate) fn proof(&self) -> &str {
        &self.proof
    }

    /// Makes a segment's file. Its memory has to be [reserved](Self::reserve) before it is touched.
    pub(crate) fn create_segment(&self, segment: SegmentId, bytes: u64) -> io::Result<File> {
        let file = private_file(&self.path().join(segment.file_name()))?;
        file.set_len(bytes)?;
        Ok(file)
    }

    /// An existing segment's file.
    pub(crate) fn open_segment(&self, segment: SegmentId) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path().join(segment.file_name()))
    }

    /// Reserves the memory of a part of a segment: once this has returned, touching it cannot fail.
    pub(crate) fn reserve(file: &File, from: u64, until: u64) -> io::Result<()> {
        Ok(fallocate(file, FallocateFlags::empty(), from, until - from)?)
    }

    /// Removes a segment's file and gives its memory back, even while it is mapped somewhere.
    pub(crate) fn remove_segment(&self, segment: SegmentId) {
        let path = self.path().join(segment.file_name());
        let emptied = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        if let Err(error) = emptied.and_then(|()| fs::remove_file(&path)) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a segment");
        }
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.directory.remove()
    }
}

/// Whether the directory `path` is on this machine and belongs to the store with this proof.
pub(crate) fn has_proof(path: &Path, proof: &str) -> io::Result<bool> {
    Ok(!proof.is_empty() && fs::read(path.join(PROOF_FILE))? == proof.as_bytes())
}

pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Removes the directories of stores that are dead: nobody holds their lock.
fn remove_leftovers(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    let me = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let starting = name.starts_with(STARTING_PREFIX);
        if !starting && !name.starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(about) = fs::symlink_metadata(&path) else {
            continue;
        };
        if !about.is_dir() || about.uid() != me {
            continue;
        }
        let age = || about.modified().ok().and_then(|made| SystemTime::now().duration_since(made).ok());
        if starting && age().is_none_or(|age| age <= STARTING_AGE) {
            // Its lock is about to be taken, and must not be held by this look.
            continue;
        }
        let dead = match File::open(path.join(LOCK_FILE)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => starting,
        };
        if dead {
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "removed what a crashed store left")
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove what a crashed store left")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> tempfile::TempDir {
        tempfile::tempdir_in(SHARED_MEMORY).unwrap()
    }

    #[test]
    fn a_crashed_predecessor_is_cleaned_up_and_a_living_one_is_not() {
        let base = base();
        let living = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        living.create_segment(SegmentId(1), 8192).unwrap();
        let dead = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        dead.create_segment(SegmentId(1), 8192).unwrap();
        let left = dead.path().to_owned();
        drop(dead);
        let stranger = base.path().join("mobula-of-somebody-without-a-lock");
        fs::create_dir(&stranger).unwrap();
        let next = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        assert!(!left.exists());
        assert!(living.path().join("seg-1").exists() && next.path().exists() && stranger.exists());
        assert_eq!(fs::metadata(next.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_proof_tells_stores_apart() {
        let base = base();
        let one = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        let other = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        assert!(has_proof(one.path(), one.proof()).unwrap());
        assert!(!has_proof(one.path(), other.proof()).unwrap());
        assert!(!has_proof(one.path(), "").unwrap());
        assert!(has_proof(Path::new("/nowhere"), one.proof()).is_err());
    }

    #[test]
    fn a_segments_memory_is_there_until_it_is_removed() {
        let base = base();
        let directory = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        let open = directory.create_segment(SegmentId(0xab), 1 << 20).unwrap();
        let file = directory.path().join("seg-ab");
        assert_eq!(fs::metadata(&file).unwrap().blocks(), 0);
        StoreDirectory::reserve(&open, 0, 1 << 20).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().blocks() * 512, 1 << 20);
        directory.remove_segment(SegmentId(0xab));
        assert!(!file.exists());
        directory.remove().unwrap();
        assert!(!directory.path().exists());
    }
}
