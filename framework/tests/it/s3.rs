//! Datasets in a store, which is a server in this process: what is written is what is read, a run
//! that fails leaves nothing, and a store that does wrong for a while changes no row.

#[allow(dead_code)]
#[path = "../../../actors/data/tests/storage/server.rs"]
mod server;

mod resuming;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array as _, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use hyper::Method;
use mobula::{
    Config, DataError, Dataset, RunError, Session, StorageOptions, WriteMode, WriteOptions, aggregate, col,
    from_batches, lit, read_csv, read_json, read_parquet, remote,
};
use mobula_data::storage::{list, put_small};

use server::{Files, SECRET, Server, What};

fn session() -> Session {
    Session::start(Config::default().num_cpus(2)).unwrap()
}

/// Rows `from..to`: `id`, `fare` = id / 2, `zone`.
fn rows(from: i64, to: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    let fares: ArrayRef = Arc::new(Float64Array::from_iter_values((from..to).map(|id| id as f64 / 2.0)));
    let zones: ArrayRef = Arc::new(StringArray::from_iter_values((from..to).map(|id| format!("z{}", id % 3))));
    RecordBatch::try_from_iter([("id", ids), ("fare", fares), ("zone", zones)]).unwrap()
}

/// 400 rows in 4 blocks, written where `server` is.
fn trips(server: &Server) -> Dataset {
    from_batches((0..4).map(|block| rows(block * 100, (block + 1) * 100))).storage(server.options())
}

