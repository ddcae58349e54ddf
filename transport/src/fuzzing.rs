//! The code that reads bytes of strangers, for fuzzers: each function takes any bytes, and panics if a
//! promise about them is broken.
//!
//! `tests/fuzz` runs these under a fuzzer. The tests below, and those of the crates above, run them
//! with that fuzzer's corpus and with random bytes.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;

use crate::address::{MailboxId, ProcessAddr, ProcessId, Sender};
use crate::asker::Asker;
use crate::envelope::{Body, Envelope};
use crate::frame::{Frame, FrameReader, rebuild};
use crate::identity::{ClusterAuthority, JoinAnswer, JoinPolicy, JoinRefusal, JoinRequest, Role};
use crate::message::Message;
use crate::quic::hello;

/// The limit of a frame here; small, so that fuzzers find it.
const FRAME_LIMIT_BYTES: usize = 1 << 16;

/// What a lane carries, in one piece and in pieces of a length that the first byte says: both give the
/// same frames and the same end, every frame can be written again, and no more memory is reserved
/// than a frame may have.
pub fn frames(bytes: &[u8]) {
    let Some((piece, stream)) = bytes.split_first() else { return };
    let (whole, whole_ended) = read(stream, stream.len().max(1));
    let (cut, cut_ended) = read(stream, usize::from(*piece).max(1));
    assert_eq!(whole_ended, cut_ended, "the end depends on how the stream is cut");
    assert_eq!(whole, cut, "the frames depend on how the stream is cut");
    for frame in &whole {
        let again = rebuild(frame);
        let (frames, ended) = read(&again, again.len());
        assert!(
            ended.is_none() && frames.len() == 1 && frames[0] == *frame,
            "a frame changes when it is written again"
        );
    }
}

fn read(stream: &[u8], piece: usize) -> (Vec<Frame>, Option<String>) {
    let mut reader = FrameReader::new(FRAME_LIMIT_BYTES);
    let mut frames = Vec::new();
    for piece in stream.chunks(piece) {
        let fed = reader.feed(Bytes::copy_from_slice(piece), |frame| frames.push(frame));
        assert!(reader.reserved_bytes() <= 2 * FRAME_LIMIT_BYTES, "more is reserved than a frame may have");
        if let Err(error) = fed {
            return (frames, Some(error.to_string()));
        }
    }
    (frames, None)
}

/// The first words of a connection: what can be read is what its writer wrote.
pub fn hellos(bytes: &[u8]) {
    if let Ok(read) = hello::decode::<hello::Hello>(bytes) {
        let again = hello::encode(&read).map(|bytes| hello::decode::<hello::Hello>(&bytes));
        assert_eq!(again, Ok(Ok(read)));
    }
    if let Ok(read) = hello::decode::<hello::HelloAnswer>(bytes) {
        let again = hello::encode(&read).map(|bytes| hello::decode::<hello::HelloAnswer>(&bytes));
        assert_eq!(again, Ok(Ok(read)));
    }
}

/// A stranger's request to join: whoever does not know the secret gets nothing. With 1 as the first
/// byte the rest is the certificate request of somebody who does know it; that one gets a certificate
/// or a reason.
pub fn join(bytes: &[u8]) {
    let Some((kind, request)) = bytes.split_first() else { return };
    static POLICY: OnceLock<Option<(JoinPolicy, [u8; 32])>> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let policy = JoinPolicy::new(ClusterAuthority::create("fuzz").ok()?, Role::Node);
        let secret = policy.new_token(Duration::from_secs(1 << 30)).secret;
        Some((policy, secret))
    });
    // A fuzzer reports it; without an authority there is nothing to try.
    let Some((policy, secret)) = policy else { panic!("no certificate authority could be made") };
    if *kind == 1 {
        let request_pem = String::from_utf8_lossy(request).into_owned();
        let request = rmp_serde::to_vec(&JoinRequest { secret: *secret, request_pem });
        let refused = request.map(|request| match policy.answer_bytes(&request) {
            JoinAnswer::Refused(why) => Some(why),
            JoinAnswer::Granted { .. } => None,
        });
        let known = !matches!(refused, Ok(Some(JoinRefusal::UnknownToken)));
        assert!(refused.is_ok() && known, "who knows the secret was taken for a stranger");
    } else {
        let granted = matches!(policy.answer_bytes(request), JoinAnswer::Granted { .. });
        assert!(!granted, "a stranger was let in");
    }
}

/// An envelope as it came from another process, opened as a message of type `M`: the message, if that
/// is what it is.
pub fn open<M: Message>(bytes: &[u8]) -> Option<M> {
    let process = ProcessAddr { id: ProcessId(uuid::Uuid::nil()), socket: ProcessAddr::IN_PROCESS };
    let envelope = Envelope {
        from: Sender { process, mailbox: None },
        to: MailboxId(1),
        kind: M::KIND,
        body: Body::Wire(Bytes::copy_from_slice(bytes)),
        payload: Vec::new(),
        asker: Asker::nobody(),
    };
    envelope.open::<M>().ok().map(|(message, _)| message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus(target: &str, fuzz: impl Fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
        let mut files = 0;
        for file in std::fs::read_dir(&folder).unwrap() {
            fuzz(&std::fs::read(file.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files > 0, "{} is empty", folder.display());
    }

    #[test]
    fn the_corpus_breaks_no_promise() {
        corpus("frames", frames);
        corpus("hellos", hellos);
        corpus("join", join);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn random_bytes_break_no_promise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            frames(&bytes);
            hellos(&bytes);
            join(&bytes);
        }

        /// Bytes that begin like what is meant get further.
        #[test]
        fn random_bytes_behind_a_header_break_no_promise(
            piece: u8, frame_type in 1_u8..11, parts in 0_u8..3, lengths: [u8; 2],
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = vec![piece, 1, frame_type, parts, 0, 4, 3, 2, 1, lengths[0], 0, 0, 0, lengths[1], 0, 0, 0];
            bytes.extend_from_slice(&rest);
            frames(&bytes);
            let mut bytes = b"MBLA\x01\x00\x95\x92\xc4\x10".to_vec();
            bytes.extend_from_slice(&rest);
            hellos(&bytes);
        }
    }
}
