//! Hostile layers by name of their advisory, hostile trees at random, and honest stacks against a naive model.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::Form;
use crate::{Error, Limits, merged::Merged};

/// A layer archive made header by header, names unchecked.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn add(mut self, name: &str, kind: EntryType, mode: u32, link: &str, data: &[u8]) -> Self {
        let mut h = Header::new_gnu();
        h.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        h.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_uid(1);
        h.set_gid(2);
        h.set_mtime(1_000_000);
        h.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        }
        h.set_cksum();
        self.0.extend(h.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.add(name, EntryType::Regular, 0o644, "", data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.add(name, EntryType::Directory, 0o755, "", b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(name, EntryType::Symlink, 0o777, target, b"")
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.add(name, EntryType::Link, 0o644, target, b"")
    }
}

/// A place to unpack in, beside a directory that must stay as it is.
struct Place {
    tmp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("canary")).unwrap();
        fs::write(tmp.path().join("canary/file"), "untouched").unwrap();
        fs::set_permissions(tmp.path().join("canary/file"), fs::Permissions::from_mode(0o600)).unwrap();
        Place { tmp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// Unpacks on top of layers (bottom first) that are there already.
    fn unpack(&self, name: &str, below: &[&str], layer: &Layer) -> crate::Result<u64> {
        let dest = self.path(name);
        fs::create_dir(&dest).unwrap();
        let below: Vec<PathBuf> = below.iter().rev().map(|b| self.path(b)).collect();
        let below = Merged::open(below.iter().map(PathBuf::as_path)).unwrap();
        let unpacked = super::unpack(&layer.0[..], &dest, Form::Overlay, &below, &Limits::default());
        unpacked.map(|(size, _)| size)
    }

    /// Unpacks on a whole tree.
    fn unpack_tree(&self, name: &str, layer: &Layer) -> crate::Result<u64> {
        let dest = self.path(name);
        fs::create_dir_all(&dest).unwrap();
        let nothing = Merged::open([]).unwrap();
        let unpacked = super::unpack(&layer.0[..], &dest, Form::Tree, &nothing, &Limits::default());
        unpacked.map(|(size, _)| size)
    }

    fn canary_is_untouched(&self) {
        let file = self.path("canary/file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "untouched");
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.nlink()), (0o600, 0, 1));
        assert_eq!(fs::read_dir(self.path("canary")).unwrap().count(), 1);
    }

    fn refused(&self, layer: &Layer, entry: &str, reason: &str) {
        let name = format!("l{}", fs::read_dir(self.tmp.path()).unwrap().count());
        match self.unpack(&name, &[], layer) {
            Err(Error::HostileArchive { entry: e, reason: r }) => {
                assert_eq!(e, entry);
                assert!(r.contains(reason), "{r}");
            }
            other => panic!("not refused: {other:?}"),
        }
        self.canary_is_untouched();
    }
}

#[test]
fn names_that_leave_the_root_are_refused() {
    let p = Place::new();
    p.refused(
        &Layer::default().file("../canary/file", "x"),
        "../canary/file",
        "..",
    );
    p.refused(
        &Layer::default().dir("a").file("a/../../canary/new", "x"),
        "a/../../canary/new",
        "..",
    );
    p.refused(&Layer::default().file("/etc/x", "x"), "/etc/x", "absolute");
    p.refused(
        &Layer::default().file("a/.wh...", ""),
        "a/.wh...",
        "whiteout of no name",
    );
    p.refused(
        &Layer::default().file("a/.wh..", ""),
        "a/.wh..",
        "whiteout of no name",
    );
    p.refused(
        &Layer::default().file(".wh.a/b", ""),
        ".wh.a/b",
        "whiteout used as a directory",
    );
}

#[test]
fn cve_2021_29136_symlink_then_file_under_it_is_refused() {
    let p = Place::new();
    let out = p.path("canary").display().to_string();
    p.refused(
        &Layer::default().link("a", &out).file("a/new", "x"),
        "a/new",
        "symbolic link",
    );
    p.refused(
        &Layer::default().link("a", "../canary").file("a/file", "x"),
        "a/file",
        "symbolic link",
    );
    p.refused(
        &Layer::default().link("a", ".").file("a/b/c", "x"),
        "a/b/c",
        "symbolic link",
    );
    p.refused(
        &Layer::default().file("f", "").file("f/x", ""),
        "f/x",
        "no directory",
    );
}

#[test]
fn cve_2014_9356_absolute_symlinks_stay_links_and_are_never_followed() {
    let p = Place::new();
    let target = p.path("canary/file").display().to_string();
    let layer = Layer::default().link("a", &target).file("a", "mine");
    p.unpack("l", &[], &layer).unwrap();
    assert_eq!(fs::read_to_string(p.path("l/a")).unwrap(), "mine");
    p.canary_is_untouched();
}

