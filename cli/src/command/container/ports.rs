//! Ports of a container: how `ps` shows them, and `port`.

use std::collections::BTreeMap;

use clap::Args;
use pontoon_proto::v1::{Container, ContainerRequest, ContainerState, PortBinding, PortProtocol};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// `port CONTAINER [PRIVATE_PORT[/PROTO]]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// The container
    container: String,
    /// A port of it
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

/// A port as it is shown: exposed ones have no address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    private: u32,
    address: String,
    public: u32,
    protocol: &'static str,
}

fn protocol(port: &PortBinding) -> &'static str {
    match port.protocol() {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    }
}

fn address(port: &PortBinding) -> &str {
    if port.host_ip.is_empty() {
        "0.0.0.0"
    } else {
        &port.host_ip
    }
}

/// `address:port`, with brackets around an IPv6 address.
fn joined(address: &str, port: impl std::fmt::Display) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// The ports of a running container: neighbours that are published at their own numbers, or only exposed, as ranges (docker/cli
/// `DisplayablePorts`).
pub fn shown(container: &Container) -> String {
    let is_up = matches!(
        container.state(),
        ContainerState::Running | ContainerState::Paused
    );
    if !is_up {
        return String::new();
    }
    let mut ports: Vec<Port> = container
        .ports
        .iter()
        .map(|port| Port {
            private: port.container_port,
            address: address(port).to_owned(),
            public: port.host_port,
            protocol: protocol(port),
        })
        .collect();
    for exposed in &container.exposed_ports {
        let Some((number, name)) = exposed.split_once('/') else {
            continue;
        };
        let name = ["tcp", "udp", "sctp"].into_iter().find(|known| *known == name);
        let (Ok(private), Some(protocol)) = (number.parse(), name) else {
            continue;
        };
        let is_published = |port: &Port| port.private == private && port.protocol == protocol;
        if !ports.iter().any(is_published) {
            ports.push(Port {
                private,
                address: String::new(),
                public: 0,
                protocol,
            });
        }
    }
    ports.sort();
    grouped(&ports)
}

fn grouped(ports: &[Port]) -> String {
    let mut groups: BTreeMap<(&str, &str), (u32, u32)> = BTreeMap::new();
    let mut order = Vec::new();
    let (mut texts, mut single) = (Vec::new(), Vec::new());
    for port in ports {
        if !port.address.is_empty() && port.public != port.private {
            let outside = joined(&port.address, port.public);
            single.push(format!("{outside}->{}/{}", port.private, port.protocol));
            continue;
        }
        let key = (port.address.as_str(), port.protocol);
        match groups.get_mut(&key) {
            None => {
                order.push(key);
                groups.insert(key, (port.private, port.private));
            }
            Some((_, last)) if port.private == *last + 1 => *last = port.private,
            Some(group) => {
                texts.push(range(key, *group));
                *group = (port.private, port.private);
            }
        }
    }
    texts.extend(order.into_iter().map(|key| range(key, groups[&key])));
    texts.extend(single);
    texts.join(", ")
}

fn range((address, protocol): (&str, &str), (first, last): (u32, u32)) -> String {
    let mut text = first.to_string();
    if last != first {
        text = format!("{first}-{last}");
    }
    if !address.is_empty() {
        text = format!("{}->{text}", joined(address, &text));
    }
    format!("{text}/{protocol}")
}

/// Runs `port`.
///
/// # Errors
/// When the port is not published, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let container = client
        .engine()
        .inspect_container(ContainerRequest {
            target: arguments.container.clone(),
        })
        .await?
        .into_inner();
    let mut lines: Vec<(u32, &str, String)> = container
        .ports
        .iter()
        .map(|port| {
            (
                port.container_port,
                protocol(port),
                joined(address(port), port.host_port),
            )
        })
        .collect();
    lines.sort();
    let Some(wanted) = arguments.port else {
        for (number, protocol, outside) in lines {
            listing::write(&format!("{number}/{protocol} -> {outside}\n"));
        }
        return Ok(0);
    };
    let (number, kind) = wanted.split_once('/').unwrap_or((&wanted, "tcp"));
    let number: u16 = number.parse().map_err(|_| {
        Failure::new(format!(
            "Error: invalid port ({number}): strconv.ParseUint: parsing {number:?}: invalid syntax"
        ))
    })?;
    lines.retain(|(inside, protocol, _)| *inside == u32::from(number) && *protocol == kind);
    if lines.is_empty() {
        return Err(Failure::new(format!(
            "Error: No public port '{wanted}' published for {}",
            arguments.container
        )));
    }
    for (_, _, outside) in lines {
        listing::write(&format!("{outside}\n"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(address: &str, public: u32, private: u32, protocol: PortProtocol) -> PortBinding {
        PortBinding {
            protocol: protocol.into(),
            container_port: private,
            host_ip: address.to_owned(),
            host_port: public,
            host_port_end: 0,
        }
    }

    #[test]
    fn neighbours_are_one_range() {
        let mut container = Container {
            state: ContainerState::Running.into(),
            exposed_ports: [
                "77/tcp", "100/tcp", "101/tcp", "102/tcp", "80/tcp", "9000/udp", "9001/udp",
            ]
            .map(str::to_owned)
            .to_vec(),
            ports: vec![
                binding("0.0.0.0", 8081, 80, PortProtocol::Tcp),
                binding("::", 8081, 80, PortProtocol::Tcp),
                binding("0.0.0.0", 9000, 9000, PortProtocol::Udp),
                binding("::", 9000, 9000, PortProtocol::Udp),
                binding("0.0.0.0", 9001, 9001, PortProtocol::Udp),
                binding("::", 9001, 9001, PortProtocol::Udp),
            ],
            ..Container::default()
        };
        // As docker/cli 28 shows these.
        assert_eq!(
            shown(&container),
            "77/tcp, 100-102/tcp, 0.0.0.0:9000-9001->9000-9001/udp, [::]:9000-9001->9000-9001/udp, \
             0.0.0.0:8081->80/tcp, [::]:8081->80/tcp"
        );
        container.set_state(ContainerState::Exited);
        assert_eq!(shown(&container), "");
    }
}
