//! runc and crun on the same root file system, with the specification that Pontoon wrote for its own container: what any engine
//! that calls them can't go below. Used by `run-latency`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, process};
use serde_json::{Value, json};

/// A folder with a specification and an unpacked root file system.
#[derive(Debug)]
pub struct Floor {
    runtime: PathBuf,
    bundle: PathBuf,
    state: PathBuf,
    running: Option<String>,
}

/// The external runtimes that are installed here.
pub fn installed() -> Vec<PathBuf> {
    ["/usr/sbin/runc", "/usr/bin/runc", "/usr/bin/crun"]
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

impl Floor {
    /// Makes the bundle from a running container's specification.
    ///
    /// # Errors
    /// When the specification can't be found or the root file system not be made.
    pub fn new(fleet: &Fleet, runtime: &Path, container: &str) -> Result<Self> {
        let name = runtime
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let folder = fleet.folder().join(&name);
        let host = fleet.host(1);
        let mut floor = Self {
            runtime: runtime.to_owned(),
            bundle: folder.join("bundle"),
            state: folder.join("state"),
            running: None,
        };
        fs::create_dir_all(&floor.state).context("cannot make a state folder")?;
        make_rootfs(&floor.bundle.join("rootfs"))?;
        let spec = specification(host, container)?;
        let group = format!("{}/{name}", host.group());
        floor.write(&spec, &["true"], &group)?;
        // What exec enters.
        let id = format!("{name}-exec");
        let idle = Self {
            runtime: runtime.to_owned(),
            bundle: folder.join("idle"),
            state: floor.state.clone(),
            running: None,
        };
        make_rootfs(&idle.bundle.join("rootfs"))?;
        idle.write(&spec, &["sleep", "100000"], &format!("{group}-exec"))?;
        let mut command = idle.start(&id);
        // It keeps what it inherits open, so the pipes of the harness would never end.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let status = command.status().context("cannot run the runtime")?;
        ensure!(status.success(), "{command:?} ended with {status}");
        floor.running = Some(id);
        Ok(floor)
    }

    /// `runc` or `crun`.
    pub fn name(&self) -> String {
        self.runtime
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The command that makes a container, runs `true` in it and removes it.
    pub fn run(&self, number: usize) -> Command {
        let mut command = self.base();
        command
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(format!("run{number}"));
        command
    }

    /// The command that runs `true` in the idle container.
    pub fn exec(&self) -> Command {
        let mut command = self.base();
        command.arg("exec").args(&self.running).arg("true");
        command
    }

    fn start(&self, id: &str) -> Command {
        let mut command = self.base();
        command
            .args(["run", "--detach", "--bundle"])
            .arg(&self.bundle)
            .arg(id);
        command
    }

    fn base(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.state);
        command
    }

    fn write(&self, spec: &Value, program: &[&str], group: &str) -> Result<()> {
        let mut spec = spec.clone();
        spec["root"]["path"] = json!(self.bundle.join("rootfs"));
        spec["process"]["args"] = json!(program);
        spec["linux"]["cgroupsPath"] = json!(group);
        // The container's own files (hosts, resolv.conf) are the engine's business.
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["type"] != "bind");
        }
        // Network none: a namespace of its own is part of the run.
        for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
            if let Some(namespace) = namespace.as_object_mut() {
                namespace.remove("path");
            }
        }
        let path = self.bundle.join("config.json");
        fs::write(&path, serde_json::to_vec_pretty(&spec)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if let Some(id) = &self.running {
            let mut command = self.base();
            command.args(["delete", "--force", id]);
            let _ = process::run(command);
        }
    }
}

fn specification(host: &Host, container: &str) -> Result<Value> {
    let path = host.run_dir().join("shim").join(container).join("config.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).context("the specification is no JSON")
}

/// The same files as in the `busybox` image.
fn make_rootfs(root: &Path) -> Result<()> {
    for folder in ["bin", "proc", "sys", "dev", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(folder)).context("cannot make the root file system")?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .context("cannot copy busybox (package busybox-static)")?;
    for applet in process::tool("/bin/busybox", &["--list"])?.lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))
                .context("cannot make a link in the root file system")?;
        }
    }
    Ok(())
}
