//! Writes to a store that ended early go on where they ended, and commits that were cut short are
//! finished by whoever comes next.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use hyper::Method;
use mobula::{
    DataError, Dataset, EarlierRun, RunReport, WriteMode, WriteOptions, from_batches, range_in_blocks, read_parquet,
    remote,
};
use mobula_data::storage::{delete, list, put_small};

use super::server::{Server, What};
use super::{data, ids, keys, rows, session, trips};

/// The first row at which `fragile` fails, in each case: tests run side by side.
static FAILS_FROM: [AtomicI64; 10] = [const { AtomicI64::new(i64::MAX) }; 10];

#[remote]
fn fragile(batch: RecordBatch, case: i64) -> Result<RecordBatch, String> {
    let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
    match ids.values().iter().find(|id| **id >= FAILS_FROM[case as usize].load(Ordering::SeqCst)) {
        Some(id) => Err(format!("no luck with {id}")),
        None => Ok(batch),
    }
}

const OUT: &str = "s3://bucket/out";

const DOWN: What = What::Answers(500, &[], "<Error><Code>InternalError</Code><Message>later</Message></Error>");

/// 1000 rows in 20 blocks, one after the other.
fn fragile_rows(server: &Server, case: i64) -> Dataset {
    range_in_blocks(1000, 20).map_batches(fragile.with(case)).storage(server.options()).concurrency(1).resume(true)
}

fn write_to(dataset: &Dataset, out: &str, mode: WriteMode) -> Result<RunReport, mobula::RunError> {
    dataset.write(out, WriteOptions { mode, ..WriteOptions::default() })
}

fn overwrite(dataset: &Dataset) -> RunReport {
    write_to(dataset, OUT, WriteMode::Overwrite).unwrap()
}

/// Writes 14 blocks, and fails at the next one.
fn fails(dataset: &Dataset, case: usize) {
    FAILS_FROM[case].store(700, Ordering::SeqCst);
    let error = write_to(dataset, OUT, WriteMode::Overwrite).unwrap_err();
    assert!(error.to_string().contains("no luck with 700"), "{error}");
    FAILS_FROM[case].store(i64::MAX, Ordering::SeqCst);
}

fn hidden(server: &Server, out: &str) -> Vec<String> {
    let entries = list(&format!("{out}/.mobula-*"), &server.options()).unwrap();
    entries.into_iter().map(|entry| entry.path).collect()
}

fn read(server: &Server, out: &str) -> Vec<i64> {
    ids(&read_parquet(out).storage(server.options()))
}

/// How often each of the 20 files was sent.
fn sent(server: &Server, name: &str) -> Vec<usize> {
    (0..20).map(|n| server.seen(Method::PUT, &format!("/bucket/{name}/part-{n:05}.parquet")).len()).collect()
}

#[test]
fn what_is_uploaded_is_not_uploaded_again() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let dataset = fragile_rows(&server, 0);
    fails(&dataset, 0);
    assert_eq!(keys(&server, OUT), [""; 0], "a reader sees nothing of it");
    assert_eq!((server.stored_parts(), hidden(&server, OUT).len()), (14, 1 + 14));

    // Of the uploads that the store lists, the next run needs all but one.
    let ids_of_uploads = server.seen(Method::PUT, "/bucket/out/part-").into_iter().map(|seen| {
        let id = seen.uri.split("uploadId=").nth(1).unwrap();
        id.split('&').next().unwrap().to_owned()
    });
    let listed: String = ids_of_uploads
        .chain(["dead".to_owned()])
        .map(|id| format!("<Upload><Key>out/part-00000.parquet</Key><UploadId>{id}</UploadId></Upload>"))
        .collect();
    let listed = format!(
        "<ListMultipartUploadsResult><Bucket>bucket</Bucket><IsTruncated>false</IsTruncated>{listed}\
         </ListMultipartUploadsResult>"
    );
    server.fault(Method::GET, "uploads", 1, What::Answers(200, &[], listed.leak()));
    let report = overwrite(&dataset);
    assert_eq!((report.blocks_resumed, report.rows_resumed, report.rows_out), (14, 700, 1000));
    assert_eq!(report.earlier, Some(EarlierRun::Same));
    assert_eq!(sent(&server, "out"), [1; 20]);
    let aborted = server.seen(Method::DELETE, "uploadId=");
    assert!(!aborted.is_empty() && aborted.iter().all(|seen| seen.uri.contains("uploadId=dead")), "{aborted:?}");

    let whole = write_to(&dataset.clone().resume(false), "s3://bucket/whole", WriteMode::Overwrite).unwrap();
    assert_eq!((whole.blocks_resumed, whole.rows_out, whole.bytes_out), (0, 1000, report.bytes_out));
    let names = |out: &str| -> Vec<String> {
        keys(&server, out).iter().map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(OUT), names("s3://bucket/whole"));
    let (resumed, uninterrupted) = (read(&server, OUT), read(&server, "s3://bucket/whole"));
    assert_eq!((&resumed, &resumed), (&uninterrupted, &(0..1000).collect::<Vec<_>>()));
    assert_eq!((server.stored_parts(), hidden(&server, OUT)), (0, Vec::new()));
    session.shutdown();
}

