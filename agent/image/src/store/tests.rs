//! The store as a whole: round trips, crashes, hostile archives that leave nothing, Docker's removal rules, threads.

mod archives;
mod bounds;
mod check;
mod ingest;
mod passing;
mod power;
mod tails;

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
};

use tar::{EntryType, Header};

use super::ImageStore;
use crate::{ContainerUse, Digest, Error, ImportOptions, ListOptions, RemoveOptions, Removed};
use archives::{archive, config_of, content, gzip, layer, legacy, load, oci, open, save, tar_of};

#[test]
fn load_save_load_keeps_digests_and_bytes() {
    let (_a, first) = open();
    let (id, tar) = archive("one", &["app:1", "other/app:2"]);
    let loaded = load(&first, &gzip(&tar)).unwrap();
    assert_eq!(loaded[0].id, id);
    assert_eq!(loaded[0].references.len(), 2);
    let saved = save(&first, &["app:1", "other/app"]);
    assert_eq!(saved, tar, "the builder and save write the same archive");
    let (_b, second) = open();
    load(&second, &saved).unwrap();
    let (x, y) = (first.get("app:1").unwrap(), second.get("app:1").unwrap());
    assert_eq!(
        (x.id, x.manifest, x.layers, x.size),
        (y.id, y.manifest, y.layers, y.size)
    );
    assert_eq!(y.repo_tags, ["app:1", "other/app:2"]);
    assert_eq!(y.config.config.cmd.unwrap(), ["/bin/app"]);
    assert_eq!(
        fs::metadata(_a.path().join("image")).unwrap().mode() & 0o777,
        0o700
    );
}

#[test]
fn zstd_and_gzip_layers_and_oci_layouts_load() {
    let (_tmp, store) = open();
    let (plain, plain2) = (
        layer(&[("a", b"1"), ("d/b", b"2")]),
        layer(&[(".wh.a", b""), ("c", b"3")]),
    );
    let zstd = zstd::encode_all(&plain2[..], 1).unwrap();
    let config = config_of(&[Digest::of(&plain), Digest::of(&plain2)]);
    let name = serde_json::json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    let tar = oci(&config, &[&gzip(&plain), &zstd], &name);
    load(&store, &zstd::encode_all(&tar[..], 1).unwrap()).unwrap();
    let image = store.get("multi:1").unwrap();
    assert_eq!(
        (image.id, image.size, image.layers.len()),
        (Digest::of(&config), 3, 2)
    );
    let by_digest = format!("multi@{}", image.manifest);
    assert_eq!(store.get(&by_digest).unwrap().id, image.id);
    // What goes out must keep the manifest and be readable where zstd is not.
    let saved = save(&store, &["multi:1"]);
    let (_b, other) = open();
    load(&other, &saved).unwrap();
    assert_eq!(other.get("multi:1").unwrap().manifest, image.manifest);
    let diff_id = format!("blobs/sha256/{}", Digest::of(&plain2).hex());
    let mut tar = tar::Archive::new(&saved[..]);
    assert!(
        tar.entries()
            .unwrap()
            .any(|e| e.unwrap().path().unwrap().to_str() == Some(&diff_id))
    );
}

#[test]
fn legacy_docker_save_loads_and_shares_layers() {
    let (tmp, store) = open();
    let (base, a, b) = (
        layer(&[("etc/passwd", b"x")]),
        layer(&[("a", b"1")]),
        layer(&[("b", b"1")]),
    );
    let ids = |l: &[&Vec<u8>]| l.iter().map(|d| Digest::of(d)).collect::<Vec<_>>();
    load(
        &store,
        &legacy(&config_of(&ids(&[&base, &a])), &[&base, &a], "one:latest"),
    )
    .unwrap();
    load(
        &store,
        &legacy(&config_of(&ids(&[&base, &b])), &[&base, &gzip(&b)], "two:latest"),
    )
    .unwrap();
    assert_eq!(fs::read_dir(tmp.path().join("image/layers")).unwrap().count(), 3);
    assert_eq!(
        store.get("one").unwrap().layers[0],
        store.get("two").unwrap().layers[0]
    );
    store
        .remove("one", &RemoveOptions::default(), &|_| vec![])
        .unwrap();
    assert_eq!(fs::read_dir(tmp.path().join("image/layers")).unwrap().count(), 2);
    assert!(store.get("one").is_err() && store.get("two").is_ok());
}

