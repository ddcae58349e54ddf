//! What travels: a [`Message`] is a serde struct with a reply type and a wire name.
//!
//! Inside a process a message is moved as it is. Between processes it is an rmp-serde *envelope*
//! (compact: structs as arrays, so `#[serde(skip_serializing_if)]` must not be used), and bulk
//! bytes travel beside it as a [`Payload`], never inside.
//! Nothing here knows about addresses or connections.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::SendError;

/// Bytes that travel beside the envelope: moved in process, sent without re-encoding over the
/// network. Part boundaries are kept.
pub type Payload = Vec<Bytes>;

/// A typed message. Implement it with the [`message!`](crate::message) macro.
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// What the receiver answers with; `()` for messages that are only ever sent one-way.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// The name of the message; equal names mean the same message on both ends of a connection.
    const NAME: &'static str;

    /// The number that stands for [`NAME`](Self::NAME) on the wire.
    const KIND: u32 = wire_kind(Self::NAME);

    /// [`KIND`](Self::KIND) as a function, to compare with
    /// [`Envelope::kind`](crate::Envelope::kind).
    fn kind() -> u32 {
        Self::KIND
    }
}

/// The wire number of a message name: the low half of its XXH3 hash.
pub const fn wire_kind(name: &str) -> u32 {
    xxhash_rust::const_xxh3::xxh3_64(name.as_bytes()) as u32
}

/// Makes a serde type a [`Message`]: `message!(Ping => Pong)`, or `message!(Tick)` for a message
/// whose reply is `()`.
#[macro_export]
macro_rules! message {
    ($t:ty => $r:ty) => {
        impl $crate::Message for $t {
            type Reply = $r;
            const NAME: &'static str = stringify!($t);
        }
    };
    ($t:ty) => {
        $crate::message!($t => ());
    };
}

/// Appends the envelope of `value` to `buffer`.
pub(crate) fn encode_into<T: Serialize>(name: &str, value: &T, buffer: &mut Vec<u8>) -> Result<(), SendError> {
    rmp_serde::encode::write(buffer, value)
        .map_err(|error| SendError::Undecodable { name: name.to_owned(), why: format!("cannot be encoded: {error}") })
}

/// Reads an envelope back.
pub(crate) fn decode<T: DeserializeOwned>(name: &str, envelope: &[u8]) -> Result<T, SendError> {
    rmp_serde::from_slice(envelope)
        .map_err(|error| SendError::Undecodable { name: name.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Ping {
        n: u64,
    }
    crate::message!(Ping => u64);

    #[test]
    fn kinds_are_stable() {
        assert_eq!(Ping::NAME, "Ping");
        assert_eq!(Ping::kind(), xxhash_rust::xxh3::xxh3_64(b"Ping") as u32);
        assert_ne!(wire_kind("Ping"), wire_kind("Pong"));
    }

    #[test]
    fn undecodable_names_the_message() {
        let error = decode::<Ping>(Ping::NAME, &[0xc1]).unwrap_err();
        assert!(matches!(error, SendError::Undecodable { name, .. } if name == "Ping"));
    }
}
