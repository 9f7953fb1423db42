//! One line of a json-file log: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}`.

use pontoon_proto::v1::LogEntry;
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    time: String,
}

/// Parses a line; one that is damaged (a disk that was full) gives nothing.
pub(super) fn parse(line: &[u8]) -> Option<LogEntry> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let time: jiff::Timestamp = line.time.parse().ok()?;
    Some(LogEntry {
        stream: if line.stream == "stderr" { 2 } else { 1 },
        timestamp: i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX),
        line: line.log.into_bytes().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_dockers_lines() {
        let entry =
            parse(br#"{"log":"a\u00e4\n","stream":"stderr","time":"1970-01-01T00:00:01.000000002Z"}"#)
                .unwrap();
        assert_eq!((entry.stream, entry.timestamp), (2, 1_000_000_002));
        assert_eq!(entry.line, "aä\n".as_bytes());
        assert!(parse(b"{").is_none());
    }
}
