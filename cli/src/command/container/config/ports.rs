//! Ports of a container: `-p` and `--expose` with their ranges. Called by the request's builder.

use pontoon_proto::v1::{PortBinding, PortProtocol};

use super::super::options::ContainerOptions;
use crate::error::Failure;

/// All of `--expose`, as `80/tcp`.
pub(super) fn exposed(options: &ContainerOptions) -> Result<Vec<String>, Failure> {
    let ports: Result<Vec<_>, _> = options.expose.iter().map(|text| expose(text)).collect();
    Ok(ports?.concat())
}

/// All of `-p`.
pub(super) fn published(options: &ContainerOptions) -> Result<Vec<PortBinding>, Failure> {
    let ports: Result<Vec<_>, _> = options.publish.iter().map(|text| publish(text)).collect();
    Ok(ports?.concat())
}

/// A range of ports: "80" or "80-90".
fn port_range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first > 0 && first <= last).then_some((first.into(), last.into()))
}

fn protocol(text: &str) -> Option<PortProtocol> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Some(PortProtocol::Tcp),
        "udp" => Some(PortProtocol::Udp),
        "sctp" => Some(PortProtocol::Sctp),
        _ => None,
    }
}

fn expose(text: &str) -> Result<Vec<String>, Failure> {
    let (ports, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    match (port_range(ports), protocol(proto)) {
        (Some((first, last)), Some(_)) => Ok((first..=last)
            .map(|port| format!("{port}/{}", proto.to_ascii_lowercase()))
            .collect()),
        _ => Err(Failure::new(format!("invalid range format for --expose: {text}"))),
    }
}

/// `[[ip:][host-port]:]container-port[/protocol]`, with ranges.
pub(crate) fn publish(text: &str) -> Result<Vec<PortBinding>, Failure> {
    let bad = |why: &str| Failure::new(format!("invalid published port {text:?}: {why}"));
    let (body, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol(proto).ok_or_else(|| bad("the protocol must be tcp, udp or sctp"))?;
    let (address, ports) = match body.strip_prefix('[') {
        Some(rest) => {
            let (ip, ports) = rest
                .split_once("]:")
                .ok_or_else(|| bad("an IPv6 address is written [address]:port:port"))?;
            (ip, ports)
        }
        None if body.matches(':').count() == 2 => body.split_once(':').unwrap_or(("", body)),
        None => ("", body),
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(bad(&format!("{address:?} is not an IP address")));
    }
    let (host, container) = ports
        .rsplit_once(':')
        .map_or((None, ports), |(host, container)| (Some(host), container));
    let (first, last) =
        port_range(container).ok_or_else(|| bad("ports are numbers from 1 to 65535, or ranges of them"))?;
    let host = match host {
        None | Some("") => None,
        Some(host) => {
            let range = port_range(host)
                .ok_or_else(|| bad("ports are numbers from 1 to 65535, or ranges of them"))?;
            if range.1 - range.0 != last - first {
                return Err(bad("the host's and the container's ranges differ in length"));
            }
            Some(range.0)
        }
    };
    Ok((first..=last)
        .map(|port| PortBinding {
            protocol: protocol.into(),
            container_port: port,
            host_ip: address.to_owned(),
            host_port: host.map_or(0, |host| host + port - first),
        })
        .collect())
}
