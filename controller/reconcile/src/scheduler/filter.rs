//! Which nodes can take a task: SwarmKit's filters in its order. The first that refuses is counted, so that the counts
//! add up to the number of nodes. Its filter of CSI volumes is missing: there are none.
//!
//! What a filter says follows from the node alone (`suited`, worked out once for a node), from what is used of it (`refuses`), or from
//! the service's tasks on it (replicas per node, which comes last).

use pontoon_proto::v1::{Availability, Node, NodeState, Resources};

use crate::demand::{Demand, Usage, capacity};
use crate::generic;

/// A filter; the order is the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Ready,
    Resources,
    Plugins,
    Constraints,
    Platform,
    HostPorts,
    MaxReplicas,
}

const FILTERS: [Filter; 7] = [
    Filter::Ready,
    Filter::Resources,
    Filter::Plugins,
    Filter::Constraints,
    Filter::Platform,
    Filter::HostPorts,
    Filter::MaxReplicas,
];

/// How many nodes each filter refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals([usize; FILTERS.len()]);

impl Refusals {
    /// Counts a node that is refused.
    pub(super) fn count(&mut self, filter: Filter) {
        self.add(filter, 1);
    }

    /// Counts such a node no longer.
    pub(super) fn discount(&mut self, filter: Filter) {
        self.0[filter as usize] -= 1;
    }

    /// Counts nodes that are refused.
    pub(super) fn add(&mut self, filter: Filter, nodes: usize) {
        self.0[filter as usize] += nodes;
    }

    /// The counts in SwarmKit's words, most frequent first.
    pub(super) fn explain(&self) -> String {
        let mut counts: Vec<_> = FILTERS
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if counts.is_empty() {
            return "no suitable node".to_owned();
        }
        let parts: Vec<String> = counts
            .into_iter()
            .map(|(filter, count)| filter.explain(count))
            .collect();
        format!("no suitable node ({})", parts.join("; "))
    }
}

/// What filters say of a node whatever runs on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suited {
    ready: bool,
    /// The first that refuses for ever: drivers, constraints, platform.
    refused: Option<Filter>,
}

/// Asks the filters that look at the node alone.
pub(super) fn suited(node: &Node, demand: &Demand) -> Suited {
    let status = node.status.as_ref();
    let ready = status.is_some_and(|status| status.state() == NodeState::Ready);
    let spec = node.spec.as_ref();
    let active = spec.is_none_or(|spec| spec.availability() == Availability::Active);
    let mut plugins = demand.plugins.iter();
    let refused = if !plugins.all(|(kind, name)| has_plugin(node, kind, name)) {
        Some(Filter::Plugins)
    } else if !meets_constraints(node, demand) {
        Some(Filter::Constraints)
    } else if !has_platform(node, demand) {
        Some(Filter::Platform)
    } else {
        None
    };
    Suited {
        ready: ready && active,
        refused,
    }
}

/// The first filter that refuses the node one more task, but for replicas per node. `has` is the node's capacity.
pub(super) fn refuses(
    suited: Suited,
    node: &Node,
    has: Resources,
    usage: &Usage,
    demand: &Demand,
) -> Option<Filter> {
    if !suited.ready {
        return Some(Filter::Ready);
    }
    if !has_room(node, has, usage, demand) {
        return Some(Filter::Resources);
    }
    let is_taken = |port| usage.host_ports.contains_key(port);
    let taken = demand.host_ports.iter().any(is_taken);
    suited.refused.or(taken.then_some(Filter::HostPorts))
}

/// The first filter that refuses a single node one more task of a service that has `of_service` there.
pub(super) fn refuses_one(node: &Node, usage: &Usage, of_service: usize, demand: &Demand) -> Option<Filter> {
    let full = demand.max_replicas != 0 && of_service as u64 >= demand.max_replicas;
    refuses(suited(node, demand), node, capacity(node), usage, demand)
        .or_else(|| full.then_some(Filter::MaxReplicas))
}

fn meets_constraints(node: &Node, demand: &Demand) -> bool {
    #[cfg(feature = "planted-bugs")]
    if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetConstraint) {
        return true;
    }
    demand.meets_constraints(node)
}

fn has_room(node: &Node, has: Resources, usage: &Usage, demand: &Demand) -> bool {
    let cpu = demand.nano_cpus == 0 || usage.nano_cpus + demand.nano_cpus <= has.nano_cpus;
    let memory = demand.memory == 0 || usage.memory + demand.memory <= has.memory_bytes;
    let generic = || {
        let offered = generic::offered(node);
        usage.generic.claim(offered, &demand.generic).is_some()
    };
    cpu && memory && (demand.generic.is_empty() || generic())
}

fn has_platform(node: &Node, demand: &Demand) -> bool {
    let platform = node.description.as_ref().and_then(|d| d.platform.as_ref());
    let same = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
    demand.platforms.is_empty()
        || platform.is_some_and(|has| {
            demand.platforms.iter().any(|wanted| {
                let arch = architecture(&wanted.architecture);
                same(&wanted.os, &has.os) && same(arch, architecture(&has.architecture))
            })
        })
}

/// GOARCH's name of an architecture that uname calls otherwise.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether the node has a driver. One that tells of no driver of the kind is taken to have it: its agent does not say.
fn has_plugin(node: &Node, kind: &str, name: &str) -> bool {
    let engine = node.description.as_ref().and_then(|d| d.engine.as_ref());
    let plugins = engine.map_or(&[][..], |engine| &engine.plugins);
    let mut of_kind = plugins.iter().filter(|plugin| plugin.r#type == kind).peekable();
    of_kind.peek().is_none() || of_kind.any(|plugin| plugin.name == name)
}

impl Filter {
    /// Of a single node: why it is refused.
    pub(super) fn explain_one(self) -> String {
        let text = self.explain(1);
        text.replace(" on 1 node", "").replace("1 node ", "")
    }

    fn explain(self, count: usize) -> String {
        let nodes = if count == 1 {
            "1 node".to_owned()
        } else {
            format!("{count} nodes")
        };
        match self {
            Filter::Ready => format!("{nodes} not available for new tasks"),
            Filter::Resources => format!("insufficient resources on {nodes}"),
            Filter::Plugins => format!("missing plugin on {nodes}"),
            Filter::Constraints => format!("scheduling constraints not satisfied on {nodes}"),
            Filter::Platform => format!("unsupported platform on {nodes}"),
            Filter::HostPorts => format!("host-mode port already in use on {nodes}"),
            Filter::MaxReplicas => format!("max replicas per node limit exceeded on {nodes}"),
        }
    }
}
