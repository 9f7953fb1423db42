//! The log against a naive model: crashes at every operation, torn tails, failing disks, flipped bits.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use raft::eraftpb::{ConfState, Entry, HardState};

use super::*;
use crate::seal::{DataKey, Keyring};
use crate::vfs::sim::{Fault, SimDisk};

mod sealed;

const FOLDER: &str = "/raft";

thread_local! {
    /// What this test's logs are sealed with.
    static KEYS: std::cell::RefCell<Option<Keyring>> = const { std::cell::RefCell::new(None) };
}

fn dir(disk: &SimDisk) -> Dir {
    Dir::new(Arc::new(disk.clone()), FOLDER).with_keys(KEYS.with_borrow(Clone::clone))
}

/// From here on this test's logs are sealed with a new key; the ring keeps the old ones.
fn seal() -> Keyring {
    KEYS.with_borrow_mut(|keys| {
        let older = keys.as_ref().map(Keyring::all).unwrap_or_default();
        keys.insert(Keyring::new(DataKey::random(), older)).clone()
    })
}

fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".into(),
        raft_id: 7,
    }
}

fn entry(index: u64, term: u64, len: usize) -> Record {
    Record::Entry(Entry {
        index,
        term,
        data: vec![index as u8; len],
        ..Entry::default()
    })
}

fn hard(term: u64, commit: u64) -> Record {
    Record::HardState(HardState {
        term,
        vote: 1,
        commit,
    })
}

fn snapshot(index: u64, term: u64, reset: bool) -> Record {
    let conf_state = ConfState {
        voters: vec![1, 2],
        ..ConfState::default()
    };
    Record::Snapshot(Marker {
        index,
        term,
        conf_state,
        members: b"members".to_vec(),
        reset,
    })
}

/// What the records amount to, computed the slow and obvious way.
fn model(records: &[Record]) -> Image {
    let mut image = Image::default();
    for record in records {
        match record.clone() {
            Record::Entry(e) => {
                image.entries.retain(|old| old.index < e.index);
                image.entries.push(e);
            }
            Record::HardState(h) => image.hard_state = h,
            Record::Snapshot(m) => {
                if m.reset {
                    image.entries.clear();
                    image.compacted = (m.index, m.term);
                }
                image.marker = Some(m);
            }
            Record::Compact { index, term } => {
                image.entries.retain(|old| old.index > index);
                image.compacted = (index, term);
            }
            Record::Peers(p) => image.peers = Some(p),
        }
        image.entries.retain(|e| e.index > image.compacted.0);
    }
    let last = image.entries.last().map_or(image.compacted.0, |e| e.index);
    let floor = image.marker.as_ref().map_or(0, |m| m.index);
    image.hard_state.commit = image.hard_state.commit.clamp(floor, last.max(floor));
    image
}

/// The head of a later segment repeats markers without their `reset`.
fn comparable(mut image: Image) -> Image {
    if let Some(marker) = &mut image.marker {
        marker.reset = false;
    }
    image
}

type Group = (Vec<Record>, bool);

/// A history with everything in it: entries, overwritten suffixes, commits without sync, snapshots, compaction, a
/// snapshot from the leader, several segments.
fn script() -> Vec<Group> {
    let mut groups: Vec<Group> = vec![(vec![hard(1, 0), entry(1, 1, 10)], true)];
    groups.push((vec![entry(2, 1, 2000), entry(3, 1, 10), entry(4, 1, 600)], true));
    groups.push((vec![hard(1, 3)], false));
    groups.push((vec![hard(2, 3), entry(4, 2, 5), entry(5, 2, 1500)], true));
    groups.push((
        vec![snapshot(3, 1, false), Record::Compact { index: 2, term: 1 }],
        true,
    ));
    for i in 6..20 {
        groups.push((vec![hard(2, i - 1), entry(i, 2, 900)], true));
    }
    groups.push((
        vec![snapshot(17, 2, false), Record::Compact { index: 16, term: 2 }],
        true,
    ));
    groups.push((vec![hard(3, 40), snapshot(40, 3, true), entry(41, 3, 100)], true));
    groups.push((vec![entry(42, 3, 100), hard(3, 41)], true));
    groups
}

