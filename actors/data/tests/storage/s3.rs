//! A store that does right.

use bytes::Bytes;
use hyper::Method;
use mobula_data::DataError;
use mobula_data::storage::{Remote, StorageOptions, check_identity, delete, exists, list, put_small};

use crate::server::Server;
use crate::{keys, pattern};

#[test]
fn ranges_of_an_object_are_read() {
    let (server, bytes) = (Server::s3(), pattern(20 << 20));
    let options = server.options();
    put_small("s3://bucket/dir/a b%20ü.bin", bytes.clone(), &options).unwrap();
    let file = Remote::open("s3://bucket/dir/a b%20ü.bin", &options).unwrap();
    assert_eq!(file.size(), 20 << 20);
    assert!(file.etag().is_some());
    let size = file.size();
    for range in [0..0, 0..1, 5..1000, size - 1..size, 1..size, 0..size] {
        let read = file.read(range.clone()).unwrap();
        assert!(read == bytes.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    assert!(matches!(file.read(5..size + 1), Err(DataError::Read { .. })));

    let far_and_near = [10 << 20..(10 << 20) + 7, 0..100, 300..400, 50..60, 7..7];
    let before = server.seen(Method::GET, "dir").len();
    let read = file.read_ranges(&far_and_near).unwrap();
    for (range, read) in far_and_near.iter().zip(read) {
        assert!(read == bytes.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    assert_eq!(server.seen(Method::GET, "dir").len() - before, 2);
}

#[test]
fn an_empty_object_has_no_bytes() {
    let server = Server::s3();
    put_small("s3://bucket/empty", Bytes::new(), &server.options()).unwrap();
    let file = Remote::open("s3://bucket/empty", &server.options()).unwrap();
    assert_eq!((file.size(), file.read(0..0).unwrap()), (0, Bytes::new()));
}

#[test]
fn what_a_path_means() {
    let server = Server::s3();
    let options = server.options();
    for key in
        ["d/b.parquet", "d/a/x.parquet", "d/a.parquet", "d/_SUCCESS", "d/.h/y.parquet", "d2/z.parquet", "d/[1].parquet"]
    {
        put_small(&format!("s3://bucket/{key}"), Bytes::from_static(b"1234"), &options).unwrap();
    }
    let all = ["d/[1].parquet", "d/a/x.parquet", "d/a.parquet", "d/b.parquet"];
    assert_eq!(keys("s3://bucket/d", &options), all);
    assert_eq!(keys("s3://bucket/d/", &options), all);
    assert_eq!(keys("s3://bucket/d/b.parquet", &options), ["d/b.parquet"]);
    assert_eq!(keys("s3://bucket/d/[1].parquet", &options), ["d/[1].parquet"]);
    assert_eq!(keys("s3://bucket/d/[ab].parquet", &options), ["d/a.parquet", "d/b.parquet"]);
    assert_eq!(keys("s3://bucket/d*/z*", &options), ["d2/z.parquet"]);
    assert_eq!(keys("s3://bucket/*", &options).len(), 5);
    assert_eq!(keys("s3://bucket", &options).len(), 5);
    assert_eq!(keys("s3://bucket/x*", &options), [""; 0]);
    let entry = &list("s3://bucket/d/b.parquet", &options).unwrap()[0];
    assert_eq!((entry.size, entry.named), (4, true));
    assert_eq!(list("s3://bucket/nothing", &options), Err(DataError::NotFound { path: "s3://bucket/nothing".into() }));
    assert!(matches!(list("s3://no-bucket/x", &options), Err(DataError::NoSuchBucket { .. })));
    assert!(matches!(list("s3://bucket/[", &options), Err(DataError::InvalidLocation { .. })));
}

#[test]
fn directories_of_more_than_a_page_are_listed_whole() {
    let server = Server::s3();
    let options = server.options();
    server.make_bucket("many");
    for n in 0..2100 {
        // Not by requests: this test is about listing.
        server.put_file("many", &format!("{n:04}"), b"x");
    }
    let entries = list("s3://many", &options).unwrap();
    let paths: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(paths, (0..2100).map(|n| format!("s3://many/{n:04}")).collect::<Vec<_>>());
    assert!(server.seen(Method::GET, "continuation-token").len() >= 2);
}

#[test]
fn objects_are_looked_for_written_and_deleted() {
    let server = Server::s3();
    let options = server.options();
    let nothing = || matches!(list("s3://bucket/a", &options), Err(DataError::NotFound { .. }));
    assert!(!exists("s3://bucket/a/b", &options).unwrap());
    assert!(nothing());
    put_small("s3://bucket/a/b", Bytes::from_static(b"x"), &options).unwrap();
    put_small("s3://bucket/ab", Bytes::from_static(b"x"), &options).unwrap();
    assert!(exists("s3://bucket/a/b", &options).unwrap());
    assert_eq!(keys("s3://bucket/a", &options), ["a/b"]);
    delete(&["s3://bucket/a/b".into(), "s3://bucket/a/never".into()], &options).unwrap();
    assert!(!exists("s3://bucket/a/b", &options).unwrap());
    assert!(nothing());
    assert!(exists("s3://bucket/ab", &options).unwrap());
    assert!(matches!(put_small("https://host/x", Bytes::new(), &options), Err(DataError::InvalidLocation { .. })));
}

#[test]
fn what_is_missing_is_told_apart() {
    let server = Server::s3();
    let options = server.options();
    let missing = Remote::open("s3://bucket/x", &options).unwrap_err();
    assert_eq!(missing, DataError::NotFound { path: "s3://bucket/x".into() });
    for error in [
        Remote::open("s3://no-bucket/x", &options).unwrap_err(),
        check_identity("s3://no-bucket/x", &options).unwrap_err(),
    ] {
        assert!(matches!(&error, DataError::NoSuchBucket { endpoint, .. } if *endpoint == server.url()), "{error}");
    }
}

#[test]
fn who_asks_without_credentials_signs_nothing() {
    let server = Server::public_s3();
    let options = StorageOptions { anonymous: true, access_key_id: None, secret_access_key: None, ..server.options() };
    put_small("s3://bucket/a", Bytes::from_static(b"public"), &options).unwrap();
    let file = Remote::open("s3://bucket/a", &options).unwrap();
    assert_eq!(file.read(0..6).unwrap(), "public");
    assert!(!server.seen(Method::GET, "").is_empty());
    assert!(server.seen(Method::GET, "").iter().chain(&server.seen(Method::PUT, "")).all(|seen| !seen.signed));
}

#[test]
fn a_wrong_key_is_denied_and_told_without_its_secret() {
    let server = Server::s3();
    let options = StorageOptions { secret_access_key: Some("w0rd".into()), ..server.options() };
    assert_eq!(check_identity("s3://bucket/x", &server.options()), Ok(()));
    for error in [
        check_identity("s3://bucket/x", &options).unwrap_err(),
        Remote::open("s3://bucket/x", &options).unwrap_err(),
        put_small("s3://bucket/x", Bytes::new(), &options).unwrap_err(),
    ] {
        assert!(matches!(error, DataError::AccessDenied { .. }), "{error}");
        assert!(error.to_string().contains("the options' own key AKIATEST…"), "{error}");
        assert!(!error.to_string().contains("w0rd"), "{error}");
    }
    let told = check_identity("s3://bucket/x", &options).unwrap_err().to_string();
    assert!(told.contains(&server.url()) && told.contains("us-east-1") && told.contains("check the key"), "{told}");
}

#[test]
fn threads_of_another_runtime_may_ask() {
    let server = Server::s3();
    let options = server.options();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async move {
        let asked = move || put_small("s3://bucket/a", Bytes::from_static(b"x"), &options);
        tokio::task::spawn_blocking(asked).await.unwrap().unwrap();
    });
}
