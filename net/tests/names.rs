//! Names: netd is started, queries of 127.0.0.11:53 are redirected to it, zones follow the endpoints.
mod host;

use std::{
    collections::HashSet,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use host::{Fleet, Host, eventually, inside, overlay, run_inside};
use pontoon_net::{Config, NetworkSpec, SandboxMode, SandboxSpec, ServiceRecord};

/// The example program beside the test's own.
fn netd() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    own.parent()
        .and_then(Path::parent)
        .expect("tests are in deps")
        .join("examples/netd")
}

fn config(host: &Host) -> Config {
    Config {
        netd: Some(netd()),
        ..host.config()
    }
}

/// Asks 127.0.0.11 for an A record from a namespace; the addresses, or the response code.
fn lookup(ns: &Path, name: &str) -> Result<Vec<IpAddr>, u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("labels are short"));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let question = query.len();
    let answer = inside(ns, move || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(&query, "127.0.0.11:53")?;
        let mut buffer = vec![0; 1500];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(
            from.to_string(),
            "127.0.0.11:53",
            "the answer's source is translated back"
        );
        buffer.truncate(length);
        Ok(buffer)
    })
    .map_err(|_| 255)?;
    if answer[3] & 15 != 0 {
        return Err(answer[3] & 15);
    }
    let mut at = question;
    let mut found = Vec::new();
    for _ in 0..u16::from_be_bytes([answer[6], answer[7]]) {
        // Either a pointer or the name itself.
        at += if answer[at] & 0xc0 == 0xc0 {
            2
        } else {
            name.len() + 2
        };
        let length = usize::from(u16::from_be_bytes([answer[at + 8], answer[at + 9]]));
        if length == 4 {
            found.push(IpAddr::from(
                <[u8; 4]>::try_from(&answer[at + 10..at + 14]).expect("four bytes"),
            ));
        }
        at += 10 + length;
    }
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_find_each_other_by_name() {
    let mut fleet = Fleet::new(1);
    let wanted = config(&fleet.hosts[0]);
    fleet.hosts[0].reopen(wanted.clone());
    let before = fleet.hosts[0].inventory();
    let host = &mut fleet.hosts[0];
    host.net()
        .create_network(NetworkSpec::bridge("somenetwork1", "some"))
        .await
        .expect("a network");
    host.net()
        .create_network(NetworkSpec::bridge("othernetwork", "other"))
        .await
        .expect("a network");
    let a = host.sandbox("aaaaaaaaaaaaaaaa", "somenetwork1", None).await;
    host.sandbox("bbb", "somenetwork1", None).await;
    host.sandbox("ccc", "othernetwork", None).await;
    host.sandbox("ddd", "bridge", None).await;
    assert_eq!(lookup(&host.netns("bbb"), "name-aaaaaaaaaaaaaaaa"), Ok(vec![a]));
    assert_eq!(
        lookup(&host.netns("bbb"), "aaaaaaaaaaaa"),
        Ok(vec![a]),
        "the short id"
    );
    assert_ne!(
        lookup(&host.netns("ccc"), "name-bbb").unwrap_or_default(),
        vec![a],
        "other networks' are unknown"
    );
    let text = host.net().resolv_conf("bbb").await.expect("content");
    assert!(text.starts_with("nameserver 127.0.0.11\n"), "{text}");
    let text = host.net().resolv_conf("ddd").await.expect("content");
    assert!(!text.contains("127.0.0.11"), "{text}");
    assert!(
        !run_inside(&host.netns("ddd"), "nft list ruleset").contains("pontoon"),
        "no table where none is needed"
    );
    let both = host.attach("ccc", "somenetwork1", None).await;
    assert_eq!(lookup(&host.netns("bbb"), "name-ccc"), Ok(vec![both]));
    // A killed daemon: netd goes on; the next one finds it.
    host.reopen(wanted);
    assert_eq!(lookup(&host.netns("bbb"), "name-ccc"), Ok(vec![both]));
    let live = ["aaaaaaaaaaaaaaaa", "bbb", "ccc"].map(str::to_owned);
    let errors = host.net().reconcile(&HashSet::from(live)).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(lookup(&host.netns("bbb"), "name-ccc"), Ok(vec![both]));
    host.net().remove_sandbox("ccc").await.expect("removal");
    assert!(
        lookup(&host.netns("bbb"), "name-ccc")
            .unwrap_or_default()
            .is_empty()
    );
    host.net().shutdown_all().await.expect("nothing in the way");
    let run = host.dir.path().join("run");
    eventually("netd ends", || !run.join("netd.sock").exists());
    let after = host.inventory();
    for what in ["links", "rules", "mounts", "namespaces"] {
        assert_eq!(after[what], before[what], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_resolve_to_their_virtual_address() {
    let mut fleet = Fleet::new(1);
    let wanted = config(&fleet.hosts[0]);
    fleet.hosts[0].reopen(wanted);
    let host = &fleet.hosts[0];
    let network = "overlaynetwork1aaaaaaaaaa";
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut state = overlay(network, 4096, "10.0.1.0/24", host.address, &[]);
    let service = |name: &str, vip: Option<&str>| ServiceRecord {
        name: name.into(),
        aliases: vec![format!("{name}-alias")],
        vip: vip.map(address),
        backends: vec![address("10.0.1.3"), address("10.0.1.4")],
    };
    state.network.internal = true;
    state.services = vec![service("web", Some("10.0.1.2")), service("robin", None)];
    state.tasks = vec![("web.1.abc".into(), address("10.0.1.3"))];
    host.net().set_overlay(state.clone()).await.expect("state");
    host.net()
        .create_sandbox(SandboxSpec::new("aaa", SandboxMode::Managed))
        .await
        .expect("a sandbox");
    host.attach("aaa", network, Some("10.0.1.3")).await;
    let ns = host.netns("aaa");
    assert_eq!(lookup(&ns, "web"), Ok(vec![address("10.0.1.2")]));
    assert_eq!(lookup(&ns, "web-alias"), Ok(vec![address("10.0.1.2")]));
    assert_eq!(
        lookup(&ns, "tasks.web"),
        Ok(vec![address("10.0.1.3"), address("10.0.1.4")])
    );
    assert_eq!(
        lookup(&ns, "robin"),
        Ok(vec![address("10.0.1.3"), address("10.0.1.4")])
    );
    assert_eq!(lookup(&ns, "web.1.abc"), Ok(vec![address("10.0.1.3")]));
    assert!(
        lookup(&ns, "example.com").is_err(),
        "nothing is forwarded from an internal network (CVE-2024-29018)"
    );
    let mut taken = Vec::new();
    for n in 10..30 {
        let id = format!("s{n}");
        let start = std::time::Instant::now();
        host.net()
            .create_sandbox(SandboxSpec::new(&id, SandboxMode::Managed))
            .await
            .expect("a sandbox");
        host.attach(&id, network, Some(&format!("10.0.1.{n}"))).await;
        taken.push(start.elapsed());
    }
    taken.sort();
    println!(
        "namespace and attach to an overlay with a VIP and DNS: {:?} (median of 20)",
        taken[10]
    );
    state.services.clear();
    host.net().set_overlay(state).await.expect("state");
    assert!(lookup(&ns, "web").unwrap_or_default().is_empty());
    host.net().shutdown_all().await.expect("nothing in the way");
}
