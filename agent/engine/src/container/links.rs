//! `--link` on the default bridge, as Docker has it from before there were names on networks: lines in `/etc/hosts` and variables
//! that describe the other container. On user-defined networks a link is a name that only one container knows; embedded
//! DNS answers it.

use std::sync::Arc;

use super::Container;
use super::network::DEFAULT;
use super::record::{Record, has_process};
use crate::{Engine, Error, Result, id};

/// `container[:alias]`.
pub(crate) fn split(link: &str) -> (&str, &str) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    let name = |text| -> &str { str::trim_start_matches(text, '/') };
    (name(target), name(alias))
}

impl Engine {
    /// The containers to which a container is linked on the default bridge, with their aliases.
    fn linked(&self, record: &Record) -> Result<Vec<(Arc<Container>, String)>> {
        let links = record.host().links;
        let find = |link: &String| {
            let (target, alias) = split(link);
            Ok((self.containers.find(target)?, alias.to_owned()))
        };
        links.iter().map(find).collect()
    }

    /// Checks the links of a new container and names their targets by id, so that a rename changes nothing.
    pub(crate) fn resolve_links(&self, links: &mut [String], on: &str) -> Result<()> {
        for link in links {
            let (target, alias) = split(link);
            let other = self
                .containers
                .find(target)
                .map_err(|_| Error::Invalid(format!("could not get container for {target}")))?;
            if alias.is_empty() {
                return Err(Error::Invalid(format!("bad format for links: {link}")));
            }
            let is_there = other.read(|record| record.wanted_networks.iter().any(|n| n.network == on));
            if on == DEFAULT && !is_there {
                return Err(Error::Invalid(format!(
                    "Cannot link to {target}: it is not on the default bridge network"
                )));
            }
            *link = format!("{}:{alias}", other.id);
        }
        Ok(())
    }

    /// Whether a container is linked to another on the default bridge.
    pub(super) fn links_to(&self, record: &Record, id: &str) -> bool {
        let linked = self.linked(record).unwrap_or_default();
        linked.iter().any(|(other, _)| other.id == id)
    }

    /// Lines for `/etc/hosts`: what is not running has none.
    pub(super) async fn link_hosts(&self, record: &Record) -> Result<String> {
        let mut lines = String::new();
        for (other, alias) in self.linked(record)? {
            let Ok(sandbox) = self.network.inspect_sandbox(&other.id).await else {
                continue;
            };
            let wanted = other.record().wanted_networks;
            let bridge = wanted.iter().find(|n| n.network == DEFAULT);
            let endpoint =
                bridge.and_then(|n| sandbox.endpoints.iter().find(|e| e.network_id == n.network_id));
            let name = other.read(|record| record.view().name.clone());
            for ip in endpoint.into_iter().flat_map(|e| e.addresses()) {
                lines.push_str(&format!("{ip}\t{alias} {} {name}\n", id::short(&other.id)));
            }
        }
        Ok(lines)
    }

    /// Docker's variables for each link. What a container is linked to has to run when it starts.
    pub(super) fn link_variables(&self, record: &Record) -> Result<Vec<String>> {
        let own = record.view().name.clone();
        let mut variables = Vec::new();
        for (other, alias) in self.linked(record)? {
            let target = other.record();
            let view = target.view();
            if !has_process(view.state()) {
                return Err(Error::Conflict(format!(
                    "Cannot link to a non running container: /{} AS /{own}/{alias}",
                    view.name
                )));
            }
            let bridge = view.networks.iter().find(|n| n.network == DEFAULT);
            let ip = bridge.map(|n| n.ip_address.clone()).unwrap_or_default();
            variables.extend(describe(
                &own,
                &alias,
                &ip,
                &view.exposed_ports,
                &target.config().env,
            ));
        }
        Ok(variables)
    }
}

fn describe(own: &str, alias: &str, ip: &str, exposed: &[String], env: &[String]) -> Vec<String> {
    let prefix = alias.replace('-', "_").to_uppercase();
    let mut variables = Vec::new();
    let mut ports: Vec<(u16, &str)> = exposed
        .iter()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol))
        })
        .collect();
    // TCP first, then by number: the first one stands for the container.
    ports.sort_by_key(|(number, protocol)| (*protocol != "tcp", *number));
    if let Some((number, protocol)) = ports.first() {
        variables.push(format!("{prefix}_PORT={protocol}://{ip}:{number}"));
    }
    for (number, protocol) in &ports {
        let port = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        variables.push(format!("{port}={protocol}://{ip}:{number}"));
        variables.push(format!("{port}_ADDR={ip}"));
        variables.push(format!("{port}_PORT={number}"));
        variables.push(format!("{port}_PROTO={protocol}"));
    }
    variables.push(format!("{prefix}_NAME=/{own}/{alias}"));
    for entry in env {
        if let Some((key, value)) = entry.split_once('=')
            && !matches!(key, "HOME" | "PATH")
        {
            variables.push(format!("{prefix}_ENV_{key}={value}"));
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_dockers() {
        let env = ["PATH=/bin".to_owned(), "PASSWORD=x".to_owned()];
        let exposed = ["53/udp".to_owned(), "6379/tcp".to_owned()];
        let variables = describe("web", "my-db", "172.17.0.5", &exposed, &env);
        assert_eq!(
            variables,
            [
                "MY_DB_PORT=tcp://172.17.0.5:6379",
                "MY_DB_PORT_6379_TCP=tcp://172.17.0.5:6379",
                "MY_DB_PORT_6379_TCP_ADDR=172.17.0.5",
                "MY_DB_PORT_6379_TCP_PORT=6379",
                "MY_DB_PORT_6379_TCP_PROTO=tcp",
                "MY_DB_PORT_53_UDP=udp://172.17.0.5:53",
                "MY_DB_PORT_53_UDP_ADDR=172.17.0.5",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_PASSWORD=x",
            ]
        );
        assert_eq!(split("/db:/store"), ("db", "store"));
        assert_eq!(split("db"), ("db", "db"));
    }
}
