//! One immutable version of all objects: what everybody reads. Cheap to clone; a reader never blocks the writer and
//! never sees half a changeset. Made by `Store::apply`; `Tx` reads through one too.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use pontoon_proto::v1::{Changeset, Cluster, Meta, Network, Node, Service, Task, change};

use crate::tables::Tables;
use crate::{Error, Event, Id, Kind, Object, Result};

/// All objects at one version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub(crate) version: u64,
    pub(crate) tables: Tables,
}

impl Snapshot {
    /// Number of changesets applied so far.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The cluster object (there is one).
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.tables.clusters.get_min().map(|(_, cluster)| &cluster.0)
    }

    /// The node of this id.
    #[must_use]
    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.tables.nodes.get(&Id::from(id)).map(|shared| &shared.0)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = &Arc<Node>> {
        self.tables.nodes.values().map(|shared| &shared.0)
    }

    /// Number of nodes.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.tables.nodes.len()
    }

    /// The network of this id.
    #[must_use]
    pub fn network(&self, id: &str) -> Option<&Arc<Network>> {
        self.tables.networks.get(&Id::from(id)).map(|shared| &shared.0)
    }

    /// All networks, by id.
    pub fn networks(&self) -> impl DoubleEndedIterator<Item = &Arc<Network>> {
        self.tables.networks.values().map(|shared| &shared.0)
    }

    /// The network of this name.
    #[must_use]
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        let id = self.tables.network_names.get(&Id::from(name))?;
        self.tables.networks.get(id).map(|shared| &shared.0)
    }

    /// The service of this id.
    #[must_use]
    pub fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.tables.services.get(&Id::from(id)).map(|shared| &shared.0)
    }

    /// All services, by id.
    pub fn services(&self) -> impl DoubleEndedIterator<Item = &Arc<Service>> {
        self.tables.services.values().map(|shared| &shared.0)
    }

    /// The service of this name.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        let id = self.tables.service_names.get(&Id::from(name))?;
        self.tables.services.get(id).map(|shared| &shared.0)
    }

    /// The task of this id.
    #[must_use]
    pub fn task(&self, id: &str) -> Option<&Arc<Task>> {
        self.tables.tasks.get(&Id::from(id)).map(|shared| &shared.0)
    }

    /// The task that an index names.
    fn indexed(&self, id: &Id) -> Option<&Arc<Task>> {
        self.tables.tasks.get(id).map(|shared| &shared.0)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl DoubleEndedIterator<Item = &Arc<Task>> {
        self.tables.tasks.values().map(|shared| &shared.0)
    }

    /// Number of tasks.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tables.tasks.len()
    }

    /// A service's tasks, by slot and id.
    pub fn tasks_by_service<'a>(&'a self, service_id: &str) -> impl Iterator<Item = &'a Arc<Task>> {
        let set = self.tables.tasks_by_service.get(&Id::from(service_id));
        set.into_iter().flatten().filter_map(|(_, id)| self.indexed(id))
    }

    /// Number of a service's tasks, ended ones included.
    #[must_use]
    pub fn service_task_count(&self, service_id: &str) -> usize {
        self.tables
            .tasks_by_service
            .get(&Id::from(service_id))
            .map_or(0, imbl::OrdSet::len)
    }

    /// A slot's tasks, by id.
    pub fn tasks_by_slot<'a>(&'a self, service_id: &str, slot: u64) -> impl Iterator<Item = &'a Arc<Task>> {
        let set = self.tables.tasks_by_service.get(&Id::from(service_id));
        let first = (slot, Id::from(""));
        set.into_iter()
            .flat_map(move |set| set.range(first.clone()..))
            .take_while(move |(at, _)| *at == slot)
            .filter_map(|(_, id)| self.indexed(id))
    }

    /// A node's tasks, by id.
    pub fn tasks_by_node<'a>(&'a self, node_id: &str) -> impl Iterator<Item = &'a Arc<Task>> {
        let set = self.tables.tasks_by_node.get(&Id::from(node_id));
        set.into_iter().flatten().filter_map(|id| self.indexed(id))
    }

    /// Whether both are the same in memory: not only equal.
    pub(crate) fn is(&self, other: &Snapshot) -> bool {
        self.version == other.version && self.tables.is(&other.tables)
    }

    /// An object of any kind.
    #[must_use]
    pub fn get(&self, kind: Kind, id: &str) -> Option<Object> {
        self.tables.get(kind, id)
    }

    /// Every object, kind by kind.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let tables = &self.tables;
        let clusters = tables
            .clusters
            .values()
            .map(|shared| Object::Cluster(shared.0.clone()));
        let nodes = tables.nodes.values().map(|shared| Object::Node(shared.0.clone()));
        let networks = tables
            .networks
            .values()
            .map(|shared| Object::Network(shared.0.clone()));
        let services = tables
            .services
            .values()
            .map(|shared| Object::Service(shared.0.clone()));
        let tasks = tables.tasks.values().map(|shared| Object::Task(shared.0.clone()));
        clusters.chain(nodes).chain(networks).chain(services).chain(tasks)
    }

    /// What differs from an `older` snapshot, as (before, after), kind by kind and by id. Costs about as much as
    /// there are differences: parts that both share are skipped.
    pub fn diff(&self, older: &Snapshot) -> Vec<(Option<Object>, Option<Object>)> {
        let mut found = Vec::new();
        macro_rules! compare {
            ($($table:ident $kind:ident),*) => {$(
                for item in older.tables.$table.diff(&self.tables.$table) {
                    found.push(match item {
                        DiffItem::Add(_, new) => (None, Some(Object::$kind(new.0.clone()))),
                        DiffItem::Remove(_, old) => (Some(Object::$kind(old.0.clone())), None),
                        DiffItem::Update { old, new } => {
                            (Some(Object::$kind(old.1.0.clone())), Some(Object::$kind(new.1.0.clone())))
                        }
                    });
                }
            )*};
        }
        compare!(clusters Cluster, nodes Node, networks Network, services Service, tasks Task);
        found
    }

    /// The next version, with a changeset applied, and what it did. Deterministic; sets each written object's
    /// [`Meta`] from the new version and the changeset's time.
    ///
    /// # Errors
    /// [`Error::Stale`] if the changeset was made on another version.
    pub fn apply(&self, changeset: Changeset) -> Result<(Snapshot, Vec<Event>)> {
        let (base, current) = (changeset.base_version, self.version);
        #[cfg(feature = "planted-bugs")]
        let current = match pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetVersion) {
            true => base,
            false => current,
        };
        if base != current {
            return Err(Error::Stale { base, current });
        }
        let mut next = self.clone();
        next.version += 1;
        let stamp = Stamp {
            version: next.version,
            at: changeset.at,
        };
        let changes = changeset.changes.into_iter().filter_map(|change| change.change);
        let events = changes
            .filter_map(|change| stamp.apply(&mut next.tables, change))
            .collect();
        Ok((next, events))
    }
}

