//! The simulated network: byte streams between places, with delays, one-way partitions, resets and dead machines.
//!
//! A place is a machine's name; an address is `place:port`. What crosses a link in one direction keeps its order, as TCP
//! does; what a partition holds back arrives some time after it has healed, unless a keep-alive gave up before.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use pontoon_identity::{ConnectionInfo, NotConnected, PeerIdentity};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::rng::Rng;
use crate::trace::Trace;
use crate::wire::Wire;

/// As the real connector's.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// No certificate here is from before a demotion: after it a machine shows the one that it has then.
const ISSUED_AT: Duration = Duration::from_secs(1 << 33);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A stream's bytes under way; more waits at the sender.
const WINDOW: usize = 256 << 10;

/// One direction between two places.
pub(crate) struct Link {
    blocked: AtomicBool,
    /// Longest delay in milliseconds.
    delay: AtomicU64,
}

/// One direction of a stream.
pub(crate) struct Pipe {
    pub(crate) from: String,
    pub(crate) to: String,
    link: Arc<Link>,
    queue: VecDeque<(Instant, Bytes)>,
    buffered: usize,
    last: Instant,
    /// The sender has closed; seen at this time.
    end: Option<Instant>,
    /// The reader, the writer are told that the connection is gone.
    reader_reset: bool,
    writer_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    rng: Rng,
}

/// What a reader finds.
pub(crate) enum Arrival {
    Data(Bytes),
    End,
    Reset,
    /// Look again at that time.
    At(Instant),
    /// Wait to be woken.
    Nothing,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn arrival_time(&mut self) -> Instant {
        let delay = self.rng.millis(1, self.link.delay.load(Ordering::Relaxed).max(1));
        self.last = self.last.max(Instant::now() + delay);
        self.last
    }

    pub(crate) fn read(&mut self, room: usize, waker: &Waker) -> Arrival {
        if self.reader_reset {
            return Arrival::Reset;
        }
        self.reader = Some(waker.clone());
        let Some(at) = self.queue.front().map(|(at, _)| *at).or(self.end) else {
            return Arrival::Nothing;
        };
        if self.link.blocked.load(Ordering::Relaxed) {
            return Arrival::Nothing;
        }
        if at > Instant::now() {
            return Arrival::At(at);
        }
        let Some((_, data)) = self.queue.front_mut() else {
            return Arrival::End;
        };
        let piece = data.split_to(room.min(data.len()));
        if data.is_empty() {
            self.queue.pop_front();
        }
        self.buffered -= piece.len();
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Arrival::Data(piece)
    }

