//! Both address families, routed and isolated bridges, default routes, with real packets.
mod host;

use host::{
    Fleet, Host, Server, ask, pings, run_inside,
    specs::{network, on, port, sandbox, server_at, with_ipv6},
};
use pontoon_net::{EndpointSpec, Error, NetworkSpec, Protocol, SandboxMode, SandboxSpec};

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
