//! config.md, "POSIX-platform Hooks", and their place in the lifecycle.

use std::path::Path;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::case::{Case, code};
use crate::commands::until;

/// A hook that appends a line to a file beside the bundle.
fn note(bed: &Bed, word: &str) -> Value {
    shell(&format!("echo {word} >> {}", bed.path("notes").display()))
}

fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

/// A hook that keeps what it gets on its standard input.
fn keep(bed: &Bed, name: &str) -> Value {
    shell(&format!("cat > {}", bed.path(name).display()))
}

fn document(bed: &Bed, name: &str) -> Value {
    serde_json::from_str(&bed.read(name)).unwrap_or_else(|e| panic!("{name}: {e}: {:?}", bed.read(name)))
}

pub fn cases() -> Vec<Case> {
    let mut cases = order();
    cases.extend(failures());
    cases.extend(documents());
    cases
}

fn order() -> Vec<Case> {
    vec![
        code(
            "hooks_in_order",
            "hooks run in the order of the lifecycle, each list in its own order",
            |bed| {
                let hooks = json!({
                    "poststop": [note(bed, "poststop")],
                    "poststart": [note(bed, "poststart")],
                    "createRuntime": [note(bed, "createRuntime1"), note(bed, "createRuntime2")],
                    "createContainer": [note(bed, "createContainer")],
                    "prestart": [note(bed, "prestart")],
                });
                bed.spec["hooks"] = hooks;
                bed.sleeper();
                bed.create();
                assert_eq!(
                    bed.read("notes"),
                    "prestart\ncreateRuntime1\ncreateRuntime2\ncreateContainer\n"
                );
                bed.start();
                assert!(
                    bed.read("notes").ends_with("createContainer\npoststart\n"),
                    "{}",
                    bed.read("notes")
                );
                bed.must(&["kill", &bed.id, "KILL"]);
                bed.wait();
                bed.must(&["delete", &bed.id]);
                assert!(
                    bed.read("notes").ends_with("poststart\npoststop\n"),
                    "{}",
                    bed.read("notes")
                );
            },
        ),
        code(
            "start_container_hook",
            "startContainer runs before the user process, in the container",
            |bed| {
                bed.spec["hooks"] =
                    json!({"startContainer": [shell("echo hook > /tmp/hook; hostname >> /tmp/hook")]});
                bed.sh("cat /tmp/hook");
                bed.create();
                assert!(!bed.rootfs().join("tmp/hook").exists());
                bed.start();
                assert_eq!(bed.done().stdout, "hook\nbox\n");
            },
        ),
        code(
            "poststart_after_the_process",
            "poststart runs after the user process has been executed, before start returns",
            |bed| {
                let script = format!(
                    "cat /proc/$(cat {})/cmdline > {}",
                    bed.path("pid").display(),
                    bed.path("seen").display()
                );
                bed.spec["hooks"] = json!({"poststart": [shell(&script)]});
                bed.up();
                assert!(bed.read("seen").contains("trap"), "{:?}", bed.read("seen"));
            },
        ),
        code(
            "create_container_namespaces",
            "createContainer runs in the container's namespaces, its path in the runtime's",
            |bed| {
                let script = format!(
                    "hostname > {0}; readlink /proc/self/ns/mnt >> {0}",
                    bed.path("seen").display()
                );
                bed.spec["hooks"] = json!({"createContainer": [shell(&script)]});
                bed.up();
                let inside = std::fs::read_link(format!("/proc/{}/ns/mnt", bed.pid())).unwrap();
                let seen = bed.read("seen");
                let lines: Vec<&str> = seen.lines().collect();
                assert_eq!(lines[1], inside.to_str().unwrap());
            },
        ),
        code(
            "create_runtime_namespaces",
            "prestart and createRuntime run in the runtime's namespaces",
            |bed| {
                let script = format!(
                    "readlink /proc/self/ns/mnt /proc/self/ns/uts > {}",
                    bed.path("seen").display()
                );
                bed.spec["hooks"] = json!({"createRuntime": [shell(&script)]});
                bed.up();
                let own = |kind: &str| {
                    std::fs::read_link(format!("/proc/self/ns/{kind}"))
                        .unwrap()
                        .display()
                        .to_string()
                };
                assert_eq!(bed.read("seen"), format!("{}\n{}\n", own("mnt"), own("uts")));
            },
        ),
        code(
            "create_runtime_sees_the_namespaces",
            "createRuntime is called after the runtime environment has been created",
            |bed| {
                let script = format!(
                    "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net > {}",
                    bed.path("seen").display()
                );
                bed.spec["hooks"] = json!({"createRuntime": [shell(&script)]});
                bed.up();
                let inside = std::fs::read_link(format!("/proc/{}/ns/net", bed.pid())).unwrap();
                assert_eq!(bed.read("seen").trim(), inside.to_str().unwrap());
            },
        ),
        code(
            "hook_may_add_a_mount",
            "mounts that createContainer makes in the root are the container's",
            |bed| {
                let target = bed.rootfs().join("home");
                let volume = bed.directory("volume");
                std::fs::write(volume.join("f"), "by hook\n").unwrap();
                let mut hook = shell("");
                // Vendors' hooks rely on it that the root is at the bundle's path.
                hook["args"][2] = json!(format!("mount --bind {} {}", volume.display(), target.display()));
                bed.spec["hooks"] = json!({"createContainer": [hook]});
                let done = bed.run("cat /home/f");
                assert_eq!(done.stdout, "by hook\n", "{}", done.stderr);
            },
        ),
    ]
}

