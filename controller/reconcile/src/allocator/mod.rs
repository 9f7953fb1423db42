//! Gives networks their VNI and subnet, services their virtual IPs and published ports, tasks and nodes their addresses.
//! What can't be given is tried again when something was released; the reason stays in the object meanwhile.
//!
//! - `pools`: who holds what, followed from the objects; `network`, `service`, `task`, `container`: giving.
//!
//! An address is free again only when the task that has it has ended for certain.

mod container;
mod network;
mod pools;
mod service;
mod task;

pub(crate) use pools::Allocations;
pub(crate) use service::{conflict, shares_port};

use pontoon_store::Id;

use crate::pass::Pass;

/// Names that stand for networks which every node has by itself.
pub(crate) const NODE_NETWORKS: [&str; 3] = ["host", "bridge", "none"];

/// Gives what is asked for and can be given.
pub(crate) fn run(pass: &mut Pass<'_, '_>) {
    if !pass.state.alloc.retry {
        return;
    }
    pass.state.alloc.retry = false;
    network::run(pass);
    container::run(pass);
    let services: Vec<Id> = pass.state.alloc.services.iter().cloned().collect();
    for id in services {
        // Beyond the budget if need be: their tasks, which were made within it, wait for this.
        if service::allocate(pass, &id) {
            pass.state.alloc.services.remove(&id);
        }
    }
    task::run(pass);
}
