//! What clients ask for, and what they send once they are attached.

use rustix::event::PollFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use super::connection::Role;
use super::process::{Input, Process, streams};
use super::server::{INIT, Server};
use crate::error::IoContext;
use crate::protocol::{Call, Reply, Request, VERSION, WireError, kind};
use crate::{Error, sys};

impl Server {
    /// A connection is ready.
    pub(super) fn serve(&mut self, key: u64, ready: PollFlags) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if ready.contains(PollFlags::OUT) {
            connection.flush();
        }
        let mut alive = true;
        if ready.contains(PollFlags::IN) {
            alive = connection.fill();
            while let Some(connection) = self.connections.get_mut(&key) {
                match connection.frame() {
                    Ok(Some((kind, payload))) => self.frame(key, kind, &payload),
                    Ok(None) => break,
                    Err(error) => {
                        eprintln!("client: {}", error.chain());
                        alive = false;
                        break;
                    }
                }
            }
        } else if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            alive = false;
        }
        if !alive {
            self.disconnect(key);
        }
    }

    fn frame(&mut self, key: u64, frame: u8, payload: &[u8]) {
        let role = self.connections.get(&key).map(|c| c.role.clone());
        match (frame, role) {
            (kind::CONTROL, Some(Role::Call)) => self.call(key, payload),
            (
                kind::STDIN,
                Some(Role::Stream {
                    process, stdin: true, ..
                }),
            ) => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.feed(payload);
                }
            }
            (
                kind::STDIN_CLOSE,
                Some(Role::Stream {
                    process, stdin: true, ..
                }),
            ) => self.client_closed_stdin(process),
            // Late frames of a stream that has ended.
            _ => {}
        }
    }

    /// A client that was attached to stdin has closed it or is gone.
    fn client_closed_stdin(&mut self, key: u64) {
        if let Some(process) = self.processes.get_mut(&key).filter(|p| p.input.once) {
            process.end_input();
        }
    }

    fn disconnect(&mut self, key: u64) {
        let Some(connection) = self.connections.remove(&key) else {
            return;
        };
        if let Role::Stream {
            process, stdin: true, ..
        } = connection.role
        {
            self.client_closed_stdin(process);
        }
    }

    fn call(&mut self, key: u64, payload: &[u8]) {
        let call: Result<Call, _> = serde_json::from_slice(payload);
        let reply = match call {
            Ok(call) if call.version == VERSION => self.request(key, call.request),
            Ok(call) => Err(Error::Protocol(format!(
                "version {} is not spoken here, {VERSION} is",
                call.version
            ))),
            Err(error) => Err(Error::Protocol(format!("call not understood: {error}"))),
        };
        let reply = match reply {
            Ok(Some(reply)) => reply,
            Ok(None) => return,
            Err(error) => Reply::Error(WireError::from_error("shim", &error)),
        };
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.reply(&reply);
        }
    }

    /// `None`: the answer comes later.
    fn request(&mut self, key: u64, request: Request) -> Result<Option<Reply>, Error> {
        match request {
            Request::State => {
                self.state.execs = self.processes.values().filter_map(|p| p.id.clone()).collect();
                Ok(Some(Reply::State(self.state.clone())))
            }
            Request::Start => self.start(key),
            Request::Attach {
                exec,
                stdin,
                stdout,
                stderr,
            } => {
                let process = self.key_of(exec.as_deref())?;
                self.attach(
                    key,
                    Role::Stream {
                        process,
                        stdin,
                        stdout,
                        stderr,
                    },
                );
                Ok(None)
            }
            Request::Exec {
                id,
                process,
                tty,
                stdin,
                detach,
            } => {
                self.expect("exec", &["running"])?;
                if self.key_of(Some(&id)).is_ok() {
                    return Err(Error::InvalidSpec(format!("exec {id} exists already")));
                }
                self.exec(key, id, &process, (tty, stdin, detach))
            }
            Request::Resize { exec, rows, cols } => {
                let key = self.key_of(exec.as_deref())?;
                if let Some(console) = self.processes.get(&key).and_then(|p| p.console.as_ref()) {
                    let size = Winsize {
                        ws_row: rows,
                        ws_col: cols,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    tcsetwinsize(console, size).context(|| "resize the terminal")?;
                }
                Ok(Some(Reply::Ok))
            }
            Request::CloseStdin { exec } => {
                let key = self.key_of(exec.as_deref())?;
                if let Some(process) = self.processes.get_mut(&key) {
                    process.end_input();
                }
                Ok(Some(Reply::Ok))
            }
            Request::Kill { exec, signal, all } => self.kill(exec.as_deref(), signal, all).map(Some),
            Request::Pause => {
                self.expect("pause", &["running"])?;
                self.driver.freeze(true)?;
                "paused".clone_into(&mut self.state.status);
                Ok(Some(Reply::Ok))
            }
            Request::Resume => {
                self.expect("resume", &["paused"])?;
                self.driver.freeze(false)?;
                "running".clone_into(&mut self.state.status);
                Ok(Some(Reply::Ok))
            }
            Request::Update { resources } => {
                self.driver.update(&resources)?;
                Ok(Some(Reply::Ok))
            }
            Request::Wait { exec } => self.wait_for(key, exec),
        }
    }

    fn expect(&self, operation: &str, states: &[&str]) -> Result<(), Error> {
        if states.contains(&self.state.status.as_str()) {
            return Ok(());
        }
        Err(Error::State {
            state: self.state.status.clone(),
            operation: operation.to_owned(),
        })
    }

    fn key_of(&self, exec: Option<&str>) -> Result<u64, Error> {
        match exec {
            None => Ok(INIT),
            Some(id) => self
                .processes
                .iter()
                .find(|(_, p)| p.id.as_deref() == Some(id) && p.exit.is_none())
                .map(|(&key, _)| key)
                .ok_or_else(|| Error::NoSuchExec(id.to_owned())),
        }
    }

    fn start(&mut self, key: u64) -> Result<Option<Reply>, Error> {
        self.expect("start", &["created"])?;
        let pending = self.driver.start()?;
        let Some(init) = self.processes.get_mut(&INIT) else {
            return Ok(None);
        };
        match pending {
            Some(outcome) => {
                init.outcome = Some(outcome);
                init.asker = Some(key);
                "starting".clone_into(&mut self.state.status);
                Ok(None)
            }
            None => {
                init.running = true;
                "running".clone_into(&mut self.state.status);
                Ok(Some(Reply::Ok))
            }
        }
    }

    fn attach(&mut self, key: u64, role: Role) {
        let ended = self.record.is_some();
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.reply(&Reply::Ok);
            if ended {
                connection.queue(kind::OUTPUT_END, &[]);
            } else {
                connection.role = role;
            }
        }
    }

    fn exec(
        &mut self,
        key: u64,
        id: String,
        process: &oci_spec::runtime::Process,
        (tty, stdin, detach): (bool, bool, bool),
    ) -> Result<Option<Reply>, Error> {
        let (theirs, ends) = streams(tty, stdin)?;
        let launched = self.driver.exec(&id, process, theirs)?;
        let input = Input {
            open: stdin,
            once: true,
        };
        let mut held = Process::new(launched.pid, Some(id), ends, launched.console, input)?;
        let pending = launched.outcome.is_some();
        held.running = !pending;
        held.outcome = launched.outcome;
        held.asker = Some(key);
        let process = self.next_key;
        self.next_key += 1;
        self.processes.insert(process, held);
        let mut role = Role::Call;
        if !detach {
            role = Role::Stream {
                process,
                stdin,
                stdout: true,
                stderr: true,
            };
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.role = role;
        }
        Ok((!pending).then_some(Reply::Pid(launched.pid)))
    }

    fn kill(&mut self, exec: Option<&str>, signal: i32, all: bool) -> Result<Reply, Error> {
        if !(0..=64).contains(&signal) {
            return Err(Error::InvalidSpec(format!("no such signal: {signal}")));
        }
        if let Some(id) = exec {
            let key = self.key_of(Some(id))?;
            if let Some(process) = self.processes.get(&key) {
                // Not yet collected, so the pid is still its own.
                sys::signal::kill(process.pid, signal).context(|| format!("signal exec {id}"))?;
            }
            return Ok(Reply::Ok);
        }
        self.expect("kill", &["created", "starting", "running", "paused"])?;
        self.driver.kill(signal, all)?;
        if signal == libc::SIGKILL && self.state.status == "paused" {
            // A frozen process does not die before it is thawed (v1). Straight to the cgroup: a runtime's
            // command may see it gone already.
            self.driver.cgroup().freeze(false)?;
            "running".clone_into(&mut self.state.status);
        }
        Ok(Reply::Ok)
    }

    fn wait_for(&mut self, key: u64, exec: Option<String>) -> Result<Option<Reply>, Error> {
        match &exec {
            None => {
                if let Some(record) = &self.record {
                    return Ok(Some(Reply::Exit(record.clone())));
                }
            }
            Some(id) => {
                if let Some((_, code)) = self.finished.iter().rev().find(|(known, _)| known == id) {
                    return Ok(Some(Reply::ExecExit(*code)));
                }
                self.key_of(Some(id))?;
            }
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.role = Role::Wait(exec);
        }
        Ok(None)
    }
}
