//! Uploads that become visible together, or not at all.

use std::io::Write;

use bytes::Bytes;
use hyper::Method;
use mobula_data::DataError;
use mobula_data::storage::{
    Remote, RemoteWriter, StorageOptions, UploadState, abort, complete, exists, put_small, upload_states,
};

use crate::server::{Server, What};
use crate::{keys, pattern, upload};

#[test]
fn nothing_is_visible_until_it_is_completed_and_then_all_is() {
    let server = Server::s3();
    let options = server.options();
    // Empty, small, exactly one part, and more parts than are on their way at once.
    let sizes = [0, 10, 8 << 20, (33 << 20) + 3];
    let path = |n: usize| format!("s3://bucket/out/part-{n}");
    let uploads: Vec<_> =
        sizes.iter().enumerate().map(|(n, size)| upload(&path(n), &pattern(*size), &options).unwrap()).collect();
    assert_eq!(uploads.iter().map(|upload| upload.size as usize).collect::<Vec<_>>(), sizes);
    assert!(matches!(mobula_data::storage::list("s3://bucket/out", &options), Err(DataError::NotFound { .. })));

    // They come from other machines.
    let bytes = serde_json::to_vec(&uploads).unwrap();
    let uploads: Vec<_> = serde_json::from_slice(&bytes).unwrap();
    complete(&uploads, &options).unwrap();
    assert_eq!(keys("s3://bucket/out", &options).len(), sizes.len());
    for (n, size) in sizes.iter().enumerate() {
        let file = Remote::open(&path(n), &options).unwrap();
        assert!(file.read(0..file.size()).unwrap() == pattern(*size), "{size}");
    }
    complete(&uploads, &options).unwrap();
    abort(&uploads, &options).unwrap_or_else(|error| assert!(matches!(error, DataError::AccessDenied { .. })));
    assert_eq!(keys("s3://bucket/out", &options).len(), sizes.len());
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let server = Server::s3();
    let mut writer = RemoteWriter::create("s3://bucket/x", &server.options()).unwrap();
    writer.write_all(&pattern(17 << 20)).unwrap();
    drop(writer);
    assert_eq!(server.seen(Method::DELETE, "uploadId").len(), 1);
    assert_eq!(server.stored_parts(), 0);
    assert!(!exists("s3://bucket/x", &server.options()).unwrap());
}

#[test]
fn an_upload_that_is_aborted_leaves_nothing_and_others_of_its_object_stay() {
    let server = Server::s3();
    let options = server.options();
    let first = upload("s3://bucket/x", b"first", &options).unwrap();
    let second = upload("s3://bucket/x", b"second", &options).unwrap();
    let third = upload("s3://bucket/x", b"third", &options).unwrap();
    abort(&[first], &options).unwrap();
    assert_eq!(server.stored_parts(), 2);
    complete(&[second], &options).unwrap();
    assert_eq!(Remote::open("s3://bucket/x", &options).unwrap().read(0..6).unwrap(), "second");
    complete(&[third], &options).unwrap();
    assert_eq!(Remote::open("s3://bucket/x", &options).unwrap().read(0..5).unwrap(), "third");
}

#[test]
fn if_one_upload_cannot_be_completed_it_is_told_what_was_made_unless_something_was_replaced() {
    let server = Server::s3();
    let options = server.options();
    put_small("s3://bucket/out/old", Bytes::from_static(b"old"), &options).unwrap();
    let uploads = |names: &[&str]| -> Vec<_> {
        names.iter().map(|name| upload(&format!("s3://bucket/out/{name}"), b"new", &options).unwrap()).collect()
    };
    let bad = "<Error><Code>InvalidPart</Code><Message>one is missing</Message></Error>";
    server.fault(Method::POST, "/out/bad?uploadId", 2, What::Answers(400, &[], bad));
    let incomplete = complete(&uploads(&["new-1", "bad", "new-2"]), &options).unwrap_err();
    let told = "cannot commit s3://bucket/out/bad: InvalidPart: one is missing (HTTP 400)";
    assert_eq!(incomplete.error.to_string(), told);
    let mut made = incomplete.made.unwrap();
    made.sort();
    assert_eq!(made, ["s3://bucket/out/new-1", "s3://bucket/out/new-2"]);

    let second = uploads(&["old", "bad", "new-3"]);
    let incomplete = complete(&second, &options).unwrap_err();
    assert_eq!((incomplete.error.to_string().as_str(), incomplete.made), (told, None));
    // What is left to do can be done later.
    complete(&second, &options).unwrap();
    assert_eq!(keys("s3://bucket/out", &options), ["out/bad", "out/new-1", "out/new-2", "out/new-3", "out/old"]);
    assert_eq!(upload_states(&second, &options).unwrap(), [UploadState::Complete; 3]);
}

