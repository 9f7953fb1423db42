//! What must hold after every commit, checked against the plainest model there is: loops over all objects.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use pontoon_proto::v1::*;
use pontoon_reconcile::constraint;
use pontoon_store::{Snapshot, Store, codec};

pub fn state(task: &Task) -> TaskState {
    task.status.as_ref().unwrap().state()
}

fn is_live(task: &Task) -> bool {
    task.desired_state() <= TaskState::Running
}

fn on_node(task: &Task) -> bool {
    state(task) >= TaskState::Assigned && !state(task).is_terminal()
}

/// The spec that a task runs.
pub fn spec<'a>(view: &'a Snapshot, task: &Task) -> Option<&'a ServiceSpec> {
    let service = view.service(&task.service_id)?;
    if service.spec_version == task.spec_version {
        return service.spec.as_ref();
    }
    service
        .retained
        .iter()
        .find(|v| v.version == task.spec_version)?
        .spec
        .as_ref()
}

/// Checks a commit; `edited` is what users and agents wrote, before the reconciler went to work.
pub fn check(before: &Snapshot, edited: &Snapshot, after: &Snapshot) {
    nothing_twice(after);
    for task in after.tasks() {
        let Some(old) = before.task(&task.id) else {
            continue;
        };
        assert!(
            state(old) <= state(task),
            "{}: {:?} -> {:?}",
            task.id,
            state(old),
            state(task)
        );
        assert!(
            old.desired_state <= task.desired_state,
            "{}: desired state moved back",
            task.id
        );
        assert!(
            !on_node(old) || old.node_id == task.node_id,
            "{} changed its node",
            task.id
        );
        assert!(
            !state(old).is_terminal() || state(old) == state(task),
            "{} ended twice",
            task.id
        );
    }
    for task in edited.tasks() {
        let may_run = on_node(task) && after.node(&task.node_id).is_some();
        assert!(
            !may_run || after.task(&task.id).is_some(),
            "{} was deleted while it may run",
            task.id
        );
    }
    for task in after
        .tasks()
        .filter(|task| after.service(&task.service_id).is_some())
    {
        assert!(
            spec(after, task).is_some(),
            "{}: version {} is not known",
            task.id,
            task.spec_version
        );
    }
    one_live_task_a_slot(after);
    placements(before, after);
    round_trip(after);
}

fn nothing_twice(view: &Snapshot) {
    let mut addresses = BTreeMap::new();
    let mut hold = |network: &str, addr: &str, owner: &str| {
        if addr.is_empty() {
            return;
        }
        let addr = addr.split('/').next().unwrap().to_owned();
        let gateway = view
            .network(network)
            .is_some_and(|n| n.ipam.iter().any(|i| i.gateway == addr));
        assert!(!gateway, "{owner} has the gateway's address {addr}");
        let key = (network.to_owned(), addr);
        let other = addresses.insert(key.clone(), owner.to_owned());
        assert_eq!(other, None, "{key:?} belongs to {owner} too");
    };
    for task in view.tasks().filter(|task| !state(task).is_terminal()) {
        for attachment in &task.networks {
            hold(&attachment.network_id, &attachment.addr, &task.id);
        }
    }
    for node in view.nodes() {
        for attachment in &node.attachments {
            hold(&attachment.network_id, &attachment.addr, &node.id);
        }
    }
    let mut ports = BTreeSet::new();
    for service in view.services() {
        let Some(endpoint) = &service.endpoint else {
            continue;
        };
        for vip in &endpoint.virtual_ips {
            hold(&vip.network_id, &vip.addr, &service.id);
        }
        for port in endpoint
            .ports
            .iter()
            .filter(|p| p.publish_mode() == PublishMode::Ingress)
        {
            assert!(port.published_port != 0, "a port was not chosen");
            assert!(
                ports.insert((port.protocol, port.published_port)),
                "port given twice: {port:?}"
            );
        }
    }
    let networks: Vec<_> = view.networks().filter(|network| network.vni != 0).collect();
    let vnis: BTreeSet<u32> = networks.iter().map(|network| network.vni).collect();
    assert_eq!(vnis.len(), networks.len(), "a VNI was given twice");
    assert!(vnis.iter().all(|vni| *vni >= 4096));
    let subnets: Vec<IpNet> = networks
        .iter()
        .flat_map(|n| &n.ipam)
        .map(|i| i.subnet.parse().unwrap())
        .collect();
    for (at, a) in subnets.iter().enumerate() {
        for b in &subnets[at + 1..] {
            assert!(!a.contains(b) && !b.contains(a), "subnets {a} and {b} overlap");
        }
    }
}

