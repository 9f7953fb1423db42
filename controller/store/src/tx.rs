//! A transaction: edits on top of a snapshot. Reads (through `Deref`) see the edits. Made by the controller's writer,
//! filled by it and by the reconciler, ends as one changeset; the writer's ends as the changeset and the snapshot that it leads to.

use std::ops::Deref;
use std::sync::Arc;

use imbl::OrdMap;
use pontoon_proto::v1::{Changeset, Cluster, Network, Node, Service, Task};
use prost::Message;

use crate::made::Made;
use crate::snapshot::Stamp;
use crate::tables::{network_name, service_name};
use crate::{Error, Event, Id, Kind, Object, Result, Snapshot, codec, object};

/// Edits on top of a snapshot.
#[derive(Debug, Clone)]
pub struct Tx {
    base: Snapshot,
    view: Snapshot,
    written: OrdMap<(Kind, Id), Written>,
    size: usize,
    /// What is written gets the `Meta` that applying the changeset would give it.
    stamp: Option<Stamp>,
}

/// What is known of an object that was written.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Encoded size of the last write.
    size: usize,
    /// More than once: it may be again what it was before.
    again: bool,
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
            written: OrdMap::new(),
            size: 0,
            stamp: None,
        }
    }

    /// A transaction without edits yet, made at `at`: it can [`finish`](Self::finish).
    #[must_use]
    pub fn at(base: Snapshot, at: i64) -> Self {
        let stamp = Stamp {
            version: base.version + 1,
            at,
        };
        Self {
            stamp: Some(stamp),
            ..Self::new(base)
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
            self.note(kind, id.into(), id.len());
        }
        found
    }

    fn put(&mut self, mut object: Object, size: usize) -> Result<()> {
        let kind = object.kind();
        if object.id().is_empty() {
            return Err(Error::EmptyId { kind });
        }
        let id = Id::from(object.id());
        let old = self.view.get(kind, &id);
        if let Some(stamp) = &self.stamp {
            let key = (kind, id.clone());
            // An object that was deleted and is made again goes on for those who apply the changeset.
            let base = match self.written.contains_key(&key) {
                true => self.base.get(kind, &id),
                false => old.clone(),
            };
            let meta = stamp.meta(base.as_ref().and_then(Object::meta));
            // What else there is decides whether it is another.
            let before = old.as_ref().and_then(Object::meta).copied();
            object.set_meta(before);
            if old.as_ref() == Some(&object) {
                return Ok(());
            }
            object.set_meta(Some(meta));
        } else if old.as_ref() == Some(&object) {
            return Ok(());
        }
        drop(old);
        self.view.tables.put(object);
        self.note(kind, id, size);
        Ok(())
    }

    fn note(&mut self, kind: Kind, id: Id, size: usize) {
        self.size += size;
        if let Some(written) = self.written.get_mut(&(kind, id.clone())) {
            self.size -= written.size;
            *written = Written { size, again: true };
        } else {
            self.written.insert((kind, id), Written { size, again: false });
        }
    }

    /// The edits as one changeset made at `at`; the last write of an object counts, and what is in the end as it was
    /// before is left out.
    #[must_use]
    pub fn into_changeset(self, at: i64) -> Changeset {
        let Self {
            base,
            view,
            written,
            stamp,
            ..
        } = self;
        let mut format = 0;
        let change = |((kind, id), written): ((Kind, Id), Written)| {
            let before = base.get(kind, &id);
            let Some(now) = view.get(kind, &id) else {
                return before.map(|_| object::deletion(kind, id.to_string()));
            };
            let is_as_before = before.is_some_and(|before| match stamp {
                Some(_) => written.again && before.is_but_for_meta(&now),
                None => before == now,
            });
            (!is_as_before).then(|| {
                format = format.max(now.format());
                now.to_put()
            })
        };
        let changes = written.into_iter().filter_map(change).collect();
        Changeset {
            base_version: base.version,
            changes,
            at,
            format,
        }
    }

    /// The edits of a transaction made by [`Tx::at`] as an encoded changeset, with the snapshot and the events that it leads to; none if
    /// nothing changes. What they say is what applying the changeset says.
    #[must_use]
    pub fn finish(self) -> Option<Made> {
        let Self {
            base,
            mut view,
            written,
            size,
            stamp,
        } = self;
        let stamp = stamp?;
        let (mut format, mut events) = (0, Vec::with_capacity(written.len()));
        for ((kind, id), written) in written {
            let before = base.get(kind, &id);
            match (before, view.get(kind, &id)) {
                (Some(before), Some(now)) if written.again && before.is_but_for_meta(&now) => {
                    view.tables.put(before);
                }
                (_, Some(now)) => {
                    format = format.max(now.format());
                    events.push(Event::Put(now));
                }
                (Some(before), None) => events.push(Event::Delete(before)),
                (None, None) => {}
            }
        }
        if events.is_empty() {
            return None;
        }
        let entry = codec::encode_changeset(base.version, stamp.at, format, &events, size);
        view.version = stamp.version;
        Some(Made {
            entry,
            base,
            next: view,
            at: stamp.at,
            events,
        })
    }
}
