//! A store's shared memory: the [`ledger`](super::ledger) with the files it speaks of.
//!
//! [`Pool::reserve`] and [`Pool::recycle`] are quick and may be called by actors; whatever makes
//! or removes a file is done by [`Pool::make`] and [`Pool::remove`], which block and belong on
//! the [`Pool::io`] threads.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::ProcessId;
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::time::Instant;

use crate::error::Error;
use crate::ids::ObjectId;
use crate::store::background::Background;
use crate::store::directory::StoreDirectory;
use crate::store::ledger::{Full, Ledger, Reserved};
use crate::store::segment::SegmentId;

/// Threads that make and remove files and fault memory.
pub(crate) const IO_THREADS: usize = 2;
/// Segments that may be waiting to be made; more is answered as a failure of the system.
pub(crate) const MAX_MAKING: usize = 65_536;
/// What part of the machine's memory a store may take, in percent.
const DEFAULT_MEMORY_PERCENT: u64 = 30;
/// What part of the free shared memory a store may take, in percent.
const MAX_FREE_PERCENT: u64 = 90;

/// The memory of one store, shared by its shards.
#[derive(Debug)]
pub(crate) struct Pool {
    ledger: Mutex<Ledger>,
    directory: StoreDirectory,
    io: Arc<Background>,
    started: Instant,
}

impl Pool {
    pub(crate) fn new(directory: StoreDirectory, capacity_bytes: u64, io_threads: usize) -> Self {
        Self {
            ledger: Mutex::new(Ledger::new(capacity_bytes)),
            directory,
            io: Background::new("mobula-store-io", io_threads),
            started: Instant::now(),
        }
    }

    pub(crate) fn directory(&self) -> &StoreDirectory {
        &self.directory
    }

    /// The threads for what blocks.
    pub(crate) fn io(&self) -> &Arc<Background> {
        &self.io
    }

    /// A segment for an object of `size_bytes`. A fresh one has to be [made](Self::make).
    pub(crate) fn reserve(&self, size_bytes: u64, user: ProcessId) -> Result<Reserved, Error> {
        self.ledger.lock().reserve(size_bytes, user).map_err(|Full { free_bytes, capacity_bytes }| Error::StoreFull {
            size_bytes,
            free_bytes,
            capacity_bytes,
        })
    }

    /// Blocks: removes what had to go for the segment and makes its file if it is fresh, memory
    /// and all. When that fails the reservation is undone.
    pub(crate) fn make(&self, reserved: &Reserved) -> Result<(), Error> {
        if !reserved.fresh {
            self.remove(&reserved.dropped);
            return Ok(());
        }
        let file = self.begin(reserved);
        match file.and_then(|file| StoreDirectory::reserve(&file, 0, reserved.class_bytes)) {
            Ok(()) => {
                self.made(reserved);
                Ok(())
            }
            Err(error) => Err(self.undo(reserved, &error)),
        }
    }

    /// Blocks: the first half of [`make`](Self::make), which leaves it to the caller to reserve
    /// the memory of a fresh segment and then to say that it is [`made`](Self::made), or
    /// [`undo`](Self::undo) it.
    pub(crate) fn begin(&self, reserved: &Reserved) -> io::Result<File> {
        self.remove(&reserved.dropped);
        match reserved.fresh {
            true => self.directory.create_segment(reserved.segment, reserved.class_bytes),
            false => self.directory.open_segment(reserved.segment),
        }
    }

    /// A fresh segment has its memory.
    pub(crate) fn made(&self, reserved: &Reserved) {
        self.ledger.lock().made(reserved.segment);
    }

