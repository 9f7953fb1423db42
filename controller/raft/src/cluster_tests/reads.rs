//! Reads of a member that needs nobody's word, and of one that does.

use std::sync::atomic::Ordering;

use super::harness::{Cluster, eventually};
use super::plain;
use crate::ReadError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_lone_voter_reads_without_a_round() {
    let mut cluster = Cluster::new(1, plain).await;
    cluster.write("one").await;
    let first = cluster.nodes[&1].handle.clone();
    let settled = || first.shared.settled.load(Ordering::SeqCst);
    eventually("it needs nobody", || async { settled() }).await;
    first.read_barrier().await.expect("read");
    // What was acknowledged is there, whichever way the read takes.
    for i in 0..200 {
        let data = format!("write {i}");
        cluster.write(&data).await;
        first.read_barrier().await.expect("read");
        assert!(cluster.nodes[&1].data().contains(&data.into_bytes()));
    }
    let second = cluster.join(2).await;
    assert!(!settled(), "another votes");
    first.read_barrier().await.expect("read");
    cluster.take(2).kill().await;
    assert_eq!(first.read_barrier().await, Err(ReadError::NoLeader));
    assert!(first.remove(second).await.is_err() && !settled());
    first.shutdown().await;
    assert!(!settled());
    assert_eq!(first.read_barrier().await, Err(ReadError::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reads_share_few_rounds() {
    let cluster = Cluster::new(3, plain).await;
    let leader = cluster.wait_leader().await;
    for node in cluster.nodes.keys() {
        let handle = &cluster.nodes[node].handle;
        let reads = (0..500).map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.read_barrier().await })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.expect("it ends").expect("read");
        }
    }
    assert_eq!(cluster.wait_leader().await, leader);
}
