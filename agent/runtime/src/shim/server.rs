//! The poll loop: which descriptors matter now, and what to do when one is ready. Each arm is one call.

mod life;
mod relay;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen as listen_on,
    socket_with,
};

use self::life::Ending;
use super::connection::{Connection, OUTPUT_LIMIT, Role};
use super::log::Log;
use super::open_directory;
use super::process::{Process, STDIN_LIMIT};
use crate::config::SOCKET_FILE;
use crate::driver::Driver;
use crate::error::IoContext;
use crate::protocol::{ContainerState, Reply, kind};
use crate::{Error, ExitRecord, ShimConfig};

/// Key of the container's init among the processes.
pub(super) const INIT: u64 = 0;

/// How long an ended container's shim stays for clients that have stopped reading.
const LINGER: Duration = Duration::from_secs(30);

/// How long an ended container waits for its log to be written, as in Docker.
const LOG_LINGER: Duration = Duration::from_secs(10);

/// How often things are looked at that have no descriptor.
const TICK: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Notices kept for a daemon that is away.
const NOTICES: usize = 64;

/// What the server is started with.
pub(super) struct Start {
    pub init: Process,
    pub log: Log,
    pub state: ContainerState,
}

/// The shim at work.
pub(super) struct Server {
    pub(super) config: ShimConfig,
    pub(super) driver: Box<dyn Driver>,
    pub(super) state: ContainerState,
    pub(super) processes: BTreeMap<u64, Process>,
    pub(super) connections: BTreeMap<u64, Connection>,
    /// Exit codes of execs that have ended, oldest first.
    pub(super) finished: Vec<(String, i32)>,
    pub(super) record: Option<ExitRecord>,
    pub(super) next_key: u64,
    log: Log,
    listener: OwnedFd,
    signals: OwnedFd,
    start_error: Option<Error>,
    /// The container has ended, and its log is being finished.
    ending: Option<Ending>,
    /// What the daemon is to be told and nobody has asked for.
    notices: Vec<String>,
}

/// What a ready descriptor is.
#[derive(Debug, Clone, Copy)]
enum Token {
    Listener,
    Signals,
    Connection(u64),
    Outcome(u64),
    Output(u64, u8),
    Input(u64),
    Log,
}

/// The shim's socket, 0600. The address goes through the directory's descriptor: a path may be
/// longer than an address.
pub(super) fn listen(dir: &Path) -> Result<OwnedFd, Error> {
    let what = || format!("listen on {}", dir.join(SOCKET_FILE).display());
    let _ = std::fs::remove_file(dir.join(SOCKET_FILE));
    let directory = open_directory(dir)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{raw}/{SOCKET_FILE}")).context(what)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).context(what)?;
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = bind(&socket, &address);
    rustix::process::umask(before);
    bound.context(what)?;
    listen_on(&socket, 64).context(what)?;
    Ok(socket)
}

impl Server {
    pub(super) fn new(
        config: ShimConfig,
        driver: Box<dyn Driver>,
        listener: OwnedFd,
        signals: OwnedFd,
        start: Start,
    ) -> Self {
        let Start { init, log, state } = start;
        Self {
            config,
            driver,
            state,
            processes: BTreeMap::from([(INIT, init)]),
            connections: BTreeMap::new(),
            finished: Vec::new(),
            record: None,
            next_key: 1,
            log,
            listener,
            signals,
            start_error: None,
            ending: None,
            notices: Vec::new(),
        }
    }

    /// Until the container has ended and everybody who is attached has heard of it.
    pub(super) fn run(mut self) {
        let mut progress = (Instant::now(), usize::MAX);
        loop {
            let mut timeout = None;
            if self.record.is_some() {
                let backlog = self.connections.values().map(Connection::backlog).sum::<usize>();
                if backlog != progress.1 {
                    progress = (Instant::now(), backlog);
                }
                if backlog == 0 || progress.0.elapsed() > LINGER {
                    break;
                }
                timeout = Some(TICK);
            }
            if self.ending.is_some() || self.log.wants_tick() {
                timeout = Some(TICK);
            }
            for (token, ready) in self.wait(timeout.as_ref()) {
                self.handle(token, ready);
            }
            self.look_after_log();
        }
        let _ = std::fs::remove_file(self.config.dir.join(SOCKET_FILE));
    }

