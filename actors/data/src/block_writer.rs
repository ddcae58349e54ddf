//! Writing the files of one block.
//!
//! Entry types: [`BlockWriter`], a task's side of writing ([`crate::output_dir`] is the
//! driver's), and [`BlockFile`], a file that is done. Files get their names when the block is
//! finished; what is given up is removed. A block has one file unless rows are dealt to
//! directories by their values (`partition`), or files end at some size.
//!
//! ```text
//! STAGING/zone=132/part-00003-000.parquet.ATTEMPT    being written
//! STAGING/zone=132/part-00003.parquet                the block is done: one file there,
//! STAGING/zone=7/part-00003-000.parquet, ...-001     or several
//! STAGING/part-00003.done                            the list of the block's files, written last
//! ```
//!
//! In a store the files are uploads, which nobody sees (`output_store.rs`). They have their
//! names from the start. So one that becomes large, or ends before its block does, while its block
//! may have others for the same directory, has a number even if there are none. The list of a block's
//! files is a note beside the run's mark.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::file_out::{FileOut, Upload};
use crate::file_writer::FileWriter;
use crate::output_store::{base_of_mark, check_mark, note_block};
use crate::storage::{PendingUpload, abort, is_remote};
use crate::write::WriteOptions;

mod partition;

use partition::Partitions;

/// A file that a task has finished, waiting for its run to succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFile {
    /// The task's ordinal.
    pub ordinal: u64,
    /// Where it is below the staging directory; below the output, the ordinal in its name may
    /// be another.
    pub path: String,
    /// The file's size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// What makes it visible, if it is in a store.
    pub upload: Option<PendingUpload>,
}

/// Writes the files of one task.
pub struct BlockWriter {
    files: Files,
    partitions: Option<Partitions>,
}

impl BlockWriter {
    /// Starts the files of task `ordinal`. `attempt` keeps two attempts of one task apart,
    /// those of an earlier run with the same staging directory included.
    pub fn create(
        staging: &str,
        ordinal: u64,
        attempt: &str,
        schema: SchemaRef,
        options: &WriteOptions,
    ) -> Result<BlockWriter, DataError> {
        options.check(&schema)?;
        check_staging(staging, options)?;
        let partitions = match options.partition_by.as_slice() {
            [] => None,
            columns => Some(Partitions::new(columns, &schema, options.name())?),
        };
        let mut files = Files {
            place: Place::of(staging),
            ordinal,
            attempt: attempt.into(),
            schema: partitions.as_ref().map_or(schema, Partitions::file_schema),
            options: options.clone(),
            open: HashMap::new(),
            done: Vec::new(),
            counts: HashMap::new(),
            clock: 0,
        };
        if partitions.is_none() {
            // A block without rows has a file with its columns.
            files.open("")?;
        }
        Ok(BlockWriter { files, partitions })
    }

    /// Adds the rows of a batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        match &mut self.partitions {
            None => self.files.write("", batch),
            Some(partitions) => partitions.write(batch, &mut self.files),
        }
    }

    /// About how many bytes of memory its files, and the rows that wait for them, take.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let files: u64 = self.files.open.values().map(|file| file.writer.memory_bytes()).sum();
        files + self.partitions.as_ref().map_or(0, Partitions::waiting_bytes)
    }

    /// Ends the files and hands them over to the run.
    pub fn finish(mut self) -> Result<Vec<BlockFile>, DataError> {
        if let Some(partitions) = &mut self.partitions {
            partitions.flush(&mut self.files)?;
        }
        self.files.finish()
    }
}

/// Whether the directory is there in which the files of a run wait, or its mark in a store.
pub(crate) fn check_staging(staging: &str, options: &WriteOptions) -> Result<(), DataError> {
    if is_remote(staging) {
        return check_mark(staging, &options.storage.clone().unwrap_or_default());
    }
    let staging = Path::new(staging);
    if staging.is_dir() { Ok(()) } else { Err(no_staging(staging)) }
}

