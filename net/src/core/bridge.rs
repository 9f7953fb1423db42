//! The interfaces of local networks in the kernel: bridges with their addresses and settings, made when first needed and
//! taken down with their network.
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{
    Core,
    local::{Live, LocalRecord, Subnet},
    mac,
    options::GatewayMode,
};
use crate::{
    Error, Result,
    firewall::{host, nft::Family},
    netlink::{Batch, BridgeLink},
    netns, record,
};

impl Core {
    /// Makes the bridge (or parent) of a network unless it is there, choosing subnets if it has none. Undone if it
    /// fails.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn ensure_network(&mut self, id: &str) -> Result<()> {
        let not_found = || Error::NetworkNotFound { id: id.into() };
        let network = self.networks.get(id).ok_or_else(not_found)?;
        if network.live.is_some() {
            return Ok(());
        }
        let is_bridge = network.is_bridge();
        let mut record = network.record.clone();
        let subnets = self.choose_subnets(&mut record)?;
        record::write(&self.network_dir(), id, &record)?;
        let before = self.route.link(&record.bridge)?;
        if is_bridge && before.as_ref().is_some_and(|link| link.kind != "bridge") {
            return Err(Error::Invalid {
                what: "bridge name",
                reason: format!("an interface called {} exists and is not a bridge", record.bridge),
            });
        }
        let made = if is_bridge {
            self.program_bridge(id, &record, &subnets, before.is_some())
        } else {
            self.program_parent(&record)
        };
        let (bridge, owned) = (record.bridge.clone(), record.owned);
        let made = made.and_then(|index| {
            let network = self.networks.get_mut(id).ok_or_else(not_found)?;
            network.record = record;
            network.live = Some(Live { index, subnets });
            let (firewall, families) = (network.firewall(), self.families());
            if is_bridge {
                self.firewall(|tx| host::add_bridge(tx, &firewall, families))?;
                self.accept_elsewhere()
            } else {
                Ok(())
            }
        });
        if made.is_err() {
            if before.is_none() && owned {
                self.drop_link(&bridge);
            }
            if let Some(network) = self.networks.get_mut(id) {
                network.live = None;
            }
        }
        made
    }

    /// Undoes the making of a link; the error that led here is the one to tell.
    pub fn drop_link(&mut self, name: &str) {
        let mut batch = Batch::default();
        batch.remove_link(name);
        let _ = self.route.transact(batch);
    }

    fn program_bridge(
        &mut self,
        id: &str,
        record: &LocalRecord,
        subnets: &[Option<Subnet>; 2],
        exists: bool,
    ) -> Result<u32> {
        let name = &record.bridge;
        let network = self.networks.get(id);
        let options = network.map(|n| n.options.clone()).unwrap_or_default();
        let own = |at: usize| {
            let subnet = subnets[at].as_ref()?;
            let hidden = options.mode[at] == GatewayMode::Isolated || at == 0 && options.inhibit_ipv4;
            (!hidden).then_some((subnet.gateway, subnet.net))
        };
        if !exists {
            let mut batch = Batch::default();
            let gateway = subnets.iter().flatten().next().map(|s| s.gateway);
            batch.add_bridge(&BridgeLink {
                name,
                index: 0,
                mtu: options.mtu.unwrap_or(1500),
                mac: mac(gateway.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            });
            self.route.transact(batch)?;
        }
        let interface = name.replace('.', "/");
        if own(1).is_none() {
            netns::disable_ipv6(name)?;
        } else {
            netns::set_sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "0")?;
            netns::set_sysctl(&format!("net.ipv6.conf.{interface}.accept_ra"), "0")?;
            netns::set_sysctl(&format!("net.ipv6.conf.{interface}.accept_dad"), "0")?;
        }
        let link = self.route.link(name)?.ok_or_else(|| Error::Netlink {
            operation: format!("find bridge {name}"),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        let mut batch = Batch::default();
        for (at, (gateway, net)) in [0, 1].into_iter().filter_map(|at| Some((at, own(at)?))) {
            let address = IpNet::new(gateway, net.prefix_len()).unwrap_or(net);
            // What it had before the settings were changed would keep a route to where nobody is any more.
            for (_, old) in self.route.addresses(at == 1)?.into_iter().filter(|(of, old)| {
                let is_kernels = matches!(old.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
                *of == link.index && *old != address && !is_kernels
            }) {
                batch.remove_address(link.index, old);
            }
            batch.add_address(link.index, address);
        }
        batch.set_up(link.index);
        self.route.transact(batch)?;
        if own(0).is_some() {
            // Published ports on 127.0.0.1: answers come in by the bridge. The guard chain closes what this opens.
            netns::set_sysctl(&format!("net.ipv4.conf.{interface}.route_localnet"), "1")?;
        }
        if !record.spec.internal {
            netns::set_sysctl("net.ipv4.ip_forward", "1")?;
            if own(1).is_some() {
                forward_ipv6()?;
            }
        }
        Ok(link.index)
    }

    /// Removes a network's interface and rules; the definition stays.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn take_down(&mut self, id: &str) -> Result<()> {
        let is_shared = self.is_shared_parent(id);
        let Some(network) = self.networks.get_mut(id) else {
            return Ok(());
        };
        let Some(live) = network.live.take() else {
            return Ok(());
        };
        let (bridge, firewall) = (network.record.bridge.clone(), network.firewall());
        let is_bridge = network.is_bridge();
        if network.record.owned && !is_shared {
            let mut batch = Batch::default();
            batch.remove_link(&bridge);
            if let Err(error) = self.route.transact(batch) {
                if let Some(network) = self.networks.get_mut(id) {
                    network.live = Some(live);
                }
                return Err(error);
            }
        }
        if !is_bridge {
            return Ok(());
        }
        let families = self.families();
        self.firewall(|tx| host::remove_bridge(tx, &firewall, families))?;
        self.accept_elsewhere()
    }

    /// The families for which there are tables.
    pub fn families(&self) -> &'static [Family] {
        if self.has_ipv6 {
            &[Family::V4, Family::V6]
        } else {
            &[Family::V4]
        }
    }
}

/// Forwards IPv6. A host that forwards ignores router advertisements unless told otherwise: interfaces that had their
/// addresses from there keep them.
fn forward_ipv6() -> Result<()> {
    let conf = "/proc/sys/net/ipv6/conf";
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    if read(format!("{conf}/all/forwarding")).trim() == "1" {
        return Ok(());
    }
    for entry in std::fs::read_dir(conf).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if read(format!("{conf}/{name}/accept_ra")).trim() == "1" && name != "all" {
            let key = format!("net.ipv6.conf.{}.accept_ra", name.replace('.', "/"));
            netns::set_sysctl_if_present(&key, "2")?;
        }
    }
    netns::set_sysctl("net.ipv6.conf.default.forwarding", "1")?;
    netns::set_sysctl("net.ipv6.conf.all.forwarding", "1")
}
