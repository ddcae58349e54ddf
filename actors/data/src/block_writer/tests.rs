use super::*;
use crate::files::{FileFooter, open_files};
use crate::piece_reader::PieceReader;
use crate::pieces::pieces;
use crate::schema::unify;
use crate::source::{FileFormat, ReadFiles};
use crate::text::{CsvOptions, JsonOptions};
use crate::write::{Compression, WriteFormat};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use std::sync::Arc;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

fn numbers(values: std::ops::Range<i64>) -> RecordBatch {
    batch(vec![("n", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)])
}

fn write(dir: &Path, batches: &[RecordBatch], options: &WriteOptions) -> Vec<BlockFile> {
    let schema = batches[0].schema();
    let mut writer = BlockWriter::create(dir.to_str().unwrap(), 3, "a", schema, options).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap()
}

fn read(dir: &Path, options: &WriteOptions) -> RecordBatch {
    let format = match options.format {
        WriteFormat::Parquet => FileFormat::Parquet,
        WriteFormat::Csv { delimiter, header } => {
            // A text that is made of digits alone would be taken for a number.
            let types = vec![("s".to_owned(), crate::expr::ValueType::String)];
            FileFormat::Csv(CsvOptions { delimiter, has_header: header, types, ..CsvOptions::default() })
        }
        WriteFormat::Json => FileFormat::Json(JsonOptions::default()),
    };
    let read = ReadFiles { format, ..ReadFiles::parquet([dir.to_str().unwrap()]) };
    let footers = open_files(&read).unwrap();
    let files: Vec<_> = footers.iter().map(FileFooter::file_schema).collect();
    let unified = unify(&files, &read.matching).unwrap();
    let needed: Vec<usize> = (0..unified.schema.fields().len()).collect();
    let mut batches = Vec::new();
    for (piece, _) in pieces(&footers, &unified, &needed, None) {
        let reader = PieceReader::open(&piece, &read.format, &read.storage, &unified.schema, 1000, None).unwrap();
        batches.extend(reader.map(Result::unwrap));
    }
    concat_batches(&unified.schema, &batches).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_end_at_so_many_rows_and_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for options in [WriteOptions::default(), WriteOptions::csv(), WriteOptions::json()] {
        let options = WriteOptions { max_file_rows: Some(10), ..options };
        let files = write(dir.path(), &[numbers(0..25), numbers(25..30), numbers(30..33)], &options);
        let extension = options.extension();
        let expected: Vec<_> = (0..4).map(|i| format!("part-00003-{i:03}{extension}")).collect();
        assert_eq!(files.iter().map(|file| file.path.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [10, 10, 10, 3]);
        let rows = read(dir.path(), &options);
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values()[..], (0..33).collect::<Vec<i64>>());
        // One that is not cut has a plain name.
        let one = write(dir.path(), &[numbers(0..10)], &options);
        assert_eq!(one[0].path, format!("part-00003{extension}"));
        assert_eq!(fs::metadata(dir.path().join(&one[0].path)).unwrap().len(), one[0].bytes);
    }
}

#[test]
fn many_files_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let options = WriteOptions { max_file_rows: Some(1), ..WriteOptions::csv() };
    let files = write(dir.path(), &[numbers(0..1001)], &options);
    assert_eq!((files[0].path.as_str(), files.len()), ("part-00003-0000.csv", 1001));
    let rows = read(dir.path(), &options);
    assert!(rows.column(0).as_primitive::<Int64Type>().values().is_sorted());
}

#[test]
fn files_end_at_about_so_many_bytes() {
    for options in [WriteOptions::default(), WriteOptions::json()] {
        let dir = tempfile::tempdir().unwrap();
        let options = WriteOptions { max_file_bytes: Some(50_000), compression: Compression::None, ..options };
        let files = write(dir.path(), &[numbers(0..20_000), numbers(20_000..40_000)], &options);
        assert!(files.len() > 2, "{files:?}");
        let (_, full) = files.split_last().unwrap();
        assert!(full.iter().all(|file| (20_000..150_000).contains(&file.bytes)), "{full:?}");
        assert_eq!(read(dir.path(), &options).num_rows(), 40_000);
    }
}

#[test]
fn a_block_without_rows_has_a_file_with_its_columns_unless_it_is_partitioned() {
    for options in [WriteOptions::default(), WriteOptions::csv()] {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), &[numbers(0..0)], &options);
        assert_eq!((files.len(), files[0].rows), (1, 0));
        assert_eq!(read(dir.path(), &options).schema().field(0).name(), "n");
    }
    let dir = tempfile::tempdir().unwrap();
    let options = WriteOptions { partition_by: vec!["n".into()], ..WriteOptions::default() };
    let rows = numbers(0..0);
    let rows = batch(vec![("n", rows.column(0).clone()), ("m", rows.column(0).clone())]);
    assert_eq!(write(dir.path(), &[rows], &options), []);
    assert_eq!(names(dir.path()), ["part-00003.done"]);
}

#[test]
fn compressed_files_are_read_back() {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    for (format, compressions) in [
        (WriteOptions::default(), &[None, Snappy, Zstd, Gzip, Lz4][..]),
        (WriteOptions::csv(), &[None, Gzip, Zstd]),
        (WriteOptions::json(), &[None, Gzip, Zstd]),
    ] {
        for compression in compressions {
            let dir = tempfile::tempdir().unwrap();
            let options = WriteOptions { compression: *compression, ..format.clone() };
            write(dir.path(), &[numbers(0..3000)], &options);
            assert_eq!(read(dir.path(), &options), numbers(0..3000), "{options:?}");
        }
    }
}

