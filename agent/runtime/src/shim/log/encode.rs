//! How a record looks in a file: Docker's json-file line, or Docker's local record (moby `daemon/logger/local`): a
//! big-endian length, a protobuf `LogEntry`, the length again. Written by hand: two small messages need no library.

use std::collections::BTreeMap;

use super::record::Record;

/// Bytes before and after a local record's message.
pub(super) const LENGTH: usize = 4;
/// Longest message taken for one when files are read back.
pub(super) const LONGEST: usize = 1 << 20;

/// A format with the attributes that go into each record, encoded once.
#[derive(Debug)]
pub(super) enum Encoder {
    Json { attributes: Vec<u8> },
    Local { attributes: Vec<u8> },
}

impl Encoder {
    pub(super) fn json(attributes: &BTreeMap<String, String>) -> Self {
        let mut out = Vec::new();
        for (name, value) in attributes {
            out.extend_from_slice(if out.is_empty() { b"\"attrs\":{" } else { b"," });
            out.push(b'"');
            escape(&mut out, name.as_bytes());
            out.extend_from_slice(b"\":\"");
            escape(&mut out, value.as_bytes());
            out.push(b'"');
        }
        if !out.is_empty() {
            out.extend_from_slice(b"},");
        }
        Self::Json { attributes: out }
    }

    pub(super) fn local(attributes: &BTreeMap<String, String>) -> Self {
        let mut out = Vec::new();
        for (name, value) in attributes {
            let mut pair = Vec::new();
            bytes(&mut pair, 1, name.as_bytes());
            bytes(&mut pair, 2, value.as_bytes());
            bytes(&mut out, 6, &pair);
        }
        Self::Local { attributes: out }
    }

    /// Appends a record.
    pub(super) fn encode(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Json { attributes } => json(record, attributes, out),
            Self::Local { attributes } => local(record, attributes, out),
        }
    }
}

