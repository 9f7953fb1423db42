//! config-linux.md, "Namespaces", "User namespace mappings", "Offset for Time Namespace".

use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::bed::{Bed, until};
use crate::case::{Case, code, prints, refused, skip};

/// A process in namespaces of its own.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str]) -> Self {
        let child = Command::new("unshare")
            .args(flags)
            .args(["sleep", "1000"])
            .spawn()
            .unwrap();
        let holder = Self(child);
        let ready =
            || std::fs::read_to_string(format!("/proc/{}/comm", holder.0.id())).is_ok_and(|c| c == "sleep\n");
        assert!(until(ready));
        holder
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }

    fn id(&self, kind: &str) -> String {
        std::fs::read_link(self.path(kind)).unwrap().display().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}"))
        .unwrap()
        .display()
        .to_string()
}

fn remove(s: &mut Value, typ: &str) {
    s["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != typ);
}

fn set_path(s: &mut Value, typ: &str, path: &str) {
    remove(s, typ);
    s["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": typ, "path": path}));
}

fn remap(s: &mut Value) {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    s["linux"]["uidMappings"] = mapping.clone();
    s["linux"]["gidMappings"] = mapping;
    s["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
}

/// A container with a user namespace on a root that belongs to it, as rootless engines prepare one.
fn remapped(bed: &mut Bed) {
    remap(&mut bed.spec);
    let status = Command::new("chown")
        .args(["-Rh", "100000:100000"])
        .arg(bed.rootfs())
        .status()
        .unwrap();
    assert!(status.success());
}

pub fn cases() -> Vec<Case> {
    let mut cases = made();
    cases.extend(joined());
    cases.extend(user());
    cases.extend(time());
    cases
}

fn made() -> Vec<Case> {
    vec![
        code("new_namespaces", "a namespace without a path is created", |bed| {
            bed.up();
            for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
                let inside = std::fs::read_link(format!("/proc/{}/ns/{kind}", bed.pid())).unwrap();
                assert_ne!(inside.display().to_string(), own(kind), "{kind}");
            }
        }),
        code(
            "inherited_namespaces",
            "a type that is not listed is inherited from the runtime",
            |bed| {
                for typ in ["ipc", "uts", "network", "cgroup", "pid"] {
                    remove(&mut bed.spec, typ);
                }
                drop(bed.spec.as_object_mut().unwrap().remove("hostname"));
                bed.spec["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|m| m["type"] != "mqueue");
                bed.up();
                for kind in ["ipc", "uts", "net", "cgroup", "user", "pid"] {
                    let inside = std::fs::read_link(format!("/proc/{}/ns/{kind}", bed.pid())).unwrap();
                    assert_eq!(inside.display().to_string(), own(kind), "{kind}");
                }
            },
        ),
        refused(
            "namespace_twice",
            "a type MUST NOT be listed twice",
            |s| {
                s["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"type": "uts"}));
            },
            "",
        ),
        refused(
            "namespace_unknown",
            "type is one of those listed",
            |s| {
                s["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"type": "nope"}));
            },
            "",
        ),
        prints(
            "loopback_is_up",
            "the loopback interface of a new network namespace works",
            |_| {},
            "ip addr show lo | grep -c 'inet 127.0.0.1'",
            "1\n",
        ),
        prints(
            "network_is_empty",
            "nothing else is in it",
            |_| {},
            "ls /sys/class/net",
            "lo\n",
        ),
        prints(
            "cgroup_namespace_root",
            "the cgroup namespace's root is the container's cgroup",
            |_| {},
            "cut -d: -f3 /proc/self/cgroup | sort -u",
            "/\n",
        ),
        code(
            "no_mount_namespace",
            "without a mount namespace of its own a container is confined or refused",
            |bed| {
                remove(&mut bed.spec, "mount");
                let error = bed.refusal();
                assert!(
                    error.to_lowercase().contains("mount") || error.contains("MNT"),
                    "{error}"
                );
            },
        ),
    ]
}

fn join(bed: &mut Bed, typ: &str, kind: &str, flag: &str) {
    let holder = Holder::new(&[flag]);
    set_path(&mut bed.spec, typ, &holder.path(kind));
    if typ == "uts" {
        drop(bed.spec.as_object_mut().unwrap().remove("hostname"));
    }
    bed.up();
    let inside = std::fs::read_link(format!("/proc/{}/ns/{kind}", bed.pid())).unwrap();
    assert_eq!(inside.display().to_string(), holder.id(kind));
}

fn joined() -> Vec<Case> {
    vec![
        code(
            "join_network",
            "the process is placed in the network namespace at path",
            |bed| join(bed, "network", "net", "-n"),
        ),
        code("join_ipc", "the same for ipc", |bed| {
            join(bed, "ipc", "ipc", "-i")
        }),
        code("join_uts", "the same for uts", |bed| {
            join(bed, "uts", "uts", "-u")
        }),
        code("join_cgroup", "the same for cgroup", |bed| {
            join(bed, "cgroup", "cgroup", "-C")
        }),
        code("join_pid", "the same for pid", |bed| {
            let mut first = Bed::new(bed.runtime);
            first.up();
            set_path(&mut bed.spec, "pid", &format!("/proc/{}/ns/pid", first.pid()));
            let done =
                bed.run("readlink /proc/self/ns/pid; readlink /proc/1/ns/pid; [ $$ = 1 ] || echo other");
            let lines: Vec<&str> = done.stdout.lines().collect();
            assert!(
                lines.len() == 3 && lines[0] == lines[1],
                "{} {}",
                done.stdout,
                done.stderr
            );
            first.finish();
        }),
        code("join_mount", "the same for mount", |bed| {
            // The root is found by its path in there, too.
            let holder = Holder::new(&["-m", "--propagation", "private"]);
            set_path(&mut bed.spec, "mount", &holder.path("mnt"));
            bed.up();
            let inside = std::fs::read_link(format!("/proc/{}/ns/mnt", bed.pid())).unwrap();
            assert_eq!(inside.display().to_string(), holder.id("mnt"));
            assert_eq!(bed.exec("cat /full/file").stdout, "content\n");
            bed.must(&["delete", "--force", &bed.id]);
        }),
        code(
            "join_with_sysctl",
            "a namespace given by path can have sysctls",
            |bed| {
                let holder = Holder::new(&["-n"]);
                set_path(&mut bed.spec, "network", &holder.path("net"));
                bed.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
                assert_eq!(bed.run("cat /proc/sys/net/ipv4/ip_forward").stdout, "1\n");
            },
        ),
        refused(
            "join_missing",
            "a path that is no namespace is an error",
            |s| set_path(s, "network", "/does/not/exist"),
            "/does/not/exist",
        ),
        refused(
            "join_not_a_namespace",
            "the same for a file that is none",
            |s| set_path(s, "network", "/dev/null"),
            "",
        ),
        code(
            "join_of_another_kind",
            "if path is not associated with a namespace of the type, it MUST be an error",
            |bed| {
                let holder = Holder::new(&["-u"]);
                set_path(&mut bed.spec, "network", &holder.path("uts"));
                bed.refusal();
            },
        ),
    ]
}

fn user() -> Vec<Case> {
    vec![
        code(
            "user_mappings",
            "uidMappings and gidMappings are those of the user namespace",
            |bed| {
                remapped(bed);
                let done = bed.run(
                    "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; cat /proc/self/setgroups",
                );
                assert_eq!(
                    done.stdout, " 0 100000 65536\n 0 100000 65536\n0\nallow\n",
                    "{}",
                    done.stderr
                );
            },
        ),
        code("user_outside", "the process is the mapped user outside", |bed| {
            remapped(bed);
            bed.spec["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
            bed.up();
            let status = std::fs::read_to_string(format!("/proc/{}/status", bed.pid())).unwrap();
            assert!(
                status.contains("Uid:\t100007\t") && status.contains("Gid:\t100008\t"),
                "{status}"
            );
            assert!(status.contains("Groups:\t100009"), "{status}");
        }),
        code(
            "user_root_is_mapped",
            "root of the container owns what is the mapped user's",
            |bed| {
                remapped(bed);
                let done = bed.run("stat -c %u /full/file; touch /made && stat -c %u /made");
                assert_eq!(done.stdout, "0\n0\n", "{}", done.stderr);
            },
        ),
        code("user_in_exec", "exec joins the user namespace", |bed| {
            remapped(bed);
            bed.up();
            let done = bed.exec("id -u; readlink /proc/self/ns/user");
            let inside = std::fs::read_link(format!("/proc/{}/ns/user", bed.pid())).unwrap();
            assert_eq!(
                done.stdout,
                format!("0\n{}\n", inside.display()),
                "{}",
                done.stderr
            );
        }),
        code(
            "user_owns_the_others",
            "the other namespaces belong to the user namespace",
            |bed| {
                remapped(bed);
                let all = json!(["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
                bed.spec["process"]["capabilities"] =
                    json!({"bounding": all, "effective": all, "permitted": all});
                let done = bed
                    .run("ip link set lo down && hostname changed && mount -t tmpfs tmpfs /tmp && echo ok");
                assert_eq!(done.stdout, "ok\n", "{}", done.stderr);
            },
        ),
        code(
            "user_has_no_power_outside",
            "and have no power over the host's",
            |bed| {
                remapped(bed);
                let all = json!(["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SYS_RESOURCE"]);
                bed.spec["process"]["capabilities"] =
                    json!({"bounding": all, "effective": all, "permitted": all});
                let done = bed.run("mknod /tmp/x c 1 3 2>/dev/null || echo refused; { echo 1 > /proc/sys/kernel/panic; } 2>/dev/null || echo refused");
                assert_eq!(done.stdout, "refused\nrefused\n");
            },
        ),
        refused(
            "user_without_mappings",
            "a user namespace needs mappings",
            |s| {
                s["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"type": "user"}));
            },
            "",
        ),
        refused(
            "mappings_without_user",
            "mappings without a user namespace are an error",
            |s| {
                remap(s);
                remove(s, "user");
            },
            "",
        ),
        code(
            "mapping_overlap",
            "mappings that the kernel refuses are an error",
            |bed| {
                remapped(bed);
                bed.spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 5, "hostID": 200_000, "size": 10}]);
                bed.refusal();
            },
        ),
        code("several_mappings", "several lines are several mappings", |bed| {
            remapped(bed);
            bed.spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 10, "hostID": 200_000, "size": 10}]);
            let done = bed.run("wc -l < /proc/self/uid_map");
            assert_eq!(done.stdout, "2\n", "{}", done.stderr);
        }),
    ]
}

fn time() -> Vec<Case> {
    fn offset(s: &mut Value) {
        if !std::path::Path::new("/proc/self/ns/time").exists() {
            skip("this kernel has no time namespaces");
        }
        s["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "time"}));
        s["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 10_000_000, "nanosecs": 1}, "monotonic": {"secs": 5}});
    }
    vec![
        prints(
            "time_offsets",
            "timeOffsets sets the offsets of the clocks",
            offset,
            "[ $(cut -d. -f1 /proc/uptime) -ge 10000000 ] && echo later; awk '{print $1, $2, $3}' /proc/self/timens_offsets",
            "later\nmonotonic 5 0\nboottime 10000000 1\n",
        ),
        code("time_in_exec", "exec is in the time namespace", |bed| {
            offset(&mut bed.spec);
            bed.up();
            assert_eq!(
                bed.exec("[ $(cut -d. -f1 /proc/uptime) -ge 10000000 ] && echo later")
                    .stdout,
                "later\n"
            );
        }),
        refused(
            "time_offsets_without_namespace",
            "offsets need a time namespace",
            |s| {
                offset(s);
                remove(s, "time");
            },
            "",
        ),
        refused(
            "time_clock_unknown",
            "the clocks are monotonic and boottime",
            |s| {
                offset(s);
                s["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
            },
            "",
        ),
    ]
}
