//! What callers are told: the one place where errors become gRPC statuses, in Docker's words where it has some.
//!
//! A status with the metadata [`NOT_LEADER`] says that nothing was done because this manager does not lead; the
//! forwarding layer then asks the leader instead of passing it on.

use pontoon_raft::{Member, ReadError};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata of a refusal by a manager that does not lead; nothing was done.
pub(crate) const NOT_LEADER: &str = "pontoon-not-leader";
/// Metadata with the leader's host:port, for agents.
pub(crate) const LEADER: &str = "pontoon-leader";

/// There is no leader, or none that reaches a majority.
pub(crate) fn no_leader() -> Status {
    Status::unavailable(
        "the swarm does not have a leader; it's possible that too few managers are online. \
         Make sure more than half of the managers are online",
    )
}

/// The same where the state lies in an external store, which has the majority.
pub(crate) fn no_leader_in_store() -> Status {
    Status::unavailable(
        "the swarm does not have a leader; it's possible that the external store of its state does not answer. \
         Make sure that more than half of its members are online and reachable",
    )
}

/// This manager does not lead (any more); nothing was done.
pub(crate) fn not_leader() -> Status {
    let mut status = Status::unavailable("this manager does not lead the swarm at this moment; try again");
    status
        .metadata_mut()
        .insert(NOT_LEADER, MetadataValue::from_static("1"));
    status
}

/// Like [`not_leader`] for agents: they are told whom to ask.
pub(crate) fn ask_leader(leader: Option<&Member>) -> Status {
    let mut status = Status::failed_precondition("this manager does not lead the swarm; ask the leader");
    if let Some(addr) = leader.and_then(|leader| leader.addr.parse().ok()) {
        status.metadata_mut().insert(LEADER, addr);
    }
    status
}

/// A read could not be confirmed, for another reason than a missing leader.
pub(crate) fn from_read(error: &ReadError) -> Status {
    match error {
        // A leader that goes: the next one answers.
        ReadError::ShuttingDown => not_leader(),
        _ => Status::unavailable(error.to_string()),
    }
}

/// What the store refuses.
pub(crate) fn from_store(error: pontoon_store::Error) -> Status {
    use pontoon_store::Error;
    let code = match &error {
        Error::NotFound { .. } => Code::NotFound,
        Error::Ambiguous { .. } | Error::EmptyId { .. } => Code::InvalidArgument,
        Error::NameConflict { .. } => Code::AlreadyExists,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// An optimistic lock that no longer holds.
pub(crate) fn out_of_sequence() -> Status {
    Status::failed_precondition("update out of sequence")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_at_a_leader_that_goes_is_asked_again_elsewhere() {
        let is_passed_on = |error| from_read(&error).metadata().contains_key(NOT_LEADER);
        assert!(is_passed_on(ReadError::ShuttingDown));
        let reason = "no space left".to_owned();
        assert!(!is_passed_on(ReadError::Storage { reason }));
    }
}
