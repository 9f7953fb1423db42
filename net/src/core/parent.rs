//! Networks below an interface of the host: macvlan and ipvlan. The parent is an existing interface, a VLAN interface
//! such as `eth0.10` that is made and goes with the network, or (without one) a dummy that leads nowhere.
use super::{
    Core,
    local::{LocalNetwork, LocalRecord},
    short,
};
use crate::{
    Driver, Error, Result,
    netlink::{Batch, Below, SubLink},
};

/// Splits `eth0.10` into interface and tag.
fn vlan(name: &str) -> Option<(&str, u16)> {
    let (parent, tag) = name.rsplit_once('.')?;
    let tag = tag.parse().ok().filter(|tag| (1..=4094).contains(tag))?;
    (!parent.is_empty()).then_some((parent, tag))
}

fn invalid(reason: String) -> Error {
    Error::Invalid {
        what: "option parent",
        reason,
    }
}

impl Core {
    /// Decides below which interface a new network is, and whether that is to be made.
    ///
    /// # Errors
    /// [`Error::Invalid`] if another network has it, or it can't be made.
    pub fn choose_parent(&mut self, network: &mut LocalNetwork) -> Result<()> {
        let id = network.record.spec.id.clone();
        let short_id = short(&id);
        let driver = network.record.spec.driver.clone();
        let Some(parent) = network.options.parent.clone() else {
            // Docker's names; without a parent nobody outside is reached.
            let prefix = if driver == Driver::Macvlan { "dm" } else { "di" };
            network.record.bridge = format!("{prefix}-{short_id}");
            network.record.owned = true;
            network.record.spec.internal = true;
            return Ok(());
        };
        if parent == "lo" {
            return Err(invalid("loopback interface is not a valid parent link".into()));
        }
        let shared = |n: &&LocalNetwork| !n.is_bridge() && n.record.bridge == parent;
        if let Some(other) = self.networks.values().find(shared) {
            // One ipvlan network beside others of its kind is fine, all other mixtures the kernel refuses or confuses.
            let both_ipvlan = driver == Driver::Ipvlan && other.record.spec.driver == Driver::Ipvlan;
            if !both_ipvlan || network.options.below != other.options.below {
                let name = format!("dm-{}", short(&other.record.spec.id));
                return Err(invalid(format!(
                    "network {name} is already using parent interface {parent}"
                )));
            }
        }
        let exists = self.route.link(&parent)?.is_some();
        if !exists {
            let Some((base, _)) = vlan(&parent) else {
                return Err(invalid(format!(
                    "invalid subinterface vlan name {parent}, example formatting is eth0.10"
                )));
            };
            if self.route.link(base)?.is_none() {
                return Err(invalid(format!(
                    "failed to find master interface {base} on the host: {base} does not exist"
                )));
            }
        }
        // A network of ours that made it shares it: the last one takes it away.
        let inherited = self.networks.values().any(|n| shared(&n) && n.record.owned);
        network.record.owned = !exists || inherited;
        network.record.bridge = parent;
        Ok(())
    }

    /// Makes the parent unless it is there; gives its index.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn program_parent(&mut self, record: &LocalRecord) -> Result<u32> {
        let name = &record.bridge;
        if let Some(link) = self.route.link(name)? {
            let mut batch = Batch::default();
            batch.set_up(link.index);
            self.route.transact(batch)?;
            return Ok(link.index);
        }
        let mut batch = Batch::default();
        match vlan(name).filter(|_| record.owned) {
            Some((base, tag)) => {
                let base = self
                    .route
                    .link(base)?
                    .ok_or_else(|| invalid(format!("interface {base} does not exist")))?;
                batch.add_vlan(name, base.index, tag);
            }
            None if record.owned => {
                batch.add_dummy(name);
            }
            None => return Err(invalid(format!("interface {name} does not exist"))),
        }
        self.route.transact(batch)?;
        let link = self.route.link(name)?;
        Ok(link
            .ok_or_else(|| invalid(format!("interface {name} vanished")))?
            .index)
    }

    /// Whether another network is below the same interface, so that it has to stay.
    pub fn is_shared_parent(&self, id: &str) -> bool {
        let Some(network) = self.networks.get(id).filter(|n| !n.is_bridge()) else {
            return false;
        };
        let same = |n: &LocalNetwork| !n.is_bridge() && n.record.bridge == network.record.bridge;
        self.networks
            .iter()
            .any(|(other, n)| other != id && n.live.is_some() && same(n))
    }

    /// Makes an endpoint's link below the parent, in the sandbox's namespace under its final name.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn program_below(
        &mut self,
        sandbox_id: &str,
        record: &super::endpoint::EndpointRecord,
    ) -> Result<()> {
        let not_found = || Error::NetworkNotFound {
            id: record.endpoint.network_id.clone(),
        };
        let network = self
            .networks
            .get(&record.endpoint.network_id)
            .ok_or_else(not_found)?;
        let parent = network.live.as_ref().ok_or_else(not_found)?.index;
        let kind = network.options.below;
        let mtu = network.options.mtu;
        let namespace = self.netns_of(sandbox_id)?;
        let mut batch = Batch::default();
        batch.add_sub_link(&SubLink {
            parent,
            kind,
            namespace,
            name: &record.endpoint.ifname,
            index: record.index(),
            mtu,
            mac: matches!(kind, Below::Macvlan(_)).then_some(record.endpoint.mac),
        });
        self.route.transact(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_names() {
        assert_eq!(vlan("eth0.10"), Some(("eth0", 10)));
        assert_eq!(vlan("a.b.7"), Some(("a.b", 7)));
        for bad in ["eth0", "eth0.", ".10", "eth0.0", "eth0.4095", "eth0.x"] {
            assert_eq!(vlan(bad), None, "{bad}");
        }
    }
}
