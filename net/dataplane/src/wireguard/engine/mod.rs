//! The tunnel without its input and output: packets in, packets out, the time as an argument (only `Tunn`'s own timers read the clock).
//!
//! - here: the tables, and what goes in and out;
//! - `peer`: one peer's sessions;
//! - `allowed`: which peer an address belongs to;
//! - `configure`: changes while packets flow.
//!
//! Workers call [`Engine::outbound`] and [`Engine::inbound`] at the same time. The tables are read-locked for a batch, and each peer is
//! locked for its part of it: two workers wait for each other only when they work for the same peer.

mod allowed;
mod configure;
mod peer;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use boringtun::{
    noise::{
        HandshakeInit, Packet, Tunn, TunnResult, handshake::parse_handshake_anon, rate_limiter::RateLimiter,
    },
    x25519,
};

use super::{
    frame::{
        segment::segment,
        vnet::Header,
        vxlan::{self, Route, source_port},
    },
    keys::{PrivateKey, PublicKey},
    outbox::Outbox,
    spec::Mac,
};
use allowed::Allowed;
use peer::{Live, Peer, Received};

#[cfg(test)]
pub(crate) use configure::PeerView;
pub(crate) use configure::View;

/// What a worker needs in front of it: the longest frame with its headers, or the longest datagram.
pub(crate) const SCRATCH: usize = 70_000;
/// Handshakes a second beyond which senders must prove their address first.
const HANDSHAKES: u64 = 100;

/// The tunnel's state.
#[derive(Debug)]
pub(crate) struct Engine {
    tables: RwLock<Tables>,
    /// Peers whose timers run: all that had something to send or receive of late.
    awake: Mutex<Vec<Arc<Peer>>>,
}

/// One of the node's own keys.
struct Own {
    key: PrivateKey,
    public: PublicKey,
    /// Counts handshakes and asks for cookies.
    gate: RateLimiter,
    /// What the sessions get: the gate was passed already.
    open: Arc<RateLimiter>,
    /// It was replaced, and is forgotten then.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Tables {
    address: Ipv4Addr,
    own: Vec<Own>,
    /// By the configuration's name.
    named: BTreeMap<String, Arc<Peer>>,
    keyed: HashMap<PublicKey, (String, Arc<Peer>)>,
    /// By the upper 24 bits of receiver indices.
    indexed: HashMap<u32, Arc<Peer>>,
    allowed: Allowed,
    /// Remote endpoints of each network.
    networks: HashMap<u32, HashMap<Mac, Ipv4Addr>>,
    next_index: u32,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Own({})", self.public)
    }
}

impl Own {
    fn new(key: PrivateKey) -> Self {
        let public = key.public();
        let dalek = x25519::PublicKey::from(public.0);
        Self {
            gate: RateLimiter::new(&dalek, HANDSHAKES),
            open: Arc::new(RateLimiter::new(&dalek, u64::MAX)),
            until: None,
            public,
            key,
        }
    }
}

