//! A bed for one container: temporary directories, a cgroup parent of its own, a busybox root, and the check
//! that nothing is left behind.

#![allow(dead_code, clippy::unwrap_used)]

pub mod bundle;
pub mod group;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use pontoon_runtime::{
    AttachOptions, Attachment, Error, ExecSpec, ExitRecord, FileLog, LogConfig, LogTarget, OutputReader,
    RootfsMount, RuntimeKind, ShimClient, ShimConfig, StdStream, defaults,
};
use serde_json::{Value, json};

use group::Group;

/// How long any single expectation may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which driver a case runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Native,
    Runc,
}

/// One container under test.
pub struct Bed {
    pub kind: Kind,
    pub spec: Value,
    pub config: ShimConfig,
    pub cgroup: String,
    temp: tempfile::TempDir,
}

/// What a finished container has said.
#[derive(Debug)]
pub struct Finished {
    pub record: ExitRecord,
    pub stdout: String,
    pub stderr: String,
}

impl Bed {
    /// `None`, with the reason printed, where the machine can't run the case.
    pub fn new(kind: Kind) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        if kind == Kind::Runc && !Path::new(RUNC).exists() {
            eprintln!("skipped: {RUNC} is not installed");
            return None;
        }
        pontoon_runtime::set_shim_executable(env!("CARGO_BIN_EXE_pontoon-runtime-test-shim").into());
        let temp = tempfile::tempdir().unwrap();
        let id: String = temp
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace(".tmp", "c");
        let base = temp.path();
        for dir in ["upper", "work", "rootfs"] {
            std::fs::create_dir(base.join(dir)).unwrap();
        }
        bundle::set_mode(&base.join("upper"), 0o755);
        let cgroup = format!("/pontoon-test-{id}/{id}");
        let config = ShimConfig {
            id,
            dir: base.join("run"),
            rootfs: RootfsMount::Overlay {
                lower: vec![lower().to_owned()],
                upper: base.join("upper"),
                work: base.join("work"),
            },
            rootfs_path: base.join("rootfs"),
            runtime: if kind == Kind::Runc {
                RuntimeKind::External(RUNC.into())
            } else {
                RuntimeKind::Native
            },
            tty: false,
            open_stdin: false,
            stdin_once: true,
            log: json_log(base.join("log"), None, 1),
            seccomp_cache: base.join("seccomp"),
            init: false,
        };
        let spec = spec(&config.rootfs_path, &cgroup);
        Some(Self {
            kind,
            spec,
            config,
            cgroup,
            temp,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn sh(&mut self, script: &str) {
        self.args(&["/bin/sh", "-c", script]);
    }

    pub fn args(&mut self, args: &[&str]) {
        self.spec["process"]["args"] = json!(args);
    }

    pub fn push_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub async fn create(&self) -> Result<ShimClient, Error> {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        within(ShimClient::spawn(&self.config, &spec)).await
    }

    /// Creates and starts with a long-lived program.
    pub async fn up(&mut self) -> ShimClient {
        self.sh("trap 'exit 0' TERM; while :; do sleep 0.05; done");
        let client = self.create().await.unwrap();
        within(client.start()).await.unwrap();
        client
    }

    /// From creation to the end, with all output.
    pub async fn run(&mut self, script: &str) -> Finished {
        self.sh(script);
        self.finish().await.unwrap()
    }

    pub async fn finish(&self) -> Result<Finished, Error> {
        let client = self.create().await?;
        let attachment = client.attach(OUTPUT).await?;
        if let Err(error) = within(client.start()).await {
            // The container has ended with it; the next one takes its place.
            within(client.wait()).await?;
            return Err(error);
        }
        let (stdout, stderr) = collect(attachment.split().0).await;
        let record = within(client.wait()).await?;
        Ok(Finished {
            record,
            stdout,
            stderr,
        })
    }

    pub fn process(&self, script: &str) -> Process {
        let mut process = self.spec["process"].clone();
        process["args"] = json!(["/bin/sh", "-c", script]);
        serde_json::from_value(process).unwrap()
    }

    /// Runs a script inside the running container.
    pub async fn exec(&self, client: &ShimClient, id: &str, script: &str) -> (i32, String, String) {
        let spec = ExecSpec {
            id: id.to_owned(),
            process: self.process(script),
            tty: false,
            stdin: false,
            detach: false,
        };
        let mut exec = within(client.exec(spec)).await.unwrap();
        let (stdout, stderr) = collect(exec.attachment.take().unwrap().split().0).await;
        (within(exec.wait()).await.unwrap(), stdout, stderr)
    }

    /// The file of a controller on the host.
    pub fn cgroup_file(&self, controller: &str, file: &str) -> Option<PathBuf> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/{controller}{}/{file}", self.cgroup));
        path.exists().then_some(path)
    }

    /// Fails if anything of this container is still there.
    pub fn assert_nothing_left(&self) {
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            let path = PathBuf::from(format!("{}{}", hierarchy.unwrap().path().display(), self.cgroup));
            assert!(!path.exists(), "{} is left", path.display());
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let base = self.config.dir.to_str().unwrap();
        assert!(!mounts.contains(base), "mounts are left: {mounts}");
        // The shim leaves right after it has told us.
        assert!(
            wait_until(|| pids_of(base).is_empty()),
            "processes are left: {:?}",
            pids_of(base)
        );
        let socket = self.config.dir.join("shim.sock");
        assert!(wait_until(|| !socket.exists()), "the shim's socket is left");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let (dir, cgroup) = (self.config.dir.clone(), self.cgroup.clone());
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(pontoon_runtime::destroy(&dir))
        })
        .join();
        // The parent, with whatever a failed case has left in it.
        let top = cgroup.trim_start_matches('/').split('/').next().unwrap();
        let left = Group::named(top).clear();
        if !std::thread::panicking() {
            cleaned.unwrap().unwrap();
            assert!(left.is_empty(), "{left:?} is left of the container");
        }
    }
}

