//! Overlay networks between hosts on a switch: frames, isolation, virtual addresses, the routing mesh.
mod host;

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    net::IpAddr,
    process::{Child, Command, Stdio},
};

use host::{Fleet, Host, Server, ask, connect, eventually, line, overlay, pings, run_inside};
use pontoon_net::{
    EndpointSpec, Error, IngressPort, IngressState, OverlayState, Protocol, SandboxMode, SandboxSpec,
    ServiceRecord,
};

const ID: &str = "overlaynetwork1aaaaaaaaaa";

fn service(name: &str, vip: Option<&str>, backends: &[&str]) -> ServiceRecord {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    ServiceRecord {
        name: name.into(),
        aliases: Vec::new(),
        vip: vip.map(address),
        backends: backends.iter().map(|b| address(b)).collect(),
    }
}

/// Gives the same state to all hosts.
async fn tell(fleet: &Fleet, state: impl Fn(IpAddr) -> OverlayState) {
    for host in &fleet.hosts {
        host.net()
            .set_overlay(state(host.address))
            .await
            .expect("the state is taken");
    }
}

/// tcpdump on the switch, writing one line per packet.
struct Capture {
    child: Child,
    file: std::path::PathBuf,
}

impl Capture {
    fn start(fleet: &Fleet, filter: &str) -> Self {
        let file = fleet.hosts[0].dir.path().join("capture");
        let out = std::fs::File::create(&file).expect("a file");
        let child = Command::new("nsenter")
            .arg(format!("--net={}", fleet.switch.path.display()))
            .args(["tcpdump", "-l", "-n", "-e", "-i", "br0", filter])
            .stdout(out)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump is there");
        let mut capture = Self { child, file };
        // It says so when it listens.
        let mut errors = capture.child.stderr.take().expect("it is piped");
        let mut text = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&text).contains("listening on") {
            assert_eq!(
                std::io::Read::read(&mut errors, &mut byte).expect("tcpdump speaks"),
                1
            );
            text.push(byte[0]);
        }
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        capture
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).expect("a file")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_cross_hosts_without_flooding() {
    let fleet = Fleet::new(3);
    let [a, b, c] = [0, 1, 2].map(|n| &fleet.hosts[n]);
    let peers = [
        ("10.0.1.3", a.address),
        ("10.0.1.4", b.address),
        ("10.0.1.5", a.address),
    ];
    tell(&fleet, |local| overlay(ID, 4096, "10.0.1.0/24", local, &peers)).await;
    a.sandbox("aaa", ID, Some("10.0.1.3")).await;
    b.sandbox("bbb", ID, Some("10.0.1.4")).await;
    a.sandbox("ccc", ID, Some("10.0.1.5")).await;
    let capture = Capture::start(&fleet, "udp port 4789");
    assert!(pings(&a.netns("aaa"), "10.0.1.4"));
    assert!(pings(&b.netns("bbb"), "10.0.1.5"));
    assert!(pings(&a.netns("aaa"), "10.0.1.5"), "on the same host");
    let _server = Server::start(&b.netns("bbb"), 80, "bbb");
    assert_eq!(
        ask(&a.netns("aaa"), "10.0.1.4:80").expect("TCP"),
        ("bbb".into(), "10.0.1.3".into())
    );
    eventually("packets are seen", || capture.text().contains("ICMP echo reply"));
    // An address that nobody has: the question stays on the node.
    assert!(!pings(&a.netns("aaa"), "10.0.1.99"));
    run_inside(&a.netns("aaa"), "busybox arping -c 1 -w 1 -I eth0 10.0.1.4");
    let text = capture.text();
    assert!(text.contains("vni 4096"), "{text}");
    assert!(
        !text.contains("ff:ff:ff:ff:ff:ff") && !text.contains("ARP"),
        "{text}"
    );
    assert!(
        !text.contains(&c.address.to_string()),
        "the third host is left alone: {text}"
    );
    let link = run_inside(&a.netns("aaa"), "ip link show eth0");
    assert!(
        link.contains("mtu 1450") && link.contains("02:42:0a:00:01:03"),
        "{link}"
    );
    assert!(
        pings(&a.netns("aaa"), "10.99.0.254"),
        "egress through the gateway bridge"
    );
    let gateway = run_inside(&a.netns("ccc"), "ip -o -4 addr show eth1");
    let gateway = gateway
        .split_whitespace()
        .nth(3)
        .and_then(|a| a.split('/').next())
        .expect("an address");
    assert!(
        !pings(&a.netns("aaa"), gateway),
        "no traffic between containers over the gateway bridge"
    );
    // A peer that moves and one that goes.
    let peers = [("10.0.1.3", a.address), ("10.0.1.4", c.address)];
    c.net()
        .set_overlay(overlay(ID, 4096, "10.0.1.0/24", c.address, &peers))
        .await
        .expect("state");
    b.net().remove_sandbox("bbb").await.expect("removal");
    c.sandbox("bbb2", ID, Some("10.0.1.4")).await;
    tell(&fleet, |local| overlay(ID, 4096, "10.0.1.0/24", local, &peers)).await;
    assert!(
        pings(&a.netns("aaa"), "10.0.1.4"),
        "it answers from the third host"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_with_one_subnet_are_apart() {
    let fleet = Fleet::new(2);
    let [a, b] = [0, 1].map(|n| &fleet.hosts[n]);
    let peers = [("10.0.1.3", a.address), ("10.0.1.4", b.address)];
    let other = "othernetwork2bbbbbbbbbbbb";
    let only = [("10.0.1.3", a.address)];
    tell(&fleet, |local| overlay(ID, 4096, "10.0.1.0/24", local, &peers)).await;
    tell(&fleet, |local| overlay(other, 4097, "10.0.1.0/24", local, &only)).await;
    a.sandbox("aaa", ID, Some("10.0.1.3")).await;
    b.sandbox("bbb", ID, Some("10.0.1.4")).await;
    a.sandbox("xxx", other, Some("10.0.1.3")).await;
    assert!(pings(&a.netns("aaa"), "10.0.1.4"));
    assert!(!pings(&a.netns("xxx"), "10.0.1.4"));
    let spec = EndpointSpec {
        network_id: other.into(),
        ..EndpointSpec::default()
    };
    b.net()
        .create_sandbox(SandboxSpec::new("yyy", SandboxMode::Managed))
        .await
        .expect("a sandbox");
    let error = b.net().attach("yyy", spec).await;
    assert!(
        matches!(error, Err(Error::Invalid { .. })),
        "an address is needed: {error:?}"
    );
    let mut inner = overlay("internalnetwork3cccccccc", 4098, "10.0.3.0/24", a.address, &[]);
    inner.network.internal = true;
    a.net().set_overlay(inner).await.expect("state");
    a.sandbox("zzz", "internalnetwork3cccccccc", Some("10.0.3.3"))
        .await;
    assert_eq!(
        run_inside(&a.netns("zzz"), "ip -o link").lines().count(),
        2,
        "no egress on an internal network"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one linear sequence")]
async fn virtual_addresses_balance_and_follow_the_backends() {
    let fleet = Fleet::new(3);
    let hosts: Vec<&Host> = fleet.hosts.iter().collect();
    let peers = [
        ("10.0.1.3", hosts[0].address),
        ("10.0.1.4", hosts[1].address),
        ("10.0.1.5", hosts[2].address),
        ("10.0.1.9", hosts[0].address),
    ];
    let state = |local, services: &[ServiceRecord]| {
        let mut state = overlay(ID, 4096, "10.0.1.0/24", local, &peers);
        state.services = services.to_vec();
        state
    };
    let three = [service(
        "web",
        Some("10.0.1.2"),
        &["10.0.1.3", "10.0.1.4", "10.0.1.5"],
    )];
    tell(&fleet, |local| state(local, &three)).await;
    let mut servers = Vec::new();
    for (host, (id, ip)) in hosts
        .iter()
        .zip([("t1", "10.0.1.3"), ("t2", "10.0.1.4"), ("t3", "10.0.1.5")])
    {
        host.sandbox(id, ID, Some(ip)).await;
        servers.push(Server::start(&host.netns(id), 80, id));
    }
    hosts[0].sandbox("client", ID, Some("10.0.1.9")).await;
    let client = hosts[0].netns("client");
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..90 {
        let (name, peer) = ask(&client, "10.0.1.2:80").expect("the service answers");
        assert_eq!(peer, "10.0.1.9", "the client's address is kept");
        *counts.entry(name).or_default() += 1;
    }
    assert!(
        counts.len() == 3 && counts.values().all(|n| *n > 10),
        "{counts:?}"
    );
    for _ in 0..5 {
        assert!(
            ask(&hosts[0].netns("t1"), "10.0.1.2:80").is_ok(),
            "a backend reaches its own service"
        );
    }
    // One connection to each of two backends; one backend goes.
    let mut open = BTreeMap::new();
    while open.len() < 3 {
        let mut stream = connect(&client, "10.0.1.2:80").expect("the service answers");
        let name = line(&mut stream)
            .expect("a line")
            .split(' ')
            .next()
            .expect("a name")
            .to_owned();
        open.insert(name, stream);
    }
    let two = [service("web", Some("10.0.1.2"), &["10.0.1.3", "10.0.1.5"])];
    tell(&fleet, |local| state(local, &two)).await;
    for (name, stream) in &mut open {
        stream.write_all(b"ping\n").expect("it is sent");
        let answer = line(stream);
        assert_eq!(answer.is_ok_and(|text| text == "ping"), name != "t2", "{name}");
    }
    for _ in 0..20 {
        assert_ne!(ask(&client, "10.0.1.2:80").expect("others answer").0, "t2");
    }
    let rules = run_inside(&client, "nft list table ip pontoon");
    assert!(
        rules.contains("numgen random mod 16") && rules.contains("10.0.1.2"),
        "{rules}"
    );
    tell(&fleet, |local| {
        state(local, &[service("web", Some("10.0.1.2"), &[])])
    })
    .await;
    let refused = ask(&client, "10.0.1.2:80").expect_err("there is no backend");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // The table is flushed by someone, and comes back with the next change.
    run_inside(&client, "nft flush ruleset");
    tell(&fleet, |local| state(local, &three)).await;
    assert!(ask(&client, "10.0.1.2:80").is_ok());
    let names = hosts[0].net().names(ID).await.expect("names");
    assert_eq!(names["web"], ["10.0.1.2".parse::<IpAddr>().expect("an address")]);
    assert_eq!(names["tasks.web"].len(), 3);
    assert!(names.contains_key("name-client") && names.contains_key("client"));
    tell(&fleet, |local| state(local, &[])).await;
    assert!(!run_inside(&client, "nft list table ip pontoon").contains("10.0.1.2"));
}

fn mesh(host: &Host, number: usize, ports: &[(u16, &[&str])]) -> IngressState {
    let port = |(published, backends): &(u16, &[&str])| IngressPort {
        protocol: Protocol::Tcp,
        published: *published,
        target: 80,
        backends: backends.iter().map(|b| b.parse().expect("an address")).collect(),
    };
    let _ = host;
    IngressState {
        network_id: ID.into(),
        node_address: format!("10.0.1.{}/24", 100 + number).parse().expect("an address"),
        ports: ports.iter().map(port).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one linear sequence")]
async fn the_mesh_serves_on_all_nodes() {
    let mut fleet = Fleet::new(3);
    let addresses: Vec<IpAddr> = fleet.hosts.iter().map(|h| h.address).collect();
    let peers = [
        ("10.0.1.3", addresses[0]),
        ("10.0.1.4", addresses[1]),
        ("10.0.1.100", addresses[0]),
        ("10.0.1.101", addresses[1]),
        ("10.0.1.102", addresses[2]),
    ];
    tell(&fleet, |local| overlay(ID, 4096, "10.0.1.0/24", local, &peers)).await;
    let mut servers = Vec::new();
    for (host, (id, ip)) in fleet.hosts.iter().zip([("t1", "10.0.1.3"), ("t2", "10.0.1.4")]) {
        host.sandbox(id, ID, Some(ip)).await;
        servers.push(Server::start(&host.netns(id), 80, id));
    }
    // A service of the third host has one of the ports already.
    let _busy = Server::start(&fleet.hosts[2].ns.path, 9999, "busy");
    let both: &[&str] = &["10.0.1.3", "10.0.1.4"];
    let ports: &[(u16, &[&str])] = &[(8080, both), (9999, both), (7070, &[])];
    for (number, host) in fleet.hosts.iter().enumerate() {
        let conflicts = host
            .net()
            .set_ingress(mesh(host, number, ports))
            .await
            .expect("the mesh is made");
        let texts: Vec<_> = conflicts.iter().map(|c| c.error.to_string()).collect();
        match number {
            2 => assert_eq!(
                texts,
                ["failed to bind host port for 0.0.0.0:9999/tcp: address already in use"]
            ),
            _ => assert!(texts.is_empty(), "{texts:?}"),
        }
    }
    for host in &fleet.hosts {
        let mut seen = HashSet::new();
        for _ in 0..30 {
            seen.insert(
                ask(&fleet.switch.path, &format!("{}:8080", host.address))
                    .expect("from outside")
                    .0,
            );
        }
        assert_eq!(seen.len(), 2, "both tasks through {}", host.address);
        let refused = ask(&fleet.switch.path, &format!("{}:7070", host.address)).expect_err("no backend");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        for target in ["127.0.0.1".to_owned(), host.address.to_string()] {
            assert!(
                ask(&host.ns.path, &format!("{target}:8080")).is_ok(),
                "from the node by {target}"
            );
        }
    }
    assert_eq!(
        ask(&fleet.switch.path, &format!("{}:9999", addresses[2]))
            .expect("its own")
            .0,
        "busy"
    );
    let taken = fleet.hosts[0].sandbox("bridged", "bridge", None).await;
    assert!(taken.is_ipv4());
    let mapping = pontoon_net::PortMapping {
        host_ip: Some(IpAddr::from([0, 0, 0, 0])),
        host_port_end: 0,
        host_port: Some(8080),
        container_port: 80,
        protocol: Protocol::Tcp,
    };
    let error = fleet.hosts[0]
        .net()
        .publish("bridged", &[mapping])
        .await
        .expect_err("the mesh has it");
    assert!(matches!(error, Error::PortAllocated { .. }), "{error:?}");
    // A killed daemon: the mesh goes on, and the next one knows it.
    let host = &mut fleet.hosts[2];
    let config = host.config();
    host.reopen(config);
    assert!(ask(&fleet.switch.path, &format!("{}:8080", addresses[2])).is_ok());
    let one: &[(u16, &[&str])] = &[(8080, &["10.0.1.4"])];
    let host = &fleet.hosts[2];
    host.net()
        .set_ingress(mesh(host, 2, one))
        .await
        .expect("a change");
    for _ in 0..10 {
        assert_eq!(
            ask(&fleet.switch.path, &format!("{}:8080", addresses[2]))
                .expect("served")
                .0,
            "t2"
        );
    }
    host.net().remove_ingress().await.expect("left");
    assert!(ask(&fleet.switch.path, &format!("{}:8080", addresses[2])).is_err());
    assert!(!run_inside(&host.ns.path, "ip -o link").contains("pontoon_mesh"));
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one linear sequence")]
async fn a_restarted_daemon_goes_on_with_its_overlays() {
    let mut fleet = Fleet::new(2);
    let addresses: Vec<IpAddr> = fleet.hosts.iter().map(|h| h.address).collect();
    let before = fleet.hosts[0].inventory();
    let peers = [
        ("10.0.1.3", addresses[0]),
        ("10.0.1.4", addresses[1]),
        ("10.0.1.6", addresses[1]),
    ];
    let state = |local| {
        let mut state = overlay(ID, 4096, "10.0.1.0/24", local, &peers);
        state.services = vec![service("web", Some("10.0.1.2"), &["10.0.1.4"])];
        state
    };
    tell(&fleet, state).await;
    fleet.hosts[0].sandbox("aaa", ID, Some("10.0.1.3")).await;
    fleet.hosts[1].sandbox("bbb", ID, Some("10.0.1.4")).await;
    let _server = Server::start(&fleet.hosts[1].netns("bbb"), 80, "bbb");
    let client = fleet.hosts[0].netns("aaa");
    assert!(ask(&client, "10.0.1.2:80").is_ok());
    let mut second = overlay(
        "secondnetwork2bbbbbbbbbbb",
        4097,
        "10.0.2.0/24",
        addresses[0],
        &[],
    );
    second.services = vec![service("two", Some("10.0.2.2"), &["10.0.2.3"])];
    fleet.hosts[0].net().set_overlay(second).await.expect("state");
    fleet.hosts[0]
        .attach("aaa", "secondnetwork2bbbbbbbbbbb", Some("10.0.2.3"))
        .await;
    let config = fleet.hosts[0].config();
    fleet.hosts[0].reopen(config);
    let host = &fleet.hosts[0];
    let errors = host.net().reconcile(&HashSet::from(["aaa".to_owned()])).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert!(
        ask(&client, "10.0.1.2:80").is_ok(),
        "before the cluster's state arrives"
    );
    // 10.0.1.6 went away meanwhile; the rest is the same.
    let peers = [("10.0.1.3", addresses[0]), ("10.0.1.4", addresses[1])];
    let mut now = state(addresses[0]);
    now.peers = overlay(ID, 4096, "10.0.1.0/24", addresses[0], &peers).peers;
    now.services
        .push(service("more", Some("10.0.1.20"), &["10.0.1.4"]));
    host.net().set_overlay(now).await.expect("state");
    assert!(ask(&client, "10.0.1.2:80").is_ok());
    assert!(ask(&client, "10.0.1.20:80").is_ok());
    let own = Server::start(&client, 80, "own");
    assert!(
        ask(&client, "10.0.2.2:80").is_ok(),
        "the other network's services were not touched"
    );
    drop(own);
    let hidden = host.netns(&format!("ov-{}", &ID[..12]));
    assert!(
        !run_inside(&hidden, "ip neigh show dev br0").contains("10.0.1.6"),
        "stale neighbours are gone"
    );
    let spec = EndpointSpec {
        network_id: ID.into(),
        ip: Some(IpAddr::from([10, 0, 1, 7])),
        is_default_route: true,
        ..EndpointSpec::default()
    };
    host.net()
        .create_sandbox(SandboxSpec::new("ccc", SandboxMode::Managed))
        .await
        .expect("a sandbox");
    host.net().attach("ccc", spec).await.expect("an endpoint");
    assert!(pings(&host.netns("ccc"), "10.0.1.3"));
    let busy = host.net().remove_overlay(ID).await.expect_err("it has endpoints");
    assert!(matches!(busy.0[0], Error::NetworkInUse { .. }));
    host.net().detach("ccc", ID).await.expect("detach");
    assert_eq!(
        run_inside(&host.netns("ccc"), "ip -o link").lines().count(),
        1,
        "egress goes with it"
    );
    host.net().shutdown_all().await.expect("nothing in the way");
    let after = host.inventory();
    assert_eq!(after, before);
    host.net()
        .set_overlay(state(addresses[0]))
        .await
        .expect("the vxlan port is free at once");
    host.net().shutdown_all().await.expect("nothing in the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures() {
    let fleet = Fleet::new(2);
    let host = &fleet.hosts[0];
    let address = host.address;
    let state = |backends: &[&str]| {
        let peers: Vec<(String, IpAddr)> = (10..110)
            .map(|n| (format!("10.0.1.{n}"), fleet.hosts[1].address))
            .collect();
        let peers: Vec<(&str, IpAddr)> = peers.iter().map(|(ip, vtep)| (ip.as_str(), *vtep)).collect();
        let mut state = overlay(ID, 4096, "10.0.1.0/24", address, &peers);
        state.services = vec![service("web", Some("10.0.1.2"), backends)];
        state
    };
    host.net()
        .set_overlay(state(&["10.0.1.10", "10.0.1.11"]))
        .await
        .expect("state");
    let (mut made, mut attached) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let id = format!("s{n}");
        let start = std::time::Instant::now();
        host.net()
            .create_sandbox(SandboxSpec::new(&id, SandboxMode::Managed))
            .await
            .expect("a sandbox");
        made.push(start.elapsed());
        let start = std::time::Instant::now();
        host.attach(&id, ID, Some(&format!("10.0.1.{}", 200 + n))).await;
        attached.push(start.elapsed());
    }
    made.sort();
    attached.sort();
    println!(
        "namespace {:?}, attach with egress and VIP {:?} (medians of 20)",
        made[10], attached[10]
    );
    for n in 1..20 {
        host.net()
            .remove_sandbox(&format!("s{n}"))
            .await
            .expect("removal");
    }
    let mut changed = Vec::new();
    for n in 0..20 {
        let backends = if n % 2 == 0 {
            ["10.0.1.10", "10.0.1.12"]
        } else {
            ["10.0.1.10", "10.0.1.11"]
        };
        let next = state(&backends);
        let start = std::time::Instant::now();
        host.net().set_overlay(next).await.expect("state");
        changed.push(start.elapsed());
    }
    changed.sort();
    println!(
        "set_overlay, 100 peers, one of 2 backends replaced, one sandbox: {:?}",
        changed[10]
    );
}
