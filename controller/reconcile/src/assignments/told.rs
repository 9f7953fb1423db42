//! What one node's agent has been told, kept as the objects that it was made of instead of a copy: a leader holds this for every task
//! of the cluster. Only what may have changed is looked at again ([`Changes`]), and only what comes out otherwise is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::{
    Assignments, GenericResource, IngressConfig, IngressPort, NetworkAttachment, OverlayNetwork, Service,
    Task, TaskAssignment, TaskState,
};
use pontoon_store::{Id, Snapshot};

use super::{Records, assignment, concerns_node, desired, records};
use crate::state::state_of;

/// What may have changed for a node since it was told last; gathered until its session comes to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nobody knows: everything is looked at.
    pub all: bool,
    /// Ids of tasks that are, or were, on the node.
    pub tasks: BTreeSet<String>,
    /// Networks that it takes part in, its leg in the routing mesh, or published ports.
    pub networks: bool,
    /// The version of the state that these lead to.
    pub version: u64,
}

impl Changes {
    /// Takes in what happened later.
    pub fn merge(&mut self, later: Changes) {
        self.all |= later.all;
        self.networks |= later.networks;
        self.tasks.extend(later.tasks);
        self.version = self.version.max(later.version);
    }
}

/// Whether a task's change is one for its node's agent: that the agent itself has reported a state is not.
#[must_use]
pub fn matters_to_node(before: &Task, now: &Task) -> bool {
    let facts = |task: &Task| (concerns_node(task), state_of(task).is_terminal());
    facts(before) != facts(now) || !is_told_alike(before, now)
}

/// Whether what is in the assignments of the two, which are the same task, is the same.
fn is_told_alike(before: &Task, now: &Task) -> bool {
    desired(before) == desired(now)
        && before.spec_version == now.spec_version
        && before.node_id == now.node_id
        && before.networks == now.networks
        && before.generic_resources == now.generic_resources
}

/// Whether a task's change is one for those who share a network with it, or publish its ports.
#[must_use]
pub fn matters_to_networks(before: &Task, now: &Task) -> bool {
    records::facts(before) != records::facts(now) || before.networks != now.networks
}

/// What a task's assignment was made of, besides what is the same for as long as the task lives. Not the task itself: the version that was
/// told would stay in memory beside the newest one, for every task of the cluster.
#[derive(Debug, Clone)]
struct Source {
    service: Option<Arc<Service>>,
    spec_version: u64,
    desired: TaskState,
    networks: Box<[NetworkAttachment]>,
    generic_resources: Box<[GenericResource]>,
    /// The task had ended: it has no endpoint any more.
    ended: bool,
}

impl Source {
    fn of(snapshot: &Snapshot, task: &Task) -> Self {
        Self {
            service: snapshot.service(&task.service_id).cloned(),
            spec_version: task.spec_version,
            desired: desired(task),
            networks: task.networks.as_slice().into(),
            generic_resources: task.generic_resources.as_slice().into(),
            ended: state_of(task).is_terminal(),
        }
    }

    fn says_the_same(&self, other: &Self, task: &Task) -> bool {
        let same_service = match (&self.service, &other.service) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same_task = self.desired == other.desired
            && self.spec_version == other.spec_version
            && self.networks == other.networks
            && self.generic_resources == other.generic_resources;
        // Most writes of a service change nothing in what its tasks are told: the two are made and compared.
        same_task && (same_service || self.assignment(task) == other.assignment(task))
    }

    /// The assignment of `task`, which says the same about all that is kept here.
    fn assignment(&self, task: &Task) -> TaskAssignment {
        assignment(self.service.as_deref(), task)
    }
}

/// A node's part in the routing mesh.
#[derive(Debug, Clone)]
struct Mesh {
    network_id: String,
    node_addr: String,
    ports: Arc<[IngressPort]>,
}

impl Mesh {
    fn says_the_same(&self, other: &Self) -> bool {
        let same_ports = Arc::ptr_eq(&self.ports, &other.ports) || self.ports == other.ports;
        same_ports && self.network_id == other.network_id && self.node_addr == other.node_addr
    }
}

/// What a node's agent has been told. Start with `default()`: nothing.
#[derive(Debug, Default)]
pub struct Told {
    begun: bool,
    tasks: BTreeMap<Id, Source>,
    networks: BTreeMap<Id, Arc<OverlayNetwork>>,
    mesh: Option<Mesh>,
}

