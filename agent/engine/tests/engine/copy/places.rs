//! Where `cp` and `export` look and write: mounts, read-only places, the root file system.
#![allow(clippy::too_many_lines)]

use std::path::Path;

use pontoon_image::archive::Head;
use pontoon_proto::v1::{ContainerState, Mount, MountType};

use super::{TREE, archive, collect, entries, path, put, text};
use crate::bed::{Bed, cases, eventually, sh, with};

cases![
    mounts_are_seen,
    read_only_is_refused,
    export_has_the_root_file_system,
];

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        r#type: MountType::Bind.into(),
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only,
        ..Mount::default()
    }
}

async fn mounts_are_seen() {
    let bed = Bed::new().await;
    let volume = bed.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("here"), "in the volume").unwrap();
    let id = bed
        .create(with(sh("echo up >/scratch/up; sleep 1000"), |config, _| {
            config.mounts.push(bind(&volume, "/deep/volume", false));
            config.mounts.push(Mount {
                r#type: MountType::Tmpfs.into(),
                target: "/scratch".into(),
                ..Mount::default()
            });
        }))
        .await;
    let new = |name: &str| archive(&[(Head::file(name), "new")]);
    // Not running: the volume, but no tmpfs.
    assert_eq!(text(&bed, &id, "/deep/volume/here").await, "in the volume");
    put(&bed, &id, "/deep/volume", new("stopped")).await.unwrap();
    bed.engine.start(&id).await.unwrap();
    eventually("it is up", || async {
        bed.engine.stat_path(&path(&id, "/scratch/up")).await.ok()
    })
    .await;
    put(&bed, &id, "/deep/volume", new("running")).await.unwrap();
    put(&bed, &id, "/scratch", new("memory")).await.unwrap();
    assert_eq!(text(&bed, &id, "/scratch/memory").await, "new");
    assert!(text(&bed, &id, "/etc/hosts").await.contains("localhost"));
    for name in ["stopped", "running"] {
        assert_eq!(std::fs::read_to_string(volume.join(name)).unwrap(), "new");
    }
    // Export leaves them out.
    let exported = entries(&collect(bed.engine.export(&id).await.unwrap()).await.unwrap());
    let names: Vec<&str> = exported.iter().map(|entry| entry.0.as_str()).collect();
    assert!(names.contains(&"deep/volume/") && !names.contains(&"deep/volume/here"));
    assert!(names.contains(&"scratch/") && !names.contains(&"scratch/up"));
    bed.finish().await;
}

async fn read_only_is_refused() {
    let bed = Bed::new().await;
    let volume = bed.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let id = bed
        .create(with(sh("sleep 1000"), |config, _| {
            config.read_only = true;
            config.mounts.push(bind(&volume, "/rw", false));
            config.mounts.push(bind(&volume, "/ro", true));
        }))
        .await;
    for running in [false, true] {
        if running {
            bed.engine.start(&id).await.unwrap();
        }
        let file = || archive(&[(Head::file("f"), "x")]);
        let root = put(&bed, &id, "/tmp", file()).await.unwrap_err();
        assert_eq!(root, "container rootfs is marked read-only");
        let volume = put(&bed, &id, "/ro", file()).await.unwrap_err();
        assert_eq!(volume, "mounted volume is marked read-only");
        put(&bed, &id, "/rw", file()).await.unwrap();
    }
    bed.finish().await;
}

pub async fn export_has_the_root_file_system() {
    let bed = Bed::new().await;
    let id = bed
        .start(sh(&format!("{TREE}; rm /plain; touch /done; sleep 1000")))
        .await;
    eventually("it is done", || async {
        bed.engine.stat_path(&path(&id, "/done")).await.ok()
    })
    .await;
    let running = collect(bed.engine.export(&id).await.unwrap()).await.unwrap();
    bed.engine.kill(&id, "").await.unwrap();
    bed.until(&id, "it ends", |view| view.state() == ContainerState::Exited)
        .await;
    let stopped = collect(bed.engine.export(&id).await.unwrap()).await.unwrap();
    assert!(running == stopped, "the same files give the same archive");
    let names: Vec<String> = entries(&stopped).into_iter().map(|entry| entry.0).collect();
    for name in [
        "d/",
        "d/f",
        "d/s/hard",
        "bin/busybox",
        "proc/",
        "etc/hosts",
        "dev/",
    ] {
        assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
    }
    assert!(!names.contains(&"plain".to_owned()));
    bed.finish().await;
}
