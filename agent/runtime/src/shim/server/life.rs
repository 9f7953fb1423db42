//! Starts and ends: how execve went, children that have ended, the container's end and its record.

use std::time::Instant;

use rustix::process::{WaitOptions, WaitStatus, wait};

use super::{INIT, Server};
use crate::container::sync::{Message, receive};
use crate::exit::{now_ns, write_exit_record};
use crate::init::exit_code;
use crate::protocol::{Reply, WireError};
use crate::shim::connection::Role;
use crate::{Error, ExitRecord};

/// Ends of execs remembered for those who ask later.
const REMEMBERED: usize = 1024;

/// An end that is not concluded.
pub(super) struct Ending {
    status: WaitStatus,
    pub(super) since: Instant,
    killed: Result<(), Error>,
}

impl Server {
    /// Learns how execve went and tells whoever waits for it.
    pub(super) fn settle(&mut self, key: u64) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let Some(outcome) = process.outcome.take() else {
            return;
        };
        let asker = process.asker.take();
        let pid = process.pid;
        let reply = match receive(&outcome) {
            Ok(Some((Message::Failed(error), _))) => {
                if key == INIT {
                    self.start_error = Some(Error::from(error.clone()));
                }
                Reply::Error(error)
            }
            Ok(_) => {
                process.running = true;
                if key == INIT {
                    self.init_started(pid)
                } else {
                    Reply::Pid(pid)
                }
            }
            Err(error) => Reply::Error(WireError::from_error("start the program", &error)),
        };
        if let (INIT, Reply::Ok) = (key, &reply) {
            "running".clone_into(&mut self.state.status);
        }
        if let Some(connection) = asker.and_then(|a| self.connections.get_mut(&a)) {
            if matches!(reply, Reply::Error(_)) {
                connection.role = Role::Call;
            }
            connection.reply(&reply);
        }
    }

    /// Poststart hooks; a container of which one fails is stopped.
    fn init_started(&mut self, pid: u32) -> Reply {
        match self.driver.started(pid) {
            Ok(()) => Reply::Ok,
            Err(error) => {
                eprintln!("{}", error.chain());
                let _ = self.driver.kill(libc::SIGKILL, true);
                let reply = Reply::Error(WireError::from_error("start the container", &error));
                self.start_error = Some(error);
                reply
            }
        }
    }

    /// Collects every child that has ended: ours, and orphans that came to us as the subreaper.
    pub(super) fn reap(&mut self) {
        let mut buffer = [0_u8; 1024];
        while rustix::io::read(&self.signals, &mut buffer).is_ok() {}
        let mut init_status = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            let key = self.running(pid);
            match key {
                Some(INIT) => init_status = Some(status),
                Some(key) => self.exec_ended(key, exit_code(status)),
                None => self.log.child_ended(pid, exit_code(status) == 0),
            }
        }
        if let Some(status) = init_status {
            self.container_ended(status);
        }
    }

    /// Which of the processes a child is, if it has not ended before.
    fn running(&self, pid: u32) -> Option<u64> {
        let mut processes = self.processes.iter();
        let found = processes.find(|(_, p)| p.pid == pid && p.exit.is_none());
        found.map(|(&key, _)| key)
    }

    fn exec_ended(&mut self, key: u64, code: i32) {
        self.settle(key);
        self.drain(key);
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        process.exit = Some(code);
        process.stdin = None;
        let id = process.id.clone().unwrap_or_default();
        self.end_streams(key);
        if self.finished.len() >= REMEMBERED {
            self.finished.remove(0);
        }
        for connection in self.connections.values_mut() {
            if connection.role == Role::Wait(Some(id.clone())) {
                connection.role = Role::Call;
                connection.reply(&Reply::ExecExit(code));
            }
        }
        self.finished.push((id, code));
        self.forget_if_done(key);
    }

    fn container_ended(&mut self, status: WaitStatus) {
        self.settle(INIT);
        let keys: Vec<u64> = self.processes.keys().copied().collect();
        // Without a pid namespace of its own others may live on; with one the kernel has killed them already.
        let killed = self.driver.cgroup().signal_all(libc::SIGKILL);
        for &key in &keys {
            self.drain(key);
        }
        self.log.finish();
        "stopped".clone_into(&mut self.state.status);
        self.ending = Some(Ending {
            status,
            since: Instant::now(),
            killed,
        });
    }

    /// The end of the container, when its output is where it belongs.
    pub(super) fn conclude(&mut self, ending: Ending) {
        let Ending { status, killed, .. } = ending;
        let oom_killed = self.driver.cgroup().oom_kills() > 0;
        let deleted = self.driver.delete();
        // Execs die with the container; their status is collected if the kernel is done with them.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let key = self.running(pid.as_raw_nonzero().get().unsigned_abs());
            if let Some(key) = key.filter(|&k| k != INIT) {
                self.exec_ended(key, exit_code(status));
            }
        }
        let execs: Vec<u64> = self.processes.keys().copied().filter(|&k| k != INIT).collect();
        for key in execs {
            if self.processes.get(&key).is_some_and(|p| p.exit.is_none()) {
                self.exec_ended(key, 128 + libc::SIGKILL);
            }
        }
        let (code, mut error) = match self.start_error.take() {
            Some(Error::Exec { code, message }) => (code, Some(message)),
            // As Docker reports a container that could not be started.
            Some(error) => (128, Some(error.chain())),
            None => (exit_code(status), None),
        };
        for failure in [killed, deleted].into_iter().filter_map(Result::err) {
            eprintln!("clean-up: {}", failure.chain());
            error.get_or_insert_with(|| failure.chain());
        }
        let record = ExitRecord {
            code,
            signal: status.terminating_signal(),
            oom_killed,
            finished_at: now_ns(),
            error,
        };
        if let Err(error) = write_exit_record(&self.config.dir, &record) {
            eprintln!("exit record: {}", error.chain());
        }
        for connection in self.connections.values_mut() {
            if connection.role == Role::Wait(None) {
                connection.role = Role::Call;
                connection.reply(&Reply::Exit(record.clone()));
            }
        }
        self.end_streams(INIT);
        self.record = Some(record);
    }
}
