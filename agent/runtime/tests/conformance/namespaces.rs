//! config-linux.md, "Namespaces".

use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::case::{Case, code, prints, refused};
use crate::commands::until;

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

pub fn remove(s: &mut Value, typ: &str) {
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

pub fn cases() -> Vec<Case> {
    let mut cases = made();
    cases.extend(joined());
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
