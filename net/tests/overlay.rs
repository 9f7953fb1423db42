//! Overlay networks between hosts on a switch: frames, isolation, restarts, figures.
mod host;

use std::{
    collections::HashSet,
    net::IpAddr,
    process::{Child, Command, Stdio},
};

use host::{
    Fleet, Server, ask,
    cluster::{ID, service, tell},
    eventually, overlay, pings, run_inside,
};
use pontoon_net::{EndpointSpec, Error, SandboxMode, SandboxSpec};

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
async fn packets_are_as_large_as_the_way_lets_them_be() {
    let fleet = Fleet::new(1);
    let a = &fleet.hosts[0];
    let with_mtu = |mtu: &str| {
        let mut state = overlay(ID, 4096, "10.0.1.0/24", a.address, &[]);
        let option = "com.docker.network.driver.mtu".to_owned();
        state.network.options.insert(option, mtu.to_owned());
        state
    };
    let error = a.net().set_overlay(with_mtu("1451")).await.unwrap_err();
    assert!(error.to_string().contains("ask for 1450 or less"), "{error}");
    // Who needs it is told why it is not there.
    let missing = a.net().inspect_network(ID).await.unwrap_err();
    assert!(matches!(missing, Error::NotProgrammed { .. }), "{missing}");
    assert!(missing.to_string().contains("ask for 1450 or less"), "{missing}");
    a.net().set_overlay(with_mtu("1400")).await.expect("it fits");
    assert!(a.net().inspect_network(ID).await.is_ok());
    a.sandbox("aaa", ID, Some("10.0.1.3")).await;
    let link = run_inside(&a.netns("aaa"), "ip link show eth0");
    assert!(link.contains("mtu 1400"), "{link}");
    a.net().remove_sandbox("aaa").await.expect("it goes");
    a.net().remove_overlay(ID).await.expect("it goes");
    let error = a.net().set_overlay(with_mtu("9000")).await.unwrap_err();
    a.net()
        .remove_overlay(ID)
        .await
        .expect("there is nothing to remove");
    let missing = a.net().inspect_network(ID).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing} after {error}");
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
