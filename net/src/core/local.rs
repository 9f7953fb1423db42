//! Networks of this host: the default bridge, user-defined bridges, the gateway bridge of overlays, and (with
//! [`super::parent`]) networks below an interface of the host. What they are, and how users make and remove them;
//! [`super::bridge`] makes their interfaces, [`super::addresses`] chooses their subnets.
use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_ipam::AddressPool;
use serde::{Deserialize, Serialize};

use super::{
    Core, check_id,
    options::{GatewayMode, Options, check_interface},
    short,
};
use crate::{
    BridgeConfig, Driver, Error, IpamConfig, Network, NetworkSpec, Result, firewall::host,
    netlink::PortFlags, record,
};

/// What a local network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Made by a user: embedded DNS.
    User,
    /// The network called `bridge`: no embedded DNS, as in Docker.
    Default,
    /// Egress of overlays: no traffic between containers.
    Gateway,
}

/// What is stored of a local network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalRecord {
    /// Spec with subnets and gateways once chosen.
    pub spec: NetworkSpec,
    /// Interface name: of the bridge, or of the parent.
    pub bridge: String,
    /// Purpose.
    pub role: Role,
    /// The interface was made for this network and goes with it.
    #[serde(default = "yes")]
    pub owned: bool,
}

fn yes() -> bool {
    true
}

/// A local network.
#[derive(Debug)]
pub struct LocalNetwork {
    /// What is stored.
    pub record: LocalRecord,
    /// Its driver options.
    pub options: Options,
    /// What there is in the kernel; `None` until first needed.
    pub live: Option<Live>,
}

/// A network that exists.
#[derive(Debug)]
pub struct Live {
    /// Index of the bridge or the parent.
    pub index: u32,
    /// IPv4 and IPv6.
    pub subnets: [Option<Subnet>; 2],
}

/// The addresses of one family.
#[derive(Debug)]
pub struct Subnet {
    /// Subnet.
    pub net: IpNet,
    /// Addresses of endpoints.
    pub pool: AddressPool,
    /// The bridge's address.
    pub gateway: IpAddr,
}

impl LocalNetwork {
    /// Wraps a record.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has an option that is no good.
    pub fn new(record: LocalRecord) -> Result<Self> {
        Ok(Self {
            options: Options::parse(&record.spec)?,
            record,
            live: None,
        })
    }

    /// What the settings say of a predefined network; `stored` is what was chosen for it before.
    pub fn predefined(
        id: &str,
        role: Role,
        config: &BridgeConfig,
        stored: Option<&LocalRecord>,
    ) -> LocalRecord {
        let name = if role == Role::Default {
            "bridge"
        } else {
            &config.name
        };
        let mut spec = NetworkSpec::bridge(id, name);
        let before = |ipv6: bool| {
            let all = stored.iter().flat_map(|record| &record.spec.ipam);
            let mut fitting = all.filter(|c| c.subnet.is_some_and(|s| s.addr().is_ipv6() == ipv6));
            fitting.next().cloned()
        };
        spec.ipam.extend(match config.subnet {
            Some(subnet) => {
                // `--bip` gives the bridge's own address.
                let own = (subnet.addr() != subnet.network()).then(|| subnet.addr());
                Some(IpamConfig {
                    subnet: Some(subnet.trunc()),
                    gateway: own,
                    range: config.range,
                    ..IpamConfig::default()
                })
            }
            None => before(false),
        });
        spec.enable_ipv6 = config.ipv6;
        if config.ipv6 {
            spec.ipam.extend(match config.subnet6 {
                Some(subnet) => Some(IpamConfig {
                    subnet: Some(subnet.trunc()),
                    ..IpamConfig::default()
                }),
                None => before(true),
            });
        }
        spec.options.clone_from(&config.options);
        let mut option = |key: &str, value: String| {
            spec.options
                .entry(format!("com.docker.network.{key}"))
                .or_insert(value);
        };
        option("driver.mtu", config.mtu.unwrap_or(1500).to_string());
        if role == Role::Default {
            option("bridge.default_bridge", "true".into());
            option("bridge.enable_icc", "true".into());
            option("bridge.enable_ip_masquerade", "true".into());
            option("bridge.host_binding_ipv4", "0.0.0.0".into());
            option("bridge.name", config.name.clone());
        }
        LocalRecord {
            spec,
            bridge: config.name.clone(),
            role,
            owned: true,
        }
    }

    /// Whether it is a bridge, not links below an interface.
    pub fn is_bridge(&self) -> bool {
        self.record.spec.driver == Driver::Bridge
    }

    /// MTU of bridge and endpoints.
    pub fn mtu(&self) -> u32 {
        self.options.mtu.unwrap_or(1500)
    }