#[test]
fn root_entry_as_symlink_is_refused() {
    let p = Place::new();
    p.refused(
        &Layer::default().link("./", "../canary"),
        "./",
        "must be a directory",
    );
    p.refused(
        &Layer::default().link(".", "../canary").file("x", ""),
        ".",
        "must be a directory",
    );
}

#[test]
fn rustsec_2018_0002_hardlinks_outside_or_over_are_refused() {
    let p = Place::new();
    p.refused(
        &Layer::default().hard("a", "../canary/file").file("a", "x"),
        "a",
        "..",
    );
    p.refused(&Layer::default().hard("a", "/etc/passwd"), "a", "absolute");
    p.refused(
        &Layer::default().link("l", "../canary").hard("a", "l/file"),
        "a",
        "symbolic link",
    );
    p.refused(&Layer::default().hard("a", "none"), "a", "does not exist");
    p.refused(
        &Layer::default().file("a", "").file("b", "").hard("b", "a"),
        "b",
        "over an existing",
    );
    p.refused(&Layer::default().dir("d").hard("a", "d"), "a", "to a directory");
    p.refused(&Layer::default().hard("a", "./"), "a", "to the root");
}

#[test]
fn hard_link_to_a_link_then_write_does_not_reach_the_target() {
    let p = Place::new();
    let target = p.path("canary/file").display().to_string();
    let layer = Layer::default().link("s", &target).hard("h", "s").file("h", "x");
    p.unpack("l", &[], &layer).unwrap();
    p.canary_is_untouched();
}

#[test]
fn rustsec_2021_0080_directories_are_not_made_outside() {
    let p = Place::new();
    p.refused(
        &Layer::default().link("d", "../canary").dir("d/sub/"),
        "d/sub/",
        "symbolic link",
    );
}

#[test]
fn rustsec_2026_0067_directory_over_symlink_must_not_chmod_its_target() {
    let p = Place::new();
    let layer = Layer::default()
        .link("d", "../canary")
        .add("d", EntryType::Directory, 0o777, "", b"");
    p.refused(&layer, "d", "directory over a symbolic link");
}

#[test]
fn replacing_a_file_breaks_its_hard_links() {
    let p = Place::new();
    let layer = Layer::default().file("a", "old").hard("b", "a").file("a", "new");
    p.unpack("l", &[], &layer).unwrap();
    assert_eq!(fs::read_to_string(p.path("l/b")).unwrap(), "old");
    assert_eq!(fs::read_to_string(p.path("l/a")).unwrap(), "new");
    p.refused(
        &Layer::default().dir("d").file("d", ""),
        "d",
        "replaces a directory",
    );
}

#[test]
fn attributes_devices_and_links_arrive() {
    let p = Place::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("SCHILY.xattr.security.capability", &capability[..])])
        .unwrap();
    let mut layer = Layer(pax.into_inner().unwrap());
    layer.0.truncate(layer.0.len() - 1024);
    let layer = layer
        .add("bin/su", EntryType::Regular, 0o4755, "", b"elf")
        .add("dev/null", EntryType::Char, 0o666, "", b"")
        .add("dev/disk", EntryType::Block, 0o640, "", b"")
        .add("run/fifo", EntryType::Fifo, 0o1622, "", b"")
        .add("tmp", EntryType::Directory, 0o1777, "", b"")
        .link("lib", "usr/lib");
    assert_eq!(p.unpack("l", &[], &layer).unwrap(), 3);
    let stat = |name: &str| fs::symlink_metadata(p.path("l").join(name)).unwrap();
    assert_eq!(
        (
            stat("bin/su").mode() & 0o7777,
            stat("bin/su").uid(),
            stat("bin/su").gid()
        ),
        (0o4755, 1, 2)
    );
    assert_eq!(stat("bin/su").mtime(), 1_000_000);
    let mut value = [0; 64];
    let n = rustix::fs::getxattr(p.path("l/bin/su"), "security.capability", &mut value).unwrap();
    assert_eq!(value[..n], capability);
    assert!(stat("dev/null").file_type().is_char_device());
    assert_eq!(
        (stat("dev/null").rdev(), stat("dev/null").mode() & 0o777),
        (0x103, 0o666)
    );
    assert!(stat("dev/disk").file_type().is_block_device());
    assert!(stat("run/fifo").file_type().is_fifo() && stat("run/fifo").mode() & 0o7777 == 0o1622);
    assert_eq!(
        (stat("tmp").mode() & 0o7777, stat("tmp").mtime()),
        (0o1777, 1_000_000)
    );
    assert_eq!((stat("lib").uid(), stat("lib").mtime()), (1, 1_000_000));
}

