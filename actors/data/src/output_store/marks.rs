//! The names of what runs keep hidden in a directory of a store.
//!
//! Entry types: [`Mark`], what the name of a run's mark tells, and that of whatever belongs to it.
//! Names that begin with a dot are no files for readers.
//!
//! ```text
//! .mobula-TIME-KEY-RUN                                the mark of a run
//! .mobula-TIME-KEY-RUN-resume-FIRST                   of one that can be resumed
//! .mobula-TIME-KEY-RUN-resume-FIRST-part-00003.done   a note: the files of a block that is done
//! .mobula-TIME-KEY-RUN-resume-FIRST-taken.done        those that an earlier run had done
//! .mobula-TIME-KEY-RUN[-resume-FIRST]-commit          a record: what is about to be made visible
//! ```
//!
//! Marks of one KEY have an order, by TIME (seconds and nanoseconds) and then by RUN, which is random.
//! A new one comes after all that its run has seen, whatever the clock says: so none that was there
//! before it can be the later one, and of several that are made at the same moment one is the last.
//!
//! FIRST is the ordinal in the names of the files of the first block: of two runs that append the
//! same rows, one goes on with the files of the other only if they would have the same names.

use std::collections::BTreeSet;
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
    /// Told from all other runs by this.
    run: &'a str,
    /// Of a run that can be resumed, the ordinal of its first block.
    pub(super) first: Option<u64>,
}

impl<'a> Mark<'a> {
    /// By the path of a mark, or of something that belongs to it.
    pub(super) fn of(path: &'a str) -> Option<Mark<'a>> {
        let mut parts = name_of(path).strip_prefix(PREFIX)?.split('-');
        let began = time_of(parts.next()?)?;
        let key = parts.next()?;
        let run = parts.next()?;
        let first = match parts.next() {
            Some(RESUME) => Some(parts.next()?.parse().ok()?),
            _ => None,
        };
        Some(Mark { began, key, run, first })
    }

    /// Whether both are of runs that do the same, and this one's began later.
    pub(super) fn is_after(&self, other: &Mark<'_>) -> bool {
        self.key == other.key && (self.began, self.run) > (other.began, other.run)
    }

    /// Whether its run may go on.
    fn is_young(&self) -> bool {
        now().saturating_sub(self.began) < DEAD_AFTER
    }
}

/// The path of a new mark in the directory `base`, in which its run has `seen` these.
pub(super) fn new_mark<'a>(
    base: &str,
    key: &str,
    first: Option<u64>,
    seen: impl IntoIterator<Item = &'a str>,
) -> String {
    mark_at(now(), rand::random(), base, key, first, seen)
}

fn mark_at<'a>(
    now: Duration,
    run: u64,
    base: &str,
    key: &str,
    first: Option<u64>,
    seen: impl IntoIterator<Item = &'a str>,
) -> String {
    let of_key = seen.into_iter().filter_map(Mark::of).filter(|mark| mark.key == key);
    // Clocks differ, and that of a dead run may have been fast.
    let after_seen = of_key.map(|mark| mark.began.saturating_add(TICK)).max();
    let began = after_seen.map_or(now, |after| after.max(now));
    let resume = first.map(|first| format!("-{RESUME}-{first}")).unwrap_or_default();
    format!("{base}{PREFIX}{}.{:09}-{key}-{run:016x}{resume}", began.as_secs(), began.subsec_nanos())
}

/// A time as names have it: seconds, and nanoseconds in nine digits.
fn time_of(text: &str) -> Option<Duration> {
    let (seconds, nanoseconds) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds = nanoseconds.parse::<u32>().ok().filter(|nanoseconds| *nanoseconds < NANOSECONDS_PER_SECOND)?;
    Some(Duration::new(seconds.parse().ok()?, nanoseconds))
}

