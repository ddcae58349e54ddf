//! Frames: what a lane of a connection carries, one after the other.
//!
//! ```text
//!  0       1       2               4               8              12              16
//!  +-------+-------+---------------+---------------+---------------+---------------+
//!  |version| type  |     parts     |     kind      | envelope bytes| payload bytes |
//!  +-------+-------+---------------+---------------+---------------+---------------+
//! 16                              24                              32              40
//!  +-------------------------------+-------------------------------+---------------+---...
//!  |            mailbox            |            sender             |  correlation ...
//!  +-------------------------------+-------------------------------+---------------+---...
//! 40
//!  | length of part 0 (4 bytes) | ... | envelope (rmp-serde) | part 0 | part 1 | ... |
//! ```
//! All numbers are little-endian. `sender` 0 means that no actor sent it. Lengths are checked
//! before memory is reserved, and payload parts are handed out as slices of what was read.
//! This file is pure: bytes in, frames out.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;

use crate::error::SendError;
use crate::message::{Payload, encode_into};

/// The version this endpoint speaks.
pub(crate) const FRAME_VERSION: u8 = 1;
/// Bytes before the part lengths.
pub(crate) const HEADER_BYTES: usize = 40;
/// Parts one payload may have.
pub(crate) const MAX_PARTS: usize = 16_384;
/// Parts smaller than this are copied out of what was read, so that a small object kept for long
/// does not hold a whole datagram's memory.
const COPY_BELOW_BYTES: usize = 4096;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum FrameType {
    /// A one-way message.
    Tell = 1,
    /// A request.
    Ask = 2,
    /// A request for a stream.
    AskStream = 3,
    /// The answer to `correlation`.
    Reply = 4,
    /// No (further) answer to `correlation`; the envelope is a [`SendError`].
    Fail = 5,
    /// An item of the stream `correlation`.
    Item = 6,
    /// The end of the stream `correlation`.
    End = 7,
    /// `kind` items of the stream `correlation` were read.
    Credit = 8,
    /// Nobody reads the stream `correlation` any more.
    Cancel = 9,
    /// A one-way message of `mailbox` to `sender` did not arrive; the envelope is a [`SendError`].
    Undelivered = 10,
}

impl FrameType {
    fn parse(byte: u8) -> Option<Self> {
        use FrameType::*;
        [Tell, Ask, AskStream, Reply, Fail, Item, End, Credit, Cancel, Undelivered]
            .into_iter()
            .find(|t| *t as u8 == byte)
    }
}

/// The fixed fields of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) frame_type: FrameType,
    pub(crate) kind: u32,
    pub(crate) mailbox: u64,
    pub(crate) sender: u64,
    pub(crate) correlation: u64,
}

/// A frame that was read.
#[derive(PartialEq, Debug)]
pub(crate) struct Frame {
    pub(crate) head: Head,
    pub(crate) envelope: Bytes,
    pub(crate) payload: Payload,
}

/// Why what was read is not a frame. The connection is of no use after that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame version {found}; this endpoint speaks {FRAME_VERSION}")]
    Version { found: u8 },
    #[error("unknown frame type {found}")]
    Type { found: u8 },
    #[error("frame of {size_bytes} bytes; the limit is {limit_bytes}")]
    TooLarge { size_bytes: u64, limit_bytes: u64 },
    #[error("frame of {parts} payload parts; the limit is {MAX_PARTS}")]
    TooManyParts { parts: usize },
    #[error("the lengths of the payload's parts do not add up")]
    Parts,
}

/// Writes the frame of `value` into `buffer` (emptied first), without the payload's bytes, which
/// follow it on the wire.
pub(crate) fn encode<T: Serialize>(
    buffer: &mut Vec<u8>,
    head: Head,
    name: &str,
    value: Option<&T>,
    payload: &Payload,
    limit_bytes: usize,
) -> Result<(), SendError> {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    let mut payload_bytes = 0;
    for part in payload {
        payload_bytes += part.len();
        buffer.extend_from_slice(&(part.len() as u32).to_le_bytes());
    }
    let fixed = buffer.len();
    if let Some(value) = value {
        encode_into(name, value, buffer)?;
    }
    let envelope_bytes = buffer.len() - fixed;
    let size_bytes = buffer.len() + payload_bytes;
    if size_bytes > limit_bytes || payload.len() > MAX_PARTS {
        return Err(SendError::TooLarge { size_bytes: size_bytes as u64, limit_bytes: limit_bytes as u64 });
    }
    write_header(buffer, head, payload.len(), envelope_bytes, payload_bytes);
    Ok(())
}

/// The bytes of a frame that was cut before.
pub(crate) fn rebuild(frame: &Frame) -> Vec<u8> {
    let payload_bytes: usize = frame.payload.iter().map(Bytes::len).sum();
    let mut bytes = vec![0; HEADER_BYTES];
    for part in &frame.payload {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    }
    bytes.extend_from_slice(&frame.envelope);
    for part in &frame.payload {
        bytes.extend_from_slice(part);
    }
    write_header(&mut bytes, frame.head, frame.payload.len(), frame.envelope.len(), payload_bytes);
    bytes
}

