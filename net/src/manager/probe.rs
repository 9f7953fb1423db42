//! Whether other nodes are reached in an overlay, by packets of which size, and how fast: `network doctor`'s matrix. Questions go from
//! bridge to bridge, between addresses that nobody else has ([`crate::core`], `probe_address`), so they take the way of the containers' own
//! packets: forwarding entries, tunnel, underlay, what is between. Each daemon answers in the hidden namespaces of its overlays.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};

use super::NetworkManager;
use crate::{Error, Probe, Result, core::Probing};

/// Where daemons answer, in hidden namespaces only.
pub(crate) const PORT: u16 = 4789;
/// IPv4 and UDP headers.
const HEADERS: u32 = 28;
/// Smallest question, as a packet.
const SMALLEST: u32 = 68;
/// Largest packet that there can be.
const LARGEST: usize = 65535;
/// So long an answer may take before it is asked again.
const PATIENCE: Duration = Duration::from_millis(300);
/// So often it is asked before a peer, or packets of a size, count as lost.
const TRIES: u32 = 3;
/// How questions and answers begin.
const MAGIC: &[u8; 8] = b"ptprobe1";
/// Magic, whether it is an answer, number.
const LENGTH: usize = 17;

/// Tasks that answer, by network. They end with it.
#[derive(Debug, Default)]
pub(super) struct Responders(Mutex<BTreeMap<String, AbortHandle>>);

impl Responders {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Answers no more; its socket would keep the namespace alive.
    pub(super) fn stop(&self, id: &str) {
        if let Some(task) = self.lock().remove(id) {
            task.abort();
        }
    }
}

impl Drop for Responders {
    fn drop(&mut self) {
        self.lock().values().for_each(AbortHandle::abort);
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::Netlink {
        operation: "probe an overlay network".into(),
        source,
    }
}

impl NetworkManager {
    /// Answers in a network from now on.
    pub(super) async fn answer_probes(&self, id: &str) {
        if self.responders.has(id) {
            return;
        }
        let own = id.to_owned();
        let socket = self.core.run(move |core| core.probe_socket(&own, PORT)).await;
        let socket = socket.and_then(|opened| opened).and_then(|opened| {
            opened
                .map(|socket| UdpSocket::from_std(socket).map_err(failed))
                .transpose()
        });
        match socket {
            Ok(Some(socket)) => {
                let task = tokio::spawn(answer(socket)).abort_handle();
                if let Some(before) = self.responders.lock().insert(id.to_owned(), task) {
                    before.abort();
                }
            }
            Ok(None) => {}
            // Containers' packets have nothing to do with it.
            Err(error) => tracing::warn!(network = id, %error, "probes of other nodes are not answered"),
        }
    }

    /// Asks the nodes that have endpoints in these networks, or in all, and says who answered. Takes some seconds where somebody does not.
    ///
    /// # Errors
    /// [`Error::ThreadGone`], or sockets can't be had.
    pub async fn probe(&self, networks: Option<BTreeSet<String>>) -> Result<Vec<Probe>> {
        let plans = self
            .core
            .run(move |core| core.probings(networks.as_ref()))
            .await??;
        let mut running = JoinSet::new();
        for plan in plans {
            running.spawn(ask(plan));
        }
        let mut probes = Vec::new();
        while let Some(done) = running.join_next().await {
            probes.extend(done.map_err(|_| Error::ThreadGone)??);
        }
        probes.sort_by(|a, b| (&a.network, a.peer).cmp(&(&b.network, b.peer)));
        Ok(probes)
    }
}

/// Sends questions back as answers.
async fn answer(socket: UdpSocket) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An error of an earlier answer: that peer is gone.
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let is_question = length >= LENGTH && buffer.starts_with(MAGIC) && buffer[8] == 0;
        if is_question {
            buffer[8] = 1;
            // Who asked asks again.
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug)]
struct Known {
    vtep: IpAddr,
    address: Ipv4Addr,
    /// Largest packet that came back; 0: none.
    passed: u32,
    /// Smallest that did not.
    lost: u32,
    round_trip: Duration,
}

/// Questions of one network.
struct Asker {
    socket: UdpSocket,
    /// Questions that wait for an answer: who was asked by a packet of which size, and when.
    open: BTreeMap<u64, (usize, u32, Instant)>,
    next: u64,
    buffer: Vec<u8>,
}

