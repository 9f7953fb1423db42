//! Who is reached in an overlay, by packets of which size: firewalls and small MTUs between hosts are found.
mod host;

use std::{collections::BTreeSet, time::Duration};

use host::{
    Fleet, Host,
    cluster::{ID, tell},
    overlay, pings, run_inside,
};
use pontoon_net::Probe;

async fn probe(host: &Host) -> Vec<Probe> {
    host.net().probe(None).await.expect("it can be tried")
}

/// Addresses of peers with what came back.
fn seen(probes: &[Probe]) -> Vec<(String, u32)> {
    probes
        .iter()
        .map(|probe| (probe.peer.to_string(), probe.mtu))
        .collect()
}

fn of(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
    pairs
        .iter()
        .map(|(peer, mtu)| ((*peer).to_owned(), *mtu))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_ways_between_hosts_are_found() {
    let fleet = Fleet::new(3);
    let [a, b, c] = [0, 1, 2].map(|n| &fleet.hosts[n]);
    let peers = [
        ("10.0.1.3", a.address),
        ("10.0.1.4", b.address),
        ("10.0.1.5", c.address),
        ("10.0.1.6", c.address),
    ];
    tell(&fleet, |local| overlay(ID, 4096, "10.0.1.0/24", local, &peers)).await;
    let well = probe(a).await;
    assert_eq!(seen(&well), of(&[("10.99.0.2", 1450), ("10.99.0.3", 1450)]));
    assert!(
        well.iter()
            .all(|p| p.network == ID && p.wanted_mtu == 1450 && p.round_trip > Duration::ZERO),
        "{well:?}"
    );
    // A switch on the way takes smaller packets only. (A bridge lets pass four bytes more than the MTU, for a VLAN tag.)
    fleet.switch.ip("link set p2 mtu 1400");
    assert_eq!(
        seen(&probe(a).await),
        of(&[("10.99.0.2", 1354), ("10.99.0.3", 1450)])
    );
    assert_eq!(
        seen(&probe(b).await),
        of(&[("10.99.0.1", 1354), ("10.99.0.3", 1354)])
    );
    fleet.switch.ip("link set p2 mtu 1500");
    // A firewall drops what comes from one host.
    run_inside(&b.ns.path, "nft add table ip wall");
    run_inside(
        &b.ns.path,
        "nft add chain ip wall input { type filter hook input priority 0 ; }",
    );
    run_inside(
        &b.ns.path,
        "nft add rule ip wall input ip saddr 10.99.0.1 udp dport 4789 drop",
    );
    assert_eq!(
        seen(&probe(a).await),
        of(&[("10.99.0.2", 0), ("10.99.0.3", 1450)])
    );
    assert_eq!(
        seen(&probe(b).await),
        of(&[("10.99.0.1", 0), ("10.99.0.3", 1450)])
    );
    assert_eq!(
        seen(&probe(c).await),
        of(&[("10.99.0.1", 1450), ("10.99.0.2", 1450)])
    );
    run_inside(&b.ns.path, "nft delete table ip wall");
    assert_eq!(seen(&probe(a).await), seen(&well));
    let none = a.net().probe(Some(BTreeSet::from(["nosuch".to_owned()]))).await;
    assert_eq!(none.expect("nobody is asked"), []);
    // Who has left the network answers no more, and is nobody's peer.
    c.net().remove_overlay(ID).await.expect("it goes");
    assert_eq!(
        seen(&probe(a).await),
        of(&[("10.99.0.2", 1450), ("10.99.0.3", 0)])
    );
    a.net()
        .set_overlay(overlay(ID, 4096, "10.0.1.0/24", a.address, &peers[..2]))
        .await
        .expect("its state");
    assert_eq!(seen(&probe(a).await), of(&[("10.99.0.2", 1450)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_have_nothing_to_do_with_it() {
    let fleet = Fleet::new(2);
    let [a, b] = [0, 1].map(|n| &fleet.hosts[n]);
    let peers = [("10.0.1.3", a.address), ("10.0.1.4", b.address)];
    tell(&fleet, |local| overlay(ID, 4096, "10.0.1.0/24", local, &peers)).await;
    a.sandbox("client", ID, Some("10.0.1.3")).await;
    // Who knows the bridges' addresses gets no answer from them: they have no way to containers.
    run_inside(&a.netns("client"), "ip route add 240.0.0.0/4 dev eth0");
    for bridge in ["250.99.0.1", "250.99.0.2"] {
        assert!(!pings(&a.netns("client"), bridge), "{bridge}");
    }
    assert_eq!(seen(&probe(a).await), of(&[("10.99.0.2", 1450)]));
    // Another underlay address is another address there too.
    a.ns.ip("addr add 10.99.0.77/24 dev eth0");
    let moved = "10.99.0.77".parse().expect("an address");
    let peers = [("10.0.1.3", moved), ("10.0.1.4", b.address)];
    a.net()
        .set_overlay(overlay(ID, 4096, "10.0.1.0/24", moved, &peers))
        .await
        .expect("its state");
    b.net()
        .set_overlay(overlay(ID, 4096, "10.0.1.0/24", b.address, &peers))
        .await
        .expect("its state");
    assert_eq!(seen(&probe(a).await), of(&[("10.99.0.2", 1450)]));
    assert_eq!(seen(&probe(b).await), of(&[("10.99.0.77", 1450)]));
    assert_eq!(a.net().check(None, false).await.expect("a look"), []);
}
