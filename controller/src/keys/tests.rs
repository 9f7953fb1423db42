//! The key file: what is kept of a change of the unlock key at each moment.

use std::os::unix::fs::PermissionsExt as _;

use pontoon_fuzz::fuzz;
use pontoon_proto::v1::{DataKey as StoredKey, ManagerKeys};
use prost::Message as _;

use super::*;

fn ids(keys: &Keys) -> Vec<KeyId> {
    keys.ring.all().iter().map(DataKey::id).collect()
}

#[test]
fn a_first_key_is_made_and_found_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = Keys::open(dir.path(), None).expect("made");
    let again = Keys::open(dir.path(), None).expect("found");
    assert_eq!(ids(&made), ids(&again));
    assert_eq!(made.ring.current().secret(), again.ring.current().secret());
    let mode = std::fs::metadata(dir.path().join("raft.keys"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!is_locked(dir.path()));
}

#[test]
fn a_sealed_file_opens_with_its_key_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = Keys::open(dir.path(), None).expect("made");
    let (key, other) = (UnlockKey::generate(), UnlockKey::generate());
    let content = |previous| Content {
        data_keys: made.ring.all(),
        previous,
    };
    made.file.write(&content(None), Some(&key)).expect("write");
    assert!(is_locked(dir.path()));
    assert!(matches!(Keys::open(dir.path(), None), Err(Error::Locked)));
    assert!(matches!(
        try_unlock(dir.path(), &other),
        Err(Error::WrongUnlockKey)
    ));
    assert_eq!(try_unlock(dir.path(), &key).expect("it fits"), None);
    // Cut off while the key was changed: the one before is told.
    made.file
        .write(&content(Some(key.clone())), Some(&other))
        .expect("write");
    assert_eq!(try_unlock(dir.path(), &other).expect("it fits"), Some(key));
    let opened = Keys::open(dir.path(), Some(&other)).expect("it fits");
    assert_eq!(ids(&opened), ids(&made));
    assert_eq!(opened.lock, Some(other));
}

#[test]
fn only_keys_without_files_are_forgotten() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut keys = Keys::open(dir.path(), None).expect("made");
    let (old, new) = (keys.ring.current().id(), DataKey::random());
    keys.ring.rotate(new.clone());
    assert_eq!(keys.unused(&[old, new.id()].into()), []);
    let unused = keys.unused(&[new.id()].into());
    assert_eq!(unused, [old]);
    keys.forget(&unused).expect("write");
    assert_eq!(ids(&Keys::open(dir.path(), None).expect("open")), [new.id()]);
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for text in [
        "",
        "nonsense",
        "-----BEGIN PONTOON MANAGER KEYS-----\n!!\n-----END PONTOON MANAGER KEYS-----\n",
    ] {
        std::fs::write(dir.path().join("raft.keys"), text).expect("write");
        let refused = Keys::open(dir.path(), None).err().expect("refused").to_string();
        assert!(refused.contains("raft.keys"), "{refused}");
    }
}

#[test]
fn fuzz_key_files() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = Keys::open(dir.path(), None).expect("made");
    let lock = UnlockKey::generate();
    let path = dir.path().join("raft.keys");
    let content = Content {
        data_keys: vec![DataKey::random(), made.ring.current()],
        previous: Some(UnlockKey::generate()),
    };
    let written = |lock: Option<&UnlockKey>| {
        made.file.write(&content, lock).expect("write");
        std::fs::read(&path).expect("read")
    };
    let good = [written(None), written(Some(&lock))];
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    let judge = |lock: Option<&UnlockKey>| match made.file.read(lock) {
        Ok(found) => assert!(found.is_some(), "the file is there"),
        // Not text, or what is no key: it says which file.
        Err(error @ (Error::BadKeys { .. } | Error::File { .. })) => {
            assert!(error.to_string().contains("raft.keys"), "{error}");
        }
        Err(Error::Locked | Error::WrongUnlockKey) => {}
        Err(other) => panic!("{other}"),
    };
    fuzz("key file", &good, |input| {
        std::fs::write(&path, input).expect("write");
        judge(Some(&lock));
        judge(None);
    });
    // What is inside the seal or the base64.
    let inside = ManagerKeys {
        format: 1,
        data_keys: vec![StoredKey {
            id: vec![1; 16].into(),
            secret: vec![2; 32].into(),
        }],
        previous_unlock_key: vec![3; 32].into(),
    };
    fuzz("keys in the key file", &[&inside.encode_to_vec()], |input| {
        if let Ok(found) = made.file.decode(input) {
            assert!(found.data_keys.len() <= input.len());
        }
    });
}
