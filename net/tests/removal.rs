//! What a removed sandbox had: free for the next one at once, out of everybody's way, and soon gone from the kernel.
mod host;

use std::{collections::HashSet, fs::File, net::IpAddr, os::fd::AsRawFd, path::PathBuf};

use host::{
    Fleet, Host, Server, ask, eventually, pings, run_inside,
    specs::{bridge, tcp},
};
use pontoon_net::{EndpointSpec, NetworkManager, SandboxMode, SandboxSpec};

const NETWORK: &str = "somenetwork1";

/// The near ends on a host.
fn near_ends(host: &Host) -> Vec<String> {
    let links = run_inside(&host.ns.path, "ip -o link");
    let near = |line: &&str| line.split(": ").nth(1).is_some_and(|name| name.starts_with("pt"));
    links.lines().filter(near).map(str::to_owned).collect()
}

async fn attach(net: &NetworkManager, id: &str, ip: IpAddr, mac: [u8; 6]) {
    net.create_sandbox(SandboxSpec::new(id, SandboxMode::Managed))
        .await
        .expect("a sandbox");
    let spec = EndpointSpec {
        network_id: NETWORK.into(),
        ip: Some(ip),
        mac: Some(mac),
        is_default_route: true,
        ..EndpointSpec::default()
    };
    net.attach(id, spec).await.expect("the address is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_address_port_and_network_are_free_at_once() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let net = host.net();
    let ip: IpAddr = "10.71.0.9".parse().expect("an address");
    for round in 0..12u8 {
        net.create_network(bridge(NETWORK, "10.71.0.0/24"))
            .await
            .expect("a network");
        // The same address with another MAC each time: bridge and neighbours must follow.
        attach(net, "aaa", ip, [2, 0, 0, 0, 0, round]).await;
        net.publish("aaa", &[tcp("0.0.0.0", Some(8080), 80)])
            .await
            .expect("the port is free");
        let name = format!("web{round}");
        let web = Server::start(&host.netns("aaa"), 80, &name);
        let (answered, _) = ask(&fleet.switch.path, "10.99.0.1:8080").expect("published");
        assert_eq!(answered, name);
        drop(web);
        net.remove_sandbox("aaa").await.expect("removal");
        assert!(ask(&fleet.switch.path, "10.99.0.1:8080").is_err());
        net.remove_network(NETWORK).await.expect("nobody is on it");
    }
    net.settle().await.expect("the thread is there");
    assert!(near_ends(host).is_empty(), "{:?}", near_ends(host));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_somebody_keeps_is_cut_off() {
    let host = Host::alone();
    let net = host.net();
    net.create_network(bridge(NETWORK, "10.71.0.0/24"))
        .await
        .expect("a network");
    let ip: IpAddr = "10.71.0.9".parse().expect("an address");
    attach(net, "aaa", ip, [2, 0, 0, 0, 0, 1]).await;
    host.sandbox("bbb", NETWORK, None).await;
    let kept = File::open(host.netns("aaa")).expect("a namespace");
    let own = format!("/proc/{}/fd/{}", std::process::id(), kept.as_raw_fd());
    let inside = PathBuf::from(own);
    assert!(pings(&inside, "10.71.0.1"));
    net.remove_sandbox("aaa").await.expect("removal");
    // Before the kernel has forgotten the link, and after.
    assert!(!pings(&inside, "10.71.0.1"));
    attach(net, "ccc", ip, [2, 0, 0, 0, 0, 2]).await;
    assert!(pings(&host.netns("bbb"), "10.71.0.9"));
    net.settle().await.expect("the thread is there");
    assert!(!run_inside(&inside, "ip -o link").contains("eth0"));
    assert!(pings(&host.netns("bbb"), "10.71.0.9"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_removed_together() {
    let host = Host::alone();
    host.sandbox("stays", "bridge", None).await;
    for n in 0..30 {
        host.sandbox(&format!("many{n}"), "bridge", None).await;
    }
    let tasks: Vec<_> = (0..30)
        .map(|n| {
            let net = host.manager.clone().expect("it is open");
            tokio::spawn(async move { net.remove_sandbox(&format!("many{n}")).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("removal");
    }
    host.net().settle().await.expect("the thread is there");
    assert_eq!(near_ends(&host).len(), 1, "{:?}", near_ends(&host));
    assert!(pings(&host.netns("stays"), "172.17.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_did_not_get_to_is_removed_by_the_next() {
    let mut host = Host::alone();
    host.sandbox("stays", "bridge", None).await;
    // Retired, and made but not yet retired, of sandboxes whose records are gone; and somebody else's.
    for (name, peer) in [
        ("pt0123456789x0", "p1"),
        ("pt0123456789x1", "p2"),
        ("ptother", "p3"),
    ] {
        host.ns.ip(&format!("link add {name} type veth peer name {peer}"));
    }
    host.ns.ip("link set pt0123456789x0 down group 1886350964");
    let config = host.config();
    host.reopen(config);
    let errors = host.net().reconcile(&HashSet::from(["stays".to_owned()])).await;
    assert!(errors.is_empty(), "{errors:?}");
    eventually("strays are gone", || near_ends(&host).len() == 2);
    let left = near_ends(&host).join("\n");
    assert!(left.contains("ptother"), "{left}");
    assert!(pings(&host.netns("stays"), "172.17.0.1"));
}
