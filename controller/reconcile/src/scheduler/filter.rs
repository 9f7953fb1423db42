//! Which nodes can take a task: SwarmKit's filters in its order. The first that refuses is counted, so that the counts
//! add up to the number of nodes. Its filter of CSI volumes is missing: there are none.

use pontoon_proto::v1::{Availability, Node, NodeState};
use pontoon_store::Id;

use crate::demand::{Demand, Usage, capacity};
use crate::generic;

/// A filter; the order is the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
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

    /// Of a single node: why it is refused.
    pub(super) fn explain_one(&self) -> String {
        let refused = FILTERS.iter().zip(self.0).find(|(_, count)| *count > 0);
        let text = refused.map_or_else(String::new, |(filter, _)| filter.explain(1));
        text.replace(" on 1 node", "").replace("1 node ", "")
    }
}

/// Whether the node can take one more task; the filter that refuses is counted.
pub(super) fn fits(
    node: &Node,
    usage: &Usage,
    service: &Id,
    demand: &Demand,
    refusals: &mut Refusals,
) -> bool {
    let refused = FILTERS
        .iter()
        .position(|filter| !filter.accepts(node, usage, service, demand));
    if let Some(at) = refused {
        refusals.0[at] += 1;
    }
    refused.is_none()
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
    fn accepts(self, node: &Node, usage: &Usage, service: &Id, demand: &Demand) -> bool {
        match self {
            Filter::Ready => {
                let ready = node
                    .status
                    .as_ref()
                    .is_some_and(|status| status.state() == NodeState::Ready);
                let spec = node.spec.as_ref();
                ready && spec.is_none_or(|spec| spec.availability() == Availability::Active)
            }
            Filter::Resources => {
                let limits = capacity(node);
                let cpu = demand.nano_cpus == 0 || usage.nano_cpus + demand.nano_cpus <= limits.nano_cpus;
                let memory = demand.memory == 0 || usage.memory + demand.memory <= limits.memory_bytes;
                let generic = || {
                    usage
                        .generic
                        .claim(generic::offered(node), &demand.generic)
                        .is_some()
                };
                cpu && memory && (demand.generic.is_empty() || generic())
            }
            Filter::Plugins => demand
                .plugins
                .iter()
                .all(|(kind, name)| has_plugin(node, kind, name)),
            #[cfg(feature = "planted-bugs")]
            Filter::Constraints
                if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetConstraint) =>
            {
                true
            }
            Filter::Constraints => demand.meets_constraints(node),
            Filter::Platform => {
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
            Filter::HostPorts => !demand
                .host_ports
                .iter()
                .any(|port| usage.host_ports.contains_key(port)),
            Filter::MaxReplicas => {
                let limit = usize::try_from(demand.max_replicas).unwrap_or(usize::MAX);
                limit == 0 || usage.of_service(service) < limit
            }
        }
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
