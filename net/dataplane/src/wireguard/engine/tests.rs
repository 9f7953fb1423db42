//! Two or three engines, joined in memory: what one puts into its outbox is what the other gets.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::wireguard::{
    frame::vnet::{Kind, Segmentation},
    keys::PresharedKey,
    spec::{self, Prefix, Tunnel},
};

const VNI: u32 = 4097;

struct Node {
    number: u8,
    engine: Engine,
    outbox: Outbox,
    scratch: Vec<u8>,
    tunnel: Tunnel,
    now: Instant,
}

type Sent = Vec<(SocketAddr, Vec<u8>)>;
type Frames = Vec<(u32, Vec<u8>)>;

fn vtep(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, number)
}

fn outer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_820))
}

fn mac(number: u8) -> Mac {
    Mac([2, 0x42, 10, 0, 0, number])
}

/// Each node has one endpoint on the network, with its number.
fn mesh(numbers: &[u8]) -> Vec<Node> {
    let key = |number: u8| PrivateKey::new([number + 1; 32]);
    let endpoints: BTreeMap<_, _> = numbers
        .iter()
        .map(|number| (mac(*number), vtep(*number)))
        .collect();
    let node = |own: &u8| {
        let peer = |number: &u8| {
            let peer = spec::Peer {
                public_keys: vec![key(*number).public()],
                preshared_key: None,
                endpoint: Some(outer(*number)),
                keepalive: 0,
                allowed: vec![Prefix::host(vtep(*number))],
            };
            (number.to_string(), peer)
        };
        let tunnel = Tunnel {
            private_keys: vec![key(*own)],
            listen_port: 51_820,
            mark: 0,
            address: vtep(*own),
            mtu: 1500,
            control: None,
            peers: numbers.iter().filter(|number| *number != own).map(peer).collect(),
        };
        let node = Node {
            number: *own,
            engine: Engine::new(vtep(*own)),
            outbox: Outbox::default(),
            scratch: vec![0; SCRATCH],
            now: Instant::now(),
            tunnel,
        };
        node.apply();
        node.engine.put_network(VNI, &endpoints);
        node
    };
    numbers.iter().map(node).collect()
}

impl Node {
    fn apply(&self) {
        self.engine.apply(&self.tunnel, self.now);
    }

    fn send(&mut self, frame: &[u8]) {
        self.send_on(VNI, &Header::default(), frame);
    }

    fn send_on(&mut self, vni: u32, header: &Header, frame: &[u8]) {
        let mut bytes = header.encode(0).to_vec();
        bytes.extend(frame);
        self.engine
            .outbound(vni, &bytes, &mut self.scratch, &mut self.outbox, self.now);
    }

    fn take(&mut self) -> Sent {
        let runs = self.outbox.runs();
        let all =
            runs.flat_map(|(to, bytes, size)| bytes.chunks(size).map(move |bytes| (to, bytes.to_vec())));
        let all = all.collect();
        self.outbox.clear();
        all
    }

    fn receive(&mut self, from: SocketAddr, datagrams: &[Vec<u8>]) -> Frames {
        let mut frames = Vec::new();
        let all = datagrams.iter().map(Vec::as_slice);
        self.engine.inbound(
            from,
            all,
            &mut self.scratch,
            &mut self.outbox,
            self.now,
            |vni, frame| {
                frames.push((vni, frame.to_vec()));
            },
        );
        frames
    }

    fn tick(&mut self, passed: u64) {
        self.now += Duration::from_secs(passed);
        self.engine.tick(&mut self.outbox, self.now);
    }
}

/// Carries datagrams until nobody has any; returns what each node's networks got, and the types of the messages that went.
fn settle(nodes: &mut [Node]) -> (Vec<Frames>, Vec<u8>) {
    let mut frames = vec![Frames::new(); nodes.len()];
    let mut types = Vec::new();
    loop {
        let mut quiet = true;
        for at in 0..nodes.len() {
            let from = outer(nodes[at].number);
            for (to, datagram) in nodes[at].take() {
                quiet = false;
                types.push(datagram[0]);
                if let Some(target) = nodes.iter().position(|node| outer(node.number) == to) {
                    frames[target].extend(nodes[target].receive(from, &[datagram]));
                }
            }
        }
        if quiet {
            return (frames, types);
        }
    }
}

fn ethernet(to: u8, from: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = mac(to).0.to_vec();
    frame.extend(mac(from).0);
    frame.extend([0x88, 0xb5]);
    frame.extend(payload);
    frame
}

