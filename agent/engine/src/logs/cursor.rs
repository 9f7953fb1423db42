//! A position in a chain of log files: `<path>` is written now, `<path>.1` was before, and so on. The files are told apart by
//! inode, so that a rotation while reading neither loses nor repeats a line.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_proto::v1::LogEntry;

use super::{entry, tail};
use crate::Result;
use crate::error::IoContext;

/// Bytes read at once.
const BLOCK: usize = 64 << 10;
/// Longest line taken: the shim splits at 16 KiB before escaping.
const LONGEST: usize = 1 << 20;

/// A position.
pub(super) struct Cursor {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
    /// The end of the file was seen after it was rotated: nothing will be added.
    is_finished: bool,
}

impl Cursor {
    /// Opens at the beginning of the last `tail` lines, or of all.
    pub(super) fn open(path: PathBuf, tail: Option<u64>) -> Result<Self> {
        let mut cursor = Self {
            path,
            file: None,
            rest: Vec::new(),
            is_finished: false,
        };
        cursor
            .place(tail)
            .context(|| format!("read {}", cursor.path.display()))?;
        Ok(cursor)
    }

    fn place(&mut self, tail: Option<u64>) -> io::Result<()> {
        // Newest first.
        let mut files = Vec::new();
        while let Some(file) = open(&rotated(&self.path, files.len()))? {
            files.push(file);
        }
        if files.is_empty() {
            return Ok(());
        }
        let (place, offset) = match tail {
            Some(lines) => tail::find(&files, lines)?,
            None => (files.len() - 1, 0),
        };
        let mut file = files.swap_remove(place);
        file.seek(SeekFrom::Start(offset))?;
        self.file = Some(file);
        Ok(())
    }

    /// The next entries; none at the end of what is written. Takes and gives the cursor to cross threads.
    pub(super) fn batch(mut self) -> Result<(Vec<LogEntry>, Self)> {
        let entries = self.read().context(|| format!("read {}", self.path.display()))?;
        Ok((entries, self))
    }

    fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        let mut block = vec![0; BLOCK];
        loop {
            let Some(file) = &mut self.file else {
                self.file = open(&self.path)?;
                if self.file.is_none() {
                    return Ok(Vec::new());
                }
                continue;
            };
            let count = file.read(&mut block)?;
            if count > 0 {
                let entries = self.take(&block[..count]);
                if entries.is_empty() {
                    continue;
                }
                return Ok(entries);
            }
            if !self.advance()? {
                return Ok(Vec::new());
            }
        }
    }

    /// At the end of a file: goes on to the next if this one was rotated. False if there is nothing to go on to.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let inode = file.metadata()?.ino();
        let mut place = 0;
        let next = loop {
            match std::fs::metadata(rotated(&self.path, place)) {
                Ok(metadata) if metadata.ino() == inode && place == 0 => return Ok(false),
                Ok(metadata) if metadata.ino() == inode => break place - 1,
                Ok(_) => place += 1,
                // Rotated away altogether: the oldest that is left goes on, if any.
                Err(error) if error.kind() == io::ErrorKind::NotFound && place == 0 => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break place - 1,
                Err(error) => return Err(error),
            }
        };
        // What was written between the end that was read and the rotation comes first.
        if !std::mem::replace(&mut self.is_finished, true) {
            return Ok(true);
        }
        self.is_finished = false;
        self.rest.clear();
        self.file = open(&rotated(&self.path, next))?;
        Ok(self.file.is_some())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Vec<LogEntry> {
        let mut entries = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            let parsed = if self.rest.is_empty() {
                entry::parse(line)
            } else {
                self.rest.extend_from_slice(line);
                entry::parse(&std::mem::take(&mut self.rest))
            };
            entries.extend(parsed);
            bytes = rest;
        }
        if self.rest.len() + bytes.len() <= LONGEST {
            self.rest.extend_from_slice(bytes);
        }
        entries
    }
}

fn rotated(path: &Path, place: usize) -> PathBuf {
    match place {
        0 => path.to_owned(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{place}"));
            name.into()
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn append(path: &Path, text: &str) {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        writeln!(
            file,
            r#"{{"log":"{text}\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}}"#
        )
        .unwrap();
    }

    fn drain(mut cursor: Cursor) -> (Vec<String>, Cursor) {
        let mut texts = Vec::new();
        loop {
            let (entries, back) = cursor.batch().unwrap();
            cursor = back;
            if entries.is_empty() {
                return (texts, cursor);
            }
            texts.extend(
                entries
                    .iter()
                    .map(|e| String::from_utf8_lossy(&e.line).trim().to_owned()),
            );
        }
    }

    #[test]
    fn follows_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotate = || {
            let _ = std::fs::rename(rotated(&path, 1), rotated(&path, 2));
            std::fs::rename(&path, rotated(&path, 1)).unwrap();
        };
        let cursor = Cursor::open(path.clone(), None).unwrap();
        let (texts, cursor) = drain(cursor);
        assert!(texts.is_empty());
        append(&path, "1");
        append(&path, "2");
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["1", "2"]);
        append(&path, "3");
        rotate();
        append(&path, "4");
        rotate();
        append(&path, "5");
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["3", "4", "5"]);
        append(&path, "6");
        assert_eq!(drain(cursor).0, ["6"]);
        assert_eq!(
            drain(Cursor::open(path.clone(), Some(3)).unwrap()).0,
            ["4", "5", "6"]
        );
        assert_eq!(drain(Cursor::open(path.clone(), None).unwrap()).0.len(), 6);
        assert!(drain(Cursor::open(path, Some(0)).unwrap()).0.is_empty());
    }
}