    fn wait(&self, timeout: Option<&Timespec>) -> Vec<(Token, PollFlags)> {
        let mut tokens = vec![Token::Signals, Token::Listener];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let mut add = |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::new(fd, flags));
        };
        for (&key, process) in &self.processes {
            if let Some(outcome) = &process.outcome {
                add(Token::Outcome(key), outcome, PollFlags::IN);
                continue;
            }
            if process.running && self.may_read(key) {
                for (fd, kind) in [
                    (&process.stdout, kind::STDOUT),
                    (&process.stderr, kind::STDERR),
                    (&process.console, kind::STDOUT),
                ] {
                    if let Some(fd) = fd {
                        add(Token::Output(key, kind), fd, PollFlags::IN);
                    }
                }
            }
            if let (false, Some(fd)) = (process.pending_input.is_empty(), process.input_fd()) {
                add(Token::Input(key), fd, PollFlags::OUT);
            }
        }
        if let Some((fd, flags)) = self.log.interest() {
            add(Token::Log, fd, flags);
        }
        for (&key, connection) in &self.connections {
            let mut flags = PollFlags::empty();
            if self.may_take(connection) {
                flags |= PollFlags::IN;
            }
            if connection.backlog() > 0 {
                flags |= PollFlags::OUT;
            }
            add(Token::Connection(key), &connection.fd, flags);
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::INTR) => return Vec::new(),
            Err(error) => {
                // Nothing sensible is left: the container goes on, destroy() will find it.
                eprintln!("poll: {error}");
                std::process::exit(1);
            }
        }
        tokens
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, ready)| !ready.is_empty())
            .collect()
    }

    /// Output is read only while every client that wants it, and the log, keep up.
    fn may_read(&self, key: u64) -> bool {
        if key == INIT && !self.log.takes() {
            return false;
        }
        self.connections.values().all(|c| match c.role {
            Role::Stream {
                process,
                stdout,
                stderr,
                ..
            } if process == key && (stdout || stderr) => c.backlog() < OUTPUT_LIMIT,
            _ => true,
        })
    }

    /// Input is taken only while the process keeps up.
    fn may_take(&self, connection: &Connection) -> bool {
        match connection.role {
            Role::Stream {
                process, stdin: true, ..
            } => self
                .processes
                .get(&process)
                .is_none_or(|p| p.pending_input.len() < STDIN_LIMIT),
            _ => true,
        }
    }

    fn handle(&mut self, token: Token, ready: PollFlags) {
        match token {
            Token::Signals => self.reap(),
            Token::Listener => self.accept(),
            Token::Connection(key) => self.serve(key, ready),
            Token::Outcome(key) => self.settle(key),
            Token::Log => self.log.ready(),
            Token::Output(key, stream) => {
                self.read_output(key, stream);
            }
            Token::Input(key) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.flush_input();
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(fd) = accept_with(&self.listener, SocketFlags::CLOEXEC) {
            let key = self.next_key;
            self.next_key += 1;
            self.connections.insert(key, Connection::new(fd));
        }
    }

    /// Passes its notices on, and concludes the container's end when nothing of it is at work any more.
    fn look_after_log(&mut self) {
        self.log.tick();
        let is_done = self.log.is_done();
        let ending = self
            .ending
            .take_if(|ending| is_done || ending.since.elapsed() > LOG_LINGER);
        if ending.is_some() && !is_done {
            self.log.abandon();
            self.notices
                .push("the log could not be finished in time: its end may be lost".to_owned());
        }
        self.pass_notices();
        if let Some(ending) = ending {
            self.conclude(ending);
        }
    }

    /// To the daemon if it is there, and to our own log.
    fn pass_notices(&mut self) {
        for notice in self.log.notices() {
            eprintln!("{notice}");
            self.notices.push(notice);
        }
        let mut waiting = self
            .connections
            .values_mut()
            .filter(|c| c.role == Role::Wait(None));
        if let Some(daemon) = waiting.next() {
            for notice in self.notices.drain(..) {
                daemon.reply(&Reply::Notice(notice));
            }
        }
        let surplus = self.notices.len().saturating_sub(NOTICES);
        self.notices.drain(..surplus);
    }
}
