//! Look-up as users name things: by id, by name (nodes: hostname), by unique id prefix, in SwarmKit's order.

use std::sync::Arc;

use imbl::OrdMap;
use pontoon_proto::v1::{Network, Node, Service, Task};

use crate::tables::Shared;
use crate::{Error, Id, Kind, Result, Snapshot};

/// The one object whose id starts with `target`.
fn by_prefix<'a, T>(kind: Kind, table: &'a OrdMap<Id, Shared<T>>, target: &str) -> Result<&'a Arc<T>> {
    let not_found = || Error::NotFound {
        kind,
        target: target.to_owned(),
    };
    if target.is_empty() {
        return Err(not_found());
    }
    let from = Id::from(target);
    let mut matches = table.range(from..).take_while(|(id, _)| id.starts_with(target));
    let (_, first) = matches.next().ok_or_else(not_found)?;
    match matches.count() {
        0 => Ok(&first.0),
        more => Err(Error::Ambiguous {
            kind,
            target: target.to_owned(),
            matches: more + 1,
        }),
    }
}

/// The name that users know a node by: its own hostname, or the name given to it.
fn node_names(node: &Node) -> [Option<&str>; 2] {
    let hostname = node.description.as_ref().map(|d| d.hostname.as_str());
    let annotations = node.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    [hostname, annotations.map(|a| a.name.as_str())]
}

impl Snapshot {
    /// The service of this id, name or unique id prefix.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn find_service(&self, target: &str) -> Result<&Arc<Service>> {
        let exact = self.service(target).or_else(|| self.service_by_name(target));
        exact.map_or_else(|| by_prefix(Kind::Service, &self.tables.services, target), Ok)
    }

    /// The network of this id, name or unique id prefix.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn find_network(&self, target: &str) -> Result<&Arc<Network>> {
        let exact = self.network(target).or_else(|| self.network_by_name(target));
        exact.map_or_else(|| by_prefix(Kind::Network, &self.tables.networks, target), Ok)
    }

    /// The node of this id, hostname, name or unique id prefix. Several nodes may have one hostname.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn find_node(&self, target: &str) -> Result<&Arc<Node>> {
        if let Some(node) = self.node(target) {
            return Ok(node);
        }
        let named = |node: &&Arc<Node>| !target.is_empty() && node_names(node).contains(&Some(target));
        let mut matches = self.nodes().filter(named);
        let Some(first) = matches.next() else {
            return by_prefix(Kind::Node, &self.tables.nodes, target);
        };
        match matches.count() {
            0 => Ok(first),
            more => Err(Error::Ambiguous {
                kind: Kind::Node,
                target: target.to_owned(),
                matches: more + 1,
            }),
        }
    }

    /// The task of this id, name (`service.slot.taskid`) or unique id prefix.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn find_task(&self, target: &str) -> Result<&Arc<Task>> {
        if let Some(task) = self.task(target) {
            return Ok(task);
        }
        if let Some((_, id)) = target.rsplit_once('.')
            && let Some(task) = self.task(id)
            && task_name(task) == target
        {
            return Ok(task);
        }
        by_prefix(Kind::Task, &self.tables.tasks, target)
    }
}

/// A task's name, which is also its container's: `service.slot.taskid`, for global services `service.nodeid.taskid`.
#[must_use]
pub fn task_name(task: &Task) -> String {
    match task.slot {
        0 => format!("{}.{}.{}", task.service_name, task.node_id, task.id),
        slot => format!("{}.{slot}.{}", task.service_name, task.id),
    }
}
