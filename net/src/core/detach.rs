//! How endpoints are taken away: rules and neighbours first, then links (by the second thread), then addresses and records.
use super::{
    Core,
    endpoint::{Attachment, EndpointRecord},
    mac,
    sandbox::{Removal, duplicate},
};
use crate::{
    EndpointSpec, Error, Result,
    netlink::{Batch, Neighbour},
};

impl Core {
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
        if leaving.iter().any(|e| e.routes.contains(&true)) {
            self.elect(sandbox_id)?;
            let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
            let open = |e: &EndpointRecord| {
                let overlay = self.overlays.get(&e.endpoint.network_id);
                overlay.is_some_and(|o| !o.spec.internal)
            };
            // The other networks have none: overlays lead out through the gateway bridge.
            if endpoints.iter().any(open) && !self.has_exit(sandbox_id) {
                return self.attach_egress(sandbox_id);
            }
        }
        Ok(())
    }

    /// The way out of overlays: an endpoint on the gateway bridge.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn attach_egress(&mut self, sandbox_id: &str) -> Result<()> {
        let network_id = self.predefined.gateway.clone();
        let egress = EndpointSpec {
            network_id,
            ..EndpointSpec::default()
        };
        self.attach_local(sandbox_id, &egress, Attachment::Egress)?;
        self.elect(sandbox_id)
    }

    /// Takes an endpoint out of its network and names the link to be removed.
    pub fn withdraw(&mut self, endpoint: &EndpointRecord, removal: &mut Removal, errors: &mut Vec<Error>) {
        match endpoint.attachment {
            Attachment::Bridge | Attachment::Egress => {
                removal.links.push(endpoint.link.clone());
                return;
            }
            Attachment::Below => {
                let name = &endpoint.endpoint.ifname;
                let sandboxes = self.sandboxes.values();
                let mut own =
                    sandboxes.filter(|s| s.record.endpoints.iter().any(|e| e.link == endpoint.link));
                match own.next().and_then(|s| s.netns.as_ref()).map(duplicate) {
                    Some(Ok(netns)) => removal.hidden.push((netns, name.clone())),
                    Some(Err(error)) => errors.push(error),
                    None => {}
                }
                return;
            }
            Attachment::Overlay { .. } => {}
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
                mac: mac(ip.into()),
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
        let Some(live) = network.and_then(|n| n.live.as_mut()) else {
            return;
        };
        for address in endpoint.endpoint.addresses() {
            if let Some(subnet) = live.subnets[usize::from(address.is_ipv6())].as_mut() {
                subnet.pool.release(address);
            }
        }
    }
}
