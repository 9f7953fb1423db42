//! A manager whose log lies in an external store: etcd. Opened by [`crate::Manager`] in place of the embedded log.
//!
//! Owned here: the mark in the data folder that says where a manager's log is, so that a daemon started with another `--store`
//! than before is refused instead of beginning anew.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "etcd")]
use pontoon_raft::Member;
use pontoon_store::Snapshot;

use crate::config::ManagerConfig;
use crate::error::Error;
use crate::log::ReplicatedLog;
use crate::member_file::write_line;
use crate::replica::Replica;
#[cfg(feature = "etcd")]
use crate::replica::{Machine, Pinned};

#[cfg(feature = "etcd")]
pub use etcd::ExternalStore;

/// Names the store of a manager's log; a manager with an embedded log has none.
const STORE_FILE: &str = "store";

/// An external store of the log; there is none in this build.
#[cfg(not(feature = "etcd"))]
#[derive(Debug, Clone)]
pub enum ExternalStore {}

#[cfg(not(feature = "etcd"))]
impl ExternalStore {
    /// Refuses: this build has no external store.
    ///
    /// # Errors
    /// Always.
    pub fn parse(_store: &str, _options: &[String]) -> Result<Self, String> {
        Err("this build has no external store; use one with the feature \"etcd\"".to_owned())
    }

    fn name(&self) -> String {
        match *self {}
    }
}

/// How the log is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// A new cluster.
    Bootstrap,
    /// A further manager.
    Join,
    /// A restart.
    Open,
}

/// Opens the log in the external store.
#[cfg(feature = "etcd")]
pub(crate) async fn open(
    store: &ExternalStore,
    way: Way,
    config: &ManagerConfig,
    id: u64,
    replica: &Arc<Replica>,
) -> Result<Arc<dyn ReplicatedLog>, Error> {
    let identity = config.identity.peer();
    let own = Member::new(id, identity.node_id, config.advertise.as_str());
    let cluster = identity.cluster_id;
    let machine = Machine(replica.clone());
    let log = etcd::open(store, way, &cluster, own, machine).await?;
    Ok(Arc::new(log))
}

/// Makes a log that begins with a state.
#[cfg(feature = "etcd")]
pub(crate) async fn seed(
    store: &ExternalStore,
    config: &ManagerConfig,
    id: u64,
    state: Arc<Snapshot>,
) -> Result<(), Error> {
    let identity = config.identity.peer();
    let own = Member::new(id, identity.node_id, config.advertise.as_str());
    etcd::seed(store, &identity.cluster_id, &own, Box::new(Pinned(state))).await
}

/// There is no external store in this build.
#[cfg(not(feature = "etcd"))]
pub(crate) async fn seed(
    store: &ExternalStore,
    _config: &ManagerConfig,
    _id: u64,
    _state: Arc<Snapshot>,
) -> Result<(), Error> {
    match *store {}
}

/// There is no external store in this build.
#[cfg(not(feature = "etcd"))]
pub(crate) async fn open(
    store: &ExternalStore,
    _way: Way,
    _config: &ManagerConfig,
    _id: u64,
    _replica: &Arc<Replica>,
) -> Result<Arc<dyn ReplicatedLog>, Error> {
    match *store {}
}

/// Notes where the log is.
pub(crate) fn mark(data_dir: &Path, store: &ExternalStore) -> Result<(), Error> {
    write_line(
        &pontoon_raft::Host::default(),
        data_dir,
        STORE_FILE,
        &store.name(),
    )
}

