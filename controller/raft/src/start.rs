//! Start-up.
use crate::{Config, Connector, Error, Member, RaftHandle, StateMachine};
use std::sync::Arc;
/// Makes members: the first of a cluster, one that was there before, or a new one of an existing cluster.
pub struct Raft;

impl Raft {
    /// Makes the first member of a new cluster, which leads at once.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] when the folder holds a log already; else what the disk says.
    pub async fn bootstrap<S: StateMachine>(
        config: Config,
        state: S,
        connector: Arc<dyn Connector>,
    ) -> Result<RaftHandle, Error> {
        let _ = (state, connector);
        config.validate()?;
        Err(Error::Empty { path: config.dir })
    }

    /// Restarts a member from its folder: restores the newest snapshot, then follows the log.
    ///
    /// # Errors
    /// [`Error::Empty`] when there is nothing to open, [`Error::CorruptLog`] and [`Error::CorruptSnapshot`] when files
    /// are damaged, [`Error::Foreign`] when they are another member's.
    pub async fn open<S: StateMachine>(
        config: Config,
        state: S,
        connector: Arc<dyn Connector>,
    ) -> Result<RaftHandle, Error> {
        let _ = (state, connector);
        config.validate()?;
        Err(Error::Empty { path: config.dir })
    }

    /// Starts a member that the leader has already added under `config.id`; it waits for the leader's snapshot.
    /// `members` tells it whom to answer until then.
    ///
    /// # Errors
    /// As [`Raft::bootstrap`].
    pub async fn join<S: StateMachine>(
        config: Config,
        members: Vec<Member>,
        state: S,
        connector: Arc<dyn Connector>,
    ) -> Result<RaftHandle, Error> {
        let _ = (state, connector, members);
        config.validate()?;
        Err(Error::Empty { path: config.dir })
    }
}
