//! Endpoints: a veth pair from a sandbox to a bridge of the host or of an overlay's hidden namespace.
use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Core, mac,
    sandbox::{Removal, duplicate},
    v4,
};
use crate::{
    Endpoint, EndpointSpec, Error, Result, SandboxMode,
    netlink::{Batch, Neighbour, Protocol, Veth},
    netns,
};

/// First interface index given inside a sandbox: above what the kernel makes by itself in a new namespace (tunl0,
/// sit0 and the like), so that no look-up is needed.
const FIRST_INDEX: u32 = 100;
/// Host ends are called `pt<hash of the sandbox>x<number>`.
pub const LINK_PREFIX: &str = "pt";

/// To which kind of bridge an endpoint is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// A bridge on the host.
    Bridge,
    /// The bridge in an overlay's hidden namespace.
    Overlay {
        /// The near end's interface index there.
        index: u32,
    },
    /// The gateway bridge, on behalf of an overlay.
    Egress,
}

/// What is stored of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// What callers see.
    pub endpoint: Endpoint,
    /// DNS names.
    pub aliases: Vec<String>,
    /// Name of the near end.
    pub link: String,
    /// Number of the interface in the sandbox.
    pub number: u32,
    /// Where the near end is.
    pub attachment: Attachment,
}

impl EndpointRecord {
    /// Whether it is on an overlay.
    pub fn is_overlay(&self) -> bool {
        matches!(self.attachment, Attachment::Overlay { .. })
    }

    /// Whether it is there only to reach the outside.
    pub fn is_egress(&self) -> bool {
        self.attachment == Attachment::Egress
    }

    fn address(&self) -> Option<Ipv4Addr> {
        v4(self.endpoint.address.addr()).ok()
    }
}

/// An endpoint that was made.
#[derive(Debug)]
pub struct Attached {
    /// What callers see.
    pub endpoint: Endpoint,
    /// Whether names are served on its network.
    pub has_names: bool,
}

