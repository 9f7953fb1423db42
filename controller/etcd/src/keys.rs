//! What lies under which key, and how values are framed.
//!
//! ```text
//! {prefix}/{cluster}/alive/{node}            ""; with the lease of a manager that runs
//!                    format                  "1"
//!                    head                    index of the last entry, decimal; every entry rewrites it
//!                    leader                  RaftMember of the leader, with its lease; create_revision is the term
//!                    log/{index:020}         one entry: 0x01, term (i64, big-endian), data; 0x02 where the data is sealed
//!                    members/{node}          RaftMember
//!                    state                   index, chunks of the newest checkpoint, decimal; "sealed" behind them where they are
//!                    states/{index:020}/{n:06}  one chunk of it: a part of a zstd stream
//! ```
//! Everything up to `members/` is watched in one range; checkpoints sort behind it, so that their bulk does not travel to
//! each watcher.

use std::borrow::Cow;

use pontoon_proto::v1::RaftMember;
use pontoon_raft::{Member, Role};
use prost::Message;

use crate::error::Error;
use crate::seal::{self, Seal};

/// The only format there is.
pub(crate) const FORMAT: &str = "1";
/// First byte of an entry.
const ENTRY: u8 = 1;
/// First byte of an entry whose data is sealed.
const SEALED_ENTRY: u8 = 2;
/// Bytes before an entry's data: kind and term.
const HEADER: usize = 9;

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    root: String,
}

/// What a key under the watched range is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Watched<'a> {
    Alive(&'a str),
    Head,
    Leader,
    Entry(u64),
    Member(&'a str),
    Other,
}

impl Keys {
    pub(crate) fn new(prefix: &str, cluster: &str) -> Self {
        Self {
            root: format!("{prefix}/{cluster}/"),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    pub(crate) fn root(&self) -> String {
        self.root.clone()
    }

    /// End of the watched range, which starts at [`Keys::root`].
    pub(crate) fn watched_end(&self) -> String {
        self.key("n")
    }

    pub(crate) fn format(&self) -> String {
        self.key("format")
    }

    pub(crate) fn head(&self) -> String {
        self.key("head")
    }

    pub(crate) fn leader(&self) -> String {
        self.key("leader")
    }

    pub(crate) fn state(&self) -> String {
        self.key("state")
    }

    pub(crate) fn entry(&self, index: u64) -> String {
        self.key(&format!("log/{index:020}"))
    }

    pub(crate) fn member(&self, node: &str) -> String {
        self.key(&format!("members/{node}"))
    }

    pub(crate) fn alive(&self, node: &str) -> String {
        self.key(&format!("alive/{node}"))
    }

    pub(crate) fn chunk(&self, index: u64, n: u64) -> String {
        self.key(&format!("states/{index:020}/{n:06}"))
    }

    /// First key of all checkpoints.
    pub(crate) fn states(&self) -> String {
        self.key("states/")
    }

    /// First key of the checkpoint at `index`.
    pub(crate) fn chunks(&self, index: u64) -> String {
        self.key(&format!("states/{index:020}/"))
    }

    pub(crate) fn classify<'a>(&self, key: &'a [u8]) -> Watched<'a> {
        let Some(rest) = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.strip_prefix(&self.root))
        else {
            return Watched::Other;
        };
        match rest.split_once('/') {
            None if rest == "head" => Watched::Head,
            None if rest == "leader" => Watched::Leader,
            Some(("log", index)) => index.parse().map_or(Watched::Other, Watched::Entry),
            Some(("members", node)) => Watched::Member(node),
            Some(("alive", node)) => Watched::Alive(node),
            _ => Watched::Other,
        }
    }
}

/// An entry as it lies in etcd under `key`.
pub(crate) fn frame(key: &str, term: i64, data: &[u8], seal: Option<&Seal>) -> Vec<u8> {
    let (kind, body) = match seal {
        Some(seal) => (SEALED_ENTRY, Cow::Owned(seal.seal(key, data))),
        None => (ENTRY, Cow::Borrowed(data)),
    };
    let mut framed = Vec::with_capacity(HEADER + body.len());
    framed.push(kind);
    framed.extend_from_slice(&term.to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}

/// The data of an entry.
pub(crate) fn unframe<'a>(key: &str, framed: &'a [u8], seal: Option<&Seal>) -> Result<Cow<'a, [u8]>, Error> {
    match framed.first() {
        Some(&ENTRY) if framed.len() >= HEADER => Ok(Cow::Borrowed(&framed[HEADER..])),
        Some(&SEALED_ENTRY) if framed.len() >= HEADER => {
            seal::open(seal, key, &framed[HEADER..]).map(Cow::Owned)
        }
        Some(&(ENTRY | SEALED_ENTRY)) | None => Err(corrupt(key, "it is cut")),
        Some(newer) => Err(Error::Format {
            found: newer.to_string(),
            known: FORMAT,
        }),
    }
}

