//! The store against a plain map: indexes, names, changesets, the ring, the snapshot stream.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

use std::collections::BTreeMap;

use pontoon_proto::v1::*;
use pontoon_store::{ApplyOutcome, Error, Event, Kind, Snapshot, Store, Tx, codec};
use proptest::prelude::*;

fn annotations(name: &str) -> Option<Annotations> {
    Some(Annotations {
        name: name.to_owned(),
        ..Default::default()
    })
}

fn service(id: &str, name: &str) -> Service {
    let spec = ServiceSpec {
        annotations: annotations(name),
        ..Default::default()
    };
    Service {
        id: id.to_owned(),
        spec: Some(spec),
        ..Default::default()
    }
}

fn task(id: &str, service: &str, slot: u64, node: &str) -> Task {
    Task {
        id: id.to_owned(),
        service_id: service.to_owned(),
        slot,
        node_id: node.to_owned(),
        service_name: "web".to_owned(),
        ..Default::default()
    }
}

fn node(id: &str, hostname: &str) -> Node {
    let description = NodeDescription {
        hostname: hostname.to_owned(),
        ..Default::default()
    };
    Node {
        id: id.to_owned(),
        description: Some(description),
        ..Default::default()
    }
}

fn tx(store: &Store) -> Tx {
    Tx::new(Snapshot::clone(&store.snapshot()))
}

fn commit(store: &Store, edit: impl FnOnce(&mut Tx)) {
    let mut tx = tx(store);
    edit(&mut tx);
    let outcome = store.apply(tx.into_changeset(7));
    assert!(matches!(outcome, ApplyOutcome::Applied { .. }));
}

#[test]
fn finds_by_id_name_and_prefix_in_dockers_words() {
    let store = Store::new();
    commit(&store, |tx| {
        tx.put_service(service("abc1", "web")).unwrap();
        tx.put_service(service("abc2", "abc1x")).unwrap();
        tx.put_node(node("n1", "host")).unwrap();
        tx.put_node(node("n2", "host")).unwrap();
        tx.put_task(task("t1", "abc1", 1, "")).unwrap();
    });
    let view = store.snapshot();
    assert_eq!(view.find_service("web").unwrap().id, "abc1");
    assert_eq!(view.find_service("abc1").unwrap().id, "abc1");
    assert_eq!(view.find_service("abc1x").unwrap().id, "abc2");
    assert_eq!(view.find_task("web.1.t1").unwrap().id, "t1");
    let words = |error: Error| error.to_string();
    assert_eq!(
        words(view.find_service("abc").unwrap_err()),
        "service abc is ambiguous (2 matches found)"
    );
    assert_eq!(
        words(view.find_service("db").unwrap_err()),
        "service db not found"
    );
    assert_eq!(words(view.find_service("").unwrap_err()), "service  not found");
    assert_eq!(
        words(view.find_node("host").unwrap_err()),
        "node host is ambiguous (2 matches found)"
    );
    assert_eq!(
        words(view.find_task("web.2.t1").unwrap_err()),
        "task web.2.t1 not found"
    );
}

#[test]
fn a_name_belongs_to_one_object() {
    let store = Store::new();
    commit(&store, |tx| tx.put_service(service("a", "web")).unwrap());
    let mut tx = tx(&store);
    let error = tx.put_service(service("b", "web")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "name conflicts with an existing object: service web already exists"
    );
    tx.put_service(service("a", "db")).unwrap();
    tx.put_service(service("b", "web")).unwrap();
    tx.delete(Kind::Service, "a");
    tx.put_service(service("c", "db")).unwrap();
    store.apply(tx.into_changeset(1));
    let view = store.snapshot();
    assert_eq!(view.service_by_name("web").unwrap().id, "b");
    assert_eq!(view.service_by_name("db").unwrap().id, "c");
}

#[test]
fn names_can_be_swapped_in_one_changeset() {
    let store = Store::new();
    commit(&store, |tx| {
        tx.put_service(service("a", "x")).unwrap();
        tx.put_service(service("b", "y")).unwrap();
    });
    commit(&store, |tx| {
        tx.put_service(service("a", "tmp")).unwrap();
        tx.put_service(service("b", "x")).unwrap();
        tx.put_service(service("a", "y")).unwrap();
    });
    assert_eq!(store.snapshot().service_by_name("x").unwrap().id, "b");
    assert_eq!(store.snapshot().service_by_name("y").unwrap().id, "a");
}

