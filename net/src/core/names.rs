//! What netd is told: zones of names for networks, resolvers for sandboxes.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use pontoon_dataplane::{SandboxDns, Zone};

use super::{Core, endpoint::EndpointRecord, local::Role, short};
use crate::{
    Resolver, Result,
    resolver::{self, HostResolver},
};

impl Core {
    /// Whether containers on a network find each other by name: all but the default bridge, as in Docker.
    pub fn has_names(&self, network: &str) -> bool {
        self.overlays.contains_key(network)
            || self
                .networks
                .get(network)
                .is_some_and(|n| n.record.role == Role::User)
    }

    /// Whether a sandbox neither is nor was on a network with names.
    pub fn is_nameless(&self, sandbox_id: &str) -> bool {
        let endpoints = |s: &super::SandboxState| {
            let mut networks = s.record.endpoints.iter().map(|e| &e.endpoint.network_id);
            networks.any(|network| self.has_names(network))
        };
        self.sandbox(sandbox_id)
            .is_ok_and(|s| !s.is_served && !endpoints(s))
    }

    /// As [`sandbox_dns`](Self::sandbox_dns), when netd is about to be told.
    ///
    /// # Errors
    /// As [`sandbox_dns`](Self::sandbox_dns).
    pub fn serve_sandbox(&mut self, id: &str) -> Result<Option<SandboxDns>> {
        let dns = self.sandbox_dns(id)?;
        self.sandbox_mut(id)?.is_served |= dns.is_some();
        Ok(dns)
    }

    /// The names of a network, or `None` if none are served on it.
    pub fn zone(&self, network: &str) -> Option<Zone> {
        if !self.has_names(network) {
            return None;
        }
        let mut records = self
            .overlays
            .get(network)
            .map(|o| o.services.names.clone())
            .unwrap_or_default();
        for sandbox in self.sandboxes.values() {
            let id = short(&sandbox.record.spec.id);
            for endpoint in sandbox
                .record
                .endpoints
                .iter()
                .filter(|e| e.endpoint.network_id == network)
            {
                for name in endpoint.aliases.iter().map(String::as_str).chain([id]) {
                    let known: &mut Vec<IpAddr> = records.entry(name.to_lowercase()).or_default();
                    for address in endpoint.endpoint.addresses() {
                        if !known.contains(&address) {
                            known.push(address);
                        }
                    }
                }
            }
        }
        Some(Zone { records })
    }

    /// How netd serves a sandbox; `None` if it is on no network with names.
    ///
    /// # Errors
    /// [`crate::Error::SandboxNotFound`].
    pub fn sandbox_dns(&self, id: &str) -> Result<Option<SandboxDns>> {
        let record = &self.sandbox(id)?.record;
        let networks: Vec<String> = record
            .endpoints
            .iter()
            .map(|e| e.endpoint.network_id.clone())
            .filter(|network| self.has_names(network))
            .collect();
        let Some(netns) = self.netns_path(record).filter(|_| !networks.is_empty()) else {
            return Ok(None);
        };
        let internal = record.endpoints.iter().all(|e| self.is_internal(e));
        let resolver = self.resolver(id)?;
        let mut extra_hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (name, address) in &record.spec.extra_hosts {
            extra_hosts.entry(name.to_lowercase()).or_default().push(*address);
        }
        for endpoint in &record.endpoints {
            for (target, alias) in &endpoint.links {
                let linked = self.sandbox(target).map(|s| s.record.endpoints.as_slice());
                let same = |e: &&EndpointRecord| e.endpoint.network_id == endpoint.endpoint.network_id;
                let addresses = linked.unwrap_or_default().iter().filter(same);
                extra_hosts
                    .entry(alias.to_lowercase())
                    .or_default()
                    .extend(addresses.flat_map(|e| e.endpoint.addresses()));
            }
        }
        Ok(Some(SandboxDns {
            id: id.into(),
            netns,
            networks,
            // CVE-2024-29018: nothing of an internal network leaves the node.
            upstreams: if internal { Vec::new() } else { resolver.servers },
            search: resolver.search,
            options: resolver.options,
            internal,
            extra_hosts,
        }))
    }

    /// Sandboxes with names of their own for `target` on a network.
    pub fn linked_to(&self, target: &str, network: &str) -> Vec<String> {
        let links = |e: &EndpointRecord| {
            e.endpoint.network_id == network && e.links.iter().any(|(linked, _)| linked == target)
        };
        let sandboxes = self.sandboxes.iter();
        sandboxes
            .filter(|(_, s)| s.record.endpoints.iter().any(links))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// The addresses for which `host-gateway` stands: as set, else those of the default bridge.
    ///
    /// # Errors
    /// The default bridge can't be made.
    pub fn host_gateway(&mut self) -> Result<Vec<IpAddr>> {
        if !self.config.host_gateway.is_empty() {
            return Ok(self.config.host_gateway.clone());
        }
        let id = self.predefined.bridge.clone();
        self.ensure_network(&id)?;
        let live = self.networks.get(&id).and_then(|n| n.live.as_ref());
        let subnets = live.iter().flat_map(|live| live.subnets.iter().flatten());
        Ok(subnets.map(|subnet| subnet.gateway).collect())
    }

    fn is_internal(&self, endpoint: &EndpointRecord) -> bool {
        let id = &endpoint.endpoint.network_id;
        let local = self.networks.get(id).map(|n| n.record.spec.internal);
        // An overlay has no way out of its own: that is the egress endpoint's part.
        local.unwrap_or(true)
    }

    /// The sandbox's resolver settings: its own, else the host's.
    ///
    /// # Errors
    /// [`crate::Error::SandboxNotFound`], [`crate::Error::File`].
    pub fn resolver(&self, id: &str) -> Result<Resolver> {
        let spec = &self.sandbox(id)?.record.spec;
        let mut resolver = HostResolver::read(&self.config.resolv_conf)?.0;
        if !spec.dns.is_empty() {
            resolver.servers = spec.dns.iter().map(|ip| SocketAddr::new(*ip, 53)).collect();
        }
        if !spec.dns_search.is_empty() {
            resolver.search = spec.dns_search.iter().filter(|d| *d != ".").cloned().collect();
        }
        if !spec.dns_options.is_empty() {
            resolver.options.clone_from(&spec.dns_options);
        }
        Ok(resolver)
    }

    /// Content for the sandbox's /etc/resolv.conf.
    ///
    /// # Errors
    /// [`crate::Error::SandboxNotFound`], [`crate::Error::File`].
    pub fn resolv_conf(&self, id: &str) -> Result<String> {
        let embedded = self.sandbox_dns(id)?.is_some();
        let mode = self.sandbox(id)?.record.spec.mode;
        let endpoints = &self.sandbox(id)?.record.endpoints;
        let ipv6 = endpoints.iter().any(|e| e.endpoint.address6.is_some());
        Ok(resolver::resolv_conf(&self.resolver(id)?, embedded, mode, ipv6))
    }

    /// Content for the sandbox's /etc/hosts.
    ///
    /// # Errors
    /// [`crate::Error::SandboxNotFound`].
    pub fn hosts(&self, id: &str) -> Result<String> {
        let record = &self.sandbox(id)?.record;
        let addresses: Vec<IpAddr> = record
            .endpoints
            .iter()
            .filter(|e| !e.is_egress())
            .flat_map(|e| e.endpoint.addresses())
            .collect();
        Ok(resolver::hosts(&record.spec, &addresses))
    }
}
