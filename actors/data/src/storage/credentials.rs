//! Who asks a store, told in words.
//!
//! Entry point: [`check_identity`]. The SDK finds credentials; this says where it looked and what to
//! do, which is what one needs when it found none, or the wrong ones. The order is the SDK's.

use std::path::PathBuf;

use super::list::first_under;
use super::location::{Location, PATTERN};
use super::object::Object;
use super::options::StorageOptions;
use super::runtime::wait;
use super::s3::S3;
use crate::error::DataError;

/// Makes sure that the store of `path` answers to who asks. The error says where credentials
/// were looked for, and in which region and at which endpoint.
pub fn check_identity(path: &str, options: &StorageOptions) -> Result<(), DataError> {
    let location = Location::parse(path)?;
    let Location::S3 { bucket, key } = &location else {
        return Ok(());
    };
    let (bucket, key, options) = (bucket.clone(), key.clone(), options.clone());
    wait(async move {
        let s3 = S3::of(&options).await?;
        // Not by asking for the bucket: the answer to that does not say why. Who may list a part of
        // a bucket may not always list it all.
        let literal = &key[..key.find(PATTERN).unwrap_or(key.len())];
        let error = match first_under(&s3, &bucket, literal).await {
            Err(DataError::AccessDenied { path, tried, cause, hint, .. }) => {
                let cause = format!("{cause} (region {}, endpoint {})", s3.region(), s3.endpoint()).into();
                DataError::AccessDenied { path, operation: USE.into(), tried, cause, hint }
            }
            Err(DataError::Unreachable { path, host, attempts, cause, hint, .. }) => {
                return Err(DataError::Unreachable { path, operation: USE.into(), host, attempts, cause, hint });
            }
            other => return other.map(|_| ()),
        };
        // Who may read an object may not always list its bucket.
        match key.is_empty() || Object::of(location, &options).await?.stat().await.is_err() {
            true => Err(error),
            false => Ok(()),
        }
    })
}

/// What who is denied can do.
pub(super) fn advice(options: &StorageOptions) -> &'static str {
    if options.anonymous {
        return "the bucket is not public: give credentials instead of asking without";
    }
    if options.access_key_id.is_some() {
        return "check the key and its permissions on the bucket";
    }
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a `profile`, or give the instance a role, with access to the \
     bucket; a public bucket needs none of it: ask it with `anonymous`"
}

/// Where credentials are looked for, in order, and what the environment says of each place.
pub(super) fn sources(options: &StorageOptions, variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    if options.anonymous {
        return vec!["none (anonymous)".into()];
    }
    if let Some(id) = &options.access_key_id {
        return vec![format!("the options' own key {}", masked(id))];
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut tried = Vec::new();
    if options.profile.is_none() {
        tried.push(match (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(_)) => return vec![format!("environment (key {})", masked(&id))],
            (Some(_), None) => "environment (AWS_SECRET_ACCESS_KEY is not set)".into(),
            (None, _) => "environment (AWS_ACCESS_KEY_ID is not set)".into(),
        });
    }
    tried.push(profile(options, &set));
    tried.push(match (set("AWS_WEB_IDENTITY_TOKEN_FILE"), set("AWS_ROLE_ARN")) {
        (Some(file), Some(role)) => format!("web identity (role {role}, token in {file})"),
        (Some(_), None) => "web identity (AWS_ROLE_ARN is not set)".into(),
        (None, _) => "web identity (AWS_WEB_IDENTITY_TOKEN_FILE is not set)".into(),
    });
    let container = ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    tried.push(match container.iter().find(|name| set(name).is_some()) {
        Some(name) => format!("container ({name} is set)"),
        None => "container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set)".into(),
    });
    let disabled = set("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let metadata = set("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| METADATA_SERVICE.into());
    tried.push(match disabled {
        true => "instance role (AWS_EC2_METADATA_DISABLED is true)".into(),
        false => format!("instance role at {metadata}"),
    });
    tried
}

fn profile(options: &StorageOptions, set: &dyn Fn(&str) -> Option<String>) -> String {
    let name = options.profile.clone().or_else(|| set("AWS_PROFILE")).unwrap_or_else(|| "default".into());
    let home = set("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |variable: &str, below: &str| set(variable).map_or_else(|| home.join(below), PathBuf::from);
    let files = [file("AWS_CONFIG_FILE", ".aws/config"), file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];
    let found: Vec<_> = files.iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    match found.is_empty() {
        true => format!("profile {name} (neither {} nor {} exists)", files[0].display(), files[1].display()),
        false => format!("profile {name} in {}", found.join(" and ")),
    }
}

/// Enough of a key's id to tell it from others.
fn masked(id: &str) -> String {
    let shown: String = id.chars().take(SHOWN).collect();
    format!("{shown}…")
}

/// What is to be done with a path here, for people: it may be an input or an output.
const USE: &str = "use";
/// How much of a key's id is shown.
const SHOWN: usize = 8;
/// Where an instance asks for its role's credentials.
const METADATA_SERVICE: &str = "http://169.254.169.254";

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &StorageOptions, variables: &[(&str, &str)]) -> String {
        let variable = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        sources(options, &variable).join(", ")
    }

    #[test]
    fn every_place_is_named_in_order() {
        let options = StorageOptions { profile: Some("work".into()), ..StorageOptions::default() };
        let text = told(&options, &[("HOME", "/nowhere"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://localhost:1")]);
        let places =
            ["profile work (neither /nowhere/.aws/config", "web identity", "container", "role at http://localhost:1"];
        let found: Vec<_> = places.iter().map(|place| text.find(place).unwrap_or_else(|| panic!("{text}"))).collect();
        assert!(found.is_sorted(), "{text}");
        let none = told(&StorageOptions::default(), &[("AWS_EC2_METADATA_DISABLED", "true")]);
        assert!(none.starts_with("environment (AWS_ACCESS_KEY_ID is not set), profile default"), "{none}");
        assert!(none.ends_with("(AWS_EC2_METADATA_DISABLED is true)"), "{none}");
    }

    #[test]
    fn keys_end_the_search_and_are_not_shown_whole() {
        let key = StorageOptions {
            access_key_id: Some("AKIAIOSFODNN7EXAMPLE".into()),
            secret_access_key: Some("secret".into()),
            ..StorageOptions::default()
        };
        assert_eq!(told(&key, &[]), "the options' own key AKIAIOSF…");
        let set = [("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        assert_eq!(told(&StorageOptions::default(), &set), "environment (key AKIAIOSF…)");
        assert_eq!(told(&StorageOptions { anonymous: true, ..StorageOptions::default() }, &[]), "none (anonymous)");
    }
}