/// Sends `count` frames each way and expects them all.
fn exchange(nodes: &mut [Node], what: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for round in 0..3u8 {
        let (one, two) = (ethernet(2, 1, &[round; 60]), ethernet(1, 2, &[round; 70]));
        nodes[0].send(&one);
        nodes[1].send(&two);
        let (frames, types) = settle(nodes);
        assert_eq!(frames[1], [(VNI, one)], "{what}");
        assert_eq!(frames[0], [(VNI, two)], "{what}");
        all.extend(types);
    }
    all
}

/// `Tunn` begins no handshake within five seconds (REKEY_TIMEOUT) of the one before, and reads the clock itself: no time that is passed to
/// the engine makes it do so earlier, so the tests let it pass.
fn let_tunn_try_again() {
    std::thread::sleep(Duration::from_millis(5100));
}

#[test]
fn frames_wait_for_the_handshake_and_arrive_in_order() {
    let mut nodes = mesh(&[1, 2]);
    let frames: Vec<_> = (0..5u8).map(|i| ethernet(2, 1, &[i; 100])).collect();
    frames.iter().for_each(|frame| nodes[0].send(frame));
    let (got, types) = settle(&mut nodes);
    let got: Vec<_> = got[1].iter().map(|(_, frame)| frame.clone()).collect();
    assert_eq!(got, frames);
    assert_eq!(types[..3], [1, 2, 4]);
    exchange(&mut nodes, "afterwards");
}

#[test]
fn both_begin_at_once() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "crossing handshakes");
}

#[test]
fn long_frames_are_cut_and_keep_their_order() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "first");
    let mut frame = ethernet(2, 1, &[]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend([
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend((0..10_000u32).map(|i| i as u8));
    let header = Header {
        checksum: Some((34, 16)),
        segmentation: Some(Segmentation {
            kind: Kind::Tcp4,
            size: 1330,
        }),
    };
    nodes[0].send_on(VNI, &header, &frame);
    assert_eq!(nodes[0].outbox.runs().count(), 1, "one call sends all");
    let (frames, _) = settle(&mut nodes);
    let data: Vec<u8> = frames[1]
        .iter()
        .flat_map(|(_, frame)| frame[54..].to_vec())
        .collect();
    assert_eq!(data, frame[54..]);
    assert_eq!(frames[1].len(), 8);
}

#[test]
fn what_has_no_receiver_is_not_sent() {
    let mut nodes = mesh(&[1, 2]);
    let mut broadcast = ethernet(2, 1, &[0; 60]);
    broadcast[..6].fill(0xff);
    nodes[0].send(&broadcast);
    nodes[0].send(&ethernet(9, 1, &[0; 60]));
    nodes[0].send(&[2, 0x42]);
    let frame = ethernet(2, 1, &[0; 60]);
    nodes[0].send_on(5000, &Header::default(), &frame);
    nodes[0].engine.outbound(
        VNI,
        &[0; 5],
        &mut [0; 100],
        &mut Outbox::default(),
        Instant::now(),
    );
    nodes[0].engine.remove_network(VNI);
    nodes[0].send(&frame);
    assert_eq!(nodes[0].take(), []);
}

#[test]
fn replays_are_dropped() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "first");
    nodes[0].send(&ethernet(2, 1, &[7; 60]));
    let (_, datagram) = nodes[0].take().remove(0);
    let twice = [datagram.clone(), datagram.clone()];
    assert_eq!(nodes[1].receive(outer(1), &twice).len(), 1);
    // Not even from elsewhere, and the endpoint does not follow it.
    assert_eq!(nodes[1].receive(outer(9), std::slice::from_ref(&datagram)), []);
    let mut forged = datagram;
    forged[8] ^= 0x40;
    assert_eq!(nodes[1].receive(outer(9), &[forged]), []);
    nodes[1].send(&ethernet(1, 2, &[8; 60]));
    assert_eq!(nodes[1].take()[0].0, outer(1));
}