/// Fills in the header. Below the frame limit every length fits its field.
fn write_header(bytes: &mut [u8], head: Head, parts: usize, envelope: usize, payload: usize) {
    let header = &mut bytes[..HEADER_BYTES];
    header[0] = FRAME_VERSION;
    header[1] = head.frame_type as u8;
    header[2..4].copy_from_slice(&(parts as u16).to_le_bytes());
    header[4..8].copy_from_slice(&head.kind.to_le_bytes());
    header[8..12].copy_from_slice(&(envelope as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(payload as u32).to_le_bytes());
    header[16..24].copy_from_slice(&head.mailbox.to_le_bytes());
    header[24..32].copy_from_slice(&head.sender.to_le_bytes());
    header[32..40].copy_from_slice(&head.correlation.to_le_bytes());
}

/// The lengths a header announces.
struct Lengths {
    parts: usize,
    envelope: usize,
    payload: usize,
}

impl Lengths {
    fn total(&self) -> usize {
        HEADER_BYTES + 4 * self.parts + self.envelope + self.payload
    }
}

fn parse_header(mut bytes: &[u8], limit_bytes: usize) -> Result<(Head, Lengths), FrameError> {
    let version = bytes.get_u8();
    if version != FRAME_VERSION {
        return Err(FrameError::Version { found: version });
    }
    let found = bytes.get_u8();
    let frame_type = FrameType::parse(found).ok_or(FrameError::Type { found })?;
    let parts = usize::from(bytes.get_u16_le());
    let kind = bytes.get_u32_le();
    let lengths = Lengths { parts, envelope: bytes.get_u32_le() as usize, payload: bytes.get_u32_le() as usize };
    if parts > MAX_PARTS {
        return Err(FrameError::TooManyParts { parts });
    }
    // Three lengths of at most 32 bits do not overflow 64.
    let size_bytes = lengths.total() as u64;
    if size_bytes > limit_bytes as u64 {
        return Err(FrameError::TooLarge { size_bytes, limit_bytes: limit_bytes as u64 });
    }
    let head = Head {
        frame_type,
        kind,
        mailbox: bytes.get_u64_le(),
        sender: bytes.get_u64_le(),
        correlation: bytes.get_u64_le(),
    };
    Ok((head, lengths))
}

/// Cuts what is read from one lane into frames.
pub(crate) struct FrameReader {
    limit_bytes: usize,
    /// The beginning of a frame whose rest has not been read yet.
    partial: BytesMut,
}

impl FrameReader {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, partial: BytesMut::new() }
    }

    /// How much memory is reserved for a frame whose rest has not been read.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes the next bytes and hands every frame they complete to `deliver`.
    pub(crate) fn feed(&mut self, mut chunk: Bytes, mut deliver: impl FnMut(Frame)) -> Result<usize, FrameError> {
        let mut frames = 0;
        loop {
            if !self.partial.is_empty() {
                if self.partial.len() < HEADER_BYTES {
                    self.take(&mut chunk, HEADER_BYTES);
                    if self.partial.len() < HEADER_BYTES {
                        return Ok(frames);
                    }
                }
                let (head, lengths) = parse_header(&self.partial, self.limit_bytes)?;
                let total = lengths.total();
                self.partial.reserve(total - self.partial.len());
                self.take(&mut chunk, total);
                if self.partial.len() < total {
                    return Ok(frames);
                }
                let whole = std::mem::take(&mut self.partial).freeze();
                deliver(cut(head, &lengths, &whole)?);
                frames += 1;
            }
            while chunk.len() >= HEADER_BYTES {
                let (head, lengths) = parse_header(&chunk, self.limit_bytes)?;
                let total = lengths.total();
                if chunk.len() < total {
                    break;
                }
                deliver(cut(head, &lengths, &chunk)?);
                chunk.advance(total);
                frames += 1;
            }
            if chunk.is_empty() {
                return Ok(frames);
            }
            // Less than a frame is left; its header is checked before its memory is reserved.
            let start = chunk.len().min(HEADER_BYTES);
            self.partial.extend_from_slice(&chunk[..start]);
            chunk.advance(start);
        }
    }

    /// Moves bytes from `chunk` until `partial` has `wanted`.
    fn take(&mut self, chunk: &mut Bytes, wanted: usize) {
        let n = wanted.saturating_sub(self.partial.len()).min(chunk.len());
        self.partial.extend_from_slice(&chunk[..n]);
        chunk.advance(n);
    }
}

