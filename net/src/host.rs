//! What this host has: its addresses, for the choice of an advertised one. Called by the daemon.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;

/// Every address of every interface that is there, with the interface's name, in the kernel's order.
///
/// # Errors
/// When netlink does not answer.
pub async fn addresses() -> Result<Vec<(String, IpAddr)>, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|_| rtnetlink::Error::RequestFailed)?;
    let connection = tokio::spawn(connection);
    let listed = list(&handle).await;
    connection.abort();
    listed
}

async fn list(handle: &rtnetlink::Handle) -> Result<Vec<(String, IpAddr)>, rtnetlink::Error> {
    let mut names = HashMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        for attribute in link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                names.insert(link.header.index, name);
            }
        }
    }
    let mut found = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        // On a point-to-point link the address is the other side's, and the local one an attribute of its own.
        let local = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(addr) => Some(*addr),
            _ => None,
        });
        let plain = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        });
        if let (Some(addr), Some(name)) = (local.or(plain), names.get(&address.header.index)) {
            found.push((name.clone(), addr));
        }
    }
    Ok(found)
}

/// Checks a default address pool in CIDR form; returns its prefix length.
///
/// # Errors
/// A message that quotes what is no IPv4 network, or has host bits set.
pub fn parse_pool(text: &str) -> Result<u8, String> {
    let network: ipnet::Ipv4Net = text.parse().map_err(|_| {
        format!("invalid --default-addr-pool {text:?}: use an IPv4 network such as 10.20.0.0/16")
    })?;
    if network.trunc() != network {
        return Err(format!(
            "invalid --default-addr-pool {text:?}: the network is {}",
            network.trunc()
        ));
    }
    Ok(network.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools() {
        assert_eq!(parse_pool("10.20.0.0/16"), Ok(16));
        assert!(parse_pool("10.20.0.1/16").unwrap_err().contains("10.20.0.0/16"));
        assert!(parse_pool("ten").is_err());
    }

    #[tokio::test]
    async fn loopback_is_there() {
        let addresses = addresses().await.unwrap();
        assert!(
            addresses
                .iter()
                .any(|(name, addr)| name == "lo" && addr.is_loopback())
        );
    }
}
