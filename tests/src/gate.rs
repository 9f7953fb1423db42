//! A gate before a server on a host: a TCP proxy in the host's network that lets so many bytes of the server's answers through and holds
//! the rest until it is opened. Tests of transfers stop them with it at a place of their choice.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::wait::{SHORT, wait_until};
use crate::wire;

/// A gate. Its threads end with the test's process.
#[derive(Debug)]
pub struct Gate {
    /// `host:port`, as images are named.
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that may still pass; `None`: all.
    left: Option<u64>,
    /// Bytes that have passed since this was last asked.
    passed: u64,
    /// Somebody waits.
    held: bool,
    /// The server counts as gone.
    cut: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until some of `wanted` bytes may pass, and says how many; none when the server is cut off.
    fn pass(&self, wanted: usize) -> usize {
        let closed = |state: &mut State| {
            state.held |= state.left == Some(0);
            state.left == Some(0) && !state.cut
        };
        let waited = self.changed.wait_while(self.state(), closed);
        let mut state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.cut {
            return 0;
        }
        let count = state.left.map_or(wanted, |left| {
            wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
        });
        state.left = state.left.map(|left| left - count as u64);
        state.passed += count as u64;
        count
    }
}

impl Gate {
    /// Opens a gate on the host's loopback at `port`, before the server at `server` (`ip:port`).
    ///
    /// # Errors
    /// When the port is taken.
    pub fn new(host: &Host, port: u16, server: &str) -> Result<Self> {
        let gate = Self::at(host, &format!("127.0.0.1:{port}"), server)?;
        let address = format!("localhost:{port}");
        Ok(Self { address, ..gate })
    }

    /// As [`Gate::new`], at an address of the host that others reach too.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn at(host: &Host, address: &str, server: &str) -> Result<Self> {
        let listener = wire::within(&host.netns(), || {
            TcpListener::bind(address).context("cannot listen")
        })?;
        let shared = Arc::new(Shared::default());
        let (namespace, server, gate) = (host.netns(), server.to_owned(), shared.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if gate.state().cut {
                    continue;
                }
                // A server that is gone is the client's to notice: its connection closes.
                let _ = join(&namespace, &server, client, gate.clone());
            }
        });
        Ok(Self {
            address: address.to_owned(),
            shared,
        })
    }

    /// `host:port/name`
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Lets so many bytes through from now on, then holds.
    pub fn limit(&self, bytes: u64) {
        let mut state = self.shared.state();
        (state.left, state.held) = (Some(bytes), false);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Closes all connections, and each new one, until it is opened.
    pub fn cut(&self) {
        self.shared.state().cut = true;
        self.shared.changed.notify_all();
    }

    /// Lets everything through, what was held too.
    pub fn open(&self) {
        let mut state = self.shared.state();
        (state.left, state.held, state.cut) = (None, false, false);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until something is held.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn wait_held(&self) -> Result<()> {
        wait_until("the gate holds an answer", SHORT, || {
            let state = self.shared.state();
            ensure!(state.held, "{state:?}");
            Ok(())
        })
    }

    /// Bytes that have passed since this was last asked.
    pub fn take_passed(&self) -> u64 {
        std::mem::take(&mut self.shared.state().passed)
    }
}

/// Joins a client with the server, both ways.
fn join(namespace: &Path, server: &str, client: TcpStream, shared: Arc<Shared>) -> Result<()> {
    let namespace: PathBuf = namespace.to_owned();
    let server = wire::within(&namespace, || {
        TcpStream::connect(server).context("cannot connect")
    })?;
    let mut up = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up.0, &mut up.1);
        let _ = up.1.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        let (mut server, mut client) = (server, client);
        let _ = answers(&mut server, &mut client, &shared);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn answers(server: &mut TcpStream, client: &mut TcpStream, shared: &Shared) -> Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = server.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < count {
            let passed = shared.pass(count - at);
            if passed == 0 {
                return Ok(());
            }
            client.write_all(&bytes[at..at + passed])?;
            at += passed;
        }
    }
}
