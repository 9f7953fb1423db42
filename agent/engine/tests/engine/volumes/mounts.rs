//! The mount grammar as the container sees it: nesting, read-only, propagation, subpaths, images and tmpfs.

use std::os::unix::fs::symlink;

use pontoon_proto::v1::{Mount, MountSyntax, MountType};

use super::{mounting, named, volume, with_volume};
use crate::bed::{self, Bed, cases, mount, with};

cases![
    nested_and_readonly_mounts,
    propagation,
    subpaths,
    image_mounts,
    tmpfs_mounts,
];

async fn nested_and_readonly_mounts() {
    let bed = Bed::new().await;
    let twice = mounting(
        "true",
        vec![volume("ab", "/x"), mount(MountType::Tmpfs, "", "/x/")],
    );
    assert_eq!(bed.refused(twice).await, "Duplicate mount point: /x");
    let nested = vec![
        volume("inner", "/o/i/n"),
        volume("outer", "/o"),
        volume("middle", "/o/i"),
    ];
    bed.output(mounting("touch /o/i/n/deep /o/i/mid /o/out", nested))
        .await;
    assert!(bed.data("inner").join("deep").exists() && bed.data("middle").join("mid").exists());
    assert!(bed.data("outer").join("out").exists());
    // A folder with a mount below: read-only means both, unless asked for otherwise.
    let host = bed.path().join("tree");
    std::fs::create_dir_all(host.join("below")).unwrap();
    let source = host.display().to_string();
    bed::run(
        "mount",
        &["-t", "tmpfs", "below", &host.join("below").display().to_string()],
    );
    let bind = Mount {
        read_only: true,
        ..mount(MountType::Bind, &source, "/t")
    };
    let script =
        "for at in /t /t/below; do touch $at/x 2>/dev/null && echo rw || echo ro; done; rm -f /t/below/x";
    let ask = |bind: Mount| bed.output(mounting(script, vec![bind]));
    assert_eq!(ask(bind.clone()).await, "ro\nro\n");
    let force = Mount {
        read_only_force_recursive: true,
        propagation: "rprivate".into(),
        ..bind.clone()
    };
    assert_eq!(ask(force).await, "ro\nro\n");
    let writable = Mount {
        read_only_non_recursive: true,
        ..bind.clone()
    };
    assert_eq!(ask(writable).await, "ro\nrw\n");
    let alone = Mount {
        non_recursive: true,
        read_only: false,
        ..bind.clone()
    };
    assert_eq!(ask(alone.clone()).await, "rw\nrw\n");
    assert!(
        !host.join("below/x").exists(),
        "what was mounted below was not there"
    );
    bed::run("umount", &[&host.join("below").display().to_string()]);
    bed.finish().await;
}

async fn propagation() {
    let bed = Bed::new().await;
    let host = bed.path().join("tree");
    std::fs::create_dir_all(host.join("below")).unwrap();
    bed::run(
        "mount",
        &["-t", "tmpfs", "below", &host.join("below").display().to_string()],
    );
    // Propagation needs a shared mount.
    bed::run(
        "mount",
        &["--make-private", &host.join("below").display().to_string()],
    );
    let shared = Mount {
        propagation: "rshared".into(),
        ..mount(MountType::Bind, &host.join("below").display().to_string(), "/t")
    };
    let id = bed.create(mounting("true", vec![shared.clone()])).await;
    let error = bed.engine.start(&id).await.unwrap_err().chain();
    let below = host.join("below").display().to_string();
    assert_eq!(
        error,
        format!("path {below} is mounted on {below} but it is not a shared mount")
    );
    bed::run("mount", &["--make-shared", &below]);
    std::fs::create_dir(host.join("below/new")).unwrap();
    let made = with(
        mounting("mount -t tmpfs x /t/new && touch /t/new/seen", vec![shared]),
        |_, host| {
            host.privileged = true;
        },
    );
    bed.output(made).await;
    assert!(
        host.join("below/new/seen").exists(),
        "a mount made inside arrives on the host"
    );
    bed::run("umount", &[&host.join("below/new").display().to_string()]);
    bed::run("umount", &[&below]);
    bed.finish().await;
}

fn at(subpath: &str) -> Mount {
    let mut mount = volume("data", "/m");
    mount.volume.get_or_insert_default().subpath = subpath.into();
    mount
}

