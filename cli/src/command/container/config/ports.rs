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
    let ports: Result<Vec<_>, _> = options.publish.iter().map(|text| mapping(text)).collect();
    Ok(ports?.concat())
}

/// The short form, or `target=80,published=8080,protocol=udp,host_ip=127.0.0.1`.
fn mapping(text: &str) -> Result<Vec<PortBinding>, Failure> {
    if !text.contains('=') {
        return publish(text);
    }
    let bad = |why: String| Failure::new(format!("invalid published port {text:?}: {why}"));
    let (mut target, mut host, mut transport, mut address) = ("", "", "tcp", "");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("target", value)) => target = value,
            Some(("published", value)) => host = value,
            Some(("protocol", value)) => transport = value,
            Some(("host_ip", value)) => address = value,
            // One host is all there is.
            Some(("mode", "ingress" | "host")) => {}
            Some(("mode", other)) => return Err(bad(format!("invalid publish mode value {other}"))),
            _ => return Err(bad(format!("invalid field {field}"))),
        }
    }
    if target.is_empty() {
        return Err(bad("target is required".to_owned()));
    }
    let address = match address {
        "" => String::new(),
        ip if ip.contains(':') => format!("[{ip}]:"),
        ip => format!("{ip}:"),
    };
    let separator = if address.is_empty() && host.is_empty() {
        ""
    } else {
        ":"
    };
    publish(&format!("{address}{host}{separator}{target}/{transport}"))
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

/// `[[ip:][host-port]:]container-port[/protocol]`, with ranges. A host range for one container port means its first free
/// port.
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
    let binding = |container: u32, host_port: u32, host_port_end: u32| PortBinding {
        protocol: protocol.into(),
        container_port: container,
        host_ip: address.to_owned(),
        host_port,
        host_port_end,
    };
    let (from, to) = match host {
        None | Some("") => (0, 0),
        Some(host) => {
            port_range(host).ok_or_else(|| bad("ports are numbers from 1 to 65535, or ranges of them"))?
        }
    };
    if from == 0 {
        return Ok((first..=last).map(|port| binding(port, 0, 0)).collect());
    }
    if first == last && from != to {
        // One port of the container, on the first of the host's range that is free.
        return Ok(vec![binding(first, from, to)]);
    }
    if to - from != last - first {
        return Err(bad(&format!(
            "invalid ranges specified for container and host Ports: {container} and {}",
            host.unwrap_or_default()
        )));
    }
    Ok((first..=last)
        .map(|port| binding(port, from + port - first, 0))
        .collect())
}
