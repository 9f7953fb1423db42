//! The writer (`shim-log write DIR`): the process that has a container's log where the shim itself must not wait: for a
//! server, for the journal, or for anything in non-blocking mode. One thread, blocking calls, ends with the shim's socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::DumpableBehavior;

use super::encode::Encoder;
use super::feed::Word;
use super::file::FileSink;
use super::journald::Journald;
use super::record::Record;
use super::syslog::Syslog;
use crate::config::{CONFIG_FILE, read_json};
use crate::error::IoContext;
use crate::{Error, LogConfig, LogTarget, ShimConfig};

/// Read at a time.
const CHUNK: usize = 64 << 10;

/// Where records go.
enum Target {
    File(FileSink),
    Journald(Journald),
    Syslog(Box<Syslog>),
}

struct Sinks {
    target: Target,
    cache: Option<FileSink>,
}

/// Runs until the shim closes its end.
pub(super) fn run(dir: &Path) -> Result<(), Error> {
    // As the shim: nobody in a container may trace it and get at its descriptors.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "become untraceable")?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context(|| "take the socket")?;
    let mut socket = UnixStream::from(socket);
    let opened = read_json::<ShimConfig>(&dir.join(CONFIG_FILE)).and_then(|config| Sinks::open(&config.log));
    let mut sinks = match opened {
        Ok(sinks) => sinks,
        Err(error) => {
            say(&mut socket, &Word::Failed(error.chain()));
            return Ok(());
        }
    };
    say(&mut socket, &Word::Ready);
    crate::sys::process::trim_memory();
    let mut input = Vec::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context(|| "read from the shim"),
        };
        input.extend_from_slice(&buffer[..length]);
        let taken = sinks.take(&input)?;
        input.drain(..taken);
        sinks.flush();
        for notice in sinks.notices() {
            say(&mut socket, &Word::Notice(notice));
        }
    }
    sinks.close();
    for notice in sinks.notices() {
        say(&mut socket, &Word::Notice(notice));
    }
    Ok(())
}

/// A shim that is gone needs no words.
fn say(socket: &mut UnixStream, word: &Word) {
    let mut line = serde_json::to_vec(word).unwrap_or_default();
    line.push(b'\n');
    let _ = socket.write_all(&line);
}

impl Sinks {
    fn open(config: &LogConfig) -> Result<Self, Error> {
        let cache = match &config.cache {
            Some(cache) => Some(FileSink::open(cache, Encoder::local(&config.attributes))?),
            None => None,
        };
        let target = match &config.target {
            LogTarget::JsonFile(file) => {
                Target::File(FileSink::open(file, Encoder::json(&config.attributes))?)
            }
            LogTarget::Local(file) => Target::File(FileSink::open(file, Encoder::local(&config.attributes))?),
            LogTarget::Journald(journal) => Target::Journald(Journald::open(journal)?),
            LogTarget::Syslog(syslog) => Target::Syslog(Box::new(Syslog::open(syslog)?)),
            LogTarget::None => {
                return Err(Error::InvalidSpec(
                    "a log that keeps nothing has no writer".to_owned(),
                ));
            }
        };
        Ok(Self { target, cache })
    }

    /// Writes the whole records of a buffer; gives how many bytes they were.
    fn take(&mut self, input: &[u8]) -> Result<usize, Error> {
        let mut taken = 0;
        while let Some(length) = Record::frame_length(&input[taken..])
            .map_err(|()| Error::Protocol("bad record from the shim".to_owned()))?
            && let Some(frame) = input.get(taken..taken + length)
        {
            if let Some(record) = Record::decode(frame) {
                self.write(&record);
            }
            taken += length;
        }
        Ok(taken)
    }

    /// The cache first: `logs` shows a line even while the target is waited for.
    fn write(&mut self, record: &Record<'_>) {
        if let Some(cache) = &mut self.cache {
            cache.wait_while_busy();
            cache.write(record);
            if !matches!(self.target, Target::File(_)) {
                cache.flush();
            }
        }
        match &mut self.target {
            Target::File(file) => {
                file.wait_while_busy();
                file.write(record);
            }
            Target::Journald(journal) => journal.write(record),
            Target::Syslog(syslog) => syslog.write(record),
        }
    }

    fn flush(&mut self) {
        if let Target::File(file) = &mut self.target {
            file.flush();
        }
        if let Some(cache) = &mut self.cache {
            cache.flush();
        }
    }

    fn close(&mut self) {
        match &mut self.target {
            Target::File(file) => file.close(),
            Target::Journald(_) => {}
            Target::Syslog(syslog) => syslog.close(),
        }
        if let Some(cache) = &mut self.cache {
            cache.close();
        }
    }

    fn notices(&mut self) -> Vec<String> {
        let mut notices = match &mut self.target {
            Target::File(file) => file.notices(),
            Target::Journald(journal) => journal.notices(),
            Target::Syslog(syslog) => syslog.notices(),
        };
        if let Some(cache) = &mut self.cache {
            notices.extend(cache.notices());
        }
        notices
    }
}
