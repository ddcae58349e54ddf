//! A store that does wrong: each time, what is read is right in the end, or the error says what
//! happened.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use mobula_data::DataError;
use mobula_data::storage::{Remote, StorageOptions, check_identity, list, put_small};

use crate::server::{Server, What};
use crate::{patient, pattern};

const PATH: &str = "s3://bucket/object";
const SIZE: usize = 100_000;

/// A store with an object.
fn store() -> (Server, StorageOptions, Bytes) {
    let (server, bytes) = (Server::s3(), pattern(SIZE));
    let options = server.options();
    put_small(PATH, bytes.clone(), &options).unwrap();
    (server, options, bytes)
}

/// Reads a part of the object and all of it.
fn read(options: &StorageOptions) -> Result<(Bytes, Bytes), DataError> {
    let file = Remote::open(PATH, options)?;
    Ok((file.read(1000..50_000)?, file.read(0..SIZE as u64)?))
}

const SLOW_DOWN: What =
    What::Answers(503, &[], "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>");

#[test]
fn what_passes_is_tried_again() {
    let passing = [
        SLOW_DOWN,
        What::Answers(429, &[("retry-after", "0")], ""),
        What::Answers(500, &[], "<Error><Code>InternalError</Code><Message>again</Message></Error>"),
        What::Answers(502, &[], "bad gateway"),
        What::Silent,
        What::Drops(0),
        What::Drops(700),
        What::Stalls(700),
        What::Shortens(700),
    ];
    for (n, what) in passing.into_iter().enumerate() {
        let (server, options, bytes) = store();
        server.fault(Method::GET, "/bucket/object", 2, what.clone());
        let (part, whole) = read(&patient(options, &what)).unwrap();
        assert!(part == bytes.slice(1000..50_000) && whole == bytes, "fault {n}");
        assert_eq!(server.seen(Method::GET, "/bucket/object").len(), 4, "fault {n}");
    }
}

#[test]
fn what_does_not_pass_is_told_with_the_attempts() {
    let lasting = [
        (SLOW_DOWN, "SlowDown: Please reduce your request rate (HTTP 503)"),
        (What::Answers(500, &[], ""), "500"),
        (What::Silent, "no answer within"),
        (What::Drops(700), "after 700 of 49000 bytes"),
        (What::Stalls(700), "no byte came for"),
        (What::Shortens(700), "the body ended after 700 of 49000 bytes"),
    ];
    for (what, told) in lasting {
        let (server, options, _) = store();
        let options = patient(options, &what);
        server.fault(Method::GET, "/bucket/object", usize::MAX, what);
        match read(&options).unwrap_err() {
            DataError::Remote { path, operation, attempts, cause } => {
                assert_eq!((path.as_str(), operation.as_str(), attempts), (PATH, "read", 3));
                assert!(cause.contains(told), "{cause}");
            }
            error => panic!("{told}: {error}"),
        }
        assert_eq!(server.seen(Method::GET, "/bucket/object").len(), 3, "{told}");
    }
}

#[test]
fn a_store_that_nobody_answers_for_is_an_error() {
    let (server, options, _) = store();
    let url = server.url();
    drop(server);
    let told =
        format!("cannot reach the store at {url} (connection refused): is it running, is the endpoint URL right?");
    let error = Remote::open(PATH, &options).unwrap_err();
    assert!(matches!(error, DataError::Unreachable { attempts: 3, .. }), "{error}");
    assert_eq!(error.to_string(), format!("cannot read {PATH}: {told} (tried 3 times)"));
    let error = check_identity(PATH, &options).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot use {PATH}: {told} (tried 3 times)"));
}

#[test]
fn a_store_whose_name_nobody_knows_is_an_error() {
    let endpoint_url = Some("http://nowhere.invalid:9".into());
    let options = StorageOptions { endpoint_url, max_attempts: 1, ..Server::s3().options() };
    let error = Remote::open(PATH, &options).unwrap_err();
    let host = "the store at http://nowhere.invalid:9";
    assert!(matches!(&error, DataError::Unreachable { host: told, .. } if **told == *host), "{error}");
}

