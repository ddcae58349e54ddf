//! Reading what the footers of Parquet files say, and streaming their rows.
//!
//! Entry types: [`footer`], what is known of a file before anything of it is read, and
//! [`ParquetReader`], which streams the batches of some row groups of a file in the unified schema. A
//! reader holds one page per column and one batch, whatever the file's size. Which row groups are
//! read is [decided](crate::pieces) before. Told a condition, it leaves out pages that cannot hold a
//! row for which it is true (`pages`), and what else such rows have where they are rare (`late`).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;

use crate::error::DataError;
use crate::expr::Expr;
use crate::files::{ColumnStatistics, FileFooter, RowGroup};
use crate::pieces::Piece;
use crate::schema::{ColumnSource, Conform, plain_type};
use crate::source_file::{OpenFile, SourceFile};
use crate::words::plain;

mod late;
mod pages;

/// Reads the footer of a file.
pub fn footer(file: &SourceFile) -> Result<FileFooter, DataError> {
    let (_, metadata) = open(file)?;
    let columns = metadata.schema().fields().len();
    let row_groups = metadata.metadata().row_groups();
    Ok(FileFooter {
        path: file.path().into(),
        remote: None,
        bytes: file.size()?,
        schema: Arc::clone(metadata.schema()),
        row_groups: row_groups.iter().map(|group| row_group(group, columns)).collect(),
        statistics: (0..columns).map(|column| statistics(&metadata, column)).collect(),
        text: None,
        hive: Vec::new(),
    })
}

/// Streams the rows of some row groups of a file.
pub struct ParquetReader {
    file: SourceFile,
    batches: ParquetRecordBatchReader,
    conform: Conform,
    bytes: u64,
}

impl ParquetReader {
    /// Opens the `groups` of `file`, which is that of `piece`; the batches will have the columns of
    /// `schema`.
    pub fn open(
        source: SourceFile,
        piece: &Piece,
        groups: Range<u32>,
        schema: &SchemaRef,
        batch_rows: usize,
        filter: Option<&Expr>,
    ) -> Result<ParquetReader, DataError> {
        let (file, metadata) = open(&source)?;
        let range = groups.start as usize..groups.end as usize;
        check_unchanged(piece, range.clone(), &metadata)?;
        // The reader returns columns in the file's order, whatever order they are asked in.
        let mut roots: Vec<usize> = piece.columns.iter().filter_map(in_file).collect();
        roots.sort_unstable();
        let sources = piece.columns.iter().map(|source| match in_file(source).map(|root| roots.binary_search(&root)) {
            Some(Ok(place)) => ColumnSource::File(place as u32),
            _ => source.clone(),
        });
        let conform = Conform::new(Arc::clone(schema), sources.collect());
        let parquet_schema = metadata.parquet_schema();
        let wanted = |leaf: &usize| roots.binary_search(&parquet_schema.get_column_root_idx(*leaf)).is_ok();
        let leaves: Vec<usize> = (0..parquet_schema.num_columns()).filter(wanted).collect();
        let chunk_bytes = |group: &RowGroupMetaData| -> u64 {
            leaves.iter().map(|leaf| group.column(*leaf).compressed_size().max(0).unsigned_abs()).sum()
        };
        let bytes = metadata.metadata().row_groups()[range.clone()].iter().map(chunk_bytes).sum();
        let chunks = chunk_ranges(&metadata.metadata().row_groups()[range.clone()], &leaves);
        let projection = ProjectionMask::leaves(parquet_schema, leaves.iter().copied());

        // A limit counts the rows before the condition.
        let filter = filter.filter(|_| !piece.is_cut());
        let (metadata, selection) = match filter {
            Some(filter) => pages::select(&file, metadata, range.clone(), filter, schema, &piece.columns)
                .map_err(|e| parquet_error(&source, &e))?,
            None => (metadata, None),
        };
        let late = filter.and_then(|filter| {
            late::row_filter(&file, &metadata, range.clone(), selection.as_ref(), filter, schema, &piece.columns)
        });
        // Where few pages are read, or only the first, what is fetched ahead is fetched in vain.
        if selection.is_none() && late.is_none() && !piece.is_cut() {
            source.will_read(&chunks);
        }
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_row_groups(range.collect())
            .with_projection(projection)
            .with_batch_size(batch_rows);
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        if let Some(late) = late {
            builder = builder.with_row_filter(late);
        }
        if let Some(rows) = piece.rows.filter(|_| piece.is_cut()) {
            builder = builder.with_limit(usize::try_from(rows).unwrap_or(usize::MAX));
        }
        let batches = builder.build().map_err(|e| parquet_error(&source, &e))?;
        Ok(ParquetReader { file: source, batches, conform, bytes })
    }

    /// Bytes of the file that the piece covers, as they lie on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Iterator for ParquetReader {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(match batch {
            Ok(batch) => self.conform.apply(&batch).map_err(|cause| DataError::Compute {
                operator: "read_parquet".into(),
                path: self.file.path().into(),
                cause,
            }),
            Err(e) => Err(read_error(&self.file, &e)),
        })
    }
}

/// Whether the file is the one that the plan was made from, as far as the piece goes.
fn check_unchanged(piece: &Piece, range: Range<usize>, metadata: &ArrowReaderMetadata) -> Result<(), DataError> {
    let changed = |cause: String| DataError::FileChanged { path: piece.path.clone(), cause };
    let groups = metadata.metadata().row_groups();
    let found = groups
        .get(range.clone())
        .ok_or_else(|| changed(format!("it had {} row groups or more and has {}", range.end, groups.len())))?;
    let rows: u64 = found.iter().map(rows_of).sum();
    if let Some(planned) = piece.group_rows.filter(|planned| *planned != rows) {
        return Err(changed(format!("row groups {range:?} had {planned} rows and have {rows}")));
    }
    let columns = metadata.schema().fields().len();
    match piece.columns.iter().filter_map(in_file).all(|root| root < columns) {
        true => Ok(()),
        false => Err(changed("it has fewer columns".into())),
    }
}

