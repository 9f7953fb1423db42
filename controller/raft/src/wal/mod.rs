//! The write-ahead log: append-only segments of checksummed records, one sync for many records.
//!
//! [`Wal`] does the file work and is driven by the log thread in `committer`; the simulation drives it directly. After
//! any write or sync error the log refuses everything: what the file holds is then unknown (a second `fsync` may succeed
//! although pages were dropped), only a fresh start with a scan may judge it.

use std::collections::{BTreeSet, VecDeque};

use crate::error::Error;
use crate::seal::{KeyId, Seal, Sealer};
use crate::vfs::{Dir, VfsFile};

mod committer;
mod image;
mod record;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use committer::{Committer, PersistJob};
pub(crate) use image::Image;
pub(crate) use record::{Marker, Record};
pub(crate) use segment::Owner;

use segment::Header;

/// Zeros are written this far ahead, so that most syncs need not write the file's length and extents.
/// Tests rewrite their disks thousands of times.
const PREALLOCATE: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };
/// Records of so many bytes are large; behind them as many zeros are written as fill up a smaller step.
const LARGE: u64 = PREALLOCATE / 8;
const SMALL_STEP: u64 = PREALLOCATE / 16;

/// A segment that is complete.
struct Sealed {
    seq: u64,
    /// Highest entry index in it.
    last_index: u64,
    /// What it is sealed with.
    key: Option<KeyId>,
}

/// The segment that is written to.
struct Current {
    file: Box<dyn VfsFile>,
    header: Header,
    sealer: Option<Sealer>,
    /// Offset behind the last record.
    end: u64,
    /// Length of the file.
    allocated: u64,
    /// Checksum of the last record.
    crc: u32,
    /// Number of the open batch.
    batch: u64,
    last_index: u64,
}

/// The write-ahead log of one member.
pub(crate) struct Wal {
    dir: Dir,
    owner: Owner,
    segment_bytes: u64,
    sealed: VecDeque<Sealed>,
    current: Current,
    /// What a new segment starts with: everything but entries.
    head: Image,
    failed: bool,
}

/// Makes a group's records durable.
fn make_durable(file: &dyn VfsFile) -> std::io::Result<()> {
    #[cfg(feature = "planted-bugs")]
    if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::SkipSync) {
        return Ok(());
    }
    file.sync()
}

impl Wal {
    /// Whether the folder holds a log.
    pub(crate) fn exists(dir: &Dir) -> Result<bool, Error> {
        Ok(dir.list()?.iter().any(|name| segment::parse_name(name).is_some()))
    }

    /// Makes a log whose first batch is `records`.
    pub(crate) fn create(
        dir: Dir,
        owner: Owner,
        segment_bytes: u64,
        records: Vec<Record>,
    ) -> Result<Self, Error> {
        if Self::exists(&dir)? {
            return Err(Error::NotEmpty {
                path: dir.path().to_owned(),
            });
        }
        remove_leftovers(&dir);
        let mut head = Image::default();
        for record in &records {
            // A new log's records are its maker's own; what does not fit would show at the first start.
            let _ = head.replay(record.clone());
        }
        let header = Header {
            owner: owner.clone(),
            seq: 1,
            first_index: 1,
            salt: rand::random(),
            prev: 0,
            seal: new_seal(&dir),
        };
        let current = create_segment(&dir, header, 1, &records)?;
        let wal = Self {
            dir,
            owner,
            segment_bytes,
            sealed: VecDeque::new(),
            current,
            head,
            failed: false,
        };
        wal.report_keys();
        Ok(wal)
    }

    /// Reads the log, cuts a torn tail, and goes on in a new segment.
    pub(crate) fn open(dir: Dir, owner: Owner, segment_bytes: u64) -> Result<(Self, Image), Error> {
        remove_leftovers(&dir);
        let mut seqs: Vec<u64> = dir
            .list()?
            .iter()
            .filter_map(|name| segment::parse_name(name))
            .collect();
        seqs.sort_unstable();
        let Some(&newest) = seqs.last() else {
            return Err(Error::Empty {
                path: dir.path().to_owned(),
            });
        };
        let mut image = Image::default();
        let mut sealed = VecDeque::new();
        let (mut prev, mut batch) = (None, 0);
        for &seq in &seqs {
            let name = segment::name(seq);
            let (file, path) = (dir.open(&name)?, dir.file(&name));
            let scan = segment::scan(file.as_ref(), &path, seq == newest, dir.keys(), &mut image)?;
            check_header(&scan.header, seq, &owner, prev, &path)?;
            prev = Some((seq, scan.crc));
            batch = scan.batch;
            sealed.push_back(Sealed {
                seq,
                last_index: scan.last_index,
                key: scan.header.seal.as_ref().map(|seal| seal.key),
            });
            if seq == newest {
                // Also where nothing was torn: the records of a process that died may be in the page cache only, and
                // after a failed sync the cache calls them clean though they never reached the disk. Only the last
                // batch can be meant, so writing it once more makes it durable in any case.
                let io = |op| {
                    let path = path.clone();
                    move |source| Error::Io { op, path, source }
                };
                let (start, bytes) = &scan.last_batch;
                file.write_at(bytes, *start).map_err(io("write"))?;
                file.set_len(scan.end).map_err(io("cut"))?;
                file.sync().map_err(io("sync"))?;
            }
        }
        let path = dir.file(&segment::name(newest));
        image.finish().map_err(|reason| Error::CorruptLog {
            segment: path,
            offset: 0,
            reason,
        })?;
        let head = Image {
            entries: Vec::new(),
            ..image.clone()
        };
        let header = Header {
            owner: owner.clone(),
            seq: newest + 1,
            first_index: image.last_index() + 1,
            salt: rand::random(),
            prev: prev.map_or(0, |(_, crc)| crc),
            seal: new_seal(&dir),
        };
        let current = create_segment(&dir, header, batch + 1, &head_records(&head))?;
        let mut wal = Self {
            dir,
            owner,
            segment_bytes,
            sealed,
            current,
            head,
            failed: false,
        };
        wal.remove_compacted();
        wal.report_keys();
        Ok((wal, image))
    }

