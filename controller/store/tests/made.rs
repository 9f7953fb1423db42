//! What a transaction says that it leads to, against what applying its changeset leads to.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

use pontoon_proto::v1::*;
use pontoon_store::{ApplyOutcome, Event, Kind, Snapshot, Store, Tx};
use proptest::prelude::*;
use prost::Message;

const KINDS: [Kind; 5] = [
    Kind::Cluster,
    Kind::Node,
    Kind::Network,
    Kind::Service,
    Kind::Task,
];

#[derive(Debug, Clone)]
enum Op {
    /// Kind, id, name or slot, and what else it says.
    Put(Kind, u8, u8, u8),
    Delete(Kind, u8),
    /// As it was at the begin of the transaction.
    Restore(Kind, u8),
    /// The transaction ends.
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = || (0..KINDS.len()).prop_map(|kind| KINDS[kind]);
    prop_oneof![
        8 => (kind(), 0..6u8, 0..4u8, 0..3u8).prop_map(|(kind, id, name, text)| Op::Put(kind, id, name, text)),
        3 => (kind(), 0..6u8).prop_map(|(kind, id)| Op::Delete(kind, id)),
        2 => (kind(), 0..6u8).prop_map(|(kind, id)| Op::Restore(kind, id)),
        2 => Just(Op::Commit),
    ]
}

fn annotations(name: u8) -> Option<Annotations> {
    Some(Annotations {
        name: format!("name{name}"),
        ..Annotations::default()
    })
}