fn one_live_task_a_slot(view: &Snapshot) {
    let mut seen = BTreeSet::new();
    for task in view
        .tasks()
        .filter(|task| is_live(task) && !state(task).is_terminal())
    {
        let node = if task.slot == 0 {
            task.node_id.clone()
        } else {
            String::new()
        };
        let key = (task.service_id.clone(), task.slot, node, task.spec_version);
        assert!(
            seen.insert(key.clone()),
            "two live tasks of one version in {key:?}"
        );
    }
}

/// Whether the node's nature suits the task.
pub fn suits(node: &Node, placement: Option<&Placement>) -> bool {
    let Some(placement) = placement else { return true };
    let constraints = &placement.constraints;
    constraints
        .iter()
        .all(|text| constraint::parse(text).is_ok_and(|constraint| constraint.matches(node)))
}

pub fn is_open(node: &Node) -> bool {
    let ready = node.status.as_ref().unwrap().state() == NodeState::Ready;
    ready && node.spec.as_ref().unwrap().availability() == Availability::Active
}

/// (nano CPUs, memory) that a task of this spec reserves.
pub fn reserved(spec: Option<&ServiceSpec>) -> (i64, i64) {
    let resources = spec
        .and_then(|s| s.task.as_ref())
        .and_then(|t| t.resources.as_ref());
    resources
        .and_then(|r| r.reservations)
        .map_or((0, 0), |r| (r.nano_cpus, r.memory_bytes))
}

/// (nano CPUs, memory) reserved on a node.
pub fn used(view: &Snapshot, node: &str) -> (i64, i64) {
    let tasks = view.tasks_by_node(node).filter(|task| on_node(task));
    tasks
        .map(|task| reserved(spec(view, task)))
        .fold((0, 0), |sum, r| (sum.0 + r.0, sum.1 + r.1))
}

fn placements(before: &Snapshot, after: &Snapshot) {
    for task in after.tasks() {
        let placed = on_node(task) && before.task(&task.id).is_none_or(|old| !on_node(old));
        if !placed {
            continue;
        }
        let node = after
            .node(&task.node_id)
            .expect("placed on a node that does not exist");
        let spec = spec(after, task);
        let placement = spec
            .and_then(|s| s.task.as_ref())
            .and_then(|t| t.placement.as_ref());
        assert!(
            is_open(node),
            "{} was placed on {}, which takes no tasks",
            task.id,
            node.id
        );
        assert!(
            suits(node, placement),
            "{} was placed on {} against its constraints",
            task.id,
            node.id
        );
        let (cpus, memory) = used(after, &node.id);
        let has = node.description.as_ref().unwrap().resources.unwrap();
        let (needs_cpus, needs_memory) = reserved(spec);
        assert!(
            needs_cpus == 0 || cpus <= has.nano_cpus,
            "CPUs of {} are overbooked",
            node.id
        );
        assert!(
            needs_memory == 0 || memory <= has.memory_bytes,
            "memory of {} is overbooked",
            node.id
        );
        let limit = placement.map_or(0, |placement| placement.max_replicas);
        let same = after
            .tasks_by_node(&node.id)
            .filter(|t| t.service_id == task.service_id);
        let same = same.filter(|t| on_node(t) && is_live(t)).count() as u64;
        assert!(limit == 0 || same <= limit, "too many replicas on {}", node.id);
    }
}

fn round_trip(view: &Snapshot) {
    let mut bytes = Vec::new();
    codec::encode(view, &mut bytes).unwrap();
    let copy = Store::new();
    copy.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(*copy.snapshot(), *view, "the restored snapshot differs");
}
