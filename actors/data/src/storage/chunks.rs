//! A remote file as a source for the Parquet reader.
//!
//! Entry type: [`RemoteFile`] itself, through [`ChunkReader`]. The reader asks for the header of
//! a page and then for its body, columns in turn. So what comes is kept where it may be asked for
//! next:
//!
//! - in the blocks of ranges that were announced by [`RemoteFile::prefetch`], which are fetched
//!   ahead and dropped once read;
//! - else in [`streams`](super::streams), which fetch forward, more at once the longer they run.
//!
//! The Parquet reader passes on only the text of some errors: [`RemoteFile::take_error`] has the
//! error itself.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::fetch::Fetch;
use super::file::RemoteFile;
use super::ranges::cut;
use super::streams::Streams;
use super::window::Window;
use crate::error::DataError;

/// What is kept of a file, or on its way.
#[derive(Debug, Default)]
pub(super) struct Kept {
    announced: Option<(Window, HashMap<usize, Fetch>)>,
    pub(super) streams: Streams,
}

impl RemoteFile {
    /// Says that `ranges` will be read, each from its start to its end: the column chunks of the
    /// row groups to come, for example. They are fetched ahead, close ones together, at most
    /// `max_bytes` before they are asked for. This takes the place of what was said before.
    pub fn prefetch(&self, ranges: &[Range<u64>], max_bytes: u64) {
        let size = self.size();
        let inside: Vec<_> = ranges.iter().map(|range| range.start.min(size)..range.end.min(size)).collect();
        let mut window = Window::new(&inside, max_bytes);
        let started = window.ahead(None);
        let fetches = started.into_iter().map(|block| (block, self.fetch(window.range(block)))).collect();
        self.kept().lock().announced = Some((window, fetches));
    }

    /// The bytes of a range, which counts as read after this.
    fn bytes(&self, range: Range<u64>) -> Result<Bytes, DataError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.check(&range)?;
        let Some(pieces) = self.announced(&range, range.end) else {
            return self.streamed(range, true);
        };
        let mut bytes = Vec::with_capacity(pieces.len());
        for (start, fetch) in pieces {
            bytes.push((start, fetch.wait()?));
        }
        cut(&bytes, &range).ok_or_else(|| self.failed("bytes are missing from what was fetched"))
    }

    /// At least one byte from `at` on, as many as are at hand. What is before `at` counts as read.
    fn some(&self, at: u64) -> Result<Bytes, DataError> {
        if at >= self.size() {
            return Ok(Bytes::new());
        }
        let Some(pieces) = self.announced(&(at..at + 1), at) else {
            return self.streamed(at..at + 1, false);
        };
        let Some((start, fetch)) = pieces.into_iter().next() else {
            return Err(self.failed("a block is missing"));
        };
        let mut bytes = fetch.wait()?;
        bytes.advance(usize::try_from(at - start).unwrap_or(usize::MAX).min(bytes.len()));
        Ok(bytes)
    }

    /// The blocks that hold `range`, with their starts, if it was announced. `position` is where
    /// reading goes on in it.
    fn announced(&self, range: &Range<u64>, position: u64) -> Option<Vec<(u64, Fetch)>> {
        let mut kept = self.kept().lock();
        let (window, fetches) = kept.announced.as_mut()?;
        let mut pieces = Vec::new();
        for block in window.blocks_of(range)? {
            window.hold(block);
            let fetch = fetches.entry(block).or_insert_with(|| self.fetch(window.range(block)));
            pieces.push((window.range(block).start, fetch.clone()));
        }
        for block in window.passed(range.start, position) {
            fetches.remove(&block);
        }
        for block in window.ahead(Some(range.start)) {
            fetches.insert(block, self.fetch(window.range(block)));
        }
        Some(pieces)
    }

    fn kept_error<T>(&self, result: Result<T, DataError>) -> Result<T, DataError> {
        result.inspect_err(|error| self.note(error))
    }
}

impl Length for RemoteFile {
    fn len(&self) -> u64 {
        self.size()
    }
}

impl ChunkReader for RemoteFile {
    type T = RemoteRead;

    fn get_read(&self, start: u64) -> parquet::errors::Result<RemoteRead> {
        Ok(RemoteRead { file: self.clone(), at: start, bytes: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let end = start.saturating_add(length as u64);
        if end > self.size() {
            let cause = format!("bytes {start}..{end} of a file of {} bytes", self.size());
            return Err(ParquetError::EOF(cause));
        }
        let bytes = self.kept_error(self.bytes(start..end));
        bytes.map_err(|error| ParquetError::External(Box::new(io::Error::other(error))))
    }
}

/// Reads a remote file from some place on.
#[derive(Debug)]
pub struct RemoteRead {
    file: RemoteFile,
    at: u64,
    /// Those at `at`.
    bytes: Bytes,
}

impl Read for RemoteRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && !buffer.is_empty() {
            self.bytes = self.file.kept_error(self.file.some(self.at)).map_err(io::Error::other)?;
        }
        let length = buffer.len().min(self.bytes.len());
        self.bytes.copy_to_slice(&mut buffer[..length]);
        self.at += length as u64;
        Ok(length)
    }
}
