//! What the daemon's settings say about registries: mirrors, insecure registries, folders of certificates, how much at once and
//! how long to wait. Made by the daemon from its flags; replaced by a reload.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use reqwest::Url;

use super::error::{Error, Result};

/// Settings of the registry client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Asked before Docker Hub, in order.
    mirrors: Vec<Url>,
    /// Registries whose certificate is not checked and that may speak plain HTTP.
    insecure: Vec<Insecure>,
    /// Folders with a folder of certificates for each registry.
    pub certs_dirs: Vec<PathBuf>,
    /// Layers of one pull that are downloaded at once.
    pub max_downloads: usize,
    /// Layers of one push that are uploaded at once.
    pub max_uploads: usize,
    /// How often a request is tried.
    pub max_attempts: u32,
    /// How long things may take.
    pub patience: Patience,
}

/// How long the client waits. Transfers have no total time: what counts is that something moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// A transfer must move `window_bytes` in each window of this length.
    pub window: Duration,
    /// See `window`.
    pub window_bytes: u64,
    /// First pause before a request is repeated; the next are twice as long each.
    pub back_off: Duration,
    /// Longest pause, also of those that a registry asks for.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            window: Duration::from_secs(60),
            window_bytes: 4096,
            back_off: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

impl Default for RegistrySettings {
    fn default() -> Self {
        RegistrySettings {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            certs_dirs: vec!["/etc/docker/certs.d".into(), "/etc/pontoon/certs.d".into()],
            max_downloads: 3,
            max_uploads: 5,
            max_attempts: 5,
            patience: Patience::default(),
        }
    }
}

/// One entry of `insecure-registries`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Insecure {
    Net(IpNet),
    /// `host` or `host:port`.
    Host(String),
}

impl RegistrySettings {
    /// Adds a mirror of Docker Hub: `https://host[:port][/path]`.
    ///
    /// # Errors
    /// Dockerd's words for what is no such address.
    pub fn add_mirror(&mut self, text: &str) -> Result<()> {
        let bad = |why: &str| Error::Settings(format!("invalid mirror: {why}: {text:?}"));
        let mut url = Url::parse(text).map_err(|_| bad("it is not a valid URI"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("unsupported scheme, use http or https"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("no host specified"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("query and fragment are not supported"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("username/password not supported"));
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        if !self.mirrors.contains(&url) {
            self.mirrors.push(url);
        }
        Ok(())
    }

    /// Adds an insecure registry: `host[:port]` or a subnet.
    ///
    /// # Errors
    /// Dockerd's words for what is neither.
    pub fn add_insecure(&mut self, text: &str) -> Result<()> {
        if text.contains("://") {
            return Err(Error::Settings(format!(
                "insecure registry {text} should not contain '://'"
            )));
        }
        let entry = match text.parse::<IpNet>() {
            Ok(net) => Insecure::Net(net),
            Err(_) if text.is_empty() || text.contains(['/', '@', ' ']) => {
                return Err(Error::Settings(format!(
                    "insecure registry {text} is not valid: use host[:port] or a subnet"
                )));
            }
            Err(_) => Insecure::Host(text.to_ascii_lowercase()),
        };
        if !self.insecure.contains(&entry) {
            self.insecure.push(entry);
        }
        Ok(())
    }

    /// The mirrors of Docker Hub.
    pub(super) fn mirrors(&self) -> &[Url] {
        &self.mirrors
    }

    /// As `info` shows them.
    pub fn shown_mirrors(&self) -> Vec<String> {
        self.mirrors.iter().map(ToString::to_string).collect()
    }

    /// As `info` shows them: subnets and hosts, loopback among them.
    pub fn shown_insecure(&self) -> Vec<String> {
        let given = self.insecure.iter().map(|entry| match entry {
            Insecure::Net(net) => net.to_string(),
            Insecure::Host(host) => host.clone(),
        });
        given
            .chain(["::1/128".to_owned(), "127.0.0.0/8".to_owned()])
            .collect()
    }

    /// True if a registry (`host[:port]`) is named as insecure, or has an address that is; loopback always is. `resolved` are
    /// the host's addresses.
    pub(super) fn is_insecure(&self, domain: &str, resolved: &[IpAddr]) -> bool {
        let host = host_of(domain);
        let named = |entry: &Insecure| match entry {
            Insecure::Net(net) => resolved.iter().any(|address| net.contains(address)),
            Insecure::Host(name) => name == domain || name == host,
        };
        resolved.iter().any(IpAddr::is_loopback) || self.insecure.iter().any(named)
    }
}

/// The host of `host[:port]`, an IPv6 address without its brackets.
pub(super) fn host_of(domain: &str) -> &str {
    if let Some(rest) = domain.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    domain.rsplit_once(':').map_or(domain, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_addresses() {
        let mut settings = RegistrySettings::default();
        for good in ["https://m.example", "http://10.0.0.1:5000/hub"] {
            settings.add_mirror(good).unwrap();
        }
        assert_eq!(
            settings.shown_mirrors(),
            ["https://m.example/", "http://10.0.0.1:5000/hub/"]
        );
        for bad in [
            "m.example",
            "ftp://m",
            "https://u:p@m",
            "https://m/?q",
            "https://m/#f",
            "",
        ] {
            let error = settings.add_mirror(bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid mirror: "), "{error}");
        }
    }

    #[test]
    fn insecure_by_name_subnet_and_loopback() {
        let mut settings = RegistrySettings::default();
        settings.add_insecure("10.0.0.0/8").unwrap();
        settings.add_insecure("Reg.example:5000").unwrap();
        settings.add_insecure("other.example").unwrap();
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert!(settings.is_insecure("any.example", &address("10.1.2.3")));
        assert!(!settings.is_insecure("any.example", &address("11.1.2.3")));
        assert!(settings.is_insecure("localhost:5000", &address("127.0.0.1")));
        assert!(settings.is_insecure("[::1]:5000", &address("::1")));
        assert!(settings.is_insecure("reg.example:5000", &[]));
        assert!(!settings.is_insecure("reg.example", &[]));
        assert!(settings.is_insecure("other.example:123", &[]));
        assert!(settings.add_insecure("http://x").is_err());
        assert!(settings.add_insecure("x/y").is_err());
    }
}
