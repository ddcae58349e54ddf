//! How Parquet files are written.
//!
//! Entry types: [`write_error`], what an error of a Parquet writer means, and the properties
//! that the files of a run are written with.

use std::io;
use std::path::Path;

use parquet::basic::{GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::error::DataError;
use crate::storage::error_within;
use crate::words::plain;
use crate::write::{Compression, WriteOptions};

/// Dictionaries stay on for every column: for trips they are smaller than plain values and,
/// since pages shrink before they are compressed, faster too. Statistics are kept per column
/// chunk, which is what readers prune by.
pub(crate) fn properties(options: &WriteOptions) -> WriterProperties {
    let compression = match options.compression {
        Compression::None => parquet::basic::Compression::UNCOMPRESSED,
        Compression::Snappy => parquet::basic::Compression::SNAPPY,
        Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
        Compression::Gzip => parquet::basic::Compression::GZIP(GzipLevel::default()),
        Compression::Lz4 => parquet::basic::Compression::LZ4_RAW,
    };
    let row_group_rows = usize::try_from(options.row_group_rows).unwrap_or(usize::MAX).max(1);
    WriterProperties::builder()
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(row_group_rows))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_created_by(concat!("mobula version ", env!("CARGO_PKG_VERSION")).into())
        .build()
}

/// An error of a Parquet writer at `path`, of the kind the system's error says.
#[must_use]
pub fn write_error(path: &Path, error: &ParquetError) -> DataError {
    if let Some(error) = error_within(error) {
        return error;
    }
    if let ParquetError::External(cause) = error
        && let Some(error) = cause.downcast_ref::<io::Error>()
    {
        return DataError::write(path, error);
    }
    DataError::Write { path: path.display().to_string(), cause: plain(error) }
}

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
