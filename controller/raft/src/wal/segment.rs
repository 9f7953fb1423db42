//! Segment files: name, header, and the scan that finds their records again.
//!
//! A segment is made under a temporary name, synced and renamed, so a segment that exists has a whole header and its
//! first batch. All but the newest end exactly behind their last record; the newest may end in preallocated zeros or in
//! the torn remains of its last batch.
//!
//! ```text
//! 0        8         16    24        32            40     48     52    56           120               168          188    192
//! | magic  | version | seq | raft id | first index | salt | prev | len | cluster id | key id, key salt | reserved | crc32 |
//! ```
//! Version 1 is not sealed and ends at 120 with the checksum at 124. The checksum is where the chain of records starts.

use std::path::Path;

use super::image::Image;
use super::record::{self, read_u32, read_u64};
use crate::error::Error;
use crate::seal::{KeyId, Keyring, SALT, Seal, Sealer};
use crate::vfs::VfsFile;

/// Bytes of the header of a segment in clear, and of a sealed one.
pub(super) const CLEAR_HEADER: usize = 128;
const SEALED_HEADER: usize = 192;
const MAGIC: &[u8; 8] = b"PONTWAL1";
const CLUSTER: usize = 64;

/// Whose log it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Cluster id, at most 64 bytes.
    pub(crate) cluster_id: String,
    /// Raft id.
    pub(crate) raft_id: u64,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "member {:x} of cluster {}", self.raft_id, self.cluster_id)
    }
}

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) owner: Owner,
    pub(super) seq: u64,
    /// Index that the first entry written to the segment may have.
    pub(super) first_index: u64,
    /// Random, so that bytes of another segment never verify here.
    pub(super) salt: u64,
    /// Checksum of the last record of the segment before.
    pub(super) prev: u32,
    /// How its records are sealed.
    pub(super) seal: Option<Seal>,
}

impl Header {
    /// Bytes of the header.
    pub(super) fn len(&self) -> usize {
        if self.seal.is_some() {
            SEALED_HEADER
        } else {
            CLEAR_HEADER
        }
    }

    /// The header's bytes; the last four are its checksum, with which the chain of records starts.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        let end = out.len() - 4;
        let cluster = self.owner.cluster_id.as_bytes();
        let len = cluster.len().min(CLUSTER);
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&if self.seal.is_some() { 2u32 } else { 1 }.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.owner.raft_id.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_index.to_le_bytes());
        out[40..48].copy_from_slice(&self.salt.to_le_bytes());
        out[48..52].copy_from_slice(&self.prev.to_le_bytes());
        out[52..56].copy_from_slice(&(len as u32).to_le_bytes());
        out[56..56 + len].copy_from_slice(&cluster[..len]);
        if let Some(seal) = &self.seal {
            out[120..136].copy_from_slice(&seal.key.0);
            out[136..136 + SALT].copy_from_slice(&seal.salt);
        }
        let crc = crc32fast::hash(&out[..end]);
        out[end..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The checksum in the header's bytes.
    pub(super) fn checksum(&self) -> u32 {
        let bytes = self.encode();
        crc32fast::hash(&bytes[..bytes.len() - 4])
    }

    /// What seals its records; an error names the key that is missing.
    pub(super) fn sealer(&self, keys: Option<&Keyring>) -> Result<Option<Sealer>, KeyId> {
        let Some(seal) = &self.seal else {
            return Ok(None);
        };
        let key = keys.and_then(|keys| keys.get(seal.key)).ok_or(seal.key)?;
        Ok(Some(Sealer::new(&key, &seal.salt, &self.encode())))
    }

    /// The header and its checksum.
    fn decode(bytes: &[u8]) -> Result<(Self, u32), String> {
        let short = "the file is shorter than a segment header";
        if bytes.get(..8).ok_or(short)? != MAGIC {
            return Err("this is not a log segment".into());
        }
        let version = read_u32(bytes, 8).ok_or(short)?;
        let len = match version {
            1 => CLEAR_HEADER,
            2 => SEALED_HEADER,
            // A flipped bit here looks the same, so both are said.
            _ => {
                return Err(format!(
                    "format version {version} is not known: a newer program wrote the segment (start that one), or its header is damaged"
                ));
            }
        };
        let bytes = bytes.get(..len).ok_or(short)?;
        let crc = read_u32(bytes, len - 4).ok_or(short)?;
        if crc32fast::hash(&bytes[..len - 4]) != crc {
            return Err("the header's checksum does not match".into());
        }
        let seal = match version {
            1 => None,
            _ => Some(Seal {
                key: KeyId(bytes[120..136].try_into().map_err(|_| short)?),
                salt: bytes[136..136 + SALT].try_into().map_err(|_| short)?,
            }),
        };
        let len = read_u32(bytes, 52).ok_or(short)? as usize;
        let cluster = bytes.get(56..56 + len.min(CLUSTER)).ok_or(short)?;
        let header = Self {
            owner: Owner {
                cluster_id: String::from_utf8_lossy(cluster).into_owned(),
                raft_id: read_u64(bytes, 24).ok_or(short)?,
            },
            seq: read_u64(bytes, 16).ok_or(short)?,
            first_index: read_u64(bytes, 32).ok_or(short)?,
            salt: read_u64(bytes, 40).ok_or(short)?,
            prev: read_u32(bytes, 48).ok_or(short)?,
            seal,
        };
        Ok((header, crc))
    }
}