    /// Takes data; `None` when there is no room.
    pub(crate) fn write(&mut self, data: &[u8], waker: &Waker) -> Option<io::Result<usize>> {
        if self.writer_reset || self.end.is_some() {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.buffered >= WINDOW {
            self.writer = Some(waker.clone());
            return None;
        }
        let at = self.arrival_time();
        self.buffered += data.len();
        self.queue.push_back((at, Bytes::copy_from_slice(data)));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Some(Ok(data.len()))
    }

    /// The writer closes its side.
    pub(crate) fn close(&mut self) {
        if self.end.is_none() && !self.writer_reset {
            self.end = Some(self.arrival_time());
        }
        self.wake();
    }

    /// The reader has gone: the writer hears of it at its next write.
    pub(crate) fn abandon(&mut self) {
        self.writer_reset |= !self.link.blocked.load(Ordering::Relaxed);
        self.wake();
    }

    fn reset(&mut self) {
        self.reader_reset = true;
        self.writer_reset = true;
        self.wake();
    }
}

pub(crate) type SharedPipe = Arc<Mutex<Pipe>>;

pub(crate) fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

type Incoming = mpsc::UnboundedSender<io::Result<Wire>>;

struct State {
    rng: Rng,
    links: BTreeMap<(String, String), Arc<Link>>,
    listeners: BTreeMap<String, Incoming>,
    pipes: Vec<Weak<Mutex<Pipe>>>,
    /// Machines without power: nothing answers, not even a refusal.
    dark: BTreeMap<String, ()>,
    addresses: BTreeMap<String, Ipv4Addr>,
}

/// The network; clones are the same.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

/// The place of an address.
pub fn place_of(addr: &str) -> &str {
    addr.split(':').next().unwrap_or(addr)
}

impl Net {
    /// A network on which all goes well.
    pub fn new(rng: Rng, trace: Trace) -> Self {
        let state = State {
            rng,
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pipes: Vec::new(),
            dark: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            trace,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts at `addr` until the place crashes; streams that nobody takes wait.
    pub fn listen(&self, addr: &str) -> mpsc::UnboundedReceiver<io::Result<Wire>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        state.listeners.insert(addr.to_owned(), sender);
        state.dark.remove(place_of(addr));
        receiver
    }

    /// A stream to `addr`; the listener sees `peer` at the other end.
    pub async fn dial(&self, from: &str, addr: &str, peer: Option<PeerIdentity>) -> io::Result<Wire> {
        let to = place_of(addr);
        let refused = |why: &str| io::Error::other(NotConnected(format!("{addr}: {why}")));
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let pause = self.lock().rng.millis(1, 3);
        tokio::time::sleep(pause).await;
        while !self.is_open(from, to) {
            if Instant::now() >= deadline {
                return Err(refused("no answer"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let mut state = self.lock();
        let Some(listener) = state.listeners.get(addr).cloned() else {
            return Err(refused("connection refused"));
        };
        let (there, back) = (state.pipe(from, to), state.pipe(to, from));
        let remote_addr = SocketAddr::from((state.address(from), 40_000));
        drop(state);
        let info = ConnectionInfo {
            peer,
            issued_at: Some(SystemTime::UNIX_EPOCH + ISSUED_AT),
            remote_addr,
        };
        let ours = Wire::new(back.clone(), there.clone(), None);
        let theirs = Wire::new(there, back, Some(info));
        match listener.send(Ok(theirs)) {
            Ok(()) => Ok(ours),
            Err(_) => Err(refused("connection refused")),
        }
    }

    fn is_open(&self, from: &str, to: &str) -> bool {
        let mut state = self.lock();
        let blocked = |link: Arc<Link>| link.blocked.load(Ordering::Relaxed);
        !state.dark.contains_key(to) && !blocked(state.link(from, to)) && !blocked(state.link(to, from))
    }

    /// A gRPC channel that dials when it must.
    pub fn channel(
        &self,
        from: &str,
        addr: &str,
        peer: Option<PeerIdentity>,
        keep_alive: Option<Duration>,
    ) -> Channel {
        let (endpoint, connector) = self.endpoint(from, addr, peer, keep_alive);
        endpoint.connect_with_connector_lazy(connector)
    }

    /// A gRPC channel that is connected.
    pub async fn connect(
        &self,
        from: &str,
        addr: &str,
        peer: Option<PeerIdentity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let (endpoint, connector) = self.endpoint(from, addr, peer, None);
        endpoint.connect_with_connector(connector).await
    }

    #[allow(clippy::type_complexity)]
    fn endpoint(
        &self,
        from: &str,
        addr: &str,
        peer: Option<PeerIdentity>,
        keep_alive: Option<Duration>,
    ) -> (
        Endpoint,
        impl tower::Service<
            Uri,
            Response = TokioIo<Wire>,
            Error = io::Error,
            Future = impl Future<Output = io::Result<TokioIo<Wire>>> + Send + use<>,
        > + Send
        + use<>,
    ) {
        let keep_alive = keep_alive.unwrap_or(KEEP_ALIVE);
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))
            .expect("the simulation's addresses are sound")
            .http2_keep_alive_interval(keep_alive)
            .keep_alive_timeout(keep_alive)
            .keep_alive_while_idle(true);
        let (net, from, addr) = (self.clone(), from.to_owned(), addr.to_owned());
        let connector = tower::service_fn(move |_: Uri| {
            let (net, from, addr, peer) = (net.clone(), from.clone(), addr.clone(), peer.clone());
            async move { net.dial(&from, &addr, peer).await.map(TokioIo::new) }
        });
        (endpoint, connector)
    }

    /// Whether something accepts connections at `addr`.
    pub fn listens(&self, from: &str, addr: &str) -> bool {
        self.is_open(from, place_of(addr)) && self.lock().listeners.contains_key(addr)
    }

    /// Blocks or opens one direction. What was held back arrives within a second of the opening, as if sent again.
    pub fn block(&self, from: &str, to: &str, blocked: bool) {
        let mut state = self.lock();
        let link = state.link(from, to);
        if link.blocked.swap(blocked, Ordering::Relaxed) == blocked {
            return;
        }
        self.trace.event(format_args!(
            "net {from} -> {to} {}",
            if blocked { "blocked" } else { "open" }
        ));
        let again = Instant::now() + state.rng.millis(0, 1000);
        state.each_pipe(|pipe| {
            if pipe.from == from && pipe.to == to && !blocked {
                for (at, _) in &mut pipe.queue {
                    *at = (*at).max(again);
                }
                pipe.last = pipe.last.max(again);
                pipe.wake();
            }
        });
    }

    /// The longest delay of one direction.
    pub fn slow(&self, from: &str, to: &str, millis: u64) {
        self.lock().link(from, to).delay.store(millis, Ordering::Relaxed);
    }

    /// Opens all links and makes them fast.
    pub fn heal(&self) {
        let pairs: Vec<_> = self.lock().links.keys().cloned().collect();
        for (from, to) in pairs {
            self.block(&from, &to, false);
            self.slow(&from, &to, DELAY);
        }
    }

    /// Breaks every stream between two places; both hear of it at once.
    pub fn reset(&self, a: &str, b: &str) {
        self.trace.event(format_args!("net {a} {b} reset"));
        self.lock().each_pipe(|pipe| {
            if (pipe.from == a && pipe.to == b) || (pipe.from == b && pipe.to == a) {
                pipe.reset();
            }
        });
    }

    /// The place's processes are gone. Its peers hear of it, unless the whole machine went dark.
    pub fn crash(&self, place: &str, dark: bool) {
        let mut state = self.lock();
        state.listeners.retain(|addr, _| place_of(addr) != place);
        if dark {
            state.dark.insert(place.to_owned(), ());
        }
        state.each_pipe(|pipe| {
            if !dark && (pipe.from == place || pipe.to == place) {
                pipe.reset();
            } else if pipe.from == place {
                pipe.writer_reset = true;
                pipe.wake();
            } else if pipe.to == place {
                pipe.reader_reset = true;
                pipe.wake();
            }
        });
    }

    /// The machine is up again: whoever still holds a stream to it hears that it is gone.
    pub fn light(&self, place: &str) {
        let mut state = self.lock();
        state.dark.remove(place);
        state.each_pipe(|pipe| {
            if pipe.from == place || pipe.to == place {
                pipe.reset();
            }
        });
    }
}

/// Longest delay of a link on which all goes well, in milliseconds.
const DELAY: u64 = 3;

impl State {
    fn link(&mut self, from: &str, to: &str) -> Arc<Link> {
        let key = (from.to_owned(), to.to_owned());
        let new = || {
            Arc::new(Link {
                blocked: AtomicBool::new(false),
                delay: AtomicU64::new(if from == to { 1 } else { DELAY }),
            })
        };
        self.links.entry(key).or_insert_with(new).clone()
    }

    fn pipe(&mut self, from: &str, to: &str) -> SharedPipe {
        let pipe = Arc::new(Mutex::new(Pipe {
            from: from.to_owned(),
            to: to.to_owned(),
            link: self.link(from, to),
            queue: VecDeque::new(),
            buffered: 0,
            last: Instant::now(),
            end: None,
            reader_reset: false,
            writer_reset: false,
            reader: None,
            writer: None,
            rng: self.rng.clone(),
        }));
        self.pipes.push(Arc::downgrade(&pipe));
        pipe
    }

    fn each_pipe(&mut self, mut visit: impl FnMut(&mut Pipe)) {
        self.pipes.retain(|pipe| match pipe.upgrade() {
            Some(pipe) => {
                visit(&mut lock(&pipe));
                true
            }
            None => false,
        });
    }

    fn address(&mut self, place: &str) -> Ipv4Addr {
        let next = u32::from(Ipv4Addr::new(192, 168, 0, 1)) + self.addresses.len() as u32;
        *self
            .addresses
            .entry(place.to_owned())
            .or_insert(Ipv4Addr::from(next))
    }
}
