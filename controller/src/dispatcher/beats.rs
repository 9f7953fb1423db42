//! Heartbeats: a node that is silent for three periods is declared down.
//!
//! Kept in the leader's memory only. A new leader gives every node that was ready a grace to come back; but a manager whose
//! raft member has been silent for three periods, counted from before the election, is not waited for any longer: the
//! log's members talk to each other all the time, and what its agent had to say would have come by now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::NodeState;
use pontoon_reconcile::observe;
use pontoon_store::{Snapshot, Tx};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::info;

use crate::core::Core;
use crate::leader::Leading;
use crate::writer::Scope;

/// SwarmKit's grace.
const MISSED: u32 = 3;
const DEFAULT_PERIOD: Duration = Duration::from_secs(1);
/// Heartbeats per second that a leader takes at most: the period grows with the cluster.
const MAX_RATE: u32 = 1000;
/// After a change of leaders agents first have to find the new one.
const NEW_LEADER_GRACE: u32 = 2;
/// How often lateness is looked for, as a part of the period.
const CHECKS_PER_PERIOD: u32 = 5;

/// When each node must have been heard of.
pub(crate) struct Beats {
    deadlines: Mutex<HashMap<String, Deadline>>,
    check_every: Duration,
    /// The longest silence of a manager that this leader has not heard of yet.
    silence: Duration,
}

#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    /// It has been heard of by this leader.
    heard: bool,
}

/// The period in which agents have to beat.
pub(crate) fn period(snapshot: &Snapshot) -> Duration {
    let spec = snapshot.cluster().and_then(|cluster| cluster.spec.as_ref());
    let wished = spec
        .and_then(|spec| u64::try_from(spec.heartbeat_period).ok())
        .filter(|period| *period > 0);
    let base = wished.map_or(DEFAULT_PERIOD, Duration::from_nanos);
    let nodes = u32::try_from(snapshot.node_count()).unwrap_or(u32::MAX);
    base.max(Duration::from_secs(1) * nodes / MAX_RATE)
}

impl Beats {
    /// For a manager that has just begun to lead.
    pub(crate) fn new(snapshot: &Snapshot, now: Instant) -> Self {
        let period = period(snapshot);
        let deadline = now + period * MISSED * NEW_LEADER_GRACE;
        let was_up = |state: NodeState| matches!(state, NodeState::Ready | NodeState::Disconnected);
        let deadlines = snapshot
            .nodes()
            .filter(|node| node.status.as_ref().is_some_and(|status| was_up(status.state())))
            .map(|node| {
                let deadline = Deadline {
                    at: deadline,
                    heard: false,
                };
                (node.id.clone(), deadline)
            })
            .collect();
        let check_every = (period / CHECKS_PER_PERIOD).max(Duration::from_millis(1));
        Self {
            deadlines: Mutex::new(deadlines),
            check_every,
            silence: period * MISSED,
        }
    }

    /// The node was heard of and has to beat in this period.
    pub(crate) fn beat(&self, node_id: &str, period: Duration, now: Instant) {
        let deadline = Deadline {
            at: now + period * MISSED,
            heard: true,
        };
        self.lock().insert(node_id.to_owned(), deadline);
    }

    /// True when the node was heard of since it was last found late.
    fn is_expected(&self, node_id: &str) -> bool {
        self.lock().contains_key(node_id)
    }