/// Whether the run of `mark`, which has begun, is to end: another that does the same has begun at the same
/// moment, and has the later mark. The one with the last of all finds none, so it goes on.
pub(super) fn is_displaced<'a>(mark: &str, found: impl IntoIterator<Item = &'a str>) -> bool {
    let own = Mark::of(mark);
    // A record outlives its run, and so may a note.
    let marks = found.into_iter().filter(|path| mark_of_note(path).is_none() && mark_of_record(path).is_none());
    let mut others = marks.filter_map(Mark::of);
    own.is_some_and(|own| others.any(|other| other.is_after(&own)))
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

/// The mark that a note belongs to.
fn mark_of_note(path: &str) -> Option<&str> {
    let (mark, what) = path.strip_suffix(MANIFEST)?.rsplit_once('-')?;
    if what == TAKEN { Some(mark) } else { mark.strip_suffix(PART) }
}

/// The record of what is about to be made visible.
pub(super) fn record_of(mark: &str) -> String {
    format!("{mark}{RECORD}")
}

/// The mark that a record belongs to.
pub(super) fn mark_of_record(path: &str) -> Option<&str> {
    path.strip_suffix(RECORD)
}

/// Deals what is hidden in a directory: what is, or belongs to, a mark of a run that may go on and is not
/// over for another reason, and the rest. A record outlives its run: whoever comes next carries it out. A
/// note without its mark is of a run that is over: a task wrote it that had not heard of its end.
pub(super) fn live_and_dead(hidden: Vec<String>, is_over: &dyn Fn(&Mark<'_>) -> bool) -> (Vec<String>, Vec<String>) {
    let marks: BTreeSet<String> = hidden.iter().filter(|path| !is_note(path)).cloned().collect();
    let is_live = |path: &String| {
        let is_left_over = is_note(path) && !mark_of_note(path).is_some_and(|mark| marks.contains(mark));
        let may_go_on = || Mark::of(path).is_some_and(|mark| mark.is_young() && !is_over(&mark));
        mark_of_record(path).is_some() || (!is_left_over && may_go_on())
    };
    hidden.into_iter().partition(is_live)
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
/// What stands before the ordinal in the note of a block.
const PART: &str = "-part";
/// How the name of a record ends.
const RECORD: &str = "-commit";
/// The least by which times differ.
const TICK: Duration = Duration::from_nanos(1);
const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;
/// After this, a mark is taken for that of a run that was killed.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const BASE: &str = "s3://b/out-1/";

    #[test]
    fn a_mark_tells_what_it_is_and_so_does_what_belongs_to_it() {
        for first in [None, Some(0), Some(12)] {
            let mark = new_mark(BASE, "0123456789abcdef", first, []);
            for path in [&mark, &note_of(&mark, 3), &note_of_taken(&mark), &record_of(&mark)] {
                let told = Mark::of(path).unwrap();
                assert_eq!((told.key, told.first), ("0123456789abcdef", first), "{path}");
                assert!(told.is_young() && name_of(path).starts_with('.'), "{path}");
            }
            assert_eq!(mark_of_record(&record_of(&mark)), Some(mark.as_str()));
            for note in [note_of(&mark, 3), note_of(&mark, 1_234_567), note_of_taken(&mark)] {
                assert!(is_note(&note) && mark_of_note(&note) == Some(mark.as_str()), "{note}");
            }
            assert!(!is_note(&mark) && !is_note(&record_of(&mark)) && mark_of_record(&mark).is_none());
        }
        for name in [
            ".mobula-x",
            ".mobula-1-key",
            ".mobula-1-key-0-resume-x",
            ".mobula-1.x-key-0",
            ".mobula-1.1000000000-key-0",
            "mobula-1-key-0",
            ".other-1-key-0",
        ] {
            assert_eq!(Mark::of(name), None, "{name}");
        }
    }

    #[test]
    fn marks_have_an_order_and_a_new_one_comes_after_all_that_were_seen() {
        let at = |nanoseconds, run, seen: &[&str]| {
            mark_at(Duration::from_nanos(nanoseconds), run, BASE, "key", Some(0), seen.iter().copied())
        };
        let is_after = |one: &str, other: &str| Mark::of(one).unwrap().is_after(&Mark::of(other).unwrap());
        let second = 1_000_000_000;
        let early = at(7 * second + 5, 9, &[]);
        assert_eq!(early, "s3://b/out-1/.mobula-7.000000005-key-0000000000000009-resume-0");
        for later in [at(7 * second + 5, 10, &[]), at(7 * second + 6, 0, &[]), at(8 * second, 0, &[])] {
            assert!(is_after(&later, &early) && !is_after(&early, &later), "{later}");
            // The store lists them in this order.
            assert!(later > early, "{later}");
        }
        assert!(!is_after(&early, &early));
        let other = at(9 * second, 0, &[]).replace("-key-", "-other-");
        assert!(!is_after(&other, &early) && !is_after(&early, &other), "they do not do the same");
        // The clock of whoever made those was fast; what belongs to a mark tells it, too.
        for seen in [early.clone(), note_of(&early, 3), record_of(&early)] {
            assert!(is_after(&at(second, 0, &[&seen, "x", &other]), &early), "{seen}");
        }
        let at_a_full_second = at(8 * second - 1, 9, &[]);
        assert!(is_after(&at(0, 0, &[&at_a_full_second]), &at_a_full_second));
    }

    /// What a run does one step at a time, while others do theirs.
    enum Run {
        Begins,
        HasSeen(Vec<String>),
        HasMark(String),
        IsLast(String),
        GoesOn(String),
        IsTold,
    }

    /// A history of some runs that do the same, and of which clocks say anything: whoever is told ends, and
    /// exactly one of the others still has its mark.
    fn of_runs_at_once_one_goes_on_in(seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut there = BTreeSet::new();
        for _ in 0..random.random_range(0..3) {
            // Dead, and perhaps from a clock that was fast.
            let began = Duration::from_nanos(random.random_range(0..20));
            let dead = mark_at(began, random.random(), BASE, "key", None, []);
            there.insert(note_of(&dead, 0));
            there.insert(dead);
        }
        let dead = there.clone();
        let mut runs: Vec<Run> = (0..random.random_range(1..6)).map(|_| Run::Begins).collect();
        while runs.iter().any(|run| !matches!(run, Run::GoesOn(_) | Run::IsTold)) {
            let at = random.random_range(0..runs.len());
            let run = std::mem::replace(&mut runs[at], Run::IsTold);
            runs[at] = match run {
                Run::Begins => Run::HasSeen(there.iter().cloned().collect()),
                Run::HasSeen(seen) => {
                    let now = Duration::from_nanos(random.random_range(0..4));
                    let mark = mark_at(now, random.random(), BASE, "key", None, seen.iter().map(String::as_str));
                    there.insert(mark.clone());
                    Run::HasMark(mark)
                }
                Run::HasMark(mark) if is_displaced(&mark, there.iter().map(String::as_str)) => {
                    there.remove(&mark);
                    Run::IsTold
                }
                Run::HasMark(mark) => Run::IsLast(mark),
                Run::IsLast(mark) => {
                    let own = Mark::of(&mark).unwrap();
                    there.retain(|other| !own.is_after(&Mark::of(other).unwrap()));
                    Run::GoesOn(mark)
                }
                ended => ended,
            };
        }
        let with_mark = runs.iter().filter(|run| matches!(run, Run::GoesOn(mark) if there.contains(mark))).count();
        assert_eq!((with_mark, there.len()), (1, 1), "seed {seed}: {there:?}, dead before: {dead:?}");
    }

    #[test]
    fn of_runs_at_once_one_goes_on() {
        (0..10_000).for_each(of_runs_at_once_one_goes_on_in);
    }

    #[test]
    fn only_young_marks_of_other_runs_are_live() {
        let mark = |seconds: u64, key: &str| format!("{PREFIX}{seconds}-{key}-00000000");
        let now = now().as_secs();
        let (ours, none) = (|mark: &Mark<'_>| mark.key == "ours", |_: &Mark<'_>| false);
        let live = |paths: &[String], is_over: &dyn Fn(&Mark<'_>) -> bool| live_and_dead(paths.to_vec(), is_over).0;
        let (young, own) = (mark(now, "other"), mark(now, "ours"));
        let both = [young.clone(), own.clone()];
        assert_eq!(live(&both, &ours), both[..1]);
        assert_eq!(live(&both, &none), both);
        let old = mark(now - DEAD_AFTER.as_secs() - 1, "other");
        assert_eq!(live(&[old.clone(), note_of(&old, 1), record_of(&old)], &none), [record_of(&old)]);
        assert_eq!(live(&[".mobula-x".to_owned()], &ours), [""; 0]);
        // A note lives with its mark, which a record is none.
        for note in [note_of(&young, 1), note_of_taken(&young)] {
            let with_mark = [young.clone(), note.clone()];
            assert_eq!(live(&with_mark, &none), with_mark);
            assert_eq!(live(&[note.clone(), own.clone(), record_of(&young)], &none), [own.clone(), record_of(&young)]);
        }
    }
}