impl Told {
    /// What the node is to be told now: first the full set, then what has changed; none if nothing has. The changes must name all that
    /// happened since the snapshot of the call before.
    pub fn advance(
        &mut self,
        snapshot: &Snapshot,
        records: &mut Records,
        node_id: &str,
        changes: &Changes,
    ) -> Option<Assignments> {
        records.advance(snapshot);
        let full = !std::mem::replace(&mut self.begun, true);
        let all = full || changes.all;
        let mut message = Assignments {
            full,
            version: if all { snapshot.version() } else { changes.version },
            ..Assignments::default()
        };
        let mut networks = all || changes.networks;
        if all {
            let mut gone: BTreeSet<Id> = self.tasks.keys().cloned().collect();
            for task in snapshot.tasks_by_node(node_id).filter(|task| concerns_node(task)) {
                self.look_at(snapshot, task, &mut message);
                gone.remove(task.id.as_bytes());
            }
            for id in gone {
                self.forget(id.as_str(), &mut message);
            }
        } else {
            for id in &changes.tasks {
                let task = snapshot.task(id).filter(|task| task.node_id == node_id);
                let task = task.filter(|task| concerns_node(task));
                let known = self.tasks.get(id.as_bytes());
                networks |= task.is_some_and(|task| !task.networks.is_empty())
                    || known.is_some_and(|known| !known.networks.is_empty());
                match task {
                    Some(task) => self.look_at(snapshot, task, &mut message),
                    None => self.forget(id, &mut message),
                }
            }
        }
        if networks {
            self.look_at_networks(snapshot, records, node_id, &mut message);
        }
        let nothing = message.tasks.is_empty()
            && message.removed_tasks.is_empty()
            && message.networks.is_empty()
            && message.removed_networks.is_empty()
            && message.ingress.is_none();
        (full || !nothing).then_some(message)
    }

    /// The networks whose changes the node must know.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        let mesh = self.mesh.iter().map(|mesh| mesh.network_id.as_str());
        self.networks.keys().map(|id| &**id).chain(mesh)
    }

    /// Number of tasks that the node has been told of.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    fn look_at(&mut self, snapshot: &Snapshot, task: &Task, message: &mut Assignments) {
        let source = Source::of(snapshot, task);
        let known = self.tasks.get_mut(task.id.as_bytes());
        let is_told = known
            .as_ref()
            .is_some_and(|known| known.says_the_same(&source, task));
        if !is_told {
            message.tasks.push(source.assignment(task));
        }
        match known {
            Some(known) => *known = source,
            None => drop(self.tasks.insert(task.id.as_str().into(), source)),
        }
    }

    fn forget(&mut self, id: &str, message: &mut Assignments) {
        if self.tasks.remove(id.as_bytes()).is_some() {
            message.removed_tasks.push(id.to_owned());
        }
    }

    fn look_at_networks(
        &mut self,
        snapshot: &Snapshot,
        records: &mut Records,
        node_id: &str,
        message: &mut Assignments,
    ) {
        let node = snapshot.node(node_id).map(Arc::as_ref);
        let legs = node.map_or(&[][..], |node| node.attachments.as_slice());
        let tasks = self.tasks.values().filter(|source| !source.ended);
        let attached = tasks.flat_map(|source| &source.networks);
        let wanted: BTreeSet<&str> = attached
            .chain(legs)
            .map(|a| a.network_id.as_str())
            .chain(super::container_networks(node))
            .collect();
        let mut networks = BTreeMap::new();
        for id in wanted {
            let Some(record) = records.network(snapshot, id) else {
                continue;
            };
            let known = self.networks.get(id.as_bytes());
            if known.is_none_or(|known| !Arc::ptr_eq(known, &record) && **known != *record) {
                message.networks.push(OverlayNetwork::clone(&record));
            }
            networks.insert(Id::from(id), record);
        }
        let gone = self.networks.keys().filter(|id| !networks.contains_key(*id));
        message.removed_networks.extend(gone.map(ToString::to_string));
        self.networks = networks;
        let mesh = super::mesh(snapshot, legs).map(|(network_id, node_addr)| Mesh {
            network_id: network_id.to_owned(),
            node_addr: node_addr.to_owned(),
            ports: records.ingress_ports(snapshot),
        });
        message.ingress = match (&self.mesh, &mesh) {
            (Some(old), Some(new)) if old.says_the_same(new) => None,
            (_, Some(new)) => Some(IngressConfig {
                network_id: new.network_id.clone(),
                node_addr: new.node_addr.clone(),
                ports: new.ports.to_vec(),
            }),
            // One without a network: it no longer takes part.
            (Some(_), None) => Some(IngressConfig::default()),
            (None, None) => None,
        };
        self.mesh = mesh;
    }
}
