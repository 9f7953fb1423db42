//! The other storage drivers: what other cases say of containers' files, on vfs and on a btrfs of the case's own; and what can't
//! be chosen.

// Cases of other files are awaited inside of these, each once.
#![allow(clippy::large_futures)]

use std::path::PathBuf;

use pontoon_engine::{Engine, EngineConfig};
use pontoon_proto::v1::{DiskUsageRequest, MountType};

use crate::bed::{Bed, STORAGE, Storage, cases, run, sh, with};

cases![
    vfs_lists_changes,
    vfs_commits,
    vfs_commits_while_running,
    vfs_copies_and_exports,
    vfs_keeps_its_books,
    btrfs_lists_changes,
    btrfs_commits,
    btrfs_commits_while_running,
    btrfs_copies_and_exports,
    btrfs_keeps_its_books,
    drivers_are_refused_by_name,
    another_driver_hides_images_and_containers,
];

/// A file system of this case: the namespace of its mounts ends with it.
struct Disk {
    temp: tempfile::TempDir,
}

impl Disk {
    fn btrfs() -> Option<Self> {
        let is_there = std::fs::read_to_string("/proc/filesystems")
            .unwrap()
            .contains("\tbtrfs\n");
        let tools = std::process::Command::new("mkfs.btrfs").arg("--version").output();
        if !is_there || tools.is_err() {
            println!("skipped: needs btrfs in the kernel, and mkfs.btrfs");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let (image, at) = (temp.path().join("disk"), temp.path().join("mnt"));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(256 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let (image, at) = (image.to_str().unwrap(), at.to_str().unwrap());
        run("mkfs.btrfs", &["--quiet", image]);
        run("mount", &["-o", "loop", image, at]);
        Some(Disk { temp })
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("mnt")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.path().to_str().unwrap()]);
    }
}

/// Runs a case of other files on a driver.
async fn on_btrfs(case: impl Future<Output = ()>) {
    let Some(disk) = Disk::btrfs() else { return };
    let storage = Storage {
        driver: "btrfs",
        folder: Some(disk.path()),
    };
    STORAGE.set(storage).ok().unwrap();
    case.await;
}

async fn on_vfs(case: impl Future<Output = ()>) {
    let storage = Storage {
        driver: "vfs",
        folder: None,
    };
    STORAGE.set(storage).ok().unwrap();
    case.await;
}

async fn vfs_lists_changes() {
    on_vfs(crate::archive::changes_as_docker_lists_them()).await;
}

async fn vfs_commits() {
    on_vfs(crate::archive::committed_image_runs()).await;
}

async fn vfs_commits_while_running() {
    on_vfs(crate::archive::commit_while_running()).await;
}

async fn vfs_copies_and_exports() {
    on_vfs(async {
        crate::copy::content::copies_out_of_every_state().await;
        crate::copy::content::copies_in_and_keeps_what_archives_say().await;
        crate::copy::places::export_has_the_root_file_system().await;
    })
    .await;
}

async fn vfs_keeps_its_books() {
    on_vfs(books("vfs")).await;
}

async fn btrfs_lists_changes() {
    on_btrfs(crate::archive::changes_as_docker_lists_them()).await;
}

async fn btrfs_commits() {
    on_btrfs(crate::archive::committed_image_runs()).await;
}

async fn btrfs_commits_while_running() {
    on_btrfs(crate::archive::commit_while_running()).await;
}

async fn btrfs_copies_and_exports() {
    on_btrfs(async {
        crate::copy::content::copies_out_of_every_state().await;
        crate::copy::content::copies_in_and_keeps_what_archives_say().await;
        crate::copy::places::export_has_the_root_file_system().await;
    })
    .await;
}

async fn btrfs_keeps_its_books() {
    on_btrfs(books("btrfs")).await;
}

