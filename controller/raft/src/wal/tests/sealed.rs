//! Sealed logs: what a start needs of keys, and what is left on the disk in clear.

use super::*;

/// All bytes of all segments.
fn on_disk(disk: &SimDisk) -> Vec<u8> {
    let names = dir(disk).list().expect("list");
    let segments = names.iter().filter(|name| name.starts_with("wal-"));
    segments
        .flat_map(|name| disk.content(&Path::new(FOLDER).join(name)).expect("it is listed"))
        .collect()
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_log_in_clear_goes_over_to_its_key_at_the_next_start() {
    let disk = SimDisk::new(1);
    let secret = |index| {
        Record::Entry(Entry {
            index,
            term: 1,
            data: b"the root's private key".to_vec(),
            ..Entry::default()
        })
    };
    let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
    wal.append(&[secret(1)], true).expect("append");
    assert!(holds(&on_disk(&disk), b"private key"));
    drop(wal);
    let keys = seal();
    let (mut wal, image) = Wal::open(dir(&disk), owner(), SEGMENT).expect("a log in clear is read");
    assert_eq!(image.last_index(), 1);
    let marked = [
        hard(1, 1),
        snapshot(1, 1, false),
        Record::Compact { index: 1, term: 1 },
    ];
    wal.append(&marked, true).expect("append");
    wal.append(&[secret(2)], true).expect("append");
    assert!(
        !holds(&on_disk(&disk), b"private key"),
        "nothing in clear is left"
    );
    assert_eq!(*keys.used().borrow(), [keys.current().id()].into());
    drop(wal);
    let (_, image) = Wal::open(dir(&disk), owner(), SEGMENT).expect("open");
    assert_eq!(
        image.entries.last().map(|entry| entry.data.as_slice()),
        Some(b"the root's private key".as_slice())
    );
}

#[test]
fn an_old_key_is_needed_until_its_segments_are_gone() {
    let disk = SimDisk::new(1);
    let first = seal();
    let mut wal = Wal::create(dir(&disk), owner(), 1 << 20, vec![hard(0, 0)]).expect("create");
    wal.append(&[entry(1, 1, 10)], true).expect("append");
    let (old, new) = (first.current(), DataKey::random());
    first.rotate(new.clone());
    // What the log thread is given when the key changed.
    wal.append(&[], true).expect("append");
    assert_eq!(*first.used().borrow(), [old.id(), new.id()].into());
    wal.append(&[entry(2, 1, 10)], true).expect("append");
    let without_old = dir(&disk).with_keys(Some(Keyring::new(new.clone(), [])));
    let refused = Wal::open(without_old.clone(), owner(), SEGMENT)
        .err()
        .expect("the old segment is sealed");
    assert!(
        matches!(&refused, Error::NoKey { key, .. } if *key == old.id()),
        "{refused}"
    );
    wal.append(
        &[snapshot(1, 1, false), Record::Compact { index: 1, term: 1 }],
        true,
    )
    .expect("append");
    assert_eq!(*first.used().borrow(), [new.id()].into());
    drop(wal);
    let (_, image) = Wal::open(without_old, owner(), SEGMENT).expect("the old key is not needed any more");
    assert_eq!(image.last_index(), 2);
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let disk = SimDisk::new(1);
    let keys = seal();
    let mut wal = Wal::create(dir(&disk), owner(), SEGMENT, vec![hard(0, 0)]).expect("create");
    wal.append(&[entry(1, 1, 10)], true).expect("append");
    drop(wal);
    // The same name, another key: what a mixed-up key file looks like.
    let other = DataKey::new(keys.current().id(), DataKey::random().secret().to_owned().into());
    let wrong = dir(&disk).with_keys(Some(Keyring::new(other, [])));
    let refused = Wal::open(wrong, owner(), SEGMENT)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        refused.contains("does not open with the segment's key"),
        "{refused}"
    );
    let none = dir(&disk).with_keys(None);
    assert!(matches!(
        Wal::open(none, owner(), SEGMENT),
        Err(Error::NoKey { .. })
    ));
    // Nothing was cut off or written by the refused starts.
    let (_, image) = Wal::open(dir(&disk), owner(), SEGMENT).expect("open");
    assert_eq!(image.last_index(), 1);
}