    /// Takes out those that are late.
    fn late(&self, now: Instant) -> Vec<String> {
        let mut deadlines = self.lock();
        let late: Vec<String> = deadlines
            .iter()
            .filter(|(_, deadline)| deadline.at <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &late {
            deadlines.remove(id);
        }
        late
    }

    /// Whether there are nodes that this leader has not heard of.
    fn waits(&self) -> bool {
        self.lock().values().any(|deadline| !deadline.heard)
    }

    /// The log has heard nothing of this node's member for some time: ends the grace of one that is silent for too long.
    fn silent(&self, node_id: &str, silent_for: Duration, now: Instant) {
        if silent_for < self.silence {
            return;
        }
        if let Some(deadline) = self.lock().get_mut(node_id)
            && !deadline.heard
        {
            deadline.at = deadline.at.min(now);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Deadline>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Declares late nodes down until leadership is lost.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    let mut ticker = tokio::time::interval(leading.beats.check_every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = leading.stop.cancelled() => return,
            _ = ticker.tick() => {}
        }
        if leading.beats.waits() {
            note_silence(&core, &leading.beats).await;
        }
        for node_id in leading.beats.late(Instant::now()) {
            info!(
                node = node_id,
                "no heartbeat for three periods: the node is taken for down"
            );
            // A session that still looks open must register anew.
            leading.sessions.end(&node_id);
            let beats = leading.beats.clone();
            let declare = move |tx: &mut Tx, scope: &Scope| {
                // It may have registered while this was queued; its session must not outlive its being up.
                if !beats.is_expected(&node_id) {
                    observe::node_down(tx, &node_id, "heartbeat failure", scope.now);
                }
            };
            // Fails only with the leadership, which ends this task.
            drop(leading.writer.observe(declare).await);
        }
    }
}

/// Looks which managers the log has not heard of.
async fn note_silence(core: &Core, beats: &Beats) {
    let members = core.log.members();
    for (id, silent_for) in core.log.silences().await {
        if let Some(member) = members.iter().find(|member| member.id == id) {
            beats.silent(&member.node_id, silent_for, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::v1::{Cluster, ClusterSpec, Node, NodeStatus};
    use pontoon_store::Store;

    fn snapshot(period: i64, states: &[NodeState]) -> Snapshot {
        let store = Store::new();
        let mut tx = Tx::new(Snapshot::clone(&store.snapshot()));
        let spec = ClusterSpec {
            heartbeat_period: period,
            ..ClusterSpec::default()
        };
        tx.put_cluster(Cluster {
            id: "c".into(),
            spec: Some(spec),
            ..Cluster::default()
        })
        .unwrap();
        for (number, state) in states.iter().enumerate() {
            let status = NodeStatus {
                state: (*state).into(),
                ..NodeStatus::default()
            };
            let id = format!("n{number}");
            tx.put_node(Node {
                id,
                status: Some(status),
                ..Node::default()
            })
            .unwrap();
        }
        Snapshot::clone(tx.view())
    }

    #[test]
    fn the_period_follows_the_spec_and_the_size() {
        assert_eq!(period(&snapshot(0, &[])), Duration::from_secs(1));
        assert_eq!(period(&snapshot(5_000_000, &[])), Duration::from_millis(5));
        assert_eq!(period(&snapshot(-1, &[])), Duration::from_secs(1));
        let many = vec![NodeState::Ready; 3000];
        assert_eq!(period(&snapshot(0, &many)), Duration::from_secs(3));
    }

    #[test]
    fn three_periods_of_silence_are_too_many() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let at = |seconds: u32| start + second * seconds;
        let beats = Beats::new(
            &snapshot(0, &[NodeState::Ready, NodeState::Down, NodeState::Unknown]),
            start,
        );
        beats.beat("n9", second, start);
        assert!(beats.late(at(2)).is_empty());
        beats.beat("n9", second, at(2));
        assert!(beats.late(at(4)).is_empty());
        assert!(beats.is_expected("n9"));
        assert_eq!(beats.late(at(5)), ["n9"]);
        assert!(!beats.is_expected("n9"));
        // The node that was ready under the former leader has twice the time; those that were not are left alone.
        assert_eq!(beats.late(at(6)), ["n0"]);
        assert!(beats.late(at(100)).is_empty());
    }

    #[test]
    fn a_silent_manager_is_not_waited_for() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let beats = Beats::new(&snapshot(0, &[NodeState::Ready; 3]), start);
        assert!(beats.waits());
        // Not silent for long enough; silent, but this leader has heard of its agent; silent; no node of the cluster.
        beats.silent("n0", second * 2, start + second);
        beats.beat("n1", second, start);
        beats.silent("n1", second * 3, start + second);
        beats.silent("n2", second * 3, start + second);
        beats.silent("n9", second * 3, start + second);
        assert_eq!(beats.late(start + second), ["n2"]);
        assert_eq!(beats.late(start + second * 3), ["n1"]);
        assert!(beats.waits());
        assert_eq!(beats.late(start + second * 6), ["n0"]);
        assert!(!beats.waits());
    }
}
