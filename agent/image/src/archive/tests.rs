//! Layers, changes and extraction against real directories. What needs root (overlay attributes, devices, owners) says so
//! and skips.

use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, makedev, mknodat};

use super::*;
use crate::{Error, LayerOptions, Limits, Rootfs};

struct Layers {
    temp: tempfile::TempDir,
}

impl Layers {
    /// Lower: `keep`, `gone`, `dir/{a,b}`, `file-to-dir`, `sub/deep/x`.
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let lower = temp.path().join("lower");
        for dir in ["lower/dir", "lower/sub/deep", "upper", "work"] {
            fs::create_dir_all(temp.path().join(dir)).unwrap();
        }
        for file in ["keep", "gone", "dir/a", "dir/b", "file-to-dir", "sub/deep/x"] {
            fs::write(lower.join(file), file).unwrap();
        }
        Layers { temp }
    }

    fn rootfs(&self) -> Rootfs {
        let path = |name| self.temp.path().join(name);
        Rootfs {
            is_tree: false,
            lower: vec![path("lower")],
            upper: path("upper"),
            work: path("work"),
        }
    }

    fn upper(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join("upper").join(name)
    }

    fn whiteout(&self, name: &str) {
        mknodat(
            CWD,
            self.upper(name),
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        )
        .unwrap();
    }

    fn opaque(&self, name: &str) {
        let set = rustix::fs::setxattr(
            self.upper(name),
            "trusted.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        );
        set.unwrap();
    }

    /// What a container may do to it.
    fn change(&self) {
        fs::write(self.upper("new"), "new").unwrap();
        fs::hard_link(self.upper("new"), self.upper("newer")).unwrap();
        symlink("/etc/passwd", self.upper("link")).unwrap();
        self.whiteout("gone");
        fs::create_dir(self.upper("dir")).unwrap();
        self.opaque("dir");
        fs::write(self.upper("dir/a"), "another text").unwrap();
        fs::create_dir(self.upper("made")).unwrap();
        self.opaque("made");
        fs::create_dir(self.upper("file-to-dir")).unwrap();
        fs::write(self.upper("file-to-dir/in"), "").unwrap();
        fs::create_dir_all(self.upper("sub/deep")).unwrap();
        fs::write(self.upper("sub/deep/y"), "").unwrap();
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn entries(archive: &[u8]) -> Vec<(String, Kind, String)> {
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let link = String::from_utf8(entry.link.clone()).unwrap();
        found.push((entry.shown(), entry.kind, link));
    }
    found
}

#[test]
fn a_layer_says_what_changed() {
    if !is_root() {
        return;
    }
    let layers = Layers::new();
    layers.change();
    let write = || {
        let mut out = Vec::new();
        write_layer(&layers.rootfs(), &LayerOptions::default(), &mut out).unwrap();
        out
    };
    let archive = write();
    assert_eq!(archive, write());
    let names: Vec<_> = entries(&archive).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(
        names,
        [
            "dir/",
            "dir/.wh..wh..opq",
            "dir/a",
            "file-to-dir/",
            "file-to-dir/in",
            ".wh.gone",
            "link",
            "made/",
            "new",
            "newer",
            "sub/",
            "sub/deep/",
            "sub/deep/y"
        ]
    );
    let newer = entries(&archive)
        .into_iter()
        .find(|(name, ..)| name == "newer")
        .unwrap();
    assert_eq!((newer.1, newer.2.as_str()), (Kind::Hardlink, "new"));
    // Nothing changed: nothing but the end of the archive.
    let empty = Layers::new();
    let mut out = Vec::new();
    write_layer(&empty.rootfs(), &LayerOptions::default(), &mut out).unwrap();
    assert_eq!(out.len(), 1024);
    fs::write(layers.upper("dir/.wh.trick"), "").unwrap();
    let refused = write_layer(&layers.rootfs(), &LayerOptions::default(), std::io::sink());
    assert!(refused.is_err());
}

#[test]
fn changes_follow_docker() {
    if !is_root() {
        return;
    }
    let layers = Layers::new();
    layers.change();
    let shown: Vec<String> = changes(&layers.rootfs())
        .unwrap()
        .into_iter()
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Modified => 'C',
                ChangeKind::Added => 'A',
                ChangeKind::Deleted => 'D',
            };
            format!("{kind} {}", String::from_utf8(change.path).unwrap())
        })
        .collect();
    assert_eq!(
        shown,
        [
            "C /dir",
            "C /dir/a",
            "D /dir/b",
            "C /file-to-dir",
            "A /file-to-dir/in",
            "D /gone",
            "A /link",
            "A /made",
            "A /new",
            "A /newer",
            "C /sub",
            "C /sub/deep",
            "A /sub/deep/y"
        ]
    );
}

