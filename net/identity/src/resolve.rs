//! Host names to addresses, without the C library: a static binary must not load NSS modules.
//!
//! `/etc/hosts` and `/etc/resolv.conf` are read anew for each look-up; they are rare (a dial to a manager given by
//! name). Called by the connector only.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;

use crate::error::Error;

/// All addresses of `host:port`; the host may be an address (IPv6 in brackets) or a name.
pub(crate) async fn resolve(addr: &str) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = addr.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let malformed = || Error::Address(addr.to_owned());
    let (host, port) = addr.rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    if host.is_empty() || host.contains(':') {
        return Err(malformed());
    }
    let addresses = lookup(host).await.map_err(|reason| Error::Resolve {
        host: host.to_owned(),
        reason,
    })?;
    Ok(addresses
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect())
}

async fn lookup(host: &str) -> Result<Vec<IpAddr>, String> {
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| error.to_string())?;
    let answer = resolver
        .lookup_ip(host)
        .await
        .map_err(|error| error.to_string())?;
    let addresses: Vec<IpAddr> = answer.iter().collect();
    if addresses.is_empty() {
        Err("it has no address".to_owned())
    } else {
        Ok(addresses)
    }
}
