//! How a sandbox joins a network: addresses are taken, the endpoint is written down, its link made and set up inside, and
//! the default route given to whom it belongs. Undone as a whole if a step fails.
use std::net::Ipv4Addr;

use super::{
    Core,
    endpoint::{Attachment, EndpointRecord},
    inside::{SYSCTLS, sysctls},
    mac,
};
use crate::{
    Endpoint, EndpointSpec, Error, Result, SandboxMode,
    netlink::{Batch, Veth},
};

/// An endpoint that was made.
#[derive(Debug)]
pub struct Attached {
    /// What callers see.
    pub endpoint: Endpoint,
    /// Whether names are served on its network.
    pub has_names: bool,
    /// Whether names are served on none of the sandbox's networks, so that netd has nothing to do with it.
    pub is_nameless: bool,
}

impl Core {
    /// Connects a sandbox to a network. Undone if it fails.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], [`Error::NetworkNotFound`], [`Error::AlreadyAttached`], [`Error::NotManaged`],
    /// [`Error::Address`], or what the kernel refuses.
    pub fn attach(&mut self, sandbox_id: &str, spec: &EndpointSpec) -> Result<Attached> {
        let sandbox = self.sandbox(sandbox_id)?;
        let mode = match sandbox.record.spec.mode {
            SandboxMode::Managed => None,
            SandboxMode::None => Some("none"),
            SandboxMode::Host => Some("host"),
        };
        if let Some(mode) = mode {
            return Err(Error::NotManaged {
                sandbox: sandbox_id.into(),
                mode,
            });
        }
        let network = self.inspect_network(&spec.network_id)?.spec;
        if sandbox.endpoints_on(&network.id).next().is_some() {
            return Err(Error::AlreadyAttached {
                sandbox: sandbox_id.into(),
                network: network.name,
            });
        }
        let wants_exit = spec.is_default_route && !network.internal && !self.has_exit(sandbox_id);
        let spec = EndpointSpec {
            network_id: network.id.clone(),
            ..spec.clone()
        };
        let is_overlay = self.overlays.contains_key(&network.id);
        let endpoint = if is_overlay {
            self.attach_overlay(sandbox_id, &spec)?
        } else if let Some(local) = self.networks.get(&network.id) {
            let attachment = if local.is_bridge() {
                Attachment::Bridge
            } else {
                Attachment::Below
            };
            self.attach_local(sandbox_id, &spec, attachment)?
        } else {
            let reason = format!("network {} takes no endpoints", network.name);
            return Err(Error::Invalid {
                what: "network",
                reason,
            });
        };
        let routed = if is_overlay && wants_exit {
            self.attach_egress(sandbox_id)
        } else {
            self.elect(sandbox_id)
        };
        if let Err(error) = routed {
            self.undo_attach(sandbox_id, &network.id);
            return Err(error);
        }
        Ok(Attached {
            endpoint,
            has_names: self.has_names(&network.id),
            is_nameless: self.is_nameless(sandbox_id),
        })
    }

