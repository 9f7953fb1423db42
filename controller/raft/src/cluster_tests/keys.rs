//! A running member that goes over to a new data key, and one that meets what only a newer program understands.

use std::io::{self, Read};

use bytes::Bytes;

use super::harness::{Cluster, Log, TestState, connector, eventually};
use crate::seal::{DataKey, Keyring};
use crate::{Config, Error, Raft, SnapshotWriter, StateMachine, StopReason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_member_goes_over_to_a_new_key() {
    let mut cluster = Cluster::new(1, |config| {
        config.keys = Some(Keyring::new(DataKey::random(), []))
    })
    .await;
    for i in 0..50 {
        cluster.write(&format!("write {i}")).await;
    }
    let node = &cluster.nodes[&1];
    let keys = node.config.keys.clone().expect("it has keys");
    let (old, new) = (keys.current(), DataKey::random());
    assert_eq!(*keys.used().borrow(), [old.id()].into());
    keys.rotate(new.clone());
    node.handle.key_changed();
    // The entry that tells of the new key, and others, come meanwhile.
    cluster.write("meanwhile").await;
    eventually("nothing needs the old key", || async {
        *keys.used().borrow() == [new.id()].into()
    })
    .await;
    cluster.write("after").await;
    let mut config = cluster.take(1).stop().await;
    config.keys = Some(Keyring::new(old, []));
    let refused = Raft::open(config.clone(), TestState(Log::default()), connector(1)).await;
    assert!(matches!(refused, Err(Error::NoKey { key, .. }) if key == new.id()));
    config.keys = Some(Keyring::new(new, []));
    cluster.restart(1, config).await;
    cluster.write("again").await;
    assert_eq!(cluster.converge().await.len(), 53);
}

/// Refuses what begins with "new".
struct Old(TestState);

impl StateMachine for Old {
    fn apply(&mut self, index: u64, data: &[u8]) {
        assert!(!data.starts_with(b"new"), "it was refused");
        self.0.apply(index, data);
    }

    fn refuses(&self, data: &[u8]) -> Option<String> {
        data.starts_with(b"new")
            .then(|| "upgrade this manager".to_owned())
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        self.0.snapshot()
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        self.0.restore(reader)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_stops_before_an_entry_of_a_newer_program() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::new(1, "cluster", "node", folder.path());
    let log = Log::default();
    let start = || Raft::open(config.clone(), Old(TestState(log.clone())), connector(1));
    let handle = Raft::bootstrap(config.clone(), Old(TestState(log.clone())), connector(1));
    let mut handle = handle.await.expect("bootstrap");
    let mut leadership = handle.leadership();
    leadership.wait_for(|l| l.is_leader).await.expect("it leads");
    handle
        .propose(Bytes::from_static(b"old"))
        .await
        .expect("it is understood");
    handle
        .propose(Bytes::from_static(b"new field"))
        .await
        .expect_err("it is not");
    // A restart does not get past it either, and does not forget it.
    for _ in 0..2 {
        let mut stopped = handle.stopped();
        let reason = stopped
            .wait_for(Option::is_some)
            .await
            .expect("it says why")
            .clone();
        assert!(
            matches!(&reason, Some(StopReason::TooOld(text)) if text.contains("upgrade this manager")),
            "{reason:?}"
        );
        assert!(
            !log.lock()
                .expect("lock")
                .iter()
                .any(|(_, data)| data.starts_with(b"new"))
        );
        handle.shutdown().await;
        log.lock().expect("lock").clear();
        handle = start().await.expect("its files are fine");
    }
    handle.shutdown().await;
    // The newer program finds it.
    let all = Log::default();
    let handle = Raft::open(config.clone(), TestState(all.clone()), connector(1))
        .await
        .expect("open");
    let mut leadership = handle.leadership();
    leadership.wait_for(|l| l.is_leader).await.expect("it leads");
    handle.read_barrier().await.expect("read");
    let found: Vec<_> = all
        .lock()
        .expect("lock")
        .iter()
        .map(|(_, data)| data.clone())
        .collect();
    assert_eq!(found, [b"old".to_vec(), b"new field".to_vec()]);
    handle.shutdown().await;
}
