//! `check`: damage of each kind is found, repaired where it can be, and told of where it can't; archives of several platforms.

use std::fs;

use super::archives::{archive, content, load, open, save};
use crate::{CheckReport, ImageStore, Platform, Problem};

fn problem(report: &CheckReport) -> &Problem {
    assert_eq!(report.problems.len(), 1, "{report:?}");
    &report.problems[0]
}

#[test]
fn a_whole_store_has_no_problems() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["one:1"]).1).unwrap();
    load(&store, &archive("two", &["two:1"]).1).unwrap();
    store.prepare_rootfs("c1", &store.get("one:1").unwrap()).unwrap();
    let before = content(tmp.path());
    let report = store.check(true).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!((report.images, report.blobs, report.layers), (2, 6, 2));
    assert_eq!(content(tmp.path()), before);
}

#[test]
fn a_corrupt_layer_blob_is_deleted_and_can_be_loaded_again() {
    let (tmp, store) = open();
    let (_, tar) = archive("one", &["one:1"]);
    load(&store, &tar).unwrap();
    let image = store.get("one:1").unwrap();
    let blob = image.config.rootfs.diff_ids[0];
    let path = tmp.path().join("image/blobs/sha256").join(blob.hex());
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[600] ^= 1;
    fs::write(&path, &bad).unwrap();
    let report = store.check(false).unwrap();
    let found = problem(&report);
    assert_eq!(found.object, format!("blob {blob}"));
    assert!(found.what.contains("is corrupt") && found.repaired.is_empty());
    assert_eq!(found.advice, "pull or load again: one:1");
    assert!(path.exists(), "a check alone changes nothing");
    assert!(problem(&store.check(true).unwrap()).repaired.contains("deleted"));
    assert_eq!(problem(&store.check(false).unwrap()).what, "is missing");
    load(&store, &tar).unwrap();
    assert!(store.check(false).unwrap().problems.is_empty());
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn a_lost_layer_is_unpacked_again() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["one:1"]).1).unwrap();
    let image = store.get("one:1").unwrap();
    let dir = tmp.path().join("image/layers").join(image.layers[0].hex());
    fs::remove_dir_all(dir.join("diff")).unwrap();
    let report = store.check(false).unwrap();
    assert!(problem(&report).advice.contains("--repair"));
    let report = store.check(true).unwrap();
    assert_eq!(problem(&report).repaired, "unpacked it again");
    assert_eq!(fs::read_to_string(dir.join("diff/bin/app")).unwrap(), "one");
    assert!(store.check(false).unwrap().problems.is_empty());
    store.prepare_rootfs("c1", &image).unwrap();
}

#[test]
fn layers_that_are_lost_are_unpacked_again_at_open() {
    let (tmp, store) = open();
    let root = tmp.path().join("image");
    load(&store, &archive("one", &["one:1"]).1).unwrap();
    let image = store.get("one:1").unwrap();
    let base = store.stack(&image.id).unwrap();
    let more = store
        .layer_of_archive(&super::archives::layer(&[("more", b"2")])[..], &base)
        .unwrap();
    store.keep("cache", &more).unwrap();
    store.prepare_rootfs("c1", &image).unwrap();
    let top = more.chain().unwrap();
    drop((base, more, store));
    let before = content(tmp.path());
    // Whole, without its files, without its description.
    let dir = |chain: &crate::Digest| root.join("layers").join(chain.hex());
    fs::remove_dir_all(dir(&image.layers[0])).unwrap();
    fs::remove_dir_all(dir(&top).join("diff")).unwrap();
    let store = ImageStore::open(&root).unwrap();
    assert_eq!(content(tmp.path()), before);
    assert!(store.rootfs("c1").is_ok() && store.kept("cache").unwrap().is_some());
    assert!(store.check(false).unwrap().problems.is_empty());
    drop(store);
    // Without its blob it is gone, and nothing is left of it.
    fs::remove_file(dir(&top).join("meta.json")).unwrap();
    fs::remove_file(dir(&image.layers[0]).join("meta.json")).unwrap();
    let blob = image.config.rootfs.diff_ids[0];
    fs::remove_file(root.join("blobs/sha256").join(blob.hex())).unwrap();
    let store = ImageStore::open(&root).unwrap();
    assert!(store.get("one:1").is_err() && store.kept("cache").unwrap().is_none());
    assert!(store.check(false).unwrap().problems.is_empty());
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn what_was_used_last_is_known() {
    let (tmp, store) = open();
    let ids: Vec<crate::Digest> = ["one", "two", "three"]
        .iter()
        .map(|name| load(&store, &archive(name, &[name]).1).unwrap()[0].id)
        .collect();
    let order = |store: &ImageStore| {
        let mut order: Vec<usize> = (0..3).collect();
        order.sort_by_key(|i| store.last_used(&ids[*i]));
        order
    };
    // A long time ago: clocks of file systems are coarse.
    for (i, id) in ids.iter().enumerate() {
        let file = fs::File::options()
            .write(true)
            .open(tmp.path().join("image/blobs/sha256").join(id.hex()))
            .unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + i as u64);
        file.set_modified(time).unwrap();
    }
    assert_eq!(order(&store), [0, 1, 2]);
    assert_eq!(store.last_used(&ids[1]), 1_001_000_000_000);
    store.prepare_rootfs("c1", &store.get("two").unwrap()).unwrap();
    assert_eq!(order(&store), [0, 2, 1]);
    drop(store);
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(order(&store), [0, 2, 1]);
    // It came again.
    for i in [1, 0] {
        let name = ["one", "two"][i];
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let path = tmp.path().join("image/blobs/sha256").join(ids[i].hex());
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(old)
            .unwrap();
        load(&store, &archive(name, &[name]).1).unwrap();
        assert!(store.last_used(&ids[i]) > 1_001_000_000_000);
    }
    assert_eq!(store.last_used(&crate::Digest::of(b"none")), 0);
}

