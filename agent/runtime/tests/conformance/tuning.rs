//! config.md and config-linux.md: scheduler, I/O priority, processors of an exec, personality.

use serde_json::json;

use crate::case::{Case, code, prints, refused};

pub fn cases() -> Vec<Case> {
    vec![
        prints(
            "nice",
            "scheduler: nice of SCHED_OTHER",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 7}),
            "cut -d' ' -f19 /proc/self/stat",
            "7\n",
        ),
        prints(
            "batch",
            "scheduler: SCHED_BATCH",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3}),
            "cut -d' ' -f19,41 /proc/self/stat",
            "3 3\n",
        ),
        prints(
            "idle",
            "scheduler: SCHED_IDLE",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"}),
            "cut -d' ' -f41 /proc/self/stat",
            "5\n",
        ),
        refused(
            "priority_of_other",
            "priority is for SCHED_FIFO and SCHED_RR",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "priority": 5}),
            "",
        ),
        refused(
            "nice_out_of_range",
            "nice is between -20 and 19",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 99}),
            "",
        ),
        refused(
            "deadline_values_elsewhere",
            "runtime, deadline and period are for SCHED_DEADLINE",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "runtime": 1000}),
            "",
        ),
        refused(
            "policy_unknown",
            "policy is one of those listed",
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_NOPE"}),
            "",
        ),
        prints(
            "io_priority",
            "ioPriority: class and priority",
            |s| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
            "ionice -p $$",
            "best-effort: prio 6\n",
        ),
        prints(
            "io_priority_idle",
            "class idle",
            |s| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
            "ionice -p $$",
            "idle\n",
        ),
        refused(
            "io_priority_out_of_range",
            "priority is between 0 and 7",
            |s| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
            "",
        ),
        code(
            "exec_affinity",
            "execCPUAffinity: the processors of an exec",
            |bed| {
                bed.up();
                let mut process = bed.spec["process"].clone();
                process["args"] = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]);
                process["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
                std::fs::write(bed.path("process.json"), process.to_string()).unwrap();
                let file = bed.path("process.json");
                let done = bed.exec_with(&["--process", file.to_str().unwrap()], &[]);
                assert_eq!(done.stdout, "Cpus_allowed_list:\t0\n", "{}", done.stderr);
            },
        ),
        prints(
            "personality_linux32",
            "personality LINUX32: 32-bit uname",
            |s| s["linux"]["personality"] = json!({"domain": "LINUX32"}),
            "uname -m | sed 's/i.86/32/;s/armv.*/32/'",
            "32\n",
        ),
        prints(
            "personality_linux",
            "personality LINUX",
            |s| s["linux"]["personality"] = json!({"domain": "LINUX"}),
            "cat /proc/self/personality",
            "00000000\n",
        ),
        code("personality_in_exec", "it holds in exec", |bed| {
            bed.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
            bed.up();
            assert_eq!(
                bed.exec("uname -m | sed 's/i.86/32/;s/armv.*/32/'").stdout,
                "32\n"
            );
        }),
        refused(
            "personality_flags",
            "flags are refused where they are not supported",
            |s| s["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["X"]}),
            "",
        ),
        refused(
            "selinux_without_selinux",
            "selinuxLabel on a host without SELinux is an error",
            |s| {
                s["process"]["selinuxLabel"] = json!("system_u:system_r:svirt_lxc_net_t:s0");
            },
            "",
        ),
        refused(
            "mount_label_without_selinux",
            "mountLabel on a host without SELinux is an error",
            |s| {
                s["linux"]["mountLabel"] = json!("system_u:object_r:svirt_sandbox_file_t:s0");
            },
            "",
        ),
        refused(
            "apparmor_without_apparmor",
            "apparmorProfile on a host without AppArmor is an error",
            |s| s["process"]["apparmorProfile"] = json!("nosuchprofile"),
            "",
        ),
        refused(
            "rdt_without_resctrl",
            "intelRdt on a host without resctrl is an error",
            |s| s["linux"]["intelRdt"] = json!({"l3CacheSchema": "L3:0=f"}),
            "",
        ),
    ]
}