#[test]
fn only_the_net_effect_is_written() {
    let store = Store::new();
    commit(&store, |tx| tx.put_service(service("a", "web")).unwrap());
    let mut tx = tx(&store);
    tx.put_task(task("t", "a", 1, "")).unwrap();
    tx.delete(Kind::Task, "t");
    let stored = Service::clone(store.snapshot().service("a").unwrap());
    tx.put_service(service("a", "db")).unwrap();
    tx.put_service(stored).unwrap();
    assert_eq!(tx.changes(), 2);
    assert!(tx.into_changeset(1).changes.is_empty());
}

#[test]
fn meta_tells_version_and_times() {
    let store = Store::new();
    commit(&store, |tx| tx.put_service(service("a", "web")).unwrap());
    let mut edit = tx(&store);
    edit.put_service(service("a", "db")).unwrap();
    store.apply(edit.into_changeset(9));
    let expected = Meta {
        version: 2,
        created_at: 7,
        updated_at: 9,
    };
    assert_eq!(store.snapshot().service("a").unwrap().meta, Some(expected));
}

#[test]
fn a_changeset_on_another_version_is_void() {
    let store = Store::new();
    let late = tx(&store);
    commit(&store, |tx| tx.put_service(service("a", "web")).unwrap());
    let before = store.snapshot();
    assert_eq!(
        store.apply(late.into_changeset(1)),
        ApplyOutcome::Stale { base: 0, current: 1 }
    );
    assert_eq!(store.snapshot(), before);
}

#[test]
fn the_ring_replays_or_asks_for_a_resync() {
    let store = Store::new();
    for at in 0..9000 {
        commit(&store, |tx| {
            tx.put_task(task(&format!("t{at}"), "a", 1, "")).unwrap()
        });
    }
    let changes = store.changes_since(8990).unwrap();
    let versions: Vec<u64> = changes.iter().map(|applied| applied.version).collect();
    assert_eq!(versions, (8991..=9000).collect::<Vec<_>>());
    let Event::Put(object) = &changes[0].events[0] else {
        panic!("expected a put")
    };
    assert_eq!((object.id(), object.meta().unwrap().version), ("t8990", 8991));
    assert!(store.changes_since(9000).unwrap().is_empty());
    assert!(store.changes_since(0).is_err());
    assert!(store.changes_since(9001).is_err());
    let mut bytes = Vec::new();
    codec::encode(&store.snapshot(), &mut bytes).unwrap();
    store.restore(&mut bytes.as_slice()).unwrap();
    assert!(store.changes_since(8990).is_err());
    assert!(store.changes_since(9000).unwrap().is_empty());
}

