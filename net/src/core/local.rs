//! Networks of this host: the default bridge, user-defined bridges, the gateway bridge of overlays, and (with
//! [`super::parent`]) networks below an interface of the host.
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use pontoon_ipam::{AddressPool, SubnetPool};
use serde::{Deserialize, Serialize};

use super::{
    Core, check_id, mac,
    options::{GatewayMode, Options, check_interface},
    short,
};
use crate::{
    BridgeConfig, Driver, Error, IpamConfig, Network, NetworkSpec, Result,
    firewall::{host, nft::Family},
    netlink::{Batch, BridgeLink, PortFlags},
    netns, record,
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

    /// All subnets of networks that there are.
    fn subnets(&self) -> impl Iterator<Item = (&NetworkSpec, IpNet)> {
        let local = self.networks.values().map(|n| &n.record.spec);
        let specs = local.chain(self.overlays.values().map(|o| &o.spec));
        specs.flat_map(|spec| spec.ipam.iter().filter_map(move |c| Some((spec, c.subnet?))))
    }

    fn check_overlap(&self, subnet: IpNet) -> Result<()> {
        let overlaps = |other: IpNet| other.contains(&subnet.network()) || subnet.contains(&other.network());
        // Overlays live in namespaces of their own: they may overlap what is here.
        let mut taken = self
            .subnets()
            .filter(|(spec, _)| !matches!(spec.driver, Driver::Overlay { .. }));
        match taken.find(|(_, other)| overlaps(*other)) {
            Some((spec, _)) => Err(Error::SubnetOverlap {
                subnet,
                other: format!("network {}", spec.name),
            }),
            None => Ok(()),
        }
    }

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

    fn choose_subnets(&mut self, record: &mut LocalRecord) -> Result<[Option<Subnet>; 2]> {
        let spec = &record.spec;
        let wanted = [spec.enable_ipv4, spec.enable_ipv6];
        let mut subnets = [None, None];
        let mut ipam = Vec::new();
        for (at, wanted) in wanted.into_iter().enumerate() {
            let ipv6 = at == 1;
            let fits = |c: &&IpamConfig| {
                let any = c.subnet.map(|s| s.addr()).or(c.gateway);
                any.map_or(!ipv6, |ip| ip.is_ipv6() == ipv6)
            };
            let config = spec.ipam.iter().find(fits).cloned();
            if wanted {
                let (config, subnet) = self.choose_subnet(spec, config.unwrap_or_default(), ipv6)?;
                ipam.push(config);
                subnets[at] = Some(subnet);
            } else {
                // Docker shows what was asked for, also where the family is off.
                ipam.extend(config.filter(|c| c.subnet.is_some()));
            }
        }
        record.spec.ipam = ipam;
        Ok(subnets)
    }

    fn choose_subnet(
        &mut self,
        spec: &NetworkSpec,
        mut config: IpamConfig,
        ipv6: bool,
    ) -> Result<(IpamConfig, Subnet)> {
        let net = match config.subnet {
            Some(subnet) => subnet.trunc(),
            None => {
                let mut foreign = self.route.routed(ipv6)?;
                foreign.extend(self.subnets().map(|(_, subnet)| subnet));
                foreign.retain(|net| net.addr().is_ipv6() == ipv6);
                let no_subnet = |source: pontoon_ipam::Error| Error::NoSubnet {
                    network: spec.name.clone(),
                    source: source.into(),
                };
                let pool = self.subnet_pool(ipv6).map_err(no_subnet)?;
                pool.clone().allocate_avoiding(&foreign).map_err(no_subnet)?
            }
        };
        let gateway = config
            .gateway
            .unwrap_or_else(|| pontoon_ipam::default_gateway(&net));
        let address_error = |source: pontoon_ipam::Error| Error::Address {
            network: spec.name.clone(),
            source: source.into(),
        };
        let mut pool = AddressPool::new(net, config.range, Some(gateway)).map_err(address_error)?;
        for auxiliary in config.auxiliary.values() {
            pool.reserve(*auxiliary).map_err(address_error)?;
        }
        config.subnet = Some(net);
        config.gateway = Some(gateway);
        Ok((config, Subnet { net, pool, gateway }))
    }

    /// From where subnets are cut that nobody chose. IPv6 ones are unique local (RFC 4193), with an id that follows
    /// from this daemon's, so that they stay the same.
    fn subnet_pool(&self, ipv6: bool) -> pontoon_ipam::Result<SubnetPool> {
        let own: Vec<_> = self
            .config
            .address_pools
            .iter()
            .filter(|(base, _)| base.addr().is_ipv6() == ipv6)
            .copied()
            .collect();
        if !own.is_empty() {
            return SubnetPool::new(&own);
        }
        if !ipv6 {
            return Ok(SubnetPool::bridge());
        }
        let digits = self.predefined.bridge.get(..10).unwrap_or("0");
        let global = u128::from_str_radix(digits, 16).unwrap_or_default();
        let base = std::net::Ipv6Addr::from(0xfd << 120 | global << 80);
        let base = IpNet::new(base.into(), 48).expect("48 is a prefix length");
        SubnetPool::new(&[(base, 64)])
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