/// What a changeset writes into the objects' [`Meta`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) version: u64,
    pub(crate) at: i64,
}

impl Stamp {
    /// The `Meta` of an object that is written over `old`.
    pub(crate) fn meta(self, old: Option<&Meta>) -> Meta {
        let created_at = old.map_or(self.at, |meta| meta.created_at);
        Meta {
            version: self.version,
            created_at,
            updated_at: self.at,
        }
    }

    /// Applies one change; none if it deletes what is not there.
    fn apply(self, tables: &mut Tables, change: change::Change) -> Option<Event> {
        macro_rules! put {
            ($table:ident, $kind:ident, $object:ident) => {{
                let mut object = $object;
                let old = tables.$table.get(&Id::from(object.id.as_str()));
                object.meta = Some(self.meta(old.and_then(|old| old.0.meta.as_ref())));
                let object = Object::$kind(Arc::new(object));
                tables.put(object.clone());
                Some(Event::Put(object))
            }};
        }
        match change {
            change::Change::PutCluster(object) => put!(clusters, Cluster, object),
            change::Change::PutNode(object) => put!(nodes, Node, object),
            change::Change::PutNetwork(object) => put!(networks, Network, object),
            change::Change::PutService(object) => put!(services, Service, object),
            change::Change::PutTask(object) => put!(tasks, Task, object),
            change::Change::DeleteCluster(id) => tables.delete(Kind::Cluster, &id).map(Event::Delete),
            change::Change::DeleteNode(id) => tables.delete(Kind::Node, &id).map(Event::Delete),
            change::Change::DeleteNetwork(id) => tables.delete(Kind::Network, &id).map(Event::Delete),
            change::Change::DeleteService(id) => tables.delete(Kind::Service, &id).map(Event::Delete),
            change::Change::DeleteTask(id) => tables.delete(Kind::Task, &id).map(Event::Delete),
        }
    }
}
