//! Containers that are no tasks, as the cases tell of them.

use pontoon_proto::v1::*;
use pontoon_reconcile::attachment;
use pontoon_store::Snapshot;

use super::Sim;

/// A container joins a network as the dispatcher has it: what can't be given is taken back, with the reason.
pub fn attach(
    sim: &mut Sim,
    node: &str,
    words: &[&str],
    network: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    let [container, name, rest @ ..] = words else {
        panic!("attach NODE CONTAINER NETWORK [ADDR]");
    };
    let wish = ContainerAttachment {
        network_id: network(name),
        container_id: (*container).to_owned(),
        wished_addr: rest.first().copied().unwrap_or_default().to_owned(),
        names: vec![(*container).to_owned(), format!("{container}-alias")],
        ..Default::default()
    };
    sim.commit(|tx, _| attachment::attach(tx, node, &wish))
        .map_err(|refusal| refusal.to_string())?;
    let view = sim.view();
    let mut held = view.node(node).expect("a node").containers.iter();
    let held = held.find(|held| held.container_id == *container && held.network_id == wish.network_id);
    let held = held.expect("it is held").clone();
    if held.addr.is_empty() {
        sim.commit(|tx, _| attachment::detach(tx, node, container, &wish.network_id));
        return Err(held.allocation_error);
    }
    Ok(())
}

/// A new session of the node says that this is held: `CONTAINER=NETWORK:ADDR`.
pub fn register(sim: &mut Sim, node: &str, words: &[&str]) {
    let view = sim.view();
    let held = |word: &&str| {
        let (container, place) = word.split_once('=').expect("container=network:addr");
        let (network, addr) = place.split_once(':').expect("network:addr");
        let network = view.network_by_name(network);
        ContainerAttachment {
            network_id: network.map_or_else(|| "gone".to_owned(), |network| network.id.clone()),
            container_id: container.to_owned(),
            addr: addr.to_owned(),
            names: vec![container.to_owned()],
            ..Default::default()
        }
    };
    let held: Vec<_> = words.iter().map(held).collect();
    sim.commit(|tx, _| attachment::report(tx, node, &held));
}

/// `CONTAINER=ADDR` of a node's containers.
pub fn of(view: &Snapshot, node: &str) -> String {
    let containers = view.node(node).expect("a node").containers.iter();
    let shown: Vec<_> = containers
        .map(|held| format!("{}={}", held.container_id, held.addr))
        .collect();
    shown.join(" ")
}

/// A network's name.
pub fn name_of(network: &OverlayNetwork) -> &str {
    let annotations = network.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations.map_or("", |annotations| &annotations.name)
}

/// `NAME=ADDR` of what a node finds in a network besides services. Each of these has a peer.
pub fn names(told: &Assignments, network: &str) -> String {
    let Some(network) = told.networks.iter().find(|known| name_of(known) == network) else {
        return String::new();
    };
    for record in &network.tasks {
        assert!(
            network.peers.iter().any(|peer| peer.addr == record.addr),
            "{record:?}"
        );
    }
    let shown: Vec<_> = network
        .tasks
        .iter()
        .map(|record| format!("{}={}", record.name, record.addr))
        .collect();
    shown.join(" ")
}
