//! Services: validated, network names resolved, written in the transaction that also makes their tasks.

use std::collections::BTreeSet;

use pontoon_proto::name;
use pontoon_proto::v1::{
    CreateServiceRequest, GetRequest, ListRequest, ListServicesResponse, RegistryAuth, RemoveResponse,
    Service, ServiceSpec, ServiceStatus, Task, TaskState, UpdateServiceRequest, service_spec::Mode,
};
use pontoon_reconcile::{edit, spec};
use pontoon_store::{Snapshot, Tx};
use tonic::Status;

use super::{filter, invalid, refused, vanished, view};
use crate::core::Core;
use crate::images::pin;
use crate::status;
use crate::writer::Scope;

/// Networks of the node itself, which are no objects of the cluster.
const NODE_NETWORKS: &[&str] = &["host", "bridge", "none"];

fn checked(wish: Option<ServiceSpec>) -> Result<ServiceSpec, Status> {
    let wish = wish.ok_or_else(|| Status::invalid_argument("the service's spec is missing"))?;
    spec::validate_service(&wish).map_err(|problems| invalid(&problems))?;
    Ok(wish)
}

/// Puts ids in place of the names of networks.
fn resolve_networks(view: &Snapshot, wish: &mut ServiceSpec) -> Result<(), Status> {
    let Some(task) = &mut wish.task else { return Ok(()) };
    for network in &mut task.networks {
        if NODE_NETWORKS.contains(&network.target.as_str()) && view.network_by_name(&network.target).is_none()
        {
            continue;
        }
        let found = view.find_network(&network.target).map_err(status::from_store)?;
        network.target.clone_from(&found.id);
    }
    Ok(())
}

fn read_back(core: &Core, id: &str) -> Result<Service, Status> {
    core.snapshot()
        .service(id)
        .map(|service| view::service(service))
        .ok_or_else(vanished)
}

pub(super) async fn create(core: &Core, request: CreateServiceRequest) -> Result<Service, Status> {
    let mut wish = request.spec.unwrap_or_default();
    let named = wish.annotations.get_or_insert_default();
    let made_up = named.name.is_empty();
    if made_up {
        named.name = name::free(|| core.host.random() as u32, |_| false);
    }
    let mut wish = checked(Some(wish))?;
    if request.resolve_image {
        pin::complete(core, &mut wish, None);
    }
    keep_auth(&mut wish, None);
    let create = move |tx: &mut Tx, scope: &Scope| {
        if made_up && let Some(named) = &mut wish.annotations {
            named.name = name::free(
                || scope.host.random() as u32,
                |name| tx.service_by_name(name).is_some(),
            );
        }
        resolve_networks(tx, &mut wish)?;
        let id = scope.new_id();
        edit::create_service(tx, id.clone(), wish).map_err(refused)?;
        Ok(id)
    };
    let id = core.writer()?.write(create).await?;
    read_back(core, &id)
}

pub(super) async fn update(core: &Core, request: UpdateServiceRequest) -> Result<Service, Status> {
    let UpdateServiceRequest {
        target,
        version,
        spec: wish,
        rollback,
        resolve_image,
        unless_same,
    } = request;
    let mut wish = if rollback { None } else { Some(checked(wish)?) };
    if resolve_image && let Some(wish) = &mut wish {
        let snapshot = core.snapshot();
        let before = snapshot.find_service(&target).map_err(status::from_store)?;
        pin::complete(core, wish, before.spec.as_ref());
    }
    let update = move |tx: &mut Tx, scope: &Scope| {
        let service = tx.find_service(&target).map_err(status::from_store)?.clone();
        let Some(mut wish) = wish else {
            edit::rollback_service(tx, &service.id, version, scope.now).map_err(refused)?;
            return Ok(service.id.clone());
        };
        if name_of(service.spec.as_ref()) != name_of(Some(&wish)) {
            return Err(Status::unimplemented("renaming services is not supported"));
        }
        resolve_networks(tx, &mut wish)?;
        keep_auth(&mut wish, service.spec.as_ref());
        if unless_same && service.spec.as_ref() == Some(&wish) {
            return Ok(service.id.clone());
        }
        edit::update_service(tx, &service.id, version, wish).map_err(refused)?;
        Ok(service.id.clone())
    };
    let id = core.writer()?.write(update).await?;
    read_back(core, &id)
}

/// Nobody is shown credentials, so nobody can send them again: what comes without keeps those that there are. Empty ones end that.
fn keep_auth(wish: &mut ServiceSpec, before: Option<&ServiceSpec>) {
    let Some(task) = &mut wish.task else { return };
    if task.registry_auth.is_none() {
        let before = before.and_then(|spec| spec.task.as_ref());
        task.registry_auth = before.and_then(|task| task.registry_auth.clone());
    }
    if task.registry_auth == Some(RegistryAuth::default()) {
        task.registry_auth = None;
    }
}

pub(super) async fn remove(core: &Core, request: GetRequest) -> Result<RemoveResponse, Status> {
    let remove = move |tx: &mut Tx, _: &Scope| {
        let id = tx
            .find_service(&request.target)
            .map_err(status::from_store)?
            .id
            .clone();
        edit::remove_service(tx, &id).map_err(refused)?;
        Ok(RemoveResponse { id })
    };
    core.writer()?.write(remove).await
}

