//! Networks of this host through the network manager, in the form that clients see. Overlays are the cluster's: they are
//! shown (scope swarm), made and removed elsewhere.
//!
//! - [`create`]: what a new network may be; [`connect`]: containers that join and leave while they run; [`prune`];
//! - [`cluster`]: containers that are no tasks in the cluster's networks; [`heal`]: what somebody took away comes back
pub(crate) mod cluster;
mod connect;
mod create;
mod heal;
mod prune;

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_net::{Driver, Network};
use pontoon_proto::v1::{self, FilterValues, LocalNetwork, NetworkContainer};

use crate::container::filter::has_label;
use crate::container::network::endpoint_id;
use crate::event::EventObject;
use crate::{Engine, Error, Result};

/// Label under which a network's creation time is kept: the network manager knows no times.
const CREATED: &str = "pontoon.created";

impl Engine {
    /// Lists the networks, in order of their names.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn list_networks(&self, filters: &HashMap<String, FilterValues>) -> Result<Vec<LocalNetwork>> {
        for key in filters.keys() {
            if !matches!(
                key.as_str(),
                "dangling" | "driver" | "id" | "label" | "name" | "scope" | "type"
            ) {
                return Err(Error::Invalid(format!("invalid filter '{key}'")));
            }
        }
        if let Some(list) = filters.get("type")
            && let Some(other) = list
                .values
                .iter()
                .find(|v| !matches!(v.as_str(), "builtin" | "custom"))
        {
            return Err(Error::Invalid(format!("invalid filter: 'type'='{other}'")));
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
            engine.remove_local(&network).await?;
            Ok(network.spec.id)
        })
        .await
    }

    /// Removes a network that is nobody's, and tells so.
    async fn remove_local(&self, network: &Network) -> Result<()> {
        let spec = &network.spec;
        let removed = self.network.remove_network(&spec.id).await;
        removed.map_err(|error| match error {
            pontoon_net::Error::NetworkInUse { name, endpoints } => Error::Conflict(format!(
                "error while removing network: network {name} has active endpoints ({})",
                self.describe_endpoints(&endpoints)
            )),
            error @ pontoon_net::Error::Predefined { .. } => Error::Invalid(error.to_string()),
            error => Error::network("error while removing network", error),
        })?;
        self.emit_network("destroy", spec, None);
        Ok(())
    }

    fn describe_endpoints(&self, ids: &[String]) -> String {
        let describe = |id: &String| {
            let name = self
                .containers
                .find(id)
                .map(|c| c.read(|r| r.view().name.clone()));
            format!(
                "name:\"{}\" id:\"{}\"",
                name.unwrap_or_default(),
                crate::id::short(id)
            )
        };
        ids.iter().map(describe).collect::<Vec<_>>().join(", ")
    }

    /// Tells what happened to a network, with the container that it happened with.
    fn emit_network(&self, action: &str, spec: &pontoon_net::NetworkSpec, container: Option<&str>) {
        let mut attributes = vec![("name", spec.name.clone()), ("type", spec.driver.to_string())];
        attributes.extend(container.map(|id| ("container", id.to_owned())));
        self.emit_object(EventObject::Network, action, &spec.id, attributes);
    }

    pub(crate) async fn find_network(&self, target: &str) -> Result<Network> {
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
        let text = |net: Option<ipnet::IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
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
                ip_address: text(endpoint.endpoint.address),
                ipv6_address: text(endpoint.endpoint.address6),
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
                    auxiliary_addresses: ipam
                        .auxiliary
                        .iter()
                        .map(|(name, ip)| (name.clone(), ip.to_string()))
                        .collect(),
                })
                .collect(),
            enable_ipv6: spec.enable_ipv6,
            enable_ipv4: spec.enable_ipv4 && !matches!(spec.driver, Driver::None | Driver::Host),
            ipam_driver: "default".to_owned(),
            ipam_options: spec.ipam_options.into_iter().collect(),
            internal: spec.internal,
            attachable: spec.attachable,
            options: spec.options.into_iter().collect(),
            labels,
            containers,
            peers: network.peers.iter().map(ToString::to_string).collect(),
        }
    }
}

fn matches(view: &LocalNetwork, key: &str, values: &[String]) -> bool {
    let is_predefined = matches!(view.name.as_str(), "bridge" | "host" | "none");
    let test = |value: &String| match key {
        "driver" => &view.driver == value,
        "id" => view.id.starts_with(value.as_str()),
        "name" => view.name.contains(value.as_str()),
        "scope" => &view.scope == value,
        "type" => (value == "builtin") == is_predefined,
        "dangling" => {
            matches!(value.as_str(), "true" | "1") == (view.containers.is_empty() && !is_predefined)
        }
        _ => has_label(&view.labels, value),
    };
    if key == "label" {
        values.iter().all(test)
    } else {
        values.is_empty() || values.iter().any(test)
    }
}
