//! Containers that are no tasks: an address in each attachable network that their nodes say they join.

use std::net::IpAddr;

use pontoon_proto::v1::{ContainerAttachment, Network, Node};
use pontoon_store::{Id, Kind};

use super::Allocations;
use crate::pass::Pass;

/// Whether an address is still to be given.
pub(super) fn waits(attachment: &ContainerAttachment) -> bool {
    attachment.addr.is_empty() && attachment.allocation_error.is_empty()
}

/// Gives all that wait their address, or the reason why there is none: whoever asked is waiting, so nothing is tried again later.
pub(super) fn run(pass: &mut Pass<'_, '_>) {
    let nodes: Vec<Id> = pass.state.alloc.containers.iter().cloned().collect();
    for id in nodes {
        let Some(node) = pass.tx.node(&id).cloned() else {
            continue;
        };
        if !pass.may_write(Kind::Node, &id) {
            pass.state.alloc.retry = true;
            return;
        }
        let mut node = Node::clone(&node);
        for attachment in node.containers.iter_mut().filter(|attachment| waits(attachment)) {
            match give(pass, attachment) {
                Ok(addr) => attachment.addr = addr,
                Err(reason) => attachment.allocation_error = reason,
            }
        }
        pass.state.alloc.containers.remove(&id);
        pass.put_node(node);
    }
}

fn give(pass: &mut Pass<'_, '_>, attachment: &ContainerAttachment) -> Result<String, String> {
    let network = pass.tx.network(&attachment.network_id).cloned();
    let network = network.ok_or_else(|| format!("network {} not found", attachment.network_id))?;
    let alloc = &mut pass.state.alloc;
    if attachment.wished_addr.is_empty() {
        let (address, prefix) = alloc.take_address(&network)?;
        return Ok(format!("{address}/{prefix}"));
    }
    let wished: IpAddr = attachment
        .wished_addr
        .parse()
        .map_err(|_| format!("invalid IPv4 address: {}", attachment.wished_addr))?;
    let prefix = alloc.take_this_address(&network, wished)?;
    Ok(format!("{wished}/{prefix}"))
}

impl Allocations {
    /// This very address of the network, with its prefix length; it may lie outside of the range that others are given from.
    fn take_this_address(&mut self, network: &Network, wished: IpAddr) -> Result<u8, String> {
        let pools = self.addresses.get_mut(network.id.as_bytes());
        let pool = pools
            .into_iter()
            .flatten()
            .find(|pool| pool.subnet().contains(&wished));
        let Some(pool) = pool else {
            return Err(format!(
                "invalid endpoint settings: no configured subnet contains IP address {wished}"
            ));
        };
        match pool.allocate_specific(wished) {
            Ok(()) => Ok(pool.subnet().prefix_len()),
            Err(pontoon_ipam::Error::AddressInUse { .. }) => Err("Address already in use".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
