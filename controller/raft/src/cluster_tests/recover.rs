//! Hand-over on shutdown, and a group that begins anew from what one member has.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::{Cluster, Log, TestState};
use super::{contains, plain};
use crate::{Member, Raft, StopReason};

/// Nobody ever stands for election by himself here: only a hand-over can make a leader in the time that tests have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_shut_down_hands_over() {
    let mut cluster = Cluster::new(3, plain).await;
    let leader = cluster.wait_leader().await;
    for node in (1..=3).filter(|node| *node != leader) {
        let mut config = cluster.take(node).stop().await;
        config.election_ticks = 1_000_000;
        cluster.restart(node, config).await;
        cluster.converge().await;
    }
    cluster.write("before").await;
    let before = cluster.converge().await;
    cluster.take(leader).stop().await;
    cluster.write("after").await;
    let after = cluster.converge().await;
    assert_eq!(after[..before.len()], before);
    assert!(contains(&after, "after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_begins_anew_with_all_it_has() {
    let mut cluster = Cluster::new(3, plain).await;
    for number in 0..20 {
        cluster.write(&format!("write {number}")).await;
    }
    let before = cluster.converge().await;
    let old_ids: Vec<u64> = cluster.nodes.values().map(|node| node.handle.id()).collect();
    let mut configs = Vec::new();
    for node in [1, 2, 3] {
        configs.push(cluster.take(node).kill().await);
    }
    // Alone it can't even lead; its folder is enough.
    let survivor = configs.remove(0);
    let log: Log = Arc::new(Mutex::default());
    let salvaged = Raft::salvage(survivor.clone(), TestState(log.clone()))
        .await
        .expect("salvage");
    let mut ids = old_ids;
    ids.sort_unstable();
    assert_eq!(salvaged.ids, ids);
    let data: Vec<Vec<u8>> = log
        .lock()
        .expect("lock")
        .iter()
        .map(|(_, data)| data.clone())
        .collect();
    assert_eq!(data, before);

    let mut anew = survivor;
    anew.id = Member::random_id();
    anew.dir = anew.dir.with_extension("new");
    anew.retired = salvaged.ids;
    Raft::seed(anew.clone(), salvaged.state).await.expect("seed");
    cluster.restart(1, anew).await;
    cluster.write("anew").await;
    let after = cluster.nodes[&1].data();
    assert_eq!(after[..before.len()], before);
    assert!(contains(&after, "anew"));
    assert_eq!(cluster.nodes[&1].handle.members().len(), 1);
    assert_eq!(cluster.nodes[&1].handle.retired(), ids);

    // The others are two of the old three, but whoever calls the survivor learns that he has no part any more.
    for (node, config) in [2, 3].into_iter().zip(configs) {
        cluster.restart(node, config).await;
    }
    for node in [2, 3] {
        let mut stopped = cluster.nodes[&node].handle.stopped();
        let reason = tokio::time::timeout(Duration::from_secs(30), stopped.wait_for(Option::is_some)).await;
        let reason = reason.expect("in time").expect("it says why").clone();
        assert_eq!(reason, Some(StopReason::Removed));
    }
    for node in [2, 3] {
        cluster.take(node).stop().await;
    }
    // A new member joins as ever.
    cluster.join(4).await;
    cluster.write("with two").await;
    assert!(contains(&cluster.converge().await, "with two"));
    assert!(contains(&cluster.nodes[&4].data(), "write 0"));
}
