//! Bridge networks of this host: the default one, user-defined ones, and the gateway bridge of overlays.
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use pontoon_ipam::{AddressPool, SubnetPool};
use serde::{Deserialize, Serialize};

use super::{Core, check_id, mac, short, v4};
use crate::{
    BridgeConfig, Driver, Error, IpamConfig, Network, NetworkSpec, Result,
    firewall::host,
    netlink::{Batch, BridgeLink, PortFlags},
    netns, record,
};

/// What a bridge network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Made by a user: embedded DNS.
    User,
    /// The network called `bridge`: no embedded DNS, as in Docker.
    Default,
    /// Egress of overlays: no traffic between containers.
    Gateway,
}

/// What is stored of a bridge network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalRecord {
    /// Spec with subnet and gateway once chosen.
    pub spec: NetworkSpec,
    /// Interface name.
    pub bridge: String,
    /// Purpose.
    pub role: Role,
}

/// A bridge network.
#[derive(Debug)]
pub struct LocalNetwork {
    /// What is stored.
    pub record: LocalRecord,
    /// What there is in the kernel; `None` until first needed.
    pub live: Option<LiveBridge>,
}

/// A bridge that exists.
#[derive(Debug)]
pub struct LiveBridge {
    /// Interface index.
    pub index: u32,
    /// Addresses of endpoints.
    pub pool: AddressPool,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Subnet.
    pub subnet: IpNet,
}

impl LocalNetwork {
    /// A predefined network that is not there yet.
    pub fn lazy(id: &str, name: &str, role: Role, config: &BridgeConfig) -> Self {
        let mut spec = NetworkSpec::bridge(id, name);
        if let Some(subnet) = config.subnet {
            spec.ipam.push(IpamConfig {
                subnet: Some(subnet),
                ..IpamConfig::default()
            });
        }
        if let Some(mtu) = config.mtu {
            spec.options
                .insert("com.docker.network.driver.mtu".into(), mtu.to_string());
        }
        Self {
            record: LocalRecord {
                spec,
                bridge: config.name.clone(),
                role,
            },
            live: None,
        }
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.record
            .spec
            .options
            .get(&format!("com.docker.network.{name}"))
            .map(String::as_str)
    }

    fn claims(&self, name: &str, default: bool) -> bool {
        self.option(name).map_or(default, |value| {
            matches!(value, "true" | "1" | "TRUE" | "True" | "t" | "T")
        })
    }

    /// MTU of bridge and endpoints.
    pub fn mtu(&self) -> Result<u32> {
        self.option("driver.mtu").map_or(Ok(1500), |text| {
            text.parse()
                .ok()
                .filter(|mtu| (68..=65535).contains(mtu))
                .ok_or_else(|| Error::Invalid {
                    what: "option com.docker.network.driver.mtu",
                    reason: format!("{text:?} is no number from 68 to 65535"),
                })
        })
    }

    /// Address to which ports are published that name none.
    pub fn host_binding(&self) -> Option<Ipv4Addr> {
        self.option("bridge.host_binding_ipv4")
            .and_then(|text| text.parse().ok())
    }

    /// Flags of the endpoints' bridge ports.
    pub fn port_flags(&self) -> PortFlags {
        let isolated = self.record.role == Role::Gateway || !self.claims("bridge.enable_icc", true);
        // Where br_netfilter hands bridged frames to NAT, a container reaching its own published port is bridged
        // back to the port it came from.
        PortFlags {
            hairpin: Some(true),
            isolated: Some(isolated),
            ..PortFlags::default()
        }
    }

    /// How the firewall sees it.
    pub fn firewall(&self) -> host::Bridge {
        host::Bridge {
            name: self.record.bridge.clone(),
            internal: self.record.spec.internal,
            masquerade: self.claims("bridge.enable_ip_masquerade", true),
        }
    }
}

