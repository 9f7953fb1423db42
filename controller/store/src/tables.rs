//! The persistent maps behind a snapshot, and the indexes that follow each write. Used by `Snapshot` and `Tx` only.

use std::sync::Arc;

use crate::{Id, Kind, Object};
use imbl::{OrdMap, OrdSet};
use pontoon_proto::v1::{Cluster, Network, Node, Service, Task};

/// A shared object. Compared by pointer first: unlike `Arc`, also where `T` is not `Eq`. That is what makes a difference of
/// snapshots cheap, which looks at the neighbours of what changed too.
#[derive(Debug, Clone)]
pub(crate) struct Shared<T>(pub(crate) Arc<T>);

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

/// All objects and the indexes over them. A clone is O(1).
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tables {
    pub(crate) clusters: OrdMap<Id, Shared<Cluster>>,
    pub(crate) nodes: OrdMap<Id, Shared<Node>>,
    pub(crate) networks: OrdMap<Id, Shared<Network>>,
    pub(crate) services: OrdMap<Id, Shared<Service>>,
    pub(crate) tasks: OrdMap<Id, Shared<Task>>,
    pub(crate) network_names: OrdMap<Id, Id>,
    pub(crate) service_names: OrdMap<Id, Id>,
    /// Tasks of a service, in the order of slots.
    pub(crate) tasks_by_service: OrdMap<Id, OrdSet<(u64, Id)>>,
    pub(crate) tasks_by_node: OrdMap<Id, OrdSet<Id>>,
}

/// The name a service goes by.
pub(crate) fn service_name(service: &Service) -> &str {
    name(service.spec.as_ref().and_then(|spec| spec.annotations.as_ref()))
}

/// The name a network goes by.
pub(crate) fn network_name(network: &Network) -> &str {
    name(network.spec.as_ref().and_then(|spec| spec.annotations.as_ref()))
}

fn name(annotations: Option<&pontoon_proto::v1::Annotations>) -> &str {
    annotations.map_or("", |a| a.name.as_str())
}

/// Moves a name from `old` to `new`. A name that meanwhile belongs to another object stays with it, so that the order
/// of the writes in a changeset does not matter.
fn rename(names: &mut OrdMap<Id, Id>, id: &Id, old: Option<&str>, new: Option<&str>) {
    if old == new {
        return;
    }
    if let Some(old) = old.filter(|old| names.get(old.as_bytes()) == Some(id)) {
        names.remove(old.as_bytes());
    }
    if let Some(new) = new.filter(|new| !new.is_empty()) {
        names.insert(new.into(), id.clone());
    }
}

fn index<K: Ord + Clone>(map: &mut OrdMap<Id, OrdSet<K>>, group: &str, key: K) {
    let group = Id::from(group);
    if let Some(set) = map.get_mut(&group) {
        set.insert(key);
    } else {
        map.insert(group, OrdSet::unit(key));
    }
}

fn unindex<K: Ord + Clone>(map: &mut OrdMap<Id, OrdSet<K>>, group: &str, key: &K) {
    let group = &Id::from(group);
    let Some(set) = map.get_mut(group) else { return };
    set.remove(key);
    if set.is_empty() {
        map.remove(group);
    }
}

impl Tables {
    /// Whether the objects are the same ones in memory.
    pub(crate) fn is(&self, other: &Tables) -> bool {
        self.clusters.ptr_eq(&other.clusters)
            && self.nodes.ptr_eq(&other.nodes)
            && self.networks.ptr_eq(&other.networks)
            && self.services.ptr_eq(&other.services)
            && self.tasks.ptr_eq(&other.tasks)
    }

    /// The object of this kind and id.
    pub(crate) fn get(&self, kind: Kind, id: &str) -> Option<Object> {
        let id = &Id::from(id);
        match kind {
            Kind::Cluster => self
                .clusters
                .get(id)
                .map(|shared| Object::Cluster(shared.0.clone())),
            Kind::Node => self.nodes.get(id).map(|shared| Object::Node(shared.0.clone())),
            Kind::Network => self
                .networks
                .get(id)
                .map(|shared| Object::Network(shared.0.clone())),
            Kind::Service => self
                .services
                .get(id)
                .map(|shared| Object::Service(shared.0.clone())),
            Kind::Task => self.tasks.get(id).map(|shared| Object::Task(shared.0.clone())),
        }
    }

    /// Writes an object; returns what it replaced.
    pub(crate) fn put(&mut self, object: Object) -> Option<Object> {
        let id = Id::from(object.id());
        match object {
            Object::Cluster(new) => self
                .clusters
                .insert(id, Shared(new))
                .map(|shared| Object::Cluster(shared.0)),
            Object::Node(new) => self
                .nodes
                .insert(id, Shared(new))
                .map(|shared| Object::Node(shared.0)),
            Object::Network(new) => {
                let old = self.networks.insert(id.clone(), Shared(new.clone()));
                let old_name = old.as_ref().map(|old| network_name(&old.0));
                rename(&mut self.network_names, &id, old_name, Some(network_name(&new)));
                old.map(|shared| Object::Network(shared.0))
            }
            Object::Service(new) => {
                let old = self.services.insert(id.clone(), Shared(new.clone()));
                let old_name = old.as_ref().map(|old| service_name(&old.0));
                rename(&mut self.service_names, &id, old_name, Some(service_name(&new)));
                old.map(|shared| Object::Service(shared.0))
            }
            Object::Task(new) => self.put_task(id, new).map(Object::Task),
        }
    }

    fn put_task(&mut self, id: Id, new: Arc<Task>) -> Option<Arc<Task>> {
        let old = self.tasks.insert(id.clone(), Shared(new.clone()));
        let old = old.map(|shared| shared.0);
        let stays = |old: &Task| old.slot == new.slot && old.service_id == new.service_id;
        if !old.as_deref().is_some_and(stays) {
            if let Some(old) = &old {
                unindex(
                    &mut self.tasks_by_service,
                    &old.service_id,
                    &(old.slot, id.clone()),
                );
            }
            index(
                &mut self.tasks_by_service,
                &new.service_id,
                (new.slot, id.clone()),
            );
        }
        let old_node = old.as_ref().map_or("", |task| task.node_id.as_str());
        if old_node != new.node_id {
            unindex(&mut self.tasks_by_node, old_node, &id);
            if !new.node_id.is_empty() {
                index(&mut self.tasks_by_node, &new.node_id, id);
            }
        }
        old
    }

    /// Deletes an object; returns it.
    pub(crate) fn delete(&mut self, kind: Kind, id: &str) -> Option<Object> {
        let id = &Id::from(id);
        match kind {
            Kind::Cluster => self.clusters.remove(id).map(|shared| Object::Cluster(shared.0)),
            Kind::Node => self.nodes.remove(id).map(|shared| Object::Node(shared.0)),
            Kind::Network => {
                let (id, old) = self.networks.remove_with_key(id)?;
                rename(&mut self.network_names, &id, Some(network_name(&old.0)), None);
                Some(Object::Network(old.0))
            }
            Kind::Service => {
                let (id, old) = self.services.remove_with_key(id)?;
                rename(&mut self.service_names, &id, Some(service_name(&old.0)), None);
                Some(Object::Service(old.0))
            }
            Kind::Task => {
                let (id, Shared(old)) = self.tasks.remove_with_key(id)?;
                unindex(
                    &mut self.tasks_by_service,
                    &old.service_id,
                    &(old.slot, id.clone()),
                );
                unindex(&mut self.tasks_by_node, &old.node_id, &id);
                Some(Object::Task(old))
            }
        }
    }
}
