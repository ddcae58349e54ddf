//! The directory in a store that a run writes to: the files of a run get there together.
//!
//! Entry type: [`OutputStore`], the driver's side of writing. Tasks upload their files to where they
//! will be, but a store shows an object only when its upload is completed. When every task is done,
//! the driver completes all uploads; then, if it is to replace earlier files, it deletes those that
//! it has not replaced. A reader at that very moment sees some of both: a store cannot change several
//! objects at once.
//!
//! So the driver first writes down what it is about to do, in a hidden object, the *record*. If an
//! upload cannot be completed and nothing was replaced, the others are deleted again, and nothing has
//! happened. Else there is no way back, and a commit that fails or is killed then leaves some of
//! both, until the next run there finds the record and does the rest before anything else. It counts
//! as done from the record on: who makes an append again that was killed there has its rows twice.
//!
//! A store has no locks. In their place a run has a hidden object, its *mark*. A task whose run has
//! none any more gives its uploads up. So whoever deletes the mark, and then aborts what uploads
//! there are, leaves nothing behind:
//!
//! ```text
//! OUT/.mobula-TIME-KEY-RUN          the run lives; KEY is that of all runs that do the same
//! OUT/.mobula-TIME-KEY-RUN-commit   what it is about to make visible, and to delete after that
//! OUT/part-00003.parquet            uploaded, and visible when the run is done
//! ```
//!
//! A run that was killed leaves its mark and its uploads. The next one there removes them if it does
//! the same, or a day later. Of several that do the same and begin at the same moment, the one with
//! the last mark goes on, and the others end: whoever has made its mark looks once more, ends if there
//! is a later one, and deletes all earlier ones if there is none. Two different runs at the same time
//! into one directory are not kept apart, other than that neither takes the other's uploads for left
//! over.
//!
//! A run that can be *resumed* leaves a *note* beside its mark about every block that is done
//! (`marks.rs` has the names). When it ends early, in whatever way, mark, notes and uploads stay. The
//! next run that does the same, and is to resume, makes a mark of its own, takes over the blocks in
//! the notes whose uploads are still there, and removes the rest with the earlier mark; one that is
//! not to resume removes all, and so does any other a day later. If the earlier run should still
//! live, it finds its mark gone, fails, and aborts nothing that is in a note: what is written down
//! belongs to the run that came last. A note that was written too late for that one is without a mark,
//! and counts as what a dead run left.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::hive;
use crate::output_dir::EarlierRun;
use crate::output_dir::parts::{name_of, part_ordinal};
use crate::storage::{self, Location, PendingUpload, RemoteEntry, StorageOptions, complete, delete, exists, put_small};
use crate::write::{WriteMode, WriteOptions};

mod marks;
mod notes;
mod record;

use marks::{
    Mark, delete_mark, hidden_in, is_displaced, is_note, live_and_dead, new_mark, note_of, note_of_taken, record_of,
};
use notes::{Earlier, earlier_runs, write_note};
use record::{Record, finish_commits, half_committed};

/// The directory in a store that a run writes to.
#[derive(Debug)]
pub(crate) struct OutputStore {
    /// Its path, with a slash at the end.
    base: String,
    mark: String,
    options: WriteOptions,
    storage: StorageOptions,
    first_ordinal: u64,
    /// What was found of earlier runs, if this one can be resumed.
    earlier: Option<EarlierRun>,
    /// The blocks that are taken over.
    taken: Earlier,
    ended: bool,
}

