//! The worker: holds what the managers assigned. Networks are programmed before tasks that use them start and forgotten
//! after they have left. It needs no manager: at its start it goes on from what is on disk.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_proto::v1::{
    Assignments, OverlayNetwork, TaskAssignment, TaskState, TaskStatus, TaskStatusUpdate,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::exec::{Executor, tidy};
use crate::reporter::Reporter;
use crate::storage::Storage;
use crate::task::{self, Handle};

/// What the worker is told.
pub(crate) enum Command {
    /// Assignments from the session.
    Assign(Box<Assignments>),
    /// Everything of a task is gone.
    Gone(String),
}

/// The tasks that are held, for those who only look.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    observed: Arc<Mutex<BTreeMap<String, watch::Receiver<TaskStatus>>>>,
    version: Arc<AtomicU64>,
}

impl Tasks {
    /// Statuses of all tasks, for a registration.
    pub(crate) fn statuses(&self) -> Vec<TaskStatusUpdate> {
        self.lock()
            .iter()
            .map(|(id, status)| TaskStatusUpdate {
                task_id: id.clone(),
                status: Some(status.borrow().clone()),
            })
            .filter(|update| {
                update
                    .status
                    .as_ref()
                    .is_some_and(|s| s.state() >= TaskState::Accepted)
            })
            .collect()
    }

    /// Where a task is; `None` if it is not held.
    pub(crate) fn watch(&self, id: &str) -> Option<watch::Receiver<TaskStatus>> {
        self.lock().get(id).cloned()
    }

    /// Version of the last assignments that were applied.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Receiver<TaskStatus>>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the assignments.
pub(crate) struct Worker {
    storage: Arc<Storage>,
    executor: Arc<dyn Executor>,
    reporter: Reporter,
    tasks: Tasks,
    handles: BTreeMap<String, Handle>,
    networks: BTreeMap<String, OverlayNetwork>,
    /// Networks to be forgotten once no task uses them.
    leaving_networks: HashSet<String>,
    has_ingress: bool,
}

impl Worker {
    pub(crate) fn new(storage: Arc<Storage>, executor: Arc<dyn Executor>, reporter: Reporter) -> Self {
        Self {
            storage,
            executor,
            reporter,
            tasks: Tasks::default(),
            handles: BTreeMap::new(),
            networks: BTreeMap::new(),
            leaving_networks: HashSet::new(),
            has_ingress: false,
        }
    }

    pub(crate) fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Works until cancelled; walks of tasks end then, their containers stay.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, cancelled: CancellationToken) {
        let (gone, mut goners) = mpsc::unbounded_channel();
        self.resume(&gone, &cancelled).await;
        loop {
            let command = tokio::select! {
                Some(command) = commands.recv() => command,
                Some(id) = goners.recv() => Command::Gone(id),
                () = cancelled.cancelled() => return,
            };
            match command {
                Command::Assign(assignments) => self.assign(*assignments, &gone, &cancelled).await,
                Command::Gone(id) => self.gone(&id).await,
            }
        }
    }

    /// Goes on from what is on disk.
    async fn resume(&mut self, gone: &mpsc::UnboundedSender<String>, cancelled: &CancellationToken) {
        for network in self.storage.networks().unwrap_or_else(log_default("networks")) {
            self.set_network(network, false).await;
        }
        match self
            .storage
            .ingress()
            .unwrap_or_else(log_default("the routing mesh"))
        {
            Some(ingress) => {
                self.has_ingress = true;
                if let Err(error) = self.executor.set_ingress(Some(&ingress)).await {
                    tracing::warn!(error, "could not program the routing mesh");
                }
            }
            None => self.has_ingress = false,
        }
        for (assignment, status) in self.storage.tasks().unwrap_or_else(log_default("tasks")) {
            self.start(assignment, status, gone, cancelled);
        }
        self.tell_images();
    }

    fn tell_images(&self) {
        let image = |handle: &Handle| {
            let task = handle.assignment.borrow();
            Some(task.spec.as_ref()?.container.as_ref()?.image.clone())
        };
        self.executor
            .set_images(self.handles.values().filter_map(image).collect());
    }

    async fn assign(
        &mut self,
        assignments: Assignments,
        gone: &mpsc::UnboundedSender<String>,
        cancelled: &CancellationToken,
    ) {
        let Assignments {
            full,
            version,
            tasks,
            mut removed_tasks,
            networks,
            mut removed_networks,
            ingress,
        } = assignments;
        if full {
            let wanted: HashSet<&str> = tasks.iter().map(|task| task.task_id.as_str()).collect();
            removed_tasks = self
                .handles
                .keys()
                .filter(|id| !wanted.contains(id.as_str()))
                .cloned()
                .collect();
            let kept: HashSet<&str> = networks.iter().map(|network| network.id.as_str()).collect();
            removed_networks = self
                .networks
                .keys()
                .filter(|id| !kept.contains(id.as_str()))
                .cloned()
                .collect();
        }
        for network in networks {
            self.set_network(network, true).await;
        }
        let leaves_mesh = full && ingress.is_none() && self.has_ingress;
        if ingress.is_some() || leaves_mesh {
            self.set_ingress(ingress.as_ref()).await;
        }
        for mut assignment in tasks {
            tidy(&mut assignment);
            self.upsert(assignment, gone, cancelled);
        }
        self.tell_images();
        for id in &removed_tasks {
            if let Some(handle) = self.handles.get(id) {
                handle.remove.cancel();
            }
        }
        self.leaving_networks.extend(removed_networks);
        self.forget_networks().await;
        self.tasks.version.store(version, Ordering::Relaxed);
        if full {
            self.remove_unknown().await;
        }
    }

