//! Parts of a file that are read without having been announced.
//!
//! Entry type: [`Streams`]. Whoever reads somewhere gets a stream that begins there; who goes on
//! reading where a stream is makes it fetch more at once, and the part after it ahead.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::fetch::Fetch;
use super::file::RemoteFile;
use crate::error::DataError;

/// What is read of a file in a few places at once, the latest used last.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

/// A part of the file that is here, and the one after it, perhaps on its way.
#[derive(Debug)]
struct Stream {
    start: u64,
    bytes: Bytes,
    next: Option<(Range<u64>, Fetch)>,
    /// How much to fetch at once.
    chunk_bytes: u64,
}

impl RemoteFile {
    /// The bytes of `range`, which is not empty; if not `exactly`, with those after it that are
    /// at hand.
    pub(super) fn streamed(&self, range: Range<u64>, exactly: bool) -> Result<Bytes, DataError> {
        // Out of the list while it waits: other readers have their own.
        let found = self.kept().lock().streams.take(range.start);
        let mut stream = match found {
            Some(stream) => stream,
            None => self.begin(&range)?,
        };
        while stream.end() < range.end {
            self.go_on(&mut stream, &range)?;
        }
        let from = to_usize(range.start - stream.start);
        let to = if exactly { to_usize(range.end - stream.start) } else { stream.bytes.len() };
        let bytes = stream.bytes.slice(from..to);
        self.kept().lock().streams.put(stream);
        Ok(bytes)
    }

    fn begin(&self, range: &Range<u64>) -> Result<Stream, DataError> {
        let size = self.size();
        let mut fetched = range.start..range.end.max(range.start + MIN_CHUNK_BYTES).min(size);
        if fetched.end == size {
            // Most likely the end of a footer, whose beginning is wanted next.
            fetched.start = fetched.start.min(size.saturating_sub(TAIL_BYTES));
        }
        let start = fetched.start;
        let bytes = self.fetch(fetched).wait()?;
        Ok(Stream { start, bytes, next: None, chunk_bytes: MIN_CHUNK_BYTES })
    }

    /// Appends the next part, which reaches to the end of `range` at least, and drops what is
    /// before `range`.
    fn go_on(&self, stream: &mut Stream, range: &Range<u64>) -> Result<(), DataError> {
        let size = self.size();
        stream.chunk_bytes = (stream.chunk_bytes * 2).min(MAX_CHUNK_BYTES);
        let end = stream.end();
        let chunk_bytes = stream.chunk_bytes;
        let (fetched, fetch) = stream.next.take().unwrap_or_else(|| {
            let part = end..range.end.max(end + chunk_bytes).min(size);
            (part.clone(), self.fetch(part))
        });
        if fetched.end >= range.end && fetched.end < size {
            let after = fetched.end..(fetched.end + stream.chunk_bytes).min(size);
            stream.next = Some((after.clone(), self.fetch(after)));
        }
        let more = fetch.wait()?;
        let kept = stream.bytes.slice(to_usize(range.start - stream.start).min(stream.bytes.len())..);
        let mut bytes = BytesMut::with_capacity(kept.len() + more.len());
        bytes.extend_from_slice(&kept);
        bytes.extend_from_slice(&more);
        stream.start = end - kept.len() as u64;
        stream.bytes = bytes.freeze();
        Ok(())
    }
}

impl Streams {
    /// The stream that has `at`, or ends there.
    fn take(&mut self, at: u64) -> Option<Stream> {
        let index = self.0.iter().position(|stream| (stream.start..=stream.end()).contains(&at))?;
        Some(self.0.remove(index))
    }

    fn put(&mut self, stream: Stream) {
        self.0.push(stream);
        while self.0.len() > 1 && self.0.iter().map(Stream::held).sum::<u64>() > MAX_HELD_BYTES {
            self.0.remove(0);
        }
    }
}

impl Stream {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Bytes here and on their way.
    fn held(&self) -> u64 {
        let next = self.next.as_ref().map_or(0, |(range, _)| range.end - range.start);
        self.bytes.len() as u64 + next
    }
}

fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// How much a stream fetches at first, and later.
const MIN_CHUNK_BYTES: u64 = 1 << 20;
const MAX_CHUNK_BYTES: u64 = 8 << 20;
/// How much of the end of a file is fetched with its last bytes.
const TAIL_BYTES: u64 = 256 << 10;
/// How much all streams of a file hold.
const MAX_HELD_BYTES: u64 = 64 << 20;
