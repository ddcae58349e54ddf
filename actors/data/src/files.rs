//! What is known of files before anything of them is read.
//!
//! Entry types: [`open_files`], which finds the files of a source and opens them all, and
//! [`FileFooter`], what one file says of itself. Of Parquet that is its footer, with the
//! statistics that tell which row groups a condition may find rows in; of text, which has none,
//! the columns are inferred from the first rows, and how many there are is not known.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::ScalarValue;

use crate::error::DataError;
use crate::hive::{self, HiveValue};
use crate::paths::{InputFile, expand_from};
use crate::prune::Bounds;
use crate::schema::{ColumnSource, FileSchema};
use crate::source::{DEFAULT_BLOCK_BYTES, FileFormat, ReadFiles};
use crate::source_file::SourceFile;
use crate::storage::RemoteEntry;
use crate::text::{self, TextCompression};
use crate::{csv_read, json_read, parquet_read};

/// What a file says of itself.
#[derive(Debug, Clone)]
pub struct FileFooter {
    /// Where the file is, as errors show it.
    pub path: String,
    /// The state in which it was found, if it is not on this machine.
    pub remote: Option<RemoteEntry>,
    /// Its size.
    pub bytes: u64,
    /// Its columns, in the plain types this crate works with.
    pub schema: SchemaRef,
    /// Its row groups, in order; none in text.
    pub row_groups: Vec<RowGroup>,
    /// What the footer says of the values of each column; nothing if it is empty.
    pub statistics: Vec<ColumnStatistics>,
    /// How text is cut; none for Parquet.
    pub text: Option<TextFile>,
    /// What the directories it lies in say.
    pub hive: Vec<HiveValue>,
}

/// What the footer says of a row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroup {
    /// Its rows.
    pub rows: u64,
    /// Bytes of every column before compression.
    pub column_bytes: Vec<u64>,
}

/// What the footer says of the values of a column, by row group. What it does not say is null.
#[derive(Debug, Clone)]
pub struct ColumnStatistics {
    /// No value is less than these.
    pub mins: ArrayRef,
    /// No value is greater than these.
    pub maxes: ArrayRef,
    /// How many nulls there are.
    pub nulls: UInt64Array,
}

/// How large a text file is, and whether it may be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Its bytes, as they lie on disk.
    pub bytes: u64,
    /// About how many bytes its pieces have; none if it is read whole.
    pub piece_bytes: Option<u64>,
    /// Its rows name their fields.
    pub is_named: bool,
}

impl FileFooter {
    /// Opens a file.
    pub fn read(file: &SourceFile, format: &FileFormat) -> Result<FileFooter, DataError> {
        let (schema, can_be_cut) = match format {
            FileFormat::Parquet => return parquet_read::footer(file),
            FileFormat::Csv(options) => (csv_read::infer(file, options)?, !options.newlines_in_values),
            FileFormat::Json(options) => (json_read::infer(file, options)?, true),
        };
        let bytes = file.size()?;
        let is_plain = TextCompression::of(file.path()) == TextCompression::None;
        let piece_bytes = (can_be_cut && is_plain).then_some(DEFAULT_BLOCK_BYTES);
        Ok(FileFooter {
            path: file.path().into(),
            remote: None,
            bytes,
            schema,
            row_groups: Vec::new(),
            statistics: Vec::new(),
            text: Some(TextFile { bytes, piece_bytes, is_named: matches!(format, FileFormat::Json(_)) }),
            hive: Vec::new(),
        })
    }

    /// Its columns, to unify them with those of other files.
    #[must_use]
    pub fn file_schema(&self) -> FileSchema<'_> {
        FileSchema { path: &self.path, schema: &self.schema, hive: &self.hive }
    }

    /// Where a reader of the file finds a column, given its position.
    pub(crate) fn source(&self, place: &ColumnSource) -> ColumnSource {
        match place {
            ColumnSource::File(index) if self.text.as_ref().is_some_and(|text| text.is_named) => {
                let field = self.schema.fields().get(*index as usize);
                field.map_or(ColumnSource::Missing, |field| ColumnSource::Named(field.name().clone()))
            }
            place => place.clone(),
        }
    }
}

impl ColumnStatistics {
    /// What is known of the values at `index`, which are of `rows` rows, as `unified` type.
    #[must_use]
    pub fn bounds(&self, index: usize, rows: u64, unified: &DataType) -> Bounds {
        let value = |array: &ArrayRef| {
            let value = (index < array.len()).then(|| ScalarValue::try_from_array(array, index).ok())?;
            value.filter(|value| !value.is_null())
        };
        let nulls = (index < self.nulls.len() && self.nulls.is_valid(index)).then(|| self.nulls.value(index));
        let found = self.mins.data_type();
        let bounds = Bounds {
            min: value(&self.mins),
            max: value(&self.maxes),
            nulls: nulls != Some(0),
            values: nulls.is_none_or(|nulls| nulls < rows),
            nans: found.is_floating(),
        };
        bounds.with_both_zeros().cast(found, unified)
    }
}

/// Finds the files that `read` names and opens them, several at a time.
pub fn open_files(read: &ReadFiles) -> Result<Vec<FileFooter>, DataError> {
    let files = expand_from(&read.paths, &read.format, &read.storage)?;
    let mut footers = read_footers(&files, read)?;
    for (footer, file) in footers.iter_mut().zip(&files) {
        footer.remote.clone_from(&file.remote);
        if let Some(base) = &file.base {
            footer.hive = hive::values_in(base, Path::new(&file.path));
        }
        if let Some(piece_bytes) = footer.text.as_mut().and_then(|text| text.piece_bytes.as_mut()) {
            *piece_bytes = read.block_bytes;
        }
    }
    if read.format != FileFormat::Parquet {
        settle_types(&mut footers, read);
    }
    Ok(footers)
}

/// Footers are small and often far away: threads wait for several at once.
fn read_footers(files: &[InputFile], read: &ReadFiles) -> Result<Vec<FileFooter>, DataError> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    let work = || {
        while let Some((index, file)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, files.get(i)?)))
        {
            let source = SourceFile::new(&file.path, file.remote.as_ref(), &read.storage);
            let footer = source.and_then(|source| FileFooter::read(&source, &read.format));
            let failed = footer.is_err();
            if let Ok(mut results) = results.lock() {
                results.push((index, footer));
            }
            if failed {
                next.store(files.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..files.len().div_ceil(FILES_PER_THREAD).min(FOOTER_THREADS) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_default();
    // Of several errors the one of the first file is told.
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, footer)| footer).collect()
}

/// A column of text in which no file has a value has no type; its values, which come later if
/// at all, are read as text.
fn settle_types(footers: &mut [FileFooter], read: &ReadFiles) {
    let typed = |name: &str, footers: &[FileFooter]| {
        let wanted = read.matching.key(name).0;
        let mut fields = footers.iter().flat_map(|footer| footer.schema.fields());
        fields.any(|field| *field.data_type() != DataType::Null && read.matching.key(field.name()).0 == wanted)
    };
    for file in 0..footers.len() {
        let untyped: Vec<usize> = footers[file]
            .schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| *field.data_type() == DataType::Null && !typed(field.name(), footers))
            .map(|(index, _)| index)
            .collect();
        if !untyped.is_empty() {
            footers[file].schema = text::with_type(&footers[file].schema, &untyped, &DataType::Utf8);
        }
    }
}

/// Below so many files, a thread more costs more than it brings.
const FILES_PER_THREAD: usize = 4;
/// Threads that read footers at most.
const FOOTER_THREADS: usize = 16;
