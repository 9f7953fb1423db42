//! Networks: files in /etc, bridges, published ports, names.

use std::io::{Read, Write};
use std::net::TcpStream;

use pontoon_proto::v1::{ContainerNetwork, CreateContainerRequest, CreateNetworkRequest, PortBinding};

use crate::bed::{Bed, cases, command, eventually, sh, with};

cases![
    files,
    none_has_loopback_only,
    published_port,
    user_network,
    failed_publish_leaves_nothing
];

fn bridged(request: CreateContainerRequest) -> CreateContainerRequest {
    with(request, |_, host| host.network_mode.clear())
}

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

fn http(port: u32) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).ok()?;
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

fn web(host_port: u32) -> CreateContainerRequest {
    let script = "mkdir /www; echo served > /www/file; httpd -f -p 80 -h /www";
    with(bridged(sh(script)), |_, host| {
        host.port_bindings = vec![PortBinding {
            container_port: 80,
            host_port,
            ..PortBinding::default()
        }];
    })
}

async fn published_port() {
    let mut bed = Bed::new().await;
    let id = bed.start(web(0)).await;
    let view = bed.inspect(&id);
    let port = view.ports[0].host_port;
    assert!(
        port >= 32768 && view.networks[0].ip_address.starts_with("172."),
        "{view:?}"
    );
    let answer = eventually("the port answers", || async { http(port) }).await;
    assert!(answer.ends_with("served\n"), "{answer}");
    // The daemon's restart leaves network and ports alone.
    bed.reopen().await;
    assert_eq!(bed.inspect(&id).ports[0].host_port, port);
    assert!(http(port).unwrap().ends_with("served\n"));
    let stop = pontoon_proto::v1::StopContainerRequest {
        target: id.clone(),
        ..Default::default()
    };
    bed.engine.stop(stop).await.unwrap();
    assert!(http(port).is_none());
    assert!(bed.inspect(&id).ports.is_empty());
    bed.finish().await;
}

async fn failed_publish_leaves_nothing() {
    let bed = Bed::new().await;
    let first = bed.start(web(18080)).await;
    let second = bed.create(web(18080)).await;
    let error = bed.engine.start(&second).await.unwrap_err().chain();
    assert!(error.contains("port is already allocated"), "{error}");
    bed.engine.remove(&first, true).await.unwrap();
    bed.engine.remove(&second, false).await.unwrap();
    bed.assert_empty().await;
    let again = bed.start(web(18080)).await;
    bed.engine.remove(&again, true).await.unwrap();
    bed.finish().await;
}

async fn user_network() {
    let bed = Bed::new().await;
    let created = bed
        .engine
        .create_network(CreateNetworkRequest {
            name: "app".into(),
            driver: "bridge".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let join = |request: CreateContainerRequest, alias: &str| CreateContainerRequest {
        networks: vec![ContainerNetwork {
            network: "app".into(),
            aliases: vec![alias.into()],
            ..ContainerNetwork::default()
        }],
        ..bridged(request)
    };
    let server = CreateContainerRequest {
        name: "server".into(),
        ..join(command(&["sleep", "1000"]), "db")
    };
    let id = bed.start(server).await;
    let view = bed.engine.inspect_network("app").await.unwrap();
    assert_eq!(view.id, created.id);
    assert_eq!(
        (view.containers.len(), view.containers[0].name.as_str()),
        (1, "server")
    );
    let (code, out, err) = bed
        .run(join(sh("ping -c 1 -W 5 db && ping -c 1 -W 5 server"), "client"))
        .await;
    assert_eq!(code, 0, "{out}{err}");
    let error = bed.engine.remove_network("app").await.unwrap_err().chain();
    assert!(error.contains("has active endpoints"), "{error}");
    bed.engine.remove(&id, true).await.unwrap();
    assert_eq!(bed.engine.remove_network("app").await.unwrap(), created.id);
    assert_eq!(
        bed.engine.inspect_network("app").await.unwrap_err().to_string(),
        "network app not found"
    );
    let missing = with(command(&["true"]), |_, host| host.network_mode = "app".into());
    assert!(bed.engine.create(missing).await.is_err());
    bed.finish().await;
}