#[test]
fn a_lost_configuration_takes_the_image_along() {
    let (tmp, store) = open();
    let (id, tar) = archive("one", &["one:1"]);
    load(&store, &tar).unwrap();
    fs::write(tmp.path().join("image/blobs/sha256").join(id.hex()), "{}").unwrap();
    let report = store.check(true).unwrap();
    assert!(problem(&report).repaired.contains("removed the image"));
    assert!(store.get("one:1").is_err());
    assert_eq!(fs::read_dir(tmp.path().join("image/layers")).unwrap().count(), 0);
    load(&store, &tar).unwrap();
    assert!(store.check(false).unwrap().problems.is_empty());
}

#[test]
fn strays_are_found_and_deleted() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["one:1"]).1).unwrap();
    let stray = "ab".repeat(32);
    fs::write(tmp.path().join("image/blobs/sha256").join(&stray), "x").unwrap();
    fs::create_dir_all(tmp.path().join("image/layers").join(&stray).join("diff")).unwrap();
    let report = store.check(true).unwrap();
    let objects: Vec<&str> = report.problems.iter().map(|p| p.object.as_str()).collect();
    assert_eq!(objects, [format!("blob {stray}"), format!("layer {stray}")]);
    assert!(store.check(false).unwrap().problems.is_empty());
    assert!(!content(tmp.path()).iter().any(|p| p.contains(&stray)));
}

#[test]
fn counts_that_are_too_low_are_set_right() {
    let (_tmp, store) = open();
    load(&store, &archive("one", &["one:1"]).1).unwrap();
    let image = store.get("one:1").unwrap();
    store.prepare_rootfs("c1", &image).unwrap();
    // What a bug would do: one holder is forgotten.
    store.layers.release(image.layers.iter().copied()).unwrap();
    let report = store.check(true).unwrap();
    assert!(problem(&report).what.contains("held 1 times where 2"));
    store.remove_rootfs("c1").unwrap();
    assert!(store.check(false).unwrap().problems.is_empty());
    store.prepare_rootfs("c2", &image).unwrap();
}

#[test]
fn an_archive_is_loaded_for_one_platform() {
    let (_tmp, store) = open();
    let (id, tar) = archive("one", &["one:1"]);
    let arm = Platform::parse("linux/s390x").unwrap();
    let error = store.load_platform(&tar[..], &arm, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    let host = Platform::host();
    assert_eq!(
        store.load_platform(&tar[..], &host, &mut |_| {}).unwrap()[0].id,
        id
    );
    let names = ["one:1".to_owned()];
    let mut out = Vec::new();
    store.save_platform(&names, &host, &mut out).unwrap();
    assert_eq!(out, save(&store, &["one:1"]));
    assert!(store.save_platform(&names, &arm, std::io::sink()).is_err());
}

#[test]
fn several_platforms_and_their_index_make_the_round_trip() {
    let (tmp, store) = open();
    let store = std::sync::Arc::new(store);
    let (index, digest) = super::ingest::two_platforms(&store, "multi:1");
    let saved = save(&store, &["multi:1"]);
    let (_other, second) = open();
    load(&second, &saved).unwrap();
    let image = second.get("multi:1").unwrap();
    assert_eq!(image.index, Some(digest));
    assert_eq!(second.read_blob(&digest).unwrap(), index);
    let riscv = Platform::parse("linux/riscv64").unwrap();
    let (a, b) = (
        store.get_platform("multi:1", &riscv),
        second.get_platform("multi:1", &riscv),
    );
    assert_eq!(a.unwrap().manifest, b.unwrap().manifest);
    assert_eq!(save(&second, &["multi:1"]), saved);
    assert!(second.check(false).unwrap().problems.is_empty());
    // One platform alone.
    let mut one = Vec::new();
    store
        .save_platform(&["multi:1".into()], &riscv, &mut one)
        .unwrap();
    let third = ImageStore::open(&tmp.path().join("third")).unwrap();
    assert!(third.load(&one[..], &mut |_| {}).is_ok());
    assert_eq!(third.get("multi:1").unwrap().config.architecture, "riscv64");
}