#[test]
fn a_damaged_stream_is_refused_and_changes_nothing() {
    let store = Store::new();
    commit(&store, |tx| {
        tx.put_service(service("a", "web")).unwrap();
        tx.put_task(task("t", "a", 1, "n")).unwrap();
    });
    let mut bytes = Vec::new();
    codec::encode(&store.snapshot(), &mut bytes).unwrap();
    let copy = Store::new();
    for cut in 0..bytes.len() {
        assert!(copy.restore(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
    let huge = [b"PONTOON1".as_slice(), &[0xff; 9], &[1]].concat();
    assert!(matches!(
        copy.restore(&mut huge.as_slice()),
        Err(Error::Corrupt(_))
    ));
    assert_eq!(copy.snapshot().version(), 0);
    copy.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(copy.snapshot(), store.snapshot());
}

#[derive(Debug, Clone)]
enum Op {
    Put { id: u8, service: u8, slot: u8, node: u8 },
    Delete(u8),
    Service(u8, u8),
    DeleteService(u8),
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..20u8, 0..4u8, 0..3u8, 0..4u8)
            .prop_map(|(id, service, slot, node)| Op::Put { id, service, slot, node }),
        2 => (0..20u8).prop_map(Op::Delete),
        2 => (0..4u8, 0..4u8).prop_map(|(id, name)| Op::Service(id, name)),
        1 => (0..4u8).prop_map(Op::DeleteService),
        2 => Just(Op::Commit),
    ]
}

/// Compares all indexes with what a look at every object says.
fn check_indexes(view: &Snapshot, model: &BTreeMap<String, Task>) {
    let stored: BTreeMap<_, _> = view
        .tasks()
        .map(|task| (task.id.clone(), Task::clone(task)))
        .collect();
    let bare = |task: &Task| Task {
        meta: None,
        ..task.clone()
    };
    assert_eq!(
        stored.values().map(bare).collect::<Vec<_>>(),
        model.values().cloned().collect::<Vec<_>>()
    );
    for number in 0..4 {
        let (service, node) = (format!("s{number}"), format!("n{number}"));
        let mut expected: Vec<_> = model.values().filter(|task| task.service_id == service).collect();
        expected.sort_by_key(|task| (task.slot, task.id.clone()));
        let found: Vec<_> = view.tasks_by_service(&service).map(|task| bare(task)).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        assert_eq!(view.service_task_count(&service), expected.len());
        for slot in 0..3 {
            let expected = expected.iter().filter(|task| task.slot == slot).count();
            assert_eq!(view.tasks_by_slot(&service, slot).count(), expected);
        }
        // A task without a node is on none.
        let on_node = model
            .values()
            .filter(|task| number != 0 && task.node_id == node)
            .count();
        assert_eq!(view.tasks_by_node(&node).count(), on_node);
    }
    for service in view.services() {
        let name = &service.spec.as_ref().unwrap().annotations.as_ref().unwrap().name;
        assert_eq!(view.service_by_name(name).unwrap().id, service.id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn indexes_replicas_diffs_and_streams_agree(ops in prop::collection::vec(op(), 1..80)) {
        let (store, replica) = (Store::new(), Store::new());
        let mut model = BTreeMap::new();
        let mut open = tx(&store);
        for op in ops.into_iter().chain([Op::Commit]) {
            match op {
                Op::Put { id, service, slot, node } => {
                    let node = if node == 0 { String::new() } else { format!("n{node}") };
                    let task = task(&format!("t{id}"), &format!("s{service}"), slot.into(), &node);
                    model.insert(task.id.clone(), task.clone());
                    open.put_task(task).unwrap();
                }
                Op::Delete(id) => {
                    let id = format!("t{id}");
                    prop_assert_eq!(open.delete(Kind::Task, &id), model.remove(&id).is_some());
                }
                Op::Service(id, name) => drop(open.put_service(service(&format!("s{id}"), &format!("name{name}")))),
                Op::DeleteService(id) => drop(open.delete(Kind::Service, &format!("s{id}"))),
                Op::Commit => {
                    let before = store.snapshot();
                    let view = open.view().clone();
                    let changeset = open.into_changeset(1);
                    // Over the wire, as a replica gets it.
                    let bytes = prost::Message::encode_to_vec(&changeset);
                    replica.apply(prost::Message::decode(bytes.as_slice()).unwrap());
                    store.apply(changeset);
                    let after = store.snapshot();
                    prop_assert_eq!(&after, &replica.snapshot());
                    prop_assert_eq!(after.task_count(), view.task_count());
                    let mut rebuilt: BTreeMap<_, _> = before.tasks().map(|t| (t.id.clone(), t.clone())).collect();
                    for (old, new) in after.diff(&before) {
                        match (old, new) {
                            (_, Some(pontoon_store::Object::Task(new))) => drop(rebuilt.insert(new.id.clone(), new)),
                            (Some(pontoon_store::Object::Task(old)), None) => drop(rebuilt.remove(&old.id)),
                            _ => {}
                        }
                    }
                    prop_assert!(rebuilt.values().eq(after.tasks()));
                    let mut stream = Vec::new();
                    codec::encode(&after, &mut stream).unwrap();
                    prop_assert_eq!(&codec::decode(&mut stream.as_slice()).unwrap(), &*after);
                    open = tx(&store);
                }
            }
            check_indexes(open.view(), &model);
        }
    }
}
