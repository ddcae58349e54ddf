//! Writing months of made-up trips.
//!
//! Entry type: [`generate`]. One file a month, as the TLC publishes them. Threads make whole
//! row groups, trips and encoding both, and append them in order, so what is written depends
//! only on the seed, the months and the number of rows. Files get their names when all are
//! done; a run that fails or is interrupted leaves none, and replaces none unless it is told to.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use mobula_data::DataError;
use mobula_data::moves::{MadeDirectories, Moves};
use mobula_data::parquet_write::write_error;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use crate::calendar::Month;
use crate::columns::yellow_schema;
use crate::trips::{CHUNK_ROWS, Tables, Trips};
use crate::zones::City;

/// What to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generate {
    /// Rows of all months together.
    pub rows: u64,
    /// The months, in order.
    pub months: Vec<Month>,
    /// Equal seeds give equal files.
    pub seed: u64,
    /// Where the files go; made if it does not exist.
    pub output: PathBuf,
    /// Threads to use.
    pub threads: usize,
    /// Whether files that exist are replaced; otherwise they are an error.
    pub overwrite: bool,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Where it is.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// Generates trips; `progress` is told of rows as they are encoded, and may end it.
pub fn generate(what: &Generate, progress: Progress<'_>) -> Result<Vec<Generated>, DataError> {
    let names: Vec<String> = what.months.iter().map(|month| format!("yellow_tripdata_{month}.parquet")).collect();
    let existing = names.iter().find(|name| what.output.join(name).symlink_metadata().is_ok());
    if let (false, Some(name)) = (what.overwrite, existing) {
        return Err(DataError::OutputExists { path: what.output.display().to_string(), found: name.clone() });
    }
    let mut made = MadeDirectories::make(&what.output).map_err(|e| DataError::write(&what.output, &e))?;
    let (city, tables, schema) = (Arc::new(City::new()), Arc::new(Tables::new()), yellow_schema());
    let shares = share(what.rows, &what.months);
    let mut months = Vec::with_capacity(shares.len());
    for ((month, rows), name) in shares.into_iter().zip(&names) {
        let trips = Trips::new(what.seed, month, rows, city.clone(), tables.clone(), schema.clone());
        months.push(MonthFile::create(&what.output, name, rows, trips, &schema)?);
    }
    write_groups(&months, what.threads, &schema, progress)?;
    let files = put_in_place(months, what.overwrite)?;
    made.keep();
    Ok(files)
}

/// Told of rows as they are encoded; it may end the run.
pub type Progress<'a> = &'a (dyn Fn(u64) -> ControlFlow<()> + Sync);

/// Makes all row groups of all months, by threads that take them in order.
fn write_groups(
    months: &[MonthFile],
    threads: usize,
    schema: &SchemaRef,
    progress: Progress<'_>,
) -> Result<(), DataError> {
    let groups: Vec<(&MonthFile, u64)> =
        months.iter().flat_map(|m| (0..m.rows.div_ceil(ROW_GROUP_ROWS)).map(move |g| (m, g))).collect();
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<DataError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, groups.len().max(1)) {
            scope.spawn(|| {
                let mut end = EndAll { months, armed: true };
                while let Some((month, group)) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = month.write_group(*group, schema, progress) {
                        lock(&failure).get_or_insert(error);
                        return;
                    }
                }
                end.armed = false;
            });
        }
    });
    let failure = lock(&failure).take();
    failure.map_or(Ok(()), Err)
}

/// Dropped by a thread that fails or panics, so that none waits for its turn after it for ever.
struct EndAll<'a> {
    months: &'a [MonthFile],
    armed: bool,
}

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.months.iter().for_each(MonthFile::give_up);
        }
    }
}

/// Ends all files and gives them their names: all of them, or none.
fn put_in_place(months: Vec<MonthFile>, overwrite: bool) -> Result<Vec<Generated>, DataError> {
    let mut finished = Vec::with_capacity(months.len());
    for month in months {
        finished.push(month.finish()?);
    }
    let mut moves = Moves::default();
    let mut replaced = Vec::new();
    for (unfinished, file) in &finished {
        if overwrite && file.path.symlink_metadata().is_ok() {
            let aside = unfinished.0.with_extension("replaced");
            moves.rename(&file.path, &aside)?;
            replaced.push(aside);
        }
        moves.rename(&unfinished.0, &file.path)?;
    }
    moves.keep();
    for aside in replaced {
        if let Err(error) = fs::remove_file(&aside) {
            tracing::warn!(path = %aside.display(), %error, "cannot remove a file that was replaced");
        }
    }
    Ok(finished.into_iter().map(|(_, file)| file).collect())
}