/// Runs the groups until one fails; returns how many records were acknowledged and how many were given.
fn run(wal: &mut Wal, groups: &[Group]) -> (usize, usize) {
    let (mut acked, mut given) = (0, 0);
    for (records, sync) in groups {
        given += records.len();
        if wal.append(records, *sync).is_err() {
            assert!(
                wal.append(&[hard(9, 9)], true).is_err(),
                "a failed log must stay failed"
            );
            return (acked, given);
        }
        if *sync {
            acked = given;
        }
    }
    (acked, given)
}

const SEGMENT: u64 = 4 << 10;

/// Checks that what is found is what some prefix of the records amounts to, and not less than what was acknowledged.
fn check(disk: &SimDisk, groups: &[Group], acked: usize, given: usize, what: &str) {
    let first = std::iter::once(hard(0, 0));
    let records: Vec<Record> = first
        .chain(groups.iter().flat_map(|(records, _)| records.clone()))
        .collect();
    let (mut wal, image) = match Wal::open(dir(disk), owner(), SEGMENT) {
        Ok(opened) => opened,
        Err(Error::Empty { .. }) if acked == 0 => return,
        Err(error) => panic!("{what}: {}", crate::node::describe(&error)),
    };
    let found = comparable(image);
    let prefix = (acked..=given).find(|&n| comparable(model(&records[..n + 1])) == found);
    assert!(
        prefix.is_some(),
        "{what}: acknowledged {acked} of {given} records, found {found:?}"
    );
    // The log goes on, and a second start finds that too.
    let last = found.last_index();
    wal.append(&[entry(last + 1, 50, 10)], true)
        .expect("the disk works again");
    drop(wal);
    disk.restart();
    let (_, again) = Wal::open(dir(disk), owner(), SEGMENT).expect("a log that was open can be opened");
    assert_eq!(again.last_index(), last + 1, "{what}");
    assert_eq!(again.entries.last().map(|e| e.term), Some(50), "{what}");
}

#[test]
fn a_log_is_read_back_after_rotation_and_compaction() {
    let disk = SimDisk::new(1);
    let groups = script();
    let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
    let (acked, given) = run(&mut wal, &groups);
    assert_eq!(acked, given);
    assert!(
        wal.current.header.seq > 3,
        "the script must fill several segments"
    );
    assert!(wal.sealed.len() < 3, "compacted segments must go");
    drop(wal);
    check(&disk, &groups, acked, given, "no fault");
}

#[test]
fn every_write_position_survives_a_crash_when_sealed() {
    seal();
    every_write_position_survives_a_crash();
}

#[test]
fn a_flipped_bit_is_named_or_only_costs_the_last_batch_when_sealed() {
    seal();
    a_flipped_bit_is_named_or_only_costs_the_last_batch();
}

#[test]
fn damage_is_named_with_offset_and_what_to_do() {
    let disk = SimDisk::new(1);
    let mut wal = Wal::create(dir(&disk), owner(), 1 << 20, vec![hard(0, 0)]).expect("create");
    for index in 1..10 {
        wal.append(&[entry(index, 1, 100)], true).expect("append");
    }
    drop(wal);
    let path = Path::new(FOLDER).join(segment::name(1));
    assert!(disk.flip(&path, 400, 3));
    let refused = Wal::open(dir(&disk), owner(), SEGMENT).err().expect("refused");
    assert!(matches!(&refused, Error::CorruptLog { offset, .. } if (128..=400).contains(offset)));
    let text = refused.to_string();
    for part in [
        "/raft/wal-",
        "offset",
        "checksum",
        "pontoon swarm leave --force",
        "pontoon swarm join",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_record_of_a_newer_program_is_refused_by_name() {
    let disk = SimDisk::new(1);
    let mut wal = Wal::create(dir(&disk), owner(), 1 << 20, vec![hard(0, 0)]).expect("create");
    wal.append(&[entry(1, 1, 8)], true).expect("append");
    let (start, end, crc) = (wal.current.end, wal.current.allocated, wal.current.crc);
    wal.append(&[Record::Compact { index: 0, term: 0 }], true)
        .expect("append");
    let (salt, batch) = (wal.current.header.salt, wal.current.batch - 1);
    drop(wal);
    // The same record under a kind that is not known here, with its checksum.
    let mut bytes = Vec::new();
    let place = record::Place {
        sealer: None,
        salt,
        offset: start,
        prev: crc,
        batch,
    };
    record::encode(&Record::Compact { index: 0, term: 0 }, place, true, &mut bytes);
    bytes[12] = 77;
    record::sign(salt, start, &mut bytes);
    let file = dir(&disk).open(&segment::name(1)).expect("open");
    assert!(start + (bytes.len() as u64) < end);
    file.write_at(&bytes, start).expect("write");
    file.sync().expect("sync");
    let refused = Wal::open(dir(&disk), owner(), SEGMENT)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        refused.contains("kind 77 was written by a newer program"),
        "{refused}"
    );
}

#[test]
fn every_write_position_survives_a_crash() {
    let groups = script();
    let total = {
        let disk = SimDisk::new(0);
        let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
        run(&mut wal, &groups);
        disk.operations()
    };
    assert!(total > 60, "the script must do many operations, not {total}");
    for fault in [Fault::Crash, Fault::NoSpace, Fault::SyncError] {
        for position in 1..=total {
            for seed in 0..6 {
                let disk = SimDisk::new(seed * 1000 + position);
                disk.fail_at(position, fault);
                let Ok(mut wal) = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]) else {
                    continue;
                };
                let (acked, given) = run(&mut wal, &groups);
                drop(wal);
                let what = format!("{fault:?} at operation {position}, seed {seed}");
                if fault == Fault::Crash || seed % 2 == 0 {
                    disk.restart();
                } else {
                    disk.restart_process();
                }
                check(&disk, &groups, acked, given, &what);
            }
        }
    }
}

