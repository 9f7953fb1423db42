//! The identity's folder: `cert.pem` (leaf, root), `key.pem`, `root.pem`; 0700 and 0600.
//!
//! Owned here: that a crash never leaves a certificate without its key. The new key is written as `key.pem.new` first,
//! then the certificate replaces the old one, then the key does; a reader that finds a certificate which fits only
//! `key.pem.new` finishes the last step. On a manager with autolock the key is sealed by the unlock key.
//! Called by [`crate::Identity`] only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::Error;
use crate::identity::Credentials;
use crate::unlock::UnlockKey;

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const NEW_KEY: &str = "key.pem.new";
const ROOT: &str = "root.pem";
/// The purpose for which the unlock key seals it, and its name in errors.
const SECRET: &str = "this node's TLS key";

/// True when an identity was written here.
pub(crate) fn exists(dir: &Path) -> bool {
    dir.join(CERTIFICATE).exists()
}

/// True when the key can only be read with the unlock key.
pub(crate) fn is_locked(dir: &Path) -> bool {
    [KEY, NEW_KEY]
        .iter()
        .any(|name| fs::read_to_string(dir.join(name)).is_ok_and(|text| UnlockKey::is_sealed(&text)))
}

/// Reads a key file; a sealed one with the unlock key.
fn read_key(path: &Path, lock: Option<&UnlockKey>) -> Result<Zeroizing<String>, Error> {
    let text = Zeroizing::new(read_text(path)?);
    if !UnlockKey::is_sealed(&text) {
        return Ok(text);
    }
    let lock = lock.ok_or(Error::Locked)?;
    let opened = lock.open(SECRET, &text).map_err(Error::Unlock)?;
    let text = std::str::from_utf8(&opened).map_err(|_| Error::Locked)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Reads the folder; `fits` tells whether credentials belong together.
pub(crate) fn read(
    dir: &Path,
    lock: Option<&UnlockKey>,
    fits: impl Fn(&Credentials) -> bool,
) -> Result<Credentials, Error> {
    let certificate = read_text(&dir.join(CERTIFICATE))?;
    let root = read_text(&dir.join(ROOT))?;
    let new_key = dir.join(NEW_KEY);
    if new_key.exists() {
        let key = read_key(&new_key, lock)?;
        let credentials = Credentials {
            certificate: certificate.clone(),
            key,
            root: root.clone(),
        };
        if fits(&credentials) {
            rename(&new_key, &dir.join(KEY))?;
            sync_dir(dir)?;
            return Ok(credentials);
        }
        fs::remove_file(&new_key).map_err(|source| file("remove", &new_key, source))?;
    }
    let key = read_key(&dir.join(KEY), lock)?;
    Ok(Credentials {
        certificate,
        key,
        root,
    })
}

/// Replaces the folder's content, durably.
pub(crate) fn write(dir: &Path, credentials: &Credentials, lock: Option<&UnlockKey>) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| file("create", dir, source))?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|source| file("protect", dir, source))?;
    match lock {
        Some(lock) => {
            let sealed = lock.seal(SECRET, credentials.key.as_bytes());
            write_private(&dir.join(NEW_KEY), sealed.as_bytes())?;
        }
        None => write_private(&dir.join(NEW_KEY), credentials.key.as_bytes())?,
    }
    replace(&dir.join(ROOT), credentials.root.as_bytes())?;
    replace(&dir.join(CERTIFICATE), credentials.certificate.as_bytes())?;
    sync_dir(dir)?;
    rename(&dir.join(NEW_KEY), &dir.join(KEY))?;
    sync_dir(dir)
}

/// Replaces the root alone, durably.
pub(crate) fn write_root(dir: &Path, root: &str) -> Result<(), Error> {
    replace(&dir.join(ROOT), root.as_bytes())?;
    sync_dir(dir)
}

/// Removes the identity's files (leaving the cluster). Files that are not there are fine.
pub(crate) fn remove(dir: &Path) -> Result<(), Error> {
    for name in [KEY, NEW_KEY, CERTIFICATE, ROOT] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file("remove", &path, source));
            }
            _ => {}
        }
    }
    Ok(())
}

fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("pem.tmp");
    write_private(&temporary, content)?;
    rename(&temporary, path)
}

fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let write = || {
        // A left-over of another mode must not lend its mode to the key.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| file("write", path, source))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| file("rename", from, source))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| file("sync", dir, source))
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| file("read", path, source))
}

fn file(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        operation,
        path: PathBuf::from(path),
        source,
    }
}
