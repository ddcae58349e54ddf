//! Files behind URLs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use mobula_data::DataError;
use mobula_data::storage::{Remote, RemoteFile, StorageOptions, exists, list};

use crate::server::{Files, Server, What};
use crate::{patient, pattern};

const SIZE: u64 = 100_000;

fn options() -> StorageOptions {
    StorageOptions { max_attempts: 3, first_wait: Duration::from_millis(1), ..StorageOptions::default() }
}

/// A server with a file.
fn with(files: Files) -> (Server, Arc<Files>, String) {
    let files = Arc::new(files);
    files.put("/a.bin", pattern(SIZE as usize), Some("\"one\""));
    let server = Server::files(Arc::clone(&files));
    let url = format!("{}/a.bin", server.url());
    (server, files, url)
}

fn check(file: &RemoteFile) {
    let bytes = pattern(SIZE as usize);
    assert_eq!(file.size(), SIZE);
    assert!(file.read(1000..50_000).unwrap() == bytes.slice(1000..50_000));
    assert!(file.read(0..SIZE).unwrap() == bytes);
}

#[test]
fn ranges_of_a_file_are_read() {
    let (server, _, url) = with(Files::default());
    check(&Remote::open(&url, &options()).unwrap());
    let ranges: Vec<_> = server.seen(Method::GET, "").into_iter().filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=1000-49999", "bytes=0-99999"]);
    assert!(exists(&url, &options()).unwrap());
    let entry = &list(&url, &options()).unwrap()[0];
    assert_eq!((entry.size, entry.etag.as_deref()), (SIZE, Some("\"one\"")));
    check(&Remote::open_known(entry, &options()).unwrap());
}

#[test]
fn servers_that_can_less_are_read_too() {
    let (_server, _, url) = with(Files { no_head: true, ..Files::default() });
    check(&Remote::open(&url, &options()).unwrap());
    let (_server, _, url) = with(Files { whole_only: true, ..Files::default() });
    check(&Remote::open(&url, &options()).unwrap());
    let (_server, files, url) = with(Files { no_head: true, ..Files::default() });
    files.put("/a.bin", Bytes::new(), None);
    assert_eq!(Remote::open(&url, &options()).unwrap().size(), 0);
    let (_server, files, url) = with(Files::default());
    files.put("/a.bin", pattern(SIZE as usize), Some("W/\"weak\""));
    check(&Remote::open(&url, &options()).unwrap());
}

#[test]
fn a_large_file_of_a_server_without_ranges_is_not_read_in_parts() {
    let (_server, files, url) = with(Files { whole_only: true, ..Files::default() });
    files.put("/a.bin", pattern(65 << 20), None);
    let error = Remote::open(&url, &options()).unwrap().read(0..10).unwrap_err();
    assert!(error.to_string().contains("the server cannot send parts of a file"), "{error}");
}

#[test]
fn a_file_that_is_replaced_between_two_ranges_is_not_read_on() {
    for no_conditions in [false, true] {
        let (_server, files, url) = with(Files { no_conditions, ..Files::default() });
        let file = Remote::open(&url, &options()).unwrap();
        file.read(0..1000).unwrap();
        files.put("/a.bin", vec![0; SIZE as usize], Some("\"two\""));
        let error = file.read(1000..2000).unwrap_err();
        assert!(matches!(error, DataError::FileChanged { .. }), "{error}");
        files.files.lock().unwrap().clear();
        let error = file.read(1000..2000).unwrap_err();
        assert!(matches!(error, DataError::FileChanged { .. }), "{error}");
    }
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (server, files, url) = with(Files::default());
    server.fault(Method::HEAD, "/old", 1, What::Answers(302, &[("location", "/a.bin")], ""));
    server.fault(Method::GET, "/old", 2, What::Answers(308, &[("location", "/a.bin")], ""));
    check(&Remote::open(&url.replace("a.bin", "old"), &options()).unwrap());
    files.put("/loop", "", None);
    server.fault(Method::HEAD, "/loop", 100, What::Answers(302, &[("location", "/loop")], ""));
    let error = Remote::open(&url.replace("a.bin", "loop"), &options()).unwrap_err();
    assert!(error.to_string().contains("redirects more than 5 times"), "{error}");
}

#[test]
fn what_goes_wrong_passes_or_is_told_without_the_query() {
    let passing = [
        What::Answers(503, &[("retry-after", "0")], ""),
        What::Answers(500, &[], ""),
        What::Silent,
        What::Drops(700),
        What::Stalls(700),
        What::Shortens(700),
    ];
    for what in passing {
        let (server, _, url) = with(Files::default());
        let options = patient(options(), &what);
        server.fault(Method::GET, "/a.bin", 2, what.clone());
        check(&Remote::open(&url, &options).unwrap());
        server.fault(Method::GET, "/a.bin", usize::MAX, what);
        let file = Remote::open(&format!("{url}?token=t0k3n"), &options).unwrap();
        match file.read(0..1000).unwrap_err() {
            DataError::Remote { path, attempts, .. } => assert_eq!((path, attempts), (url, 3)),
            error => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_missing_or_forbidden_is_told_apart() {
    let (server, _, url) = with(Files::default());
    let missing = format!("{}/b.bin", server.url());
    assert_eq!(Remote::open(&missing, &options()).unwrap_err(), DataError::NotFound { path: missing.clone() });
    assert!(!exists(&missing, &options()).unwrap());
    server.fault(Method::HEAD, "/a.bin", usize::MAX, What::Answers(403, &[], ""));
    server.fault(Method::GET, "/a.bin", usize::MAX, What::Answers(403, &[], ""));
    let error = Remote::open(&url, &options()).unwrap_err();
    assert!(matches!(error, DataError::AccessDenied { .. }), "{error}");
    assert_eq!(server.seen(Method::GET, "/a.bin").len(), 1);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let (server, _, url) = with(Files::default());
    let host = server.url();
    drop(server);
    let error = Remote::open(&url, &options()).unwrap_err().to_string();
    let told = format!("cannot read {url}: cannot reach the server at {host} (connection refused): is it running,");
    assert!(error.starts_with(&told), "{error}");
    // It speaks, but not what the URL says.
    let (server, _, url) = with(Files::default());
    let error = Remote::open(&url.replace("http://", "https://"), &options()).unwrap_err();
    assert!(matches!(&error, DataError::Unreachable { .. }), "{error}");
    drop(server);
}