#[test]
fn upper_layers_inherit_hide_and_link() {
    let p = Place::new();
    let base = Layer::default()
        .add("keep", EntryType::Directory, 0o700, "", b"")
        .file("keep/a", "a")
        .file("gone", "x")
        .dir("hidden")
        .file("hidden/x", "x");
    p.unpack("base", &[], &base).unwrap();
    let top = Layer::default()
        .file("keep/b", "b")
        .file(".wh.gone", "")
        .file(".wh.never", "")
        .file("hidden/.wh..wh..opq", "")
        .file("hidden/y", "y")
        .hard("link", "keep/a");
    p.unpack("top", &["base"], &top).unwrap();
    let stat = |name: &str| fs::symlink_metadata(p.path("top").join(name)).unwrap();
    assert_eq!((stat("keep").mode() & 0o7777, stat("keep").uid()), (0o700, 1));
    assert!(stat("gone").file_type().is_char_device() && stat("gone").rdev() == 0);
    assert!(!p.path("top/never").exists());
    let mut value = [0; 4];
    assert_eq!(
        rustix::fs::getxattr(p.path("top/hidden"), "trusted.overlay.opaque", &mut value).unwrap(),
        1
    );
    assert_eq!(stat("link").ino(), stat("keep/a").ino());
    assert_eq!(fs::read_to_string(p.path("top/link")).unwrap(), "a");
}

/// Names that cross each other's paths as often as possible.
fn hostile_entry() -> impl Strategy<Value = (String, u8, String, u32)> {
    let name = prop::collection::vec(
        prop::sample::select(vec![
            "a",
            "b",
            "..",
            ".",
            "",
            ".wh.a",
            ".wh..wh..opq",
            ".wh...",
            "canary",
            "file",
        ]),
        1..5,
    )
    .prop_map(|parts| parts.join("/"));
    let link = prop::sample::select(vec![
        "../canary",
        "../canary/file",
        "/",
        "..",
        "a",
        "b/a",
        ".",
        "/tmp",
        "a/../../canary",
        "canary/file",
    ]);
    (
        name,
        0u8..7,
        link.prop_map(str::to_owned),
        prop::sample::select(vec![0o644, 0o4777, 0o000]),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn hostile_trees_never_write_outside(entries in prop::collection::vec(hostile_entry(), 1..12)) {
        let p = Place::new();
        symlink("canary", p.path("link")).unwrap();
        let mut layer = Layer::default();
        for (name, kind, link, mode) in &entries {
            let kinds = [
                EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Symlink,
                EntryType::Fifo, EntryType::Char,
            ];
            let kind = kinds[usize::from(*kind)];
            let data: &[u8] = if kind == EntryType::Regular { b"evil" } else { b"" };
            layer = layer.add(name, kind, *mode, link, data);
        }
        let _ = p.unpack("root", &[], &layer);
        p.canary_is_untouched();
        let mut names: Vec<_> =
            fs::read_dir(p.tmp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        prop_assert_eq!(names, ["canary", "link", "root"]);
    }
}

/// What a path is in the model: a directory with its mode, or a file with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir(u32),
    File(String),
}

type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
enum Op {
    File(String, String),
    Dir(String, u32),
    Whiteout(String),
    Opaque(String),
}

fn model_remove(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.retain(|p, _| p != path && !p.starts_with(&below));
}

/// Applies a layer to the model: first what it hides, then what it brings.
fn model_apply(tree: &mut Tree, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Whiteout(path) => model_remove(tree, path),
            Op::Opaque(path) => {
                let below = format!("{path}/");
                tree.retain(|p, _| !p.starts_with(&below));
                if !matches!(tree.get(path), Some(Node::Dir(_))) {
                    tree.remove(path);
                }
            }
            _ => {}
        }
    }
    for op in ops {
        match op {
            Op::File(path, text) => {
                model_remove(tree, path);
                model_parents(tree, path);
                tree.insert(path.clone(), Node::File(text.clone()));
            }
            Op::Dir(path, mode) => {
                model_parents(tree, path);
                tree.insert(path.clone(), Node::Dir(*mode));
            }
            Op::Opaque(path) => model_parents(tree, &format!("{path}/")),
            Op::Whiteout(_) => {}
        }
    }
}

fn model_parents(tree: &mut Tree, path: &str) {
    for (i, _) in path.match_indices('/') {
        let parent = path[..i].to_owned();
        if !matches!(tree.get(&parent), Some(Node::Dir(_))) {
            tree.insert(parent, Node::Dir(0o755));
        }
    }
}