fn folder(path: &Path) -> std::os::fd::OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn extract(archive: &[u8], place: Place, options: ExtractOptions) -> Result<(), Error> {
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits);
    let mut extractor = Extractor::new(place, options);
    while let Some(entry) = reader.next_entry()? {
        extractor.entry(&entry, &mut reader)?;
    }
    extractor.finish()
}

fn archive(heads: &[(Head, &str)]) -> Vec<u8> {
    let mut out = TarWriter::new(Vec::new());
    for (head, data) in heads {
        let head = Head {
            size: data.len() as u64,
            mode: if head.mode == 0 { 0o644 } else { head.mode },
            ..head.clone()
        };
        out.file(&head, &mut data.as_bytes()).unwrap();
    }
    out.finish().unwrap()
}

fn link(name: &str, target: &str, kind: Kind) -> (Head, &'static str) {
    let head = Head {
        kind,
        link: target.into(),
        ..Head::file(name)
    };
    (head, "")
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::create_dir_all(from.join("dir/sub")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("dir/file"), "text").unwrap();
    fs::set_permissions(from.join("dir/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(from.join("dir/file"), from.join("dir/sub/hard")).unwrap();
    symlink("../nowhere", from.join("dir/link")).unwrap();
    mknodat(CWD, from.join("dir/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("dir/socket")).unwrap();
    let sparse = fs::File::create(from.join("dir/sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    let user = rustix::fs::setxattr(from.join("dir/file"), "user.note", b"a\nb", XattrFlags::empty());
    let name = "long-".repeat(40);
    fs::write(from.join("dir").join(&name), "").unwrap();
    let mut out = TarWriter::new(Vec::new());
    let node = Node::at(folder(&from), "dir".as_ref()).unwrap();
    Walk::default().tree(&mut out, &node, b"copy").unwrap();
    let archive = out.finish().unwrap();
    extract(&archive, Place::beneath(folder(&to)), ExtractOptions::default()).unwrap();
    let copy = to.join("copy");
    assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "text");
    let stat = |name: &str| fs::symlink_metadata(copy.join(name)).unwrap();
    assert_eq!(stat("file").mode() & 0o7777, 0o4750);
    assert_eq!(
        (stat("file").ino(), stat("file").nlink()),
        (stat("sub/hard").ino(), 2)
    );
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("../nowhere"));
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&stat("fifo").file_type()));
    assert!(
        !copy.join("socket").exists(),
        "there is nothing of a socket to keep"
    );
    assert!(copy.join(name).exists());
    assert_eq!(stat("sparse").len(), 50 << 20);
    assert!(stat("sparse").blocks() < 1000, "holes stay holes");
    assert_eq!(
        stat("file").mtime(),
        fs::metadata(from.join("dir/file")).unwrap().mtime()
    );
    if user.is_ok() {
        let mut value = [0; 3];
        rustix::fs::getxattr(copy.join("file"), "user.note", &mut value[..]).unwrap();
        assert_eq!(&value, b"a\nb");
    }
}

#[test]
fn extraction_stays_inside() {
    let temp = tempfile::tempdir().unwrap();
    let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
    fs::create_dir_all(root.join("inner")).unwrap();
    fs::write(&outside, "host").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    let in_root = |base: &str| Place::in_root(folder(&root), Path::new(base));
    let plain = ExtractOptions::default;
    // `..` is refused, an absolute name is taken as relative.
    for name in ["../outside", "inner/../../outside"] {
        let hostile = archive(&[(Head::file(name), "x")]);
        assert!(matches!(
            extract(&hostile, in_root("/"), plain()),
            Err(Error::HostileArchive { .. })
        ));
    }
    extract(&archive(&[(Head::file("/abs"), "x")]), in_root("/inner"), plain()).unwrap();
    assert_eq!(fs::read_to_string(root.join("inner/abs")).unwrap(), "x");
    // A link out, then a file through it: it ends at the container's root, or is refused where no link is followed.
    let up = "../../../../../../../../..";
    let through = archive(&[
        link("way", &format!("{up}{}", temp.path().display()), Kind::Symlink),
        (Head::file("way/outside"), "owned"),
    ]);
    assert!(extract(&through, in_root("/"), plain()).is_err());
    let beneath = Place::beneath(folder(&root.join("inner")));
    assert!(extract(&through, beneath, plain()).is_err());
    // A file over a link replaces the link; a directory over a link does not change its target.
    symlink(&outside, root.join("link")).unwrap();
    extract(
        &archive(&[(
            Head {
                mode: 0o4777,
                ..Head::file("link")
            },
            "x",
        )]),
        in_root("/"),
        plain(),
    )
    .unwrap();
    assert!(fs::symlink_metadata(root.join("link")).unwrap().is_file());
    symlink(temp.path(), root.join("dirlink")).unwrap();
    let dir = Head {
        kind: Kind::Dir,
        mode: 0o4777,
        ..Head::file("dirlink")
    };
    extract(&archive(&[(dir, "")]), in_root("/"), plain()).unwrap();
    assert!(fs::symlink_metadata(root.join("dirlink")).unwrap().is_dir());
    // A hard link names nothing but what is inside.
    for target in [outside.to_str().unwrap(), "../outside"] {
        let hard = archive(&[link("stolen", target, Kind::Hardlink)]);
        assert!(extract(&hard, in_root("/"), plain()).is_err());
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "host");
    let stat = fs::metadata(&outside).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o600, 1));
    assert_ne!(fs::metadata(temp.path()).unwrap().mode() & 0o7777, 0o4777);
}

