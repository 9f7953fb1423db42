//! Autolock at this node: whether it is locked, and `swarm unlock`. Part of [`Membership`].

use std::sync::Arc;

use pontoon_controller::keys;
use pontoon_identity::{Error, Identity, UnlockKey};
use pontoon_proto::v1::{LocalNodeState, SwarmUnlockRequest};
use tonic::Status;

use super::describe;
use super::membership::Membership;

/// What a locked manager answers to everything else.
pub(super) const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. \
     Please use \"pontoon swarm unlock\" to unlock it.";

impl Membership {
    /// True when this node's keys can only be read with the unlock key.
    pub(super) fn is_locked(&self) -> bool {
        keys::is_locked(self.dir()) || Identity::is_locked(&self.identity_dir())
    }

    /// This node's identity, with the unlock key if there is one.
    pub(super) fn open_identity(&self, lock: Option<&UnlockKey>) -> Result<Arc<Identity>, String> {
        let folder = self.identity_dir();
        let Some(lock) = lock else {
            return Identity::open(&folder).map_err(|error| describe(&error));
        };
        // A change of the unlock key that was cut off may have left the TLS key with the one before.
        let previous = keys::try_unlock(self.dir(), lock).map_err(|error| describe(&error))?;
        let opened = Identity::unlock(&folder, Some(lock));
        match (opened, previous) {
            (Err(Error::Unlock(_)), Some(previous)) => Identity::unlock(&folder, Some(&previous)),
            (Err(Error::Unlock(_)), None) => return Err(describe(&keys::wrong_key())),
            (opened, _) => opened,
        }
        .map_err(|error| describe(&error))
    }

    /// Starts the cluster part of a locked manager.
    pub(super) async fn unlock(&self, request: SwarmUnlockRequest) -> Result<(), Status> {
        let _change = self.one_change().await;
        match self.state().0 {
            LocalNodeState::Inactive => {
                return Err(Status::failed_precondition("This node is not part of a swarm"));
            }
            LocalNodeState::Locked => {}
            _ => return Err(Status::failed_precondition("swarm is not locked")),
        }
        let key: UnlockKey = request
            .key
            .parse()
            .map_err(|error| Status::invalid_argument(describe(&error)))?;
        // Another try is possible as long as only the key was wrong.
        self.open_identity(Some(&key))
            .map_err(Status::failed_precondition)?;
        self.start_again(Some(key))
            .await
            .map_err(Status::failed_precondition)
    }
}
