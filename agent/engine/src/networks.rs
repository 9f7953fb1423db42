//! Networks of this host through the network manager, in the form that clients see. Overlays are the cluster's: they are
//! shown (scope swarm), made and removed elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_net::{Driver, IpamConfig, Network, NetworkSpec};
use pontoon_proto::v1::{
    self, CreateNetworkRequest, CreateNetworkResponse, FilterValues, LocalNetwork, NetworkContainer,
};

use crate::container::filter::has_label;
use crate::container::network::endpoint_id;
use crate::{Engine, Error, Result, id};

/// Label under which a network's creation time is kept: the network manager knows no times.
const CREATED: &str = "pontoon.created";

impl Engine {
    /// Makes a bridge network.
    ///
    /// # Errors
    /// A bad setting, a name that is taken, an overlapping subnet.
    pub async fn create_network(
        self: &Arc<Self>,
        request: CreateNetworkRequest,
    ) -> Result<CreateNetworkResponse> {
        let engine = self.clone();
        self.whole(async move {
            if request.name.is_empty() {
                return Err(Error::Invalid("network name cannot be empty".to_owned()));
            }
            if !matches!(request.driver.as_str(), "" | "bridge") {
                return Err(Error::Invalid(format!(
                    "plugin \"{}\" not found: local networks are bridges, overlays are made on a manager",
                    request.driver
                )));
            }
            if request.labels.contains_key(CREATED) {
                return Err(Error::Invalid(format!("the label {CREATED} is reserved")));
            }
            let mut spec = NetworkSpec::bridge(id::generate(), request.name);
            spec.ipam = request.ipam.iter().map(ipam).collect::<Result<_>>()?;
            spec.internal = request.internal;
            spec.options = request.options.into_iter().collect();
            spec.labels = request.labels.into_iter().collect();
            spec.labels.insert(CREATED.to_owned(), id::now().to_string());
            let name = spec.name.clone();
            let failed = |error| Error::network(format!("create network {name}"), error);
            let network = engine.network.create_network(spec).await.map_err(failed)?;
            Ok(CreateNetworkResponse {
                id: network.spec.id,
                warning: String::new(),
            })
        })
        .await
    }

    /// Lists the networks, in order of their names.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn list_networks(&self, filters: &HashMap<String, FilterValues>) -> Result<Vec<LocalNetwork>> {
        for key in filters.keys() {
            if !matches!(
                key.as_str(),
                "driver" | "id" | "label" | "name" | "scope" | "type"
            ) {
                return Err(Error::Invalid(format!("invalid filter '{key}'")));
            }
        }
        let failed = |error| Error::network("list networks", error);
        let networks = self.network.list_networks().await.map_err(failed)?;
        let mut views: Vec<LocalNetwork> = networks
            .into_iter()
            .map(|network| self.network_view(network))
            .filter(|view| filters.iter().all(|(key, list)| matches(view, key, &list.values)))
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// Everything about a network.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`].
    pub async fn inspect_network(&self, target: &str) -> Result<LocalNetwork> {
        let network = self.find_network(target).await?;
        Ok(self.network_view(network))
    }

    /// Removes a network; gives its id.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`], it is predefined, an overlay, or has endpoints.
    pub async fn remove_network(self: &Arc<Self>, target: &str) -> Result<String> {
        let (engine, target) = (self.clone(), target.to_owned());
        self.whole(async move {
            let network = engine.find_network(&target).await?;
            if matches!(network.spec.driver, Driver::Overlay { .. }) {
                return Err(Error::Invalid(format!(
                    "network {} belongs to the cluster: remove it on a manager",
                    network.spec.name
                )));
            }
            let failed = |error| Error::network(format!("remove network {}", network.spec.name), error);
            engine
                .network
                .remove_network(&network.spec.id)
                .await
                .map_err(failed)?;
            Ok(network.spec.id)
        })
        .await
    }

    async fn find_network(&self, target: &str) -> Result<Network> {
        let failed = |error| Error::network(format!("look up network {target}"), error);
        match self.network.inspect_network(target).await {
            Ok(network) => return Ok(network),
            Err(pontoon_net::Error::NetworkNotFound { .. }) if !target.is_empty() => {}
            Err(error) => return Err(failed(error)),
        }
        let mut fitting = self.network.list_networks().await.map_err(failed)?;
        fitting.retain(|network| network.spec.id.starts_with(target));
        match (fitting.pop(), fitting.pop()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "network {target} is ambiguous: several ids begin so"
            ))),
            (None, _) => Err(Error::NoSuchNetwork(target.to_owned())),
        }
    }

    fn network_view(&self, network: Network) -> LocalNetwork {
        let spec = network.spec;
        let containers = network
            .endpoints
            .iter()
            .map(|endpoint| NetworkContainer {
                name: self
                    .containers
                    .find(&endpoint.sandbox_id)
                    .map(|container| container.read(|record| record.view().name.clone()))
                    .unwrap_or_default(),
                id: endpoint.sandbox_id.clone(),
                endpoint_id: endpoint_id(&endpoint.sandbox_id, &spec.id),
                mac_address: endpoint.endpoint.mac.map(|byte| format!("{byte:02x}")).join(":"),
                ip_address: endpoint.endpoint.address.to_string(),
                ..NetworkContainer::default()
            })
            .collect();
        let is_overlay = matches!(spec.driver, Driver::Overlay { .. });
        let mut labels: HashMap<String, String> = spec.labels.into_iter().collect();
        let created_at = labels
            .remove(CREATED)
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        LocalNetwork {
            id: spec.id,
            ingress: is_overlay && spec.name == "ingress",
            name: spec.name,
            driver: spec.driver.to_string(),
            scope: if is_overlay { "swarm" } else { "local" }.to_owned(),
            created_at,
            ipam: spec
                .ipam
                .iter()
                .map(|ipam| v1::IpamConfig {
                    subnet: ipam.subnet.map(|subnet| subnet.to_string()).unwrap_or_default(),
                    range: ipam.range.map(|range| range.to_string()).unwrap_or_default(),
                    gateway: ipam.gateway.map(|ip| ip.to_string()).unwrap_or_default(),
                    ..v1::IpamConfig::default()
                })
                .collect(),
            internal: spec.internal,
            attachable: spec.attachable,
            options: spec.options.into_iter().collect(),
            labels,
            containers,
            ..LocalNetwork::default()
        }
    }
}

fn ipam(config: &v1::IpamConfig) -> Result<IpamConfig> {
    fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<Option<T>> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| Error::Invalid(format!("invalid {what}: {text}")))
    }
    Ok(IpamConfig {
        subnet: parse("subnet", &config.subnet)?,
        range: parse("range", &config.range)?,
        gateway: parse("gateway", &config.gateway)?,
    })
}

fn matches(view: &LocalNetwork, key: &str, values: &[String]) -> bool {
    let is_predefined = matches!(view.name.as_str(), "bridge" | "host" | "none");
    let test = |value: &String| match key {
        "driver" => &view.driver == value,
        "id" => view.id.starts_with(value.as_str()),
        "name" => view.name.contains(value.as_str()),
        "scope" => &view.scope == value,
        "type" => (value == "builtin") == is_predefined,
        _ => has_label(&view.labels, value),
    };
    if key == "label" {
        values.iter().all(test)
    } else {
        values.is_empty() || values.iter().any(test)
    }
}
