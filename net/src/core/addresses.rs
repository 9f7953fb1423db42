//! Subnets of local networks and addresses of their endpoints: as wished, or the next that are free.
use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_ipam::{AddressPool, SubnetPool};

use super::{
    Core,
    endpoint::EndpointRecord,
    local::{LocalRecord, Subnet},
    short,
};
use crate::{Driver, EndpointSpec, Error, IpamConfig, NetworkSpec, Result};

impl Core {
    /// All subnets of networks that there are.
    fn subnets(&self) -> impl Iterator<Item = (&NetworkSpec, IpNet)> {
        let local = self.networks.values().map(|n| &n.record.spec);
        let specs = local.chain(self.overlays.values().map(|o| &o.spec));
        specs.flat_map(|spec| spec.ipam.iter().filter_map(move |c| Some((spec, c.subnet?))))
    }

    /// Refuses a subnet that overlaps another network's.
    pub(super) fn check_overlap(&self, subnet: IpNet) -> Result<()> {
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

    /// The subnets of a network, with their pools: as the record says, or chosen now and written into it.
    pub(super) fn choose_subnets(&mut self, record: &mut LocalRecord) -> Result<[Option<Subnet>; 2]> {
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

    /// Takes an address of each of the network's families: the wished one, or the next. All or none.
    pub(super) fn take_addresses(&mut self, spec: &EndpointSpec) -> Result<[Option<IpNet>; 2]> {
        let not_found = || Error::NetworkNotFound {
            id: spec.network_id.clone(),
        };
        let network = self.networks.get_mut(&spec.network_id).ok_or_else(not_found)?;
        let (name, id) = (
            network.record.spec.name.clone(),
            short(&spec.network_id).to_owned(),
        );
        let live = network.live.as_mut().ok_or_else(not_found)?;
        let mut taken = [None, None];
        let mut failure = None;
        for (at, wished) in [spec.ip, spec.ip6].into_iter().enumerate() {
            let Some(subnet) = live.subnets[at].as_mut() else {
                if let Some(ip) = wished {
                    failure = Some(no_subnet(ip));
                }
                continue;
            };
            let address = match wished {
                None => subnet.pool.allocate().map_err(|source| match source {
                    pontoon_ipam::Error::AddressesExhausted { .. } => Error::NoAddress {
                        family: if at == 0 { "IPv4" } else { "IPv6" },
                        network: format!("{name} ({id})"),
                    },
                    source => Error::Address {
                        network: name.clone(),
                        source: source.into(),
                    },
                }),
                Some(ip) if !subnet.net.contains(&ip) => Err(no_subnet(ip)),
                Some(ip) => match subnet.pool.allocate_specific(ip) {
                    Ok(()) => Ok(ip),
                    Err(pontoon_ipam::Error::AddressInUse { .. }) => Err(Error::AddressInUse { address: ip }),
                    Err(source) => Err(Error::Address {
                        network: name.clone(),
                        source: source.into(),
                    }),
                },
            };
            match address {
                Ok(ip) => taken[at] = IpNet::new(ip, subnet.net.prefix_len()).ok(),
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else { return Ok(taken) };
        for (at, address) in taken.into_iter().enumerate() {
            if let (Some(subnet), Some(address)) = (live.subnets[at].as_mut(), address) {
                subnet.pool.release(address.addr());
            }
        }
        Err(error)
    }

    /// Gives an endpoint's address back.
    pub fn release_address(&mut self, endpoint: &EndpointRecord) {
        let network = self.networks.get_mut(&endpoint.endpoint.network_id);
        let Some(live) = network.and_then(|n| n.live.as_mut()) else {
            return;
        };
        for address in endpoint.endpoint.addresses() {
            if let Some(subnet) = live.subnets[usize::from(address.is_ipv6())].as_mut() {
                subnet.pool.release(address);
            }
        }
    }
}

fn no_subnet(ip: IpAddr) -> Error {
    Error::Invalid {
        what: "endpoint settings",
        reason: format!("no configured subnet contains IP address {ip}"),
    }
}