    fn upsert(
        &mut self,
        assignment: TaskAssignment,
        gone: &mpsc::UnboundedSender<String>,
        cancelled: &CancellationToken,
    ) {
        let Some(handle) = self.handles.get(&assignment.task_id) else {
            if let Err(error) = self.storage.put_task(&assignment, &TaskStatus::default()) {
                tracing::warn!(
                    task = assignment.task_id,
                    error = error.chain(),
                    "could not write down a task"
                );
            }
            return self.start(assignment, TaskStatus::default(), gone, cancelled);
        };
        handle.assignment.send_if_modified(|current| {
            if *current == assignment {
                return false;
            }
            // Like states, wishes only move forward.
            let desired = current.desired_state().max(assignment.desired_state());
            *current = assignment.clone();
            current.set_desired_state(desired);
            true
        });
        let (current, status) = (handle.assignment.borrow().clone(), handle.status.borrow().clone());
        if let Err(error) = self.storage.put_task(&current, &status) {
            tracing::warn!(
                task = current.task_id,
                error = error.chain(),
                "could not write down a task"
            );
        }
    }

    fn start(
        &mut self,
        assignment: TaskAssignment,
        status: TaskStatus,
        gone: &mpsc::UnboundedSender<String>,
        cancelled: &CancellationToken,
    ) {
        let id = assignment.task_id.clone();
        let controller = self.executor.controller(&assignment);
        let mut handle = task::spawn(
            assignment,
            status,
            controller,
            &self.reporter,
            &self.storage,
            cancelled,
        );
        if let Some(done) = handle.done.take() {
            let (gone, id) = (gone.clone(), id.clone());
            tokio::spawn(async move {
                if done.await.is_ok() {
                    // The worker may have gone meanwhile.
                    gone.send(id).ok();
                }
            });
        }
        self.tasks.lock().insert(id.clone(), handle.status.clone());
        self.handles.insert(id, handle);
    }

    async fn gone(&mut self, id: &str) {
        self.handles.remove(id);
        self.tasks.lock().remove(id);
        self.tell_images();
        self.forget_networks().await;
    }

    async fn set_network(&mut self, network: OverlayNetwork, keep: bool) {
        self.leaving_networks.remove(&network.id);
        if let Err(error) = self.executor.set_network(&network).await {
            // Tasks that need it are rejected with the reason; the next change tries again.
            tracing::warn!(network = network.id, error, "could not program a network");
        }
        if keep && let Err(error) = self.storage.put_network(&network) {
            tracing::warn!(
                network = network.id,
                error = error.chain(),
                "could not write down a network"
            );
        }
        self.networks.insert(network.id.clone(), network);
    }

    async fn set_ingress(&mut self, ingress: Option<&pontoon_proto::v1::IngressConfig>) {
        if let Err(error) = self.executor.set_ingress(ingress).await {
            tracing::warn!(error, "could not program the routing mesh");
        }
        if let Err(error) = self.storage.put_ingress(ingress) {
            tracing::warn!(error = error.chain(), "could not write down the routing mesh");
        }
        self.has_ingress = ingress.is_some();
    }

    /// Forgets networks that are to be, as soon as no task is in them.
    async fn forget_networks(&mut self) {
        let in_use: HashSet<String> = self
            .handles
            .values()
            .flat_map(|handle| handle.assignment.borrow().networks.clone())
            .map(|attachment| attachment.network_id)
            .collect();
        let free: Vec<String> = self
            .leaving_networks
            .iter()
            .filter(|id| !in_use.contains(*id))
            .cloned()
            .collect();
        for id in free {
            let is_ingress = self
                .networks
                .get(&id)
                .and_then(|network| network.spec.as_ref())
                .is_some_and(|spec| spec.ingress);
            if is_ingress && self.has_ingress {
                self.set_ingress(None).await;
            }
            if let Err(error) = self.executor.remove_network(&id).await {
                tracing::warn!(network = id, error, "could not remove a network");
            }
            if let Err(error) = self.storage.remove_network(&id) {
                tracing::warn!(network = id, error = error.chain(), "could not forget a network");
            }
            self.networks.remove(&id);
            self.leaving_networks.remove(&id);
        }
    }

    /// Containers of tasks that neither the managers nor the disk know.
    async fn remove_unknown(&self) {
        for id in self.executor.tasks().await {
            if self.handles.contains_key(&id) {
                continue;
            }
            tracing::info!(task = id, "removing the container of an unknown task");
            let executor = self.executor.clone();
            tokio::spawn(async move {
                if let Err(error) = executor.remove_task(&id).await {
                    tracing::warn!(
                        task = id,
                        error,
                        "could not remove the container of an unknown task"
                    );
                }
            });
        }
    }
}

/// Goes on without a part of the state that can't be read: managers send it again.
fn log_default<T: Default>(what: &'static str) -> impl Fn(crate::Error) -> T {
    move |error| {
        tracing::warn!(what, error = error.chain(), "could not read the agent's state");
        T::default()
    }
}