#[test]
fn a_link_inside_the_root_is_followed() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("run")).unwrap();
    fs::create_dir(temp.path().join("var")).unwrap();
    symlink("/run", temp.path().join("var/run")).unwrap();
    let place = Place::in_root(folder(temp.path()), Path::new("/"));
    extract(
        &archive(&[(Head::file("var/run/pid"), "1")]),
        place,
        ExtractOptions::default(),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(temp.path().join("run/pid")).unwrap(), "1");
}

#[test]
fn directories_and_files_do_not_replace_each_other_unless_wanted() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("d/e")).unwrap();
    fs::write(temp.path().join("f"), "").unwrap();
    let place = || Place::in_root(folder(temp.path()), Path::new("/"));
    let refuse = || ExtractOptions {
        no_overwrite_dir_non_dir: true,
        ..ExtractOptions::default()
    };
    let over_dir = archive(&[(Head::file("d"), "x")]);
    let error = extract(&over_dir, place(), refuse()).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot overwrite directory \"/d\" with non-directory \"/\""
    );
    let dir = Head {
        kind: Kind::Dir,
        mode: 0o755,
        ..Head::file("f")
    };
    let over_file = archive(&[(dir, "")]);
    let error = extract(&over_file, place(), refuse()).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot overwrite non-directory \"/f\" with directory \"/\""
    );
    extract(&over_dir, place(), ExtractOptions::default()).unwrap();
    extract(&over_file, place(), ExtractOptions::default()).unwrap();
    assert!(temp.path().join("d").is_file() && temp.path().join("f").is_dir());
}

#[test]
fn walks_deeper_than_descriptors() {
    let temp = tempfile::tempdir().unwrap();
    let mut path = temp.path().join("top");
    for _ in 0..300 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("end"), "x").unwrap();
    fs::write(temp.path().join("top/z"), "").unwrap();
    let node = Node::at(folder(temp.path()), "top".as_ref()).unwrap();
    let mut out = TarWriter::new(Vec::new());
    Walk::default().tree(&mut out, &node, b".").unwrap();
    let archive = out.finish().unwrap();
    let found = entries(&archive);
    assert_eq!(found.len(), 303);
    assert_eq!(found.last().unwrap().0, "./z");
    let mut content = Vec::new();
    plain(&archive[..]).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, archive);
}