impl OutputStore {
    /// Makes everything ready for a run that does what `run_key` tells. If it can be resumed, it takes
    /// over what an earlier one has done that does the same.
    pub(crate) fn prepare(
        dir: &str,
        options: &WriteOptions,
        run_key: &str,
        resume: bool,
    ) -> Result<OutputStore, DataError> {
        let storage = options.storage.clone().unwrap_or_default();
        let base = base_of(dir)?;
        let mut committed = Vec::new();
        for finished in finish_commits(&base, options.mode, &storage)? {
            let first = Mark::of(&finished.mark).filter(|mark| mark.key == run_key).and_then(|mark| mark.first);
            committed.extend(first.map(|first| (first, finished.files)));
        }
        let (mut earlier, mut taken) = (None, Earlier::default());
        let mut found = names_in(&base, &storage)?;
        let hidden = hidden_in(&base, &storage)?;
        if resume {
            let (runs, any) = earlier_runs(&hidden, run_key, committed, &storage)?;
            earlier = Some(if any { EarlierRun::Same } else { EarlierRun::Nothing });
            // Of runs that append, one whose files would be called otherwise is none to go on with.
            let mut runs = runs.into_iter();
            let fits = |(first, run): &(u64, Earlier)| first_ordinal(options.mode, &found, &run.visible) == *first;
            taken = runs.find(fits).map(|(_, run)| run).unwrap_or_default();
        }
        let first_ordinal = first_ordinal(options.mode, &found, &taken.visible);
        found.retain(|name| !taken.visible.contains(name));
        check_in_the_way(&base, &found, options)?;
        let seen = hidden.iter().map(|entry| entry.path.as_str());
        let mark = new_mark(&base, run_key, resume.then_some(first_ordinal), seen);
        put_small(&mark, Bytes::new(), &storage)?;
        let options = options.clone();
        let mut output = OutputStore { base, mark, options, storage, first_ordinal, earlier, taken, ended: false };
        output.check_is_last()?;
        let files = output.finished();
        if !files.is_empty() {
            // From here on they are this run's, and the earlier one's notes may go.
            write_note(&note_of_taken(&output.mark), &files, &output.storage)?;
        }
        let own = Mark::of(&output.mark);
        output.clear(&|mark| own.as_ref().is_some_and(|own| own.is_after(mark)));
        Ok(output)
    }

    /// Leaves the place to a run that does the same and has begun at the same moment, if there is one: all
    /// that this one has made by now is its mark.
    fn check_is_last(&mut self) -> Result<(), DataError> {
        let hidden = hidden_in(&self.base, &self.storage)?;
        if !is_displaced(&self.mark, hidden.iter().map(|entry| entry.path.as_str())) {
            return Ok(());
        }
        self.ended = true;
        told("a run's mark", &self.mark, delete(std::slice::from_ref(&self.mark), &self.storage));
        let cause = "a run that does the same has begun at the same moment and goes on: wait for it, or end it".into();
        Err(DataError::Write { path: self.base.clone(), cause })
    }

    /// The run's mark, beside which its files are.
    pub(crate) fn staging(&self) -> String {
        self.mark.clone()
    }

    /// Files that are added come after those that are there.
    pub(crate) fn first_ordinal(&self) -> u64 {
        self.first_ordinal
    }

    /// What was found of earlier runs, if this one can be resumed.
    pub(crate) fn earlier(&self) -> Option<EarlierRun> {
        self.earlier
    }

    /// The files of blocks that an earlier run has finished, in the order of blocks.
    pub(crate) fn finished(&self) -> Vec<BlockFile> {
        self.taken.blocks.values().flatten().cloned().collect()
    }

    /// How many blocks an earlier run has finished whose files are gone.
    pub(crate) fn finished_and_gone(&self) -> u64 {
        self.taken.gone
    }

    /// An error of a task, with the directory where it names the mark.
    pub(crate) fn shown(&self, mut error: DataError) -> DataError {
        if let DataError::Write { path, .. } = &mut error
            && path.starts_with(&self.mark)
        {
            path.clone_from(&self.base);
        }
        error
    }

