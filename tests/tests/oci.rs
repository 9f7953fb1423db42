//! `pontoon oci`: the OCI runtime's command line of the shipped binary, on a bundle. The runtime's own suite (`make conformance`) goes through
//! the specification; here is whether the program that users have offers it, and says what it does not.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Output, SHORT, cgroups, process, programs, wait_until, with_fleet};
use serde_json::{Value, json};

/// A busybox bundle, and the runtime's state folder and control group for its container `box`.
struct Bundle {
    folder: PathBuf,
    group: String,
}

impl Bundle {
    fn new(folder: PathBuf, group: &str, script: &str) -> Result<Self> {
        let root = folder.join("rootfs");
        for dir in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(root.join(dir)).context("cannot make a root")?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("cannot copy busybox")?;
        for applet in ["sh", "sleep", "hostname"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).context("cannot link")?;
        }
        let group = format!("{group}/oci");
        let namespaces = ["pid", "mount", "uts", "ipc", "network"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "pond",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": namespaces, "cgroupsPath": group},
        });
        fs::write(folder.join("config.json"), config.to_string()).context("cannot write a configuration")?;
        Ok(Self { folder, group })
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(programs::pontoon()?);
        command
            .args(["oci", "--root"])
            .arg(self.folder.join("state"))
            .args(args);
        Ok(command)
    }

    fn oci(&self, args: &[&str]) -> Result<Output> {
        process::run(self.command(args)?)
    }

    /// Runs `create`; the container's output goes to a file, as pipes would wait for its end.
    fn create(&self) -> Result<()> {
        let output = File::create(self.folder.join("output")).context("cannot make a file")?;
        let pid = self.folder.join("pid").display().to_string();
        let bundle = self.folder.display().to_string();
        let status = self
            .command(&["create", "--bundle", &bundle, "--pid-file", &pid, "box"])?
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share a file")?)
            .stderr(output)
            .status()
            .context("cannot run create")?;
        ensure!(status.success(), "{status}: {}", self.output());
        Ok(())
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }

    fn state(&self) -> Result<Value> {
        serde_json::from_str(&self.oci(&["state", "box"])?.ok()?).context("no JSON")
    }

    fn is(&self, status: &str) -> Result<()> {
        wait_until(&format!("the container is {status}"), SHORT, || {
            let state = self.state()?;
            ensure!(state["status"] == status, "{state}");
            Ok(())
        })
    }
}

fn bundle(script: &str, test: impl FnOnce(&Bundle) -> Result<()>) {
    with_fleet(1, |fleet| {
        let folder = fleet.folder().join("bundle");
        test(&Bundle::new(folder, fleet.host(1).group(), script)?)
    });
}

