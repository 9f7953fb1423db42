//! Endpoints on overlays: their addresses come from the cluster, their near ends are in the hidden namespace.
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::BRIDGE_INDEX;
use crate::{
    Endpoint, EndpointSpec, Error, Result,
    core::{
        Core,
        endpoint::{Attachment, EndpointRecord},
        mac, v4,
    },
    netlink::{Batch, Veth},
};

impl Core {
    /// Connects a sandbox to an overlay. Undone if it fails.
    pub(in crate::core) fn attach_overlay(
        &mut self,
        sandbox_id: &str,
        spec: &EndpointSpec,
    ) -> Result<Endpoint> {
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
        let endpoint = Endpoint {
            network_id: spec.network_id.clone(),
            ifname: self.interface_name(sandbox_id, "eth", spec)?,
            address: IpNet::new(ip, subnet.prefix_len()).ok(),
            address6: None,
            gateway: None,
            gateway6: None,
            mac: mac(ip),
        };
        let record = EndpointRecord::new(sandbox_id, spec, endpoint, (index, number), attachment);
        let made = self
            .remember(sandbox_id, &record)
            .and_then(|()| self.program_overlay(sandbox_id, &record, index));
        self.settle(sandbox_id, record, made)
    }

    /// Makes an endpoint's link, in both namespaces.
    pub(in crate::core) fn program_overlay(
        &mut self,
        sandbox_id: &str,
        record: &EndpointRecord,
        index: u32,
    ) -> Result<()> {
        let sandbox = self.sandboxes.get(sandbox_id);
        let netns = sandbox
            .and_then(|s| s.netns.as_ref())
            .ok_or_else(|| self.vanished(sandbox_id))?;
        let address = record.address().ok_or_else(|| self.vanished(sandbox_id))?;
        let overlay = self.overlays.get_mut(&record.endpoint.network_id);
        let overlay = overlay.ok_or_else(|| Error::NetworkNotFound {
            id: record.endpoint.network_id.clone(),
        })?;
        let mut batch = Batch::default();
        batch.add_veth(&Veth {
            name: &record.link,
            index,
            master: Some(BRIDGE_INDEX),
            mtu: overlay.mtu,
            mac: None,
            silent: false,
            peer_namespace: netns.as_fd(),
            peer_name: &record.endpoint.ifname,
            peer_index: record.index(),
            peer_mac: Some(record.endpoint.mac),
        });
        overlay.connect(&mut batch, &record.link, index, address);
        overlay.route.transact(batch)?;
        let has_services = overlay.has_services();
        self.configure_inside(sandbox_id, record, &[])?;
        if let Some(overlay) = self.overlays.get_mut(&record.endpoint.network_id) {
            overlay.route.wait_running(&record.link)?;
        }
        if has_services {
            self.add_services(sandbox_id, &record.endpoint.network_id)?;
        }
        Ok(())
    }
}
