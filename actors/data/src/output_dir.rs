//! The directory a run writes to: the files of a run get there together.
//!
//! Entry type: [`OutputDir`], the driver's side of writing. The files of a run wait in a hidden
//! staging directory. When every task is done,
//!
//! - a directory that did not exist appears in one step, whole;
//! - in a directory that did, files are moved in one by one, and moved back if one cannot be. A
//!   reader at that very moment sees some of them.
//!
//! Of two runs at once that replace what is there, the one that is done first wins: a run replaces
//! the files that were there when it began, and fails with [`DataError::OutputChanged`] where there
//! are others when it ends. Runs that append do not disturb each other.
//!
//! A run that fails or is cancelled leaves nothing, not even a directory it made. One that was
//! killed leaves its staging directory; the next run with the same output finds that nobody
//! holds the lock of its owner, moves back what it had moved, and removes it. Nothing is synced:
//! what a crash of the machine leaves of a run is for that run to write again.
//!
//! A run that can be *resumed* has a staging directory named after what it does. When it ends
//! early, in whatever way, blocks that are done stay there, and the next run that does the same
//! takes them over; any other run removes them.
//!
//! ```text
//! OUT/.mobula-RUN/part-00003-000.parquet.ATTEMPT   a task writes     (OUT exists; else PARENT/.OUT.mobula-RUN/)
//! OUT/.mobula-RUN/part-00003.parquet               the task is done (a second attempt lands here too)
//! OUT/.mobula-RUN/part-00003.done                  the list of its files
//! OUT/.mobula-RUN/moves                            what is about to be moved, to move it back
//! OUT/part-00003.parquet                           the run is done
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

use crate::block_writer::{BlockFile, make_below, read_manifests};
use crate::error::DataError;
use crate::moves::{MadeDirectories, Moves, rename_new};
use crate::write::{WriteMode, WriteOptions};

pub(crate) mod parts;
mod staging;

use parts::{SeenFile, check_in_the_way, check_unchanged, parts, seen, with_ordinal};
use staging::{
    JOURNAL, Journal, OWNER, Place, REPLACED, RESUMABLE, WHOLE, lock, recover, recover_beside, remove_all_but,
    remove_staging, scatter,
};

/// The directory a run writes to.
#[derive(Debug)]
pub struct OutputDir {
    dir: PathBuf,
    staging: PathBuf,
    options: WriteOptions,
    /// Directories above the output that this run made.
    made: MadeDirectories,
    /// Locked as long as the run lives.
    _owner: File,
    /// What is in the staging directory is not to be removed: it is needed, or gone already.
    leave_staging: bool,
    /// If the run ends early, the next one goes on with what is done.
    resumable: bool,
    /// What was found of earlier runs that could be resumed.
    earlier: EarlierRun,
    /// The files that the run replaces: those that were there when it began.
    replaces: BTreeSet<SeenFile>,
}

/// What a run that can be resumed found of earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRun {
    /// Nothing that could be resumed.
    Nothing,
    /// What one with another plan, other options or other files had done. It is removed.
    Other,
    /// What one that does the same had done: blocks that it had finished are taken over.
    Same,
}

impl OutputDir {
    /// Makes everything ready for the run `run_id`: after this, nothing is known to stand in the
    /// way of writing to `dir`.
    pub fn prepare(dir: &str, options: &WriteOptions, run_id: &str) -> Result<OutputDir, DataError> {
        Self::prepare_as(dir, options, run_id, false)
    }

    /// The same for a run that can be resumed: one that does the same as an earlier one, which
    /// `run_key` tells, finds the blocks which that one has finished.
    pub fn prepare_resumable(dir: &str, options: &WriteOptions, run_key: &str) -> Result<OutputDir, DataError> {
        Self::prepare_as(dir, options, &format!("{RESUMABLE}{:016x}", xxh3_64(run_key.as_bytes())), true)
    }

