//! The files of earlier runs in an output, and what stands in the way of another run.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::block_writer::part_name;
use crate::error::DataError;
use crate::hive;
use crate::source::{CSV_EXTENSIONS, JSON_EXTENSIONS, PARQUET_EXTENSIONS};
use crate::write::{WriteMode, WriteOptions};

/// A file that a run has written.
#[derive(Debug)]
pub(super) struct Part {
    /// Where it is below the output.
    pub(super) path: String,
    /// The ordinal in its name.
    pub(super) ordinal: u64,
}

/// The files of earlier runs, those in the directories of values included.
pub(super) fn parts(dir: &Path) -> Result<Vec<Part>, DataError> {
    let mut files = Vec::new();
    visible_files(dir, "", 0, &mut files)?;
    let part = |path: String| {
        let ordinal = part_ordinal(name_of(&path))?;
        Some(Part { path, ordinal })
    };
    Ok(files.into_iter().filter_map(part).collect())
}

/// A file of a run, told apart from any that has its name later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeenFile {
    path: String,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// The files of runs that are there now.
pub(super) fn seen(dir: &Path) -> Result<BTreeSet<SeenFile>, DataError> {
    let seen = |Part { path, .. }: Part| {
        // One that is gone meanwhile is not there.
        let metadata = fs::symlink_metadata(dir.join(&path)).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(SeenFile { path, inode: metadata.ino(), bytes: metadata.len(), modified })
    };
    Ok(parts(dir)?.into_iter().filter_map(seen).collect())
}

/// Refuses an output into which another run has put files since it was seen.
pub(super) fn check_unchanged(dir: &Path, before: &BTreeSet<SeenFile>) -> Result<(), DataError> {
    match seen(dir)?.into_iter().find(|file| !before.contains(file)) {
        Some(file) => Err(DataError::OutputChanged { path: dir.display().to_string(), found: file.path }),
        None => Ok(()),
    }
}

/// Refuses an output that holds what this run may neither leave nor replace.
pub(super) fn check_in_the_way(dir: &Path, options: &WriteOptions) -> Result<(), DataError> {
    let found = match options.mode {
        WriteMode::Append => None,
        WriteMode::ErrorIfExists => visible_names(dir)?.into_iter().next(),
        WriteMode::Overwrite => {
            let mut files = Vec::new();
            visible_files(dir, "", 0, &mut files)?;
            files.into_iter().find(|path| {
                let name = name_of(path).to_ascii_lowercase();
                part_ordinal(&name).is_none() && options.read_extensions().iter().any(|e| name.ends_with(e))
            })
        }
    };
    match found {
        Some(found) => Err(DataError::OutputExists { path: dir.display().to_string(), found }),
        None => Ok(()),
    }
}

/// The path of a block's file with another ordinal in its name.
pub(super) fn with_ordinal(path: &str, ordinal: u64, other: u64) -> String {
    let name = name_of(path);
    let above = &path[..path.len() - name.len()];
    match name.strip_prefix(&part_name(ordinal, "")) {
        Some(rest) => format!("{above}{}{rest}", part_name(other, "")),
        None => path.to_owned(),
    }
}

/// The ordinal in the name of a file that a run wrote.
pub(crate) fn part_ordinal(name: &str) -> Option<u64> {
    let extensions = [PARQUET_EXTENSIONS, CSV_EXTENSIONS, JSON_EXTENSIONS].concat();
    let numbers = extensions.iter().find_map(|extension| name.strip_prefix("part-")?.strip_suffix(extension))?;
    let is_number = |text: &str, digits: usize| text.len() >= digits && text.bytes().all(|b| b.is_ascii_digit());
    let (ordinal, number) = numbers.split_once('-').unwrap_or((numbers, "000"));
    (is_number(ordinal, 5) && is_number(number, 3)).then(|| ordinal.parse().ok())?
}

pub(crate) fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Adds the files in `dir` and in the directories of values below it, in order. Other directories
/// are somebody else's, and so is what a link leads to.
fn visible_files(dir: &Path, below: &str, depth: usize, files: &mut Vec<String>) -> Result<(), DataError> {
    for name in visible_names(dir)? {
        let path = dir.join(&name);
        let shown = format!("{below}{name}");
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if !is_directory {
            files.push(shown);
        } else if depth < MAX_DEPTH && hive::parse(&name).is_some() {
            visible_files(&path, &format!("{shown}/"), depth + 1, files)?;
        }
    }
    Ok(())
}

fn visible_names(dir: &Path) -> Result<Vec<String>, DataError> {
    let failed = |e: io::Error| DataError::read(dir, &e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// How deep directories of values may be nested.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_runs_have_an_ordinal() {
        for (name, ordinal) in [
            ("part-00003.parquet", Some(3)),
            ("part-00003-012.csv.gz", Some(3)),
            ("part-123456-1000.json", Some(123_456)),
            ("part-3.parquet", None),
            ("part-00003-1.parquet", None),
            ("part-00003.txt", None),
            ("part-00003.parquet.0", None),
            ("xpart-00003.parquet", None),
        ] {
            assert_eq!(part_ordinal(name), ordinal, "{name}");
        }
    }

    #[test]
    fn an_ordinal_is_replaced_in_the_name_alone() {
        assert_eq!(with_ordinal("x=part-00001/part-00001-002.csv", 1, 12), "x=part-00001/part-00012-002.csv");
        assert_eq!(with_ordinal("part-00000.parquet", 0, 100_000), "part-100000.parquet");
    }
}
