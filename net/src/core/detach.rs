//! How a sandbox that stays leaves a network: rules and neighbours first, then links (by the second thread), then addresses
//! and records. Its end is [`super::removal`]'s.
use super::{
    Core,
    endpoint::{Attachment, EndpointRecord},
    removal::Removal,
};
use crate::{EndpointSpec, Error, Result};

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
            self.withdrawn.remove(&endpoint.link);
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
}
