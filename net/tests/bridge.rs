//! Bridge networks: reachability, NAT, isolation, teardown and restart, with real packets.
mod host;

use std::{collections::HashSet, net::Ipv4Addr};

use host::{
    Fleet, Host, Server, ask, eventually, pings, run_inside,
    specs::{bridge, tcp},
};
use pontoon_net::{EndpointSpec, Error, SandboxMode, SandboxSpec};

#[tokio::test(flavor = "multi_thread")]
async fn containers_reach_each_other_and_the_outside() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let a = host.sandbox("aaa", "bridge", None).await;
    let b = host.sandbox("bbb", "bridge", None).await;
    assert_ne!(a, b);
    assert!(pings(&host.netns("aaa"), &b.to_string()));
    let link = run_inside(&host.netns("aaa"), "ip -o addr show eth0");
    assert!(link.contains(&format!("{a}/16")), "{link}");
    // Nobody talks to the near ends, so they are silent: up, and without an address, also on a host that has IPv6.
    let ports = run_inside(&host.ns.path, "ip -o link show type veth master pontoon0");
    assert_eq!(ports.matches("LOWER_UP").count(), 2, "{ports}");
    let addresses = run_inside(&host.ns.path, "ip -6 -o addr show");
    for port in ports.lines().filter_map(|line| line.split([' ', '@']).nth(1)) {
        assert!(!addresses.contains(port), "{addresses}");
    }
    assert!(run_inside(&host.netns("aaa"), "ip route").starts_with("default via 172.1"));
    let _outside = Server::start(&fleet.switch.path, 80, "outside");
    let (name, seen) = ask(&host.netns("aaa"), "10.99.0.254:80").expect("NAT leads out");
    assert_eq!(
        (name.as_str(), seen),
        ("outside", host.address.to_string()),
        "the host's address is seen"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_are_isolated_and_internal_ones_have_no_way_out() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let mut inner = bridge("internalnet1", "10.62.0.0/24");
    inner.internal = true;
    host.net().create_network(inner).await.expect("a network");
    host.net()
        .create_network(bridge("opennetwork1", "10.63.0.0/24"))
        .await
        .expect("a network");
    let default = host.sandbox("aaa", "bridge", None).await;
    let open = host.sandbox("bbb", "opennetwork1", None).await;
    let first = host.sandbox("ccc", "internalnet1", None).await;
    let second = host.sandbox("ddd", "internalnet1", None).await;
    assert!(!pings(&host.netns("aaa"), &open.to_string()));
    assert!(!pings(&host.netns("bbb"), &default.to_string()));
    assert!(
        pings(&host.netns("ccc"), &second.to_string()),
        "within the internal network"
    );
    assert!(!pings(&host.netns("aaa"), &first.to_string()));
    let _outside = Server::start(&fleet.switch.path, 80, "outside");
    assert!(ask(&host.netns("bbb"), "10.99.0.254:80").is_ok());
    assert!(ask(&host.netns("ccc"), "10.99.0.254:80").is_err());
    run_inside(&host.netns("ccc"), "ip route add default via 10.62.0.1");
    assert!(
        ask(&host.netns("ccc"), "10.99.0.254:80").is_err(),
        "even with a route of its own"
    );
    let error = host.net().publish("ccc", &[tcp("0.0.0.0", Some(80), 80)]).await;
    assert!(matches!(error, Err(Error::Invalid { .. })), "{error:?}");
    let _private = Server::start(&host.ns.path, 81, "host");
    run_inside(&host.netns("aaa"), "ip link set lo down");
    run_inside(&host.netns("aaa"), "ip route add 127.0.0.1 via 172.17.0.1");
    assert!(
        ask(&host.netns("aaa"), "127.0.0.1:81").is_err(),
        "the host's loopback is closed (CVE-2020-8558)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_repeated_calls_are_told_apart() {
    let host = Host::alone();
    let net = host.net();
    net.create_network(bridge("somenetwork1", "10.64.0.0/24"))
        .await
        .expect("a network");
    let same = net.create_network(bridge("somenetwork1", "10.65.0.0/24")).await;
    assert!(matches!(same, Err(Error::NetworkExists { .. })), "{same:?}");
    let overlapping = net.create_network(bridge("somenetwork2", "10.64.0.128/25")).await;
    assert!(
        matches!(overlapping, Err(Error::SubnetOverlap { .. })),
        "{overlapping:?}"
    );
    host.sandbox("aaa", "somenetwork1", Some("10.64.0.9")).await;
    let again = net
        .create_sandbox(SandboxSpec::new("aaa", SandboxMode::Managed))
        .await;
    assert!(matches!(again, Err(Error::SandboxExists { .. })), "{again:?}");
    for id in ["", "..", "a/b", "ov-x"] {
        let bad = net
            .create_sandbox(SandboxSpec::new(id, SandboxMode::Managed))
            .await;
        assert!(matches!(bad, Err(Error::InvalidId { .. })), "{bad:?}");
    }
    let spec = |network: &str| EndpointSpec {
        network_id: network.into(),
        ..EndpointSpec::default()
    };
    let twice = net.attach("aaa", spec("somenetwork1")).await;
    assert!(matches!(twice, Err(Error::AlreadyAttached { .. })), "{twice:?}");
    let nowhere = net.attach("aaa", spec("nonetwork")).await;
    assert!(
        matches!(nowhere, Err(Error::NetworkNotFound { .. })),
        "{nowhere:?}"
    );
    let taken = EndpointSpec {
        ip: Some(Ipv4Addr::new(10, 64, 0, 9).into()),
        ..spec("somenetwork1")
    };
    net.create_sandbox(SandboxSpec::new("bbb", SandboxMode::Managed))
        .await
        .expect("a sandbox");
    assert!(matches!(
        net.attach("bbb", taken).await,
        Err(Error::AddressInUse { .. })
    ));
    let busy = net.remove_network("somenetwork1").await;
    assert!(matches!(busy, Err(Error::NetworkInUse { .. })), "{busy:?}");
    assert!(matches!(
        net.remove_network("bridge").await,
        Err(Error::Predefined { .. })
    ));
    net.create_sandbox(SandboxSpec::new("none1", SandboxMode::None))
        .await
        .expect("a sandbox");
    assert!(matches!(
        net.attach("none1", spec("bridge")).await,
        Err(Error::NotManaged { .. })
    ));
    assert_eq!(
        run_inside(&host.netns("none1"), "ip -o -4 addr").lines().count(),
        1,
        "loopback only"
    );
    let hosted = net
        .create_sandbox(SandboxSpec::new("host1", SandboxMode::Host))
        .await
        .expect("a sandbox");
    assert_eq!(hosted.netns, None);
    let mut odd = SandboxSpec::new("odd", SandboxMode::Managed);
    odd.sysctls.insert("kernel.hostname".into(), "x".into());
    assert!(matches!(net.create_sandbox(odd).await, Err(Error::Sysctl { .. })));
    let mut tuned = SandboxSpec::new("tuned", SandboxMode::Managed);
    tuned.sysctls.insert("net.core.somaxconn".into(), "77".into());
    net.create_sandbox(tuned).await.expect("a sandbox");
    assert_eq!(
        run_inside(&host.netns("tuned"), "sysctl -n net.core.somaxconn").trim(),
        "77"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attach_leaves_nothing() {
    let host = Host::alone();
    host.sandbox("aaa", "bridge", None).await;
    let before = host.inventory();
    host.net()
        .create_sandbox(SandboxSpec::new("bbb", SandboxMode::Managed))
        .await
        .expect("a sandbox");
    // An interface of that name is there already: creating the pair fails after the address was taken.
    run_inside(&host.netns("bbb"), "ip link add eth0 type bridge");
    let spec = EndpointSpec {
        network_id: "bridge".into(),
        is_default_route: true,
        ..EndpointSpec::default()
    };
    let error = host.net().attach("bbb", spec).await.expect_err("eth0 exists");
    assert!(matches!(error, Error::Netlink { .. }), "{error:?}");
    assert!(
        host.net()
            .inspect_sandbox("bbb")
            .await
            .expect("still there")
            .endpoints
            .is_empty()
    );
    host.net().remove_sandbox("bbb").await.expect("removal");
    host.net().remove_sandbox("bbb").await.expect("idempotent");
    assert_eq!(host.inventory(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_leaves_nothing() {
    let host = Host::alone();
    let before = host.inventory();
    host.net()
        .create_network(bridge("somenetwork1", "10.66.0.0/24"))
        .await
        .expect("a network");
    host.sandbox("aaa", "bridge", None).await;
    host.sandbox("bbb", "somenetwork1", None).await;
    host.attach("aaa", "somenetwork1", None).await;
    host.net()
        .publish("aaa", &[tcp("0.0.0.0", Some(8080), 80)])
        .await
        .expect("free");
    host.net().detach("aaa", "somenetwork1").await.expect("detach");
    assert!(host.net().detach("aaa", "somenetwork1").await.is_err());
    assert_ne!(host.inventory(), before);
    host.net().shutdown_all().await.expect("nothing in the way");
    assert_eq!(host.inventory(), before);
    host.net().shutdown_all().await.expect("idempotent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_finds_everything_again() {
    let mut fleet = Fleet::new(1);
    let host = &mut fleet.hosts[0];
    host.net()
        .create_network(bridge("somenetwork1", "10.67.0.0/24"))
        .await
        .expect("a network");
    let a = host.sandbox("aaa", "bridge", None).await;
    host.sandbox("bbb", "bridge", None).await;
    host.sandbox("ccc", "somenetwork1", None).await;
    host.net()
        .publish("aaa", &[tcp("0.0.0.0", Some(8080), 80)])
        .await
        .expect("free");
    host.net()
        .publish("bbb", &[tcp("0.0.0.0", Some(8081), 80)])
        .await
        .expect("free");
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let mut open = host::connect(&fleet.switch.path, "10.99.0.1:8080").expect("published");
    assert!(host::line(&mut open).expect("a line").starts_with("web"));
    let config = host.config();
    host.reopen(config);
    let live = HashSet::from(["aaa".to_owned(), "ccc".to_owned()]);
    let errors = host.net().reconcile(&live).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!host.netns("bbb").exists());
    std::io::Write::write_all(&mut open, b"still\n").expect("the connection goes on");
    assert_eq!(host::line(&mut open).expect("a line"), "still");
    assert!(ask(&fleet.switch.path, "10.99.0.1:8080").is_ok());
    assert!(ask(&fleet.switch.path, "10.99.0.1:8081").is_err());
    host.sandbox("ddd", "bridge", None).await;
    let taken = host.net().publish("ddd", &[tcp("0.0.0.0", Some(8080), 80)]).await;
    assert!(matches!(taken, Err(Error::PortAllocated { .. })), "{taken:?}");
    let addresses: Vec<_> = host
        .net()
        .inspect_network("bridge")
        .await
        .expect("it is there")
        .endpoints;
    assert_eq!(addresses.len(), 2);
    assert!(pings(&host.netns("ddd"), &a.to_string()));
    host.net().shutdown_all().await.expect("nothing in the way");
    assert_eq!(host.inventory()["mounts"], "");
    eventually("links are gone", || {
        !run_inside(&host.ns.path, "ip -o link").contains("pt")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_default_subnet_is_avoided() {
    let host = Host::alone();
    host.ns.ip("link add busy type bridge");
    host.ns.ip("addr add 172.17.5.1/24 dev busy");
    host.ns.ip("link set busy up");
    let address = host.sandbox("aaa", "bridge", None).await;
    assert!(address.to_string().starts_with("172.18."), "{address}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_not_disturb_each_other() {
    let host = Host::alone();
    let before = host.inventory();
    let one = |n: u16| {
        let net = host.manager.clone().expect("it is open");
        async move {
            let id = format!("many{n}");
            net.create_sandbox(SandboxSpec::new(&id, SandboxMode::Managed))
                .await
                .expect("a sandbox");
            let spec = EndpointSpec {
                network_id: "bridge".into(),
                is_default_route: true,
                ..EndpointSpec::default()
            };
            let address = net.attach(&id, spec).await.expect("an endpoint").address;
            net.publish(&id, &[tcp("0.0.0.0", Some(10_000 + n), 80)])
                .await
                .expect("free");
            if n.is_multiple_of(2) {
                net.remove_sandbox(&id).await.expect("removal");
            }
            address
        }
    };
    let tasks: Vec<_> = (0..24).map(|n| tokio::spawn(one(n))).collect();
    let mut addresses = HashSet::new();
    for (n, task) in tasks.into_iter().enumerate() {
        let address = task.await.expect("no panic");
        assert!(
            n % 2 == 0 || addresses.insert(address),
            "{address:?} was given twice"
        );
    }
    assert_eq!(
        host.net()
            .inspect_network("bridge")
            .await
            .expect("it is there")
            .endpoints
            .len(),
        12
    );
    host.net().shutdown_all().await.expect("nothing in the way");
    assert_eq!(host.inventory(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_route_moves_when_its_endpoint_leaves() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    host.net()
        .create_network(bridge("somenetwork1", "10.68.0.0/24"))
        .await
        .expect("a network");
    host.sandbox("aaa", "bridge", None).await;
    host.attach("aaa", "somenetwork1", None).await;
    assert!(pings(&host.netns("aaa"), "10.99.0.254"));
    host.net().detach("aaa", "bridge").await.expect("detach");
    let routes = run_inside(&host.netns("aaa"), "ip route");
    assert!(routes.contains("default via 10.68.0.1"), "{routes}");
    assert!(pings(&host.netns("aaa"), "10.99.0.254"));
    assert!(
        host.attach("aaa", "bridge", None).await.is_ipv4(),
        "it may come back"
    );
}
