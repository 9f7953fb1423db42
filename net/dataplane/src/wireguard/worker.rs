//! The threads between the two ends. Each has a socket and one queue of each network's TAP, and does both directions; the first
//! also lets the timers run.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, Timespec, epoll, eventfd},
};

use super::{
    engine::{Engine, SCRATCH},
    frame::coalesce::Coalescer,
    outbox::Outbox,
    socket::{LONGEST, Socket},
    tap::Queue,
};

/// More threads than this bring nothing: one moves some Gbit/s.
const MOST: usize = 4;
/// How often timers run, as in other implementations.
const TICK: Duration = Duration::from_millis(250);
/// Runs of datagrams that are taken before what came of them goes on.
const RUNS: usize = 8;
/// Frames that are taken from a TAP before the next end has its turn.
const FRAMES: usize = 32;

/// Tokens that are no network's.
const SOCKET: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// A network's TAP.
#[derive(Debug)]
pub(crate) struct Port {
    /// One a worker.
    pub(crate) queues: Vec<Queue>,
    /// The device was deleted by somebody.
    pub(crate) lost: AtomicBool,
}

/// TAPs by network identifier.
pub(crate) type Ports = HashMap<u32, Arc<Port>>;

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    ports: RwLock<Ports>,
    sockets: Vec<Socket>,
    polls: Vec<OwnedFd>,
    stop: OwnedFd,
}

/// The running threads; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How many threads there are.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST))
}

