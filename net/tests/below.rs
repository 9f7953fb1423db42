//! macvlan and ipvlan: links below an interface of the host, VLAN interfaces that come and go, with real packets.
mod host;

use host::{Fleet, Host, Server, ask, eventually, pings, run_inside};
use pontoon_net::{Driver, EndpointSpec, Error, IpamConfig, NetworkSpec, SandboxMode, SandboxSpec};

fn network(id: &str, driver: Driver, subnet: &str, options: &[(&str, &str)]) -> NetworkSpec {
    let mut spec = NetworkSpec::new(id, format!("net-{id}"), driver);
    spec.ipam = vec![IpamConfig {
        subnet: Some(subnet.parse().expect("a subnet")),
        gateway: None,
        ..IpamConfig::default()
    }];
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    spec.options = options.iter().map(pair).collect();
    spec
}

/// Whether the kernel can make this kind of link; else says that the test skips.
fn has(host: &Host, kind: &str) -> bool {
    let line = format!("ip link add link eth0 name probe0 type {kind}");
    let there = host::succeeds(&host.ns.path, &line);
    if there {
        run_inside(&host.ns.path, "ip link del probe0");
    } else {
        println!("skipped: this kernel makes no links of type {kind}");
    }
    there
}

async fn sandbox(host: &Host, id: &str, network: &str, ip: Option<&str>) {
    host.net()
        .create_sandbox(SandboxSpec::new(id, SandboxMode::Managed))
        .await
        .expect("a sandbox");
    let spec = EndpointSpec {
        network_id: network.into(),
        ip: ip.and_then(|ip| ip.parse().ok()),
        ..EndpointSpec::default()
    };
    host.net().attach(id, spec).await.expect("an endpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn macvlan_containers_are_on_the_hosts_link() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let mut spec = network(
        "macvlannet12",
        Driver::Macvlan,
        "10.99.0.0/24",
        &[("parent", "eth0")],
    );
    spec.ipam[0].gateway = "10.99.0.254".parse().ok();
    host.net().create_network(spec).await.expect("a network");
    sandbox(host, "aaa", "macvlannet12", Some("10.99.0.50")).await;
    sandbox(host, "bbb", "macvlannet12", Some("10.99.0.51")).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let (name, seen) = ask(&fleet.switch.path, "10.99.0.50:80").expect("on the link");
    assert_eq!((name.as_str(), seen.as_str()), ("web", "10.99.0.254"));
    assert!(pings(&host.netns("bbb"), "10.99.0.50"), "mode bridge");
    let routes = run_inside(&host.netns("aaa"), "ip route");
    assert!(routes.contains("default via 10.99.0.254"), "{routes}");
    let link = run_inside(&host.netns("aaa"), "ip -d link show eth0");
    assert!(
        link.contains("macvlan mode bridge") && link.contains("02:42:0a:63:00:32"),
        "{link}"
    );
    let same = network(
        "othermacvlan",
        Driver::Macvlan,
        "10.98.0.0/24",
        &[("parent", "eth0")],
    );
    let error = host
        .net()
        .create_network(same)
        .await
        .expect_err("the parent is taken")
        .to_string();
    assert!(
        error.contains("is already using parent interface eth0"),
        "{error}"
    );
    let overlap = network("overlapnet12", Driver::Macvlan, "10.99.0.0/25", &[]);
    assert!(matches!(
        host.net().create_network(overlap).await,
        Err(Error::SubnetOverlap { .. })
    ));
    let published = pontoon_net::PortMapping {
        host_ip: None,
        host_port: Some(8080),
        host_port_end: 0,
        container_port: 80,
        protocol: pontoon_net::Protocol::Tcp,
    };
    assert!(
        host.net().publish("aaa", &[published]).await.is_err(),
        "there is nothing to publish on"
    );
    host.net().detach("aaa", "macvlannet12").await.expect("detach");
    assert!(!run_inside(&host.netns("aaa"), "ip -o link").contains("eth0"));
    host.net().remove_sandbox("bbb").await.expect("removal");
    host.net().remove_network("macvlannet12").await.expect("removal");
    let links = run_inside(&host.ns.path, "ip -o link");
    assert!(links.contains("eth0"), "the parent is the host's: {links}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vlan_interfaces_come_and_go_with_their_network() {
    let mut fleet = Fleet::new(2);
    let host = &fleet.hosts[0];
    let missing = network(
        "missingnet12",
        Driver::Ipvlan,
        "10.81.0.0/24",
        &[("parent", "nothing0")],
    );
    assert!(matches!(
        host.net().create_network(missing).await,
        Err(Error::Invalid { .. })
    ));
    if !has(host, "vlan id 10") {
        let spec = network(
            "vlannetwork1",
            Driver::Macvlan,
            "10.80.0.0/24",
            &[("parent", "eth0.10")],
        );
        let before = host.inventory();
        assert!(host.net().create_network(spec).await.is_err());
        assert_eq!(host.inventory(), before, "a failed creation leaves nothing");
        return;
    }
    for (number, host) in fleet.hosts.iter().enumerate() {
        let mut spec = network(
            "vlannetwork1",
            Driver::Macvlan,
            "10.80.0.0/24",
            &[("parent", "eth0.10")],
        );
        spec.ipam[0].range = format!("10.80.0.{}/28", (number + 1) * 16).parse().ok();
        host.net().create_network(spec).await.expect("a network");
        let link = run_inside(&host.ns.path, "ip -d link show eth0.10");
        assert!(link.contains("vlan protocol 802.1Q id 10"), "{link}");
        sandbox(host, "aaa", "vlannetwork1", None).await;
    }
    assert!(pings(&fleet.hosts[0].netns("aaa"), "10.80.0.32"), "over the VLAN");
    let config = fleet.hosts[0].config();
    fleet.hosts[0].reopen(config);
    assert!(
        pings(&fleet.hosts[0].netns("aaa"), "10.80.0.32"),
        "after a restart"
    );
    let host = &fleet.hosts[0];
    host.net().remove_sandbox("aaa").await.expect("removal");
    host.net().remove_network("vlannetwork1").await.expect("removal");
    eventually("the VLAN interface goes", || {
        !run_inside(&host.ns.path, "ip -o link").contains("eth0.10")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn ipvlan_in_both_modes() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    if !has(host, "ipvlan") {
        return;
    }
    let l3 = network(
        "ipvlannet123",
        Driver::Ipvlan,
        "10.82.0.0/24",
        &[("parent", "eth0"), ("ipvlan_mode", "l3")],
    );
    host.net().create_network(l3).await.expect("a network");
    sandbox(host, "aaa", "ipvlannet123", None).await;
    let routes = run_inside(&host.netns("aaa"), "ip route");
    assert!(routes.contains("default dev eth0"), "{routes}");
    // Layer 3: the outside has to know the way.
    fleet.switch.ip("route add 10.82.0.0/24 dev br0");
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    let target = format!("{}:80", host.address_of("aaa").await);
    fleet.switch.ip("route replace 10.82.0.0/24 via 10.99.0.1");
    assert!(ask(&fleet.switch.path, &target).is_ok(), "routed to the parent");
    host.net().remove_sandbox("aaa").await.expect("removal");
    host.net().remove_network("ipvlannet123").await.expect("removal");
    let l2 = network(
        "ipvlannet123",
        Driver::Ipvlan,
        "10.99.0.0/24",
        &[("parent", "eth0")],
    );
    host.net().create_network(l2).await.expect("a network");
    sandbox(host, "aaa", "ipvlannet123", Some("10.99.0.60")).await;
    let _again = Server::start(&host.netns("aaa"), 80, "web");
    assert!(ask(&fleet.switch.path, "10.99.0.60:80").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_parent_leads_nowhere() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    if !has(host, "dummy") {
        return;
    }
    let alone = network("alonenetwork", Driver::Macvlan, "10.83.0.0/24", &[]);
    let made = host.net().create_network(alone).await.expect("a network");
    assert!(made.spec.internal);
    sandbox(host, "bbb", "alonenetwork", Some("10.83.0.5")).await;
    sandbox(host, "ccc", "alonenetwork", None).await;
    assert!(pings(&host.netns("ccc"), "10.83.0.5"));
    assert!(run_inside(&host.ns.path, "ip -o link").contains("dm-alonenetwork"));
    assert!(!run_inside(&host.netns("ccc"), "ip route").contains("default"));
    host.net().shutdown_all().await.expect("nothing in the way");
    let links = run_inside(&host.ns.path, "ip -o link");
    assert!(!links.contains("dm-") && links.contains("eth0"), "{links}");
}