    /// Appends records in order; with `sync` they are durable when this returns.
    ///
    /// # Errors
    /// The first error ends the log: every later call fails too.
    pub(crate) fn append(&mut self, records: &[Record], sync: bool) -> Result<(), Error> {
        if self.failed {
            let source = std::io::Error::other("an earlier write failed");
            return Err(Error::Io {
                op: "append to",
                path: self.path(),
                source,
            });
        }
        let result = self.try_append(records, sync);
        self.failed = result.is_err();
        result
    }

    fn try_append(&mut self, records: &[Record], sync: bool) -> Result<(), Error> {
        self.write(records, sync)?;
        let mut compacted = false;
        for record in records {
            match record {
                Record::Entry(entry) => self.current.last_index = self.current.last_index.max(entry.index),
                other => {
                    compacted |= matches!(
                        other,
                        Record::Compact { .. } | Record::Snapshot(Marker { reset: true, .. })
                    );
                    // Everything but entries always fits.
                    let _ = self.head.replay(other.clone());
                }
            }
        }
        if sync {
            if self.current.end >= self.segment_bytes || self.key_changed() {
                self.rotate()?;
                self.report_keys();
            }
            if compacted {
                self.remove_compacted();
                self.report_keys();
            }
        }
        Ok(())
    }

    fn write(&mut self, records: &[Record], sync: bool) -> Result<(), Error> {
        let path = self.path();
        let current = &mut self.current;
        let mut bytes = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let place = record::Place {
                sealer: current.sealer.as_ref(),
                salt: current.header.salt,
                offset: current.end + bytes.len() as u64,
                prev: current.crc,
                batch: current.batch,
            };
            current.crc = record::encode(record, place, sync && i + 1 == records.len(), &mut bytes);
        }
        let io = |op: &'static str| {
            let path = path.clone();
            move |source| Error::Io { op, path, source }
        };
        let end = current.end + bytes.len() as u64;
        if end > current.allocated {
            // The zeros go behind the records, in the same write: where records lie now nothing else needs to be written. Large ones make the
            // file grow each time in any case, so they get little beyond themselves.
            let step = if bytes.len() as u64 >= LARGE {
                SMALL_STEP
            } else {
                PREALLOCATE
            };
            current.allocated = end.next_multiple_of(step);
            bytes.resize((current.allocated - current.end) as usize, 0);
        }
        if !bytes.is_empty() {
            current.file.write_at(&bytes, current.end).map_err(io("write"))?;
            current.end = end;
        }
        if sync {
            make_durable(current.file.as_ref()).map_err(io("sync"))?;
            if !records.is_empty() {
                current.batch += 1;
            }
        }
        Ok(())
    }

    /// Seals the segment and goes on in a new one.
    fn rotate(&mut self) -> Result<(), Error> {
        let path = self.path();
        let current = &self.current;
        let io = |op, path| move |source| Error::Io { op, path, source };
        current
            .file
            .set_len(current.end)
            .map_err(io("cut", path.clone()))?;
        current.file.sync().map_err(io("sync", path))?;
        let header = Header {
            owner: self.owner.clone(),
            seq: current.header.seq + 1,
            first_index: current.last_index + 1,
            salt: rand::random(),
            prev: current.crc,
            seal: new_seal(&self.dir),
        };
        let next = create_segment(&self.dir, header, current.batch, &head_records(&self.head))?;
        let old = std::mem::replace(&mut self.current, next);
        self.sealed.push_back(Sealed {
            seq: old.header.seq,
            last_index: old.last_index,
            key: old.header.seal.as_ref().map(|seal| seal.key),
        });
        Ok(())
    }

    /// Whether new records are to be sealed with another key than this segment's.
    fn key_changed(&self) -> bool {
        let key = self.current.header.seal.as_ref().map(|seal| seal.key);
        self.dir.keys().is_some_and(|keys| Some(keys.current_id()) != key)
    }

    /// Tells the keyring which keys the segments need.
    fn report_keys(&self) {
        if let Some(keys) = self.dir.keys() {
            let current = self.current.header.seal.as_ref().map(|seal| seal.key);
            let used = self.sealed.iter().filter_map(|sealed| sealed.key).chain(current);
            keys.segments_use(used.collect::<BTreeSet<_>>());
        }
    }

    /// Removes the oldest segments as long as all their entries are compacted. A failure costs space only, and the next
    /// compaction tries again.
    fn remove_compacted(&mut self) {
        while self
            .sealed
            .front()
            .is_some_and(|s| s.last_index <= self.head.compacted.0)
        {
            let Some(segment) = self.sealed.pop_front() else {
                return;
            };
            if let Err(error) = self.dir.remove(&segment::name(segment.seq)) {
                tracing::warn!(%error, seq = segment.seq, "could not remove an old log segment");
                self.sealed.push_front(segment);
                return;
            }
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.file(&segment::name(self.current.header.seq))
    }
}

