//! Join tokens: what a process shows to get its certificate, as one line of text.
//!
//! `mobula1.` and then base64url of: secret (32 bytes), fingerprint of the authority (32 bytes),
//! expiry in seconds since 1970 (8 bytes, big-endian).

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "mobula1.";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const TOKEN_BYTES: usize = 72;

/// Permission to join a cluster, for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Known to the head and whoever was given the token.
    pub secret: [u8; 32],
    /// By which the joiner knows the right cluster.
    pub ca_fingerprint: [u8; 32],
    /// When it ends, in seconds since 1970.
    pub expires_unix_s: u64,
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a join token; it looks like `mobula1.` and {} letters", TOKEN_BYTES * 4 / 3)]
pub struct TokenError;

impl JoinToken {
    /// Whether the token has ended.
    pub fn is_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs() >= self.expires_unix_s
    }

    /// Compares the secret in constant time.
    pub(super) fn has_secret(&self, secret: &[u8; 32]) -> bool {
        let difference = self.secret.iter().zip(secret).fold(0u8, |difference, (ours, theirs)| {
            // The compiler must not leave the loop at the first difference.
            black_box(difference | (ours ^ theirs))
        });
        difference == 0
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; TOKEN_BYTES];
        bytes[..32].copy_from_slice(&self.secret);
        bytes[32..64].copy_from_slice(&self.ca_fingerprint);
        bytes[64..].copy_from_slice(&self.expires_unix_s.to_be_bytes());
        f.write_str(PREFIX)?;
        // 72 bytes are a whole number of groups of three: no padding.
        for group in bytes.chunks_exact(3) {
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            for shift in [18, 12, 6, 0] {
                let letter = ALPHABET[(bits >> shift) as usize & 63];
                write!(f, "{}", char::from(letter))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(expires {})", self.expires_unix_s)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let letters = text.trim().strip_prefix(PREFIX).ok_or(TokenError)?.as_bytes();
        if letters.len() != TOKEN_BYTES / 3 * 4 {
            return Err(TokenError);
        }
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        for group in letters.chunks_exact(4) {
            let mut bits = 0u32;
            for letter in group {
                let value = ALPHABET.iter().position(|of| of == letter).ok_or(TokenError)?;
                bits = bits << 6 | value as u32;
            }
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
        }
        let array = |from: usize| bytes[from..from + 32].try_into().map_err(|_| TokenError);
        Ok(Self {
            secret: array(0)?,
            ca_fingerprint: array(32)?,
            expires_unix_s: u64::from_be_bytes(bytes[64..].try_into().map_err(|_| TokenError)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_text() {
        let token = JoinToken { secret: [0; 32], ca_fingerprint: [255; 32], expires_unix_s: 1 };
        let text = token.to_string();
        assert_eq!(
            text,
            "mobula1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAD__________________________________________wAAAAAAAAAB"
        );
        assert!(token.is_expired());
        assert!(!format!("{token:?}").contains("AAAA"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn tokens_survive_their_text(secret: [u8; 32], ca_fingerprint: [u8; 32], expires_unix_s: u64) {
            let token = JoinToken { secret, ca_fingerprint, expires_unix_s };
            prop_assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token.clone());
            prop_assert!(token.has_secret(&secret));
            let mut other = secret;
            other[31] ^= 1;
            prop_assert!(!token.has_secret(&other));
        }

        #[test]
        fn other_texts_are_refused(text in ".{0,120}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
        }
    }
}
