//! Encrypted networks between namespaces: netd's own WireGuard against itself and against wireguard-go, with real packets.
// Clippy's exemption for tests does not reach helper functions of an integration test.
#![allow(clippy::unwrap_used)]

mod host;

use std::{
    net::UdpSocket,
    process::{Child, Command, Stdio},
};

use host::{
    Namespace, eventually,
    node::{
        Capture, DEVICE, Node, PORT, Pings, Underlay, VNI, inner, ip, key, mac, neighbours, outer, pair,
        ping_full, transfer, tunnel_address,
    },
    run,
};
use pontoon_dataplane::{EncryptedNetwork, Error};

const SECRET: &[u8] = b"the known payload that nobody may read";

fn data(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + SECRET.len());
    while bytes.len() < length {
        bytes.extend(SECRET);
        bytes.extend((bytes.len() as u32).to_be_bytes());
    }
    bytes
}

fn text_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether one ping is answered.
fn reaches(from: &Namespace, number: u8) -> bool {
    let to = inner(number);
    let ping = ["netns", "exec", &from.name, "ping", "-c", "1", "-W", "1", &to];
    Command::new("ip").args(ping).output().unwrap().status.success()
}

#[test]
fn two_of_ours_carry_full_size_packets_at_every_mtu() {
    for mtu in [1280, 1500, 4000, 9000] {
        let (_underlay, one, two) = pair(mtu);
        assert_eq!(one.network.mtu, mtu - 130);
        ping_full(&one.container, 2, one.network.mtu);
        ping_full(&two.container, 1, one.network.mtu);
        transfer(&one.container, &two.container, 2, &data(3_000_000));
        transfer(&two.container, &one.container, 1, &data(3_000_000));
    }
}

#[test]
fn nothing_on_the_wire_can_be_read() {
    let (_underlay, one, two) = pair(1500);
    let capture = Capture::start(&one.ns, "ip and not igmp");
    transfer(&one.container, &two.container, 2, &data(200_000));
    ping_full(&two.container, 1, 1000);
    let frames = capture.end();
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert!(bytes > 200_000, "{bytes} bytes seen");
    for frame in &frames {
        // IPv4, UDP from and to the tunnel's port, one of WireGuard's four messages: no clear VXLAN either.
        assert_eq!((frame[23], &frame[34..38]), (17, &[0xca, 0x6c, 0xca, 0x6c][..]));
        assert!((1..=4).contains(&frame[42]) && frame[43..46] == [0; 3]);
        for clear in [&SECRET[..16], &mac(1).0, &mac(2).0, &[10, 77, 0, 1, 10, 77, 0, 2]] {
            assert!(
                !frame.windows(clear.len()).any(|window| window == clear),
                "{clear:?} is readable"
            );
        }
    }
}

/// wireguard-go with the kernel's VXLAN device over its TUN: what a node with kernel WireGuard is, but for the cipher's place.
struct WireGuardGo {
    ns: Namespace,
    name: String,
    process: Child,
}

