//! A naive scheduler: a commit's placements done again by loops over all objects, without sums, heaps, indexes or caches. Used by
//! `placement`.
//!
//! The model knows SwarmKit's rules from its documents: filters in order, spread level by level over the labels' values, then
//! fewest failures lately, fewest tasks of the service, fewest tasks, and the id. No time passes, so no failure is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::*;
use pontoon_store::Snapshot;

use crate::sim;
use crate::sim::rules::{is_open, reserved, spec, state, suits};

/// A task as the model sees it.
struct Placed {
    task: Arc<Task>,
    node: String,
}

/// The cluster before the placements of a commit, and after those that the model has made.
struct Model<'a> {
    view: &'a Snapshot,
    placed: Vec<Placed>,
    failed: &'a [Failed],
}

/// A task that failed: its node, service and version.
pub type Failed = (String, String, u64);

fn is_live(task: &Task) -> bool {
    task.desired_state() <= TaskState::Running
}

pub fn on_node(task: &Task) -> bool {
    state(task) >= TaskState::Assigned && !state(task).is_terminal()
}

fn wanted_units(spec: &ServiceSpec) -> Vec<GenericResource> {
    let resources = spec.task.as_ref().and_then(|task| task.resources.as_ref());
    resources.map_or_else(Vec::new, |resources| resources.generic_reservations.clone())
}

fn host_ports(spec: &ServiceSpec) -> Vec<(i32, u32)> {
    let ports = spec.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
    let host = ports.filter(|port| port.publish_mode() == PublishMode::Host);
    host.map(|port| (port.protocol, port.published_port)).collect()
}

fn label(node: &Node, key: &str) -> String {
    let annotations = node.spec.as_ref().unwrap().annotations.as_ref().unwrap();
    let name = key.strip_prefix("node.labels.").unwrap();
    annotations.labels.get(name).cloned().unwrap_or_default()
}

impl Model<'_> {
    fn on<'b>(&'b self, node: &'b str) -> impl Iterator<Item = &'b Task> {
        self.placed
            .iter()
            .filter(move |placed| placed.node == node)
            .map(|placed| placed.task.as_ref())
    }

    /// Live tasks of the service on the node.
    fn of_service(&self, node: &str, service: &str) -> usize {
        self.on(node)
            .filter(|task| task.service_id == service && is_live(task))
            .count()
    }

    fn has_units(&self, node: &Node, want: &GenericResource) -> bool {
        let offered = &node.description.as_ref().unwrap().generic_resources;
        let of_kind = |unit: &&GenericResource| unit.kind == want.kind;
        let held: Vec<_> = self
            .on(&node.id)
            .flat_map(|task| &task.generic_resources)
            .filter(of_kind)
            .collect();
        let names: Vec<_> = offered
            .iter()
            .filter(of_kind)
            .map(|unit| unit.name.as_str())
            .collect();
        if names == [""] {
            let number = offered.iter().find(of_kind).unwrap().count;
            let all: i64 = held
                .iter()
                .map(|unit| unit.count + i64::from(!unit.name.is_empty()))
                .sum();
            return want.name.is_empty() && all + want.count <= number;
        }
        let free = |name: &&&str| !held.iter().any(|unit| unit.name == ***name);
        let count = i64::try_from(names.iter().filter(free).count()).unwrap();
        let nameless: i64 = held.iter().map(|unit| unit.count).sum();
        if want.name.is_empty() {
            return !names.is_empty() && count - nameless >= want.count;
        }
        names.iter().filter(free).any(|name| **name == want.name)
    }

    /// Why the node can't take one more task of the spec: the position of the filter that refuses.
    fn refusal(&self, node: &Node, service: &str, spec: &ServiceSpec) -> Option<usize> {
        let task = spec.task.as_ref().unwrap();
        let placement = task.placement.as_ref();
        let description = node.description.as_ref().unwrap();
        let has = description.resources.unwrap();
        let (cpus, memory) = reserved(Some(spec));
        let used = self
            .on(&node.id)
            .map(|task| reserved(sim::rules::spec(self.view, task)));
        let (used_cpus, used_memory) = used.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let ports: BTreeSet<_> = self
            .on(&node.id)
            .filter_map(|task| sim::rules::spec(self.view, task))
            .flat_map(host_ports)
            .collect();
        let platforms = placement.map_or(&[][..], |placement| &placement.platforms);
        let log = task.log_driver.as_ref().map(|log| log.name.as_str());
        let plugins = description
            .engine
            .as_ref()
            .map_or(&[][..], |engine| &engine.plugins);
        let limit = placement.map_or(0, |placement| placement.max_replicas);
        let passes = [
            is_open(node),
            (cpus == 0 || used_cpus + cpus <= has.nano_cpus)
                && (memory == 0 || used_memory + memory <= has.memory_bytes)
                && wanted_units(spec).iter().all(|want| self.has_units(node, want)),
            plugins.is_empty() || log.is_none_or(|log| plugins.iter().any(|plugin| plugin.name == log)),
            suits(node, placement),
            platforms.is_empty() || platforms.contains(description.platform.as_ref().unwrap()),
            host_ports(spec).iter().all(|port| !ports.contains(port)),
            limit == 0 || (self.of_service(&node.id, service) as u64) < limit,
        ];
        passes.iter().position(|passes| !passes)
    }

    /// The node that takes the next task of the spec.
    fn choose(&self, service: &str, version: u64, spec: &ServiceSpec) -> Option<String> {
        let placement = spec.task.as_ref().unwrap().placement.as_ref();
        let keys = placement.map_or(&[][..], |placement| &placement.preferences);
        let mut all: Vec<&Arc<Node>> = self.view.nodes().collect();
        let open = |node: &&Arc<Node>| self.refusal(node, service, spec).is_none();
        for key in keys {
            let mut branches: BTreeMap<String, Vec<&Arc<Node>>> = BTreeMap::new();
            for node in all {
                let value = label(node, &key.spread_descriptor);
                branches.entry(value).or_default().push(node);
            }
            let tasks = |nodes: &[&Arc<Node>]| -> usize {
                nodes.iter().map(|node| self.of_service(&node.id, service)).sum()
            };
            let usable = branches.into_values().filter(|nodes| nodes.iter().any(open));
            all = usable.min_by_key(|nodes| tasks(nodes))?;
        }
        let score = |node: &&Arc<Node>| {
            let live = self.on(&node.id).filter(|task| is_live(task)).count();
            let failed = |one: &&Failed| one.0 == node.id && one.1 == service && one.2 == version;
            let failures = self.failed.iter().filter(failed).count();
            let many = if failures < 5 { 0 } else { failures };
            (many, self.of_service(&node.id, service), live, node.id.clone())
        };
        let best = all.into_iter().filter(open).min_by_key(score);
        best.map(|node| node.id.clone())
    }

    fn why(&self, service: &str, spec: &ServiceSpec) -> String {
        const TEXTS: [(&str, &str); 7] = [
            ("", " not available for new tasks"),
            ("insufficient resources on ", ""),
            ("missing plugin on ", ""),
            ("scheduling constraints not satisfied on ", ""),
            ("unsupported platform on ", ""),
            ("host-mode port already in use on ", ""),
            ("max replicas per node limit exceeded on ", ""),
        ];
        let mut counts = [0; TEXTS.len()];
        for node in self.view.nodes() {
            if let Some(at) = self.refusal(node, service, spec) {
                counts[at] += 1;
            }
        }
        let mut order: Vec<usize> = (0..counts.len()).filter(|at| counts[*at] > 0).collect();
        order.sort_by_key(|at| (std::cmp::Reverse(counts[*at]), *at));
        let part = |at: usize| {
            let nodes = match counts[at] {
                1 => "1 node".to_owned(),
                count => format!("{count} nodes"),
            };
            format!("{}{nodes}{}", TEXTS[at].0, TEXTS[at].1)
        };
        match order.is_empty() {
            true => "no suitable node".to_owned(),
            false => {
                let parts: Vec<_> = order.into_iter().map(part).collect();
                format!("no suitable node ({})", parts.join("; "))
            }
        }
    }
}