/// Keys, order and time format are Docker's.
fn json(record: &Record<'_>, attributes: &[u8], out: &mut Vec<u8>) {
    out.reserve(record.line.len() + attributes.len() + 96);
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, record.line);
    if record.is_terminated() {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(record.source().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(attributes);
    out.extend_from_slice(b"\"time\":\"");
    out.extend_from_slice(rfc3339(record.time).as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// A point in time with as many decimals as it needs.
pub(super) fn rfc3339(time: i64) -> String {
    jiff::Timestamp::from_nanosecond(time.into())
        .unwrap_or_default()
        .to_string()
}

/// How many bytes `escape` looks at as one.
const NUL: &[u8] = b"\\u0000";

/// A JSON string's inside as moby writes it: HTML characters escaped too, bad UTF-8 as U+FFFD. Runs of bytes that need
/// nothing, and runs of NULs, are written at once.
fn escape(out: &mut Vec<u8>, line: &[u8]) {
    for chunk in line.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut plain = 0;
        let mut at = 0;
        while at < text.len() {
            let length = match text[at] {
                0x20..=0x21 | 0x23..=0x25 | 0x27..=0x3b | 0x3d | 0x3f..=0x5b | 0x5d..=0xe1 | 0xe3.. => {
                    at += 1;
                    continue;
                }
                // U+2028 and U+2029, which JavaScript takes for line ends, are e2 80 a8 and e2 80 a9.
                0xe2 if !matches!(text[at..], [_, 0x80, 0xa8 | 0xa9, ..]) => {
                    at += 3;
                    continue;
                }
                0xe2 => 3,
                _ => 1,
            };
            out.extend_from_slice(&text[plain..at]);
            match text[at] {
                0 => {
                    let run = text[at..].iter().take_while(|byte| **byte == 0).count();
                    out.extend_from_slice(&NUL.repeat(run));
                    at += run - 1;
                }
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                0xe2 if text[at + 2] == 0xa8 => out.extend_from_slice(b"\\u2028"),
                0xe2 => out.extend_from_slice(b"\\u2029"),
                byte => {
                    let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
                    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
                }
            }
            at += length;
            plain = at;
        }
        out.extend_from_slice(&text[plain..]);
        // One for each bad byte, as Go has it.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// `LogEntry { source = 1, time_nano = 2, line = 3, partial = 4, partial_log_metadata = 5, attrs = 6 }`.
fn local(record: &Record<'_>, attributes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(record.line.len() + attributes.len() + 128);
    out.extend_from_slice(&[0; LENGTH]);
    bytes(out, 1, record.source().as_bytes());
    number(out, 2, record.time.cast_unsigned());
    if !record.line.is_empty() {
        bytes(out, 3, record.line);
    }
    if let Some(part) = record.part {
        number(out, 4, 1);
        let mut metadata = Vec::with_capacity(80);
        if part.is_last {
            number(&mut metadata, 1, 1);
        }
        bytes(&mut metadata, 2, part.hex().as_bytes());
        number(&mut metadata, 3, part.ordinal.into());
        bytes(out, 5, &metadata);
    }
    out.extend_from_slice(attributes);
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::super::record::Part;
    use super::*;
    use crate::protocol::kind;

    fn encoded(encoder: &Encoder, line: &[u8], part: Option<Part>) -> Vec<u8> {
        let mut out = Vec::new();
        let record = Record {
            stream: kind::STDERR,
            time: 1_000_000_020,
            line,
            part,
        };
        encoder.encode(&record, &mut out);
        out
    }

    fn attributes() -> BTreeMap<String, String> {
        BTreeMap::from([("b".into(), "2".into()), ("a".into(), "\"1".into())])
    }

    #[test]
    fn json_is_dockers() {
        let plain = encoded(
            &Encoder::json(&BTreeMap::new()),
            b"<err> \xff\xfe\x01\t\r\"\\ \xe2\x80\xa8\xe2\x82\xac",
            None,
        );
        assert_eq!(
            String::from_utf8(plain).unwrap(),
            "{\"log\":\"\\u003cerr\\u003e \\ufffd\\ufffd\\u0001\\u0009\\r\\\"\\\\ \\u2028€\\n\",\"stream\":\"stderr\",\
             \"time\":\"1970-01-01T00:00:01.00000002Z\"}\n"
        );
        let part = Part {
            id: [7; 32],
            ordinal: 2,
            is_last: false,
        };
        let with = encoded(&Encoder::json(&attributes()), b"x", Some(part));
        assert_eq!(
            String::from_utf8(with).unwrap(),
            "{\"log\":\"x\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"\\\"1\",\"b\":\"2\"},\
             \"time\":\"1970-01-01T00:00:01.00000002Z\"}\n"
        );
    }

    #[test]
    fn any_bytes_make_a_json_string() {
        let line: Vec<u8> = (0..=255).chain([0; 100]).chain(0..=255).collect();
        let out = encoded(&Encoder::json(&BTreeMap::new()), &line, None);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let text = value["log"].as_str().unwrap();
        assert_eq!(text.matches('\0').count(), 102);
        assert!(text.contains("ABC") && text.ends_with('\n'));
    }

    #[test]
    fn local_is_dockers() {
        let part = Part {
            id: [0xab; 32],
            ordinal: 3,
            is_last: true,
        };
        let out = encoded(&Encoder::local(&attributes()), b"hi", Some(part));
        let id = "ab".repeat(32);
        let mut message =
            b"\x0a\x06stderr\x10\x94\x94\xeb\xdc\x03\x1a\x02hi\x20\x01\x2a\x46\x08\x01\x12\x40".to_vec();
        message.extend_from_slice(id.as_bytes());
        message.extend_from_slice(b"\x18\x03\x32\x07\x0a\x01a\x12\x02\"1\x32\x06\x0a\x01b\x12\x012");
        let length = (message.len() as u32).to_be_bytes();
        assert_eq!(out, [&length[..], &message, &length].concat());
    }
}
