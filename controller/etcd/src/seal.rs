//! Entries and checkpoints sealed before they leave this host: etcd keeps what it is given in clear on its disks.
//!
//! The keys are made of files that the operator gives all managers (`--store-opt seal-key-file=…`): the first seals, all of them
//! open, so a key is replaced by naming a new file before the old one. Without any file nothing is sealed.
//!
//! A sealed value is: key id (8 bytes), salt (16), counter (8, big-endian), AES-256-GCM ciphertext and tag. Each start of a manager
//! seals with a subkey of its own (HKDF-SHA256 of the file with the salt), so that a counter as nonce never repeats for a key. The
//! key under which a value lies is authenticated with it: values can't be swapped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use crate::error::Error;

const CONTEXT: &[u8] = b"pontoon etcd seal 1";
/// Bytes of a key file at least: a random key of 24 bytes in base64.
const LEAST: usize = 32;
const ID: usize = 8;
const SALT: usize = 16;
const COUNTER: usize = 8;
const HEADER: usize = ID + SALT + COUNTER;

/// What seals and opens.
pub(crate) struct Seal {
    /// The first one seals.
    keys: Vec<Key>,
    salt: [u8; SALT],
    current: LessSafeKey,
    sealed: AtomicU64,
}

struct Key {
    id: [u8; ID],
    secret: Prk,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Key {
    fn new(content: &[u8]) -> Self {
        let secret = Salt::new(HKDF_SHA256, CONTEXT).extract(content);
        let mut id = [0; ID];
        secret
            .expand(&[b"id"], Length(ID))
            .and_then(|name| name.fill(&mut id))
            .expect("HKDF gives up to 255 hashes");
        Self { id, secret }
    }

    fn subkey(&self, salt: &[u8]) -> LessSafeKey {
        let info: [&[u8]; 2] = [b"key", salt];
        let subkey = self.secret.expand(&info, &AES_256_GCM);
        LessSafeKey::new(UnboundKey::from(subkey.expect("HKDF gives up to 255 hashes")))
    }
}

impl Seal {
    /// Reads the key files; `None` when there are none.
    ///
    /// # Errors
    /// [`Error::File`], or [`Error::Config`] for a file that is too short to be a key.
    pub(crate) fn read(paths: &[String]) -> Result<Option<Self>, Error> {
        let mut keys = Vec::new();
        for path in paths {
            let content = std::fs::read(path).map_err(|source| Error::File {
                what: "the key that seals the cluster's state",
                path: path.clone(),
                source,
            })?;
            let content = Zeroizing::new(content);
            let key = content.trim_ascii_end();
            if key.len() < LEAST {
                return Err(Error::Config(format!(
                    "{path} holds no key: it needs {LEAST} bytes at least, as of `openssl rand -base64 32`"
                )));
            }
            keys.push(Key::new(key));
        }
        Ok(Self::new(keys))
    }

    fn new(keys: Vec<Key>) -> Option<Self> {
        let salt: [u8; SALT] = rand::random();
        let current = keys.first()?.subkey(&salt);
        Some(Self {
            keys,
            salt,
            current,
            sealed: AtomicU64::new(0),
        })
    }

    /// Seals what is to lie under `name`.
    pub(crate) fn seal(&self, name: &str, data: &[u8]) -> Vec<u8> {
        let counter = self.sealed.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut sealed = Vec::with_capacity(HEADER + data.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&self.keys[0].id);
        sealed.extend_from_slice(&self.salt);
        sealed.extend_from_slice(&counter);
        let mut body = data.to_vec();
        self.current
            .seal_in_place_append_tag(nonce(&counter), Aad::from(name.as_bytes()), &mut body)
            .expect("AES-GCM seals up to 64 GiB");
        sealed.append(&mut body);
        sealed
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let damaged = |reason: &str| crate::keys::corrupt(name, reason);
        if sealed.len() < HEADER + AES_256_GCM.tag_len() {
            return Err(damaged("it is cut"));
        }
        let (header, body) = sealed.split_at(HEADER);
        let (id, rest) = header.split_at(ID);
        let (salt, counter) = rest.split_at(SALT);
        let key = self.keys.iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| missing(name))?;
        let mut body = body.to_vec();
        let length = key
            .subkey(salt)
            .open_in_place(nonce(counter), Aad::from(name.as_bytes()), &mut body)
            .map_err(|_| damaged("its seal is broken: it was changed, or lay under another key"))?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

/// Opens what lies under `name`.
///
/// # Errors
/// [`Error::Sealed`] without the key it was sealed with, [`Error::Corrupt`] when it was changed.
pub(crate) fn open(seal: Option<&Seal>, name: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    seal.ok_or_else(|| missing(name))?.open(name, sealed)
}

fn missing(name: &str) -> Error {
    Error::Sealed { key: name.to_owned() }
}

fn nonce(counter: &[u8]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - COUNTER..].copy_from_slice(counter);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(contents: &[&str]) -> Seal {
        Seal::new(contents.iter().map(|text| Key::new(text.as_bytes())).collect()).unwrap()
    }

    #[test]
    fn a_value_opens_with_its_key_under_its_name_only() {
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let sealed = seal(&[&old]).seal("/log/1", b"data");
        assert!(!sealed.windows(4).any(|part| part == b"data"));
        let rotated = seal(&[&new, &old]);
        assert_eq!(open(Some(&rotated), "/log/1", &sealed).unwrap(), b"data");
        assert_ne!(rotated.seal("/log/1", b"data"), rotated.seal("/log/1", b"data"));
        for (with, name, said) in [
            (None, "/log/1", "--store-opt seal-key-file"),
            (Some(seal(&[&new])), "/log/1", "--store-opt seal-key-file"),
            (Some(seal(&[&old])), "/log/2", "seal is broken"),
        ] {
            let refused = open(with.as_ref(), name, &sealed).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        let mut changed = sealed.clone();
        changed[HEADER] ^= 1;
        assert!(open(Some(&rotated), "/log/1", &changed).is_err());
        for length in 0..sealed.len() {
            assert!(
                open(Some(&rotated), "/log/1", &sealed[..length]).is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("key").to_str().unwrap().to_owned();
        let paths = [path.clone()];
        assert!(Seal::read(&[]).unwrap().is_none());
        assert!(Seal::read(&paths).unwrap_err().to_string().contains(&path));
        std::fs::write(&path, "short\n").unwrap();
        assert!(
            Seal::read(&paths)
                .unwrap_err()
                .to_string()
                .contains("32 bytes at least")
        );
        std::fs::write(&path, format!("{}\n", "k".repeat(44))).unwrap();
        assert!(Seal::read(&paths).unwrap().is_some());
    }
}
