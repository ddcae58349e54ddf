//! The same for paths in stores, and URLs.

use std::path::{Path, PathBuf};

use super::{EXAMPLE_OUTPUT, InputFile, fixed_part, has_extension, no_files};
use crate::error::DataError;
use crate::source::FileFormat;
use crate::storage::{Location, RemoteEntry, StorageOptions, list, may_mean, shown};

/// The files that `path` means; see [`super::expand_from`].
pub(super) fn expand(path: &str, format: &FileFormat, storage: &StorageOptions) -> Result<Vec<InputFile>, DataError> {
    let mut entries = list(path, storage)?;
    entries.retain(|entry| entry.named || has_extension(Path::new(&entry.path), format));
    // As entries spell it.
    let location = Location::parse(path)?;
    let whole = location.to_string();
    let directory = format!("{}/", whole.trim_end_matches('/'));
    let base = if entries.iter().all(|entry| entry.path.starts_with(&directory)) {
        Some(PathBuf::from(&directory))
    } else if entries.iter().any(|entry| entry.path == whole) || !location.is_pattern() {
        None
    } else {
        Some(fixed_part(&whole))
    };
    if entries.is_empty() {
        return Err(no_files(path, format));
    }
    let file = |entry: RemoteEntry| InputFile { path: shown(&entry.path), remote: Some(entry), base: base.clone() };
    Ok(entries.into_iter().map(file).collect())
}

/// Refuses an output in a store that lies in the input, or holds some of it.
pub(super) fn refuse_overlap(paths: &[String], files: &[String], output: &str) -> Result<(), DataError> {
    let output = Location::parse(output)?.to_string();
    let directory = format!("{}/", output.trim_end_matches('/'));
    let written = format!("{directory}{EXAMPLE_OUTPUT}");
    let holds = files.iter().find(|file| file.starts_with(&directory));
    let lies_in = || paths.iter().find(|path| may_mean(path, &written));
    match holds.or_else(lies_in) {
        Some(input) => Err(DataError::OutputInInput { output, input: shown(input) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_among_the_input_is_refused_and_beside_it_is_not() {
        let overlaps = |path: &str, file: &str, output: &str| {
            refuse_overlap(&[path.to_owned()], &[file.to_owned()], output).is_err()
        };
        for (input, output) in [
            ("s3://b/in", "s3://b/in"),
            ("s3://b/in/", "s3a://b/in/clean"),
            ("s3://b/in/*.parquet", "s3://b/in/"),
            ("s3://b/in/*", "s3://b/in/clean"),
            ("s3://b", "s3://b/clean"),
            ("s3://b/in/a.parquet", "s3://b/in"),
        ] {
            assert!(overlaps(input, "s3://b/in/a.parquet", output), "{input} and {output}");
        }
        for (input, output) in [
            ("s3://b/in", "s3://b/in-clean"),
            ("s3://b/in", "s3://b/in/_clean"),
            ("s3://b/in", "s3://c/in"),
            ("s3://b/in/*.parquet", "s3://b/in/clean"),
            ("https://h/in/a.parquet", "s3://b/out"),
            ("/in", "s3://b/out"),
        ] {
            assert!(!overlaps(input, "s3://b/in/a.parquet", output), "{input} and {output}");
        }
    }
}
