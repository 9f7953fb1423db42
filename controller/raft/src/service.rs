//! The gRPC service that the other managers talk to: messages, snapshots, join and leave.
//!
//! Served by the controller on the cluster port. Who a caller is comes from the hook, which reads the peer certificate
//! that the accept loop put into the request's extensions.

use std::sync::Arc;

use pontoon_proto::v1;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::handle::RaftHandle;

/// Who calls, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Node id of the calling manager.
    pub node_id: String,
}

/// Tells who calls from a request's extensions; an error refuses the call.
pub(crate) type Identify = dyn Fn(&Extensions) -> Result<PeerIdentity, Status> + Send + Sync;

/// The service `pontoon.v1.Raft` over a member.
#[derive(Clone)]
pub struct RaftService {
    handle: RaftHandle,
    identify: Arc<Identify>,
}

impl RaftService {
    /// Largest message that the server must be set to accept, in bytes.
    pub const MAX_MESSAGE: usize = 16 << 20;

    /// The service for `handle`; `identify` tells the caller's node id and refuses those that are not managers.
    pub fn new(
        handle: RaftHandle,
        identify: impl Fn(&Extensions) -> Result<PeerIdentity, Status> + Send + Sync + 'static,
    ) -> Self {
        Self {
            handle,
            identify: Arc::new(identify),
        }
    }

    /// The tonic server to add to a router, with its size limits set.
    pub fn into_server(self) -> v1::raft_server::RaftServer<Self> {
        v1::raft_server::RaftServer::new(self).max_decoding_message_size(Self::MAX_MESSAGE)
    }
}

#[tonic::async_trait]
impl v1::raft_server::Raft for RaftService {
    async fn messages(
        &self,
        request: Request<Streaming<v1::RaftBatch>>,
    ) -> Result<Response<v1::RaftAck>, Status> {
        (self.identify)(request.extensions())?;
        Err(Status::unavailable(self.handle.cluster_id().to_owned()))
    }
    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> Result<Response<v1::SnapshotAck>, Status> {
        (self.identify)(request.extensions())?;
        Err(Status::unavailable(""))
    }
    async fn join(
        &self,
        request: Request<v1::RaftJoinRequest>,
    ) -> Result<Response<v1::RaftJoinResponse>, Status> {
        (self.identify)(request.extensions())?;
        Err(Status::unavailable(""))
    }
    async fn leave(
        &self,
        request: Request<v1::RaftLeaveRequest>,
    ) -> Result<Response<v1::RaftLeaveResponse>, Status> {
        (self.identify)(request.extensions())?;
        Err(Status::unavailable(""))
    }
}
