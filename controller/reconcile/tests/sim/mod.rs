//! A whole cluster in one thread: a store and its replica, the reconciler, fake agents, a clock that is turned by hand. Every
//! commit is checked against what must always hold (`invariants`). Used by all tests of this folder.
#![allow(dead_code)] // Each test binary uses its part.

pub mod containers;
pub mod invariants;
pub mod rules;
pub mod words;

use std::collections::BTreeSet;
use std::sync::Arc;

use pontoon_proto::v1::*;
use pontoon_reconcile::assignments::{self, Records};
use pontoon_reconcile::{Budget, Env, ReconcileState, observe, reconcile};
use pontoon_store::{ApplyOutcome, Snapshot, Store, Tx};

/// One second.
pub const SECOND: i64 = 1_000_000_000;

pub struct Sim {
    pub store: Store,
    replica: Store,
    pub state: ReconcileState,
    pub records: Records,
    pub now: i64,
    pub budget: Budget,
    ids: u64,
    pub next_wake: Option<i64>,
    /// Images whose containers fail at their start.
    pub broken: BTreeSet<String>,
    /// Nodes whose agents are cut off or dead.
    pub silent: BTreeSet<String>,
    /// Jobs' programs come to their end; else they run until it is reported.
    pub finishing: bool,
    /// Make each commit's caches anew: what a change of leader does.
    pub forgetful: bool,
}

impl Default for Sim {
    fn default() -> Self {
        let mut sim = Self {
            store: Store::new(),
            replica: Store::new(),
            state: ReconcileState::default(),
            records: Records::default(),
            now: 1_000_000 * SECOND,
            budget: Budget::default(),
            ids: 0,
            next_wake: None,
            broken: BTreeSet::new(),
            silent: BTreeSet::new(),
            finishing: false,
            forgetful: false,
        };
        sim.commit(|tx, _| {
            tx.put_cluster(Cluster {
                id: "cluster".to_owned(),
                ..Default::default()
            })
            .unwrap()
        });
        sim
    }
}

