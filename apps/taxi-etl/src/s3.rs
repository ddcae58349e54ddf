//! What the command line says of stores.
//!
//! Entry type: [`S3Args`].

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use mobula::{DataError, StorageOptions};
use mobula_data::storage::{check_identity, is_remote};

/// How S3 is reached. What is not given is looked for where AWS's own tools look.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "S3")]
pub struct S3Args {
    /// Ask without credentials, as public buckets allow.
    #[arg(long, conflicts_with = "profile")]
    pub anonymous: bool,
    /// The region of the buckets.
    #[arg(long)]
    pub region: Option<String>,
    /// Where the store is, when it is not S3 itself: http://localhost:9000.
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// The profile in the files of AWS's tools.
    #[arg(long)]
    pub profile: Option<String>,
}

impl S3Args {
    /// How stores are reached.
    #[must_use]
    pub fn options(&self) -> StorageOptions {
        StorageOptions {
            anonymous: self.anonymous,
            region: self.region.clone(),
            endpoint_url: self.endpoint_url.clone(),
            profile: self.profile.clone(),
            ..StorageOptions::default()
        }
    }

    /// The same, once it is known that the stores of these paths answer to who asks. Wrong
    /// credentials are told before anything else is done.
    ///
    /// # Errors
    /// [`DataError`], which says where credentials were looked for.
    pub fn checked(&self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<StorageOptions, DataError> {
        let options = self.options();
        options.check()?;
        let mut buckets = BTreeSet::new();
        for path in paths {
            let Some(path) = path.as_ref().to_str().filter(|path| is_remote(path)) else {
                continue;
            };
            // Once for a bucket: a job may name thousands of its files.
            let bucket = path.split('/').take(BUCKET_PARTS).collect::<Vec<_>>().join("/");
            if buckets.insert(bucket) {
                check_identity(path, &options)?;
            }
        }
        Ok(options)
    }
}

/// `s3:`, nothing, and the bucket.
const BUCKET_PARTS: usize = 3;
