//! What every case starts from: a busybox root and a good configuration. Made by [`crate::bed::Bed`].

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use pontoon_runtime::defaults;
use serde_json::{Value, json};

fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
        let text = String::from_utf8(list.stdout).unwrap();
        text.lines()
            .filter(|a| *a != "busybox")
            .map(str::to_owned)
            .collect()
    })
}

pub fn make_root(root: &Path) {
    for dir in [
        "bin",
        "etc",
        "proc",
        "sys",
        "dev",
        "tmp",
        "root",
        "home",
        "full/deep",
    ] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for dir in ["", "bin", "etc", "full", "full/deep"] {
        mode(&root.join(dir), 0o755);
    }
    mode(&root.join("tmp"), 0o1777);
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in applets() {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/plain"), "not a program\n").unwrap();
    std::fs::write(root.join("full/file"), "content\n").unwrap();
    std::fs::write(root.join("full/deep/file"), "deep\n").unwrap();
}

/// A good configuration, of which every case changes a little.
pub fn base(cgroup: &str) -> Value {
    let capabilities: Vec<_> = defaults::CAPABILITIES.to_vec();
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/bin:/bin", "A=b c"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": defaults::mounts(64 << 20),
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": defaults::namespaces(true),
            "maskedPaths": defaults::MASKED_PATHS,
            "readonlyPaths": defaults::READONLY_PATHS,
            "resources": {"devices": defaults::device_rules()},
        },
    })
}
