//! config.md, "Mounts": order, sources, types, targets.

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::case::{Case, code, prints, refused};

fn push(s: &mut Value, mount: Value) {
    s["mounts"].as_array_mut().unwrap().push(mount);
}

fn volume(bed: &Bed) -> std::path::PathBuf {
    let volume = bed.directory("volume");
    std::fs::write(volume.join("f"), "data\n").unwrap();
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    volume
}

fn bind(bed: &mut Bed, target: &str, options: Value) -> std::path::PathBuf {
    let volume = volume(bed);
    bed.push_mount(json!({"destination": target, "type": "bind", "source": volume, "options": options}));
    volume
}

pub fn cases() -> Vec<Case> {
    let mut cases = binds();
    cases.extend(file_systems());
    cases.extend(targets());
    cases
}

fn binds() -> Vec<Case> {
    vec![
        code("bind", "a bind mount shows the source", |bed| {
            let volume = bind(bed, "/v", json!(["rbind", "rprivate"]));
            let done = bed.run("cat /v/f; echo new > /v/g");
            assert_eq!(done.stdout, "data\n", "{}", done.stderr);
            assert_eq!(std::fs::read_to_string(volume.join("g")).unwrap(), "new\n");
        }),
        code(
            "bind_by_option_alone",
            "bind is given by the options, type is then ignored",
            |bed| {
                let volume = volume(bed);
                bed.push_mount(
                    json!({"destination": "/v", "type": "none", "source": volume, "options": ["bind"]}),
                );
                assert_eq!(bed.run("cat /v/f").stdout, "data\n");
            },
        ),
        code(
            "bind_a_file",
            "a source that is a file is mounted on a file",
            |bed| {
                let volume = volume(bed);
                bed.push_mount(json!({"destination": "/etc/new/file", "type": "bind", "source": volume.join("f"), "options": ["bind", "ro"]}));
                let done = bed.run("cat /etc/new/file; echo x > /etc/new/file");
                assert_eq!(done.stdout, "data\n");
                assert!(done.stderr.contains("Read-only"), "{}", done.stderr);
            },
        ),
        code(
            "bind_source_relative",
            "source is absolute or relative to the bundle",
            |bed| {
                std::fs::create_dir(bed.path("bundle/beside")).unwrap();
                std::fs::write(bed.path("bundle/beside/f"), "beside\n").unwrap();
                bed.push_mount(
                    json!({"destination": "/v", "type": "bind", "source": "beside", "options": ["bind"]}),
                );
                assert_eq!(bed.run("cat /v/f").stdout, "beside\n");
            },
        ),
        code(
            "bind_source_missing",
            "a source that does not exist is an error",
            |bed| {
                bed.push_mount(json!({"destination": "/v", "type": "bind", "source": "/does/not/exist", "options": ["bind"]}));
                let error = bed.refusal();
                assert!(error.contains("/does/not/exist"), "{error}");
            },
        ),
        code("bind_a_socket", "a socket can be bound", |bed| {
            let path = bed.path("socket");
            let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
            bed.push_mount(
                json!({"destination": "/run/x.sock", "type": "bind", "source": path, "options": ["bind"]}),
            );
            assert_eq!(bed.run("ls -l /run/x.sock | cut -c1").stdout, "s\n");
        }),
        code(
            "bind_recursive",
            "rbind takes what is mounted below, bind does not",
            |bed| {
                let volume = volume(bed);
                let (plain, below) = (json!(["bind"]), json!(["rbind"]));
                bed.push_mount(json!({"destination": "/first", "type": "tmpfs", "source": "tmpfs"}));
                bed.push_mount(
                    json!({"destination": "/plain", "type": "bind", "source": "/proc/sys", "options": plain}),
                );
                bed.push_mount(
                    json!({"destination": "/below", "type": "bind", "source": volume, "options": below}),
                );
                assert_eq!(
                    bed.run("cat /below/f; ls /plain | grep -c kernel").stdout,
                    "data\n1\n"
                );
            },
        ),
    ]
}

