//! Writing a service's spec that was read before. Called by `service update`, `scale`, `rollback` and `stack deploy`.

use pontoon_proto::v1::{GetRequest, Service, UpdateServiceRequest};
use tonic::Status;

use crate::client::Client;
use crate::error::is_out_of_sequence;

/// The cluster writes how far an update is a few times a second at most.
const TRIES: usize = 20;

/// Writes `request`, which was made of the service as it was in `read`.
///
/// The cluster itself writes to a service, too: how far its update is. That is no reason to refuse the user's change, so it is tried again
/// as long as the service's spec and the one before are those that were read.
///
/// # Errors
/// The daemon's; `update out of sequence` when somebody else has changed the service meanwhile.
pub async fn write(
    client: &Client,
    read: &Service,
    mut request: UpdateServiceRequest,
) -> Result<Service, Status> {
    let mut control = client.control();
    for _ in 1..TRIES {
        let refused = match Box::pin(control.update_service(request.clone())).await {
            Err(status) if is_out_of_sequence(&status) => status,
            answer => return answer.map(tonic::Response::into_inner),
        };
        let target = GetRequest {
            target: read.id.clone(),
        };
        let now = Box::pin(control.get_service(target)).await?.into_inner();
        if !is_same_wish(read, &now) {
            return Err(refused);
        }
        request.version = now.meta.unwrap_or_default().version;
    }
    Ok(Box::pin(control.update_service(request)).await?.into_inner())
}

/// Whether nobody but the cluster itself has written to the service in between.
fn is_same_wish(read: &Service, now: &Service) -> bool {
    read.spec == now.spec && read.previous_spec == now.previous_spec
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{Meta, ServiceSpec, TaskSpec, UpdateState, UpdateStatus};

    use super::*;

    #[test]
    fn only_users_change_a_wish() {
        let spec = |force_update| {
            Some(ServiceSpec {
                task: Some(TaskSpec {
                    force_update,
                    ..TaskSpec::default()
                }),
                ..ServiceSpec::default()
            })
        };
        let read = Service {
            spec: spec(2),
            previous_spec: spec(1),
            ..Service::default()
        };
        let mut now = read.clone();
        now.meta = Some(Meta {
            version: 9,
            ..Meta::default()
        });
        now.update_status = Some(UpdateStatus {
            state: UpdateState::Completed.into(),
            ..UpdateStatus::default()
        });
        assert!(is_same_wish(&read, &now));
        now.previous_spec = None;
        assert!(!is_same_wish(&read, &now));
        now.previous_spec = spec(1);
        now.spec = spec(3);
        assert!(!is_same_wish(&read, &now));
    }
}