fn no_staging(path: &Path) -> DataError {
    DataError::Write {
        path: path.display().to_string(),
        cause: "the directory of this run's files does not exist: the run has ended, or this node does not share the \
                output's file system with the driver"
            .into(),
    }
}

/// The files of a block, by the directory they are for.
struct Files {
    place: Place,
    ordinal: u64,
    attempt: String,
    /// The columns that are in the files.
    schema: SchemaRef,
    options: WriteOptions,
    open: HashMap<String, OpenFile>,
    done: Vec<DoneFile>,
    /// How many files were begun in each directory.
    counts: HashMap<String, u32>,
    /// Counts writes, to know which file was not written to for longest.
    clock: u64,
}

/// Where the files of a run go.
enum Place {
    /// Into this directory, for now.
    Staging(PathBuf),
    /// Into the directory in a store that holds this mark.
    Store { mark: String },
}

struct OpenFile {
    writer: FileWriter,
    path: PathBuf,
    number: u32,
    rows: u64,
    last_write: u64,
}

struct DoneFile {
    directory: String,
    number: u32,
    path: PathBuf,
    rows: u64,
    upload: Option<PendingUpload>,
}

impl Place {
    fn of(staging: &str) -> Self {
        match is_remote(staging) {
            true => Self::Store { mark: staging.into() },
            false => Self::Staging(staging.into()),
        }
    }
}

impl Files {
    /// Adds rows to the file of `directory`, or to several if it becomes full.
    fn write(&mut self, directory: &str, batch: &RecordBatch) -> Result<(), DataError> {
        let step = match self.options.max_file_bytes {
            Some(_) => ROWS_BETWEEN_LOOKS,
            None => batch.num_rows(),
        };
        let mut at = 0;
        while at < batch.num_rows() {
            let max_rows = self.options.max_file_rows.unwrap_or(u64::MAX);
            let max_bytes = self.options.max_file_bytes.unwrap_or(u64::MAX);
            self.clock += 1;
            if !self.open.contains_key(directory) {
                self.open(directory)?;
            }
            let Some(file) = self.open.get_mut(directory) else {
                continue;
            };
            file.last_write = self.clock;
            let room = usize::try_from(max_rows.saturating_sub(file.rows)).unwrap_or(usize::MAX);
            let rows = (batch.num_rows() - at).min(step).min(room);
            file.writer.write(&file.path, &batch.slice(at, rows))?;
            file.rows += rows as u64;
            at += rows;
            if file.rows >= max_rows || file.writer.bytes() >= max_bytes {
                self.close(directory, true)?;
            }
        }
        Ok(())
    }

