//! A store's shared memory: the [`Spiller`] with the segments it speaks of.
//!
//! [`Pool::tell`] and what rests on it are quick and may be called by actors; whatever makes or
//! removes a file is done by [`Pool::make`] and [`Pool::remove`], which block and belong on the
//! [`Pool::io`] threads.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::time::Instant;

use crate::error::Error;
use crate::store::background::Background;
use crate::store::directory::StoreDirectory;
use crate::store::ledger::Reserved;
use crate::store::segment::SegmentId;
use crate::store::spill::{Effect, Limits, Spiller};

/// Threads that make and remove files and fault memory.
pub(crate) const IO_THREADS: usize = 2;
/// Segments that may be waiting to be made; more is answered as a failure of the system.
pub(crate) const MAX_MAKING: usize = 65_536;
/// What part of the machine's memory a store may take, in percent.
const DEFAULT_MEMORY_PERCENT: u64 = 30;
/// What part of the free shared memory a store may take, in percent.
const MAX_FREE_PERCENT: u64 = 90;

/// What does what the [`Spiller`] decides. It is also told whether idle memory is to be looked after.
type CarryOut = Box<dyn Fn(Vec<Effect>, bool) + Send + Sync>;

/// The memory of one store, shared by its shards, and what was moved out of it.
pub(crate) struct Pool {
    spiller: Mutex<Spiller>,
    carry_out: CarryOut,
    directory: StoreDirectory,
    io: Arc<Background>,
    started: Instant,
}

impl Pool {
    /// `carry_out` is called with what is to be done, on whatever thread has caused it.
    pub(crate) fn new(directory: StoreDirectory, limits: Limits, io_threads: usize, carry_out: CarryOut) -> Self {
        Self {
            spiller: Mutex::new(Spiller::new(limits)),
            carry_out,
            directory,
            io: Background::new("mobula-store-io", io_threads),
            started: Instant::now(),
        }
    }

    /// Tells the spiller something, and does what it says.
    pub(crate) fn tell<T>(&self, say: impl FnOnce(&mut Spiller, Duration, &mut Vec<Effect>) -> T) -> T {
        let now = Instant::now().saturating_duration_since(self.started);
        let mut effects = Vec::new();
        let (answer, decays) = {
            let mut spiller = self.spiller.lock();
            (say(&mut spiller, now, &mut effects), spiller.ledger().decays())
        };
        if decays || !effects.is_empty() {
            (self.carry_out)(effects, decays);
        }
        answer
    }