#[test]
fn a_byte_that_changed_on_the_way_is_found_where_the_store_keeps_a_checksum() {
    let (server, options, bytes) = store();
    let file = Remote::open(PATH, &options).unwrap();
    server.fault(Method::GET, "/bucket/object", 1, What::Corrupts(77));
    assert!(file.read(0..SIZE as u64).unwrap() == bytes);
    server.fault(Method::GET, "/bucket/object", usize::MAX, What::Corrupts(77));
    let error = file.read(0..SIZE as u64).unwrap_err();
    assert!(matches!(&error, DataError::Remote { attempts: 3, cause, .. } if cause.contains("checksum")), "{error}");
}

#[test]
fn an_object_that_is_replaced_between_two_ranges_is_not_read_on() {
    let (server, options, bytes) = store();
    let file = Remote::open(PATH, &options).unwrap();
    assert!(file.read(0..1000).unwrap() == bytes.slice(..1000));
    let other: Bytes = bytes.iter().map(|byte| !byte).collect::<Vec<_>>().into();
    let (replaced_by, put_options) = (other.clone(), options.clone());
    let replace = move || put_small(PATH, replaced_by.clone(), &put_options).unwrap();
    server.fault(Method::GET, "/bucket/object", 1, What::After(Arc::new(replace)));
    let error = file.read(1000..2000).unwrap_err();
    assert!(matches!(&error, DataError::FileChanged { path, .. } if path == PATH), "{error}");
    assert!(Remote::open(PATH, &options).unwrap().read(1000..2000).unwrap() == other.slice(1000..2000));
}

#[test]
fn an_object_that_changed_is_told_however_the_store_says_it() {
    let (server, options, _) = store();
    let file = Remote::open(PATH, &options).unwrap();
    for answer in [
        What::Answers(412, &[], "<Error><Code>PreconditionFailed</Code></Error>"),
        What::Answers(416, &[], "<Error><Code>InvalidRange</Code></Error>"),
        What::Answers(404, &[], "<Error><Code>NoSuchKey</Code></Error>"),
        What::Answers(206, &[("content-range", "bytes 0-9/99")], "0123456789"),
        What::Answers(206, &[("etag", "\"other\""), ("content-range", "bytes 0-9/100000")], "0123456789"),
    ] {
        server.fault(Method::GET, "/bucket/object", 1, answer);
        let error = file.read(0..10).unwrap_err();
        assert!(matches!(error, DataError::FileChanged { .. }), "{error}");
    }
    assert_eq!(server.seen(Method::GET, "/bucket/object").len(), 5);
}

#[test]
fn another_range_than_the_one_asked_for_is_refused() {
    let (server, options, _) = store();
    let file = Remote::open(PATH, &options).unwrap();
    let other = What::Answers(206, &[("content-range", "bytes 10-19/100000")], "0123456789");
    server.fault(Method::GET, "/bucket/object", 1, other);
    let error = file.read(0..10).unwrap_err();
    assert!(matches!(error, DataError::Remote { attempts: 1, .. }), "{error}");
}

#[test]
fn who_may_not_is_told_at_once() {
    let (server, options, _) = store();
    let denied = What::Answers(403, &[], "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>");
    server.fault(Method::GET, "/bucket", usize::MAX, denied);
    let error = read(&options).unwrap_err();
    assert!(matches!(&error, DataError::AccessDenied { path, .. } if path == PATH), "{error}");
    assert_eq!(server.seen(Method::GET, "/bucket/object").len(), 1);
    // Who may read may not always list: then a file is found by asking for it.
    assert_eq!(list(PATH, &options).unwrap()[0].size, SIZE as u64);
    assert!(matches!(list("s3://bucket/dir*", &options), Err(DataError::AccessDenied { .. })));
}

#[test]
fn a_bucket_is_followed_to_its_region() {
    let (server, options, bytes) = store();
    let elsewhere = What::Answers(301, &[("x-amz-bucket-region", "eu-north-1")], "");
    server.fault(Method::HEAD, "/bucket/object", 1, elsewhere);
    let options = StorageOptions { region: Some("us-west-2".into()), ..options };
    assert!(read(&options).unwrap().1 == bytes);
    assert_eq!(server.seen(Method::HEAD, "/bucket/object").len(), 2);
    let regions: Vec<_> = server.seen(Method::GET, "/bucket/object").into_iter().map(|seen| seen.region).collect();
    assert_eq!(regions, [Some("eu-north-1".to_owned()), Some("eu-north-1".to_owned())]);
}
