//! A transaction: edits on top of a snapshot. Reads (through `Deref`) see the edits. Made by the controller's writer,
//! filled by it and by the reconciler, ends as one changeset.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use pontoon_proto::v1::{Changeset, Cluster, Network, Node, Service, Task};
use prost::Message;

use crate::tables::{network_name, service_name};
use crate::{Error, Id, Kind, Object, Result, Snapshot, object};

/// Edits on top of a snapshot.
#[derive(Debug, Clone)]
pub struct Tx {
    base: Snapshot,
    view: Snapshot,
    /// What was written, with the encoded size of its last write.
    written: BTreeMap<(Kind, Id), usize>,
    size: usize,
}

impl Deref for Tx {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.view
    }
}

/// Refuses a name that another object of the kind has.
fn unique(kind: Kind, name: &str, id: &str, holder: Option<&str>) -> Result<()> {
    match holder {
        Some(holder) if holder != id => Err(Error::NameConflict {
            kind,
            name: name.to_owned(),
            holder: holder.to_owned(),
        }),
        _ => Ok(()),
    }
}

impl Tx {
    /// A transaction without edits yet.
    #[must_use]
    pub fn new(base: Snapshot) -> Self {
        Self {
            view: base.clone(),
            base,
            written: BTreeMap::new(),
            size: 0,
        }
    }

    /// The objects as they are with the edits made so far.
    #[must_use]
    pub fn view(&self) -> &Snapshot {
        &self.view
    }

    /// The objects as they were before the edits.
    #[must_use]
    pub fn base(&self) -> &Snapshot {
        &self.base
    }

    /// Number of objects written so far.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.written.len()
    }

    /// About how many bytes the changeset will have.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this transaction has written or deleted the object.
    #[must_use]
    pub fn is_written(&self, kind: Kind, id: &str) -> bool {
        self.written.contains_key(&(kind, id.into()))
    }

    /// Whether an object is still what somebody read at this version; 0 stands for any. One that this transaction has
    /// written has a version that nobody can have read yet, though its `meta` has the old one until it is applied.
    #[must_use]
    pub fn is_at(&self, kind: Kind, id: &str, version: u64) -> bool {
        #[cfg(feature = "planted-bugs")]
        if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetLock) {
            return true;
        }
        let current = || {
            let object = self.view.get(kind, id);
            let meta = object.as_ref().and_then(Object::meta);
            meta.map_or(0, |meta| meta.version)
        };
        version == 0 || (!self.is_written(kind, id) && current() == version)
    }

    /// Writes the cluster.
    ///
    /// # Errors
    /// [`Error::EmptyId`].
    pub fn put_cluster(&mut self, cluster: Cluster) -> Result<()> {
        let size = cluster.encoded_len();
        self.put(Object::Cluster(Arc::new(cluster)), size)
    }

    /// Writes a node.
    ///
    /// # Errors
    /// [`Error::EmptyId`].
    pub fn put_node(&mut self, node: Node) -> Result<()> {
        let size = node.encoded_len();
        self.put(Object::Node(Arc::new(node)), size)
    }

    /// Writes a network.
    ///
    /// # Errors
    /// [`Error::EmptyId`], [`Error::NameConflict`].
    pub fn put_network(&mut self, network: Network) -> Result<()> {
        let name = network_name(&network);
        let holder = self.view.network_by_name(name).map(|other| other.id.as_str());
        unique(Kind::Network, name, &network.id, holder)?;
        let size = network.encoded_len();
        self.put(Object::Network(Arc::new(network)), size)
    }

    /// Writes a service.
    ///
    /// # Errors
    /// [`Error::EmptyId`], [`Error::NameConflict`].
    pub fn put_service(&mut self, service: Service) -> Result<()> {
        let name = service_name(&service);
        let holder = self.view.service_by_name(name).map(|other| other.id.as_str());
        unique(Kind::Service, name, &service.id, holder)?;
        let size = service.encoded_len();
        self.put(Object::Service(Arc::new(service)), size)
    }

    /// Writes a task.
    ///
    /// # Errors
    /// [`Error::EmptyId`].
    pub fn put_task(&mut self, task: Task) -> Result<()> {
        let size = task.encoded_len();
        self.put(Object::Task(Arc::new(task)), size)
    }

    /// Deletes an object; false if there is none.
    pub fn delete(&mut self, kind: Kind, id: &str) -> bool {
        let found = self.view.tables.delete(kind, id).is_some();
        if found {
            self.note(kind, id, id.len());
        }
        found
    }

    fn put(&mut self, object: Object, size: usize) -> Result<()> {
        let kind = object.kind();
        if object.id().is_empty() {
            return Err(Error::EmptyId { kind });
        }
        if self.view.get(kind, object.id()).as_ref() == Some(&object) {
            return Ok(());
        }
        let id = object.id().to_owned();
        self.view.tables.put(object);
        self.note(kind, &id, size);
        Ok(())
    }

    fn note(&mut self, kind: Kind, id: &str, size: usize) {
        self.size += size;
        if let Some(before) = self.written.insert((kind, id.into()), size) {
            self.size -= before;
        }
    }

    /// The edits as one changeset made at `at`; the last write of an object counts, and what is in the end as it was
    /// before is left out.
    #[must_use]
    pub fn into_changeset(self, at: i64) -> Changeset {
        let Self {
            base, view, written, ..
        } = self;
        let mut format = 0;
        let change = |(kind, id): (Kind, Id)| match (base.get(kind, &id), view.get(kind, &id)) {
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                format = format.max(now.format());
                Some(now.to_put())
            }
            (Some(_), None) => Some(object::deletion(kind, id.as_ref().to_owned())),
            (_, Some(_)) | (None, None) => None,
        };
        let changes = written.into_keys().filter_map(change).collect();
        Changeset {
            base_version: base.version,
            changes,
            at,
            format,
        }
    }
}
