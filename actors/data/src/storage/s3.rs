//! The client of an S3 store.
//!
//! Entry type: [`S3`]. It knows who asks, where, and how patiently. A bucket that turns out to
//! be in another region is asked there from then on.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::cache::Cache;
use super::credentials::{advice, sources};
use super::failure;
use super::options::StorageOptions;
use super::retry::{Failed, Failure, Kind, Retry};
use crate::error::DataError;

/// The client of an S3 store.
#[derive(Debug)]
pub(super) struct S3 {
    client: Client,
    /// Clients for buckets that are in another region than was said.
    elsewhere: Mutex<HashMap<String, Client>>,
    retry: Retry,
    options: StorageOptions,
    region: String,
    /// Where the store is, for people.
    endpoint: String,
    /// Where credentials are looked for, for people.
    tried: Vec<String>,
}

impl S3 {
    /// The client for `options`: the one there is, or a new one.
    pub(super) async fn of(options: &StorageOptions) -> Result<Arc<S3>, DataError> {
        static CLIENTS: Cache<S3> = Cache::new();
        options.check()?;
        CLIENTS.get(options, S3::new(options)).await
    }

    async fn new(options: &StorageOptions) -> Result<S3, DataError> {
        let config = load(options).await;
        let endpoint = options
            .endpoint_url
            .clone()
            .or_else(|| config.endpoint_url().map(str::to_owned))
            .or_else(|| std::env::var(S3_ENDPOINT_VARIABLE).ok());
        let region = config.region().map_or(FALLBACK_REGION, Region::as_ref).to_owned();
        let mut builder = aws_sdk_s3::config::Builder::from(&config)
            .region(Region::new(region.clone()))
            .force_path_style(options.path_style.unwrap_or(endpoint.is_some()))
            // Both are done here, where the body counts, too.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(options.connect_timeout).build());
        if let Some(url) = &endpoint {
            builder = builder.endpoint_url(url);
        }
        if options.anonymous {
            builder = builder.allow_no_auth();
        }
        Ok(S3 {
            client: Client::from_conf(builder.build()),
            elsewhere: Mutex::default(),
            retry: Retry::new(options),
            options: options.clone(),
            endpoint: endpoint.unwrap_or_else(|| format!("s3 in {region}")),
            region,
            tried: sources(options, &|name| std::env::var(name).ok()),
        })
    }

    /// Makes one kind of request until it ends well or for good. `bucket` is the one it is about.
    pub(super) async fn call<T, F>(&self, bucket: &str, mut attempt: impl FnMut(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let failed = match self.retry.run(|| attempt(self.client(bucket))).await {
            Err(failed) => failed,
            done => return done,
        };
        let Kind::OtherRegion(region) = &failed.failure.kind else {
            return Err(failed);
        };
        if *region == self.region || self.elsewhere.lock().contains_key(bucket) {
            return Err(failed);
        }
        tracing::info!(bucket, region, "the bucket is in another region");
        let config = self.client.config().to_builder().region(Region::new(region.clone())).build();
        self.elsewhere.lock().insert(bucket.to_owned(), Client::from_conf(config));
        self.retry.run(|| attempt(self.client(bucket))).await
    }

    /// Waits for the answer to one request. `extra` is for what the request sends.
    pub(super) async fn answer<T, E>(
        &self,
        extra: Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let limit = self.options.request_timeout + extra;
        match timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| failure::of_sdk(&error)),
            Err(_) => Err(Failure::passing(format!("no answer within {limit:?} from {}", self.endpoint))),
        }
    }

    /// What to tell of a request about `path` that failed for good.
    pub(super) fn error(&self, path: &str, operation: &str, failed: Failed) -> DataError {
        failure::error(path, operation, &self.endpoint, &self.tried, advice(&self.options), failed)
    }

    pub(super) fn options(&self) -> &StorageOptions {
        &self.options
    }

    /// Where the store is, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    fn client(&self, bucket: &str) -> Client {
        self.elsewhere.lock().get(bucket).unwrap_or(&self.client).clone()
    }
}

/// What the environment, the files of AWS's tools and `options` say, the last before the others.
async fn load(options: &StorageOptions) -> aws_config::SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    let known = options.region.clone().map(Region::new);
    loader = match (known, options.anonymous || options.endpoint_url.is_some()) {
        (Some(region), _) => loader.region(region),
        // Not worth asking an instance for that is perhaps none.
        (None, true) => loader.region(
            RegionProviderChain::first_try(aws_config::environment::region::EnvironmentVariableRegionProvider::new())
                .or_else(Region::new(FALLBACK_REGION)),
        ),
        (None, false) => loader,
    };
    if options.anonymous {
        loader = loader.no_credentials();
    } else if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        loader =
            loader.credentials_provider(Credentials::new(id, secret, options.session_token.clone(), None, "options"));
    }
    loader.load().await
}

/// The region where none is set: any will do where buckets tell theirs.
const FALLBACK_REGION: &str = "us-east-1";
/// The SDK reads it by itself, too; here it decides how buckets are named.
const S3_ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL_S3";
