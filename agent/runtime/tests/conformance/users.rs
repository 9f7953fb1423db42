//! config-linux.md, "User namespace mappings" and "Offset for Time Namespace".

use std::process::Command;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::case::{Case, code, prints, refused, skip};
use crate::namespaces::remove;

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
    let mut cases = user();
    cases.extend(time());
    cases
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
