//! Dealing rows to directories by the values of some columns.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Files;
use crate::error::DataError;
use crate::hive::directory;
use crate::words::plain;

/// Rows that wait to be written, by the directory they belong to. They are held back so that a
/// directory gets few files of many rows, not many of few: most blocks are written at their end,
/// one directory after the other.
pub(super) struct Partitions {
    operator: &'static str,
    /// The columns that tell the directory, in order.
    keys: Vec<(String, usize)>,
    /// The columns that are in the files.
    kept: Vec<usize>,
    file_schema: SchemaRef,
    converter: RowConverter,
    /// Places in `directories`.
    known: HashMap<Box<[u8]>, usize>,
    directories: Vec<Directory>,
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
}

struct Directory {
    path: String,
    /// Rows of the waiting batches: which batch, and which of its rows.
    rows: Vec<(usize, usize)>,
}

impl Partitions {
    /// Deals rows of `schema` by the values of `columns`.
    pub(super) fn new(columns: &[String], schema: &Schema, operator: &'static str) -> Result<Self, DataError> {
        let failed = |cause: String| DataError::InvalidPlan { operator: operator.into(), cause };
        let places: Result<Vec<usize>, _> = columns.iter().map(|column| schema.index_of(column)).collect();
        let places = places.map_err(|e| failed(plain(&e)))?;
        let kept: Vec<usize> = (0..schema.fields().len()).filter(|i| !places.contains(i)).collect();
        let fields = places.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
        Ok(Self {
            operator,
            keys: columns.iter().cloned().zip(places).collect(),
            file_schema: schema.project(&kept).map_err(|e| failed(plain(&e)))?.into(),
            kept,
            converter: RowConverter::new(fields).map_err(|e| failed(plain(&e)))?,
            known: HashMap::new(),
            directories: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }

    pub(super) fn file_schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.file_schema)
    }

    /// Bytes of the rows that wait.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes as u64
    }

    /// Adds the rows of a batch.
    pub(super) fn write(&mut self, batch: &RecordBatch, files: &mut Files) -> Result<(), DataError> {
        let operator = self.operator;
        let failed = |cause: String| DataError::Compute { operator: operator.into(), path: String::new(), cause };
        let keys: Vec<ArrayRef> = self.keys.iter().map(|(_, i)| ArrayRef::clone(batch.column(*i))).collect();
        let rows = self.converter.convert_columns(&keys).map_err(|e| failed(plain(&e)))?;
        let texts = Texts::of(&keys).map_err(failed)?;
        for (index, row) in rows.iter().enumerate() {
            let place = match self.known.get(row.as_ref()) {
                Some(place) => *place,
                None => {
                    if self.directories.len() >= MAX_DIRECTORIES {
                        let columns: Vec<_> = self.keys.iter().map(|(name, _)| name.as_str()).collect();
                        return Err(failed(format!(
                            "a block has more than {MAX_DIRECTORIES} different values of {}: partition by columns \
                             with fewer",
                            columns.join(", ")
                        )));
                    }
                    let path = texts.path(&self.keys, index);
                    self.directories.push(Directory { path, rows: Vec::new() });
                    self.known.insert(row.as_ref().into(), self.directories.len() - 1);
                    self.directories.len() - 1
                }
            };
            self.directories[place].rows.push((self.waiting.len(), index));
        }
        let kept = batch.project(&self.kept).map_err(|e| failed(plain(&e)))?;
        // A slice of a batch holds all of it.
        self.waiting_bytes += kept.get_array_memory_size();
        self.waiting.push(kept);
        if self.waiting_bytes >= WAITING_BYTES { self.flush(files) } else { Ok(()) }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, files: &mut Files) -> Result<(), DataError> {
        let waiting: Vec<&RecordBatch> = self.waiting.iter().collect();
        for directory in &mut self.directories {
            for rows in directory.rows.chunks(ROWS_AT_ONCE) {
                let batch = interleave_record_batch(&waiting, rows).map_err(|e| DataError::Compute {
                    operator: self.operator.into(),
                    path: String::new(),
                    cause: plain(&e),
                })?;
                files.write(&directory.path, &batch)?;
            }
            directory.rows.clear();
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }
}

/// The values of key columns as texts.
struct Texts<'a> {
    columns: Vec<(&'a ArrayRef, ArrayFormatter<'a>)>,
}

impl<'a> Texts<'a> {
    fn of(columns: &'a [ArrayRef]) -> Result<Self, String> {
        let text = |column: &'a ArrayRef| Ok((column, ArrayFormatter::try_new(column.as_ref(), &FORMAT)?));
        let columns: Result<_, arrow::error::ArrowError> = columns.iter().map(text).collect();
        Ok(Self { columns: columns.map_err(|e| plain(&e))? })
    }

    /// The directories for a row, one in the other.
    fn path(&self, keys: &[(String, usize)], row: usize) -> String {
        let part = |((name, _), (column, text)): (&(String, usize), &(&ArrayRef, ArrayFormatter<'_>))| {
            if column.is_null(row) {
                return directory(name, None);
            }
            match column.data_type() {
                DataType::Utf8 => directory(name, Some(column.as_string::<i32>().value(row))),
                _ => directory(name, Some(&text.value(row).to_string())),
            }
        };
        keys.iter().zip(&self.columns).map(part).collect::<Vec<_>>().join("/")
    }
}

const FORMAT: FormatOptions<'_> = FormatOptions::new();
/// Bytes of rows that wait at most, before compression.
const WAITING_BYTES: usize = 64 << 20;
/// Rows of a directory that are put together at once.
const ROWS_AT_ONCE: usize = 64 << 10;
/// Directories of one block at most: each is at least a file.
const MAX_DIRECTORIES: usize = 10_000;
