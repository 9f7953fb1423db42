//! Networks that users make: names, connecting and disconnecting, both address families, the daemon's restart, pruning.

use pontoon_proto::v1::{
    ContainerNetwork, CreateContainerRequest, CreateNetworkRequest, DisconnectNetworkRequest, IpamConfig,
    PortBinding, PruneRequest,
};

use super::{bridged, connect, inside, make, named};
use crate::bed::{Bed, cases, command, filters, sh, with};

cases![
    user_network,
    connect_and_disconnect_while_it_runs,
    network_connections_survive_a_restart,
    network_with_both_families,
    network_prune_and_bad_requests,
];

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

fn disconnect(network: &str, container: &str) -> DisconnectNetworkRequest {
    DisconnectNetworkRequest {
        network: network.into(),
        container: container.into(),
        force: false,
    }
}

#[expect(clippy::too_many_lines, reason = "one life of a container, step by step")]
async fn connect_and_disconnect_while_it_runs() {
    let bed = Bed::new().await;
    make(&bed, "front", |_| {}).await;
    make(&bed, "back", |request| {
        request.ipam = vec![IpamConfig {
            subnet: "10.91.0.0/24".into(),
            ..IpamConfig::default()
        }];
    })
    .await;
    let server = bed
        .start(named("server", "front", command(&["sleep", "1000"])))
        .await;
    let db = bed.start(named("db", "back", command(&["sleep", "1000"]))).await;
    assert!(
        inside(&bed, &server, "ping -c 1 -W 1 db 2>&1 || echo unknown")
            .await
            .contains("unknown")
    );
    let joined = bed.engine.connect_network(connect("back", "server", |endpoint| {
        endpoint.ip_address = "10.91.0.77".into();
        endpoint.aliases = vec!["front-door".into()];
    }));
    joined.await.map_err(|e| e.chain()).unwrap();
    assert!(
        inside(&bed, &server, "ping -c 1 -W 5 db")
            .await
            .contains("1 packets received")
    );
    let out = inside(&bed, &db, "ping -c 1 -W 5 front-door").await;
    assert!(
        out.contains("10.91.0.77") && out.contains("1 packets received"),
        "{out}"
    );
    let view = bed.inspect(&server);
    let back = view.networks.iter().find(|n| n.network == "back").unwrap();
    assert_eq!(back.ip_address, "10.91.0.77");
    assert!(back.dns_names.contains(&"front-door".to_owned()), "{back:?}");
    assert!(
        inside(&bed, &server, "cat /etc/hosts")
            .await
            .contains("10.91.0.77")
    );
    let again = bed
        .engine
        .connect_network(connect("back", "server", |_| {}))
        .await;
    let text = again.unwrap_err().chain();
    assert_eq!(text, "endpoint with name server already exists in network back");
    // What fails leaves nothing.
    let taken = bed
        .engine
        .connect_network(connect("front", "db", |e| e.ip_address = "172.31.200.1".into()));
    assert!(taken.await.unwrap_err().chain().contains("no configured subnet"));
    assert_eq!(bed.inspect(&db).networks.len(), 1);
    bed.engine
        .disconnect_network(disconnect("front", "server"))
        .await
        .unwrap();
    let view = bed.inspect(&server);
    assert_eq!(view.networks.len(), 1);
    assert!(!inside(&bed, &server, "ip route").await.contains("172."));
    let error = bed
        .engine
        .disconnect_network(disconnect("front", "server"))
        .await
        .unwrap_err()
        .chain();
    assert!(error.contains("is not connected to network front"), "{error}");
    // A stopped container keeps its wish.
    let stop = pontoon_proto::v1::StopContainerRequest {
        target: db.clone(),
        ..Default::default()
    };
    bed.engine.stop(stop).await.unwrap();
    bed.engine
        .connect_network(connect("front", "db", |_| {}))
        .await
        .unwrap();
    bed.engine.start(&db).await.unwrap();
    assert_eq!(bed.inspect(&db).networks.len(), 2);
    assert!(bed.inspect(&db).networks.iter().all(|n| !n.ip_address.is_empty()));
    for name in ["host", "none"] {
        assert!(
            bed.engine
                .connect_network(connect(name, "db", |_| {}))
                .await
                .is_err()
        );
    }
    bed.finish().await;
}

