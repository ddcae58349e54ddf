//! What can go wrong in a dataset, as one type that crosses the wire.
//!
//! Entry type: [`DataError`]. It is `Clone` and serialisable, so an error made inside a task
//! reaches the driver with its kind, its cause and the name of the file, column or operator
//! it happened at. It carries the text of a lower cause, never the cause itself.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::format_error::FormatError;
use crate::storage::error_within;
use crate::words::Known;

/// Any failure of planning or running a dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DataError {
    /// A path that was given as input does not exist.
    #[error("input {path} does not exist")]
    NotFound {
        /// The path as it was given.
        path: String,
    },
    /// A directory or pattern was given as input and no file of the format is in it.
    #[error(
        "no {format} file found at {path}: name a {extension} file, a directory that holds some, or a pattern that \
         matches some"
    )]
    NoFiles {
        /// The directory or pattern.
        path: String,
        /// The format.
        format: String,
        /// How the names of its files end.
        extension: String,
    },
    /// A path is not UTF-8, and a plan carries paths as text.
    #[error("path {path} is not UTF-8: rename it, or name it through a link that is")]
    NotUtf8 {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// The output lies in the input, or holds some of it.
    #[error(
        "output {output} and input {input} lie in each other: the run would replace what it reads, or the next one \
         read what this one writes; choose another directory"
    )]
    OutputInInput {
        /// The directory to write to.
        output: String,
        /// The path to read that overlaps with it.
        input: String,
    },
    /// An input could not be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file or directory.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// A line of a text file is not as its format, or the type of its column, asks for.
    #[error("{path}, line {line}{}: {cause}", InColumn(.column))]
    BadLine {
        /// The file.
        path: String,
        /// The line, from 1.
        line: u64,
        /// The column, where it is one field that is wrong.
        column: Option<String>,
        /// What is wrong.
        cause: String,
    },
    /// A file is not of its format, is truncated, or is damaged.
    #[error("{path} is not a readable {format} file (truncated or damaged?): {cause}")]
    BadFile {
        /// The file.
        path: String,
        /// What it was read as.
        format: String,
        /// What the reader found.
        cause: String,
    },
    /// A file is not the one the plan was made from.
    #[error("{path} changed while it was being read: {cause}; run again")]
    FileChanged {
        /// The file.
        path: String,
        /// The difference.
        cause: String,
    },
    /// A file lacks a column that the read requires.
    #[error("{path} has no column {column}{}", Known::it_has(.column, .available))]
    MissingColumn {
        /// The file.
        path: String,
        /// The column that was required.
        column: String,
        /// The columns the file has.
        available: Vec<String>,
    },
    /// Two columns of one file unify to the same name.
    #[error(
        "{path} has two columns, {first} and {second}, that both mean {name}: rename one or compare names with their case"
    )]
    AmbiguousColumn {
        /// The file.
        path: String,
        /// The unified name.
        name: String,
        /// The first of the two.
        first: String,
        /// The second of the two.
        second: String,
    },
    /// The types that files give to one column have no common type.
    #[error("column {column} is {left} in {left_path} and {right} in {right_path}: no type holds both")]
    TypeConflict {
        /// The column.
        column: String,
        /// A type it has.
        left: String,
        /// Where.
        left_path: String,
        /// The other type.
        right: String,
        /// Where.
        right_path: String,
    },
    /// An operator names a column that does not exist at its place in the plan.
    #[error("{operator}: there is no column {column}{}", Known::there_are(.column, .available))]
    UnknownColumn {
        /// The operator, as the plan prints it.
        operator: String,
        /// The column it asked for.
        column: String,
        /// The columns that exist.
        available: Vec<String>,
    },
    /// An expression does not fit the types of its columns.
    #[error("{operator}: {cause}")]
    Expression {
        /// The operator, as the plan prints it.
        operator: String,
        /// What does not fit.
        cause: String,
    },
    /// A plan or one of its options makes no sense.
    #[error("{operator}: {cause}")]
    InvalidPlan {
        /// The operator or option.
        operator: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// A value could not be computed or cast while the plan ran.
    #[error("{operator} failed{}: {cause}", OnPath(.path))]
    Compute {
        /// The operator, as the plan prints it.
        operator: String,
        /// The source file being read, empty when there is none.
        path: String,
        /// What the kernel said.
        cause: String,
    },
    /// A function given to `map_batches` failed.
    #[error("function {function} failed: {cause}")]
    Function {
        /// The function's registered id.
        function: String,
        /// What it returned.
        cause: String,
    },
    /// Rows could not be handed to a function in the form it asks for, or taken from it.
    #[error("function {function}: {error}")]
    Format {
        /// The function's registered id.
        function: String,
        /// What does not fit.
        error: FormatError,
    },
    /// No function is registered under the id a plan names.
    #[error("no batch function {function} is registered in this process: driver and worker must run the same binary")]
    UnknownFunction {
        /// The function's id.
        function: String,
    },
    /// The result has no rows, and a function did not tell its columns without any.
    #[error(
        "the result has no rows, and function {function}, called without rows to learn its columns, failed: {cause}; \
         let it return its columns for a batch without rows"
    )]
    NoColumns {
        /// The function's registered id.
        function: String,
        /// What it returned.
        cause: String,
    },
    /// Batches of one output do not have the same columns.
    #[error("{operator} gives the columns {found} where earlier batches had {expected}")]
    SchemaChanged {
        /// The operator.
        operator: String,
        /// The columns of the earlier batches.
        expected: String,
        /// The columns found.
        found: String,
    },
    /// The output could not be written.
    #[error("cannot write {path}: {cause}")]
    Write {
        /// The file or directory.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// The disk under the output is full.
    #[error("cannot write {path}: the disk is full ({cause})")]
    DiskFull {
        /// The file.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// The output directory already holds what this run would write.
    #[error("{path} already holds {found}, which this run may not replace: choose another directory, or move it away")]
    OutputExists {
        /// The directory.
        path: String,
        /// An entry that is in the way.
        found: String,
    },
    /// Another run has put files into the output since this one began, which replaces only what was
    /// there before.
    #[error(
        "another run has written {path} while this one ran: its files are there now, {found} among them, and stay; run \
         again to replace them, or choose another directory"
    )]
    OutputChanged {
        /// The directory.
        path: String,
        /// One of the files.
        found: String,
    },
    /// A commit to a store has ended half way, and there is no way back.
    #[error(
        "{path} holds some of a run's files, and may hold some that they replace: {cause}; the next run that writes \
         there, the same or another, finishes that first, as {record} says"
    )]
    HalfCommitted {
        /// The directory.
        path: String,
        /// The hidden object that says what is left to do.
        record: String,
        /// What happened.
        cause: String,
    },
    /// A path names nothing that could exist.
    #[error("{path} names nothing: {cause}")]
    InvalidLocation {
        /// The path, without what may be a secret.
        path: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// A store or server did not do what it was asked for, however often.
    #[error("cannot {operation} {path}: {cause}{}", Tried(.attempts))]
    Remote {
        /// The file, directory or bucket.
        path: String,
        /// What was to be done with it: a verb.
        operation: String,
        /// How often it was tried.
        attempts: u32,
        /// What happened the last time.
        cause: String,
    },
    /// A store or server cannot be reached at all.
    #[error("cannot {operation} {path}: cannot reach {host} ({cause}): {hint}{}", Tried(.attempts))]
    Unreachable {
        /// The file, directory or bucket.
        path: String,
        /// What was to be done with it: a verb.
        operation: String,
        /// What was asked for it, and where that should be.
        host: Box<str>,
        /// How often it was tried.
        attempts: u32,
        /// What happened the last time.
        cause: String,
        /// What to look at.
        hint: Box<str>,
    },
    /// A store or server refused.
    #[error("cannot {operation} {path}: access denied: {cause}; credentials: {}{}", .tried.join(", "), Hint(.hint))]
    AccessDenied {
        /// The file, directory or bucket.
        path: String,
        /// What was to be done with it: a verb.
        operation: String,
        /// Where credentials were looked for, in order, and what was found there.
        tried: Vec<String>,
        /// What the store said, or why it was not asked.
        cause: Box<str>,
        /// What to do, where anything is known; else empty.
        hint: Box<str>,
    },
    /// There is no such bucket.
    #[error("{path}: there is no such bucket at {endpoint}: check its name, and the endpoint's URL and the region")]
    NoSuchBucket {
        /// The bucket, or what was looked for in it.
        path: String,
        /// Where it was looked for.
        endpoint: String,
    },
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl DataError {
    /// An error of reading `path`, of the kind the system's error says. One of a store or server
    /// is what it is.
    #[must_use]
    pub fn read(path: &Path, error: &std::io::Error) -> Self {
        if let Some(error) = error_within(error) {
            return error;
        }
        let path = path.display().to_string();
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Read { path, cause: error.to_string() },
        }
    }

    /// An error of a store, told as one of making an output ready: there is more than one path in a
    /// run, and what is done with this one first may not be to write to it.
    pub(crate) fn preparing_output(mut self) -> Self {
        if let Self::Remote { operation, .. }
        | Self::Unreachable { operation, .. }
        | Self::AccessDenied { operation, .. } = &mut self
        {
            "prepare the output".clone_into(operation);
        }
        self
    }

    /// An error of writing `path`, of the kind the system's error says. One of a store is what it
    /// is.
    #[must_use]
    pub fn write(path: &Path, error: &std::io::Error) -> Self {
        if let Some(error) = error_within(error) {
            return error;
        }
        let path = path.display().to_string();
        let cause = error.to_string();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull { path, cause },
            _ => Self::Write { path, cause },
        }
    }
}

