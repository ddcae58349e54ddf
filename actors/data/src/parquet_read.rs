//! Reading what the footers of Parquet files say, and streaming their rows.
//!
//! Entry types: [`FileFooter`], what the planner needs to know of a file, and [`PieceReader`],
//! which streams the batches of some row groups of a file in the unified schema. A reader holds one
//! page per column and one batch, whatever the file's size. It does not decide which rows are
//! read: the planner does.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;

use crate::error::DataError;
use crate::planner::Piece;
use crate::schema::{Conform, plain_type};

/// What the footer of a file says.
#[derive(Debug, Clone)]
pub struct FileFooter {
    /// Where the file is.
    pub path: String,
    /// Its columns, in the plain types this crate works with.
    pub schema: SchemaRef,
    /// Its row groups, in order.
    pub row_groups: Vec<RowGroup>,
}

/// What the footer says of a row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroup {
    /// Its rows.
    pub rows: u64,
    /// Bytes of every column before compression.
    pub column_bytes: Vec<u64>,
}

impl FileFooter {
    /// Reads the footer of the file at `path`.
    pub fn read(path: &str) -> Result<FileFooter, DataError> {
        let (_, metadata) = open(path)?;
        let columns = metadata.schema().fields().len();
        let row_groups = metadata.metadata().row_groups();
        Ok(FileFooter {
            path: path.into(),
            schema: Arc::clone(metadata.schema()),
            row_groups: row_groups.iter().map(|group| RowGroup::new(group, columns)).collect(),
        })
    }
}

/// Streams the rows of one piece of a file.
pub struct PieceReader {
    path: String,
    batches: ParquetRecordBatchReader,
    conform: Conform,
    bytes: u64,
}

impl PieceReader {
    /// Opens `piece`; its batches will have the columns of `schema`.
    pub fn open(piece: &Piece, schema: &SchemaRef, batch_rows: usize) -> Result<PieceReader, DataError> {
        let (file, metadata) = open(&piece.path)?;
        let groups = metadata.metadata().row_groups();
        let changed = |cause: String| DataError::FileChanged { path: piece.path.clone(), cause };
        let range = piece.row_groups.start as usize..piece.row_groups.end as usize;
        let group_metadata = groups
            .get(range.clone())
            .ok_or_else(|| changed(format!("it had {} row groups or more and has {}", range.end, groups.len())))?;
        let rows: u64 = group_metadata.iter().map(|group| group.num_rows().max(0).unsigned_abs()).sum();
        if rows != piece.group_rows {
            return Err(changed(format!("row groups {range:?} had {} rows and have {rows}", piece.group_rows)));
        }

        // The reader returns columns in the file's order, whatever order they are asked in.
        let mut roots: Vec<usize> = piece.columns.iter().flatten().map(|index| *index as usize).collect();
        roots.sort_unstable();
        if roots.last().is_some_and(|last| *last >= metadata.schema().fields().len()) {
            return Err(changed("it has fewer columns".into()));
        }
        let place = |index: &u32| roots.binary_search(&(*index as usize)).ok();
        let sources = piece.columns.iter().map(|index| index.as_ref().and_then(place)).collect();
        let parquet_schema = metadata.parquet_schema();
        let wanted = |leaf: &usize| roots.binary_search(&parquet_schema.get_column_root_idx(*leaf)).is_ok();
        let leaves: Vec<usize> = (0..parquet_schema.num_columns()).filter(wanted).collect();
        let chunk_bytes = |group: &RowGroupMetaData| -> u64 {
            leaves.iter().map(|leaf| group.column(*leaf).compressed_size().max(0).unsigned_abs()).sum()
        };
        let bytes = group_metadata.iter().map(chunk_bytes).sum();

        let projection = ProjectionMask::leaves(parquet_schema, leaves.iter().copied());
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_row_groups(range.collect())
            .with_projection(projection)
            .with_batch_size(batch_rows);
        if piece.rows < piece.group_rows {
            builder = builder.with_limit(usize::try_from(piece.rows).unwrap_or(usize::MAX));
        }
        let batches = builder.build().map_err(|e| parquet_error(&piece.path, &e))?;
        let conform = Conform::new(Arc::clone(schema), sources);
        Ok(PieceReader { path: piece.path.clone(), batches, conform, bytes })
    }

    /// Bytes of the file that the piece covers, as they lie on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Iterator for PieceReader {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(match batch {
            Ok(batch) => self.conform.apply(&batch).map_err(|cause| DataError::Compute {
                operator: "read_parquet".into(),
                path: self.path.clone(),
                cause,
            }),
            Err(e) => Err(read_error(&self.path, &e)),
        })
    }
}

impl RowGroup {
    fn new(group: &RowGroupMetaData, columns: usize) -> Self {
        let mut column_bytes = vec![0; columns];
        for (leaf, chunk) in group.columns().iter().enumerate() {
            let root = group.schema_descr().get_column_root_idx(leaf);
            if let Some(bytes) = column_bytes.get_mut(root) {
                *bytes += chunk.uncompressed_size().max(0).unsigned_abs();
            }
        }
        Self { rows: group.num_rows().max(0).unsigned_abs(), column_bytes }
    }
}

/// Opens a file and reads its footer, asking for plain types: a large string, a view or a
/// dictionary in the embedded schema costs a cast per batch otherwise.
fn open(path: &str) -> Result<(File, ArrowReaderMetadata), DataError> {
    let file = File::open(path).map_err(|e| DataError::read(Path::new(path), &e))?;
    let bad = |e: ParquetError| parquet_error(path, &e);
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
fn read_error(path: &str, error: &ArrowError) -> DataError {
    let cause = match error {
        ArrowError::ParquetError(cause) => cause.clone(),
        other => other.to_string(),
    };
    if cause.contains("(os error ") {
        return DataError::Read { path: path.into(), cause };
    }
    DataError::BadFile { path: path.into(), cause }
}

fn parquet_error(path: &str, error: &ParquetError) -> DataError {
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<std::io::Error>()
        && error.kind() != std::io::ErrorKind::UnexpectedEof
    {
        return DataError::read(Path::new(path), error);
    }
    DataError::BadFile { path: path.into(), cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_disk_is_not_taken_for_a_damaged_file() {
        let of = |error: ParquetError| read_error("x", &ArrowError::from(error));
        let disk = std::io::Error::from_raw_os_error(5);
        assert!(matches!(of(ParquetError::External(Box::new(disk))), DataError::Read { .. }));
        let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert!(matches!(of(ParquetError::External(Box::new(short))), DataError::BadFile { .. }));
        assert!(matches!(of(ParquetError::General("bad page".into())), DataError::BadFile { .. }));
    }
}