pub(super) async fn get(core: &Core, request: GetRequest) -> Result<Service, Status> {
    let snapshot = core.read().await?;
    let service = snapshot
        .find_service(&request.target)
        .map_err(status::from_store)?;
    Ok(view::service(service))
}

pub(super) async fn list(core: &Core, request: ListRequest) -> Result<ListServicesResponse, Status> {
    let snapshot = core.read().await?;
    let fits = |service: &Service| {
        let annotations = service.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        filter::matches(&request, &service.id, name_of(service.spec.as_ref()), annotations)
            && filter::any(&request.modes, |mode| mode == mode_of(service))
    };
    let services = snapshot.services().filter(|service| fits(service));
    Ok(ListServicesResponse {
        services: services.map(|service| counted(&snapshot, service)).collect(),
    })
}

fn name_of(spec: Option<&ServiceSpec>) -> &str {
    spec.and_then(|spec| spec.annotations.as_ref())
        .map_or("", |annotations| annotations.name.as_str())
}

fn mode_of(service: &Service) -> &'static str {
    service.spec.as_ref().map_or("replicated", ServiceSpec::mode_name)
}

/// A service with the counts that `service ls` shows. A global service wants as many tasks as it has that should run; of a job only the
/// present run counts.
fn counted(snapshot: &Snapshot, service: &Service) -> ServiceStatus {
    let (mut running, mut live) = (0, 0);
    let mut completed = BTreeSet::new();
    let tasks = snapshot.tasks_by_service(&service.id);
    for task in tasks.filter(|task| service.is_of_this_run(task)) {
        let state = task
            .status
            .as_ref()
            .map_or(TaskState::New, |status| status.state());
        if state == TaskState::Complete && service.iteration().is_some() {
            completed.insert(place(task));
        }
        let over = task.desired_state() == TaskState::Complete && state.is_terminal();
        if task.desired_state() > TaskState::Complete || over {
            continue;
        }
        live += 1;
        running += u64::from(state == TaskState::Running);
    }
    let desired = match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Replicated(mode)) => mode.replicas,
        Some(Mode::ReplicatedJob(job)) => job.concurrency(),
        _ => live,
    };
    ServiceStatus {
        service: Some(view::service(service)),
        running_tasks: running,
        desired_tasks: desired,
        completed_tasks: completed.len() as u64,
    }
}

/// The slot of a task; of a global service's, its node.
fn place(task: &Task) -> (u64, &str) {
    let node = if task.slot == 0 { task.node_id.as_str() } else { "" };
    (task.slot, node)
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{GlobalJobMode, JobStatus, ReplicatedJobMode, TaskStatus};

    use super::*;

    /// Running, desired and completed tasks of a job whose second run (number 1) has these tasks: (slot, node, run, desired, observed).
    fn counts(mode: Mode, tasks: &[(u64, &str, u64, TaskState, TaskState)]) -> (u64, u64, u64) {
        let service = Service {
            id: "s".to_owned(),
            spec: Some(ServiceSpec {
                mode: Some(mode),
                ..ServiceSpec::default()
            }),
            job_status: Some(JobStatus {
                iteration: 1,
                last_execution: 1,
            }),
            ..Service::default()
        };
        let mut tx = Tx::new(Snapshot::default());
        tx.put_service(service.clone()).unwrap();
        for (at, (slot, node, iteration, desired, observed)) in tasks.iter().enumerate() {
            tx.put_task(Task {
                id: format!("t{at}"),
                service_id: "s".to_owned(),
                slot: *slot,
                node_id: (*node).to_owned(),
                job_iteration: Some(*iteration),
                desired_state: (*desired).into(),
                status: Some(TaskStatus {
                    state: (*observed).into(),
                    ..TaskStatus::default()
                }),
                ..Task::default()
            })
            .unwrap();
        }
        let status = counted(tx.view(), &service);
        (status.running_tasks, status.desired_tasks, status.completed_tasks)
    }

    #[test]
    fn only_the_present_run_of_a_job_is_counted() {
        use TaskState::{Complete, Failed, Ready, Running, Shutdown};
        let mode = Mode::ReplicatedJob(ReplicatedJobMode {
            max_concurrent: 2,
            total_completions: 5,
        });
        let tasks = [
            (1, "n1", 0, Complete, Complete),
            (2, "n1", 0, Shutdown, Running),
            (1, "n1", 1, Shutdown, Failed),
            (1, "n1", 1, Complete, Complete),
            (2, "n2", 1, Complete, Running),
            (3, "n2", 1, Ready, Ready),
        ];
        assert_eq!(counts(mode, &tasks), (1, 2, 1));
        let tasks = [
            (0, "n1", 1, Complete, Complete),
            (0, "n2", 1, Complete, Running),
            (0, "n2", 0, Complete, Complete),
            (0, "n3", 1, Complete, Ready),
        ];
        assert_eq!(counts(Mode::GlobalJob(GlobalJobMode {}), &tasks), (1, 2, 1));
    }
}
