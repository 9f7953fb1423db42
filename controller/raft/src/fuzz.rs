//! Fuzz targets for what this crate reads: segments of the log, single records, snapshot files, messages of other members.

use std::path::Path;
use std::sync::Arc;

use pontoon_fuzz::fuzz;
use prost_raft::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};

use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::vfs::sim::SimDisk;
use crate::vfs::{Dir, Vfs};
use crate::wal::{Marker, Owner, Record, Wal};

const FOLDER: &str = "/raft";
const SEGMENT: u64 = 4096;

fn dir(disk: &SimDisk) -> Dir {
    Dir::new(Arc::new(disk.clone()), FOLDER)
}

fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".into(),
        raft_id: 7,
    }
}

/// One record of every kind.
fn records() -> Vec<Record> {
    let conf_state = ConfState {
        voters: vec![7],
        ..ConfState::default()
    };
    let entry = |index| {
        Record::Entry(Entry {
            index,
            term: 1,
            data: vec![9; 40],
            ..Entry::default()
        })
    };
    vec![
        Record::Snapshot(Marker {
            index: 1,
            term: 1,
            conf_state,
            members: b"members".to_vec(),
            reset: false,
        }),
        entry(2),
        entry(3),
        Record::HardState(HardState {
            term: 1,
            vote: 7,
            commit: 3,
        }),
        Record::Peers(b"peers".to_vec()),
        Record::Compact { index: 2, term: 1 },
    ]
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new(FOLDER)).expect("a disk without faults")
}

/// A disk with this file in place of whatever has its name.
fn with(name: &str, content: &[u8]) -> SimDisk {
    let disk = SimDisk::new(1);
    let path = Path::new(FOLDER).join(name);
    let file = disk.create(&path).expect("a disk without faults");
    file.write_at(content, 0).expect("a disk without faults");
    disk
}

#[test]
fn fuzz_segments() {
    let disk = SimDisk::new(1);
    drop(Wal::create(dir(&disk), owner(), SEGMENT, records()).expect("a disk without faults"));
    let name = names(&disk).remove(0);
    let good = disk
        .content(&Path::new(FOLDER).join(&name))
        .expect("it was written");
    let used = good
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 64)
        .min(good.len());
    fuzz("segment of the log", &[&good[..used]], |input| {
        match Wal::open(dir(&with(&name, input)), owner(), SEGMENT) {
            Ok(_) => {}
            // It says where.
            Err(refused) => assert!(refused.to_string().contains(FOLDER), "{refused}"),
        }
    });
}

#[test]
fn fuzz_snapshot_files() {
    let meta = SnapshotMeta {
        index: 5,
        term: 2,
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        },
        members: b"who".to_vec(),
    };
    let disk = SimDisk::new(1);
    let store = SnapshotStore::new(dir(&disk), "cluster");
    store
        .write(&meta, |out| out.write_all(&[7; 300]))
        .expect("a disk without faults");
    let name = names(&disk).remove(0);
    let good = disk
        .content(&Path::new(FOLDER).join(&name))
        .expect("it was written");
    fuzz("snapshot file", &[&good], |input| {
        let store = SnapshotStore::new(dir(&with(&name, input)), "cluster");
        if let Ok(file) = store.open(5, 2) {
            let mut content = Vec::new();
            let read = file
                .reader()
                .and_then(|mut reader| std::io::Read::read_to_end(&mut reader, &mut content));
            assert!(read.is_err() || content == [7; 300], "damage was not noticed");
        }
    });
}

#[test]
fn fuzz_messages() {
    let message = |kind: MessageType, entries: Vec<Entry>| {
        let mut message = Message {
            to: 1,
            from: 2,
            term: 3,
            index: 4,
            log_term: 2,
            commit: 4,
            entries,
            ..Message::default()
        };
        message.set_msg_type(kind);
        message.encode_to_vec()
    };
    let entry = Entry {
        index: 5,
        term: 3,
        data: vec![1; 20],
        ..Entry::default()
    };
    let good = [
        message(MessageType::MsgAppend, vec![entry.clone()]),
        message(MessageType::MsgRequestVote, Vec::new()),
        message(MessageType::MsgHeartbeat, Vec::new()),
        message(MessageType::MsgReadIndexResp, vec![entry]),
    ];
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    fuzz("message of a member", &good, |input| {
        // What is let through is one of those that raft knows, from whom it says.
        if let Ok(message) = crate::validate::decode(input, 2, 1) {
            assert_eq!((message.from, message.to), (2, 1));
            assert!(MessageType::from_i32(message.msg_type).is_some());
        }
    });
}
