//! What a container sees of files: its root, masks, mounts, devices, kernel parameters.

use serde_json::json;

use crate::support::{Bed, Kind};

pub async fn read_only_root(mut bed: Bed) {
    bed.spec["root"]["readonly"] = json!(true);
    let done = bed.run("touch /x; touch /dev/shm/y && echo shm").await;
    assert!(done.stderr.contains("Read-only file system"), "{}", done.stderr);
    assert_eq!(done.stdout, "shm\n");
}

pub async fn masked_paths(mut bed: Bed) {
    let script = "wc -c < /proc/keys; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | wc -w; \
        echo 1 > /proc/sys/kernel/hostname; touch /sys/firmware/x";
    let done = bed.run(script).await;
    assert_eq!(done.stdout, "0\n0\n");
    assert_eq!(
        done.stderr.matches("Read-only file system").count(),
        2,
        "{}",
        done.stderr
    );
}

pub async fn mounts(mut bed: Bed) {
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "data\n").unwrap();
    for (target, options) in [
        ("/ro", json!(["rbind", "ro"])),
        ("/rw", json!(["rbind", "rprivate"])),
    ] {
        bed.push_mount(json!({"destination": target, "type": "bind", "source": volume, "options": options}));
    }
    bed.push_mount(
        json!({"destination": "/etc/file", "type": "bind", "source": volume.join("f"), "options": ["bind"]}),
    );
    bed.push_mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=700", "noexec"]}));
    let done = bed
        .run("cat /ro/f /etc/file; touch /ro/x; touch /rw/y; stat -c %a /scratch; grep -c ' /scratch .*noexec' /proc/mounts; grep -c shm /proc/mounts")
        .await;
    assert_eq!(done.stdout, "data\ndata\n700\n1\n1\n", "{}", done.stderr);
    assert!(done.stderr.contains("Read-only"), "{}", done.stderr);
    assert!(volume.join("y").exists());
}

pub async fn symlink_target_stays_inside(mut bed: Bed) {
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "inside\n").unwrap();
    bed.push_mount(
        json!({"destination": "/etc/link", "type": "bind", "source": volume, "options": ["bind"]}),
    );
    let done = bed.run("cat /tmp/escape/f").await;
    assert_eq!(done.stdout, "inside\n", "{}", done.stderr);
    assert!(!std::path::Path::new("/tmp/escape").exists());
}

pub async fn cgroup_is_read_only(mut bed: Bed) {
    bed.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
    let script = "f=/sys/fs/cgroup/memory/memory.limit_in_bytes; \
        [ -e $f ] || f=/sys/fs/cgroup/memory.max; cat $f; echo 1000000000 > $f; cat $f; mkdir /sys/fs/cgroup/x";
    let done = bed.run(script).await;
    assert_eq!(done.stdout, "67108864\n67108864\n", "{}", done.stderr);
    // runc leaves the tmpfs above the hierarchies writable.
    let expected = if bed.kind == Kind::Native { 2 } else { 1 };
    assert_eq!(
        done.stderr.matches("Read-only").count(),
        expected,
        "{}",
        done.stderr
    );
}

pub async fn devices(mut bed: Bed) {
    let script = "ls /dev | tr '\\n' ' '; echo x > /dev/null && head -c 3 /dev/zero | wc -c; \
        mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem";
    let done = bed.run(script).await;
    let core = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3\n";
    assert_eq!(
        done.stdout.replace("core ", ""),
        core.replace("core ", ""),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("Operation not permitted"), "{}", done.stderr);
}

pub async fn sysctls(mut bed: Bed) {
    bed.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234"});
    let done = bed
        .run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; ip addr | grep -c UP")
        .await;
    assert_eq!(done.stdout, "1\n1234\n1\n");
    bed.spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
    assert!(bed.create().await.is_err());
}
