//! Snapshot files: round trip, damage, broken transfers, crashes.

use std::io::Read;
use std::sync::Arc;

use raft::eraftpb::ConfState;

use super::*;
use crate::seal::{DataKey, Keyring};
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

fn sealed(disk: &SimDisk, keys: &Keyring) -> SnapshotStore {
    let dir = Dir::new(Arc::new(disk.clone()), "/raft").with_keys(Some(keys.clone()));
    SnapshotStore::new(dir, "cluster")
}

fn path(index: u64) -> std::path::PathBuf {
    std::path::Path::new("/raft").join(name(index, 2))
}

#[test]
fn a_sealed_snapshot_is_read_with_its_key_only() {
    let disk = SimDisk::new(1);
    let keys = Keyring::new(DataKey::random(), []);
    let mut expected = Vec::new();
    fill(&mut expected).expect("a vector takes everything");
    store(&disk).write(&meta(4), fill).expect("write in clear");
    let with = sealed(&disk, &keys);
    with.write(&meta(5), fill).expect("write");
    assert_eq!(content(&with, 4), expected, "what is in clear is still read");
    assert_eq!(content(&with, 5), expected);
    let bytes = disk.content(&path(5)).expect("it is there");
    assert!(
        !bytes.windows(7).any(|window| window == b"cluster"),
        "the metadata is sealed too"
    );
    assert_eq!(*keys.used().borrow(), [keys.current().id()].into());
    assert!(matches!(store(&disk).open(5, 2), Err(Error::NoKey { .. })));
    let wrong = DataKey::new(keys.current().id(), DataKey::random().secret().to_owned().into());
    let refused = sealed(&disk, &Keyring::new(wrong, []))
        .open(5, 2)
        .err()
        .expect("refused")
        .to_string();
    assert!(refused.contains("the key file is another one"), "{refused}");
}

#[test]
fn a_sealed_snapshot_can_be_neither_changed_nor_cut() {
    let disk = SimDisk::new(1);
    let keys = Keyring::new(DataKey::random(), []);
    let store = sealed(&disk, &keys);
    // Several frames, the state being too random to be compressed.
    let noise = |writer: &mut dyn Write| {
        (0..200_000u64).try_for_each(|i| {
            writer.write_all(
                &i.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .rotate_left(29)
                    .wrapping_mul(i | 1)
                    .to_le_bytes(),
            )
        })
    };
    store.write(&meta(5), noise).expect("write");
    let whole = disk.content(&path(5)).expect("it is there");
    assert!(whole.len() > 600_000, "{}", whole.len());
    for byte in (0..whole.len() as u64).step_by(whole.len() / 100) {
        assert!(disk.flip(&path(5), byte, 5));
        assert!(store.open(5, 2).is_err(), "byte {byte}");
        assert!(disk.flip(&path(5), byte, 5));
    }
    store.open(5, 2).expect("all bits are back");
    // At a frame's end too, where what is left has whole frames only.
    let frame = (256 << 10) + 20;
    for len in [0, 7, 8, 68, 68 + frame, 68 + 2 * frame, whole.len() as u64 - 1] {
        let file = store.dir.open(&name(5, 2)).expect("open");
        file.set_len(len).expect("cut");
        assert!(store.open(5, 2).is_err(), "cut to {len}");
        file.set_len(0).expect("cut");
        file.write_at(&whole, 0).expect("write");
    }
    store.open(5, 2).expect("the bytes are back");
}

#[test]
fn a_member_sends_in_clear_and_the_receiver_seals_with_its_own_key() {
    let (here, there) = (SimDisk::new(1), SimDisk::new(2));
    let (ours, theirs) = (
        Keyring::new(DataKey::random(), []),
        Keyring::new(DataKey::random(), []),
    );
    let (from, to) = (sealed(&here, &ours), sealed(&there, &theirs));
    from.write(&meta(5), fill).expect("write");
    let file = from.open(5, 2).expect("open");
    let mut incoming = to.receive().expect("receive");
    let mut offset = 0;
    while let chunk = file.chunk(offset).expect("read")
        && !chunk.is_empty()
    {
        // In pieces as odd as a network's.
        chunk
            .chunks(70_001)
            .for_each(|piece| incoming.write(piece).expect("write"));
        offset += chunk.len() as u64;
    }
    assert_eq!(offset, file.id().total);
    incoming.finish(5, 2).expect("it is whole");
    assert_eq!(content(&to, 5), content(&from, 5));
    assert_eq!(to.open(5, 2).expect("open").id(), file.id());
    assert_eq!(*theirs.used().borrow(), [theirs.current().id()].into());
}
