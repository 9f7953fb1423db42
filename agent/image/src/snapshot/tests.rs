//! Drivers' names and options, and a store on `vfs` from load to commit. btrfs needs a file system of its own: the engine's
//! tests have one.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use super::{StorageOptions, folder_of};
use crate::{
    CommitOptions, ContainerConfig, ImageStore, LayerOptions, Limits, Reference, Rootfs, archive::ChangeKind,
    scratch::Builder,
};

fn options(driver: &str, options: &[&str]) -> StorageOptions {
    StorageOptions {
        driver: driver.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        subvolumes: None,
    }
}

#[test]
fn what_no_driver_has_is_refused_by_name() {
    for (driver, part) in [
        ("aufs", "aufs is not supported"),
        ("devicemapper", "use overlay2"),
        ("zfs", "overlay2 works on ZFS"),
        ("overlay", "replaced by overlay2"),
        ("fuse-overlayfs", "runs as root"),
        ("tape", "unknown storage driver \"tape\""),
    ] {
        let error = options(driver, &[]).check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (option, part) in [
        ("overlay2.size=1G", "overlay2.size: limits"),
        ("dm.basesize=1G", "no storage driver has such an option"),
        ("btrfs.min_space=1G", "quotas"),
    ] {
        let error = options("", &[option]).check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let tmp = tempfile::tempdir().unwrap();
    let error = options("btrfs", &[]).choose(tmp.path()).unwrap_err().to_string();
    assert!(
        error.contains("not on a btrfs file system") || error.contains("not built"),
        "{error}"
    );
}

#[test]
fn the_driver_in_use_is_taken_and_two_are_asked_about() {
    let tmp = tempfile::tempdir().unwrap();
    let used = |name: &str| {
        fs::create_dir(tmp.path().join(folder_of(name))).unwrap();
        fs::write(tmp.path().join(folder_of(name)).join("images.json"), "{}").unwrap();
    };
    used("vfs");
    assert_eq!(options("", &[]).choose(tmp.path()).unwrap(), "vfs");
    used("overlay2");
    let error = options("", &[]).choose(tmp.path()).unwrap_err().to_string();
    assert!(
        error.contains("several valid storage drivers: overlay2, vfs"),
        "{error}"
    );
    assert_eq!(options("vfs", &[]).choose(tmp.path()).unwrap(), "vfs");
}

fn image() -> Vec<u8> {
    let mut archive = Vec::new();
    Builder::new()
        .file("/bin/app", 0o755, "app")
        .file("/etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\n")
        .file("/etc/gone", 0o644, "soon")
        .dir("/data", 0o1777)
        .file("/data/old", 0o644, "old")
        .symlink("/bin/link", "app")
        .config(ContainerConfig::default())
        .write(&[Reference::parse("base:1").unwrap()], &mut archive)
        .unwrap();
    archive
}

#[test]
fn vfs_holds_layers_containers_and_what_they_change() {
    let tmp = tempfile::tempdir().unwrap();
    let open = || ImageStore::open_on(tmp.path(), Limits::default(), &options("vfs", &[])).unwrap();
    let store = open();
    store.load(&image()[..], &mut |_| {}).unwrap();
    let base = store.get("base:1").unwrap();
    let rootfs = store.prepare_rootfs("one", &base).unwrap();
    assert!(rootfs.is_tree);
    let root: &Path = &rootfs.upper;
    assert_eq!(fs::read_to_string(root.join("bin/app")).unwrap(), "app");
    assert_eq!(fs::metadata(root.join("data")).unwrap().mode() & 0o7777, 0o1777);
    assert!(root.join("proc").is_dir() && root.join(".dockerenv").is_file());
    assert!(
        store.changes("one").unwrap().is_empty(),
        "{:?}",
        store.changes("one")
    );
    assert_eq!(store.rootfs_size("one").unwrap().rw, 0);

    fs::write(root.join("data/new"), "12345").unwrap();
    fs::write(root.join("bin/app"), "other").unwrap();
    fs::remove_file(root.join("etc/gone")).unwrap();
    let text = |store: &ImageStore| {
        let changes = store.changes("one").unwrap();
        let kind = |kind: ChangeKind| match kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        let line =
            |c: &crate::archive::Change| format!("{}{}", kind(c.kind), String::from_utf8_lossy(&c.path));
        changes.iter().map(line).collect::<Vec<_>>()
    };
    let expected = [
        "C/bin",
        "C/bin/app",
        "C/data",
        "A/data/new",
        "C/etc",
        "D/etc/gone",
    ];
    assert_eq!(text(&store), expected);
    assert_eq!(store.rootfs_size("one").unwrap().rw, 10);
    drop(store);

    // It is all there after a restart, the image by force away, and its layers with the last that needs them.
    let store = open();
    assert_eq!(text(&store), expected);
    let options = CommitOptions {
        parent: "base:1".into(),
        reference: Some("two".into()),
        ..CommitOptions::default()
    };
    store.commit_container("one", &options).unwrap();
    let two = store
        .prepare_rootfs("two", &store.get("two").unwrap())
        .unwrap()
        .upper;
    assert_eq!(fs::read_to_string(two.join("data/new")).unwrap(), "12345");
    assert_eq!(fs::read_to_string(two.join("bin/app")).unwrap(), "other");
    assert!(!two.join("etc/gone").exists() && two.join("etc/passwd").exists());
    assert!(store.changes("two").unwrap().is_empty());
    for id in ["one", "two"] {
        store.remove_rootfs(id).unwrap();
    }
    for name in ["base:1", "two"] {
        store.remove(name, &Default::default(), &|_| vec![]).unwrap();
    }
    let left = fs::read_dir(tmp.path().join("layers")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn the_same_container_gives_the_same_image_on_every_driver() {
    let mut ids = Vec::new();
    for driver in ["overlay2", "vfs"] {
        let tmp = tempfile::tempdir().unwrap();
        let store = ImageStore::open_on(tmp.path(), Limits::default(), &options(driver, &[])).unwrap();
        store.load(&image()[..], &mut |_| {}).unwrap();
        let base = store.stack(&store.get("base:1").unwrap().id).unwrap();
        let layer = |name: &str, data: &[u8]| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut h = tar::Header::new_ustar();
            h.set_size(data.len() as u64);
            h.set_mode(0o644);
            tar.append_data(&mut h, name, data).unwrap();
            tar.into_inner().unwrap()
        };
        let one = store
            .layer_of_archive(&layer("etc/.wh.gone", b"")[..], &base)
            .unwrap();
        let two = store
            .layer_of_archive(&layer("bin/app", b"new")[..], &one)
            .unwrap();
        let rootfs = store.snapshot("step", &two).unwrap();
        let user = store.resolve_user(&rootfs, "root").unwrap();
        ids.push((
            two.chain(),
            two.layers().map(|l| l.size).collect::<Vec<_>>(),
            user,
        ));
    }
    assert_eq!(ids[0], ids[1]);
}

/// In a user namespace `trusted.` attributes can't be written; the driver then takes `user.` ones, and mounts say so.
#[test]
fn overlay2_works_in_a_user_namespace() {
    let inside = "snapshot::tests::inside_a_user_namespace";
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(test);
    let output = command
        .args(["--exact", inside, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    if text[1].contains("unshare failed") {
        eprintln!("skipped: {}", text[1].trim());
        return;
    }
    assert!(
        output.status.success() && text[0].contains("1 passed"),
        "{text:?}"
    );
}

#[test]
#[ignore = "started in a user namespace by overlay2_works_in_a_user_namespace"]
fn inside_a_user_namespace() {
    let tmp = tempfile::tempdir().unwrap();
    let store = ImageStore::open_on(tmp.path(), Limits::default(), &options("overlay2", &[])).unwrap();
    let (_, status) = store.storage();
    assert!(
        status.contains(&("userxattr".into(), "true".into())),
        "{status:?}"
    );
    store.load(&image()[..], &mut |_| {}).unwrap();
    let base = store.stack(&store.get("base:1").unwrap().id).unwrap();
    let stack = store.layer_of_archive(&second_layer()[..], &base).unwrap();
    let opaque = |dir: &Path| {
        let mut value = [0; 1];
        rustix::fs::lgetxattr(dir, "user.overlay.opaque", &mut value[..]).is_ok_and(|_| value == *b"y")
    };

    let rootfs = store.snapshot("one", &stack).unwrap();
    assert!(opaque(&rootfs.lower[1].join("data")));
    let mount = mounted(&rootfs);
    let root = crate::merged::proc_path(&mount);
    assert!(!root.join("etc/gone").exists(), "a whiteout hides");
    assert!(!root.join("data/old").exists(), "an opaque directory hides");
    assert_eq!(fs::read_to_string(root.join("data/new")).unwrap(), "new");
    // The kernel's own marks are read as well.
    fs::remove_file(root.join("bin/app")).unwrap();
    fs::remove_dir_all(root.join("data")).unwrap();
    fs::create_dir(root.join("data")).unwrap();
    fs::write(root.join("data/third"), "3").unwrap();
    drop(mount);
    assert!(opaque(&rootfs.upper.join("data")));
    let changed: Vec<_> = store.changes("one").unwrap();
    let deleted = |path: &[u8]| {
        changed
            .iter()
            .any(|c| c.path == path && c.kind == ChangeKind::Deleted)
    };
    assert!(deleted(b"/bin/app"), "{changed:?}");

    let stack = store
        .layer_of_snapshot("one", &stack, &LayerOptions::default())
        .unwrap();
    let two = store.snapshot("two", &stack).unwrap();
    let mount = mounted(&two);
    let root = crate::merged::proc_path(&mount);
    let names = fs::read_dir(root.join("data")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["third"]);
    assert!(!root.join("bin/app").exists() && root.join("bin/link").is_symlink());
}

/// On top of [`image`]: a file deleted, a directory replaced.
fn second_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, data) in [
        ("etc/.wh.gone", tar::EntryType::Regular, ""),
        ("data/", tar::EntryType::Directory, ""),
        ("data/.wh..wh..opq", tar::EntryType::Regular, ""),
        ("data/new", tar::EntryType::Regular, "new"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// As the runtime mounts it, attached nowhere.
fn mounted(rootfs: &Rootfs) -> std::os::fd::OwnedFd {
    use rustix::mount::*;
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for layer in &rootfs.lower {
        fsconfig_set_string(&overlay, "lowerdir+", layer).unwrap();
    }
    fsconfig_set_string(&overlay, "upperdir", &rootfs.upper).unwrap();
    fsconfig_set_string(&overlay, "workdir", &rootfs.work).unwrap();
    fsconfig_set_string(&overlay, "index", "off").unwrap();
    fsconfig_set_flag(&overlay, "userxattr").unwrap();
    fsconfig_create(&overlay).unwrap();
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}
