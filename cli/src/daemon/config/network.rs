//! The daemon's flags about networks; dockerd's names and defaults.

use std::net::{IpAddr, Ipv4Addr};

use clap::{ArgAction, Args};
use ipnet::IpNet;
use pontoon_engine::NetworkDefaults;

use crate::error::Failure;

/// Flags about networks.
#[derive(Args, Debug)]
pub struct NetworkArguments {
    /// Specify network bridge IP
    #[arg(long, value_name = "string")]
    bip: Option<IpNet>,
    /// Default address pools for node specific local networks (base=10.10.0.0/16,size=24)
    #[arg(long = "default-address-pool", value_name = "pool-options")]
    default_address_pools: Vec<String>,
    /// DNS server to use
    #[arg(long = "dns", value_name = "list")]
    dns: Vec<IpAddr>,
    /// DNS options to use
    #[arg(long = "dns-opt", value_name = "list")]
    dns_opts: Vec<String>,
    /// DNS search domains to use
    #[arg(long = "dns-search", value_name = "list")]
    dns_search: Vec<String>,
    /// Have other firewalls' forward chains accept what goes to and from our bridges
    #[arg(long, num_args = 0..=1, default_value_t = false)]
    #[arg(require_equals = true, default_missing_value = "true", action = ArgAction::Set, hide_default_value = true)]
    firewall_accept: bool,
    /// IPv4 subnet for fixed IPs
    #[arg(long, value_name = "string")]
    fixed_cidr: Option<IpNet>,
    /// IPv6 subnet for fixed IPs
    #[arg(long, value_name = "string")]
    fixed_cidr_v6: Option<IpNet>,
    /// IP addresses that the special 'host-gateway' string in --add-host resolves to
    #[arg(long = "host-gateway-ip", value_name = "list")]
    host_gateway_ips: Vec<IpAddr>,
    /// Enable inter-container communication for the default bridge network
    #[arg(long, num_args = 0..=1, default_value_t = true)]
    #[arg(require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    icc: bool,
    /// Host IP for port publishing from the default bridge network
    #[arg(long, value_name = "ip", default_value = "0.0.0.0")]
    ip: Ipv4Addr,
    /// Enable IP masquerading for the default bridge network
    #[arg(long, num_args = 0..=1, default_value_t = true)]
    #[arg(require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    ip_masq: bool,
    /// Enable IPv6 networking for the default bridge network
    #[arg(long, num_args = 0..=1, default_value_t = false)]
    #[arg(require_equals = true, default_missing_value = "true", action = ArgAction::Set, hide_default_value = true)]
    ipv6: bool,
    /// Set the MTU for the default bridge network
    #[arg(long, value_name = "int", value_parser = clap::value_parser!(u32).range(68..=65535), default_value_t = 1500)]
    mtu: u32,
}

/// `base=CIDR,size=LENGTH`
fn pool(text: &str) -> Result<(IpNet, u8), Failure> {
    let bad = || {
        Failure::new(format!(
            "invalid --default-address-pool {text:?}: use base=10.10.0.0/16,size=24"
        ))
    };
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("base", value)) => base = Some(value.parse::<IpNet>().map_err(|_| bad())?),
            Some(("size", value)) => size = Some(value.parse::<u8>().map_err(|_| bad())?),
            _ => return Err(bad()),
        }
    }
    let (base, size) = base.zip(size).ok_or_else(bad)?;
    if size < base.prefix_len() || size > base.max_prefix_len() {
        return Err(Failure::new(format!(
            "invalid --default-address-pool {text:?}: subnets of /{size} can't be cut from {base}"
        )));
    }
    Ok((base.trunc(), size))
}

/// Whether an address can't be an interface's in its subnet: the first and the last are the subnet's own (RFC 3021 lets
/// subnets of two addresses use both).
fn is_no_hosts(net: IpNet) -> bool {
    net.prefix_len() + 1 < net.max_prefix_len() && [net.network(), net.broadcast()].contains(&net.addr())
}

impl NetworkArguments {
    /// Checks the flags.
    ///
    /// # Errors
    /// Names the flag that is no good, and why.
    pub fn settings(self) -> Result<NetworkDefaults, Failure> {
        let address_pools = self
            .default_address_pools
            .iter()
            .map(|text| pool(text))
            .collect::<Result<_, _>>()?;
        if let (Some(bip), Some(range)) = (self.bip, self.fixed_cidr)
            && !bip.trunc().contains(&range)
        {
            return Err(Failure::new(format!(
                "--fixed-cidr {range} is not inside --bip {bip}"
            )));
        }
        if self.fixed_cidr_v6.is_some_and(|net| net.addr().is_ipv4()) {
            return Err(Failure::new("--fixed-cidr-v6 must be an IPv6 subnet"));
        }
        if self
            .bip
            .or(self.fixed_cidr)
            .is_some_and(|net| net.addr().is_ipv6())
        {
            return Err(Failure::new("--bip and --fixed-cidr must be IPv4 subnets"));
        }
        if let Some(bip) = self.bip
            && is_no_hosts(bip)
        {
            return Err(Failure::new(format!(
                "--bip {bip} is the subnet's own or its broadcast address: give the bridge one between"
            )));
        }
        let option = |key: &str, value: bool| (format!("com.docker.network.bridge.{key}"), value.to_string());
        let host_binding = (!self.ip.is_unspecified()).then_some(self.ip);
        Ok(NetworkDefaults {
            address_pools,
            bip: self.bip.or(self.fixed_cidr),
            fixed_cidr: self.fixed_cidr,
            ipv6: self.ipv6,
            fixed_cidr_v6: self.fixed_cidr_v6,
            mtu: Some(self.mtu),
            bridge_options: [
                option("enable_icc", self.icc),
                option("enable_ip_masquerade", self.ip_masq),
            ]
            .into(),
            host_binding,
            host_gateway: self.host_gateway_ips,
            dns: self.dns,
            dns_search: self.dns_search,
            dns_options: self.dns_opts,
            firewall_accept: self.firewall_accept,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools() {
        let (base, size) = pool("base=10.10.0.0/16,size=24").unwrap();
        assert_eq!((base.to_string(), size), ("10.10.0.0/16".to_owned(), 24));
        for bad in [
            "",
            "base=10.0.0.0/8",
            "base=x,size=1",
            "base=10.0.0.0/16,size=8",
            "size=33,base=10.0.0.0/8",
        ] {
            assert!(pool(bad).is_err(), "{bad}");
        }
    }
}