/// Where the column chunks lie in the file.
fn chunk_ranges(groups: &[RowGroupMetaData], leaves: &[usize]) -> Vec<Range<u64>> {
    let range = |(start, length): (u64, u64)| start..start.saturating_add(length);
    groups.iter().flat_map(|group| leaves.iter().map(|leaf| range(group.column(*leaf).byte_range()))).collect()
}

fn in_file(source: &ColumnSource) -> Option<usize> {
    match source {
        ColumnSource::File(index) => Some(*index as usize),
        _ => None,
    }
}

fn rows_of(group: &RowGroupMetaData) -> u64 {
    group.num_rows().max(0).unsigned_abs()
}

fn row_group(group: &RowGroupMetaData, columns: usize) -> RowGroup {
    let mut column_bytes = vec![0; columns];
    for (leaf, chunk) in group.columns().iter().enumerate() {
        let root = group.schema_descr().get_column_root_idx(leaf);
        if let Some(bytes) = column_bytes.get_mut(root) {
            *bytes += chunk.uncompressed_size().max(0).unsigned_abs();
        }
    }
    RowGroup { rows: rows_of(group), column_bytes }
}

/// What the footer says of the values of a column. Nothing where it may mean something else than
/// our comparisons do.
fn statistics(metadata: &ArrowReaderMetadata, column: usize) -> ColumnStatistics {
    let groups = metadata.metadata().row_groups();
    let field = metadata.schema().field(column);
    let converted = converter(metadata, column).and_then(|(leaf, converter)| {
        let dated = |group: &RowGroupMetaData| {
            group
                .column(leaf)
                .statistics()
                .is_some_and(|s| s.is_min_max_deprecated() && !s.is_min_max_backwards_compatible())
        };
        if groups.iter().any(dated) {
            return None;
        }
        Some(ColumnStatistics {
            mins: converter.row_group_mins(groups).ok()?,
            maxes: converter.row_group_maxes(groups).ok()?,
            nulls: converter.row_group_null_counts(groups).ok()?,
        })
    });
    converted.unwrap_or_else(|| ColumnStatistics {
        mins: new_null_array(field.data_type(), groups.len()),
        maxes: new_null_array(field.data_type(), groups.len()),
        nulls: UInt64Array::new_null(groups.len()),
    })
}

/// How the statistics of a column are read, and which leaf of the file it is; none if it is nested,
/// or of the old kind of timestamps, whose statistics are in no order.
fn converter(metadata: &ArrowReaderMetadata, column: usize) -> Option<(usize, StatisticsConverter<'_>)> {
    let schema = metadata.parquet_schema();
    let leaf = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == column)?;
    if !schema.root_schema().get_fields().get(column)?.is_primitive()
        || schema.column(leaf).physical_type() == Type::INT96
    {
        return None;
    }
    let converter = StatisticsConverter::from_column_index(leaf, metadata.schema().field(column), schema).ok()?;
    Some((leaf, converter.with_missing_null_counts_as_zero(false)))
}

/// Opens a file and reads its footer, asking for plain types: a large string, a view or a
/// dictionary in the embedded schema costs a cast per batch otherwise.
fn open(source: &SourceFile) -> Result<(OpenFile, ArrowReaderMetadata), DataError> {
    let file = source.open()?;
    let bad = |e: ParquetError| parquet_error(source, &e);
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(bad)?;
    let mut changed = false;
    let plain = |field: &Arc<Field>| {
        let data_type = plain_type(field.data_type());
        if data_type == *field.data_type() || !matches!(data_type, DataType::Utf8 | DataType::Binary) {
            return Arc::clone(field);
        }
        changed = true;
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    let fields: Vec<_> = metadata.schema().fields().iter().map(plain).collect();
    if !changed {
        return Ok((file, metadata));
    }
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).map_err(bad)?;
    Ok((file, metadata))
}

/// An error of decoding a batch. The reader passes on only the text of what it met; an error of
/// the system is told from damage by its number.
fn read_error(file: &SourceFile, error: &ArrowError) -> DataError {
    let cause = match error {
        ArrowError::ParquetError(cause) => plain(cause),
        other => plain(other),
    };
    file.error(|path| match cause.contains("(os error ") {
        true => DataError::Read { path, cause },
        false => bad_file(path, cause),
    })
}

fn parquet_error(file: &SourceFile, error: &ParquetError) -> DataError {
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<std::io::Error>()
        && error.kind() != std::io::ErrorKind::UnexpectedEof
    {
        return DataError::read(Path::new(file.path()), error);
    }
    file.error(|path| bad_file(path, plain(error)))
}

fn bad_file(path: String, cause: String) -> DataError {
    DataError::BadFile { path, format: "Parquet".into(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_disk_is_not_taken_for_a_damaged_file() {
        let of = |error: ParquetError| read_error(&SourceFile::Local("x".into()), &ArrowError::from(error));
        let disk = std::io::Error::from_raw_os_error(5);
        assert!(matches!(of(ParquetError::External(Box::new(disk))), DataError::Read { .. }));
        let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert!(matches!(of(ParquetError::External(Box::new(short))), DataError::BadFile { .. }));
        assert!(matches!(of(ParquetError::General("bad page".into())), DataError::BadFile { .. }));
    }
}
