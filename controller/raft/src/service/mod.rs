//! The gRPC service that the other managers talk to: messages, snapshots, join and leave.
//!
//! Served by the controller on the cluster port. Who a caller is comes from the hook, which reads the peer certificate
//! that the accept loop put into the request's extensions; everything that arrives is checked here, at the edge.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pontoon_proto::v1;
use raft::eraftpb::MessageType;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::handle::RaftHandle;
use crate::member::{Member, Role};
use crate::node::Event;
use crate::validate;

mod install;
mod membership;

pub(crate) use install::Transfers;

/// Who calls, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Node id of the calling manager.
    pub node_id: String,
}

/// Tells who calls from a request's extensions; an error refuses the call.
type Identify = dyn Fn(&Extensions) -> Result<PeerIdentity, Status> + Send + Sync;

/// Metadata key of the answer to a member that was removed.
pub(crate) const REMOVED_KEY: &str = "pontoon-removed";
/// Metadata key that names the leader's address in answers that only the leader could give.
pub(crate) const LEADER_KEY: &str = "pontoon-leader";
/// Bytes of messages that may wait for the raft thread; more is dropped, and raft sends again.
const MAX_INBOX: usize = 64 << 20;
/// A stream that says nothing for so long is closed. Leaders heartbeat many times a second; others open a new one.
const SILENT: Duration = Duration::from_secs(60);

/// The service `pontoon.v1.Raft` over a member.
#[derive(Clone)]
pub struct RaftService {
    handle: RaftHandle,
    identify: Arc<Identify>,
}

impl RaftService {
    /// Largest message that the server must accept, in bytes.
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

    /// The tonic server to add to a router, with its size limit set.
    pub fn into_server(self) -> v1::raft_server::RaftServer<Self> {
        v1::raft_server::RaftServer::new(self).max_decoding_message_size(Self::MAX_MESSAGE)
    }

    /// Checks that the caller is the member that it says, of this cluster, and not a removed one. A removed one is told so even if it
    /// may not call any more: else it would never learn why.
    fn check_sender(
        &self,
        caller: Result<&PeerIdentity, &Status>,
        from: u64,
        cluster_id: &str,
    ) -> Result<(), Status> {
        let shared = &self.handle.shared;
        if cluster_id != shared.cluster_id {
            return Err(Status::permission_denied(format!(
                "this manager is in cluster {}",
                shared.cluster_id
            )));
        }
        if shared.stopped.borrow().is_some() {
            return Err(Status::unavailable("this manager's log has stopped"));
        }
        if shared.removed.borrow().contains(&from) {
            let mut status =
                Status::failed_precondition(format!("member {from:x} was removed from the cluster"));
            status
                .metadata_mut()
                .insert(REMOVED_KEY, tonic::metadata::MetadataValue::from_static("1"));
            return Err(status);
        }
        let caller = caller.map_err(Clone::clone)?;
        // A member that is not known here may have been added by entries that are still on their way.
        let members = shared.members.borrow();
        if let Some(member) = members.iter().find(|m| m.id == from)
            && member.node_id != caller.node_id
        {
            return Err(Status::permission_denied(format!(
                "member {from:x} is not node {}",
                caller.node_id
            )));
        }
        Ok(())
    }

    /// Tells the raft thread of a sender that is not known here yet, which it could not answer otherwise.
    fn introduce(&self, caller: &PeerIdentity, batch: &v1::RaftBatch) -> Result<(), Status> {
        let shared = &self.handle.shared;
        let known = shared
            .members
            .borrow()
            .iter()
            .any(|member| member.id == batch.from);
        if known || batch.addr.is_empty() || batch.from == 0 {
            return Ok(());
        }
        let stranger = Member {
            id: batch.from,
            node_id: caller.node_id.clone(),
            addr: batch.addr.clone(),
            role: Role::Voter,
            reachable: true,
        };
        shared
            .events
            .send(Event::Stranger(stranger))
            .map_err(|_| Status::unavailable("this manager's log has stopped"))
    }

    /// Numbers a new stream of a peer: from now on older ones of it are ignored.
    fn open_stream(&self, from: u64) -> u64 {
        let mut streams = self
            .handle
            .shared
            .streams
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let number = streams.entry(from).or_default();
        *number += 1;
        *number
    }

