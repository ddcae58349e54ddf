//! The hidden directories in which runs keep their files, and what is done about those of runs
//! that died.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::block_writer::read_manifests;
use crate::error::DataError;
use crate::moves::rename_new;

/// Where the staging directories of an output are.
pub(super) struct Place {
    /// The directory they are in.
    pub(super) holder: PathBuf,
    /// What their names begin with.
    pub(super) prefix: String,
    /// Whether the output exists.
    pub(super) exists: bool,
}

impl Place {
    pub(super) fn of(dir: &Path) -> Result<Place, DataError> {
        if dir.is_dir() {
            return Ok(Place { holder: dir.to_path_buf(), prefix: STAGING_PREFIX.into(), exists: true });
        }
        match Self::beside(dir) {
            Some(place) if !dir.exists() => Ok(place),
            _ => Err(DataError::write(dir, &io::Error::from(io::ErrorKind::NotADirectory))),
        }
    }

    /// Where they are of runs that began before the output existed.
    fn beside(dir: &Path) -> Option<Place> {
        let prefix = format!(".{}{STAGING_PREFIX}", dir.file_name()?.to_string_lossy());
        Some(Place { holder: dir.parent()?.to_path_buf(), prefix, exists: false })
    }

    /// The staging directory of the run of this name.
    pub(super) fn staging(&self, run: &str) -> PathBuf {
        self.holder.join(format!("{}{run}", self.prefix))
    }
}

/// What was found of other runs in a place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// The run that is resumed, dead.
    pub(super) same: bool,
    /// A dead one that could have been resumed, with blocks that were done: it is removed.
    pub(super) other: bool,
    /// Some that go on.
    pub(super) live: bool,
}

impl Left {
    pub(super) fn and(self, more: Left) -> Left {
        Left { same: self.same || more.same, other: self.other || more.other, live: self.live || more.live }
    }
}

/// Holds other runs off `dir` until the file is dropped: they take it only for moments. Where a
/// directory cannot be locked, runs at the same moment are not kept apart.
pub(super) fn lock(dir: &Path) -> Result<File, DataError> {
    let file = File::open(dir).map_err(|e| DataError::write(dir, &e))?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_EVERY),
            _ => return Ok(file),
        }
    }
    Err(DataError::Write {
        path: dir.display().to_string(),
        cause: "another program keeps the directory locked; end it, or choose another directory".into(),
    })
}

/// What is about to be done to an output. Names are those of this machine: who shares the file
/// system under another path recovers nothing, and leaves the journal where it is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Journal {
    /// Directories, the outer ones first.
    pub(super) made: Vec<PathBuf>,
    /// Files, from and to, in order.
    pub(super) moves: Vec<(PathBuf, PathBuf)>,
}

impl Journal {
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, rmp_serde::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(unfinished, path)
    }

    fn read(path: &Path) -> io::Result<Self> {
        rmp_serde::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }

    /// Takes back as much as was done.
    fn undo(&self) -> io::Result<()> {
        for (from, to) in self.moves.iter().rev() {
            if !from.exists() && to.exists() {
                rename_new(to, from)?;
            }
        }
        for made in self.made.iter().rev() {
            // One that is not empty has become somebody else's.
            let _ = fs::remove_dir(made);
        }
        Ok(())
    }
}

/// Takes back what runs that died in `place` had begun to move, and removes what they left, but
/// for what is in `resumed`.
pub(super) fn recover(place: &Place, dir: &Path, resumed: Option<&Path>) -> Result<Left, DataError> {
    let failed = |e: io::Error| DataError::write(dir, &e);
    let mut left = Left::default();
    for entry in fs::read_dir(&place.holder).map_err(failed)? {
        let staging = entry.map_err(failed)?.path();
        let named = staging.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&place.prefix));
        let Some(owner) = named.then(|| File::open(staging.join(OWNER)).ok()).flatten() else {
            continue;
        };
        match flock(&owner, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                left.live = true;
                continue;
            }
            Err(_) => continue,
        }
        let journal = staging.join(JOURNAL);
        if journal.exists() {
            Journal::read(&journal).and_then(|journal| journal.undo()).map_err(failed)?;
            fs::remove_file(&journal).map_err(failed)?;
        }
        if resumed == Some(staging.as_path()) {
            scatter(&staging).map_err(failed)?;
            left.same = true;
            continue;
        }
        left.other |= staging.to_string_lossy().starts_with(&*place.staging(RESUMABLE).to_string_lossy())
            && read_manifests(&staging).is_ok_and(|blocks| !blocks.is_empty());
        tracing::info!(path = %staging.display(), "removed what a run that was killed left");
        remove_staging(&staging);
    }
    Ok(left)
}

/// The same for runs that died and had begun before the output existed: it does now, and what they left
/// is beside it. What the run of the name in `resumed` had done is moved to the place there.
pub(super) fn recover_beside(dir: &Path, resumed: Option<(&str, &Path)>) -> Result<Left, DataError> {
    let Some(place) = Place::beside(dir) else { return Ok(Left::default()) };
    let is_staging = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(&place.prefix))
    };
    // Who may not look there has left nothing there, and who finds nothing need not hold others off.
    if !fs::read_dir(&place.holder).is_ok_and(|mut entries| entries.any(is_staging)) {
        return Ok(Left::default());
    }
    let _lock = lock(&place.holder)?;
    let Some((name, resumed)) = resumed else {
        return recover(&place, dir, None);
    };
    let beside = place.staging(name);
    let mut left = recover(&place, dir, Some(&beside))?;
    if left.same
        && let Err(error) = rename_new(&beside, resumed)
    {
        tracing::warn!(path = %beside.display(), %error, "what is done of a run cannot be taken over");
        remove_staging(&beside);
        left.same = false;
    }
    Ok(left)
}

/// Moves what was gathered to become the output back to where the tasks had put it.
pub(super) fn scatter(staging: &Path) -> io::Result<()> {
    let whole = staging.join(WHOLE);
    if !whole.exists() {
        return Ok(());
    }
    for file in files_below(&whole)? {
        if let Ok(below) = file.strip_prefix(&whole) {
            fs::rename(&file, staging.join(below))?;
        }
    }
    fs::remove_dir_all(whole)
}

/// Removes all files below a staging directory but these.
pub(super) fn remove_all_but(staging: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    for file in files_below(staging)? {
        if !kept.contains(&file) {
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![dir.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => directories.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    Ok(files)
}

/// Tasks that were given up may still write while it is removed.
pub(super) fn remove_staging(staging: &Path) {
    for tries_left in (0..REMOVE_TRIES).rev() {
        match fs::remove_dir_all(staging) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries_left > 0 => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %staging.display(), %error, "cannot remove a staging directory");
                return;
            }
            _ => return,
        }
    }
}

/// What the name of a run's hidden directory begins with, after that of its output.
const STAGING_PREFIX: &str = ".mobula-";
/// What the name of a run that can be resumed begins with.
pub(super) const RESUMABLE: &str = "resume-";
/// In a staging directory, the file that its run keeps locked.
pub(super) const OWNER: &str = "owner";
/// In a staging directory, the moves under way.
pub(super) const JOURNAL: &str = "moves";
/// In a staging directory, the output before it gets its name.
pub(super) const WHOLE: &str = "whole";
/// In a staging directory, the files of earlier runs that were replaced.
pub(super) const REPLACED: &str = "replaced";
/// How often a lock is tried for, and how long apart: ten seconds in all.
const LOCK_TRIES: u32 = 500;
const LOCK_EVERY: Duration = Duration::from_millis(20);
/// How often a directory is removed that others still write to.
const REMOVE_TRIES: u32 = 10;
