//! Images that come blob by blob: nothing visible before the commit, transfers that break off and go on, wrong content, two
//! at a time, several platforms of one index; and stacks, as a builder uses them.

use std::sync::Arc;

use super::archives::{config_of, content, gzip, layer};
use crate::{
    Digest, Error, HistoryEntry, ImageConfig, ImageStore, Ingest, Ingested, LayerOptions, NewImage, Platform,
    Reference, RemoveOptions, Stack, Transfer,
    oci::{Descriptor, MANIFEST, layer_type},
};

/// An image as a registry has it.
pub(super) struct Remote {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    pub(super) blobs: Vec<Vec<u8>>,
}

impl Remote {
    fn new(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
        Remote::with_config(layers, config_of(&diff_ids))
    }

    fn with_config(layers: &[Vec<u8>], config: Vec<u8>) -> Self {
        let blobs: Vec<Vec<u8>> = layers.iter().map(|l| gzip(l)).collect();
        let kind = layer_type(crate::decompress::Compression::Gzip);
        let layers: Vec<Descriptor> = blobs
            .iter()
            .map(|b| Descriptor::new(kind, Digest::of(b), b.len() as u64))
            .collect();
        let config_type = "application/vnd.oci.image.config.v1+json";
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": Descriptor::new(config_type, Digest::of(&config), config.len() as u64), "layers": layers,
        }))
        .unwrap();
        Remote {
            config,
            manifest,
            blobs,
        }
    }

    fn blob(&self, digest: &Digest) -> &[u8] {
        self.blobs.iter().find(|b| Digest::of(b) == *digest).unwrap()
    }

    fn fetch(&self, ingest: &Ingest) -> crate::Result<crate::IncomingImage> {
        let image = ingest.image(&self.manifest, &self.config)?;
        for layer in &image.layers {
            if let Transfer::Needed(mut writer) = ingest.blob(&layer.blob)? {
                let data = &self.blob(&layer.blob.digest)[usize::try_from(writer.offset()).unwrap()..];
                data.chunks(7).try_for_each(|chunk| writer.write(chunk))?;
                ingest.finish(writer)?;
            }
        }
        Ok(image)
    }

    fn pull(&self, store: &Arc<ImageStore>, index: Option<Vec<u8>>, names: &[&str]) -> crate::Result<Digest> {
        let ingest = Ingest::begin(store)?;
        let image = self.fetch(&ingest)?;
        let references = names.iter().map(|n| Reference::parse(n).unwrap()).collect();
        let ingested = Ingested {
            image,
            index,
            references,
        };
        Ok(ingest.commit(vec![ingested], &mut |_| {})?[0])
    }
}

pub(super) fn open() -> (tempfile::TempDir, Arc<ImageStore>) {
    let (tmp, store) = super::archives::open();
    (tmp, Arc::new(store))
}

