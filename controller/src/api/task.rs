//! Tasks, with what a listing shows beside them.

use pontoon_proto::v1::{
    GetRequest, ListTasksRequest, ListTasksResponse, Service, Task, TaskState, TaskView,
};
use pontoon_store::Snapshot;
use tonic::Status;

use super::filter;
use crate::core::Core;
use crate::status;

pub(super) async fn get(core: &Core, request: GetRequest) -> Result<Task, Status> {
    let snapshot = core.read().await?;
    let task = snapshot.find_task(&request.target).map_err(status::from_store)?;
    Ok(Task::clone(task))
}

pub(super) async fn list(core: &Core, request: ListTasksRequest) -> Result<ListTasksResponse, Status> {
    let snapshot = core.read().await?;
    let services = ids(&request.services, |target| {
        snapshot.find_service(target).map(|service| service.id.clone())
    })?;
    let nodes = ids(&request.nodes, |target| {
        snapshot.find_node(target).map(|node| node.id.clone())
    })?;
    let fits = |task: &Task| {
        filter::any(&request.ids, |wanted| task.id.starts_with(wanted.as_str()))
            && filter::any(&services, |id| *id == task.service_id)
            && filter::any(&nodes, |id| *id == task.node_id)
            && filter::any(&request.desired_states, |state| *state == task.desired_state)
            && has_labels(&snapshot, task, &request.labels)
    };
    let view = |task: &Task| view(&snapshot, task);
    // The indexes spare a walk over a million tasks for the usual `service ps` and `node ps`.
    let tasks: Vec<TaskView> = match (services.as_slice(), nodes.as_slice()) {
        ([_, ..], _) => {
            let tasks = services.iter().flat_map(|id| snapshot.tasks_by_service(id));
            tasks.filter(|task| fits(task)).map(|task| view(task)).collect()
        }
        ([], [_, ..]) => {
            let tasks = nodes.iter().flat_map(|id| snapshot.tasks_by_node(id));
            tasks.filter(|task| fits(task)).map(|task| view(task)).collect()
        }
        ([], []) => snapshot
            .tasks()
            .filter(|task| fits(task))
            .map(|task| view(task))
            .collect(),
    };
    Ok(ListTasksResponse { tasks })
}

/// The ids of what users name. Something that does not exist is an error, as in `service ps`.
fn ids(
    targets: &[String],
    find: impl Fn(&str) -> Result<String, pontoon_store::Error>,
) -> Result<Vec<String>, Status> {
    let mut ids = targets
        .iter()
        .map(|target| find(target).map_err(status::from_store))
        .collect::<Result<Vec<_>, _>>()?;
    ids.sort();
    ids.dedup();
    Ok(ids)
}

fn has_labels(snapshot: &Snapshot, task: &Task, wanted: &[String]) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let spec = snapshot
        .service(&task.service_id)
        .and_then(|service| service.spec.as_ref());
    spec.and_then(|spec| spec.annotations.as_ref())
        .is_some_and(|annotations| filter::labels(wanted, &annotations.labels))
}

fn view(snapshot: &Snapshot, task: &Task) -> TaskView {
    let service = snapshot.service(&task.service_id);
    let node = snapshot
        .node(&task.node_id)
        .and_then(|node| node.description.as_ref());
    TaskView {
        task: Some(task.clone()),
        service_name: task.service_name.clone(),
        image: service
            .and_then(|service| image_of(service, task.spec_version))
            .unwrap_or_default(),
        node_hostname: node
            .map(|description| description.hostname.clone())
            .unwrap_or_default(),
        waits_for: service
            .filter(|service| is_held(task, service))
            .map(|service| service.waits_for.clone())
            .unwrap_or_default(),
    }
}

/// Whether the task may not start because its service waits for another one.
fn is_held(task: &Task, service: &Service) -> bool {
    task.desired_state() == TaskState::Ready && task.spec_version == service.spec_version
}

/// The image of a spec version that is current or retained.
fn image_of(service: &Service, version: u64) -> Option<String> {
    let spec = if service.spec_version == version {
        service.spec.as_ref()
    } else {
        service
            .retained
            .iter()
            .find(|retained| retained.version == version)?
            .spec
            .as_ref()
    };
    Some(spec?.task.as_ref()?.container.as_ref()?.image.clone())
}