fn failing(bed: &mut Bed, list: &str) -> String {
    bed.spec["hooks"] = json!({list: [shell("echo told >&2; exit 3")], "poststop": [note(bed, "poststop")]});
    bed.sleeper();
    bed.try_create(&[]).unwrap_err()
}

fn failures() -> Vec<Case> {
    vec![
        code(
            "prestart_fails",
            "if a prestart hook fails, the runtime MUST generate an error and stop the container",
            |bed| {
                let error = failing(bed, "prestart");
                assert!(error.contains("hook"), "{error}");
            },
        ),
        code("create_runtime_fails", "the same for createRuntime", |bed| {
            let error = failing(bed, "createRuntime");
            assert!(error.contains("hook"), "{error}");
        }),
        code("create_container_fails", "the same for createContainer", |bed| {
            let error = failing(bed, "createContainer");
            assert!(error.contains("hook"), "{error}");
        }),
        code(
            "poststop_after_a_failed_create",
            "the lifecycle continues with the poststop hooks",
            |bed| {
                failing(bed, "createRuntime");
                assert_eq!(bed.read("notes"), "poststop\n");
            },
        ),
        code(
            "start_container_fails",
            "the same for startContainer: the user process does not run",
            |bed| {
                bed.spec["hooks"] = json!({"startContainer": [shell("exit 3")]});
                bed.sh("echo ran > /tmp/ran");
                bed.create();
                bed.must_fail(&["start", &bed.id]);
                assert!(until(|| bed.status() == "stopped"));
                assert!(!bed.rootfs().join("tmp/ran").exists());
            },
        ),
        code(
            "poststart_fails",
            "the same for poststart: the container is stopped",
            |bed| {
                bed.spec["hooks"] = json!({"poststart": [shell("exit 3")]});
                bed.sleeper();
                bed.create();
                bed.must_fail(&["start", &bed.id]);
                assert!(until(|| bed.status() == "stopped"));
            },
        ),
        code(
            "poststop_fails",
            "if a poststop hook fails, the runtime MUST log a warning; the others and delete go on",
            |bed| {
                let hooks = json!({"poststop": [shell("exit 3"), note(bed, "second")]});
                bed.spec["hooks"] = hooks;
                bed.run("true");
                assert_eq!(bed.read("notes"), "second\n");
            },
        ),
        code(
            "later_hooks_do_not_run",
            "hooks after one that fails do not run",
            |bed| {
                let hooks = json!({"createRuntime": [shell("exit 1"), note(bed, "second")]});
                bed.spec["hooks"] = hooks;
                bed.sleeper();
                bed.try_create(&[]).unwrap_err();
                assert_eq!(bed.read("notes"), "");
            },
        ),
        code(
            "hook_path_missing",
            "a hook that can't be run is a failure",
            |bed| {
                bed.spec["hooks"] = json!({"createRuntime": [{"path": "/does/not/exist"}]});
                bed.sleeper();
                let error = bed.try_create(&[]).unwrap_err();
                assert!(error.contains("/does/not/exist"), "{error}");
            },
        ),
        code(
            "hook_timeout",
            "timeout is the number of seconds before aborting the hook",
            |bed| {
                let mut hook = shell("exec sleep 1000");
                hook["timeout"] = json!(1);
                bed.spec["hooks"] = json!({"createRuntime": [hook]});
                bed.sleeper();
                bed.try_create(&[]).unwrap_err();
            },
        ),
        code(
            "hook_timeout_zero",
            "if set, timeout MUST be greater than zero",
            |bed| {
                let mut hook = shell("true");
                hook["timeout"] = json!(0);
                bed.spec["hooks"] = json!({"createRuntime": [hook]});
                bed.sleeper();
                bed.try_create(&[]).unwrap_err();
            },
        ),
        code("hook_path_relative", "path MUST be an absolute path", |bed| {
            bed.spec["hooks"] = json!({"createRuntime": [{"path": "bin/sh"}]});
            bed.sleeper();
            bed.try_create(&[]).unwrap_err();
        }),
    ]
}