impl WireGuardGo {
    fn start(underlay: &Underlay, number: u8, others: &[u8]) -> Self {
        let ns = underlay.host(number);
        // All namespaces share /var/run/wireguard.
        let name = format!("wg{}", ns.name.trim_start_matches("ptdp-").replace('-', "x"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &ns.name, "wireguard-go", "--foreground", &name]);
        let process = command
            .env("WG_PROCESS_FOREGROUND", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wireguard-go is installed");
        let go = Self { ns, name, process };
        let socket = format!("/var/run/wireguard/{}.sock", go.name);
        eventually("wireguard-go serves", || std::path::Path::new(&socket).exists());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let secret = serde_json::to_value(key(number)).unwrap();
        std::io::Write::write_all(&mut file, secret.as_str().unwrap().as_bytes()).unwrap();
        let (port, path) = (PORT.to_string(), file.path().to_str().unwrap().to_owned());
        run(
            "wg",
            &["set", &go.name, "listen-port", &port, "private-key", &path],
        );
        ip(
            &go.ns,
            &format!("addr add {}/32 dev {}", tunnel_address(number), go.name),
        );
        ip(
            &go.ns,
            &format!("link set {} mtu {} up", go.name, underlay.mtu - 80),
        );
        ip(
            &go.ns,
            &format!(
                "link add vx0 address {} mtu {} type vxlan id {VNI} local {} dev {} dstport 4789 nolearning",
                mac(number),
                underlay.mtu - 130,
                tunnel_address(number),
                go.name
            ),
        );
        ip(&go.ns, &format!("addr add {}/24 dev vx0", inner(number)));
        ip(&go.ns, "link set vx0 up");
        for other in others {
            let endpoint = format!("{}:{PORT}", outer(*other));
            let allowed = format!("{}/32", tunnel_address(*other));
            let public = key(*other).public().to_string();
            run(
                "wg",
                &[
                    "set",
                    &go.name,
                    "peer",
                    &public,
                    "endpoint",
                    &endpoint,
                    "allowed-ips",
                    &allowed,
                ],
            );
            ip(&go.ns, &format!("route add {allowed} dev {}", go.name));
            let entry = format!(
                "fdb append {} dev vx0 dst {}",
                mac(*other),
                tunnel_address(*other)
            );
            let mut all = vec!["-n", &go.ns.name];
            all.extend(entry.split(' '));
            run("bridge", &all);
        }
        neighbours(&go.ns, "vx0", others);
        go
    }
}

impl Drop for WireGuardGo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name));
    }
}

#[test]
fn wireguard_go_with_kernel_vxlan_understands_us() {
    for mtu in [1280, 1500, 9000] {
        let underlay = Underlay::new(mtu);
        let ours = Node::new(&underlay, 1, &[2]);
        let theirs = WireGuardGo::start(&underlay, 2, &[1]);
        // They begin the one time, we the other.
        if mtu == 1500 {
            ping_full(&theirs.ns, 1, mtu - 130);
        }
        ping_full(&ours.container, 2, mtu - 130);
        ping_full(&theirs.ns, 1, mtu - 130);
        transfer(&ours.container, &theirs.ns, 2, &data(1_000_000));
        transfer(&theirs.ns, &ours.container, 1, &data(1_000_000));
    }
}

#[test]
fn a_node_that_moves_is_followed() {
    let (_underlay, one, two) = pair(1500);
    ping_full(&one.container, 2, 1000);
    ip(&two.ns, &format!("addr del {}/24 dev up0", outer(2)));
    ip(&two.ns, &format!("addr add {}/24 dev up0", outer(3)));
    // What it sends comes from the new address; then it is found there.
    ping_full(&two.container, 1, 1000);
    ping_full(&one.container, 2, 1000);
    transfer(&one.container, &two.container, 2, &data(300_000));
}

#[test]
fn changes_while_packets_flow_lose_none() {
    let (_underlay, mut one, mut two) = pair(1500);
    ping_full(&one.container, 2, 1000);
    let mut pings = Pings::start(&one.container, 2, 300);
    for round in 1..=5u16 {
        one.tunnel.peers.get_mut("2").unwrap().keepalive = round;
        one.tunnel
            .peers
            .insert("9".to_owned(), host::node::peer(9, &[key(9).public()]));
        one.apply();
        two.tunnel
            .peers
            .get_mut("1")
            .unwrap()
            .allowed
            .push(format!("10.9.{round}.0/24").parse().unwrap());
        two.apply();
        pings.pass(12);
        one.tunnel.peers.remove("9");
        one.apply();
        let mut network = one.network.clone();
        network.endpoints.insert(mac(round as u8 + 10), tunnel_address(2));
        one.call(|client, _| async move { client.put_encrypted("net", network).await.unwrap() });
    }
    pings.end();
}

