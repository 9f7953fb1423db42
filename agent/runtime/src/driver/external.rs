//! An OCI runtime's command line (runc, crun) as driver: the operator's escape hatch, and the oracle that the
//! native driver is tested against.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ProcessStdio};

use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use super::{Created, Driver, Launched, Streams};
use crate::cgroup::Cgroup;
use crate::config::{RootfsMount, SPEC_FILE, read_json, write_json};
use crate::container::child::Stdio;
use crate::container::{attach_mount, overlay_by_options, receive_descriptor};
use crate::error::IoContext;
use crate::{Error, ShimConfig};

/// A container made by an external runtime.
pub(super) struct External {
    config: ShimConfig,
    program: PathBuf,
    spec: Option<Spec>,
    cgroup: Cgroup,
}

impl External {
    pub(super) fn new(config: &ShimConfig, program: &Path, spec: Spec, cgroup: Cgroup) -> Self {
        Self {
            config: config.clone(),
            program: program.to_owned(),
            spec: Some(spec),
            cgroup,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.config.dir.join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.file("runtime"));
        command
            .arg("--log")
            .arg(self.file("runtime.log"))
            .args(["--log-format", "json"]);
        command
    }

    /// Runs a command to its end. Its own messages go to its log, from which the last error is taken.
    fn run(&self, mut command: Command, streams: Option<Stdio>, what: &str) -> Result<(), Error> {
        let _ = std::fs::remove_file(self.file("runtime.log"));
        match streams {
            Some(Stdio {
                stdin,
                stdout,
                stderr,
            }) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
            }
            None => {
                let (input, output) = (ProcessStdio::null(), ProcessStdio::null());
                command.stdin(input).stdout(output).stderr(ProcessStdio::null());
            }
        }
        let status = command
            .status()
            .context(|| format!("run {}", self.program.display()))?;
        drop(command);
        if status.success() {
            Ok(())
        } else {
            Err(self.failure(what))
        }
    }

    fn failure(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(self.file("runtime.log")).unwrap_or_default();
        let message = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|entry| entry.get("msg").and_then(|m| m.as_str()).map(str::to_owned))
            .next_back()
            .unwrap_or_else(|| format!("{} gave no reason", self.program.display()));
        // As moby maps these texts to exit codes.
        let has = |text: &str| message.contains(text);
        if has("executable file not found") || (has("exec") && has("no such file or directory")) {
            return Error::Exec { code: 127, message };
        }
        if has("exec") && (has("permission denied") || has("is a directory") || has("exec format error")) {
            return Error::Exec { code: 126, message };
        }
        Error::Shim {
            operation: what.to_owned(),
            message,
        }
    }

    /// Mounts the root where only this process and its children see it.
    fn mount_root(&self) -> Result<(), Error> {
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).context(|| "make a mount namespace")?;
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .context(|| "leave the host's mount propagation")?;
        let at = &self.config.rootfs_path;
        match &self.config.rootfs {
            RootfsMount::Bind(path) => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_RECURSIVE;
                let tree = open_tree(CWD, path, flags).context(|| format!("bind {}", path.display()))?;
                let target = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .context(|| format!("open {}", at.display()))?;
                attach_mount(&tree, &target).context(|| format!("mount {}", at.display()))
            }
            RootfsMount::Overlay { lower, upper, work } => overlay_by_options(lower, upper, work, at),
        }
    }

    /// A listening socket at which the runtime delivers the terminal.
    fn console_socket(&self, name: &str) -> Result<(OwnedFd, PathBuf), Error> {
        let path = self.file(name);
        let _ = std::fs::remove_file(&path);
        let what = || format!("listen on {}", path.display());
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .context(what)?;
        bind(&socket, &SocketAddrUnix::new(&path).context(what)?).context(what)?;
        listen(&socket, 1).context(what)?;
        Ok((socket, path))
    }

    /// Runs a command about the container with these streams; gives the terminal if it is one, which arrives at the socket.
    fn run_with(
        &self,
        mut command: Command,
        streams: Streams,
        socket: &str,
        what: &str,
    ) -> Result<Option<OwnedFd>, Error> {
        match streams {
            Streams::Pipes(stdio) => {
                command.arg(&self.config.id);
                self.run(command, Some(stdio), what).map(|()| None)
            }
            Streams::Terminal => {
                let (socket, path) = self.console_socket(socket)?;
                command.arg("--console-socket").arg(&path).arg(&self.config.id);
                self.run(command, None, what)?;
                Self::receive_console(&socket, &path).map(Some)
            }
        }
    }

    fn receive_console(socket: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
        let connection = accept_with(socket, SocketFlags::CLOEXEC).context(|| "accept the terminal")?;
        let _ = std::fs::remove_file(path);
        receive_descriptor(&connection)?
            .ok_or_else(|| Error::Create("the runtime sent no terminal".to_owned()))
    }

    fn read_pid(&self, name: &str) -> Result<u32, Error> {
        let path = self.file(name);
        let pid: u32 = read_json(&path)?;
        let _ = std::fs::remove_file(&path);
        Ok(pid)
    }
}

