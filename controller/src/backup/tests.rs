//! Every backup comes back, and nothing that is not one does.

use pontoon_fuzz::fuzz;
use pontoon_proto::v1::{Node, Service};
use pontoon_store::{Store, Tx};
use zeroize::Zeroizing;

use super::*;

fn state(services: usize) -> Snapshot {
    let store = Store::new();
    let mut tx = Tx::new(Snapshot::clone(&store.snapshot()));
    for number in 0..services {
        let mut spec = pontoon_proto::v1::ServiceSpec::default();
        spec.annotations.get_or_insert_default().name = format!("s{number}");
        // Does not compress, so that there are several chunks.
        let noise: [u8; 32] = rand::random();
        let noise = noise.iter().map(|byte| format!("{byte:02x}")).collect();
        spec.annotations
            .get_or_insert_default()
            .labels
            .insert("noise".to_owned(), noise);
        let id = format!("id{number:06}");
        tx.put_service(Service {
            id,
            spec: Some(spec),
            ..Service::default()
        })
        .unwrap();
    }
    tx.put_node(Node {
        id: "n".to_owned(),
        ..Node::default()
    })
    .unwrap();
    store.apply(tx.into_changeset(1));
    Snapshot::clone(&store.snapshot())
}

fn file_key() -> BackupKey {
    BackupKey::File(Zeroizing::new(vec![7; 32]))
}

fn passphrase(text: &str) -> BackupKey {
    BackupKey::Passphrase(Zeroizing::new(text.to_owned()))
}

fn written(state: &Snapshot, key: &BackupKey) -> Vec<u8> {
    let mut out = Vec::new();
    let info = BackupInfo {
        cluster_id: "c".to_owned(),
        ..BackupInfo::default()
    };
    write(state, &info, key, &mut out).unwrap();
    out
}

#[test]
fn a_backup_comes_back_whole() {
    // Several chunks: 40,000 services with 64 random hex digits.
    let (large, small) = (state(40_000), state(0));
    for (state, key) in [
        (&large, file_key()),
        (&small, file_key()),
        (&small, passphrase("words")),
    ] {
        let bytes = written(state, &key);
        let read = read(bytes.as_slice(), &key).unwrap();
        assert_eq!(read.snapshot, *state);
        assert_eq!(read.info.cluster_id, "c");
    }
    assert!(written(&large, &file_key()).len() > 1 << 20, "one chunk only");
    // Nothing is in clear, and no two files are alike.
    let (a, b) = (written(&large, &file_key()), written(&large, &file_key()));
    assert_ne!(a[80..], b[80..]);
}

#[test]
fn a_wrong_key_is_told_from_a_damaged_file() {
    let state = state(3);
    let bytes = written(&state, &passphrase("right"));
    let message = |bytes: &[u8], key: &BackupKey| read(bytes, key).unwrap_err().to_string();
    assert_eq!(
        message(&bytes, &passphrase("wrong")),
        "wrong passphrase: the backup was made with another one"
    );
    assert!(message(&bytes, &file_key()).starts_with("wrong key: the backup wants a passphrase"));
    let bytes = written(&state, &file_key());
    let other = BackupKey::File(Zeroizing::new(vec![8; 32]));
    assert_eq!(
        message(&bytes, &other),
        "wrong key file: the backup was made with another one"
    );
    let short = BackupKey::File(Zeroizing::new(vec![8; 31]));
    assert!(message(&bytes, &short).contains("31 bytes"));
    assert!(message(&bytes, &passphrase("")).contains("wants a key file"));
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let bytes = written(&state(3), &file_key());
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let error = read(flipped.as_slice(), &file_key()).unwrap_err();
        assert!(!matches!(error, BackupError::Contents(_)), "byte {at}: {error}");
        let error = read(&bytes[..at], &file_key()).unwrap_err();
        let expected = if at < 8 {
            matches!(error, BackupError::Foreign)
        } else {
            matches!(error, BackupError::Cut { length } if length == at as u64)
        };
        assert!(expected, "cut at {at}: {error}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(
        read(longer.as_slice(), &file_key()),
        Err(BackupError::Damaged { .. })
    ));
}

#[test]
fn other_files_and_later_formats_are_named() {
    let read = |bytes: &[u8]| read(bytes, &file_key()).unwrap_err().to_string();
    assert!(read(b"").starts_with("this is no backup"));
    assert!(read(b"#!/bin/sh\necho hello").starts_with("this is no backup"));
    assert_eq!(
        read(b"PONTBAK\x02 and whatever comes then"),
        "the backup has format 2, this release reads up to 1: restore it with a newer one"
    );
    // A file that asks for more memory than a host should give.
    let mut greedy = written(&state(0), &file_key());
    greedy[11..15].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(read(&greedy).starts_with("the backup is damaged at byte 10"));
}

#[test]
fn fuzz_backups() {
    let (state, key) = (state(3), file_key());
    let good = written(&state, &key);
    fuzz("backup", &[&good], |input| match read(input, &key) {
        // Only what follows the end can be anything.
        Ok(backup) => assert!(backup.snapshot == state && input.starts_with(&good)),
        Err(refused) => assert!(!refused.to_string().is_empty()),
    });
    // What is inside the seal: an honest key's holder may still have an odd file.
    let start = MAGIC.len() + 3;
    let head_end = start + usize::from(u16::from_le_bytes([good[start - 2], good[start - 1]]));
    let head = good[..head_end].to_vec();
    let sealing = key.open(&head[start..], start as u64).unwrap();
    let opener = Opener::new(&good[head_end..], &sealing, head.clone());
    let mut plain = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::new(opener).unwrap();
    decoder.read_to_end(&mut plain).unwrap();
    fuzz("what is in a backup", &[&plain], |input| {
        let mut out = head.clone();
        let mut sealer = Sealer::new(&mut out, &sealing, head.clone());
        let packed = zstd::stream::encode_all(input, LEVEL).unwrap();
        sealer.write_all(&packed).unwrap();
        sealer.finish().unwrap();
        match read(out.as_slice(), &key) {
            Ok(_) => {}
            Err(BackupError::Contents(reason)) => assert!(!reason.is_empty()),
            Err(other) => panic!("the seal is whole: {other}"),
        }
    });
}
