//! Images that are here only for work under way, and images that are made again as they are.

use std::{collections::BTreeMap, fs, time::SystemTime};

use super::archives::{archive, load, open};
use crate::{Digest, ImageConfig, ImageStore, NewImage, Reference, RemoveOptions};

fn image(store: &ImageStore, names: &[&str], author: &str, is_passing: bool) -> NewImage {
    let base = store.get("base:1").unwrap();
    NewImage {
        config: ImageConfig {
            os: "linux".into(),
            author: Some(author.into()),
            ..ImageConfig::default()
        },
        stack: store.stack(&base.id).unwrap(),
        references: names.iter().map(|name| Reference::parse(name).unwrap()).collect(),
        annotations: BTreeMap::new(),
        is_passing,
    }
}

fn names(names: &[&str]) -> Vec<Reference> {
    names
        .iter()
        .map(|name| Reference::parse(name).unwrap().with_default_tag())
        .collect()
}

#[test]
fn passing_images_are_gone_after_a_death_and_give_names_back() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["base:1", "app:1"]).1).unwrap();
    let base = store.get("app:1").unwrap().id;
    let id = store.compose(image(&store, &["app:1"], "me", true)).unwrap();
    assert_eq!(store.get("app:1").unwrap().id, id, "the name is lent");
    assert_eq!(
        store.list(&Default::default()).unwrap().len(),
        1,
        "it is in no listing"
    );
    drop(store);
    // As after a death: what is on disk is read again.
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(store.get("app:1").unwrap().id, base);
    assert!(store.get(&id.to_string()).is_err());
    assert_eq!(store.blob_size(&id), None, "nothing of it is left");

    let twice = |store: &ImageStore| {
        store.compose(image(store, &["app:1"], "me", true)).unwrap();
        store.compose(image(store, &[], "me", true)).unwrap()
    };
    assert_eq!(twice(&store), id);
    store.let_go(&id, &names(&["app:1"])).unwrap();
    assert_eq!(store.get("app:1").unwrap().id, base, "the name is given back");
    store.get(&id.to_string()).unwrap();
    store.let_go(&id, &[]).unwrap();
    assert!(store.get(&id.to_string()).is_err(), "two have used it");

    // What somebody names, or makes to stay, stays.
    twice(&store);
    store.tag(&id.to_string(), "mine:1").unwrap();
    store.let_go(&id, &names(&["app:1"])).unwrap();
    store.let_go(&id, &[]).unwrap();
    assert_eq!(store.get("mine:1").unwrap().id, id);
    store
        .remove("mine:1", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    store.compose(image(&store, &[], "me", true)).unwrap();
    store.compose(image(&store, &["mine:2"], "me", false)).unwrap();
    store.let_go(&id, &[]).unwrap();
    drop(store);
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(store.get("mine:2").unwrap().id, id);
}

#[test]
fn an_image_that_is_there_is_not_written_again() {
    let (tmp, store) = open();
    load(&store, &archive("one", &["base:1"]).1).unwrap();
    let catalog = tmp.path().join("image/images.json");
    let id = store.compose(image(&store, &["app"], "me", false)).unwrap();
    fs::File::open(&catalog)
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    let written = || fs::metadata(&catalog).unwrap().modified().unwrap() != SystemTime::UNIX_EPOCH;
    assert_eq!(
        store
            .compose(image(&store, &["app:latest"], "me", false))
            .unwrap(),
        id
    );
    assert!(!written());
    // Another name, other annotations, or a blob that is lost: then it is.
    store.compose(image(&store, &["other"], "me", false)).unwrap();
    assert!(written());
    let manifest = store.get("app").unwrap().manifest;
    let mut annotated = image(&store, &["app"], "me", false);
    annotated.annotations.insert("a".into(), "b".into());
    assert_eq!(store.compose(annotated).unwrap(), id);
    let other = store.get("app").unwrap().manifest;
    assert_ne!(other, manifest);
    let text = store.read_blob(&other).unwrap();
    assert!(String::from_utf8_lossy(&text).contains(r#""annotations":{"a":"b"}"#));
    fs::remove_file(tmp.path().join("image/blobs/sha256").join(id.hex())).unwrap();
    store.compose(image(&store, &["app"], "me", false)).unwrap();
    assert_eq!(Digest::of(&store.read_blob(&id).unwrap()), id);
}

#[test]
fn a_passing_image_that_is_tagged_is_made_durable_first() {
    let (_tmp, store) = open();
    load(&store, &archive("one", &["base:1"]).1).unwrap();
    let id = store.compose(image(&store, &[], "me", true)).unwrap();
    assert!(store.blobs.is_loose(&id), "nobody has to wait for it yet");
    store.tag(&id.to_string(), "kept:1").unwrap();
    let record = store.view().images[&id].clone();
    let all = record.blobs.iter().copied().chain([id, record.manifest]);
    assert!(all.into_iter().all(|digest| !store.blobs.is_loose(&digest)));
}