#[test]
fn keys_are_replaced_while_packets_flow_and_none_is_lost() {
    let (_underlay, mut one, mut two) = pair(1500);
    ping_full(&one.container, 2, 1000);
    let mut pings = Pings::start(&one.container, 2, 700);
    let (old, new) = (key(1), key(71));
    two.tunnel.peers.get_mut("1").unwrap().public_keys = vec![new.public(), old.public()];
    two.apply();
    pings.pass(75);
    one.tunnel.private_keys = vec![new.clone(), old.clone()];
    one.apply();
    pings.pass(250);
    one.tunnel.private_keys = vec![new.clone()];
    one.apply();
    pings.pass(75);
    two.tunnel.peers.get_mut("1").unwrap().public_keys = vec![new.public()];
    two.apply();
    pings.pass(75);
    pings.end();
    // The old key is worth nothing any more.
    one.tunnel.private_keys = vec![old];
    one.apply();
    assert!(!reaches(&one.container, 2));
}

#[test]
fn replayed_packets_are_dropped() {
    let (_underlay, one, two) = pair(1500);
    ping_full(&one.container, 2, 1000);
    let capture = Capture::start(&one.ns, "udp and src host 192.168.77.1");
    ping_full(&one.container, 2, 1000);
    let frames = capture.end();
    assert!(frames.len() >= 3);
    // Not of the link: the kernel's own multicast comes in there as well.
    let received = || {
        let text = two
            .container
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut fields = names.split(' ').zip(values.split(' '));
        let (_, echoes) = fields.find(|(name, _)| *name == "InEchos").unwrap();
        echoes.to_owned()
    };
    let before = received();
    one.ns.enter(|| {
        let socket = UdpSocket::bind(("192.168.77.1", 0)).unwrap();
        for frame in &frames {
            socket.send_to(&frame[42..], (outer(2), PORT)).unwrap();
        }
    });
    eventually("netd has taken all of them", || {
        let read = || std::fs::read_to_string("/proc/thread-self/net/udp6").unwrap();
        let sockets = two.ns.enter(read);
        let mut of_netd = sockets
            .lines()
            .filter(|line| line.contains(&format!(":{PORT:04X} ")));
        // "tx_queue:rx_queue" (proc_pid_net(5)).
        of_netd.all(|line| {
            line.split_whitespace()
                .nth(4)
                .is_some_and(|queues| queues.ends_with(":00000000"))
        })
    });
    let right: u64 = before.parse().unwrap();
    // What is right still comes, and nothing else has.
    ping_full(&one.container, 2, 1000);
    assert_eq!(received().parse::<u64>().unwrap(), right + 3);
    // And nobody was led astray by where they came from.
    ping_full(&two.container, 1, 1000);
}

#[test]
fn it_goes_on_without_the_daemon_and_comes_back_after_a_kill() {
    let (_underlay, one, two) = pair(1500);
    ping_full(&one.container, 2, 1000);
    let before = one.call(|client, _| async move { client.state().await.unwrap() });
    assert_eq!(before.tunnel.as_ref(), Some(&one.tunnel));
    assert_eq!(before.encrypted["net"], one.network);
    // Another daemon finds it as it was.
    let host = std::sync::Arc::clone(&one.host);
    let again = one.call(|_, _| async move { host.client().await.state().await.unwrap() });
    assert_eq!(again, before);
    ping_full(&one.container, 2, 1000);
    let killed = one.host.kill();
    eventually("another netd runs", || {
        one.host.netd().is_some_and(|pid| pid != killed)
    });
    // Its device is still the bridge's port, and the session is made anew.
    eventually("packets flow again", || reaches(&one.container, 2));
    transfer(&two.container, &one.container, 1, &data(300_000));
}

