//! A host for one case: this binary again, in a network and a pid namespace of its own and with a control group of its own. Nothing of the
//! case outlives it, and it can't hold up the suite: a watchdog ends it when it is overdue. Used by this suite and by the agent's.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::bed::BUSYBOX;
use crate::group::{Group, Left};

/// How long a case may take: it then fails, and cleans up.
const PATIENCE: Duration = Duration::from_secs(180);

/// More than a case is given to end by itself: only what hangs takes so long.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// How long the output may stay open once every process of the case has been killed.
const DRAIN: Duration = Duration::from_secs(30);

/// How a case went.
pub struct Outcome {
    /// What it has printed, both streams as they came.
    pub text: String,
    /// Whether the watchdog had to end it.
    pub is_overdue: bool,
    /// A pid namespace ends with its first process: what is left in the group escaped from the case, or was frozen.
    pub left: Left,
    succeeded: bool,
}

impl Outcome {
    /// Whether the case has passed and left nothing.
    pub fn is_good(&self) -> bool {
        self.succeeded && !self.is_overdue && self.left.is_empty()
    }

    /// What a failed case has to say.
    pub fn report(&self) -> String {
        let mut report = String::new();
        if self.is_overdue {
            report += "the case did not end in time and was killed\n";
        }
        if !self.left.is_empty() {
            report += &format!("the case left {:?}\n", self.left);
        }
        report + &self.text
    }
}

/// What this binary is to its containers: their shim, init, log writer, network holder or archiver. `None` for the suite itself.
pub fn helper() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if pontoon_runtime::is_init(arguments.next().as_deref()) {
        return Some(pontoon_runtime::init_main(arguments));
    }
    let word = arguments.next()?;
    match (word.to_str()?, arguments.len()) {
        ("shim-log", _) => Some(pontoon_runtime::shim_log_main(arguments)),
        ("shim", 1) => Some(pontoon_runtime::shim_main(&arguments.next()?)),
        ("netd", 1) => Some(pontoon_dataplane::netd_main(&arguments.next()?)),
        ("archive", _) => Some(pontoon_engine::archive_main()),
        _ => None,
    }
}

/// Whether this machine can run cases; says why not.
pub fn is_able() -> bool {
    let is_able = rustix::process::geteuid().is_root() && Path::new(BUSYBOX).exists();
    if !is_able {
        println!("skipped: needs root and {BUSYBOX}");
    }
    is_able
}

/// Runs a case's future to its end, in the case's process, whose loopback is brought up first.
pub fn block_on(case: impl Future<Output = ()>) {
    crate::bed::run("ip", &["link", "set", "lo", "up"]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // None takes more than a few seconds by itself.
        tokio::time::timeout(PATIENCE, case)
            .await
            .expect("the case hangs");
    });
}

/// Runs this binary with a variable that names the case, to its end or the deadline; clears its group either way.
pub fn run(group: &Group, case: (&str, &str), deadline: Duration) -> Outcome {
    let (reader, writer) = std::io::pipe().unwrap();
    let (name, value) = group.variable();
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe().unwrap())
        .env(case.0, case.1)
        .env(name, value)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer);
    let mut child = command.spawn().unwrap();
    // It holds the pipe's other end, which would keep the output open.
    drop(command);
    let (text, ended) = gather(reader);
    let is_overdue = !ends_within(&child, deadline);
    if is_overdue {
        // The namespace's first process is killed with it; what is frozen ends once the group is thawed.
        child.kill().unwrap();
    }
    let left = group.clear();
    let status = child.wait().unwrap();
    let _ = ended.recv_timeout(DRAIN);
    let text = String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
    Outcome {
        text,
        is_overdue,
        left,
        succeeded: status.success(),
    }
}

/// Reads everything in a thread of its own; the channel closes at the end.
fn gather(mut reader: std::io::PipeReader) -> (Arc<Mutex<Vec<u8>>>, mpsc::Receiver<()>) {
    let text = Arc::new(Mutex::new(Vec::new()));
    let (sender, ended) = mpsc::channel();
    let gathered = text.clone();
    std::thread::spawn(move || {
        let _sender = sender;
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut chunk) {
            gathered.lock().unwrap().extend_from_slice(&chunk[..length]);
        }
    });
    (text, ended)
}

/// Whether a child ends before the deadline.
fn ends_within(child: &Child, deadline: Duration) -> bool {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let limit = Timespec {
        tv_sec: deadline.as_secs().try_into().unwrap(),
        tv_nsec: 0,
    };
    loop {
        match poll(&mut [PollFd::new(&pidfd.as_fd(), PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
