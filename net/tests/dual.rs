//! Both address families, routed and isolated bridges, default routes, published ports in all their forms, with real packets.
mod host;

use std::{net::IpAddr, path::Path};

use host::{Fleet, Host, Server, ask, eventually, inside, pings, run_inside};
use pontoon_net::{
    EndpointSpec, Error, IpamConfig, NetworkSpec, PortMapping, Protocol, SandboxMode, SandboxSpec,
};

fn network(id: &str, subnets: &[&str], options: &[(&str, &str)]) -> NetworkSpec {
    let mut spec = NetworkSpec::bridge(id, format!("net-{id}"));
    spec.ipam = subnets
        .iter()
        .map(|subnet| IpamConfig {
            subnet: Some(subnet.parse().expect("a subnet")),
            ..IpamConfig::default()
        })
        .collect();
    spec.enable_ipv6 = subnets.iter().any(|subnet| subnet.contains(':'));
    let pair = |(key, value): &(&str, &str)| (format!("com.docker.network.{key}"), (*value).to_owned());
    spec.options = options.iter().map(pair).collect();
    spec
}

fn port(host_ip: &str, host_port: Option<u16>, protocol: Protocol) -> PortMapping {
    PortMapping {
        host_ip: (!host_ip.is_empty()).then(|| host_ip.parse().expect("an address")),
        host_port,
        host_port_end: 0,
        container_port: 80,
        protocol,
    }
}

/// Gives switch and host IPv6 addresses on their link.
fn with_ipv6(fleet: &Fleet) {
    fleet.switch.ip("addr add fd99::254/64 dev br0 nodad");
    fleet.hosts[0].ns.ip("addr add fd99::1/64 dev eth0 nodad");
    fleet.hosts[0].ns.ip("-6 route add default via fd99::254");
}

async fn sandbox(host: &Host, id: &str, spec: EndpointSpec) -> [Option<IpAddr>; 2] {
    host.net()
        .create_sandbox(SandboxSpec::new(id, SandboxMode::Managed))
        .await
        .expect("a sandbox");
    let endpoint = host.net().attach(id, spec).await.expect("an endpoint");
    [endpoint.address, endpoint.address6].map(|net| net.map(|net| net.addr()))
}

fn on(network: &str) -> EndpointSpec {
    EndpointSpec {
        network_id: network.into(),
        ..EndpointSpec::default()
    }
}