/// Layers that are valid by themselves: no path twice, nothing both hidden and used, files have no children.
fn honest_layer() -> impl Strategy<Value = Vec<Op>> {
    let path = "[abc](/[abc]){0,2}";
    let op = prop_oneof![
        4 => (path, "[a-z]{0,4}").prop_map(|(p, t)| Op::File(p, t)),
        2 => (path, prop::sample::select(vec![0o700, 0o755, 0o1777])).prop_map(|(p, m)| Op::Dir(p, m)),
        2 => path.prop_map(Op::Whiteout),
        1 => path.prop_map(Op::Opaque),
    ];
    prop::collection::vec(op, 0..8).prop_map(|ops| {
        let mut kept: Vec<Op> = Vec::new();
        let path_of = |op: &Op| match op {
            Op::File(p, _) | Op::Dir(p, _) | Op::Whiteout(p) | Op::Opaque(p) => p.clone(),
        };
        for op in ops {
            let p = path_of(&op);
            let leaf = |op: &Op| matches!(op, Op::File(..) | Op::Whiteout(_));
            let clashes = kept.iter().any(|k| {
                let kp = path_of(k);
                kp == p
                    || (p.starts_with(&format!("{kp}/")) && leaf(k))
                    || (kp.starts_with(&format!("{p}/")) && leaf(&op))
            });
            if !clashes {
                kept.push(op);
            }
        }
        kept
    })
}

fn archive(ops: &[Op]) -> Layer {
    let mut layer = Layer::default();
    // What hides comes first, parents first, as the layer spec recommends and builders do.
    let mut ops = ops.to_vec();
    ops.sort_by_key(|op| match op {
        Op::Whiteout(p) | Op::Opaque(p) => (0, p.clone()),
        Op::File(..) | Op::Dir(..) => (1, String::new()),
    });
    for op in &ops {
        layer = match op {
            Op::File(p, text) => layer.file(p, text),
            Op::Dir(p, mode) => layer.add(p, EntryType::Directory, *mode, "", b""),
            Op::Whiteout(p) => match p.rsplit_once('/') {
                Some((dir, name)) => layer.file(&format!("{dir}/.wh.{name}"), ""),
                None => layer.file(&format!(".wh.{p}"), ""),
            },
            Op::Opaque(p) => layer.file(&format!("{p}/.wh..wh..opq"), ""),
        };
    }
    layer
}

/// The stack as the kernel shows it.
fn kernel_view(mount: &Path) -> Tree {
    fn walk(root: &Path, dir: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                tree.insert(name, Node::Dir(meta.mode() & 0o7777));
                walk(root, &path, tree);
            } else {
                tree.insert(name, Node::File(fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut tree = Tree::new();
    walk(mount, mount, &mut tree);
    tree
}

/// Mounted in a namespace of this thread only; dropping unmounts.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn mount(lower: &[PathBuf], at: &Path) -> Result<Mounted, rustix::io::Errno> {
    let dirs: Vec<_> = lower.iter().map(|p| p.to_str().unwrap()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", dirs.join(":"))).unwrap();
    rustix::mount::mount(
        "overlay",
        at,
        "overlay",
        rustix::mount::MountFlags::RDONLY,
        options.as_c_str(),
    )?;
    Ok(Mounted(at.into()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn random_stacks_unpack_as_the_model_says(layers in prop::collection::vec(honest_layer(), 1..4)) {
        let p = Place::new();
        let mut model = Tree::new();
        let mut names: Vec<String> = Vec::new();
        for (i, ops) in layers.iter().enumerate() {
            let below: Vec<&str> = names.iter().map(String::as_str).collect();
            let name = format!("layer{i}");
            p.unpack(&name, &below, &archive(ops)).unwrap();
            p.unpack_tree("tree", &archive(ops)).unwrap();
            names.push(name);
            model_apply(&mut model, ops);
        }
        // Our own view of the stack must agree, and the kernel's where overlayfs may be mounted.
        let mut dirs: Vec<PathBuf> = names.iter().rev().map(|n| p.path(n)).collect();
        let view = Merged::open(dirs.iter().map(PathBuf::as_path)).unwrap();
        for path in ["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "c/c/c"] {
            let found = view.find(path.split('/').map(AsRef::as_ref)).unwrap();
            prop_assert_eq!(found.is_some(), model.contains_key(path), "{}", path);
        }
        prop_assert_eq!(&kernel_view(&p.path("tree")), &model, "as a whole tree");
        fs::create_dir(p.path("empty")).unwrap();
        fs::create_dir(p.path("mnt")).unwrap();
        dirs.push(p.path("empty"));
        match mount(&dirs, &p.path("mnt")) {
            Ok(mounted) => prop_assert_eq!(kernel_view(&mounted.0), model),
            Err(e) => eprintln!("skipped the kernel's view: overlayfs can't be mounted here: {e}"),
        }
    }
}
