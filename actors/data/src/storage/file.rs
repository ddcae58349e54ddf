//! Reading one state of a remote file.
//!
//! Entry types: [`Remote::open`], which finds out which state a file is in, and [`RemoteFile`],
//! which reads ranges of that state and of no other: a file that is replaced meanwhile is an
//! error. What comes is checked for being the range, whole, and of that state.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::body::{MAX_WHOLE_BYTES, Stat};
use super::chunks::Kept;
use super::fetch::Fetch;
use super::list::RemoteEntry;
use super::location::Location;
use super::object::Object;
use super::options::StorageOptions;
use super::ranges::{coalesce, cut, split};
use super::runtime::wait;
use super::window::MAX_GAP;
use crate::error::DataError;

/// Opens remote files.
#[derive(Debug)]
pub struct Remote;

impl Remote {
    /// Opens the file at `path` in the state it is in.
    pub fn open(path: &str, options: &StorageOptions) -> Result<RemoteFile, DataError> {
        let (location, options) = (Location::parse(path)?, options.clone());
        wait(async move {
            let object = Object::of(location, &options).await?;
            let stat = object.stat().await?;
            Ok(RemoteFile::new(object, stat))
        })
    }

    /// Opens a file in the state in which it was listed or opened before, without asking for it.
    pub fn open_known(entry: &RemoteEntry, options: &StorageOptions) -> Result<RemoteFile, DataError> {
        let (location, options) = (Location::parse(&entry.path)?, options.clone());
        let stat = Stat { size: entry.size, etag: entry.etag.clone() };
        wait(async move { Ok(RemoteFile::new(Object::of(location, &options).await?, stat)) })
    }
}

/// One state of a remote file. Clones share what they have fetched.
#[derive(Debug, Clone)]
pub struct RemoteFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: Object,
    path: String,
    stat: Stat,
    /// How many requests there are at once.
    requests: Arc<Semaphore>,
    kept: Mutex<Kept>,
    error: Mutex<Option<DataError>>,
}

impl RemoteFile {
    fn new(object: Object, stat: Stat) -> Self {
        let path = object.path();
        let requests = Arc::new(Semaphore::new(MAX_REQUESTS));
        Self(Arc::new(Inner { object, path, stat, requests, kept: Mutex::default(), error: Mutex::default() }))
    }

    /// The path, as errors show it: without the query of a URL.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.stat.size
    }

    /// The store's name for the state of the file, if it has one.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.0.stat.etag.as_deref()
    }

    /// The bytes of a range. A file of up to 64 MiB that is read whole is checked against the
    /// checksum that the store keeps of it, if it does.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, DataError> {
        self.check(&range)?;
        let whole = range == (0..self.size()) && self.size() <= MAX_WHOLE_BYTES;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if whole || range.end - range.start <= MAX_REQUEST_BYTES {
            return self.fetch(range).wait();
        }
        let mut read = self.read_ranges(std::slice::from_ref(&range))?;
        read.pop().ok_or_else(|| self.failed("nothing was read"))
    }

    /// The bytes of several ranges, in their order. Close ones are fetched together, and some at
    /// the same time.
    pub fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, DataError> {
        ranges.iter().try_for_each(|range| self.check(range))?;
        let requests = coalesce(ranges, MAX_GAP).iter().flat_map(|range| split(range, MAX_REQUEST_BYTES)).collect();
        let pieces = self.read_all(requests)?;
        let cut = |range| cut(&pieces, range).ok_or_else(|| self.failed("bytes are missing from what was read"));
        ranges.iter().map(cut).collect()
    }

    /// The last error that this file met, once. Readers above pass on only the text of some.
    #[must_use]
    pub fn take_error(&self) -> Option<DataError> {
        self.0.error.lock().take()
    }

    fn read_all(&self, ranges: Vec<Range<u64>>) -> Result<Vec<(u64, Bytes)>, DataError> {
        let inner = Arc::clone(&self.0);
        wait(async move {
            let read = |range: Range<u64>| {
                let inner = Arc::clone(&inner);
                async move { inner.object.get(&range, &inner.stat).await.map(|bytes| (range.start, bytes)) }
            };
            let requests: Vec<_> = ranges.into_iter().map(read).collect();
            futures::stream::iter(requests).buffered(MAX_REQUESTS).try_collect().await
        })
    }

    /// Begins to fetch a range, which is in the file and not empty.
    pub(super) fn fetch(&self, range: Range<u64>) -> Fetch {
        let inner = Arc::clone(&self.0);
        // Not the whole file: what it keeps holds the fetch.
        let (object, stat, requests) = (inner.object.clone(), inner.stat.clone(), Arc::clone(&inner.requests));
        Fetch::start(&self.0.path, async move {
            let _permit = requests.acquire().await;
            object.get(&range, &stat).await
        })
    }

    pub(super) fn kept(&self) -> &Mutex<Kept> {
        &self.0.kept
    }

    pub(super) fn note(&self, error: &DataError) {
        *self.0.error.lock() = Some(error.clone());
    }

    pub(super) fn check(&self, range: &Range<u64>) -> Result<(), DataError> {
        if range.start <= range.end && range.end <= self.size() {
            return Ok(());
        }
        Err(self.failed(&format!("bytes {range:?} are not in a file of {} bytes", self.size())))
    }

    pub(super) fn failed(&self, cause: &str) -> DataError {
        DataError::Read { path: self.path().to_owned(), cause: cause.to_owned() }
    }
}

/// How many requests one file makes at the same time.
const MAX_REQUESTS: usize = 8;
/// How much one request asks for.
const MAX_REQUEST_BYTES: u64 = 8 << 20;