    /// Makes the files of all tasks visible and returns their paths. If one cannot be, none is, unless
    /// some took the place of earlier ones: then the error says who does the rest.
    pub(crate) fn commit(mut self, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        let record = match self.record(files) {
            Ok(record) => record,
            Err(error) => {
                self.give_up(&uploads_of(files));
                return Err(error);
            }
        };
        let uploads = record.uploads();
        if let Err(incomplete) = complete(&uploads, &self.storage) {
            let is_undone = incomplete.made.is_some_and(|made| made.is_empty() || delete(&made, &self.storage).is_ok());
            if !is_undone {
                self.ended = true;
                return Err(half_committed(&self.base, &self.mark, &incomplete.error));
            }
            self.drop_record();
            self.give_up(&uploads);
            return Err(*incomplete.error);
        }
        if let Err(error) = record.delete_replaced(&self.base, &self.storage) {
            self.ended = true;
            return Err(half_committed(&self.base, &self.mark, &error));
        }
        self.end(&[]);
        Ok(uploads.into_iter().map(|upload| upload.path).collect())
    }

    /// Ends a run that has failed.
    pub(crate) fn abandon(mut self, uploads: &[PendingUpload]) {
        self.give_up(uploads);
    }

    /// Writes down what the commit is about to do, if it may.
    fn record(&self, files: &[BlockFile]) -> Result<Record, DataError> {
        let mut replaced = self.check()?;
        let new: BTreeSet<String> = uploads_of(files).into_iter().map(|upload| upload.path).collect();
        replaced.retain(|entry| !new.contains(&entry.path));
        let record = Record { files: files.to_vec(), replaced };
        // It may be there though nobody has said so.
        record.write(&self.mark, &self.storage).inspect_err(|_| self.drop_record())?;
        Ok(record)
    }

    fn drop_record(&self) {
        told("the record of a commit", &self.base, delete(&[record_of(&self.mark)], &self.storage));
    }

    /// Whether the files may still become visible; which ones they replace.
    fn check(&self) -> Result<Vec<RemoteEntry>, DataError> {
        if !exists(&self.mark, &self.storage)? {
            return Err(run_has_ended(&self.base));
        }
        // Those of runs that died since this one began must not be carried out later.
        finish_commits(&self.base, self.options.mode, &self.storage)?;
        let mut entries = files_in(&self.base, &self.storage)?;
        let mut found: Vec<String> = names(&self.base, &entries).collect();
        found.retain(|name| !self.taken.visible.contains(name));
        check_in_the_way(&self.base, &found, &self.options)?;
        match self.options.mode {
            WriteMode::Overwrite => {
                let old: BTreeSet<&str> = parts(&found).map(|(name, _)| name.as_str()).collect();
                entries.retain(|entry| entry.path.strip_prefix(&self.base).is_some_and(|name| old.contains(name)));
                Ok(entries)
            }
            WriteMode::Append => match parts(&found).find(|(_, ordinal)| *ordinal >= self.first_ordinal) {
                // Another run was quicker, and ours would replace its files.
                Some((name, _)) => Err(DataError::OutputExists { path: self.base.clone(), found: name.clone() }),
                None => Ok(Vec::new()),
            },
            WriteMode::ErrorIfExists => Ok(Vec::new()),
        }
    }

    /// Ends a run that has failed. If it can be resumed, what is done stays.
    fn give_up(&mut self, uploads: &[PendingUpload]) {
        self.ended = true;
        if self.earlier.is_none() || !self.is_left_to_another() {
            self.end(uploads);
        }
    }

    /// Whether there is something to go on with, or another run already does.
    fn is_left_to_another(&self) -> bool {
        let Ok(hidden) = hidden_in(&self.base, &self.storage) else {
            // Nobody knows.
            return true;
        };
        let mut own = hidden.iter().map(|entry| &entry.path).filter(|path| path.starts_with(&self.mark));
        let is_taken = !hidden.iter().any(|entry| entry.path == self.mark);
        is_taken || own.any(|path| is_note(path))
    }

    /// From here on nothing of the run becomes visible.
    fn end(&mut self, uploads: &[PendingUpload]) {
        self.ended = true;
        told("a run's mark", &self.mark, delete_mark(&self.base, &self.mark, &self.storage));
        told("uploads", &self.base, storage::abort(uploads, &self.storage));
        // Another run that does the same may have begun meanwhile: it goes on.
        self.clear(&|_| false);
    }

