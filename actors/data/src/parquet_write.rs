//! Writing the blocks of a run, all of them or none.
//!
//! Entry types: [`OutputDir`], the driver's side, and [`BlockWriter`], a task's side. The files
//! of a run wait in a hidden directory inside the output directory; when every task is done the
//! driver renames them into place. A run that fails or is cancelled leaves nothing behind, not
//! even a directory that it made. It does not sync files: what a crash of the machine leaves of
//! a run is for that run to write again.
//!
//! ```text
//! OUT/.mobula-RUN/part-00003.parquet.ATTEMPT   a task writes
//! OUT/.mobula-RUN/part-00003.parquet           the task is done (a second attempt lands here too)
//! OUT/part-00003.parquet                       the run is done
//! ```

use std::collections::BTreeSet;
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

/// The directory a run writes to.
#[derive(Debug)]
pub struct OutputDir {
    dir: PathBuf,
    staging: PathBuf,
    mode: WriteMode,
    /// Directories this run made, outermost first.
    made: Vec<PathBuf>,
    done: bool,
}

impl OutputDir {
    /// Makes the directory ready for the run `run_id`: after this, nothing is known to stand in
    /// the way of writing to it.
    pub fn prepare(dir: &str, mode: WriteMode, run_id: &str) -> Result<OutputDir, DataError> {
        let dir = PathBuf::from(dir);
        let staging = dir.join(format!("{STAGING_PREFIX}{run_id}"));
        let mut output = OutputDir { dir, staging, mode, made: Vec::new(), done: false };
        output.make_directories()?;
        output.check_in_the_way()?;
        fs::create_dir(&output.staging).map_err(|e| DataError::write(&output.dir, &e))?;
        output.made.push(output.staging.clone());
        Ok(output)
    }

    /// Where the tasks of the run put their files.
    #[must_use]
    pub fn staging(&self) -> String {
        self.staging.display().to_string()
    }

    /// Puts the files of all tasks into place, in order, and returns their paths. If one cannot
    /// be put there, none is.
    pub fn commit(mut self, files: &[BlockFile]) -> Result<Vec<String>, DataError> {
        let old = self.parts()?;
        let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
        if self.mode == WriteMode::Overwrite {
            moves.extend(old.values().map(|path| (path.clone(), self.staging.join(replaced_name(path)))));
        }
        let first = match self.mode {
            WriteMode::Append => old.keys().next_back().map_or(0, |last| last + 1),
            _ => 0,
        };
        let mut paths = Vec::with_capacity(files.len());
        for file in files {
            let to = self.dir.join(part_name(first + file.ordinal));
            paths.push(to.display().to_string());
            moves.push((self.staging.join(part_name(file.ordinal)), to));
        }
        for (done, (from, to)) in moves.iter().enumerate() {
            if let Err(error) = fs::rename(from, to) {
                for (from, to) in moves[..done].iter().rev() {
                    if let Err(error) = fs::rename(to, from) {
                        tracing::error!(path = %to.display(), %error, "cannot move a file back");
                    }
                }
                return Err(DataError::write(to, &error));
            }
        }
        self.done = true;
        self.remove_staging();
        Ok(paths)
    }

    /// Takes back everything the run did. Dropping an output that was not committed does the
    /// same.
    pub fn abort(self) {
        drop(self);
    }

    fn make_directories(&mut self) -> Result<(), DataError> {
        let missing: Vec<PathBuf> = self
            .dir
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .take_while(|path| !path.exists())
            .map(Path::to_path_buf)
            .collect();
        for path in missing.into_iter().rev() {
            match fs::create_dir(&path) {
                Ok(()) => self.made.push(path),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DataError::write(&path, &e)),
            }
        }
        if self.dir.is_dir() {
            return Ok(());
        }
        Err(DataError::write(&self.dir, &io::Error::from(io::ErrorKind::NotADirectory)))
    }

    fn check_in_the_way(&self) -> Result<(), DataError> {
        if self.mode == WriteMode::Append {
            return Ok(());
        }
        for name in self.visible_names()? {
            let replaceable = match self.mode {
                WriteMode::ErrorIfExists => false,
                _ => part_ordinal(&name).is_some() || !name.to_ascii_lowercase().ends_with(".parquet"),
            };
            if !replaceable {
                return Err(DataError::OutputExists { path: self.dir.display().to_string(), found: name });
            }
        }
        Ok(())
    }

    fn visible_names(&self) -> Result<BTreeSet<String>, DataError> {
        let failed = |e: io::Error| DataError::read(&self.dir, &e);
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// The files of earlier runs, by ordinal.
    fn parts(&self) -> Result<std::collections::BTreeMap<u64, PathBuf>, DataError> {
        let names = self.visible_names()?;
        Ok(names.iter().filter_map(|n| Some((part_ordinal(n)?, self.dir.join(n)))).collect())
    }

    fn remove_staging(&self) {
        if let Err(error) = fs::remove_dir_all(&self.staging)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.staging.display(), %error, "cannot remove a staging directory");
        }
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Only a directory of this run is removed with what is in it.
        if self.made.last() == Some(&self.staging) {
            self.remove_staging();
        }
        for made in self.made.iter().rev() {
            let _ = fs::remove_dir(made);
        }
    }
}

