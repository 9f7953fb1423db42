//! What is bounded when archives are loaded and imported: each bomb is refused by what it does, and leaves nothing. Beside them what
//! is unusual and honest: sparse files, extended attributes.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::archives::{config_of, content, gzip, layer, legacy, oci};
use crate::{Digest, ImageStore, ImportOptions, Limits};

/// A store with these limits, and why it does not load an archive; it is as before then.
fn refused(limits: Limits, archive: &[u8]) -> String {
    let tmp = tempfile::tempdir().unwrap();
    let store = ImageStore::open_with(&tmp.path().join("image"), limits).unwrap();
    let before = content(tmp.path());
    let error = store.load(archive, &mut |_| {}).unwrap_err();
    assert_eq!(content(tmp.path()), before);
    chain(&error)
}

/// An error and what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn limited(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// An image with one layer, as `docker save` writes it.
fn image_of(plain: &[u8], packed: &[u8]) -> Vec<u8> {
    legacy(&config_of(&[Digest::of(plain)]), &[packed], "x")
}

#[test]
fn bombs_are_refused_by_what_they_do() {
    let many: Vec<(String, &[u8])> = (0..50).map(|i| (format!("f{i}"), &b""[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(name, data)| (name.as_str(), *data)).collect();
    let (many, big, zeros) = (
        layer(&many),
        layer(&[("big", &[1; 100_000])]),
        layer(&[("zeros", &[0; 4_000_000])]),
    );
    let zstd = zstd::encode_all(&zeros[..], 3).unwrap();
    let one = layer(&[("a", b"1")]);
    let ratio = limited(|l| (l.ratio, l.ratio_from) = (100, 1 << 20));
    let cases = [
        (
            limited(|l| l.entries = 40),
            image_of(&many, &many),
            "more than 40 entries",
        ),
        (
            limited(|l| l.layer_bytes = 70_000),
            image_of(&big, &big),
            "more than 70000",
        ),
        (
            limited(|l| l.archive_bytes = 50_000),
            image_of(&big, &big),
            "more than 50000 bytes",
        ),
        (
            ratio.clone(),
            image_of(&zeros, &gzip(&zeros)),
            "refused as a bomb",
        ),
        (ratio.clone(), image_of(&zeros, &zstd), "refused as a bomb"),
        // The outer archive may be compressed, too.
        (ratio, gzip(&image_of(&zeros, &zeros)), "refused as a bomb"),
        (
            limited(|l| l.layers = 2),
            legacy(&config_of(&[Digest::of(&one); 3]), &[&one[..]; 3], "x"),
            "more than 2 layers",
        ),
        (
            limited(|l| l.layers = 2),
            oci(
                &config_of(&[Digest::of(&one); 3]),
                &[&one[..]; 3],
                &serde_json::json!({}),
            ),
            "more than 2 layers",
        ),
        (
            limited(|l| l.images = 0),
            image_of(&one, &one),
            "more than 0 images",
        ),
        (
            limited(|l| l.json_bytes = 100),
            image_of(&one, &one),
            "document of",
        ),
        (
            limited(|l| l.path_bytes = 3),
            image_of(&one, &one),
            "path longer than 3 bytes",
        ),
    ];
    for (limits, archive, reason) in cases {
        let error = refused(limits, &archive);
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn layers_are_compressed_as_the_specification_says() {
    let one = layer(&[("a", b"1")]);
    for packed in [&b"\xfd7zXZ\0..."[..], b"BZh9..."] {
        let error = refused(Limits::default(), &image_of(&one, packed));
        assert!(error.contains("compressed with bzip2 or xz"), "{error}");
    }
}

#[test]
fn an_import_is_bounded_as_well() {
    let tmp = tempfile::tempdir().unwrap();
    let limits = Limits {
        ratio: 100,
        ratio_from: 1 << 20,
        ..Limits::default()
    };
    let store = ImageStore::open_with(&tmp.path().join("image"), limits).unwrap();
    let before = content(tmp.path());
    let bomb = gzip(&vec![0; 8 << 20]);
    let error = store.import(&bomb[..], &ImportOptions::default()).unwrap_err();
    assert!(chain(&error).contains("refused as a bomb"), "{error}");
    let cut = &layer(&[("a", &[7; 5000])])[..2000];
    let error = store.import(cut, &ImportOptions::default()).unwrap_err();
    assert!(chain(&error).contains("truncated"), "{error}");
    assert_eq!(content(tmp.path()), before);
}

#[test]
fn sparse_files_keep_their_holes() {
    let tmp = tempfile::tempdir().unwrap();
    let tree = tmp.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let file = fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (64 << 20) - 3).unwrap();
    drop(file);
    for format in ["gnu", "posix"] {
        let archive = Command::new("tar")
            .args(["--sparse", "--format", format, "-c", "-C"])
            .arg(&tree)
            .arg("sparse")
            .output()
            .unwrap()
            .stdout;
        assert!(archive.len() < 1 << 20, "{format}");
        let root = tmp.path().join(format);
        let store = ImageStore::open(&root).unwrap();
        store
            .import(
                &archive[..],
                &ImportOptions {
                    reference: Some("sparse".into()),
                    ..ImportOptions::default()
                },
            )
            .unwrap();
        let image = store.get("sparse").unwrap();
        assert_eq!(image.size, 64 << 20, "as Docker counts it");
        let unpacked = root
            .join("layers")
            .join(image.layers[0].hex())
            .join("diff/sparse");
        let stat = fs::metadata(&unpacked).unwrap();
        assert_eq!(stat.len(), 64 << 20);
        assert!(stat.blocks() < 2048, "{format}: its holes are filled");
        let mut end = Vec::new();
        fs::File::open(&unpacked).unwrap().read_to_end(&mut end).unwrap();
        assert!(end.ends_with(b"\0end") && end[..1 << 20].iter().all(|b| *b == 0));
        // The bound is on what readers see, not on what is stored.
        let limits = Limits {
            layer_bytes: 32 << 20,
            ..Limits::default()
        };
        let small = ImageStore::open_with(&tmp.path().join(format!("small-{format}")), limits).unwrap();
        assert!(small.import(&archive[..], &ImportOptions::default()).is_err());
    }
}

#[test]
fn attributes_of_all_kinds_arrive() {
    let tmp = tempfile::tempdir().unwrap();
    let probe = tmp.path().join("probe");
    fs::write(&probe, "").unwrap();
    let set = rustix::fs::setxattr(&probe, "user.x", b"1", rustix::fs::XattrFlags::empty());
    if set.is_err() {
        println!("skipped: the temporary folder's file system has no user attributes");
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    let attributes: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.user.x", b"of a user"),
        ("SCHILY.xattr.trusted.y", b"with\nnewline\0and NUL"),
        (
            "SCHILY.xattr.security.capability",
            &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    tar.append_pax_extensions(attributes).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin", &b"elf"[..]).unwrap();
    let archive = tar.into_inner().unwrap();
    let root = tmp.path().join("image");
    let store = ImageStore::open(&root).unwrap();
    store
        .import(
            &archive[..],
            &ImportOptions {
                reference: Some("x".into()),
                ..ImportOptions::default()
            },
        )
        .unwrap();
    let unpacked = root
        .join("layers")
        .join(store.get("x").unwrap().layers[0].hex())
        .join("diff/bin");
    for (key, expected) in attributes {
        let mut value = [0; 64];
        let name = key.strip_prefix("SCHILY.xattr.").unwrap();
        let length = rustix::fs::getxattr(&unpacked, name, &mut value).unwrap();
        assert_eq!(&value[..length], expected, "{name}");
    }
}
