//! Takes the nodes over to another root: tells them, a few at a time, to renew, and moves the cluster on when all have. Runs at the
//! leader; nothing of it outlives a term, since what was done shows in the nodes' own reports.
//!
//! A node that is down, or too old to report its issuer, holds the rotation up until it comes back or is removed: were the old root
//! forgotten before, it would be locked out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pontoon_proto::v1::{Cluster, Node, TlsInfo, Trust};
use pontoon_store::{Snapshot, Tx};
use tokio::time::Instant;
use tonic::Status;
use tracing::{info, warn};

use super::root;
use crate::core::Core;
use crate::leader::Leading;
use crate::status;
use crate::writer::Scope;

/// So many nodes renew at once, as in SwarmKit.
const AT_ONCE: usize = 30;
/// A node that was told and has not renewed after this time no longer keeps another from its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// While nodes wait for their turn.
const AGAIN: Duration = Duration::from_secs(1);

/// Which nodes have been told to renew. One for each time of leading.
#[derive(Default)]
pub(crate) struct Orders(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// The issuer that they were told.
    issuer: Bytes,
    nodes: BTreeMap<String, Instant>,
}

impl Orders {
    /// What the node is to be told of the root now.
    pub(crate) fn of(&self, snapshot: &Snapshot, node_id: &str) -> Option<Trust> {
        let root = snapshot.cluster()?.root_ca.as_ref()?;
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let issuer = match told.nodes.contains_key(node_id) {
            true => told.issuer.clone(),
            false => Bytes::new(),
        };
        Some(Trust {
            root: root.certificate.clone(),
            issuer_public_key: issuer,
        })
    }

    /// Gives the next of `behind` their turn; who that is. `now` is the leader's clock.
    fn give(&self, wanted: &TlsInfo, behind: &[String], now: Instant) -> BTreeSet<String> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.issuer != wanted.issuer_public_key {
            *told = Told {
                issuer: wanted.issuer_public_key.clone(),
                ..Told::default()
            };
        }
        let busy = behind
            .iter()
            .filter(|node| told.nodes.get(*node).is_some_and(|at| now < *at + PATIENCE))
            .count();
        let next: BTreeSet<String> = behind
            .iter()
            .filter(|node| !told.nodes.contains_key(*node))
            .take(AT_ONCE.saturating_sub(busy))
            .cloned()
            .collect();
        told.nodes.extend(next.iter().map(|node| (node.clone(), now)));
        next
    }
}

/// Runs until leadership is lost.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    let mut versions = core.replica.versions();
    let mut sessions = leading.sessions.changes();
    let mut told = Bytes::new();
    loop {
        versions.borrow_and_update();
        sessions.borrow_and_update();
        let mut seen = core.snapshot().version();
        let unfinished = tokio::select! {
            biased;
            () = leading.stop.cancelled() => return,
            unfinished = settle(&core, &leading) => unfinished,
        };
        if let Some(root) = core
            .snapshot()
            .cluster()
            .and_then(|cluster| cluster.root_ca.as_ref())
            && root.certificate != told
        {
            told = root.certificate.clone();
            leading.sessions.wake_all();
        }
        loop {
            tokio::select! {
                biased;
                () = leading.stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN), if unfinished => break,
                // Sessions come and go all the time; they matter only while nodes wait.
                changed = sessions.changed(), if unfinished => if changed.is_err() { return } else { break },
                changed = versions.changed() => if changed.is_err() { return },
            }
            versions.borrow_and_update();
            if core.replica.nodes_changed_since(&mut seen) {
                break;
            }
        }
    }
}

/// One pass; true while a rotation is under way.
async fn settle(core: &Core, leading: &Leading) -> bool {
    let snapshot = core.snapshot();
    let Some(stored) = snapshot.cluster().and_then(|cluster| cluster.root_ca.as_ref()) else {
        return false;
    };
    let outcome = if stored.rotation.is_some() {
        let wanted = match root::wanted(stored) {
            Ok(wanted) => wanted,
            Err(error) => {
                warn!(%error, "the root that is to come can't be used");
                return true;
            }
        };
        let behind = ids(snapshot.nodes().filter(|node| !root::has_issuer(node, &wanted)));
        if !behind.is_empty() {
            let connected = leading.sessions.nodes();
            let reachable: Vec<String> = behind.into_iter().filter(|id| connected.contains(id)).collect();
            let next = leading.orders.give(&wanted, &reachable, Instant::now());
            leading.sessions.wake(&next);
            return true;
        }
        leading.writer.write(finish).await
    } else if !stored.cross_signed.is_empty() {
        if snapshot
            .nodes()
            .any(|node| !root::trusts(node, &stored.certificate))
        {
            return true;
        }
        leading.writer.write(forget).await
    } else {
        return false;
    };
    if let Err(error) = outcome {
        warn!(%error, "the root's rotation can't go on yet");
    }
    true
}

fn ids<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> Vec<String> {
    let mut ids: Vec<String> = nodes.map(|node| node.id.clone()).collect();
    ids.sort();
    ids
}

fn cluster(tx: &Tx) -> Result<Cluster, Status> {
    tx.cluster()
        .map(|cluster| Cluster::clone(cluster))
        .ok_or_else(|| Status::internal("there is no cluster"))
}

/// Looks again in the transaction: a node may have come, or another rotation begun.
fn finish(tx: &mut Tx, _: &Scope) -> Result<(), Status> {
    let mut cluster = cluster(tx)?;
    let wanted = root::wanted(root::of(&cluster)?)?;
    if tx.nodes().all(|node| root::has_issuer(node, &wanted)) {
        root::finish(cluster.root_ca.get_or_insert_default())?;
        tx.put_cluster(cluster).map_err(status::from_store)?;
        info!("all certificates are of the new root: it is in force now");
    }
    Ok(())
}

fn forget(tx: &mut Tx, _: &Scope) -> Result<(), Status> {
    let mut cluster = cluster(tx)?;
    let root = cluster.root_ca.get_or_insert_default();
    if root.rotation.is_none() && tx.nodes().all(|node| root::trusts(node, &root.certificate)) {
        root.cross_signed = Bytes::new();
        tx.put_cluster(cluster).map_err(status::from_store)?;
        info!("all nodes trust the new root: the old one is forgotten");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_a_time_and_the_stuck_hold_up_nobody() {
        let orders = Orders::default();
        let wanted = |key: &'static [u8]| TlsInfo {
            issuer_public_key: Bytes::from_static(key),
            ..TlsInfo::default()
        };
        let nodes: Vec<String> = (0..70).map(|number| format!("n{number:02}")).collect();
        let now = Instant::now();
        assert_eq!(orders.give(&wanted(b"a"), &nodes, now).len(), AT_ONCE);
        assert_eq!(orders.give(&wanted(b"a"), &nodes, now).len(), 0);
        // Ten have renewed.
        let next = orders.give(&wanted(b"a"), &nodes[10..], now);
        assert_eq!(
            (next.len(), next.contains("n30"), next.contains("n39")),
            (10, true, true)
        );
        // The others are stuck.
        assert_eq!(orders.give(&wanted(b"a"), &nodes[10..], now + PATIENCE).len(), 30);
        // Another rotation tells all again.
        assert!(orders.give(&wanted(b"b"), &nodes[10..], now).contains("n10"));
    }
}
