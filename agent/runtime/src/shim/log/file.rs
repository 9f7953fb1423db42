//! A log in files: appends whole records, rotates by size and count, has older files compressed by a process of their own.
//! A full disk loses lines, which are counted, but never leaves half a record. Used by the shim itself and by the writer.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::compress::Compressor;
use super::encode::Encoder;
use super::record::{Lost, Record};
use super::repair;
use crate::error::IoContext;
use crate::{Error, FileLog};

/// Records are gathered until they have so many bytes, or [`FileSink::flush`] is called.
const GATHER: usize = 256 << 10;
/// After a rotation that failed, the file grows by so much until the next attempt.
const RETRY_AFTER: u64 = 1 << 20;

/// A log's files.
#[derive(Debug)]
pub(super) struct FileSink {
    config: FileLog,
    encoder: Encoder,
    file: File,
    /// Of the current file, without what is gathered.
    size: u64,
    gathered: Vec<u8>,
    /// Where each gathered record ends.
    ends: Vec<usize>,
    /// Since writing began to fail; `None` while it works.
    lost: Option<Lost>,
    last_time: i64,
    compressor: Option<Compressor>,
    /// A rotation has failed: none is tried below this size.
    retry_at: u64,
    notices: Vec<String>,
}

/// A path with something behind its name.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The file of a place in the chain, 0 being the current one.
fn numbered(path: &Path, place: u32, suffix: &str) -> PathBuf {
    match place {
        0 => path.to_owned(),
        place => suffixed(path, &format!(".{place}{suffix}")),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    options
}

impl FileSink {
    /// Opens the current file. What a crash has torn is repaired, a compression that it broke off is done again.
    pub(super) fn open(config: &FileLog, encoder: Encoder) -> Result<Self, Error> {
        let path = &config.path;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).context(|| format!("create {}", parent.display()))?;
        }
        let file = options()
            .open(path)
            .context(|| format!("open log {}", path.display()))?;
        let is_local = matches!(encoder, Encoder::Local { .. });
        let size = repair::repair(&file, is_local).context(|| format!("repair log {}", path.display()))?;
        let mut sink = Self {
            config: config.clone(),
            encoder,
            file,
            size,
            gathered: Vec::new(),
            ends: Vec::new(),
            lost: None,
            last_time: 0,
            compressor: None,
            retry_at: 0,
            notices: Vec::new(),
        };
        if sink.config.compress && numbered(path, 1, "").exists() {
            sink.compress();
        }
        Ok(sink)
    }

    /// Takes a record; it is in the file after the next flush.
    pub(super) fn write(&mut self, record: &Record<'_>) {
        if self.is_full() {
            self.flush();
            // While the last file is being compressed this one grows; whoever can wait asks `is_busy` first.
            if self.is_full() && self.compressor.is_none() {
                self.rotate();
            }
        }
        self.encoder.encode(record, &mut self.gathered);
        self.ends.push(self.gathered.len());
        self.last_time = record.time;
        if self.gathered.len() >= GATHER {
            self.flush();
        }
    }

    fn is_full(&self) -> bool {
        let size = self.size + self.gathered.len() as u64;
        size > 0 && size >= self.retry_at && self.config.max_size.is_some_and(|max| size >= max)
    }

    /// The file has its size and can't be rotated before the last one is compressed.
    pub(super) fn is_busy(&self) -> bool {
        self.compressor.is_some() && self.is_full()
    }

    /// Waits until [`FileSink::is_busy`] is over. For the writer, whose only work this is.
    pub(super) fn wait_while_busy(&mut self) {
        if self.is_busy()
            && let Some(compressor) = self.compressor.take()
        {
            self.notices.extend(compressor.wait());
        }
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self) {
        if self.ends.is_empty() {
            return;
        }
        let mut written = 0;
        let outcome = loop {
            if written == self.gathered.len() {
                break Ok(());
            }
            match self.file.write(&self.gathered[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        match outcome {
            Ok(()) => {
                self.size += written as u64;
                if let Some(lost) = self.lost.take() {
                    let path = self.config.path.display();
                    self.notices
                        .push(format!("log {path} is being written again: {lost}"));
                }
            }
            Err(error) => self.failed(written, &error),
        }
        self.ends = Vec::new();
        self.gathered = Vec::new();
    }

    /// Keeps the records that were written whole, and counts the rest.
    fn failed(&mut self, written: usize, error: &io::Error) {
        let whole = self.ends.partition_point(|end| *end <= written);
        let kept = whole.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.size += kept as u64;
        if kept < written && self.file.set_len(self.size).is_err() {
            // Readers skip half a record.
            self.size += (written - kept) as u64;
        }
        if self.lost.is_none() {
            let path = self.config.path.display();
            self.notices
                .push(format!("log {path}: {error}: output is being lost"));
        }
        let lost = self.lost.get_or_insert_default();
        lost.add(self.ends.len() - whole, self.gathered.len() - kept);
    }

    fn rotate(&mut self) {
        match self.shift() {
            Ok(file) => {
                self.file = file;
                self.size = 0;
                self.retry_at = 0;
                if self.config.compress && self.config.max_file > 1 {
                    self.compress();
                }
            }
            Err(error) => {
                if self.retry_at == 0 {
                    self.notices.push(format!("log rotation: {}", error.chain()));
                }
                self.retry_at = self.size + RETRY_AFTER;
            }
        }
    }

    /// Renames the files. The new one is made first: on a full disk the old one goes on.
    fn shift(&self) -> Result<File, Error> {
        let path = &self.config.path;
        let fresh = suffixed(path, ".new");
        // Of a crash.
        let _ = std::fs::remove_file(&fresh);
        let file = options()
            .open(&fresh)
            .context(|| format!("create {}", fresh.display()))?;
        let renamed = |from: &Path, to: &Path| match std::fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.context(|| format!("rename {}", from.display())),
        };
        // With one file the old one is replaced, not truncated: its readers finish it.
        if self.config.max_file > 1 {
            for suffix in ["", ".gz"] {
                let _ = std::fs::remove_file(numbered(path, self.config.max_file - 1, suffix));
                for place in (1..self.config.max_file - 1).rev() {
                    renamed(&numbered(path, place, suffix), &numbered(path, place + 1, suffix))?;
                }
            }
            renamed(path, &numbered(path, 1, ""))?;
        }
        renamed(&fresh, path)?;
        Ok(file)
    }

    fn compress(&mut self) {
        match Compressor::start(&numbered(&self.config.path, 1, ""), self.last_time) {
            Ok(compressor) => self.compressor = Some(compressor),
            Err(error) => self.notices.push(format!("log compression: {}", error.chain())),
        }
    }

    /// A child of this process has ended.
    pub(super) fn child_ended(&mut self, pid: u32, is_success: bool) {
        if let Some(compressor) = self.compressor.take_if(|compressor| compressor.pid() == pid) {
            self.notices.extend(compressor.ended(is_success));
        }
    }

    /// No process of this log is at work.
    pub(super) fn is_idle(&self) -> bool {
        self.compressor.is_none()
    }

    /// Ends what is at work. The file stays as it is and is compressed another time.
    pub(super) fn abandon(&mut self) {
        if let Some(compressor) = self.compressor.take() {
            compressor.kill();
        }
    }

    /// Waits for what is at work.
    pub(super) fn close(&mut self) {
        self.flush();
        if let Some(compressor) = self.compressor.take() {
            self.notices.extend(compressor.wait());
        }
    }

    /// What the daemon is to be told.
    pub(super) fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}
