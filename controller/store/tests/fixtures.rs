//! Snapshots that earlier versions wrote: each must be read for ever, with all that was in it.
//!
//! A version that changes the format adds its file with `cargo test -p pontoon-store --test fixtures write -- --ignored`, under a new
//! name, and leaves the old ones as they are.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.
#![allow(clippy::needless_update)] // Later versions have more fields.

use std::path::PathBuf;

use pontoon_proto::v1::*;
use pontoon_store::{ApplyOutcome, Error, FORMAT, Kind, Snapshot, Store, Tx, codec};
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

/// A job in its third run, which waits for another service and holds a unit of a generic resource: format 2.
fn job() -> (Service, Task) {
    let mode = ReplicatedJobMode {
        max_concurrent: 2,
        total_completions: 9,
    };
    let service = Service {
        id: "service2".to_owned(),
        spec: Some(ServiceSpec {
            annotations: annotations("migrate"),
            mode: Some(service_spec::Mode::ReplicatedJob(mode)),
            depends_on: vec![Dependency {
                service: "db".to_owned(),
                condition: dependency::Condition::Healthy.into(),
                optional: true,
            }],
            task: Some(TaskSpec {
                drain_period: Some(15),
                resources: Some(ResourceRequirements {
                    generic_reservations: vec![gpu("")],
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        spec_version: 1,
        released_version: 1,
        waits_for: "nothing".to_owned(),
        job_status: Some(JobStatus {
            iteration: 2,
            last_execution: 14,
        }),
        ..Default::default()
    };
    let task = Task {
        id: "task2".to_owned(),
        service_id: "service2".to_owned(),
        spec_version: 1,
        slot: 4,
        desired_state: TaskState::Complete.into(),
        job_iteration: Some(2),
        steps: vec![TaskStep {
            at: 16,
            state: TaskState::Pending.into(),
            reason: "the one before failed".to_owned(),
        }],
        generic_resources: vec![gpu("gpu0")],
        service_name: "migrate".to_owned(),
        ..Default::default()
    };
    (service, task)
}

/// One unit: any, or the one of that name.
fn gpu(name: &str) -> GenericResource {
    GenericResource {
        kind: "gpu".to_owned(),
        name: name.to_owned(),
        count: i64::from(name.is_empty()),
    }
}

fn changeset_with_job() -> Changeset {
    let mut tx = Tx::new(Snapshot::default());
    let (service, task) = job();
    tx.put_cluster(cluster()).unwrap();
    tx.put_service(service).unwrap();
    tx.put_task(task).unwrap();
    tx.into_changeset(1_800_000_000_000_000_000)
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

fn store(changeset: Changeset) -> Store {
    let store = Store::new();
    assert!(matches!(store.apply(changeset), ApplyOutcome::Applied { .. }));
    store
}

#[test]
fn what_earlier_versions_wrote_is_read_with_all_that_was_in_it() {
    let bytes = std::fs::read(path("snapshot-1.bin")).unwrap();
    let found = codec::decode(&mut bytes.as_slice()).unwrap();
    assert_eq!(found, *store(changeset()).snapshot());
    assert_eq!(found.cluster().unwrap().unlock_key, cluster().unlock_key);

    let bytes = std::fs::read(path("changeset-1.bin")).unwrap();
    assert_eq!(Changeset::decode(bytes.as_slice()).unwrap(), changeset());

    let bytes = std::fs::read(path("snapshot-2.bin")).unwrap();
    let found = codec::decode(&mut bytes.as_slice()).unwrap();
    assert_eq!(found, *store(changeset_with_job()).snapshot());
    let bytes = std::fs::read(path("changeset-2.bin")).unwrap();
    assert_eq!(Changeset::decode(bytes.as_slice()).unwrap(), changeset_with_job());
}

fn task_of(spec: &mut ServiceSpec) -> &mut TaskSpec {
    spec.task.get_or_insert_default()
}

#[test]
fn only_what_an_older_version_would_lose_raises_the_format() {
    assert_eq!(changeset().format, 0);
    assert_eq!(changeset_with_job().format, 2);
    let news: [fn(&mut ServiceSpec); 4] = [
        |spec| task_of(spec).restart.get_or_insert_default().max_delay = Some(1),
        |spec| task_of(spec).drain_period = Some(0),
        |spec| spec.depends_on.push(Dependency::default()),
        |spec| {
            let resources = task_of(spec).resources.get_or_insert_default();
            resources.generic_reservations.push(gpu(""));
        },
    ];
    for news in news {
        let mut service = service();
        news(service.previous_spec.get_or_insert_default());
        let mut tx = Tx::new(Snapshot::default());
        tx.put_service(service).unwrap();
        assert_eq!(tx.into_changeset(1).format, 2);
    }
    let mut node = node();
    node.description.get_or_insert_default().generic_resources = vec![gpu("gpu0")];
    let mut tx = Tx::new(Snapshot::default());
    tx.put_node(node).unwrap();
    assert_eq!(tx.into_changeset(1).format, 2);
    // A changeset that only takes the job away can be read by all.
    let view = store(changeset_with_job()).snapshot();
    let mut tx = Tx::new(Snapshot::clone(&view));
    tx.delete(Kind::Task, "task2");
    tx.delete(Kind::Service, "service2");
    assert_eq!(tx.into_changeset(1).format, 0);
    let mut bytes = Vec::new();
    codec::encode(&view, &mut bytes).unwrap();
    let header = Changeset::decode_length_delimited(&bytes[8..]).unwrap();
    assert_eq!(header.format, 2);
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
    codec::encode(&store(changeset_with_job()).snapshot(), &mut bytes).unwrap();
    std::fs::write(path("snapshot-2.bin"), bytes).unwrap();
    std::fs::write(path("changeset-2.bin"), changeset_with_job().encode_to_vec()).unwrap();
}