impl Driver for External {
    fn create(&mut self, streams: Streams) -> Result<Created, Error> {
        let mut spec = self
            .spec
            .take()
            .ok_or_else(|| Error::Create("created twice".to_owned()))?;
        if self.config.init {
            return Err(Error::Unsupported(
                "an init process with an external runtime".to_owned(),
            ));
        }
        let terminal = matches!(streams, Streams::Terminal);
        if let Some(process) = spec.process_mut() {
            process.set_terminal(Some(terminal));
        }
        write_json(&self.file(SPEC_FILE), &spec)?;
        self.mount_root()?;
        let mut command = self.command();
        command.arg("create").arg("--bundle").arg(&self.config.dir);
        command.arg("--pid-file").arg(self.file("init.pid"));
        let console = match self.run_with(command, streams, "console.sock", "create the container") {
            Ok(console) => console,
            Err(error) => {
                let _ = self.delete();
                return Err(error);
            }
        };
        Ok(Created {
            pid: self.read_pid("init.pid")?,
            console,
            warnings: Vec::new(),
        })
    }

    fn start(&mut self) -> Result<Option<OwnedFd>, Error> {
        let mut command = self.command();
        command.arg("start").arg(&self.config.id);
        self.run(command, None, "start the container").map(|()| None)
    }

    fn exec(&mut self, id: &str, process: &Process, streams: Streams) -> Result<Launched, Error> {
        let terminal = matches!(streams, Streams::Terminal);
        let mut process = process.clone();
        process.set_terminal(Some(terminal));
        let file = self.file(&format!("exec-{id}.json"));
        let pid_file = format!("exec-{id}.pid");
        write_json(&file, &process)?;
        let mut command = self.command();
        command.args(["exec", "--detach", "--process"]).arg(&file);
        command.arg("--pid-file").arg(self.file(&pid_file));
        let socket = format!("exec-{id}.sock");
        let console = self.run_with(command, streams, &socket, "exec in the container");
        let _ = std::fs::remove_file(&file);
        let console = console?;
        Ok(Launched {
            pid: self.read_pid(&pid_file)?,
            console,
            outcome: None,
        })
    }

    fn kill(&mut self, signal: i32, all: bool) -> Result<(), Error> {
        if all {
            return self.cgroup.signal_all(signal);
        }
        let mut command = self.command();
        command.arg("kill").arg(&self.config.id).arg(signal.to_string());
        self.run(command, None, "signal the container")
    }

    fn freeze(&mut self, freeze: bool) -> Result<(), Error> {
        let verb = if freeze { "pause" } else { "resume" };
        let mut command = self.command();
        command.arg(verb).arg(&self.config.id);
        self.run(command, None, verb)
    }

    fn update(&mut self, resources: &LinuxResources) -> Result<(), Error> {
        let file = self.file("update.json");
        write_json(&file, resources)?;
        let mut command = self.command();
        command
            .args(["update", "--resources"])
            .arg(&file)
            .arg(&self.config.id);
        let result = self.run(command, None, "update the container");
        let _ = std::fs::remove_file(&file);
        result
    }

    fn delete(&mut self) -> Result<(), Error> {
        let mut command = self.command();
        command.args(["delete", "--force"]).arg(&self.config.id);
        let deleted = self.run(command, None, "delete the container");
        self.cgroup.remove().and(deleted)
    }

    fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}