#[test]
fn a_peer_speaks_only_for_itself() {
    let mut nodes = mesh(&[1, 2, 3]);
    exchange(&mut nodes, "first");
    let lost = |nodes: &mut [Node], frame: &[u8], what: &str| {
        nodes[0].send(frame);
        assert_eq!(settle(nodes).0[1], [], "{what}");
    };
    // An endpoint that is on node 3, and one that is nowhere.
    lost(&mut nodes, &ethernet(2, 3, &[0; 60]), "another's endpoint");
    lost(&mut nodes, &ethernet(2, 77, &[0; 60]), "an unknown endpoint");
    // Node 3's tunnel address.
    nodes[0].tunnel.address = vtep(3);
    nodes[0].apply();
    lost(&mut nodes, &ethernet(2, 3, &[0; 60]), "another's tunnel address");
    nodes[0].tunnel.address = vtep(1);
    nodes[0].apply();
    // A network that node 1 has no endpoint on.
    let only: BTreeMap<_, _> = [(mac(3), vtep(3))].into();
    nodes[1].engine.put_network(5000, &only);
    nodes[0].engine.put_network(5000, &[(mac(2), vtep(2))].into());
    nodes[0].send_on(5000, &Header::default(), &ethernet(2, 1, &[0; 60]));
    assert_eq!(settle(&mut nodes).0[1], [], "another's network");
    // One that is not here at all.
    nodes[1].engine.remove_network(5000);
    nodes[0].send_on(5000, &Header::default(), &ethernet(2, 1, &[0; 60]));
    assert_eq!(settle(&mut nodes).0[1], [], "an unknown network");
    exchange(&mut nodes, "all is as before");
}

#[test]
fn a_peer_that_moves_is_followed() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "first");
    nodes[0].send(&ethernet(2, 1, &[7; 60]));
    let (_, datagram) = nodes[0].take().remove(0);
    assert_eq!(nodes[1].receive(outer(77), &[datagram]).len(), 1);
    nodes[1].send(&ethernet(1, 2, &[8; 60]));
    assert_eq!(nodes[1].take()[0].0, outer(77));
    // The same configuration again does not call it back, another one does.
    nodes[1].apply();
    nodes[1].send(&ethernet(1, 2, &[8; 60]));
    assert_eq!(nodes[1].take()[0].0, outer(77));
    nodes[1].tunnel.peers.get_mut("1").unwrap().endpoint = Some(outer(78));
    nodes[1].apply();
    nodes[1].send(&ethernet(1, 2, &[8; 60]));
    assert_eq!(nodes[1].take()[0].0, outer(78));
}

#[test]
fn a_changed_peer_keeps_its_session() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "first");
    let peer = nodes[0].tunnel.peers.get_mut("2").unwrap();
    peer.keepalive = 25;
    peer.allowed.push("10.9.0.0/16".parse().unwrap());
    nodes[0].apply();
    let types = exchange(&mut nodes, "changed");
    assert!(types.iter().all(|kind| *kind == 4), "{types:?}");
    nodes[0].tunnel.peers.remove("2");
    nodes[0].apply();
    nodes[0].send(&ethernet(2, 1, &[7; 60]));
    nodes[1].send(&ethernet(1, 2, &[7; 60]));
    let (frames, _) = settle(&mut nodes);
    assert_eq!(frames, [Frames::new(), Frames::new()]);
    assert!(nodes[0].engine.read().indexed.is_empty());
}

/// A key of node 1 is replaced in the order in which news may come: with each step alone, every frame arrives.
#[test]
fn keys_are_replaced_without_a_lost_frame() {
    for peer_first in [true, false] {
        let mut nodes = mesh(&[1, 2]);
        exchange(&mut nodes, "first");
        let (old, new) = (PrivateKey::new([2; 32]), PrivateKey::new([99; 32]));
        let both_public = vec![new.public(), old.public()];
        for step in [peer_first, !peer_first] {
            if step {
                nodes[1].tunnel.peers.get_mut("1").unwrap().public_keys = both_public.clone();
                nodes[1].apply();
            } else {
                nodes[0].tunnel.private_keys = vec![new.clone(), old.clone()];
                nodes[0].apply();
            }
            exchange(&mut nodes, "one knows");
        }
        // Whoever was refused tries again.
        for _ in 0..2 {
            let_tunn_try_again();
            nodes.iter_mut().for_each(|node| node.tick(5));
            exchange(&mut nodes, "both know");
            if peer_first {
                break;
            }
        }
        nodes[0].tunnel.private_keys = vec![new.clone()];
        nodes[0].apply();
        let types = exchange(&mut nodes, "the old one is gone here");
        assert!(
            types.iter().all(|kind| *kind == 4 || *kind == 1),
            "the new session is in use: {types:?}"
        );
        nodes[1].tunnel.peers.get_mut("1").unwrap().public_keys = vec![new.public()];
        nodes[1].apply();
        exchange(&mut nodes, "and there");
        assert_eq!(nodes[1].engine.read().indexed.len(), 1);
    }
}

