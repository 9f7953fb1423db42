//! netd as a process, asked from inside real network namespaces.
// Clippy's exemption for tests does not reach helper functions of an integration test.
#![allow(clippy::unwrap_used)]

mod host;

use std::{collections::BTreeMap, net::UdpSocket, process::Command};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use host::{Host, Namespace, Upstream, eventually, ips, run, zone};
use pontoon_dataplane::{Error, SandboxDns, State};

fn sandbox(namespace: &Namespace, networks: &[&str]) -> SandboxDns {
    SandboxDns {
        id: namespace.name.clone(),
        netns: namespace.path(),
        networks: networks.iter().map(ToString::to_string).collect(),
        ..SandboxDns::default()
    }
}

fn forwarding(namespace: &Namespace, upstreams: &[&str]) -> SandboxDns {
    let upstreams = upstreams.iter().map(|address| address.parse().unwrap()).collect();
    SandboxDns {
        upstreams,
        ..sandbox(namespace, &["net"])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sandbox_sees_its_networks_and_changes_at_once() {
    let (host, a, b) = (Host::new(), Namespace::new(), Namespace::new());
    let client = host.client().await;
    client
        .put_zone("red", zone(&[("web", &["10.0.0.2"]), ("red", &["10.0.0.3"])]))
        .await
        .unwrap();
    let in_a = client.put_sandbox(sandbox(&a, &["red", "blue"])).await.unwrap();
    let in_b = client.put_sandbox(sandbox(&b, &["blue"])).await.unwrap();
    client
        .put_zone("blue", zone(&[("web", &["10.1.0.2"])]))
        .await
        .unwrap();
    assert_eq!(a.resolve(in_a, "web."), Ok(ips(&["10.0.0.2"])));
    assert_eq!(b.resolve(in_b, "web."), Ok(ips(&["10.1.0.2"])));
    assert_eq!(
        b.resolve(in_b, "red."),
        Err(ResponseCode::ServFail),
        "no upstream knows"
    );
    for last in 1..=50u8 {
        // Every other change is small against the zone and goes as a patch.
        let address = format!("10.0.0.{last}");
        let mut names = zone(&[("web", &[address.as_str()])]);
        names
            .records
            .extend((0..last % 2 * 9).map(|i| (format!("n{i}"), ips(&["10.0.9.9"]))));
        client.put_zone("red", names.clone()).await.unwrap();
        assert_eq!(a.resolve(in_a, "web."), Ok(ips(&[&address])));
        names.records.insert("web".into(), ips(&["10.0.8.8"]));
        client.put_zone("red", names.clone()).await.unwrap();
        assert_eq!(a.resolve(in_a, "web."), Ok(ips(&["10.0.8.8"])));
        assert_eq!(client.state().await.unwrap().zones["red"], names);
    }
    client.remove_zone("red").await.unwrap();
    assert_eq!(a.resolve(in_a, "web."), Ok(ips(&["10.1.0.2"])));
    let again = client.put_sandbox(sandbox(&b, &[])).await.unwrap();
    assert_eq!(again, in_b, "the sockets stay");
    assert_eq!(b.resolve(in_b, "web."), Err(ResponseCode::ServFail));
    client.remove_sandbox(&b.name).await.unwrap();
    client.remove_sandbox(&b.name).await.unwrap();
    assert!(
        b.ask(in_b, "web.", RecordType::A).is_none(),
        "the socket is closed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_carries_what_udp_cannot() {
    let (host, ns) = (Host::new(), Namespace::new());
    let client = host.client().await;
    let ports = client.put_sandbox(sandbox(&ns, &["net"])).await.unwrap();
    let all: Vec<_> = (1..=200).map(|i| format!("10.0.0.{i}")).collect();
    let list: Vec<_> = all.iter().map(String::as_str).collect();
    client
        .put_zone("net", zone(&[("web", &list), ("db", &["10.0.1.1"])]))
        .await
        .unwrap();
    let cut = ns.ask(ports, "web.", RecordType::A).unwrap();
    assert!(cut.metadata.truncation && cut.answers.len() == 30);
    let whole = ns.ask_tcp(ports, &["web.", "db.", "web."]);
    let counts: Vec<_> = whole
        .iter()
        .map(|m| (m.answers.len(), m.metadata.truncation))
        .collect();
    assert_eq!(counts, [(200, false), (1, false), (200, false)]);
    assert_ne!(
        host::addresses(&whole[0])[0],
        host::addresses(&whole[2])[0],
        "answers rotate"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_names_are_asked_upstream() {
    let (host, ns) = (Host::new(), Namespace::new());
    let upstream = Upstream::joined_to(&ns);
    let client = host.client().await;
    let ports = client
        .put_sandbox(forwarding(&ns, &["10.77.0.2:53"]))
        .await
        .unwrap();
    client
        .put_zone("net", zone(&[("web", &["10.0.0.2"])]))
        .await
        .unwrap();
    assert_eq!(ns.resolve(ports, "web."), Ok(ips(&["10.0.0.2"])));
    assert_eq!(ns.ask(ports, "web.", RecordType::AAAA).unwrap().answers.len(), 0);
    assert_eq!(upstream.count(), 0, "what is known is not asked");
    assert_eq!(ns.resolve(ports, "www.example."), Ok(ips(&["192.0.2.1"])));
    assert_eq!(ns.resolve(ports, "single."), Ok(ips(&["192.0.2.1"])));
    assert_eq!(ns.resolve(ports, "missing.example."), Err(ResponseCode::NXDomain));
    assert_eq!(ns.resolve(ports, "spoofed.example."), Ok(ips(&["192.0.2.1"])));
    let cut = ns.ask(ports, "large.example.", RecordType::A).unwrap();
    assert!(cut.metadata.truncation);
    let whole = ns.ask_tcp(ports, &["large.example.", "www.example."]);
    assert_eq!((whole[0].answers.len(), whole[1].answers.len()), (100, 1));
    assert_eq!(ns.resolve(ports, "silent.example."), Err(ResponseCode::ServFail));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_passed_over() {
    let (host, ns) = (Host::new(), Namespace::new());
    let upstream = Upstream::joined_to(&ns);
    let client = host.client().await;
    // A closed port, an address that nobody has, an unreachable network, then one that answers.
    let servers = ["10.77.0.2:54", "203.0.113.9:53", "10.77.0.99:53", "10.77.0.2:53"];
    let ports = client.put_sandbox(forwarding(&ns, &servers)).await.unwrap();
    for name in ["www.example.", "two.example.", "three.example."] {
        assert_eq!(ns.resolve(ports, name), Ok(ips(&["192.0.2.1"])));
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_has_answered_is_not_asked_again() {
    let (host, ns) = (Host::new(), Namespace::new());
    let upstream = Upstream::joined_to(&ns);
    let client = host.client().await;
    let ports = client
        .put_sandbox(forwarding(&ns, &["10.77.0.2:53"]))
        .await
        .unwrap();
    for name in ["www.example.", "WWW.example.", "www.example."] {
        assert_eq!(ns.resolve(ports, name), Ok(ips(&["192.0.2.1"])));
    }
    assert_eq!(upstream.count(), 1);
    // By TCP it is the same question.
    assert_eq!(ns.ask_tcp(ports, &["www.example."])[0].answers.len(), 1);
    assert_eq!(upstream.count(), 1);
    // Nobody has said for how long this name is none.
    for _ in 0..2 {
        assert_eq!(ns.resolve(ports, "missing.example."), Err(ResponseCode::NXDomain));
    }
    assert_eq!(upstream.count(), 3);
    // A name of its networks comes first, from the moment that it is there.
    client
        .put_zone("net", zone(&[("www.example", &["10.0.0.2"])]))
        .await
        .unwrap();
    assert_eq!(ns.resolve(ports, "www.example."), Ok(ips(&["10.0.0.2"])));
    client.put_zone("net", zone(&[])).await.unwrap();
    assert_eq!(ns.resolve(ports, "www.example."), Ok(ips(&["192.0.2.1"])));
    assert_eq!(upstream.count(), 3);
    // Other servers may know better.
    let servers = ["10.77.0.2:54", "10.77.0.2:53"];
    client.put_sandbox(forwarding(&ns, &servers)).await.unwrap();
    assert_eq!(ns.resolve(ports, "www.example."), Ok(ips(&["192.0.2.1"])));
    assert_eq!(upstream.count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_sandbox_asks_nobody() {
    let (host, ns) = (Host::new(), Namespace::new());
    let upstream = Upstream::joined_to(&ns);
    let client = host.client().await;
    let internal = SandboxDns {
        internal: true,
        ..forwarding(&ns, &["10.77.0.2:53"])
    };
    let ports = client.put_sandbox(internal).await.unwrap();
    client
        .put_zone("net", zone(&[("web", &["10.0.0.2"])]))
        .await
        .unwrap();
    assert_eq!(ns.resolve(ports, "web."), Ok(ips(&["10.0.0.2"])));
    assert_eq!(
        ns.resolve(ports, "data.attacker.example."),
        Err(ResponseCode::NXDomain)
    );
    assert_eq!(
        ns.ask_tcp(ports, &["large.example."])[0].metadata.response_code,
        ResponseCode::NXDomain
    );
    assert_eq!(upstream.count(), 0, "CVE-2024-29018");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_netd_comes_back_on_the_same_ports() {
    let (host, a, b) = (Host::new(), Namespace::new(), Namespace::new());
    let client = host.client().await;
    let in_a = client.put_sandbox(sandbox(&a, &["net"])).await.unwrap();
    let in_b = client.put_sandbox(sandbox(&b, &["net"])).await.unwrap();
    client
        .put_zone("net", zone(&[("web", &["10.0.0.2"])]))
        .await
        .unwrap();
    let _ = a.ask_tcp(in_a, &["web."]);
    let mut watch = client.watch_ports();
    watch.mark_unchanged();
    let killed = host.kill();
    // Nobody calls: the client notices by itself.
    eventually("another netd runs", || {
        host.netd().is_some_and(|pid| pid != killed)
    });
    eventually("names resolve again", || {
        a.ask(in_a, "web.", RecordType::A).is_some()
    });
    assert_eq!(
        client.state().await.unwrap().ports,
        BTreeMap::from([(a.name.clone(), in_a), (b.name.clone(), in_b)])
    );
    assert_eq!(a.resolve(in_a, "web."), Ok(ips(&["10.0.0.2"])));
    assert_eq!(b.resolve(in_b, "web."), Ok(ips(&["10.0.0.2"])));
    assert_eq!(b.ask_tcp(in_b, &["web."]).len(), 1);
    assert!(!watch.has_changed().unwrap());
    // A change that meets the dying process is not lost either.
    for last in 1..=5 {
        host.kill();
        let address = format!("10.0.0.{last}");
        client
            .put_zone("net", zone(&[("web", &[&address])]))
            .await
            .unwrap();
        assert_eq!(a.resolve(in_a, "web."), Ok(ips(&[&address])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_resolve_while_the_daemon_is_away() {
    let (host, a, b) = (Host::new(), Namespace::new(), Namespace::new());
    let client = host.client().await;
    let in_a = client.put_sandbox(sandbox(&a, &["net"])).await.unwrap();
    client.put_sandbox(sandbox(&b, &["net"])).await.unwrap();
    client
        .put_zone("net", zone(&[("web", &["10.0.0.2"])]))
        .await
        .unwrap();
    let before = client.state().await.unwrap();
    let pid = host.netd();
    drop(client);
    assert_eq!(a.resolve(in_a, "web."), Ok(ips(&["10.0.0.2"])));
    let client = host.client().await;
    assert_eq!(host.netd(), pid, "the same process");
    assert_eq!(client.state().await.unwrap(), before);
    let mut state = State {
        sandboxes: before.sandboxes.clone(),
        ..State::default()
    };
    state.sandboxes.remove(&b.name);
    state.zones.insert("net".into(), zone(&[("web", &["10.0.0.9"])]));
    assert_eq!(
        client.sync(state).await.unwrap(),
        BTreeMap::from([(a.name.clone(), in_a)])
    );
    assert_eq!(a.resolve(in_a, "web."), Ok(ips(&["10.0.0.9"])));
    let second = Command::new(env!("CARGO_BIN_EXE_pontoon-netd"))
        .arg("netd")
        .arg(host.run_dir.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stdout).is_empty());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another netd serves"));
    client.shutdown().await.unwrap();
    eventually("netd has ended", || host.netd().is_none());
    assert!(matches!(client.state().await, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_let_go() {
    let (host, ns) = (Host::new(), Namespace::new());
    let client = host.client().await;
    client.put_sandbox(sandbox(&ns, &["net"])).await.unwrap();
    let pid = host.netd().unwrap();
    drop(ns);
    loop {
        if client.state().await.unwrap().sandboxes.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(client);
    std::fs::remove_dir_all(host.run_dir.path()).unwrap();
    let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    eventually("netd ends with its run directory", || !gone());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_cannot_be_served_is_refused_with_the_reason() {
    let (host, ns) = (Host::new(), Namespace::without_loopback());
    let client = host.client().await;
    // With no address at all the kernel would let us bind, having no table to look into.
    run(
        "ip",
        &[
            "-n", &ns.name, "link", "add", "up0", "type", "veth", "peer", "name", "up1",
        ],
    );
    run(
        "ip",
        &["-n", &ns.name, "addr", "add", "10.78.0.1/24", "dev", "up0"],
    );
    run("ip", &["-n", &ns.name, "link", "set", "up0", "up"]);
    let error = client
        .put_sandbox(sandbox(&ns, &[]))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("loopback interface must be up"), "{error}");
    let missing = SandboxDns {
        netns: "/nonexistent".into(),
        ..sandbox(&ns, &[])
    };
    let error = client.put_sandbox(missing).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent cannot be opened"), "{error}");
    assert_eq!(client.state().await.unwrap(), State::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_resolver_works_through_the_redirect() {
    let (host, ns) = (Host::new(), Namespace::new());
    let client = host.client().await;
    let ports = client.put_sandbox(sandbox(&ns, &["net"])).await.unwrap();
    client
        .put_zone("net", zone(&[("web", &["10.0.0.2"])]))
        .await
        .unwrap();
    let rules = format!(
        "add table ip t; add chain ip t out {{ type nat hook output priority -100; }};
         add rule ip t out ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:{};
         add rule ip t out ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:{}",
        ports.udp, ports.tcp
    );
    run("ip", &["netns", "exec", &ns.name, "nft", &rules]);
    // The sandbox's own server on port 53 does not collide.
    let own = ns.enter(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let lookup = [
        "netns",
        "exec",
        &ns.name,
        "busybox",
        "nslookup",
        "web",
        "127.0.0.11",
    ];
    let output = Command::new("ip").args(lookup).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("10.0.0.2"), "{text}");
    drop(own);
    let dig = [
        "netns",
        "exec",
        &ns.name,
        "dig",
        "+tcp",
        "+short",
        "@127.0.0.11",
        "web",
    ];
    match Command::new("ip").args(dig).output() {
        Ok(output) if output.status.success() => assert_eq!(output.stdout, b"10.0.0.2\n"),
        other => eprintln!("skipped the check with dig: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_does_not_stop_it() {
    let (host, ns) = (Host::new(), Namespace::new());
    let client = host.client().await;
    let ports = client.put_sandbox(sandbox(&ns, &["net"])).await.unwrap();
    client
        .put_zone("net", zone(&[("web", &["10.0.0.2"])]))
        .await
        .unwrap();
    ns.enter(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut seed = 1u32;
        for len in 0..600usize {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            })
            .take(len)
            .collect();
            let _ = socket.send_to(&bytes, ("127.0.0.11", ports.udp));
            if len % 50 == 0 {
                use std::io::Write;
                let mut stream = std::net::TcpStream::connect(("127.0.0.11", ports.tcp)).unwrap();
                let _ = stream.write_all(&bytes);
            }
        }
    });
    assert_eq!(ns.resolve(ports, "web."), Ok(ips(&["10.0.0.2"])));
    let pid = host.netd();
    {
        use std::io::Write;
        let mut control =
            std::os::unix::net::UnixStream::connect(host.run_dir.path().join("netd.sock")).unwrap();
        control
            .write_all(b"{\"id\":1,\"op\":\"nonsense\"}\n\xff\xfe\n")
            .unwrap();
    }
    assert_eq!(ns.ask_tcp(ports, &["web."]).len(), 1);
    assert_eq!(client.state().await.unwrap().sandboxes.len(), 1);
    assert_eq!(host.netd(), pid);
}
