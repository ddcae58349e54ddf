//! Parquet files written to a store and read from there.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use hyper::Method;
use mobula_data::DataError;
use mobula_data::storage::{Remote, RemoteFile, RemoteWriter, StorageOptions, complete, error_within};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::server::{Server, What};

const PATH: &str = "s3://bucket/taxi.parquet";
const ROWS: i64 = 300_000;

/// Columns that do not compress to nothing, so that a file has many pages and blocks.
fn batch(first: i64, rows: i64) -> RecordBatch {
    let mixed = |n: i64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((first..first + rows).map(mixed)));
    let words: ArrayRef =
        Arc::new(StringArray::from_iter_values((first..first + rows).map(|n| format!("{:x}", mixed(n ^ 7)))));
    let few: ArrayRef = Arc::new(Int64Array::from_iter_values((first..first + rows).map(|n| n % 5)));
    RecordBatch::try_from_iter([("numbers", numbers), ("words", words), ("few", few)]).unwrap()
}

fn write(options: &StorageOptions) {
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_max_row_group_row_count(Some(100_000))
        .build();
    let writer = RemoteWriter::create(PATH, options).unwrap();
    let mut writer = ArrowWriter::try_new(writer, batch(0, 1).schema(), Some(properties)).unwrap();
    for first in (0..ROWS).step_by(50_000) {
        writer.write(&batch(first, 50_000)).unwrap();
    }
    complete(&[writer.into_inner().unwrap().finish().unwrap()], options).unwrap();
}

/// The whole file, or the error of reading it.
fn read(file: &RemoteFile, prefetch: Option<u64>) -> Result<RecordBatch, ArrowError> {
    let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new())?;
    if let Some(max_bytes) = prefetch {
        let groups = metadata.metadata().row_groups();
        let ranges = groups.iter().flat_map(|group| group.columns()).map(|column| {
            let (start, length) = column.byte_range();
            start..start + length
        });
        file.prefetch(&ranges.collect::<Vec<_>>(), max_bytes);
    }
    let schema = Arc::clone(metadata.schema());
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata).build()?;
    arrow::compute::concat_batches(&schema, &reader.collect::<Result<Vec<_>, _>>()?)
}

#[test]
fn what_is_written_is_read_again() {
    let server = Server::s3();
    let options = server.options();
    write(&options);
    let written = batch(0, ROWS);
    for prefetch in [None, Some(1), Some(2 << 20), Some(64 << 20)] {
        let file = Remote::open(PATH, &options).unwrap();
        let before = server.seen(Method::GET, "taxi").len();
        assert!(read(&file, prefetch).unwrap() == written, "{prefetch:?}");
        let requests = server.seen(Method::GET, "taxi").len() - before;
        assert!(requests < 60, "{requests} requests with {prefetch:?}");
    }
}

#[test]
fn announced_columns_are_fetched_in_few_requests_and_once() {
    let server = Server::s3();
    let options = server.options();
    write(&options);
    let file = Remote::open(PATH, &options).unwrap();
    read(&file, Some(64 << 20)).unwrap();
    let fetched: u64 = server.seen(Method::GET, "taxi").iter().map(|seen| length(seen.range.as_deref().unwrap())).sum();
    // The footer's part may be fetched twice.
    assert!(fetched <= file.size() + (300 << 10), "{fetched} of {}", file.size());
}

fn length(range: &str) -> u64 {
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    last.parse::<u64>().unwrap() - first.parse::<u64>().unwrap() + 1
}

#[test]
fn an_error_of_a_store_is_not_taken_for_a_damaged_file() {
    let server = Server::s3();
    let options = server.options();
    write(&options);
    let file = Remote::open(PATH, &options).unwrap();
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
    server.fault(Method::GET, "taxi", usize::MAX, What::Answers(500, &[], ""));
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata).build();
    let failed = reader.and_then(|reader| Ok(reader.collect::<Result<Vec<_>, _>>()?));
    assert!(failed.is_err());
    assert!(matches!(file.take_error(), Some(DataError::Remote { attempts: 3, .. })));
    assert_eq!(file.take_error(), None);

    let file = Remote::open(PATH, &options).unwrap();
    let error = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap_err();
    let found = error_within(&error).or_else(|| file.take_error());
    assert!(matches!(found, Some(DataError::Remote { .. })), "{error}");
}
