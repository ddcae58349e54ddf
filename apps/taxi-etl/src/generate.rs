//! Writing months of made-up trips.
//!
//! Entry type: [`generate`]. One file a month, as the TLC publishes them. Threads make whole
//! row groups, trips and encoding both, and append them in order, so what is written depends
//! only on the seed, the months and the number of rows. Files get their names when all are
//! done; a run that fails leaves none.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use mobula_data::DataError;
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

/// Generates trips; `progress` is told of rows as they are encoded.
pub fn generate(what: &Generate, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Generated>, DataError> {
    let output = Output::prepare(&what.output)?;
    let (city, tables, schema) = (Arc::new(City::new()), Arc::new(Tables::new()), yellow_schema());
    let shares = share(what.rows, &what.months);
    let mut months = Vec::with_capacity(shares.len());
    for (month, rows) in shares {
        let trips = Trips::new(what.seed, month, rows, city.clone(), tables.clone(), schema.clone());
        months.push(MonthFile::create(&output.dir, month, rows, trips, &schema)?);
    }
    let groups: Vec<(&MonthFile, u64)> =
        months.iter().flat_map(|m| (0..m.rows.div_ceil(ROW_GROUP_ROWS)).map(move |g| (m, g))).collect();
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<DataError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..what.threads.clamp(1, groups.len().max(1)) {
            scope.spawn(|| {
                while let Some((month, group)) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = month.write_group(*group, &schema, progress) {
                        lock(&failure).get_or_insert(error);
                        months.iter().for_each(MonthFile::give_up);
                        return;
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&failure).take() {
        months.iter().for_each(|m| drop(fs::remove_file(&m.unfinished)));
        return Err(error);
    }
    let written = months.into_iter().map(MonthFile::finish).collect::<Result<Vec<_>, _>>()?;
    output.keep();
    Ok(written)
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

/// The directory of the output; one that this run made goes away with it if it fails.
struct Output {
    dir: PathBuf,
    made: Vec<PathBuf>,
}

impl Output {
    fn prepare(dir: &Path) -> Result<Output, DataError> {
        let missing: Vec<&Path> =
            dir.ancestors().filter(|p| !p.as_os_str().is_empty()).take_while(|p| !p.exists()).collect();
        let mut output = Output { dir: dir.to_path_buf(), made: Vec::new() };
        for path in missing.into_iter().rev() {
            fs::create_dir(path).map_err(|e| DataError::write(path, &e))?;
            output.made.push(path.to_path_buf());
        }
        Ok(output)
    }

    fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        for made in self.made.iter().rev() {
            // Only empty directories go; that is all a failed run can have left.
            let _ = fs::remove_dir(made);
        }
    }
}

/// The file of a month while threads append row groups to it.
struct MonthFile {
    path: PathBuf,
    /// Its name until all months are done.
    unfinished: PathBuf,
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
    fn create(dir: &Path, month: Month, rows: u64, trips: Trips, schema: &SchemaRef) -> Result<MonthFile, DataError> {
        let name = format!("yellow_tripdata_{month}.parquet");
        let unfinished = dir.join(format!(".{name}.{}", std::process::id()));
        let file = File::create(&unfinished).map_err(|e| DataError::write(&unfinished, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties));
        let (writer, factory) =
            writer.and_then(ArrowWriter::into_serialized_writer).map_err(|e| write_error(&unfinished, &e))?;
        Ok(MonthFile {
            path: dir.join(name),
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
    fn write_group(&self, group: u64, schema: &SchemaRef, progress: &(dyn Fn(u64) + Sync)) -> Result<(), DataError> {
        let failed = |e: ParquetError| write_error(&self.unfinished, &e);
        let encoded = self.encode(group, schema, progress).map_err(failed)?;
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

    fn encode(
        &self,
        group: u64,
        schema: &SchemaRef,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
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
            progress(batch.num_rows() as u64);
        }
        writers.into_iter().map(|writer| writer.close()).collect()
    }

    /// Wakes whoever waits for a turn that will not come.
    fn give_up(&self) {
        lock(&self.state).writer = None;
        self.turn.notify_all();
    }

    fn finish(self) -> Result<Generated, DataError> {
        if let Some(writer) = lock(&self.state).writer.take() {
            writer.close().map_err(|e| write_error(&self.unfinished, &e))?;
        }
        let failed = |e: std::io::Error| DataError::write(&self.path, &e);
        let bytes = fs::metadata(&self.unfinished).map_err(failed)?.len();
        fs::rename(&self.unfinished, &self.path).map_err(failed)?;
        Ok(Generated { path: self.path, rows: self.rows, bytes })
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

fn write_error(path: &Path, error: &ParquetError) -> DataError {
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<std::io::Error>()
    {
        return DataError::write(path, error);
    }
    DataError::Write { path: path.display().to_string(), cause: error.to_string() }
}

/// A thread that panicked has its own way to be heard; the lock's data stays usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of a row group, as in the TLC's own files.
const ROW_GROUP_ROWS: u64 = 1 << 20;