#[test]
fn broken_archives_leave_the_store_unchanged() {
    let (tmp, store) = open();
    load(&store, &archive("keep", &["keep"]).1).unwrap();
    let before = content(tmp.path());
    let (plain, evil) = (layer(&[("a", b"1")]), layer(&[("ok", b"1")]));
    let mut traversal = layer(&[("abc", b"1")]);
    traversal[..3].copy_from_slice(b"../");
    let good = config_of(&[Digest::of(&plain)]);
    let wrong_digest = legacy(&good, &[&evil], "x");
    let count = legacy(&config_of(&[Digest::of(&plain); 2]), &[&plain], "x");
    let second_bad = legacy(
        &config_of(&[Digest::of(&plain), Digest::of(&evil)]),
        &[&plain, &plain],
        "x",
    );
    assert!(matches!(load(&store, &wrong_digest), Err(Error::Corrupt { .. })));
    assert!(matches!(load(&store, &count), Err(Error::Corrupt { .. })));
    assert!(matches!(load(&store, &second_bad), Err(Error::Corrupt { .. })));
    assert!(
        load(
            &store,
            &legacy(&config_of(&[Digest::of(&traversal)]), &[&traversal], "x")
        )
        .is_err()
    );
    let bad_name = legacy(&good, &[&plain], "BAD NAME");
    assert!(matches!(
        load(&store, &bad_name),
        Err(Error::InvalidReference { .. })
    ));
    assert!(matches!(
        load(&store, b"not a tar at all, but longer than nothing"),
        Err(Error::NotAnArchive(_))
    ));
    assert!(matches!(
        load(&store, &tar_of(&[("x", b"y")])),
        Err(Error::NotAnArchive(_))
    ));
    assert!(load(&store, &tar_of(&[("manifest.json", b"[{")])).is_err());
    assert_eq!(content(tmp.path()), before);
}