    /// Begins a file; if too many are open, the one that was not written to for longest ends.
    fn open(&mut self, directory: &str) -> Result<(), DataError> {
        if self.open.len() >= MAX_OPEN_FILES {
            let oldest = self.open.iter().min_by_key(|(_, file)| file.last_write).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.close(&oldest, true)?;
            }
        }
        let count = self.counts.entry(directory.to_owned()).or_default();
        let number = *count;
        *count += 1;
        let (path, file) = match &self.place {
            Place::Staging(staging) => self.create(staging, directory, number)?,
            Place::Store { mark } => self.upload(base_of_mark(mark), directory, number)?,
        };
        let writer = FileWriter::new(&path, file, &self.schema, &self.options).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        let file = OpenFile { writer, path, number, rows: 0, last_write: self.clock };
        self.open.insert(directory.to_owned(), file);
        Ok(())
    }

    fn create(&self, staging: &Path, directory: &str, number: u32) -> Result<(PathBuf, FileOut), DataError> {
        let dir = make_below(staging, directory)?;
        let name = numbered_name(self.ordinal, number, DIGITS, self.options.extension());
        let path = dir.join(format!("{name}.{}", self.attempt));
        let file = File::create(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => no_staging(&path),
            _ => DataError::write(&path, &e),
        })?;
        Ok((path, FileOut::Local(file)))
    }

    fn upload(&self, base: &str, directory: &str, number: u32) -> Result<(PathBuf, FileOut), DataError> {
        let extension = self.options.extension();
        let slash = if directory.is_empty() { "" } else { "/" };
        let path = |name: String| format!("{base}{directory}{slash}{name}");
        let alone = path(part_name(self.ordinal, extension));
        if number >= MAX_NUMBERED {
            let cause = format!("a block has more than {MAX_NUMBERED} files in one directory: let files be larger");
            return Err(DataError::Write { path: alone, cause });
        }
        let numbered = path(numbered_name(self.ordinal, number, DIGITS, extension));
        let options = &self.options;
        let is_cut = options.max_file_rows.is_some() || options.max_file_bytes.is_some();
        let may_have_others = is_cut || !options.partition_by.is_empty();
        let storage = options.storage.clone().unwrap_or_default();
        let shown = PathBuf::from(&alone);
        Ok((shown, FileOut::Store(Upload::new(alone, numbered, may_have_others, storage))))
    }

    /// Ends the file of `directory`, which may not be the block's only one there.
    fn close(&mut self, directory: &str, has_others: bool) -> Result<(), DataError> {
        let Some(file) = self.open.remove(directory) else {
            return Ok(());
        };
        let OpenFile { writer, path, number, rows, .. } = file;
        // It is removed with the others if ending it fails.
        self.done.push(DoneFile { directory: directory.into(), number, path: path.clone(), rows, upload: None });
        if let FileOut::Store(upload) = writer.finish(&path)? {
            let pending = upload.finish(has_others)?;
            if let Some(done) = self.done.last_mut() {
                done.upload = Some(pending);
            }
        }
        Ok(())
    }

    /// Gives all files their names and writes the list of them.
    fn finish(mut self) -> Result<Vec<BlockFile>, DataError> {
        let mut open: Vec<String> = self.open.keys().cloned().collect();
        open.sort();
        for directory in open {
            let has_others = self.counts.get(&directory).is_some_and(|count| *count > 1);
            self.close(&directory, has_others)?;
        }
        self.done.sort_by(|a, b| (&a.directory, a.number).cmp(&(&b.directory, b.number)));
        match &self.place {
            Place::Staging(staging) => self.hand_over_in(&staging.clone()),
            Place::Store { mark } => {
                let storage = self.options.storage.clone().unwrap_or_default();
                // Uploads that are there when the driver ends the run are aborted by it.
                check_mark(mark, &storage)?;
                let base = base_of_mark(mark);
                let files: Vec<BlockFile> = self.done.iter().filter_map(|done| self.uploaded(done, base)).collect();
                note_block(mark, self.ordinal, &files, &storage)?;
                // From here on they are the run's, or that of the one which goes on with it.
                self.done.clear();
                Ok(files)
            }
        }
    }

    /// A file in a store.
    fn uploaded(&self, done: &DoneFile, base: &str) -> Option<BlockFile> {
        let upload = done.upload.clone()?;
        let path = upload.path.strip_prefix(base)?.to_owned();
        Some(BlockFile { ordinal: self.ordinal, path, bytes: upload.size, rows: done.rows, upload: Some(upload) })
    }

    /// Gives the files in the staging directory their names, and lists them there.
    fn hand_over_in(&self, staging: &Path) -> Result<Vec<BlockFile>, DataError> {
        let extension = self.options.extension();
        let mut files = Vec::with_capacity(self.done.len());
        for done in &self.done {
            let name = match self.counts.get(&done.directory) {
                None | Some(1) => part_name(self.ordinal, extension),
                Some(count) => {
                    let digits = (count - 1).to_string().len().max(DIGITS);
                    numbered_name(self.ordinal, done.number, digits, extension)
                }
            };
            let path = Path::new(&done.directory).join(name);
            let to = staging.join(&path);
            let failed = |e: io::Error| DataError::write(&to, &e);
            let bytes = fs::metadata(&done.path).map_err(failed)?.len();
            fs::rename(&done.path, &to).map_err(failed)?;
            let path = path.display().to_string();
            files.push(BlockFile { ordinal: self.ordinal, path, bytes, rows: done.rows, upload: None });
        }
        write_manifest(staging, self.ordinal, &self.attempt, &files)?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let uploads: Vec<PendingUpload> = self.done.iter_mut().filter_map(|done| done.upload.take()).collect();
        if !uploads.is_empty()
            && let Err(error) = abort(&uploads, &self.options.storage.clone().unwrap_or_default())
        {
            tracing::warn!(%error, "uploads of a block that was given up are left in the store");
        }
        if matches!(self.place, Place::Store { .. }) {
            return;
        }
        // After `finish` the files have other names and this finds nothing.
        for path in self.open.values().map(|file| &file.path).chain(self.done.iter().map(|file| &file.path)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes a directory below one that exists, and not that one itself: when it is gone, the run
/// has ended.
pub(crate) fn make_below(above: &Path, directory: &str) -> Result<PathBuf, DataError> {
    let mut dir = above.to_path_buf();
    for part in Path::new(directory) {
        dir.push(part);
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(no_staging(above)),
            Err(e) => return Err(DataError::write(&dir, &e)),
        }
    }
    Ok(dir)
}

/// Says, in one step, that the files of a block are done.
fn write_manifest(staging: &Path, ordinal: u64, attempt: &str, files: &[BlockFile]) -> Result<(), DataError> {
    let path = staging.join(format!("{}{MANIFEST}", part_name(ordinal, "")));
    let unfinished = path.with_extension(format!("new.{attempt}"));
    let failed = |e: io::Error| DataError::write(&path, &e);
    let bytes = rmp_serde::to_vec(files).map_err(|e| failed(io::Error::other(e)))?;
    fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &path)).map_err(|e| {
        let _ = fs::remove_file(&unfinished);
        failed(e)
    })
}