async fn network_connections_survive_a_restart() {
    let mut bed = Bed::new().await;
    make(&bed, "front", |_| {}).await;
    make(&bed, "back", |_| {}).await;
    let id = bed
        .start(named("server", "front", command(&["sleep", "1000"])))
        .await;
    bed.engine
        .connect_network(connect("back", "server", |_| {}))
        .await
        .unwrap();
    let before = bed.inspect(&id).networks;
    bed.reopen().await;
    assert_eq!(bed.inspect(&id).networks, before);
    // An endpoint that no container wants any more: a disconnection that was cut short.
    let network = bed.engine.inspect_network("back").await.unwrap().id;
    bed.engine
        .disconnect_network(disconnect("back", "server"))
        .await
        .unwrap();
    let spec = pontoon_net::EndpointSpec {
        network_id: network,
        ..Default::default()
    };
    bed.engine.network().attach(&id, spec).await.unwrap();
    bed.reopen().await;
    assert_eq!(bed.inspect(&id).networks.len(), 1);
    assert!(
        bed.engine
            .inspect_network("back")
            .await
            .unwrap()
            .containers
            .is_empty()
    );
    bed.finish().await;
}

async fn network_with_both_families() {
    let bed = Bed::new().await;
    make(&bed, "dual", |request| {
        request.enable_ipv6 = true;
        request.ipam = vec![IpamConfig {
            subnet: "fd91::/64".into(),
            ..IpamConfig::default()
        }];
    })
    .await;
    let request = with(
        named("server", "dual", command(&["sleep", "1000"])),
        |config, host| {
            config.hosts = vec!["gate:host-gateway".into()];
            host.port_bindings = vec![PortBinding {
                container_port: 80,
                host_port: 18081,
                ..PortBinding::default()
            }];
        },
    );
    let id = bed.start(request).await;
    let view = bed.inspect(&id);
    let network = &view.networks[0];
    assert_eq!(
        (network.ipv6_address.as_str(), network.ipv6_prefix_len),
        ("fd91::2", 64)
    );
    assert_eq!(network.ipv6_gateway, "fd91::1");
    let shown: Vec<_> = view
        .ports
        .iter()
        .map(|p| (p.host_ip.as_str(), p.host_port))
        .collect();
    assert_eq!(shown, [("0.0.0.0", 18081), ("::", 18081)]);
    let hosts = inside(&bed, &id, "cat /etc/hosts").await;
    assert!(hosts.contains("fd91::2\t") && hosts.contains("\tgate"), "{hosts}");
    let (code, out, err) = bed
        .run(named("client", "dual", sh("nslookup -type=aaaa server.")))
        .await;
    assert!(code == 0 && out.contains("fd91::2"), "{out}{err}");
    let view = bed.engine.inspect_network("dual").await.unwrap();
    assert!(view.enable_ipv6 && view.enable_ipv4);
    assert_eq!(view.containers[0].ipv6_address, "fd91::2/64");
    bed.finish().await;
}

async fn network_prune_and_bad_requests() {
    let bed = Bed::new().await;
    make(&bed, "used", |_| {}).await;
    make(&bed, "kept", |request| {
        drop(request.labels.insert("keep".into(), String::new()))
    })
    .await;
    make(&bed, "idle", |_| {}).await;
    bed.start(named("server", "used", command(&["sleep", "1000"])))
        .await;
    let request = PruneRequest {
        filters: filters(&[("label!", "keep")]),
    };
    let pruned = bed.engine.prune_networks(&request).await.unwrap();
    assert_eq!(pruned.deleted, ["idle"]);
    let busy = bed.engine.remove_network("used").await.unwrap_err().chain();
    assert!(
        busy.contains("network used has active endpoints (name:\"server\" id:\""),
        "{busy}"
    );
    let refused = async |change: fn(&mut CreateNetworkRequest)| {
        let mut request = CreateNetworkRequest {
            name: "x".into(),
            ..Default::default()
        };
        change(&mut request);
        bed.engine.create_network(request).await.unwrap_err().chain()
    };
    let text = refused(|r| r.name = "kept".into()).await;
    assert!(text.contains("network with name kept already exists"), "{text}");
    let text = refused(|r| r.driver = "weave".into()).await;
    assert!(text.contains("plugin not found"), "{text}");
    let text = refused(|r| {
        drop(
            r.options
                .insert("com.docker.network.bridge.nothing".into(), String::new()),
        )
    })
    .await;
    assert!(
        text.contains("com.docker.network.bridge.nothing is not known"),
        "{text}"
    );
    let text = refused(|r| {
        r.ipam = vec![IpamConfig {
            subnet: "10.1.2.3/16".into(),
            ..IpamConfig::default()
        }];
    })
    .await;
    assert!(text.contains("it should be 10.1.0.0/16"), "{text}");
    bed.finish().await;
}