/// The rows of every month, by its days; the first months take what does not divide.
fn share(rows: u64, months: &[Month]) -> Vec<(Month, u64)> {
    let days: u64 = months.iter().map(|m| u64::from(m.days())).sum();
    let mut below = 0;
    let mut given = 0;
    let share = |month: &Month| {
        below += u64::from(month.days());
        let upto = (u128::from(rows) * u128::from(below)).div_ceil(u128::from(days)) as u64;
        let mine = upto - given;
        given = upto;
        (*month, mine)
    };
    months.iter().map(share).collect()
}

/// A file under the name it has until all months are done. Dropped, it is removed; one that has
/// got its name is not there any more.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The file of a month while threads append row groups to it.
struct MonthFile {
    path: PathBuf,
    unfinished: Unfinished,
    rows: u64,
    trips: Trips,
    factory: ArrowRowGroupWriterFactory,
    state: Mutex<Appending>,
    turn: Condvar,
}

struct Appending {
    writer: Option<SerializedFileWriter<File>>,
    /// The row group that comes next.
    next: u64,
}

impl MonthFile {
    fn create(dir: &Path, name: &str, rows: u64, trips: Trips, schema: &SchemaRef) -> Result<MonthFile, DataError> {
        // Errors tell the name that people know.
        let shown = dir.join(name);
        let path = dir.join(format!(".{name}.{}", std::process::id()));
        let file = File::create(&path).map_err(|e| DataError::write(&shown, &e))?;
        let unfinished = Unfinished(path);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties));
        let (writer, factory) =
            writer.and_then(ArrowWriter::into_serialized_writer).map_err(|e| write_error(&shown, &e))?;
        Ok(MonthFile {
            path: shown,
            unfinished,
            rows,
            trips,
            factory,
            state: Mutex::new(Appending { writer: Some(writer), next: 0 }),
            turn: Condvar::new(),
        })
    }

    /// Makes row group `group` and appends it when its turn comes. Groups are begun in order,
    /// so whoever's turn it is never waits, and no more than one waits per thread.
    fn write_group(&self, group: u64, schema: &SchemaRef, progress: Progress<'_>) -> Result<(), DataError> {
        let failed = |e: ParquetError| write_error(&self.path, &e);
        let Some(encoded) = self.encode(group, schema, progress).map_err(failed)? else {
            return Err(DataError::Cancelled);
        };
        let mut state = lock(&self.state);
        while state.next != group {
            if state.writer.is_none() {
                return Ok(());
            }
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(writer) = &mut state.writer else {
            return Ok(());
        };
        append(writer, encoded).map_err(failed)?;
        state.next += 1;
        self.turn.notify_all();
        Ok(())
    }

    /// The columns of a row group; none if the run is to end.
    fn encode(
        &self,
        group: u64,
        schema: &SchemaRef,
        progress: Progress<'_>,
    ) -> Result<Option<Vec<ArrowColumnChunk>>, ParquetError> {
        let mut writers = self.factory.create_column_writers(group as usize)?;
        let first_chunk = group * (ROW_GROUP_ROWS / CHUNK_ROWS);
        let end_chunk = self.rows.div_ceil(CHUNK_ROWS).min(first_chunk + ROW_GROUP_ROWS / CHUNK_ROWS);
        for chunk in first_chunk..end_chunk {
            let batch = self.trips.chunk(chunk)?;
            for ((writer, field), column) in writers.iter_mut().zip(schema.fields()).zip(batch.columns()) {
                for leaf in compute_leaves(field, column)? {
                    writer.write(&leaf)?;
                }
            }
            if progress(batch.num_rows() as u64).is_break() {
                return Ok(None);
            }
        }
        writers.into_iter().map(|writer| writer.close()).collect::<Result<_, _>>().map(Some)
    }

    /// Wakes whoever waits for a turn that will not come.
    fn give_up(&self) {
        lock(&self.state).writer = None;
        self.turn.notify_all();
    }

    /// Ends the file; it still has to get its name.
    fn finish(self) -> Result<(Unfinished, Generated), DataError> {
        if let Some(writer) = lock(&self.state).writer.take() {
            writer.close().map_err(|e| write_error(&self.path, &e))?;
        }
        let bytes = fs::metadata(&self.unfinished.0).map_err(|e| DataError::write(&self.path, &e))?.len();
        Ok((self.unfinished, Generated { path: self.path, rows: self.rows, bytes }))
    }
}

fn append(writer: &mut SerializedFileWriter<File>, encoded: Vec<ArrowColumnChunk>) -> Result<(), ParquetError> {
    let mut row_group = writer.next_row_group()?;
    for chunk in encoded {
        chunk.append_to_row_group(&mut row_group)?;
    }
    row_group.close()?;
    Ok(())
}

/// A thread that panicked has its own way to be heard; the lock's data stays usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of a row group, as in the TLC's own files.
const ROW_GROUP_ROWS: u64 = 1 << 20;