pub(super) fn two_layers() -> Remote {
    Remote::new(&[
        layer(&[("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), ("a", &[7; 3000])]),
        layer(&[(".wh.a", b""), ("b", b"2")]),
    ])
}

#[test]
fn an_ingest_is_visible_at_its_commit_and_byte_for_byte() {
    let (tmp, store) = open();
    let before = content(tmp.path());
    let remote = two_layers();
    let ingest = Ingest::begin(&store).unwrap();
    remote.fetch(&ingest).unwrap();
    assert!(store.get("app:1").is_err());
    drop(ingest);
    let left: Vec<String> = content(tmp.path())
        .into_iter()
        .filter(|p| !before.contains(p))
        .collect();
    assert!(left.iter().all(|p| p.starts_with("image/partial/")), "{left:?}");

    let id = remote.pull(&store, None, &["app:1"]).unwrap();
    let image = store.get("app:1").unwrap();
    assert_eq!((image.id, image.manifest), (id, Digest::of(&remote.manifest)));
    assert_eq!(store.read_blob(&image.manifest).unwrap(), remote.manifest);
    assert!(
        !content(tmp.path())
            .iter()
            .any(|p| p.starts_with("image/partial/"))
    );
    store
        .remove("app:1", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    let (mut now, mut was) = (content(tmp.path()), before);
    now.retain(|p| !p.ends_with("images.json"));
    was.retain(|p| !p.ends_with("images.json"));
    assert_eq!(now, was);
}

#[test]
fn a_transfer_goes_on_where_it_broke_off_also_after_a_restart() {
    let (tmp, store) = open();
    let remote = two_layers();
    let ingest = Ingest::begin(&store).unwrap();
    let image = ingest.image(&remote.manifest, &remote.config).unwrap();
    let blob = &image.layers[0].blob;
    let Transfer::Needed(mut writer) = ingest.blob(blob).unwrap() else {
        panic!("a new blob");
    };
    writer.write(&remote.blobs[0][..10]).unwrap();
    let Err(Error::Incomplete {
        received: 10,
        expected,
        ..
    }) = ingest.finish(writer)
    else {
        panic!("it is not complete");
    };
    assert_eq!(expected, blob.size);
    drop((ingest, store));

    let store = Arc::new(ImageStore::open(&tmp.path().join("image")).unwrap());
    let ingest = Ingest::begin(&store).unwrap();
    assert_eq!(ingest.partial(&blob.digest), 10);
    let Transfer::Needed(mut writer) = ingest.blob(blob).unwrap() else {
        panic!("half a blob");
    };
    assert_eq!(writer.offset(), 10);
    writer.restart().unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write(&remote.blobs[0][..20]).unwrap();
    drop((writer, ingest));
    remote.pull(&store, None, &["app"]).unwrap();
    assert_eq!(store.get("app").unwrap().layers.len(), 2);
}

#[test]
fn wrong_content_leaves_nothing() {
    let (tmp, store) = open();
    let before = content(tmp.path());
    let remote = two_layers();
    let ingest = Ingest::begin(&store).unwrap();
    let image = ingest.image(&remote.manifest, &remote.config).unwrap();
    let blob = &image.layers[0].blob;
    for (data, part) in [
        (
            vec![1; usize::try_from(blob.size).unwrap()],
            "what arrived is sha256:",
        ),
        (vec![1; usize::try_from(blob.size).unwrap() + 1], "more than the"),
    ] {
        let Transfer::Needed(mut writer) = ingest.blob(blob).unwrap() else {
            panic!("a new blob");
        };
        let error = writer
            .write(&data)
            .and_then(|()| ingest.finish(writer))
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(matches!(
        ingest.commit(
            vec![Ingested {
                image,
                index: None,
                references: vec![]
            }],
            &mut |_| {}
        ),
        Err(Error::Corrupt { .. })
    ));
    // A layer that is not what the configuration says, and a configuration of another image.
    let mut lying = two_layers();
    lying.config = config_of(&[Digest::of(b"x"), Digest::of(b"y")]);
    let lying = Remote::with_config(
        &[layer(&[("a", b"1")]), layer(&[("b", b"2")])],
        lying.config.clone(),
    );
    assert!(matches!(
        lying.pull(&store, None, &["bad"]),
        Err(Error::Corrupt { .. })
    ));
    let ingest = Ingest::begin(&store).unwrap();
    assert!(matches!(
        ingest.image(&remote.manifest, &lying.config),
        Err(Error::Corrupt { .. })
    ));
    drop(ingest);
    assert!(store.get("bad").is_err());
    let mut now = content(tmp.path());
    now.retain(|p| !p.starts_with("image/partial/"));
    assert_eq!(now, before);
}

#[test]
fn a_blob_that_is_not_the_layer_that_is_here_is_refused() {
    let (tmp, store) = open();
    let (mine, other) = (layer(&[("a", b"1")]), layer(&[("evil", b"1")]));
    let config = config_of(&[Digest::of(&mine)]);
    // The layer comes plain, as from an archive.
    let archive = super::archives::legacy(&config, &[&mine], "here");
    store.load(&archive[..], &mut |_| {}).unwrap();
    let before = content(tmp.path());
    let lying = Remote::with_config(std::slice::from_ref(&other), config.clone());
    assert!(matches!(
        lying.pull(&store, None, &["bad"]),
        Err(Error::Corrupt { .. })
    ));
    let mut now = content(tmp.path());
    now.retain(|p| !p.starts_with("image/partial/"));
    assert_eq!(now, before);
    let honest = Remote::with_config(std::slice::from_ref(&mine), config);
    honest.pull(&store, None, &["good"]).unwrap();
    assert_eq!(store.get("good").unwrap().id, store.get("here").unwrap().id);
    assert!(store.check(false).unwrap().problems.is_empty());
}

/// What a daemon finds that is started after a crash right now: a whole store, in which the pull goes through.
fn after_a_crash(root: &std::path::Path, remote: &Remote, is_there: bool) {
    let tmp = tempfile::tempdir().unwrap();
    let copy = tmp.path().join("image");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(root)
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let store = Arc::new(ImageStore::open(&copy).unwrap());
    assert_eq!(store.get("app:1").is_ok(), is_there);
    assert!(store.get("keep:1").is_ok());
    assert!(store.check(false).unwrap().problems.is_empty());
    assert_eq!(std::fs::read_dir(copy.join("staging")).unwrap().count(), 0);
    remote.pull(&store, None, &["app:1"]).unwrap();
    assert!(store.check(false).unwrap().problems.is_empty());
    assert_eq!(std::fs::read_dir(copy.join("partial")).unwrap().count(), 0);
}

#[test]
fn a_crash_at_any_stage_of_an_ingest_leaves_a_whole_store() {
    let (tmp, store) = open();
    let root = tmp.path().join("image");
    let (_, keep) = super::archives::archive("keep", &["keep:1"]);
    store.load(&keep[..], &mut |_| {}).unwrap();
    let remote = two_layers();
    let ingest = Ingest::begin(&store).unwrap();
    after_a_crash(&root, &remote, false);
    let image = ingest.image(&remote.manifest, &remote.config).unwrap();
    for layer in &image.layers {
        let Transfer::Needed(mut writer) = ingest.blob(&layer.blob).unwrap() else {
            panic!("a new blob");
        };
        after_a_crash(&root, &remote, false);
        for chunk in remote.blob(&layer.blob.digest).chunks(50) {
            writer.write(chunk).unwrap();
            after_a_crash(&root, &remote, false);
        }
        ingest.finish(writer).unwrap();
        after_a_crash(&root, &remote, false);
    }
    let ingested = Ingested {
        image,
        index: None,
        references: vec![Reference::parse("app:1").unwrap()],
    };
    let stages = std::cell::Cell::new(0);
    let mut look = |_| {
        stages.set(stages.get() + 1);
        after_a_crash(&root, &remote, false);
    };
    ingest.commit(vec![ingested], &mut look).unwrap();
    assert_eq!(stages.get(), 4, "two layers, each unpacked and in place");
    after_a_crash(&root, &remote, true);
}

#[test]
fn two_ingests_of_one_image_share_its_blobs() {
    let (_tmp, store) = open();
    let remote = Arc::new(two_layers());
    let threads: Vec<_> = (0..6)
        .map(|n| {
            let (store, remote) = (store.clone(), remote.clone());
            std::thread::spawn(move || remote.pull(&store, None, &[&format!("app:{n}")]).unwrap())
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(store.list(&Default::default()).unwrap()[0].repo_tags.len(), 6);
}

fn platform_config(diff_id: Digest, architecture: &str) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}
    }))
    .unwrap()
}

/// An image for this node and one for riscv64 under one name; gives the index.
pub(super) fn two_platforms(store: &Arc<ImageStore>, name: &str) -> (Vec<u8>, Digest) {
    let base = layer(&[("a", b"1")]);
    let of = |architecture: &str| {
        Remote::with_config(
            std::slice::from_ref(&base),
            platform_config(Digest::of(&base), architecture),
        )
    };
    let host = Platform::host().architecture;
    let remotes = [(of("riscv64"), "riscv64"), (of(&host), host.as_str())];
    let manifests: Vec<Descriptor> = remotes
        .iter()
        .map(|(remote, architecture)| Descriptor {
            platform: Some(Platform::parse(&format!("linux/{architecture}")).unwrap()),
            ..Descriptor::new(
                MANIFEST,
                Digest::of(&remote.manifest),
                remote.manifest.len() as u64,
            )
        })
        .collect();
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": crate::oci::INDEX, "manifests": manifests
    }))
    .unwrap();
    for (remote, _) in &remotes {
        remote.pull(store, Some(index.clone()), &[name]).unwrap();
    }
    let digest = Digest::of(&index);
    (index, digest)
}

