//! How a store is reached: what a user may set.
//!
//! Entry type: [`StorageOptions`]. It travels with a plan to the tasks, secrets included; what
//! it prints leaves them out. Whatever is not set is looked for where AWS's own tools look for
//! it, on the machine that does the reading.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// How a store is reached. The defaults are right for S3 itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageOptions {
    /// The region; else that of the environment, of the profile, or of this instance. A bucket
    /// that is in another one is found there.
    pub region: Option<String>,
    /// Where the store is, when it is not S3 itself: `http://localhost:9000`.
    pub endpoint_url: Option<String>,
    /// Whether a bucket is named in the path instead of in the host's name. When not set: if
    /// there is an endpoint's URL.
    pub path_style: Option<bool>,
    /// The profile in the files of AWS's tools.
    pub profile: Option<String>,
    /// A key's id. With its secret it is used before all other credentials.
    pub access_key_id: Option<String>,
    /// The secret of [`access_key_id`](Self::access_key_id).
    pub secret_access_key: Option<String>,
    /// The token that belongs to a temporary key.
    pub session_token: Option<String>,
    /// Asks without credentials, as public buckets allow.
    pub anonymous: bool,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long the answer to a request may take to begin. An upload gets more, by its size.
    pub request_timeout: Duration,
    /// How long an answer may pause once it has begun.
    pub stall_timeout: Duration,
    /// How often one request is made in all before its failure is told.
    pub max_attempts: u32,
    /// About how long to wait before the second attempt; it doubles with each one after.
    pub first_wait: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            region: None,
            endpoint_url: None,
            path_style: None,
            profile: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            anonymous: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            max_attempts: 8,
            first_wait: Duration::from_millis(100),
        }
    }
}

impl StorageOptions {
    /// Refuses options that contradict each other.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |cause: &str| Err(DataError::InvalidPlan { operator: "storage".into(), cause: cause.into() });
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => return wrong("access_key_id is set without secret_access_key: set both or neither"),
            (None, Some(_)) => return wrong("secret_access_key is set without access_key_id: set both or neither"),
            (None, None) if self.session_token.is_some() => {
                return wrong("session_token is set without the key that it belongs to");
            }
            _ => {}
        }
        if self.anonymous && (self.access_key_id.is_some() || self.profile.is_some()) {
            return wrong("anonymous is set beside a key or a profile: take one of them away");
        }
        if let Some(url) = &self.endpoint_url
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            return wrong("endpoint_url must begin with https:// or http://");
        }
        if self.max_attempts == 0 {
            return wrong("max_attempts is 0: a request is made once at least");
        }
        Ok(())
    }
}

impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| HIDDEN);
        f.debug_struct("StorageOptions")
            .field("region", &self.region)
            .field("endpoint_url", &self.endpoint_url)
            .field("path_style", &self.path_style)
            .field("profile", &self.profile)
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &hidden(&self.secret_access_key))
            .field("session_token", &hidden(&self.session_token))
            .field("anonymous", &self.anonymous)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("max_attempts", &self.max_attempts)
            .field("first_wait", &self.first_wait)
            .finish()
    }
}

/// What stands for a secret in a log.
const HIDDEN: &str = "hidden";

#[cfg(test)]
mod tests {
    use super::*;

    fn with_key() -> StorageOptions {
        StorageOptions {
            access_key_id: Some("AKIA".into()),
            secret_access_key: Some("s3cr3t".into()),
            session_token: Some("t0k3n".into()),
            ..StorageOptions::default()
        }
    }

    #[test]
    fn secrets_travel_and_are_not_printed() {
        let options = with_key();
        let shown = format!("{options:?}");
        assert!(!shown.contains("s3cr3t") && !shown.contains("t0k3n"), "{shown}");
        let bytes = rmp_serde::to_vec(&options).unwrap();
        assert_eq!(rmp_serde::from_slice::<StorageOptions>(&bytes).unwrap(), options);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert_eq!(with_key().check(), Ok(()));
        assert!(StorageOptions { secret_access_key: None, ..with_key() }.check().is_err());
        assert!(StorageOptions { access_key_id: None, ..with_key() }.check().is_err());
        assert!(StorageOptions { anonymous: true, ..with_key() }.check().is_err());
        let token = StorageOptions { session_token: Some("t".into()), ..StorageOptions::default() };
        assert!(token.check().is_err());
        let endpoint = StorageOptions { endpoint_url: Some("localhost:9000".into()), ..StorageOptions::default() };
        assert!(endpoint.check().is_err());
    }
}