    /// Connects a sandbox to a local network. Undone if it fails.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_local(
        &mut self,
        sandbox_id: &str,
        spec: &EndpointSpec,
        attachment: Attachment,
    ) -> Result<Endpoint> {
        self.ensure_network(&spec.network_id)?;
        let number = self.free_number(sandbox_id)?;
        let not_found = || Error::NetworkNotFound {
            id: spec.network_id.clone(),
        };
        let network = self.networks.get(&spec.network_id).ok_or_else(not_found)?;
        let prefix = network.options.interface_prefix.clone();
        let gateways = [0, 1].map(|at| network.exit(at).flatten());
        let ifname = self.interface_name(sandbox_id, &prefix, spec)?;
        let settings = match spec.options.get(SYSCTLS) {
            Some(text) => sysctls(text, &ifname)?,
            None => Vec::new(),
        };
        let addresses = self.take_addresses(spec)?;
        self.next_index += 1;
        let index = self.next_index;
        let first = addresses.iter().flatten().next().map(|net| net.addr());
        let own_mac = mac(first.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
        let endpoint = Endpoint {
            network_id: spec.network_id.clone(),
            ifname,
            address: addresses[0],
            address6: addresses[1],
            gateway: gateways[0],
            gateway6: gateways[1],
            mac: spec.mac.unwrap_or(own_mac),
        };
        let record = EndpointRecord::new(sandbox_id, spec, endpoint, (index, number), attachment);
        let made = self
            .remember(sandbox_id, &record)
            .and_then(|()| match attachment {
                Attachment::Below => self.program_below(sandbox_id, &record),
                _ => self.program_veth(sandbox_id, &record, index),
            })
            .and_then(|()| self.prepare_inside(sandbox_id, &record, &settings, spec.mac.is_some()))
            .and_then(|()| self.configure_inside(sandbox_id, &record, &spec.link_local))
            .and_then(|()| match attachment {
                Attachment::Below => Ok(()),
                _ => self.route.wait_running(&record.link),
            });
        self.settle(sandbox_id, record, made)
    }

    fn program_veth(&mut self, sandbox_id: &str, record: &EndpointRecord, index: u32) -> Result<()> {
        let not_found = || Error::NetworkNotFound {
            id: record.endpoint.network_id.clone(),
        };
        let network = self
            .networks
            .get(&record.endpoint.network_id)
            .ok_or_else(not_found)?;
        let master = network.live.as_ref().ok_or_else(not_found)?.index;
        let (mtu, flags) = (network.mtu(), network.port_flags());
        let netns = self.netns_of(sandbox_id)?;
        let mut batch = Batch::default();
        batch.add_veth(&Veth {
            name: &record.link,
            index,
            master: Some(master),
            mtu,
            mac: None,
            silent: true,
            peer_namespace: netns,
            peer_name: &record.endpoint.ifname,
            peer_index: record.index(),
            peer_mac: Some(record.endpoint.mac),
        });
        batch.set_port(&record.link, flags);
        self.route.transact(batch)
    }

    /// The lowest number that no endpoint of a sandbox has.
    pub(in crate::core) fn free_number(&self, sandbox_id: &str) -> Result<u32> {
        let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
        (0..100)
            .find(|n| endpoints.iter().all(|e| e.number != *n))
            .ok_or_else(|| Error::Invalid {
                what: "endpoint",
                reason: "a sandbox can have 100 at most".into(),
            })
    }

    /// Writes the endpoint down before the kernel is told.
    pub(in crate::core) fn remember(&mut self, sandbox_id: &str, record: &EndpointRecord) -> Result<()> {
        self.sandbox_mut(sandbox_id)?
            .record
            .endpoints
            .push(record.clone());
        self.save_sandbox(sandbox_id)
    }

    /// Ends an attach: undone if it failed.
    pub(in crate::core) fn settle(
        &mut self,
        sandbox_id: &str,
        record: EndpointRecord,
        made: Result<()>,
    ) -> Result<Endpoint> {
        if let Err(error) = made {
            self.undo_attach(sandbox_id, &record.endpoint.network_id);
            return Err(error);
        }
        Ok(record.endpoint)
    }

    /// Undoes an attach; the error that led here is the one to tell.
    fn undo_attach(&mut self, sandbox_id: &str, network_id: &str) {
        let (removal, _) = self.begin_detach(sandbox_id, network_id);
        let mut batch = Batch::default();
        for link in &removal.links {
            batch.remove_link(link);
        }
        let _ = self.route.transact_all(batch);
        for (_, link) in &removal.hidden {
            if let Some(overlay) = self.overlays.get_mut(network_id) {
                let mut batch = Batch::default();
                batch.remove_link(link);
                let _ = overlay.route.transact_all(batch);
            }
        }
        let _ = self.finish_detach(sandbox_id, network_id);
    }
}
