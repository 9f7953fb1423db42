//! The Control service: objects, watch, logs. One file per object; here what they share.
//!
//! Every manager answers reads, after it has everything that was committed before the call; writes run in the writer's
//! transaction, so they only reach this code at the leader (`forward` sees to that). Checks that need other objects
//! belong into the transaction, those of a spec alone come before it.

mod cluster;
mod explain;
mod filter;
mod logs;
mod network;
mod node;
mod service;
mod task;
mod view;
mod watch;

use std::sync::Arc;

use pontoon_proto::v1::control_server::Control;
use pontoon_proto::v1::{
    CheckNetworksRequest, CheckNetworksResponse, Cluster, CreateClusterNetworkRequest, CreateServiceRequest,
    ExplainRequest, ExplainResponse, GetClusterRequest, GetJoinTokensRequest, GetRequest,
    GetUnlockKeyRequest, JoinTokens, ListClusterNetworksResponse, ListNodesResponse, ListRequest,
    ListServicesResponse, ListTasksRequest, ListTasksResponse, Network, Node, RemoveNodeRequest,
    RemoveResponse, RotateJoinTokenRequest, RotateRootRequest, RotateUnlockKeyRequest, Service,
    ServiceLogEntry, ServiceLogsRequest, Task, UnlockKeyResponse, UpdateClusterRequest, UpdateNodeRequest,
    UpdateServiceRequest, WatchRequest, WatchResponse,
};
use pontoon_reconcile::{edit, spec};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::core::Core;
use crate::{checks, status};

/// The service.
#[derive(Clone)]
pub(crate) struct ControlService {
    core: Arc<Core>,
}

impl ControlService {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: core.clone() }
    }
}

/// What is wrong with a spec, in one message.
fn invalid(problems: &[spec::Problem]) -> Status {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Status::invalid_argument(problems.join("; "))
}

/// Why an edit was refused.
fn refused(error: edit::Error) -> Status {
    let code = match error {
        edit::Error::Store(error) => return status::from_store(error),
        edit::Error::OutOfSequence => return status::out_of_sequence(),
        edit::Error::Conflict(_) => Code::InvalidArgument,
        edit::Error::InUse(_) | edit::Error::Unsupported(_) => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// An object that was written is gone again: somebody removed it in the next moment.
fn vanished() -> Status {
    Status::aborted("the object was removed by somebody else at the same time")
}

#[tonic::async_trait]
impl Control for ControlService {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type ServiceLogsStream = ReceiverStream<Result<ServiceLogEntry, Status>>;

    async fn get_cluster(&self, _: Request<GetClusterRequest>) -> Result<Response<Cluster>, Status> {
        cluster::get(&self.core).await.map(Response::new)
    }

    async fn update_cluster(
        &self,
        request: Request<UpdateClusterRequest>,
    ) -> Result<Response<Cluster>, Status> {
        cluster::update(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_unlock_key(
        &self,
        _: Request<GetUnlockKeyRequest>,
    ) -> Result<Response<UnlockKeyResponse>, Status> {
        cluster::unlock_key(&self.core).await.map(Response::new)
    }

    async fn rotate_unlock_key(
        &self,
        _: Request<RotateUnlockKeyRequest>,
    ) -> Result<Response<UnlockKeyResponse>, Status> {
        cluster::rotate_unlock_key(&self.core).await.map(Response::new)
    }

    async fn get_join_tokens(
        &self,
        _: Request<GetJoinTokensRequest>,
    ) -> Result<Response<JoinTokens>, Status> {
        cluster::join_tokens(&self.core).await.map(Response::new)
    }

    async fn rotate_join_token(
        &self,
        request: Request<RotateJoinTokenRequest>,
    ) -> Result<Response<JoinTokens>, Status> {
        cluster::rotate(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn rotate_root(&self, request: Request<RotateRootRequest>) -> Result<Response<Cluster>, Status> {
        cluster::rotate_root(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_nodes(&self, request: Request<ListRequest>) -> Result<Response<ListNodesResponse>, Status> {
        node::list(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_node(&self, request: Request<GetRequest>) -> Result<Response<Node>, Status> {
        node::get(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn update_node(&self, request: Request<UpdateNodeRequest>) -> Result<Response<Node>, Status> {
        node::update(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveResponse>, Status> {
        node::remove(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn create_service(
        &self,
        request: Request<CreateServiceRequest>,
    ) -> Result<Response<Service>, Status> {
        service::create(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_services(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        service::list(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_service(&self, request: Request<GetRequest>) -> Result<Response<Service>, Status> {
        service::get(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn update_service(
        &self,
        request: Request<UpdateServiceRequest>,
    ) -> Result<Response<Service>, Status> {
        service::update(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn remove_service(&self, request: Request<GetRequest>) -> Result<Response<RemoveResponse>, Status> {
        service::remove(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        task::list(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_task(&self, request: Request<GetRequest>) -> Result<Response<Task>, Status> {
        task::get(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn create_network(
        &self,
        request: Request<CreateClusterNetworkRequest>,
    ) -> Result<Response<Network>, Status> {
        network::create(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_networks(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<ListClusterNetworksResponse>, Status> {
        network::list(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_network(&self, request: Request<GetRequest>) -> Result<Response<Network>, Status> {
        network::get(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn remove_network(&self, request: Request<GetRequest>) -> Result<Response<RemoveResponse>, Status> {
        network::remove(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn check_networks(
        &self,
        request: Request<CheckNetworksRequest>,
    ) -> Result<Response<CheckNetworksResponse>, Status> {
        checks::run(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        explain::explain(&self.core, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::start(&self.core, request.into_inner())
            .await
            .map(|stream| Response::new(ReceiverStream::new(stream)))
    }

    async fn service_logs(
        &self,
        request: Request<ServiceLogsRequest>,
    ) -> Result<Response<Self::ServiceLogsStream>, Status> {
        logs::start(&self.core, request.into_inner()).map(|stream| Response::new(ReceiverStream::new(stream)))
    }
}