/// Name of the near end: unique per sandbox id and number, at most 15 bytes.
pub fn link_name(sandbox_id: &str, number: u32) -> String {
    // FNV-1a: stable over restarts and versions.
    let hash = sandbox_id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{LINK_PREFIX}{:010x}x{number}", hash >> 24)
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
        let routed = sandbox
            .record
            .endpoints
            .iter()
            .any(|e| e.endpoint.gateway.is_some());
        let default_route = spec.is_default_route && !routed && !network.internal;
        let spec = EndpointSpec {
            network_id: network.id.clone(),
            ..spec.clone()
        };
        if self.overlays.contains_key(&network.id) {
            let endpoint = self.attach_overlay(sandbox_id, &spec)?;
            if default_route && let Err(error) = self.attach_egress(sandbox_id) {
                self.undo_attach(sandbox_id, &network.id);
                return Err(error);
            }
            return Ok(Attached {
                endpoint,
                has_names: true,
            });
        }
        if !self.networks.contains_key(&network.id) {
            let reason = format!("network {} takes no endpoints", network.name);
            return Err(Error::Invalid {
                what: "network",
                reason,
            });
        }
        let endpoint = self.attach_bridge(sandbox_id, &spec, Attachment::Bridge, default_route)?;
        Ok(Attached {
            endpoint,
            has_names: self.has_names(&network.id),
        })
    }

    fn attach_bridge(
        &mut self,
        sandbox_id: &str,
        spec: &EndpointSpec,
        attachment: Attachment,
        default_route: bool,
    ) -> Result<Endpoint> {
        self.ensure_bridge(&spec.network_id)?;
        let number = self.free_number(sandbox_id)?;
        let not_found = || Error::NetworkNotFound {
            id: spec.network_id.clone(),
        };
        let network = self.networks.get_mut(&spec.network_id).ok_or_else(not_found)?;
        let (mtu, flags) = (network.mtu()?, network.port_flags());
        let name = network.record.spec.name.clone();
        let live = network.live.as_mut().ok_or_else(not_found)?;
        let address = match spec.ip {
            None => live.pool.allocate(),
            Some(ip) => live.pool.allocate_specific(ip).map(|()| ip),
        };
        let address = address.map_err(|e| Error::Address {
            network: name,
            source: e.into(),
        })?;
        let (master, gateway, prefix) = (live.index, live.gateway, live.subnet.prefix_len());
        let record = self.endpoint_record(sandbox_id, number, spec, (address, prefix), attachment);
        let mut record = match record {
            Ok(record) => record,
            Err(error) => {
                if let Some(live) = self
                    .networks
                    .get_mut(&spec.network_id)
                    .and_then(|n| n.live.as_mut())
                {
                    live.pool.release(address);
                }
                return Err(error);
            }
        };
        record.endpoint.gateway = default_route.then_some(IpAddr::V4(gateway));
        self.next_index += 1;
        let index = self.next_index;
        let made = self.remember(sandbox_id, &record).and_then(|()| {
            let netns = self
                .sandbox(sandbox_id)?
                .netns
                .as_ref()
                .ok_or_else(|| self.vanished(sandbox_id))?;
            let mut batch = Batch::default();
            batch.add_veth(&Veth {
                name: &record.link,
                index,
                master: Some(master),
                mtu,
                mac: None,
                peer_namespace: netns.as_fd(),
                peer_name: &record.endpoint.ifname,
                peer_index: FIRST_INDEX + number,
                peer_mac: Some(record.endpoint.mac),
            });
            batch.set_port(&record.link, flags);
            self.route.transact(batch)?;
            netns::disable_ipv6(&record.link)?;
            self.configure_inside(sandbox_id, &record)?;
            self.route.wait_running(&record.link)
        });
        self.settle(sandbox_id, record, made)
    }

    fn attach_overlay(&mut self, sandbox_id: &str, spec: &EndpointSpec) -> Result<Endpoint> {
        let number = self.free_number(sandbox_id)?;
        let overlay = self.overlays.get_mut(&spec.network_id);
        let overlay = overlay.ok_or_else(|| Error::NetworkNotFound {
            id: spec.network_id.clone(),
        })?;
        let invalid = |reason: String| Error::Invalid {
            what: "address",
            reason,
        };
        let ip = spec
            .ip
            .ok_or_else(|| invalid("endpoints on overlays need one from the cluster".into()))?;
        let subnet = overlay.spec.subnet().filter(|s| s.contains(&ip));
        let subnet =
            subnet.ok_or_else(|| invalid(format!("{ip} is not in network {}", overlay.spec.name)))?;
        let index = overlay.take_index();
        let attachment = Attachment::Overlay { index };
        if self.is_local(&spec.network_id, v4(ip)?) {
            return Err(invalid(format!("{ip} is in use on this node")));
        }
        let record = self.endpoint_record(sandbox_id, number, spec, (ip, subnet.prefix_len()), attachment)?;
        let made = self
            .remember(sandbox_id, &record)
            .and_then(|()| self.program_overlay(sandbox_id, &record, index));
        self.settle(sandbox_id, record, made)
    }

    fn program_overlay(&mut self, sandbox_id: &str, record: &EndpointRecord, index: u32) -> Result<()> {
        let sandbox = self.sandboxes.get(sandbox_id);
        let netns = sandbox
            .and_then(|s| s.netns.as_ref())
            .ok_or_else(|| self.vanished(sandbox_id))?;
        let overlay = self.overlays.get_mut(&record.endpoint.network_id);
        let overlay = overlay.ok_or_else(|| Error::NetworkNotFound {
            id: record.endpoint.network_id.clone(),
        })?;
        let address = v4(record.endpoint.address.addr())?;
        let mut batch = Batch::default();
        batch.add_veth(&Veth {
            name: &record.link,
            index,
            master: Some(super::overlay::BRIDGE_INDEX),
            mtu: overlay.mtu,
            mac: None,
            peer_namespace: netns.as_fd(),
            peer_name: &record.endpoint.ifname,
            peer_index: FIRST_INDEX + record.number,
            peer_mac: Some(record.endpoint.mac),
        });
        overlay.connect(&mut batch, &record.link, index, address);
        overlay.route.transact(batch)?;
        let has_services = overlay.has_services();
        self.configure_inside(sandbox_id, record)?;
        if let Some(overlay) = self.overlays.get_mut(&record.endpoint.network_id) {
            overlay.route.wait_running(&record.link)?;
        }
        if has_services {
            self.add_services(sandbox_id, &record.endpoint.network_id)?;
        }
        Ok(())
    }

    /// Address, link and default route inside the sandbox, sent together.
    fn configure_inside(&mut self, sandbox_id: &str, record: &EndpointRecord) -> Result<()> {
        let index = FIRST_INDEX + record.number;
        let mut batch = Batch::default();
        batch.add_address(index, record.endpoint.address).set_up(index);
        if let Some(gateway) = record.endpoint.gateway {
            batch.add_default_route(index, gateway);
        }
        self.socket_inside(sandbox_id, Protocol::Route)?.transact(batch)
    }

    fn free_number(&self, sandbox_id: &str) -> Result<u32> {
        let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
        (0..100)
            .find(|n| endpoints.iter().all(|e| e.number != *n))
            .ok_or_else(|| Error::Invalid {
                what: "endpoint",
                reason: "a sandbox can have 100 at most".into(),
            })
    }

    fn endpoint_record(
        &self,
        sandbox_id: &str,
        number: u32,
        spec: &EndpointSpec,
        (ip, prefix): (IpAddr, u8),
        attachment: Attachment,
    ) -> Result<EndpointRecord> {
        let own_mac = mac(v4(ip)?);
        let chosen = spec.mac.filter(|_| attachment == Attachment::Bridge);
        let address = IpNet::new(ip, prefix).map_err(|e| Error::Invalid {
            what: "prefix length",
            reason: e.to_string(),
        })?;
        Ok(EndpointRecord {
            endpoint: Endpoint {
                network_id: spec.network_id.clone(),
                ifname: format!("eth{number}"),
                address,
                gateway: None,
                mac: chosen.unwrap_or(own_mac),
            },
            aliases: spec.aliases.clone(),
            link: link_name(sandbox_id, number),
            number,
            attachment,
        })
    }

    /// Writes the endpoint down before the kernel is told.
    fn remember(&mut self, sandbox_id: &str, record: &EndpointRecord) -> Result<()> {
        self.sandbox_mut(sandbox_id)?
            .record
            .endpoints
            .push(record.clone());
        self.save_sandbox(sandbox_id)
    }

    fn settle(&mut self, sandbox_id: &str, record: EndpointRecord, made: Result<()>) -> Result<Endpoint> {
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

    /// The endpoints that go when a sandbox leaves a network: its own, and the egress when the last overlay goes.
    fn leaving(&self, sandbox_id: &str, network_id: &str) -> Vec<EndpointRecord> {
        let Ok(sandbox) = self.sandbox(sandbox_id) else {
            return Vec::new();
        };
        let endpoints = &sandbox.record.endpoints;
        let stays = |e: &EndpointRecord| e.endpoint.network_id != network_id;
        let overlay_stays = endpoints.iter().any(|e| e.is_overlay() && stays(e));
        let leaves = |e: &&EndpointRecord| !stays(e) || e.attachment == Attachment::Egress && !overlay_stays;
        endpoints.iter().filter(leaves).cloned().collect()
    }

    /// First half of a detach, as [`begin_removal`](Self::begin_removal).
    pub fn begin_detach(&mut self, sandbox_id: &str, network_id: &str) -> (Removal, Vec<Error>) {
        let mut removal = Removal::default();
        let mut errors = Vec::new();
        for endpoint in self.leaving(sandbox_id, network_id) {
            self.withdraw(&endpoint, &mut removal, &mut errors);
        }
        let table = self.sandbox(sandbox_id).is_ok_and(|s| s.table);
        if table
            && self
                .overlays
                .get(network_id)
                .is_some_and(super::Overlay::has_services)
        {
            errors.extend(self.remove_services(sandbox_id, network_id).err());
        }
        (removal, errors)
    }

    /// Second half of a detach.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn finish_detach(&mut self, sandbox_id: &str, network_id: &str) -> Result<()> {
        let leaving = self.leaving(sandbox_id, network_id);
        for endpoint in &leaving {
            self.release_address(endpoint);
        }
        let sandbox = self.sandbox_mut(sandbox_id)?;
        sandbox
            .record
            .endpoints
            .retain(|e| leaving.iter().all(|l| l.number != e.number));
        self.save_sandbox(sandbox_id)?;
        if leaving.iter().any(|e| e.endpoint.gateway.is_some()) {
            self.elect_route(sandbox_id)?;
        }
        Ok(())
    }

    /// The endpoint with the default route left: the first other one with a way out takes over.
    fn elect_route(&mut self, sandbox_id: &str) -> Result<()> {
        let endpoints = self.sandbox(sandbox_id)?.record.endpoints.clone();
        for endpoint in endpoints {
            let id = &endpoint.endpoint.network_id;
            if self.overlays.get(id).is_some_and(|o| !o.spec.internal) {
                return self.attach_egress(sandbox_id);
            }
            let open = self.networks.get(id).filter(|n| !n.record.spec.internal);
            let Some(gateway) = open.and_then(|n| Some(n.live.as_ref()?.gateway)) else {
                continue;
            };
            let own = |e: &&mut EndpointRecord| e.number == endpoint.number;
            if let Some(record) = self
                .sandbox_mut(sandbox_id)?
                .record
                .endpoints
                .iter_mut()
                .find(own)
            {
                record.endpoint.gateway = Some(gateway.into());
            }
            self.save_sandbox(sandbox_id)?;
            let mut batch = Batch::default();
            batch.add_default_route(FIRST_INDEX + endpoint.number, gateway.into());
            return self.socket_inside(sandbox_id, Protocol::Route)?.transact(batch);
        }
        Ok(())
    }

    /// The way out of overlays: an endpoint on the gateway bridge.
    fn attach_egress(&mut self, sandbox_id: &str) -> Result<()> {
        let network_id = self.predefined.gateway.clone();
        let egress = EndpointSpec {
            network_id,
            is_default_route: true,
            ..EndpointSpec::default()
        };
        self.attach_bridge(sandbox_id, &egress, Attachment::Egress, true)
            .map(drop)
    }

    /// Takes an endpoint out of its network and names the link to be removed.
    pub fn withdraw(&mut self, endpoint: &EndpointRecord, removal: &mut Removal, errors: &mut Vec<Error>) {
        if !endpoint.is_overlay() {
            removal.links.push(endpoint.link.clone());
            return;
        }
        let Some(overlay) = self.overlays.get_mut(&endpoint.endpoint.network_id) else {
            return;
        };
        if let Some(ip) = endpoint.address() {
            let mut batch = Batch::default();
            let index = super::overlay::BRIDGE_INDEX;
            batch.remove_neighbour(Neighbour::Address {
                index,
                ip: ip.into(),
                mac: mac(ip),
            });
            errors.extend(overlay.route.transact_all(batch));
        }
        match duplicate(&overlay.netns) {
            Ok(netns) => removal.hidden.push((netns, endpoint.link.clone())),
            Err(error) => errors.push(error),
        }
    }

    /// Gives an endpoint's address back.
    pub fn release_address(&mut self, endpoint: &EndpointRecord) {
        let network = self.networks.get_mut(&endpoint.endpoint.network_id);
        if let Some(live) = network.and_then(|n| n.live.as_mut()) {
            live.pool.release(endpoint.endpoint.address.addr());
        }
    }
}
