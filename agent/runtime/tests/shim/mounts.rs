//! Propagation of volumes between the host and the container.
use std::path::Path;

use crate::support::within;
use serde_json::json;

use crate::bed;

#[tokio::test(flavor = "multi_thread")]
async fn volume_propagation_reaches_the_container() {
    let Some(mut bed) = bed() else { return };
    // Stand-in for a shared mount of the host, inside a bind of our own.
    let volume = bed.path("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    bed.push_mount(
        json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rslave"]}),
    );
    bed.push_mount(json!({"destination": "/p", "type": "bind", "source": volume, "options": ["rbind"]}));
    let done = bed.run("grep ' /v ' /proc/self/mountinfo | grep -c shared; grep ' /p ' /proc/self/mountinfo | grep -c 'shared\\|master'").await;
    assert_eq!(done.stdout, "0\n0\n");
}

/// Runs a test of this file (one that is ignored otherwise) where all mounts are shared, as systemd has them.
fn in_shared_mounts(test: &str) {
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "shared"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", test])
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{test} fails with shared mounts"),
        Err(error) => eprintln!("skipped: unshare: {error}"),
    }
}

#[test]
fn shared_mounts() {
    if rustix::process::geteuid().is_root() {
        in_shared_mounts("mounts::propagation_of_shared_mounts");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by shared_mounts in a mount namespace of its own"]
async fn propagation_of_shared_mounts() {
    let Some(mut bed) = bed() else { return };
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = |at: &Path| {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(at)
            .status();
        assert!(status.unwrap().success());
    };
    mount(&volume);
    for dir in ["host", "box"] {
        std::fs::create_dir(volume.join(dir)).unwrap();
    }
    for (target, mode) in [
        ("/slave", "rslave"),
        ("/private", "rprivate"),
        ("/shared", "rshared"),
    ] {
        bed.push_mount(
            json!({"destination": target, "type": "bind", "source": volume, "options": ["rbind", mode]}),
        );
    }
    let set = &mut bed.spec["process"]["capabilities"];
    for kind in ["bounding", "effective", "permitted"] {
        set[kind].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
    }
    bed.spec["linux"]["seccomp"] = json!(null);
    let client = bed.up().await;
    let host_mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rootfs = bed.path("rootfs");
    assert!(
        !host_mounts().contains(rootfs.to_str().unwrap()),
        "the root is visible on the host"
    );
    // From the host into the container.
    mount(&volume.join("host"));
    std::fs::write(volume.join("host/f"), "").unwrap();
    let (_, out, _) = bed
        .exec(&client, "ls", "ls /slave/host; ls /shared/host; ls /private/host")
        .await;
    assert_eq!(out, "f\nf\n", "slave and shared see it, private does not");
    // And back, only where it is shared.
    let script = "mount -t tmpfs t /slave/box; mount -t tmpfs t /private/box";
    assert_eq!(bed.exec(&client, "m1", script).await.0, 0);
    assert!(!host_mounts().contains("/volume/box"));
    assert_eq!(bed.exec(&client, "m2", "mount -t tmpfs t /shared/box").await.0, 0);
    assert!(host_mounts().contains("/volume/box"));
    within(client.kill(9, true)).await.unwrap();
    within(client.wait()).await.unwrap();
    for at in [volume.join("box"), volume.join("host"), volume] {
        let _ = std::process::Command::new("umount").arg(at).status();
    }
}
