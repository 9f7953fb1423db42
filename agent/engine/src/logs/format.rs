//! The formats of log files: cutting bytes into records, and reading a record. Records that a crash or a full disk has
//! damaged are skipped and counted.

use std::collections::HashMap;

use pontoon_proto::v1::LogEntry;
use prost::Message;
use serde::Deserialize;

/// Longest record taken: the shim's lines have at most 16 KiB before escaping, but attributes come on top.
const LONGEST: usize = 1 << 20;
/// Bytes before and after a local record's message.
const LENGTH: usize = 4;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Docker's json-file: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}` a line.
    Json,
    /// Docker's local: a big-endian length, a protobuf `LogEntry`, the length again.
    Local,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    attrs: HashMap<String, String>,
    time: String,
}

/// moby `daemon/logger/internal/logdriver/entry.proto`.
#[derive(Clone, PartialEq, Message)]
struct LocalEntry {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(int64, tag = "2")]
    time_nano: i64,
    #[prost(bytes = "vec", tag = "3")]
    line: Vec<u8>,
    #[prost(bool, tag = "4")]
    partial: bool,
    #[prost(message, optional, tag = "5")]
    partial_log_metadata: Option<Part>,
    #[prost(message, repeated, tag = "6")]
    attrs: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(bool, tag = "1")]
    last: bool,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(int32, tag = "3")]
    ordinal: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn stream(name: &str) -> u32 {
    if name == "stderr" { 2 } else { 1 }
}

impl Format {
    /// Reads a record; one that is damaged gives nothing.
    pub(super) fn parse(self, record: &[u8]) -> Option<LogEntry> {
        match self {
            Self::Json => {
                let line: Line = serde_json::from_slice(record).ok()?;
                let time: jiff::Timestamp = line.time.parse().ok()?;
                Some(LogEntry {
                    stream: stream(&line.stream),
                    timestamp: i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX),
                    line: line.log.into_bytes().into(),
                    attributes: line.attrs,
                })
            }
            Self::Local => {
                let entry = LocalEntry::decode(record).ok()?;
                // What decodes by chance has no such source.
                if !matches!(entry.source.as_str(), "stdout" | "stderr") {
                    return None;
                }
                let mut line = entry.line;
                let is_unfinished =
                    entry.partial && !entry.partial_log_metadata.is_some_and(|part| part.last);
                if !is_unfinished {
                    line.push(b'\n');
                }
                Some(LogEntry {
                    stream: stream(&entry.source),
                    timestamp: entry.time_nano,
                    line: line.into(),
                    attributes: entry
                        .attrs
                        .into_iter()
                        .map(|pair| (pair.key, pair.value))
                        .collect(),
                })
            }
        }
    }
}

/// Length of the local record (with its frame) that a buffer begins with.
enum Framed {
    Whole(usize),
    More,
    Damaged,
}

fn framed(bytes: &[u8]) -> Framed {
    let length_at = |at: usize| {
        let bytes = bytes.get(at..at + LENGTH)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes) as usize)
    };
    match length_at(0) {
        None => Framed::More,
        Some(length) if length > LONGEST => Framed::Damaged,
        Some(length) => match length_at(LENGTH + length) {
            None => Framed::More,
            Some(close) if close == length => Framed::Whole(length + 2 * LENGTH),
            Some(_) => Framed::Damaged,
        },
    }
}

/// Cuts a file's bytes into records.
#[derive(Debug)]
pub(super) struct Splitter {
    format: Format,
    /// The beginning of a record whose end is not there yet.
    rest: Vec<u8>,
    /// Where in the file `rest` begins.
    offset: u64,
    /// A line that is too long is being skipped to its end.
    is_skipping: bool,
    /// Places at which something was damaged.
    pub damaged: u64,
}

impl Splitter {
    /// Begins at an offset at which a record begins.
    pub(super) fn new(format: Format, offset: u64) -> Self {
        Self {
            format,
            rest: Vec::new(),
            offset,
            is_skipping: false,
            damaged: 0,
        }
    }

    /// Takes what follows; gives each whole record with its offset.
    pub(super) fn push(&mut self, bytes: &[u8], mut give: impl FnMut(u64, &[u8])) {
        let joined;
        let bytes = if self.rest.is_empty() {
            bytes
        } else {
            self.rest.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.rest);
            &joined
        };
        let taken = match self.format {
            Format::Json => self.lines(bytes, &mut give),
            Format::Local => self.records(bytes, false, &mut give),
        };
        self.offset += taken as u64;
        self.rest.extend_from_slice(&bytes[taken..]);
    }

    /// The file has ended for good: what is left is no record, but one may be in it.
    pub(super) fn finish(&mut self, mut give: impl FnMut(u64, &[u8])) {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return;
        }
        self.damaged += 1;
        if self.format == Format::Local {
            self.records(&rest, true, &mut give);
        }
    }

    /// There is a beginning of a record.
    pub(super) fn is_amid(&self) -> bool {
        !self.rest.is_empty()
    }

    fn lines(&mut self, bytes: &[u8], give: &mut impl FnMut(u64, &[u8])) -> usize {
        let mut at = 0;
        while let Some(length) = memchr::memchr(b'\n', &bytes[at..]) {
            if !std::mem::take(&mut self.is_skipping) {
                give(self.offset + at as u64, &bytes[at..at + length]);
            }
            at += length + 1;
        }
        if bytes.len() - at > LONGEST {
            if !std::mem::replace(&mut self.is_skipping, true) {
                self.damaged += 1;
            }
            at = bytes.len();
        }
        at
    }

    /// `is_last`: nothing follows, so that what looks like the beginning of a record is none.
    fn records(&mut self, bytes: &[u8], is_last: bool, give: &mut impl FnMut(u64, &[u8])) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match framed(&bytes[at..]) {
                Framed::Whole(length) => {
                    give(self.offset + at as u64, &bytes[at + LENGTH..at + length - LENGTH]);
                    at += length;
                }
                Framed::More if !is_last => break,
                Framed::More | Framed::Damaged => {
                    let next = (at + 1..bytes.len()).find(|next| self.is_record(&bytes[*next..]));
                    if !is_last {
                        self.damaged += 1;
                    }
                    // Without one what follows may complete it; what can't belong to it is given up.
                    at = next.unwrap_or(if is_last {
                        bytes.len()
                    } else {
                        (at + 1).max(bytes.len().saturating_sub(LONGEST))
                    });
                }
            }
        }
        at
    }

    fn is_record(&self, bytes: &[u8]) -> bool {
        match framed(bytes) {
            Framed::Whole(length) => self.format.parse(&bytes[LENGTH..length - LENGTH]).is_some(),
            _ => false,
        }
    }
}