#[test]
fn wg_shows_and_changes_it() {
    let underlay = Underlay::new(1500);
    let mut one = Node::new(&underlay, 1, &[2]);
    let _two = Node::new(&underlay, 2, &[1]);
    let name = format!("pt{}", one.ns.name.trim_start_matches("ptdp-").replace('-', "x"));
    std::fs::create_dir_all("/var/run/wireguard").unwrap();
    one.tunnel.control = Some(format!("/var/run/wireguard/{name}.sock").into());
    one.apply();
    ping_full(&one.container, 2, 1000);
    let public = key(2).public().to_string();
    let peer_line = || {
        let text = text_of("wg", &["show", &name, "dump"]);
        let line = text
            .lines()
            .find(|line| line.starts_with(&public))
            .map(str::to_owned);
        (text, line)
    };
    let (text, line) = peer_line();
    assert!(
        text.contains(&key(1).public().to_string()) && text.contains(&PORT.to_string()),
        "{text}"
    );
    let line = line.unwrap();
    let fields: Vec<_> = line.split('\t').collect();
    assert_eq!((fields[2], fields[3]), ("192.168.77.2:51820", "100.64.0.2/32"));
    let age = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        - fields[4].parse::<u64>().unwrap();
    assert!(age < 60 && fields[5] != "0" && fields[6] != "0", "{line}");
    let mut pings = Pings::start(&one.container, 2, 300);
    pings.pass(50);
    run(
        "wg",
        &[
            "set",
            &name,
            "peer",
            &public,
            "persistent-keepalive",
            "7",
            "allowed-ips",
            "100.64.0.2/32,10.9.0.0/16",
        ],
    );
    let other = key(9).public().to_string();
    run(
        "wg",
        &["set", &name, "peer", &other, "endpoint", "192.168.77.9:1"],
    );
    assert!(text_of("wg", &["show", &name, "peers"]).contains(&other));
    run("wg", &["set", &name, "peer", &other, "remove"]);
    assert!(!text_of("wg", &["show", &name, "peers"]).contains(&other));
    let line = peer_line().1.unwrap();
    assert!(
        line.contains("100.64.0.2/32,10.9.0.0/16") && line.ends_with('7'),
        "{line}"
    );
    pings.pass(50);
    pings.end();
    one.tunnel.control = None;
    one.apply();
    assert!(!std::path::Path::new(&format!("/var/run/wireguard/{name}.sock")).exists());
}

#[test]
fn what_cannot_be_had_is_refused_with_the_reason() {
    let underlay = Underlay::new(1500);
    let one = Node::new(&underlay, 1, &[2]);
    let refused = |network: EncryptedNetwork| {
        let error =
            one.call(|client, _| async move { client.put_encrypted("other", network).await.unwrap_err() });
        assert!(matches!(error, Error::Refused { .. }));
        error.to_string()
    };
    let other = EncryptedNetwork {
        vni: 4098,
        device: "vxlan1".to_owned(),
        ..one.network.clone()
    };
    let text = refused(EncryptedNetwork {
        mtu: 1371,
        ..other.clone()
    });
    assert!(text.contains("have at most 1370"), "{text}");
    let text = refused(EncryptedNetwork {
        vni: VNI,
        ..other.clone()
    });
    assert!(text.contains("is that of net"), "{text}");
    let text = refused(EncryptedNetwork {
        vni: 1 << 24,
        ..other.clone()
    });
    assert!(text.contains("16777216 is no"), "{text}");
    let text = refused(EncryptedNetwork {
        netns: "/nonexistent".into(),
        ..other.clone()
    });
    assert!(text.contains("/nonexistent cannot be opened"), "{text}");
    // A port that is another's: what was there goes on.
    let taken = one.ns.enter(|| UdpSocket::bind("0.0.0.0:40000").unwrap());
    let mut tunnel = one.tunnel.clone();
    tunnel.listen_port = 40_000;
    let error = one.call(|client, _| async move { client.put_tunnel(tunnel).await.unwrap_err().to_string() });
    assert!(error.contains("UDP port 40000"), "{error}");
    drop(taken);
    let two = Node::new(&underlay, 2, &[1]);
    ping_full(&two.container, 1, 1000);
    // Without a tunnel there are no networks.
    one.call(|client, _| async move {
        client.remove_tunnel().await.unwrap();
        client.remove_encrypted("net").await.unwrap();
        assert!(client.state().await.unwrap().tunnel.is_none());
    });
    assert!(refused(other).contains("there is no tunnel"));
}

#[test]
fn a_network_goes_with_its_namespace() {
    let underlay = Underlay::new(1500);
    let mut one = Node::new(&underlay, 1, &[2]);
    assert!(text_of("ip", &["-n", &one.hidden.name, "link"]).contains(DEVICE));
    one.hidden = Namespace::new();
    let known = || one.call(|client, _| async move { client.state().await.unwrap().encrypted.len() });
    eventually("netd has let it go", || known() == 0);
}