#[test]
fn a_crash_while_opening_loses_nothing() {
    let groups = script();
    for position in 1..20 {
        let disk = SimDisk::new(position);
        let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
        let (acked, given) = run(&mut wal, &groups);
        drop(wal);
        disk.restart();
        disk.fail_at(disk.operations() + position, Fault::Crash);
        if Wal::open(dir(&disk), owner(), SEGMENT).is_ok() {
            disk.restart_process();
        }
        disk.restart();
        check(
            &disk,
            &groups,
            acked,
            given,
            &format!("crash at operation {position} of the start"),
        );
    }
}

#[test]
fn a_flipped_bit_is_named_or_only_costs_the_last_batch() {
    let groups = script();
    let records: Vec<Record> = groups.iter().flat_map(|(records, _)| records.clone()).collect();
    let before_last = records.len() - groups.last().map_or(0, |(r, _)| r.len());
    let make = || {
        let disk = SimDisk::new(3);
        let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
        run(&mut wal, &groups);
        disk
    };
    let names = dir(&make()).list().expect("list");
    let mut named = 0;
    for name in names.iter().filter(|name| name.starts_with("wal-")) {
        let path = Path::new(FOLDER).join(name);
        let content = make().content(&path).expect("the segment exists");
        let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        for byte in 0..used as u64 {
            let disk = make();
            assert!(disk.flip(&path, byte, (byte % 8) as u8));
            match Wal::open(dir(&disk), owner(), SEGMENT) {
                Err(Error::CorruptLog { segment, .. }) => {
                    assert!(segment.starts_with(FOLDER));
                    named += 1;
                }
                Err(error) => panic!("{name} byte {byte}: {error}"),
                Ok((_, image)) => {
                    let found = comparable(image);
                    let fine =
                        (before_last..=records.len()).any(|n| comparable(model(&records[..n])) == found);
                    assert!(fine, "{name} byte {byte}: silently lost acknowledged records");
                }
            }
        }
    }
    assert!(named > 100, "most flips must be named, not {named}");
}

#[test]
fn old_records_beyond_the_tail_are_not_taken_for_new() {
    let disk = SimDisk::new(5);
    let mut wal = Wal::create(dir(&disk), owner(), 1 << 20, vec![hard(0, 0)]).expect("create");
    wal.append(&[entry(1, 1, 100)], true).expect("append");
    // An unsynced second and third record of which only the third reaches the disk: the same bytes must not be revived by
    // a new second record.
    wal.append(&[entry(2, 1, 1000), entry(3, 1, 1000)], false)
        .expect("append");
    drop(wal);
    for seed in 0..50 {
        let copy = SimDisk::new(seed);
        let path = Path::new(FOLDER).join(segment::name(1));
        let content = disk.content(&path).expect("the segment exists");
        let file = dir(&copy).create(&segment::name(1)).expect("create");
        file.write_at(&content, 0).expect("write");
        // Tear the second record.
        file.write_at(&[0; 64], 300 + seed * 8).expect("write");
        file.sync().expect("sync");
        dir(&copy).sync().expect("sync");
        let (mut wal, image) = Wal::open(dir(&copy), owner(), 1 << 20).expect("a torn tail is cut");
        assert_eq!(image.last_index(), 1);
        wal.append(&[entry(2, 1, 1000)], true).expect("append");
        drop(wal);
        let (_, image) = Wal::open(dir(&copy), owner(), 1 << 20).expect("open");
        assert_eq!(image.last_index(), 2);
    }
}

