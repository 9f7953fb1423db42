//! Published ports in all their forms: from where they are reached, conflicts, ranges, both address families.
mod host;

use std::path::Path;

use host::{
    Fleet, Host, Server, ask, eventually, inside, pings, run_inside,
    specs::{bridge, network, on, port, sandbox, server_at, tcp, with_ipv6},
};
use pontoon_net::{PortMapping, Protocol};

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_lead_to_the_container_from_everywhere() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let own = host.sandbox("aaa", "bridge", None).await;
    host.sandbox("bbb", "bridge", None).await;
    host.net()
        .create_network(bridge("othernetwork1", "10.61.0.0/24"))
        .await
        .expect("a network");
    host.sandbox("ccc", "othernetwork1", None).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let ports = [
        tcp("0.0.0.0", Some(8080), 80),
        tcp("10.99.0.1", Some(8081), 80),
        tcp("0.0.0.0", None, 80),
    ];
    let published = host.net().publish("aaa", &ports).await.expect("ports are free");
    assert!(published[2].host_port.is_some_and(|p| p >= 32768));
    let name =
        |ns: &std::path::Path, target: &str| ask(ns, target).map(|(name, _)| name).map_err(|e| e.kind());
    let web = Ok("web".to_owned());
    assert_eq!(name(&fleet.switch.path, "10.99.0.1:8080"), web, "from outside");
    let (_, seen) = ask(&fleet.switch.path, "10.99.0.1:8081").expect("host address");
    assert_eq!(seen, "10.99.0.254", "the client's address is kept");
    assert_eq!(
        name(&host.ns.path, "10.99.0.1:8080"),
        web,
        "from the host by its address"
    );
    assert_eq!(
        name(&host.ns.path, "127.0.0.1:8080"),
        web,
        "from the host by loopback"
    );
    assert_eq!(
        name(&host.netns("aaa"), "10.99.0.1:8080"),
        web,
        "hairpin to itself"
    );
    assert_eq!(
        name(&host.netns("bbb"), "10.99.0.1:8080"),
        web,
        "neighbour through the host"
    );
    assert_eq!(
        name(&host.netns("ccc"), "10.99.0.1:8080"),
        web,
        "other bridge through the host"
    );
    assert!(
        name(&host.ns.path, "127.0.0.1:8081").is_err(),
        "published on one address only"
    );
    assert!(!pings(&fleet.switch.path, &own.to_string()));
    fleet.switch.ip("route add 172.16.0.0/12 via 10.99.0.1");
    assert!(
        name(&fleet.switch.path, &format!("{own}:80")).is_err(),
        "no way round the published port"
    );
    let rules = run_inside(&host.ns.path, "nft list table ip pontoon");
    assert!(rules.contains("tcp . 8080"), "{rules}");
    host.net().remove_sandbox("aaa").await.expect("removal");
    assert!(name(&fleet.switch.path, "10.99.0.1:8080").is_err());
    let rules = run_inside(&host.ns.path, "nft list table ip pontoon");
    assert!(!rules.contains("8080"), "{rules}");
}