#[test]
fn uploads_that_have_vanished_are_made_anew() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let dataset = fragile_rows(&server, 1);
    fails(&dataset, 1);
    server.lose_uploads();
    let report = overwrite(&dataset);
    assert_eq!((report.blocks_resumed, report.blocks_gone, report.rows_out), (0, 14, 1000));
    assert_eq!(sent(&server, "out"), [[2; 14].as_slice(), &[1; 6]].concat());
    assert_eq!(read(&server, OUT), (0..1000).collect::<Vec<_>>());
    assert_eq!((server.stored_parts(), hidden(&server, OUT)), (0, Vec::new()));

    // Only one of them.
    fails(&dataset, 1);
    let gone = What::Answers(404, &[], "<Error><Code>NoSuchUpload</Code></Error>");
    server.fault(Method::GET, "/bucket/out/part-00003.parquet?", 1, gone);
    let report = overwrite(&dataset);
    assert_eq!((report.blocks_resumed, report.blocks_gone, report.rows_out), (13, 1, 1000));
    assert_eq!(read(&server, OUT), (0..1000).collect::<Vec<_>>());
    session.shutdown();
}

#[test]
fn of_two_that_begin_at_the_same_moment_one_goes_on_and_the_other_is_told() {
    let (session, server) = (session(), Arc::new(Server::s3()));
    let _entered = session.enter();
    for resume in [false, true] {
        let dataset = fragile_rows(&server, 6).resume(resume);
        for (other, goes_on) in [("ffffffffffffffff", false), ("0000000000000000", true)] {
            // Neither has seen the other when it makes its mark, and the clock tells both the same.
            let there = Arc::downgrade(&server);
            let makes_its_mark = move || {
                let server = there.upgrade().unwrap();
                let made = server.seen(Method::PUT, "/.mobula-").pop().unwrap().uri;
                let mut parts: Vec<&str> = made.split('?').next().unwrap().split('-').collect();
                parts[3] = other;
                put_small(&format!("s3:/{}", parts.join("-")), Bytes::new(), &server.options()).unwrap();
            };
            server.fault(Method::PUT, "/.mobula-", 1, What::After(Arc::new(makes_its_mark)));
            let written = write_to(&dataset, OUT, WriteMode::Overwrite);
            if goes_on {
                assert_eq!(written.unwrap().rows_out, 1000);
                assert_eq!(read(&server, OUT), (0..1000).collect::<Vec<_>>());
                assert_eq!(hidden(&server, OUT), [""; 0], "the other finds its mark gone");
            } else {
                let error = data(written.unwrap_err());
                assert!(matches!(&error, DataError::Write { path, .. } if path == "s3://bucket/out/"), "{error}");
                assert!(error.to_string().contains("a run that does the same has begun"), "{error}");
                let left = hidden(&server, OUT);
                assert!(left.len() == 1 && left[0].contains(other), "{left:?}");
                delete(&left, &server.options()).unwrap();
            }
            assert_eq!(server.stored_parts(), 0);
        }
    }
    session.shutdown();
}