/// The files of the blocks that are done in a staging directory, by the blocks' ordinals. A block
/// of which a file is missing, or is not what it was, is not done.
pub(crate) fn read_manifests(staging: &Path) -> io::Result<Vec<(PathBuf, Vec<BlockFile>)>> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with(MANIFEST) {
            continue;
        }
        let Ok(files) = rmp_serde::from_slice::<Vec<BlockFile>>(&fs::read(&path)?) else {
            continue;
        };
        let is_there = |file: &BlockFile| fs::metadata(staging.join(&file.path)).is_ok_and(|m| m.len() == file.bytes);
        if files.iter().all(is_there) {
            blocks.push((path, files));
        }
    }
    blocks.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(blocks)
}

/// The name of the file of a task.
pub(crate) fn part_name(ordinal: u64, extension: &str) -> String {
    format!("part-{ordinal:05}{extension}")
}

/// The name of one of several files of a task: in the order of names, in which they are read,
/// they are in the order in which they were written.
fn numbered_name(ordinal: u64, number: u32, digits: usize, extension: &str) -> String {
    format!("part-{ordinal:05}-{number:0digits$}{extension}")
}

/// Files that a task has open at most.
const MAX_OPEN_FILES: usize = 64;
/// After so many rows a file's size is looked at.
const ROWS_BETWEEN_LOOKS: usize = 1024;
/// Digits of the number of one of several files, at least.
const DIGITS: usize = 3;
/// Of how many files of a block in one directory of a store the numbers are in order.
const MAX_NUMBERED: u32 = 1000;
/// How the name of the list of a block's files ends.
pub(crate) const MANIFEST: &str = ".done";

#[cfg(test)]
mod tests;