impl Core {
    /// Makes a user-defined bridge network.
    ///
    /// # Errors
    /// [`Error::NetworkExists`], [`Error::SubnetOverlap`], [`Error::Invalid`], or what the kernel refuses.
    pub fn create_network(&mut self, spec: NetworkSpec) -> Result<Network> {
        check_id(&spec.id)?;
        if matches!(spec.driver, Driver::None | Driver::Host) {
            return Err(Error::Predefined {
                name: spec.driver.to_string(),
                action: "created",
            });
        }
        if matches!(spec.driver, Driver::Overlay { .. }) {
            let reason = "overlay networks come from the cluster's state".into();
            return Err(Error::Invalid {
                what: "driver",
                reason,
            });
        }
        if spec.enable_ipv6 {
            return Err(Error::Invalid {
                what: "option",
                reason: "IPv6 networks can't be made".into(),
            });
        }
        if self
            .list_networks()
            .iter()
            .any(|n| n.spec.name == spec.name || n.spec.id == spec.id)
        {
            return Err(Error::NetworkExists { name: spec.name });
        }
        if let Some(subnet) = spec.ipam.iter().find_map(|c| c.subnet) {
            self.check_overlap(subnet)?;
        }
        let default_name = format!("br-{}", short(&spec.id));
        let bridge = spec
            .options
            .get("com.docker.network.bridge.name")
            .cloned()
            .unwrap_or(default_name);
        let valid = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        if bridge.is_empty() || bridge.len() > 15 || bridge.starts_with('.') || !bridge.chars().all(valid) {
            return Err(Error::Invalid {
                what: "bridge name",
                reason: format!("{bridge:?} can't be one"),
            });
        }
        let id = spec.id.clone();
        let record = LocalRecord {
            spec,
            bridge,
            role: Role::User,
        };
        let network = LocalNetwork { record, live: None };
        network.mtu()?;
        if self.route.link(&network.record.bridge)?.is_some() {
            let reason = format!(
                "an interface called {} exists: choose another name",
                network.record.bridge
            );
            return Err(Error::Invalid {
                what: "bridge name",
                reason,
            });
        }
        self.networks.insert(id.clone(), network);
        if let Err(error) = self.ensure_bridge(&id) {
            self.networks.remove(&id);
            let _ = record::remove(&self.network_dir(), &id);
            return Err(error);
        }
        self.inspect_network(&id)
    }

    fn check_overlap(&self, subnet: IpNet) -> Result<()> {
        let overlaps = |other: IpNet| other.contains(&subnet.network()) || subnet.contains(&other.network());
        let taken = self.networks.values().map(|n| &n.record.spec);
        match taken
            .filter(|s| s.subnet().is_some_and(overlaps))
            .map(|s| s.name.clone())
            .next()
        {
            Some(name) => Err(Error::SubnetOverlap {
                subnet,
                other: format!("network {name}"),
            }),
            None => Ok(()),
        }
    }