/// Writes the file of one task.
pub struct BlockWriter {
    /// Gone once the file is finished or given up.
    writer: Option<ArrowWriter<File>>,
    schema: SchemaRef,
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
            io::ErrorKind::NotFound => DataError::Write {
                path: path.display().to_string(),
                cause: "its directory does not exist: the run has ended, or this node does not share \
                        the output's file system with the driver"
                    .into(),
            },
            _ => DataError::write(&path, &e),
        })?;
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties(options)))
            .map_err(|e| write_error(&path, &e))?;
        Ok(BlockWriter { writer: Some(writer), schema, ordinal, path, finished_path, rows: 0 })
    }

    /// The columns it writes.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
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

fn write_error(path: &Path, error: &ParquetError) -> DataError {
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<io::Error>()
    {
        return DataError::write(path, error);
    }
    DataError::Write { path: path.display().to_string(), cause: error.to_string() }
}

fn part_name(ordinal: u64) -> String {
    format!("part-{ordinal:05}.parquet")
}

/// The ordinal in the name of a file that a run wrote.
fn part_ordinal(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("part-")?.strip_suffix(".parquet")?;
    (digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn replaced_name(path: &Path) -> String {
    format!("replaced-{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// What the name of a run's hidden directory begins with.
const STAGING_PREFIX: &str = ".mobula-";
/// Rows in a row group of the output at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Bytes in a row group of the output at most: the writer holds this much.
const ROW_GROUP_BYTES: usize = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)]).unwrap()
    }

    fn write(output: &OutputDir, ordinal: u64, attempt: &str) -> BlockFile {
        let batch = batch(0..10);
        let options = WriteOptions::default();
        let mut writer = BlockWriter::create(&output.staging(), ordinal, attempt, batch.schema(), &options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn prepare(dir: &Path, mode: WriteMode) -> Result<OutputDir, DataError> {
        OutputDir::prepare(dir.to_str().unwrap(), mode, "run")
    }

    #[test]
    fn all_files_appear_at_the_end_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let output = prepare(&dir, WriteMode::ErrorIfExists).unwrap();
        let files = [write(&output, 0, "x"), write(&output, 1, "x")];
        // A second attempt of the same task ends in the same file.
        assert_eq!(write(&output, 1, "y"), files[1]);
        assert_eq!(names(&dir), [".mobula-run"]);
        let paths = output.commit(&files).unwrap();
        assert_eq!(names(&dir), ["part-00000.parquet", "part-00001.parquet"]);
        assert_eq!(paths.len(), 2);
        assert_eq!(fs::metadata(&paths[0]).unwrap().len(), files[0].bytes);
    }

    #[test]
    fn an_aborted_run_leaves_nothing_not_even_its_directories() {
        let root = tempfile::tempdir().unwrap();
        let output = prepare(&root.path().join("a/b"), WriteMode::ErrorIfExists).unwrap();
        write(&output, 0, "x");
        output.abort();
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_writer_given_up_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let output = prepare(root.path(), WriteMode::ErrorIfExists).unwrap();
        let schema = batch(0..1).schema();
        drop(BlockWriter::create(&output.staging(), 0, "x", schema.clone(), &WriteOptions::default()).unwrap());
        assert!(names(Path::new(&output.staging())).is_empty());
        let staging = output.staging();
        output.abort();
        let late = BlockWriter::create(&staging, 0, "x", schema, &WriteOptions::default());
        assert!(late.err().unwrap().to_string().contains("the run has ended"));
    }

    #[test]
    fn a_commit_that_fails_half_way_puts_everything_back() {
        let root = tempfile::tempdir().unwrap();
        let output = prepare(root.path(), WriteMode::ErrorIfExists).unwrap();
        let first = output.commit(&[]).unwrap();
        assert!(first.is_empty());
        fs::write(root.path().join("part-00000.parquet"), "old").unwrap();
        let output = prepare(root.path(), WriteMode::Overwrite).unwrap();
        let file = write(&output, 0, "x");
        let missing = BlockFile { ordinal: 1, ..file.clone() };
        assert!(matches!(output.commit(&[file, missing]), Err(DataError::Write { .. })));
        assert_eq!(names(root.path()), ["part-00000.parquet"]);
        assert_eq!(fs::read(root.path().join("part-00000.parquet")).unwrap(), b"old");
    }

    #[test]
    fn the_modes_treat_earlier_output_as_they_say() {
        let root = tempfile::tempdir().unwrap();
        let run = |mode| {
            let output = prepare(root.path(), mode)?;
            let files = [write(&output, 0, "x"), write(&output, 1, "x")];
            output.commit(&files)
        };
        run(WriteMode::ErrorIfExists).unwrap();
        assert!(matches!(run(WriteMode::ErrorIfExists), Err(DataError::OutputExists { .. })));
        run(WriteMode::Append).unwrap();
        assert_eq!(names(root.path()).len(), 4);
        run(WriteMode::Overwrite).unwrap();
        assert_eq!(names(root.path()), ["part-00000.parquet", "part-00001.parquet"]);
        fs::write(root.path().join("notes.txt"), "").unwrap();
        run(WriteMode::Overwrite).unwrap();
        fs::write(root.path().join("other.parquet"), "").unwrap();
        assert!(run(WriteMode::Overwrite).unwrap_err().to_string().contains("other.parquet"));
        assert_eq!(names(root.path()).len(), 4);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for dir in [file.clone(), file.join("below"), PathBuf::from("/proc/mobula")] {
            let error = prepare(&dir, WriteMode::Overwrite).unwrap_err();
            assert!(matches!(error, DataError::Write { .. }), "{error}");
            assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        }
        assert_eq!(names(root.path()), ["file"]);
    }

    #[test]
    fn a_full_disk_is_told_apart_inside_the_writer() {
        let error = ParquetError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(write_error(Path::new("/x"), &error), DataError::DiskFull { .. }));
    }
}
