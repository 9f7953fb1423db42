//! Networks heal by themselves: every few seconds the kernel is compared with what it should have, what is missing is put back, and an
//! event tells of it (`network repair`). Started when the engine opens.
//!
//! A look takes as long as reading what there is; so that it never takes more than a fiftieth of a processor, pauses grow with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pontoon_net::{Drift, Mended, Part};
use tokio::time::Instant;

use crate::event::EventObject;
use crate::{Engine, Error, Result};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// A look that takes long is followed by a pause of so many times its length.
const SHARE: u32 = 50;

/// What could not be mended, so that it is told once.
type Failures = BTreeMap<(String, String, Part), String>;

impl Engine {
    /// Compares these networks, or all there is, with what they should be; with `repair` puts right what is found, and tells of it.
    ///
    /// # Errors
    /// They can't be looked at.
    pub async fn check_networks(
        &self,
        networks: Option<BTreeSet<String>>,
        repair: bool,
    ) -> Result<Vec<Drift>> {
        let checked = self.network.check(networks, repair).await;
        let found = checked.map_err(|error| Error::network("check networks", error))?;
        if repair {
            for drift in &found {
                self.tell_drift(drift).await;
            }
        }
        Ok(found)
    }

    /// Compares and mends until the engine ends.
    pub(crate) fn heal_networks(self: &Arc<Self>) {
        let engine = self.clone();
        self.tasks.spawn(async move {
            let mut failures = Failures::new();
            loop {
                let begun = Instant::now();
                tokio::select! {
                    biased;
                    () = engine.stop.cancelled() => return,
                    () = engine.look_at_networks(&mut failures) => {}
                }
                let pause = PAUSE.max(begun.elapsed() * SHARE);
                tokio::select! {
                    biased;
                    () = engine.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    async fn look_at_networks(&self, failures: &mut Failures) {
        let mended = self.network.take_mended().await;
        let found = match self.network.check(None, true).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "networks can't be compared with what they should be");
                return;
            }
        };
        let before = std::mem::take(failures);
        for drift in mended.unwrap_or_default().into_iter().chain(found) {
            let key = (drift.network.clone(), drift.sandbox.clone(), drift.part);
            if let Mended::Failed(reason) = &drift.mended {
                let is_known = before.get(&key) == Some(reason);
                failures.insert(key, reason.clone());
                if is_known {
                    continue;
                }
            }
            self.tell_drift(&drift).await;
        }
    }

    /// Tells what was found to be other than it should be, and what became of it.
    async fn tell_drift(&self, drift: &Drift) {
        let network = self.network.inspect_network(&drift.network).await;
        let name = network.map(|network| network.spec.name).unwrap_or_default();
        tracing::warn!(network = name, sandbox = drift.sandbox, %drift, "the network was not as it should be");
        let mut attributes = vec![
            ("name", name),
            ("network", drift.network.clone()),
            ("what", drift.part.name().to_owned()),
            ("expected", drift.expected.clone()),
            ("found", drift.found.clone()),
        ];
        if !drift.sandbox.is_empty() {
            attributes.push(("container", drift.sandbox.clone()));
        }
        if let Mended::Failed(reason) = &drift.mended {
            attributes.push(("error", reason.clone()));
        }
        self.emit_object(EventObject::Network, "repair", &drift.network, attributes);
    }
}
