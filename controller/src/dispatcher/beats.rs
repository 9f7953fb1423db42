//! Heartbeats: a node that is silent for two periods counts as unreachable (DISCONNECTED: it keeps its tasks and gets no new ones), after
//! three it is taken for dead (DOWN: its tasks are replaced, as their services have it).
//!
//! A leader that was held up itself counts that time for nobody.
//!
//! Kept in the leader's memory only. A new leader gives every node that was ready a grace to come back; but a manager whose
//! raft member has been silent for three periods, counted from before the election, is not waited for any longer: the
//! log's members talk to each other all the time, and what its agent had to say would have come by now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::NodeState;
use pontoon_reconcile::observe;
use pontoon_store::{Snapshot, Tx};
use tokio::time::Instant;
use tracing::info;

use crate::core::Core;
use crate::leader::Leading;
use crate::writer::Scope;

/// SwarmKit's grace.
const MISSED: u32 = 3;
/// Periods of silence after which a node counts as unreachable.
const SILENT: u32 = 2;
const DEFAULT_PERIOD: Duration = Duration::from_secs(1);
/// Heartbeats per second that a leader takes at most: the period grows with the cluster.
const MAX_RATE: u32 = 1000;
/// After a change of leaders agents first have to find the new one.
const NEW_LEADER_GRACE: u32 = 2;
/// How often lateness is looked for, as a part of the period.
const CHECKS_PER_PERIOD: u32 = 5;

/// When a node must have been heard of.
#[derive(Debug, Clone, Copy)]
struct Expected {
    /// Until then it is well; `None`: it is unreachable by now.
    silent: Option<Instant>,
    /// From then on it is dead.
    dead: Instant,
    /// It has been heard of by this leader.
    heard: bool,
}

impl Expected {
    fn within(period: Duration, now: Instant) -> Self {
        Self {
            silent: Some(now + period * SILENT),
            dead: now + period * MISSED,
            heard: false,
        }
    }
}

/// When each node must have been heard of.
pub(crate) struct Beats {
    expected: Mutex<BTreeMap<String, Expected>>,
    check_every: Duration,
    /// The longest silence of a manager that this leader has not heard of yet.
    silence: Duration,
}

/// The period that the cluster's settings name.
pub(super) fn wished(snapshot: &Snapshot) -> Duration {
    let spec = snapshot.cluster().and_then(|cluster| cluster.spec.as_ref());
    let wished = spec
        .and_then(|spec| u64::try_from(spec.heartbeat_period).ok())
        .filter(|period| *period > 0);
    wished.map_or(DEFAULT_PERIOD, Duration::from_nanos)
}

/// The period in which agents have to beat.
pub(crate) fn period(snapshot: &Snapshot) -> Duration {
    let nodes = u32::try_from(snapshot.node_count()).unwrap_or(u32::MAX);
    wished(snapshot).max(Duration::from_secs(1) * nodes / MAX_RATE)
}

impl Beats {
    /// For a manager that has just begun to lead.
    pub(crate) fn new(snapshot: &Snapshot, now: Instant) -> Self {
        let period = period(snapshot);
        let expected = Expected::within(period * NEW_LEADER_GRACE, now);
        let was_up = |state: NodeState| matches!(state, NodeState::Ready | NodeState::Disconnected);
        let expected = snapshot
            .nodes()
            .filter(|node| node.status.as_ref().is_some_and(|status| was_up(status.state())))
            .map(|node| (node.id.clone(), expected))
            .collect();
        let check_every = (period / CHECKS_PER_PERIOD).max(Duration::from_millis(1));
        Self {
            expected: Mutex::new(expected),
            check_every,
            silence: period * MISSED,
        }
    }

    /// The node was heard of and has to beat in this period. True if it was unreachable.
    pub(crate) fn beat(&self, node_id: &str, period: Duration, now: Instant) -> bool {
        let expected = Expected {
            heard: true,
            ..Expected::within(period, now)
        };
        let before = self.lock().insert(node_id.to_owned(), expected);
        before.is_some_and(|before| before.silent.is_none())
    }

    /// True when the node was heard of since it was last found dead.
    fn is_expected(&self, node_id: &str) -> bool {
        self.lock().contains_key(node_id)
    }

    /// Whether there are nodes that this leader has not heard of.
    fn waits(&self) -> bool {
        self.lock().values().any(|expected| !expected.heard)
    }

    /// The log has heard nothing of this node's member for some time: ends the grace of one that is silent for too long.
    fn mute(&self, node_id: &str, silent_for: Duration, now: Instant) {
        if silent_for < self.silence {
            return;
        }
        if let Some(expected) = self.lock().get_mut(node_id)
            && !expected.heard
        {
            expected.dead = expected.dead.min(now);
        }
    }

    /// True when the node has been silent so long that it counts as unreachable.
    fn is_unreachable(&self, node_id: &str) -> bool {
        self.lock()
            .get(node_id)
            .is_some_and(|expected| expected.silent.is_none())
    }

