//! What a task of one spec version asks of a node, worked out once a version; and what the tasks on a node use. Kept in
//! the reconciler's state, read by the scheduler and by constraint enforcement.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_proto::v1::{
    GenericResource, MountType, Node, Platform, PublishMode, Resources, ServiceSpec, Task, TaskSpec,
    TaskState,
};
use pontoon_store::Id;

use crate::constraint::{self, Constraint};
use crate::generic::Held;
use crate::state::{is_live, state_of};
use crate::versions;

/// What tasks of one spec version ask of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Demand {
    /// Whose tasks they are.
    pub(crate) service: Id,
    pub(crate) nano_cpus: i64,
    pub(crate) memory: i64,
    pub(crate) generic: Vec<GenericResource>,
    /// (type, name) of the drivers that its node must have, as nodes report them.
    pub(crate) plugins: Vec<(&'static str, String)>,
    /// (protocol, port) published in host mode.
    pub(crate) host_ports: Vec<(i32, u32)>,
    pub(crate) constraints: Vec<Constraint>,
    /// A constraint can't be read (the API refuses such): no node fits.
    pub(crate) impossible: bool,
    /// Keys of labels over whose values tasks are spread, outermost first.
    pub(crate) spread: Vec<String>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) max_replicas: u64,
}

impl Demand {
    pub(crate) fn new(service_id: &str, spec: &ServiceSpec) -> Self {
        let task = spec.task.as_ref();
        let placement = task.and_then(|task| task.placement.as_ref());
        let resources = task.and_then(|task| task.resources.as_ref());
        let reserved = resources.and_then(|resources| resources.reservations.as_ref());
        let parsed = placement
            .map_or(&[][..], |p| &p.constraints)
            .iter()
            .map(|text| constraint::parse(text));
        let constraints: Result<Vec<_>, _> = parsed.collect();
        let host = versions::ports(spec.endpoint.as_ref(), PublishMode::Host);
        Self {
            service: service_id.into(),
            nano_cpus: reserved.map_or(0, |r| r.nano_cpus),
            memory: reserved.map_or(0, |r| r.memory_bytes),
            generic: resources.map_or_else(Vec::new, |r| r.generic_reservations.clone()),
            plugins: task.map_or_else(Vec::new, plugins),
            host_ports: host
                .filter(|p| p.published_port != 0)
                .map(|p| (p.protocol, p.published_port))
                .collect(),
            impossible: constraints.is_err(),
            constraints: constraints.unwrap_or_default(),
            spread: placement.map_or_else(Vec::new, |p| {
                p.preferences
                    .iter()
                    .map(|preference| preference.spread_descriptor.clone())
                    .collect()
            }),
            platforms: placement.map_or_else(Vec::new, |p| p.platforms.clone()),
            max_replicas: placement.map_or(0, |p| p.max_replicas),
        }
    }

    /// Of a service of which nothing else is known any more.
    pub(crate) fn unknown(service_id: &str) -> Self {
        Self {
            service: service_id.into(),
            ..Self::default()
        }
    }

    /// Whether any node that can take a task of the one has room for the other too, as far as not the service's own tasks decide.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        self.nano_cpus == other.nano_cpus
            && self.memory == other.memory
            && self.constraints == other.constraints
            && self.spread == other.spread
            && self.generic == other.generic
            && self.plugins == other.plugins
            && self.host_ports == other.host_ports
            && self.platforms == other.platforms
            && self.impossible == other.impossible
    }

    /// Whether the node's labels, role and platform suit.
    pub(crate) fn meets_constraints(&self, node: &Node) -> bool {
        !self.impossible && constraint::all_match(&self.constraints, node)
    }
}

/// The drivers that a task can't do without. `none` is the absence of a log driver, and needs none.
fn plugins(task: &TaskSpec) -> Vec<(&'static str, String)> {
    let mounts = task
        .container
        .as_ref()
        .map_or(&[][..], |container| &container.mounts);
    let volumes = mounts
        .iter()
        .filter(|mount| mount.r#type() == MountType::Volume)
        .filter_map(|mount| mount.volume.as_ref())
        .map(|volume| ("Volume", volume.driver.as_str()));
    let log = task.log_driver.iter().map(|log| ("Log", log.name.as_str()));
    let mut needed: Vec<_> = volumes
        .chain(log.filter(|(_, name)| *name != "none"))
        .filter(|(_, name)| !name.is_empty())
        .map(|(kind, name)| (kind, name.to_owned()))
        .collect();
    if !task.networks.is_empty() {
        needed.push(("Network", "overlay".to_owned()));
    }
    needed.sort();
    needed.dedup();
    needed
}

/// What a node offers.
pub(crate) fn capacity(node: &Node) -> Resources {
    node.description
        .as_ref()
        .and_then(|d| d.resources)
        .unwrap_or_default()
}

/// What the tasks on a node use. Sums, kept up as tasks come and go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    pub(crate) nano_cpus: i64,
    pub(crate) memory: i64,
    pub(crate) generic: Held,
    /// Tasks that are to run.
    pub(crate) active: usize,
    pub(crate) host_ports: BTreeMap<(i32, u32), usize>,
}

/// Whether a task is on a node and has not ended.
fn is_placed(task: &Task) -> bool {
    let state = state_of(task);
    !task.node_id.is_empty() && state >= TaskState::Assigned && !state.is_terminal()
}

/// What one task adds to its node's usage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    pub(crate) demand: Arc<Demand>,
    pub(crate) generic: Box<[GenericResource]>,
    /// Counted among the tasks that are to run.
    pub(crate) active: bool,
}

impl Share {
    /// What a task is counted as; nothing while it is on no node, or has ended.
    pub(crate) fn of(task: &Task, demand: impl FnOnce() -> Arc<Demand>) -> Option<Self> {
        is_placed(task).then(|| Self {
            demand: demand(),
            generic: task.generic_resources.clone().into_boxed_slice(),
            active: is_live(task),
        })
    }

    /// Whether the task is still to be counted so on the same node. Its service and its version never change.
    pub(crate) fn is_still(&self, task: &Task) -> bool {
        is_placed(task) && self.active == is_live(task) && *self.generic == *task.generic_resources
    }

    /// Adds the share to the node's usage.
    pub(crate) fn add(&self, usage: &mut Usage) {
        usage.nano_cpus += self.demand.nano_cpus;
        usage.memory += self.demand.memory;
        usage.generic.add(&self.generic);
        for port in &self.demand.host_ports {
            *usage.host_ports.entry(*port).or_default() += 1;
        }
        if self.active {
            usage.active += 1;
        }
    }

    /// Takes the share out again.
    pub(crate) fn take(&self, usage: &mut Usage) {
        usage.nano_cpus -= self.demand.nano_cpus;
        usage.memory -= self.demand.memory;
        usage.generic.take(&self.generic);
        for port in &self.demand.host_ports {
            if let Some(count) = usage.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    usage.host_ports.remove(port);
                }
            }
        }
        if self.active {
            usage.active -= 1;
        }
    }
}