#[test]
fn the_mark_of_a_dead_run_whose_clock_was_fast_ends_no_other() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let dataset = fragile_rows(&server, 7);
    fails(&dataset, 7);
    let marks = hidden(&server, OUT);
    let (before, after) = marks.iter().find(|path| !path.ends_with(".done")).unwrap().split_once(".mobula-").unwrap();
    let (seconds, after) = after.split_once('.').unwrap();
    let fast = format!("{before}.mobula-{}.{after}", seconds.parse::<u64>().unwrap() + 3600);
    put_small(&fast, Bytes::new(), &server.options()).unwrap();
    assert_eq!(overwrite(&dataset).blocks_resumed, 14);
    assert_eq!(read(&server, OUT), (0..1000).collect::<Vec<_>>());
    assert_eq!((server.stored_parts(), hidden(&server, OUT)), (0, Vec::new()));
    session.shutdown();
}

#[test]
fn a_note_that_comes_after_the_end_of_its_run_keeps_nothing() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let uploads = What::Answers(
        200,
        &[],
        "<ListMultipartUploadsResult><Bucket>bucket</Bucket><IsTruncated>false</IsTruncated>\
         <Upload><Key>out/part-00000.parquet</Key><UploadId>late</UploadId></Upload></ListMultipartUploadsResult>",
    );
    server.fault(Method::GET, "uploads", usize::MAX, uploads);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mark = format!("{OUT}/.mobula-{now}.000000000-other-0000000000000000-resume-0");
    let note = format!("{mark}-part-00000.done");
    let aborted = || server.seen(Method::DELETE, "uploadId=late").len();
    for path in [&mark, &note] {
        put_small(path, Bytes::new(), &server.options()).unwrap();
    }
    write_to(&trips(&server), OUT, WriteMode::Overwrite).unwrap();
    assert_eq!((aborted(), hidden(&server, OUT)), (0, vec![mark.clone(), note]), "its run may go on");
    delete(&[mark], &server.options()).unwrap();
    write_to(&trips(&server), OUT, WriteMode::Overwrite).unwrap();
    assert!(aborted() > 0);
    assert_eq!(hidden(&server, OUT), [""; 0]);
    session.shutdown();
}

#[test]
fn only_the_same_write_takes_over() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let (dataset, other) = (fragile_rows(&server, 2), fragile_rows(&server, 3));
    fails(&dataset, 2);
    let report = overwrite(&other);
    assert_eq!((report.blocks_resumed, report.earlier), (0, Some(EarlierRun::Nothing)));
    assert_eq!((server.stored_parts(), hidden(&server, OUT).len()), (14, 1 + 14), "what others have done stays");
    assert_eq!(overwrite(&dataset).blocks_resumed, 14);
    assert_eq!((server.stored_parts(), hidden(&server, OUT)), (0, Vec::new()));
    assert_eq!(read(&server, OUT), (0..1000).collect::<Vec<_>>());

    // One that is not to go on removes what it could have gone on with.
    fails(&dataset, 2);
    let report = overwrite(&dataset.resume(false));
    assert_eq!((report.blocks_resumed, report.earlier), (0, None));
    assert_eq!(hidden(&server, OUT), Vec::<String>::new());
    session.shutdown();
}

#[test]
fn a_run_that_lives_leaves_what_is_done_to_the_one_that_took_its_place() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let options = server.options();
    // The other one has taken its mark.
    let dataset = fragile_rows(&server, 4);
    let displaced = dataset.clone().on_progress(move |progress| {
        if progress.tasks_done >= 5 {
            let marks = list(&format!("{OUT}/.mobula-*"), &options).unwrap().into_iter().map(|entry| entry.path);
            delete(&marks.filter(|path| !path.ends_with(".done")).collect::<Vec<_>>(), &options).unwrap();
        }
    });
    let error = write_to(&displaced, OUT, WriteMode::Overwrite).unwrap_err();
    assert!(error.to_string().contains("the run has ended"), "{error}");
    assert_eq!(server.stored_parts(), 5);
    assert_eq!(overwrite(&dataset).blocks_resumed, 5);
    assert_eq!(sent(&server, "out"), [1; 20]);
    assert_eq!((server.stored_parts(), hidden(&server, OUT)), (0, Vec::new()));
    session.shutdown();
}

