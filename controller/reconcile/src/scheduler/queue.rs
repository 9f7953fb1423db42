//! Tasks that wait for a node, grouped by what they ask for.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_proto::v1::{Task, TaskState};
use pontoon_store::Id;

use crate::state::{is_live, state_of};

/// Tasks that ask for the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    pub(super) tasks: BTreeSet<Id>,
    /// Why no node could take them, once each of them says so. While that holds they need not be looked at one by one.
    pub(super) refused: Option<String>,
}

/// A task that waits for the one node that it was made for.
#[derive(Debug, Clone)]
pub(super) struct Preassigned {
    pub(super) node: Id,
    /// It was refused when the roster's journal ended here: before the node is touched again there is no need to ask.
    pub(super) refused: Option<u64>,
}

/// Tasks that wait for a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    /// By service and spec version.
    pub(super) groups: BTreeMap<(Id, u64), Group>,
    /// Those made for one node (global services).
    pub(super) preassigned: BTreeMap<Id, Preassigned>,
    /// Somebody is new, or something happened that could help those who were refused.
    pub(crate) retry: bool,
}

impl Queue {
    /// Takes in what became of a task.
    pub(crate) fn track(&mut self, id: &Id, task: Option<&Task>) {
        let waits = |task: &&Task| state_of(task) == TaskState::Pending && is_live(task);
        match task.filter(waits) {
            Some(task) if task.node_id.is_empty() => {
                let key = (task.service_id.as_str().into(), task.spec_version);
                let group = self.groups.entry(key).or_default();
                if group.tasks.insert(id.clone()) {
                    group.refused = None;
                    self.retry = true;
                }
            }
            Some(task) => {
                if !self.preassigned.contains_key(id) {
                    let node = Id::from(task.node_id.as_str());
                    self.preassigned
                        .insert(id.clone(), Preassigned { node, refused: None });
                    self.retry = true;
                }
            }
            None => self.forget(id, task),
        }
    }

    /// What was decided on a task could not be written.
    pub(super) fn ask_again(&mut self, id: &Id, task: Option<&Task>) {
        self.retry = true;
        if let Some(task) = self.preassigned.get_mut(id) {
            task.refused = None;
        }
        let key = task.map(|task| (task.service_id.as_str().into(), task.spec_version));
        if let Some(group) = key.and_then(|key| self.groups.get_mut(&key)) {
            group.refused = None;
        }
    }

    fn forget(&mut self, id: &Id, task: Option<&Task>) {
        self.preassigned.remove(id);
        if self.groups.is_empty() {
            return;
        }
        if let Some(task) = task {
            let key = (task.service_id.as_str().into(), task.spec_version);
            if let Some(group) = self.groups.get_mut(&key) {
                group.tasks.remove(id);
                if group.tasks.is_empty() {
                    self.groups.remove(&key);
                }
            }
            return;
        }
        // Deleted while it waited: rare, so looking through the groups will do.
        self.groups.retain(|_, group| {
            group.tasks.remove(id);
            !group.tasks.is_empty()
        });
    }
}
