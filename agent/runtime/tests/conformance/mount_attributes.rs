//! config.md, "Linux mount options": attributes, recursive attributes, propagation, id-mapping.

use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::case::{Case, code, prints, refused};

/// Mounts a tmpfs on /t with options and shows the words of its line in the mount table that matter.
const SHOW: &str = "awk '$5 == \"/t\" {print $6}' /proc/self/mountinfo";

fn tmpfs(s: &mut Value, options: &[&str]) {
    s["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}));
}

/// A bind of a directory of the host, with a tmpfs of the host mounted below it: both in a namespace of the test's
/// own would be needed, so the one below is the container's own /dev/shm directory instead.
fn bound(bed: &mut Bed, options: &[&str]) {
    let volume = bed.directory("volume");
    std::fs::write(volume.join("f"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(
        volume.join("f"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    bed.push_mount(json!({"destination": "/t", "type": "bind", "source": volume, "options": options}));
}

pub fn cases() -> Vec<Case> {
    let mut cases = attributes();
    cases.extend(binds());
    cases.extend(recursive());
    cases.extend(propagation());
    cases.extend(id_mapped());
    cases
}

fn attributes() -> Vec<Case> {
    vec![
        prints(
            "defaults",
            "defaults: rw, suid, dev, exec",
            |s| tmpfs(s, &["defaults"]),
            SHOW,
            "rw,relatime\n",
        ),
        prints("ro", "ro", |s| tmpfs(s, &["ro"]), SHOW, "ro,relatime\n"),
        prints(
            "nosuid",
            "nosuid",
            |s| tmpfs(s, &["nosuid"]),
            SHOW,
            "rw,nosuid,relatime\n",
        ),
        prints(
            "nodev",
            "nodev",
            |s| tmpfs(s, &["nodev"]),
            SHOW,
            "rw,nodev,relatime\n",
        ),
        prints(
            "noexec",
            "noexec",
            |s| tmpfs(s, &["noexec"]),
            SHOW,
            "rw,noexec,relatime\n",
        ),
        prints(
            "all_together",
            "several at once",
            |s| tmpfs(s, &["ro", "nosuid", "nodev", "noexec"]),
            SHOW,
            "ro,nosuid,nodev,noexec,relatime\n",
        ),
        prints(
            "last_word_wins",
            "ro then rw is rw, noexec then exec is exec",
            |s| tmpfs(s, &["ro", "noexec", "rw", "exec"]),
            SHOW,
            "rw,relatime\n",
        ),
        prints(
            "noatime",
            "noatime",
            |s| tmpfs(s, &["noatime"]),
            SHOW,
            "rw,noatime\n",
        ),
        prints(
            "nodiratime",
            "nodiratime",
            |s| tmpfs(s, &["nodiratime"]),
            SHOW,
            "rw,nodiratime,relatime\n",
        ),
        prints(
            "strictatime",
            "strictatime",
            |s| tmpfs(s, &["strictatime"]),
            SHOW,
            "rw\n",
        ),
        prints(
            "relatime",
            "relatime",
            |s| tmpfs(s, &["relatime"]),
            SHOW,
            "rw,relatime\n",
        ),
        prints(
            "nosymfollow",
            "nosymfollow",
            |s| tmpfs(s, &["nosymfollow"]),
            SHOW,
            "rw,relatime,nosymfollow\n",
        ),
        prints(
            "sync",
            "sync: all I/O is done synchronously",
            |s| tmpfs(s, &["sync"]),
            "grep -c ' /t tmpfs .*sync' /proc/mounts",
            "1\n",
        ),
        prints(
            "dirsync",
            "dirsync",
            |s| tmpfs(s, &["dirsync"]),
            "grep -c ' /t tmpfs .*dirsync' /proc/mounts",
            "1\n",
        ),
        prints(
            "words_of_mount_8",
            "words without a meaning here are accepted",
            |s| tmpfs(s, &["async", "silent", "loud", "noiversion", "nomand"]),
            "echo ok",
            "ok\n",
        ),
    ]
}

fn binds() -> Vec<Case> {
    vec![
        code("bind_ro", "ro of a bind mount", |bed| {
            bound(bed, &["bind", "ro"]);
            let done = bed.run("touch /t/x; cat /t/f | wc -l");
            assert_eq!(done.stdout, "2\n");
            assert!(done.stderr.contains("Read-only"), "{}", done.stderr);
        }),
        code("bind_noexec", "noexec of a bind mount", |bed| {
            bound(bed, &["bind", "noexec"]);
            assert_eq!(bed.run("/t/f 2>/dev/null || echo refused").stdout, "refused\n");
        }),
        code(
            "bind_exec",
            "a bind mount is executable unless told otherwise",
            |bed| {
                bound(bed, &["bind"]);
                assert_eq!(bed.run("/t/f").stdout, "ran\n");
            },
        ),
        code("bind_nosuid_nodev", "nosuid and nodev of a bind mount", |bed| {
            bound(bed, &["bind", "nosuid", "nodev"]);
            let shown = bed.run(SHOW).stdout;
            assert!(shown.contains("nosuid") && shown.contains("nodev"), "{shown}");
        }),
        code("bind_noatime", "noatime of a bind mount", |bed| {
            bound(bed, &["bind", "noatime"]);
            let shown = bed.run(SHOW).stdout;
            assert!(shown.contains("noatime"), "{shown}");
        }),
    ]
}

/// The directory of the host whose recursive bind has a second mount below: its own /proc, read from the host.
fn nested(bed: &mut Bed, options: &[&str]) {
    bed.push_mount(json!({"destination": "/t", "type": "bind", "source": "/dev", "options": options}));
}

/// The words of the mounts at /t and at /t/shm or /t/pts below it.
const NESTED: &str = "awk '$5 ~ /^\\/t($|\\/)/ {print $6}' /proc/self/mountinfo | grep -c";

fn count(bed: &mut Bed, word: &str) -> (usize, usize) {
    let done = bed.run(&format!("{NESTED} '\\(^\\|,\\){word}\\(,\\|$\\)'; {NESTED} ."));
    let numbers: Vec<usize> = done.stdout.lines().map(|l| l.parse().unwrap()).collect();
    if numbers[1] < 2 {
        crate::case::skip("nothing is mounted below the host's /dev");
    }
    (numbers[0], numbers[1])
}

fn recursive() -> Vec<Case> {
    vec![
        code("ro_is_not_recursive", "ro is for the mount alone", |bed| {
            nested(bed, &["rbind", "ro"]);
            let (with, all) = count(bed, "ro");
            assert!(with < all, "{with} of {all}");
        }),
        code("rro", "rro: the mount and everything below", |bed| {
            nested(bed, &["rbind", "rro"]);
            let (with, all) = count(bed, "ro");
            assert_eq!(with, all);
        }),
        code("rnosuid", "rnosuid", |bed| {
            nested(bed, &["rbind", "rnosuid"]);
            let (with, all) = count(bed, "nosuid");
            assert_eq!(with, all);
        }),
        code("rnodev", "rnodev", |bed| {
            nested(bed, &["rbind", "rnodev"]);
            let (with, all) = count(bed, "nodev");
            assert_eq!(with, all);
        }),
        code("rnoexec", "rnoexec", |bed| {
            nested(bed, &["rbind", "rnoexec"]);
            let (with, all) = count(bed, "noexec");
            assert_eq!(with, all);
        }),
        code("rnoatime", "rnoatime", |bed| {
            nested(bed, &["rbind", "rnoatime"]);
            let (with, all) = count(bed, "noatime");
            assert_eq!(with, all);
        }),
        code("rnodiratime", "rnodiratime", |bed| {
            nested(bed, &["rbind", "rnodiratime"]);
            let (with, all) = count(bed, "nodiratime");
            assert_eq!(with, all);
        }),
        code("rrw_and_rexec", "their opposites", |bed| {
            nested(bed, &["rbind", "rrw", "rexec", "rsuid", "rdev"]);
            let (with, _) = count(bed, "noexec");
            assert_eq!(with, 0);
        }),
        code("rrelatime", "rrelatime", |bed| {
            nested(bed, &["rbind", "rrelatime"]);
            let (with, all) = count(bed, "relatime");
            assert_eq!(with, all);
        }),
    ]
}

const PROPAGATION: &str = "awk '$5 == \"/t\" {for (i = 7; $i != \"-\"; i++) print $i}' /proc/self/mountinfo | cut -d: -f1 | sort | tr '\\n' ' '";

fn propagation() -> Vec<Case> {
    vec![
        code("private", "private", |bed| {
            bound(bed, &["bind", "private"]);
            assert_eq!(bed.run(PROPAGATION).stdout, "");
        }),
        code("rprivate", "rprivate", |bed| {
            bound(bed, &["rbind", "rprivate"]);
            assert_eq!(bed.run(PROPAGATION).stdout, "");
        }),
        code("shared", "shared", |bed| {
            bound(bed, &["bind", "shared"]);
            assert!(bed.run(PROPAGATION).stdout.starts_with("shared"));
        }),
        code("rshared", "rshared", |bed| {
            bound(bed, &["rbind", "rshared"]);
            assert!(bed.run(PROPAGATION).stdout.starts_with("shared"));
        }),
        code("unbindable", "unbindable", |bed| {
            bound(bed, &["bind", "unbindable"]);
            assert_eq!(bed.run(PROPAGATION).stdout, "unbindable ");
        }),
        code("slave", "slave: never shared", |bed| {
            bound(bed, &["bind", "slave"]);
            assert!(!bed.run(PROPAGATION).stdout.contains("shared"));
        }),
        prints(
            "tmpfs_shared",
            "propagation of a new file system",
            |s| tmpfs(s, &["shared"]),
            PROPAGATION,
            "shared ",
        ),
    ]
}

fn id_mapped() -> Vec<Case> {
    fn mapped(bed: &mut Bed, options: &[&str], mappings: bool) -> std::path::PathBuf {
        let volume = bed.directory("volume");
        std::fs::write(volume.join("f"), "x").unwrap();
        let mut mount = json!({"destination": "/t", "type": "bind", "source": volume, "options": options});
        if mappings {
            mount["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
            mount["gidMappings"] = json!([{"containerID": 0, "hostID": 2000, "size": 1}]);
        }
        bed.push_mount(mount);
        volume
    }
    vec![
        code(
            "idmap_with_mappings",
            "uidMappings and gidMappings map the mount's owners",
            |bed| {
                let volume = mapped(bed, &["bind", "idmap"], true);
                bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 2000});
                let done = bed.run("stat -c '%u %g' /t/f; echo y > /t/new; stat -c %u /t/new");
                assert_eq!(done.stdout, "1000 2000\n1000\n", "{}", done.stderr);
                assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 0);
            },
        ),
        code("idmap_by_mappings_alone", "mappings alone suffice", |bed| {
            mapped(bed, &["rbind"], true);
            assert_eq!(bed.run("stat -c '%u %g' /t/f").stdout, "1000 2000\n");
        }),
        code(
            "idmap_without_mappings",
            "without mappings and without a user namespace it is an error",
            |bed| {
                mapped(bed, &["bind", "idmap"], false);
                bed.refusal();
            },
        ),
        refused(
            "idmap_of_a_tmpfs",
            "only a bind mount can be id-mapped",
            |s| tmpfs(s, &["idmap"]),
            "",
        ),
    ]
}
