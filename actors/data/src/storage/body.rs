//! The body of an answer, and whether it is what was asked for.
//!
//! Entry types: [`Stat`], which says which state of a file is meant, and [`Answer`], what a
//! store or server sent; [`Answer::bytes`] gives exactly the bytes of the range, or says what is
//! wrong with them.

use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::failure::chain;
use super::retry::Failure;

/// One state of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) size: u64,
    /// Names the state, where the store has names for them.
    pub(super) etag: Option<String>,
}

/// What came for a range of a file.
#[derive(Debug)]
pub(super) struct Answer {
    /// `Content-Range`; none if the whole file was sent.
    pub(super) content_range: Option<String>,
    pub(super) content_length: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) body: ByteStream,
}

impl Answer {
    /// The bytes of `range` of the file as `stat` knows it. The body may pause for `stall`.
    pub(super) async fn bytes(self, range: &Range<u64>, stat: &Stat, stall: Duration) -> Result<Bytes, Failure> {
        same_etag(stat.etag.as_deref(), self.etag.as_deref())?;
        let sent = match &self.content_range {
            Some(header) => {
                let (sent, size) = parse_content_range(header)?;
                if size.is_some_and(|size| size != stat.size) {
                    return Err(sizes_differ(stat.size, size.unwrap_or_default()));
                }
                if sent != *range {
                    return Err(Failure::lasting(format!("bytes {range:?} were asked for and {sent:?} were sent")));
                }
                sent
            }
            None => {
                if let Some(size) = self.content_length.filter(|size| *size != stat.size) {
                    return Err(sizes_differ(stat.size, size));
                }
                if *range != (0..stat.size) && stat.size > MAX_WHOLE_BYTES {
                    return Err(Failure::lasting(format!(
                        "the server cannot send parts of a file, and this one has {} bytes: more than {MAX_WHOLE_BYTES} \
                         are not read at once",
                        stat.size
                    )));
                }
                0..stat.size
            }
        };
        let bytes = collect(self.body, sent.end - sent.start, stall).await?;
        let start = usize::try_from(range.start - sent.start).unwrap_or(usize::MAX);
        let end = usize::try_from(range.end - sent.start).unwrap_or(usize::MAX);
        Ok(bytes.slice(start..end))
    }
}

/// Reads a body that must have `expected` bytes.
pub(super) async fn collect(mut body: ByteStream, expected: u64, stall: Duration) -> Result<Bytes, Failure> {
    let length = usize::try_from(expected).map_err(|_| Failure::lasting("more bytes than there are addresses"))?;
    let mut bytes = BytesMut::with_capacity(length);
    loop {
        let received = || format!("after {} of {expected} bytes", bytes.len());
        let piece = match timeout(stall, body.next()).await {
            Err(_) => return Err(Failure::passing(format!("no byte came for {stall:?} {}", received()))),
            Ok(Some(Err(error))) => return Err(Failure::passing(format!("{}, {}", chain(&error), received()))),
            Ok(Some(Ok(piece))) => piece,
            Ok(None) if bytes.len() < length => {
                return Err(Failure::passing(format!("the body ended {}", received())));
            }
            Ok(None) => return Ok(bytes.freeze()),
        };
        if bytes.len() + piece.len() > length {
            return Err(Failure::passing(format!("the body has more than {expected} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
}

fn same_etag(known: Option<&str>, sent: Option<&str>) -> Result<(), Failure> {
    match (known, sent) {
        (Some(known), Some(sent)) if known != sent => {
            Err(Failure::changed(format!("its ETag was {known} and is {sent}")))
        }
        _ => Ok(()),
    }
}

fn sizes_differ(known: u64, sent: u64) -> Failure {
    Failure::changed(format!("it had {known} bytes and has {sent}"))
}

/// The range and the file's size in `bytes 0-99/1234`; the size may be `*`.
pub(super) fn parse_content_range(header: &str) -> Result<(Range<u64>, Option<u64>), Failure> {
    let parsed = || {
        let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
        let size = match size {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        if range == "*" {
            return Some((0..0, size));
        }
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first..last.checked_add(1)?, size))
    };
    parsed().ok_or_else(|| Failure::lasting(format!("the server sent an unreadable Content-Range: {header}")))
}

/// `Range`, as a request has it. The range is not empty.
pub(super) fn range_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// The largest file that is read whole where only parts are wanted or can be checked.
pub(super) const MAX_WHOLE_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::retry::Kind;

    const STALL: Duration = Duration::from_secs(5);

    fn bytes(answer: Answer, range: Range<u64>) -> Result<Bytes, Kind> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let stat = Stat { size: 10, etag: Some("a".into()) };
        runtime.block_on(answer.bytes(&range, &stat, STALL)).map_err(|failure| failure.kind)
    }

    fn part(content_range: &str, body: &'static [u8]) -> Answer {
        Answer {
            content_range: Some(content_range.into()),
            content_length: Some(body.len() as u64),
            etag: Some("a".into()),
            body: ByteStream::from_static(body),
        }
    }

    #[test]
    fn only_the_bytes_that_were_asked_for_are_given() {
        assert_eq!(bytes(part("bytes 2-4/10", b"cde"), 2..5).unwrap(), "cde");
        assert_eq!(bytes(part("bytes 2-4/*", b"cde"), 2..5).unwrap(), "cde");
        assert_eq!(bytes(part("bytes 2-4/10", b"cd"), 2..5), Err(Kind::Passing));
        assert_eq!(bytes(part("bytes 2-4/10", b"cdef"), 2..5), Err(Kind::Passing));
        assert_eq!(bytes(part("bytes 2-4/11", b"cde"), 2..5), Err(Kind::Changed));
        assert_eq!(bytes(part("bytes 3-5/10", b"def"), 2..5), Err(Kind::Lasting));
        assert_eq!(bytes(part("bytes 4-2/10", b"cde"), 2..5), Err(Kind::Lasting));
        assert_eq!(bytes(Answer { etag: Some("b".into()), ..part("bytes 2-4/10", b"cde") }, 2..5), Err(Kind::Changed));
    }

    #[test]
    fn a_part_is_cut_from_a_whole_file_that_is_not_large() {
        let whole = |body| Answer { content_range: None, ..part("", body) };
        assert_eq!(bytes(whole(b"abcdefghij"), 2..5).unwrap(), "cde");
        assert_eq!(bytes(whole(b"abcdefghi"), 2..5), Err(Kind::Changed));
    }

    #[test]
    fn ranges_are_read_as_servers_write_them() {
        assert_eq!(parse_content_range("bytes 0-0/1").unwrap(), (0..1, Some(1)));
        assert_eq!(parse_content_range("bytes */0").unwrap(), (0..0, Some(0)));
        for wrong in ["", "bytes", "bytes 1-2", "items 1-2/3", "bytes a-b/3", "bytes 0-18446744073709551615/*"] {
            assert!(parse_content_range(wrong).is_err(), "{wrong}");
        }
        assert_eq!(range_header(&(5..8)), "bytes=5-7");
    }
}
