//! The image of most cases: busybox with the applets that their scripts need, two users and four groups.

use std::collections::HashMap;

use pontoon_image::{ContainerConfig, scratch};

use super::BUSYBOX;

/// The image of most cases.
pub fn image() -> scratch::Builder {
    let applets = [
        "sh", "true", "false", "echo", "cat", "sleep", "id", "env", "ls", "hostname", "wget", "httpd",
        "nslookup", "grep", "touch", "kill", "ps", "head", "dd", "ulimit", "ip", "test", "seq", "stty",
        "pwd", "yes", "tr", "fold", "nproc", "mount", "ping", "nc", "rm", "mkdir", "tail",
    ];
    let mut builder = scratch::Builder::new()
        .host_file("/bin/busybox", 0o755, BUSYBOX.as_ref())
        .unwrap()
        .file(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .file(
            "/etc/group",
            0o644,
            "root:x:0:\napp:x:1000:\nextra:x:2000:app\nmore:x:3000:\n",
        )
        .file("/plain", 0o644, "not a program\n")
        .dir("/tmp", 0o1777)
        .dir("/root", 0o700);
    for applet in applets {
        builder = builder.symlink(&format!("/bin/{applet}"), "busybox");
    }
    builder.config(ContainerConfig {
        env: vec!["PATH=/bin".into(), "FROM_IMAGE=yes".into()],
        cmd: Some(vec!["sh".into()]),
        labels: HashMap::from([("image".to_owned(), "label".to_owned())])
            .into_iter()
            .collect(),
        ..ContainerConfig::default()
    })
}