impl Workers {
    /// Starts a thread for each socket. Each port has a queue for each of them.
    pub(crate) fn start(engine: Arc<Engine>, sockets: Vec<Socket>, ports: Ports) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut polls = Vec::new();
        for socket in &sockets {
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            add(&poll, socket, SOCKET)?;
            add(&poll, &stop, STOP)?;
            polls.push(poll);
        }
        let shared = Arc::new(Shared {
            engine,
            ports: RwLock::default(),
            sockets,
            polls,
            stop,
        });
        let mut workers = Self {
            shared,
            threads: Vec::new(),
        };
        for (vni, port) in ports {
            workers.add(vni, port)?;
        }
        for index in 0..workers.shared.sockets.len() {
            let shared = Arc::clone(&workers.shared);
            let thread = std::thread::Builder::new()
                .name(format!("wg-{index}"))
                .spawn(move || {
                    let _end = EndWithPanic;
                    Worker::new(&shared, index).run();
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// The port that the sockets have.
    pub(crate) fn listen_port(&self) -> io::Result<u16> {
        self.shared.sockets[0].port()
    }

    /// Serves a network's TAP.
    pub(crate) fn add(&self, vni: u32, port: Arc<Port>) -> io::Result<()> {
        for (poll, queue) in self.shared.polls.iter().zip(&port.queues) {
            add(poll, queue, u64::from(vni))?;
        }
        self.write().insert(vni, port);
        Ok(())
    }

    /// Serves it no more.
    pub(crate) fn remove(&self, vni: u32) {
        if let Some(port) = self.write().remove(&vni) {
            self.forget(&port);
        }
    }

    /// Ends the threads and returns the TAPs.
    pub(crate) fn stop(mut self) -> Ports {
        self.end();
        let ports = std::mem::take(&mut *self.write());
        ports.values().for_each(|port| self.forget(port));
        ports
    }

    fn forget(&self, port: &Port) {
        for (poll, queue) in self.shared.polls.iter().zip(&port.queues) {
            // A lost one was forgotten by its worker.
            let _ = epoll::delete(poll, queue);
        }
    }

    fn end(&mut self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Ports> {
        self.shared.ports.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

fn add(poll: &OwnedFd, end: &impl AsFd, token: u64) -> io::Result<()> {
    Ok(epoll::add(
        poll,
        end,
        epoll::EventData::new_u64(token),
        epoll::EventFlags::IN,
    )?)
}

/// Without one of its threads a tunnel would look well and carry half of the packets: the process ends, and the client starts another.
struct EndWithPanic;

impl Drop for EndWithPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the tunnel panicked, netd ends");
            std::process::exit(1);
        }
    }
}

/// One thread's own things.
struct Worker<'a> {
    shared: &'a Shared,
    index: usize,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    outbox: Outbox,
    /// What is joined for each network; kept for the buffers.
    joined: HashMap<u32, Coalescer>,
    ticked: Instant,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, index: usize) -> Self {
        Self {
            shared,
            index,
            buffer: vec![0; LONGEST.max(SCRATCH)],
            scratch: vec![0; SCRATCH],
            outbox: Outbox::default(),
            joined: HashMap::new(),
            ticked: Instant::now(),
        }
    }

    fn run(mut self) {
        let poll = &self.shared.polls[self.index];
        let mut events = Vec::with_capacity(64);
        loop {
            // All have the same pause, so that a lost wake-up is nothing worse.
            let pause = TICK.saturating_sub(self.ticked.elapsed());
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: pause.subsec_nanos().into(),
            };
            events.clear();
            if epoll::wait(poll, spare_capacity(&mut events), Some(&pause)).is_err() {
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    SOCKET => self.serve_socket(),
                    vni => self.serve_tap(vni as u32),
                }
            }
            self.tick();
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.ticked) < TICK {
            return;
        }
        self.ticked = now;
        if self.index == 0 {
            self.shared.engine.tick(&mut self.outbox, now);
            self.send();
        }
    }

    fn send(&mut self) {
        self.shared.sockets[self.index].send(&self.outbox);
        self.outbox.clear();
    }

    fn port(&self, vni: u32) -> Option<Arc<Port>> {
        let ports = self.shared.ports.read().unwrap_or_else(PoisonError::into_inner);
        ports.get(&vni).cloned()
    }

    fn serve_tap(&mut self, vni: u32) {
        let Some(port) = self.port(vni) else {
            return;
        };
        let queue = &port.queues[self.index];
        let now = Instant::now();
        for _ in 0..FRAMES {
            match queue.read(&mut self.buffer) {
                Ok(Some(length)) => {
                    let frame = &self.buffer[..length];
                    let engine = &self.shared.engine;
                    engine.outbound(vni, frame, &mut self.scratch, &mut self.outbox, now);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(vni, %error, "the device of an encrypted network is gone");
                    port.lost.store(true, Ordering::Relaxed);
                    // It would be reported for ever.
                    let _ = epoll::delete(&self.shared.polls[self.index], queue);
                    break;
                }
            }
            if self.outbox.is_full() {
                self.send();
            }
        }
        self.send();
    }

    fn serve_socket(&mut self) {
        let now = Instant::now();
        let socket = &self.shared.sockets[self.index];
        for _ in 0..RUNS {
            let (from, length, size) = match socket.receive(&mut self.buffer) {
                Ok(Some(run)) => run,
                Ok(None) => break,
                // An ICMP error of some peer; the next call has the next packet.
                Err(error) => {
                    tracing::debug!(%error, "receiving failed");
                    break;
                }
            };
            let datagrams = self.buffer[..length].chunks(size);
            let (shared, index, joined) = (self.shared, self.index, &mut self.joined);
            let deliver = |vni: u32, frame: &[u8]| {
                joined
                    .entry(vni)
                    .or_default()
                    .push(frame, &mut |bytes: &[u8]| shared.deliver(index, vni, bytes));
            };
            let engine = &self.shared.engine;
            engine.inbound(from, datagrams, &mut self.scratch, &mut self.outbox, now, deliver);
            if self.outbox.is_full() {
                self.send();
            }
        }
        for (vni, coalescer) in &mut self.joined {
            coalescer.flush(&mut |bytes: &[u8]| self.shared.deliver(self.index, *vni, bytes));
        }
        self.send();
    }
}

impl Shared {
    /// Gives a frame with its vnet header to a network.
    fn deliver(&self, index: usize, vni: u32, bytes: &[u8]) {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = ports.get(&vni) {
            port.queues[index].write(bytes);
        }
    }
}
