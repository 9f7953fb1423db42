//! Output on its way: from a process to the log and to the clients that want it, down to the last byte.

use rustix::io::Errno;

use super::{INIT, Server};
use crate::protocol::kind;
use crate::shim::connection::Role;

/// Read at a time from a stream.
const CHUNK: usize = 32 << 10;

impl Server {
    /// Passes one read on; true if there may be more.
    pub(super) fn read_output(&mut self, key: u64, stream: u8) -> bool {
        let Some(process) = self.processes.get_mut(&key) else {
            return false;
        };
        let slot = match (stream, process.console.is_some()) {
            (_, true) => &mut process.console,
            (kind::STDERR, false) => &mut process.stderr,
            (_, false) => &mut process.stdout,
        };
        let Some(fd) = slot else { return false };
        let mut buffer = [0_u8; CHUNK];
        let length = match rustix::io::read(fd, &mut buffer) {
            Ok(0) => {
                *slot = None;
                self.forget_if_done(key);
                return false;
            }
            Ok(length) => length,
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => return true,
            // EIO: the terminal's last user has gone.
            Err(_) => {
                *slot = None;
                self.forget_if_done(key);
                return false;
            }
        };
        let bytes = &buffer[..length];
        if key == INIT {
            self.log.write(stream, bytes);
        }
        for connection in self.connections.values_mut() {
            let Role::Stream {
                process,
                stdout,
                stderr,
                ..
            } = connection.role
            else {
                continue;
            };
            let wanted = if stream == kind::STDERR { stderr } else { stdout };
            if process == key && wanted {
                connection.queue(stream, bytes);
            }
        }
        true
    }

    /// An exec whose end is known stays only to drain what its children still write.
    pub(super) fn forget_if_done(&mut self, key: u64) {
        if key != INIT
            && self
                .processes
                .get(&key)
                .is_some_and(|p| p.exit.is_some() && p.is_silent())
        {
            self.processes.remove(&key);
        }
    }

    /// Everything that a process has written so far, whatever the clients' pace.
    pub(super) fn drain(&mut self, key: u64) {
        for stream in [kind::STDOUT, kind::STDERR] {
            while self.read_output(key, stream) {}
        }
    }

    /// Tells the clients of a process that nothing follows.
    pub(super) fn end_streams(&mut self, key: u64) {
        for connection in self.connections.values_mut() {
            if matches!(connection.role, Role::Stream { process, .. } if process == key) {
                connection.queue(kind::OUTPUT_END, &[]);
                connection.role = Role::Call;
            }
        }
    }
}
