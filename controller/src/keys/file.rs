//! The key file: an encoded `ManagerKeys`, in PEM armour, in clear or sealed. Replaced by rename, so that it is always whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pontoon_identity::{UnlockError, UnlockKey};
use pontoon_proto::v1::{DataKey as StoredKey, ManagerKeys};
use pontoon_raft::{DataKey, KeyId};
use prost::Message as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::Error;

const NAME: &str = "raft.keys";
const BEGIN: &str = "-----BEGIN PONTOON MANAGER KEYS-----";
const END: &str = "-----END PONTOON MANAGER KEYS-----";
/// The purpose for which the unlock key seals it, and its name in errors.
const SECRET: &str = "this manager's data keys";
/// What this program knows of `ManagerKeys`.
const FORMAT: u32 = 1;

/// What is in the file.
pub(super) struct Content {
    /// The current one is the last.
    pub(super) data_keys: Vec<DataKey>,
    pub(super) previous: Option<UnlockKey>,
}

/// The file.
#[derive(Clone)]
pub(super) struct KeyFile(PathBuf);

impl KeyFile {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self(data_dir.join(NAME))
    }

    pub(super) fn is_sealed(&self) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| UnlockKey::is_sealed(&text))
    }

    pub(super) fn damaged(&self, reason: &str) -> Error {
        Error::BadKeys {
            path: self.0.clone(),
            reason: reason.to_owned(),
        }
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.0.clone();
        move |source| Error::File {
            operation,
            path,
            source,
        }
    }

    /// The content; none when there is no file.
    pub(super) fn read(&self, lock: Option<&UnlockKey>) -> Result<Option<Content>, Error> {
        let text = match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => Zeroizing::new(text.map_err(self.failed("read"))?),
        };
        let bytes = if UnlockKey::is_sealed(&text) {
            let lock = lock.ok_or(Error::Locked)?;
            lock.open(SECRET, &text).map_err(|error| match error {
                UnlockError::Wrong { .. } => Error::WrongUnlockKey,
                other => self.damaged(&other.to_string()),
            })?
        } else {
            let body = text
                .trim()
                .strip_prefix(BEGIN)
                .and_then(|rest| rest.strip_suffix(END));
            let body = body.ok_or_else(|| self.damaged("it has no key in it"))?;
            let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
            let bytes = STANDARD.decode(body.as_str());
            Zeroizing::new(bytes.map_err(|error| self.damaged(&error.to_string()))?)
        };
        self.decode(&bytes).map(Some)
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Content, Error> {
        let keys = ManagerKeys::decode(bytes).map_err(|error| self.damaged(&error.to_string()))?;
        if keys.format > FORMAT {
            return Err(self.damaged("it was written by a newer program: start that one, or a newer one"));
        }
        let key = |stored: &StoredKey| {
            let id = KeyId(stored.id.as_ref().try_into().ok()?);
            Some(DataKey::new(
                id,
                Zeroizing::new(stored.secret.as_ref().try_into().ok()?),
            ))
        };
        let data_keys: Option<Vec<_>> = keys.data_keys.iter().map(key).collect();
        let previous = &keys.previous_unlock_key;
        let previous = if previous.is_empty() {
            None
        } else {
            Some(UnlockKey::from_bytes(previous).ok_or_else(|| self.damaged("a key has a wrong length"))?)
        };
        Ok(Content {
            data_keys: data_keys.ok_or_else(|| self.damaged("a key has a wrong length"))?,
            previous,
        })
    }

    /// Replaces the file, durably.
    pub(super) fn write(&self, content: &Content, lock: Option<&UnlockKey>) -> Result<(), Error> {
        let stored = |key: &DataKey| StoredKey {
            id: key.id().0.to_vec().into(),
            secret: key.secret().to_vec().into(),
        };
        let keys = ManagerKeys {
            format: FORMAT,
            data_keys: content.data_keys.iter().map(stored).collect(),
            previous_unlock_key: content
                .previous
                .as_ref()
                .map_or_else(Default::default, |key| key.as_bytes().to_vec().into()),
        };
        let bytes = Zeroizing::new(keys.encode_to_vec());
        wipe(keys);
        let text = Zeroizing::new(match lock {
            Some(lock) => lock.seal(SECRET, &bytes),
            None => format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(bytes.as_slice())),
        });
        let temporary = self.0.with_extension("keys.tmp");
        let write = || {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.0)?;
            File::open(self.0.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        write().map_err(self.failed("write"))
    }
}

/// Overwrites the copies of the keys that the message holds.
fn wipe(keys: ManagerKeys) {
    let secrets = keys.data_keys.into_iter().map(|key| key.secret);
    for secret in secrets.chain([keys.previous_unlock_key]) {
        // Not shared, so this is the buffer itself.
        if let Ok(mut buffer) = secret.try_into_mut() {
            buffer.as_mut().zeroize();
        }
    }
}
