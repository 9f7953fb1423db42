//! A running member whose disk fails: it ends in a defined way, and nothing that it acknowledged is lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::harness::{Log, TestState, connector};
use crate::node::{self, Prepared};
use crate::snapshot::SnapshotStore;
use crate::start::first_records;
use crate::vfs::Dir;
use crate::vfs::sim::{Fault, SimDisk};
use crate::wal::{Image, Owner, Wal};
use crate::{Config, ProposeError, RaftHandle, ReadError, StateMachine, StopReason};

const SEGMENT: u64 = 64 << 10;

fn prepared(disk: &SimDisk, config: &Config, log: &Log, create: bool) -> Prepared<TestState> {
    let dir = Dir::new(Arc::new(disk.clone()), "/raft");
    let snapshots = SnapshotStore::new(dir.clone(), &config.cluster_id);
    let owner = Owner {
        cluster_id: config.cluster_id.clone(),
        raft_id: config.id,
    };
    let mut state = TestState(log.clone());
    let lock = tempfile::tempfile().expect("a temporary file");
    if create {
        let (meta, records) = first_records(config);
        let pinned = state.snapshot();
        snapshots
            .write(&meta, |writer| pinned.write(writer))
            .expect("no fault yet");
        let mut image = Image::default();
        for record in &records {
            image.replay(record.clone()).expect("first records fit");
        }
        let wal = Wal::create(dir, owner, SEGMENT, records).expect("no fault yet");
        return Prepared {
            wal,
            image,
            state,
            snapshots,
            lock: Some(lock),
        };
    }
    let (wal, image) = Wal::open(dir, owner, SEGMENT).expect("a log that failed can be opened again");
    let marker = image.marker.clone().expect("a member has a snapshot");
    let file = snapshots
        .open(marker.index, marker.term)
        .expect("the snapshot is there");
    state
        .restore(&mut file.reader().expect("verified"))
        .expect("verified");
    Prepared {
        wal,
        image,
        state,
        snapshots,
        lock: Some(lock),
    }
}

async fn wait_leads(handle: &RaftHandle) {
    let mut leadership = handle.leadership();
    let leads = tokio::time::timeout(Duration::from_secs(30), leadership.wait_for(|l| l.is_leader)).await;
    assert!(leads.is_ok(), "the only member leads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_ends_the_member_and_loses_nothing() {
    for (seed, fault) in [Fault::NoSpace, Fault::SyncError]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        let disk = SimDisk::new(seed as u64);
        let config = Config {
            snapshot_every: 20,
            ..Config::new(7, "cluster", "node", "/raft")
        };
        let log = Log::default();
        let handle = node::start(&config, prepared(&disk, &config, &log, true), connector(1)).expect("start");
        wait_leads(&handle).await;
        disk.fail_at(disk.operations() + 40 + 7 * seed as u64, fault);
        let mut acknowledged = Vec::new();
        let refused = loop {
            let data = format!("write {}", acknowledged.len());
            match handle.propose(Bytes::from(data.clone())).await {
                Ok(_) => acknowledged.push(data),
                Err(error) => break error,
            }
            // A fault that hits a snapshot only costs the snapshot.
            if acknowledged.len() > 500 {
                break ProposeError::OutcomeUnknown;
            }
        };
        assert!(
            matches!(
                refused,
                ProposeError::OutcomeUnknown | ProposeError::Storage { .. }
            ),
            "{refused}"
        );
        if acknowledged.len() <= 500 {
            let mut stopped = handle.stopped();
            let reason =
                tokio::time::timeout(Duration::from_secs(30), stopped.wait_for(Option::is_some)).await;
            assert!(matches!(
                *reason.expect("in time").expect("it says why"),
                Some(StopReason::Storage(_))
            ));
            let mut done = handle.shared.done.clone();
            while done.changed().await.is_ok() {}
            assert!(!handle.leadership().borrow().is_leader);
            assert!(matches!(
                handle.propose(Bytes::new()).await,
                Err(ProposeError::Storage { .. })
            ));
            assert!(matches!(
                handle.read_barrier().await,
                Err(ReadError::Storage { .. })
            ));
        } else {
            handle.shutdown().await;
        }

        disk.restart();
        let log = Log::default();
        let handle =
            node::start(&config, prepared(&disk, &config, &log, false), connector(1)).expect("start");
        wait_leads(&handle).await;
        let found: Vec<Vec<u8>> = log
            .lock()
            .expect("lock")
            .iter()
            .map(|(_, data)| data.clone())
            .collect();
        for data in &acknowledged {
            assert!(
                found.iter().any(|f| f == data.as_bytes()),
                "{data} was acknowledged and is lost"
            );
        }
        handle.shutdown().await;
    }
}