#[tokio::test(flavor = "multi_thread")]
async fn port_conflicts_have_dockers_words_and_leave_nothing() {
    let host = Host::alone();
    host.sandbox("aaa", "bridge", None).await;
    host.sandbox("bbb", "bridge", None).await;
    host.net()
        .publish("aaa", &[tcp("0.0.0.0", Some(8080), 80)])
        .await
        .expect("free");
    let error = host
        .net()
        .publish(
            "bbb",
            &[tcp("0.0.0.0", Some(9090), 80), tcp("127.0.0.1", Some(8080), 80)],
        )
        .await;
    assert_eq!(
        error.expect_err("taken").to_string(),
        "Bind for 127.0.0.1:8080 failed: port is already allocated"
    );
    let other = inside(&host.ns.path, || std::net::TcpListener::bind("0.0.0.0:7070")).expect("free");
    let error = host
        .net()
        .publish(
            "bbb",
            &[tcp("0.0.0.0", Some(9090), 80), tcp("0.0.0.0", Some(7070), 80)],
        )
        .await;
    let text = error.expect_err("in use").to_string();
    let bbb = host
        .net()
        .inspect_sandbox("bbb")
        .await
        .expect("it is there")
        .endpoints[0]
        .ip();
    let bbb = bbb.expect("an address");
    assert_eq!(
        text,
        format!("failed to bind host port for 0.0.0.0:7070:{bbb}:80/tcp: address already in use")
    );
    let error = host
        .net()
        .publish("bbb", &[tcp("10.1.2.3", Some(7070), 80)])
        .await;
    let text = error.expect_err("not ours").to_string();
    assert_eq!(
        text,
        format!("failed to bind host port for 10.1.2.3:7070:{bbb}:80/tcp: cannot assign requested address")
    );
    let bound = inside(&host.ns.path, || std::net::TcpListener::bind("0.0.0.0:8080"));
    assert_eq!(bound.expect_err("reserved").kind(), std::io::ErrorKind::AddrInUse);
    drop(other);
    // A process that another test has just forked holds a copy until it runs its own program.
    eventually("the port is free again", || {
        inside(&host.ns.path, || std::net::TcpListener::bind("0.0.0.0:7070")).is_ok()
    });
    host.net()
        .publish(
            "bbb",
            &[tcp("0.0.0.0", Some(7070), 80), tcp("0.0.0.0", Some(9090), 80)],
        )
        .await
        .expect("free");
    host.net().remove_sandbox("aaa").await.expect("removal");
    host.net()
        .publish("bbb", &[tcp("0.0.0.0", Some(8080), 80)])
        .await
        .expect("free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_work_where_bridged_frames_pass_the_firewall() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    inside(&host.ns.path, || {
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1")
    })
    .expect("br_netfilter");
    host.sandbox("aaa", "bridge", None).await;
    let neighbour = host.sandbox("bbb", "bridge", None).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    host.net()
        .publish("aaa", &[tcp("0.0.0.0", Some(8080), 80)])
        .await
        .expect("free");
    for ns in [
        fleet.switch.path.clone(),
        host.ns.path.clone(),
        host.netns("aaa"),
        host.netns("bbb"),
    ] {
        assert!(ask(&ns, "10.99.0.1:8080").is_ok(), "{}", ns.display());
    }
    assert!(pings(&host.netns("aaa"), &neighbour.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_of_both_families() {
    let fleet = Fleet::new(1);
    with_ipv6(&fleet);
    let host = &fleet.hosts[0];
    let spec = network("dualnetwork1", &["10.70.0.0/24", "fd70::/64"], &[]);
    host.net().create_network(spec).await.expect("a network");
    sandbox(host, "aaa", on("dualnetwork1")).await;
    sandbox(host, "bbb", on("bridge")).await;
    let _web = server_at(&host.netns("aaa"), "[::]:80", "web");
    let _old = Server::start(&host.netns("bbb"), 80, "old");
    let ports = [
        port("", Some(8080), Protocol::Tcp),
        port("::1", Some(8081), Protocol::Tcp),
    ];
    let published = host.net().publish("aaa", &ports).await.expect("free");
    let shown: Vec<_> = published
        .iter()
        .filter_map(|p| p.host_ip)
        .map(|ip| ip.to_string())
        .collect();
    assert_eq!(shown, ["0.0.0.0", "::", "::1"]);
    let one = host
        .net()
        .publish("bbb", &[port("", None, Protocol::Tcp)])
        .await
        .expect("free");
    assert_eq!(one[0].host_port, one[1].host_port, "the same for both families");
    let any = one[0].host_port.expect("chosen");
    let name = |ns: &Path, target: &str| ask(ns, target).map(|(name, _)| name).map_err(|e| e.kind());
    for target in ["10.99.0.1:8080", "[fd99::1]:8080"] {
        assert_eq!(name(&fleet.switch.path, target), Ok("web".into()), "{target}");
    }
    let (_, seen) = ask(&fleet.switch.path, "[fd99::1]:8080").expect("published");
    assert_eq!(seen, "fd99::254", "the client's address is kept");
    for target in ["127.0.0.1:8080", "[::1]:8080", "[fd99::1]:8080", "[::1]:8081"] {
        assert_eq!(
            name(&host.ns.path, target),
            Ok("web".into()),
            "from the host: {target}"
        );
    }
    assert!(
        name(&fleet.switch.path, "[fd99::1]:8081").is_err(),
        "loopback only"
    );
    assert_eq!(
        name(&host.netns("aaa"), "[fd99::1]:8080"),
        Ok("web".into()),
        "hairpin"
    );
    let target = format!("[fd99::1]:{any}");
    assert_eq!(
        name(&fleet.switch.path, &target),
        Ok("old".into()),
        "IPv6 to a container without"
    );
    fleet.switch.ip("route add 10.70.0.0/24 via 10.99.0.1");
    fleet.switch.ip("-6 route add fd70::/64 via fd99::1");
    assert!(name(&fleet.switch.path, "[fd70::2]:80").is_err(), "no way round");
    let taken = inside(&host.ns.path, || std::net::TcpListener::bind("[::]:8080"));
    assert_eq!(taken.expect_err("reserved").kind(), std::io::ErrorKind::AddrInUse);
    host.net().remove_sandbox("aaa").await.expect("removal");
    assert!(name(&host.ns.path, "[::1]:8080").is_err());
    inside(&host.ns.path, || std::net::TcpListener::bind("[::]:8080")).expect("free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_sctp_and_a_default_address() {
    let mut fleet = Fleet::new(1);
    let mut config = fleet.hosts[0].config();
    config.host_binding = "127.0.0.1".parse().ok();
    fleet.hosts[0].reopen(config);
    let host = &fleet.hosts[0];
    sandbox(host, "aaa", on("bridge")).await;
    let _busy = Server::start(&host.ns.path, 8000, "busy");
    let range = PortMapping {
        host_port_end: 8002,
        ..port("0.0.0.0", Some(8000), Protocol::Tcp)
    };
    let net = host.net();
    let publish = async |mapping: &PortMapping| net.publish("aaa", std::slice::from_ref(mapping)).await;
    for wanted in [8001, 8002] {
        let got = publish(&range).await.expect("one is free");
        assert_eq!(got[0].host_port, Some(wanted));
    }
    let error = publish(&range).await.expect_err("all taken").to_string();
    assert!(error.contains("address already in use"), "{error}");
    let by_default = publish(&port("", Some(8080), Protocol::Tcp)).await.expect("free");
    assert_eq!(by_default.len(), 1);
    assert_eq!(by_default[0].host_ip, "127.0.0.1".parse().ok());
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    assert!(ask(&host.ns.path, "127.0.0.1:8080").is_ok());
    assert!(ask(&fleet.switch.path, "10.99.0.1:8080").is_err());
    // Also where the administrator opened loopback to the link.
    run_inside(&host.ns.path, "sysctl -qw net.ipv4.conf.all.route_localnet=1");
    run_inside(
        &fleet.switch.path,
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
    );
    run_inside(&fleet.switch.path, "ip addr del 127.0.0.1/8 dev lo");
    run_inside(
        &fleet.switch.path,
        "ip route add 127.0.0.1/32 via 10.99.0.1 src 10.99.0.254",
    );
    assert!(
        ask(&fleet.switch.path, "127.0.0.1:8080").is_err(),
        "loopback is not for neighbours"
    );
    let sctp = publish(&port("0.0.0.0", Some(9000), Protocol::Sctp))
        .await
        .expect("free");
    assert_eq!(sctp[0].host_port, Some(9000));
    let rules = run_inside(&host.ns.path, "nft list table ip pontoon");
    assert!(rules.contains("sctp . 9000"), "{rules}");
    println!("SCTP: the rule is there; no packets are sent, as the tests have no SCTP sockets");
    net.remove_sandbox("aaa").await.expect("removal");
    assert!(!run_inside(&host.ns.path, "nft list table ip pontoon").contains("9000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_reach_containers_over_ipv6_too() {
    let fleet = Fleet::new(1);
    with_ipv6(&fleet);
    let host = &fleet.hosts[0];
    sandbox(host, "aaa", on("bridge")).await;
    let echo = inside(&host.netns("aaa"), || std::net::UdpSocket::bind("0.0.0.0:80")).expect("free");
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    host.net()
        .publish("aaa", &[port("", Some(5353), Protocol::Udp)])
        .await
        .expect("free");
    for (own, target) in [("0.0.0.0:0", "10.99.0.1:5353"), ("[::]:0", "[fd99::1]:5353")] {
        let answer = inside(&fleet.switch.path, move || -> std::io::Result<usize> {
            let socket = std::net::UdpSocket::bind(own)?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            socket.send_to(b"hello", target)?;
            socket.recv(&mut [0; 100])
        });
        assert_eq!(answer.expect(target), 5);
    }
}
