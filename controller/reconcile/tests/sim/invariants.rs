//! What must hold after every commit, checked against the plainest model there is: loops over all objects. What holds of any step,
//! in the simulation too, is in `rules`.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use pontoon_proto::v1::*;
use pontoon_store::{Snapshot, Store, codec};

use super::rules::{self, on_node, spec, state};

/// Checks a commit; `edited` is what users and agents wrote, before the reconciler went to work.
pub fn check(before: &Snapshot, edited: &Snapshot, after: &Snapshot, now: i64) {
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
        let may_run = on_node(task)
            && after
                .node(&task.node_id)
                .is_some_and(|node| !is_given_up(node, now));
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
    rules::check(before, after).unwrap_or_else(|what| panic!("{what}"));
    round_trip(after);
}

/// Whether the node has been down for a day.
fn is_given_up(node: &Node, now: i64) -> bool {
    let status = node.status.as_ref().unwrap();
    status.state() == NodeState::Down && now - status.since >= 24 * 3600 * super::SECOND
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
        for container in &node.containers {
            hold(&container.network_id, &container.addr, &container.container_id);
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

fn round_trip(view: &Snapshot) {
    let mut bytes = Vec::new();
    codec::encode(view, &mut bytes).unwrap();
    let copy = Store::new();
    copy.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(*copy.snapshot(), *view, "the restored snapshot differs");
}
