//! The first words of a connection. Pure: bytes in, bytes out.
//!
//! The dialler opens a stream and says who it is and whom it wants; the accepter says whether
//! the connection counts. Four bytes of magic and the protocol's version come first, readable
//! by every version to come.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::address::{ProcessAddr, ProcessId};

/// The version of everything after the hello.
pub(crate) const PROTOCOL_VERSION: u16 = 1;
/// The largest hello or answer.
pub(crate) const HELLO_MAX_BYTES: usize = 4096;
const MAGIC: &[u8; 4] = b"MBLA";

/// What the dialler says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Who dials, and where it listens.
    pub(crate) from: ProcessAddr,
    /// Whom it wants; `None`: whoever listens here.
    pub(crate) wanted: Option<ProcessId>,
    /// Names this connection.
    pub(crate) nonce: u64,
    /// The last connection of the pair, which the dialler holds for dead.
    pub(crate) previous: Option<u64>,
    /// Tells the dialler from a predecessor under the same id.
    pub(crate) born: u64,
}

/// What the accepter answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HelloAnswer {
    /// The connection counts. The number tells the accepter from a predecessor under the same id.
    Welcome(ProcessAddr, u64),
    /// The pair has another connection, or is making it.
    Duplicate(ProcessAddr),
    /// The wanted process is not here (any more).
    OtherProcess(ProcessAddr),
    /// No connection, ever.
    Refused(String),
    /// Nor ever again: the accepter was told that the dialler is dead, and why.
    HeldForDead(String),
}

/// Why a hello cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("not a hello of this protocol")]
    Malformed,
    #[error("the other process speaks protocol version {theirs}, this one {PROTOCOL_VERSION}; update one of them")]
    Version { theirs: u16 },
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, HelloError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    rmp_serde::encode::write(&mut bytes, value).map_err(|_| HelloError::Malformed)?;
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HelloError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(HelloError::Malformed)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(HelloError::Malformed)?;
    let theirs = u16::from_le_bytes(*version);
    if theirs != PROTOCOL_VERSION {
        return Err(HelloError::Version { theirs });
    }
    rmp_serde::from_slice(rest).map_err(|_| HelloError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn hello() -> Hello {
        Hello {
            from: ProcessAddr { id: ProcessId(Uuid::from_u128(1)), socket: "127.0.0.1:80".parse().unwrap() },
            wanted: Some(ProcessId(Uuid::from_u128(2))),
            nonce: 3,
            previous: None,
            born: 4,
        }
    }

    /// The bytes other builds of the same protocol version must read.
    #[test]
    fn golden_hello() {
        let bytes = encode(&hello()).unwrap();
        let mut golden = b"MBLA\x01\x00\x95\x92\xc4\x10".to_vec();
        golden.extend(1u128.to_be_bytes());
        golden.extend(b"\x81\xa2V4\x92\x94\x7f\x00\x00\x01\x50\xc4\x10");
        golden.extend(2u128.to_be_bytes());
        golden.extend(b"\x03\xc0\x04");
        assert_eq!(bytes, golden);
        assert_eq!(decode::<Hello>(&bytes).unwrap(), hello());
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&hello()).unwrap();
        bytes[4] = 9;
        assert_eq!(decode::<Hello>(&bytes), Err(HelloError::Version { theirs: 9 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn garbage_is_malformed(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(decode::<Hello>(&bytes).is_err());
        }
    }
}
