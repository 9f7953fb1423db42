//! A file sealed at rest: a snapshot as it is in clear, in encrypted frames.
//!
//! ```text
//! "PONTSEAL" | u32 version | u32 bytes a frame | key id | salt | u32 crc32 of all before | frames
//! frame: ciphertext and tag | u32 crc32 of them
//! ```
//! A frame is bound to the header, to its number and to whether it is the last, so frames can't be changed, moved or cut
//! off. All but the last are full, so any position is found by arithmetic. [`Output`] writes either form, [`open`] reads
//! either as what it is in clear.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::seal::{KeyId, Keyring, Position, SALT, Seal, Sealer, TAG};
use crate::vfs::VfsFile;

const MAGIC: &[u8; 8] = b"PONTSEAL";
const HEADER: usize = 8 + 4 + 4 + 16 + SALT + 4;
/// Bytes of a frame in clear.
const FRAME: usize = 256 << 10;
/// Bytes that a frame has on the disk beyond its content.
const EXTRA: usize = TAG + 4;

/// Why a file can't be read in clear.
pub(super) enum Refusal {
    /// Its key is missing.
    NoKey(KeyId),
    /// It is damaged, or can't be read.
    Unusable(String),
}

fn encode_header(seal: &Seal) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&(FRAME as u32).to_le_bytes());
    out.extend_from_slice(&seal.key.0);
    out.extend_from_slice(&seal.salt);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Writes a file from its beginning, sealed when there are keys. [`Output::finish`] ends it.
pub(super) struct Output {
    file: Box<dyn VfsFile>,
    offset: u64,
    sealer: Option<Sealer>,
    frame: u64,
    /// The open frame; in clear the bytes that are not written yet.
    buffer: Vec<u8>,
}

impl Output {
    pub(super) fn new(file: Box<dyn VfsFile>, keys: Option<&Keyring>) -> io::Result<Self> {
        let mut output = Self {
            file,
            offset: 0,
            sealer: None,
            frame: 0,
            buffer: Vec::new(),
        };
        if let Some(keys) = keys {
            let key = keys.current();
            let seal = Seal::new(key.id());
            let header = encode_header(&seal);
            output.sealer = Some(Sealer::new(&key, &seal.salt, &header));
            output.put(&header)?;
        }
        Ok(output)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Writes the buffer out.
    fn put_frame(&mut self, last: bool) -> io::Result<()> {
        let mut frame = std::mem::take(&mut self.buffer);
        if let Some(sealer) = &self.sealer {
            let position = Position { at: self.frame, last };
            sealer.seal(position, &[], &mut frame, 0);
            let crc = crc32fast::hash(&frame);
            frame.extend_from_slice(&crc.to_le_bytes());
            self.frame += 1;
        }
        self.put(&frame)?;
        frame.clear();
        self.buffer = frame;
        Ok(())
    }

    /// Ends the file; the caller syncs it.
    pub(super) fn finish(mut self) -> io::Result<Box<dyn VfsFile>> {
        self.put_frame(true)?;
        Ok(self.file)
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // The last frame is marked, so a full one waits until more comes.
        if self.buffer.len() == FRAME {
            self.put_frame(false)?;
        }
        let count = buf.len().min(FRAME - self.buffer.len());
        self.buffer.extend_from_slice(&buf[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sealed file as what it is in clear.
struct Opened {
    file: Box<dyn VfsFile>,
    sealer: Sealer,
    /// Frames in the file, and bytes in clear.
    frames: u64,
    len: u64,
    /// The frame that was read last.
    cache: Mutex<Option<(u64, Vec<u8>)>>,
}

fn read_exact(file: &dyn VfsFile, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buf = &mut buf[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// Which key a file is sealed with; none when it is in clear or no whole file.
pub(super) fn key_of(file: &dyn VfsFile) -> Option<KeyId> {
    let mut header = [0; HEADER];
    read_exact(file, &mut header, 0).ok()?;
    (&header[..8] == MAGIC).then(|| KeyId(header[16..32].try_into().expect("16 bytes")))
}

/// The file in clear, whether it is sealed or not. Content is checked when it is read.
pub(super) fn open(file: Box<dyn VfsFile>, keys: Option<&Keyring>) -> Result<Box<dyn VfsFile>, Refusal> {
    let io = |error: io::Error| Refusal::Unusable(format!("it can't be read: {error}"));
    let unusable = |reason: &str| Refusal::Unusable(reason.to_owned());
    let total = file.len().map_err(io)?;
    let mut header = [0; HEADER];
    if total < 8 {
        return Err(unusable("it ends early"));
    }
    read_exact(file.as_ref(), &mut header[..8], 0).map_err(io)?;
    if &header[..8] != MAGIC {
        return Ok(file);
    }
    if total < (HEADER + EXTRA) as u64 {
        return Err(unusable("it ends early"));
    }
    read_exact(file.as_ref(), &mut header, 0).map_err(io)?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    if number(HEADER - 4) != crc32fast::hash(&header[..HEADER - 4]) {
        return Err(unusable("the checksum of its header does not match"));
    }
    if number(8) != 1 || number(12) as usize != FRAME {
        return Err(unusable(
            "it was written by a newer program: start that one, or a newer one",
        ));
    }
    let id = KeyId(header[16..32].try_into().expect("16 bytes"));
    let salt = header[32..32 + SALT].try_into().expect("the salt's bytes");
    let key = keys.and_then(|keys| keys.get(id)).ok_or(Refusal::NoKey(id))?;
    let content = total - HEADER as u64;
    let frames = content.div_ceil((FRAME + EXTRA) as u64);
    let len = content
        .checked_sub(frames * EXTRA as u64)
        .ok_or_else(|| unusable("it ends early"))?;
    Ok(Box::new(Opened {
        sealer: Sealer::new(&key, &salt, &header),
        file,
        frames,
        len,
        cache: Mutex::new(None),
    }))
}

impl Opened {
    fn frame(&self, number: u64) -> io::Result<Vec<u8>> {
        let invalid = |reason: &str| {
            let at = HEADER as u64 + number * (FRAME + EXTRA) as u64;
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the frame at offset {at} {reason}"),
            )
        };
        let size = (self.len - number * FRAME as u64).min(FRAME as u64) as usize;
        let mut frame = vec![0; size + EXTRA];
        read_exact(
            self.file.as_ref(),
            &mut frame,
            HEADER as u64 + number * (FRAME + EXTRA) as u64,
        )?;
        let (sealed, crc) = frame.split_at(size + TAG);
        if crc != crc32fast::hash(sealed).to_le_bytes() {
            return Err(invalid("is damaged: its checksum does not match"));
        }
        let position = Position {
            at: number,
            last: number + 1 == self.frames,
        };
        self.sealer.open(position, &[], sealed).ok_or_else(|| {
            invalid("does not open though its checksum matches: it was changed on purpose, or the key file is another one")
        })
    }
}

impl VfsFile for Opened {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.len {
            return Ok(0);
        }
        let number = offset / FRAME as u64;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.as_ref().is_none_or(|(cached, _)| *cached != number) {
            *cache = Some((number, self.frame(number)?));
        }
        let frame = cache.as_ref().map_or(&[][..], |(_, frame)| frame);
        let from = &frame[(offset % FRAME as u64) as usize..];
        let count = buf.len().min(from.len());
        buf[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}
