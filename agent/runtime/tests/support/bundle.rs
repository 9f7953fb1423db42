//! What containers under test start from: a root with busybox and a good configuration. For the beds of all this crate's suites.

#![allow(dead_code)]

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

/// Makes a root with busybox, two users and a file that is no program.
pub fn make_root(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for dir in ["", "bin", "etc"] {
        set_mode(&root.join(dir), 0o755);
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in applets() {
        // A busybox may list a name twice.
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    let users = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), users).unwrap();
    std::fs::write(root.join("etc/plain"), "not a program\n").unwrap();
}

/// Sets a mode whatever the umask.
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A good configuration, of which every case changes a little.
pub fn base(root: &Path, cgroup: &str) -> Value {
    let capabilities: Vec<_> = defaults::CAPABILITIES.to_vec();
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": false},
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

/// Gives the container a user namespace whose ids are the host's from `first` on.
pub fn remap(spec: &mut Value, first: u32) {
    let mapping = json!([{"containerID": 0, "hostID": first, "size": 65_536}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = mapping.clone();
    linux["gidMappings"] = mapping;
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
}
