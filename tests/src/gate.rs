//! A gate before a server on a host: a TCP proxy in the host's network that lets so many bytes of the server's answers, or of what it is
//! sent, through and holds the rest until it is opened. Tests of transfers stop them with it at a place of their choice.

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
    answers: Arc<Shared>,
    requests: Arc<Shared>,
}

/// One direction.
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

    fn limit(&self, left: Option<u64>) {
        let mut state = self.state();
        (state.left, state.held, state.cut) = (left, false, false);
        drop(state);
        self.changed.notify_all();
    }

    fn cut(&self) {
        self.state().cut = true;
        self.changed.notify_all();
    }

    fn wait_held(&self, what: &str) -> Result<()> {
        wait_until(what, SHORT, || {
            let state = self.state();
            ensure!(state.held, "{state:?}");
            Ok(())
        })
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
        let both = [Arc::new(Shared::default()), Arc::new(Shared::default())];
        let (namespace, server, gates) = (host.netns(), server.to_owned(), both.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if gates[0].state().cut {
                    continue;
                }
                // A server that is gone is the client's to notice: its connection closes.
                let _ = join(&namespace, &server, client, gates.clone());
            }
        });
        let [answers, requests] = both;
        Ok(Self {
            address: address.to_owned(),
            answers,
            requests,
        })
    }

    /// `host:port/name`
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Lets so many bytes of answers through from now on, then holds.
    pub fn limit(&self, bytes: u64) {
        self.answers.limit(Some(bytes));
    }

    /// Lets so many bytes through to the server from now on, then holds.
    pub fn limit_requests(&self, bytes: u64) {
        self.requests.limit(Some(bytes));
    }

    /// Closes all connections, and each new one, until it is opened.
    pub fn cut(&self) {
        self.answers.cut();
        self.requests.cut();
    }

    /// Lets everything through, what was held too.
    pub fn open(&self) {
        self.answers.limit(None);
        self.requests.limit(None);
    }

    /// Waits until an answer is held.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn wait_held(&self) -> Result<()> {
        self.answers.wait_held("the gate holds an answer")
    }

    /// Waits until something for the server is held.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn wait_requests_held(&self) -> Result<()> {
        self.requests.wait_held("the gate holds a request")
    }

    /// Bytes of answers that have passed since this was last asked.
    pub fn take_passed(&self) -> u64 {
        std::mem::take(&mut self.answers.state().passed)
    }
}

/// Joins a client with the server, both ways.
fn join(namespace: &Path, server: &str, client: TcpStream, both: [Arc<Shared>; 2]) -> Result<()> {
    let namespace: PathBuf = namespace.to_owned();
    let server = wire::within(&namespace, || {
        TcpStream::connect(server).context("cannot connect")
    })?;
    let [answers, requests] = both;
    let mut up = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = pump(&mut up.0, &mut up.1, &requests);
        let _ = up.1.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        let (mut server, mut client) = (server, client);
        let _ = pump(&mut server, &mut client, &answers);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn pump(from: &mut TcpStream, to: &mut TcpStream, shared: &Shared) -> Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < count {
            let passed = shared.pass(count - at);
            if passed == 0 {
                return Ok(());
            }
            to.write_all(&bytes[at..at + passed])?;
            at += passed;
        }
    }
}
