//! What a commit needs beside reading and uploading: whether something is there, small objects
//! written and read at once, and objects deleted.
//!
//! Entry points: [`exists`], [`put_small`], [`read_small`] and [`delete`].

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::body::Stat;
use super::list::RemoteEntry;
use super::location::{Location, s3_path};
use super::object::Object;
use super::options::StorageOptions;
use super::retry::{Failed, Failure, Kind};
use super::runtime::wait;
use super::s3::S3;
use super::upload::upload_time;
use crate::error::DataError;

/// Whether there is a file at exactly this path.
pub fn exists(path: &str, options: &StorageOptions) -> Result<bool, DataError> {
    let (location, options) = (Location::parse(path)?, options.clone());
    wait(async move {
        match Object::of(location, &options).await?.stat().await {
            Ok(_) => Ok(true),
            Err(DataError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    })
}

/// Writes a small object in one request; it replaces what is there.
pub fn put_small(path: &str, bytes: Bytes, options: &StorageOptions) -> Result<(), DataError> {
    let ((bucket, key), options) = (s3_only(path)?, options.clone());
    let path = path.to_owned();
    wait(async move {
        let s3 = S3::of(&options).await?;
        let put = |client: Client| {
            let body = ByteStream::from(bytes.clone());
            let request = client
                .put_object()
                .bucket(&bucket)
                .key(&key)
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                .body(body)
                .send();
            s3.answer(upload_time(bytes.len()), request)
        };
        s3.call(&bucket, put).await.map_err(|failed| s3.error(&path, "write", missing_is_bucket(failed)))?;
        Ok(())
    })
}

/// The bytes of small objects as they were listed, in their order; none of one that is gone or
/// another by now.
pub(crate) fn read_small(entries: &[RemoteEntry], options: &StorageOptions) -> Result<Vec<Option<Bytes>>, DataError> {
    let (entries, options) = (entries.to_vec(), options.clone());
    wait(async move {
        let reads = entries.into_iter().map(|entry| {
            let options = options.clone();
            async move {
                let object = Object::of(Location::parse(&entry.path)?, &options).await?;
                let (whole, stat) = (0..entry.size, Stat { size: entry.size, etag: entry.etag });
                match object.get(&whole, &stat).await {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(DataError::FileChanged { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        let reads: Vec<_> = reads.collect();
        futures::stream::iter(reads).buffered(MAX_READ_AT_ONCE).try_collect().await
    })
}

/// Deletes objects; one that is not there is no error.
pub fn delete(paths: &[String], options: &StorageOptions) -> Result<(), DataError> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in paths {
        let (bucket, key) = s3_only(path)?;
        keys.entry(bucket).or_default().push(key);
    }
    let options = options.clone();
    wait(async move {
        let s3 = S3::of(&options).await?;
        for (bucket, keys) in keys {
            for keys in keys.chunks(MAX_DELETED_AT_ONCE) {
                delete_some(&s3, &bucket, keys).await?;
            }
        }
        Ok(())
    })
}

async fn delete_some(s3: &S3, bucket: &str, keys: &[String]) -> Result<(), DataError> {
    let send = |client: Client| async move {
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let objects: Vec<_> = objects.collect::<Result<_, _>>().map_err(|e| Failure::lasting(e.to_string()))?;
        let delete = Delete::builder().quiet(true).set_objects(Some(objects)).build();
        let delete = delete.map_err(|e| Failure::lasting(e.to_string()))?;
        let request = client.delete_objects().bucket(bucket).delete(delete).send();
        let answer = s3.answer(Duration::ZERO, request).await?;
        match answer.errors().first() {
            None => Ok(()),
            Some(error) => {
                let text = |text: Option<&str>| text.unwrap_or("?").to_owned();
                let cause = format!("{}: {} ({})", text(error.key()), text(error.message()), text(error.code()));
                let denied = error.code() == Some("AccessDenied");
                Err(Failure::new(if denied { Kind::Denied } else { Kind::Passing }, cause))
            }
        }
    };
    let path = || s3_path(bucket, keys.first().map_or("", String::as_str));
    s3.call(bucket, send).await.map_err(|failed| s3.error(&path(), "delete", missing_is_bucket(failed)))
}

/// Asks for a bucket: whether there is one, and who asks may.
pub(super) async fn touch_bucket(s3: &S3, bucket: &str) -> Result<(), DataError> {
    let head = |client: Client| async move {
        s3.answer(Duration::ZERO, client.head_bucket().bucket(bucket).send()).await.map(|_| ())
    };
    let touched = s3.call(bucket, head).await;
    touched.map_err(|failed| s3.error(&s3_path(bucket, ""), "use", missing_is_bucket(failed)))
}

/// Of a request that makes or removes objects, or is about a bucket: if anything is missing,
/// it is the bucket.
pub(super) fn missing_is_bucket(mut failed: Failed) -> Failed {
    if failed.failure.kind == Kind::NotFound {
        failed.failure.kind = Kind::NoSuchBucket;
    }
    failed
}

/// The bucket and the key of a path that has to be in S3.
pub(super) fn s3_only(path: &str) -> Result<(String, String), DataError> {
    match Location::parse(path)? {
        Location::S3 { bucket, key } => Ok((bucket, key)),
        location @ Location::Http { .. } => Err(DataError::InvalidLocation {
            path: location.to_string(),
            cause: "this is for objects in s3:// only: files behind a URL can be read and nothing else".into(),
        }),
    }
}

/// What the keys in a directory begin with.
pub(super) fn as_directory(key: &str) -> String {
    match key.trim_end_matches('/') {
        "" => String::new(),
        key => format!("{key}/"),
    }
}

/// How many small objects are read at the same time.
const MAX_READ_AT_ONCE: usize = 16;
/// How many objects S3 deletes in one request.
const MAX_DELETED_AT_ONCE: usize = 1000;