fn file_systems() -> Vec<Case> {
    vec![
        prints(
            "mounts_in_order",
            "the runtime MUST mount entries in the listed order",
            |s| {
                push(
                    s,
                    json!({"destination": "/a", "type": "tmpfs", "source": "tmpfs"}),
                );
                push(
                    s,
                    json!({"destination": "/a/b", "type": "tmpfs", "source": "tmpfs", "options": ["mode=711"]}),
                );
            },
            "grep -c ' /a' /proc/mounts; stat -c %a /a/b",
            "2\n711\n",
        ),
        prints(
            "tmpfs_options",
            "options are passed to the file system",
            |s| {
                push(
                    s,
                    json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=1750", "uid=7", "gid=8"]}),
                )
            },
            "stat -c '%a %u %g' /t; head -c 100000 /dev/zero 2>/dev/null > /t/f || echo full",
            "1750 7 8\nfull\n",
        ),
        refused(
            "file_system_unknown",
            "a type that the kernel lacks is an error",
            |s| push(s, json!({"destination": "/t", "type": "nosuchfs", "source": "x"})),
            "",
        ),
        refused(
            "option_unknown",
            "an option that the file system refuses is an error",
            |s| {
                push(
                    s,
                    json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuchoption"]}),
                )
            },
            "",
        ),
        prints(
            "mqueue",
            "mqueue is the container's own",
            |_| {},
            "grep -c '^mqueue /dev/mqueue mqueue' /proc/mounts; ls /dev/mqueue | wc -l",
            "1\n0\n",
        ),
        prints(
            "tmpcopyup",
            "tmpcopyup copies the contents to the tmpfs",
            |s| {
                push(
                    s,
                    json!({"destination": "/full", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
                )
            },
            "cat /full/file /full/deep/file; stat -f -c %T /full; rm /full/file",
            "content\ndeep\ntmpfs\n",
        ),
        code(
            "tmpcopyup_leaves_the_original",
            "and leaves the original as it is",
            |bed| {
                bed.push_mount(json!({"destination": "/full", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
                bed.run("rm -r /full/file /full/deep");
                assert!(bed.rootfs().join("full/deep/file").exists());
            },
        ),
        prints(
            "cgroup_read_only",
            "the cgroup mount is as read-only as it is asked to be",
            |_| {},
            "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -e $d/cgroup.procs ] && { echo $$ > $d/cgroup.procs; } 2>/dev/null && echo written; done; echo done",
            "done\n",
        ),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        prints(
            "target_is_made",
            "the target is made where it is missing",
            |s| {
                push(
                    s,
                    json!({"destination": "/not/there/yet", "type": "tmpfs", "source": "tmpfs"}),
                )
            },
            "grep -c ' /not/there/yet ' /proc/mounts",
            "1\n",
        ),
        code(
            "target_over_a_symlink",
            "a symlink of the root leads inside the root",
            |bed| {
                std::os::unix::fs::symlink(
                    "/../../../../../../tmp/escape-conformance",
                    bed.rootfs().join("etc/link"),
                )
                .unwrap();
                bind(bed, "/etc/link", json!(["bind"]));
                assert_eq!(bed.run("cat /tmp/escape-conformance/f").stdout, "data\n");
                assert!(!std::path::Path::new("/tmp/escape-conformance").exists());
            },
        ),
        code(
            "target_below_an_absolute_symlink",
            "the same for a directory above the target",
            |bed| {
                std::os::unix::fs::symlink("/home", bed.rootfs().join("data")).unwrap();
                bind(bed, "/data/v", json!(["bind"]));
                assert_eq!(bed.run("cat /home/v/f").stdout, "data\n");
            },
        ),
        prints(
            "target_relative",
            "a relative destination is taken from the root (as runc does)",
            |s| push(s, json!({"destination": "t", "type": "tmpfs", "source": "tmpfs"})),
            "grep -c ' /t ' /proc/mounts",
            "1\n",
        ),
        code(
            "target_in_proc",
            "nothing may be bound into /proc but what lxcfs needs",
            |bed| {
                bind(bed, "/proc/self", json!(["bind"]));
                let error = bed.refusal();
                assert!(error.contains("/proc"), "{error}");
            },
        ),
        code("target_proc_file", "such a file may be", |bed| {
            let volume = volume(bed);
            bed.push_mount(json!({"destination": "/proc/meminfo", "type": "bind", "source": volume.join("f"), "options": ["bind"]}));
            assert_eq!(bed.run("cat /proc/meminfo").stdout, "data\n");
        }),
        code(
            "target_kind_differs",
            "a directory can't be mounted on a file",
            |bed| {
                bind(bed, "/etc/passwd", json!(["bind"]));
                bed.refusal();
            },
        ),
    ]
}