    fn prepare_as(dir: &str, options: &WriteOptions, name: &str, resumable: bool) -> Result<OutputDir, DataError> {
        let dir = PathBuf::from(dir);
        let failed = |e: io::Error| DataError::write(&dir, &e);
        let place = Place::of(&dir)?;
        let made = MadeDirectories::make(&place.holder).map_err(failed)?;
        let lock = lock(&place.holder)?;
        let staging = place.staging(name);
        let resumed = resumable.then_some(staging.as_path());
        let mut left = recover(&place, &dir, resumed)?;
        let mut replaces = BTreeSet::new();
        if place.exists {
            left = left.and(recover_beside(&dir, resumed.map(|staging| (name, staging)))?);
            check_in_the_way(&dir, options)?;
            replaces = seen(&dir)?;
        }
        let is_new = match fs::create_dir(&staging) {
            Ok(()) => true,
            Err(e) if resumable && e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(failed(e)),
        };
        let owner = match own(&staging, &dir) {
            Ok(owner) => owner,
            Err(error) if is_new => {
                remove_staging(&staging);
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        drop(lock);
        if left.live && options.mode == WriteMode::Overwrite {
            tracing::warn!(path = %dir.display(), "another run is writing there now: the one that is done first wins");
        }
        let earlier = match (left.same, left.other) {
            (true, _) => EarlierRun::Same,
            (false, true) => EarlierRun::Other,
            (false, false) => EarlierRun::Nothing,
        };
        let options = options.clone();
        let output = OutputDir {
            dir,
            staging,
            options,
            made,
            _owner: owner,
            leave_staging: false,
            resumable,
            earlier,
            replaces,
        };
        if !is_new {
            output.keep_what_is_done()?;
        }
        Ok(output)
    }

    /// Where the tasks of the run put their files.
    #[must_use]
    pub fn staging(&self) -> String {
        self.staging.display().to_string()
    }

    /// What was found of earlier runs, if this one can be resumed.
    #[must_use]
    pub fn earlier(&self) -> Option<EarlierRun> {
        self.resumable.then_some(self.earlier)
    }

    /// The files of blocks that an earlier run has finished, in the order of blocks. A block
    /// without rows may have none.
    pub fn finished(&self) -> Result<Vec<BlockFile>, DataError> {
        let blocks = read_manifests(&self.staging).map_err(|e| DataError::write(&self.dir, &e))?;
        let mut files: Vec<BlockFile> = blocks.into_iter().flat_map(|(_, files)| files).collect();
        files.sort_by(|a, b| (a.ordinal, &a.path).cmp(&(b.ordinal, &b.path)));
        Ok(files)
    }

    /// An error of a task, with the output's directory where it names a file in staging.
    #[must_use]
    pub fn shown(&self, mut error: DataError) -> DataError {
        if let DataError::Write { path, .. } | DataError::DiskFull { path, .. } = &mut error
            && Path::new(path).starts_with(&self.staging)
        {
            *path = self.dir.display().to_string();
        }
        error
    }

    /// Puts the files of all tasks into place, in order, and returns their paths. If one cannot
    /// be put there, none is.
    pub fn commit(mut self, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        let mut from = self.staging.clone();
        if !self.dir.exists() {
            // Moved into a directory of their own first: an attempt that was given up may still
            // write beside them.
            from = self.staging.join(WHOLE);
            self.gather(&from, files)?;
            match rename_new(&from, &self.dir) {
                Ok(()) => {
                    self.done();
                    return Ok(files.iter().map(|file| self.path(&file.path)).collect());
                }
                // Another run was quicker; what it left decides.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DataError::write(&self.dir, &e)),
            }
        }
        let paths = self.move_in(&from, files)?;
        self.done();
        Ok(paths)
    }

    /// Moves the files into `whole`, a directory of their own.
    fn gather(&self, whole: &Path, files: &[BlockFile]) -> Result<(), DataError> {
        fs::create_dir(whole).map_err(|e| DataError::write(&self.dir, &e))?;
        for file in files {
            make_below(whole, parent(&file.path))?;
            let moved = fs::rename(self.staging.join(&file.path), whole.join(&file.path));
            moved.map_err(|e| DataError::write(&self.dir.join(&file.path), &e))?;
        }
        Ok(())
    }

    /// Moves files from `from` into the directory, which exists.
    fn move_in(&mut self, from: &Path, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        let _lock = lock(&self.dir)?;
        // What runs that died since this one began had moved must not be taken back later, when this run's
        // files have its place: that may be so of those in the directory and of those beside it. This run's
        // own staging is in one of the two, and locked.
        recover(&Place::of(&self.dir)?, &self.dir, Some(&self.staging))?;
        recover_beside(&self.dir, None)?;
        check_in_the_way(&self.dir, &self.options)?;
        if self.options.mode == WriteMode::Overwrite {
            check_unchanged(&self.dir, &self.replaces)?;
        }
        let old = parts(&self.dir)?;
        let mut journal = Journal::default();
        if self.options.mode == WriteMode::Overwrite {
            let replaced = self.staging.join(REPLACED);
            make_below(&self.staging, REPLACED)?;
            for part in &old {
                make_below(&replaced, parent(&part.path))?;
                journal.moves.push((self.dir.join(&part.path), replaced.join(&part.path)));
            }
        }
        let first = match self.options.mode {
            WriteMode::Append => old.iter().map(|part| part.ordinal + 1).max().unwrap_or(0),
            _ => 0,
        };
        let mut paths = Vec::with_capacity(files.len());
        let mut directories = BTreeSet::new();
        for file in files {
            let to = with_ordinal(&file.path, file.ordinal, first + file.ordinal);
            directories.insert(parent(&file.path));
            journal.moves.push((from.join(&file.path), self.dir.join(&to)));
            paths.push(self.path(&to));
        }
        journal.made = missing(&self.dir, &directories);
        self.make_moves(&journal)?;
        if self.options.mode == WriteMode::Overwrite {
            remove_empty(&self.dir, old.iter().map(|part| parent(&part.path)));
        }
        Ok(paths)
    }

    /// Makes the directories and moves of `journal`, all or none.
    fn make_moves(&mut self, journal: &Journal) -> Result<(), DataError> {
        let path = self.staging.join(JOURNAL);
        let failed = |e: io::Error| DataError::write(&self.dir, &e);
        journal.write(&path).map_err(failed)?;
        let mut made = Vec::with_capacity(journal.made.len());
        let mut moves = Moves::default();
        let mut make_all = || {
            for directory in &journal.made {
                made.push(MadeDirectories::make(directory).map_err(|e| DataError::write(directory, &e))?);
            }
            journal.moves.iter().try_for_each(|(from, to)| moves.rename(from, to))
        };
        if let Err(error) = make_all() {
            self.leave_staging = !moves.undo();
            made.into_iter().rev().for_each(drop);
            return Err(error);
        }
        // Once it is gone, what was replaced may go too.
        fs::remove_file(&path).map_err(failed)?;
        moves.keep();
        made.iter_mut().for_each(MadeDirectories::keep);
        Ok(())
    }

    /// Removes from the staging directory what is no file of a finished block.
    fn keep_what_is_done(&self) -> Result<(), DataError> {
        let failed = |e: io::Error| DataError::write(&self.dir, &e);
        let mut kept = BTreeSet::from([self.staging.join(OWNER)]);
        for (manifest, files) in read_manifests(&self.staging).map_err(failed)? {
            kept.insert(manifest);
            kept.extend(files.iter().map(|file| self.staging.join(&file.path)));
        }
        remove_all_but(&self.staging, &kept).map_err(failed)
    }

    /// The files are in their place: nothing of the run is left to be taken back, or over.
    fn done(&mut self) {
        self.made.keep();
        self.resumable = false;
    }

    fn path(&self, below: &str) -> String {
        self.dir.join(below).display().to_string()
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        if self.leave_staging {
            return;
        }
        // It may have ended when its files were gathered already.
        let goes_on = self.resumable
            && scatter(&self.staging).is_ok()
            && read_manifests(&self.staging).is_ok_and(|blocks| !blocks.is_empty());
        if goes_on {
            self.made.keep();
        } else {
            remove_staging(&self.staging);
        }
    }
}

/// Locks a staging directory for this run.
fn own(staging: &Path, dir: &Path) -> Result<File, DataError> {
    let mut options = File::options();
    let owner = options.create(true).truncate(false).write(true).open(staging.join(OWNER));
    let owner = owner.map_err(|e| DataError::write(dir, &e))?;
    match flock(&owner, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(DataError::Write {
            path: dir.display().to_string(),
            cause: "a run that does the same is writing there now: wait for it, or end it".into(),
        }),
        // Where files cannot be locked, no run is ever taken for dead.
        _ => Ok(owner),
    }
}

/// Where a file is, below the output.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The directories below `dir`, and those on the way to them, that do not exist; outer ones
/// first.
fn missing(dir: &Path, directories: &BTreeSet<&str>) -> Vec<PathBuf> {
    let mut missing = BTreeSet::new();
    for directory in directories {
        let mut path = dir.to_path_buf();
        for part in Path::new(directory) {
            path.push(part);
            if !path.exists() {
                missing.insert(path.clone());
            }
        }
    }
    missing.into_iter().collect()
}

/// Removes directories below `dir` in which nothing is left, and those above them.
fn remove_empty<'a>(dir: &Path, directories: impl Iterator<Item = &'a str>) {
    for directory in directories.collect::<BTreeSet<_>>() {
        for path in Path::new(directory).ancestors().filter(|path| !path.as_os_str().is_empty()) {
            // One that is not empty stays.
            let _ = fs::remove_dir(dir.join(path));
        }
    }
}

#[cfg(test)]
mod tests;
