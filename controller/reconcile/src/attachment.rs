//! Containers that are no tasks in attachable networks: what their nodes ask for, written into the node's object. The allocator then gives
//! the addresses; the node's removal frees them. Called by the controller's writer for the dispatcher.
//!
//! A node that is down keeps them: its containers may still run. What a node reports in a new session is the truth.

use pontoon_proto::v1::{ContainerAttachment, Network, Node};
use pontoon_store::{Snapshot, Tx};

/// Attachments that one node may have: its object is written whole with each change.
const MAX_PER_NODE: usize = 1000;
/// Names of one container.
const MAX_NAMES: usize = 64;
/// Bytes of an id, and of a name (a DNS name's).
const MAX_TEXT: usize = 253;

/// Why a container can't join a network. The words are Docker's where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such network.
    #[error("network {0} not found")]
    NoNetwork(String),
    /// Only tasks of services may join it.
    #[error("network {0} not manually attachable")]
    NotAttachable(String),
    /// The node was removed.
    #[error("node {0} is not part of the swarm")]
    NoNode(String),
    /// The node has too many.
    #[error("node {node} has {MAX_PER_NODE} containers in attachable networks, no more are taken")]
    TooMany {
        /// The node's id.
        node: String,
    },
    /// Ids or names that can't be right.
    #[error("invalid attachment: {0}")]
    Invalid(&'static str),
}

fn name_of(network: &Network) -> &str {
    let annotations = network.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations.map_or("", |annotations| annotations.name.as_str())
}

/// Whether containers may join a network.
///
/// # Errors
/// [`Refusal::NotAttachable`].
pub fn check_attachable(network: &Network) -> Result<(), Refusal> {
    let spec = network.spec.as_ref();
    match spec.is_some_and(|spec| spec.attachable && !spec.ingress) {
        true => Ok(()),
        false => Err(Refusal::NotAttachable(name_of(network).to_owned())),
    }
}

fn check(view: &Snapshot, attachment: &ContainerAttachment) -> Result<(), Refusal> {
    let ids = [&attachment.container_id, &attachment.network_id];
    if ids.iter().any(|id| id.is_empty() || id.len() > MAX_TEXT) {
        return Err(Refusal::Invalid("an id is missing or too long"));
    }
    let names = &attachment.names;
    if names.len() > MAX_NAMES || names.iter().any(|name| name.is_empty() || name.len() > MAX_TEXT) {
        return Err(Refusal::Invalid(
            "64 names at most, of 253 characters at most, are taken",
        ));
    }
    if attachment.wished_addr.len() > MAX_TEXT || attachment.addr.len() > MAX_TEXT {
        return Err(Refusal::Invalid("an address is too long"));
    }
    let network = view.network(&attachment.network_id);
    let network = network.ok_or_else(|| Refusal::NoNetwork(attachment.network_id.clone()))?;
    check_attachable(network)
}

/// The address part of `10.0.1.5/24`.
fn bare(addr: &str) -> &str {
    addr.split('/').next().unwrap_or(addr)
}

fn is_same(one: &ContainerAttachment, other: &ContainerAttachment) -> bool {
    one.container_id == other.container_id && one.network_id == other.network_id
}

/// The wish as it waits for its address.
fn waiting(wish: &ContainerAttachment) -> ContainerAttachment {
    ContainerAttachment {
        addr: String::new(),
        allocation_error: String::new(),
        ..wish.clone()
    }
}

/// Writes the node if it has become another.
fn put(tx: &mut Tx, before: &Node, node: Node) {
    if *before != node {
        // Only an empty id is refused, and this one comes from the store.
        drop(tx.put_node(node));
    }
}

/// A container joins a network. One that is in it keeps its address, unless it wants another.
///
/// # Errors
/// [`Refusal`].
pub fn attach(tx: &mut Tx, node_id: &str, wish: &ContainerAttachment) -> Result<(), Refusal> {
    check(tx, wish)?;
    let before = tx
        .node(node_id)
        .cloned()
        .ok_or_else(|| Refusal::NoNode(node_id.to_owned()))?;
    let mut node = Node::clone(&before);
    let mut new = waiting(wish);
    let is_full = node.containers.len() >= MAX_PER_NODE;
    match node.containers.iter_mut().find(|known| is_same(known, wish)) {
        Some(known) => {
            let fits = wish.wished_addr.is_empty() || wish.wished_addr == bare(&known.addr);
            if fits {
                new.addr.clone_from(&known.addr);
            }
            *known = new;
        }
        None if is_full => {
            let node = node_id.to_owned();
            return Err(Refusal::TooMany { node });
        }
        None => node.containers.push(new),
    }
    put(tx, &before, node);
    Ok(())
}

/// A container leaves a network. That it is not in it is fine.
pub fn detach(tx: &mut Tx, node_id: &str, container_id: &str, network_id: &str) {
    let Some(before) = tx.node(node_id).cloned() else {
        return;
    };
    let mut node = Node::clone(&before);
    node.containers
        .retain(|known| known.container_id != container_id || known.network_id != network_id);
    put(tx, &before, node);
}

/// Takes in all that a node says its containers have: others are given back. What is not known (a state from a backup) is taken in again
/// with the address that it has, if that is free and the network still takes containers.
pub fn report(tx: &mut Tx, node_id: &str, held: &[ContainerAttachment]) {
    let Some(before) = tx.node(node_id).cloned() else {
        return;
    };
    let mut node = Node::clone(&before);
    node.containers
        .retain(|known| held.iter().any(|held| is_same(known, held)));
    for held in held {
        if check(tx, held).is_err() {
            continue;
        }
        let is_full = node.containers.len() >= MAX_PER_NODE;
        match node.containers.iter_mut().find(|known| is_same(known, held)) {
            Some(known) => known.names.clone_from(&held.names),
            // Its call is still under way, or comes again.
            None if held.addr.is_empty() || is_full => {}
            None => node.containers.push(ContainerAttachment {
                wished_addr: bare(&held.addr).to_owned(),
                ..waiting(held)
            }),
        }
    }
    put(tx, &before, node);
}

/// A container in the network, in words, if there is one.
pub(crate) fn user_of(view: &Snapshot, network_id: &str) -> Option<String> {
    view.nodes().find_map(|node| {
        let attached = node.containers.iter().find(|c| c.network_id == network_id)?;
        let name = attached.names.first().unwrap_or(&attached.container_id);
        let description = node.description.as_ref();
        let on = description.map_or(node.id.as_str(), |description| description.hostname.as_str());
        Some(format!("container {name} on node {on}"))
    })
}