/// What `info`, `inspect`, `system df` and a restart say, and that volumes and image mounts find the image's files.
async fn books(driver: &str) {
    let mut bed = Bed::new().await;
    let info = bed.engine.info().await.unwrap();
    assert_eq!(info.storage_driver, driver);
    let id = bed.create(sh("dd if=/dev/zero of=/big bs=1000 count=500")).await;
    bed.engine.start(&id).await.unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    let view = bed.engine.inspect_whole(&id).await.unwrap();
    assert_eq!((view.driver.as_str(), view.driver_data.len()), (driver, 0));
    bed.reopen().await;
    let usage = bed.engine.disk_usage(&DiskUsageRequest::default()).await.unwrap();
    let found = usage.containers.iter().find(|c| c.id == id).unwrap();
    assert_eq!(found.size_rw, 500_000);
    assert_eq!(found.size_root_fs - found.size_rw, usage.layers_size);

    let mounted = with(
        sh("cat /image/etc/passwd; ls /image/proc /image/.dockerenv; ls /data"),
        |config, _| {
            let mount = |kind: MountType, source: &str, target: &str| pontoon_proto::v1::Mount {
                r#type: kind.into(),
                source: source.into(),
                target: target.into(),
                ..Default::default()
            };
            config.mounts.push(mount(MountType::Image, "busybox", "/image"));
            config.mounts.push(mount(MountType::Volume, "fresh", "/data"));
        },
    );
    let (_, out, err) = bed.run(mounted).await;
    assert!(out.contains("root:"), "{out}{err}");
    assert!(err.contains("/image/.dockerenv: No such file"), "{err}");
    bed.engine.remove(&id, true).await.unwrap();
    assert!(bed.engine.check_images(false).await.unwrap().problems.is_empty());
    bed.finish().await;
}

async fn drivers_are_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let open = |driver: &str, options: &[&str], remap: &str| {
        let mut config = EngineConfig::new(temp.path().join("data"), temp.path().join("run"));
        config.storage.driver = driver.into();
        config.storage.options = options.iter().map(|o| (*o).to_owned()).collect();
        config.userns_remap = remap.into();
        async move {
            match Engine::open(config).await {
                Ok(_) => panic!("it opens"),
                Err(error) => error.chain(),
            }
        }
    };
    for (driver, options, part) in [
        ("devicemapper", &[][..], "use overlay2"),
        ("zfs", &[][..], "zfs is not supported"),
        ("btrfs", &[][..], "not on a btrfs file system"),
        ("", &["overlay2.size=10G"][..], "overlay2.size"),
    ] {
        let text = open(driver, options, "").await;
        assert!(text.contains(part), "{text}");
    }
    let tmpfs = temp.path().join("on-overlay");
    // overlayfs on overlayfs can't hold an upper layer.
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir_all(tmpfs.join(name)).unwrap();
    }
    let dir = |name: &str| tmpfs.join(name).display().to_string();
    let at = dir("lower");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        dir("lower"),
        dir("upper"),
        dir("work")
    );
    run("mount", &["-t", "overlay", "overlay", "-o", &options, &at]);
    let mut config = EngineConfig::new(tmpfs.join("lower/data"), temp.path().join("run2"));
    config.storage.driver = "overlay2".into();
    let text = Engine::open(config).await.err().unwrap().chain();
    run("umount", &[&at]);
    assert!(text.contains("use --storage-driver vfs there"), "{text}");
}

async fn another_driver_hides_images_and_containers() {
    let mut bed = Bed::new().await;
    let driver =
        |name: &'static str| move |config: &mut EngineConfig| config.storage.driver = name.to_owned();
    let named = |names: Vec<pontoon_proto::v1::Container>| -> Vec<String> {
        names.into_iter().map(|container| container.name).collect()
    };
    let kept = bed.create(crate::bed::named("kept", sh("true"))).await;
    bed.reopen_with(driver("vfs")).await.unwrap();
    assert_eq!(bed.engine.info().await.unwrap().storage_driver, "vfs");
    assert!(
        bed.engine
            .list_images(Default::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(bed.engine.list(&crate::bed::all()).await.unwrap().is_empty());
    bed.load_image(crate::bed::image(), "other:1").await;
    // Both are in use now: one has to be named.
    let refused = bed.reopen_with(driver("")).await.unwrap_err().chain();
    assert!(
        refused.contains("several valid storage drivers: overlay2, vfs"),
        "{refused}"
    );
    bed.reopen_with(driver("overlay2")).await.unwrap();
    let images = bed.engine.list_images(Default::default()).await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].repo_tags, ["busybox:latest"]);
    assert_eq!(
        named(bed.engine.list(&crate::bed::all()).await.unwrap()),
        ["kept"]
    );
    bed.engine.start(&kept).await.unwrap();
    assert_eq!(bed.wait(&kept).await, 0);
    bed.finish().await;
}
