//! Changes of the tunnel while packets flow. A session stays as long as its two keys and its shared key do.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Engine, Own, Tables,
    peer::{Live, SESSION, Session},
};
use crate::wireguard::{
    keys::{PresharedKey, PrivateKey, PublicKey},
    spec::{self, Mac, Prefix, Tunnel},
};

/// The upper bits of receiver indices are 24.
const INDICES: u32 = 1 << 24;

/// What can be told about the tunnel.
#[derive(Debug)]
pub(crate) struct View {
    /// The newest of its keys.
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) peers: Vec<PeerView>,
}

/// What can be told about a peer.
#[derive(Debug)]
pub(crate) struct PeerView {
    pub(crate) public_key: PublicKey,
    pub(crate) preshared_key: Option<PresharedKey>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: u16,
    pub(crate) allowed: Vec<Prefix>,
    /// Age of the session in use.
    pub(crate) handshake: Option<Duration>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Engine {
    /// Makes keys, address and peers those of `tunnel`; other peers are removed.
    pub(crate) fn apply(&self, tunnel: &Tunnel, now: Instant) {
        let mut tables = self.write();
        tables.address = tunnel.address;
        let wanted: Vec<_> = tunnel.private_keys.iter().map(PrivateKey::public).collect();
        tables.forget_own(|own| !wanted.contains(&own.public));
        tables.set_own(&tunnel.private_keys);
        let gone = |name: &&String| !tunnel.peers.contains_key(*name);
        let gone: Vec<_> = tables.named.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|name| tables.remove_peer(name));
        for (name, peer) in &tunnel.peers {
            self.put(&mut tables, name, peer.clone(), now);
        }
        // Sessions with keys that are new.
        let names: Vec<_> = tables.named.keys().cloned().collect();
        names.iter().for_each(|name| tables.pair(name, now));
    }

    /// Makes `key` the node's own; what was the newest before is still taken for the life of a session.
    pub(crate) fn set_private_key(&self, key: Option<&PrivateKey>, now: Instant) {
        let mut tables = self.write();
        let Some(key) = key else {
            return tables.forget_own(|_| true);
        };
        let public = key.public();
        for own in &mut tables.own {
            if own.public != public && own.until.is_none() {
                own.until = Some(now + SESSION);
            }
        }
        tables.set_own(std::slice::from_ref(key));
        let names: Vec<_> = tables.named.keys().cloned().collect();
        names.iter().for_each(|name| tables.pair(name, now));
    }

    /// Adds a peer or changes it.
    pub(crate) fn put_peer(&self, name: &str, peer: spec::Peer, now: Instant) {
        self.put(&mut self.write(), name, peer, now);
    }

    /// Name and settings of the peer with this key.
    pub(crate) fn peer(&self, key: PublicKey) -> Option<(String, spec::Peer)> {
        let tables = self.read();
        let (name, peer) = tables.keyed.get(&key)?;
        let spec = peer.lock().spec.clone()?;
        Some((name.clone(), spec))
    }

    /// Says where a peer is now, also if that was said before and it has moved since.
    pub(crate) fn set_endpoint(&self, name: &str, endpoint: SocketAddr) {
        if let Some(peer) = self.read().named.get(name) {
            peer.lock().endpoint = Some(endpoint);
        }
    }

    /// Forgets a peer. Unknown names are fine.
    pub(crate) fn remove_peer(&self, name: &str) {
        self.write().remove_peer(name);
    }

    /// Forgets all peers.
    pub(crate) fn clear_peers(&self) {
        let mut tables = self.write();
        let names: Vec<_> = tables.named.keys().cloned().collect();
        names.iter().for_each(|name| tables.remove_peer(name));
    }

    /// Replaces the remote endpoints of a network.
    pub(crate) fn put_network(&self, vni: u32, endpoints: &BTreeMap<Mac, Ipv4Addr>) {
        let endpoints: HashMap<_, _> = endpoints.iter().map(|(mac, node)| (*mac, *node)).collect();
        self.write().networks.insert(vni, endpoints);
    }

    /// Forgets a network: its frames are dropped.
    pub(crate) fn remove_network(&self, vni: u32) {
        self.write().networks.remove(&vni);
    }

    /// What is known now.
    pub(crate) fn view(&self) -> View {
        let tables = self.read();
        let peers = tables.named.values().filter_map(|peer| {
            let live = peer.lock();
            let spec = live.spec.as_ref()?;
            Some(PeerView {
                public_key: *spec.public_keys.first()?,
                preshared_key: spec.preshared_key.clone(),
                endpoint: live.endpoint,
                keepalive: spec.keepalive,
                allowed: spec.allowed.clone(),
                handshake: live.sessions.iter().find_map(Session::age),
                sent: live.sent,
                received: live.received,
            })
        });
        View {
            private_key: tables.own.first().map(|own| own.key.clone()),
            peers: peers.collect(),
        }
    }