impl Engine {
    /// An engine without keys, peers and networks.
    pub(crate) fn new(address: Ipv4Addr) -> Self {
        let tables = Tables {
            address,
            own: Vec::new(),
            named: BTreeMap::new(),
            keyed: HashMap::new(),
            indexed: HashMap::new(),
            allowed: Allowed::default(),
            networks: HashMap::new(),
            next_index: 1,
        };
        Self {
            tables: RwLock::new(tables),
            awake: Mutex::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encrypts what a network's TAP gave, its vnet header first, into `outbox`. `scratch` has [`SCRATCH`] bytes. What has no known
    /// receiver is dropped: nothing is ever flooded.
    pub(crate) fn outbound(
        &self,
        vni: u32,
        bytes: &[u8],
        scratch: &mut [u8],
        outbox: &mut Outbox,
        now: Instant,
    ) {
        let tables = self.read();
        let Some((header, frame)) = Header::parse(bytes) else {
            return;
        };
        let Some((peer, to)) = tables.receiver(vni, frame) else {
            return;
        };
        let route = Route {
            from: tables.address,
            to,
            vni,
        };
        let port = source_port(frame);
        let mut live = peer.lock();
        self.wake(peer, &mut live, outbox, now);
        let Some(mut send) = live.begin(outbox, now) else {
            return;
        };
        segment(&header, frame, scratch, vxlan::HEADERS, |packet| {
            route.write(packet, port);
            send(packet);
        });
    }

    /// Decrypts datagrams that came together from one address. Frames go to `deliver` with their network; answers into `outbox`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn inbound<'a>(
        &self,
        from: SocketAddr,
        datagrams: impl Iterator<Item = &'a [u8]>,
        scratch: &mut [u8],
        outbox: &mut Outbox,
        now: Instant,
        mut deliver: impl FnMut(u32, &[u8]),
    ) {
        let tables = self.read();
        // Datagrams of one session come in a row: its peer stays locked meanwhile.
        let mut held: Option<(u32, usize, &Arc<Peer>, MutexGuard<'_, Live>)> = None;
        for datagram in datagrams {
            let Ok(packet) = Tunn::parse_incoming_packet(datagram) else {
                continue;
            };
            let index = match &packet {
                Packet::PacketData(data) => data.receiver_idx >> 8,
                Packet::HandshakeResponse(response) => response.receiver_idx >> 8,
                Packet::PacketCookieReply(reply) => reply.receiver_idx >> 8,
                Packet::HandshakeInit(init) => {
                    drop(held.take());
                    self.initiation(&tables, from, init, datagram, scratch, outbox, now);
                    continue;
                }
            };
            if held.as_ref().is_none_or(|(known, ..)| *known != index) {
                // First: two workers that hold one peer and want the other would wait for ever.
                drop(held.take());
                held = tables.indexed.get(&index).and_then(|peer| {
                    let live = peer.lock();
                    let at = live.sessions.iter().position(|session| session.index == index)?;
                    Some((index, at, peer, live))
                });
            }
            let Some((_, at, peer, live)) = &mut held else {
                continue;
            };
            if matches!(packet, Packet::HandshakeResponse(_))
                && !tables.passes(live.sessions[*at].own, from, datagram, outbox)
            {
                continue;
            }
            self.wake(peer, live, outbox, now);
            if let Received::Packet(packet) = live.receive(*at, from, datagram, scratch, outbox, now)
                && let Some((vni, frame)) = tables.accept(peer, packet)
            {
                deliver(vni, frame);
            }
        }
    }

    /// Answers the first message of a handshake.
    #[allow(clippy::too_many_arguments)]
    fn initiation(
        &self,
        tables: &Tables,
        from: SocketAddr,
        init: &HandshakeInit<'_>,
        datagram: &[u8],
        scratch: &mut [u8],
        outbox: &mut Outbox,
        now: Instant,
    ) {
        for own in &tables.own {
            if !tables.passes(own.public, from, datagram, outbox) {
                continue;
            }
            let dalek = x25519::PublicKey::from(own.public.0);
            let Ok(half) = parse_handshake_anon(&own.key.secret(), &dalek, init) else {
                return;
            };
            let theirs = PublicKey(half.peer_static_public);
            let Some((_, peer)) = tables.keyed.get(&theirs) else {
                tracing::debug!(%from, "a handshake of an unknown peer");
                return;
            };
            let mut live = peer.lock();
            self.wake(peer, &mut live, outbox, now);
            let found = live
                .sessions
                .iter()
                .position(|session| session.is_of(own.public, theirs));
            if let Some(at) = found {
                live.receive(at, from, datagram, scratch, outbox, now);
            }
            return;
        }
    }

    /// Lets the timers of a peer run that had nothing to do. `Tunn` knows no time between its ticks, so it gets one first.
    fn wake(&self, peer: &Arc<Peer>, live: &mut Live, outbox: &mut Outbox, now: Instant) {
        if live.awake {
            return;
        }
        live.tick(outbox, now);
        live.awake = true;
        self.awake().push(Arc::clone(peer));
    }

    fn awake(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Retransmissions, new handshakes, keepalives, and the end of replaced keys. Called some times a second.
    pub(crate) fn tick(&self, outbox: &mut Outbox, now: Instant) {
        let expired = |own: &Own| own.until.is_some_and(|until| until <= now);
        if self.read().own.iter().any(expired) {
            self.write().forget_own(|own| expired(own));
        }
        self.read().own.iter().for_each(|own| own.gate.reset_count());
        // Workers that wake a peer meanwhile add it to the empty list.
        let mut awake = std::mem::take(&mut *self.awake());
        awake.retain(|peer| {
            let mut live = peer.lock();
            live.awake = live.tick(outbox, now);
            live.awake
        });
        self.awake().append(&mut awake);
    }
}

impl Tables {
    /// Who gets a frame, and the tunnel address of its node.
    fn receiver(&self, vni: u32, frame: &[u8]) -> Option<(&Arc<Peer>, Ipv4Addr)> {
        let to = self.networks.get(&vni)?.get(&Mac(*frame.first_chunk()?))?;
        Some((self.allowed.find(IpAddr::V4(*to))?, *to))
    }

    /// The frame in a decrypted packet, if it is one that this peer may send: from its own tunnel address to ours, on a network that is here,
    /// from an endpoint that is on its node.
    fn accept<'a>(&self, peer: &Arc<Peer>, packet: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let (route, frame) = Route::read(packet)?;
        let owner = self.allowed.find(IpAddr::V4(route.from))?;
        let source = Mac(*frame.get(6..)?.first_chunk()?);
        let home = self.networks.get(&route.vni)?.get(&source)?;
        let right = Arc::ptr_eq(owner, peer) && route.to == self.address && *home == route.from;
        right.then_some((route.vni, frame))
    }

    /// Whether a handshake message is for this key and its sender not one too many; may answer with a cookie.
    fn passes(&self, own: PublicKey, from: SocketAddr, datagram: &[u8], outbox: &mut Outbox) -> bool {
        let Some(own) = self.own.iter().find(|known| known.public == own) else {
            return false;
        };
        let mut cookie = [0; 64];
        match own.gate.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(_) => true,
            Err(TunnResult::WriteToNetwork(cookie)) => {
                outbox.push(from, cookie.len(), |space| {
                    space.copy_from_slice(cookie);
                    cookie.len()
                });
                false
            }
            Err(_) => false,
        }
    }
}
