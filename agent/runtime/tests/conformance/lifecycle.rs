//! runtime.md: states, their order, and the state document.

use serde_json::json;

use crate::case::{Case, code};
use crate::commands::until;

pub fn cases() -> Vec<Case> {
    vec![
        code(
            "created_then_running_then_stopped",
            "the status is created, running, stopped in turn",
            |bed| {
                bed.sleeper();
                bed.create();
                assert_eq!(bed.status(), "created");
                bed.start();
                assert_eq!(bed.status(), "running");
                bed.must(&["kill", &bed.id, "KILL"]);
                bed.wait();
                assert_eq!(bed.status(), "stopped");
                bed.must(&["delete", &bed.id]);
                bed.must_fail(&["state", &bed.id]);
            },
        ),
        code(
            "program_runs_only_at_start",
            "create does not run the user-specified program",
            |bed| {
                bed.sh("echo ran");
                bed.create();
                assert_eq!(bed.read("stdout"), "");
                bed.start();
                assert_eq!(bed.done().stdout, "ran\n");
            },
        ),
        code(
            "changes_after_create",
            "changes to config.json after create MUST NOT have an effect",
            |bed| {
                bed.sh("echo first");
                bed.create();
                bed.sh("echo second");
                bed.write_config();
                bed.start();
                assert_eq!(bed.done().stdout, "first\n");
            },
        ),
        code(
            "state_document",
            "the state has ociVersion, id, status, pid and bundle",
            |bed| {
                bed.up();
                let state = bed.state();
                assert_eq!(state["id"], json!(bed.id));
                assert_eq!(state["pid"], json!(bed.pid()));
                assert_eq!(state["bundle"], json!(bed.path("bundle")));
                assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
            },
        ),
        code(
            "pid_is_on_the_host",
            "pid is the process's as seen by the host",
            |bed| {
                bed.up();
                let root = std::fs::read_link(format!("/proc/{}/root", bed.pid()));
                assert!(root.is_ok());
                let cmdline = std::fs::read_to_string(format!("/proc/{}/cmdline", bed.pid())).unwrap();
                assert!(cmdline.contains("trap"), "{cmdline}");
            },
        ),
        code(
            "zombie_is_stopped",
            "stopped: the container process has exited",
            |bed| {
                bed.sh("exit 0");
                bed.create();
                bed.start();
                // Nobody has collected it yet.
                assert!(until(|| bed.status() == "stopped"));
            },
        ),
        code(
            "id_unique",
            "create MUST generate an error if the ID is in use",
            |bed| {
                bed.up();
                let pid = bed.pid();
                let error = bed.try_create(&[]).unwrap_err();
                assert!(error.contains("exist"), "{error}");
                assert_eq!(bed.status(), "running");
                std::fs::write(bed.path("pid"), pid.to_string()).unwrap();
            },
        ),
        code(
            "id_again_after_delete",
            "an ID may be used again after delete",
            |bed| {
                assert_eq!(bed.run("exit 1").code, 1);
                assert_eq!(bed.run("exit 2").code, 2);
            },
        ),
        code(
            "id_malformed",
            "an ID that can't be a directory's name is refused",
            |bed| {
                bed.write_config();
                let bundle = bed.path("bundle");
                for id in ["../x", "a/b", "", ".", "a b"] {
                    bed.must_fail(&["create", "--bundle", bundle.to_str().unwrap(), id]);
                }
            },
        ),
        code(
            "failed_create_leaves_nothing",
            "a failed create leaves no state, cgroup or process",
            |bed| {
                bed.push_mount(json!({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["bind"]}));
                let error = bed.try_create(&[]).unwrap_err();
                assert!(error.contains("/does/not/exist"), "{error}");
                assert!(!bed.path("state").join(&bed.id).exists());
                assert!(!bed.cgroup_exists());
                assert!(!bed.path("pid").exists(), "the pid file is left");
            },
        ),
        code(
            "init_waits_without_the_runtime",
            "a created container needs no runtime process",
            |bed| {
                bed.sleeper();
                bed.create();
                let parent = std::fs::read_to_string(format!("/proc/{}/stat", bed.pid())).unwrap();
                let parent = parent
                    .rsplit_once(')')
                    .unwrap()
                    .1
                    .split_whitespace()
                    .nth(1)
                    .unwrap()
                    .to_owned();
                assert_eq!(parent, std::process::id().to_string());
            },
        ),
        code(
            "delete_removes_what_create_made",
            "delete MUST delete the resources that were created in the create step",
            |bed| {
                bed.up();
                assert!(bed.cgroup_exists());
                bed.must(&["kill", &bed.id, "KILL"]);
                bed.wait();
                bed.must(&["delete", &bed.id]);
                assert!(!bed.cgroup_exists());
                assert!(!bed.path("state").join(&bed.id).exists());
            },
        ),
        code(
            "resources_not_created_stay",
            "resources that the container's creation did not make MUST NOT be deleted",
            |bed| {
                let volume = bed.directory("volume");
                std::fs::write(volume.join("f"), "x").unwrap();
                bed.push_mount(
                    json!({"destination": "/v", "type": "bind", "source": volume, "options": ["bind"]}),
                );
                bed.run("true");
                assert!(volume.join("f").exists() && bed.rootfs().join("full/file").exists());
            },
        ),
    ]
}