#[test]
fn platforms_of_one_index_stay_under_one_name() {
    let (tmp, store) = open();
    let base = layer(&[("a", b"1")]);
    let here = Remote::with_config(
        std::slice::from_ref(&base),
        platform_config(Digest::of(&base), &Platform::host().architecture),
    );
    let other = Remote::with_config(
        std::slice::from_ref(&base),
        platform_config(Digest::of(&base), "riscv64"),
    );
    let index = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    let digest = Digest::of(&index);
    let by_digest = format!("multi@{digest}");
    let names = ["multi:1", by_digest.as_str()];
    let foreign = other.pull(&store, Some(index.clone()), &names).unwrap();
    assert_eq!(store.get("multi:1").unwrap().id, foreign);
    let native = here.pull(&store, Some(index.clone()), &names).unwrap();
    drop(store);
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(store.get("multi:1").unwrap().id, native);
    assert_eq!(store.get(&by_digest).unwrap().id, native);
    assert_eq!(
        store.get("multi:1").unwrap().repo_digests,
        std::slice::from_ref(&by_digest)
    );
    assert_eq!(store.read_blob(&digest).unwrap(), index);
    let riscv = Platform::parse("linux/riscv64").unwrap();
    assert_eq!(store.get_platform("multi:1", &riscv).unwrap().id, foreign);
    let arm = Platform::parse("linux/s390x").unwrap();
    assert!(matches!(
        store.get_platform("multi:1", &arm),
        Err(Error::PlatformMissing { .. })
    ));
    assert_eq!(store.list(&Default::default()).unwrap().len(), 1);
    store.tag("multi:1", "copy:1").unwrap();
    store
        .remove("multi:1", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    assert_eq!(store.get_platform("copy:1", &riscv).unwrap().id, foreign);
    store
        .remove("copy:1", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    let left = content(tmp.path());
    assert!(
        !left.iter().any(|p| p.starts_with("image/blobs/sha256/")),
        "{left:?}"
    );
}

#[test]
fn stacks_make_images_and_can_be_kept() {
    let (tmp, store) = open();
    let id = two_layers().pull(&store, None, &["base"]).unwrap();
    let base = store.stack(&id).unwrap();
    let rootfs = store.snapshot("step1", &base).unwrap();
    std::fs::write(rootfs.upper.join("made"), "here").unwrap();
    let latest = LayerOptions {
        latest: Some(1000),
        ..LayerOptions::default()
    };
    let one = store.layer_of_snapshot("step1", &base, &latest).unwrap();
    store.remove_rootfs("step1").unwrap();
    assert_eq!(one.layers().len(), 3);
    let two = store
        .layer_of_archive(&layer(&[("copied", b"x")])[..], &one)
        .unwrap();
    assert_eq!(two.lowest(3).chain(), one.chain());
    assert_eq!(two.layers().nth(2).unwrap().size, 4);

    let step = |by: &str| HistoryEntry {
        created_by: Some(by.into()),
        ..HistoryEntry::default()
    };
    let config = ImageConfig {
        os: "linux".into(),
        history: vec![step("a"), step("b"), step("c"), step("d")],
        ..ImageConfig::default()
    };
    let make = |stack: &Stack, name: &str| {
        let references = vec![Reference::parse(name).unwrap()];
        store.compose(NewImage {
            config: config.clone(),
            stack: stack.clone(),
            references,
            annotations: Default::default(),
            is_passing: false,
        })
    };
    assert!(matches!(make(&one, "short"), Err(Error::InvalidArgument(_))));
    let first = make(&two, "built").unwrap();
    assert_eq!(make(&two, "again").unwrap(), first, "equal input, equal image");
    // The image stands on its own when its base and its stack are gone.
    store.keep("cache/1", &one).unwrap();
    drop((base, one, two));
    store
        .remove("base", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    store
        .remove("again", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    store
        .remove("built", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    drop(store);
    let store = ImageStore::open(&tmp.path().join("image")).unwrap();
    assert_eq!(store.kept_keys(), ["cache/1"]);
    assert_eq!(store.kept("cache/1").unwrap().unwrap().layers().len(), 3);
    assert!(store.forget("cache/1").unwrap());
    assert!(!store.forget("cache/1").unwrap());
    let left = content(tmp.path());
    assert!(!left.iter().any(|p| p.contains("blobs/sha256/")), "{left:?}");
    assert!(
        !left
            .iter()
            .any(|p| p.starts_with("image/layers/") && !p.contains("empty")),
        "{left:?}"
    );
}

#[test]
fn peers_see_what_is_here_by_digest() {
    let (_tmp, store) = open();
    let remote = two_layers();
    let index = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    let (pinned, manifest) = (Digest::of(&index), Digest::of(&remote.manifest));
    let by_digest = format!("app@{pinned}");
    let id = remote.pull(&store, Some(index), &["app:1", &by_digest]).unwrap();
    let mut all = vec![pinned, manifest];
    all.sort();
    assert_eq!(store.pinnable(), all);
    assert_eq!(store.tags(), [("app:1".to_owned(), pinned)].into());
    // By either digest all of its blobs, and nothing else.
    let mut blobs: Vec<Digest> = remote.blobs.iter().map(|blob| Digest::of(blob)).collect();
    blobs.extend([id, manifest]);
    for by in [pinned, manifest] {
        let mut expected: std::collections::BTreeSet<Digest> = blobs.iter().copied().collect();
        expected.insert(by);
        assert_eq!(store.parts(&by), expected);
    }
    assert!(store.parts(&id).is_empty());
    // Its tag goes on to another image: it is still what it was pinned to.
    let other = Remote::new(&[layer(&[("other", b"1")])]);
    let name = format!("app:1@{pinned}");
    other.pull(&store, None, &["app:1"]).unwrap();
    assert_eq!(store.pinned(&name), Some(id));
    assert_eq!(store.pinned("app:1"), Some(Digest::of(&other.config)));
    assert_eq!(store.pinned("none:1"), None);
}