#[test]
fn hostile_outer_archives_are_refused() {
    let (tmp, store) = open();
    let before = content(tmp.path());
    let mut tar = tar::Builder::new(Vec::new());
    let mut h = Header::new_gnu();
    h.set_path("manifest.json").unwrap();
    h.set_entry_type(EntryType::Symlink);
    h.set_link_name("/etc/passwd").unwrap();
    h.set_size(0);
    h.set_cksum();
    tar.append(&h, io::empty()).unwrap();
    assert!(matches!(
        load(&store, &tar.into_inner().unwrap()),
        Err(Error::HostileArchive { .. })
    ));
    // cve_2017_14992 and manifest depth: an index that names itself can't be made, but a deep one can.
    let mut files: Vec<(String, Vec<u8>)> = vec![("oci-layout".into(), b"{}".to_vec())];
    let mut inner = (Digest::of(b"{}"), 2);
    files.push((format!("blobs/sha256/{}", inner.0.hex()), b"{}".to_vec()));
    for depth in 0..10 {
        let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": inner.0, "size": inner.1}]}))
        .unwrap();
        inner = (Digest::of(&index), index.len());
        let name = if depth == 9 {
            "index.json".into()
        } else {
            format!("blobs/sha256/{}", inner.0.hex())
        };
        files.push((name, index));
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    match load(&store, &tar_of(&files)) {
        Err(Error::HostileArchive { reason, .. }) => assert!(reason.contains("nest deeper")),
        other => panic!("{other:?}"),
    }
    assert_eq!(content(tmp.path()), before);
}

#[test]
fn truncation_at_any_offset_leaves_the_store_unchanged() {
    let (tmp, store) = open();
    let (_, tar) = archive("truncate me", &["t"]);
    let before = content(tmp.path());
    // The last members (oci-layout and repositories) and the end blocks may be missing from a whole image.
    let needed = tar.len() - 4096;
    for cut in (0..needed).step_by(211) {
        assert!(load(&store, &tar[..cut]).is_err(), "cut at {cut}");
        let zipped = gzip(&tar);
        assert!(load(&store, &zipped[..cut * zipped.len() / tar.len() / 2]).is_err());
    }
    assert_eq!(content(tmp.path()), before);
}

#[test]
fn open_sweeps_what_a_crash_left() {
    let (tmp, store) = open();
    let root = tmp.path().join("image");
    load(&store, &archive("keep", &["keep"]).1).unwrap();
    let image = store.get("keep").unwrap();
    store.prepare_rootfs("c1", &image).unwrap();
    assert!(matches!(ImageStore::open(&root), Err(Error::Locked(_))));
    drop(store);
    let before = content(tmp.path());
    fs::create_dir_all(root.join("staging/half/diff")).unwrap();
    let stray = Digest::of(b"stray").hex();
    fs::create_dir_all(root.join("layers").join(&stray).join("diff")).unwrap();
    fs::write(root.join("blobs/sha256").join(&stray), "stray").unwrap();
    fs::create_dir_all(root.join("rootfs/half/upper")).unwrap();
    let store = ImageStore::open(&root).unwrap();
    assert_eq!(content(tmp.path()), before);
    assert_eq!(store.rootfs_ids().unwrap(), ["c1"]);
    assert_eq!(store.get("keep").unwrap().id, image.id);
    // A damaged configuration takes its image away, not the store.
    drop(store);
    fs::write(root.join("blobs/sha256").join(image.id.hex()), "{}").unwrap();
    let store = ImageStore::open(&root).unwrap();
    assert!(matches!(store.get("keep"), Err(Error::NotFound(_))));
    assert!(store.rootfs("c1").is_ok(), "the container keeps its layers");
    load(&store, &archive("keep", &["keep"]).1).unwrap();
}

#[test]
fn names_ids_and_prefixes() {
    let (_tmp, store) = open();
    let ids: Vec<Digest> = (0..20)
        .map(|i| {
            let (id, tar) = archive(&format!("app {i}"), &[&format!("app:{i}")]);
            load(&store, &tar).unwrap();
            id
        })
        .collect();
    let hex = ids[3].hex();
    for name in [
        "app:3",
        "docker.io/library/app:3",
        &hex,
        &format!("sha256:{hex}"),
        &hex[..12],
    ] {
        assert_eq!(store.get(name).unwrap().id, ids[3], "{name}");
    }
    // Twenty ids share sixteen first digits.
    let first = ids.iter().map(|i| i.hex()[..1].to_owned());
    let shared = first
        .clone()
        .find(|f| first.clone().filter(|g| g == f).count() > 1)
        .unwrap();
    assert!(matches!(store.get(&shared), Err(Error::Ambiguous { .. })));
    assert!(matches!(store.get("none"), Err(Error::NotFound(n)) if n == "none:latest"));
    assert!(matches!(
        store.get("No Such"),
        Err(Error::InvalidReference { .. })
    ));
    store.tag("app:3", "new/name").unwrap();
    assert_eq!(
        store.get("new/name").unwrap().repo_tags,
        ["app:3", "new/name:latest"]
    );
    assert!(store.tag("app:3", &format!("x@{}", ids[0])).is_err());
    let filter = ListOptions {
        references: vec!["new/*".into()],
        ..ListOptions::default()
    };
    let listed = store.list(&filter).unwrap();
    assert_eq!(
        (listed.len(), &listed[0].repo_tags[..]),
        (1, &["new/name:latest".to_owned()][..])
    );
    assert_eq!(store.list(&ListOptions::default()).unwrap().len(), 20);
    let label = ListOptions {
        labels: vec!["k=v".into()],
        ..ListOptions::default()
    };
    assert_eq!(store.list(&label).unwrap().len(), 20);
}

#[test]
fn removal_follows_docker() {
    let (tmp, store) = open();
    let empty = content(tmp.path());
    let (id, tar) = archive("x", &["x:1", "x:2"]);
    load(&store, &tar).unwrap();
    let none = |_: &Digest| vec![];
    let used = |running| {
        move |_: &Digest| {
            vec![ContainerUse {
                id: "c0ffee".repeat(10),
                running,
            }]
        }
    };
    let (plain, force) = (
        RemoveOptions::default(),
        RemoveOptions {
            force: true,
            ..RemoveOptions::default()
        },
    );
    let conflict = |name: &str, o: &RemoveOptions, running| {
        store.remove(name, o, &used(running)).unwrap_err().to_string()
    };
    // By id: several tags need force, running containers can't be forced.
    assert!(conflict(&id.short(), &plain, false).contains("must be forced"));
    assert!(store.remove(&id.short(), &plain, &none).is_err());
    assert!(
        conflict(&id.short(), &force, true).contains("cannot be forced) - image is being used by running")
    );
    // One tag of several goes, containers or not.
    assert_eq!(
        store.remove("x:1", &plain, &used(true)).unwrap(),
        [Removed::Untagged("x:1".into())]
    );
    assert!(conflict("x:2", &plain, false).contains("is using its referenced image"));
    // Forced while it runs: it stays, dangling.
    assert_eq!(
        store.remove("x:2", &force, &used(true)).unwrap(),
        [Removed::Untagged("x:2".into())]
    );
    let dangling = ListOptions {
        dangling: Some(true),
        ..ListOptions::default()
    };
    assert_eq!(store.list(&dangling).unwrap()[0].id, id);
    // Forced with a stopped container: the image goes, the container's layers stay until it does.
    let image = store.get(&id.hex()).unwrap();
    let rootfs = store.prepare_rootfs("c1", &image).unwrap();
    assert_eq!(
        store.remove(&id.hex(), &force, &used(false)).unwrap(),
        [Removed::Deleted(id)]
    );
    assert!(rootfs.lower.iter().all(|l| l.is_dir()));
    assert!(matches!(
        store.prepare_rootfs("c1", &image),
        Err(Error::RootfsExists(_))
    ));
    store.remove_rootfs("c1").unwrap();
    store.remove_rootfs("c1").unwrap();
    assert!(matches!(
        store.prepare_rootfs("c2", &image),
        Err(Error::Corrupt { .. })
    ));
    let left: Vec<_> = content(tmp.path())
        .into_iter()
        .filter(|p| !p.ends_with("images.json"))
        .collect();
    assert_eq!(left, empty);
    // Whole life by name.
    load(&store, &tar).unwrap();
    store.remove("x:1", &plain, &none).unwrap();
    let removed = store.remove("x:2", &plain, &none).unwrap();
    assert_eq!(
        removed[..2],
        [Removed::Untagged("x:2".into()), Removed::Deleted(id)]
    );
    assert_eq!(removed.len(), 3);
}

#[test]
fn import_makes_an_image() {
    let (_tmp, store) = open();
    let tar = layer(&[("bin/sh", b"sh"), ("etc/passwd", b"app:x:7:8::/home:/bin/sh\n")]);
    let options = ImportOptions {
        reference: Some("imported".into()),
        message: "hand-made".into(),
        changes: vec!["CMD [\"/bin/sh\"]".into(), "USER app".into()],
        platform: Some("linux/arm64/v8".into()),
    };
    let id = store.import(&gzip(&tar)[..], &options).unwrap();
    let image = store.get("imported").unwrap();
    assert_eq!(image.id, id);
    assert_eq!(
        (
            image.config.architecture.as_str(),
            image.config.variant.as_deref()
        ),
        ("arm64", Some("v8"))
    );
    assert!(image.created > 0);
    assert_eq!(store.history("imported").unwrap()[0].comment, "hand-made");
    let rootfs = store.prepare_rootfs("c", &image).unwrap();
    let user = store.resolve_user(&rootfs, &image.config.config.user).unwrap();
    assert_eq!((user.uid, user.gid, user.home.as_str()), (7, 8, "/home"));
    for (bad, options) in [
        (
            "change",
            ImportOptions {
                changes: vec!["RUN x".into()],
                ..options.clone()
            },
        ),
        (
            "platform",
            ImportOptions {
                platform: Some("windows/amd64".into()),
                ..options.clone()
            },
        ),
        (
            "reference",
            ImportOptions {
                reference: Some("Bad".into()),
                ..options.clone()
            },
        ),
    ] {
        let unread = io::repeat(1).take(u64::MAX);
        assert!(store.import(unread, &options).is_err(), "{bad}");
    }
    assert!(store.import(io::empty(), &options).is_err());
}

#[test]
fn rootfs_has_mount_points_and_sizes() {
    let (_tmp, store) = open();
    load(&store, &archive("12345", &["app"]).1).unwrap();
    let image = store.get("app").unwrap();
    let rootfs = store.prepare_rootfs("c1", &image).unwrap();
    assert_eq!(rootfs.lower.len(), 2);
    for dir in [
        "proc",
        "sys",
        "dev",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/hostname",
    ] {
        assert!(rootfs.lower[0].join(dir).exists(), "{dir}");
    }
    assert_eq!(
        fs::read_to_string(rootfs.lower[1].join("bin/app")).unwrap(),
        "12345"
    );
    fs::write(rootfs.upper.join("data"), "abc").unwrap();
    fs::hard_link(rootfs.upper.join("data"), rootfs.upper.join("again")).unwrap();
    let size = store.rootfs_size("c1").unwrap();
    assert_eq!((size.rw, size.total), (3, 8));
    assert_eq!(store.rootfs("c1").unwrap(), rootfs);
    assert!(matches!(store.rootfs("c2"), Err(Error::NoRootfs(_))));
    for id in ["", "../x", "a/b", "."] {
        assert!(matches!(
            store.prepare_rootfs(id, &image),
            Err(Error::InvalidArgument(_))
        ));
    }
}

#[test]
fn an_image_without_layers_works() {
    let (_tmp, store) = open();
    load(&store, &legacy(&config_of(&[]), &[], "void")).unwrap();
    let rootfs = store.prepare_rootfs("c", &store.get("void").unwrap()).unwrap();
    assert!(rootfs.lower.len() == 1 && rootfs.lower[0].join("proc").is_dir());
    let root = store.root.clone();
    drop(store);
    assert_eq!(ImageStore::open(&root).unwrap().rootfs("c").unwrap(), rootfs);
}

#[test]
fn threads_load_remove_and_prepare_at_once() {
    let (tmp, store) = open();
    let (_, tar) = archive("shared", &["shared"]);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (store, tar) = (&store, &tar);
            scope.spawn(move || {
                for i in 0..15 {
                    load(store, tar).unwrap();
                    if t % 2 == 0 {
                        match store.remove("shared", &RemoveOptions::default(), &|_| vec![]) {
                            Ok(_) | Err(Error::NotFound(_)) => {}
                            Err(e) => panic!("{e:?}"),
                        }
                    }
                    let id = format!("c{t}-{i}");
                    match store
                        .get("shared")
                        .and_then(|image| store.prepare_rootfs(&id, &image))
                    {
                        // Whoever got a root filesystem keeps its layers, whatever is removed meanwhile.
                        Ok(rootfs) => assert!(rootfs.lower.iter().all(|l| l.is_dir())),
                        Err(Error::NotFound(_) | Error::Corrupt { .. }) => {}
                        Err(e) => panic!("{e:?}"),
                    }
                    store.remove_rootfs(&id).unwrap();
                }
            });
        }
    });
    let _ = store.remove("shared", &RemoveOptions::default(), &|_| vec![]);
    assert!(
        content(tmp.path())
            .iter()
            .all(|p| !p.contains("layers/") && !p.contains("rootfs/") && !p.contains("/sha256/"))
    );
}