/// A json-file log.
pub fn json_log(path: PathBuf, max_size: Option<u64>, max_file: u32) -> LogConfig {
    LogConfig {
        target: LogTarget::JsonFile(FileLog {
            path,
            max_size,
            max_file,
            compress: false,
        }),
        ..LogConfig::default()
    }
}

const RUNC: &str = "/usr/sbin/runc";

pub const OUTPUT: AttachOptions = AttachOptions {
    stdin: false,
    stdout: true,
    stderr: true,
};
pub const ALL: AttachOptions = AttachOptions {
    stdin: true,
    stdout: true,
    stderr: true,
};

/// Processes whose command line mentions a path.
pub fn pids_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.parse::<u32>().is_ok() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(text) {
                found.push(name);
            }
        }
    }
    found
}

/// Awaits with a limit that only a hang reaches.
pub async fn within<F: std::future::Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("hangs")
}

/// Polls a condition; false if it never holds.
pub fn wait_until(condition: impl FnMut() -> bool) -> bool {
    group::holds_within(PATIENCE, condition)
}

/// Reads an attachment to its end.
pub async fn collect(mut reader: OutputReader) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((stream, bytes)) = within(reader.next()).await.unwrap() {
        match stream {
            StdStream::Stdout => out.extend_from_slice(&bytes),
            StdStream::Stderr => err.extend_from_slice(&bytes),
        }
    }
    (
        String::from_utf8_lossy(&out).into_owned(),
        String::from_utf8_lossy(&err).into_owned(),
    )
}

/// Reads until a text has appeared.
pub async fn read_until(reader: &mut OutputReader, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match within(reader.next()).await.unwrap() {
            Some((_, bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            None => panic!("output ended before {text:?}: {seen:?}"),
        }
    }
    seen
}

/// Both halves of an attachment, for tests that drive them by turns.
pub fn halves(attachment: Attachment) -> (OutputReader, pontoon_runtime::StdinWriter) {
    attachment.split()
}

/// A read-only layer with busybox, shared by all tests of this process.
fn lower() -> &'static Path {
    static LOWER: OnceLock<PathBuf> = OnceLock::new();
    LOWER.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("busybox-{}", std::process::id()));
        bundle::make_root(&root);
        std::os::unix::fs::symlink("/../../../../../../tmp/escape", root.join("etc/link")).unwrap();
        root
    })
}

fn spec(root: &Path, cgroup: &str) -> Value {
    let set: HashSet<_> = defaults::CAPABILITIES.iter().copied().collect();
    let mut spec = bundle::base(root, cgroup);
    spec["linux"]["seccomp"] = json!(defaults::seccomp_profile(&set));
    spec
}
