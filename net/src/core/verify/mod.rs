//! Whether the kernel has what the committed state wants, and putting back what is missing. Asked by
//! [`NetworkManager::check`](crate::NetworkManager::check), regularly and by `network doctor`.
//!
//! - [`links`]: bridges, tunnels and ports of overlays, the routing mesh's leg; [`entries`]: who is where on them
//! - [`tables`]: our tables in the firewall, of the host and of containers
//!
//! A piece of work is one overlay, one container or the host, so that attaches never wait for more than that. Mending uses the code
//! that makes things in the first place; nothing here may take away what the state wants.
mod entries;
mod links;
mod tables;

use std::collections::BTreeSet;

use super::{Core, Overlay};
use crate::{Drift, Error, Mended, Part, Result};

/// So often links are mended and looked at again: what is made anew lacks what hangs on it.
const ROUNDS: usize = 4;

/// What is checked at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The host's tables.
    Host,
    /// An overlay: links and entries in its hidden namespace.
    Overlay(String),
    /// A container's table.
    Sandbox(String),
}

/// Something wrong, with the way to mend it.
type Found<R> = Vec<(Drift, R)>;

impl Overlay {
    /// Whether frames leave by a VXLAN device of the kernel. An encrypted network's are taken by netd.
    fn has_vxlan(&self) -> bool {
        !self.spec.options.contains_key("encrypted")
    }
}

impl Core {
    /// What there is to check: everything, or some networks with their containers.
    pub fn check_targets(&self, networks: Option<&BTreeSet<String>>) -> Vec<Target> {
        let wanted = |id: &String| networks.is_none_or(|networks| networks.contains(id));
        let mut targets = Vec::new();
        if networks.is_none()
            || self
                .mesh
                .as_ref()
                .is_some_and(|mesh| wanted(&mesh.network_id().to_owned()))
        {
            targets.push(Target::Host);
        }
        targets.extend(
            self.overlays
                .keys()
                .filter(|id| wanted(id))
                .cloned()
                .map(Target::Overlay),
        );
        let on_one = |(_, sandbox): &(&String, &super::SandboxState)| {
            let mut endpoints = sandbox.record.endpoints.iter();
            networks.is_none() || endpoints.any(|e| wanted(&e.endpoint.network_id))
        };
        let sandboxes = self.sandboxes.iter().filter(on_one);
        targets.extend(sandboxes.map(|(id, _)| Target::Sandbox(id.clone())));
        targets
    }

    /// What is wrong about a target, mended if that is wished. One that is gone has nothing wrong about it.
    pub fn check(&mut self, target: &Target, mend: bool) -> Vec<Drift> {
        let checked = match target {
            Target::Host => self.check_host(mend),
            Target::Overlay(id) => self.check_overlay(id, mend),
            Target::Sandbox(id) => self.check_sandbox(id, mend),
        };
        checked.unwrap_or_else(|error| vec![self.unreadable(target, &error)])
    }

    /// Even the look at it went wrong.
    fn unreadable(&self, target: &Target, error: &Error) -> Drift {
        let reason = told(error);
        let drift = |network: &str, part| Drift {
            mended: Mended::Failed(reason.clone()),
            ..Drift::of(network, part, "what can be read", "an error")
        };
        match target {
            Target::Host => drift("", Part::Table),
            Target::Overlay(id) => drift(id, Part::Bridge),
            Target::Sandbox(id) => Drift {
                sandbox: id.clone(),
                ..drift("", Part::Table)
            },
        }
    }

    /// Drifts that were mended at other occasions since the last call.
    pub fn take_mended(&mut self) -> Vec<Drift> {
        std::mem::take(&mut self.mended)
    }

    /// Whether an overlay's committed state has arrived since the daemon's start.
    pub fn is_synced(&self, id: &str) -> bool {
        self.overlays.get(id).is_some_and(|overlay| overlay.synced())
    }

    /// Puts back whatever entries of an overlay are missing.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn restore_entries(&mut self, id: &str) -> Result<()> {
        for (_, entries) in self.entry_drifts(id)? {
            self.mend_entries(id, &entries)?;
        }
        Ok(())
    }

    fn check_overlay(&mut self, id: &str, mend: bool) -> Result<Vec<Drift>> {
        let mut drifts = Vec::new();
        // What hangs on a link goes with it, and is not told by itself.
        let mut was_remade = false;
        for _ in 0..ROUNDS {
            let found = self.link_drifts(id)?;
            if found.is_empty() {
                break;
            }
            let is_remade = found.iter().any(|(_, remedy)| remedy.makes_anew());
            if !mend {
                drifts.extend(found.into_iter().map(|(drift, _)| drift));
                if is_remade {
                    return Ok(drifts);
                }
                break;
            }
            let mut failed = false;
            for (mut drift, remedy) in found {
                let mended = self.mend_link(id, remedy);
                failed |= mended.is_err();
                drift.mended = outcome(mended);
                if !was_remade || drift.mended != Mended::Yes {
                    drifts.push(drift);
                }
            }
            was_remade |= is_remade;
            if failed {
                return Ok(drifts);
            }
        }
        let found = self.entry_drifts(id)?;
        if !mend || found.is_empty() {
            drifts.extend(found.into_iter().map(|(drift, _)| drift));
            return Ok(drifts);
        }
        for (mut drift, entries) in found {
            drift.mended = outcome(self.mend_entries(id, &entries));
            if !was_remade || drift.mended != Mended::Yes {
                drifts.push(drift);
            }
        }
        Ok(drifts)
    }
}

fn outcome(mended: Result<()>) -> Mended {
    mended.map_or_else(|error| Mended::Failed(told(&error)), |()| Mended::Yes)
}

/// An error with what caused it.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