/// The column in which something is wrong, as a sentence goes on.
struct InColumn<'a>(&'a Option<String>);

impl fmt::Display for InColumn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(column) => write!(f, ", column {column}"),
            None => Ok(()),
        }
    }
}

/// The file on which something failed, as a sentence goes on.
struct OnPath<'a>(&'a str);

impl fmt::Display for OnPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            path => write!(f, " on {path}"),
        }
    }
}

/// What to do, where anything is known, as a sentence goes on.
struct Hint<'a>(&'a str);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            hint => write!(f, "; {hint}"),
        }
    }
}

/// How often something was tried, when that says anything.
struct Tried<'a>(&'a u32);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            attempts => write!(f, " (tried {attempts} times)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let error = DataError::UnknownColumn {
            operator: "filter(fair > 1)".into(),
            column: "fair".into(),
            available: vec!["fare".into()],
        };
        let bytes = rmp_serde::to_vec(&error).unwrap();
        assert_eq!(rmp_serde::from_slice::<DataError>(&bytes).unwrap(), error);
        assert_eq!(error.to_string(), "filter(fair > 1): there is no column fair; there are fare");
    }

    #[test]
    fn a_column_that_is_nearly_there_is_offered() {
        let (operator, column) = ("select fare_amout".into(), "fare_amout".into());
        let error = DataError::UnknownColumn { operator, column, available: vec!["tip".into(), "fare_amount".into()] };
        let told = "select fare_amout: there is no column fare_amout (did you mean `fare_amount`?); there are tip, \
                    fare_amount";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn who_is_denied_is_told_what_was_tried_and_then_what_to_do() {
        let denied = |hint: &str| DataError::AccessDenied {
            path: "s3://b/x".into(),
            operation: "read".into(),
            tried: vec!["environment (AWS_ACCESS_KEY_ID is not set)".into(), "container (none)".into()],
            cause: "no credentials were found".into(),
            hint: hint.into(),
        };
        let told = "cannot read s3://b/x: access denied: no credentials were found; credentials: environment \
                    (AWS_ACCESS_KEY_ID is not set), container (none)";
        assert_eq!(denied("").to_string(), told);
        assert_eq!(denied("name a profile").to_string(), format!("{told}; name a profile"));
    }

    #[test]
    fn a_store_that_is_not_there_is_told_with_where_and_what_to_look_at() {
        let error = DataError::Unreachable {
            path: "s3://b/out/".into(),
            operation: "list".into(),
            host: "the store at http://127.0.0.1:9".into(),
            attempts: 3,
            cause: "connection refused".into(),
            hint: "is it running, is the endpoint URL right?".into(),
        };
        let told = "cannot prepare the output s3://b/out/: cannot reach the store at http://127.0.0.1:9 (connection \
                    refused): is it running, is the endpoint URL right? (tried 3 times)";
        assert_eq!(error.preparing_output().to_string(), told);
        let other = DataError::NotFound { path: "s3://b/x".into() };
        assert_eq!(other.clone().preparing_output(), other);
    }

    #[test]
    fn a_full_disk_has_its_own_kind() {
        let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(DataError::write(Path::new("/x"), &error), DataError::DiskFull { .. }));
    }
}
