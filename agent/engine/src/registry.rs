//! All containers of the engine by id and name. Names are reserved here before anything is made on disk, so that two
//! creations with one name can't both succeed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::container::Container;
use crate::{Error, Result};

/// Containers by id, ids by name.
#[derive(Default)]
pub(crate) struct Registry {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<String, Arc<Container>>,
    by_name: HashMap<String, String>,
}

impl Registry {
    /// Takes a name for an id.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut inner = self.write();
        match inner.by_name.get(name) {
            Some(owner) if owner != id => Err(Error::NameInUse {
                name: name.to_owned(),
                id: owner.clone(),
            }),
            _ => {
                inner.by_name.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Makes up a name and takes it for an id.
    pub(crate) fn reserve_generated(&self, id: &str) -> String {
        let mut inner = self.write();
        let name = crate::name::generate(|name| inner.by_name.contains_key(name));
        inner.by_name.insert(name.clone(), id.to_owned());
        name
    }

    /// Gives a name back if that id has it.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut inner = self.write();
        if inner.by_name.get(name).is_some_and(|owner| owner == id) {
            inner.by_name.remove(name);
        }
    }

    /// Adds a container whose name is reserved.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.write().by_id.insert(container.id.clone(), container);
    }

    /// Takes a container and its names out.
    pub(crate) fn remove(&self, id: &str) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        inner.by_name.retain(|_, owner| owner != id);
    }

    /// Finds a container by id, name (with or without slash) or unique id prefix, in this order.
    pub(crate) fn find(&self, target: &str) -> Result<Arc<Container>> {
        let inner = self.read();
        let name = target.strip_prefix('/').unwrap_or(target);
        let none = || Error::NoSuchContainer(target.to_owned());
        if let Some(container) = inner.by_id.get(target) {
            return Ok(container.clone());
        }
        if let Some(container) = inner.by_name.get(name).and_then(|id| inner.by_id.get(id)) {
            return Ok(container.clone());
        }
        if target.is_empty() {
            return Err(none());
        }
        let mut fitting = inner
            .by_id
            .range(target.to_owned()..)
            .take_while(|(id, _)| id.starts_with(target))
            .map(|(_, container)| container);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix(target.to_owned())),
            (None, _) => Err(none()),
        }
    }

    /// All containers.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}