/// The frame at the beginning of `bytes`, which hold all of it.
fn cut(head: Head, lengths: &Lengths, bytes: &Bytes) -> Result<Frame, FrameError> {
    let envelope_at = HEADER_BYTES + 4 * lengths.parts;
    let mut at = envelope_at + lengths.envelope;
    let envelope = bytes.slice(envelope_at..at);
    let mut payload = Payload::with_capacity(lengths.parts);
    let end = at + lengths.payload;
    let mut part_lengths = &bytes[HEADER_BYTES..envelope_at];
    for _ in 0..lengths.parts {
        let length = part_lengths.get_u32_le() as usize;
        if length > end - at {
            return Err(FrameError::Parts);
        }
        payload.push(if length < COPY_BELOW_BYTES {
            Bytes::copy_from_slice(&bytes[at..at + length])
        } else {
            bytes.slice(at..at + length)
        });
        at += length;
    }
    if at != end {
        return Err(FrameError::Parts);
    }
    Ok(Frame { head, envelope, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(frame_type: FrameType) -> Head {
        Head { frame_type, kind: 0x0102_0304, mailbox: 5, sender: 6, correlation: 7 }
    }

    fn bytes_of(head: Head, envelope: &str, payload: &Payload) -> Vec<u8> {
        let mut buffer = Vec::new();
        encode(&mut buffer, head, "text", Some(&envelope), payload, 1 << 24).unwrap();
        payload.iter().for_each(|part| buffer.extend_from_slice(part));
        buffer
    }

    /// The bytes other versions of this crate must read.
    #[test]
    fn golden_frame() {
        let payload = vec![Bytes::from_static(b"xy"), Bytes::new()];
        let frame = bytes_of(head(FrameType::Ask), "hi", &payload);
        let golden: [u8; 53] = [
            1, 2, 2, 0, 4, 3, 2, 1, 3, 0, 0, 0, 2, 0, 0, 0, // version to payload bytes
            5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, // ids
            2, 0, 0, 0, 0, 0, 0, 0, // part lengths
            0xa2, b'h', b'i', // envelope
            b'x', b'y', // part 0
        ];
        assert_eq!(frame, golden);
    }

    #[test]
    fn lengths_are_checked_before_memory_is_reserved() {
        let mut frame = bytes_of(head(FrameType::Tell), "hi", &vec![]);
        frame[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut reader = FrameReader::new(1 << 20);
        let error = reader.feed(Bytes::from(frame), |_| panic!("no frame")).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { limit_bytes, .. } if limit_bytes == 1 << 20));
        assert!(reader.reserved_bytes() < 1 << 10);
    }

    #[test]
    fn oversized_messages_are_refused_at_the_sender() {
        let payload = vec![Bytes::from(vec![0; 2000])];
        let mut buffer = Vec::new();
        let error = encode(&mut buffer, head(FrameType::Tell), "t", Some(&1), &payload, 2000);
        assert!(matches!(error, Err(SendError::TooLarge { limit_bytes: 2000, .. })));
    }

    fn frames() -> impl Strategy<Value = Vec<(u8, String, Vec<Vec<u8>>)>> {
        let part =
            prop_oneof![prop::collection::vec(any::<u8>(), 0..40), (4000usize..9000).prop_map(|n| vec![n as u8; n]),];
        prop::collection::vec((1u8..11, ".{0,60}", prop::collection::vec(part, 0..4)), 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn frames_survive_any_chunking(frames in frames(), cuts in prop::collection::vec(1usize..5000, 1..60)) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (frame_type, text, parts) in frames {
                let head = head(FrameType::parse(frame_type).unwrap());
                let payload: Payload = parts.into_iter().map(Bytes::from).collect();
                stream.extend(bytes_of(head, &text, &payload));
                let mut envelope = Vec::new();
                encode_into("text", &text, &mut envelope).unwrap();
                expected.push(Frame { head, envelope: envelope.into(), payload });
            }
            let mut stream = Bytes::from(stream);
            let mut reader = FrameReader::new(1 << 24);
            let mut read = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !stream.is_empty() {
                let n = cuts.next().unwrap().min(stream.len());
                reader.feed(stream.split_to(n), |frame| read.push(frame)).unwrap();
            }
            prop_assert_eq!(read, expected);
        }

        /// Garbage is an error or waits for more; it neither panics nor reserves much.
        #[test]
        fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::new(1 << 12);
            let _ = reader.feed(Bytes::from(bytes), |_| {});
            prop_assert!(reader.reserved_bytes() <= 1 << 13);
        }

        /// One flipped byte of a valid frame, likewise.
        #[test]
        fn damage_does_no_harm(at in 0usize..53, bit in 0u8..8) {
            let payload = vec![Bytes::from_static(b"xy"), Bytes::new()];
            let mut frame = bytes_of(head(FrameType::Ask), "hi", &payload);
            frame[at] ^= 1 << bit;
            let mut reader = FrameReader::new(1 << 16);
            let _ = reader.feed(Bytes::from(frame), |_| {});
            prop_assert!(reader.reserved_bytes() <= 1 << 17);
        }
    }
}
