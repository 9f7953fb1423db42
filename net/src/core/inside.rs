//! An endpoint's interface as the container sees it: its name, settings and addresses.
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Core, endpoint::EndpointRecord, options::check_interface};
use crate::{
    EndpointSpec, Error, Result,
    netlink::{Batch, Protocol},
    netns,
};

/// Docker's endpoint options.
const IFNAME: &str = "com.docker.network.endpoint.ifname";
pub(super) const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// `net.ipv4.conf.IFNAME.log_martians=1,…` for an interface: only settings of that interface are taken.
pub(super) fn sysctls(text: &str, ifname: &str) -> Result<Vec<(String, String)>> {
    let invalid = |part: &str, why: &str| Error::Invalid {
        what: "option",
        reason: format!("{SYSCTLS}: {part:?} {why}"),
    };
    let mut settings = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| invalid(part, "is not NAME=VALUE"))?;
        let parts: Vec<_> = name.split('.').collect();
        let known = matches!(
            parts[..],
            ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", ..]
        );
        if !known || parts.len() < 5 {
            return Err(invalid(part, "is not a setting of IFNAME"));
        }
        settings.push((
            name.replace("IFNAME", &ifname.replace('.', "/")),
            value.to_owned(),
        ));
    }
    Ok(settings)
}

impl Core {
    /// The name of a new interface: as wished, or the prefix with the first free number.
    pub(in crate::core) fn interface_name(
        &self,
        sandbox_id: &str,
        prefix: &str,
        spec: &EndpointSpec,
    ) -> Result<String> {
        for key in spec.options.keys() {
            if key.starts_with("com.docker.network.") && ![IFNAME, SYSCTLS].contains(&key.as_str()) {
                return Err(Error::Invalid {
                    what: "option",
                    reason: format!("{key} is not known as an endpoint's"),
                });
            }
        }
        if let Some(name) = spec.options.get(IFNAME) {
            check_interface(name)?;
            return Ok(name.clone());
        }
        let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
        let taken = |name: &String| endpoints.iter().any(|e| e.endpoint.ifname == *name);
        (0..=endpoints.len())
            .map(|n| format!("{prefix}{n}"))
            .find(|name| !taken(name))
            .ok_or_else(|| self.vanished(sandbox_id))
    }

    /// Settings of an interface before it is set up.
    pub(in crate::core) fn prepare_inside(
        &self,
        sandbox_id: &str,
        record: &EndpointRecord,
        settings: &[(String, String)],
        own_mac: bool,
    ) -> Result<()> {
        let ipv6 = record.endpoint.address6.is_some();
        if !ipv6 && settings.is_empty() && !own_mac {
            return Ok(());
        }
        let netns = self.netns_of(sandbox_id)?;
        let name = record.endpoint.ifname.replace('.', "/");
        netns::inside(&self.home, netns, || {
            if own_mac {
                // Neighbours may know the address with another MAC.
                netns::set_sysctl_if_present(&format!("net.ipv4.conf.{name}.arp_notify"), "1")?;
            }
            if ipv6 {
                netns::set_sysctl(&format!("net.ipv6.conf.{name}.accept_ra"), "0")?;
                netns::set_sysctl(&format!("net.ipv6.conf.{name}.accept_dad"), "0")?;
                netns::set_sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"), "0")?;
            }
            settings
                .iter()
                .try_for_each(|(key, value)| netns::set_sysctl(key, value))
        })
    }

    /// Addresses and link inside the sandbox, sent together.
    pub(in crate::core) fn configure_inside(
        &mut self,
        sandbox_id: &str,
        record: &EndpointRecord,
        further: &[IpAddr],
    ) -> Result<()> {
        let index = record.index();
        let mut batch = Batch::default();
        for address in [record.endpoint.address, record.endpoint.address6]
            .into_iter()
            .flatten()
        {
            batch.add_address(index, address);
        }
        for address in further {
            batch.add_address(index, IpNet::from(*address));
        }
        batch.set_up(index);
        self.socket_inside(sandbox_id, Protocol::Route)?.transact(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_interface() {
        let good = sysctls("net.ipv4.conf.IFNAME.log_martians=1", "eth0").expect("well-formed");
        assert_eq!(
            good,
            [("net.ipv4.conf.eth0.log_martians".to_owned(), "1".to_owned())]
        );
        for bad in [
            "x",
            "net.core.somaxconn=1",
            "net.ipv4.conf.all.forwarding=1",
            "net.ipv4.conf.IFNAME=1",
        ] {
            assert!(sysctls(bad, "eth0").is_err(), "{bad}");
        }
    }
}
