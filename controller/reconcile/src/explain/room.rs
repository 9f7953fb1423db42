//! Whether a node has room for a task, and what it lacks. Used by the explanations of tasks that wait and of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_proto::v1::{Node, ServiceSpec, Task, TaskState};
use pontoon_store::{Id, Snapshot};

use super::{Text, hostname};
use crate::demand::{Demand, Share, Usage, capacity};
use crate::state::{is_live, state_of};
use crate::{defaults, generic, scheduler, versions};

/// What the tasks on a node use, and how many of each service are to run there.
#[derive(Default)]
pub(super) struct Counted {
    usage: Usage,
    by_service: BTreeMap<Id, usize>,
}

/// What tasks reserve on a node, of what it has.
pub(super) fn reserved(node: &Node, counted: &Counted) -> String {
    let (has, usage) = (capacity(node), &counted.usage);
    format!(
        "{} of {} CPUs and {} of {} bytes of memory",
        cpus(usage.nano_cpus),
        cpus(has.nano_cpus),
        usage.memory,
        has.memory_bytes
    )
}

/// What waits for a node, and whether this one could take it.
pub(super) fn waiting(text: &mut Text, view: &Snapshot, node: &Node, usage: &Counted) {
    let mut waiting: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    let waits = |task: &&Arc<Task>| {
        let here = task.node_id.is_empty() || task.node_id == node.id;
        here && state_of(task) == TaskState::Pending && is_live(task)
    };
    for task in view.tasks().filter(waits) {
        *waiting
            .entry((task.service_id.as_str(), task.spec_version))
            .or_default() += 1;
    }
    let waiting: Vec<_> = waiting.into_iter().collect();
    text.each(
        1,
        &waiting,
        "services with tasks that wait",
        |text, ((service_id, version), count)| {
            let service = view.service(service_id).map(Arc::as_ref);
            let Some(spec) = versions::spec_of(service, *version) else {
                return;
            };
            let name = service.map_or("", versions::name);
            let said = match refusal(node, usage, service_id, &Demand::new(service_id, spec)) {
                Some(reason) => format!("{count} tasks of service {name} wait that it can't take: {reason}"),
                None => format!("{count} tasks of service {name} wait that it could take"),
            };
            text.say(1, 0, said);
        },
    );
}

fn cpus(nano: i64) -> String {
    let (whole, milli) = (nano / defaults::SECOND, nano % defaults::SECOND / 1_000_000);
    if milli == 0 {
        whole.to_string()
    } else {
        format!("{whole}.{milli:03}")
    }
}

/// Why each node does not take a waiting task.
pub(super) fn refusals(text: &mut Text, view: &Snapshot, task: &Task, spec: Option<&ServiceSpec>) {
    let Some(spec) = spec else { return };
    let asked = |node: &&Arc<Node>| task.node_id.is_empty() || node.id == task.node_id;
    let nodes: Vec<&Arc<Node>> = view.nodes().filter(asked).collect();
    let demand = Demand::new(&task.service_id, spec);
    text.each(3, &nodes, "nodes", |text, node| {
        let usage = usage(view, &node.id);
        let verdict = refusal(node, &usage, &task.service_id, &demand);
        let verdict = verdict.unwrap_or_else(|| "it could take it".to_owned());
        text.say(3, 0, format!("node {}: {verdict}", hostname(node)));
    });
}

/// Why a node can't take one more task of a service, with what it lacks.
pub(super) fn refusal(node: &Node, counted: &Counted, service_id: &str, demand: &Demand) -> Option<String> {
    let usage = &counted.usage;
    let of_service = counted
        .by_service
        .get(service_id.as_bytes())
        .copied()
        .unwrap_or(0);
    let mut reason = scheduler::refusal(node, usage, of_service, demand)?;
    let unmet: Vec<String> = demand
        .constraints
        .iter()
        .filter(|constraint| !constraint.matches(node))
        .map(ToString::to_string)
        .collect();
    if reason.starts_with("scheduling constraints") {
        reason.push_str(&format!(": {}", unmet.join(", ")));
    } else if reason.starts_with("insufficient resources") {
        let mut lacking = usage.generic.lacking(generic::offered(node), &demand.generic);
        let has = capacity(node);
        let fits = has.nano_cpus.saturating_sub(usage.nano_cpus) >= demand.nano_cpus
            && has.memory_bytes.saturating_sub(usage.memory) >= demand.memory;
        if lacking.is_empty() || !fits {
            let asked = format!("{} and {}", cpus(demand.nano_cpus), demand.memory);
            let reserved = reserved(node, counted);
            lacking.insert(0, format!("{reserved} are reserved, it needs {asked}"));
        }
        reason.push_str(&format!(": {}", lacking.join("; ")));
    }
    Some(reason)
}

/// What the tasks on a node use, counted anew. Failures are not among it: they refuse nothing.
pub(super) fn usage(view: &Snapshot, node_id: &str) -> Counted {
    let mut counted = Counted::default();
    let mut demands: BTreeMap<(&str, u64), Arc<Demand>> = BTreeMap::new();
    for task in view.tasks_by_node(node_id) {
        let demand = || {
            let of_version = demands.entry((task.service_id.as_str(), task.spec_version));
            let counted = of_version.or_insert_with(|| {
                let service = view.service(&task.service_id).map(Arc::as_ref);
                let spec = versions::spec_of(service, task.spec_version);
                Arc::new(match spec {
                    Some(spec) => Demand::new(&task.service_id, spec),
                    None => Demand::unknown(&task.service_id),
                })
            });
            counted.clone()
        };
        if let Some(share) = Share::of(task, demand) {
            share.add(&mut counted.usage);
            if share.active {
                *counted
                    .by_service
                    .entry(share.demand.service.clone())
                    .or_default() += 1;
            }
        }
    }
    counted
}