#[test]
fn who_cannot_even_ask_has_made_nothing() {
    let server = Server::s3();
    let pending = upload("s3://bucket/x", b"bytes", &server.options()).unwrap();
    let half_a_key = StorageOptions { secret_access_key: None, ..server.options() };
    let incomplete = complete(std::slice::from_ref(&pending), &half_a_key).unwrap_err();
    assert!(matches!(*incomplete.error, DataError::InvalidPlan { .. }), "{}", incomplete.error);
    assert_eq!(incomplete.made, Some(Vec::new()), "nothing is to be taken back");
    complete(&[pending], &server.options()).unwrap();
}

#[test]
fn how_far_an_upload_is_can_be_asked() {
    let server = Server::s3();
    let options = server.options();
    let names = ["pending", "complete", "aborted", "replaced", "empty"];
    let uploads = names.map(|name| upload(&format!("s3://bucket/{name}"), &name.as_bytes()[5..], &options).unwrap());
    complete(&[uploads[1].clone(), uploads[3].clone()], &options).unwrap();
    put_small("s3://bucket/replaced", Bytes::from_static(b"other"), &options).unwrap();
    abort(std::slice::from_ref(&uploads[2]), &options).unwrap();
    use UploadState::{Complete, Gone, Pending};
    assert_eq!(upload_states(&uploads, &options).unwrap(), [Pending, Complete, Gone, Gone, Pending]);
    // As stores say it that know of no such upload.
    let gone = What::Answers(404, &[], "<Error><Code>NoSuchUpload</Code></Error>");
    server.fault(Method::GET, "/bucket/pending?", 1, gone);
    assert_eq!(upload_states(&uploads[..1], &options).unwrap(), [Gone]);
    server.lose_uploads();
    assert_eq!(upload_states(&uploads, &options).unwrap(), [Gone, Complete, Gone, Gone, Gone]);
    assert_eq!(server.stored_parts(), 0);
}

#[test]
fn a_commit_whose_answer_was_lost_is_known_to_be_made() {
    let server = Server::s3();
    let options = server.options();
    let pending = upload("s3://bucket/x", b"bytes", &options).unwrap();
    server.fault(Method::POST, "uploadId", 1, What::LosesAnswer);
    complete(std::slice::from_ref(&pending), &options).unwrap();
    assert_eq!(server.seen(Method::POST, "uploadId").len(), 2);
    assert_eq!(Remote::open("s3://bucket/x", &options).unwrap().read(0..5).unwrap(), "bytes");
}

#[test]
fn an_error_inside_a_good_answer_is_an_error() {
    let server = Server::s3();
    let options = server.options();
    let pending = upload("s3://bucket/x", b"bytes", &options).unwrap();
    let inside = What::Answers(200, &[], "<Error><Code>InternalError</Code><Message>try again</Message></Error>");
    server.fault(Method::POST, "uploadId", 1, inside);
    complete(&[pending], &options).unwrap();
    assert_eq!(Remote::open("s3://bucket/x", &options).unwrap().read(0..5).unwrap(), "bytes");
}

#[test]
fn parts_are_sent_again_and_a_writer_tells_what_happened() {
    let server = Server::s3();
    let options = server.options();
    for what in [What::Answers(503, &[], "<Error><Code>SlowDown</Code></Error>"), What::LosesAnswer] {
        server.fault(Method::PUT, "partNumber=2", 2, what);
        let bytes = pattern(17 << 20);
        complete(&[upload("s3://bucket/x", &bytes, &options).unwrap()], &options).unwrap();
        let file = Remote::open("s3://bucket/x", &options).unwrap();
        assert!(file.read(0..file.size()).unwrap() == bytes);
    }
    server.fault(Method::PUT, "partNumber=2", usize::MAX, What::LosesAnswer);
    let error = upload("s3://bucket/y", &pattern(17 << 20), &options).unwrap_err();
    assert!(matches!(error, DataError::Remote { attempts: 3, .. }), "{error}");
    assert_eq!(server.stored_parts(), 0);
}

#[test]
fn objects_are_written_to_a_store_and_have_names() {
    let server = Server::s3();
    for path in ["https://host/x", "s3://bucket", "s3://bucket/dir/"] {
        let error = RemoteWriter::create(path, &server.options()).unwrap_err();
        assert!(matches!(error, DataError::InvalidLocation { .. }), "{error}");
    }
    let error = RemoteWriter::create("s3://no-bucket/x", &server.options()).err();
    assert!(error.is_none() || matches!(error, Some(DataError::NoSuchBucket { .. })), "{error:?}");
}
