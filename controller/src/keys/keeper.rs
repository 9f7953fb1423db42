//! Follows the cluster's unlock key: seals this manager's keys by it, and forgets data keys that are not needed any more.
//!
//! Runs on every manager as long as it does. A failure (a full disk) is tried again; until then the keys stay as they are.

use std::sync::Arc;
use std::time::Duration;

use pontoon_identity::UnlockKey;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Keys;
use crate::core::Core;
use crate::error::{Error, describe};

/// Pause before a change that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Runs until `stop`.
pub(crate) async fn run(core: Arc<Core>, mut keys: Keys, stop: CancellationToken) {
    let mut versions = core.replica.versions();
    let mut used = keys.ring.used();
    // A change that a crash cut off is finished even when the lock is the wanted one already.
    let mut settled = false;
    if keys.ring.all().len() > 1 {
        core.log.key_changed();
    }
    loop {
        versions.borrow_and_update();
        let in_use = used.borrow_and_update().clone();
        let wanted = wanted(&core);
        let unused = keys.unused(&in_use);
        let mut failed = false;
        let changes = wanted
            .as_ref()
            .is_some_and(|wanted| !settled || keys.lock != *wanted);
        if changes || !unused.is_empty() {
            let identity = core.identity.clone();
            let work = move || {
                let mut result = Ok(false);
                if let Some(wanted) = wanted.filter(|_| changes) {
                    result = keys.set_lock(&identity, wanted.as_ref());
                }
                let forgotten = keys.forget(&unused);
                (keys, result.and_then(|rotated| forgotten.map(|()| rotated)))
            };
            let Ok((back, result)) = tokio::task::spawn_blocking(work).await else {
                // Only when the runtime is going down.
                return;
            };
            keys = back;
            failed = !finished(&core, &result);
            settled |= changes && !failed;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY), if failed => {}
            changed = versions.changed() => if changed.is_err() { return },
            changed = used.changed() => if changed.is_err() { return },
        }
    }
}

/// The unlock key that the cluster wants, or none; nothing before its state is here.
fn wanted(core: &Core) -> Option<Option<UnlockKey>> {
    let snapshot = core.snapshot();
    let cluster = snapshot.cluster()?;
    Some(UnlockKey::from_bytes(&cluster.unlock_key))
}

fn finished(core: &Core, result: &Result<bool, Error>) -> bool {
    match result {
        Ok(rotated) => {
            if *rotated {
                info!(
                    "this manager's keys are sealed by the swarm's unlock key; the log goes over to a new data key"
                );
                core.log.key_changed();
            }
            true
        }
        Err(error) => {
            warn!(
                error = describe(error),
                "this manager's keys are as they were; trying again"
            );
            false
        }
    }
}