/// Loads an archive from outside and holds `save`'s output against another engine's `docker load`; see DESIGN.md.
#[test]
#[ignore = "prints figures and writes an archive for a comparison by hand"]
fn figures() {
    let (_tmp, store) = open();
    load(&store, &archive("figures", &["figures:1"]).1).unwrap();
    let image = store.get("figures:1").unwrap();
    let start = std::time::Instant::now();
    for i in 0..1000 {
        store.prepare_rootfs(&format!("c{i}"), &image).unwrap();
    }
    println!("prepare_rootfs: {:?} each", start.elapsed() / 1000);
    let start = std::time::Instant::now();
    for i in 0..1000 {
        store.remove_rootfs(&format!("c{i}")).unwrap();
    }
    println!("remove_rootfs: {:?} each", start.elapsed() / 1000);
    if let Ok(path) = std::env::var("PONTOON_IMAGE_ARCHIVE_OUT") {
        fs::write(path, save(&store, &["figures:1"])).unwrap();
    }
    if let Ok(path) = std::env::var("PONTOON_IMAGE_ARCHIVE_IN") {
        let start = std::time::Instant::now();
        let loaded = store.load(fs::File::open(path).unwrap(), &mut |_| {}).unwrap();
        println!("load: {:?} {loaded:?}", start.elapsed());
    }
}
