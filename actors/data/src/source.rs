//! Where the rows of a plan come from.
//!
//! Entry type: [`Source`]: files, blocks that lie in the object store, batches in this process,
//! or numbers that are counted up.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::client::ObjectHandle;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::files::{FileFooter, open_files};
use crate::schema::{FileSchema, Matching, Unified, unify};
use crate::storage::{StorageOptions, shown};
use crate::text::{CsvOptions, JsonOptions};

/// Where rows come from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// Files.
    Files(ReadFiles),
    /// Blocks in the object store, in order.
    Blocks(Blocks),
    /// Batches in this process, in order; each becomes a block.
    Batches {
        /// Their columns.
        schema: SchemaRef,
        /// The rows.
        batches: Arc<Vec<RecordBatch>>,
    },
    /// A column `id` of the whole numbers from 0.
    Range {
        /// How many.
        rows: u64,
        /// Into how many blocks they are cut; by size if none is given.
        blocks: Option<u64>,
    },
}

/// Which files to read, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadFiles {
    /// Files, directories and patterns, here, at `s3://…` and at `https://…`.
    pub paths: Vec<String>,
    /// What is in them.
    pub format: FileFormat,
    /// How the stores are reached that they are in.
    pub storage: StorageOptions,
    /// The columns to read, by their unified names; all of them if none are named.
    pub columns: Option<Vec<String>>,
    /// How columns of different files are matched.
    pub matching: Matching,
    /// Rows per batch.
    pub batch_rows: usize,
    /// A block ends when it has this many bytes before compression; row groups are never split.
    pub block_bytes: u64,
    /// What statistics and filters rule out is not read.
    pub pushdown: bool,
    /// What the files say of themselves, where it has been read already.
    pub opened: Option<Arc<OpenedFiles>>,
}

/// What the files of a source say of themselves.
#[derive(Debug, Clone)]
pub struct OpenedFiles {
    /// Their footers, in source order.
    pub files: Vec<FileFooter>,
    /// Their columns, unified: those that are read, in order.
    pub unified: Unified,
}

/// What is in the files of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FileFormat {
    /// Parquet.
    #[default]
    Parquet,
    /// Comma-separated values, and what looks like them.
    Csv(CsvOptions),
    /// One JSON object on each line.
    Json(JsonOptions),
}

/// Equal are those that were read of the same files.
impl PartialEq for OpenedFiles {
    fn eq(&self, other: &Self) -> bool {
        let paths = |opened: &Self| opened.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        self.unified == other.unified && paths(self) == paths(other)
    }
}

impl ReadFiles {
    /// Parquet files, with everything else as it is by default.
    pub fn parquet(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            format: FileFormat::Parquet,
            storage: StorageOptions::default(),
            columns: None,
            matching: Matching::default(),
            batch_rows: DEFAULT_BATCH_ROWS,
            block_bytes: DEFAULT_BLOCK_BYTES,
            pushdown: true,
            opened: None,
        }
    }

    /// Reads what the files say of themselves, unless that has been done.
    ///
    /// # Errors
    /// [`DataError`], naming file and column.
    pub fn open(&mut self) -> Result<Arc<OpenedFiles>, DataError> {
        if let Some(opened) = &self.opened {
            return Ok(Arc::clone(opened));
        }
        let files = open_files(self)?;
        let schemas: Vec<FileSchema<'_>> = files.iter().map(FileFooter::file_schema).collect();
        let unified = unify(&schemas, &self.matching)?;
        Ok(Arc::clone(self.opened.insert(Arc::new(OpenedFiles { files, unified }))))
    }
}

/// Rows that lie in the object store.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Their columns.
    pub schema: SchemaRef,
    /// The rows, in order.
    pub blocks: Arc<Vec<Block>>,
}

impl Blocks {
    /// Their rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.blocks.iter().map(|block| block.rows).sum()
    }
}

/// Equal are those that are the same.
impl PartialEq for Blocks {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.blocks, &other.blocks)
    }
}

