//! The directory a run writes to: the files of a run get there together.
//!
//! Entry type: [`OutputDir`], the driver's side of writing. The files of a run wait in a hidden
//! staging directory. When every task is done,
//!
//! - a directory that did not exist appears in one step, whole;
//! - in a directory that did, files are moved in one by one, and moved back if one cannot be. A
//!   reader at that very moment sees some of them.
//!
//! A run that fails or is cancelled leaves nothing, not even a directory it made. One that was
//! killed leaves its staging directory; the next run into the same place finds that nobody
//! holds the lock of its owner, moves back what it had moved, and removes it. Nothing is synced:
//! what a crash of the machine leaves of a run is for that run to write again.
//!
//! ```text
//! OUT/.mobula-RUN/part-00003.parquet.ATTEMPT   a task writes     (OUT exists; else PARENT/.OUT.mobula-RUN/)
//! OUT/.mobula-RUN/part-00003.parquet           the task is done (a second attempt lands here too)
//! OUT/.mobula-RUN/moves                        what is about to be moved, to move it back
//! OUT/part-00003.parquet                       the run is done
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::DataError;
use crate::moves::{MadeDirectories, Moves, rename_new};
use crate::parquet_write::{BlockFile, WriteMode, part_name};

/// The directory a run writes to.
#[derive(Debug)]
pub struct OutputDir {
    dir: PathBuf,
    staging: PathBuf,
    mode: WriteMode,
    /// Directories above the output that this run made.
    made: MadeDirectories,
    /// Locked as long as the run lives.
    _owner: File,
    /// What is in the staging directory is not to be removed: it is needed, or gone already.
    leave_staging: bool,
}

impl OutputDir {
    /// Makes everything ready for the run `run_id`: after this, nothing is known to stand in the
    /// way of writing to `dir`.
    pub fn prepare(dir: &str, mode: WriteMode, run_id: &str) -> Result<OutputDir, DataError> {
        let dir = PathBuf::from(dir);
        let failed = |e: io::Error| DataError::write(&dir, &e);
        let place = Place::of(&dir)?;
        let made = MadeDirectories::make(&place.holder).map_err(failed)?;
        let lock = lock(&place.holder)?;
        recover(&place, &dir)?;
        if place.exists {
            check_in_the_way(&dir, mode)?;
        }
        let staging = place.holder.join(format!("{}{run_id}", place.prefix));
        fs::create_dir(&staging).map_err(failed)?;
        let owned = File::create(staging.join(OWNER)).inspect(|owner| {
            // Where files cannot be locked, no run is ever taken for dead.
            let _ = flock(owner, FlockOperation::NonBlockingLockExclusive);
        });
        drop(lock);
        match owned {
            Ok(owner) => Ok(OutputDir { dir, staging, mode, made, _owner: owner, leave_staging: false }),
            Err(error) => {
                remove_staging(&staging);
                Err(failed(error))
            }
        }
    }

    /// Where the tasks of the run put their files.
    #[must_use]
    pub fn staging(&self) -> String {
        self.staging.display().to_string()
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
            fs::create_dir(&from).map_err(|e| DataError::write(&self.dir, &e))?;
            for file in files {
                let name = part_name(file.ordinal);
                let moved = fs::rename(self.staging.join(&name), from.join(&name));
                moved.map_err(|e| DataError::write(&self.dir.join(&name), &e))?;
            }
            match rename_new(&from, &self.dir) {
                Ok(()) => {
                    self.made.keep();
                    return Ok(files.iter().map(|file| self.path(file.ordinal)).collect());
                }
                // Another run was quicker; what it left decides.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DataError::write(&self.dir, &e)),
            }
        }
        let paths = self.move_in(&from, files)?;
        self.made.keep();
        Ok(paths)
    }

    /// Moves files from `from` into the directory, which exists.
    fn move_in(&mut self, from: &Path, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        let _lock = lock(&self.dir)?;
        // A run that died since this one began must not take its files back later.
        recover(&Place::of(&self.dir)?, &self.dir)?;
        check_in_the_way(&self.dir, self.mode)?;
        let old = parts(&self.dir)?;
        let mut planned: Vec<(PathBuf, PathBuf)> = Vec::new();
        if self.mode == WriteMode::Overwrite {
            planned.extend(old.values().map(|path| (path.clone(), self.staging.join(replaced_name(path)))));
        }
        let first = match self.mode {
            WriteMode::Append => old.keys().next_back().map_or(0, |last| last + 1),
            _ => 0,
        };
        for file in files {
            let to = self.dir.join(part_name(first + file.ordinal));
            planned.push((from.join(part_name(file.ordinal)), to));
        }
        let journal = self.staging.join(JOURNAL);
        let failed = |e: io::Error| DataError::write(&self.dir, &e);
        write_journal(&journal, &planned).map_err(failed)?;
        let mut moves = Moves::default();
        for (from, to) in &planned {
            if let Err(error) = moves.rename(from, to) {
                self.leave_staging = !moves.undo();
                return Err(error);
            }
        }
        // Once it is gone, what was replaced may go too.
        fs::remove_file(&journal).map_err(failed)?;
        moves.keep();
        Ok(files.iter().map(|file| self.path(first + file.ordinal)).collect())
    }

    fn path(&self, ordinal: u64) -> String {
        self.dir.join(part_name(ordinal)).display().to_string()
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        if !self.leave_staging {
            remove_staging(&self.staging);
        }
    }
}

