//! Format of a snapshot file in clear; what lies on the disk may be sealed (`sealed`). It is also what crosses the network.
//!
//! ```text
//! "PONTSNP1" | u32 length of meta | meta | u32 crc32 of all before | zstd stream | u64 its length | u32 its crc32 | "SEND"
//! meta: u16 length + cluster id | u64 index | u64 term | u32 length + ConfState | members
//! ```

use std::io::{self, Read, Write};
use std::ops::Range;

use prost_raft::Message as _;
use raft::eraftpb::ConfState;

use super::{Reader, VfsFile};

const MAGIC: &[u8; 8] = b"PONTSNP1";
const END: &[u8; 4] = b"SEND";
const TRAILER: u64 = 16;
/// Compression level: the fastest one, since the state has to be written while the cluster works.
const LEVEL: i32 = 1;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SnapshotMeta {
    /// Last entry that the state contains.
    pub(crate) index: u64,
    /// Term of that entry.
    pub(crate) term: u64,
    /// Roles at that index.
    pub(crate) conf_state: ConfState,
    /// Members at that index, encoded.
    pub(crate) members: Vec<u8>,
}

/// Length and checksum of the compressed state.
pub(super) struct Trailer {
    len: u64,
    crc: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER as usize] {
        let mut out = [0; TRAILER as usize];
        out[0..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..12].copy_from_slice(&self.crc.to_le_bytes());
        out[12..16].copy_from_slice(END);
        out
    }
}

fn encode_header(cluster_id: &str, meta: &SnapshotMeta) -> Vec<u8> {
    let conf = meta.conf_state.encode_to_vec();
    let mut body = Vec::new();
    body.extend_from_slice(&(cluster_id.len() as u16).to_le_bytes());
    body.extend_from_slice(cluster_id.as_bytes());
    body.extend_from_slice(&meta.index.to_le_bytes());
    body.extend_from_slice(&meta.term.to_le_bytes());
    body.extend_from_slice(&(conf.len() as u32).to_le_bytes());
    body.extend_from_slice(&conf);
    body.extend_from_slice(&meta.members);
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Cuts `count` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(head)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))
}

fn decode_meta(mut body: &[u8]) -> Option<(String, SnapshotMeta)> {
    let len = u16::from_le_bytes(take(&mut body, 2)?.try_into().ok()?);
    let cluster_id = String::from_utf8(take(&mut body, len.into())?.to_vec()).ok()?;
    let (index, term) = (take_u64(&mut body)?, take_u64(&mut body)?);
    let conf_len = take_u32(&mut body)? as usize;
    let conf_state = ConfState::decode(take(&mut body, conf_len)?).ok()?;
    Some((
        cluster_id,
        SnapshotMeta {
            index,
            term,
            conf_state,
            members: body.to_vec(),
        },
    ))
}

/// Counts and sums what passes.
struct Summing<W> {
    inner: W,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.crc.update(&buf[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a whole file; the caller ends and syncs it.
pub(super) fn write(
    out: &mut dyn Write,
    cluster_id: &str,
    meta: &SnapshotMeta,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(&encode_header(cluster_id, meta))?;
    let summing = Summing {
        inner: &mut *out,
        crc: crc32fast::Hasher::new(),
        len: 0,
    };
    let mut encoder = zstd::stream::write::Encoder::new(summing, LEVEL)?;
    fill(&mut encoder)?;
    let summing = encoder.finish()?;
    let trailer = Trailer {
        len: summing.len,
        crc: summing.crc.finalize(),
    };
    out.write_all(&trailer.encode())
}

/// A file that was read and found whole.
pub(super) struct Verified {
    pub(super) meta: SnapshotMeta,
    /// Where the compressed state lies.
    pub(super) data: Range<u64>,
    /// Bytes of the file in clear.
    pub(super) total: u64,
    /// Checksum of the compressed state: with `total` it tells this file from others of the same entry.
    pub(super) crc: u32,
}

/// Reads and checks a whole file.
pub(super) fn verify(file: &dyn VfsFile, cluster_id: &str) -> Result<Verified, String> {
    let io = |error: io::Error| format!("it can't be read: {error}");
    let total = file.len().map_err(io)?;
    let mut reader = Reader::new(file, 0);
    let mut header = vec![0; 12];
    reader.read_exact(&mut header).map_err(io)?;
    if &header[..8] != MAGIC {
        return Err("it is not a snapshot".into());
    }
    let len = take_u32(&mut &header[8..12]).ok_or("its header is short")?;
    let start = 12 + u64::from(len) + 4;
    if start + TRAILER > total {
        return Err("it ends early".into());
    }
    header.resize(start as usize, 0);
    reader.read_exact(&mut header[12..]).map_err(io)?;
    let (covered, crc) = header.split_at(header.len() - 4);
    if take_u32(&mut &crc[..]) != Some(crc32fast::hash(covered)) {
        return Err("the checksum of its header does not match".into());
    }
    let (cluster, meta) = decode_meta(&covered[12..]).ok_or("its header does not decode")?;
    if cluster != cluster_id {
        return Err(format!("it belongs to cluster {cluster}"));
    }
    let data = start..total - TRAILER;
    let mut crc = crc32fast::Hasher::new();
    let mut remaining = data.end - data.start;
    let mut buffer = vec![0; 256 << 10];
    while remaining > 0 {
        let want = buffer.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
        reader.read_exact(&mut buffer[..want]).map_err(io)?;
        crc.update(&buffer[..want]);
        remaining -= want as u64;
    }
    let mut trailer = [0; TRAILER as usize];
    reader.read_exact(&mut trailer).map_err(io)?;
    let expected = Trailer {
        len: data.end - data.start,
        crc: crc.finalize(),
    };
    if trailer != expected.encode() {
        return Err("the checksum of its data does not match, or it ends early".into());
    }
    Ok(Verified {
        meta,
        data,
        total,
        crc: expected.crc,
    })
}