fn ids(dataset: &Dataset) -> Vec<i64> {
    let batch = dataset.to_arrow().unwrap();
    let ids = batch.column_by_name("id").unwrap();
    ids.as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

/// What is visible below the bucket.
fn keys(server: &Server, directory: &str) -> Vec<String> {
    match list(directory, &server.options()) {
        Ok(entries) => entries.iter().map(|e| e.path.strip_prefix("s3://bucket/").unwrap().to_owned()).collect(),
        Err(DataError::NotFound { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

fn data(error: RunError) -> DataError {
    match error {
        RunError::Data(error) => error,
        RunError::Block { error, .. } => *error,
        other => panic!("{other}"),
    }
}

#[remote]
fn refuse_above(batch: RecordBatch, most: i64) -> Result<RecordBatch, String> {
    let ids = batch.column_by_name("id").unwrap();
    let ids = ids.as_any().downcast_ref::<Int64Array>().unwrap();
    match ids.values().iter().find(|id| **id > most) {
        Some(id) => Err(format!("{id} is too much")),
        None => Ok(batch),
    }
}

#[test]
fn what_is_written_to_a_store_is_read_again_in_every_format() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let all: Vec<i64> = (0..400).collect();
    let report = trips(&server).write_parquet("s3://bucket/parquet").unwrap();
    let files: Vec<String> = (0..4).map(|n| format!("s3://bucket/parquet/part-{n:05}.parquet")).collect();
    assert_eq!(report.files, files);
    assert!(report.bytes_out > 0);
    trips(&server).write_csv("s3://bucket/csv/").unwrap();
    trips(&server).write_json("s3://bucket/json").unwrap();
    let zipped = WriteOptions { compression: mobula::Compression::Gzip, ..WriteOptions::csv() };
    trips(&server).write("s3://bucket/zipped", zipped).unwrap();
    assert_eq!(keys(&server, "s3://bucket/zipped")[0], "zipped/part-00000.csv.gz");
    for read in [
        read_parquet("s3://bucket/parquet"),
        read_parquet("s3://bucket/parquet/part-*.parquet"),
        read_parquet(&files),
        read_csv("s3://bucket/csv"),
        read_csv("s3://bucket/zipped"),
        read_json("s3a://bucket/json/"),
    ] {
        let read = read.storage(server.options());
        assert_eq!(ids(&read), all, "{:?}", read.plan());
        assert_eq!(read.filter(col("id").gt_eq(lit(390))).count().unwrap(), 10);
    }
    // Small pieces of text: a line belongs to one of them.
    let text = mobula::CsvOptions { newlines_in_values: false, ..Default::default() };
    let text = mobula::read_files("s3://bucket/csv", mobula::FileFormat::Csv(text));
    assert_eq!(ids(&text.block_bytes(100).storage(server.options())), all);
    session.shutdown();
}

#[test]
fn values_of_directories_come_back_as_columns() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let by_zone = WriteOptions { partition_by: vec!["zone".into()], ..WriteOptions::default() };
    trips(&server).write("s3://bucket/trips", by_zone.clone()).unwrap();
    let found = keys(&server, "s3://bucket/trips");
    assert_eq!(found.len(), 12);
    assert_eq!(found[0], "trips/zone=z0/part-00000.parquet");
    let read = |path: &str| read_parquet(path).storage(server.options());
    assert_eq!(read("s3://bucket/trips").filter(col("zone").eq(lit("z1"))).count().unwrap(), 133);
    assert_eq!(read("s3://bucket/trips/zone=z[01]/*.parquet").count().unwrap(), 134 + 133);
    let one = read("s3://bucket/trips/zone=z1/part-00000.parquet");
    assert!(one.schema().unwrap().field_with_name("zone").is_err());

    // Files that end early have numbers.
    let rolled = WriteOptions { max_file_rows: Some(30), mode: WriteMode::Overwrite, ..WriteOptions::default() };
    trips(&server).write("s3://bucket/trips", rolled).unwrap();
    let found = keys(&server, "s3://bucket/trips");
    assert_eq!((found.len(), found[1].as_str()), (16, "trips/part-00000-001.parquet"));
    assert_eq!(ids(&read("s3://bucket/trips")), (0..400).collect::<Vec<_>>());
    session.shutdown();
}

#[test]
fn an_earlier_output_is_an_error_or_replaced_or_added_to() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let (options, out) = (server.options(), "s3://bucket/out");
    let write = |mode| trips(&server).write(out, WriteOptions { mode, ..WriteOptions::default() });
    let read = || ids(&read_parquet(out).storage(server.options()));
    write(WriteMode::ErrorIfExists).unwrap();
    let error = data(write(WriteMode::ErrorIfExists).unwrap_err());
    assert!(matches!(&error, DataError::OutputExists { found, .. } if found == "part-00000.parquet"), "{error}");

    let added = write(WriteMode::Append).unwrap();
    assert_eq!(added.files[0], "s3://bucket/out/part-00004.parquet");
    assert_eq!(read(), (0..400).chain(0..400).collect::<Vec<_>>());

    write(WriteMode::Overwrite).unwrap();
    assert_eq!(keys(&server, out).len(), 4);
    assert_eq!(read(), (0..400).collect::<Vec<_>>());

    put_small("s3://bucket/out/notes.txt", Bytes::from_static(b"mine"), &options).unwrap();
    write(WriteMode::Overwrite).unwrap();
    assert_eq!(keys(&server, out).len(), 5);
    put_small("s3://bucket/out/other.parquet", Bytes::from_static(b"mine"), &options).unwrap();
    let error = data(write(WriteMode::Overwrite).unwrap_err());
    assert!(matches!(&error, DataError::OutputExists { found, .. } if found == "other.parquet"), "{error}");
    assert_eq!(server.stored_parts(), 0);
    session.shutdown();
}

#[test]
fn rows_of_a_store_are_sorted_and_grouped() {
    let (session, server, dir) = (session(), Server::s3(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(&server).write_parquet("s3://bucket/trips").unwrap();
    let read = read_parquet("s3://bucket/trips").storage(server.options());
    let sorted = read.clone().sort(mobula::SortKey::descending("id"));
    assert_eq!(ids(&sorted), (0..400).rev().collect::<Vec<_>>());
    let zones = read.clone().group_by("zone").aggregate([aggregate::sum("fare")]).to_arrow().unwrap();
    assert_eq!(zones.num_rows(), 3);

    // From a store into a directory and back, and both together.
    let here = dir.path().join("here");
    sorted.write_parquet(&here).unwrap();
    let both = read_parquet([here.to_str().unwrap(), "s3://bucket/trips"]).storage(server.options());
    assert_eq!(both.count().unwrap(), 800);
    read_parquet(&here).storage(server.options()).write_parquet("s3://bucket/back").unwrap();
    assert_eq!(ids(&read_parquet("s3://bucket/back").storage(server.options())), (0..400).rev().collect::<Vec<_>>());
    session.shutdown();
}

#[test]
fn files_behind_urls_are_read() {
    let (session, dir, files) = (session(), tempfile::tempdir().unwrap(), Arc::new(Files::default()));
    let _entered = session.enter();
    let server = Server::files(Arc::clone(&files));
    let rows = || from_batches([rows(0, 100)]);
    let parquet = rows().write_parquet(dir.path().join("parquet")).unwrap().files;
    let csv = rows().write_csv(dir.path().join("csv")).unwrap().files;
    files.put("/trips.parquet", std::fs::read(&parquet[0]).unwrap(), Some("\"1\""));
    files.put("/trips.csv", std::fs::read(&csv[0]).unwrap(), None);
    let url = |name: &str| format!("{}/{name}?sign=t0k3n", server.url());
    let read = read_parquet([url("trips.parquet"), parquet[0].clone()]).storage(server.options()).opened().unwrap();
    assert_eq!(ids(&read), (0..100).chain(0..100).collect::<Vec<_>>());
    assert_eq!(ids(&read_csv(url("trips.csv")).storage(server.options())), (0..100).collect::<Vec<_>>());

    files.put("/trips.parquet", "other", Some("\"2\""));
    let error = data(read.to_arrow().unwrap_err());
    assert!(matches!(error, DataError::FileChanged { .. }) && !error.to_string().contains("t0k3n"), "{error}");
    session.shutdown();
}

/// Tasks of a run that has failed end when they find out.
fn nothing_is_left(server: &Server, directory: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while server.stored_parts() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.stored_parts(), 0);
    // Nothing hidden, either: a directory that holds only that is there, without files.
    assert!(matches!(list(directory, &server.options()), Err(DataError::NotFound { .. })));
}

#[test]
fn a_write_that_fails_leaves_nothing() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let error = trips(&server).map_batches(refuse_above.with(250_i64)).write_parquet("s3://bucket/out").unwrap_err();
    assert!(error.to_string().contains("is too much"), "{error}");
    nothing_is_left(&server, "s3://bucket/out");

    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let cancelled = trips(&server).concurrency(1).cancel_when(flag).on_progress(move |progress| {
        set.store(progress.tasks_done > 0, Ordering::Relaxed);
    });
    assert_eq!(data(cancelled.write_parquet("s3://bucket/out").unwrap_err()), DataError::Cancelled);
    nothing_is_left(&server, "s3://bucket/out");

    // One of the uploads cannot be completed.
    let bad = What::Answers(400, &[], "<Error><Code>InvalidPart</Code><Message>one is missing</Message></Error>");
    server.fault(Method::POST, "/out/part-00002.parquet?uploadId", usize::MAX, bad);
    let error = data(trips(&server).write_parquet("s3://bucket/out").unwrap_err());
    assert!(matches!(&error, DataError::Remote { operation, .. } if operation == "commit"), "{error}");
    nothing_is_left(&server, "s3://bucket/out");
    session.shutdown();
}

#[test]
fn what_killed_runs_left_goes_and_what_others_have_there_stays() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let uploads = What::Answers(
        200,
        &[],
        "<ListMultipartUploadsResult><Bucket>bucket</Bucket><IsTruncated>false</IsTruncated>\
         <Upload><Key>out/part-00000.parquet</Key><UploadId>dead</UploadId></Upload>\
         <Upload><Key>out/film.mp4</Key><UploadId>alive</UploadId></Upload></ListMultipartUploadsResult>",
    );
    server.fault(Method::GET, "uploads", usize::MAX, uploads);
    let gone = || {
        let ids = server.seen(Method::DELETE, "uploadId=");
        assert!(ids.iter().all(|seen| !seen.uri.contains("alive")), "{ids:?}");
        ids.iter().filter(|seen| seen.uri.contains("uploadId=dead")).count()
    };
    let put = |name: &str| put_small(&format!("s3://bucket/out/{name}"), Bytes::new(), &server.options()).unwrap();
    // A run that is under way in the same place.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (live, dead) = (format!(".mobula-{now}-other-00000000"), ".mobula-1000000000-other-00000000");
    put(&live);
    put(dead);
    trips(&server).write_parquet("s3://bucket/out").unwrap();
    assert_eq!(gone(), 0);
    mobula_data::storage::delete(&[format!("s3://bucket/out/{live}")], &server.options()).unwrap();
    let overwrite = WriteOptions { mode: WriteMode::Overwrite, ..WriteOptions::default() };
    trips(&server).write("s3://bucket/out", overwrite).unwrap();
    assert!(gone() > 0);
    assert_eq!(list("s3://bucket/out/.mobula-*", &server.options()).unwrap(), []);
    session.shutdown();
}

#[test]
fn an_object_that_is_replaced_after_planning_is_told() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let options = server.options();
    trips(&server).write_parquet("s3://bucket/trips").unwrap();
    trips(&server).write_csv("s3://bucket/text").unwrap();
    for (read, path) in [
        (read_parquet("s3://bucket/trips"), "s3://bucket/trips/part-00001.parquet"),
        (read_csv("s3://bucket/text"), "s3://bucket/text/part-00001.csv"),
    ] {
        let opened = read.storage(options.clone()).opened().unwrap();
        assert_eq!(opened.to_arrow().unwrap().num_rows(), 400);
        put_small(path, Bytes::from_static(b"something else"), &options).unwrap();
        let error = data(opened.to_arrow().unwrap_err());
        assert!(matches!(&error, DataError::FileChanged { path: told, .. } if told == path), "{error}");
    }
    session.shutdown();
}