fn server_at(ns: &Path, address: &'static str, name: &'static str) -> std::thread::JoinHandle<()> {
    let listener = inside(ns, move || std::net::TcpListener::bind(address)).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Ok(peer) = stream.peer_addr() else { continue };
            let _ = std::io::Write::write_all(&mut stream, format!("{name} {}\n", peer.ip()).as_bytes());
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_have_both_families() {
    let fleet = Fleet::new(1);
    with_ipv6(&fleet);
    let host = &fleet.hosts[0];
    let spec = network("dualnetwork1", &["10.70.0.0/24", "fd70::/64"], &[]);
    host.net().create_network(spec).await.expect("a network");
    let mut chosen = NetworkSpec::bridge("chosennet123", "chosen");
    chosen.enable_ipv6 = true;
    let chosen = host.net().create_network(chosen).await.expect("a network");
    let unique = chosen.spec.subnet6().expect("one was chosen").to_string();
    assert!(unique.starts_with("fd") && unique.ends_with("::/64"), "{unique}");
    let [_, a6] = sandbox(host, "aaa", on("dualnetwork1")).await;
    let a6 = a6.expect("IPv6");
    let wished = EndpointSpec {
        ip6: "fd70::77".parse().ok(),
        link_local: vec!["169.254.7.7".parse().expect("an address")],
        ..on("dualnetwork1")
    };
    let [b4, b6] = sandbox(host, "bbb", wished).await;
    assert_eq!(b6, "fd70::77".parse().ok());
    assert!(pings(&host.netns("aaa"), &b6.expect("IPv6").to_string()));
    assert!(pings(&host.netns("aaa"), &b4.expect("IPv4").to_string()));
    let addresses = run_inside(&host.netns("bbb"), "ip -o addr show eth0");
    assert!(addresses.contains("169.254.7.7/32"), "{addresses}");
    let routes = run_inside(&host.netns("aaa"), "ip -6 route");
    assert!(routes.contains("default via fd70::1"), "{routes}");
    let _outside = server_at(&fleet.switch.path, "[::]:80", "outside");
    let (_, seen) = ask(&host.netns("aaa"), "[fd99::254]:80").expect("NAT66 leads out");
    assert_eq!(seen, "fd99::1", "the host's address is seen");
    sandbox(host, "ccc", on("chosennet123")).await;
    assert!(
        !pings(&host.netns("ccc"), &a6.to_string()),
        "bridges are isolated"
    );
    let hosts = host.net().hosts("aaa").await.expect("content");
    assert!(hosts.contains("fe00::\tip6-localnet"), "{hosts}");
    host.net().shutdown_all().await.expect("nothing in the way");
    assert_eq!(run_inside(&host.ns.path, "nft list ruleset"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_alone_and_bad_wishes() {
    let host = Host::alone();
    let mut only = network("sixnetwork12", &["fd71::/64"], &[]);
    only.enable_ipv4 = false;
    host.net().create_network(only).await.expect("a network");
    let [v4, v6] = sandbox(&host, "aaa", on("sixnetwork12")).await;
    assert!(v4.is_none() && v6.is_some());
    let before = host.inventory();
    host.net()
        .create_sandbox(SandboxSpec::new("bbb", SandboxMode::Managed))
        .await
        .expect("a sandbox");
    let attach = |ip: Option<&str>, ip6: Option<&str>| EndpointSpec {
        ip: ip.and_then(|ip| ip.parse().ok()),
        ip6: ip6.and_then(|ip| ip.parse().ok()),
        ..on("sixnetwork12")
    };
    for (spec, text) in [
        (
            attach(Some("10.0.0.5"), None),
            "no configured subnet contains IP address 10.0.0.5",
        ),
        (
            attach(None, Some("fd72::5")),
            "no configured subnet contains IP address fd72::5",
        ),
        (attach(None, Some("fd71::1")), "Address already in use"),
        (
            EndpointSpec {
                options: [("com.docker.network.endpoint.what".to_owned(), "1".to_owned())].into(),
                ..on("sixnetwork12")
            },
            "is not known",
        ),
    ] {
        let error = host.net().attach("bbb", spec).await.expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
    }
    host.net().remove_sandbox("bbb").await.expect("removal");
    assert_eq!(host.inventory(), before);
    let mut none = network("nonetwork123", &[], &[]);
    none.enable_ipv4 = false;
    assert!(matches!(
        host.net().create_network(none).await,
        Err(Error::Invalid { .. })
    ));
    let twice = network("twonetwork12", &["10.71.0.0/24", "10.72.0.0/24"], &[]);
    let error = host
        .net()
        .create_network(twice)
        .await
        .expect_err("two subnets")
        .to_string();
    assert!(error.contains("doesn't support multiple subnets"), "{error}");
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

#[tokio::test(flavor = "multi_thread")]
async fn routed_and_isolated_bridges() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let routed = [("bridge.gateway_mode_ipv4", "routed")];
    let spec = network("routednet123", &["10.73.0.0/24"], &routed);
    host.net().create_network(spec).await.expect("a network");
    sandbox(host, "aaa", on("routednet123")).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let _more = Server::start(&host.netns("aaa"), 81, "more");
    fleet.switch.ip("route add 10.73.0.0/24 via 10.99.0.1");
    assert!(ask(&fleet.switch.path, "10.73.0.2:80").is_err(), "not published");
    let mapping = port("0.0.0.0", Some(8080), Protocol::Tcp);
    host.net()
        .publish("aaa", &[mapping])
        .await
        .expect("nothing is bound");
    let (_, seen) = ask(&fleet.switch.path, "10.73.0.2:80").expect("routed");
    assert_eq!(seen, "10.99.0.254");
    assert!(ask(&fleet.switch.path, "10.73.0.2:81").is_err());
    assert!(
        ask(&fleet.switch.path, "10.99.0.1:8080").is_err(),
        "no translation"
    );
    assert!(pings(&fleet.switch.path, "10.73.0.2"));
    let _outside = Server::start(&fleet.switch.path, 80, "outside");
    let (_, seen) = ask(&host.netns("aaa"), "10.99.0.254:80").expect("out");
    assert_eq!(seen, "10.73.0.2", "no masquerade");
    let isolated = [("bridge.gateway_mode_ipv4", "isolated")];
    let mut spec = network("isolatednet1", &["10.74.0.0/24"], &isolated);
    spec.internal = true;
    let made = host.net().create_network(spec).await.expect("a network");
    let [first, _] = sandbox(host, "bbb", on("isolatednet1")).await;
    sandbox(host, "ccc", on("isolatednet1")).await;
    assert!(pings(&host.netns("ccc"), &first.expect("IPv4").to_string()));
    assert!(
        !pings(&host.netns("ccc"), "10.74.0.1"),
        "the host has no address there"
    );
    let bridge = made.interface.expect("a bridge");
    let addresses = run_inside(&host.ns.path, &format!("ip -o -4 addr show {bridge}"));
    assert_eq!(addresses, "");
    let quiet = network(
        "quietnetwork",
        &["10.75.0.0/24"],
        &[("bridge.enable_icc", "false")],
    );
    host.net().create_network(quiet).await.expect("a network");
    let [first, _] = sandbox(host, "ddd", on("quietnetwork")).await;
    sandbox(host, "eee", on("quietnetwork")).await;
    assert!(
        !pings(&host.netns("eee"), &first.expect("IPv4").to_string()),
        "icc=false"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_priority_gives_the_default_route_and_takes_the_ports() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    for (id, subnet) in [("anetwork1234", "10.76.0.0/24"), ("bnetwork1234", "10.77.0.0/24")] {
        host.net()
            .create_network(network(id, &[subnet], &[]))
            .await
            .expect("a network");
    }
    sandbox(host, "aaa", on("bnetwork1234")).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let mapping = port("0.0.0.0", Some(8080), Protocol::Tcp);
    host.net().publish("aaa", &[mapping]).await.expect("free");
    let gateway = || run_inside(&host.netns("aaa"), "ip route show default");
    assert!(gateway().contains("10.77.0.1"));
    host.net()
        .attach("aaa", on("anetwork1234"))
        .await
        .expect("an endpoint");
    assert!(gateway().contains("10.76.0.1"), "by name: {}", gateway());
    let works = || ask(&fleet.switch.path, "10.99.0.1:8080").is_ok();
    assert!(works(), "the port follows");
    let rules = run_inside(&host.ns.path, "nft list map ip pontoon ports");
    assert!(rules.contains("10.76.0.2"), "{rules}");
    host.net().detach("aaa", "anetwork1234").await.expect("detach");
    assert!(gateway().contains("10.77.0.1") && works());
    let first = EndpointSpec {
        priority: -1,
        options: [(
            "com.docker.network.endpoint.ifname".to_owned(),
            "back0".to_owned(),
        )]
        .into(),
        ..on("anetwork1234")
    };
    let endpoint = host.net().attach("aaa", first).await.expect("an endpoint");
    assert_eq!(endpoint.ifname, "back0");
    assert!(gateway().contains("10.77.0.1"), "priority before name");
    host.net().detach("aaa", "bnetwork1234").await.expect("detach");
    assert!(gateway().contains("10.76.0.1") && works());
    host.net().detach("aaa", "anetwork1234").await.expect("detach");
    assert!(!works());
    assert!(
        host.net()
            .inspect_sandbox("aaa")
            .await
            .expect("it is there")
            .ports
            .is_empty()
    );
    host.net()
        .attach("aaa", on("bnetwork1234"))
        .await
        .expect("an endpoint");
    assert!(works(), "the port is published again");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_lost_when_a_daemon_starts() {
    let mut fleet = Fleet::new(1);
    let host = &mut fleet.hosts[0];
    sandbox(host, "aaa", on("bridge")).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let mapping = port("0.0.0.0", Some(8080), Protocol::Tcp);
    host.net().publish("aaa", &[mapping]).await.expect("free");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, path) = (std::sync::Arc::clone(&stop), fleet.switch.path.clone());
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (name, seen) = ask(&path, "10.99.0.1:8080").expect("always translated");
                    assert_eq!((name.as_str(), seen.as_str()), ("web", "10.99.0.254"));
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..20 {
        let config = fleet.hosts[0].config();
        fleet.hosts[0].reopen(config);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let total: u32 = clients
        .into_iter()
        .map(|c| c.join().expect("none was lost"))
        .sum();
    println!("{total} connections during 20 starts");
    assert!(total > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_firewalls_are_respected_unless_told_otherwise() {
    let mut fleet = Fleet::new(1);
    let host = &mut fleet.hosts[0];
    sandbox(host, "aaa", on("bridge")).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let mapping = port("0.0.0.0", Some(8080), Protocol::Tcp);
    host.net().publish("aaa", &[mapping]).await.expect("free");
    let policy = "add table ip strict; add chain ip strict ways { type filter hook forward priority 10; policy drop; }";
    let nft = |ns: &Path, text: &str| {
        let (text, net) = (text.to_owned(), format!("--net={}", ns.display()));
        host::run("nsenter", &[&net, "nft", &text]);
    };
    nft(&host.ns.path, policy);
    assert!(
        ask(&fleet.switch.path, "10.99.0.1:8080").is_err(),
        "what the host drops stays dropped"
    );
    let mut config = host.config();
    config.accept_in_other_chains = true;
    host.reopen(config);
    assert!(ask(&fleet.switch.path, "10.99.0.1:8080").is_ok(), "asked for");
    let listed = run_inside(&host.ns.path, "nft list chain ip strict ways");
    assert!(listed.contains("comment \"pontoon\""), "{listed}");
    // Loaded again, as a firewall's reload does.
    nft(&host.ns.path, "flush chain ip strict ways");
    eventually("the rules are back", || {
        ask(&fleet.switch.path, "10.99.0.1:8080").is_ok()
    });
    let _open = Server::start(&host.netns("aaa"), 81, "private");
    fleet.switch.ip("route add 172.16.0.0/12 via 10.99.0.1");
    let host = &fleet.hosts[0];
    let own = host
        .net()
        .inspect_sandbox("aaa")
        .await
        .expect("it is there")
        .endpoints[0]
        .ip();
    let target = format!("{}:81", own.expect("an address"));
    assert!(
        ask(&fleet.switch.path, &target).is_err(),
        "our own table still decides"
    );
    host.net().shutdown_all().await.expect("nothing in the way");
    let listed = run_inside(&host.ns.path, "nft list ruleset");
    assert!(!listed.contains("pontoon"), "{listed}");
}
