//! Whatever somebody takes away from the kernel by hand is found, named and put back, and nothing else is touched.
mod host;

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    path::PathBuf,
};

use host::{
    Fleet, Host, Server, ask,
    cluster::{ID, mesh, service, tell},
    eventually, overlay, pings, run_inside, succeeds,
};
use pontoon_net::{Drift, Mended, NetworkSpec, Part};

/// The hidden namespace of the tests' overlay.
fn hidden(host: &Host) -> PathBuf {
    host.netns(&format!("ov-{}", &ID[..12]))
}

async fn check(host: &Host, mend: bool) -> Vec<Drift> {
    host.net().check(None, mend).await.expect("it can be looked at")
}

fn parts(drifts: &[Drift]) -> Vec<Part> {
    drifts.iter().map(|drift| drift.part).collect()
}

/// An overlay over two hosts with a client and a service, and the routing mesh on the first host.
async fn scene() -> (Fleet, Server) {
    let fleet = Fleet::new(2);
    let [a, b] = [0, 1].map(|n| &fleet.hosts[n]);
    let peers = [
        ("10.0.1.3", a.address),
        ("10.0.1.4", b.address),
        ("10.0.1.5", b.address),
        ("10.0.1.101", a.address),
    ];
    let state = |local: IpAddr| {
        let mut state = overlay(ID, 4096, "10.0.1.0/24", local, &peers);
        state.services = vec![service("web", Some("10.0.1.2"), &["10.0.1.4", "10.0.1.5"])];
        state
    };
    tell(&fleet, state).await;
    a.net()
        .set_ingress(mesh(1, &[(8080, &["10.0.1.4"])]))
        .await
        .expect("the mesh");
    a.sandbox("client", ID, Some("10.0.1.3")).await;
    for (id, ip) in [("one", "10.0.1.4"), ("two", "10.0.1.5")] {
        b.sandbox(id, ID, Some(ip)).await;
    }
    let server = Server::start(&b.netns("one"), 80, "one");
    (fleet, server)
}

