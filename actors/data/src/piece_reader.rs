//! Streaming the rows of a piece of a file, whatever its format.
//!
//! Entry type: [`PieceReader`].

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::csv_read::CsvReader;
use crate::error::DataError;
use crate::expr::Expr;
use crate::json_read::JsonReader;
use crate::parquet_read::ParquetReader;
use crate::pieces::{Part, Piece};
use crate::source::FileFormat;
use crate::source_file::SourceFile;
use crate::storage::StorageOptions;

/// Streams the rows of one piece of a file.
pub struct PieceReader {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, DataError>> + Send>,
    bytes: u64,
}

impl PieceReader {
    /// Opens `piece`; its batches will have the columns of `schema`, `batch_rows` rows at most.
    /// Rows for which `filter`, a condition over these columns, is not true may be left out: what
    /// the reader cannot tell cheaply it leaves to the caller.
    pub fn open(
        piece: &Piece,
        format: &FileFormat,
        storage: &StorageOptions,
        schema: &SchemaRef,
        batch_rows: usize,
        filter: Option<&Expr>,
    ) -> Result<PieceReader, DataError> {
        let file = SourceFile::new(&piece.path, piece.remote.as_ref(), storage)?;
        // Of a file on a machine no more is known than its size: copies of it on other nodes have
        // times of their own.
        let bytes = file.size()?;
        if bytes != piece.file_bytes {
            let cause = format!("it had {} bytes and has {bytes}", piece.file_bytes);
            return Err(DataError::FileChanged { path: piece.path.clone(), cause });
        }
        match (&piece.part, format) {
            (Part::RowGroups(groups), FileFormat::Parquet) => {
                let reader = ParquetReader::open(file, piece, groups.clone(), schema, batch_rows, filter)?;
                Ok(PieceReader { bytes: reader.bytes(), batches: Box::new(reader) })
            }
            (Part::Bytes(range), FileFormat::Csv(options)) => {
                let reader = CsvReader::open(file, piece, range.clone(), options, schema, batch_rows)?;
                Ok(PieceReader { bytes: range.end - range.start, batches: Box::new(reader) })
            }
            (Part::Bytes(range), FileFormat::Json(_)) => {
                let reader = JsonReader::open(file, piece, range.clone(), schema, batch_rows)?;
                Ok(PieceReader { bytes: range.end - range.start, batches: Box::new(reader) })
            }
            (part, format) => Err(DataError::InvalidPlan {
                operator: format.operator().into(),
                cause: format!("{part:?} of {} is not read by it", piece.path),
            }),
        }
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
        self.batches.next()
    }
}

#[cfg(test)]
mod tests;
