//! Uploading an object that nobody sees yet.
//!
//! Entry types: [`RemoteWriter`], which takes the bytes, and [`PendingUpload`], which it leaves:
//! all that [`complete`](super::complete) needs, on whatever machine. Small objects are uploaded
//! in parts, too, since only an upload in parts has an end that somebody else can make.
//!
//! ```text
//! write, write ─▶ part of 8 MiB ─▶ up to 4 on their way ─▶ finish ─▶ PendingUpload ─▶ complete
//!       └ dropped without finish: aborted                      (a task)   (the driver)
//! ```

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::commit::abort_one;
use super::location::s3_path;
use super::objects::{missing_is_bucket, s3_only};
use super::options::StorageOptions;
use super::retry::{Failure, Kind};
use super::runtime::{handle, wait};
use super::s3::S3;
use crate::error::DataError;

/// An object that is uploaded and not visible. It takes room in the store until it is completed
/// or aborted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingUpload {
    /// Where the object will be.
    pub path: String,
    /// The store's name for the upload.
    pub upload_id: String,
    /// What the object will carry, to be known by.
    pub(super) mark: String,
    /// Bytes of the object.
    pub size: u64,
    pub(super) parts: Vec<Part>,
}

/// A part that is uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) etag: Option<String>,
    pub(super) crc32: Option<String>,
}

/// Writes an object that is visible once its upload is completed. Dropped before it is finished,
/// it aborts the upload.
#[derive(Debug)]
pub struct RemoteWriter {
    s3: Arc<S3>,
    upload: PendingUpload,
    bucket: String,
    key: String,
    /// The part that is being filled.
    buffer: BytesMut,
    /// The parts on their way, in order.
    sending: VecDeque<JoinHandle<Result<Part, DataError>>>,
    finished: bool,
}

impl RemoteWriter {
    /// Begins to upload an object that will be at `path`.
    pub fn create(path: &str, options: &StorageOptions) -> Result<RemoteWriter, DataError> {
        let ((bucket, key), options) = (s3_only(path)?, options.clone());
        if key.is_empty() || key.ends_with('/') {
            let cause = "it names a bucket or a directory, and no object to write".into();
            return Err(DataError::InvalidLocation { path: path.into(), cause });
        }
        wait(async move {
            let s3 = S3::of(&options).await?;
            let mark = format!("{:032x}", rand::random::<u128>());
            let upload_id = begin(&s3, &bucket, &key, &mark).await?;
            let upload = PendingUpload { path: s3_path(&bucket, &key), upload_id, mark, size: 0, parts: Vec::new() };
            let (buffer, sending) = (BytesMut::new(), VecDeque::new());
            Ok(RemoteWriter { s3, upload, bucket, key, buffer, sending, finished: false })
        })
    }

    /// The path of the object.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.upload.path
    }

    /// Uploads what is left. The object is not visible yet.
    pub fn finish(mut self) -> Result<PendingUpload, DataError> {
        // An object without bytes has one part without bytes.
        if !self.buffer.is_empty() || self.upload.size == 0 {
            self.send()?;
        }
        while !self.sending.is_empty() {
            self.settle()?;
        }
        self.finished = true;
        Ok(self.upload.clone())
    }

    /// Sends the buffer as a part, once fewer than the most are on their way.
    fn send(&mut self) -> Result<(), DataError> {
        while self.sending.len() >= MAX_SENDING {
            self.settle()?;
        }
        let number = self.upload.parts.len() + self.sending.len() + 1;
        let number = i32::try_from(number).ok().filter(|number| *number <= MAX_PARTS).ok_or_else(|| {
            let cause = format!("an object has {MAX_PARTS} parts at most, and this one needs more");
            DataError::Write { path: self.upload.path.clone(), cause }
        })?;
        let part = self.buffer.split().freeze();
        let (s3, bucket, key) = (Arc::clone(&self.s3), self.bucket.clone(), self.key.clone());
        let upload_id = self.upload.upload_id.clone();
        let send = async move { send_part(&s3, &bucket, &key, &upload_id, number, part).await };
        self.sending.push_back(handle()?.spawn(send));
        Ok(())
    }

    /// Waits for the first of the parts on their way.
    fn settle(&mut self) -> Result<(), DataError> {
        let Some(sending) = self.sending.pop_front() else {
            return Ok(());
        };
        let path = self.upload.path.clone();
        let part = wait(async move {
            let lost = |error: tokio::task::JoinError| DataError::Write { path, cause: error.to_string() };
            sending.await.map_err(lost)?
        })?;
        self.upload.parts.push(part);
        Ok(())
    }

    /// How large the part must be that is being filled.
    fn part_bytes(&self) -> usize {
        let before = self.upload.parts.len() + self.sending.len();
        PART_BYTES << (before / PARTS_OF_A_SIZE)
    }
}

