//! What the manager tells netd, and hears from it: zones of networks, resolvers of sandboxes, ports to which queries go.
use std::{collections::BTreeMap, sync::Arc};

use pontoon_dataplane::{NetdClient, State};

use super::NetworkManager;
use crate::{Result, core::Core, names::failed};

impl NetworkManager {
    /// Replaces what netd serves by what there is, but for the zones of overlays: they hold until the cluster's
    /// state arrives.
    pub(super) async fn reconcile_names(&self) -> Result<()> {
        let view = |core: &mut Core| -> Result<_> {
            let mut state = State::default();
            for id in core.sandbox_ids() {
                if let Some(dns) = core.serve_sandbox(&id)? {
                    state.sandboxes.insert(id, dns);
                }
            }
            let mut overlays = Vec::new();
            for id in core.named_networks() {
                match core.zone(&id) {
                    Some(zone) if !core.is_overlay(&id) => drop(state.zones.insert(id, zone)),
                    _ => overlays.push(id),
                }
            }
            Ok((state, overlays))
        };
        let _order = self.names.in_order().await;
        let (mut state, overlays) = self.core.run(view).await??;
        let client = if state.sandboxes.is_empty() {
            self.names.running().await?
        } else {
            self.client().await?
        };
        let Some(client) = client else { return Ok(()) };
        let mut before = client.state().await.map_err(failed("read the state"))?;
        for id in overlays {
            if let Some(zone) = before.zones.remove(&id) {
                state.zones.insert(id, zone);
            }
        }
        state.ports = before.ports;
        // Names decide nothing about encryption: a tunnel goes on while the daemon restarts.
        state.tunnel = before.tunnel;
        state.encrypted = before.encrypted;
        let ports = client.sync(state).await.map_err(failed("replace the state"))?;
        self.watch(client);
        for (id, ports) in ports {
            self.core
                .run(move |core| core.set_dns_ports(&id, ports))
                .await??;
        }
        Ok(())
    }

    async fn client(&self) -> Result<Option<&NetdClient>> {
        let client = self.names.client().await?;
        if let Some(client) = client {
            self.watch(client);
        }
        Ok(client)
    }

    /// Follows netd's ports: where one was killed and its successor could not take the same, redirects change.
    fn watch(&self, client: &NetdClient) {
        let Ok(mut watcher) = self.watcher.lock() else {
            return;
        };
        if watcher.is_some() {
            return;
        }
        let mut ports = client.watch_ports();
        let core = Arc::downgrade(&self.core);
        *watcher = Some(tokio::spawn(async move {
            while ports.changed().await.is_ok() {
                let now = ports.borrow_and_update().clone();
                let Some(core) = core.upgrade() else { return };
                for (id, ports) in now {
                    let sandbox = id.clone();
                    let done = core.run(move |core| core.renew_dns_ports(&id, ports)).await;
                    if let Ok(Err(error)) | Err(error) = done {
                        tracing::error!(sandbox, %error, "DNS queries could not be redirected to netd's new ports");
                    }
                }
            }
        }));
    }

    /// Tells netd about a sandbox whose endpoints changed, and about the network on which they did.
    pub(super) async fn tell_names(&self, sandbox_id: &str, network: Option<&str>) -> Result<()> {
        if let Some(network) = network {
            self.refresh_zone(network).await?;
            self.refresh_links(sandbox_id, network).await?;
        }
        let id = sandbox_id.to_owned();
        let Some(dns) = self.core.run(move |core| core.serve_sandbox(&id)).await?? else {
            return self.stop_names(sandbox_id).await;
        };
        let Some(client) = self.client().await? else {
            return Ok(());
        };
        let ports = client.put_sandbox(dns).await.map_err(failed("serve a sandbox"))?;
        let id = sandbox_id.to_owned();
        self.core.run(move |core| core.set_dns_ports(&id, ports)).await?
    }

    /// Sandboxes that have names of their own for one whose endpoint came or went are told its addresses.
    async fn refresh_links(&self, sandbox_id: &str, network: &str) -> Result<()> {
        let (target, on) = (sandbox_id.to_owned(), network.to_owned());
        let linked = self.core.run(move |core| core.linked_to(&target, &on)).await?;
        self.refresh_sandboxes(linked).await
    }

    /// Tells netd anew how it serves sandboxes.
    pub(super) async fn refresh_sandboxes(&self, ids: Vec<String>) -> Result<()> {
        for id in ids {
            let own = id.clone();
            // One that goes at this moment needs no names.
            let Ok(Some(dns)) = self.core.run(move |core| core.serve_sandbox(&own)).await? else {
                continue;
            };
            let Some(client) = self.client().await? else {
                return Ok(());
            };
            client.put_sandbox(dns).await.map_err(failed("serve a sandbox"))?;
        }
        Ok(())
    }

    /// netd stops to serve a sandbox that left its last network with names.
    async fn stop_names(&self, sandbox_id: &str) -> Result<()> {
        let id = sandbox_id.to_owned();
        let is_nameless = move |core: &mut Core| core.is_nameless(&id);
        if self.core.run(is_nameless).await? {
            return Ok(());
        }
        // The redirect goes last: with it goes the knowledge that netd serves the sandbox.
        self.leave_netd(sandbox_id).await?;
        let id = sandbox_id.to_owned();
        self.core.run(move |core| core.clear_dns_ports(&id)).await?
    }

    /// netd stops to serve a sandbox, and closes what it has open in its namespace.
    pub(super) async fn leave_netd(&self, sandbox_id: &str) -> Result<()> {
        let Some(client) = self.names.running().await? else {
            return Ok(());
        };
        let left = client.remove_sandbox(sandbox_id).await;
        left.map_err(failed("stop serving"))
    }

    /// Sends the names of a network, or takes them away with it.
    pub(super) async fn refresh_zone(&self, network: &str) -> Result<()> {
        let _order = self.names.in_order().await;
        let id = network.to_owned();
        match self.core.run(move |core| core.zone(&id)).await? {
            Some(zone) => {
                let client = if zone.records.is_empty() {
                    self.names.running().await?
                } else {
                    self.client().await?
                };
                let Some(client) = client else { return Ok(()) };
                client.put_zone(network, zone).await.map_err(failed("set names"))
            }
            None => {
                let Some(client) = self.names.running().await? else {
                    return Ok(());
                };
                client.remove_zone(network).await.map_err(failed("remove names"))
            }
        }
    }

    /// Names served on a network: what netd was told last.
    ///
    /// # Errors
    /// [`Error::ThreadGone`](crate::Error::ThreadGone).
    pub async fn names(&self, network_id: &str) -> Result<BTreeMap<String, Vec<std::net::IpAddr>>> {
        let id = network_id.to_owned();
        Ok(self
            .core
            .run(move |core| core.zone(&id))
            .await?
            .map(|zone| zone.records)
            .unwrap_or_default())
    }
}
