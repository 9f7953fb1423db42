//! Snapshots that earlier versions wrote: each must be read for ever, with all that was in it.
//!
//! A version that changes the format adds its file with `cargo test -p pontoon-store --test fixtures write -- --ignored`, under a new
//! name, and leaves the old ones as they are.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.
#![allow(clippy::needless_update)] // Later versions have more fields.

use std::path::PathBuf;

use pontoon_proto::v1::*;
use pontoon_store::{ApplyOutcome, Error, FORMAT, Snapshot, Store, Tx, codec};
use prost::Message;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn annotations(name: &str) -> Option<Annotations> {
    Some(Annotations {
        name: name.to_owned(),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
    })
}

fn cluster() -> Cluster {
    Cluster {
        id: "cluster1".to_owned(),
        spec: Some(ClusterSpec {
            annotations: annotations("default"),
            heartbeat_period: 1_000_000_000,
            node_cert_expiry: 7_776_000_000_000_000,
            task_history_limit: Some(0),
            default_address_pool: vec!["10.0.0.0/8".to_owned()],
            subnet_size: 24,
            data_path_port: 4789,
            autolock_managers: true,
            ..Default::default()
        }),
        root_ca: Some(RootCa {
            certificate: b"certificate".as_slice().into(),
            key: b"key".as_slice().into(),
            join_tokens: Some(JoinTokens {
                worker: "SWMTKN-1-w".to_owned(),
                manager: "SWMTKN-1-m".to_owned(),
            }),
            ..Default::default()
        }),
        unlock_key: vec![5; 32].into(),
        ..Default::default()
    }
}

fn node() -> Node {
    Node {
        id: "node1".to_owned(),
        spec: Some(NodeSpec {
            annotations: annotations(""),
            role: NodeRole::Manager.into(),
            availability: Availability::Drain.into(),
        }),
        description: Some(NodeDescription {
            hostname: "host1".to_owned(),
            ..Default::default()
        }),
        status: Some(NodeStatus {
            state: NodeState::Ready.into(),
            message: "fine".to_owned(),
            ..Default::default()
        }),
        role: NodeRole::Manager.into(),
        ..Default::default()
    }
}

fn service() -> Service {
    let spec = |replicas| ServiceSpec {
        annotations: annotations("web"),
        mode: Some(service_spec::Mode::Replicated(ReplicatedMode { replicas })),
        ..Default::default()
    };
    Service {
        id: "service1".to_owned(),
        spec: Some(spec(3)),
        spec_version: 2,
        previous_spec: Some(spec(1)),
        retained: vec![VersionedSpec {
            version: 1,
            spec: Some(spec(1)),
        }],
        allocation_error: "no address is left".to_owned(),
        ..Default::default()
    }
}

fn task() -> Task {
    Task {
        id: "task1".to_owned(),
        service_id: "service1".to_owned(),
        spec_version: 2,
        slot: 3,
        node_id: "node1".to_owned(),
        desired_state: TaskState::Running.into(),
        status: Some(TaskStatus {
            state: TaskState::Starting.into(),
            timestamp: 12,
            message: "starting".to_owned(),
            ..Default::default()
        }),
        networks: vec![NetworkAttachment {
            network_id: "network1".to_owned(),
            addr: "10.0.1.5/24".to_owned(),
            aliases: vec!["web".to_owned()],
        }],
        start_not_before: 11,
        service_name: "web".to_owned(),
        running_at: 13,
        ..Default::default()
    }
}

fn network() -> Network {
    Network {
        id: "network1".to_owned(),
        spec: Some(NetworkSpec {
            annotations: annotations("front"),
            driver: "overlay".to_owned(),
            attachable: true,
            ..Default::default()
        }),
        vni: 4097,
        ..Default::default()
    }
}

fn changeset() -> Changeset {
    let mut tx = Tx::new(Snapshot::default());
    tx.put_cluster(cluster()).unwrap();
    tx.put_node(node()).unwrap();
    tx.put_network(network()).unwrap();
    tx.put_service(service()).unwrap();
    tx.put_task(task()).unwrap();
    tx.into_changeset(1_700_000_000_000_000_000)
}

fn store() -> Store {
    let store = Store::new();
    assert!(matches!(store.apply(changeset()), ApplyOutcome::Applied { .. }));
    store
}

#[test]
fn what_earlier_versions_wrote_is_read_with_all_that_was_in_it() {
    let bytes = std::fs::read(path("snapshot-1.bin")).unwrap();
    let found = codec::decode(&mut bytes.as_slice()).unwrap();
    assert_eq!(found, *store().snapshot());
    assert_eq!(found.cluster().unwrap().unlock_key, cluster().unlock_key);

    let bytes = std::fs::read(path("changeset-1.bin")).unwrap();
    assert_eq!(Changeset::decode(bytes.as_slice()).unwrap(), changeset());
}

#[test]
fn what_a_newer_version_wrote_is_refused_by_name() {
    let mut bytes = std::fs::read(path("snapshot-1.bin")).unwrap();
    // The header: version 1, time 1; with a format it is two bytes longer.
    let header = Changeset {
        base_version: 1,
        at: 1,
        ..Default::default()
    };
    let newer = Changeset {
        format: FORMAT + 1,
        ..header.clone()
    };
    let (old, new) = (
        header.encode_length_delimited_to_vec(),
        newer.encode_length_delimited_to_vec(),
    );
    assert_eq!(bytes[8..8 + old.len()], old);
    bytes.splice(8..8 + old.len(), new);
    let refused = codec::decode(&mut bytes.as_slice()).unwrap_err();
    assert!(
        matches!(refused, Error::Newer { format } if format == FORMAT + 1),
        "{refused}"
    );
    assert!(refused.to_string().contains("upgrade this manager"), "{refused}");
}

#[test]
#[ignore = "writes the fixtures of this version"]
fn write() {
    let mut bytes = Vec::new();
    codec::encode(&store().snapshot(), &mut bytes).unwrap();
    std::fs::write(path("snapshot-1.bin"), bytes).unwrap();
    std::fs::write(path("changeset-1.bin"), changeset().encode_to_vec()).unwrap();
}
