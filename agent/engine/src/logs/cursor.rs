//! A position in a chain of log files. A rotation or compression while reading neither loses nor repeats a line.

use std::io::{self, Read};
use std::path::PathBuf;

use pontoon_proto::v1::LogEntry;

use super::chain::{Chain, Member};
use super::format::{Format, Splitter};
use super::tail;
use crate::Result;
use crate::error::IoContext;

/// Bytes read at once.
const BLOCK: usize = 64 << 10;

/// A position.
pub(super) struct Cursor {
    chain: Chain,
    format: Format,
    file: Option<(Member, Splitter)>,
    /// The end of the file was seen after it was rotated: nothing will be added.
    is_finished: bool,
    /// Damaged records were told of.
    is_told: bool,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    /// At the last so many lines.
    pub tail: Option<u64>,
    /// Files that end before this time may be left out.
    pub since: i64,
}

impl Cursor {
    /// Opens at the beginning of the last lines, or of all.
    pub(super) fn open(path: PathBuf, format: Format, start: Start) -> Result<Self> {
        let mut cursor = Self {
            chain: Chain::new(path),
            format,
            file: None,
            is_finished: false,
            is_told: false,
        };
        cursor.place(start).context(|| cursor.what())?;
        Ok(cursor)
    }

    fn what(&self) -> String {
        format!("read {}", self.chain.path().display())
    }

    fn place(&mut self, start: Start) -> io::Result<()> {
        let mut files = self.chain.all()?;
        let Some(tail) = start.tail else {
            while files.len() > 1 && files.last().is_some_and(|file| file.ends_before(start.since)) {
                files.pop();
            }
            self.file = files.pop().map(|file| (file, Splitter::new(self.format, 0)));
            return Ok(());
        };
        let (place, offset) = tail::find(&mut files, self.format, tail)?;
        if place < files.len() {
            let mut file = files.swap_remove(place);
            file.skip_to(offset)?;
            self.file = Some((file, Splitter::new(self.format, offset)));
        }
        Ok(())
    }

    /// The next entries; none at the end of what is written. Takes and gives the cursor to cross threads.
    pub(super) fn batch(mut self) -> Result<(Vec<LogEntry>, Self)> {
        let entries = self.read().context(|| self.what())?;
        Ok((entries, self))
    }

    fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        let mut block = vec![0; BLOCK];
        let mut entries = Vec::new();
        while entries.is_empty() {
            let Some((file, splitter)) = &mut self.file else {
                match self.chain.newest()? {
                    Some(file) => self.file = Some((file, Splitter::new(self.format, 0))),
                    None => break,
                }
                continue;
            };
            let count = match file.read(&mut block) {
                Ok(count) => count,
                Err(error) if file.plain().is_some() => return Err(error),
                // A compressed file that was cut off by a crash: what it has was read.
                Err(_) => {
                    splitter.damaged += 1;
                    0
                }
            };
            let format = self.format;
            let mut torn = 0;
            let give = |_: u64, record: &[u8]| match format.parse(record) {
                Some(entry) => entries.push(entry),
                None => torn += u64::from(!record.is_empty()),
            };
            if count > 0 {
                splitter.push(&block[..count], give);
            } else if self.is_finished {
                splitter.finish(give);
            }
            splitter.damaged += torn;
            self.tell();
            if count == 0 && !self.advance()? {
                break;
            }
        }
        Ok(entries)
    }

    /// Once for each reader: a damaged log is damaged for good.
    fn tell(&mut self) {
        let is_damaged = self
            .file
            .as_ref()
            .is_some_and(|(_, splitter)| splitter.damaged > 0);
        if is_damaged && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(path = %self.chain.path().display(), "log has damaged records, which are skipped");
        }
    }

    /// At the end of a file: goes on to the next if this one was rotated. False if there is nothing to go on to.
    fn advance(&mut self) -> io::Result<bool> {
        let Some((file, _)) = &self.file else {
            return Ok(false);
        };
        let Some(next) = self.chain.next(file)? else {
            return Ok(false);
        };
        // What was written between the end that was read and the rotation comes first.
        if !std::mem::replace(&mut self.is_finished, true) {
            return Ok(true);
        }
        self.is_finished = false;
        self.file = Some((next, Splitter::new(self.format, 0)));
        Ok(true)
    }

    /// The end of what is written is the middle of a record.
    pub(super) fn is_amid(&self) -> bool {
        self.file.as_ref().is_some_and(|(_, splitter)| splitter.is_amid())
    }

    /// Nobody writes any more: what is left may have records behind a damaged one.
    pub(super) fn finish(mut self) -> Vec<LogEntry> {
        let format = self.format;
        let mut entries = Vec::new();
        if let Some((_, splitter)) = &mut self.file {
            splitter.finish(|_, record| entries.extend(format.parse(record)));
        }
        self.tell();
        entries
    }
}

#[cfg(test)]
mod tests;