/// Where the staging directories of an output are.
struct Place {
    /// The directory they are in.
    holder: PathBuf,
    /// What their names begin with.
    prefix: String,
    /// Whether the output exists.
    exists: bool,
}

impl Place {
    fn of(dir: &Path) -> Result<Place, DataError> {
        if dir.is_dir() {
            return Ok(Place { holder: dir.to_path_buf(), prefix: STAGING_PREFIX.into(), exists: true });
        }
        let (false, Some(parent), Some(name)) = (dir.exists(), dir.parent(), dir.file_name()) else {
            return Err(DataError::write(dir, &io::Error::from(io::ErrorKind::NotADirectory)));
        };
        let prefix = format!(".{}{STAGING_PREFIX}", name.to_string_lossy());
        Ok(Place { holder: parent.to_path_buf(), prefix, exists: false })
    }
}

/// Holds other runs off `dir` until the file is dropped: they take it only for moments. Where a
/// directory cannot be locked, runs at the same moment are not kept apart.
fn lock(dir: &Path) -> Result<File, DataError> {
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

/// Takes back what runs that died in `place` had begun to move, and removes what they left.
fn recover(place: &Place, dir: &Path) -> Result<(), DataError> {
    let failed = |e: io::Error| DataError::write(dir, &e);
    for entry in fs::read_dir(&place.holder).map_err(failed)? {
        let staging = entry.map_err(failed)?.path();
        let named = staging.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&place.prefix));
        let Some(owner) = named.then(|| File::open(staging.join(OWNER)).ok()).flatten() else {
            continue;
        };
        if flock(&owner, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let journal = staging.join(JOURNAL);
        if journal.exists() {
            for (from, to) in read_journal(&journal).map_err(failed)?.into_iter().rev() {
                if !from.exists() && to.exists() {
                    rename_new(&to, &from).map_err(failed)?;
                }
            }
            fs::remove_file(&journal).map_err(failed)?;
        }
        tracing::info!(path = %staging.display(), "removed what a run that was killed left");
        remove_staging(&staging);
    }
    Ok(())
}

/// The moves that are about to be made. Names are those of this machine: who shares the file
/// system under another path recovers nothing, and leaves the journal where it is.
fn write_journal(path: &Path, moves: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, rmp_serde::to_vec(moves).map_err(io::Error::other)?)?;
    fs::rename(unfinished, path)
}