    /// Those that are unreachable from now on.
    fn silent(&self, now: Instant) -> Vec<String> {
        let mut silent = Vec::new();
        for (id, expected) in self.lock().iter_mut() {
            if expected.silent.is_some_and(|until| until <= now) {
                expected.silent = None;
                silent.push(id.clone());
            }
        }
        silent
    }

    /// This manager itself was held up for so long, by its work or because its machine stood still: it may not have read what agents sent.
    fn excuse(&self, late: Duration) {
        for expected in self.lock().values_mut() {
            expected.silent = expected.silent.map(|until| until + late);
            expected.dead += late;
        }
    }

    /// Takes out those that are dead.
    fn dead(&self, now: Instant) -> Vec<String> {
        let mut all = self.lock();
        let dead: Vec<String> = all
            .iter()
            .filter(|(_, expected)| expected.dead <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &dead {
            all.remove(id);
        }
        dead
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a node is unreachable, unless it is heard of before that is written.
async fn declare_unreachable(leading: &Leading, node_id: String) {
    info!(
        node = node_id,
        "no heartbeat for two periods: the node is unreachable"
    );
    let beats = leading.beats.clone();
    let declare = move |tx: &mut Tx, scope: &Scope| {
        if beats.is_unreachable(&node_id) {
            observe::node_disconnected(tx, &node_id, "no heartbeat", scope.now);
        }
    };
    // Fails only with the leadership.
    drop(leading.writer.observe(declare).await);
}

/// Declares late nodes down until leadership is lost.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    loop {
        let due = Instant::now() + leading.beats.check_every;
        tokio::select! {
            biased;
            () = leading.stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        let late = due.elapsed();
        if late > leading.beats.check_every {
            leading.beats.excuse(late);
        }
        if leading.beats.waits() {
            note_silence(&core, &leading.beats).await;
        }
        let now = Instant::now();
        let dead = leading.beats.dead(now);
        for node_id in leading.beats.silent(now) {
            declare_unreachable(&leading, node_id).await;
        }
        for node_id in dead {
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
            beats.mute(&member.node_id, silent_for, Instant::now());
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
        assert!(!beats.beat("n9", second, start));
        assert!(beats.dead(at(2)).is_empty());
        assert!(!beats.beat("n9", second, at(2)));
        assert!(beats.silent(at(3)).is_empty() && beats.dead(at(4)).is_empty());
        // Two are not few: it is told once, and being heard of mends it.
        assert_eq!(beats.silent(at(4)), ["n0", "n9"]);
        assert!(beats.silent(at(4)).is_empty() && beats.is_unreachable("n9"));
        assert!(beats.beat("n9", second, at(4)));
        assert!(!beats.is_unreachable("n9") && !beats.beat("n9", second, at(4)));
        assert_eq!(beats.silent(at(6)), ["n9"]);
        // The node that was ready under the former leader has twice the time; those that were not are left alone.
        assert!(beats.is_expected("n9"));
        assert_eq!(beats.dead(at(6)), ["n0"]);
        assert_eq!(beats.dead(at(7)), ["n9"]);
        assert!(!beats.is_expected("n9") && !beats.is_unreachable("n9"));
        assert!(!beats.beat("n9", second, at(8)), "it registers anew");
        assert!(beats.dead(at(10)).is_empty() && beats.dead(at(100)) == ["n9"]);
    }

    #[test]
    fn what_a_leader_slept_through_is_nobodys_silence() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let beats = Beats::new(&snapshot(0, &[NodeState::Ready]), start);
        beats.beat("n0", second, start);
        beats.beat("n1", second, start);
        assert_eq!(beats.silent(start + second * 2), ["n0", "n1"]);
        beats.beat("n0", second, start + second * 2);
        beats.excuse(second * 5);
        assert!(beats.silent(start + second * 8).is_empty() && beats.dead(start + second * 7).is_empty());
        assert_eq!(
            beats.dead(start + second * 8),
            ["n1"],
            "it was unreachable before"
        );
        assert_eq!(beats.silent(start + second * 9), ["n0"]);
    }

    #[test]
    fn a_silent_manager_is_not_waited_for() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let beats = Beats::new(&snapshot(0, &[NodeState::Ready; 3]), start);
        assert!(beats.waits());
        // Not silent for long enough; silent, but this leader has heard of its agent; silent; no node of the cluster.
        beats.mute("n0", second * 2, start + second);
        beats.beat("n1", second, start);
        beats.mute("n1", second * 3, start + second);
        beats.mute("n2", second * 3, start + second);
        beats.mute("n9", second * 3, start + second);
        assert_eq!(beats.dead(start + second), ["n2"]);
        assert_eq!(beats.dead(start + second * 3), ["n1"]);
        assert!(beats.waits());
        assert_eq!(beats.dead(start + second * 6), ["n0"]);
        assert!(!beats.waits());
    }
}
