//! What a remote path means: a file, a directory, or what matches a pattern.
//!
//! Entry point: [`list`]. The rules are those of local paths (see [`paths`](crate::paths)); a
//! directory is whatever keys have in common up to a slash.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::Object as Listed;
use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};

use super::location::{Location, PATTERN, s3_path};
use super::object::Object;
use super::objects::{as_directory, missing_is_bucket};
use super::options::StorageOptions;
use super::runtime::wait;
use super::s3::S3;
use crate::error::DataError;

/// A file that was found, in the state in which it was found. It travels to who reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEntry {
    /// Its whole path.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// The store's name for its state.
    pub etag: Option<String>,
    /// The path or the pattern named the file itself, not a directory that it is in.
    pub named: bool,
}

/// The files that `path` means, sorted. A directory means all files under it, at any depth, except
/// where a name begins with a dot or an underscore. A pattern tells upper case from lower; `*`
/// matches no slash, and no name that begins with a dot unless the pattern has that, too. A
/// path that exists is never taken for a pattern. A directory that holds only what is skipped,
/// or a pattern that nothing matches, gives no files.
pub fn list(path: &str, options: &StorageOptions) -> Result<Vec<RemoteEntry>, DataError> {
    let (location, path, options) = (Location::parse(path)?, path.to_owned(), options.clone());
    wait(async move {
        let (bucket, key) = match location {
            Location::S3 { bucket, key } => (bucket, key),
            Location::Http { .. } => {
                let stat = Object::of(location, &options).await?.stat().await?;
                return Ok(vec![RemoteEntry { path, size: stat.size, etag: stat.etag, named: true }]);
            }
        };
        let s3 = S3::of(&options).await?;
        if !key.is_empty()
            && !key.ends_with('/')
            && let Some(file) = exactly(&s3, &bucket, &key).await?
        {
            return Ok(vec![file]);
        }
        let directory = as_directory(&key);
        let mut found = all_under(&s3, &bucket, &directory).await?;
        if found.is_empty() && key.contains(PATTERN) {
            return matching(&s3, &bucket, &key).await;
        }
        if found.is_empty() && !key.is_empty() {
            return Err(DataError::NotFound { path });
        }
        found.retain(|entry| !is_hidden(below(entry, &bucket, &directory)));
        Ok(sorted(found, &bucket))
    })
}

/// The first object whose key begins with `prefix`.
pub(super) async fn first_under(s3: &S3, bucket: &str, prefix: &str) -> Result<Option<RemoteEntry>, DataError> {
    Ok(page(s3, bucket, prefix, None, Some(1)).await?.0.into_iter().next())
}

/// The object with this key. Listed, since a store may answer for a directory if asked for an
/// object; but who may read one may not always list.
async fn exactly(s3: &S3, bucket: &str, key: &str) -> Result<Option<RemoteEntry>, DataError> {
    let path = s3_path(bucket, key);
    match first_under(s3, bucket, key).await {
        Ok(first) => Ok(first.filter(|entry| entry.path == path).map(|entry| RemoteEntry { named: true, ..entry })),
        Err(denied @ DataError::AccessDenied { .. }) if !key.contains(PATTERN) => {
            let location = Location::S3 { bucket: bucket.into(), key: key.into() };
            let stat = Object::of(location, s3.options()).await?.stat().await.map_err(|_| denied)?;
            Ok(Some(RemoteEntry { path, size: stat.size, etag: stat.etag, named: true }))
        }
        Err(error) => Err(error),
    }
}

async fn matching(s3: &S3, bucket: &str, key: &str) -> Result<Vec<RemoteEntry>, DataError> {
    let path = s3_path(bucket, key);
    let pattern = key.trim_end_matches('/');
    let matcher = Pattern::new(pattern)
        .map_err(|error| DataError::InvalidLocation { path, cause: format!("the pattern is malformed: {error}") })?;
    let literal = &key[..key.find(PATTERN).unwrap_or(key.len())];
    let mut found = Vec::new();
    for mut entry in all_under(s3, bucket, literal).await? {
        let Some(named) = matches(&matcher, pattern, below(&entry, bucket, "")) else {
            continue;
        };
        entry.named = named;
        found.push(entry);
    }
    Ok(sorted(found, bucket))
}

/// Whether [`list`] of `path` would give the object at `file`, if there were one.
pub(crate) fn may_mean(path: &str, file: &str) -> bool {
    let key = |path: &str| match Location::parse(path) {
        Ok(Location::S3 { bucket, key }) => Some((bucket, key)),
        _ => None,
    };
    let (Some((bucket, path)), Some((file_bucket, file))) = (key(path), key(file)) else {
        return false;
    };
    if bucket != file_bucket {
        return false;
    }
    let below = file.strip_prefix(&as_directory(&path)).is_some_and(|below| !is_hidden(below));
    let pattern = path.trim_end_matches('/');
    let fits = || Pattern::new(pattern).is_ok_and(|matcher| matches(&matcher, pattern, &file).is_some());
    path == file || below || path.contains(PATTERN) && fits()
}

