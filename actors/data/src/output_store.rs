//! The directory in a store that a run writes to: the files of a run get there together.
//!
//! Entry type: [`OutputStore`], the driver's side of writing. Tasks upload their files to where they
//! will be, but a store shows an object only when its upload is completed. When every task is done,
//! the driver completes all uploads, and deletes them again if one cannot be, but for those that took
//! the place of an earlier file; then, if it is to replace earlier files, it deletes those that it
//! has not replaced. A reader at that very moment sees some of both, and so does one after an
//! overwrite that fails just then: a store cannot change several objects at once.
//!
//! A store has no locks. In their place a run has a hidden object, its *mark*. A task whose run has
//! none any more gives its uploads up. So whoever deletes the mark, and then aborts what uploads
//! there are, leaves nothing behind:
//!
//! ```text
//! OUT/.mobula-SECONDS-KEY-RANDOM     the run lives; KEY is that of all runs that do the same
//! OUT/part-00003.parquet             uploaded, and visible when the run is done
//! ```
//!
//! A run that was killed leaves its mark and its uploads. The next one there removes them if it does
//! the same, or a day later. Two different runs at the same time into one directory are not kept
//! apart, other than that neither takes the other's uploads for left over.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::hive;
use crate::output_dir::parts::{name_of, part_ordinal};
use crate::storage::{self, Location, PendingUpload, StorageOptions, complete, delete, exists, put_small};
use crate::write::{WriteMode, WriteOptions};

/// The directory in a store that a run writes to.
#[derive(Debug)]
pub(crate) struct OutputStore {
    /// Its path, with a slash at the end.
    base: String,
    mark: String,
    options: WriteOptions,
    storage: StorageOptions,
    first_ordinal: u64,
    ended: bool,
}

impl OutputStore {
    /// Makes everything ready for a run that does what `run_key` tells.
    pub(crate) fn prepare(dir: &str, options: &WriteOptions, run_key: &str) -> Result<OutputStore, DataError> {
        let storage = options.storage.clone().unwrap_or_default();
        let base = base_of(dir)?;
        let found = names_in(&base, &storage)?;
        check_in_the_way(&base, &found, options)?;
        let first_ordinal = match options.mode {
            WriteMode::Append => parts(&found).map(|(_, ordinal)| ordinal + 1).max().unwrap_or(0),
            _ => 0,
        };
        clear(&base, Some(run_key), &storage);
        let random = rand::random::<u32>();
        let mark = format!("{base}{MARK}{}-{run_key}-{random:08x}", now().as_secs());
        put_small(&mark, Bytes::new(), &storage)?;
        let options = options.clone();
        Ok(OutputStore { base, mark, options, storage, first_ordinal, ended: false })
    }

    /// The run's mark, beside which its files are.
    pub(crate) fn staging(&self) -> String {
        self.mark.clone()
    }

    /// Files that are added come after those that are there.
    pub(crate) fn first_ordinal(&self) -> u64 {
        self.first_ordinal
    }

    /// An error of a task, with the directory where it names the mark.
    pub(crate) fn shown(&self, mut error: DataError) -> DataError {
        if let DataError::Write { path, .. } = &mut error
            && *path == self.mark
        {
            path.clone_from(&self.base);
        }
        error
    }

    /// Makes the files of all tasks visible and returns their paths. If one cannot be, none is, but for
    /// those that took the place of an earlier one.
    pub(crate) fn commit(mut self, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        let uploads: Vec<PendingUpload> = files.iter().filter_map(|file| file.upload.clone()).collect();
        let replaced = match self.check().and_then(|old| complete(&uploads, &self.storage).map(|()| old)) {
            Ok(old) => old,
            Err(error) => {
                self.end(&uploads);
                return Err(error);
            }
        };
        self.end(&[]);
        let paths: Vec<String> = uploads.into_iter().map(|upload| upload.path).collect();
        let new: BTreeSet<&String> = paths.iter().collect();
        let old: Vec<String> = replaced.into_iter().filter(|path| !new.contains(path)).collect();
        delete(&old, &self.storage)?;
        Ok(paths)
    }

    /// Ends a run that has failed.
    pub(crate) fn abandon(mut self, uploads: &[PendingUpload]) {
        self.end(uploads);
    }