    fn put(&self, tables: &mut Tables, name: &str, spec: spec::Peer, now: Instant) {
        // A key is one peer's only.
        for key in &spec.public_keys {
            let other = tables.keyed.get(key).map(|(other, _)| other.clone());
            if let Some(other) = other.filter(|other| other != name) {
                tables.remove_peer(&other);
            }
        }
        let peer = Arc::clone(tables.named.entry(name.to_owned()).or_default());
        let before = {
            let mut live = peer.lock();
            let before = live.spec.replace(spec.clone());
            // Where it is said to be counts when that changed; else where it was heard of.
            if before
                .as_ref()
                .is_none_or(|before| before.endpoint != spec.endpoint)
                && spec.endpoint.is_some()
            {
                live.endpoint = spec.endpoint;
            }
            if spec.keepalive > 0 && !live.awake {
                live.awake = true;
                self.awake().push(Arc::clone(&peer));
            }
            before
        };
        if let Some(before) = before {
            before
                .allowed
                .iter()
                .for_each(|prefix| tables.allowed.remove(*prefix, &peer));
            before.public_keys.iter().for_each(|key| {
                tables.keyed.remove(key);
            });
        }
        for prefix in &spec.allowed {
            let owner = tables.allowed.insert(*prefix, &peer);
            if let Some(owner) = owner.filter(|owner| !Arc::ptr_eq(owner, &peer))
                && let Some(spec) = &mut owner.lock().spec
            {
                spec.allowed.retain(|known| known != prefix);
            }
        }
        for key in &spec.public_keys {
            tables.keyed.insert(*key, (name.to_owned(), Arc::clone(&peer)));
        }
        tables.pair(name, now);
    }
}

impl Tables {
    /// Puts keys in front of the others, in their order, and makes those that are new.
    fn set_own(&mut self, keys: &[PrivateKey]) {
        let mut before = std::mem::take(&mut self.own);
        for key in keys {
            let public = key.public();
            let own = match before.iter().position(|own| own.public == public) {
                Some(at) => before.remove(at),
                None => Own::new(key.clone()),
            };
            self.own.push(Own { until: None, ..own });
        }
        self.own.append(&mut before);
    }

    /// Forgets own keys and their sessions.
    pub(super) fn forget_own(&mut self, gone: impl Fn(&Own) -> bool) {
        self.own.retain(|own| !gone(own));
        let known: Vec<_> = self.own.iter().map(|own| own.public).collect();
        for peer in self.named.values() {
            peer.lock()
                .sessions
                .retain(|session| known.contains(&session.own));
        }
        self.indexed.retain(|index, peer| has_index(&peer.lock(), *index));
    }

    /// Makes the sessions of a peer those of all pairs of its keys and ours, in the order of preference.
    fn pair(&mut self, name: &str, now: Instant) {
        let Some(peer) = self.named.get(name).cloned() else {
            return;
        };
        let mut live = peer.lock();
        let Some(spec) = live.spec.clone() else {
            return;
        };
        let mut before = std::mem::take(&mut live.sessions);
        let mut sessions = Vec::new();
        let pairs =
            (0..self.own.len()).flat_map(|own| spec.public_keys.iter().map(move |theirs| (own, *theirs)));
        for (own, theirs) in pairs {
            let shared = spec.preshared_key.as_ref();
            let known = before.iter().position(|session| {
                session.is_of(self.own[own].public, theirs) && session.has_preshared_key(shared)
            });
            if let Some(at) = known {
                let mut session = before.remove(at);
                session.until = None;
                sessions.push(session);
                continue;
            }
            let index = self.free_index();
            self.indexed.insert(index, Arc::clone(&peer));
            let own = &self.own[own];
            sessions.push(Session::new(
                &own.key,
                theirs,
                spec.preshared_key.clone(),
                index,
                &own.open,
            ));
        }
        for mut session in before {
            let wanted = spec.public_keys.contains(&session.theirs);
            if wanted && self.own.iter().any(|own| own.public == session.own) {
                // Only the shared key changed.
                session.until = session.until.or(Some(now + SESSION));
                sessions.push(session);
            } else {
                self.indexed.remove(&session.index);
            }
        }
        live.sessions = sessions;
    }

    fn free_index(&mut self) -> u32 {
        while self.indexed.contains_key(&self.next_index) {
            self.next_index = (self.next_index + 1) % INDICES;
        }
        let index = self.next_index;
        self.next_index = (index + 1) % INDICES;
        index
    }

    fn remove_peer(&mut self, name: &str) {
        let Some(peer) = self.named.remove(name) else {
            return;
        };
        let mut live = peer.lock();
        if let Some(spec) = live.spec.take() {
            spec.allowed
                .iter()
                .for_each(|prefix| self.allowed.remove(*prefix, &peer));
            spec.public_keys.iter().for_each(|key| {
                self.keyed.remove(key);
            });
        }
        // Also those of sessions that have ended since.
        self.indexed.retain(|_, owner| !Arc::ptr_eq(owner, &peer));
        live.sessions.clear();
        live.endpoint = None;
    }
}

fn has_index(live: &Live, index: u32) -> bool {
    live.sessions.iter().any(|session| session.index == index)
}
