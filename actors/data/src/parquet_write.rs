//! Writing the file of one block.
//!
//! Entry types: [`BlockWriter`], a task's side of writing ([`crate::output_dir`] is the
//! driver's), and [`WriteOptions`]. A file gets its name when it is finished; one that is given
//! up is removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::ZstdLevel;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// How Parquet files are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOptions {
    /// How pages are compressed.
    pub compression: Compression,
    /// What to do about an earlier run's output.
    pub mode: WriteMode,
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast.
    #[default]
    Snappy,
    /// Smaller, slower.
    Zstd,
}

/// What to do about an earlier run's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WriteMode {
    /// Anything visible in the directory is an error.
    #[default]
    ErrorIfExists,
    /// The `part-` files of earlier runs are replaced, when this one succeeds. Another Parquet
    /// file in the directory is an error: a reader would mix it with the result.
    Overwrite,
    /// This run's files are added after those of earlier runs.
    Append,
}

/// A file that a task has finished, waiting for its run to succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFile {
    /// The task's ordinal.
    pub ordinal: u64,
    /// The file's size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
}

/// Writes the file of one task.
pub struct BlockWriter {
    /// Gone once the file is finished or given up.
    writer: Option<ArrowWriter<File>>,
    ordinal: u64,
    path: PathBuf,
    finished_path: PathBuf,
    rows: u64,
}

impl BlockWriter {
    /// Starts the file of task `ordinal`. `attempt` keeps two attempts of one task apart.
    pub fn create(
        staging: &str,
        ordinal: u64,
        attempt: &str,
        schema: SchemaRef,
        options: &WriteOptions,
    ) -> Result<BlockWriter, DataError> {
        let finished_path = Path::new(staging).join(part_name(ordinal));
        let path = Path::new(staging).join(format!("{}.{attempt}", part_name(ordinal)));
        let file = File::create(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => no_staging(&path),
            _ => DataError::write(&path, &e),
        })?;
        let writer =
            ArrowWriter::try_new(file, schema, Some(properties(options))).map_err(|e| write_error(&path, &e))?;
        Ok(BlockWriter { writer: Some(writer), ordinal, path, finished_path, rows: 0 })
    }

    /// Adds the rows of a batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        self.rows += batch.num_rows() as u64;
        writer.write(batch).map_err(|e| write_error(&self.path, &e))
    }

    /// Ends the file and hands it over to the run.
    pub fn finish(mut self) -> Result<BlockFile, DataError> {
        if let Some(writer) = self.writer.take() {
            writer.close().map_err(|e| write_error(&self.path, &e))?;
        }
        let failed = |e: io::Error| DataError::write(&self.finished_path, &e);
        let bytes = fs::metadata(&self.path).map_err(failed)?.len();
        fs::rename(&self.path, &self.finished_path).map_err(failed)?;
        Ok(BlockFile { ordinal: self.ordinal, bytes, rows: self.rows })
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        // After `finish` the file has another name and this finds nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the directory is there in which the files of a run wait.
pub(crate) fn check_staging(staging: &str) -> Result<(), DataError> {
    let staging = Path::new(staging);
    if staging.is_dir() { Ok(()) } else { Err(no_staging(staging)) }
}

fn no_staging(path: &Path) -> DataError {
    DataError::Write {
        path: path.display().to_string(),
        cause: "the directory of this run's files does not exist: the run has ended, or this node does not share the output's file \
                system with the driver"
            .into(),
    }
}

/// Dictionaries stay on for every column: for trips they are smaller than plain values and,
/// since pages shrink before they are compressed, faster too. Statistics are kept per column
/// chunk, which is what readers prune by.
fn properties(options: &WriteOptions) -> WriterProperties {
    let compression = match options.compression {
        Compression::None => parquet::basic::Compression::UNCOMPRESSED,
        Compression::Snappy => parquet::basic::Compression::SNAPPY,
        Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
    };
    WriterProperties::builder()
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_created_by(concat!("mobula version ", env!("CARGO_PKG_VERSION")).into())
        .build()
}

/// An error of a Parquet writer at `path`, of the kind the system's error says.
#[must_use]
pub fn write_error(path: &Path, error: &ParquetError) -> DataError {
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<io::Error>()
    {
        return DataError::write(path, error);
    }
    DataError::Write { path: path.display().to_string(), cause: error.to_string() }
}

/// The name of the file of a task.
pub(crate) fn part_name(ordinal: u64) -> String {
    format!("part-{ordinal:05}.parquet")
}

/// Rows in a row group of the output at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Bytes in a row group of the output at most: the writer holds this much.
const ROW_GROUP_BYTES: usize = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_inside_the_writer() {
        let error = ParquetError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(write_error(Path::new("/x"), &error), DataError::DiskFull { .. }));
    }
}
