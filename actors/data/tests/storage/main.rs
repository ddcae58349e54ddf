//! Files in stores and behind URLs: with servers in this process that do right, with the same
//! servers doing wrong, and with another implementation of S3.

mod commit;
mod faults;
mod http;
mod identity;
mod moto;
mod parquet;
mod s3;
mod server;

use std::time::Duration;

use bytes::Bytes;
use mobula_data::DataError;
use mobula_data::storage::{PendingUpload, RemoteWriter, StorageOptions};

use crate::server::What;

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8).collect::<Vec<_>>().into()
}

/// Uploads an object, which is not visible after this.
fn upload(path: &str, bytes: &[u8], options: &StorageOptions) -> Result<PendingUpload, DataError> {
    let mut writer = RemoteWriter::create(path, options)?;
    std::io::Write::write_all(&mut writer, bytes)
        .map_err(|error| mobula_data::storage::error_within(&error).expect("an error of a writer has its cause"))?;
    writer.finish()
}

/// The names of the entries below a bucket.
fn keys(path: &str, options: &StorageOptions) -> Vec<String> {
    let entries = mobula_data::storage::list(path, options).unwrap();
    entries.iter().map(|entry| entry.path.strip_prefix("s3://bucket/").unwrap().to_owned()).collect()
}

/// Gives up early what would otherwise end a test late, and nothing else: this machine may be slow.
fn patient(options: StorageOptions, what: &What) -> StorageOptions {
    match what {
        What::Silent | What::Stalls(_) => StorageOptions { request_timeout: SOON, stall_timeout: SOON, ..options },
        _ => options,
    }
}

const SOON: Duration = Duration::from_secs(1);