    /// Removes what runs have left that were killed: a day ago, or at any time if they are over.
    fn clear(&self, is_over: &dyn Fn(&Mark<'_>) -> bool) {
        told("what dead runs left", &self.base, self.try_clear(is_over));
    }

    fn try_clear(&self, is_over: &dyn Fn(&Mark<'_>) -> bool) -> Result<(), DataError> {
        // A run's mark is older than its uploads: of a run that begins meanwhile, both are seen or the mark.
        let left = storage::uploads_under(&self.base, &self.storage);
        let hidden = hidden_in(&self.base, &self.storage)?.into_iter().map(|entry| entry.path);
        let (live, dead) = live_and_dead(hidden.filter(|path| !path.starts_with(&self.mark)).collect(), is_over);
        delete(&dead, &self.storage)?;
        if !live.is_empty() {
            return Ok(());
        }
        // Those of other programs are none of ours, and what was taken over is needed.
        let taken: BTreeSet<String> = uploads_of(&self.finished()).into_iter().map(|upload| upload.upload_id).collect();
        let mut left = left?;
        left.retain(|(path, id)| part_ordinal(name_of(path)).is_some() && !taken.contains(id));
        storage::abort_listed(left, &self.storage)
    }
}

impl Drop for OutputStore {
    fn drop(&mut self) {
        if !self.ended {
            self.give_up(&[]);
        }
    }
}

/// A task's note of the files of a block that is done; only runs that can be resumed leave notes.
pub(crate) fn note_block(
    mark: &str,
    ordinal: u64,
    files: &[BlockFile],
    storage: &StorageOptions,
) -> Result<(), DataError> {
    match Mark::of(mark).and_then(|mark| mark.first) {
        Some(_) if !files.is_empty() => write_note(&note_of(mark, ordinal), files, storage),
        _ => Ok(()),
    }
}

fn uploads_of(files: &[BlockFile]) -> Vec<PendingUpload> {
    files.iter().filter_map(|file| file.upload.clone()).collect()
}

/// The directory of a run's files, with a slash at the end, by the run's mark.
pub(crate) fn base_of_mark(mark: &str) -> &str {
    &mark[..mark.len() - name_of(mark).len()]
}

/// Whether the run with this mark goes on.
pub(crate) fn check_mark(mark: &str, storage: &StorageOptions) -> Result<(), DataError> {
    if exists(mark, storage)? { Ok(()) } else { Err(run_has_ended(mark)) }
}

fn run_has_ended(path: &str) -> DataError {
    let cause = "the run has ended: it has failed, or another one that does the same took its place".into();
    DataError::Write { path: path.into(), cause }
}

fn base_of(dir: &str) -> Result<String, DataError> {
    let location = Location::parse(dir)?;
    let invalid = |cause: &str| DataError::InvalidLocation { path: location.to_string(), cause: cause.into() };
    match &location {
        Location::Http { .. } => Err(invalid("files behind a URL can be read and not written: write to s3://…")),
        _ if location.is_pattern() => Err(invalid("an output has one place, and this is a pattern")),
        Location::S3 { bucket, key } => match key.trim_end_matches('/') {
            "" => Ok(format!("s3://{bucket}/")),
            key => Ok(format!("s3://{bucket}/{key}/")),
        },
    }
}

/// What is visible in a directory.
fn files_in(base: &str, storage: &StorageOptions) -> Result<Vec<RemoteEntry>, DataError> {
    match storage::list(base, storage) {
        Err(DataError::NotFound { .. }) => Ok(Vec::new()),
        found => found,
    }
}

/// The same by its path below it.
fn names_in(base: &str, storage: &StorageOptions) -> Result<Vec<String>, DataError> {
    Ok(names(base, &files_in(base, storage)?).collect())
}

fn names<'a>(base: &'a str, entries: &'a [RemoteEntry]) -> impl Iterator<Item = String> + 'a {
    entries.iter().filter_map(move |entry| entry.path.strip_prefix(base).map(str::to_owned))
}

/// The ordinal of the first block of a run, which finds these files, of which some are its own.
fn first_ordinal(mode: WriteMode, found: &[String], own: &BTreeSet<String>) -> u64 {
    match mode {
        WriteMode::Append => {
            let others = parts(found).filter(|(name, _)| !own.contains(*name));
            others.map(|(_, ordinal)| ordinal + 1).max().unwrap_or(0)
        }
        WriteMode::Overwrite | WriteMode::ErrorIfExists => 0,
    }
}

/// The files of earlier runs among these, with the ordinals in their names.
fn parts(names: &[String]) -> impl Iterator<Item = (&String, u64)> {
    names.iter().filter(|name| is_in_values(name)).filter_map(|name| Some((name, part_ordinal(name_of(name))?)))
}

/// Whether the directories on the way tell values; others are somebody else's.
fn is_in_values(name: &str) -> bool {
    name.rsplit_once('/').is_none_or(|(above, _)| above.split('/').all(|part| hive::parse(part).is_some()))
}

/// Refuses an output that holds what this run may neither leave nor replace.
fn check_in_the_way(base: &str, names: &[String], options: &WriteOptions) -> Result<(), DataError> {
    let is_read = |name: &str| {
        let name = name_of(name).to_ascii_lowercase();
        part_ordinal(&name).is_none() && options.read_extensions().iter().any(|end| name.ends_with(end))
    };
    let found = match options.mode {
        WriteMode::Append => None,
        WriteMode::ErrorIfExists => names.first(),
        WriteMode::Overwrite => names.iter().find(|name| is_in_values(name) && is_read(name)),
    };
    match found {
        Some(found) => Err(DataError::OutputExists { path: base.into(), found: found.clone() }),
        None => Ok(()),
    }
}

/// What is left in a store costs money and does no other harm: that is no reason to fail.
fn told(what: &str, path: &str, result: Result<(), DataError>) {
    if let Err(error) = result {
        tracing::warn!(path, %error, "{what} may be left in the store");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_a_directory_as_it_is_spelt() {
        assert_eq!(base_of("s3://b").unwrap(), "s3://b/");
        assert_eq!(base_of("s3a://b/a//c/").unwrap(), "s3://b/a//c/");
        for path in ["s3://b/a*", "https://h/x", "gs://b/x"] {
            assert!(matches!(base_of(path), Err(DataError::InvalidLocation { .. })), "{path}");
        }
    }

    #[test]
    fn files_of_runs_lie_in_the_directory_or_in_those_of_values() {
        let names = ["part-00003.parquet", "z=1/part-00004-001.parquet", "x/part-00009.parquet", "a.parquet"];
        let names = names.map(str::to_owned);
        assert_eq!(parts(&names).map(|(_, ordinal)| ordinal).collect::<Vec<_>>(), [3, 4]);
        let options = |mode| WriteOptions { mode, ..WriteOptions::default() };
        let refused = |names: &[String], mode| check_in_the_way("s3://b/", names, &options(mode)).is_err();
        assert!(refused(&names, WriteMode::Overwrite) && refused(&names[..1], WriteMode::ErrorIfExists));
        assert!(!refused(&names[..3], WriteMode::Overwrite) && !refused(&names, WriteMode::Append));
    }

    #[test]
    fn files_that_are_added_come_after_those_of_other_runs() {
        let names = ["part-00003.parquet", "z=1/part-00004-001.parquet", "a.parquet"].map(str::to_owned);
        let first = |mode, own: &[&str]| first_ordinal(mode, &names, &own.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(first(WriteMode::Append, &[]), 5);
        assert_eq!(first(WriteMode::Append, &["z=1/part-00004-001.parquet"]), 4);
        assert_eq!(first(WriteMode::Append, &["z=1/part-00004-001.parquet", "part-00003.parquet"]), 0);
        assert_eq!(first(WriteMode::Overwrite, &[]), 0);
    }
}
