//! Fuzz targets for what the store reads: snapshots and entries of the log.

#![allow(clippy::unwrap_used)]

use pontoon_fuzz::fuzz;
use pontoon_proto::v1::{
    Annotations, Change, Changeset, Cluster, ContainerSpec, Network, Node, NodeSpec, Service, ServiceSpec,
    Task, TaskSpec, change,
};
use pontoon_store::{Store, codec};
use prost::Message;

fn annotations(name: &str) -> Option<Annotations> {
    Some(Annotations {
        name: name.to_owned(),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
    })
}

/// One change of every kind.
fn changes() -> Vec<Change> {
    let service = Service {
        id: "s1".into(),
        spec: Some(ServiceSpec {
            annotations: annotations("web"),
            task: Some(TaskSpec {
                container: Some(ContainerSpec {
                    image: "busybox".into(),
                    ..ContainerSpec::default()
                }),
                ..TaskSpec::default()
            }),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    let node = Node {
        id: "n1".into(),
        spec: Some(NodeSpec {
            annotations: annotations("node"),
            ..NodeSpec::default()
        }),
        ..Node::default()
    };
    let task = Task {
        id: "t1".into(),
        service_id: "s1".into(),
        node_id: "n1".into(),
        slot: 1,
        ..Task::default()
    };
    let network = Network {
        id: "net1".into(),
        vni: 4096,
        ..Network::default()
    };
    let cluster = Cluster {
        id: "c1".into(),
        ..Cluster::default()
    };
    let change = |change| Change { change: Some(change) };
    vec![
        change(change::Change::PutCluster(cluster)),
        change(change::Change::PutNode(node)),
        change(change::Change::PutService(service)),
        change(change::Change::PutTask(task)),
        change(change::Change::PutNetwork(network)),
        change(change::Change::DeleteTask("t0".into())),
    ]
}

fn changeset() -> Changeset {
    Changeset {
        base_version: 0,
        changes: changes(),
        at: 1,
        ..Changeset::default()
    }
}

fn filled() -> Store {
    let store = Store::new();
    store.apply(changeset());
    store
}

#[test]
fn snapshots() {
    let mut good = Vec::new();
    codec::encode(&filled().snapshot(), &mut good).unwrap();
    let target = filled();
    let before = target.snapshot();
    fuzz("snapshot", &[&good], |input| {
        match target.restore(&mut &input[..]) {
            Ok(()) => drop(target.restore(&mut &good[..])),
            Err(refused) => {
                assert!(!refused.to_string().is_empty());
                // Nothing of what was refused is left.
                assert_eq!(target.snapshot().version(), before.version());
            }
        }
    });
}

#[test]
fn entries() {
    let good = changeset().encode_to_vec();
    fuzz("entry", &[&good], |input| {
        if let Ok(changeset) = Changeset::decode(input) {
            // The same on every manager: it is applied or it is not.
            let (one, other) = (Store::new(), Store::new());
            assert_eq!(one.apply(changeset.clone()), other.apply(changeset));
            assert_eq!(one.snapshot().version(), other.snapshot().version());
        }
    });
}