    /// Looks at the books.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Spiller) -> T) -> T {
        at(&self.spiller.lock())
    }

    pub(crate) fn directory(&self) -> &StoreDirectory {
        &self.directory
    }

    /// The threads for what blocks.
    pub(crate) fn io(&self) -> &Arc<Background> {
        &self.io
    }

    /// Blocks: removes what had to go for the segment and makes its file if it is fresh, memory
    /// and all. When that fails the reservation is undone.
    pub(crate) fn make(&self, reserved: &Reserved) -> Result<(), Error> {
        if !reserved.fresh {
            self.remove(&reserved.dropped);
            return Ok(());
        }
        match self.make_file(reserved) {
            Ok(_) => {
                self.made(reserved);
                Ok(())
            }
            Err(error) => Err(self.undo(reserved, &error)),
        }
    }

    /// Blocks: the segment's file, with its memory if it is fresh; nothing is said to the spiller.
    pub(crate) fn make_file(&self, reserved: &Reserved) -> io::Result<File> {
        let file = self.begin(reserved)?;
        if reserved.fresh {
            StoreDirectory::reserve(&file, 0, reserved.class_bytes)?;
        }
        Ok(file)
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
        self.tell(|spiller, now, effects| spiller.made(reserved.segment, now, effects));
    }

    /// Blocks: the segment could not be made or opened, for this reason. A fresh one is removed.
    pub(crate) fn undo(&self, reserved: &Reserved, error: &io::Error) -> Error {
        self.unmake(reserved);
        self.tell(|spiller, now, effects| match reserved.fresh {
            true => spiller.failed(reserved.segment, now, effects),
            false => spiller.recycle(reserved.segment, now, effects),
        });
        self.error(reserved, error)
    }

    /// Blocks: removes what there is of a fresh segment's file.
    pub(crate) fn unmake(&self, reserved: &Reserved) {
        if reserved.fresh {
            self.directory.remove_segment(reserved.segment);
        }
    }

    /// What it means that a segment could not be made.
    pub(crate) fn error(&self, reserved: &Reserved, error: &io::Error) -> Error {
        let full = [Errno::NOSPC, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
        if full.contains(&error.raw_os_error()) {
            let free_bytes = free_bytes(self.directory.path()).unwrap_or(0);
            let capacity_bytes = self.look(|spiller| spiller.ledger().capacity_bytes());
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

    /// Nobody needs what is in the segment.
    pub(crate) fn recycle(&self, segment: SegmentId) {
        self.tell(|spiller, now, effects| spiller.recycle(segment, now, effects));
    }

    /// The segments that have been idle for too long, and whether there is more to come.
    pub(crate) fn decay(&self) -> (Vec<SegmentId>, bool) {
        self.tell(|spiller, now, _| (spiller.decay(now), spiller.ledger().decays()))
    }

    /// Whether there is idle memory beyond the bound.
    pub(crate) fn decays(&self) -> bool {
        self.look(|spiller| spiller.ledger().decays())
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("directory", &self.directory).finish_non_exhaustive()
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
    use mobula_transport::{MailboxId, ProcessId};

    use super::*;
    use crate::ids::NodeId;
    use crate::store::directory::SHARED_MEMORY;
    use crate::store::spill::Demand;

    const MIB: u64 = 1 << 20;

    fn pool(base: &tempfile::TempDir, capacity_bytes: u64) -> Pool {
        let directory = StoreDirectory::create(base.path(), NodeId::random()).unwrap();
        let limits = Limits {
            capacity_bytes,
            high_water_bytes: capacity_bytes,
            disk_bytes: 0,
            file_bytes: 0,
            stall: Duration::ZERO,
            longest_wait: Duration::ZERO,
            directory: String::new(),
        };
        Pool::new(directory, limits, 1, Box::new(|_, _| {}))
    }

    fn reserve(pool: &Pool, size_bytes: u64) -> Option<Reserved> {
        let demand = Demand { id: 0, to: MailboxId::STORE, size_bytes, user: ProcessId::random() };
        pool.tell(|spiller, now, effects| spiller.ask(demand, now, effects))
    }

    #[test]
    fn what_the_ledger_says_is_what_lies_there() {
        let base = tempfile::tempdir_in(SHARED_MEMORY).unwrap();
        let pool = pool(&base, 4 * MIB);
        let on_disk = |pool: &Pool| -> u64 {
            let files = std::fs::read_dir(pool.directory().path()).unwrap().flatten();
            files
                .filter(|file| file.file_name().to_str().unwrap().starts_with("seg-"))
                .map(|file| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512)
                .sum()
        };
        let agree = |pool: &Pool| {
            let (used, idle) = pool.look(|spiller| (spiller.ledger().used_bytes(), spiller.ledger().idle_bytes()));
            assert_eq!(on_disk(pool), used + idle);
            (used, idle)
        };
        let a = reserve(&pool, MIB).unwrap();
        let b = reserve(&pool, 2 * MIB).unwrap();
        pool.make(&a).unwrap();
        pool.make(&b).unwrap();
        assert_eq!(agree(&pool), (3 * MIB, 0));
        pool.recycle(b.segment);
        assert_eq!(agree(&pool), (MIB, 2 * MIB));
        let c = reserve(&pool, 3 * MIB).unwrap();
        assert_eq!(c.dropped, vec![b.segment]);
        pool.make(&c).unwrap();
        assert_eq!(agree(&pool), (4 * MIB, 0));
        assert_eq!(reserve(&pool, 1), None);
    }

    #[test]
    fn a_system_without_room_is_a_full_store() {
        let base = tempfile::tempdir_in(SHARED_MEMORY).unwrap();
        // A ledger that believes in more than the machine has.
        let pool = pool(&base, 1 << 50);
        let too_much = reserve(&pool, 1 << 45).unwrap();
        assert!(matches!(pool.make(&too_much), Err(Error::StoreFull { .. })));
        assert_eq!(pool.look(|spiller| spiller.ledger().used_bytes()), 0);
        assert_eq!(std::fs::read_dir(pool.directory().path()).unwrap().count(), 2);
    }
}
