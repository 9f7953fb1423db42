//! Logs of a service's tasks: handed to the log broker, which lives at the leader.

use std::sync::Arc;

use pontoon_proto::v1::{ServiceLogEntry, ServiceLogsRequest};
use tokio::sync::mpsc;
use tonic::Status;

use crate::core::Core;
use crate::status;

pub(super) fn start(
    core: &Arc<Core>,
    request: ServiceLogsRequest,
) -> Result<mpsc::Receiver<Result<ServiceLogEntry, Status>>, Status> {
    let selector = request
        .selector
        .ok_or_else(|| Status::invalid_argument("say which service or task"))?;
    let leading = core.leading().ok_or_else(status::not_leader)?;
    leading.broker.subscribe(core, selector)
}
