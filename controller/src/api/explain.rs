//! Why a task, service or node is as it is: finds what users name, and lets the reconciler tell. Any manager answers.

use std::sync::Arc;

use pontoon_proto::v1::{ExplainRequest, ExplainResponse, Task};
use pontoon_reconcile::explain;
use pontoon_store::{Error, Snapshot};
use tonic::Status;

use crate::core::Core;
use crate::status;

pub(super) async fn explain(core: &Core, request: ExplainRequest) -> Result<ExplainResponse, Status> {
    let snapshot = core.read().await?;
    // A service or a node can have many tasks.
    tokio::task::spawn_blocking(move || lines(&snapshot, &request))
        .await
        .map_err(|error| Status::internal(error.to_string()))?
}

fn lines(snapshot: &Snapshot, request: &ExplainRequest) -> Result<ExplainResponse, Status> {
    let target = request.target.as_str();
    let lines = match request.kind.as_str() {
        "task" => explain::task(snapshot, find_task(snapshot, target)?),
        "service" => explain::service(
            snapshot,
            snapshot.find_service(target).map_err(status::from_store)?,
        ),
        "node" => explain::node(snapshot, snapshot.find_node(target).map_err(status::from_store)?),
        other => {
            return Err(Status::invalid_argument(format!(
                "{other:?} can't be explained: use task, service or node"
            )));
        }
    };
    Ok(ExplainResponse { lines })
}

/// The task of this id, name or unique id prefix, else the newest of a slot: `web.2`, of a global service `web.NODE`.
fn find_task<'a>(snapshot: &'a Snapshot, target: &str) -> Result<&'a Arc<Task>, Status> {
    let error = match snapshot.find_task(target) {
        Ok(task) => return Ok(task),
        Err(error @ Error::NotFound { .. }) => error,
        Err(error) => return Err(status::from_store(error)),
    };
    in_slot(snapshot, target).ok_or_else(|| status::from_store(error))
}

fn in_slot<'a>(snapshot: &'a Snapshot, target: &str) -> Option<&'a Arc<Task>> {
    let (service, place) = target.rsplit_once('.')?;
    let service = snapshot.find_service(service).ok()?;
    let node = snapshot.find_node(place).ok().map(|node| node.id.as_str());
    let slot = place.parse::<u64>().ok().filter(|slot| *slot > 0);
    let here = |task: &&Arc<Task>| match task.slot {
        0 => node == Some(task.node_id.as_str()),
        number => slot == Some(number),
    };
    let created = |task: &&Arc<Task>| {
        let created = task.meta.as_ref().map_or(0, |meta| meta.created_at);
        (created, task.id.clone())
    };
    snapshot
        .tasks_by_service(&service.id)
        .filter(here)
        .max_by_key(created)
}
