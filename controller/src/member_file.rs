//! The file that holds this member's raft id, which must be known before the log is opened. Called by `Manager`.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use pontoon_raft::{Host, Vfs};

use crate::error::Error;

const NAME: &str = "raft.id";
#[cfg(test)]
const TEMPORARY: &str = "raft.id.tmp";
/// A number and a line's end; anything longer is no id.
const MAX_SIZE: usize = 64;

/// True when `data_dir` holds one.
pub(crate) fn exists(data_dir: &Path) -> bool {
    data_dir.join(NAME).exists()
}

/// The id.
pub(crate) fn read(host: &Host, data_dir: &Path) -> Result<u64, Error> {
    let path = data_dir.join(NAME);
    let text = content(&*host.disk(), &path).map_err(|source| Error::File {
        operation: "read",
        path: path.clone(),
        source,
    })?;
    text.trim().parse().map_err(|_| Error::BadMember { path })
}

fn content(disk: &dyn Vfs, path: &Path) -> io::Result<String> {
    let file = disk.open(path)?;
    let mut text = vec![0; MAX_SIZE];
    let length = file.read_at(&mut text, 0)?;
    text.truncate(length);
    String::from_utf8(text).map_err(io::Error::other)
}

/// Writes it, durably: a log without its member's id can't be opened.
pub(crate) fn write(host: &Host, data_dir: &Path, id: u64) -> Result<(), Error> {
    write_line(host, data_dir, NAME, &id.to_string())
}

/// Writes a small file of the data folder, which is made if need be, durably and under its name in one step.
pub(crate) fn write_line(host: &Host, data_dir: &Path, name: &str, line: &str) -> Result<(), Error> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File {
            operation,
            path,
            source,
        }
    };
    if !host.is_simulated() {
        let created = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir);
        created.map_err(failed("create", data_dir))?;
    }
    let disk = host.disk();
    let (path, temporary) = (data_dir.join(name), data_dir.join(format!("{name}.tmp")));
    // One that a crash left; most often there is none.
    let _ = disk.remove(&temporary);
    let written = disk.create(&temporary).and_then(|file| {
        file.write_at(format!("{line}\n").as_bytes(), 0)?;
        file.sync()
    });
    written.map_err(failed("write", &temporary))?;
    disk.rename(&temporary, &path)
        .and_then(|()| disk.sync_dir(data_dir))
        .map_err(failed("rename", &temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_written_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let host = Host::default();
        assert!(!exists(&data) && read(&host, &data).is_err());
        for id in [7, u64::MAX] {
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join(TEMPORARY), "left by a crash").unwrap();
            write(&host, &data, id).unwrap();
            assert_eq!(read(&host, &data).unwrap(), id);
        }
        assert!(exists(&data) && !data.join(TEMPORARY).exists());
        std::fs::write(data.join(NAME), "seven").unwrap();
        assert!(matches!(read(&host, &data), Err(Error::BadMember { .. })));
    }
}