fn documents() -> Vec<Case> {
    vec![
        code(
            "hook_state_on_stdin",
            "the state MUST be passed to hooks over stdin",
            |bed| {
                bed.spec["annotations"] = json!({"a": "b"});
                let hooks = json!({
                    "prestart": [keep(bed, "prestart")],
                    "createRuntime": [keep(bed, "createRuntime")],
                    "createContainer": [keep(bed, "createContainer")],
                    "poststart": [keep(bed, "poststart")],
                    "poststop": [keep(bed, "poststop")],
                });
                bed.spec["hooks"] = hooks;
                bed.up();
                let pid = bed.pid();
                bed.must(&["kill", &bed.id, "KILL"]);
                bed.wait();
                bed.must(&["delete", &bed.id]);
                for (name, status) in [
                    ("prestart", "creating"),
                    ("createRuntime", "creating"),
                    ("createContainer", "creating"),
                    ("poststart", "running"),
                    ("poststop", "stopped"),
                ] {
                    let state = document(bed, name);
                    assert_eq!(state["id"], json!(bed.id), "{name}");
                    assert_eq!(state["status"], status, "{name}");
                    assert_eq!(
                        Path::new(state["bundle"].as_str().unwrap()),
                        bed.path("bundle"),
                        "{name}"
                    );
                    assert_eq!(state["annotations"], json!({"a": "b"}), "{name}");
                    assert!(state["ociVersion"].is_string(), "{name}");
                }
                assert_eq!(document(bed, "createRuntime")["pid"], json!(pid));
            },
        ),
        code("hook_env", "env is the hook's environment", |bed| {
            let hook = json!({"path": "/usr/bin/env", "args": ["env"], "env": ["A=1", "B=x=y"]});
            let mut keep = shell(&format!(
                "env | grep -v '^PWD\\|^SHLVL\\|^_' > {}",
                bed.path("env").display()
            ));
            keep["env"] = json!(["A=1", "B=x=y"]);
            bed.spec["hooks"] = json!({"createRuntime": [hook, keep]});
            bed.up();
            assert_eq!(bed.read("env"), "A=1\nB=x=y\n");
        }),
        code("hook_args", "args have the semantics of execv's argv", |bed| {
            let script = format!("echo \"$0|$1|$#\" > {}", bed.path("args").display());
            bed.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["name", "-c", script, "zero", "a b"]}]});
            bed.up();
            assert_eq!(bed.read("args"), "zero|a b|1\n");
        }),
        code("hook_does_not_read", "a hook need not read its state", |bed| {
            bed.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
            bed.up();
        }),
    ]
}
