//! The Swarm service of the local socket: each call is one change of the [`Membership`], or a look at it.

use std::sync::Arc;

use pontoon_proto::v1::swarm_server::Swarm;
use pontoon_proto::v1::{
    LocalNodeState, SwarmBackupChunk, SwarmBackupRequest, SwarmInitRequest, SwarmInitResponse,
    SwarmJoinRequest, SwarmJoinResponse, SwarmLeaveRequest, SwarmLeaveResponse, SwarmRestoreRequest,
    SwarmStatus, SwarmStatusRequest, SwarmUnlockRequest, SwarmUnlockResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::membership::Membership;

/// The service. A change runs to its end whatever becomes of the caller: a client that gives up must not leave a node that is
/// half in a cluster.
#[derive(Debug)]
pub struct SwarmService(pub Arc<Membership>);

impl SwarmService {
    async fn whole<T: Send + 'static>(
        change: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        match tokio::spawn(change).await {
            Ok(result) => result.map(Response::new),
            Err(_) => Err(Status::unavailable("the daemon stops")),
        }
    }
}

#[tonic::async_trait]
impl Swarm for SwarmService {
    async fn init(&self, request: Request<SwarmInitRequest>) -> Result<Response<SwarmInitResponse>, Status> {
        let (membership, request) = (self.0.clone(), request.into_inner());
        Self::whole(async move {
            if request.force_new_cluster && membership.state().0 != LocalNodeState::Inactive {
                return membership.begin_anew(request).await;
            }
            membership.enter(membership.initialize(request)).await
        })
        .await
    }

    async fn join(&self, request: Request<SwarmJoinRequest>) -> Result<Response<SwarmJoinResponse>, Status> {
        let (membership, request) = (self.0.clone(), request.into_inner());
        Self::whole(async move { membership.enter(membership.join_cluster(request)).await }).await
    }

    async fn leave(
        &self,
        request: Request<SwarmLeaveRequest>,
    ) -> Result<Response<SwarmLeaveResponse>, Status> {
        let (membership, force) = (self.0.clone(), request.into_inner().force);
        Self::whole(async move {
            membership.leave_cluster(force).await?;
            Ok(SwarmLeaveResponse {})
        })
        .await
    }

    async fn unlock(
        &self,
        request: Request<SwarmUnlockRequest>,
    ) -> Result<Response<SwarmUnlockResponse>, Status> {
        let (membership, request) = (self.0.clone(), request.into_inner());
        Self::whole(async move {
            membership.unlock(request).await?;
            Ok(SwarmUnlockResponse {})
        })
        .await
    }

    type BackupStream = ReceiverStream<Result<SwarmBackupChunk, Status>>;

    async fn backup(
        &self,
        request: Request<SwarmBackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let chunks = self.0.backup(request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn restore(
        &self,
        request: Request<Streaming<SwarmRestoreRequest>>,
    ) -> Result<Response<SwarmInitResponse>, Status> {
        let (membership, mut file) = (self.0.clone(), request.into_inner());
        let first = file.message().await?.and_then(|message| message.options);
        let options = first.ok_or_else(|| Status::invalid_argument("the restore's options are missing"))?;
        Self::whole(async move { membership.enter(membership.restore_cluster(options, file)).await }).await
    }

    async fn status(&self, _request: Request<SwarmStatusRequest>) -> Result<Response<SwarmStatus>, Status> {
        let (state, error) = self.0.state();
        let mut status = SwarmStatus {
            state: state.into(),
            error,
            ..Default::default()
        };
        // A change under way holds the lock; then the state alone is the answer.
        if let Ok(slot) = self.0.node.try_lock()
            && let Some(node) = slot.as_ref()
        {
            node.fill_status(&mut status);
        }
        Ok(Response::new(status))
    }
}