#[test]
fn foreign_and_missing_segments_are_named() {
    let disk = SimDisk::new(6);
    let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
    for i in 1..20 {
        wal.append(&[entry(i, 1, 1000)], true).expect("append");
    }
    drop(wal);
    let other = Owner {
        raft_id: 8,
        ..owner()
    };
    assert!(matches!(
        Wal::open(dir(&disk), other, SEGMENT),
        Err(Error::Foreign { .. })
    ));
    dir(&disk).remove(&segment::name(2)).expect("remove");
    let error = Wal::open(dir(&disk), owner(), SEGMENT)
        .err()
        .expect("a hole must be found");
    assert!(error.to_string().contains("pontoon swarm join"), "{error}");
    assert!(matches!(
        Wal::create(dir(&disk), owner(), SEGMENT, vec![]),
        Err(Error::NotEmpty { .. })
    ));
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        back: u64,
        count: u64,
        len: usize,
        sync: bool,
    },
    Commit {
        sync: bool,
    },
    Snapshot {
        keep: u64,
    },
    Install {
        ahead: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append =
        (0..4u64, 1..5u64, 0..1500usize, any::<bool>()).prop_map(|(back, count, len, sync)| Step::Append {
            back,
            count,
            len,
            sync,
        });
    let step = prop_oneof![
        6 => append,
        2 => any::<bool>().prop_map(|sync| Step::Commit { sync }),
        1 => (0..5u64).prop_map(|keep| Step::Snapshot { keep }),
        1 => (1..9u64).prop_map(|ahead| Step::Install { ahead }),
    ];
    prop::collection::vec(step, 1..40)
}

/// Turns steps into groups that a raft node could have written.
fn groups_of(steps: &[Step]) -> Vec<Group> {
    let mut groups = Vec::new();
    let (mut last, mut term, mut floor, mut compacted) = (0u64, 1u64, 0u64, 0u64);
    for step in steps {
        match step {
            Step::Append {
                back,
                count,
                len,
                sync,
            } => {
                let from = (last.saturating_sub(*back)).max(floor) + 1;
                term += u64::from(from <= last);
                let mut records = vec![hard(term, floor)];
                records.extend((from..from + count).map(|i| entry(i, term, *len)));
                last = from + count - 1;
                groups.push((records, *sync));
            }
            Step::Commit { sync } => groups.push((vec![hard(term, last)], *sync)),
            Step::Snapshot { keep } if last > floor => {
                floor = last;
                let to = last.saturating_sub(*keep).max(compacted);
                let mut records = vec![snapshot(last, term, false)];
                if to > compacted {
                    compacted = to;
                    records.push(Record::Compact { index: to, term });
                }
                // A snapshot is only taken of what is durable.
                groups.push((vec![], true));
                groups.push((records, true));
            }
            Step::Snapshot { .. } => {}
            Step::Install { ahead } => {
                last += ahead;
                (floor, compacted) = (last, last);
                groups.push((vec![hard(term, last), snapshot(last, term, true)], true));
            }
        }
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_survives_any_crash(steps in steps(), seed in any::<u64>(), position in 1..400u64, kind in 0..4u8) {
        let groups = groups_of(&steps);
        let disk = SimDisk::new(seed);
        let fault = [Fault::Crash, Fault::Crash, Fault::NoSpace, Fault::SyncError][kind as usize];
        let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
        disk.fail_at(disk.operations() + position % (4 * groups.len().max(1) as u64) + 1, fault);
        let (acked, given) = run(&mut wal, &groups);
        drop(wal);
        disk.restart();
        check(&disk, &groups, acked, given, "property");
    }
}
