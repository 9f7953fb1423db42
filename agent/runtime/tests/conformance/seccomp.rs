//! config-linux.md, "Seccomp": actions, operators, arguments.

use serde_json::{Value, json};

use crate::case::{Case, prints, refused};

/// A filter that allows everything but what `rules` say.
pub fn filter(s: &mut Value, rules: Value) {
    s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
}

pub fn errno(names: &[&str], number: u32) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number})
}

/// kill(pid, signal) with an argument rule, driven by the shell's `kill -SIGNAL` on a process that is not there:
/// allowed it says "No such process", refused "Operation not permitted".
fn argument(s: &mut Value, op: &str, value: u64, two: u64) {
    let args = json!([{"index": 1, "value": value, "valueTwo": two, "op": op}]);
    filter(
        s,
        json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": args}]),
    );
}

const KILLS: &str =
    "for n in 9 10 11 12; do kill -$n 4000000 2>&1 | grep -q permitted && echo $n; done; echo";

pub fn cases() -> Vec<Case> {
    let mut cases = actions();
    cases.extend(operators());
    cases
}

fn actions() -> Vec<Case> {
    vec![
        prints(
            "seccomp_mode",
            "a filter is loaded",
            |s| filter(s, json!([])),
            "grep ^Seccomp: /proc/self/status",
            "Seccomp:\t2\n",
        ),
        prints(
            "no_seccomp",
            "none without seccomp",
            |_| {},
            "grep ^Seccomp: /proc/self/status",
            "Seccomp:\t0\n",
        ),
        prints(
            "errno",
            "SCMP_ACT_ERRNO returns EPERM by default",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]),
                )
            },
            "mkdir /x 2>&1",
            "mkdir: can't create directory '/x': Operation not permitted\n",
        ),
        prints(
            "errno_ret",
            "errnoRet is the number returned",
            |s| filter(s, json!([errno(&["mkdir", "mkdirat"], 28)])),
            "mkdir /x 2>&1",
            "mkdir: can't create directory '/x': No space left on device\n",
        ),
        prints(
            "errno_ret_other",
            "any other number",
            |s| filter(s, json!([errno(&["mkdir", "mkdirat"], 122)])),
            "mkdir /x 2>&1 | grep -c quota",
            "1\n",
        ),
        prints(
            "kill_action",
            "SCMP_ACT_KILL ends the thread with SIGSYS",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]),
                )
            },
            "mkdir /x 2>/dev/null; echo $?",
            "159\n",
        ),
        prints(
            "kill_thread_action",
            "SCMP_ACT_KILL_THREAD is the same",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_THREAD"}]),
                )
            },
            "mkdir /x 2>/dev/null; echo $?",
            "159\n",
        ),
        prints(
            "kill_process_action",
            "SCMP_ACT_KILL_PROCESS ends the process",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]),
                )
            },
            "mkdir /x 2>/dev/null; echo $?",
            "159\n",
        ),
        prints(
            "trap_action",
            "SCMP_ACT_TRAP sends SIGSYS",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRAP"}]),
                )
            },
            "mkdir /x 2>/dev/null; echo $?",
            "159\n",
        ),
        prints(
            "trace_action",
            "SCMP_ACT_TRACE without a tracer is ENOSYS",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRACE"}]),
                )
            },
            "mkdir /x 2>&1",
            "mkdir: can't create directory '/x': Function not implemented\n",
        ),
        prints(
            "log_action",
            "SCMP_ACT_LOG allows",
            |s| {
                filter(
                    s,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG"}]),
                )
            },
            "mkdir /x && echo ok",
            "ok\n",
        ),
        prints(
            "allow_action",
            "SCMP_ACT_ALLOW allows what the default refuses",
            |s| {
                s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ALLOW"}]});
            },
            "mkdir /x && echo ok",
            "ok\n",
        ),
        refused(
            "action_unknown",
            "action is one of those listed",
            |s| filter(s, json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOPE"}])),
            "",
        ),
        refused(
            "default_action_missing",
            "defaultAction is REQUIRED",
            |s| s["linux"]["seccomp"] = json!({"syscalls": []}),
            "",
        ),
        prints(
            "default_errno",
            "a default of SCMP_ACT_ERRNO refuses what is not allowed",
            |s| {
                let profile = pontoon_runtime::defaults::seccomp_profile(
                    &pontoon_runtime::defaults::CAPABILITIES.into_iter().collect(),
                );
                s["linux"]["seccomp"] = serde_json::to_value(profile).unwrap();
            },
            "unshare -U true 2>/dev/null || echo refused; mkdir /x && echo ok",
            "refused\nok\n",
        ),
    ]
}

fn operators() -> Vec<Case> {
    vec![
        prints(
            "op_eq",
            "SCMP_CMP_EQ",
            |s| argument(s, "SCMP_CMP_EQ", 10, 0),
            KILLS,
            "10\n\n",
        ),
        prints(
            "op_ne",
            "SCMP_CMP_NE",
            |s| argument(s, "SCMP_CMP_NE", 10, 0),
            KILLS,
            "9\n11\n12\n\n",
        ),
        prints(
            "op_lt",
            "SCMP_CMP_LT",
            |s| argument(s, "SCMP_CMP_LT", 10, 0),
            KILLS,
            "9\n\n",
        ),
        prints(
            "op_le",
            "SCMP_CMP_LE",
            |s| argument(s, "SCMP_CMP_LE", 10, 0),
            KILLS,
            "9\n10\n\n",
        ),
        prints(
            "op_gt",
            "SCMP_CMP_GT",
            |s| argument(s, "SCMP_CMP_GT", 10, 0),
            KILLS,
            "11\n12\n\n",
        ),
        prints(
            "op_ge",
            "SCMP_CMP_GE",
            |s| argument(s, "SCMP_CMP_GE", 10, 0),
            KILLS,
            "10\n11\n12\n\n",
        ),
        prints(
            "op_masked_eq",
            "SCMP_CMP_MASKED_EQ: value is the mask, valueTwo what must remain",
            |s| argument(s, "SCMP_CMP_MASKED_EQ", 3, 2),
            KILLS,
            "10\n\n",
        ),
        refused(
            "op_unknown",
            "op is one of those listed",
            |s| argument(s, "SCMP_CMP_NOPE", 1, 0),
            "",
        ),
        prints(
            "two_arguments",
            "all arguments of a rule must match",
            |s| {
                let args = json!([{"index": 0, "value": 4_000_000, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]);
                filter(
                    s,
                    json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args}]),
                );
            },
            "kill -10 4000000 2>&1 | grep -c permitted; kill -10 4000001 2>&1 | grep -c permitted; kill -9 4000000 2>&1 | grep -c permitted",
            "1\n0\n0\n",
        ),
        prints(
            "same_argument_twice",
            "conditions on the same argument are alternatives (as in runc)",
            |s| {
                let args = json!([{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]);
                filter(
                    s,
                    json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args}]),
                );
            },
            KILLS,
            "9\n12\n\n",
        ),
        refused(
            "argument_index",
            "index is that of one of six arguments",
            |s| {
                filter(
                    s,
                    json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]),
                );
            },
            "",
        ),
    ]
}
