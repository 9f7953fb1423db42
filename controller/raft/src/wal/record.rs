//! Records of the write-ahead log: their values and their bytes.
//!
//! ```text
//! 0        4        8        12     13      14    16       24
//! | length | crc32  | prev   | kind | flags | 0   | batch  | payload, padded to 8 |
//! ```
//! In a sealed segment the payload is encrypted (its tag included in the length), bound to its offset and to the header
//! fields around it; the checksum is over what lies on the disk, so that damage is told from a wrong key.
//!
//! The checksum covers the segment's random salt, the record's offset, every other header field and the payload, so a
//! record is valid in one place of one segment only: what lies in a preallocated or reused area never passes for new.
//! `prev` is the checksum of the record before: a chain without gaps. `batch` counts group commits, and the last record
//! of each carries [`END`]; that tells a torn tail (the last batch only) from damage to what had been synced.

use prost_raft::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::seal::{Position, Sealer, TAG};

/// Bytes before the payload.
pub(super) const HEADER: usize = 24;
/// Highest kind of record that this program writes.
const KINDS: u8 = 5;
/// Flag of the last record of a batch: it is followed by a sync.
pub(super) const END: u8 = 1;
/// No record is larger: proposals have at most 8 MiB, members and configuration far less.
const MAX_PAYLOAD: usize = 64 << 20;

/// What is known of a durable snapshot file.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Marker {
    /// Index of the last entry in the snapshot.
    pub(crate) index: u64,
    /// Term of that entry.
    pub(crate) term: u64,
    /// Members' roles at that index.
    pub(crate) conf_state: ConfState,
    /// Members' addresses at that index, encoded.
    pub(crate) members: Vec<u8>,
    /// The snapshot came from the leader and replaces the whole log.
    pub(crate) reset: bool,
}

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// A log entry; it also removes all entries from its index on.
    Entry(Entry),
    /// Term, vote, commit.
    HardState(HardState),
    /// A snapshot file became durable.
    Snapshot(Marker),
    /// Entries up to this index and its term are not needed any more.
    Compact { index: u64, term: u64 },
    /// Whom to talk to before the first snapshot has come.
    Peers(Vec<u8>),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Entry(_) => 1,
            Self::HardState(_) => 2,
            Self::Snapshot(_) => 3,
            Self::Compact { .. } => 4,
            Self::Peers(_) => 5,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        const ROOM: &str = "a vector grows as needed";
        match self {
            Self::Entry(entry) => entry.encode(out).expect(ROOM),
            Self::HardState(state) => state.encode(out).expect(ROOM),
            Self::Snapshot(marker) => {
                out.extend_from_slice(&marker.index.to_le_bytes());
                out.extend_from_slice(&marker.term.to_le_bytes());
                out.push(u8::from(marker.reset));
                out.extend_from_slice(&(marker.conf_state.encoded_len() as u32).to_le_bytes());
                marker.conf_state.encode(out).expect(ROOM);
                out.extend_from_slice(&marker.members);
            }
            Self::Compact { index, term } => {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&term.to_le_bytes());
            }
            Self::Peers(peers) => out.extend_from_slice(peers),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        match kind {
            1 => Entry::decode(payload).ok().map(Self::Entry),
            2 => HardState::decode(payload).ok().map(Self::HardState),
            3 => {
                let conf_len = read_u32(payload, 17)? as usize;
                let conf = payload.get(21..21usize.checked_add(conf_len)?)?;
                Some(Self::Snapshot(Marker {
                    index: read_u64(payload, 0)?,
                    term: read_u64(payload, 8)?,
                    reset: *payload.get(16)? != 0,
                    conf_state: ConfState::decode(conf).ok()?,
                    members: payload.get(21 + conf_len..)?.to_vec(),
                }))
            }
            4 => Some(Self::Compact {
                index: read_u64(payload, 0)?,
                term: read_u64(payload, 8)?,
            }),
            5 => Some(Self::Peers(payload.to_vec())),
            _ => None,
        }
    }
}

/// Reads a little-endian number at `at`.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a little-endian number at `at`.
pub(super) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Position and links of a record that is being written.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Seals the segment's records.
    pub(super) sealer: Option<&'a Sealer>,
    /// Salt of the segment.
    pub(super) salt: u64,
    /// Offset of the record in the segment.
    pub(super) offset: u64,
    /// Checksum of the record before, or of the segment's header.
    pub(super) prev: u32,
    /// Number of the batch.
    pub(super) batch: u64,
}

