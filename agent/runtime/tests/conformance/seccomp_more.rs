//! config-linux.md, "Seccomp": on exec, with and without privileges; architectures and flags.

use serde_json::json;

use crate::bed::Bed;
use crate::case::{Case, code, prints, refused};
use crate::seccomp::{errno, filter};

pub fn cases() -> Vec<Case> {
    fn in_exec(bed: &mut Bed, no_new_privileges: bool) {
        filter(&mut bed.spec, json!([errno(&["mkdir", "mkdirat"], 28)]));
        bed.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bed.up();
        let done = bed.exec("mkdir /x 2>&1; grep ^Seccomp: /proc/self/status");
        assert_eq!(
            done.stdout,
            "mkdir: can't create directory '/x': No space left on device\nSeccomp:\t2\n"
        );
    }
    vec![
        code("in_exec_too", "processes that join are under the filter", |bed| {
            in_exec(bed, false)
        }),
        code(
            "in_exec_without_new_privileges",
            "with noNewPrivileges as well",
            |bed| in_exec(bed, true),
        ),
        prints(
            "with_no_new_privileges",
            "the filter is loaded with noNewPrivileges",
            |s| {
                filter(s, json!([errno(&["mkdir", "mkdirat"], 28)]));
                s["process"]["noNewPrivileges"] = json!(true);
            },
            "mkdir /x 2>&1",
            "mkdir: can't create directory '/x': No space left on device\n",
        ),
        prints(
            "for_a_user",
            "and for a user without capabilities",
            |s| {
                filter(s, json!([errno(&["mkdir", "mkdirat"], 28)]));
                s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                s["process"]["capabilities"] = json!({});
            },
            "mkdir /tmp/x 2>&1",
            "mkdir: can't create directory '/tmp/x': No space left on device\n",
        ),
        prints(
            "architectures",
            "architectures are those of the filter",
            |s| {
                filter(s, json!([errno(&["mkdir", "mkdirat"], 28)]));
                s["linux"]["seccomp"]["architectures"] = json!([
                    "SCMP_ARCH_X86_64",
                    "SCMP_ARCH_X86",
                    "SCMP_ARCH_X32",
                    "SCMP_ARCH_AARCH64",
                    "SCMP_ARCH_ARM"
                ]);
            },
            "mkdir /x 2>&1",
            "mkdir: can't create directory '/x': No space left on device\n",
        ),
        refused(
            "architecture_unknown",
            "one that does not exist is an error",
            |s| {
                filter(s, json!([]));
                s["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_NOPE"]);
            },
            "",
        ),
        prints(
            "every_architecture",
            "those of the specification that go together (one byte order) are known",
            |s| {
                filter(s, json!([]));
                s["linux"]["seccomp"]["architectures"] = json!([
                    "SCMP_ARCH_X86_64",
                    "SCMP_ARCH_MIPSEL",
                    "SCMP_ARCH_MIPSEL64",
                    "SCMP_ARCH_MIPSEL64N32",
                    "SCMP_ARCH_PPC64LE"
                ]);
            },
            "echo ok",
            "ok\n",
        ),
        prints(
            "flag_log",
            "SECCOMP_FILTER_FLAG_LOG",
            |s| {
                filter(s, json!([errno(&["mkdir", "mkdirat"], 28)]));
                s["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG"]);
            },
            "mkdir /x 2>&1 | grep -c space",
            "1\n",
        ),
        prints(
            "flag_spec_allow",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            |s| {
                filter(s, json!([]));
                s["linux"]["seccomp"]["flags"] =
                    json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]);
            },
            "grep ^Speculation_Store_Bypass /proc/self/status | grep -c 'force mitigated'; echo ok",
            "0\nok\n",
        ),
        refused(
            "flag_unknown",
            "a flag that does not exist is an error",
            |s| {
                filter(s, json!([]));
                s["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_NOPE"]);
            },
            "",
        ),
        prints(
            "unknown_call_is_skipped",
            "a name that the library does not know is skipped (as in runc)",
            |s| filter(s, json!([errno(&["no_such_call", "mkdir", "mkdirat"], 28)])),
            "mkdir /x 2>&1 | grep -c space",
            "1\n",
        ),
        prints(
            "many_rules",
            "later rules add to earlier ones",
            |s| {
                filter(
                    s,
                    json!([
                        errno(&["mkdir", "mkdirat"], 28),
                        errno(&["rmdir"], 13),
                        errno(&["sethostname"], 1)
                    ]),
                )
            },
            "mkdir /x 2>&1 | grep -c space; rmdir /home 2>&1 | grep -c 'Permission denied'",
            "1\n1\n",
        ),
    ]
}
