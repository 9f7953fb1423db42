//! Our tables beside others': flushed, rebuilt under traffic, next to a firewall that drops.
mod host;

use std::path::Path;

use host::{
    Fleet, Server, ask, eventually, run_inside,
    specs::{on, port, sandbox, tcp},
};
use pontoon_net::Protocol;

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_table_comes_back_by_itself() {
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    host.sandbox("aaa", "bridge", None).await;
    host.sandbox("bbb", "bridge", None).await;
    let _web = Server::start(&host.netns("aaa"), 80, "web");
    host.net()
        .publish("aaa", &[tcp("0.0.0.0", Some(8080), 80)])
        .await
        .expect("free");
    // Elements are listed in the order of their hashes.
    let rules = || {
        let text = run_inside(&host.ns.path, "nft list ruleset");
        let mut words: Vec<_> = text.split([' ', '\n', '\t', ',']).map(str::to_owned).collect();
        words.retain(|word| !word.is_empty());
        words.sort();
        words
    };
    let before = rules();
    for damage in [
        "flush ruleset",
        "flush chain ip pontoon forward",
        "delete table ip pontoon",
    ] {
        run_inside(&host.ns.path, &format!("nft {damage}"));
        eventually("the rules are back", || rules() == before);
        let (_, seen) = ask(&fleet.switch.path, "10.99.0.1:8080").expect("published");
        assert_eq!(seen, "10.99.0.254", "translated, not carried by the proxy");
    }
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
    let target = format!("{}:81", host.address_of("aaa").await);
    assert!(
        ask(&fleet.switch.path, &target).is_err(),
        "our own table still decides"
    );
    host.net().shutdown_all().await.expect("nothing in the way");
    let listed = run_inside(&host.ns.path, "nft list ruleset");
    assert!(!listed.contains("pontoon"), "{listed}");
}
