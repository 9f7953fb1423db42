//! Renewal of this node's certificate at 50 to 80 % of its life, at a random moment so that a cluster that was made at
//! once does not renew at once; or at once when the cluster wants certificates of another root.
//!
//! Called by the daemon as one task per node.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::describe;
use crate::identity::Identity;
use crate::request::renew;
use crate::root::BACKDATE;

/// After a failure the next attempt comes this soon, at most.
const RETRY_MAX: Duration = Duration::from_secs(600);
const RETRY_MIN: Duration = Duration::from_secs(5);
/// A wait is cut into pieces: the machine may sleep, and timers don't count that time.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// When a certificate with this validity is to be renewed; `fraction` from 0 to 1 spreads over the window.
pub fn renewal_time(not_before: SystemTime, not_after: SystemTime, fraction: f64) -> SystemTime {
    // The back-dated hour is no part of its life: a short-lived certificate would else be due when it is made.
    let start = (not_before + BACKDATE).min(not_after);
    let life = not_after.duration_since(start).unwrap_or_default();
    start + life.mul_f64(0.5 + 0.3 * fraction.clamp(0.0, 1.0))
}

/// Renews for ever: waits for the time, asks the managers that `managers` gives one after the other. Ends at `stop`.
pub async fn renew_forever(
    identity: Arc<Identity>,
    managers: impl Fn() -> Vec<String> + Send,
    stop: CancellationToken,
) {
    let mut changes = identity.changes();
    let mut orders = identity.orders();
    let mut obeyed = false;
    loop {
        changes.mark_unchanged();
        orders.mark_unchanged();
        let (not_before, not_after) = identity.validity();
        let ordered = identity.is_due();
        let due = renewal_time(not_before, not_after, rand::random());
        let work = async {
            match ordered {
                // Renewed and still another issuer's: the root was replaced once more meanwhile.
                true if obeyed => tokio::time::sleep(RETRY_MIN).await,
                true => {}
                false => wait_until(due).await,
            }
            renew_with_retries(&identity, &managers).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Before the change that it makes itself.
            () = work => obeyed = ordered,
            // Replaced by someone else (a role change): the new certificate has its own time.
            Ok(()) = changes.changed() => obeyed = false,
            Ok(()) = orders.changed() => obeyed = false,
        }
    }
}

async fn wait_until(due: SystemTime) {
    while let Ok(rest) = due.duration_since(SystemTime::now()) {
        if rest.is_zero() {
            return;
        }
        tokio::time::sleep(rest.min(LONGEST_WAIT)).await;
    }
}

async fn renew_with_retries(identity: &Arc<Identity>, managers: &impl Fn() -> Vec<String>) {
    let mut pause = RETRY_MIN;
    loop {
        for addr in managers() {
            match renew(identity, &addr).await {
                Ok(_) => {
                    info!("node certificate renewed");
                    return;
                }
                Err(error) => warn!(addr, error = describe(&error), "can't renew the node certificate"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}