#[test]
fn a_store_that_is_busy_for_a_while_changes_nothing() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    trips(&server).write_parquet("s3://bucket/trips").unwrap();
    let slow = What::Answers(503, &[], "<Error><Code>SlowDown</Code><Message>later</Message></Error>");
    server.fault(Method::GET, "/bucket/trips/", 5, slow.clone());
    server.fault(Method::GET, "/bucket/trips/", 2, What::Drops(100));
    server.fault(Method::PUT, "partNumber", 3, slow);
    server.fault(Method::POST, "uploadId", 1, What::LosesAnswer);
    let patient = StorageOptions { max_attempts: 10, ..server.options() };
    let read = read_parquet("s3://bucket/trips").storage(patient);
    assert_eq!(ids(&read), (0..400).collect::<Vec<_>>());
    read.write_parquet("s3://bucket/copy").unwrap();
    assert_eq!(ids(&read_parquet("s3://bucket/copy").storage(server.options())), (0..400).collect::<Vec<_>>());
    session.shutdown();
}

#[test]
fn what_makes_no_sense_is_refused_and_secrets_are_kept() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    trips(&server).write_parquet("s3://bucket/trips").unwrap();
    let read = read_parquet("s3://bucket/trips").storage(server.options());
    let refused = |dataset: &Dataset, to: &str| data(dataset.write_parquet(to).unwrap_err());
    for inside in ["s3://bucket/trips", "s3://bucket/trips/", "s3://bucket/trips/clean", "s3://bucket"] {
        assert!(matches!(refused(&read, inside), DataError::OutputInInput { .. }), "{inside}");
    }
    for nowhere in ["https://host/out", "s3://bucket/out*", "gs://bucket/out"] {
        assert!(matches!(refused(&read, nowhere), DataError::InvalidLocation { .. }), "{nowhere}");
    }
    assert!(matches!(refused(&read, "s3://no-bucket/out"), DataError::NoSuchBucket { .. }));
    let none = read_csv("s3://bucket/trips").storage(server.options());
    assert!(matches!(data(none.count().unwrap_err()), DataError::NoFiles { .. }));
    let missing = read_parquet("s3://bucket/nothing").storage(server.options());
    assert!(matches!(data(missing.count().unwrap_err()), DataError::NotFound { .. }));

    let wrong = StorageOptions { secret_access_key: Some("w0rd".into()), ..server.options() };
    let denied = read_parquet("s3://bucket/trips").storage(wrong).count().unwrap_err();
    assert!(matches!(data(denied.clone()), DataError::AccessDenied { .. }), "{denied}");
    for shown in [denied.to_string(), format!("{read} {read:?}"), format!("{:?}", read.plan()), read.explain().unwrap()]
    {
        assert!(!shown.contains("w0rd") && !shown.contains(SECRET), "{shown}");
    }
    let signed = read_parquet("https://host/trips.parquet?sign=t0k3n");
    assert!(!format!("{signed:?}").contains("t0k3n"));

    // A key is as it is spelt.
    let report = trips(&server).write_parquet("s3://bucket/a//b").unwrap();
    assert_eq!(report.files[0], "s3://bucket/a//b/part-00000.parquet");
    assert!(!server.seen(Method::PUT, "/bucket/a//b/part-00000.parquet").is_empty());
    session.shutdown();
}
