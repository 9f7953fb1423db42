//! The key of a backup: from a passphrase by Argon2id (RFC 9106), or from a key file; and the parameters that stand in
//! the file for the way back.
//!
//! ```text
//! u8 kind (1 passphrase, 2 key file) | u32 KiB | u32 passes | u32 lanes | salt[16] | nonce prefix[7] | check[16]
//! ```
//! The check tells a wrong key from a damaged file. It is made by HKDF with a label of its own and says nothing of the
//! key that seals.

use argon2::{Algorithm, Argon2, Params, Version};
use ring::hkdf;
use zeroize::{Zeroize, Zeroizing};

use super::BackupError;

const SALT: usize = 16;
/// Length of a nonce's random part; counter and last mark follow.
pub(super) const PREFIX: usize = 7;
const CHECK: usize = 16;
const LENGTH: usize = 1 + 12 + SALT + PREFIX + CHECK;

const PASSPHRASE: u8 = 1;
const KEY_FILE: u8 = 2;
/// A key file must be worth a 256-bit key.
const SHORTEST_KEY: usize = 32;
/// RFC 9106, section 4: the second recommended option (64 MiB, three passes), with one lane.
const COST: Cost = Cost {
    kib: 64 << 10,
    passes: 3,
    lanes: 1,
};
/// What a file may ask for at most, so that a hostile one does not take the host's memory.
const HIGHEST: Cost = Cost {
    kib: 1 << 20,
    passes: 32,
    lanes: 16,
};

#[derive(Debug, Clone, Copy)]
struct Cost {
    kib: u32,
    passes: u32,
    lanes: u32,
}

/// Who may read a backup. Wiped from memory when dropped.
pub enum BackupKey {
    /// What a person remembers.
    Passphrase(Zeroizing<String>),
    /// The contents of a key file.
    File(Zeroizing<Vec<u8>>),
}

/// A key that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no passphrase.
    #[error("the passphrase is empty")]
    Empty,
    /// The key file holds too little.
    #[error(
        "the key file has {0} bytes, a key has at least {SHORTEST_KEY}: make one with `head -c 32 /dev/urandom >FILE`"
    )]
    Short(usize),
    /// The derivation failed, or the random number generator.
    #[error("can't derive the backup's key: {0}")]
    Derive(String),
}

/// What seals and opens chunks.
pub(super) struct Sealing {
    pub(super) key: Zeroizing<[u8; 32]>,
    pub(super) prefix: [u8; PREFIX],
}

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl BackupKey {
    /// Whether it can be used at all.
    ///
    /// # Errors
    /// [`KeyError::Empty`], [`KeyError::Short`].
    pub fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::Passphrase(text) if text.is_empty() => Err(KeyError::Empty),
            Self::File(bytes) if bytes.len() < SHORTEST_KEY => Err(KeyError::Short(bytes.len())),
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::File(_) => "key file",
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Passphrase(_) => PASSPHRASE,
            Self::File(_) => KEY_FILE,
        }
    }

    /// Parameters for a new file, and its key.
    pub(super) fn make(&self) -> Result<(Vec<u8>, Sealing), BackupError> {
        let salt: [u8; SALT] = rand::random();
        let prefix: [u8; PREFIX] = rand::random();
        let (key, check) = self.derive(COST, &salt)?;
        let mut parameters = vec![self.kind()];
        for number in [COST.kib, COST.passes, COST.lanes] {
            parameters.extend_from_slice(&number.to_le_bytes());
        }
        parameters.extend_from_slice(&salt);
        parameters.extend_from_slice(&prefix);
        parameters.extend_from_slice(&check);
        Ok((parameters, Sealing { key, prefix }))
    }

    /// The key of a file with these parameters, which stand at `offset`.
    pub(super) fn open(&self, parameters: &[u8], offset: u64) -> Result<Sealing, BackupError> {
        let damaged = || BackupError::Damaged { offset };
        let parameters: &[u8; LENGTH] = parameters.try_into().map_err(|_| damaged())?;
        let number = |at: usize| {
            let bytes = [
                parameters[at],
                parameters[at + 1],
                parameters[at + 2],
                parameters[at + 3],
            ];
            u32::from_le_bytes(bytes)
        };
        let cost = Cost {
            kib: number(1),
            passes: number(5),
            lanes: number(9),
        };
        if cost.kib > HIGHEST.kib || cost.passes > HIGHEST.passes || cost.lanes > HIGHEST.lanes {
            return Err(damaged());
        }
        match (parameters[0], self) {
            (PASSPHRASE, Self::File(_)) => {
                return Err(BackupError::WrongKey("key: the backup wants a passphrase"));
            }
            (KEY_FILE, Self::Passphrase(_)) => {
                return Err(BackupError::WrongKey("key: the backup wants a key file"));
            }
            (PASSPHRASE | KEY_FILE, _) => {}
            _ => return Err(damaged()),
        }
        let (salt, rest) = parameters[13..].split_at(SALT);
        let (prefix, check) = rest.split_at(PREFIX);
        let (key, expected) = self.derive(cost, salt)?;
        // No secret that somebody could probe from afar: an ordinary comparison will do.
        if expected != check {
            return Err(BackupError::WrongKey(self.name()));
        }
        let mut sealing = Sealing {
            key,
            prefix: [0; PREFIX],
        };
        sealing.prefix.copy_from_slice(prefix);
        Ok(sealing)
    }

    fn derive(&self, cost: Cost, salt: &[u8]) -> Result<(Zeroizing<[u8; 32]>, [u8; CHECK]), KeyError> {
        let failed = |reason: &dyn std::fmt::Display| KeyError::Derive(reason.to_string());
        self.check()?;
        let mut material = Zeroizing::new([0; 32]);
        let input = match self {
            Self::Passphrase(text) => {
                let params = Params::new(cost.kib, cost.passes, cost.lanes, Some(32))
                    .map_err(|error| failed(&error))?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(text.as_bytes(), salt, material.as_mut())
                    .map_err(|error| failed(&error))?;
                material.as_slice()
            }
            Self::File(bytes) => bytes.as_slice(),
        };
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(input);
        let expand = |label: &[u8], out: &mut [u8; 32]| {
            extracted
                .expand(&[label], hkdf::HKDF_SHA256)
                .and_then(|expanded| expanded.fill(out))
                .map_err(|_| failed(&"HKDF"))
        };
        let mut key = Zeroizing::new([0; 32]);
        expand(b"pontoon backup: data", &mut key)?;
        let mut long = [0; 32];
        expand(b"pontoon backup: check", &mut long)?;
        let mut check = [0; CHECK];
        check.copy_from_slice(&long[..CHECK]);
        long.zeroize();
        Ok((key, check))
    }
}