#[test]
fn one_directory_more_than_may_be_open_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let zones = 3 * MAX_OPEN_FILES as i64;
    let options = WriteOptions { partition_by: vec!["zone".into()], ..WriteOptions::csv() };
    let rows = |from: i64| {
        let zone = Int64Array::from_iter_values((0..1000).map(|i| i % zones));
        batch(vec![
            ("zone", Arc::new(zone) as ArrayRef),
            ("n", Arc::new(Int64Array::from_iter_values(from..from + 1000)) as ArrayRef),
        ])
    };
    let mut writer = BlockWriter::create(dir.path().to_str().unwrap(), 0, "a", rows(0).schema(), &options).unwrap();
    for from in [0, 1000] {
        writer.write(&rows(from)).unwrap();
        // As if there were no more room for rows that wait.
        let BlockWriter { files, partitions } = &mut writer;
        partitions.as_mut().unwrap().flush(files).unwrap();
        assert!(files.open.len() <= MAX_OPEN_FILES);
    }
    let files = writer.finish().unwrap();
    assert_eq!(files[0].path, "zone=0/part-00000-000.csv");
    let read = read(dir.path(), &options);
    assert_eq!(read.num_rows(), 2000);
    // In the order of directories, and of rows within.
    let column = |name: &str| read.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
    let (zone, n) = (column("zone"), column("n"));
    assert!(zone.windows(2).zip(n.windows(2)).all(|(z, n)| z[0] != z[1] || n[0] < n[1]));
}

#[test]
fn too_many_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rows = numbers(0..10_001);
    let rows = batch(vec![("n", rows.column(0).clone()), ("m", rows.column(0).clone())]);
    let options = WriteOptions { partition_by: vec!["n".into()], ..WriteOptions::default() };
    let mut writer = BlockWriter::create(dir.path().to_str().unwrap(), 0, "a", rows.schema(), &options).unwrap();
    assert!(writer.write(&rows).unwrap_err().to_string().contains("10000 different values of n"));
    drop(writer);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_writer_given_up_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = WriteOptions { max_file_rows: Some(2), ..WriteOptions::default() };
    let mut writer =
        BlockWriter::create(dir.path().to_str().unwrap(), 0, "a", numbers(0..1).schema(), &options).unwrap();
    writer.write(&numbers(0..5)).unwrap();
    assert_eq!(names(dir.path()).len(), 3);
    drop(writer);
    assert!(names(dir.path()).is_empty());
    let gone = dir.path().join("gone");
    let error = BlockWriter::create(gone.to_str().unwrap(), 0, "a", numbers(0..1).schema(), &options).err().unwrap();
    assert!(error.to_string().contains("the run has ended"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn rows_dealt_to_directories_are_read_back(
        rows in proptest::collection::vec((
            proptest::option::of(-3i64..3),
            proptest::option::of(prop_oneof![Just("N/A".to_owned()), "[a-z/=%. ]{1,4}", "\\PC{1,5}"]),
            proptest::option::of(any::<bool>()),
            proptest::option::of(0i32..3),
        ), 1..80),
        batches in 1usize..4,
        by in proptest::sample::subsequence(vec!["k", "s", "b", "d"], 1..3),
        format in proptest::sample::select(vec![WriteOptions::default(), WriteOptions::csv(), WriteOptions::json()]),
        max_file_rows in proptest::option::of(1u64..10),
    ) {
        let all = batch(vec![
            ("k", Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0))) as ArrayRef),
            ("s", Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1.clone()))) as ArrayRef),
            ("b", Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.2))) as ArrayRef),
            ("d", Arc::new(Date32Array::from_iter(rows.iter().map(|r| r.3))) as ArrayRef),
            ("row", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64)) as ArrayRef),
            ("half", Arc::new(Float64Array::from_iter_values((0..rows.len()).map(|i| i as f64 / 2.0))) as ArrayRef),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let options = WriteOptions { partition_by: by.iter().map(|s| (*s).to_owned()).collect(), max_file_rows, ..format };
        let size = rows.len().div_ceil(batches);
        let parts: Vec<_> =
            (0..rows.len()).step_by(size).map(|at| all.slice(at, size.min(rows.len() - at))).collect();
        let files = write(dir.path(), &parts, &options);
        prop_assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), rows.len() as u64);
        prop_assert!(files.iter().all(|file| file.rows <= max_file_rows.unwrap_or(u64::MAX)));
        let read = read(dir.path(), &options);
        prop_assert_eq!(read.num_rows(), rows.len());
        // As texts: directories and CSV tell no types.
        let text = |rows: &RecordBatch, name: &str, row: usize| {
            let column = rows.column_by_name(name).unwrap();
            column.is_valid(row).then(|| array_value_to_string(column, row).unwrap())
        };
        let order = read.column_by_name("row").unwrap().as_primitive::<Int64Type>();
        for place in 0..rows.len() {
            let row = order.value(place) as usize;
            for name in ["k", "s", "b", "d", "half"] {
                prop_assert_eq!(text(&read, name, place), text(&all, name, row), "{} of row {}", name, row);
            }
        }
    }
}
