//! Defects of another embedded runtime that was measured before this one was written; each stays fixed.

use serde_json::json;

use crate::case::{Case, code};
use crate::commands::until;

fn profile(bed: &mut crate::bed::Bed) {
    let profile = pontoon_runtime::defaults::seccomp_profile(
        &pontoon_runtime::defaults::CAPABILITIES.into_iter().collect(),
    );
    bed.spec["linux"]["seccomp"] = serde_json::to_value(profile).unwrap();
}

pub fn cases() -> Vec<Case> {
    vec![
        code(
            "s1_exec_without_seccomp",
            "S1: processes that join run without seccomp",
            |bed| {
                profile(bed);
                bed.up();
                assert_eq!(
                    bed.exec("grep ^Seccomp: /proc/self/status").stdout,
                    "Seccomp:\t2\n"
                );
            },
        ),
        code(
            "s2_masked_equal_swapped",
            "S2: mask and value of SCMP_CMP_MASKED_EQ are swapped: clone(CLONE_NEWUSER) succeeds",
            |bed| {
                // clone(2) with any namespace flag, as Docker's profile refuses it; clone3 is not offered.
                let all = 0x7e02_0000_u64;
                bed.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": all, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
                ]});
                // kill(pid): a pid without any of those bits is refused, one with such a bit (2^25) is not.
                let done = bed.run(
                    "kill -0 4000000 2>&1 | grep -c permitted; kill -0 33554432 2>&1 | grep -c permitted",
                );
                assert_eq!(done.stdout, "1\n0\n");
            },
        ),
        code(
            "s2_docker_profile",
            "S2: the same, with Docker's profile",
            |bed| {
                profile(bed);
                bed.up();
                assert_ne!(bed.exec("unshare -U true").code, 0);
                assert_ne!(bed.exec("unshare -m true").code, 0);
            },
        ),
        code(
            "s3_cgroup_writable",
            "S3: the cgroup mount is read-write though it was asked to be read-only",
            |bed| {
                bed.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
                let script = "f=/sys/fs/cgroup/memory/memory.limit_in_bytes; [ -e $f ] || f=/sys/fs/cgroup/memory.max; \
                [ -e $f ] || exit 0; { echo 1000000000 > $f; } 2>/dev/null; cat $f";
                let done = bed.run(script);
                assert!(
                    done.stdout.is_empty() || done.stdout == "67108864\n",
                    "{}",
                    done.stdout
                );
            },
        ),
        code(
            "s3_without_cgroup_namespace",
            "S3: the same without a cgroup namespace",
            |bed| {
                bed.spec["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|n| n["type"] != "cgroup");
                let done = bed.run("for f in /sys/fs/cgroup/*/cgroup.procs; do { echo $$ > $f; } 2>/dev/null && echo written; done; echo done");
                assert_eq!(done.stdout, "done\n");
            },
        ),
        code(
            "s4_explicit_false",
            "S4: noNewPrivileges written out as false fails with a filter",
            |bed| {
                profile(bed);
                bed.spec["process"]["noNewPrivileges"] = json!(false);
                assert_eq!(
                    bed.run("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status")
                        .stdout,
                    "NoNewPrivs:\t0\nSeccomp:\t2\n"
                );
            },
        ),
        code(
            "b1_signal_marks_stopped",
            "B1: any signal marks the container as stopped; it can't be resumed then",
            |bed| {
                bed.sh("trap : USR1; echo ready; while :; do sleep 0.05; done");
                bed.create();
                bed.start();
                assert!(until(|| bed.read("stdout") == "ready\n"));
                bed.must(&["pause", &bed.id]);
                bed.must(&["kill", &bed.id, "USR1"]);
                assert_eq!(bed.status(), "paused");
                bed.must(&["resume", &bed.id]);
                assert_eq!(bed.status(), "running");
            },
        ),
        code(
            "b2_signals_inherited",
            "B2: the runtime's ignored and blocked signals reach the program",
            |bed| {
                // Go leaves signal 32 ignored.
                bed.args(&["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]);
                let text = bed.run_args().stdout.replace("80000000", "00000000");
                assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
            },
        ),
        code(
            "b3_delete_after_kill",
            "B3: a container that was killed and has ended is still taken for running",
            |bed| {
                for _ in 0..5 {
                    bed.up();
                    bed.must(&["kill", &bed.id, "KILL"]);
                    bed.wait();
                    bed.must(&["delete", &bed.id]);
                }
            },
        ),
        code(
            "b4_caller_is_changed",
            "B4: create changes the oom_score_adj of its caller",
            |bed| {
                let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
                bed.spec["process"]["oomScoreAdj"] = json!(700);
                assert_eq!(bed.run("cat /proc/self/oom_score_adj").stdout, "700\n");
                assert_eq!(
                    std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(),
                    before
                );
            },
        ),
        code(
            "b5_named_hierarchies",
            "B5: the container does not join the systemd and cgroup2 hierarchies",
            |bed| {
                bed.up();
                let text = std::fs::read_to_string(format!("/proc/{}/cgroup", bed.pid())).unwrap();
                for line in text.lines().filter(|l| {
                    l.starts_with("0::")
                        || (l.contains(":name=systemd:")
                            && std::path::Path::new("/sys/fs/cgroup/systemd").exists())
                }) {
                    assert!(line.ends_with(&bed.id), "{text}");
                }
            },
        ),
        code(
            "b6_exec_failure_unseen",
            "B6: start succeeds though execve fails",
            |bed| {
                std::fs::write(bed.rootfs().join("etc/broken"), "\u{7f}ELF not really\n").unwrap();
                std::fs::set_permissions(
                    bed.rootfs().join("etc/broken"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                )
                .unwrap();
                bed.args(&["/etc/broken"]);
                if bed.try_create(&[]).is_ok() {
                    let error = bed.must_fail(&["start", &bed.id]);
                    assert!(error.contains("format"), "{error}");
                }
            },
        ),
    ]
}