fn checksum(salt: u64, offset: u64, header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&header[..4]);
    hasher.update(&header[8..HEADER]);
    hasher.update(payload);
    hasher.finalize()
}

/// The header without the checksum, which covers what is sealed.
fn about(header: &[u8]) -> [u8; HEADER - 4] {
    let mut about = [0; HEADER - 4];
    about[..4].copy_from_slice(&header[..4]);
    about[4..].copy_from_slice(&header[8..HEADER]);
    about
}

/// Appends the record's bytes to `out`; returns its checksum.
pub(super) fn encode(record: &Record, place: Place<'_>, end: bool, out: &mut Vec<u8>) -> u32 {
    let start = out.len();
    out.resize(start + HEADER, 0);
    record.encode_payload(out);
    let len = out.len() - start - HEADER + place.sealer.map_or(0, |_| TAG);
    let bytes = &mut out[start..];
    bytes[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[8..12].copy_from_slice(&place.prev.to_le_bytes());
    bytes[12] = record.kind();
    bytes[13] = if end { END } else { 0 };
    bytes[16..24].copy_from_slice(&place.batch.to_le_bytes());
    if let Some(sealer) = place.sealer {
        let about = about(&bytes[..HEADER]);
        let position = Position {
            at: place.offset,
            last: false,
        };
        sealer.seal(position, &about, out, start + HEADER);
    }
    out.resize(start + (HEADER + len).next_multiple_of(8), 0);
    let bytes = &mut out[start..];
    let crc = checksum(
        place.salt,
        place.offset,
        &bytes[..HEADER],
        &bytes[HEADER..HEADER + len],
    );
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Gives the changed bytes of one record their checksum.
#[cfg(test)]
pub(super) fn sign(salt: u64, offset: u64, bytes: &mut [u8]) {
    let len = read_u32(bytes, 0).expect("a record") as usize;
    let crc = checksum(salt, offset, &bytes[..HEADER], &bytes[HEADER..HEADER + len]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A record found in a segment, its payload still encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) crc: u32,
    pub(super) prev: u32,
    kind: u8,
    pub(super) end: bool,
    pub(super) batch: u64,
    offset: usize,
    header: &'a [u8],
    payload: &'a [u8],
    /// Offset of what follows.
    pub(super) next: usize,
}

impl Found<'_> {
    /// What the record says; an error says why a valid one can't be read.
    pub(super) fn record(&self, sealer: Option<&Sealer>) -> Result<Record, String> {
        let opened;
        let payload = match sealer {
            Some(sealer) => {
                let position = Position {
                    at: self.offset as u64,
                    last: false,
                };
                opened = sealer.open(position, &about(self.header), self.payload).ok_or(
                    "its checksum matches, but it does not open with the segment's key: it was changed on purpose, or the key file is another one",
                )?;
                opened.as_slice()
            }
            None => self.payload,
        };
        if !(1..=KINDS).contains(&self.kind) {
            return Err(format!(
                "a record of kind {} was written by a newer program: start that one, or a newer one",
                self.kind
            ));
        }
        Record::decode(self.kind, payload).ok_or_else(|| "the record does not decode".to_owned())
    }
}

/// The record at `offset`, if its checksum holds.
pub(super) fn find(segment: &[u8], offset: usize, salt: u64) -> Option<Found<'_>> {
    let header = segment.get(offset..offset.checked_add(HEADER)?)?;
    let (kind, flags) = (header[12], header[13]);
    // Cheap refusals first: the search for records behind a damaged one asks at every eighth byte.
    // Unknown kinds are valid here: a newer program's record must not pass for a torn tail.
    if kind == 0 || flags > END || header[14..16] != [0, 0] {
        return None;
    }
    let len = read_u32(header, 0)? as usize;
    if len > MAX_PAYLOAD {
        return None;
    }
    let next = offset + (HEADER + len).next_multiple_of(8);
    if next > segment.len() {
        return None;
    }
    let payload = &segment[offset + HEADER..offset + HEADER + len];
    let crc = read_u32(header, 4)?;
    if checksum(salt, offset as u64, header, payload) != crc {
        return None;
    }
    let (prev, batch) = (read_u32(header, 8)?, read_u64(header, 16)?);
    Some(Found {
        crc,
        prev,
        kind,
        end: flags == END,
        batch,
        offset,
        header,
        payload,
        next,
    })
}
