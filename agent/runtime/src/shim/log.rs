//! Docker's json-file log: one object a line, lines longer than 16 KiB in parts, rotation by size and count.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::IoContext;
use crate::protocol::kind;
use crate::{Error, LogConfig};

/// Longest part of a line in one entry (moby `copier.go`).
const LINE_LIMIT: usize = 16 << 10;

/// A container's log.
#[derive(Debug)]
pub(super) struct Log {
    target: Option<Target>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Debug)]
struct Target {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    /// Told once: a full disk must not fill the shim's own log.
    failed: bool,
}

impl Log {
    pub(super) fn open(config: &LogConfig) -> Result<Self, Error> {
        let target = match config {
            LogConfig::None => None,
            LogConfig::JsonFile {
                path,
                max_size,
                max_file,
            } => {
                let file = append(path)?;
                let size = file
                    .metadata()
                    .context(|| format!("stat {}", path.display()))?
                    .len();
                Some(Target {
                    path: path.clone(),
                    file,
                    size,
                    max_size: *max_size,
                    max_file: *max_file,
                    failed: false,
                })
            }
        };
        Ok(Self {
            target,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// Takes output of one stream (a frame kind) and writes the lines that are whole.
    pub(super) fn write(&mut self, stream: u8, mut bytes: &[u8]) {
        let Some(target) = &mut self.target else { return };
        let (name, held) = match stream {
            kind::STDERR => ("stderr", &mut self.stderr),
            _ => ("stdout", &mut self.stdout),
        };
        let mut entries = Vec::with_capacity(bytes.len() + 128);
        while !bytes.is_empty() {
            let room = LINE_LIMIT - held.len();
            let window = &bytes[..bytes.len().min(room)];
            let (part, is_whole) = match window.iter().position(|&b| b == b'\n') {
                Some(end) => (&window[..=end], true),
                None => (window, window.len() == room),
            };
            held.extend_from_slice(part);
            bytes = &bytes[part.len()..];
            if is_whole {
                entry(&mut entries, name, held);
                held.clear();
                target.rotate_if_full(&mut entries);
            }
        }
        if held.is_empty() {
            *held = Vec::new();
        }
        target.append(&entries);
    }

    /// Writes lines that will not be completed.
    pub(super) fn finish(&mut self) {
        let Some(target) = &mut self.target else { return };
        for (name, held) in [("stdout", &mut self.stdout), ("stderr", &mut self.stderr)] {
            if !held.is_empty() {
                let mut entries = Vec::new();
                entry(&mut entries, name, held);
                held.clear();
                target.append(&entries);
            }
        }
    }
}

fn append(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .context(|| format!("open log {}", path.display()))
}

impl Target {
    fn append(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        match self.file.write_all(entries) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                eprintln!("log {}: {error}: output is being lost", self.path.display());
            }
            Err(_) => {}
        }
        self.size += entries.len() as u64;
    }

    /// Writes the entries and starts a new file if the current one has reached its size.
    fn rotate_if_full(&mut self, entries: &mut Vec<u8>) {
        let Some(max) = self.max_size else { return };
        if self.size + entries.len() as u64 >= max {
            self.append(entries);
            entries.clear();
            if let Err(error) = self.rotate() {
                eprintln!("log rotation: {}", error.chain());
            }
        }
    }

    fn rotate(&mut self) -> Result<(), Error> {
        let numbered = |n: u32| PathBuf::from(format!("{}.{n}", self.path.display()));
        if self.max_file < 2 {
            self.file
                .set_len(0)
                .context(|| format!("truncate {}", self.path.display()))?;
            self.size = 0;
            return Ok(());
        }
        for n in (1..self.max_file - 1).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).context(|| format!("rename {}", numbered(n).display()));
                }
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1)).context(|| format!("rename {}", self.path.display()))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// Appends one entry. Keys, order and time format are Docker's.
fn entry(out: &mut Vec<u8>, stream: &str, line: &[u8]) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, line);
    let time = jiff::Timestamp::now();
    out.extend_from_slice(format!("\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n").as_bytes());
}

/// A JSON string's inside as moby writes it: HTML characters escaped too, bad UTF-8 as U+FFFD.
fn escape(out: &mut Vec<u8>, line: &[u8]) {
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}
