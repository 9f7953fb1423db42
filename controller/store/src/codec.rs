//! A snapshot as a byte stream: what the log stores and hands to new members. Streamed in both directions, so that
//! memory stays flat: one object at a time.
//!
//! ```text
//! "PONTOON1" , record* , 0x00 , count of objects (u64, big-endian)
//! record = length (varint, > 0) , message        first a Changeset with base_version = the snapshot's version,
//!                                                then one Change (put) an object
//! ```
//! The count at the end tells a cut stream from a whole one; integrity of the bytes is the log's business.

use std::io::{self, Read, Write};

use pontoon_proto::v1::{Change, Changeset, change};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, message, string};
use std::sync::Arc;

use crate::{Error, Event, FORMAT, Object, Result, Snapshot};

const MAGIC: &[u8; 8] = b"PONTOON1";
/// Longest record that is read; a spec is limited to far less by the API.
const MAX_RECORD: u64 = 64 << 20;

/// Fields of a `Changeset` and of a `Change`, which are written without being made: what they hold is shared.
mod field {
    use crate::Kind;

    pub(super) const CHANGES: u32 = 2;

    pub(super) fn put(kind: Kind) -> u32 {
        match kind {
            Kind::Cluster => 1,
            Kind::Node => 2,
            Kind::Service => 3,
            Kind::Task => 4,
            Kind::Network => 5,
        }
    }

    /// Of a deletion.
    pub(super) fn delete(kind: Kind) -> u32 {
        put(kind) + 10
    }
}

/// The bytes of the change that writes the object.
fn put_len(object: &Object) -> usize {
    let field = field::put(object.kind());
    match object {
        Object::Cluster(o) => message::encoded_len(field, &**o),
        Object::Node(o) => message::encoded_len(field, &**o),
        Object::Network(o) => message::encoded_len(field, &**o),
        Object::Service(o) => message::encoded_len(field, &**o),
        Object::Task(o) => message::encoded_len(field, &**o),
    }
}

/// Appends the change that writes the object.
fn encode_put(object: &Object, buffer: &mut Vec<u8>) {
    let field = field::put(object.kind());
    match object {
        Object::Cluster(o) => message::encode(field, &**o, buffer),
        Object::Node(o) => message::encode(field, &**o, buffer),
        Object::Network(o) => message::encode(field, &**o, buffer),
        Object::Service(o) => message::encode(field, &**o, buffer),
        Object::Task(o) => message::encode(field, &**o, buffer),
    }
}

/// The bytes of the [`Changeset`] that does this, which has about `size`; no object is copied for it.
pub(crate) fn encode_changeset(
    base_version: u64,
    at: i64,
    format: u32,
    events: &[Event],
    size: usize,
) -> Vec<u8> {
    // Fields may come in any order.
    let head = Changeset {
        base_version,
        changes: Vec::new(),
        at,
        format,
    };
    let mut buffer = Vec::with_capacity(size + events.len() * 64 + 64);
    buffer.extend(head.encode_to_vec());
    for event in events {
        encode_key(field::CHANGES, WireType::LengthDelimited, &mut buffer);
        match event {
            Event::Put(object) => {
                encode_varint(put_len(object) as u64, &mut buffer);
                encode_put(object, &mut buffer);
            }
            Event::Delete(object) => {
                let (field, id) = (field::delete(object.kind()), object.id().to_owned());
                encode_varint(string::encoded_len(field, &id) as u64, &mut buffer);
                string::encode(field, &id, &mut buffer);
            }
        }
    }
    buffer
}

fn write_record(w: &mut dyn Write, message: &impl Message, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    encode_varint(message.encoded_len() as u64, buffer);
    message.encode(buffer).map_err(io::Error::other)?;
    w.write_all(buffer)
}

