//! Images that go when the disk is full: on a tmpfs of the case's own, the longest unused first, and never what a container or an
//! assigned task uses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_engine::{Collected, ImageGc};
use pontoon_image::{ContainerConfig, scratch};
use pontoon_proto::v1::MountType;

use crate::bed::{Bed, cases, command, eventually, mount, run, with};

cases![
    full_disk_takes_the_longest_unused,
    full_disk_spares_what_is_young,
    full_disk_is_watched,
];

const SIZE: usize = 96 << 20;
/// Bytes of an image's file; blob and unpacked layer take twice that.
const IMAGE: usize = 4 << 20;

struct Disk {
    temp: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let size = format!("size={SIZE}");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs", temp.path().to_str().unwrap()],
        );
        Self { temp }
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    /// Percentage in use.
    fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.temp.path()).unwrap();
        (stat.f_blocks - stat.f_bfree) * 100 / stat.f_blocks
    }

    /// Fills it up to a percentage, for a daemon that does not look by itself.
    fn fill_to(&self, name: &str, percent: u64) {
        self.fill(name, percent);
        assert_eq!(self.used(), percent);
    }

    /// Writes what is missing to a percentage.
    fn fill(&self, name: &str, percent: u64) {
        let stat = rustix::fs::statvfs(self.temp.path()).unwrap();
        let wanted = stat.f_blocks * percent / 100 + 1;
        let missing = wanted.saturating_sub(stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        std::fs::write(
            self.temp.path().join(name),
            vec![1; usize::try_from(missing).unwrap()],
        )
        .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.temp.path().to_str().unwrap()]);
    }
}

async fn bed_on(disk: &Disk, gc: ImageGc) -> Bed {
    Bed::configured(|config| {
        config.data_dir = disk.path();
        config.image_gc = Some(gc);
    })
    .await
}

fn marks(high: u8, low: u8) -> ImageGc {
    ImageGc {
        every: Duration::from_secs(3600),
        min_age: Duration::ZERO,
        ..ImageGc::new(high, low).unwrap()
    }
}

/// An image of one file of [`IMAGE`] bytes, another for each name.
async fn load(bed: &Bed, name: &str) {
    let mut content = name.as_bytes().to_vec();
    content.resize(IMAGE, 7);
    let image = scratch::Builder::new()
        .file("/content", 0o644, content)
        .config(ContainerConfig {
            cmd: Some(vec!["/content".into()]),
            ..ContainerConfig::default()
        });
    bed.load_image(image, name).await;
}

fn has(bed: &Bed, name: &str) -> bool {
    bed.engine.images().get(name).is_ok()
}

fn blobs(data: &Path) -> usize {
    std::fs::read_dir(data.join("image/blobs/sha256"))
        .unwrap()
        .count()
}

async fn full_disk_takes_the_longest_unused() {
    let disk = Disk::new();
    let bed = bed_on(&disk, marks(70, 62)).await;
    for name in [
        "used:1",
        "mounted:1",
        "assigned:1",
        "old:1",
        "other:1",
        "recent:1",
    ] {
        load(&bed, name).await;
    }
    let request = with(command(&["x"]), |config, _| {
        config.image = "used:1".into();
        config.mounts.push(mount(MountType::Image, "mounted:1", "/image"));
    });
    let container = bed.create(request).await;
    bed.engine.set_task_images(["assigned:1".to_owned()].into());
    // Used again: later than the others.
    let other = bed
        .create(with(command(&["x"]), |config, _| config.image = "other:1".into()))
        .await;
    bed.engine.remove(&other, true).await.unwrap();
    assert!(disk.used() < 70, "{}", disk.used());
    assert_eq!(bed.engine.collect_images().await.unwrap(), Collected::default());

    disk.fill_to("filler", 70);
    let first = bed.engine.collect_images().await.unwrap();
    assert!(first.was_full && !first.still_full, "{first:?}");
    // The bed's own image is small and the oldest.
    assert!(!has(&bed, "busybox") && !has(&bed, "old:1"));
    assert!(
        has(&bed, "recent:1") && has(&bed, "other:1"),
        "no more than needed"
    );
    assert!(first.removed.contains(&"untagged: old:1".to_owned()), "{first:?}");
    assert!(disk.used() <= 62 && first.freed >= 2 * IMAGE as u64);

    // Nothing that is left may go but these two, and that is not enough.
    disk.fill_to("more", 95);
    let second = bed.engine.collect_images().await.unwrap();
    assert!(second.was_full && second.still_full, "{second:?}");
    assert!(!has(&bed, "recent:1") && !has(&bed, "other:1"));
    for name in ["used:1", "mounted:1", "assigned:1"] {
        assert!(has(&bed, name), "{name} is in use");
    }
    assert_eq!(blobs(&disk.path()), 9, "blobs go with their images");

    // A task that is gone holds nothing any more, nor does a container.
    bed.engine.set_task_images([].into());
    bed.engine.remove(&container, true).await.unwrap();
    disk.fill_to("again", 95);
    let third = bed.engine.collect_images().await.unwrap();
    assert!(
        !has(&bed, "assigned:1") && !has(&bed, "used:1") && !has(&bed, "mounted:1"),
        "{third:?}"
    );
    assert_eq!(blobs(&disk.path()), 0);
    assert!(bed.engine.check_images(false).await.unwrap().problems.is_empty());
    bed.finish().await;
}

async fn full_disk_spares_what_is_young() {
    let disk = Disk::new();
    let gc = ImageGc {
        min_age: Duration::from_secs(3600),
        ..marks(10, 5)
    };
    let bed = bed_on(&disk, gc).await;
    load(&bed, "young:1").await;
    let collected = bed.engine.collect_images().await.unwrap();
    assert!(
        collected.was_full && collected.still_full && collected.removed.is_empty(),
        "{collected:?}"
    );
    assert!(has(&bed, "young:1"));
    bed.finish().await;
}

async fn full_disk_is_watched() {
    let disk = Disk::new();
    let gc = ImageGc {
        every: Duration::from_millis(20),
        ..marks(50, 40)
    };
    let bed = bed_on(&disk, gc).await;
    load(&bed, "old:1").await;
    assert!(has(&bed, "old:1"));
    disk.fill("filler", 60);
    eventually("the image goes", || async { (!has(&bed, "old:1")).then_some(()) }).await;
    bed.finish().await;
}
