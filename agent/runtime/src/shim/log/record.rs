//! One line (or part of a line) of output, and its form on the socket between shim and writer.

use crate::protocol::kind;

/// Bytes of a frame before the line: length, stream, time, flags.
const HEADER: usize = 4 + 1 + 8 + 1;
/// Longest frame taken: a line has at most 16 KiB.
const LONGEST: usize = 64 << 10;

/// A line without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Frame kind of the stream: `STDOUT` or `STDERR`.
    pub stream: u8,
    /// Nanoseconds since the Unix epoch.
    pub time: i64,
    pub line: &'a [u8],
    /// Set if the line did not come whole.
    pub part: Option<Part>,
}

/// Which part of a long line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The same for all parts of a line.
    pub id: [u8; 32],
    /// From 1.
    pub ordinal: u32,
    /// It ended with the line's newline.
    pub is_last: bool,
}

impl Part {
    /// The id as Docker writes it: 64 hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<'a> Record<'a> {
    /// A newline came after it.
    pub(super) fn is_terminated(&self) -> bool {
        self.part.is_none_or(|part| part.is_last)
    }

    /// `stdout` or `stderr`.
    pub(super) fn source(&self) -> &'static str {
        if self.stream == kind::STDERR {
            "stderr"
        } else {
            "stdout"
        }
    }

    /// Appends its frame.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.push(self.stream);
        out.extend_from_slice(&self.time.to_be_bytes());
        match self.part {
            None => out.push(0),
            Some(part) => {
                out.push(if part.is_last { 2 } else { 1 });
                out.extend_from_slice(&part.id);
                out.extend_from_slice(&part.ordinal.to_be_bytes());
            }
        }
        out.extend_from_slice(self.line);
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Length of the frame that begins with these bytes; `None` if more are needed to tell. The error: no frame.
    pub(super) fn frame_length(bytes: &[u8]) -> Result<Option<usize>, ()> {
        let Some(head) = bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize + 4;
        if (HEADER..=LONGEST).contains(&length) {
            Ok(Some(length))
        } else {
            Err(())
        }
    }

    /// Reads a whole frame.
    pub(super) fn decode(frame: &'a [u8]) -> Option<Self> {
        let (head, mut line) = frame.split_at_checked(HEADER)?;
        let part = match head[13] {
            0 => None,
            flag => {
                let (id, rest) = line.split_first_chunk::<32>()?;
                let (ordinal, rest) = rest.split_first_chunk::<4>()?;
                line = rest;
                Some(Part {
                    id: *id,
                    ordinal: u32::from_be_bytes(*ordinal),
                    is_last: flag == 2,
                })
            }
        };
        Some(Self {
            stream: head[4],
            time: i64::from_be_bytes(*head[5..].first_chunk()?),
            line,
            part,
        })
    }
}

/// What could not be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub lines: u64,
    pub bytes: u64,
}

impl Lost {
    pub(super) fn add(&mut self, lines: usize, bytes: usize) {
        self.lines += lines as u64;
        self.bytes += bytes as u64;
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lines ({} bytes) were lost", self.lines, self.bytes)
    }
}
