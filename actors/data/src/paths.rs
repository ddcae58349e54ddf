//! Which files the paths of a plan mean, and whether an output lies among them.
//!
//! Entry types: [`expand_from`], which turns files, directories and patterns into a list of files,
//! and [`refuse_overlap`], which keeps a run from writing where it reads. Both run on the
//! driver; the files they give are absolute, since tasks run in other directories.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::error::DataError;
use crate::source::FileFormat;
use crate::storage::{RemoteEntry, StorageOptions, is_remote, shown};

mod remote;

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is, as errors show it.
    pub path: String,
    /// The state in which it was found, if it is not on this machine.
    pub remote: Option<RemoteEntry>,
    /// The directory below which directories tell the values of columns: the one that was given,
    /// or the part of a pattern before its first sign. None for a file that was named itself.
    pub base: Option<PathBuf>,
}

/// The files that `paths` mean, as absolute paths, in stores or URLs, and where each was found. What
/// one path means is sorted; the paths keep their order, and a file that is named again, by a
/// directory and a pattern or through a link, is read once, where it was named first. A directory
/// means the files of the format under it, at any depth; names that begin with a dot or an underscore
/// are skipped there, as every reader of such directories does (but for `_name=value`, which tells a
/// value), and so is a link back to a directory on the way. A pattern tells upper case from lower and
/// matches no hidden name, nor one that is not UTF-8. A name that exists is never taken for a pattern.
pub fn expand_from(
    paths: &[String],
    format: &FileFormat,
    storage: &StorageOptions,
) -> Result<Vec<InputFile>, DataError> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        if is_remote(path) {
            let found = remote::expand(path, format, storage)?;
            let is_new = |file: &InputFile| file.remote.as_ref().is_some_and(|e| seen.insert(PathBuf::from(&e.path)));
            files.extend(found.into_iter().filter(is_new));
            continue;
        }
        let mut found = Vec::new();
        let mut base = None;
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                base = Some(PathBuf::from(path));
                walk(Path::new(path), format, &mut Vec::new(), &mut found)?;
            }
            Ok(_) => found.push(PathBuf::from(path)),
            Err(_) if is_pattern(path) => {
                base = Some(fixed_part(path));
                match_pattern(path, format, &mut found)?;
            }
            Err(error) => return Err(DataError::read(Path::new(path), &error)),
        }
        if found.is_empty() {
            return Err(no_files(path, format));
        }
        let base = base.map(|base| absolute(&base)).transpose()?.map(PathBuf::from);
        for file in found {
            let real = fs::canonicalize(&file).map_err(|e| DataError::read(&file, &e))?;
            if seen.insert(real) {
                files.push(InputFile { path: absolute(&file)?, remote: None, base: base.clone() });
            }
        }
    }
    if files.is_empty() {
        return Err(DataError::InvalidPlan { operator: format.operator().into(), cause: "no path was given".into() });
    }
    Ok(files)
}

fn no_files(path: &str, format: &FileFormat) -> DataError {
    let (format, extension) = (format.name().into(), format.extensions()[0].into());
    DataError::NoFiles { path: shown(path), format, extension }
}

/// The directories of a pattern before its first sign.
fn fixed_part(pattern: &str) -> PathBuf {
    let parts = Path::new(pattern).components();
    parts.take_while(|part| !part.as_os_str().to_str().is_some_and(is_pattern)).collect()
}

/// Refuses an output directory that lies in the input, where the next run would read it, or that
/// holds some of it, where this run might replace it. `files` are what `paths` mean now.
pub fn refuse_overlap(paths: &[String], files: &[String], output: &str) -> Result<(), DataError> {
    if is_remote(output) {
        return remote::refuse_overlap(paths, files, output);
    }
    let real_output = real(Path::new(output)).map_err(|e| DataError::write(Path::new(output), &e))?;
    // Without links and dots, so that people see how the two lie in each other.
    let overlap = |input: &Path| DataError::OutputInInput {
        output: real_output.display().to_string(),
        input: input.display().to_string(),
    };
    for file in files.iter().filter(|file| !is_remote(file)) {
        let file_path = fs::canonicalize(file).map_err(|e| DataError::read(Path::new(file), &e))?;
        if file_path.starts_with(&real_output) {
            return Err(overlap(&file_path));
        }
    }
    for path in paths.iter().filter(|path| !is_remote(path)) {
        let (reads_output, input) = match fs::canonicalize(path) {
            Ok(dir) => (real_output.strip_prefix(&dir).is_ok_and(|below| !below.iter().any(is_skipped)), dir),
            Err(_) => (pattern_reads(path, &real_output)?, PathBuf::from(absolute(Path::new(path))?)),
        };
        if reads_output {
            return Err(overlap(&input));
        }
    }
    Ok(())
}