/// How a new segment is sealed.
fn new_seal(dir: &Dir) -> Option<Seal> {
    dir.keys().map(|keys| Seal::new(keys.current_id()))
}

/// What every segment starts with, so that it does not need the ones before it.
fn head_records(head: &Image) -> Vec<Record> {
    let mut records = vec![Record::HardState(head.hard_state.clone())];
    if let Some(peers) = &head.peers {
        records.push(Record::Peers(peers.clone()));
    }
    if let Some(marker) = &head.marker {
        // The log it replaced is gone already; replaying it as a reset would drop the entries written since.
        records.push(Record::Snapshot(Marker {
            reset: false,
            ..marker.clone()
        }));
    }
    if head.compacted.0 > 0 {
        records.push(Record::Compact {
            index: head.compacted.0,
            term: head.compacted.1,
        });
    }
    records
}

fn create_segment(dir: &Dir, header: Header, batch: u64, records: &[Record]) -> Result<Current, Error> {
    let name = segment::name(header.seq);
    let temporary = format!("{name}.tmp");
    let file = dir.create(&temporary)?;
    let sealer = header.sealer(dir.keys()).map_err(|key| Error::NoKey {
        path: dir.file(&name),
        key,
    })?;
    let mut bytes = header.encode();
    let mut crc = header.checksum();
    let mut last_index = 0;
    for (i, record) in records.iter().enumerate() {
        let place = record::Place {
            sealer: sealer.as_ref(),
            salt: header.salt,
            offset: bytes.len() as u64,
            prev: crc,
            batch,
        };
        crc = record::encode(record, place, i + 1 == records.len(), &mut bytes);
        if let Record::Entry(entry) = record {
            last_index = last_index.max(entry.index);
        }
    }
    let io = |op| {
        let path = dir.file(&temporary);
        move |source| Error::Io { op, path, source }
    };
    let end = bytes.len() as u64;
    let allocated = end.next_multiple_of(PREALLOCATE);
    bytes.resize(allocated as usize, 0);
    file.write_at(&bytes, 0).map_err(io("write"))?;
    file.sync().map_err(io("sync"))?;
    dir.rename(&temporary, &name)?;
    Ok(Current {
        file,
        header,
        sealer,
        end,
        allocated,
        crc,
        batch: batch + 1,
        last_index,
    })
}

fn check_header(
    header: &Header,
    seq: u64,
    owner: &Owner,
    prev: Option<(u64, u32)>,
    path: &std::path::Path,
) -> Result<(), Error> {
    let corrupt = |reason: &str| Error::CorruptLog {
        segment: path.to_owned(),
        offset: 0,
        reason: reason.into(),
    };
    if header.owner != *owner {
        let (found, expected) = (header.owner.to_string(), owner.to_string());
        return Err(Error::Foreign {
            path: path.to_owned(),
            found,
            expected,
        });
    }
    if header.seq != seq {
        return Err(corrupt("the sequence number is not that of the file's name"));
    }
    if let Some((before, crc)) = prev {
        if before + 1 != seq {
            return Err(corrupt("the segment before it is missing"));
        }
        if header.prev != crc {
            return Err(corrupt("it does not continue the segment before it"));
        }
    }
    Ok(())
}

/// Segments that were never finished: their makers crashed before the rename.
fn remove_leftovers(dir: &Dir) {
    for name in dir.list().unwrap_or_default() {
        if name.ends_with(".log.tmp")
            && let Err(error) = dir.remove(&name)
        {
            tracing::warn!(%error, "could not remove an unfinished log segment");
        }
    }
}
