//! config.md, "Linux Process": the five capability sets.

use serde_json::{Value, json};

use crate::case::{Case, code, prints, refused};

const SHOW: &str = "grep ^Cap /proc/self/status | cut -f2 | sed 's/^0*//;s/^$/0/' | tr '\\n' ' '";

fn sets(s: &mut Value, sets: Value) {
    s["process"]["capabilities"] = sets;
}

pub fn cases() -> Vec<Case> {
    vec![
        // CapInh CapPrm CapEff CapBnd CapAmb
        prints(
            "none",
            "a process without capabilities has none",
            |s| drop(s["process"].as_object_mut().unwrap().remove("capabilities")),
            SHOW,
            "0 0 0 0 0 ",
        ),
        prints(
            "bounding_alone",
            "bounding is the bounding set",
            |s| sets(s, json!({"bounding": ["CAP_KILL", "CAP_CHOWN"]})),
            "exec grep ^CapBnd /proc/self/status",
            "CapBnd:\t0000000000000021\n",
        ),
        prints(
            "permitted_and_effective",
            "permitted and effective are those sets",
            |s| {
                sets(
                    s,
                    json!({"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL", "CAP_CHOWN"]}),
                )
            },
            SHOW,
            "0 21 21 21 0 ",
        ),
        prints(
            "ambient",
            "ambient capabilities survive execve as a user without privileges",
            |s| {
                s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                let all = json!(["CAP_NET_BIND_SERVICE"]);
                sets(
                    s,
                    json!({"bounding": all, "permitted": all, "effective": all, "inheritable": all, "ambient": all}),
                );
            },
            SHOW,
            "400 400 400 400 400 ",
        ),
        prints(
            "inheritable",
            "inheritable is the inheritable set",
            |s| {
                let all = json!(["CAP_NET_RAW"]);
                sets(
                    s,
                    json!({"bounding": all, "permitted": all, "effective": all, "inheritable": all}),
                );
            },
            "exec grep ^CapInh /proc/self/status",
            "CapInh:\t0000000000002000\n",
        ),
        prints(
            "lost_by_another_user",
            "a user other than root has no effective capability without ambient ones",
            |s| s["process"]["user"] = json!({"uid": 1000, "gid": 1000}),
            "grep CapEff /proc/self/status",
            "CapEff:\t0000000000000000\n",
        ),
        prints(
            "effective_in_use",
            "what is not granted fails",
            |s| sets(s, json!({})),
            "chown 1 /etc/plain 2>/dev/null || echo refused",
            "refused\n",
        ),
        refused(
            "unknown",
            "a value that can't be mapped to a kernel interface is logged or an error",
            |s| sets(s, json!({"bounding": ["CAP_NOT_THERE"]})),
            "",
        ),
        code(
            "in_exec",
            "exec has the container's sets unless it is given others",
            |bed| {
                bed.up();
                assert_eq!(
                    bed.exec("grep CapPrm /proc/self/status").stdout,
                    "CapPrm:\t00000000a80425fb\n"
                );
            },
        ),
    ]
}
