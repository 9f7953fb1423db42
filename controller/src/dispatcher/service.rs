//! The gRPC service Dispatcher: sends to the leader what is not for this manager, starts sessions, takes in log lines and what checks of networks
//! have found, answers about images.

use std::sync::Arc;
use std::time::Duration;

use pontoon_identity::{ConnectionInfo, PeerIdentity};
use pontoon_proto::v1::dispatcher_server::Dispatcher;
use pontoon_proto::v1::{
    AgentMessage, AttachNetworkRequest, AttachNetworkResponse, CheckImageRequest, CheckImageResponse,
    DetachNetworkRequest, DetachNetworkResponse, FindImageRequest, FindImageResponse, FindNetworkRequest,
    FindNetworkResponse, ManagerMessage, NetworkCheckReport, NetworkCheckReportResponse, PublishLogsMessage,
    PublishLogsResponse, ReportFetchRequest, ReportFetchResponse, ReportImagesRequest, ReportImagesResponse,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{attachments, session};
use crate::core::Core;
use crate::images::service as images;
use crate::leader::Leading;
use crate::status;

/// So long a session's call waits for an election's outcome: agents that are sent away would only come back, all of them, again and again.
/// Shorter than agents wait for an answer.
const ELECTION: Duration = Duration::from_secs(2);
/// A manager that was elected begins to lead a moment later, which nobody is told of.
const PAUSE: Duration = Duration::from_millis(50);
/// Messages to one agent that may wait.
const OUTBOUND: usize = 64;

/// The service; every manager serves it, the leader answers.
#[derive(Clone)]
pub(crate) struct DispatcherService {
    core: Arc<Core>,
}

impl DispatcherService {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: core.clone() }
    }

    fn leading(&self) -> Result<Arc<Leading>, Status> {
        self.core
            .leading()
            .ok_or_else(|| status::ask_leader(self.core.leader().as_ref()))
    }

    /// As `leading`, once it is known who leads.
    async fn leading_soon(&self) -> Result<Arc<Leading>, Status> {
        let deadline = Instant::now() + ELECTION;
        let mut leadership = self.core.log.leadership();
        loop {
            leadership.mark_unchanged();
            let refusal = match self.leading() {
                Ok(leading) => return Ok(leading),
                Err(refusal) => refusal,
            };
            let other = self
                .core
                .leader()
                .filter(|leader| leader.id != self.core.log.id());
            if other.is_some() || Instant::now() >= deadline {
                return Err(refusal);
            }
            // This manager's own reign begins unannounced; everything else is told.
            let elected = self.core.leader().is_some();
            let until = if elected { Instant::now() + PAUSE } else { deadline };
            let changed = tokio::time::timeout_at(until, leadership.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return Err(refusal);
            }
        }
    }
}

fn caller<T>(request: &Request<T>) -> Result<(PeerIdentity, String), Status> {
    let info = request.extensions().get::<ConnectionInfo>();
    let peer = info.and_then(|info| Some((info.peer.clone()?, info.remote_addr.ip().to_string())));
    peer.ok_or_else(|| Status::unauthenticated("a session needs a node certificate"))
}

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = ReceiverStream<Result<ManagerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (peer, addr) = caller(&request)?;
        let leading = self.leading_soon().await?;
        let (out, messages) = mpsc::channel(OUTBOUND);
        let start = session::Start {
            core: self.core.clone(),
            leading,
            node_id: peer.node_id,
            addr,
            out,
        };
        tokio::spawn(start.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        let mut messages = request.into_inner();
        loop {
            let message = tokio::select! {
                biased;
                () = leading.stop.cancelled() => return Err(status::ask_leader(self.core.leader().as_ref())),
                message = messages.message() => message?,
            };
            let Some(message) = message else {
                return Ok(Response::new(PublishLogsResponse {}));
            };
            leading
                .broker
                .publish(&self.core.snapshot(), &peer.node_id, message)
                .await?;
        }
    }

    async fn report_network_check(
        &self,
        request: Request<NetworkCheckReport>,
    ) -> Result<Response<NetworkCheckReportResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        leading.checks.report(&peer.node_id, request.into_inner())?;
        Ok(Response::new(NetworkCheckReportResponse {}))
    }

    async fn report_images(
        &self,
        request: Request<ReportImagesRequest>,
    ) -> Result<Response<ReportImagesResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        if leading.sessions.get(&peer.node_id).is_none() {
            return Err(Status::failed_precondition("images are reported in a session"));
        }
        let ReportImagesRequest { images, names } = request.into_inner();
        let names = names.into_iter().map(|named| (named.name, named.image));
        leading.sources.report(&peer.node_id, images, names);
        Ok(Response::new(ReportImagesResponse {}))
    }

    async fn find_image(
        &self,
        request: Request<FindImageRequest>,
    ) -> Result<Response<FindImageResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        let snapshot = || self.core.snapshot();
        images::find(snapshot, &leading, &peer.node_id, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn report_fetch(
        &self,
        request: Request<ReportFetchRequest>,
    ) -> Result<Response<ReportFetchResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        let ReportFetchRequest {
            image,
            ended,
            complete,
            from_node,
        } = request.into_inner();
        if !ended && !images::is_assigned(&self.core.snapshot(), &peer.node_id, &image) {
            return Err(Status::permission_denied(format!(
                "no task of node {} runs the image {image}",
                peer.node_id
            )));
        }
        let end = ended.then_some(complete);
        leading
            .sources
            .heard(&image, &peer.node_id, &from_node, end, Instant::now());
        Ok(Response::new(ReportFetchResponse {}))
    }

    async fn check_image(
        &self,
        request: Request<CheckImageRequest>,
    ) -> Result<Response<CheckImageResponse>, Status> {
        self.leading()?;
        let (peer, _) = caller(&request)?;
        let CheckImageRequest { image, node_id } = request.into_inner();
        let allowed = images::is_assigned(&self.core.snapshot(), &node_id, &image);
        if !allowed {
            info!(
                node = node_id,
                image,
                asked_by = peer.node_id,
                "the node may not have the image"
            );
        }
        Ok(Response::new(CheckImageResponse { allowed }))
    }

    async fn find_network(
        &self,
        request: Request<FindNetworkRequest>,
    ) -> Result<Response<FindNetworkResponse>, Status> {
        self.leading()?;
        attachments::find(&self.core.snapshot(), request.get_ref()).map(Response::new)
    }

    async fn attach_network(
        &self,
        request: Request<AttachNetworkRequest>,
    ) -> Result<Response<AttachNetworkResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        attachments::attach(&self.core, &leading, &peer.node_id, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn detach_network(
        &self,
        request: Request<DetachNetworkRequest>,
    ) -> Result<Response<DetachNetworkResponse>, Status> {
        let leading = self.leading()?;
        let (peer, _) = caller(&request)?;
        attachments::detach(&leading, &peer.node_id, request.into_inner()).await?;
        Ok(Response::new(DetachNetworkResponse {}))
    }
}