/// A refused name leaves nothing.
fn put(tx: &mut Tx, kind: Kind, id: u8, name: u8, text: u8) {
    let id = format!("id{id}");
    // What the maker says of the time is not what counts.
    let meta = (text == 1).then_some(Meta {
        version: 3,
        created_at: 5,
        updated_at: 8,
    });
    let done = match kind {
        Kind::Cluster => tx.put_cluster(Cluster {
            id,
            meta,
            ..Cluster::default()
        }),
        Kind::Node => tx.put_node(Node {
            id,
            meta,
            description: Some(NodeDescription {
                hostname: format!("host{text}"),
                ..NodeDescription::default()
            }),
            ..Node::default()
        }),
        Kind::Network => tx.put_network(Network {
            id,
            meta,
            vni: text.into(),
            spec: Some(NetworkSpec {
                annotations: annotations(name),
                ..NetworkSpec::default()
            }),
            ..Network::default()
        }),
        Kind::Service => tx.put_service(Service {
            id,
            meta,
            spec_version: text.into(),
            spec: Some(ServiceSpec {
                annotations: annotations(name),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }),
        Kind::Task => tx.put_task(Task {
            id,
            meta,
            slot: name.into(),
            service_id: format!("id{text}"),
            node_id: if text == 2 {
                String::new()
            } else {
                format!("id{name}")
            },
            job_iteration: (text == 1).then_some(0),
            ..Task::default()
        }),
    };
    drop(done);
}

fn restore(tx: &mut Tx, kind: Kind, id: u8) {
    use pontoon_store::Object;
    let done = match tx.base().get(kind, &format!("id{id}")) {
        Some(Object::Cluster(o)) => tx.put_cluster(Cluster::clone(&o)),
        Some(Object::Node(o)) => tx.put_node(Node::clone(&o)),
        Some(Object::Network(o)) => tx.put_network(Network::clone(&o)),
        Some(Object::Service(o)) => tx.put_service(Service::clone(&o)),
        Some(Object::Task(o)) => tx.put_task(Task::clone(&o)),
        None => Ok(()),
    };
    drop(done);
}

/// Ends a transaction on both stores, one of which is told what it leads to; they must not differ in anything.
fn commit(tx: Tx, ours: &Store, theirs: &Store) {
    let version = ours.snapshot().version();
    let Some(made) = tx.clone().finish() else {
        let changes = tx.into_changeset(0).changes;
        assert!(changes.is_empty(), "{changes:?}");
        return;
    };
    let changeset = Changeset::decode(made.entry.as_slice()).unwrap();
    assert_eq!(changeset, tx.into_changeset(made.at()));
    let ApplyOutcome::Applied { version: applied } = theirs.apply(changeset) else {
        panic!("void");
    };
    let next = made.next().clone();
    assert_eq!(ours.publish(made), Some(applied));
    assert_eq!(applied, version + 1);
    assert_eq!(*ours.snapshot(), *theirs.snapshot());
    assert_eq!(*ours.snapshot(), next);
    let events = |store: &Store| store.changes_since(version).unwrap().pop().unwrap();
    let (ours, theirs) = (events(ours), events(theirs));
    assert_eq!(ours, theirs);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_published_is_what_applying_says(ops in prop::collection::vec(op(), 1..120)) {
        let (ours, theirs) = (Store::new(), Store::new());
        let mut at = 100;
        let mut tx = Tx::at(Snapshot::default(), at);
        for op in ops {
            match op {
                Op::Put(kind, id, name, text) => put(&mut tx, kind, id, name, text),
                Op::Delete(kind, id) => drop(tx.delete(kind, &format!("id{id}"))),
                Op::Restore(kind, id) => restore(&mut tx, kind, id),
                Op::Commit => {
                    at += 10;
                    let base = Snapshot::clone(&ours.snapshot());
                    commit(std::mem::replace(&mut tx, Tx::at(base.clone(), at)), &ours, &theirs);
                    tx = Tx::at(Snapshot::clone(&ours.snapshot()), at);
                }
            }
        }
        commit(tx, &ours, &theirs);
    }
}

fn task(id: &str, message: &str) -> Task {
    Task {
        id: id.to_owned(),
        status: Some(TaskStatus {
            message: message.to_owned(),
            ..TaskStatus::default()
        }),
        ..Task::default()
    }
}

#[test]
fn another_entry_in_between_voids_it() {
    let store = Store::new();
    let begin = |at| Tx::at(Snapshot::clone(&store.snapshot()), at);
    let mut tx = begin(1);
    tx.put_task(task("a", "ours")).unwrap();
    let made = tx.finish().unwrap();
    let mut other = begin(2);
    other.put_task(task("b", "another leader's")).unwrap();
    store.apply(other.into_changeset(2));
    assert_eq!(store.publish(made), None);
    let view = store.snapshot();
    assert_eq!((view.version(), view.task("a")), (1, None));
}

#[test]
fn one_that_was_made_on_another_state_of_the_same_version_is_void() {
    let (store, elsewhere) = (Store::new(), Store::new());
    for (store, id) in [(&store, "a"), (&elsewhere, "b")] {
        let mut tx = Tx::at(Snapshot::default(), 1);
        tx.put_task(task(id, "")).unwrap();
        store.publish(tx.finish().unwrap()).unwrap();
    }
    let mut tx = Tx::at(Snapshot::clone(&elsewhere.snapshot()), 2);
    tx.put_task(task("c", "")).unwrap();
    assert_eq!(store.publish(tx.finish().unwrap()), None);
}

#[test]
fn what_was_made_and_taken_back_is_nothing() {
    let store = Store::new();
    let mut tx = Tx::at(Snapshot::default(), 1);
    tx.put_task(task("a", "before")).unwrap();
    store.publish(tx.finish().unwrap()).unwrap();
    let mut tx = Tx::at(Snapshot::clone(&store.snapshot()), 2);
    tx.put_task(task("a", "after")).unwrap();
    tx.put_task(task("a", "before")).unwrap();
    tx.put_task(task("b", "made")).unwrap();
    tx.delete(Kind::Task, "b");
    assert!(tx.finish().is_none());
    let mut tx = Tx::at(Snapshot::clone(&store.snapshot()), 2);
    tx.delete(Kind::Task, "a");
    tx.put_task(task("a", "after")).unwrap();
    let made = tx.finish().unwrap();
    let meta = made.next().task("a").unwrap().meta.unwrap();
    assert_eq!((meta.version, meta.created_at, meta.updated_at), (2, 1, 2));
    store.publish(made).unwrap();
    let events = &store.changes_since(1).unwrap()[0].events;
    assert!(matches!(events.as_slice(), [Event::Put(_)]));
}
