//! Join tokens: `SWMTKN-1-<digest>-<secret>`, as Docker Swarm writes them.
//!
//! Owned here: the text form. The digest is the SHA-256 of the root certificate (DER) in 50 digits of base 36, the
//! secret 16 random bytes in 25. The digest lets the joining node check the cluster before it says its secret; the
//! secret tells the cluster in which role the node may come. Called by joining nodes, the CA and the Control API.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
const DIGEST_DIGITS: usize = 50;
const SECRET_DIGITS: usize = 25;

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the cluster's root certificate (DER).
    pub root_digest: [u8; 32],
    secret: [u8; 16],
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not have the form at all.
    #[error("this is not a join token: it must look like SWMTKN-1-<digest>-<secret>")]
    Form,
    /// It is of a later version.
    #[error("the join token has version {0:?}; only version 1 is known")]
    Version(String),
    /// The digest's part is damaged.
    #[error("the join token's digest is damaged: it must have 50 characters 0-9a-z")]
    Digest,
    /// The secret's part is damaged.
    #[error("the join token's secret is damaged: it must have 25 characters 0-9a-z")]
    Secret,
}

impl JoinToken {
    /// A token for the root with this digest.
    pub fn new(root_digest: [u8; 32], secret: [u8; 16]) -> Self {
        Self { root_digest, secret }
    }

    /// True when both are the same token, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        let mut difference = 0;
        for (a, b) in self.root_digest.iter().zip(&other.root_digest) {
            difference |= a ^ b;
        }
        for (a, b) in self.secret.iter().zip(&other.secret) {
            difference |= a ^ b;
        }
        std::hint::black_box(difference) == 0
    }
}

/// A fresh secret of the system's random source.
pub fn generate_secret() -> [u8; 16] {
    let mut secret = [0; 16];
    rand::fill(&mut secret);
    secret
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = to_base36(&self.root_digest, DIGEST_DIGITS);
        let secret = to_base36(&self.secret, SECRET_DIGITS);
        write!(f, "{PREFIX}-{VERSION}-{digest}-{secret}")
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}-{VERSION}-{}-…",
            to_base36(&self.root_digest, DIGEST_DIGITS)
        )
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('-');
        if parts.next() != Some(PREFIX) {
            return Err(TokenError::Form);
        }
        let (Some(version), Some(digest), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        if version != VERSION {
            return Err(TokenError::Version(version.to_owned()));
        }
        Ok(Self {
            root_digest: from_base36(digest, DIGEST_DIGITS).ok_or(TokenError::Digest)?,
            secret: from_base36(secret, SECRET_DIGITS).ok_or(TokenError::Secret)?,
        })
    }
}

/// A big-endian number in base 36, padded to `digits`.
fn to_base36(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec![b'0'; digits];
    for place in text.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = rest * 256 + u32::from(*byte);
            *byte = (value / 36) as u8;
            rest = value % 36;
        }
        *place = b"0123456789abcdefghijklmnopqrstuvwxyz"[rest as usize];
    }
    text.into_iter().map(char::from).collect()
}

/// The reverse; `None` for another length, another character or a number too big.
fn from_base36<const N: usize>(text: &str, digits: usize) -> Option<[u8; N]> {
    if text.len() != digits {
        return None;
    }
    let mut number = [0u8; N];
    for character in text.chars() {
        let mut carry = match character {
            '0'..='9' | 'a'..='z' => character.to_digit(36)?,
            _ => return None,
        };
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_survives_its_text(digest: [u8; 32], secret: [u8; 16]) {
            let token = JoinToken::new(digest, secret);
            let text = token.to_string();
            prop_assert_eq!(text.len(), "SWMTKN-1-".len() + 50 + 1 + 25);
            prop_assert!(text.parse::<JoinToken>().unwrap().matches(&token));
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text: String) {
            let _ = text.parse::<JoinToken>();
            let _ = format!("SWMTKN-1-{text}").parse::<JoinToken>();
        }
    }

    #[test]
    fn each_damage_is_named() {
        let good = JoinToken::new([7; 32], [9; 16]).to_string();
        let parse = |text: &str| text.parse::<JoinToken>().unwrap_err();
        assert_eq!(parse("hello"), TokenError::Form);
        assert_eq!(parse(&format!("{good}-x")), TokenError::Form);
        assert_eq!(
            parse(&good.replacen("-1-", "-2-", 1)),
            TokenError::Version("2".into())
        );
        assert_eq!(parse(&good[..good.len() - 1]), TokenError::Secret);
        assert_eq!(
            parse(&good.replacen("SWMTKN-1-", "SWMTKN-1-0", 1)),
            TokenError::Digest
        );
        let too_big = format!("SWMTKN-1-{}-{}", "z".repeat(50), "0".repeat(25));
        assert_eq!(parse(&too_big), TokenError::Digest);
        assert!(!format!("{:?}", JoinToken::new([7; 32], [9; 16])).contains(&good[60..]));
    }
}