/// Whether `key` matches itself, or lies, not hidden, in a directory that does.
fn matches(matcher: &Pattern, pattern: &str, key: &str) -> Option<bool> {
    let fits = |path: &str| matcher.matches_with(path, MATCHING) && !has_hidden_name(path, pattern);
    if fits(key) {
        return Some(true);
    }
    let above = key.match_indices('/').map(|(slash, _)| key.split_at(slash));
    above.into_iter().any(|(above, rest)| fits(above) && !is_hidden(&rest[1..])).then_some(false)
}

/// Whether `path` has a name with a dot in front that `pattern` does not ask for with one.
fn has_hidden_name(path: &str, pattern: &str) -> bool {
    let with_dot: Vec<_> =
        pattern.split('/').filter(|part| part.starts_with('.')).filter_map(|part| Pattern::new(part).ok()).collect();
    path.split('/').any(|name| name.starts_with('.') && !with_dot.iter().any(|part| part.matches(name)))
}

/// Whether a file in a directory is left out, by its path there.
fn is_hidden(below: &str) -> bool {
    // `_name=value` tells a value.
    below.split('/').any(|name| name.starts_with('.') || name.starts_with('_') && !name.contains('='))
}

/// All objects whose keys begin with `prefix`, as the store sorts them, without those that only
/// stand for directories.
async fn all_under(s3: &S3, bucket: &str, prefix: &str) -> Result<Vec<RemoteEntry>, DataError> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let (entries, token) = page(s3, bucket, prefix, next, None).await?;
        found.extend(entries.into_iter().filter(|entry| !entry.path.ends_with('/')));
        if found.len() > MAX_LISTED {
            return Err(DataError::Read {
                path: s3_path(bucket, prefix),
                cause: format!("more than {MAX_LISTED} objects: name a part of them"),
            });
        }
        next = match token {
            Some(token) => Some(token),
            None => return Ok(found),
        };
    }
}

async fn page(
    s3: &S3,
    bucket: &str,
    prefix: &str,
    token: Option<String>,
    limit: Option<i32>,
) -> Result<(Vec<RemoteEntry>, Option<String>), DataError> {
    let ask = |client: Client| {
        let request = client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_continuation_token(token.clone())
            .set_max_keys(limit)
            .send();
        s3.answer(Duration::ZERO, request)
    };
    let answer = s3.call(bucket, ask).await;
    let mut answer = answer.map_err(|failed| s3.error(&s3_path(bucket, prefix), "list", missing_is_bucket(failed)))?;
    let entries = answer.contents.take().unwrap_or_default();
    let next = answer.next_continuation_token.filter(|_| answer.is_truncated.unwrap_or(false));
    Ok((entries.into_iter().filter_map(|object| entry(bucket, object)).collect(), next))
}

fn entry(bucket: &str, object: Listed) -> Option<RemoteEntry> {
    let size = u64::try_from(object.size.unwrap_or(0)).ok()?;
    Some(RemoteEntry { path: s3_path(bucket, &object.key?), size, etag: object.e_tag, named: false })
}

/// The path of an entry, from a directory of its bucket on.
fn below<'a>(entry: &'a RemoteEntry, bucket: &str, directory: &str) -> &'a str {
    entry.path.get(s3_path(bucket, directory).len()..).unwrap_or_default()
}

/// Sorted as directories are: name by name, not letter by letter across slashes.
fn sorted(mut entries: Vec<RemoteEntry>, bucket: &str) -> Vec<RemoteEntry> {
    entries.sort_by(|a, b| below(a, bucket, "").split('/').cmp(below(b, bucket, "").split('/')));
    entries
}

/// How patterns match.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// How many files one path may mean.
const MAX_LISTED: usize = 5_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_do_for_local_files() {
        let matches = |pattern: &str, key: &str| matches(&Pattern::new(pattern).unwrap(), pattern, key);
        assert_eq!(matches("a/*.parquet", "a/x.parquet"), Some(true));
        assert_eq!(matches("a/*.parquet", "a/b/x.parquet"), None);
        assert_eq!(matches("a/**/*.parquet", "a/b/c/x.parquet"), Some(true));
        assert_eq!(matches("a/*", "a/b/c/x.parquet"), Some(false));
        assert_eq!(matches("a/*", "a/b/_c/x.parquet"), None);
        assert_eq!(matches("a/*", "a/.x"), None);
        assert_eq!(matches("a/.*", "a/.x"), Some(true));
        assert_eq!(matches("a/X*", "a/x"), None);
    }

    #[test]
    fn names_are_hidden_at_any_depth_and_sorted_one_by_one() {
        assert!(is_hidden("_SUCCESS") && is_hidden("a/.b/c") && is_hidden("a/_b"));
        assert!(!is_hidden("a/b_c/d.e") && !is_hidden("_a=1/b"));
        let entry = |key: &str| RemoteEntry { path: s3_path("b", key), size: 0, etag: None, named: false };
        let keys = sorted(vec![entry("a.x"), entry("a/x"), entry("B")], "b");
        assert_eq!(keys.iter().map(|e| below(e, "b", "")).collect::<Vec<_>>(), ["B", "a/x", "a.x"]);
    }
}