#[test]
fn a_container_from_create_to_delete() {
    let script = "echo hello from $(hostname); trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done";
    bundle(script, |bundle| {
        bundle.create()?;
        let state = bundle.state()?;
        ensure!(
            state["status"] == "created" && state["id"] == "box" && state["ociVersion"].is_string(),
            "{state}"
        );
        let pid = fs::read_to_string(bundle.folder.join("pid"))?;
        ensure!(
            state["pid"].as_u64() == pid.trim().parse().ok(),
            "{state} and {pid}"
        );
        ensure!(state["bundle"] == bundle.folder.display().to_string(), "{state}");
        ensure!(bundle.output().is_empty(), "it ran before its start");
        bundle.oci(&["start", "box"])?.ok()?;
        wait_until("the program has started", SHORT, || {
            ensure!(bundle.output() == "hello from pond\n", "{:?}", bundle.output());
            Ok(())
        })?;
        bundle.is("running")?;
        let output = bundle.oci(&[
            "exec",
            "--env",
            "A=1",
            "box",
            "sh",
            "-c",
            "echo $A; echo err >&2; exit 5",
        ])?;
        ensure!(
            output.code == 5 && output.stdout == "1\n" && output.stderr == "err\n",
            "{output}"
        );
        let listed = bundle.oci(&["list"])?.ok()?;
        ensure!(listed.starts_with("ID") && listed.contains("running"), "{listed}");
        ensure!(bundle.oci(&["list", "--quiet"])?.ok()? == "box");
        let processes = bundle.oci(&["ps", "--format", "json", "box"])?.ok()?;
        ensure!(processes.contains(pid.trim()), "{processes} has no {pid}");
        bundle.oci(&["pause", "box"])?.ok()?;
        bundle.is("paused")?;
        bundle.oci(&["resume", "box"])?.ok()?;
        bundle.oci(&["start", "box"])?.fails(1, &["already running"])?;
        bundle.oci(&["delete", "box"])?.fails(1, &["box"])?;
        bundle.oci(&["kill", "box", "TERM"])?.ok()?;
        bundle.is("stopped")?;
        ensure!(
            bundle.output() == "hello from pond\nbye\n",
            "{:?}",
            bundle.output()
        );
        bundle.oci(&["delete", "box"])?.ok()?;
        bundle.oci(&["state", "box"])?.fails(1, &["does not exist"])?;
        ensure!(bundle.oci(&["list", "--quiet"])?.ok()?.is_empty());
        let left = cgroups::groups(&bundle.group)?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    });
}

#[test]
fn a_living_container_is_deleted_by_force() {
    bundle("sleep 1000", |bundle| {
        bundle.create()?;
        bundle.oci(&["start", "box"])?.ok()?;
        bundle.oci(&["delete", "--force", "box"])?.ok()?;
        bundle.oci(&["state", "box"])?.fails(1, &["does not exist"])?;
        ensure!(cgroups::groups(&bundle.group)?.is_empty());
        // What is not there can be deleted by force, as runc does.
        bundle.oci(&["delete", "--force", "box"])?.ok()?;
        Ok(())
    });
}

#[test]
fn wrong_usage_is_told() {
    bundle("true", |bundle| {
        for (args, text) in [
            (&["nonsense"][..], "no such command: nonsense"),
            (
                &["run", "box"],
                "the command run: use create, start, state, kill and delete",
            ),
            (&["checkpoint", "box"], "the command checkpoint"),
            (&["state"], "container"),
            (&["state", "nobody"], "does not exist"),
            (&["start", "nobody"], "does not exist"),
            (&["kill", "nobody", "TERM"], "does not exist"),
            (
                &["state", "--nonsense", "box"],
                "flag provided but not defined: -nonsense",
            ),
            (&["state", "one", "two"], "the command takes one container id"),
            (&["create", "--bundle", "/no/such", "box"], "/no/such"),
            (&["create", "--bundle", "/", "a/b"], "a/b"),
            (&["--systemd-cgroup", "state", "box"], "--systemd-cgroup"),
            (
                &["--log-format", "xml", "state", "box"],
                "invalid log-format: xml",
            ),
            (&["list", "--format", "xml"], "invalid format option: xml"),
        ] {
            bundle.oci(args)?.fails(1, &[text])?;
        }
        let usage = bundle.oci(&["--help"])?.ok()?;
        for command in ["create", "start", "state", "kill", "delete"] {
            ensure!(usage.contains(command), "{usage}");
        }
        let output = bundle.oci(&["exec", "nobody", "true"])?;
        ensure!(
            output.code == 255 && output.stderr.contains("does not exist"),
            "{output}"
        );
        // Errors go to the log as well, for the engine above.
        let log = bundle.folder.join("log.json");
        let log_flag = log.display().to_string();
        bundle
            .oci(&["--log", &log_flag, "--log-format", "json", "state", "nobody"])?
            .fails(1, &["does not exist"])?;
        let entry: Value = serde_json::from_str(fs::read_to_string(&log)?.trim())?;
        ensure!(entry["level"] == "error", "{entry}");
        ensure!(!bundle.folder.join("state/box").exists());
        Ok(())
    });
}
