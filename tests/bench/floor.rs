//! runc and crun on the same root file system, with the specification that Pontoon wrote for its own container: what any engine
//! that calls them can't go below. Used by `run-latency`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, process};
use serde_json::{Value, json};

/// Controllers of cgroup2 on a machine that otherwise has cgroup v1.
const HYBRID: &str = "/sys/fs/cgroup/unified/cgroup.controllers";

/// A folder with a specification and an unpacked root file system.
#[derive(Debug)]
pub struct Floor {
    runtime: PathBuf,
    bundle: PathBuf,
    state: PathBuf,
    running: Option<String>,
    mounts: Option<Child>,
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
            mounts: without_hybrid(runtime)?,
        };
        fs::create_dir_all(&floor.state).context("cannot make a state folder")?;
        make_rootfs(&floor.bundle.join("rootfs"))?;
        let spec = specification(host, container)?;
        let group = format!("{}/{name}", host.group());
        write(&spec, &floor.bundle, &["true"], &group)?;
        // What exec enters.
        let id = format!("{name}-exec");
        let idle = folder.join("idle");
        make_rootfs(&idle.join("rootfs"))?;
        write(&spec, &idle, &["sleep", "100000"], &format!("{group}-exec"))?;
        let mut command = floor.base();
        command.args(["run", "--detach", "--bundle"]).arg(&idle).arg(&id);
        // It keeps what it inherits open, so the pipes of the harness would never end.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
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

    /// Whether its commands go through `nsenter`, which costs about a millisecond.
    pub fn is_wrapped(&self) -> bool {
        self.mounts.is_some()
    }

    fn base(&self) -> Command {
        let mut command = match &self.mounts {
            Some(holder) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--mount=/proc/{}/ns/mnt", holder.id()))
                    .arg("--")
                    .arg(&self.runtime);
                command
            }
            None => Command::new(&self.runtime),
        };
        command.arg("--root").arg(&self.state);
        command
    }
}

fn write(spec: &Value, bundle: &Path, program: &[&str], group: &str) -> Result<()> {
    let mut spec = spec.clone();
    spec["root"]["path"] = json!(bundle.join("rootfs"));
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
    let path = bundle.join("config.json");
    fs::write(&path, serde_json::to_vec_pretty(&spec)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// crun refuses a machine whose hybrid cgroup2 has controllers; a mount namespace in which that is unmounted, for crun on such one.
fn without_hybrid(runtime: &Path) -> Result<Option<Child>> {
    let controllers = fs::read_to_string(HYBRID).unwrap_or_default();
    if !runtime.ends_with("crun") || controllers.trim().is_empty() {
        return Ok(None);
    }
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("umount /sys/fs/cgroup/unified && echo ready && exec sleep 1000000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run unshare")?;
    let mut ready = [0; 5];
    let said = child
        .stdout
        .take()
        .context("no standard output")?
        .read_exact(&mut ready);
    said.context("cannot make a mount namespace for crun")?;
    Ok(Some(child))
}

impl Drop for Floor {
    fn drop(&mut self) {
        if let Some(id) = &self.running {
            let mut command = self.base();
            command.args(["delete", "--force", id]);
            let _ = process::run(command);
        }
        if let Some(holder) = &mut self.mounts {
            let _ = holder.kill();
            let _ = holder.wait();
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