    /// Whether the files may still become visible; which ones they replace.
    fn check(&self) -> Result<Vec<String>, DataError> {
        if !exists(&self.mark, &self.storage)? {
            return Err(run_has_ended(&self.base));
        }
        let found = names_in(&self.base, &self.storage)?;
        check_in_the_way(&self.base, &found, &self.options)?;
        let path = |(name, _): (&String, u64)| format!("{}{name}", self.base);
        match self.options.mode {
            WriteMode::Overwrite => Ok(parts(&found).map(path).collect()),
            WriteMode::Append => match parts(&found).find(|(_, ordinal)| *ordinal >= self.first_ordinal) {
                // Another run was quicker, and ours would replace its files.
                Some((name, _)) => Err(DataError::OutputExists { path: self.base.clone(), found: name.clone() }),
                None => Ok(Vec::new()),
            },
            WriteMode::ErrorIfExists => Ok(Vec::new()),
        }
    }

    /// From here on nothing of the run becomes visible.
    fn end(&mut self, uploads: &[PendingUpload]) {
        self.ended = true;
        told("a run's mark", &self.mark, delete(std::slice::from_ref(&self.mark), &self.storage));
        told("uploads", &self.base, storage::abort(uploads, &self.storage));
        // Another run that does the same may have begun meanwhile: it goes on.
        clear(&self.base, None, &self.storage);
    }
}

impl Drop for OutputStore {
    fn drop(&mut self) {
        if !self.ended {
            self.end(&[]);
        }
    }
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

/// What is visible in a directory, by its path below it.
fn names_in(base: &str, storage: &StorageOptions) -> Result<Vec<String>, DataError> {
    let entries = match storage::list(base, storage) {
        Err(DataError::NotFound { .. }) => Vec::new(),
        found => found?,
    };
    Ok(entries.iter().filter_map(|entry| entry.path.strip_prefix(base).map(str::to_owned)).collect())
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

/// Removes what runs have left that were killed: a day ago, or at any time if they did what `run_key`
/// tells.
fn clear(base: &str, run_key: Option<&str>, storage: &StorageOptions) {
    told("what dead runs left", base, try_clear(base, run_key, storage));
}

fn try_clear(base: &str, run_key: Option<&str>, storage: &StorageOptions) -> Result<(), DataError> {
    let marks = match storage::list(&format!("{base}{MARK}*"), storage) {
        Err(DataError::NotFound { .. }) => Vec::new(),
        found => found?,
    };
    let marks: Vec<String> = marks.into_iter().map(|entry| entry.path).collect();
    let (live, dead): (Vec<String>, _) = marks.into_iter().partition(|mark| is_live(name_of(mark), run_key));
    delete(&dead, storage)?;
    if !live.is_empty() {
        return Ok(());
    }
    // Those of other programs are none of ours.
    let left = storage::uploads_under(base, storage)?;
    let ours = left.into_iter().filter(|(path, _)| part_ordinal(name_of(path)).is_some()).collect();
    storage::abort_listed(ours, storage)
}

/// Whether a mark may be that of a run that goes on, which is not this one.
fn is_live(mark: &str, run_key: Option<&str>) -> bool {
    let mut parts = mark.strip_prefix(MARK).unwrap_or_default().split('-');
    let began = parts.next().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let is_young = began.is_some_and(|began| now().saturating_sub(began) < DEAD_AFTER);
    let key = parts.next();
    is_young && run_key.is_none_or(|run_key| key != Some(run_key))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What is left in a store costs money and does no other harm: that is no reason to fail.
fn told(what: &str, path: &str, result: Result<(), DataError>) {
    if let Err(error) = result {
        tracing::warn!(path, %error, "{what} may be left in the store");
    }
}

/// How the name of a run's mark begins.
const MARK: &str = ".mobula-";
/// After this, a mark is taken for that of a run that was killed.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

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
    fn only_young_marks_of_other_runs_are_live() {
        let mark = |seconds: u64, key: &str| format!("{MARK}{seconds}-{key}-00000000");
        let now = now().as_secs();
        assert!(is_live(&mark(now, "other"), Some("ours")));
        assert!(!is_live(&mark(now, "ours"), Some("ours")) && is_live(&mark(now, "ours"), None));
        assert!(!is_live(&mark(now - DEAD_AFTER.as_secs() - 1, "other"), None));
        assert!(!is_live(".mobula-x", Some("ours")));
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
}