/// Does a commit's placements again.
pub fn check(before: &Snapshot, after: &Snapshot, failed: &[Failed]) {
    let is_new = |task: &Task| on_node(task) && before.task(&task.id).is_none_or(|old| !on_node(old));
    let (new, old): (Vec<_>, Vec<_>) = after
        .tasks()
        .filter(|task| on_node(task))
        .cloned()
        .partition(|task| is_new(task));
    let placed = |task: Arc<Task>| Placed {
        node: task.node_id.clone(),
        task,
    };
    let mut model = Model {
        view: after,
        placed: old.into_iter().map(placed).collect(),
        failed,
    };
    let (bound, free): (Vec<_>, Vec<_>) = new.into_iter().partition(|task| task.slot == 0);
    for task in bound {
        let node = after.node(&task.node_id).unwrap();
        let spec = spec(after, &task).unwrap();
        assert_eq!(model.refusal(node, &task.service_id, spec), None, "{}", task.id);
        model.placed.push(placed(task));
    }
    let waits = |task: &&Arc<Task>| state(task) == TaskState::Pending && is_live(task);
    for task in after.tasks().filter(waits).filter(|task| task.slot == 0) {
        let (Some(node), Some(spec)) = (after.node(&task.node_id), spec(after, task)) else {
            continue;
        };
        assert!(
            model.refusal(node, &task.service_id, spec).is_some(),
            "{} waits in vain",
            task.id
        );
    }
    let mut groups: BTreeMap<(String, u64), BTreeMap<String, Arc<Task>>> = BTreeMap::new();
    let waiting = after.tasks().filter(waits).filter(|task| task.slot != 0).cloned();
    for task in free.into_iter().chain(waiting) {
        let group = groups
            .entry((task.service_id.clone(), task.spec_version))
            .or_default();
        group.insert(task.id.clone(), task);
    }
    for tasks in groups.into_values() {
        let mut why = None;
        for task in tasks.into_values() {
            let spec = spec(after, &task).unwrap();
            let expected = match &why {
                None => model.choose(&task.service_id, task.spec_version, spec),
                Some(_) => None,
            };
            assert_eq!(task.node_id, expected.clone().unwrap_or_default(), "{task:#?}");
            match expected {
                Some(_) => model.placed.push(placed(task)),
                None => {
                    let reason = why.get_or_insert_with(|| model.why(&task.service_id, spec));
                    let err = |task: &Arc<Task>| task.status.as_ref().unwrap().err.clone();
                    // What was refused before is not looked at when nothing has become free: its counts may be old.
                    if before.task(&task.id).map(err) != Some(err(&task)) {
                        assert_eq!(err(&task), *reason, "{}", task.id);
                    }
                }
            }
        }
    }
}
