//! Small JSON files that let a restarted daemon know what it had: written to a temporary name and renamed, so that a
//! reader finds the old or the new one.
use std::{fs, io, path::Path};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        operation,
        path,
        source,
    }
}

/// Makes a directory that only root reads.
///
/// # Errors
/// [`Error::File`].
pub fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create", path))
}

/// Writes `value` to `<dir>/<id>.json`.
///
/// # Errors
/// [`Error::File`].
pub fn write(dir: &Path, id: &str, value: &impl Serialize) -> Result<()> {
    let path = dir.join(format!("{id}.json"));
    let temporary = dir.join(format!("{id}.tmp"));
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Record {
        path: path.clone(),
        source,
    })?;
    let written = fs::write(&temporary, bytes)
        .map_err(failed("write", &temporary))
        .and_then(|()| fs::rename(&temporary, &path).map_err(failed("write", &path)));
    if written.is_err() {
        // The disk is full, for example: what is half there must not make that worse.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes `<dir>/<id>.json`; an absent one is fine.
///
/// # Errors
/// [`Error::File`].
pub fn remove(dir: &Path, id: &str) -> Result<()> {
    let path = dir.join(format!("{id}.json"));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Reads `<dir>/<id>.json`, if there is one.
///
/// # Errors
/// [`Error::File`], [`Error::Record`].
pub fn read<T: DeserializeOwned>(dir: &Path, id: &str) -> Result<Option<T>> {
    let path = dir.join(format!("{id}.json"));
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Record { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// The names, without `.json`, of all records in `dir`, sorted.
///
/// # Errors
/// [`Error::File`].
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = entries(dir)?
        .iter()
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Reads all records in `dir` but `others`, sorted by name, when a daemon starts. Removes what a killed one was
/// writing. A record that can't be read is told in the log and left out, so that one bad file does not keep the daemon
/// from starting.
///
/// # Errors
/// [`Error::File`] when the directory can't be read.
pub fn read_all<T: DeserializeOwned>(dir: &Path, others: &[&str]) -> Result<Vec<(String, T)>> {
    for name in entries(dir)?.iter().filter(|name| name.ends_with(".tmp")) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    let mut records = Vec::new();
    for name in names(dir)?
        .into_iter()
        .filter(|name| !others.contains(&name.as_str()))
    {
        match read(dir, &name) {
            Ok(Some(record)) => records.push((name, record)),
            Ok(None) => {}
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(record = %dir.join(&name).display(), %error, source, "a record can't be read and is left out");
            }
        }
    }
    Ok(records)
}

/// The names of all files in `dir`.
///
/// # Errors
/// [`Error::File`].
pub fn entries(dir: &Path) -> Result<Vec<String>> {
    let read = fs::read_dir(dir).map_err(failed("read", dir))?;
    Ok(read
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}