impl Sim {
    pub fn view(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    pub fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}{:06}", self.ids)
    }

    /// One transaction with `edit`, reconciled; then more of them as long as the reconciler asks for it.
    pub fn commit<T>(&mut self, edit: impl FnOnce(&mut Tx, i64) -> T) -> T {
        let now = self.now;
        let mut tx = Tx::new(Snapshot::clone(&self.view()));
        let result = edit(&mut tx, now);
        let mut more = self.finish(tx);
        for _ in 0..10_000 {
            if !more {
                return result;
            }
            more = self.finish(Tx::new(Snapshot::clone(&self.view())));
        }
        panic!("the reconciler never comes to rest");
    }

    fn finish(&mut self, mut tx: Tx) -> bool {
        if self.forgetful {
            self.state = ReconcileState::default();
        }
        let ids = &mut self.ids;
        let mut make = || {
            *ids += 1;
            format!("t{ids:06}")
        };
        let mut env = Env {
            now: self.now,
            ids: &mut make,
            budget: self.budget,
        };
        let edited = tx.view().clone();
        let outcome = reconcile(&mut tx, &mut self.state, &mut env);
        self.next_wake = outcome.next_wake;
        let changeset = tx.into_changeset(self.now);
        if changeset.changes.is_empty() {
            assert!(!outcome.more, "more work is announced, but nothing was done");
            return false;
        }
        let before = self.view();
        assert!(matches!(
            self.replica.apply(changeset.clone()),
            ApplyOutcome::Applied { .. }
        ));
        assert!(matches!(
            self.store.apply(changeset),
            ApplyOutcome::Applied { .. }
        ));
        assert_eq!(self.view(), self.replica.snapshot(), "replicas differ");
        invariants::check(&before, &edited, &self.view(), self.now);
        outcome.more
    }

    /// Adds a ready node.
    pub fn node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) {
        let mut node = Node {
            id: name.to_owned(),
            spec: Some(NodeSpec {
                annotations: Some(Annotations::default()),
                ..Default::default()
            }),
            description: Some(NodeDescription {
                hostname: name.to_owned(),
                platform: Some(Platform {
                    architecture: "amd64".to_owned(),
                    os: "linux".to_owned(),
                }),
                resources: Some(Resources {
                    nano_cpus: 4 * SECOND,
                    memory_bytes: 8 << 30,
                    pids: 0,
                }),
                data_path_addr: format!("192.0.2.{}", self.view().node_count() + 1),
                ..Default::default()
            }),
            ..Default::default()
        };
        edit(&mut node);
        let id = node.id.clone();
        let addr = node
            .status
            .as_ref()
            .map_or("192.0.2.1", |status| &status.addr)
            .to_owned();
        self.commit(|tx, now| {
            tx.put_node(node).unwrap();
            observe::node_ready(tx, &id, None, &addr, now);
        });
    }

    pub fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) {
        let mut node = Node::clone(self.view().node(name).expect("no such node"));
        edit(&mut node);
        self.commit(|tx, _| tx.put_node(node).unwrap());
    }

    /// The node's agent falls silent, and after a while the managers take it for down.
    pub fn down(&mut self, name: &str) {
        self.silent.insert(name.to_owned());
        self.commit(|tx, now| observe::node_down(tx, name, "heartbeat failure", now));
    }

    pub fn up(&mut self, name: &str) {
        self.silent.remove(name);
        self.commit(|tx, now| observe::node_ready(tx, name, None, "", now));
    }

    pub fn report(&mut self, task: &Task, state: TaskState) {
        let status = TaskStatus {
            state: state.into(),
            timestamp: self.now,
            ..Default::default()
        };
        let update = TaskStatusUpdate {
            task_id: task.id.clone(),
            status: Some(status),
        };
        let node = task.node_id.clone();
        self.commit(|tx, now| observe::task_status(tx, &node, &[update], now));
    }

    /// A task's agent finds it unhealthy: it still runs, but is about to be ended.
    pub fn unhealthy(&mut self, task: &Task) {
        let mut status = task.status.clone().unwrap_or_default();
        status.leaving = true;
        status.err = "unhealthy container".to_owned();
        let update = TaskStatusUpdate {
            task_id: task.id.clone(),
            status: Some(status),
        };
        let node = task.node_id.clone();
        self.commit(|tx, now| observe::task_status(tx, &node, &[update], now));
    }

    /// Every agent takes each of its tasks one step further; false if there was nothing to do.
    pub fn step(&mut self) -> bool {
        let view = self.view();
        let mut moved = false;
        for node in view.nodes() {
            moved |= self.step_node(&node.id);
        }
        moved
    }

    /// One agent takes each of its tasks one step further, from what it was assigned.
    pub fn step_node(&mut self, node_id: &str) -> bool {
        let view = self.view();
        if self.silent.contains(node_id) || view.node(node_id).is_none() {
            return false;
        }
        let assignments = assignments::for_node(&view, &mut self.records, node_id);
        let mut updates = Vec::new();
        for assignment in &assignments.tasks {
            let task = view.task(&assignment.task_id).expect("an assigned task exists");
            let image = assignment.spec.as_ref().and_then(|spec| spec.container.as_ref());
            let broken = image.is_some_and(|container| self.broken.contains(&container.image));
            let before = task.status.as_ref().unwrap().state();
            let after = match next_state(before, assignment.desired_state(), broken) {
                TaskState::Running if before == TaskState::Running && self.ends(task) => TaskState::Complete,
                other => other,
            };
            if after != before {
                let status = TaskStatus {
                    state: after.into(),
                    timestamp: self.now,
                    ..Default::default()
                };
                updates.push(TaskStatusUpdate {
                    task_id: task.id.clone(),
                    status: Some(status),
                });
            }
        }
        let moved = !updates.is_empty();
        if moved {
            self.commit(|tx, now| observe::task_status(tx, node_id, &updates, now));
        }
        moved
    }

    fn ends(&self, task: &Task) -> bool {
        self.finishing && task.job_iteration.is_some()
    }

    /// Agents walk until they have nothing to do; no time passes.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the agents never come to rest");
    }

    /// Time passes; the reconciler is woken when it asked for it.
    pub fn wait(&mut self, duration: i64) {
        let end = self.now + duration;
        self.run();
        while let Some(wake) = self.next_wake.filter(|wake| *wake <= end) {
            self.now = wake.max(self.now + 1);
            self.commit(|_, _| ());
            self.run();
        }
        self.now = end;
        self.commit(|_, _| ());
        self.run();
    }

    /// A service's live tasks.
    pub fn live(&self, service: &str) -> Vec<Arc<Task>> {
        let view = self.view();
        let id = view
            .find_service(service)
            .map_or(service.to_owned(), |service| service.id.clone());
        view.tasks_by_service(&id)
            .filter(|task| rules::is_live(task))
            .cloned()
            .collect()
    }

    /// Slots or nodes of a job where its task has completed in this run.
    pub fn completed(&self, service: &str) -> usize {
        let view = self.view();
        let service = view.find_service(service).expect("no such service");
        let done =
            |task: &&Arc<Task>| service.is_of_this_run(task) && rules::state(task) == TaskState::Complete;
        let places: BTreeSet<_> = view
            .tasks_by_service(&service.id)
            .filter(done)
            .map(|task| {
                (
                    task.slot,
                    if task.slot == 0 {
                        task.node_id.clone()
                    } else {
                        String::new()
                    },
                )
            })
            .collect();
        places.len()
    }

    pub fn running(&self, service: &str) -> usize {
        let running = |task: &&Arc<Task>| task.status.as_ref().unwrap().state() == TaskState::Running;
        self.live(service).iter().filter(running).count()
    }
}

fn next_state(before: TaskState, desired: TaskState, broken: bool) -> TaskState {
    if before.is_terminal() {
        return before;
    }
    if desired > TaskState::Running {
        return TaskState::Shutdown;
    }
    match before {
        TaskState::Assigned => TaskState::Accepted,
        TaskState::Accepted => TaskState::Preparing,
        TaskState::Preparing => TaskState::Ready,
        TaskState::Ready if desired == TaskState::Running => TaskState::Starting,
        TaskState::Starting if broken => TaskState::Failed,
        TaskState::Starting => TaskState::Running,
        other => other,
    }
}
