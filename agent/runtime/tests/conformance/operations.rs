//! runtime.md, "Operations": what each must do, and refuse, in each state; and the command line around them.

use serde_json::json;

use crate::case::{Case, code};
use crate::commands::until;

pub fn cases() -> Vec<Case> {
    let mut cases = refusals();
    cases.extend(signals());
    cases.extend(command_line());
    cases
}

fn refusals() -> Vec<Case> {
    vec![
        code(
            "no_such_container",
            "an operation on an ID that does not exist MUST generate an error",
            |bed| {
                for words in [
                    vec!["state"],
                    vec!["start"],
                    vec!["kill"],
                    vec!["delete"],
                    vec!["pause"],
                    vec!["resume"],
                ] {
                    let mut words = words;
                    words.push("no-such-container");
                    let error = bed.must_fail(&words);
                    assert!(error.contains("does not exist"), "{words:?}: {error}");
                }
            },
        ),
        code(
            "no_id",
            "an operation without an ID MUST generate an error",
            |bed| {
                for word in ["state", "start", "kill", "delete", "create"] {
                    assert!(!bed.call(&[word]).status.success(), "{word}");
                }
            },
        ),
        code(
            "start_twice",
            "start on a container that is not created MUST have no effect and generate an error",
            |bed| {
                bed.up();
                bed.must_fail(&["start", &bed.id]);
                assert_eq!(bed.status(), "running");
            },
        ),
        code("start_stopped", "the same on a stopped one", |bed| {
            bed.sh("true");
            bed.create();
            bed.start();
            bed.wait();
            bed.must_fail(&["start", &bed.id]);
            assert_eq!(bed.status(), "stopped");
        }),
        code(
            "kill_stopped",
            "kill on a container neither created nor running MUST generate an error",
            |bed| {
                bed.sh("true");
                bed.create();
                bed.start();
                bed.wait();
                bed.must_fail(&["kill", &bed.id, "TERM"]);
            },
        ),
        code(
            "delete_running",
            "delete on a container that is not stopped MUST generate an error",
            |bed| {
                bed.up();
                bed.must_fail(&["delete", &bed.id]);
                assert_eq!(bed.status(), "running");
            },
        ),
        code(
            "delete_created",
            "delete on a container that is not stopped MUST have no effect on it",
            |bed| {
                bed.sleeper();
                bed.create();
                bed.must_fail(&["delete", &bed.id]);
                assert_eq!(bed.status(), "created");
            },
        ),
        code(
            "delete_twice",
            "delete on an ID that does not exist MUST generate an error",
            |bed| {
                bed.run("true");
                bed.must_fail(&["delete", &bed.id]);
            },
        ),
        code("exec_stopped", "exec in a stopped container is an error", |bed| {
            bed.sh("true");
            bed.create();
            bed.start();
            bed.wait();
            assert_ne!(bed.exec("true").code, 0);
        }),
    ]
}