/// Writes a snapshot. Wrap `w` in a `BufWriter`.
///
/// # Errors
/// What `w` fails with.
pub fn encode(snapshot: &Snapshot, w: &mut dyn Write) -> io::Result<()> {
    let mut buffer = Vec::new();
    w.write_all(MAGIC)?;
    // A default message has no bytes, and length 0 marks the end: the header's time is never 0.
    let header = Changeset {
        base_version: snapshot.version(),
        changes: Vec::new(),
        at: 1,
        format: snapshot
            .objects()
            .map(|object| object.format())
            .max()
            .unwrap_or(0),
    };
    write_record(w, &header, &mut buffer)?;
    let mut count: u64 = 0;
    for object in snapshot.objects() {
        buffer.clear();
        encode_varint(put_len(&object) as u64, &mut buffer);
        encode_put(&object, &mut buffer);
        w.write_all(&buffer)?;
        count += 1;
    }
    w.write_all(&[0])?;
    w.write_all(&count.to_be_bytes())
}

fn read_length(r: &mut dyn Read) -> Result<u64> {
    let mut length = 0;
    for shift in (0..70).step_by(7) {
        let mut byte = [0];
        r.read_exact(&mut byte).map_err(Error::Read)?;
        if shift == 63 && byte[0] > 1 {
            break;
        }
        length |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(length);
        }
    }
    Err(Error::Corrupt(
        "a record's length has more than 64 bits".to_owned(),
    ))
}

/// Reads the next record into `buffer`; false at the end mark.
fn read_record(r: &mut dyn Read, buffer: &mut Vec<u8>) -> Result<bool> {
    let length = read_length(r)?;
    if length > MAX_RECORD {
        return Err(Error::Corrupt(format!(
            "a record of {length} bytes is longer than {MAX_RECORD}"
        )));
    }
    buffer.clear();
    // Through `take`, so that a wrong length costs no more memory than there are bytes.
    let read = r.take(length).read_to_end(buffer).map_err(Error::Read)?;
    if read as u64 != length {
        return Err(Error::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(length != 0)
}

fn corrupt(error: prost::DecodeError) -> Error {
    Error::Corrupt(error.to_string())
}

fn object(change: Change) -> Result<Object> {
    match change.change {
        Some(change::Change::PutCluster(o)) => Ok(Object::Cluster(Arc::new(o))),
        Some(change::Change::PutNode(o)) => Ok(Object::Node(Arc::new(o))),
        Some(change::Change::PutNetwork(o)) => Ok(Object::Network(Arc::new(o))),
        Some(change::Change::PutService(o)) => Ok(Object::Service(Arc::new(o))),
        Some(change::Change::PutTask(o)) => Ok(Object::Task(Arc::new(o))),
        _ => Err(Error::Corrupt("a record is no object of a known kind".to_owned())),
    }
}

/// Reads what [`encode`] wrote, and no byte more. Wrap `r` in a `BufReader`.
///
/// # Errors
/// [`Error::Read`] if `r` fails or ends early, [`Error::Corrupt`] if the stream is no snapshot.
pub fn decode(r: &mut dyn Read) -> Result<Snapshot> {
    let mut magic = [0; MAGIC.len()];
    r.read_exact(&mut magic).map_err(Error::Read)?;
    if &magic != MAGIC {
        return Err(Error::Corrupt("it does not start with PONTOON1".to_owned()));
    }
    let mut buffer = Vec::new();
    if !read_record(r, &mut buffer)? {
        return Err(Error::Corrupt("it has no header".to_owned()));
    }
    let header = Changeset::decode(buffer.as_slice()).map_err(corrupt)?;
    if header.format > FORMAT {
        return Err(Error::Newer {
            format: header.format,
        });
    }
    let mut snapshot = Snapshot {
        version: header.base_version,
        ..Snapshot::default()
    };
    let mut count: u64 = 0;
    while read_record(r, &mut buffer)? {
        let change = Change::decode(buffer.as_slice()).map_err(corrupt)?;
        snapshot.tables.put(object(change)?);
        count += 1;
    }
    let mut expected = [0; 8];
    r.read_exact(&mut expected).map_err(Error::Read)?;
    let expected = u64::from_be_bytes(expected);
    if count != expected {
        return Err(Error::Corrupt(format!(
            "it holds {count} objects where {expected} are announced"
        )));
    }
    Ok(snapshot)
}
