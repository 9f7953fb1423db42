//! Whether the kernel and netd have what the committed state wants: the manager's part of `network doctor` and of the engine's regular
//! look at it.
use std::collections::BTreeSet;

use super::NetworkManager;
use crate::{Drift, Mended, Part, Result, core::Core, names::failed};

impl NetworkManager {
    /// Compares what the kernel and netd have with what they should have, and with `mend` makes it so: of these networks with their
    /// containers, by id, or of all there is. Between two networks or containers others get their turn.
    ///
    /// # Errors
    /// [`Error::ThreadGone`](crate::Error::ThreadGone), [`Error::Dns`](crate::Error::Dns).
    pub async fn check(&self, networks: Option<BTreeSet<String>>, mend: bool) -> Result<Vec<Drift>> {
        let wanted = networks.clone();
        let targets = self
            .core
            .run(move |core| core.check_targets(wanted.as_ref()))
            .await?;
        let mut drifts = Vec::new();
        for target in targets {
            drifts.extend(self.core.run(move |core| core.check(&target, mend)).await?);
        }
        drifts.extend(self.check_names(networks.as_ref(), mend).await?);
        Ok(drifts)
    }

    /// What was mended since the last call because the kernel told of it.
    ///
    /// # Errors
    /// [`Error::ThreadGone`](crate::Error::ThreadGone).
    pub async fn take_mended(&self) -> Result<Vec<Drift>> {
        self.core.run(Core::take_mended).await
    }

    /// The zones of overlays in netd.
    async fn check_names(&self, networks: Option<&BTreeSet<String>>, mend: bool) -> Result<Vec<Drift>> {
        let overlays = self.core.run(|core| {
            let all = core.named_networks().into_iter();
            all.filter(|id| core.is_synced(id)).collect::<Vec<_>>()
        });
        let mut overlays = overlays.await?;
        overlays.retain(|id| networks.is_none_or(|networks| networks.contains(id)));
        if overlays.is_empty() {
            return Ok(Vec::new());
        }
        // No zone is on its way while they are compared.
        let _order = self.names.in_order().await;
        let Some(client) = self.names.running().await? else {
            return Ok(Vec::new());
        };
        let served = client.state().await.map_err(failed("read the state"))?.zones;
        let mut drifts = Vec::new();
        for id in overlays {
            let own = id.clone();
            let zone = self
                .core
                .run(move |core| core.zone(&own))
                .await?
                .unwrap_or_default();
            let found = served.get(&id).cloned().unwrap_or_default();
            if found == zone {
                continue;
            }
            let right = zone
                .records
                .iter()
                .filter(|(name, at)| found.records.get(*name) == Some(at))
                .count();
            let other = found
                .records
                .keys()
                .filter(|name| !zone.records.contains_key(*name))
                .count();
            let should = format!("{} names with their addresses", zone.records.len());
            let how = format!("{right} of them and {other} that should not be there");
            let mut drift = Drift::of(&id, Part::Names, should, how);
            if mend {
                // Forgotten first: else only what differs from what the client takes for served would be sent, which is nothing.
                let forgotten = client.remove_zone(&id).await;
                let mended = match forgotten {
                    Ok(()) => client.put_zone(&id, zone).await,
                    Err(error) => Err(error),
                };
                drift.mended =
                    mended.map_or_else(|error| Mended::Failed(error.to_string()), |()| Mended::Yes);
            }
            drifts.push(drift);
        }
        Ok(drifts)
    }
}
