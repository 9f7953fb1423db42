//! The cluster's settings: what they may be, and those that every manager follows by itself (its snapshots).
//!
//! Checked by the API and, for a new cluster, by the daemon; `run` is a task of each manager.

use std::sync::Arc;
use std::time::Duration;

use pontoon_identity::LEAST_EXPIRY;
use pontoon_proto::v1::ClusterSpec;
use pontoon_store::Snapshot;
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// Agents don't beat faster.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(50);

/// Refuses settings that can't be.
///
/// # Errors
/// What is wrong, for the user.
pub fn check_settings(spec: &ClusterSpec) -> Result<(), String> {
    let at_least = |nanoseconds: i64, least: Duration| {
        nanoseconds == 0 || u64::try_from(nanoseconds).is_ok_and(|n| Duration::from_nanos(n) >= least)
    };
    if !at_least(spec.node_cert_expiry, LEAST_EXPIRY) {
        return Err("minimum certificate expiry time is: 1h0m0s".to_owned());
    }
    if spec.heartbeat_period < 0 {
        return Err("heartbeat time period cannot be a negative duration".to_owned());
    }
    if !at_least(spec.heartbeat_period, SHORTEST_HEARTBEAT) {
        return Err("minimum heartbeat time period is: 50ms".to_owned());
    }
    Ok(())
}

/// What the command line asks for when nobody says anything about snapshots.
const DEFAULT_INTERVAL: u64 = 10_000;

/// Something is said about snapshots that a manager would not do anyway.
pub(crate) fn has_snapshots(spec: &ClusterSpec) -> bool {
    !matches!(spec.snapshot_interval, 0 | DEFAULT_INTERVAL) || spec.old_snapshots != 0
}

/// Interval and number of snapshots.
fn snapshots(state: &Snapshot) -> Option<(u64, usize)> {
    let spec = state.cluster()?.spec.as_ref()?;
    let old = usize::try_from(spec.old_snapshots).unwrap_or(usize::MAX);
    Some((spec.snapshot_interval, old))
}

/// Follows the settings until `stop`.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let mut versions = core.replica.versions();
    let mut last = None;
    loop {
        versions.borrow_and_update();
        let now = snapshots(&core.snapshot());
        if now != last
            && let Some((every, old)) = now
        {
            core.log.set_snapshots(every, old);
        }
        last = now;
        tokio::select! {
            () = stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let heartbeat = |heartbeat_period| ClusterSpec {
            heartbeat_period,
            ..ClusterSpec::default()
        };
        for good in [0, 50_000_000, i64::MAX] {
            assert_eq!(check_settings(&heartbeat(good)), Ok(()));
        }
        let refused = |spec: ClusterSpec| check_settings(&spec).unwrap_err();
        assert!(refused(heartbeat(-1)).contains("negative"));
        assert!(refused(heartbeat(49_999_999)).contains("50ms"));
        for expiry in [-1, 1] {
            let spec = ClusterSpec {
                node_cert_expiry: expiry,
                ..ClusterSpec::default()
            };
            assert!(refused(spec).contains("1h0m0s"));
        }
    }
}