/// `path` from the root of the file system, as text. One that is elsewhere stays as it is.
pub(crate) fn absolute(path: &Path) -> Result<String, DataError> {
    if let Some(remote) = path.to_str().filter(|path| is_remote(path)) {
        return Ok(remote.to_owned());
    }
    let absolute = std::path::absolute(path).map_err(|e| DataError::read(path, &e))?;
    text(&absolute).map(str::to_owned)
}

/// A path as a plan carries it.
pub fn text(path: &Path) -> Result<&str, DataError> {
    path.to_str().ok_or_else(|| DataError::NotUtf8 { path: path.display().to_string() })
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(_) => missing.extend(ancestor.file_name()),
        }
    }
    Ok(path)
}

/// Adds the files of the format under `dir`. `above` tells the directories on the way to it.
fn walk(
    dir: &Path,
    format: &FileFormat,
    above: &mut Vec<(u64, u64)>,
    files: &mut Vec<PathBuf>,
) -> Result<(), DataError> {
    let failed = |e: io::Error| DataError::read(dir, &e);
    let metadata = fs::metadata(dir).map_err(failed)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        return Ok(());
    }
    if above.len() >= MAX_DIRECTORY_DEPTH {
        let cause = format!("more than {MAX_DIRECTORY_DEPTH} directories deep");
        return Err(DataError::Read { path: dir.display().to_string(), cause });
    }
    above.push(identity);
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()).map_err(failed))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.file_name().is_some_and(is_skipped) {
            continue;
        }
        if entry.is_dir() {
            walk(&entry, format, above, files)?;
        } else if has_extension(&entry, format) {
            files.push(entry);
        }
    }
    above.pop();
    Ok(())
}

fn has_extension(file: &Path, format: &FileFormat) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    format.extensions().iter().any(|extension| name.len() > extension.len() && name.ends_with(extension))
}

/// Whether a name in a directory of input is left out.
fn is_skipped(name: &std::ffi::OsStr) -> bool {
    match name.as_encoded_bytes() {
        [b'.', ..] => true,
        [b'_', rest @ ..] => !rest.contains(&b'='),
        _ => false,
    }
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn match_pattern(pattern: &str, format: &FileFormat, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let failed = |cause: String| DataError::Read { path: pattern.into(), cause };
    let found = glob::glob_with(pattern, MATCHING).map_err(|e| failed(e.to_string()))?;
    let mut entries: Vec<PathBuf> =
        found.map(|entry| entry.map_err(|e| failed(e.to_string()))).collect::<Result<_, _>>()?;
    entries.retain(|entry| !is_hidden_from(pattern, entry));
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            walk(&entry, format, &mut Vec::new(), files)?;
        } else {
            files.push(entry);
        }
    }
    Ok(())
}

/// Whether `path` has a hidden name that `pattern` does not ask for with a dot of its own. The
/// option of the glob library for this panics where a name is not UTF-8.
fn is_hidden_from(pattern: &str, path: &Path) -> bool {
    let with_dot: Vec<Pattern> =
        pattern.split('/').filter(|part| part.starts_with('.')).filter_map(|part| Pattern::new(part).ok()).collect();
    path.components().any(|component| match component {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            name.starts_with('.') && !with_dot.iter().any(|part| part.matches(&name))
        }
        _ => false,
    })
}

/// Whether `pattern` will match the directory `output`, one above it, or a file in it.
fn pattern_reads(pattern: &str, output: &Path) -> Result<bool, DataError> {
    let mut whole = pattern.to_owned();
    if !Path::new(pattern).is_absolute() {
        let here = std::env::current_dir().map_err(|e| DataError::read(Path::new(pattern), &e))?;
        whole = format!("{}/{pattern}", Pattern::escape(text(&here)?));
    }
    let Ok(matcher) = Pattern::new(&whole) else {
        return Ok(false);
    };
    let options = MatchOptions { require_literal_separator: true, ..MATCHING };
    let written = output.join(EXAMPLE_OUTPUT);
    Ok(written.ancestors().any(|path| matcher.matches_path_with(path, options) && !is_hidden_from(&whole, path)))
}

/// How patterns match: as they are written.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: false };

/// A file that a run may write.
const EXAMPLE_OUTPUT: &str = "part-00000.parquet";