fn signals() -> Vec<Case> {
    vec![
        code(
            "kill_sends_a_signal",
            "kill sends the specified signal to the container process",
            |bed| {
                bed.sh("trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done");
                bed.create();
                bed.start();
                assert!(until(|| bed.read("stdout") == "ready\n"));
                bed.must(&["kill", &bed.id, "USR1"]);
                let done = bed.done();
                assert_eq!((done.code, done.stdout.as_str()), (5, "ready\ngot\n"));
            },
        ),
        code("kill_default_is_term", "the default signal is SIGTERM", |bed| {
            bed.sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
            bed.create();
            bed.start();
            assert!(until(|| bed.read("stdout") == "ready\n"));
            bed.must(&["kill", &bed.id]);
            assert_eq!(bed.wait(), 7);
        }),
        code(
            "kill_spellings",
            "signals by number, by name, with and without SIG",
            |bed| {
                for word in ["9", "KILL", "SIGKILL"] {
                    bed.up();
                    bed.must(&["kill", &bed.id, word]);
                    assert_eq!(bed.wait(), 137, "{word}");
                    bed.must(&["delete", &bed.id]);
                }
                bed.up();
                bed.must_fail(&["kill", &bed.id, "NOPE"]);
                bed.must_fail(&["kill", &bed.id, "1000"]);
            },
        ),
        code("kill_created", "a created container can be killed", |bed| {
            bed.sleeper();
            bed.create();
            bed.must(&["kill", &bed.id, "KILL"]);
            assert_eq!(bed.wait(), 137);
            assert_eq!(bed.status(), "stopped");
        }),
        code(
            "kill_does_not_stop_by_itself",
            "a signal that is handled leaves the container running",
            |bed| {
                bed.sh("trap : USR1; echo ready; while :; do sleep 0.05; done");
                bed.create();
                bed.start();
                assert!(until(|| bed.read("stdout") == "ready\n"));
                bed.must(&["kill", &bed.id, "USR1"]);
                assert_eq!(bed.status(), "running");
            },
        ),
        code(
            "kill_all",
            "--all signals every process of the container",
            |bed| {
                bed.sh("trap 'echo one >> /tmp/all' USR1; (trap 'echo two >> /tmp/all' USR1; echo; while :; do sleep 0.05; done) & echo; while :; do sleep 0.05; done");
                bed.create();
                bed.start();
                assert!(until(|| bed.read("stdout") == "\n\n"));
                bed.must(&["kill", "--all", &bed.id, "USR1"]);
                let file = bed.rootfs().join("tmp/all");
                assert!(until(|| std::fs::read_to_string(&file)
                    .unwrap_or_default()
                    .lines()
                    .count()
                    == 2));
            },
        ),
        code(
            "kill_all_without_pid_namespace",
            "the others end with --all where there is no pid namespace",
            |bed| {
                bed.spec["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|n| n["type"] != "pid");
                bed.sh("sleep 1000 & echo $!; exec sleep 1000");
                bed.create();
                bed.start();
                assert!(until(|| bed.read("stdout").ends_with('\n')));
                let other = bed.read("stdout").trim().to_owned();
                bed.must(&["kill", "--all", &bed.id, "KILL"]);
                bed.wait();
                let state = || std::fs::read_to_string(format!("/proc/{other}/stat")).unwrap_or_default();
                assert!(until(|| state().is_empty() || state().contains(") Z ")));
                let pid = rustix::process::Pid::from_raw(other.parse().unwrap());
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
            },
        ),
        code(
            "pause_and_resume",
            "a paused container does nothing until it is resumed",
            |bed| {
                bed.up();
                bed.must(&["pause", &bed.id]);
                assert_eq!(bed.status(), "paused");
                bed.must_fail(&["pause", &bed.id]);
                bed.must(&["resume", &bed.id]);
                assert_eq!(bed.status(), "running");
                assert_eq!(bed.exec("exit 3").code, 3);
            },
        ),
        code(
            "force_delete_paused",
            "delete --force removes a paused container",
            |bed| {
                bed.up();
                bed.must(&["pause", &bed.id]);
                bed.must(&["delete", "--force", &bed.id]);
            },
        ),
    ]
}

fn command_line() -> Vec<Case> {
    vec![
        code("pid_file", "--pid-file gets the pid and nothing else", |bed| {
            bed.up();
            assert_eq!(bed.read("pid"), bed.state()["pid"].to_string());
        }),
        code("force_delete", "delete --force kills and removes", |bed| {
            bed.up();
            bed.must(&["delete", "--force", &bed.id]);
            assert!(!bed.cgroup_exists());
        }),
        code(
            "force_delete_nothing",
            "delete --force of nothing succeeds",
            |bed| {
                bed.must(&["delete", "--force", "no-such-container"]);
            },
        ),
        code("version", "--version names version and specification", |bed| {
            let text = bed.must(&["--version"]);
            assert!(text.contains("version") && text.contains("spec: 1."), "{text}");
        }),
        code("features", "features tells what the runtime can do", |bed| {
            let document: serde_json::Value = serde_json::from_str(&bed.must(&["features"])).unwrap();
            assert_eq!(document["linux"]["seccomp"]["enabled"], json!(true));
            assert_eq!(document["hooks"].as_array().unwrap().len(), 6);
        }),
        code("list", "list shows the containers", |bed| {
            bed.up();
            assert_eq!(bed.must(&["list", "-q"]), format!("{}\n", bed.id));
            assert!(bed.must(&["list"]).contains("running"));
            let document: serde_json::Value =
                serde_json::from_str(&bed.must(&["list", "-f", "json"])).unwrap();
            assert_eq!(document[0]["id"], json!(bed.id));
        }),
        code("ps", "ps shows the container's processes", |bed| {
            bed.up();
            let document: serde_json::Value =
                serde_json::from_str(&bed.must(&["ps", "-f", "json", &bed.id])).unwrap();
            assert!(
                document.as_array().unwrap().contains(&json!(bed.pid())),
                "{document}"
            );
        }),
        code(
            "rootless",
            "a runtime that can't do without privileges says so, and leaves nothing",
            |bed| {
                use std::os::unix::process::CommandExt as _;
                bed.sleeper();
                let mut command = bed.create_command(&[]);
                command.uid(65_534).gid(65_534);
                assert!(!crate::commands::wait_for(&mut command).success());
                assert!(!bed.path("state").join(&bed.id).exists());
                if bed.ours() {
                    assert!(bed.read("stderr").contains("rootless"), "{}", bed.read("stderr"));
                }
            },
        ),
        code("unknown_flag", "an unknown flag is an error", |bed| {
            assert!(!bed.call(&["state", "--nope", "x"]).status.success());
            assert!(!bed.call(&["nope"]).status.success() || !bed.ours());
        }),
        code(
            "log_json",
            "--log-format json writes objects with level, msg and time",
            |bed| {
                bed.must_fail(&["state", "no-such-container"]);
                let line = bed.read("log");
                let entry: serde_json::Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
                assert!(entry["time"].is_string() && entry["level"] == "error", "{entry}");
            },
        ),
        code("exec_code", "exec returns the process's code", |bed| {
            bed.up();
            assert_eq!(bed.exec("exit 42").code, 42);
            assert_eq!(bed.exec("kill -9 $$").code, 137);
        }),
        code(
            "exec_detached",
            "exec --detach returns at once and writes a pid",
            |bed| {
                bed.up();
                let file = bed.path("exec-pid");
                let done = bed.exec_with(
                    &["--detach", "--pid-file", file.to_str().unwrap()],
                    &["sleep", "1000"],
                );
                assert_eq!(done.code, 0, "{}", done.stderr);
                let pid = std::fs::read_to_string(file).unwrap();
                let comm = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
                assert!(comm.contains("1000"), "{comm}");
                // It is our child now; until it is collected its pid namespace can't end.
                let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            },
        ),
        code("exec_flags", "exec takes user, cwd and environment", |bed| {
            bed.up();
            let done = bed.exec_with(
                &["-u", "1000:1001", "--cwd", "/full", "-e", "X=y"],
                &["sh", "-c", "id -u; id -g; pwd; echo $X; echo $A"],
            );
            assert_eq!(done.stdout, "1000\n1001\n/full\ny\nb c\n", "{}", done.stderr);
        }),
        code("exec_process_file", "exec takes a process document", |bed| {
            bed.up();
            let mut process = bed.spec["process"].clone();
            process["args"] = json!(["sh", "-c", "pwd; exit 9"]);
            process["cwd"] = json!("/tmp");
            std::fs::write(bed.path("process.json"), process.to_string()).unwrap();
            let file = bed.path("process.json");
            let done = bed.exec_with(&["--process", file.to_str().unwrap()], &[]);
            assert_eq!(
                (done.code, done.stdout.as_str()),
                (9, "/tmp\n"),
                "{}",
                done.stderr
            );
        }),
        code("exec_missing_program", "exec of a missing program fails", |bed| {
            bed.up();
            let done = bed.exec_with(&[], &["nope"]);
            assert!(
                done.code != 0 && bed.error().contains("executable file not found in $PATH"),
                "{} {}",
                done.code,
                bed.error()
            );
        }),
    ]
}
