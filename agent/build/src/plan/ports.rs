//! Ports of EXPOSE: `80`, `80/udp`, `8000-8010/tcp`, with a host part that is checked and dropped, as BuildKit does.

use std::net::IpAddr;

use crate::{Error, Result};

/// `port/protocol` for each port of a specification.
pub(super) fn parse(spec: &str) -> Result<Vec<String>> {
    let invalid = |reason: &str| Error::new(format!("invalid port: {}: {reason}", crate::quote::text(spec)));
    let (host, container) = spec.rsplit_once(':').unwrap_or(("", spec));
    let (ip, host_ports) = host.rsplit_once(':').unwrap_or(("", host));
    let (range, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    if range.is_empty() {
        return Err(invalid("no port specified"));
    }
    let protocol = match protocol.to_ascii_lowercase() {
        empty if empty.is_empty() => "tcp".to_owned(),
        known if matches!(known.as_str(), "tcp" | "udp" | "sctp") => known,
        _ => return Err(invalid(&format!("invalid proto: {protocol}"))),
    };
    let plain_ip = ip.trim_start_matches('[').trim_end_matches(']');
    if !ip.is_empty() && plain_ip.parse::<IpAddr>().is_err() {
        return Err(Error::new(format!("invalid IP address: {plain_ip}")));
    }
    let (first, last) = ports(range).ok_or_else(|| Error::new(format!("invalid containerPort: {range}")))?;
    if !host_ports.is_empty() {
        let wrong = || Error::new(format!("invalid hostPort: {host_ports}"));
        let (host_first, host_last) = ports(host_ports).ok_or_else(wrong)?;
        if last - first != host_last - host_first && first != last {
            return Err(Error::new(format!(
                "invalid ranges specified for container and host Ports: {range} and {host_ports}"
            )));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn ports(range: &str) -> Option<(u16, u16)> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications() {
        assert_eq!(parse("80").unwrap(), ["80/tcp"]);
        assert_eq!(parse("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(parse("8000-8002").unwrap().len(), 3);
        assert_eq!(parse("127.0.0.1:8080:80").unwrap(), ["80/tcp"]);
        for wrong in ["", "x", "70000", "9-8", "80/xyz", "1.2.3:1:2", "80:"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