/// Refuses to open a manager's data with another store than it has.
pub(crate) fn check(data_dir: &Path, store: Option<&ExternalStore>) -> Result<(), Error> {
    let path = data_dir.join(STORE_FILE);
    let marked = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => {
            return Err(Error::File {
                operation: "read",
                path,
                source,
            });
        }
    };
    match (marked, store.map(ExternalStore::name)) {
        (marked, named) if marked == named => Ok(()),
        (Some(marked), _) => Err(Error::OtherStore(format!(
            "this manager's log is in {marked}; start the daemon with that as --store"
        ))),
        (None, _) => Err(Error::OtherStore(
            "this manager keeps its log itself; start the daemon without --store, or leave the cluster first"
                .to_owned(),
        )),
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    //! The parts that know etcd.

    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use pontoon_etcd::{EtcdConfig, EtcdLog};
    use pontoon_raft::watch;
    use pontoon_raft::{
        Leadership, Member, MembershipError, ProposeError, ReadError, SnapshotWriter, StateMachine,
        StopReason,
    };

    use super::Way;
    use crate::error::Error;
    use crate::log::ReplicatedLog;

    /// So long a restarted manager waits for an etcd that does not answer.
    const PATIENCE_AGAIN: Duration = Duration::from_secs(5);

    /// An external store of the log.
    #[derive(Debug, Clone)]
    pub struct ExternalStore(EtcdConfig);

    impl ExternalStore {
        /// Reads `etcd://host:port[,host:port…][/prefix]` and options of the form `name=value`.
        ///
        /// # Errors
        /// What is wrong with them.
        pub fn parse(store: &str, options: &[String]) -> Result<Self, String> {
            EtcdConfig::parse(store, options)
                .map(Self)
                .map_err(|error| error.to_string())
        }

        /// What tells it from other stores. The endpoints may change: an etcd's members come and go.
        pub(super) fn name(&self) -> String {
            format!("etcd://.../{}", self.0.prefix.trim_start_matches('/'))
        }
    }

    impl From<EtcdConfig> for ExternalStore {
        fn from(config: EtcdConfig) -> Self {
            Self(config)
        }
    }

    pub(super) async fn open(
        store: &ExternalStore,
        way: Way,
        cluster: &str,
        own: Member,
        state: impl StateMachine,
    ) -> Result<EtcdLog, Error> {
        let mut config = store.0.clone();
        if matches!(way, Way::Open) {
            // Whoever restarts it tries again; the node's tasks wait for this.
            config.patience = config.patience.min(PATIENCE_AGAIN);
        }
        let log = match way {
            Way::Bootstrap => EtcdLog::bootstrap(config, cluster, own, state).await,
            Way::Join => EtcdLog::join(config, cluster, own, state).await,
            Way::Open => EtcdLog::open(config, cluster, own, state).await,
        };
        log.map_err(|error| Error::Store(Box::new(error)))
    }

    pub(super) async fn seed(
        store: &ExternalStore,
        cluster: &str,
        own: &Member,
        state: Box<dyn SnapshotWriter + Send>,
    ) -> Result<(), Error> {
        let seeded = EtcdLog::seed(&store.0, cluster, own, state).await;
        seeded.map_err(|error| Error::Store(Box::new(error)))
    }

    #[tonic::async_trait]
    impl ReplicatedLog for EtcdLog {
        async fn propose(&self, data: Bytes) -> Result<u64, ProposeError> {
            EtcdLog::propose(self, data).await
        }

        async fn read_barrier(&self) -> Result<(), ReadError> {
            EtcdLog::read_barrier(self).await
        }

        fn leadership(&self) -> watch::Receiver<Leadership> {
            EtcdLog::leadership(self)
        }

        fn members(&self) -> Vec<Member> {
            EtcdLog::members(self)
        }

        fn members_watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
            EtcdLog::members_watch(self)
        }

        fn stopped(&self) -> watch::Receiver<Option<StopReason>> {
            EtcdLog::stopped(self)
        }

        fn id(&self) -> u64 {
            EtcdLog::id(self)
        }

        fn entry_budget(&self) -> Option<usize> {
            Some(EtcdLog::entry_budget(self))
        }

        fn seals(&self) -> bool {
            false
        }

        fn keeps_quorum(&self) -> bool {
            false
        }

        async fn erase(&self) -> Result<(), MembershipError> {
            EtcdLog::erase(self).await
        }

        async fn promote(&self, _id: u64) -> Result<(), MembershipError> {
            // Every manager counts from the start: etcd keeps the quorum.
            Ok(())
        }

        async fn silences(&self) -> Vec<(u64, Duration)> {
            // A manager that is silent for a lease's length is shown as unreachable; more is not known.
            Vec::new()
        }

        fn retired(&self) -> Vec<u64> {
            Vec::new()
        }

        async fn remove(&self, id: u64) -> Result<(), MembershipError> {
            EtcdLog::remove(self, id).await
        }

        async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError> {
            EtcdLog::transfer_leadership(self, to).await
        }

        async fn shutdown(&self) {
            EtcdLog::shutdown(self).await;
        }
    }
}

#[cfg(all(test, feature = "etcd"))]
mod tests {
    use super::*;

    #[test]
    fn a_manager_stays_with_its_store() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = |text: &str| ExternalStore::parse(text, &[]).unwrap();
        check(dir.path(), None).unwrap();
        let refused = check(dir.path(), Some(&store("etcd://a:1"))).unwrap_err();
        assert!(refused.to_string().contains("keeps its log itself"), "{refused}");
        mark(dir.path(), &store("etcd://a:1/one")).unwrap();
        check(dir.path(), Some(&store("etcd://b:2,c:3/one"))).unwrap();
        for other in [None, Some(store("etcd://a:1/two"))] {
            let refused = check(dir.path(), other.as_ref()).unwrap_err();
            assert!(refused.to_string().contains("is in etcd://.../one"), "{refused}");
        }
    }
}
