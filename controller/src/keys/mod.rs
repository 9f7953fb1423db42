//! The keys that a manager seals its disk with: made at its start, kept in one file, replaced when the cluster says so.
//!
//! Owned here: `raft.keys` beside the log, holding the log's data keys; in clear (0600) without autolock, else sealed by the
//! cluster's unlock key, as the TLS key is then. `keeper` follows the cluster's unlock key. Called by [`crate::Manager`]; the
//! daemon asks whether a manager is locked before it starts one.

mod file;
mod keeper;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use pontoon_identity::{Identity, UnlockKey};
use pontoon_raft::{DataKey, KeyId, Keyring};

use crate::error::Error;

pub(crate) use keeper::run;

use file::{Content, KeyFile};

/// True when the manager's keys in `data_dir` can only be read with the unlock key.
pub fn is_locked(data_dir: &Path) -> bool {
    KeyFile::new(data_dir).is_sealed()
}

/// Tries an unlock key on the manager's keys in `data_dir`. The answer is the one before it, if a change of the unlock key was cut
/// off: the TLS key may still be sealed by that.
///
/// # Errors
/// [`Error::WrongUnlockKey`]; what the disk says.
pub fn try_unlock(data_dir: &Path, key: &UnlockKey) -> Result<Option<UnlockKey>, Error> {
    let content = KeyFile::new(data_dir).read(Some(key))?;
    Ok(content.and_then(|content| content.previous))
}

/// What is told when an unlock key does not fit.
pub fn wrong_key() -> Error {
    Error::WrongUnlockKey
}

/// A manager's keys.
pub(crate) struct Keys {
    file: KeyFile,
    ring: Keyring,
    lock: Option<UnlockKey>,
    previous: Option<UnlockKey>,
}

impl Keys {
    /// The keys in `data_dir`; a first one is made where there is none.
    pub(crate) fn open(data_dir: &Path, lock: Option<&UnlockKey>) -> Result<Self, Error> {
        let file = KeyFile::new(data_dir);
        let sealed = file.is_sealed();
        let content = match file.read(lock)? {
            Some(content) => content,
            None => {
                let content = Content {
                    data_keys: vec![DataKey::random()],
                    previous: None,
                };
                file.write(&content, None)?;
                content
            }
        };
        let mut data_keys = content.data_keys;
        let current = data_keys
            .pop()
            .ok_or_else(|| file.damaged("it holds no data key"))?;
        Ok(Self {
            file,
            ring: Keyring::new(current, data_keys),
            lock: lock.filter(|_| sealed).cloned(),
            previous: content.previous,
        })
    }

    /// What the log seals its files with.
    pub(crate) fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// Seals all keys by the unlock key `wanted`, or by none. True: the log has a new data key, since copies of the disk made
    /// before could open what the old one sealed.
    ///
    /// At each moment what is on the disk opens with one unlock key: the key file goes first and names the one before; taking the
    /// lock off goes the other way round.
    fn set_lock(&mut self, identity: &Identity, wanted: Option<&UnlockKey>) -> Result<bool, Error> {
        let mut data_keys = self.ring.all();
        let rotates = wanted.is_some() && self.lock.as_ref() != wanted;
        if rotates {
            let key = DataKey::random();
            data_keys.push(key.clone());
            let content = Content {
                data_keys: data_keys.clone(),
                previous: self.lock.clone().or_else(|| self.previous.clone()),
            };
            self.file.write(&content, wanted)?;
            self.ring.rotate(key);
        }
        identity.set_lock(wanted).map_err(Error::Identity)?;
        let content = Content {
            data_keys,
            previous: None,
        };
        self.file.write(&content, wanted)?;
        self.previous = None;
        self.lock = wanted.cloned();
        Ok(rotates)
    }

    /// Keys that nothing on the disk is sealed with any more.
    fn unused(&self, used: &BTreeSet<KeyId>) -> Vec<KeyId> {
        let current = self.ring.current().id();
        let ids = self.ring.all().into_iter().map(|key| key.id());
        ids.filter(|id| *id != current && !used.contains(id)).collect()
    }

    /// Forgets data keys, on the disk first.
    fn forget(&mut self, ids: &[KeyId]) -> Result<(), Error> {
        let kept = self.ring.all().into_iter().filter(|key| !ids.contains(&key.id()));
        let content = Content {
            data_keys: kept.collect(),
            previous: self.previous.clone(),
        };
        self.file.write(&content, self.lock.as_ref())?;
        ids.iter().for_each(|id| self.ring.forget(*id));
        Ok(())
    }
}
