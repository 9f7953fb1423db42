//! Cuts output into records: a line each, lines longer than 16 KiB in parts (moby `copier.go`).

use memchr::memchr;

use super::record::{Part, Record};
use crate::exit::now_ns;
use crate::protocol::kind;

/// Longest part of a line in one record.
pub(super) const LINE_LIMIT: usize = 16 << 10;

/// What both streams hold back.
#[derive(Debug, Default)]
pub(super) struct Copier {
    stdout: Held,
    stderr: Held,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// Of the line's parts that are out: the last, and the time of all.
    sent: Option<(Part, i64)>,
}

impl Copier {
    /// Takes output of one stream (a frame kind) and gives the records that are whole.
    pub(super) fn take(&mut self, stream: u8, mut bytes: &[u8], mut give: impl FnMut(&Record<'_>)) {
        let held = self.held(stream);
        while !bytes.is_empty() {
            let room = LINE_LIMIT - held.bytes.len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = memchr(b'\n', window);
            let piece = &window[..newline.unwrap_or(window.len())];
            bytes = &bytes[piece.len() + usize::from(newline.is_some())..];
            if newline.is_none() && piece.len() < room {
                held.bytes.extend_from_slice(piece);
                break;
            }
            held.give(stream, piece, newline.is_some(), &mut give);
        }
        if held.bytes.is_empty() {
            // Idle memory counts: there is one of these per container.
            held.bytes = Vec::new();
        }
    }

    /// Gives the beginnings of lines that will not be completed.
    pub(super) fn finish(&mut self, mut give: impl FnMut(&Record<'_>)) {
        for stream in [kind::STDOUT, kind::STDERR] {
            let held = self.held(stream);
            if !held.bytes.is_empty() {
                held.give(stream, &[], false, &mut give);
            }
        }
    }

    fn held(&mut self, stream: u8) -> &mut Held {
        match stream {
            kind::STDERR => &mut self.stderr,
            _ => &mut self.stdout,
        }
    }
}

impl Held {
    fn give(&mut self, stream: u8, piece: &[u8], is_line: bool, give: &mut impl FnMut(&Record<'_>)) {
        let (part, time) = match self.sent {
            None if is_line => (None, now_ns()),
            None => {
                let part = Part {
                    id: random_id(),
                    ordinal: 1,
                    is_last: false,
                };
                (Some(part), now_ns())
            }
            Some((last, time)) => {
                let part = Part {
                    ordinal: last.ordinal.saturating_add(1),
                    is_last: is_line,
                    ..last
                };
                (Some(part), time)
            }
        };
        self.sent = part.filter(|part| !part.is_last).map(|part| (part, time));
        let line = if self.bytes.is_empty() {
            piece
        } else {
            self.bytes.extend_from_slice(piece);
            &self.bytes
        };
        give(&Record {
            stream,
            time,
            line,
            part,
        });
        self.bytes.clear();
    }
}

fn random_id() -> [u8; 32] {
    let mut id = [0; 32];
    // Can't fail for so few bytes; were it to, the id would only be less unique.
    let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record's line, and the ordinal and end of a part.
    type Piece = (Vec<u8>, Option<(u32, bool)>);

    fn cut(chunks: &[&[u8]]) -> Vec<Piece> {
        let (mut copier, mut records) = (Copier::default(), Vec::new());
        let mut ids = std::collections::BTreeSet::new();
        let mut give = |record: &Record<'_>| {
            ids.extend(record.part.map(|part| part.id));
            let part = record.part.map(|part| (part.ordinal, part.is_last));
            records.push((record.line.to_vec(), part));
        };
        for chunk in chunks {
            copier.take(kind::STDOUT, chunk, &mut give);
        }
        copier.finish(&mut give);
        assert!(ids.len() <= 1, "parts of one line have one id");
        records
    }

    #[test]
    fn lines_come_whole() {
        let records = cut(&[b"one\ntw", b"o\n", b"\n", b"three\n"]);
        let lines: Vec<_> = records.iter().map(|(line, _)| line.as_slice()).collect();
        assert_eq!(lines, [b"one".as_slice(), b"two", b"", b"three"]);
        assert!(records.iter().all(|(_, part)| part.is_none()));
    }

    #[test]
    fn an_unfinished_line_is_a_part() {
        assert_eq!(cut(&[b"rest"]), [(b"rest".to_vec(), Some((1, false)))]);
    }

    #[test]
    fn long_lines_come_in_parts() {
        let line = [vec![b'x'; 40_000], b"\nshort\n".to_vec()].concat();
        let chunks: Vec<&[u8]> = line.chunks(7000).collect();
        let records: Vec<_> = cut(&chunks)
            .iter()
            .map(|(line, part)| (line.len(), *part))
            .collect();
        let rest = 40_000 - 2 * LINE_LIMIT;
        let parts = [(LINE_LIMIT, 1, false), (LINE_LIMIT, 2, false), (rest, 3, true)];
        assert_eq!(
            records[..3],
            parts.map(|(length, ordinal, last)| (length, Some((ordinal, last))))
        );
        assert_eq!(records[3], (5, None));
    }

    #[test]
    fn a_newline_right_after_the_limit_ends_the_line() {
        let line = [vec![b'x'; LINE_LIMIT], b"\n".to_vec()].concat();
        let records: Vec<_> = cut(&[&line])
            .iter()
            .map(|(line, part)| (line.len(), *part))
            .collect();
        assert_eq!(records, [(LINE_LIMIT, Some((1, false))), (0, Some((2, true)))]);
    }
}