async fn subpaths() {
    let bed = Bed::new().await;
    bed.engine.create_volume(named("data")).await.unwrap();
    let data = bed.data("data");
    std::fs::create_dir_all(data.join("a/b")).unwrap();
    std::fs::write(data.join("a/b/file"), "deep\n").unwrap();
    symlink("a/b", data.join("within")).unwrap();
    symlink("/a", data.join("absolute")).unwrap();
    symlink("../../../../../../etc", data.join("out")).unwrap();
    assert_eq!(
        bed.output(mounting("cat /m/file", vec![at("a/b")])).await,
        "deep\n"
    );
    assert_eq!(
        bed.output(mounting("cat /m", vec![at("a/b/file")])).await,
        "deep\n"
    );
    assert_eq!(
        bed.output(mounting("cat /m/file", vec![at("within")])).await,
        "deep\n"
    );
    // Links are the volume's, never the host's: this one leads to the volume's own folder.
    assert_eq!(bed.output(mounting("ls /m", vec![at("absolute")])).await, "b\n");
    let error = bed.refused(mounting("true", vec![at("out")])).await;
    assert_eq!(
        error,
        format!(
            "cannot access path {}: no such file or directory",
            data.join("out").display()
        )
    );
    let error = bed.refused(mounting("true", vec![at("../x")])).await;
    assert_eq!(
        error,
        "invalid mount config for type \"volume\": subpath must be a relative path within the volume"
    );
    // Swapped after the creation: the start fails, and nothing of the host is seen.
    let id = bed.create(mounting("ls /m", vec![at("a/b")])).await;
    std::fs::remove_dir_all(data.join("a")).unwrap();
    symlink("/etc/..", data.join("a")).unwrap();
    let error = bed.engine.start(&id).await.unwrap_err().chain();
    assert!(
        error.contains("cannot access path a/b within the source"),
        "{error}"
    );
    bed.finish().await;
}

async fn image_mounts() {
    let bed = Bed::new().await;
    with_volume(&bed).await;
    let image = |subpath: &str| Mount {
        image_subpath: subpath.into(),
        ..mount(MountType::Image, "withvolume", "/i")
    };
    let script = "cat /i/data/file; touch /i/x 2>/dev/null && echo rw || echo ro";
    assert_eq!(
        bed.output(mounting(script, vec![image("")])).await,
        "from image\nro\n"
    );
    let script = "cat /i/file";
    assert_eq!(
        bed.output(mounting(script, vec![image("data")])).await,
        "from image\n"
    );
    let id = bed.create(mounting("cat /i/data/file", vec![image("")])).await;
    let point = bed.inspect(&id).mounts[0].clone();
    assert_eq!(
        (point.r#type(), point.name.as_str(), point.read_write),
        (MountType::Image, "withvolume", false)
    );
    // Its layers are held, also by the next daemon.
    let mut bed = bed;
    bed.reopen().await;
    bed.engine.start(&id).await.map_err(|e| e.chain()).unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    let mut missing = image("");
    missing.source = "nothere".into();
    assert_eq!(
        bed.refused(mounting("true", vec![missing])).await,
        "No such image: nothere"
    );
    bed.finish().await;
}

async fn tmpfs_mounts() {
    let bed = Bed::new().await;
    let flag = |options: &[&str]| Mount {
        syntax: MountSyntax::Tmpfs.into(),
        tmpfs_options: options.iter().map(ToString::to_string).collect(),
        mode: options.join(","),
        ..mount(MountType::Tmpfs, "", "/t")
    };
    let script = "grep ' /t ' /proc/mounts | busybox cut -d' ' -f4; busybox stat -c %a /t";
    let plain = bed.output(mounting(script, vec![flag(&[])])).await;
    assert!(
        plain.starts_with("rw,nosuid,nodev,noexec") && plain.ends_with("\n1777\n"),
        "{plain}"
    );
    let set = bed
        .output(mounting(
            script,
            vec![flag(&["size=1m", "mode=700", "exec", "uid=1000"])],
        ))
        .await;
    assert!(
        set.contains("size=1024k") && set.contains("uid=1000") && set.ends_with("\n700\n"),
        "{set}"
    );
    assert!(!set.contains("noexec"), "{set}");
    let long = Mount {
        tmpfs_size: 2 << 20,
        tmpfs_mode: 0o1770,
        read_only: true,
        ..mount(MountType::Tmpfs, "", "/t")
    };
    let set = bed.output(mounting(script, vec![long])).await;
    assert!(
        set.starts_with("ro,") && set.contains("size=2048k") && set.ends_with("\n1770\n"),
        "{set}"
    );
    // As runc: without a mode, that of the folder it covers.
    let over = Mount {
        target: "/root".into(),
        ..flag(&[])
    };
    assert_eq!(
        bed.output(mounting("busybox stat -c %a /root", vec![over])).await,
        "700\n"
    );
    assert_eq!(
        bed.refused(mounting("true", vec![flag(&["foo"])])).await,
        "invalid tmpfs option [\"foo\"]"
    );
    bed.finish().await;
}
