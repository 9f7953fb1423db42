//! `hosts`, `hostname` and `resolv.conf` in a container's folder, bound into its `/etc`. Written at its start, and again when it
//! joins or leaves a network or a container that it is linked to starts anew.

use std::net::IpAddr;
use std::sync::Arc;

use super::Container;
use super::network::NetworkMode;
use super::record::{Record, has_process};
use crate::error::IoContext;
use crate::{Engine, Error, Result};

/// Stands for the host's address in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

impl Engine {
    /// Writes all three. Existing files are written in place: a running container has them mounted.
    pub(super) async fn write_files(&self, container: &Container, record: &Record) -> Result<()> {
        let hostname = record.config().hostname;
        let path = container.dir.join("hostname");
        std::fs::write(&path, hostname + "\n").context(|| format!("write {}", path.display()))?;
        self.write_names(container, record).await
    }

    /// Writes `hosts` and `resolv.conf`.
    pub(crate) async fn write_names(&self, container: &Container, record: &Record) -> Result<()> {
        let failed = |error| Error::network("describe the sandbox", error);
        let resolv = self.network.resolv_conf(&container.id).await.map_err(failed)?;
        let hosts = match NetworkMode::parse(&record.host().network_mode) {
            NetworkMode::Host => host_hosts(&self.extra_hosts(&record.config().hosts).await?),
            _ => {
                let own = self.network.hosts(&container.id).await.map_err(failed)?;
                own + &self.link_hosts(record).await?
            }
        };
        for (name, content) in [("resolv.conf", resolv), ("hosts", hosts)] {
            let path = container.dir.join(name);
            std::fs::write(&path, content).context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Containers with a link to one that has got other addresses are told. Failures are logged: theirs are not the
    /// other's.
    pub(super) async fn refresh_linked(self: &Arc<Self>, id: &str) {
        for container in self.containers.all() {
            let record = container.record();
            if container.id == id || !has_process(record.view().state()) || !self.links_to(&record, id) {
                continue;
            }
            if let Err(error) = self.write_names(&container, &record).await {
                tracing::warn!(
                    container = container.id,
                    error = error.chain(),
                    "could not write the new address of a linked container"
                );
            }
        }
    }

    /// `name:address` entries, with the host's own addresses for `host-gateway`.
    pub(super) async fn extra_hosts(&self, entries: &[String]) -> Result<Vec<(String, IpAddr)>> {
        let mut hosts = Vec::new();
        for entry in entries {
            let (name, address) = split(entry)?;
            if address != HOST_GATEWAY {
                hosts.push((name.to_owned(), parse(entry, address)?));
                continue;
            }
            let gateways = self.network.host_gateway().await;
            let gateways = gateways.map_err(|error| Error::network("find the host's address", error))?;
            if gateways.is_empty() {
                return Err(Error::Invalid(
                    "unable to derive the IP value for host-gateway".to_owned(),
                ));
            }
            hosts.extend(gateways.into_iter().map(|ip| (name.to_owned(), ip)));
        }
        Ok(hosts)
    }
}

/// Checks `name:address` entries.
pub(super) fn check_hosts(entries: &[String]) -> Result<()> {
    entries.iter().try_for_each(|entry| {
        let (_, address) = split(entry)?;
        if address == HOST_GATEWAY {
            return Ok(());
        }
        parse(entry, address).map(drop)
    })
}

fn bad(entry: &str) -> Error {
    Error::Invalid(format!("bad format for add-host: {entry:?}"))
}

fn split(entry: &str) -> Result<(&str, &str)> {
    let parts = entry.split_once(':').filter(|(name, _)| !name.is_empty());
    parts.ok_or_else(|| bad(entry))
}

fn parse(entry: &str, address: &str) -> Result<IpAddr> {
    let address = address.trim_start_matches('[').trim_end_matches(']');
    address.parse().map_err(|_| bad(entry))
}

/// In the host's network names resolve as on the host, and the container's own additions come on top.
fn host_hosts(extra: &[(String, IpAddr)]) -> String {
    let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for (name, address) in extra {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts_take_both_families() {
        for good in ["a:10.0.0.1", "b:[::1]", "c:fe80::1", "d:host-gateway"] {
            check_hosts(&[good.to_owned()]).unwrap();
        }
        for wrong in ["a", "a:", ":1.2.3.4", "a:gateway"] {
            assert!(check_hosts(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
