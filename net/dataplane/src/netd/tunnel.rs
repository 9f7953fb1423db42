//! The tunnel in netd, and the networks in it: what was asked for beside what runs.

use std::collections::BTreeMap;

use crate::{
    EncryptedNetwork, Tunnel,
    wireguard::{Device, fits},
};

/// The node's tunnel, if it has one.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    spec: Option<Tunnel>,
    networks: BTreeMap<String, EncryptedNetwork>,
    device: Option<Device>,
}

impl Tunnels {
    /// What was asked for.
    pub(crate) fn spec(&self) -> Option<&Tunnel> {
        self.spec.as_ref()
    }

    /// The networks in it.
    pub(crate) fn networks(&self) -> &BTreeMap<String, EncryptedNetwork> {
        &self.networks
    }

    /// Starts the tunnel or changes it; returns its UDP port. If that fails, what was there before stays.
    pub(crate) fn put(&mut self, tunnel: Tunnel) -> Result<u16, String> {
        for (id, network) in &self.networks {
            fits(&tunnel, network).map_err(|reason| format!("network {id}: {reason}"))?;
        }
        let failed =
            |error: std::io::Error| format!("the tunnel at UDP port {}: {error}", tunnel.listen_port);
        match &mut self.device {
            Some(device) => device.apply(&tunnel).map_err(failed)?,
            None => self.device = Some(Device::start(&tunnel).map_err(failed)?),
        }
        let port = self.device.as_ref().map_or(0, Device::listen_port);
        self.spec = Some(Tunnel {
            listen_port: port,
            ..tunnel
        });
        Ok(port)
    }

    /// Ends it.
    pub(crate) fn remove(&mut self) {
        *self = Self::default();
    }

    /// Carries a network, or changes how.
    pub(crate) fn put_network(&mut self, id: String, network: EncryptedNetwork) -> Result<(), String> {
        let (Some(tunnel), Some(device)) = (&self.spec, &self.device) else {
            return Err("there is no tunnel".to_owned());
        };
        fits(tunnel, &network)?;
        let put = device.put_network(&id, &network);
        match put {
            Ok(()) => self.networks.insert(id, network),
            // What was there before is let go.
            Err(_) => self.networks.remove(&id),
        };
        put
    }

    /// Carries it no more. Unknown ids are fine.
    pub(crate) fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
        if let Some(device) = &self.device {
            device.remove_network(id);
        }
    }

    /// Drops the networks whose namespace is gone; whether there were any.
    pub(crate) fn sweep(&mut self) -> bool {
        let lost = self.device.as_ref().map(Device::lost).unwrap_or_default();
        for id in &lost {
            tracing::info!(
                network = id,
                "the network namespace is gone, its encrypted network is dropped"
            );
            self.remove_network(id);
        }
        !lost.is_empty()
    }

    /// Replaces everything. What cannot be had is logged and left out.
    pub(crate) fn sync(&mut self, tunnel: Option<Tunnel>, networks: BTreeMap<String, EncryptedNetwork>) {
        let Some(tunnel) = tunnel else {
            return self.remove();
        };
        let gone = |id: &&String| !networks.contains_key(*id);
        let gone: Vec<_> = self.networks.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|id| self.remove_network(id));
        if let Err(reason) = self.put(tunnel) {
            tracing::warn!(reason, "the tunnel cannot be had");
        }
        for (id, network) in networks {
            if let Err(reason) = self.put_network(id.clone(), network) {
                tracing::warn!(network = id, reason, "an encrypted network cannot be carried");
            }
        }
    }
}
