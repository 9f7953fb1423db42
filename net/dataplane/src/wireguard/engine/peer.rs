//! A peer: one WireGuard session machine for each pair of its keys and ours, and the choice among them.
//!
//! With one key on each side there is one pair. While a key is being replaced there are more, in the order of preference: what is sent
//! goes with the first whose session is up, and the better ones before it are asked for a handshake meanwhile. What is received is taken by
//! whichever it was encrypted for. So no packet is lost in between.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use boringtun::noise::{Tunn, TunnResult, errors::WireGuardError, rate_limiter::RateLimiter};

use super::SCRATCH;
use crate::wireguard::{
    keys::{PresharedKey, PrivateKey, PublicKey},
    outbox::Outbox,
    spec,
};

/// A session's overhead, and the longest handshake message.
pub(crate) const OVERHEAD: usize = 32;
const HANDSHAKE: usize = 148;
/// How long a session may be used (REJECT_AFTER_TIME of the WireGuard paper).
pub(crate) const SESSION: Duration = Duration::from_secs(180);

/// A peer that threads share; all of it is behind one lock, held for a batch of packets.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    live: Mutex<Live>,
}

/// One pair of keys.
pub(crate) struct Session {
    pub(crate) own: PublicKey,
    pub(crate) theirs: PublicKey,
    pub(crate) index: u32,
    preshared_key: Option<PresharedKey>,
    tunn: Tunn,
    /// Packets wait in it for a session.
    queued: bool,
    /// It was replaced by one with another shared key, and goes then.
    pub(crate) until: Option<Instant>,
}

/// What is known of a peer.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// What was asked for.
    pub(crate) spec: Option<spec::Peer>,
    /// Where it was last heard of.
    pub(crate) endpoint: Option<SocketAddr>,
    /// In the order of preference.
    pub(crate) sessions: Vec<Session>,
    /// Encrypted bytes.
    pub(crate) sent: u64,
    /// Encrypted bytes.
    pub(crate) received: u64,
    /// In the list of peers whose timers run.
    pub(crate) awake: bool,
    last_sent: Option<Instant>,
}

impl Peer {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        // A panic of another thread does not make a session's state unsafe to use: at worst a packet is lost.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Session({} with {})", self.own, self.theirs)
    }
}

impl Session {
    pub(crate) fn new(
        own: &PrivateKey,
        theirs: PublicKey,
        preshared_key: Option<PresharedKey>,
        index: u32,
        limiter: &Arc<RateLimiter>,
    ) -> Self {
        let shared = preshared_key.as_ref().map(|key| *key.bytes());
        let public = boringtun::x25519::PublicKey::from(theirs.0);
        // Persistent keepalives are ours: `Tunn` can't be told another interval later.
        let tunn = Tunn::new(
            own.secret(),
            public,
            shared,
            None,
            index,
            Some(Arc::clone(limiter)),
        );
        Self {
            own: own.public(),
            theirs,
            index,
            preshared_key,
            tunn,
            queued: false,
            until: None,
        }
    }

    /// Whether it is for this pair.
    pub(crate) fn is_of(&self, own: PublicKey, theirs: PublicKey) -> bool {
        self.own == own && self.theirs == theirs
    }

    pub(crate) fn has_preshared_key(&self, key: Option<&PresharedKey>) -> bool {
        self.preshared_key.as_ref() == key
    }

    /// Age of the session that is up.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake().filter(|age| *age < SESSION)
    }
}

/// What came of a datagram.
pub(crate) enum Received<'a> {
    /// An IP packet.
    Packet(&'a [u8]),
    /// Nothing for the network behind, and all is well.
    Nothing,
    /// It is not from this peer, or a replay.
    Refused,
}

impl Live {
    /// The session to send with: the first that is up, else the first.
    fn choose(&self) -> usize {
        self.sessions
            .iter()
            .position(|session| session.age().is_some())
            .unwrap_or(0)
    }

