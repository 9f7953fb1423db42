//! Join and leave: a manager asks the leader to take it in or let it go.

use pontoon_proto::v1;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::{LEADER_KEY, PeerIdentity, RaftService};
use crate::error::{MembershipError, ProposeError};
use crate::member::{Member, Role};
use crate::node::describe;

impl RaftService {
    /// Adds the caller as a learner. Whoever leads makes it a voter once it has caught up: that is the owner's to ask for.
    pub(super) async fn admit(
        &self,
        caller: &PeerIdentity,
        request: v1::RaftJoinRequest,
    ) -> Result<v1::RaftJoinResponse, Status> {
        if caller.node_id != request.node_id {
            return Err(Status::permission_denied("a manager can only let itself join"));
        }
        if request.addr.is_empty() {
            return Err(Status::invalid_argument(
                "the address where others reach the manager is missing",
            ));
        }
        if let Err(error) = self.handle.connector().probe(&request.addr).await {
            return Err(Status::invalid_argument(format!(
                "this manager can't reach the joining one at its advertised address {}: {error}; name an address that the other \
                 managers reach with --advertise-addr",
                request.addr
            )));
        }
        // What is decided below must not rest on an old leader's view.
        self.handle
            .read_barrier()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        if let Some(old) = self
            .handle
            .members()
            .iter()
            .find(|m| m.node_id == request.node_id)
        {
            if old.role == Role::Voter {
                let text = format!(
                    "node {} is member {:x} already; remove that one first",
                    old.node_id, old.id
                );
                return Err(Status::already_exists(text));
            }
            // An answer that was lost, or a folder that was emptied: nothing that it once acknowledged counts.
            self.handle.remove(old.id).await.map_err(to_status)?;
        }
        let member = Member::new(
            Member::random_id_by(|| self.handle.shared.host.random()),
            request.node_id,
            request.addr,
        );
        let raft_id = member.id;
        self.handle.add_learner(member).await.map_err(to_status)?;
        let members = self.handle.members();
        Ok(v1::RaftJoinResponse {
            raft_id,
            members: members.into_iter().map(to_proto).collect(),
        })
    }

    /// Removes the caller, or the named member.
    pub(super) async fn dismiss(
        &self,
        caller: &PeerIdentity,
        request: v1::RaftLeaveRequest,
    ) -> Result<v1::RaftLeaveResponse, Status> {
        let node_id = if request.node_id.is_empty() {
            &caller.node_id
        } else {
            &request.node_id
        };
        self.handle
            .read_barrier()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let members = self.handle.members();
        // Not being a member any more is what was asked for.
        if let Some(member) = members.iter().find(|m| m.node_id == *node_id) {
            self.handle.remove(member.id).await.map_err(to_status)?;
        }
        Ok(v1::RaftLeaveResponse {})
    }
}

/// A member on the wire.
fn to_proto(member: Member) -> v1::RaftMember {
    v1::RaftMember {
        raft_id: member.id,
        node_id: member.node_id,
        addr: member.addr,
        learner: member.role == Role::Learner,
    }
}

fn to_status(error: MembershipError) -> Status {
    let code = match &error {
        MembershipError::Propose(ProposeError::NotLeader { .. }) => Code::FailedPrecondition,
        MembershipError::Propose(ProposeError::OutcomeUnknown) => Code::Unknown,
        MembershipError::Propose(_)
        | MembershipError::InProgress
        | MembershipError::TransferFailed { .. } => Code::Unavailable,
        MembershipError::NotFound { .. } => Code::NotFound,
        MembershipError::Exists { .. } => Code::AlreadyExists,
        MembershipError::QuorumLoss { .. }
        | MembershipError::LastVoter { .. }
        | MembershipError::NotCaughtUp { .. } => Code::FailedPrecondition,
    };
    let mut status = Status::new(code, describe(&error));
    if let MembershipError::Propose(ProposeError::NotLeader { leader: Some(leader) }) = &error
        && let Ok(addr) = MetadataValue::try_from(leader.addr.as_str())
    {
        status.metadata_mut().insert(LEADER_KEY, addr);
    }
    status
}