/// The rows of blocks from `first` on, `rows` of them.
#[must_use]
pub fn slice_rows(blocks: &[Block], first: u64, rows: u64) -> Vec<Block> {
    let (mut skip, mut left) = (first, rows);
    let mut slices = Vec::new();
    for block in blocks {
        let slice = block.slice(skip, left);
        skip = skip.saturating_sub(block.rows);
        left -= slice.rows;
        if slice.rows > 0 {
            slices.push(slice);
        }
        if left == 0 {
            break;
        }
    }
    slices
}

/// Some rows of an object that is one Arrow batch. The object stays as long as some block names it.
#[derive(Debug, Clone)]
pub struct Block {
    /// The object; none for a block without rows.
    pub object: Option<ObjectHandle>,
    /// The first of its rows.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
    /// About how many bytes they are.
    pub bytes: u64,
}

impl Block {
    /// The rows of `self` from `first` on, `rows` at most.
    #[must_use]
    pub fn slice(&self, first: u64, rows: u64) -> Self {
        let first = first.min(self.rows);
        let rows = rows.min(self.rows - first);
        let bytes = u128::from(self.bytes) * u128::from(rows) / u128::from(self.rows.max(1));
        Self {
            object: self.object.clone().filter(|_| rows > 0),
            first_row: self.first_row + first,
            rows,
            bytes: bytes as u64,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(read) => read.fmt(f),
            Self::Blocks(blocks) => write!(f, "blocks ({}, {} rows)", blocks.blocks.len(), blocks.rows()),
            Self::Batches { batches, .. } => {
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                write!(f, "batches ({}, {rows} rows)", batches.len())
            }
            Self::Range { rows, .. } => write!(f, "range {rows}"),
        }
    }
}

impl fmt::Display for ReadFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<String> = self.paths.iter().map(|path| shown(path)).collect();
        write!(f, "{} {}", self.format.operator(), paths.join(", "))?;
        match &self.columns {
            Some(columns) => write!(f, " ({})", columns.join(", ")),
            None => Ok(()),
        }
    }
}

impl FileFormat {
    /// The name of the operator that reads it.
    #[must_use]
    pub fn operator(&self) -> &'static str {
        match self {
            Self::Parquet => "read_parquet",
            Self::Csv(_) => "read_csv",
            Self::Json(_) => "read_json",
        }
    }

    /// What its files are called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Parquet => "Parquet",
            Self::Csv(_) => "CSV",
            Self::Json(_) => "JSON",
        }
    }

    /// How the names of its files end, by which they are found in directories.
    #[must_use]
    pub fn extensions(&self) -> &'static [&'static str] {
        match self {
            Self::Parquet => PARQUET_EXTENSIONS,
            Self::Csv(_) => CSV_EXTENSIONS,
            Self::Json(_) => JSON_EXTENSIONS,
        }
    }
}

/// Rows per batch unless told otherwise: twenty columns of one batch stay in a core's cache.
pub const DEFAULT_BATCH_ROWS: usize = 8192;

/// Bytes of a block unless told otherwise: large enough to pay for a task and a file, small
/// enough that a few gigabytes keep many cores busy.
pub const DEFAULT_BLOCK_BYTES: u64 = 16 << 20;

/// How the names of Parquet files end.
pub const PARQUET_EXTENSIONS: &[&str] = &[".parquet"];
/// How the names of CSV files end.
pub const CSV_EXTENSIONS: &[&str] = &[".csv", ".csv.gz", ".csv.zst"];
/// How the names of files of JSON lines end.
pub const JSON_EXTENSIONS: &[&str] =
    &[".json", ".json.gz", ".json.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"];

#[cfg(test)]
impl ReadFiles {
    /// A file of these columns, opened, of which nothing else is known.
    pub(crate) fn of_columns(schema: SchemaRef) -> Self {
        let footer = FileFooter {
            remote: None,
            bytes: 1,
            path: "x".into(),
            schema,
            row_groups: Vec::new(),
            statistics: Vec::new(),
            text: None,
            hive: Vec::new(),
        };
        let unified = unify(&[footer.file_schema()], &Matching::default()).unwrap();
        let opened = Some(Arc::new(OpenedFiles { files: vec![footer], unified }));
        Self { opened, ..Self::parquet(["x"]) }
    }
}
