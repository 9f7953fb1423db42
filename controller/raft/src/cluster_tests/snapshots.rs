//! How many snapshots are taken and kept, as the owner wishes while the member runs.

use super::harness::{Cluster, eventually};
use super::plain;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_taken_and_kept_as_wished() {
    let mut cluster = Cluster::new(1, plain).await;
    let handle = cluster.nodes[&1].handle.clone();
    let dir = cluster.nodes[&1].config.dir.clone();
    let files = || {
        let names = std::fs::read_dir(&dir).expect("list").flatten();
        let is_snapshot = |name: &str| name.starts_with("snap-") && name.ends_with(".snap");
        names
            .filter(|entry| entry.file_name().to_str().is_some_and(is_snapshot))
            .count()
    };
    assert_eq!(files(), 1, "that of the beginning");
    handle.set_snapshots(10, 2);
    // A snapshot is written beside the writes, so it is the number of files that counts.
    let write_until = async |count: usize| {
        let mut number = 0;
        while files() != count {
            cluster.write(&format!("write {number} until {count}")).await;
            number += 1;
            assert!(number < 5000, "{} files, not {count}", files());
        }
    };
    write_until(3).await;
    for i in 0..100 {
        cluster.write(&format!("more {i}")).await;
    }
    eventually("no more than wished are kept", || async { files() == 3 }).await;
    let config = cluster.take(1).stop().await;
    cluster.restart(1, config).await;
    // One more if the member was stopped between a snapshot and the removal of the oldest.
    assert!((3..=4).contains(&files()), "a restart keeps them: {}", files());
    let handle = cluster.nodes[&1].handle.clone();
    handle.set_snapshots(10, 0);
    let mut number = 0;
    while files() != 1 {
        cluster.write(&format!("last {number}")).await;
        number += 1;
        assert!(number < 5000, "{} files", files());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_state_is_not_written_for_each_small_part_that_changes() {
    let by_bytes = |config: &mut crate::Config| config.snapshot_bytes = 1000;
    let cluster = Cluster::new(1, by_bytes).await;
    let handle = cluster.nodes[&1].handle.clone();
    handle.set_snapshots(0, 1000);
    let files = || {
        let names = std::fs::read_dir(&cluster.nodes[&1].config.dir)
            .expect("list")
            .flatten();
        let is_snapshot = |name: &str| name.starts_with("snap-") && name.ends_with(".snap");
        names
            .filter(|entry| entry.file_name().to_str().is_some_and(is_snapshot))
            .count()
    };
    let text = "x".repeat(100);
    let mut number = 0;
    // All that is written stays in the state, so each snapshot is due after as much again: after 1, 2, 4, 8 thousand bytes.
    while number < 300 || files() < 4 {
        cluster.write(&format!("{text} {number}")).await;
        number += 1;
        assert!(number < 5000, "{} files", files());
    }
    let most = 3 + (number * 130_usize / 1000).ilog2() as usize;
    assert!(files() <= most, "{} files after {number} writes", files());
}