    /// Checks a batch and hands it to the raft thread, unless the stream has been replaced.
    fn accept(&self, batch: v1::RaftBatch, from: u64, stream: u64) -> Result<(), Status> {
        let shared = &self.handle.shared;
        let bytes = batch.messages.iter().map(bytes::Bytes::len).sum();
        let mut messages = Vec::with_capacity(batch.messages.len());
        for message in &batch.messages {
            let message = validate::decode(message, from, shared.id).map_err(|reason| {
                Status::invalid_argument(format!("raft message from {from:x}: {reason}"))
            })?;
            if message.get_msg_type() == MessageType::MsgSnapshot {
                return Err(Status::invalid_argument("snapshots have a stream of their own"));
            }
            messages.push(message);
        }
        // Held while sending, so that nothing of an old stream can pass something of its successor.
        let streams = shared
            .streams
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if streams.get(&from) != Some(&stream) {
            return Err(Status::aborted("a newer stream has replaced this one"));
        }
        if shared.inbox_bytes.load(Ordering::Acquire) > MAX_INBOX {
            return Ok(());
        }
        shared.inbox_bytes.fetch_add(bytes, Ordering::AcqRel);
        shared
            .events
            .send(Event::Peer { messages, bytes })
            .map_err(|_| Status::unavailable("this manager's log has stopped"))
    }
}

#[tonic::async_trait]
impl v1::raft_server::Raft for RaftService {
    async fn messages(
        &self,
        request: Request<Streaming<v1::RaftBatch>>,
    ) -> Result<Response<v1::RaftAck>, Status> {
        let caller = (self.identify)(request.extensions());
        let mut batches = request.into_inner();
        let mut stopped = self.handle.stopped();
        let mut sender = None;
        loop {
            // A silent stream, such as one that carried a vote between followers, is closed without complaint.
            let next = tokio::select! {
                biased;
                next = tokio::time::timeout(SILENT, batches.message()) => next.unwrap_or(Ok(None))?,
                // At once, so that the peer does not lose its next message, maybe a vote, to a member that is gone.
                _ = stopped.wait_for(Option::is_some) => {
                    return Err(Status::unavailable("this manager's log has stopped"));
                }
            };
            let Some(batch) = next else {
                return Ok(Response::new(v1::RaftAck {}));
            };
            let from = batch.from;
            let (first, stream) = match sender {
                Some(known) => known,
                None => {
                    // Only a caller that may speak for the member may replace its stream.
                    self.check_sender(caller.as_ref(), from, &batch.cluster_id)?;
                    *sender.insert((from, self.open_stream(from)))
                }
            };
            if from != first {
                return Err(Status::invalid_argument(
                    "one stream carries the messages of one member",
                ));
            }
            self.check_sender(caller.as_ref(), from, &batch.cluster_id)?;
            if let Ok(caller) = &caller {
                self.introduce(caller, &batch)?;
            }
            self.accept(batch, from, stream)?;
        }
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> Result<Response<v1::SnapshotAck>, Status> {
        let caller = (self.identify)(request.extensions())?;
        let (service, chunks) = (self.clone(), request.into_inner());
        // A task of its own: when the connection breaks, this call is dropped, but what has come must be kept.
        let received = tokio::spawn(async move { service.receive_snapshot(&caller, chunks).await });
        let answer = received.await;
        answer
            .map_err(|_| Status::unavailable("this manager is stopping"))?
            .map(Response::new)
    }

    async fn snapshot_progress(
        &self,
        request: Request<v1::SnapshotProgressRequest>,
    ) -> Result<Response<v1::SnapshotProgressResponse>, Status> {
        let caller = (self.identify)(request.extensions())?;
        self.progress(&caller, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn join(
        &self,
        request: Request<v1::RaftJoinRequest>,
    ) -> Result<Response<v1::RaftJoinResponse>, Status> {
        let caller = (self.identify)(request.extensions())?;
        self.admit(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn leave(
        &self,
        request: Request<v1::RaftLeaveRequest>,
    ) -> Result<Response<v1::RaftLeaveResponse>, Status> {
        let caller = (self.identify)(request.extensions())?;
        self.dismiss(&caller, request.into_inner())
            .await
            .map(Response::new)
    }
}