    /// Begins to send a batch: a function that encrypts one packet after the other. Nothing if nobody knows where the peer is.
    pub(crate) fn begin<'a>(
        &'a mut self,
        outbox: &'a mut Outbox,
        now: Instant,
    ) -> Option<impl FnMut(&[u8]) + 'a> {
        let to = self.endpoint?;
        let chosen = self.choose();
        for session in &mut self.sessions[..chosen] {
            // Only the way there: a better key than the one that is in use.
            let initiation =
                |space: &mut [u8]| written(session.tunn.format_handshake_initiation(space, false));
            self.sent += outbox.push(to, HANDSHAKE, initiation) as u64;
        }
        self.last_sent = Some(now);
        let (session, sent) = (self.sessions.get_mut(chosen)?, &mut self.sent);
        Some(move |packet: &[u8]| {
            let mut direct = false;
            let encrypt = |space: &mut [u8]| match session.tunn.encapsulate(packet, space) {
                TunnResult::WriteToNetwork(bytes) => {
                    // Data, or the handshake that has to come before.
                    direct = bytes[0] == 4;
                    bytes.len()
                }
                _ => 0,
            };
            let longest = (packet.len() + OVERHEAD).max(HANDSHAKE);
            *sent += outbox.push(to, longest, encrypt) as u64;
            session.queued |= !direct;
        })
    }

    /// Decrypts a datagram for one of the sessions into `space`, and answers what has to be answered.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn receive<'a>(
        &mut self,
        at: usize,
        from: SocketAddr,
        datagram: &[u8],
        space: &'a mut [u8],
        outbox: &mut Outbox,
        now: Instant,
    ) -> Received<'a> {
        let session = &mut self.sessions[at];
        let mut packet = 0;
        match session.tunn.decapsulate(Some(from.ip()), datagram, space) {
            TunnResult::Done => {}
            TunnResult::WriteToTunnelV4(bytes, _) | TunnResult::WriteToTunnelV6(bytes, _) => {
                packet = bytes.len()
            }
            TunnResult::WriteToNetwork(answer) => {
                self.sent += outbox.push(from, answer.len(), |out| copied(answer, out)) as u64;
                self.last_sent = Some(now);
            }
            TunnResult::Err(_) => return Received::Refused,
        }
        self.received += datagram.len() as u64;
        // A cookie proves nothing about where the peer is.
        if datagram[0] != 3 {
            self.endpoint = Some(from);
        }
        if session.queued && session.age().is_some() {
            session.queued = false;
            let mut more = true;
            while more {
                let flush = |out: &mut [u8]| written(session.tunn.decapsulate(None, &[], out));
                let length = outbox.push(from, SCRATCH + OVERHEAD, flush);
                self.sent += length as u64;
                more = length > 0;
            }
        }
        match packet {
            0 => Received::Nothing,
            length => Received::Packet(&space[..length]),
        }
    }

    /// Lets the timers run; false when nothing more will happen by itself.
    pub(crate) fn tick(&mut self, outbox: &mut Outbox, now: Instant) -> bool {
        self.sessions
            .retain(|session| session.until.is_none_or(|until| now < until));
        let mut awake = false;
        for session in &mut self.sessions {
            let mut expired = false;
            let mut timers = |space: &mut [u8]| match session.tunn.update_timers(space) {
                TunnResult::Err(WireGuardError::ConnectionExpired) => {
                    expired = true;
                    0
                }
                result => written(result),
            };
            match self.endpoint {
                Some(to) => {
                    let length = outbox.push(to, HANDSHAKE, timers);
                    self.sent += length as u64;
                    if length > 0 {
                        self.last_sent = Some(now);
                    }
                }
                // The clock has to go on, though there is nobody to tell.
                None => {
                    timers(&mut [0; HANDSHAKE]);
                }
            }
            awake |= !expired;
        }
        let every = self.spec.as_ref().map_or(0, |spec| spec.keepalive);
        if every == 0 {
            return awake;
        }
        let pause = Duration::from_secs(every.into());
        if self
            .last_sent
            .is_none_or(|last| now.duration_since(last) >= pause)
            && let Some(mut send) = self.begin(outbox, now)
        {
            send(&[]);
        }
        true
    }
}

fn written(result: TunnResult<'_>) -> usize {
    match result {
        TunnResult::WriteToNetwork(bytes) => bytes.len(),
        _ => 0,
    }
}

fn copied(bytes: &[u8], space: &mut [u8]) -> usize {
    space[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}
