//! Which address others reach this node at: what `--advertise-addr` and `--data-path-addr` may say, and the choice when they say nothing.

use std::net::{IpAddr, SocketAddr};

/// The cluster port.
pub const DEFAULT_PORT: u16 = 2377;

/// An interface and one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub addr: IpAddr,
}

/// Splits `host[:port]`; IPv6 addresses with a port are in brackets.
fn split_port(text: &str) -> Result<(&str, u16), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, DEFAULT_PORT));
    }
    match text.rsplit_once(':') {
        None => Ok((text, DEFAULT_PORT)),
        Some((host, port)) => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            let port = port.ok_or_else(|| {
                format!("invalid address {text:?}: the port must be a number from 1 to 65535")
            })?;
            Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
        }
    }
}

fn resolve(host: &str, addresses: &[InterfaceAddress]) -> Result<IpAddr, String> {
    if let Ok(addr) = host.parse::<IpAddr>() {
        return Ok(addr);
    }
    let on_interface: Vec<IpAddr> = addresses
        .iter()
        .filter(|known| known.interface == host)
        .map(|known| known.addr)
        .collect();
    match on_interface.as_slice() {
        [] => Err(format!(
            "could not find an address on interface {host:?}: name an IP address or an interface that has one"
        )),
        [addr] => Ok(*addr),
        several => {
            let v4: Vec<_> = several.iter().filter(|addr| addr.is_ipv4()).collect();
            match v4.as_slice() {
                [addr] => Ok(**addr),
                _ => Err(format!(
                    "interface {host} has more than one address ({}): name one of them",
                    join(several)
                )),
            }
        }
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The address to advertise: as told (address or interface, with or without port), else the host's only one.
///
/// # Errors
/// When it does not tell one address; the message lists the choices.
pub fn advertise(text: &str, listen_port: u16, addresses: &[InterfaceAddress]) -> Result<SocketAddr, String> {
    if !text.is_empty() {
        let (host, port) = split_port(text)?;
        let port = if text.ends_with(&format!(":{port}")) {
            port
        } else {
            listen_port
        };
        let addr = resolve(host, addresses)?;
        if addr.is_unspecified() {
            return Err(format!(
                "invalid --advertise-addr {text:?}: others can't reach an unspecified address"
            ));
        }
        return Ok(SocketAddr::new(addr, port));
    }
    let usable: Vec<&InterfaceAddress> = addresses
        .iter()
        .filter(|known| {
            known.addr.is_ipv4() && !known.addr.is_loopback() && !is_container_bridge(&known.interface)
        })
        .collect();
    match usable.as_slice() {
        [] => Err("could not find the system's IP address: specify one with --advertise-addr".to_owned()),
        [only] => Ok(SocketAddr::new(only.addr, listen_port)),
        several => {
            let listed: Vec<_> = several
                .iter()
                .map(|known| format!("{} on {}", known.addr, known.interface))
                .collect();
            Err(format!(
                "could not choose an IP address to advertise since this system has multiple addresses ({}): \
                 specify one with --advertise-addr",
                listed.join(" and ")
            ))
        }
    }
}

/// An advertised address need not be one of the host's (it may be behind an address translation), but then Docker wants to know by
/// which of the host's the node is reached, unless it has only one.
///
/// # Errors
/// In Docker's words.
pub fn check(
    advertised: SocketAddr,
    listen: SocketAddr,
    addresses: &[InterfaceAddress],
) -> Result<(), String> {
    let is_own = addresses.iter().any(|known| known.addr == advertised.ip());
    if is_own || !listen.ip().is_unspecified() {
        return Ok(());
    }
    advertise("", listen.port(), addresses).map(drop).map_err(|_| {
        "must specify a listening address because the address to advertise is not recognized as a system address, \
         and a system's IP address to use could not be uniquely identified"
            .to_owned()
    })
}

/// Bridges for containers, ours and Docker's: their addresses are the same on every host.
fn is_container_bridge(interface: &str) -> bool {
    ["pontoon", "docker", "br-", "virbr", "cni"]
        .iter()
        .any(|prefix| interface.starts_with(prefix))
}

/// The address to listen on.
///
/// # Errors
/// When it is neither an address nor an interface with one.
pub fn listen(text: &str, addresses: &[InterfaceAddress]) -> Result<SocketAddr, String> {
    if text.is_empty() {
        return Ok(SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)));
    }
    let (host, port) = split_port(text)?;
    Ok(SocketAddr::new(resolve(host, addresses)?, port))
}

/// The address for VXLAN: as told (address or interface), else the advertised one.
///
/// # Errors
/// When it is neither an address nor an interface with one.
pub fn data_path(
    text: &str,
    advertised: SocketAddr,
    addresses: &[InterfaceAddress],
) -> Result<IpAddr, String> {
    if text.is_empty() {
        Ok(advertised.ip())
    } else {
        resolve(text, addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(interface: &str, addr: &str) -> InterfaceAddress {
        InterfaceAddress {
            interface: interface.to_owned(),
            addr: addr.parse().unwrap(),
        }
    }

    #[test]
    fn advertised_addresses() {
        let one = [
            on("lo", "127.0.0.1"),
            on("eth0", "10.0.0.5"),
            on("eth0", "fe80::1"),
            on("pontoon0", "172.17.0.1"),
        ];
        let two = [on("eth0", "10.0.0.5"), on("eth1", "10.0.1.5")];
        let told = |text: &str, known: &[InterfaceAddress]| {
            advertise(text, 2377, known).map(|addr| addr.to_string())
        };
        assert_eq!(told("", &one).as_deref(), Ok("10.0.0.5:2377"));
        assert_eq!(told("eth1", &two).as_deref(), Ok("10.0.1.5:2377"));
        assert_eq!(told("eth1:99", &two).as_deref(), Ok("10.0.1.5:99"));
        assert_eq!(told("1.2.3.4", &two).as_deref(), Ok("1.2.3.4:2377"));
        assert_eq!(told("[::1]:5", &two).as_deref(), Ok("[::1]:5"));
        assert!(
            told("", &two)
                .unwrap_err()
                .contains("10.0.0.5 on eth0 and 10.0.1.5 on eth1")
        );
        assert!(told("0.0.0.0", &one).is_err());
        assert!(told("eth9", &one).unwrap_err().contains("eth9"));
        assert!(told("1.2.3.4:x", &one).is_err());
        let checked = |addr: &str, on: &str, known: &[InterfaceAddress]| {
            check(addr.parse().unwrap(), on.parse().unwrap(), known)
        };
        assert!(checked("10.0.0.5:1", "0.0.0.0:1", &two).is_ok());
        assert!(checked("1.2.3.4:1", "0.0.0.0:1", &one).is_ok());
        assert!(checked("1.2.3.4:1", "10.0.1.5:1", &two).is_ok());
        assert!(
            checked("1.2.3.4:1", "0.0.0.0:1", &two)
                .unwrap_err()
                .starts_with("must specify a listening")
        );
        assert_eq!(listen("", &one).unwrap().to_string(), "0.0.0.0:2377");
        assert_eq!(listen("127.0.0.1:77", &one).unwrap().to_string(), "127.0.0.1:77");
    }
}