/// Appends a local record; for tests.
#[cfg(test)]
pub(super) fn local_record(text: &str, time: i64) -> Vec<u8> {
    let entry = LocalEntry {
        source: "stdout".to_owned(),
        time_nano: time,
        line: text.as_bytes().to_vec(),
        ..LocalEntry::default()
    };
    let message = entry.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&length[..], &message, &length].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_dockers_lines() {
        let entry = Format::Json
            .parse(br#"{"log":"a\u00e4\n","stream":"stderr","attrs":{"k":"v"},"time":"1970-01-01T00:00:01.000000002Z"}"#)
            .unwrap();
        assert_eq!((entry.stream, entry.timestamp), (2, 1_000_000_002));
        assert_eq!(entry.line, "aä\n".as_bytes());
        assert_eq!(entry.attributes["k"], "v");
        assert!(Format::Json.parse(b"{").is_none());
        assert!(Format::Json.parse(b"{}").is_none());
    }

    /// As moby writes it: source stderr, a part that is not the last.
    #[test]
    fn parses_dockers_records() {
        let id = "a".repeat(64);
        let mut message = b"\x0a\x06stderr\x10\x02\x1a\x02hi\x20\x01\x2a\x44\x12\x40".to_vec();
        message.extend_from_slice(id.as_bytes());
        message.extend_from_slice(b"\x18\x01");
        let entry = Format::Local.parse(&message).unwrap();
        assert_eq!(
            (entry.stream, entry.timestamp, entry.line.as_ref()),
            (2, 2, b"hi".as_slice())
        );
        let whole = Format::Local.parse(b"\x0a\x06stdout\x1a\x02hi").unwrap();
        assert_eq!((whole.stream, whole.line.as_ref()), (1, b"hi\n".as_slice()));
    }

    fn split(format: Format, bytes: &[u8], chunk: usize) -> (Vec<String>, u64) {
        let mut splitter = Splitter::new(format, 0);
        let (mut lines, mut torn) = (Vec::new(), 0);
        let mut give = |_: u64, record: &[u8]| match format.parse(record) {
            Some(entry) => lines.push(String::from_utf8_lossy(&entry.line).trim_end().to_owned()),
            None => torn += 1,
        };
        for part in bytes.chunks(chunk) {
            splitter.push(part, &mut give);
        }
        splitter.finish(&mut give);
        (lines, torn + splitter.damaged)
    }

    #[test]
    fn damage_costs_only_what_is_damaged() {
        let json = |text: &str| format!(r#"{{"log":"{text}","time":"1970-01-01T00:00:00Z"}}"#) + "\n";
        let bytes = json("1") + "{\"log\":\"to\n" + &json("2") + "{\"lo";
        for chunk in [1, 7, 1000] {
            assert_eq!(
                split(Format::Json, bytes.as_bytes(), chunk),
                (vec!["1".into(), "2".into()], 2)
            );
        }
        let record = |text: &str| local_record(text, 1);
        let whole = [record("1"), record("2")].concat();
        assert_eq!(split(Format::Local, &whole, 3), (vec!["1".into(), "2".into()], 0));
        // Torn in the middle, garbage, zeros (what a crash leaves of blocks never written), torn at the end.
        let torn = &record("torn")[..9];
        for garbage in [torn, b"garbage that is long enough", &[0; 4096], &[0xff; 50]] {
            let bytes = [
                record("1"),
                garbage.to_vec(),
                record("2"),
                record("3"),
                torn.to_vec(),
            ]
            .concat();
            for chunk in [1, 64, 100_000] {
                let (lines, damaged) = split(Format::Local, &bytes, chunk);
                assert_eq!(lines, ["1", "2", "3"], "{garbage:?} by {chunk}");
                assert!(damaged >= 2);
            }
        }
    }

    #[test]
    fn offsets_are_those_in_the_file() {
        let bytes = [local_record("one", 1), local_record("two", 1)].concat();
        let mut splitter = Splitter::new(Format::Local, 100);
        let mut offsets = Vec::new();
        for part in bytes.chunks(5) {
            splitter.push(part, |offset, _| offsets.push(offset));
        }
        assert_eq!(offsets, [100, 100 + local_record("one", 1).len() as u64]);
    }
}
