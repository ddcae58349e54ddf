//! One file in a store, or behind a URL.
//!
//! Entry type: [`Object`], which hides the difference from what reads it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;

use super::body::{Answer, Stat, range_header};
use super::http::Http;
use super::location::Location;
use super::options::StorageOptions;
use super::retry::{Failed, Failure, Kind};
use super::s3::S3;
use crate::error::DataError;

/// One file in a store, or behind a URL.
#[derive(Debug, Clone)]
pub(super) enum Object {
    S3 { s3: Arc<S3>, bucket: String, key: String },
    Http { http: Arc<Http>, url: String },
}

impl Object {
    pub(super) async fn of(location: Location, options: &StorageOptions) -> Result<Object, DataError> {
        match location {
            Location::S3 { key, bucket } if key.is_empty() => Err(DataError::InvalidLocation {
                path: Location::S3 { bucket, key }.to_string(),
                cause: "it names a bucket and no object in it".into(),
            }),
            Location::S3 { bucket, key } => Ok(Object::S3 { s3: S3::of(options).await?, bucket, key }),
            Location::Http { url } => Ok(Object::Http { http: Http::of(options).await?, url }),
        }
    }

    /// Which state the file is in.
    pub(super) async fn stat(&self) -> Result<Stat, DataError> {
        match self {
            Object::S3 { s3, bucket, key } => {
                let head = |client: Client| async move {
                    let sent = s3.answer(Duration::ZERO, client.head_object().bucket(bucket).key(key).send()).await?;
                    let size = sent.content_length().and_then(|length| u64::try_from(length).ok());
                    let size = size.ok_or_else(|| Failure::lasting("the store does not say how large it is"))?;
                    Ok(Stat { size, etag: sent.e_tag().map(str::to_owned) })
                };
                match s3.call(bucket, head).await {
                    // The answer has no body that says which of the two is missing.
                    Err(failed) if failed.failure.kind == Kind::NotFound => Err(self.missing(failed).await),
                    found => found.map_err(|failed| self.error(READ, failed)),
                }
            }
            Object::Http { http, url } => http.stat(url).await.map_err(|failed| self.error(READ, failed)),
        }
    }

    /// The bytes of a range, which is not empty, of the file in the state `stat`.
    pub(super) async fn get(&self, range: &Range<u64>, stat: &Stat) -> Result<Bytes, DataError> {
        let got = match self {
            Object::S3 { s3, bucket, key } => {
                let get = |client: Client| async move {
                    let answer = ask(s3, &client, bucket, key, range, stat).await?;
                    answer.bytes(range, stat, s3.options().stall_timeout).await
                };
                s3.call(bucket, get).await
            }
            Object::Http { http, url } => http.get(url, range, stat).await,
        };
        got.map_err(|failed| match failed.failure.kind {
            // It was there before.
            Kind::NotFound => DataError::FileChanged { path: self.path(), cause: "it is gone".into() },
            _ => self.error(READ, failed),
        })
    }

    /// The path, as errors show it.
    pub(super) fn path(&self) -> String {
        match self {
            Object::S3 { bucket, key, .. } => super::location::s3_path(bucket, key),
            Object::Http { url, .. } => super::location::shown(url),
        }
    }

    async fn missing(&self, failed: Failed) -> DataError {
        if let Object::S3 { s3, bucket, .. } = self
            && let Err(error @ DataError::NoSuchBucket { .. }) = super::objects::touch_bucket(s3, bucket).await
        {
            return error;
        }
        self.error(READ, failed)
    }

    fn error(&self, operation: &str, failed: Failed) -> DataError {
        match self {
            Object::S3 { s3, .. } => s3.error(&self.path(), operation, failed),
            Object::Http { http, .. } => http.error(&self.path(), operation, failed),
        }
    }
}

/// Asks for a range. The whole file is asked for as such, since stores keep checksums of whole
/// files, which the SDK then checks.
async fn ask(
    s3: &S3,
    client: &Client,
    bucket: &str,
    key: &str,
    range: &Range<u64>,
    stat: &Stat,
) -> Result<Answer, Failure> {
    let mut request = client.get_object().bucket(bucket).key(key).set_if_match(stat.etag.clone());
    if *range != (0..stat.size) {
        request = request.range(range_header(range));
    }
    let sent = s3.answer(Duration::ZERO, request.send()).await?;
    Ok(Answer {
        content_range: sent.content_range,
        content_length: sent.content_length.and_then(|length| u64::try_from(length).ok()),
        etag: sent.e_tag,
        body: sent.body,
    })
}

/// What is done with a file here, for people.
const READ: &str = "read";
