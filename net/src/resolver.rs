//! Contents of /etc/resolv.conf and /etc/hosts of containers (resolv.conf(5), hosts(5)), as Docker writes them.
use std::{
    fmt::Write as _,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use crate::{Error, Resolver, Result, SandboxMode, SandboxSpec, firewall::sandbox::DNS_ADDRESS};

/// Docker's fallback where the host names no server that a container could reach.
const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];

/// The host's resolver settings.
#[derive(Debug)]
pub struct HostResolver(pub Resolver);

impl HostResolver {
    /// Reads a resolv.conf; an absent one is empty.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self(parse(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(Resolver::default())),
            Err(source) => Err(Error::File {
                operation: "read",
                path: path.into(),
                source,
            }),
        }
    }
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A scope (fe80::1%eth0) means nothing elsewhere.
                if let Some(ip) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) {
                    resolver.servers.push(SocketAddr::new(ip, 53));
                }
            }
            Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    resolver
}

/// resolv.conf of a container: netd's address where names are served, else the host's servers that can be reached.
pub fn resolv_conf(resolver: &Resolver, embedded: bool, mode: SandboxMode, ipv6: bool) -> String {
    let mut servers: Vec<IpAddr> = resolver.servers.iter().map(SocketAddr::ip).collect();
    let mut options = resolver.options.clone();
    if embedded {
        servers = vec![DNS_ADDRESS.into()];
        if !options.iter().any(|o| o.starts_with("ndots:")) {
            options.push("ndots:0".into());
        }
    } else if mode == SandboxMode::Managed {
        servers.retain(|ip| !ip.is_loopback() && (ipv6 || ip.is_ipv4()));
        if servers.is_empty() {
            servers.extend(PUBLIC.map(IpAddr::V4));
        }
    }
    let mut text = String::new();
    let lines = servers.iter().map(|ip| format!("nameserver {ip}"));
    let search = (!resolver.search.is_empty()).then(|| format!("search {}", resolver.search.join(" ")));
    let options = (!options.is_empty()).then(|| format!("options {}", options.join(" ")));
    for line in lines.chain(search).chain(options) {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The hosts file of a container.
pub fn hosts(spec: &SandboxSpec, addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in &spec.extra_hosts {
        let _ = writeln!(text, "{address}\t{name}");
    }
    if !spec.hostname.is_empty() {
        let short = spec.hostname.split('.').next().unwrap_or_default();
        let names = if short == spec.hostname {
            short.to_owned()
        } else {
            format!("{} {short}", spec.hostname)
        };
        for address in addresses {
            let _ = writeln!(text, "{address}\t{names}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_settings_are_read_and_cleaned() {
        let host =
            parse("# x\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nsearch a.b c.d\noptions edns0\nbad\n");
        assert_eq!(host.servers.len(), 2);
        let text = resolv_conf(&host, false, SandboxMode::Managed, false);
        assert_eq!(text, "nameserver 10.1.1.1\nsearch a.b c.d\noptions edns0\n");
        let text = resolv_conf(&host, true, SandboxMode::Managed, false);
        assert_eq!(
            text,
            "nameserver 127.0.0.11\nsearch a.b c.d\noptions edns0 ndots:0\n"
        );
        let text = resolv_conf(
            &parse("nameserver 127.0.0.53"),
            false,
            SandboxMode::Managed,
            false,
        );
        assert_eq!(text, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert!(resolv_conf(&host, false, SandboxMode::Host, false).contains("127.0.0.53"));
    }

    #[test]
    fn the_hosts_file_names_the_container() {
        let mut spec = SandboxSpec::new("x", SandboxMode::Managed);
        spec.hostname = "web.example".into();
        spec.extra_hosts
            .push(("db".into(), Ipv4Addr::new(10, 0, 0, 9).into()));
        let text = hosts(&spec, &[Ipv4Addr::new(172, 17, 0, 2).into()]);
        assert!(
            text.ends_with("10.0.0.9\tdb\n172.17.0.2\tweb.example web\n"),
            "{text}"
        );
    }
}