fn read_journal(path: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    rmp_serde::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

fn check_in_the_way(dir: &Path, mode: WriteMode) -> Result<(), DataError> {
    if mode == WriteMode::Append {
        return Ok(());
    }
    for name in visible_names(dir)? {
        let replaceable = match mode {
            WriteMode::ErrorIfExists => false,
            _ => part_ordinal(&name).is_some() || !name.to_ascii_lowercase().ends_with(".parquet"),
        };
        if !replaceable {
            return Err(DataError::OutputExists { path: dir.display().to_string(), found: name });
        }
    }
    Ok(())
}

fn visible_names(dir: &Path) -> Result<BTreeSet<String>, DataError> {
    let failed = |e: io::Error| DataError::read(dir, &e);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The files of earlier runs, by ordinal.
fn parts(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, DataError> {
    let names = visible_names(dir)?;
    Ok(names.iter().filter_map(|n| Some((part_ordinal(n)?, dir.join(n)))).collect())
}

/// Tasks that were given up may still write while it is removed.
fn remove_staging(staging: &Path) {
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

/// The ordinal in the name of a file that a run wrote.
fn part_ordinal(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("part-")?.strip_suffix(".parquet")?;
    (digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn replaced_name(path: &Path) -> String {
    format!("replaced-{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// What the name of a run's hidden directory begins with, after that of its output.
const STAGING_PREFIX: &str = ".mobula-";
/// In a staging directory, the file that its run keeps locked.
const OWNER: &str = "owner";
/// In a staging directory, the moves under way.
const JOURNAL: &str = "moves";
/// In a staging directory, the output before it gets its name.
const WHOLE: &str = "whole";
/// How often a lock is tried for, and how long apart: ten seconds in all.
const LOCK_TRIES: u32 = 500;
const LOCK_EVERY: Duration = Duration::from_millis(20);
/// How often a directory is removed that others still write to.
const REMOVE_TRIES: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet_write::{BlockWriter, WriteOptions};
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::record_batch::RecordBatch;
    use std::sync::Arc;

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)]).unwrap()
    }

    fn write(output: &OutputDir, ordinal: u64, attempt: &str) -> BlockFile {
        let batch = batch(0..10);
        let options = WriteOptions::default();
        let mut writer = BlockWriter::create(&output.staging(), ordinal, attempt, batch.schema(), &options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn prepare(dir: &Path, mode: WriteMode) -> Result<OutputDir, DataError> {
        OutputDir::prepare(dir.to_str().unwrap(), mode, "run")
    }

    fn prepare_as(dir: &Path, mode: WriteMode, run: &str) -> OutputDir {
        OutputDir::prepare(dir.to_str().unwrap(), mode, run).unwrap()
    }

    /// The run's process ends here, whatever it was doing.
    fn die(mut output: OutputDir) {
        output.leave_staging = true;
        output.made.keep();
    }

    #[test]
    fn a_directory_that_the_run_makes_appears_whole_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let output = prepare(&dir, WriteMode::ErrorIfExists).unwrap();
        let files = [write(&output, 0, "x"), write(&output, 1, "x")];
        // A second attempt of the same task ends in the same file, and one that was given up
        // is not part of the result.
        assert_eq!(write(&output, 1, "y"), files[1]);
        fs::write(Path::new(&output.staging()).join("part-00000.parquet.z"), "half").unwrap();
        assert!(!dir.exists());
        let paths = output.commit(&files).unwrap();
        assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
        assert_eq!(names(dir.parent().unwrap()), ["b"]);
        assert_eq!(paths.len(), 2);
        assert_eq!(fs::metadata(&paths[0]).unwrap().len(), files[0].bytes);
    }

    #[test]
    fn a_run_given_up_leaves_nothing_not_even_its_directories() {
        let root = tempfile::tempdir().unwrap();
        let output = prepare(&root.path().join("a/b"), WriteMode::ErrorIfExists).unwrap();
        write(&output, 0, "x");
        drop(output);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_writer_given_up_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let output = prepare(root.path(), WriteMode::ErrorIfExists).unwrap();
        let schema = batch(0..1).schema();
        drop(BlockWriter::create(&output.staging(), 0, "x", schema.clone(), &WriteOptions::default()).unwrap());
        assert_eq!(names(Path::new(&output.staging())), [OWNER]);
        let staging = output.staging();
        drop(output);
        let late = BlockWriter::create(&staging, 0, "x", schema, &WriteOptions::default());
        assert!(late.err().unwrap().to_string().contains("the run has ended"));
    }

    #[test]
    fn a_commit_that_fails_half_way_puts_everything_back() {
        let root = tempfile::tempdir().unwrap();
        let output = prepare(root.path(), WriteMode::ErrorIfExists).unwrap();
        let first = output.commit(&[]).unwrap();
        assert!(first.is_empty());
        fs::write(root.path().join("part-00000.parquet"), "old").unwrap();
        let output = prepare(root.path(), WriteMode::Overwrite).unwrap();
        let file = write(&output, 0, "x");
        let missing = BlockFile { ordinal: 1, ..file.clone() };
        assert!(matches!(output.commit(&[file, missing]), Err(DataError::Write { .. })));
        assert_eq!(names(root.path()), ["part-00000.parquet"]);
        assert_eq!(fs::read(root.path().join("part-00000.parquet")).unwrap(), b"old");
    }

    #[test]
    fn of_two_runs_at_once_one_succeeds_and_the_other_is_told() {
        let root = tempfile::tempdir().unwrap();
        for dir in [root.path().join("new"), tempfile::tempdir_in(root.path()).unwrap().keep()] {
            let one = prepare_as(&dir, WriteMode::ErrorIfExists, "one");
            let other = prepare_as(&dir, WriteMode::ErrorIfExists, "other");
            let files = [write(&one, 0, "x"), write(&one, 1, "x")];
            let other_files = [write(&other, 0, "x")];
            one.commit(&files).unwrap();
            let error = other.commit(&other_files).unwrap_err();
            assert!(matches!(error, DataError::OutputExists { .. }), "{error}");
            assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
        }
        // Of two that overwrite, the result is that of the last, and of two that append, both.
        let dir = root.path().join("over");
        let runs = ["one", "other"].map(|run| prepare_as(&dir, WriteMode::Overwrite, run));
        let files = [vec![write(&runs[0], 0, "x"), write(&runs[0], 1, "x")], vec![write(&runs[1], 0, "x")]];
        runs.into_iter().zip(&files).for_each(|(run, files)| drop(run.commit(files).unwrap()));
        assert_eq!(names(&dir), ["part-00000.parquet"]);
        let dir = root.path().join("append");
        let runs = ["one", "other"].map(|run| prepare_as(&dir, WriteMode::Append, run));
        let files = runs.each_ref().map(|run| [write(run, 0, "x")]);
        runs.into_iter().zip(&files).for_each(|(run, files)| drop(run.commit(files).unwrap()));
        assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_back_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("out");
        let output = prepare_as(&dir, WriteMode::Overwrite, "first");
        let file = write(&output, 0, "x");
        output.commit(std::slice::from_ref(&file)).unwrap();
        let old = fs::read(dir.join("part-00000.parquet")).unwrap();

        // Killed between moving the old files away and the new ones in.
        let output = prepare_as(&dir, WriteMode::Overwrite, "killed");
        let staging = PathBuf::from(output.staging());
        fs::write(staging.join("part-00000.parquet"), "new").unwrap();
        fs::write(staging.join("part-00001.parquet"), "new").unwrap();
        let part = |ordinal| dir.join(part_name(ordinal));
        let moves = [
            (part(0), staging.join("replaced-part-00000.parquet")),
            (staging.join("part-00000.parquet"), part(0)),
            (staging.join("part-00001.parquet"), part(1)),
        ];
        write_journal(&staging.join(JOURNAL), &moves).unwrap();
        for (from, to) in &moves[..2] {
            fs::rename(from, to).unwrap();
        }
        // As long as it lives, nobody touches what it has.
        drop(prepare_as(&dir, WriteMode::Overwrite, "beside"));
        assert_eq!(fs::read(part(0)).unwrap(), b"new");
        die(output);
        assert!(staging.exists());
        let next = prepare_as(&dir, WriteMode::Append, "next");
        assert_eq!(fs::read(part(0)).unwrap(), old);
        drop(next);
        assert_eq!(names(&dir), ["part-00000.parquet"]);

        // And one that was killed before it had made its directory.
        let fresh = root.path().join("fresh");
        let output = prepare_as(&fresh, WriteMode::ErrorIfExists, "killed");
        write(&output, 0, "x");
        die(output);
        assert_eq!(names(root.path()), [".fresh.mobula-killed", "out"]);
        drop(prepare_as(&fresh, WriteMode::ErrorIfExists, "next"));
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn the_modes_treat_earlier_output_as_they_say() {
        let root = tempfile::tempdir().unwrap();
        let run = |mode| {
            let output = prepare(root.path(), mode)?;
            let files = [write(&output, 0, "x"), write(&output, 1, "x")];
            output.commit(&files)
        };
        run(WriteMode::ErrorIfExists).unwrap();
        assert!(matches!(run(WriteMode::ErrorIfExists), Err(DataError::OutputExists { .. })));
        run(WriteMode::Append).unwrap();
        assert_eq!(names(root.path()).len(), 4);
        run(WriteMode::Overwrite).unwrap();
        assert_eq!(names(root.path()), ["part-00000.parquet", "part-00001.parquet"]);
        fs::write(root.path().join("notes.txt"), "").unwrap();
        run(WriteMode::Overwrite).unwrap();
        fs::write(root.path().join("other.parquet"), "").unwrap();
        assert!(run(WriteMode::Overwrite).unwrap_err().to_string().contains("other.parquet"));
        assert_eq!(names(root.path()).len(), 4);
    }

    #[test]
    fn a_full_disk_is_told_by_the_name_that_people_know() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("out");
        let output = OutputDir::prepare(dir.to_str().unwrap(), WriteMode::Overwrite, "r").unwrap();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let hidden = Path::new(&output.staging()).join("part-00000.parquet.1");
        let told = output.shown(DataError::write(&hidden, &full));
        assert!(matches!(&told, DataError::DiskFull { path, .. } if Path::new(path) == dir), "{told}");
        let elsewhere = DataError::write(Path::new("/elsewhere"), &full);
        assert_eq!(output.shown(elsewhere.clone()), elsewhere);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for dir in [file.clone(), file.join("below"), file.join("far/below"), PathBuf::from("/proc/mobula")] {
            let error = prepare(&dir, WriteMode::Overwrite).unwrap_err();
            assert!(matches!(error, DataError::Write { .. }), "{error}");
            assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        }
        assert_eq!(names(root.path()), ["file"]);
    }
}