#[test]
fn a_commit_that_is_cut_short_is_finished_by_the_next_run() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let write = |dataset: &Dataset, mode| write_to(dataset, OUT, mode);
    let six = from_batches((10..16).map(|block| rows(block * 100, (block + 1) * 100))).storage(server.options());
    // As often as a request is made.
    let down = |uri: &str| server.fault(Method::POST, uri, 3, DOWN);
    for cut in ["/out/part-00002.parquet?uploadId", "?delete"] {
        write(&six, WriteMode::Overwrite).unwrap();
        down(cut);
        let error = data(write(&trips(&server), WriteMode::Overwrite).unwrap_err());
        assert!(matches!(&error, DataError::HalfCommitted { path, .. } if path == "s3://bucket/out/"), "{error}");
        assert!(error.to_string().contains("the next run that writes there"), "{error}");
        assert_eq!(keys(&server, OUT).len(), 6, "some of both");
        // Even one that may not write there.
        let error = data(write(&six, WriteMode::ErrorIfExists).unwrap_err());
        assert!(matches!(error, DataError::OutputExists { .. }), "{error}");
        assert_eq!(read(&server, OUT), (0..400).collect::<Vec<_>>());
        assert_eq!((keys(&server, OUT).len(), server.stored_parts(), hidden(&server, OUT)), (4, 0, Vec::new()));
    }
    write(&six, WriteMode::Overwrite).unwrap();
    down("/out/part-00002.parquet?uploadId");
    write(&trips(&server), WriteMode::Overwrite).unwrap_err();
    let one = from_batches([rows(0, 10)]).storage(server.options());
    write(&one, WriteMode::Append).unwrap();
    assert_eq!(read(&server, OUT), (0..400).chain(0..10).collect::<Vec<_>>());
    write(&one, WriteMode::Overwrite).unwrap();
    assert_eq!(keys(&server, OUT), ["out/part-00000.parquet"]);
    assert_eq!((read(&server, OUT), hidden(&server, OUT)), ((0..10).collect(), Vec::new()));
    session.shutdown();
}

#[test]
fn a_commit_that_cannot_be_finished_is_told_or_replaced() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let write = |mode| write_to(&trips(&server), OUT, mode);
    write(WriteMode::Overwrite).unwrap();
    server.fault(Method::POST, "/out/part-00002.parquet?uploadId", 3, DOWN);
    write(WriteMode::Overwrite).unwrap_err();
    server.lose_uploads();
    for mode in [WriteMode::ErrorIfExists, WriteMode::Append] {
        let error = data(write(mode).unwrap_err()).to_string();
        assert!(error.contains("1 of its 4 files are gone") && error.contains("-commit"), "{error}");
    }
    write(WriteMode::Overwrite).unwrap();
    assert_eq!((read(&server, OUT), hidden(&server, OUT)), ((0..400).collect(), Vec::new()));
    session.shutdown();
}

#[test]
fn a_write_that_is_resumed_after_its_commit_was_cut_short_is_done() {
    let (session, server) = (session(), Server::s3());
    let _entered = session.enter();
    let dataset = fragile_rows(&server, 5);
    for (name, mode) in [("new", WriteMode::ErrorIfExists), ("over", WriteMode::Overwrite), ("more", WriteMode::Append)]
    {
        let out = format!("s3://bucket/{name}");
        // What was made cannot be taken back, either.
        let upload = format!("/{name}/part-00002.parquet?uploadId");
        for uri in [upload.as_str(), "?delete"] {
            server.fault(Method::POST, uri, 3, DOWN);
        }
        let error = data(write_to(&dataset, &out, mode).unwrap_err());
        assert!(matches!(error, DataError::HalfCommitted { .. }), "{error}");
        let report = write_to(&dataset, &out, mode).unwrap();
        assert_eq!((report.blocks_resumed, report.files.len()), (20, 20), "{mode:?}");
        assert_eq!(sent(&server, name), [1; 20]);
        assert_eq!(read(&server, &out), (0..1000).collect::<Vec<_>>());
        assert_eq!((server.stored_parts(), hidden(&server, &out)), (0, Vec::new()));
    }
    session.shutdown();
}
