//! A cluster's whole state in one encrypted file: written while the cluster works, read on a host that begins anew.
//!
//! Called by [`Manager::backup`](crate::Manager::backup) and by the daemon, which reads a file in full before it makes
//! anything of it ([`read`]).
//!
//! ```text
//! "PONTBAK" | u8 format | u16 length | key parameters (see `key`) | chunk* (see `seal`)
//! chunks, opened: zstd stream of  u32 length | BackupInfo | pontoon_store::codec
//! ```
//! All numbers are little-endian. What is in clear is authenticated with each chunk.

mod key;
mod seal;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use pontoon_proto::v1::BackupInfo;
use pontoon_store::{Snapshot, codec};
use prost::Message;

pub use key::{BackupKey, KeyError};
use seal::{Opener, Sealer};

const MAGIC: &[u8; 7] = b"PONTBAK";
/// The format that is written, and the newest that is read.
const FORMAT: u8 = 1;
/// Longest key parameters and description that are read.
const MAX_HEAD: u16 = 1024;
const MAX_INFO: u32 = 1 << 20;
/// The state shrinks to a fifth even at the fastest level.
const LEVEL: i32 = 1;

/// Why a backup can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file or stream failed.
    #[error("the backup can't be {0}")]
    Io(&'static str, #[source] io::Error),
    /// It is some other file.
    #[error("this is no backup of a cluster: it does not begin as one")]
    Foreign,
    /// It is of a later release.
    #[error("the backup has format {found}, this release reads up to {known}: restore it with a newer one")]
    Newer {
        /// Format of the file.
        found: u8,
        /// The newest that is known.
        known: u8,
    },
    /// The key is not that of the file.
    #[error("wrong {0}: the backup was made with another one")]
    WrongKey(&'static str),
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Bytes were changed.
    #[error("the backup is damaged at byte {offset}: take another one")]
    Damaged {
        /// Where the damaged part begins.
        offset: u64,
    },
    /// The end is missing.
    #[error("the backup is cut off after {length} bytes: copy it again, or take another one")]
    Cut {
        /// Length of what is there.
        length: u64,
    },
    /// It opens, but what is inside is not a state.
    #[error("the backup's contents are not understood: {0}")]
    Contents(String),
}

/// A backup that was read to its end.
#[derive(Debug)]
pub struct Backup {
    /// What it is of.
    pub info: BackupInfo,
    /// All objects.
    pub snapshot: Snapshot,
}

/// Writes a backup. The caller buffers, syncs and names the file.
///
/// # Errors
/// [`BackupError::Io`] with what `out` failed with, [`BackupError::Key`].
pub fn write(
    snapshot: &Snapshot,
    info: &BackupInfo,
    key: &BackupKey,
    mut out: impl Write,
) -> Result<(), BackupError> {
    let (parameters, sealing) = key.make()?;
    let mut head = MAGIC.to_vec();
    head.push(FORMAT);
    let length = u16::try_from(parameters.len()).unwrap_or(u16::MAX);
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&parameters);
    let failed = |error| BackupError::Io("written", error);
    out.write_all(&head).map_err(failed)?;
    let sealer = Sealer::new(out, &sealing, head);
    let mut encoder = zstd::stream::write::Encoder::new(sealer, LEVEL).map_err(failed)?;
    let encoded = info.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
    let contents = encoder
        .write_all(&length.to_le_bytes())
        .and_then(|()| encoder.write_all(&encoded))
        .and_then(|()| codec::encode(snapshot, &mut encoder));
    contents.map_err(failed)?;
    let sealer = encoder.finish().map_err(failed)?;
    sealer.finish().and_then(|mut out| out.flush()).map_err(failed)
}

/// Reads a backup to its end; nothing of it counts before that.
///
/// # Errors
/// See [`BackupError`].
pub fn read(mut input: impl Read, key: &BackupKey) -> Result<Backup, BackupError> {
    let mut head = vec![0; MAGIC.len() + 3];
    fill(&mut input, &mut head[..MAGIC.len() + 1], 0).map_err(|error| match error {
        // Too short to say what it is.
        BackupError::Cut { .. } => BackupError::Foreign,
        other => other,
    })?;
    let found = head[MAGIC.len()];
    if &head[..MAGIC.len()] != MAGIC || found == 0 {
        return Err(BackupError::Foreign);
    }
    if found != FORMAT {
        return Err(BackupError::Newer { found, known: FORMAT });
    }
    let begun = MAGIC.len() + 1;
    fill(&mut input, &mut head[begun..], begun as u64)?;
    let length = u16::from_le_bytes([head[begun], head[begun + 1]]);
    if length > MAX_HEAD {
        return Err(BackupError::Damaged { offset: begun as u64 });
    }
    let start = head.len();
    head.resize(start + usize::from(length), 0);
    fill(&mut input, &mut head[start..], start as u64)?;
    let sealing = key.open(&head[start..], start as u64)?;
    let mut opener = Opener::new(input, &sealing, head);
    let contents = contents(&mut opener);
    // What the decoders make of a failed read is of no use to anybody.
    match opener.failure.take() {
        Some(failure) => Err(failure),
        None => contents.map_err(BackupError::Contents),
    }
}

fn contents(opener: &mut Opener<impl Read>) -> Result<Backup, String> {
    let text = |error: io::Error| error.to_string();
    let mut decoder = zstd::stream::read::Decoder::new(opener).map_err(text)?;
    let mut length = [0; 4];
    decoder.read_exact(&mut length).map_err(text)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_INFO {
        return Err(format!("its description would have {length} bytes"));
    }
    let mut info = vec![0; length as usize];
    decoder.read_exact(&mut info).map_err(text)?;
    let info = BackupInfo::decode(info.as_slice()).map_err(|error| error.to_string())?;
    let snapshot = codec::decode(&mut decoder).map_err(|error| error.to_string())?;
    // Only the end says that nothing is missing.
    match decoder.read(&mut [0]).map_err(text)? {
        0 => Ok(Backup { info, snapshot }),
        _ => Err("there is more than one state in it".to_owned()),
    }
}

/// Reads exactly this many bytes, which begin at `offset` of the file.
fn fill(input: &mut impl Read, buffer: &mut [u8], offset: u64) -> Result<(), BackupError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => {
                let length = offset + filled as u64;
                return Err(BackupError::Cut { length });
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BackupError::Io("read", error)),
        }
    }
    Ok(())
}
