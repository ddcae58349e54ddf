//! Ending uploads: making them visible, or making them not have been.
//!
//! Entry points: [`complete`], the driver's commit, [`abort`], and for what dead runs left
//! [`upload_states`], [`uploads_under`] and [`abort_listed`]. An object carries the mark of its
//! upload. So an upload whose end was made, but whose answer was lost, is known to be complete, and
//! completing it again does nothing.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{ChecksumType, CompletedMultipartUpload, CompletedPart};
use futures::{StreamExt, TryStreamExt};

use super::location::s3_path;
use super::objects::{as_directory, missing_is_bucket, s3_only};
use super::options::StorageOptions;
use super::retry::{Failed, Failure, Kind};
use super::runtime::wait;
use super::s3::S3;
use super::upload::{MARK, PendingUpload};
use crate::error::DataError;

/// Not all uploads could be made visible.
#[derive(Debug)]
pub struct Incomplete {
    /// The first error.
    pub error: Box<DataError>,
    /// The objects that were made, if all is as before once they are deleted; none if some took the
    /// place of others, or were there already.
    pub made: Option<Vec<String>>,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadState {
    /// It is there, and can be completed.
    Pending,
    /// Its object is visible.
    Complete,
    /// Neither: it was aborted, or its object replaced or deleted.
    Gone,
}

/// Makes all uploads visible, as far as that can be done: an error of one keeps no other back. What
/// is complete already stays so: doing it again changes nothing.
pub fn complete(uploads: &[PendingUpload], options: &StorageOptions) -> Result<(), Incomplete> {
    let (uploads, options) = (uploads.to_vec(), options.clone());
    let ended = wait(async move {
        let s3 = match S3::of(&options).await {
            Ok(s3) => s3,
            // Nothing was asked for yet, so nothing was made.
            Err(error) => return Ok((Some(Vec::new()), Some(error))),
        };
        let ends = uploads.into_iter().map(|upload| {
            let s3 = Arc::clone(&s3);
            async move { complete_one(&s3, &upload).await.map(|end| (upload.path, end)) }
        });
        let ends: Vec<_> = ends.collect();
        let mut ends = futures::stream::iter(ends).buffer_unordered(MAX_AT_ONCE);
        let (mut made, mut only_made, mut error) = (Vec::new(), true, None);
        // After an error the others still end: one under way cannot be called back.
        while let Some(end) = ends.next().await {
            match end {
                Ok((path, End::Made)) => made.push(path),
                Ok((_, End::Replaced | End::WasComplete)) => only_made = false,
                Err(failed) => error = error.or(Some(failed)),
            }
        }
        Ok((only_made.then_some(made), error))
    });
    match ended {
        Ok((_, None)) => Ok(()),
        Ok((made, Some(error))) => Err(Incomplete { error: Box::new(error), made }),
        // Nobody knows how far it came.
        Err(error) => Err(Incomplete { error: Box::new(error), made: None }),
    }
}

/// How far each upload is, in their order.
pub fn upload_states(uploads: &[PendingUpload], options: &StorageOptions) -> Result<Vec<UploadState>, DataError> {
    let (uploads, options) = (uploads.to_vec(), options.clone());
    wait(async move {
        let s3 = S3::of(&options).await?;
        let states = uploads.into_iter().map(|upload| {
            let s3 = Arc::clone(&s3);
            async move { state_of(&s3, &upload).await }
        });
        let states: Vec<_> = states.collect();
        futures::stream::iter(states).buffered(MAX_AT_ONCE).try_collect().await
    })
}

/// Gives uploads up. One that is gone, or complete, is left alone.
pub fn abort(uploads: &[PendingUpload], options: &StorageOptions) -> Result<(), DataError> {
    abort_listed(uploads.iter().map(|upload| (upload.path.clone(), upload.upload_id.clone())).collect(), options)
}

/// The paths and ids of all uploads under the directory `path`.
pub fn uploads_under(path: &str, options: &StorageOptions) -> Result<Vec<(String, String)>, DataError> {
    let ((bucket, key), options) = (s3_only(path)?, options.clone());
    wait(async move {
        let s3 = S3::of(&options).await?;
        let found = keys_of_uploads(&s3, &bucket, &as_directory(&key)).await?;
        Ok(found.into_iter().map(|(key, id)| (s3_path(&bucket, &key), id)).collect())
    })
}

/// Gives up uploads by their paths and ids: all that can be, whatever becomes of others.
pub(crate) fn abort_listed(uploads: Vec<(String, String)>, options: &StorageOptions) -> Result<(), DataError> {
    let options = options.clone();
    wait(async move {
        let s3 = S3::of(&options).await?;
        let ends = uploads.into_iter().map(|(path, upload_id)| {
            let s3 = Arc::clone(&s3);
            async move {
                let (bucket, key) = s3_only(&path)?;
                end_upload(&s3, &bucket, &key, &upload_id).await
            }
        });
        let ends: Vec<_> = ends.collect();
        let ends: Vec<Result<(), DataError>> =
            futures::stream::iter(ends).buffer_unordered(MAX_AT_ONCE).collect().await;
        ends.into_iter().collect()
    })
}

/// How an upload came to be complete.
enum End {
    /// Now, where nothing was.
    Made,
    /// Now, in place of another object.
    Replaced,
    /// Before.
    WasComplete,
}

async fn complete_one(s3: &S3, upload: &PendingUpload) -> Result<End, DataError> {
    let (bucket, key) = s3_only(&upload.path)?;
    let before = object_at(s3, &bucket, &key).await.map_err(|failed| s3.error(&upload.path, COMMIT, failed))?;
    let made = match before {
        Some(Some(mark)) if mark == upload.mark => return Ok(End::WasComplete),
        Some(_) => End::Replaced,
        None => End::Made,
    };
    let send = |client: Client| {
        let (bucket, key) = (bucket.clone(), key.clone());
        async move {
            let request = client
                .complete_multipart_upload()
                .bucket(bucket)
                .key(key)
                .upload_id(&upload.upload_id)
                .checksum_type(ChecksumType::FullObject)
                .multipart_upload(parts(upload))
                .send();
            s3.answer(COMPLETE_TIME, request).await
        }
    };
    let Err(failed) = s3.call(&bucket, send).await else {
        return Ok(made);
    };
    // The end may have been made though its answer was lost; then the upload is gone.
    match object_at(s3, &bucket, &key).await {
        Ok(Some(Some(mark))) if mark == upload.mark => Ok(made),
        _ => Err(s3.error(&upload.path, COMMIT, upload_is_gone(failed))),
    }
}

async fn state_of(s3: &S3, upload: &PendingUpload) -> Result<UploadState, DataError> {
    let (bucket, key) = s3_only(&upload.path)?;
    let ask = |client: Client| {
        let request = client.list_parts().bucket(&bucket).key(&key).upload_id(&upload.upload_id).max_parts(1).send();
        s3.answer(Duration::ZERO, request)
    };
    match s3.call(&bucket, ask).await {
        Ok(listed) if !listed.parts().is_empty() => return Ok(UploadState::Pending),
        // Every upload has a part; some stores list none where others say that there is no upload.
        Ok(_) => {}
        Err(failed) if failed.failure.kind == Kind::NotFound => {}
        Err(failed) => return Err(s3.error(&upload.path, "find the upload of", failed)),
    }
    match object_at(s3, &bucket, &key).await {
        Ok(Some(Some(mark))) if mark == upload.mark => Ok(UploadState::Complete),
        Ok(_) => Ok(UploadState::Gone),
        Err(failed) => Err(s3.error(&upload.path, "find", failed)),
    }
}

fn parts(upload: &PendingUpload) -> CompletedMultipartUpload {
    let part = |(number, part): (i32, &super::upload::Part)| {
        CompletedPart::builder()
            .part_number(number)
            .set_e_tag(part.etag.clone())
            .set_checksum_crc32(part.crc32.clone())
            .build()
    };
    CompletedMultipartUpload::builder().set_parts(Some((1..).zip(&upload.parts).map(part).collect())).build()
}

/// The mark of the object with this key, if there is one.
async fn object_at(s3: &S3, bucket: &str, key: &str) -> Result<Option<Option<String>>, Failed> {
    let head = |client: Client| async move {
        let answer = s3.answer(Duration::ZERO, client.head_object().bucket(bucket).key(key).send()).await?;
        Ok(answer.metadata().and_then(|metadata| metadata.get(MARK)).cloned())
    };
    match s3.call(bucket, head).await {
        Ok(mark) => Ok(Some(mark)),
        Err(failed) if failed.failure.kind == Kind::NotFound => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// Gives an upload up. One that is not there is no error.
pub(super) async fn abort_one(s3: &S3, upload: &PendingUpload) -> Result<(), DataError> {
    let (bucket, key) = s3_only(&upload.path)?;
    end_upload(s3, &bucket, &key, &upload.upload_id).await
}

async fn end_upload(s3: &S3, bucket: &str, key: &str, upload_id: &str) -> Result<(), DataError> {
    let abort = |client: Client| async move {
        let request = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(upload_id).send();
        s3.answer(Duration::ZERO, request).await.map(|_| ())
    };
    match s3.call(bucket, abort).await {
        Err(failed) if failed.failure.kind != Kind::NotFound => Err(s3.error(&s3_path(bucket, key), "abort", failed)),
        _ => Ok(()),
    }
}

/// Keys and ids of the uploads whose keys begin with `prefix`.
async fn keys_of_uploads(s3: &S3, bucket: &str, prefix: &str) -> Result<Vec<(String, String)>, DataError> {
    let mut found = Vec::new();
    let mut next: (Option<String>, Option<String>) = (None, None);
    loop {
        let ask = |client: Client| {
            let request = client
                .list_multipart_uploads()
                .bucket(bucket)
                .prefix(prefix)
                .set_key_marker(next.0.clone())
                .set_upload_id_marker(next.1.clone())
                .send();
            s3.answer(Duration::ZERO, request)
        };
        let page = s3.call(bucket, ask).await;
        let page = page.map_err(|failed| s3.error(&s3_path(bucket, prefix), "list", missing_is_bucket(failed)))?;
        let uploads = page.uploads().iter();
        found.extend(uploads.filter_map(|upload| Some((upload.key.clone()?, upload.upload_id.clone()?))));
        if !page.is_truncated().unwrap_or(false) || page.next_key_marker().is_none() {
            return Ok(found);
        }
        next = (page.next_key_marker, page.next_upload_id_marker);
    }
}

fn upload_is_gone(mut failed: Failed) -> Failed {
    if failed.failure.kind == Kind::NotFound {
        let cause = format!("its upload is gone, aborted by somebody: {}", failed.failure.cause);
        failed.failure = Failure::lasting(cause);
    }
    failed
}

/// What is done with a file here, for people.
const COMMIT: &str = "commit";
/// How many uploads end at the same time.
const MAX_AT_ONCE: usize = 16;
/// How much longer than others S3 may take to put an object together from its parts.
const COMPLETE_TIME: Duration = Duration::from_secs(120);
