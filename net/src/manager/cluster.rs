//! The manager's methods for the agent of a cluster: overlay networks and the routing mesh, each by its committed state.
use super::{NetworkManager, one};
use crate::{Errors, IngressConflict, IngressState, OverlayState, Result, core::Core};

impl NetworkManager {
    /// Takes the committed state of one overlay network, whole; only differences are programmed.
    ///
    /// # Errors
    /// [`Error::NoUnderlay`](crate::Error::NoUnderlay), [`Error::Invalid`](crate::Error::Invalid), or what the kernel
    /// refuses; the next call tries the rest again.
    pub async fn set_overlay(&self, state: OverlayState) -> Result<()> {
        let id = state.network.id.clone();
        self.change(move |core| core.set_overlay(state)).await?;
        self.answer_probes(&id).await;
        self.refresh_zone(&id).await
    }

    /// Forgets an overlay network. One that is not there is fine.
    ///
    /// # Errors
    /// [`Error::NetworkInUse`](crate::Error::NetworkInUse) alone if it has endpoints here; else all failures of the
    /// removal.
    pub async fn remove_overlay(&self, network_id: &str) -> Result<(), Errors> {
        let id = network_id.to_owned();
        self.responders.stop(&id);
        let mut errors = self
            .core
            .run(move |core| core.remove_overlay(&id))
            .await
            .map_err(one)?;
        errors.extend(self.refresh_zone(network_id).await.err());
        Errors::check(errors)
    }

    /// Takes the committed state of the routing mesh, whole; returns the ports that this node can't serve.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`](crate::Error::NetworkNotFound) if the ingress network was not made known
    /// by [`set_overlay`](Self::set_overlay), or what the kernel refuses.
    pub async fn set_ingress(&self, state: IngressState) -> Result<Vec<IngressConflict>> {
        self.change(move |core| core.set_ingress(state)).await
    }

    /// Leaves the routing mesh. Not being in it is fine.
    ///
    /// # Errors
    /// All failures of the removal.
    pub async fn remove_ingress(&self) -> Result<(), Errors> {
        Errors::check(self.core.run(Core::remove_mesh).await.map_err(one)?)
    }
}