async fn ask(plan: Probing) -> Result<Vec<Probe>> {
    let socket = UdpSocket::from_std(plan.socket).map_err(failed)?;
    let mut start = [0; 8];
    // Without randomness the numbers of two askers may be the same; their sockets are not.
    let _ = rustix::rand::getrandom(&mut start[..6], rustix::rand::GetRandomFlags::empty());
    let mut asker = Asker {
        socket,
        open: BTreeMap::new(),
        next: u64::from_le_bytes(start),
        buffer: vec![0; LARGEST],
    };
    let mut peers: Vec<_> = plan
        .peers
        .iter()
        .map(|(vtep, address)| Known {
            vtep: *vtep,
            address: *address,
            passed: 0,
            lost: plan.mtu + 1,
            round_trip: Duration::MAX,
        })
        .collect();
    asker.round(&mut peers, |_| Some(SMALLEST)).await;
    asker
        .round(&mut peers, |peer| (peer.passed != 0).then_some(plan.mtu))
        .await;
    // Where full packets are lost, what is the largest that passes? Halved each time.
    loop {
        let middle = |peer: &Known| {
            let is_open = peer.passed != 0 && peer.passed + 1 < peer.lost && peer.lost <= plan.mtu;
            is_open.then(|| u32::midpoint(peer.passed, peer.lost))
        };
        if peers.iter().all(|peer| middle(peer).is_none()) {
            break;
        }
        asker.round(&mut peers, middle).await;
    }
    let probe = |peer: &Known| Probe {
        network: plan.network.clone(),
        peer: peer.vtep,
        mtu: peer.passed,
        wanted_mtu: plan.mtu,
        round_trip: if peer.passed == 0 {
            Duration::ZERO
        } else {
            peer.round_trip
        },
    };
    Ok(peers.iter().map(probe).collect())
}

impl Asker {
    /// Asks peers by packets of a size each, those that are silent again, and notes what passed and what was lost.
    async fn round(&mut self, peers: &mut [Known], size: impl Fn(&Known) -> Option<u32>) {
        let mut wanted: BTreeMap<usize, u32> = BTreeMap::new();
        for (number, peer) in peers.iter().enumerate() {
            wanted.extend(size(peer).map(|size| (number, size)));
        }
        for _ in 0..TRIES {
            if wanted.is_empty() {
                return;
            }
            for (number, size) in &wanted {
                self.send(*number, peers[*number].address, *size).await;
            }
            let deadline = Instant::now() + PATIENCE;
            while !wanted.is_empty() {
                let Ok(heard) = timeout_at(deadline, self.hear(peers)).await else {
                    break;
                };
                let Some((number, size, took)) = heard else {
                    continue;
                };
                let peer = &mut peers[number];
                peer.passed = peer.passed.max(size);
                peer.round_trip = peer.round_trip.min(took);
                if wanted.get(&number) == Some(&size) {
                    wanted.remove(&number);
                }
            }
        }
        for (number, size) in wanted {
            peers[number].lost = size;
        }
    }

    async fn send(&mut self, number: usize, address: Ipv4Addr, size: u32) {
        let mut packet = vec![0; (size - HEADERS) as usize];
        self.next = self.next.wrapping_add(1);
        packet[..8].copy_from_slice(MAGIC);
        packet[9..LENGTH].copy_from_slice(&self.next.to_le_bytes());
        self.open.insert(self.next, (number, size, Instant::now()));
        // What can't be sent is not answered.
        let _ = self
            .socket
            .send_to(&packet, SocketAddr::from((address, PORT)))
            .await;
    }

    /// The next answer: whose, to a packet of which size, after which time.
    async fn hear(&mut self, peers: &[Known]) -> Option<(usize, u32, Duration)> {
        let (length, from) = match self.socket.recv_from(&mut self.buffer).await {
            Ok(received) => received,
            Err(_) => {
                tokio::task::yield_now().await;
                return None;
            }
        };
        let answer = self
            .buffer
            .get(..length)
            .filter(|a| a.len() >= LENGTH && a.starts_with(MAGIC) && a[8] == 1)?;
        let number = u64::from_le_bytes(answer[9..LENGTH].try_into().ok()?);
        let (peer, size, at) = *self.open.get(&number)?;
        let is_right = from.ip() == IpAddr::from(peers[peer].address) && length == (size - HEADERS) as usize;
        is_right.then(|| (peer, size, at.elapsed()))
    }
}
