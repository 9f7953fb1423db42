//! `network prune`: removes local networks in which no container runs.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_net::Driver;
use pontoon_proto::v1::{PruneRequest, PruneResponse};

use crate::container::prune::PruneFilters;
use crate::event::EventObject;
use crate::{Engine, Error, Result};

impl Engine {
    /// Removes all user-defined networks without endpoints that fit the filters; gives their names.
    ///
    /// # Errors
    /// A filter that makes no sense. A network that can't be removed is left and logged.
    pub async fn prune_networks(self: &Arc<Self>, request: &PruneRequest) -> Result<PruneResponse> {
        let filters = PruneFilters::new(&request.filters)?;
        let engine = self.clone();
        self.whole(async move { engine.prune_now(filters).await }).await
    }

    async fn prune_now(&self, filters: PruneFilters) -> Result<PruneResponse> {
        let failed = |error| Error::network("list networks", error);
        let mut networks = self.network.list_networks().await.map_err(failed)?;
        networks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let mut response = PruneResponse::default();
        for network in networks {
            let spec = &network.spec;
            let local = matches!(spec.driver, Driver::Bridge | Driver::Macvlan | Driver::Ipvlan);
            let predefined = spec.name == "bridge" || spec.name == self.config.gateway_bridge;
            let view = self.network_view(network.clone());
            let labels: &HashMap<String, String> = &view.labels;
            if !local || predefined || !network.endpoints.is_empty() || !filters.fits(view.created_at, labels)
            {
                continue;
            }
            match self.remove_local(&network).await {
                Ok(()) => response.deleted.push(spec.name.clone()),
                // A container came meanwhile, or somebody else removed it.
                Err(Error::Conflict(_) | Error::NoSuchNetwork(_)) => {}
                Err(error) => tracing::warn!(
                    network = spec.name,
                    error = error.chain(),
                    "could not remove a network"
                ),
            }
        }
        self.emit_pruned(EventObject::Network, 0);
        Ok(response)
    }
}
