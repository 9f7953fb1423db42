//! What a container has without asking: files in /etc, loopback; the network of another container, links.

use pontoon_proto::v1::CreateContainerRequest;

use super::{bridged, connect, make, named};
use crate::bed::{Bed, cases, command, sh, with};

cases![
    files,
    none_has_loopback_only,
    network_of_another_container,
    network_links,
];

async fn files() {
    let bed = Bed::new().await;
    let request = with(
        bridged(sh("cat /etc/hosts /etc/hostname /etc/resolv.conf")),
        |config, _| {
            config.hostname = "box".into();
            config.hosts = vec!["other:192.0.2.7".into()];
        },
    );
    let (_, out, err) = bed.run(request).await;
    assert!(out.contains("127.0.0.1\tlocalhost"), "{out}{err}");
    assert!(out.contains("192.0.2.7\tother"), "{out}");
    assert!(
        out.lines()
            .any(|line| line.starts_with("172.") && line.ends_with("box")),
        "{out}"
    );
    assert!(
        out.contains("\nbox\n") && out.contains("192.0.2.53") && out.contains("example.org"),
        "{out}"
    );
    bed.finish().await;
}

async fn none_has_loopback_only() {
    let bed = Bed::new().await;
    let (_, out, err) = bed.run(sh("ls /sys/class/net; cat /etc/hosts | head -1")).await;
    assert_eq!(out, "lo\n127.0.0.1\tlocalhost\n", "{err}");
    bed.finish().await;
}

async fn network_of_another_container() {
    let bed = Bed::new().await;
    let owner = bed
        .start(named("owner", "bridge", command(&["sleep", "1000"])))
        .await;
    let ip = bed.inspect(&owner).networks[0].ip_address.clone();
    let (code, out, err) = bed
        .run(named(
            "guest",
            "container:owner",
            sh("ip addr show eth0; cat /etc/hosts; hostname"),
        ))
        .await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&ip) && out.contains(&format!("{ip}\t")), "{out}");
    assert!(out.ends_with(&format!("{}\n", &owner[..12])), "{out}");
    let error = bed
        .engine
        .connect_network(connect(
            "bridge",
            &bed.create(named("late", "container:owner", sh("true"))).await,
            |_| {},
        ))
        .await;
    assert!(error.unwrap_err().chain().contains("sharing network namespace"));
    bed.engine.remove(&owner, true).await.unwrap();
    let error = bed.engine.start("late").await.unwrap_err().chain();
    assert!(error.contains("No such container"), "{error}");
    bed.finish().await;
}

async fn network_links() {
    let bed = Bed::new().await;
    let db = with(command(&["sleep", "1000"]), |config, _| {
        config.env = vec!["SECRET=x".into()]
    });
    let db = CreateContainerRequest {
        exposed_ports: vec!["5432/tcp".into()],
        ..named("db", "bridge", db)
    };
    let db = bed.start(db).await;
    let ip = bed.inspect(&db).networks[0].ip_address.clone();
    let linked = |script: &str| {
        let request = with(sh(script), |_, host| host.links = vec!["db:store".into()]);
        named("web", "bridge", request)
    };
    let (code, out, err) = bed.run(linked("env; cat /etc/hosts; ping -c 1 -W 5 store")).await;
    assert_eq!(code, 0, "{out}{err}");
    for line in [
        format!("STORE_PORT_5432_TCP=tcp://{ip}:5432"),
        "STORE_NAME=/web/store".to_owned(),
        "STORE_ENV_SECRET=x".to_owned(),
        format!("{ip}\tstore {} db", &db[..12]),
    ] {
        assert!(out.contains(&line), "{line}: {out}");
    }
    make(&bed, "app", |_| {}).await;
    let other = bed
        .start(named("other", "app", command(&["sleep", "1000"])))
        .await;
    let on_user = with(sh("ping -c 1 -W 5 friend"), |_, host| {
        host.links = vec!["other:friend".into()]
    });
    let (code, out, err) = bed.run(named("web", "app", on_user)).await;
    assert_eq!(code, 0, "{out}{err}");
    let (code, ..) = bed
        .run(named("stranger", "app", sh("ping -c 1 -W 1 friend")))
        .await;
    assert_ne!(code, 0, "the name is for one container");
    bed.engine.remove(&other, true).await.unwrap();
    let bad = with(sh("true"), |_, host| host.links = vec!["nobody".into()]);
    assert!(bed.engine.create(named("x", "bridge", bad)).await.is_err());
    bed.finish().await;
}
