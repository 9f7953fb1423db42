//! An object of any kind, and what happened to it: what a watch hands out. Objects are shared with the snapshots, so
//! an event costs a pointer.

use std::fmt;
use std::sync::Arc;

use pontoon_proto::v1::{self, Cluster, Meta, Network, Node, Service, ServiceSpec, Task, change};

use crate::FORMAT_OF_JOBS;

/// Kind of an object. The order is the order of changes within a changeset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Cluster`]
    Cluster,
    /// [`Node`]
    Node,
    /// [`Network`]
    Network,
    /// [`Service`]
    Service,
    /// [`Task`]
    Task,
}

impl Kind {
    /// The kind in lower case: `service`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cluster => "cluster",
            Kind::Node => "node",
            Kind::Network => "network",
            Kind::Service => "service",
            Kind::Task => "task",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An object of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A cluster.
    Cluster(Arc<Cluster>),
    /// A node.
    Node(Arc<Node>),
    /// A network.
    Network(Arc<Network>),
    /// A service.
    Service(Arc<Service>),
    /// A task.
    Task(Arc<Task>),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Object::Cluster(_) => Kind::Cluster,
            Object::Node(_) => Kind::Node,
            Object::Network(_) => Kind::Network,
            Object::Service(_) => Kind::Service,
            Object::Task(_) => Kind::Task,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Object::Cluster(o) => &o.id,
            Object::Node(o) => &o.id,
            Object::Network(o) => &o.id,
            Object::Service(o) => &o.id,
            Object::Task(o) => &o.id,
        }
    }

    /// When it was written.
    #[must_use]
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Object::Cluster(o) => o.meta.as_ref(),
            Object::Node(o) => o.meta.as_ref(),
            Object::Network(o) => o.meta.as_ref(),
            Object::Service(o) => o.meta.as_ref(),
            Object::Task(o) => o.meta.as_ref(),
        }
    }

    /// Says when it was written. Of a shared object a copy is made.
    pub(crate) fn set_meta(&mut self, meta: Option<Meta>) {
        match self {
            Object::Cluster(o) => Arc::make_mut(o).meta = meta,
            Object::Node(o) => Arc::make_mut(o).meta = meta,
            Object::Network(o) => Arc::make_mut(o).meta = meta,
            Object::Service(o) => Arc::make_mut(o).meta = meta,
            Object::Task(o) => Arc::make_mut(o).meta = meta,
        }
    }

    /// Whether the two say the same but for when they were written.
    pub(crate) fn is_but_for_meta(&self, other: &Object) -> bool {
        let mut same = other.clone();
        same.set_meta(self.meta().copied());
        *self == same
    }

    /// The format that a reader must know to lose nothing of it.
    pub(crate) fn format(&self) -> u32 {
        let has_news = match self {
            Object::Service(o) => {
                o.job_status.is_some() || o.released_version != 0 || specs(o).any(has_news_of_jobs)
            }
            Object::Task(o) => o.job_iteration.is_some() || !o.generic_resources.is_empty(),
            Object::Node(o) => {
                let description = o.description.as_ref();
                let has_generic = description.is_some_and(|node| !node.generic_resources.is_empty());
                has_generic || !o.containers.is_empty()
            }
            _ => false,
        };
        if has_news { FORMAT_OF_JOBS } else { 0 }
    }

    /// The change that writes it.
    #[must_use]
    pub fn to_put(&self) -> v1::Change {
        let change = match self {
            Object::Cluster(o) => change::Change::PutCluster(Cluster::clone(o)),
            Object::Node(o) => change::Change::PutNode(Node::clone(o)),
            Object::Network(o) => change::Change::PutNetwork(Network::clone(o)),
            Object::Service(o) => change::Change::PutService(Service::clone(o)),
            Object::Task(o) => change::Change::PutTask(Task::clone(o)),
        };
        v1::Change { change: Some(change) }
    }
}

/// All specs that a service holds.
fn specs(service: &Service) -> impl Iterator<Item = &ServiceSpec> {
    let retained = service
        .retained
        .iter()
        .filter_map(|retained| retained.spec.as_ref());
    retained.chain(&service.spec).chain(&service.previous_spec)
}

/// Whether a spec asks for what is known since [`FORMAT_OF_JOBS`]: restarts with a growing delay, a drain period, services that it
/// depends on, or units of generic resources.
fn has_news_of_jobs(spec: &ServiceSpec) -> bool {
    let task = spec.task.as_ref();
    let restart = task.and_then(|task| task.restart.as_ref());
    let resources = task.and_then(|task| task.resources.as_ref());
    !spec.depends_on.is_empty()
        || restart.is_some_and(|restart| restart.max_delay.is_some())
        || task.is_some_and(|task| task.drain_period.is_some())
        || resources.is_some_and(|resources| !resources.generic_reservations.is_empty())
}

/// The change that deletes an object.
pub(crate) fn deletion(kind: Kind, id: String) -> v1::Change {
    let change = match kind {
        Kind::Cluster => change::Change::DeleteCluster(id),
        Kind::Node => change::Change::DeleteNode(id),
        Kind::Network => change::Change::DeleteNetwork(id),
        Kind::Service => change::Change::DeleteService(id),
        Kind::Task => change::Change::DeleteTask(id),
    };
    v1::Change { change: Some(change) }
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It was created or changed: as it is now.
    Put(Object),
    /// It was deleted: as it was last.
    Delete(Object),
}

impl Event {
    /// The object concerned.
    #[must_use]
    pub fn object(&self) -> &Object {
        match self {
            Event::Put(object) | Event::Delete(object) => object,
        }
    }

    /// The event as a change on the wire.
    #[must_use]
    pub fn to_change(&self) -> v1::Change {
        match self {
            Event::Put(object) => object.to_put(),
            Event::Delete(object) => deletion(object.kind(), object.id().to_owned()),
        }
    }
}