impl Write for RemoteWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.part_bytes() - self.buffer.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.buffer.extend_from_slice(taken);
        self.upload.size += taken.len() as u64;
        if taken.len() == room {
            self.send().map_err(io::Error::other)?;
        }
        Ok(taken.len())
    }

    /// Sends nothing: parts have a least size.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for RemoteWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let Ok(handle) = handle() else {
            return;
        };
        let (s3, upload) = (Arc::clone(&self.s3), self.upload.clone());
        let sending: Vec<_> = self.sending.drain(..).collect();
        let (done, ended) = mpsc::sync_channel(1);
        handle.spawn(async move {
            // A part that arrives after the end of its upload would stay, and one that is cancelled may have
            // been sent already.
            let until = tokio::time::Instant::now() + PART_WAIT;
            for mut part in sending {
                if tokio::time::timeout_at(until, &mut part).await.is_err() {
                    part.abort();
                    let _ = part.await;
                }
            }
            if let Err(error) = abort_one(&s3, &upload).await {
                tracing::warn!(path = upload.path, %error, "an upload that was given up is left in the store");
            }
            let _ = done.send(());
        });
        // It goes on by itself if it takes longer.
        let _ = ended.recv_timeout(ABORT_WAIT);
    }
}

async fn begin(s3: &S3, bucket: &str, key: &str, mark: &str) -> Result<String, DataError> {
    let create = |client: Client| async move {
        let request = client
            .create_multipart_upload()
            .bucket(bucket)
            .key(key)
            .metadata(MARK, mark)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            // So that who reads the whole object can check it, whatever its parts were.
            .checksum_type(ChecksumType::FullObject)
            .send();
        let answer = s3.answer(Duration::ZERO, request).await?;
        answer.upload_id.ok_or_else(|| Failure::lasting("the store gave the upload no name"))
    };
    let begun = s3.call(bucket, create).await;
    begun.map_err(|failed| s3.error(&s3_path(bucket, key), WRITE, missing_is_bucket(failed)))
}

async fn send_part(
    s3: &S3,
    bucket: &str,
    key: &str,
    upload_id: &str,
    number: i32,
    bytes: Bytes,
) -> Result<Part, DataError> {
    let send = |client: Client| {
        let bytes = bytes.clone();
        async move {
            let length = bytes.len();
            let request = client
                .upload_part()
                .bucket(bucket)
                .key(key)
                .upload_id(upload_id)
                .part_number(number)
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                .body(ByteStream::from(bytes))
                .send();
            let answer = s3.answer(upload_time(length), request).await.map_err(upload_is_gone)?;
            Ok(Part { etag: answer.e_tag, crc32: answer.checksum_crc32 })
        }
    };
    s3.call(bucket, send).await.map_err(|failed| s3.error(&s3_path(bucket, key), WRITE, failed))
}

/// What is not found when a part is sent is not the object: it is the upload.
fn upload_is_gone(failure: Failure) -> Failure {
    match failure.kind {
        Kind::NotFound => Failure::lasting(format!("somebody ended the upload: {}", failure.cause)),
        _ => failure,
    }
}

/// How long it may take to send so many bytes, beside what a request may take anyway.
pub(super) fn upload_time(bytes: usize) -> Duration {
    Duration::from_secs((bytes / MIN_UPLOAD_BYTES_PER_SECOND) as u64)
}

/// The metadata by which an object is known to be of an upload.
pub(super) const MARK: &str = "mobula-upload";
/// What is done with a file here, for people.
const WRITE: &str = "write";
/// Bytes of a part. S3 takes no less than five MiB, except for the last.
const PART_BYTES: usize = 8 << 20;
/// After so many parts, they are twice as large: large objects need not too many.
const PARTS_OF_A_SIZE: usize = 2000;
/// The most parts that S3 lets an object have.
const MAX_PARTS: i32 = 10_000;
/// How many parts of a writer are on their way at the same time.
const MAX_SENDING: usize = 4;
/// Slower than this, an upload counts as stalled.
const MIN_UPLOAD_BYTES_PER_SECOND: usize = 64 << 10;
/// How long a writer that is dropped lets the parts that are on their way arrive.
const PART_WAIT: Duration = Duration::from_secs(2);
/// How long a writer that is dropped waits for its upload's end.
const ABORT_WAIT: Duration = Duration::from_secs(10);
