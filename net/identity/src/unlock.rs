//! The unlock key of a cluster with autolock, `SWMKEY-1-<key>` as Docker Swarm writes it, and what it seals at rest.
//!
//! Owned here: its text form, and the form of a sealed secret: PEM armour around version, salt and the AES-256-GCM
//! ciphertext. HKDF-SHA256 makes a key of its own from unlock key, salt and purpose for each sealing, so the nonce is
//! always zero. Seals the node's TLS key (`files`) and the manager's data keys (the controller).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use zeroize::Zeroizing;

const PREFIX: &str = "SWMKEY-1-";
const BEGIN: &str = "-----BEGIN PONTOON SEALED SECRET-----";
const END: &str = "-----END PONTOON SEALED SECRET-----";
const VERSION: u8 = 1;
const SALT: usize = 32;

/// The key that a locked manager asks for. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Zeroizing<[u8; 32]>);

/// Why a text is no unlock key, or does not open something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnlockError {
    /// It does not have the form.
    #[error("invalid key string: an unlock key looks like SWMKEY-1-<43 characters>")]
    Form,
    /// It is another key, or what it seals was changed.
    #[error("the unlock key does not open {what}: it is another key, or the file was changed")]
    Wrong {
        /// What was to be opened.
        what: &'static str,
    },
    /// The sealed text is damaged or of a newer program.
    #[error("{what} is not readable: its sealed form is damaged or was written by a newer program")]
    Damaged {
        /// What was to be opened.
        what: &'static str,
    },
}

impl UnlockKey {
    /// A new key.
    pub fn generate() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(key.as_mut_slice());
        Self(key)
    }

    /// A key that the cluster's state holds.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Its bytes, for the cluster's state.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The text to show to the operator.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", STANDARD_NO_PAD.encode(self.0.as_slice())))
    }

    /// Seals a secret; `what` names it and must be the same when it is opened.
    pub fn seal(&self, what: &'static str, secret: &[u8]) -> String {
        const FITS: &str = "a secret is far below AES-GCM's 64 GiB";
        let mut salt = [0; SALT];
        rand::fill(&mut salt);
        let mut buffer = Zeroizing::new(secret.to_vec());
        let key = self.key(what, &salt);
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::from([VERSION]), buffer.as_mut_slice());
        let sealed = [
            &[VERSION],
            salt.as_slice(),
            buffer.as_slice(),
            tag.expect(FITS).as_ref(),
        ]
        .concat();
        let text = STANDARD.encode(sealed);
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let body = lines.fold(String::new(), |body, line| body + &line + "\n");
        format!("{BEGIN}\n{body}{END}\n")
    }

    /// Opens what [`UnlockKey::seal`] made.
    ///
    /// # Errors
    /// [`UnlockError::Wrong`] and [`UnlockError::Damaged`].
    pub fn open(&self, what: &'static str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, UnlockError> {
        let damaged = UnlockError::Damaged { what };
        let body = sealed
            .trim()
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(END));
        let text: String = body.ok_or(damaged.clone())?.split_whitespace().collect();
        let bytes = STANDARD.decode(text).map_err(|_| damaged.clone())?;
        let Some((&[VERSION], rest)) = bytes.split_at_checked(1) else {
            return Err(damaged);
        };
        let (salt, sealed) = rest.split_at_checked(SALT).ok_or(damaged)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let key = self.key(what, salt);
        let opened = key.open_in_place(nonce(), Aad::from([VERSION]), buffer.as_mut_slice());
        let len = opened.map_err(|_| UnlockError::Wrong { what })?.len();
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Whether a text is what [`UnlockKey::seal`] makes.
    pub fn is_sealed(text: &str) -> bool {
        text.trim_start().starts_with(BEGIN)
    }

    fn key(&self, what: &'static str, salt: &[u8]) -> LessSafeKey {
        const FITS: &str = "a 32-byte key is within HKDF's and AES-256's lengths";
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.0.as_slice());
        let info = [b"pontoon unlock 1 ".as_slice(), what.as_bytes()];
        let expanded = extracted.expand(&info, &AES_256_GCM).expect(FITS);
        LessSafeKey::new(UnboundKey::from(expanded))
    }
}

/// Each sealing has a key of its own.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}…")
    }
}

impl FromStr for UnlockKey {
    type Err = UnlockError;

    fn from_str(text: &str) -> Result<Self, UnlockError> {
        let key = text.trim().strip_prefix(PREFIX).ok_or(UnlockError::Form)?;
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(key).map_err(|_| UnlockError::Form)?);
        Self::from_bytes(&bytes).ok_or(UnlockError::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_text() {
        let key = UnlockKey::generate();
        let text = key.reveal();
        assert!(
            text.starts_with("SWMKEY-1-") && text.len() == 9 + 43,
            "{}",
            text.as_str()
        );
        assert_eq!(format!(" {}\n", text.as_str()).parse(), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "SWMKEY-1-…");
        for bad in [
            "",
            "SWMKEY-1-",
            "SWMKEY-2-abc",
            "SWMTKN-1-a-b",
            &text[..51],
            &format!("{}A", text.as_str()),
        ] {
            assert_eq!(bad.parse::<UnlockKey>(), Err(UnlockError::Form), "{bad}");
        }
    }

    #[test]
    fn a_sealed_secret_opens_with_its_key_for_its_purpose() {
        let (key, other) = (UnlockKey::generate(), UnlockKey::generate());
        let sealed = key.seal("the key", b"secret");
        assert!(UnlockKey::is_sealed(&sealed) && !sealed.contains("secret"));
        assert_ne!(sealed, key.seal("the key", b"secret"));
        assert_eq!(
            key.open("the key", &sealed).as_deref().map(Vec::as_slice),
            Ok(b"secret".as_slice())
        );
        assert!(matches!(
            other.open("the key", &sealed),
            Err(UnlockError::Wrong { .. })
        ));
        assert!(matches!(
            key.open("the log's keys", &sealed),
            Err(UnlockError::Wrong { .. })
        ));
        for cut in [0, 10, BEGIN.len() + 5, sealed.len() - 3] {
            assert!(key.open("the key", &sealed[..cut]).is_err(), "cut at {cut}");
        }
    }
}