    /// Blocks: the segment could not be made or opened, for this reason. A fresh one is removed.
    pub(crate) fn undo(&self, reserved: &Reserved, error: &io::Error) -> Error {
        let now = self.time(Instant::now());
        if reserved.fresh {
            self.directory.remove_segment(reserved.segment);
        }
        let capacity_bytes = {
            let mut ledger = self.ledger.lock();
            match reserved.fresh {
                true => ledger.failed(reserved.segment),
                false => ledger.recycle(reserved.segment, now),
            }
            ledger.capacity_bytes()
        };
        let full = [Errno::NOSPC, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
        if full.contains(&error.raw_os_error()) {
            let free_bytes = free_bytes(self.directory.path()).unwrap_or(0);
            Error::StoreFull { size_bytes: reserved.class_bytes, free_bytes, capacity_bytes }
        } else {
            Error::System { what: "reserving shared memory".to_owned(), why: error.to_string() }
        }
    }

    /// Blocks: removes the segments' files.
    pub(crate) fn remove(&self, segments: &[SegmentId]) {
        for segment in segments {
            self.directory.remove_segment(*segment);
        }
    }

    /// Nobody needs what is in the segment. True when the idle pool is now beyond its bound.
    pub(crate) fn recycle(&self, segment: SegmentId, now: Instant) -> bool {
        let now = self.time(now);
        let mut ledger = self.ledger.lock();
        ledger.recycle(segment, now);
        ledger.decays()
    }

    pub(crate) fn set_evictable(&self, segment: SegmentId, object: ObjectId) {
        self.ledger.lock().set_evictable(segment, object);
    }

    pub(crate) fn retain(&self, segment: SegmentId, object: ObjectId) -> bool {
        self.ledger.lock().retain(segment, object)
    }

    /// The segments that have been idle for too long, and whether there is more to come.
    pub(crate) fn decay(&self, now: Instant) -> (Vec<SegmentId>, bool) {
        let now = self.time(now);
        let mut ledger = self.ledger.lock();
        (ledger.decay(now), ledger.decays())
    }

    /// Whether there is idle memory beyond the bound.
    pub(crate) fn decays(&self) -> bool {
        self.ledger.lock().decays()
    }

    /// Used, idle and capacity, in bytes.
    pub(crate) fn sums(&self) -> (u64, u64, u64) {
        let ledger = self.ledger.lock();
        (ledger.used_bytes(), ledger.idle_bytes(), ledger.capacity_bytes())
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

/// What the file system of `path` has free.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(path)?;
    Ok(about.f_bavail * about.f_frsize)
}

/// How much a store in `base` may take: what was asked for or its share of the machine's memory,
/// bounded by what is free.
pub(crate) fn capacity_bytes(base: &Path, asked_bytes: Option<u64>) -> io::Result<u64> {
    let most = free_bytes(base)? / 100 * MAX_FREE_PERCENT;
    let wanted = asked_bytes.unwrap_or_else(|| memory_bytes() / 100 * DEFAULT_MEMORY_PERCENT);
    Ok(wanted.min(most))
}

/// The machine's memory, or what this process's control group may have of it.
fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let installed = system.totalram as u64 * u64::from(system.mem_unit.max(1));
    // Second version of control groups, first version.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    limits.into_iter().filter_map(limit).fold(installed, u64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::store::directory::SHARED_MEMORY;

    #[test]
    fn what_the_ledger_says_is_what_lies_there() {
        let base = tempfile::tempdir_in(SHARED_MEMORY).unwrap();
        let pool = Pool::new(StoreDirectory::create(base.path(), NodeId::random()).unwrap(), 4 << 20, 1);
        let me = ProcessId::random();
        let on_disk = |pool: &Pool| -> u64 {
            let files = std::fs::read_dir(pool.directory().path()).unwrap().flatten();
            files
                .filter(|file| file.file_name().to_str().unwrap().starts_with("seg-"))
                .map(|file| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512)
                .sum()
        };
        let agree = |pool: &Pool| {
            let (used, idle, _) = pool.sums();
            assert_eq!(on_disk(pool), used + idle);
            (used, idle)
        };
        let a = pool.reserve(1 << 20, me).unwrap();
        let b = pool.reserve(2 << 20, me).unwrap();
        pool.make(&a).unwrap();
        pool.make(&b).unwrap();
        assert_eq!(agree(&pool), (3 << 20, 0));
        pool.recycle(b.segment, Instant::now());
        assert_eq!(agree(&pool), (1 << 20, 2 << 20));
        let c = pool.reserve(3 << 20, me).unwrap();
        assert_eq!(c.dropped, vec![b.segment]);
        pool.make(&c).unwrap();
        assert_eq!(agree(&pool), (4 << 20, 0));
        assert!(matches!(pool.reserve(1, me), Err(Error::StoreFull { free_bytes: 0, .. })));
    }

    #[test]
    fn a_system_without_room_is_a_full_store() {
        let base = tempfile::tempdir_in(SHARED_MEMORY).unwrap();
        // A ledger that believes in more than the machine has.
        let pool = Pool::new(StoreDirectory::create(base.path(), NodeId::random()).unwrap(), 1 << 50, 1);
        let too_much = pool.reserve(1 << 45, ProcessId::random()).unwrap();
        assert!(matches!(pool.make(&too_much), Err(Error::StoreFull { .. })));
        assert_eq!(pool.sums().0, 0);
        assert_eq!(std::fs::read_dir(pool.directory().path()).unwrap().count(), 2);
    }
}