/// How deep directories of input may be nested.
const MAX_DIRECTORY_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    /// The paths of the files that `paths` mean.
    fn expanded(paths: &[String]) -> Result<Vec<String>, DataError> {
        let files = expand_from(paths, &FileFormat::Parquet, &StorageOptions::default())?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[&str]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for file in files {
                let file = root.path().join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            Self(root)
        }

        fn path(&self, below: &str) -> String {
            self.0.path().join(below).to_str().unwrap().to_owned()
        }

        fn expand(&self, paths: &[&str]) -> Result<Vec<String>, DataError> {
            let found = expanded(&paths.iter().map(|path| self.path(path)).collect::<Vec<_>>())?;
            Ok(found.iter().map(|file| file[self.path("").len()..].to_owned()).collect())
        }

        fn overlaps(&self, path: &str, output: &str) -> bool {
            let paths = [self.path(path)];
            let found = refuse_overlap(&paths, &expanded(&paths).unwrap(), &self.path(output));
            match found {
                Ok(()) => false,
                Err(DataError::OutputInInput { output: told, input }) => {
                    assert_eq!(Path::new(&told), real(Path::new(&self.path(output))).unwrap());
                    assert!(Path::new(&input).is_absolute() && !input.contains("link"), "{input}");
                    true
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn paths_mean_sorted_files_and_what_means_none_is_an_error() {
        let tree = Tree::new(&["b/2.parquet", "b/.hidden/3.parquet", "b/1.PARQUET", "a.parquet", "b/notes.txt"]);
        fs::create_dir_all(tree.path("empty")).unwrap();
        assert_eq!(tree.expand(&[""]).map(|files| files.len()), Ok(3));
        assert_eq!(tree.expand(&["b", "a.parquet"]).unwrap(), ["b/1.PARQUET", "b/2.parquet", "a.parquet"]);
        assert_eq!(tree.expand(&["*.parquet"]).unwrap(), ["a.parquet"]);
        assert_eq!(tree.expand(&["b/notes.txt"]).unwrap(), ["b/notes.txt"]);
        let error = |paths: &[&str]| tree.expand(paths).unwrap_err();
        assert!(matches!(error(&["empty"]), DataError::NoFiles { path, .. } if path.ends_with("/empty")));
        assert!(matches!(error(&["x*.parquet"]), DataError::NoFiles { .. }));
        assert!(matches!(error(&["missing.parquet"]), DataError::NotFound { .. }));
        assert!(expanded(&[]).is_err());
    }

    #[test]
    fn patterns_tell_case_and_skip_what_is_hidden() {
        let tree = Tree::new(&["a.parquet", "B.PARQUET", ".c.parquet", ".d/e.parquet"]);
        assert_eq!(tree.expand(&["*.parquet"]).unwrap(), ["a.parquet"]);
        assert_eq!(tree.expand(&["*"]).unwrap(), ["B.PARQUET", "a.parquet"]);
        assert_eq!(tree.expand(&[".d/*"]).unwrap(), [".d/e.parquet"]);
        assert_eq!(tree.expand(&[".[a-c]*"]).unwrap(), [".c.parquet"]);
    }

    #[test]
    fn names_that_are_not_utf8_are_refused_or_passed_over_and_never_rewritten() {
        let tree = Tree::new(&["in/a.parquet"]);
        fs::write(tree.0.path().join("in").join(OsStr::from_bytes(b"b\xff.parquet")), "").unwrap();
        assert_eq!(tree.expand(&["in/*.parquet"]).unwrap(), ["in/a.parquet"]);
        let error = tree.expand(&["in"]).unwrap_err();
        assert!(matches!(error, DataError::NotUtf8 { .. }), "{error}");
    }

    #[test]
    fn a_file_named_twice_is_read_once_and_a_link_back_ends_nothing() {
        let tree = Tree::new(&["in/a.parquet", "in/b/c.parquet"]);
        symlink(tree.path("in"), tree.path("in/b/again")).unwrap();
        symlink(tree.path("in/a.parquet"), tree.path("in/z.parquet")).unwrap();
        assert_eq!(tree.expand(&["in", "in/*.parquet"]).unwrap(), ["in/a.parquet", "in/b/c.parquet"]);
        assert_eq!(tree.expand(&["in/b/c.parquet", "in"]).unwrap(), ["in/b/c.parquet", "in/a.parquet"]);
    }

    #[test]
    fn files_are_told_from_the_root() {
        let files = expanded(&["src/../Cargo.toml".to_owned(), "./Cargo.toml".to_owned()]).unwrap();
        assert_eq!(files, [format!("{}/src/../Cargo.toml", env!("CARGO_MANIFEST_DIR"))]);
    }

    #[test]
    fn an_output_among_the_input_is_refused_however_it_is_spelt() {
        let tree = Tree::new(&["in/a.parquet", "in/b/c.parquet", "else/d.parquet"]);
        symlink(tree.path("in"), tree.path("link")).unwrap();
        for (input, output) in [
            ("in", "in"),
            ("in", "in/clean"),
            ("in", "link/b/../clean"),
            ("link", "in/new/clean"),
            ("in/a.parquet", "in"),
            ("in/*.parquet", "link"),
            ("in/*", "in/clean"),
            ("in/*/*.parquet", "in/clean"),
            ("in/b", "in"),
        ] {
            assert!(tree.overlaps(input, output), "{input} and {output}");
        }
        for (input, output) in [
            ("in", "clean"),
            ("in", "in-clean"),
            ("in", "in/_clean"),
            ("in", "in/.clean"),
            ("in/*.parquet", "in/clean"),
            ("in/a.parquet", "in/clean"),
            ("in/b", "in/clean"),
        ] {
            assert!(!tree.overlaps(input, output), "{input} and {output}");
        }
    }
}