/// Where a line of damage is done.
enum Place {
    Hidden,
    Client,
    Home,
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "a table of damages")]
async fn what_is_taken_away_is_found_and_put_back() {
    use Part::{Bridge, Chain, Endpoint, Forwarding, Mesh, Neighbour, PortEntry, Set, Table, Tunnel};
    use Place::{Client, Hidden, Home};
    let (fleet, _server) = scene().await;
    let a = &fleet.hosts[0];
    assert_eq!(check(a, false).await, [], "all is well");
    let near = run_inside(&hidden(a), "ip -o link");
    let near = near
        .split_whitespace()
        .find(|word| word.starts_with("pt"))
        .expect("the near end");
    let near = near.split('@').next().expect("its name").to_owned();
    let damages: [(Place, String, &[Part]); 23] = [
        (Hidden, "ip link del vxlan0".into(), &[Tunnel]),
        (Hidden, "ip link set vxlan0 nomaster".into(), &[Tunnel, PortEntry]),
        (Hidden, "ip link set vxlan0 down".into(), &[Tunnel]),
        (Hidden, "ip link set vxlan0 mtu 1300".into(), &[Bridge, Tunnel]),
        (Hidden, "bridge link set dev vxlan0 flood on".into(), &[Tunnel]),
        (
            Hidden,
            "bridge fdb del 02:42:0a:00:01:04 dev vxlan0 self".into(),
            &[Forwarding],
        ),
        (
            Hidden,
            "bridge fdb replace 02:42:0a:00:01:04 dev vxlan0 dst 10.99.0.77 self".into(),
            &[Forwarding],
        ),
        (
            Hidden,
            "bridge fdb add 02:42:0a:00:01:63 dev vxlan0 dst 10.99.0.77 self".into(),
            &[Forwarding],
        ),
        (
            Hidden,
            "bridge fdb del 02:42:0a:00:01:04 dev vxlan0 master".into(),
            &[PortEntry],
        ),
        (Hidden, "ip neigh del 10.0.1.4 dev br0".into(), &[Neighbour]),
        (Hidden, "ip neigh flush all nud permanent".into(), &[Neighbour]),
        (Hidden, "ip link del br0".into(), &[Bridge]),
        (Hidden, "ip link set br0 down".into(), &[Bridge, Neighbour]),
        (
            Hidden,
            "ip link set br0 address 02:42:00:00:00:01".into(),
            &[Bridge, Neighbour],
        ),
        // Without an address the kernel forgets the neighbours, too.
        (Hidden, "ip addr flush dev br0".into(), &[Bridge, Neighbour]),
        (Hidden, format!("ip link del {near}"), &[Endpoint]),
        (
            Hidden,
            format!("bridge link set dev {near} learning on"),
            &[Endpoint],
        ),
        (Home, "ip link del pontoon_mesh".into(), &[Mesh]),
        (Home, "ip addr flush dev pontoon_mesh".into(), &[Mesh]),
        (Client, "nft delete table ip pontoon".into(), &[Table]),
        (Client, "nft flush table ip pontoon".into(), &[Chain, Chain]),
        (Client, "nft flush map ip pontoon services16".into(), &[Set]),
        (
            Client,
            "nft add element ip pontoon vips { 10.0.1.77 }".into(),
            &[Set],
        ),
    ];
    for (place, line, expected) in damages {
        let ns = match place {
            Hidden => hidden(a),
            Client => a.netns("client"),
            Home => a.ns.path.clone(),
        };
        run_inside(&ns, &line);
        let found = check(a, false).await;
        assert_eq!(parts(&found), expected, "{line}: {found:#?}");
        assert!(found.iter().all(|drift| drift.mended == Mended::No), "{line}");
        let mended = check(a, true).await;
        assert_eq!(parts(&mended), expected, "{line}: {mended:#?}");
        assert!(
            mended.iter().all(|drift| drift.mended == Mended::Yes),
            "{line}: {mended:#?}"
        );
        assert_eq!(check(a, false).await, [], "after {line}");
        assert!(pings(&a.netns("client"), "10.0.1.5"), "after {line}");
        assert!(
            succeeds(&a.netns("client"), "busybox nc -w 1 10.0.1.4 80 -e true"),
            "after {line}"
        );
    }
    let reaches = || ask(&a.netns("client"), "10.0.1.2:80").is_ok();
    eventually("the service answers by its address", reaches);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_tables_heal_and_it_is_told() {
    let (fleet, _server) = scene().await;
    let a = &fleet.hosts[0];
    let rules = || run_inside(&a.ns.path, "nft list table ip pontoon");
    let before = rules();
    run_inside(&a.ns.path, "nft delete table ip pontoon");
    // The kernel tells of it: nobody has to look.
    eventually("the table is back", || {
        succeeds(&a.ns.path, "nft list table ip pontoon") && rules() == before
    });
    let mut told = Vec::new();
    while told.is_empty() {
        told = a.net().take_mended().await.expect("it is told");
    }
    assert!(
        told.iter()
            .all(|d| d.part == Part::Table && d.mended == Mended::Yes),
        "{told:?}"
    );
    // What is added is nothing that the kernel's news are listened to for.
    run_inside(&a.ns.path, "nft add rule ip pontoon forward drop");
    let found = check(a, true).await;
    assert_eq!(parts(&found), [Part::Chain], "{found:?}");
    assert_eq!(rules(), before);
    run_inside(&a.ns.path, "nft add element ip pontoon internal { \"eth0\" }");
    let found = check(a, true).await;
    assert_eq!(parts(&found), [Part::Set], "{found:?}");
    assert_eq!(rules(), before);
    assert_eq!(check(a, true).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_can_be_at_one_network_alone() {
    let (fleet, _server) = scene().await;
    let a = &fleet.hosts[0];
    let one = |id: &str| Some(BTreeSet::from([id.to_owned()]));
    let other = overlay("othernetworkaaaaaaaaaaaaa", 4097, "10.0.2.0/24", a.address, &[]);
    a.net().set_overlay(other.clone()).await.expect("another network");
    run_inside(&hidden(a), "ip link del vxlan0");
    run_inside(&a.netns("client"), "nft flush table ip pontoon");
    let found = a.net().check(one(&other.network.id), true).await.expect("a look");
    assert_eq!(found, [], "of the other network nothing is wrong");
    let found = a.net().check(one(ID), true).await.expect("a look");
    assert_eq!(parts(&found), [Part::Tunnel, Part::Chain, Part::Chain]);
    assert_eq!(found[0].network, ID);
    assert_eq!(found[1].sandbox, "client");
    assert_eq!(a.net().check(one("nosuch"), true).await.expect("a look"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wrong_about_what_comes_goes_or_is_not_known_yet() {
    let (mut fleet, _server) = scene().await;
    let a = &fleet.hosts[0];
    a.net()
        .create_network(NetworkSpec::bridge("localnet", "local"))
        .await
        .expect("a bridge");
    for (id, ip) in [("x", "10.0.1.20"), ("y", "10.0.1.21")] {
        a.sandbox(id, ID, Some(ip)).await;
        a.attach(id, "localnet", None).await;
    }
    assert_eq!(check(a, false).await, []);
    a.net().detach("x", ID).await.expect("it leaves");
    assert_eq!(check(a, false).await, []);
    // Looks while sandboxes go: nothing of theirs may be made again.
    let mut looks = Vec::new();
    let removal = async {
        for id in ["x", "y", "client"] {
            a.net().remove_sandbox(id).await.expect("it goes");
        }
    };
    let looking = async {
        for _ in 0..50 {
            looks.extend(check(a, true).await);
        }
    };
    tokio::join!(removal, looking);
    assert_eq!(looks, []);
    let links = run_inside(&hidden(a), "ip -o link");
    assert!(!links.contains("pt"), "{links}");
    // A new daemon does not know yet what there should be, and leaves it as it is.
    run_inside(&hidden(a), "ip neigh del 10.0.1.4 dev br0");
    let config = a.config();
    let a = &mut fleet.hosts[0];
    a.reopen(config);
    a.net().reconcile(&HashSet::new()).await;
    assert_eq!(check(a, true).await, []);
}

/// What a look costs at 100 networks of 1,000 endpoints elsewhere. Printed, not judged: `--nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn figures() {
    let networks = if std::env::var_os("FIGURES").is_some() {
        100
    } else {
        2
    };
    let fleet = Fleet::new(1);
    let a = &fleet.hosts[0];
    let addresses: Vec<(String, IpAddr)> = (0..1000u32)
        .map(|n| {
            let node = u8::try_from(n % 50).expect("few nodes") + 100;
            (
                format!("10.1.{}.{}", 1 + n / 250, 1 + n % 250),
                IpAddr::from([10, 99, 0, node]),
            )
        })
        .collect();
    let peers: Vec<_> = addresses.iter().map(|(ip, vtep)| (ip.as_str(), *vtep)).collect();
    for number in 0..networks {
        let id = format!("{number:012}figuresaaaaaa");
        let state = overlay(&id, 5000 + number, "10.1.0.0/16", a.address, &peers);
        a.net().set_overlay(state).await.expect("a network");
    }
    let begun = std::time::Instant::now();
    assert_eq!(check(a, true).await, []);
    let took = begun.elapsed();
    println!(
        "a look at {networks} networks of 1,000 endpoints each: {took:?}, {:?} a network",
        took / networks
    );
}
