//! Virtual addresses of services and the routing mesh, between hosts on a switch.
mod host;

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    net::IpAddr,
};

use host::{
    Fleet, Host, Server, ask,
    cluster::{ID, mesh, service, tell},
    connect, line, overlay, run_inside,
};
use pontoon_net::{Error, Protocol, ServiceRecord};

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
    let leaving: IpAddr = "10.0.1.4".parse().expect("an address");
    // First it gets no new connections while those that it has go on, then its endpoint goes, and they with it.
    for gone in [false, true] {
        tell(&fleet, |local| {
            let mut state = state(local, &two);
            state.peers.retain(|peer| !gone || peer.ip != leaving);
            state
        })
        .await;
        for (name, stream) in &mut open {
            // Who is cut off may have heard of it before it sends anything.
            let sent = stream.write_all(b"ping\n").is_ok();
            let goes_on = sent && line(stream).is_ok_and(|text| text == "ping");
            assert_eq!(goes_on, name != "t2" || !gone, "{name}");
        }
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
            .set_ingress(mesh(number, ports))
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
    host.net().set_ingress(mesh(2, one)).await.expect("a change");
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

/// A daemon that is killed while backends leave: the next one ends the connections to them when they are gone, also to one that went while
/// no daemon was there. They are reset: silence would be waited on until TCP gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_ends_connections_to_who_was_leaving() {
    let mut fleet = Fleet::new(2);
    let (near, far) = (fleet.hosts[0].address, fleet.hosts[1].address);
    let ips = ["10.0.1.3", "10.0.1.4", "10.0.1.5"];
    let state = |local, backends: &[&str], there: &[&str]| {
        let mut peers: Vec<_> = there.iter().map(|ip| (*ip, far)).collect();
        peers.push(("10.0.1.9", near));
        let mut state = overlay(ID, 4096, "10.0.1.0/24", local, &peers);
        state.services = vec![service("web", Some("10.0.1.2"), backends)];
        state
    };
    tell(&fleet, |local| state(local, &ips, &ips)).await;
    let mut servers = Vec::new();
    for (id, ip) in ["t1", "t2", "t3"].into_iter().zip(ips) {
        let host = &fleet.hosts[1];
        host.sandbox(id, ID, Some(ip)).await;
        servers.push(Server::start(&host.netns(id), 80, id));
    }
    fleet.hosts[0].sandbox("client", ID, Some("10.0.1.9")).await;
    let client = fleet.hosts[0].netns("client");
    let mut open = BTreeMap::new();
    while open.len() < 3 {
        let mut stream = connect(&client, "10.0.1.2:80").expect("the service answers");
        let text = line(&mut stream).expect("a line");
        open.insert(text.split(' ').next().expect("a name").to_owned(), stream);
    }
    // t2 and t3 leave, and the client's daemon is killed.
    tell(&fleet, |local| state(local, &ips[..1], &ips)).await;
    let host = &mut fleet.hosts[0];
    let config = host.config();
    host.reopen(config);
    let mut ping = |name: &str| {
        let stream = open.get_mut(name).expect("it is open");
        stream.write_all(b"ping\n").and_then(|()| line(stream))
    };
    let outcome = |answer: std::io::Result<String>| match answer {
        Ok(text) if text == "ping" => "goes on",
        Ok(_) => "ended",
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => "ended",
        Err(_) => "silent",
    };
    // t3 went meanwhile.
    let host = &fleet.hosts[0];
    let now = |there: &[&str]| state(near, &ips[..1], there);
    host.net().set_overlay(now(&ips[..2])).await.expect("taken");
    assert_eq!(outcome(ping("t3")), "ended", "nobody is there");
    assert_eq!(outcome(ping("t2")), "goes on", "it is still leaving");
    host.net().set_overlay(now(&ips[..1])).await.expect("taken");
    assert_eq!(outcome(ping("t2")), "ended", "it has left");
    assert_eq!(outcome(ping("t1")), "goes on");
}