    /// Makes the bridge of a network unless it is there, choosing a subnet if it has none. Undone if it fails.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn ensure_bridge(&mut self, id: &str) -> Result<()> {
        let network = self
            .networks
            .get(id)
            .ok_or_else(|| Error::NetworkNotFound { id: id.into() })?;
        if network.live.is_some() {
            return Ok(());
        }
        let mut record = network.record.clone();
        let mtu = network.mtu()?;
        let (subnet, pool, gateway) = self.choose_subnet(&mut record)?;
        record::write(&self.network_dir(), id, &record)?;
        let bridge = record.bridge.clone();
        let existed = self.route.link(&bridge)?;
        if existed.as_ref().is_some_and(|link| link.kind != "bridge") {
            let reason = format!("an interface called {bridge} exists and is not a bridge");
            return Err(Error::Invalid {
                what: "bridge name",
                reason,
            });
        }
        let made = self.program_bridge(&record, mtu, gateway, subnet, existed.is_some());
        let (network, result) = match (self.networks.get_mut(id), made) {
            (Some(network), Ok(index)) => {
                network.record = record;
                network.live = Some(LiveBridge {
                    index,
                    pool,
                    gateway,
                    subnet,
                });
                (network.firewall(), Ok(()))
            }
            (_, Err(error)) => {
                if existed.is_none() {
                    self.drop_link(&bridge);
                }
                return Err(error);
            }
            (None, Ok(_)) => return Err(Error::NetworkNotFound { id: id.into() }),
        };
        let done = result.and_then(|()| self.firewall(|tx| host::add_bridge(tx, &network)));
        if done.is_err() {
            self.drop_link(&bridge);
            if let Some(network) = self.networks.get_mut(id) {
                network.live = None;
            }
        }
        done
    }

    fn drop_link(&mut self, name: &str) {
        let mut batch = Batch::default();
        batch.remove_link(name);
        // Undoing: the error that led here is the one to tell.
        let _ = self.route.transact(batch);
    }

    fn choose_subnet(&mut self, record: &mut LocalRecord) -> Result<(IpNet, AddressPool, Ipv4Addr)> {
        let name = record.spec.name.clone();
        let mut config = record.spec.ipam.first().cloned().unwrap_or_default();
        let subnet = match config.subnet {
            Some(subnet) => subnet.trunc(),
            None => {
                let mut foreign = self.route.routed()?;
                foreign.extend(self.networks.values().filter_map(|n| n.record.spec.subnet()));
                foreign.extend(self.overlays.values().filter_map(|o| o.spec.subnet()));
                SubnetPool::bridge()
                    .allocate_avoiding(&foreign)
                    .map_err(|e| Error::NoSubnet {
                        network: name.clone(),
                        source: e.into(),
                    })?
            }
        };
        let address_error = |e: pontoon_ipam::Error| Error::Address {
            network: name.clone(),
            source: e.into(),
        };
        let gateway = config
            .gateway
            .unwrap_or_else(|| pontoon_ipam::default_gateway(&subnet));
        let pool = AddressPool::new(subnet, config.range, Some(gateway)).map_err(address_error)?;
        let gateway = v4(gateway)?;
        config.subnet = Some(subnet);
        config.gateway = Some(IpAddr::V4(gateway));
        record.spec.ipam = vec![config];
        Ok((subnet, pool, gateway))
    }

    fn program_bridge(
        &mut self,
        record: &LocalRecord,
        mtu: u32,
        gateway: Ipv4Addr,
        subnet: IpNet,
        exists: bool,
    ) -> Result<u32> {
        let name = &record.bridge;
        if !exists {
            let mut batch = Batch::default();
            batch.add_bridge(&BridgeLink {
                name,
                index: 0,
                mtu,
                mac: mac(gateway),
            });
            self.route.transact(batch)?;
            netns::disable_ipv6(name)?;
        }
        let link = self.route.link(name)?.ok_or_else(|| Error::Netlink {
            operation: format!("find bridge {name}"),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        let address = IpNet::new(gateway.into(), subnet.prefix_len()).unwrap_or(subnet);
        let mut batch = Batch::default();
        batch.add_address(link.index, address).set_up(link.index);
        self.route.transact(batch)?;
        // Published ports on 127.0.0.1: answers come in by the bridge. The guard chain closes what this opens.
        let interface = name.replace('.', "/");
        netns::set_sysctl(&format!("net.ipv4.conf.{interface}.route_localnet"), "1")?;
        if !record.spec.internal {
            netns::set_sysctl("net.ipv4.ip_forward", "1")?;
        }
        Ok(link.index)
    }

    /// Removes a user-defined bridge network.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`], [`Error::Predefined`], [`Error::NetworkInUse`], or what the kernel refuses.
    pub fn remove_network(&mut self, id: &str) -> Result<()> {
        let network = self.inspect_network(id)?;
        let id = network.spec.id;
        let Some(role) = self.networks.get(&id).map(|n| n.record.role) else {
            return Err(Error::Predefined {
                name: network.spec.name,
                action: "removed here",
            });
        };
        if role != Role::User {
            return Err(Error::Predefined {
                name: network.spec.name,
                action: "removed",
            });
        }
        if !network.endpoints.is_empty() {
            let endpoints = network.endpoints.into_iter().map(|e| e.sandbox_id).collect();
            return Err(Error::NetworkInUse {
                name: network.spec.name,
                endpoints,
            });
        }
        self.remove_bridge(&id)?;
        record::remove(&self.network_dir(), &id)?;
        self.networks.remove(&id);
        Ok(())
    }

    /// Removes a network's bridge and rules; the definition stays.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn remove_bridge(&mut self, id: &str) -> Result<()> {
        let Some(network) = self.networks.get_mut(id) else {
            return Ok(());
        };
        let Some(live) = network.live.take() else {
            return Ok(());
        };
        let (bridge, firewall) = (network.record.bridge.clone(), network.firewall());
        let mut batch = Batch::default();
        batch.remove_link(&bridge);
        if let Err(error) = self.route.transact(batch) {
            if let Some(network) = self.networks.get_mut(id) {
                network.live = Some(live);
            }
            return Err(error);
        }
        self.firewall(|tx| host::remove_bridge(tx, &firewall))
    }
}
