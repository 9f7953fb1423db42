//! config.md, "Process": the program, its arguments and environment, its user, what it inherits.

use serde_json::json;

use crate::case::{Case, code, prints, refused};

pub fn cases() -> Vec<Case> {
    let mut cases = program();
    cases.extend(user());
    cases.extend(inherited());
    cases
}

fn none(_: &mut serde_json::Value) {}

fn program() -> Vec<Case> {
    vec![
        refused(
            "args_missing",
            "args has at least one entry",
            |s| drop(s["process"].as_object_mut().unwrap().remove("args")),
            "",
        ),
        refused(
            "args_empty",
            "args has at least one entry",
            |s| s["process"]["args"] = json!([]),
            "",
        ),
        code(
            "args_are_passed",
            "args have the semantics of execvp's argv",
            |bed| {
                bed.args(&["printf", "%s|", "a b", "", "c'd", "ü"]);
                assert_eq!(bed.run_args().stdout, "a b||c'd|ü|");
            },
        ),
        code(
            "args_found_in_path",
            "the program is looked up as by execvp, in the container's PATH",
            |bed| {
                bed.spec["process"]["env"] = json!(["PATH=/full/deep:/home"]);
                std::fs::write(bed.rootfs().join("home/tool"), "#!/bin/sh\necho found\n").unwrap();
                std::fs::set_permissions(
                    bed.rootfs().join("home/tool"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                )
                .unwrap();
                bed.args(&["tool"]);
                assert_eq!(bed.run_args().stdout, "found\n");
            },
        ),
        refused(
            "program_missing",
            "a program that can't be executed is an error",
            |s| s["process"]["args"] = json!(["nope"]),
            "executable file not found in $PATH",
        ),
        refused(
            "program_path_missing",
            "the same, given as a path",
            |s| s["process"]["args"] = json!(["/bin/nope"]),
            "no such file or directory",
        ),
        refused(
            "program_not_executable",
            "the same, found but not executable",
            |s| s["process"]["args"] = json!(["/etc/plain"]),
            "permission denied",
        ),
        prints(
            "env",
            "env has the semantics of environ",
            |s| s["process"]["env"] = json!(["PATH=/bin", "A=x=y", "B="]),
            "echo \"$A|$B|${C-unset}\"",
            "x=y||unset\n",
        ),
        prints(
            "env_nothing_of_the_runtime",
            "the environment is the configuration's",
            none,
            "env | grep -cvE '^(PATH|A|HOME|PWD|SHLVL)='",
            "0\n",
        ),
        prints(
            "home_is_set",
            "HOME is set from the container's passwd (as runc does)",
            |s| s["process"]["user"] = json!({"uid": 1000, "gid": 1000}),
            "echo $HOME",
            "/home\n",
        ),
        prints(
            "cwd",
            "cwd is the working directory of the executable",
            |s| s["process"]["cwd"] = json!("/full/deep"),
            "pwd",
            "/full/deep\n",
        ),
        prints(
            "cwd_is_made",
            "cwd is made where it is missing (as runc does)",
            |s| s["process"]["cwd"] = json!("/new/dir"),
            "pwd",
            "/new/dir\n",
        ),
        refused(
            "cwd_relative",
            "cwd MUST be an absolute path",
            |s| s["process"]["cwd"] = json!("full"),
            "absolute",
        ),
        refused(
            "cwd_file",
            "cwd is a directory",
            |s| s["process"]["cwd"] = json!("/etc/passwd"),
            "",
        ),
        prints(
            "pid_one",
            "the process is pid 1 of a new pid namespace",
            none,
            "echo $$",
            "1\n",
        ),
        code("exit_code", "the container's exit code is the process's", |bed| {
            assert_eq!(bed.run("exit 42").code, 42)
        }),
    ]
}

fn user() -> Vec<Case> {
    vec![
        prints(
            "uid_gid",
            "uid and gid are those in the container",
            |s| s["process"]["user"] = json!({"uid": 1000, "gid": 1001}),
            "id -u; id -g; id -G",
            "1000\n1001\n1001\n",
        ),
        prints(
            "additional_gids",
            "additionalGids are added to the process",
            |s| s["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6]}),
            "id -G",
            "1000 5 6\n",
        ),
        prints(
            "no_groups_of_the_runtime",
            "no supplementary group that is not asked for",
            none,
            "grep ^Groups /proc/self/status | tr -s ' \\t' ' '",
            "Groups: \n",
        ),
        prints(
            "umask",
            "umask is that of the user process",
            |s| s["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o27}),
            "umask",
            "0027\n",
        ),
        prints("umask_default", "0022 if unspecified", none, "umask", "0022\n"),
        code(
            "umask_in_exec",
            "umask is that of the user process, in exec too",
            |bed| {
                bed.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o77});
                bed.up();
                assert_eq!(bed.exec("umask").stdout, "0077\n");
            },
        ),
        prints(
            "numeric_user_without_passwd_entry",
            "an id needs no entry in passwd",
            |s| s["process"]["user"] = json!({"uid": 4_000_000, "gid": 7}),
            "id -u; echo $HOME",
            "4000000\n/\n",
        ),
        code(
            "user_owns_its_streams",
            "the process can open its own streams again",
            |bed| {
                bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                let done = bed.run("echo again > /dev/stdout");
                assert_eq!(
                    (done.code, done.stdout.as_str()),
                    (0, "again\n"),
                    "{}",
                    done.stderr
                );
            },
        ),
    ]
}

fn inherited() -> Vec<Case> {
    vec![
        prints(
            "no_leaked_descriptors",
            "only the standard streams are open",
            none,
            "ls /proc/self/fd | tr '\\n' ' '",
            "0 1 2 3 ",
        ),
        code("preserve_fds", "--preserve-fds passes descriptors on", |bed| {
            use std::os::fd::{AsRawFd as _, IntoRawFd as _};
            bed.sh("cat <&3; ls /proc/self/fd | tr '\\n' ' '");
            std::fs::write(bed.path("given"), "given\n").unwrap();
            let file = std::fs::File::open(bed.path("given")).unwrap();
            let mut command = std::process::Command::new("/bin/sh");
            let inner = bed.create_command(&["--preserve-fds", "1"]);
            let (out, err) = (
                std::fs::File::create(bed.path("stdout")).unwrap(),
                std::fs::File::create(bed.path("stderr")).unwrap(),
            );
            let number = file.into_raw_fd();
            command
                .arg("-c")
                .arg(format!(
                    "exec 3</proc/{}/fd/{number}; exec \"$@\"",
                    std::process::id()
                ))
                .arg("sh");
            command
                .arg(inner.get_program())
                .args(inner.get_args())
                .stdin(std::process::Stdio::null())
                .stdout(out)
                .stderr(err);
            assert!(
                crate::commands::wait_for(&mut command).success(),
                "{}",
                bed.error()
            );
            bed.start();
            let done = bed.done();
            assert_eq!(done.stdout, "given\n0 1 2 3 4 ", "{}", done.stderr);
            let _ = std::io::stdin().as_raw_fd();
        }),
        prints(
            "no_new_privileges",
            "noNewPrivileges keeps the process from gaining privileges",
            |s| s["process"]["noNewPrivileges"] = json!(true),
            "grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1\n",
        ),
        prints(
            "no_new_privileges_off",
            "off unless asked for",
            |s| s["process"]["noNewPrivileges"] = json!(false),
            "grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t0\n",
        ),
        prints(
            "oom_score_adj",
            "oomScoreAdj is set",
            |s| s["process"]["oomScoreAdj"] = json!(321),
            "cat /proc/self/oom_score_adj",
            "321\n",
        ),
        code(
            "oom_score_adj_untouched",
            "if oomScoreAdj is not set, the runtime MUST NOT change the value",
            |bed| {
                let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
                assert_eq!(bed.run("cat /proc/self/oom_score_adj").stdout, own);
            },
        ),
        prints(
            "rlimits",
            "rlimits sets resource limits",
            |s| {
                s["process"]["rlimits"] = json!([
                    {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                    {"type": "RLIMIT_NPROC", "soft": 3000, "hard": 3001}
                ]);
            },
            "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hu 2>/dev/null || ulimit -Hp",
            "100\n200\n0\n3001\n",
        ),
        refused(
            "rlimit_unknown",
            "the runtime MUST generate an error for a limit that it can't map",
            |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]),
            "",
        ),
        refused(
            "rlimit_twice",
            "if rlimits contains duplicated entries with same type, the runtime MUST generate an error",
            |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 2, "hard": 2}]),
            "RLIMIT_CORE",
        ),
        refused(
            "rlimit_soft_above_hard",
            "soft is not above hard",
            |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            "",
        ),
        prints(
            "own_session",
            "the process leads a session of its own",
            none,
            "cut -d' ' -f6 /proc/self/stat",
            "1\n",
        ),
        code(
            "session_keyring",
            "the process does not have the runtime's session keyring",
            |bed| {
                let own = std::fs::read_to_string("/proc/keys").unwrap_or_default();
                let done = bed.run("cat /proc/keys 2>/dev/null | grep -c _uid_ses");
                assert!(done.stdout.trim() == "0", "{} {own}", done.stdout);
            },
        ),
    ]
}
