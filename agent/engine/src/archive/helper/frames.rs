//! The two pipes between the engine and its helper: frames of a length, a kind and bytes. An archive is a row of `Data`
//! frames and an `End`, so that one that broke off is not taken for a whole one.

use std::io::{self, Read, Write};

/// Bytes that one frame may have.
pub(crate) const FRAME: usize = 256 << 10;

/// Bytes that a job may have: an image of 400 layers has as many paths.
const JOB: usize = 4 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the helper, first: the [`Job`](super::Job) as JSON.
    Job,
    /// Bytes of the archive.
    Data,
    /// The archive is whole.
    End,
    /// From the helper: a path's [`Stat`](super::Stat) as JSON.
    Stat,
    /// From the helper, last: its [`Outcome`](super::Outcome) as JSON.
    Outcome,
}

impl Kind {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Job => b'j',
            Self::Data => b'd',
            Self::End => b'e',
            Self::Stat => b's',
            Self::Outcome => b'o',
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Job, Self::Data, Self::End, Self::Stat, Self::Outcome]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// Length and kind, as they go before the bytes.
pub(crate) fn head(kind: Kind, length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, kind.byte()]
}

/// Reads a frame's head.
///
/// # Errors
/// It is none.
pub(crate) fn parse_head(head: [u8; 5]) -> io::Result<(Kind, usize)> {
    let [a, b, c, d, kind] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match Kind::from_byte(kind) {
        Some(Kind::Job) if length <= JOB => Ok((Kind::Job, length)),
        Some(kind) if length <= FRAME => Ok((kind, length)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "malformed frame")),
    }
}

/// Reads one frame.
pub(super) fn read(from: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut bytes = [0; 5];
    from.read_exact(&mut bytes)?;
    let (kind, length) = parse_head(bytes)?;
    let mut data = vec![0; length];
    from.read_exact(&mut data)?;
    Ok((kind, data))
}

/// Writes one frame.
pub(super) fn write(to: &mut impl Write, kind: Kind, data: &[u8]) -> io::Result<()> {
    to.write_all(&head(kind, data.len()))?;
    to.write_all(data)?;
    to.flush()
}

/// An archive that comes in frames.
pub(super) struct Incoming<R> {
    from: R,
    current: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl<R: Read> Incoming<R> {
    pub(super) fn new(from: R) -> Self {
        Incoming {
            from,
            current: io::Cursor::default(),
            ended: false,
        }
    }
}

impl<R: Read> Read for Incoming<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || self.ended || buffer.is_empty() {
                return Ok(count);
            }
            match read(&mut self.from) {
                Ok((Kind::Data, data)) => self.current = io::Cursor::new(data),
                Ok((Kind::End, _)) => self.ended = true,
                Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected frame")),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let text = "the archive's sender went away";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// An archive that goes out in frames; put a `BufWriter` of at most [`FRAME`] bytes before it.
pub(super) struct Outgoing<W>(pub(super) W);

impl<W: Write> Write for Outgoing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = &data[..data.len().min(FRAME)];
        write(&mut self.0, Kind::Data, part)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_breaks_off_is_an_error() {
        let mut pipe = Vec::new();
        io::BufWriter::with_capacity(7, Outgoing(&mut pipe))
            .write_all(b"some bytes of an archive")
            .unwrap();
        let broken = pipe.clone();
        write(&mut pipe, Kind::End, &[]).unwrap();
        let mut text = String::new();
        Incoming::new(&pipe[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "some bytes of an archive");
        let error = Incoming::new(&broken[..]).read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(parse_head([255, 0, 0, 0, b'd']).is_err());
        assert!(parse_head([0, 0, 0, 1, b'?']).is_err());
    }
}