#[test]
fn a_private_key_set_by_a_client_leaves_old_sessions_for_a_while() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "first");
    let now = nodes[0].now;
    nodes[0]
        .engine
        .set_private_key(Some(&PrivateKey::new([98; 32])), now);
    exchange(&mut nodes, "the old session goes on");
    nodes[0].tick(181);
    assert_eq!(nodes[0].engine.read().own.len(), 1);
    nodes[0].take();
    nodes[0].send(&ethernet(2, 1, &[7; 60]));
    assert_eq!(settle(&mut nodes).0[1], []);
    nodes[0].engine.set_private_key(None, now);
    assert!(nodes[0].engine.view().private_key.is_none());
}

#[test]
fn a_shared_key_is_replaced_without_a_lost_frame() {
    let mut nodes = mesh(&[1, 2]);
    exchange(&mut nodes, "first");
    for (at, other) in [(0, "2"), (1, "1")] {
        nodes[at].tunnel.peers.get_mut(other).unwrap().preshared_key = Some(PresharedKey::new([5; 32]));
        nodes[at].apply();
        exchange(&mut nodes, "one side has it");
    }
    let_tunn_try_again();
    nodes.iter_mut().for_each(|node| node.tick(5));
    exchange(&mut nodes, "both have it");
    nodes.iter_mut().for_each(|node| node.tick(181));
    settle(&mut nodes);
    exchange(&mut nodes, "the old session has ended");
    assert_eq!(nodes[0].engine.view().peers.len(), 1);
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies() {
    let mut nodes = mesh(&[1, 2]);
    nodes[0].send(&ethernet(2, 1, &[0; 60]));
    let (_, initiation) = nodes[0].take().remove(0);
    for _ in 0..HANDSHAKES {
        nodes[1].receive(outer(1), std::slice::from_ref(&initiation));
    }
    // One was answered, the others were replays.
    let answers = nodes[1].take();
    assert_eq!(
        answers.iter().map(|(_, answer)| answer[0]).collect::<Vec<_>>(),
        [2]
    );
    nodes[1].receive(outer(1), std::slice::from_ref(&initiation));
    let cookies = nodes[1].take();
    assert_eq!((cookies.len(), cookies[0].1[0]), (1, 3));
    // Whoever proves its address with the cookie gets through.
    nodes[0].receive(outer(2), &[cookies[0].1.clone()]);
    let_tunn_try_again();
    nodes[0].tick(5);
    assert_eq!(settle(&mut nodes).0[1].len(), 1, "the waiting frame");
}

#[test]
fn keepalives_go_when_nothing_else_does() {
    let mut nodes = mesh(&[1, 2]);
    nodes[0].tunnel.peers.get_mut("2").unwrap().keepalive = 25;
    nodes[0].apply();
    nodes[0].tick(1);
    assert_eq!(
        settle(&mut nodes).1[..2],
        [1, 2],
        "the session is made without data"
    );
    nodes[0].tick(10);
    assert_eq!(nodes[0].take(), []);
    nodes[0].tick(15);
    let sent = nodes[0].take();
    assert_eq!((sent.len(), sent[0].1.len()), (1, 32));
    assert_eq!(nodes[1].receive(outer(1), &[sent[0].1.clone()]), []);
    nodes[0].tick(10);
    assert_eq!(nodes[0].take(), []);
}

/// Peers that nothing happens with are in no list that is gone through.
#[test]
fn thousands_of_quiet_peers_cost_nothing() {
    let numbers: Vec<u8> = (1..=200).collect();
    let mut nodes = mesh(&numbers);
    exchange(&mut nodes, "two of two hundred");
    assert_eq!(nodes[0].engine.awake().len(), 1);
    assert!(nodes[5].engine.awake().is_empty());
}

proptest! {
    // Each case has a handshake.
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn hostile_datagrams_are_only_dropped(
        datagrams in prop::collection::vec((0u8..6, prop::sample::select(vec![0usize, 1, 31, 32, 64, 92, 148, 200]), any::<[u8; 8]>()), 1..20),
    ) {
        let mut nodes = mesh(&[1, 2]);
        nodes[0].send(&ethernet(2, 1, &[0; 60]));
        settle(&mut nodes);
        let bytes: Vec<_> = datagrams.iter().map(|(kind, length, fill)| {
            let mut bytes: Vec<u8> = fill.iter().copied().cycle().take(*length).collect();
            for (at, value) in [*kind, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0].into_iter().enumerate().take(*length) {
                bytes[at] = value;
            }
            bytes
        }).collect();
        prop_assert_eq!(nodes[1].receive(outer(9), &bytes), []);
        nodes[1].send(&ethernet(1, 2, &[0; 60]));
        prop_assert_eq!(settle(&mut nodes).0[0].len(), 1);
    }
}
