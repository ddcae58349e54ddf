//! The names of what runs keep hidden in a directory of a store.
//!
//! Entry types: [`Mark`], what the name of a run's mark tells, and that of whatever belongs to it.
//! Names that begin with a dot are no files for readers.
//!
//! ```text
//! .mobula-SECONDS-KEY-RANDOM                                the mark of a run
//! .mobula-SECONDS-KEY-RANDOM-resume-FIRST                   of one that can be resumed
//! .mobula-SECONDS-KEY-RANDOM-resume-FIRST-part-00003.done   a note: the files of a block that is done
//! .mobula-SECONDS-KEY-RANDOM-resume-FIRST-taken.done        those that an earlier run had done
//! .mobula-SECONDS-KEY-RANDOM[-resume-FIRST]-commit          a record: what is about to be made visible
//! ```
//!
//! FIRST is the ordinal in the names of the files of the first block: of two runs that append the
//! same rows, one goes on with the files of the other only if they would have the same names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::block_writer::{MANIFEST, part_name};
use crate::error::DataError;
use crate::output_dir::parts::name_of;
use crate::storage::{self, RemoteEntry, StorageOptions, delete};

/// What the name of a mark tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mark<'a> {
    began: Duration,
    /// That of all runs that do the same.
    pub(super) key: &'a str,
    /// Of a run that can be resumed, the ordinal of its first block.
    pub(super) first: Option<u64>,
}

impl<'a> Mark<'a> {
    /// By the path of a mark, or of something that belongs to it.
    pub(super) fn of(path: &'a str) -> Option<Mark<'a>> {
        let mut parts = name_of(path).strip_prefix(PREFIX)?.split('-');
        let began = Duration::from_secs(parts.next()?.parse().ok()?);
        let key = parts.next()?;
        let _random = parts.next()?;
        let first = match parts.next() {
            Some(RESUME) => Some(parts.next()?.parse().ok()?),
            _ => None,
        };
        Some(Mark { began, key, first })
    }

    /// Whether its run may go on.
    fn is_young(&self) -> bool {
        now().saturating_sub(self.began) < DEAD_AFTER
    }
}

/// The path of a new mark in the directory `base`.
pub(super) fn new_mark(base: &str, key: &str, first: Option<u64>) -> String {
    let (seconds, random) = (now().as_secs(), rand::random::<u32>());
    let resume = first.map(|first| format!("-{RESUME}-{first}")).unwrap_or_default();
    format!("{base}{PREFIX}{seconds}-{key}-{random:08x}{resume}")
}

/// The note of a block.
pub(super) fn note_of(mark: &str, ordinal: u64) -> String {
    format!("{mark}-{}{MANIFEST}", part_name(ordinal, ""))
}

/// The note of what an earlier run had done.
pub(super) fn note_of_taken(mark: &str) -> String {
    format!("{mark}-{TAKEN}{MANIFEST}")
}

pub(super) fn is_note(path: &str) -> bool {
    path.ends_with(MANIFEST)
}

/// The record of what is about to be made visible.
pub(super) fn record_of(mark: &str) -> String {
    format!("{mark}{RECORD}")
}

/// The mark that a record belongs to.
pub(super) fn mark_of_record(path: &str) -> Option<&str> {
    path.strip_suffix(RECORD)
}

/// Whether this is, or belongs to, a mark of a run that may go on and is not over for another reason. A
/// record outlives its run: whoever comes next carries it out.
pub(super) fn is_live(path: &str, is_over: &dyn Fn(&Mark<'_>) -> bool) -> bool {
    mark_of_record(path).is_some() || Mark::of(path).is_some_and(|mark| mark.is_young() && !is_over(&mark))
}

/// All marks in the directory `base`, with what belongs to them; earlier ones first.
pub(super) fn hidden_in(base: &str, storage: &StorageOptions) -> Result<Vec<RemoteEntry>, DataError> {
    match storage::list(&format!("{base}{PREFIX}*"), storage) {
        Err(DataError::NotFound { .. }) => Ok(Vec::new()),
        found => found,
    }
}

/// Deletes a mark with what belongs to it, the record last: without it, nobody would know what is
/// left to do.
pub(super) fn delete_mark(base: &str, mark: &str, storage: &StorageOptions) -> Result<(), DataError> {
    let paths = hidden_in(base, storage)?.into_iter().map(|entry| entry.path).filter(|path| path.starts_with(mark));
    let (records, others): (Vec<String>, Vec<String>) = paths.partition(|path| mark_of_record(path).is_some());
    delete(&others, storage)?;
    delete(&records, storage)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How the name of a mark begins.
const PREFIX: &str = ".mobula-";
/// What stands before the first ordinal of a run that can be resumed.
const RESUME: &str = "resume";
const TAKEN: &str = "taken";
/// How the name of a record ends.
const RECORD: &str = "-commit";
/// After this, a mark is taken for that of a run that was killed.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_what_it_is_and_so_does_what_belongs_to_it() {
        for first in [None, Some(0), Some(12)] {
            let mark = new_mark("s3://b/out-1/", "0123456789abcdef", first);
            for path in [&mark, &note_of(&mark, 3), &note_of_taken(&mark), &record_of(&mark)] {
                let told = Mark::of(path).unwrap();
                assert_eq!((told.key, told.first), ("0123456789abcdef", first), "{path}");
                assert!(told.is_young() && name_of(path).starts_with('.'), "{path}");
            }
            assert_eq!(mark_of_record(&record_of(&mark)), Some(mark.as_str()));
            assert!(is_note(&note_of(&mark, 3)) && is_note(&note_of_taken(&mark)));
            assert!(!is_note(&mark) && !is_note(&record_of(&mark)) && mark_of_record(&mark).is_none());
        }
        for name in [".mobula-x", ".mobula-1-key", ".mobula-1-key-0-resume-x", "mobula-1-key-0", ".other-1-key-0"] {
            assert_eq!(Mark::of(name), None, "{name}");
        }
    }

    #[test]
    fn only_young_marks_of_other_runs_are_live() {
        let mark = |seconds: u64, key: &str| format!("{PREFIX}{seconds}-{key}-00000000");
        let now = now().as_secs();
        let (ours, none) = (|mark: &Mark<'_>| mark.key == "ours", |_: &Mark<'_>| false);
        assert!(is_live(&mark(now, "other"), &ours));
        assert!(!is_live(&mark(now, "ours"), &ours) && is_live(&mark(now, "ours"), &none));
        let old = mark(now - DEAD_AFTER.as_secs() - 1, "other");
        assert!(!is_live(&old, &none) && !is_live(&note_of(&old, 1), &none) && is_live(&record_of(&old), &none));
        assert!(!is_live(".mobula-x", &ours));
    }
}
