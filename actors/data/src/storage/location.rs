//! What a remote path means.
//!
//! Entry types: [`is_remote`], which tells remote paths from local ones, and [`Location`], a
//! remote path taken apart.

use std::fmt;

use crate::error::DataError;

/// Whether `path` names something that is not a local file.
#[must_use]
pub fn is_remote(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, _)| {
        let mut letters = scheme.chars();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

/// A remote path, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// `s3://bucket/key`.
    S3 {
        /// The bucket.
        bucket: String,
        /// The key, as it is: nothing in it is escaped. Empty for the bucket itself.
        key: String,
    },
    /// `https://…` or `http://…`.
    Http {
        /// The whole URL.
        url: String,
    },
}

impl Location {
    /// Takes `path` apart.
    pub fn parse(path: &str) -> Result<Location, DataError> {
        let invalid = |cause: &str| DataError::InvalidLocation { path: shown(path), cause: cause.into() };
        let Some((scheme, rest)) = path.split_once("://") else {
            return Err(invalid("it has no scheme: s3://bucket/key, https://host/file or http://host/file"));
        };
        match scheme {
            "s3" | "s3a" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                check_bucket(bucket).map_err(invalid)?;
                Ok(Location::S3 { bucket: bucket.into(), key: key.into() })
            }
            "https" | "http" => {
                check_url(rest).map_err(invalid)?;
                Ok(Location::Http { url: path.into() })
            }
            _ => Err(invalid("only s3://, https:// and http:// are known")),
        }
    }

    /// Whether it is a pattern. A URL never is: there is nobody to ask what matches.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        matches!(self, Location::S3 { key, .. } if key.contains(PATTERN))
    }
}

impl fmt::Display for Location {
    /// As errors show it: without the query of a URL, which may be a signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Location::Http { url } => f.write_str(&shown(url)),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

/// The path of an object.
pub(super) fn s3_path(bucket: &str, key: &str) -> String {
    format!("s3://{bucket}/{key}")
}

/// A path as an error may show it: a query may be a signature, and what stands before the host a
/// password.
#[must_use]
pub fn shown(path: &str) -> String {
    let Some((scheme, rest)) = path.split_once("://").filter(|(scheme, _)| scheme.starts_with("http")) else {
        return path.to_owned();
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (host, below) = rest[..end].split_at(rest[..end].find('/').unwrap_or(end));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{below}")
}

fn check_bucket(bucket: &str) -> Result<(), &'static str> {
    if bucket.is_empty() {
        return Err("it names no bucket: s3://bucket/key");
    }
    if bucket.contains(PATTERN) {
        return Err("the bucket's name cannot be a pattern");
    }
    // Old buckets have underscores and capitals in their names.
    if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err("that is no name of a bucket: letters, digits, dots and hyphens are");
    }
    Ok(())
}

fn check_url(rest: &str) -> Result<(), &'static str> {
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if host.is_empty() || host.starts_with(':') {
        return Err("it names no host");
    }
    if host.contains('@') {
        return Err("a user and a password in a URL are not sent: use a signed URL");
    }
    if rest.bytes().any(|b| b <= b' ' || b >= 0x7f) {
        return Err("spaces and letters beyond ASCII have to be escaped in a URL");
    }
    Ok(())
}

/// What makes a path a pattern, as for local paths.
pub(super) const PATTERN: [char; 3] = ['*', '?', '['];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_paths_are_told_from_local_ones() {
        for path in ["s3://b/k", "https://h/f", "gs://b/k", "s3://"] {
            assert!(is_remote(path), "{path}");
        }
        for path in ["/s3://b", "a/b", "a b://c", "", "://", "s3:/b/k", "1:://"] {
            assert!(!is_remote(path), "{path}");
        }
    }

    #[test]
    fn paths_are_taken_apart_and_nothing_is_unescaped() {
        let s3 = |bucket: &str, key: &str| Location::S3 { bucket: bucket.into(), key: key.into() };
        assert_eq!(Location::parse("s3://b/a%20b//c?.parquet").unwrap(), s3("b", "a%20b//c?.parquet"));
        assert_eq!(Location::parse("s3a://b").unwrap(), s3("b", ""));
        let http = Location::parse("http://h:80/a?sign=1").unwrap();
        assert_eq!(http, Location::Http { url: "http://h:80/a?sign=1".into() });
        assert_eq!(http.to_string(), "http://h:80/a");
    }

    #[test]
    fn malformed_paths_say_what_is_wrong_and_show_no_secret() {
        for path in ["s3://", "s3:///k", "s3://b*/k", "s3://a b/k", "gs://b/k", "https://", "http:///f", "x"] {
            let error = Location::parse(path).unwrap_err();
            assert!(matches!(error, DataError::InvalidLocation { .. }), "{path}: {error}");
        }
        let error = Location::parse("https://me:word@h/f?token=t0k3n").unwrap_err().to_string();
        assert!(!error.contains("word@") && !error.contains("t0k3n"), "{error}");
    }
}
