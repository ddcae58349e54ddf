use super::*;
use crate::expr::{ValueType, col, lit};
use crate::files::{FileFooter, open_files};
use crate::pieces::{group, pieces};
use crate::schema::{Matching, unify};
use crate::source::ReadFiles;
use crate::text::{CsvOptions, JsonOptions};
use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use proptest::prelude::*;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        Self(root)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn read_files(paths: &[String], format: FileFormat, block_bytes: u64) -> ReadFiles {
    ReadFiles { format, block_bytes, ..ReadFiles::parquet(paths.iter().cloned()) }
}

fn csv(options: CsvOptions) -> FileFormat {
    FileFormat::Csv(options)
}

/// All rows that a plan over these files reads, and into how many blocks they were cut.
fn read(read: &ReadFiles, filter: Option<&Expr>) -> Result<(RecordBatch, usize), DataError> {
    let footers = open_files(read)?;
    let unified = unify(&footers.iter().map(FileFooter::file_schema).collect::<Vec<_>>(), &read.matching)?;
    let needed: Vec<usize> = (0..unified.schema.fields().len()).collect();
    let blocks = group(pieces(&footers, &unified, &needed, filter), read.block_bytes);
    let mut batches = Vec::new();
    for piece in blocks.iter().flat_map(|(pieces, _)| pieces) {
        for batch in PieceReader::open(piece, &read.format, &read.storage, &unified.schema, read.batch_rows, filter)? {
            let batch = batch?;
            assert!(batch.num_rows() <= read.batch_rows);
            batches.push(batch);
        }
    }
    Ok((concat_batches(&unified.schema, &batches).unwrap(), blocks.len()))
}

fn rows(bytes: &[u8], name: &str, format: FileFormat) -> Result<RecordBatch, DataError> {
    let dir = Dir::new(&[(name, bytes)]);
    read(&read_files(&[dir.path(name)], format, 1 << 20), None).map(|(rows, _)| rows)
}

fn shown(batch: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string()
}

