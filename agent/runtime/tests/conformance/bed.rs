//! One bundle and the runtime's command line on it: a busybox root, a state directory and a cgroup of its own.
//! Dropping a bed removes everything, and a case passes only if nothing of its container is left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use serde_json::{Value, json};

use crate::bundle::{base, make_root, set_mode};
use crate::commands::{ends, exit_code, run, wait_for};
use crate::group::Group;

pub const RUNC: &str = "/usr/sbin/runc";

/// The program whose `oci` is tried: the one that `PONTOON_CONFORMANCE_BIN` names (`make conformance` names the built `pontoon`),
/// else this crate's own test program, which has the same.
pub fn ours() -> PathBuf {
    std::env::var_os("PONTOON_CONFORMANCE_BIN").map_or_else(
        || env!("CARGO_BIN_EXE_pontoon-runtime-test-shim").into(),
        PathBuf::from,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    Ours,
    Runc,
}

impl Runtime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Runc => "runc",
        }
    }
}

pub struct Bed {
    pub runtime: Runtime,
    pub spec: Value,
    pub id: String,
    temp: tempfile::TempDir,
    cgroup: String,
}

/// What a container has done.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Bed {
    pub fn new(runtime: Runtime) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("conf-{}-{number}", std::process::id());
        let temp = tempfile::Builder::new().prefix("conformance-").tempdir().unwrap();
        set_mode(temp.path(), 0o711);
        let root = temp.path().join("bundle/rootfs");
        make_root(&root);
        furnish(&root);
        let cgroup = format!("/{id}");
        Self {
            runtime,
            spec: base(Path::new("rootfs"), &cgroup),
            id,
            temp,
            cgroup,
        }
    }

    pub fn ours(&self) -> bool {
        self.runtime == Runtime::Ours
    }

    /// A path beside the bundle.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// A new directory beside the bundle.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        set_mode(&path, 0o755);
        path
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path("bundle/rootfs")
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn push_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub fn args(&mut self, args: &[&str]) {
        self.spec["process"]["args"] = json!(args);
    }

    pub fn sh(&mut self, script: &str) {
        self.args(&["/bin/sh", "-c", script]);
    }

    /// A shell that lives until it is killed or told to end.
    pub fn sleeper(&mut self) {
        self.sh("trap 'exit 0' TERM; while :; do sleep 0.05; done");
    }

    pub fn write_config(&self) {
        std::fs::write(self.path("bundle/config.json"), self.spec.to_string()).unwrap();
    }

    /// The runtime with its global flags.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = match self.runtime {
            Runtime::Ours => {
                let mut command = Command::new(ours());
                command.arg("oci");
                command
            }
            Runtime::Runc => Command::new(RUNC),
        };
        command
            .arg("--root")
            .arg(self.path("state"))
            .arg("--log")
            .arg(self.path("log"));
        command.args(["--log-format", "json"]).args(words);
        command.current_dir(self.temp.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn call(&self, words: &[&str]) -> Output {
        run(&mut self.command(words), &self.path("call"))
    }

    /// Runs a command that must succeed; its standard output.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(
            output.status.success(),
            "{words:?}: {} {}",
            self.error(),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; its message.
    pub fn must_fail(&self, words: &[&str]) -> String {
        let _ = std::fs::remove_file(self.path("log"));
        let output = self.call(words);
        assert!(!output.status.success(), "{words:?} succeeded");
        self.error()
    }

    /// The last error in the log.
    pub fn error(&self) -> String {
        self.read("log")
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| entry["level"] == "error")
            .filter_map(|entry| entry["msg"].as_str().map(str::to_owned))
            .next_back()
            .unwrap_or_default()
    }

    /// A `create` whose container writes to the files `stdout` and `stderr`.
    pub fn create_command(&self, extra: &[&str]) -> Command {
        self.write_config();
        let mut command = self.command(&["create", "--bundle"]);
        command
            .arg(self.path("bundle"))
            .arg("--pid-file")
            .arg(self.path("pid"))
            .args(extra)
            .arg(&self.id);
        let file = |name: &str| File::create(self.path(name)).unwrap();
        command.stdout(file("stdout")).stderr(file("stderr"));
        command
    }

    /// Creates the container; its message on failure.
    pub fn try_create(&self, extra: &[&str]) -> Result<(), String> {
        let status = wait_for(&mut self.create_command(extra));
        if status.success() {
            return Ok(());
        }
        let (error, stderr) = (self.error(), self.read("stderr"));
        Err(if error.is_empty() { stderr } else { error })
    }

    pub fn create(&self) {
        self.try_create(&[]).unwrap_or_else(|e| panic!("create: {e}"));
    }

    pub fn start(&self) {
        self.must(&["start", &self.id]);
    }

    /// Creates and starts a container that lives on.
    pub fn up(&mut self) {
        self.sleeper();
        self.create();
        self.start();
    }

    pub fn pid(&self) -> u32 {
        self.read("pid").trim().parse().unwrap()
    }

    /// Waits for the init's end: its code, 128 + signal when it was killed.
    pub fn wait(&self) -> i32 {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(
            ends(&pidfd),
            "the container does not end: {}",
            self.read("stderr")
        );
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        exit_code(status)
    }

    pub fn done(&self) -> Done {
        let code = self.wait();
        Done {
            code,
            stdout: self.read("stdout"),
            stderr: self.read("stderr"),
        }
    }

    /// From create to the container's end.
    pub fn run(&mut self, script: &str) -> Done {
        self.sh(script);
        self.run_args()
    }

    /// The same with the arguments that are set.
    pub fn run_args(&self) -> Done {
        self.create();
        self.start();
        let done = self.done();
        self.must(&["delete", &self.id]);
        done
    }

    /// What the runtime says against the configuration, at creation or at the start.
    pub fn refusal(&mut self) -> String {
        if let Err(error) = self.try_create(&[]) {
            assert!(
                !self.path("state").join(&self.id).exists(),
                "a failed create leaves its state: {error}"
            );
            return error;
        }
        let error = self.must_fail(&["start", &self.id]);
        self.call(&["delete", "--force", &self.id]);
        error
    }

    /// The state document.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.must(&["state", &self.id])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// Runs a script in the running container.
    pub fn exec(&self, script: &str) -> Done {
        self.exec_with(&[], &["/bin/sh", "-c", script])
    }

    pub fn exec_with(&self, flags: &[&str], args: &[&str]) -> Done {
        let mut words = vec!["exec"];
        words.extend(flags);
        words.push(&self.id);
        words.extend(args);
        let output = run(&mut self.command(&words), &self.path("exec"));
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The container's cgroup file on the host; `None` where the host has no such controller.
    pub fn cgroup_file(&self, controller: &str, file: &str) -> Option<String> {
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", self.cgroup);
        std::fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
    }

    pub fn cgroup_exists(&self) -> bool {
        Group::named(&self.cgroup).places().iter().any(|d| d.exists())
    }

    /// Skips a case about a controller that this host lacks.
    pub fn need(&self, controller: &str) {
        let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
        let has = match v2 {
            Ok(list) => list
                .split_whitespace()
                .any(|c| c == controller || (c, controller) == ("io", "blkio")),
            Err(_) => Path::new("/sys/fs/cgroup").join(controller).exists(),
        };
        if !has {
            crate::case::skip(&format!("this host has no {controller} controller"));
        }
    }

    /// Ends a case: removes the container if it is still there, and checks that nothing is left.
    pub fn finish(&self) {
        self.remove();
        assert!(
            !self.path("state").join(&self.id).exists(),
            "the state directory is left"
        );
        assert!(!self.cgroup_exists(), "a cgroup is left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.temp.path().to_str().unwrap()),
            "a mount is left"
        );
    }

    fn remove(&self) {
        if self.path("state").join(&self.id).exists() {
            let _ = self.call(&["delete", "--force", &self.id]);
        }
        if let Ok(pid) = self.read("pid").trim().parse::<i32>() {
            // What nobody has waited for.
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.remove();
        Group::named(&self.id).clear();
    }
}

/// What cases of this suite expect besides: a folder with content, and a `/tmp` for everybody.
fn furnish(root: &Path) {
    std::fs::create_dir_all(root.join("full/deep")).unwrap();
    for (path, mode) in [("full", 0o755), ("full/deep", 0o755), ("tmp", 0o1777)] {
        set_mode(&root.join(path), mode);
    }
    std::fs::write(root.join("full/file"), "content\n").unwrap();
    std::fs::write(root.join("full/deep/file"), "deep\n").unwrap();
}
