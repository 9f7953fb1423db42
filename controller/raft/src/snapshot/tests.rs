//! Snapshot files: round trip, damage, broken transfers, crashes.

use std::io::Read;
use std::sync::Arc;

use raft::eraftpb::ConfState;

use super::*;
use crate::vfs::sim::{Fault, SimDisk};

fn store(disk: &SimDisk) -> SnapshotStore {
    SnapshotStore::new(Dir::new(Arc::new(disk.clone()), "/raft"), "cluster")
}

fn meta(index: u64) -> SnapshotMeta {
    let conf_state = ConfState {
        voters: vec![1, 2, 3],
        ..ConfState::default()
    };
    SnapshotMeta {
        index,
        term: 2,
        conf_state,
        members: b"who".to_vec(),
    }
}

fn fill(writer: &mut dyn Write) -> std::io::Result<()> {
    (0..100_000u32).try_for_each(|i| writer.write_all(&i.wrapping_mul(2_654_435_761).to_le_bytes()))
}

fn content(store: &SnapshotStore, index: u64) -> Vec<u8> {
    let mut out = Vec::new();
    store
        .open(index, 2)
        .expect("open")
        .reader()
        .expect("reader")
        .read_to_end(&mut out)
        .expect("read");
    out
}

#[test]
fn a_snapshot_is_read_back_and_old_ones_go() {
    let disk = SimDisk::new(1);
    let store = store(&disk);
    store.write(&meta(5), fill).expect("write");
    store.write(&meta(9), fill).expect("write");
    let mut expected = Vec::new();
    fill(&mut expected).expect("a vector takes everything");
    assert_eq!(content(&store, 5), expected);
    store.remove_below(9);
    assert!(matches!(store.open(5, 2), Err(Error::CorruptSnapshot { .. })));
    assert_eq!(content(&store, 9), expected);
}

#[test]
fn a_transfer_in_chunks_arrives_whole_or_not_at_all() {
    let (from, to) = (SimDisk::new(1), SimDisk::new(2));
    let (source, target) = (store(&from), store(&to));
    source.write(&meta(5), fill).expect("write");
    let file = source.open(5, 2).expect("open");
    let mut incoming = target.receive().expect("receive");
    incoming
        .write(&file.chunk(0).expect("chunk")[..1000])
        .expect("write");
    assert!(matches!(
        incoming.finish(5, 2),
        Err(Error::CorruptSnapshot { .. })
    ));
    let mut incoming = target.receive().expect("receive");
    let mut offset = 0;
    loop {
        let chunk = file.chunk(offset).expect("chunk");
        if chunk.is_empty() {
            break;
        }
        offset += chunk.len() as u64;
        incoming.write(&chunk).expect("write");
    }
    incoming.finish(5, 2).expect("a whole file is taken");
    to.restart();
    assert_eq!(content(&target, 5), content(&source, 5));
    let names = Dir::new(Arc::new(to), "/raft").list().expect("list");
    assert_eq!(names.len(), 1, "no remains: {names:?}");
}

#[test]
fn every_flipped_bit_is_found() {
    let small = |writer: &mut dyn Write| writer.write_all(b"a small state");
    let path = Dir::new(Arc::new(SimDisk::new(0)), "/raft").file(&name(5, 2));
    let len = {
        let disk = SimDisk::new(1);
        store(&disk).write(&meta(5), small).expect("write");
        disk.content(&path).expect("content").len()
    };
    for byte in 0..len as u64 {
        let disk = SimDisk::new(1);
        store(&disk).write(&meta(5), small).expect("write");
        assert!(disk.flip(&path, byte, (byte % 8) as u8));
        assert!(
            matches!(store(&disk).open(5, 2), Err(Error::CorruptSnapshot { .. })),
            "byte {byte}"
        );
    }
}

#[test]
fn a_crash_leaves_the_old_snapshot_or_the_new_one() {
    for position in 1..12 {
        for fault in [Fault::Crash, Fault::NoSpace, Fault::SyncError] {
            let disk = SimDisk::new(position);
            store(&disk).write(&meta(5), fill).expect("write");
            disk.fail_at(disk.operations() + position, fault);
            let written = store(&disk).write(&meta(9), fill).is_ok();
            disk.restart();
            store(&disk).remove_leftovers();
            assert!(store(&disk).open(5, 2).is_ok());
            // The new name may be there without its folder having been synced, but then it is whole.
            let there = Dir::new(Arc::new(disk.clone()), "/raft")
                .list()
                .expect("list")
                .contains(&name(9, 2));
            if written || there {
                assert!(store(&disk).open(9, 2).is_ok(), "{fault:?} at {position}");
            }
        }
    }
}