pub(crate) fn encode_member(member: &Member) -> Vec<u8> {
    let stored = RaftMember {
        raft_id: member.id,
        node_id: member.node_id.clone(),
        addr: member.addr.clone(),
        learner: false,
    };
    stored.encode_to_vec()
}

/// A member; everyone votes here, since etcd keeps the quorum.
pub(crate) fn decode_member(key: &[u8], value: &[u8]) -> Result<Member, Error> {
    let key = String::from_utf8_lossy(key);
    let stored = RaftMember::decode(value).map_err(|error| corrupt(&key, &error.to_string()))?;
    if stored.raft_id == 0 || stored.node_id.is_empty() {
        return Err(corrupt(&key, "a member needs an id"));
    }
    Ok(Member {
        role: Role::Voter,
        ..Member::new(stored.raft_id, stored.node_id, stored.addr)
    })
}

/// A decimal number.
pub(crate) fn number(key: &str, value: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| corrupt(key, "it is no number"))
}

/// What the `state` key says of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The last entry in it.
    pub(crate) index: u64,
    pub(crate) chunks: u64,
    pub(crate) is_sealed: bool,
}

impl Checkpoint {
    pub(crate) fn encode(self) -> String {
        let sealed = if self.is_sealed { " sealed" } else { "" };
        format!("{} {}{sealed}", self.index, self.chunks)
    }

    pub(crate) fn decode(key: &str, value: &[u8]) -> Result<Self, Error> {
        let damaged = || corrupt(key, "it is no index and count");
        let text = std::str::from_utf8(value).map_err(|_| damaged())?;
        let mut words = text.split(' ');
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(damaged)
        };
        let (index, chunks) = (number()?, number()?);
        let is_sealed = match words.next() {
            None => false,
            Some("sealed") => true,
            Some(_) => return Err(damaged()),
        };
        Ok(Self {
            index,
            chunks,
            is_sealed,
        })
    }
}

pub(crate) fn corrupt(key: &str, reason: &str) -> Error {
    Error::Corrupt {
        key: key.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let keys = Keys::new("/p", "c");
        for (key, expected) in [
            (keys.head(), Watched::Head),
            (keys.leader(), Watched::Leader),
            (keys.entry(7), Watched::Entry(7)),
            (keys.member("n"), Watched::Member("n")),
            (keys.alive("n"), Watched::Alive("n")),
            (keys.format(), Watched::Other),
            ("/other".to_owned(), Watched::Other),
        ] {
            assert_eq!(keys.classify(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn checkpoints_lie_behind_the_watched_range() {
        let keys = Keys::new("/p", "c");
        let watched = keys.root()..keys.watched_end();
        for key in [
            keys.alive("z"),
            keys.head(),
            keys.leader(),
            keys.entry(u64::MAX),
            keys.member("z"),
        ] {
            assert!(watched.contains(&key), "{key}");
        }
        for key in [keys.state(), keys.chunk(1, 1)] {
            assert!(!watched.contains(&key), "{key}");
        }
    }

    #[test]
    fn entries_sort_by_index() {
        let keys = Keys::new("/p", "c");
        assert!(keys.entry(9) < keys.entry(10) && keys.entry(99) < keys.entry(u64::MAX));
    }

    #[test]
    fn damaged_values_are_errors() {
        let framed = frame("k", 5, b"data", None);
        assert_eq!(unframe("k", &framed, None).unwrap().as_ref(), b"data");
        for cut in [&[][..], &[1, 2], &[2, 2]] {
            assert!(matches!(unframe("k", cut, None), Err(Error::Corrupt { .. })));
        }
        assert!(matches!(unframe("k", &[9; 20], None), Err(Error::Format { .. })));
        assert!(decode_member(b"k", b"\xff\xff").is_err());
        assert!(decode_member(b"k", b"").is_err());
        assert!(number("k", b"x").is_err());
        for wrong in ["1", "1 x", "1 2 3", ""] {
            assert!(Checkpoint::decode("k", wrong.as_bytes()).is_err(), "{wrong}");
        }
        for is_sealed in [false, true] {
            let checkpoint = Checkpoint {
                index: 12,
                chunks: 3,
                is_sealed,
            };
            let text = checkpoint.encode();
            assert_eq!(
                Checkpoint::decode("k", text.as_bytes()).unwrap(),
                checkpoint,
                "{text}"
            );
        }
    }
}