/// File name of a segment.
pub(super) fn name(seq: u64) -> String {
    format!("wal-{seq:016x}.log")
}

/// Sequence number in a file name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    if hex.len() == 16 {
        u64::from_str_radix(hex, 16).ok()
    } else {
        None
    }
}

/// Result of scanning one segment.
pub(super) struct Scan {
    pub(super) header: Header,
    /// Offset behind the last valid record.
    pub(super) end: u64,
    /// Checksum of that record.
    pub(super) crc: u32,
    /// Batch of that record.
    pub(super) batch: u64,
    /// Highest entry index written to the segment.
    pub(super) last_index: u64,
    /// Where the last batch begins, and its bytes.
    pub(super) last_batch: (u64, Vec<u8>),
}

/// Reads a segment and replays its records into `image`. `last` says whether it is the newest, whose tail may be torn.
pub(super) fn scan(
    file: &dyn VfsFile,
    path: &Path,
    last: bool,
    keys: Option<&Keyring>,
    image: &mut Image,
) -> Result<Scan, Error> {
    let corrupt = |offset: usize, reason: String| Error::CorruptLog {
        segment: path.to_owned(),
        offset: offset as u64,
        reason,
    };
    let bytes = read_all(file, path)?;
    let (header, header_crc) = Header::decode(&bytes).map_err(|reason| corrupt(0, reason))?;
    let sealer = header.sealer(keys).map_err(|key| Error::NoKey {
        path: path.to_owned(),
        key,
    })?;
    let start = header.len();
    let mut scan = Scan {
        end: start as u64,
        crc: header_crc,
        batch: 0,
        last_index: 0,
        last_batch: (0, Vec::new()),
        header,
    };
    let mut offset = start;
    let mut ended = true;
    while let Some(found) = record::find(&bytes, offset, scan.header.salt) {
        if found.prev != scan.crc {
            return Err(corrupt(
                offset,
                "the record does not follow the one before it".into(),
            ));
        }
        let record = found
            .record(sealer.as_ref())
            .map_err(|reason| corrupt(offset, reason))?;
        if let record::Record::Entry(entry) = &record {
            scan.last_index = scan.last_index.max(entry.index);
        }
        image.replay(record).map_err(|reason| corrupt(offset, reason))?;
        if found.batch != scan.batch {
            scan.last_batch.0 = offset as u64;
        }
        offset = found.next;
        scan = Scan {
            end: offset as u64,
            crc: found.crc,
            batch: found.batch,
            ..scan
        };
        ended = found.end;
    }
    scan.last_batch.1 = bytes[scan.last_batch.0 as usize..offset].to_vec();
    if offset == start {
        return Err(corrupt(offset, "the first record is unreadable".into()));
    }
    if !last && offset != bytes.len() {
        return Err(corrupt(
            offset,
            "the record's checksum does not match, and later segments exist".into(),
        ));
    }
    // Unreadable bytes belong to the batch after an ended one, or to the unfinished one. A record of a yet later batch
    // was written after the sync of this one, so these bytes had been durable.
    let later = if ended { scan.batch + 2 } else { scan.batch + 1 };
    if let Some(at) = find_later(&bytes, offset, scan.header.salt, later) {
        return Err(corrupt(
            offset,
            format!("the record's checksum does not match, and valid records follow at {at}"),
        ));
    }
    Ok(scan)
}

fn read_all(file: &dyn VfsFile, path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io {
        op: "read",
        path: path.to_owned(),
        source,
    };
    let len = file.len().map_err(io)?;
    let len = usize::try_from(len).map_err(|_| io(std::io::ErrorKind::FileTooLarge.into()))?;
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64).map_err(io)? {
            0 => return Err(io(std::io::ErrorKind::UnexpectedEof.into())),
            count => filled += count,
        }
    }
    Ok(bytes)
}

/// Offset of a valid record at or behind `from` whose batch is `batch` or later.
fn find_later(bytes: &[u8], from: usize, salt: u64, batch: u64) -> Option<usize> {
    (from..bytes.len().saturating_sub(record::HEADER) + 1)
        .step_by(8)
        .find(|&at| {
            // The batch is compared first: it refuses nearly everything without computing a checksum.
            read_u64(bytes, at + 16).is_some_and(|b| b >= batch && b < batch + (1 << 32))
                && record::find(bytes, at, salt).is_some()
        })
}