    /// Flags of the endpoints' bridge ports.
    pub fn port_flags(&self) -> PortFlags {
        // Where br_netfilter hands bridged frames to NAT, a container reaching its own published port is bridged
        // back to the port it came from.
        PortFlags {
            hairpin: Some(true),
            isolated: Some(self.record.role == Role::Gateway || !self.options.icc),
            ..PortFlags::default()
        }
    }

    /// The way out of an endpoint, by family: `None` if there is none, else the gateway; `Some(None)` means that
    /// everything is on the link.
    pub fn exit(&self, at: usize) -> Option<Option<IpAddr>> {
        let subnet = self.live.as_ref()?.subnets[at].as_ref()?;
        let closed = self.record.spec.internal || self.options.mode[at] == GatewayMode::Isolated;
        if closed || at == 0 && self.options.inhibit_ipv4 && self.is_bridge() {
            return None;
        }
        Some((!self.options.is_layer3()).then_some(subnet.gateway))
    }

    /// How the firewall sees it.
    pub fn firewall(&self) -> host::Bridge {
        let modes = self.options.mode;
        let masquerade = self.options.masquerade;
        host::Bridge {
            name: self.record.bridge.clone(),
            internal: self.record.spec.internal,
            masquerade: modes.map(|mode| masquerade && mode == GatewayMode::Nat),
            routed: modes.map(|mode| mode == GatewayMode::Routed),
        }
    }
}

impl Core {
    /// Makes a user-defined network.
    ///
    /// # Errors
    /// [`Error::NetworkExists`], [`Error::SubnetOverlap`], [`Error::Invalid`], or what the kernel refuses.
    pub fn create_network(&mut self, spec: NetworkSpec) -> Result<Network> {
        check_id(&spec.id)?;
        let invalid = |what: &'static str, reason: String| Error::Invalid { what, reason };
        match spec.driver {
            Driver::None | Driver::Host => {
                return Err(Error::Predefined {
                    name: spec.driver.to_string(),
                    action: "created",
                });
            }
            Driver::Overlay { .. } => {
                return Err(invalid(
                    "driver",
                    "overlay networks come from the cluster's state".into(),
                ));
            }
            Driver::Bridge | Driver::Macvlan | Driver::Ipvlan => {}
        }
        if !spec.enable_ipv4 && !spec.enable_ipv6 {
            return Err(invalid("network", "IPv4 or IPv6 must be enabled".into()));
        }
        if spec.enable_ipv6 && !self.has_ipv6 {
            return Err(invalid("network", "this host's kernel has no IPv6".into()));
        }
        let taken = |n: &Network| n.spec.name == spec.name || n.spec.id == spec.id;
        if self.list_networks().iter().any(taken) {
            return Err(Error::NetworkExists { name: spec.name });
        }
        for family in [false, true] {
            let of_family = |c: &&IpamConfig| c.subnet.is_some_and(|s| s.addr().is_ipv6() == family);
            if spec.ipam.iter().filter(of_family).count() > 1 {
                let reason = format!("{} driver doesn't support multiple subnets", spec.driver);
                return Err(invalid("network", reason));
            }
        }
        for subnet in spec.ipam.iter().filter_map(|c| c.subnet) {
            self.check_overlap(subnet)?;
        }
        let id = spec.id.clone();
        let record = LocalRecord {
            spec,
            bridge: String::new(),
            role: Role::User,
            owned: true,
        };
        let mut network = LocalNetwork::new(record)?;
        if network.is_bridge() {
            let default_name = format!("br-{}", short(&id));
            network.record.bridge = network.options.bridge.clone().unwrap_or(default_name);
            check_interface(&network.record.bridge)?;
            if self.route.link(&network.record.bridge)?.is_some() {
                let name = &network.record.bridge;
                let reason = format!("an interface called {name} exists: choose another name");
                return Err(invalid("bridge name", reason));
            }
        } else {
            self.choose_parent(&mut network)?;
        }
        self.networks.insert(id.clone(), network);
        if let Err(error) = self.ensure_network(&id) {
            self.networks.remove(&id);
            let _ = record::remove(&self.network_dir(), &id);
            return Err(error);
        }
        self.inspect_network(&id)
    }

    /// Removes a user-defined network.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`], [`Error::Predefined`], [`Error::NetworkInUse`], or what the kernel refuses.
    pub fn remove_network(&mut self, id: &str) -> Result<()> {
        let network = self.inspect_network(id)?;
        let id = network.spec.id;
        if self.networks.get(&id).map(|n| n.record.role) != Some(Role::User) {
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
        self.take_down(&id)?;
        record::remove(&self.network_dir(), &id)?;
        self.networks.remove(&id);
        Ok(())
    }
}
