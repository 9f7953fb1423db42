//! The key file: what is kept of a change of the unlock key at each moment.

use std::os::unix::fs::PermissionsExt as _;

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
