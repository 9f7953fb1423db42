//! Power cuts: a commit does not wait for the files of unpacked layers, so those that were not on the disk are made again from their blobs.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use super::archives::{archive, load, open};
use crate::{Image, ImageStore};

const MARK: &str = "unsettled";

fn place(root: &Path, image: &Image) -> PathBuf {
    let top = image.layers.last().unwrap();
    root.join("image/layers").join(top.hex())
}

/// A regular file of the layer with something in it.
fn file_of(layer: &Path) -> PathBuf {
    let mut todo = vec![layer.join("diff")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() && kind.len() > 0 {
                return path;
            }
        }
    }
    panic!("the layer has no file");
}

#[test]
fn a_layer_that_was_not_on_the_disk_is_made_again() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["app:1"]).1).unwrap();
    let place = place(tmp.path(), &store.get("app:1").unwrap());
    assert!(place.join(MARK).is_symlink(), "a new layer has its mark");
    drop(store);
    assert!(!place.join(MARK).is_symlink(), "an orderly end writes it");
    // What a power cut leaves: names without content.
    let file = file_of(&place);
    let content = fs::read(&file).unwrap();
    symlink("another boot", place.join(MARK)).unwrap();
    fs::write(&file, "").unwrap();
    fs::write(place.join("meta.json"), "").unwrap();
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
    let image = store.get("app:1").unwrap();
    let rootfs = store.prepare_rootfs("one", &image).unwrap();
    assert!(
        rootfs.lower[0].join(".dockerenv").is_file(),
        "the init layer, too"
    );
    assert!(store.check(false).unwrap().problems.is_empty());
}

#[test]
fn a_daemon_that_was_killed_keeps_its_layers() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["app:1"]).1).unwrap();
    let place = place(tmp.path(), &store.get("app:1").unwrap());
    let boot = fs::read_link(place.join(MARK)).unwrap();
    drop(store);
    // The daemon did not come to take the mark off; the machine went on.
    symlink(boot, place.join(MARK)).unwrap();
    let before = fs::metadata(file_of(&place)).unwrap().ino();
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(fs::metadata(file_of(&place)).unwrap().ino(), before);
    drop(store);
    assert!(!place.join(MARK).is_symlink(), "it is written now");
}
