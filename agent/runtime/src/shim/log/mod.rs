//! A container's log as the shim holds it: output is cut into records, which go to files at once, or to a writer: a
//! process of its own for whatever might make the shim wait (a server, the journal, non-blocking mode).
//!
//! - `copier`: lines and parts; `record`; `encode`: formats of files; `file`: files, rotation; `compress`; `repair`
//! - `feed`: the shim's end of a writer; `writer`: that process; `journald`, `syslog`, `tls`: where it writes to

mod compress;
mod copier;
mod encode;
mod feed;
mod file;
mod journald;
mod record;
mod repair;
mod syslog;
#[cfg(test)]
mod tests;
mod tls;
mod writer;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::event::PollFlags;

use crate::{Error, LogConfig, LogTarget};
use copier::Copier;
use encode::Encoder;
use feed::Feed;
use file::FileSink;
use record::Record;

/// Runs `shim-log`: what a shim starts as a process of its own.
pub(super) fn main(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let outcome = match words.as_slice() {
        ["write", dir] => writer::run(Path::new(dir)),
        ["compress", file, time] => compress::run(Path::new(file), time.parse().unwrap_or_default()),
        _ => Err(Error::InvalidSpec("shim-log is the shim's own".to_owned())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

/// A container's log.
#[derive(Debug)]
pub(super) struct Log {
    copier: Copier,
    output: Output,
}

#[derive(Debug)]
enum Output {
    None,
    File(Box<FileSink>),
    Writer(Box<Feed>),
}

impl Log {
    /// Opens files, or starts the writer of the container whose run directory is `dir`.
    pub(super) fn open(config: &LogConfig, dir: &Path) -> Result<Self, Error> {
        let attributes = &config.attributes;
        let output = match (&config.target, config.buffer) {
            (LogTarget::None, _) => Output::None,
            (LogTarget::JsonFile(file), None) => {
                Output::File(Box::new(FileSink::open(file, Encoder::json(attributes))?))
            }
            (LogTarget::Local(file), None) => {
                Output::File(Box::new(FileSink::open(file, Encoder::local(attributes))?))
            }
            (_, buffer) => Output::Writer(Box::new(Feed::open(dir, buffer)?)),
        };
        Ok(Self {
            copier: Copier::default(),
            output,
        })
    }

    /// Takes output of one stream (a frame kind).
    pub(super) fn write(&mut self, stream: u8, bytes: &[u8]) {
        let Self { copier, output } = self;
        match output {
            Output::None => return,
            Output::File(file) => copier.take(stream, bytes, |record| file.write(record)),
            Output::Writer(feed) => copier.take(stream, bytes, |record| feed.write(record)),
        }
        output.flush();
    }

    /// The container has ended: writes lines that will not be completed. What is at work then shows in
    /// [`Log::is_done`].
    pub(super) fn finish(&mut self) {
        let Self { copier, output } = self;
        copier.finish(|record: &Record<'_>| match output {
            Output::None => {}
            Output::File(file) => file.write(record),
            Output::Writer(feed) => feed.write(record),
        });
        output.flush();
        if let Output::Writer(feed) = output {
            feed.finish();
        }
    }

    /// The container's output may be read: there is room for it.
    pub(super) fn takes(&self) -> bool {
        match &self.output {
            Output::None => true,
            Output::File(file) => !file.is_busy(),
            Output::Writer(feed) => feed.takes(),
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> Option<(&OwnedFd, PollFlags)> {
        match &self.output {
            Output::Writer(feed) => feed.interest(),
            _ => None,
        }
    }

    /// What was waited for is there.
    pub(super) fn ready(&mut self) {
        if let Output::Writer(feed) = &mut self.output {
            feed.ready();
        }
    }

    /// Something is to be done in a while that no descriptor tells of.
    pub(super) fn wants_tick(&self) -> bool {
        matches!(&self.output, Output::Writer(feed) if feed.wants_tick())
    }

    /// Does it, if it is time.
    pub(super) fn tick(&mut self) {
        if let Output::Writer(feed) = &mut self.output
            && feed.wants_tick()
        {
            feed.flush();
        }
    }

    /// A child of the shim's has ended that is no process of the container.
    pub(super) fn child_ended(&mut self, pid: u32, is_success: bool) {
        match &mut self.output {
            Output::None => {}
            Output::File(file) => file.child_ended(pid, is_success),
            Output::Writer(feed) => feed.child_ended(pid),
        }
    }

    /// Nothing is at work any more.
    pub(super) fn is_done(&self) -> bool {
        match &self.output {
            Output::None => true,
            Output::File(file) => file.is_idle(),
            Output::Writer(feed) => feed.is_done(),
        }
    }

    /// Ends what is still at work.
    pub(super) fn abandon(&mut self) {
        match &mut self.output {
            Output::None => {}
            Output::File(file) => file.abandon(),
            Output::Writer(feed) => feed.abandon(),
        }
    }

    /// What the daemon is to be told.
    pub(super) fn notices(&mut self) -> Vec<String> {
        match &mut self.output {
            Output::None => Vec::new(),
            Output::File(file) => file.notices(),
            Output::Writer(feed) => feed.notices(),
        }
    }
}

impl Output {
    fn flush(&mut self) {
        match self {
            Self::None => {}
            Self::File(file) => file.flush(),
            Self::Writer(feed) => feed.flush(),
        }
    }
}