fn error_of(bytes: &[u8], name: &str, format: FileFormat) -> String {
    let text = rows(bytes, name, format).unwrap_err().to_string();
    text.rsplit_once(name).map_or(text.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn an_empty_field_is_null_and_every_text_is_a_value_unless_named() {
    let zones = b"\"id\",\"borough\",\"zone\"\n1,\"N/A\",\"Outside of NYC\"\n2,\"\",\"N/A\"\n3,,x\n";
    let batch = rows(zones, "a.csv", csv(CsvOptions::default())).unwrap();
    let texts: Vec<_> = batch.column(1).as_string::<i32>().iter().collect();
    assert_eq!((texts, batch.column(2).null_count()), (vec![Some("N/A"), None, None], 0));
    let options = CsvOptions { null_values: vec!["N/A".into(), "1".into()], ..CsvOptions::default() };
    let batch = rows(zones, "a.csv", csv(options)).unwrap();
    assert_eq!(batch.columns().iter().map(|column| column.null_count()).collect::<Vec<_>>(), [1, 3, 1]);
}

#[test]
fn types_are_inferred_unless_they_are_given() {
    let file = b"\xef\xbb\xbfi,f,b,s,d,t,n,z\n1,2,TRUE,a,2023-01-31,2023-01-31 10:00:00,,007\n,2.5,false,,2024-02-29,2023-01-31T10:00:00.5,,8\n";
    let batch = rows(file, "a.csv", csv(CsvOptions::default())).unwrap();
    let types: Vec<_> = batch.schema().fields().iter().map(|f| f.data_type().clone()).collect();
    let timestamp = DataType::Timestamp(TimeUnit::Millisecond, None);
    use DataType::{Boolean, Date32, Float64, Int64, Utf8};
    assert_eq!(types, [Int64, Float64, Boolean, Utf8, Date32, timestamp, Utf8, Int64]);
    assert_eq!(batch.schema().field(0).name(), "i");
    let types = vec![("z".into(), ValueType::String), ("i".into(), ValueType::Float32)];
    let batch = rows(file, "a.csv", csv(CsvOptions { types, dates: false, ..CsvOptions::default() })).unwrap();
    assert_eq!(batch.column(7).as_string::<i32>().value(0), "007");
    assert_eq!((batch.column(0).data_type(), batch.column(4).data_type()), (&DataType::Float32, &Utf8));
}

#[test]
fn dialects_are_read() {
    let options = CsvOptions {
        delimiter: b';',
        has_header: false,
        quote: b'\'',
        escape: Some(b'\\'),
        comment: Some(b'#'),
        ..CsvOptions::default()
    };
    let batch = rows(b"# of cows\n1;'a;b'\n#\n2;'c\\'d\r\ne'\r\n", "a.csv", csv(options)).unwrap();
    assert_eq!(batch.schema().field(1).name(), "column_2");
    let texts: Vec<_> = batch.column(1).as_string::<i32>().iter().flatten().collect();
    assert_eq!(texts, ["a;b", "c'd\r\ne"]);
}

#[test]
fn what_is_wrong_in_a_csv_file_is_named_by_line_and_column() {
    let few = || csv(CsvOptions { infer_rows: 1, ..CsvOptions::default() });
    let text = error_of(b"a,b\n1,x\n\n2,\"two\nlines\"\nthree,y\n", "a.csv", few());
    assert!(text.starts_with(", line 6, column a: \"three\" is no Int64"), "{text}");
    assert!(text.contains("the first 1 rows"), "{text}");
    let text = error_of(b"a,b\n1,x\n2\n", "a.csv", few());
    assert_eq!(text, ", line 3: it has 1 fields where the first line has 2");
    let text = error_of(b"a,b\n1,x\n2,y,z\n", "a.csv", csv(CsvOptions::default()));
    assert_eq!(text, ", line 3: it has 3 fields where the first line has 2");
    let text = error_of(b"a,b\n1,x\n2,\xff\n", "a.csv", few());
    assert_eq!(text, ", line 3, column b: it is not UTF-8");
    // Lines count from the start of the file in every piece, and with every compression.
    let mut long = b"a\n".to_vec();
    (0..5000).for_each(|i| writeln!(long, "{i}").unwrap());
    long.extend_from_slice(b"x\n1\n");
    let dir = Dir::new(&[("a.csv", &long)]);
    let cut = CsvOptions { infer_rows: 10, newlines_in_values: false, ..CsvOptions::default() };
    let text = read(&read_files(&[dir.path("a.csv")], csv(cut), 1000), None).unwrap_err().to_string();
    assert!(text.contains("line 5002, column a"), "{text}");
}

#[test]
fn what_is_wrong_in_a_json_file_is_named_by_line_and_column() {
    let few = || FileFormat::Json(JsonOptions { infer_rows: 1, ..JsonOptions::default() });
    let text = error_of(b"{\"a\": 1, \"b\": \"x\"}\n\n{\"a\": \"y\"}\n", "a.json", few());
    assert!(text.starts_with(", line 3, column a: ") && text.contains("\"y\""), "{text}");
    let text = error_of(b"{\"a\": 1}\n{\"a\": 2\n", "a.json", few());
    assert!(text.starts_with(", line 2: "), "{text}");
    let text = error_of(b"{\"a\": 1}\n{\"a\"\n", "a.json", FileFormat::Json(JsonOptions::default()));
    assert!(text.starts_with(", line 2: "), "{text}");
    let text = error_of(b" [{\"a\": 1}]\n", "a.json", few());
    assert!(text.contains("one object on each line"), "{text}");
    let mut long = Vec::new();
    (0..5000).for_each(|i| writeln!(long, "{{\"a\": {i}}}").unwrap());
    long.extend_from_slice(b"{\"a\": false}\n");
    let dir = Dir::new(&[("a.json", &long)]);
    let text = read(&read_files(&[dir.path("a.json")], few(), 1000), None).unwrap_err().to_string();
    assert!(text.contains("line 5001, column a"), "{text}");
}

#[test]
fn json_fields_are_found_by_name_and_texts_widen() {
    let lines = b"{\"b\": {\"x\": [1, 2]}, \"a\": 1}\n{\"a\": \"two\", \"c\": null}\n{\"b\": null, \"a\": true}\n";
    let batch = rows(lines, "a.jsonl", FileFormat::Json(JsonOptions::default())).unwrap();
    let column = |name: &str| Arc::clone(batch.column_by_name(name).unwrap());
    assert_eq!(column("a").as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["1", "two", "true"]);
    assert_eq!(column("b").null_count(), 2);
    assert_eq!((column("c").null_count(), column("c").data_type()), (3, &DataType::Utf8));
}

#[test]
fn files_that_differ_become_one_and_errors_name_file_and_column() {
    let dir = Dir::new(&[
        ("in/a.csv", b"id,fare,note\n1,2,\n"),
        ("in/b.csv", b"fare,Id,extra\n2.5,2,x\n"),
        ("in/c.csv", b"id,note\n3,5\n"),
    ]);
    let mut files = read_files(&[dir.path("in")], csv(CsvOptions::default()), 1 << 20);
    files.matching = Matching { ignore_case: true, ..Matching::default() };
    let (batch, _) = read(&files, None).unwrap();
    let expected = "+----+------+------+-------+\n| id | fare | note | extra |\n+----+------+------+-------+\n\
                    | 1  | 2.0  |      |       |\n| 2  | 2.5  |      | x     |\n| 3  |      | 5    |       |\n\
                    +----+------+------+-------+";
    assert_eq!(shown(&batch), expected);
    fs::write(dir.path("in/d.csv"), "id\nseven\n").unwrap();
    let text = read(&files, None).unwrap_err().to_string();
    assert!(text.contains("column id") && text.contains("Int64 in ") && text.contains("d.csv"), "{text}");
}

#[test]
fn compressed_text_is_read_whole() {
    let lines: String = (0..3000).map(|i| format!("{{\"n\": {i}}}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    for (name, bytes) in [("a.json.gz", &gzip), ("a.json.zst", &zstd)] {
        let batch = rows(bytes, name, FileFormat::Json(JsonOptions::default())).unwrap();
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values()[..], (0..3000).collect::<Vec<i64>>());
        let error = rows(&bytes[..bytes.len() / 2], name, FileFormat::Json(JsonOptions::default())).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn directories_tell_columns_whatever_the_format() {
    let dir = Dir::new(&[
        ("in/zone=1/day=a%2Fb/x.csv", b"n,zone\n1,9\n2,9\n"),
        ("in/zone=2/day=__HIVE_DEFAULT_PARTITION__/x.csv", b"n\n3\n"),
        ("in/_SUCCESS", b""),
    ]);
    let files = |path: &str| read_files(&[dir.path(path)], csv(CsvOptions::default()), 1 << 20);
    let (batch, _) = read(&files("in"), None).unwrap();
    let expected = "+---+------+-----+\n| n | zone | day |\n+---+------+-----+\n| 1 | 1    | a/b |\n| 2 | 1    | a/b |\n\
                    | 3 | 2    |     |\n+---+------+-----+";
    assert_eq!(shown(&batch), expected);
    assert_eq!(shown(&read(&files("in/*/*/*.csv"), None).unwrap().0), expected);
    let (batch, _) = read(&files("in"), Some(&col("zone").eq(lit(2)))).unwrap();
    assert_eq!(batch.num_rows(), 1);
    let (batch, _) = read(&files("in/zone=2"), None).unwrap();
    assert_eq!(batch.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["n", "day"]);
}

/// A file whose column `n` goes from 0 up, `m` down, in pages of 100 rows.
fn pages(path: &Path, rows: i64) -> RecordBatch {
    let array = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as arrow::array::ArrayRef;
    let batch =
        RecordBatch::try_from_iter([("n", array((0..rows).collect())), ("m", array((0..rows).rev().collect()))])
            .unwrap();
    let properties = WriterProperties::builder()
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(100)
        .set_write_batch_size(100)
        .set_max_row_group_row_count(Some(1000))
        .build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    batch
}

#[test]
fn row_groups_and_pages_that_cannot_match_are_not_read() {
    let dir = Dir::new(&[]);
    let path = dir.path("a.parquet");
    pages(Path::new(&path), 5000);
    let files = read_files(&[path], FileFormat::Parquet, u64::MAX);
    let count = |filter: Expr| read(&files, Some(&filter)).unwrap().0.num_rows();
    assert_eq!(count(col("n").gt_eq(lit(2450)).and(col("n").lt(lit(2460)))), 100);
    assert_eq!(count(col("n").lt(lit(150))), 200);
    assert_eq!(count(col("n").lt(lit(150)).and(col("m").lt(lit(150)))), 0);
    assert_eq!(count(col("n").lt(lit(150)).or(col("m").lt(lit(150)))), 2000);
    assert_eq!(count(col("n").gt_eq(lit(0))), 5000);
}

#[test]
fn where_few_rows_match_only_they_are_decoded() {
    let dir = Dir::new(&[]);
    let path = dir.path("a.parquet");
    let array = |value: fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((0..70_000).map(value)));
    let batch = RecordBatch::try_from_iter([
        ("n", array(|i| i) as arrow::array::ArrayRef),
        ("rare", array(|i| i64::from(i % 10_000 == 9))),
        ("often", array(|i| i % 10)),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let files = read_files(&[path], FileFormat::Parquet, u64::MAX);
    let rows = |filter: Expr| read(&files, Some(&filter)).unwrap().0;
    let rare = rows(col("rare").eq(lit(1)));
    assert_eq!(
        rare.column(0).as_primitive::<Int64Type>().values()[..],
        [9, 10_009, 20_009, 30_009, 40_009, 50_009, 60_009]
    );
    assert_eq!(rows(col("often").eq(lit(1))).num_rows(), 70_000);
    // A division by zero is for the caller to meet.
    assert_eq!(rows((lit(1) / col("often")).gt(lit(5))).num_rows(), 70_000);
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,6}", "[0-9]{1,5}", "[ a-z,'\\u{e9}]{0,8}", Just("\"".to_owned()), Just("a,\"b\"".to_owned()),]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_csv_file_that_is_cut_is_read_as_a_whole_one(
        records in proptest::collection::vec(proptest::collection::vec(field(), 3), 0..60),
        block_bytes in 1u64..200,
        batch_rows in 1usize..20,
        line_end in proptest::sample::select(vec!["\n", "\r\n"]),
        ends in any::<bool>(),
    ) {
        let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
        let line = |fields: &Vec<String>| fields.iter().map(quoted).collect::<Vec<_>>().join(",");
        let mut text: Vec<String> = vec!["a,b,c".into()];
        text.extend(records.iter().map(line));
        let mut text = text.join(line_end);
        if ends {
            text.push_str(line_end);
        }
        let dir = Dir::new(&[("a.csv", text.as_bytes())]);
        let whole = CsvOptions::default();
        let cut = CsvOptions { newlines_in_values: false, ..CsvOptions::default() };
        let mut files = read_files(&[dir.path("a.csv")], csv(whole), block_bytes);
        files.batch_rows = batch_rows;
        let (whole, _) = read(&files, None).unwrap();
        files.format = csv(cut);
        let (cut, blocks) = read(&files, None).unwrap();
        prop_assert!(blocks > 1 || text.len() as u64 <= block_bytes * 2);
        prop_assert_eq!(whole.num_rows(), records.len());
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn a_json_file_that_is_cut_is_read_as_a_whole_one(
        records in proptest::collection::vec((field(), any::<Option<i32>>(), 0usize..3), 1..60),
        block_bytes in 1u64..200,
        batch_rows in 1usize..20,
        ends in any::<bool>(),
    ) {
        let mut text: Vec<String> = Vec::new();
        for (field, number, blank_lines) in &records {
            text.push(serde_json::json!({ "s": field, "n": number }).to_string());
            text.extend((0..*blank_lines).map(|_| String::new()));
        }
        let mut text = text.join("\n");
        if ends {
            text.push('\n');
        }
        let dir = Dir::new(&[("a.ndjson", text.as_bytes())]);
        let mut files = read_files(&[dir.path("a.ndjson")], FileFormat::Json(JsonOptions::default()), u64::MAX);
        files.batch_rows = batch_rows;
        let (whole, _) = read(&files, None).unwrap();
        files.block_bytes = block_bytes;
        let (cut, _) = read(&files, None).unwrap();
        prop_assert_eq!(whole.num_rows(), records.len());
        prop_assert_eq!(cut, whole);
    }
}
