//! Which fetched binaries a machine keeps: the most recently used ones within a bound of bytes, and
//! never one that runs or is about to.
//!
//! When a binary was used last is the time of an empty file beside it, `<hash>.used`: its own times
//! say whether its content has changed, and so stay as they are.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The extension of the file whose time says when a binary was used last.
const USED: &str = "used";
/// One that was asked for so lately may be about to run.
const ABOUT_TO_RUN: Duration = Duration::from_secs(600);

/// A fetched binary.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    size_bytes: u64,
    used: SystemTime,
    /// A process of this machine runs it.
    runs: bool,
}

/// Whether this file only says when a binary was used.
pub(super) fn is_mark(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == USED)
}

/// Notes that a binary is used now.
pub(super) fn mark_used(binary: &Path) -> io::Result<()> {
    File::create(binary.with_extension(USED))?.set_modified(SystemTime::now())
}

/// Removes the binaries of a directory that are beyond the bound. Best effort.
pub(super) fn remove_surplus(directory: &Path, keep_bytes: u64) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let running = running();
    let mut kept = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(data) = entry.metadata() else { continue };
        if !data.is_file() || path.extension().is_some() {
            continue;
        }
        let mark = path.with_extension(USED).metadata();
        let Ok(used) = mark.as_ref().unwrap_or(&data).modified() else { continue };
        kept.push(Kept { size_bytes: data.len(), used, runs: running.contains(&identity(&data)), path });
    }
    for binary in surplus(kept, keep_bytes, SystemTime::now()) {
        tracing::info!(binary = %binary.display(), "a fetched binary makes room for others");
        // Another node of this machine may do the same.
        let _ = std::fs::remove_file(&binary);
        let _ = std::fs::remove_file(binary.with_extension(USED));
    }
}

/// Pure: those that go. The bound is filled from the most recently used on.
fn surplus(mut kept: Vec<Kept>, keep_bytes: u64, now: SystemTime) -> Vec<PathBuf> {
    kept.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
    let mut bytes = 0_u64;
    kept.retain(|binary| {
        bytes = bytes.saturating_add(binary.size_bytes);
        let lately = now.duration_since(binary.used).is_ok_and(|ago| ago > ABOUT_TO_RUN);
        bytes > keep_bytes && !binary.runs && lately
    });
    kept.into_iter().map(|binary| binary.path).collect()
}

/// The files that processes of this machine run, as far as this one may know.
fn running() -> BTreeSet<(u64, u64)> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let programs = processes.flatten().filter_map(|process| process.path().join("exe").metadata().ok());
    programs.map(|program| identity(&program)).collect()
}

/// What a file is, whatever its name.
fn identity(data: &Metadata) -> (u64, u64) {
    (data.dev(), data.ino())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_most_recently_used_stay_and_what_is_in_use_stays_anyway() {
        let now = SystemTime::UNIX_EPOCH + HOUR * 100;
        let binary = |name: &str, size_bytes, hours_ago: u32, runs| Kept {
            path: name.into(),
            size_bytes,
            used: now - HOUR * hours_ago,
            runs,
        };
        let kept = vec![
            binary("old", 10, 9, false),
            binary("running", 10, 8, true),
            binary("last", 60, 1, false),
            binary("second", 30, 2, false),
            binary("third", 30, 3, false),
        ];
        let gone = |keep_bytes| surplus(kept.clone(), keep_bytes, now);
        assert!(gone(1_000).is_empty());
        assert_eq!(gone(90), [PathBuf::from("third"), "old".into()]);
        assert_eq!(gone(0), [PathBuf::from("last"), "second".into(), "third".into(), "old".into()]);
        let lately = vec![Kept { used: now - ABOUT_TO_RUN / 2, ..binary("new", 10, 0, false) }];
        assert!(surplus(lately, 0, now).is_empty(), "it may be about to run");
    }

    #[test]
    fn a_binary_that_runs_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["aa", "bb", "cc"] {
            std::fs::copy("/bin/sleep", path(name)).unwrap();
            mark_used(&path(name)).unwrap();
        }
        let long_ago = SystemTime::now() - HOUR;
        for name in ["aa", "bb"] {
            File::options().write(true).open(path(name).with_extension(USED)).unwrap().set_modified(long_ago).unwrap();
        }
        let mut runs = Command::new(path("aa")).arg("60").spawn().unwrap();
        remove_surplus(directory.path(), 1);
        runs.kill().unwrap();
        runs.wait().unwrap();
        let mut left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["aa", "aa.used", "cc", "cc.used"]);
    }
}
