//! Where etcd is and how to log in: `etcd://host:port[,host:port…][/prefix]` and a list of `name=value` options. Read by the
//! daemon from `--store` and `--store-opt`.

use std::fmt;
use std::time::Duration;

use crate::error::Error;

const SCHEME: &str = "etcd://";
const DEFAULT_PREFIX: &str = "/pontoon";
const OPTIONS: &str = "cacert, cert, key, user, password-file, seal-key-file, lease, compact";

/// Settings of the connection to etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` of each member.
    pub endpoints: Vec<String>,
    /// All keys begin with this; no slash at its end.
    pub prefix: String,
    /// PEM file with the roots that etcd's certificate must come from; given, the connection is TLS.
    pub cacert: Option<String>,
    /// PEM files of the client's certificate and key.
    pub identity: Option<(String, String)>,
    /// User of etcd's own authentication.
    pub user: Option<String>,
    /// File with that user's password.
    pub password_file: Option<String>,
    /// Files of the keys that entries and checkpoints are sealed with: the first seals, all open.
    pub seal_key_files: Vec<String>,
    /// A leader that is silent for this long loses its leadership; whole seconds, 2 to 60.
    pub lease: Duration,
    /// Whether the leader drops etcd's history of what is no longer needed, as Kubernetes' API servers do. To be switched off
    /// where etcd is shared with programs that read old revisions.
    pub compact: bool,
    /// So long an etcd that is just starting or electing is waited for when the log is opened.
    pub patience: Duration,
    /// Entries after which the state is written as a whole and older entries are deleted.
    pub snapshot_every: u64,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// Reads an address and options.
    ///
    /// # Errors
    /// [`Error::Config`] names what is wrong and what would be right.
    pub fn parse(store: &str, options: &[String]) -> Result<Self, Error> {
        let mut config = Self::parse_address(store)?;
        let (mut cert, mut key) = (None, None);
        for option in options {
            let (name, value) = option.split_once('=').ok_or_else(|| {
                Error::Config(format!("store option {option:?} is not of the form name=value"))
            })?;
            let value = value.to_owned();
            match name {
                "cacert" => config.cacert = Some(value),
                "cert" => cert = Some(value),
                "key" => key = Some(value),
                "user" => config.user = Some(value),
                "password-file" => config.password_file = Some(value),
                "seal-key-file" => config.seal_key_files.push(value),
                "lease" => config.lease = lease(&value)?,
                "compact" => config.compact = boolean(name, &value)?,
                _ => {
                    return Err(Error::Config(format!(
                        "unknown store option {name:?}; there are {OPTIONS}"
                    )));
                }
            }
        }
        config.identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(Error::Config(
                    "store options cert and key belong together".to_owned(),
                ));
            }
        };
        if config.identity.is_some() && config.cacert.is_none() {
            return Err(Error::Config(
                "store options cert and key need cacert, the roots that etcd's own certificate is checked with".to_owned(),
            ));
        }
        if config.user.is_some() != config.password_file.is_some() {
            return Err(Error::Config(
                "store options user and password-file belong together".to_owned(),
            ));
        }
        Ok(config)
    }

    fn parse_address(store: &str) -> Result<Self, Error> {
        let bad = |reason: &str| {
            Error::Config(format!(
                "store {store:?}: {reason}; it has the form etcd://host:port[,host:port...][/prefix]"
            ))
        };
        let rest = store
            .strip_prefix(SCHEME)
            .ok_or_else(|| bad("only etcd:// is known"))?;
        let (hosts, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, DEFAULT_PREFIX),
        };
        let prefix = prefix.trim_end_matches('/');
        let mut endpoints = Vec::new();
        for host in hosts.split(',') {
            let (name, port) = host.rsplit_once(':').ok_or_else(|| bad("a port is missing"))?;
            if name.is_empty() || name.contains(['@', ' ']) {
                return Err(bad("a host's name is missing or wrong"));
            }
            if port.parse::<u16>().is_err() {
                return Err(bad("a port is no number from 0 to 65535"));
            }
            endpoints.push(host.to_owned());
        }
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX } else { prefix };
        Ok(Self {
            endpoints,
            prefix: prefix.to_owned(),
            cacert: None,
            identity: None,
            user: None,
            password_file: None,
            seal_key_files: Vec::new(),
            lease: Duration::from_secs(3),
            compact: true,
            patience: Duration::from_secs(15),
            snapshot_every: 10_000,
        })
    }
}

fn lease(value: &str) -> Result<Duration, Error> {
    let seconds = value.strip_suffix('s').unwrap_or(value).parse::<u64>();
    match seconds {
        Ok(seconds @ 2..=60) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Config(format!(
            "store option lease is 2s to 60s, not {value:?}"
        ))),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool, Error> {
    value
        .parse()
        .map_err(|_| Error::Config(format!("store option {name} is true or false, not {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn an_address_has_hosts_and_perhaps_a_prefix() {
        let config = EtcdConfig::parse("etcd://a:2379,[::1]:2379/clusters/one/", &[]).unwrap();
        assert_eq!(config.endpoints, ["a:2379", "[::1]:2379"]);
        assert_eq!(config.prefix, "/clusters/one");
        let config = EtcdConfig::parse("etcd://a:2379", &[]).unwrap();
        assert_eq!(config.prefix, "/pontoon");
        assert!(config.compact && config.cacert.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (store, said) in [
            ("zk://a:1", "only etcd://"),
            ("etcd://a", "a port is missing"),
            ("etcd://a:b", "a port is no number"),
            ("etcd://:1", "host's name"),
            ("etcd://u@a:1", "host's name"),
        ] {
            let error = EtcdConfig::parse(store, &[]).unwrap_err().to_string();
            assert!(error.contains(said), "{store}: {error}");
        }
        for (option, said) in [
            ("cert=/x", "belong together"),
            ("user=u", "belong together"),
            ("lease=1s", "2s to 60s"),
            ("compact=maybe", "true or false"),
            ("speed=9", "unknown store option \"speed\""),
            ("cacert", "name=value"),
        ] {
            let error = EtcdConfig::parse("etcd://a:1", &options(&[option])).unwrap_err();
            assert!(error.to_string().contains(said), "{option}: {error}");
        }
        let lone = EtcdConfig::parse("etcd://a:1", &options(&["cert=/c", "key=/k"]));
        assert!(lone.unwrap_err().to_string().contains("cacert"));
    }

    #[test]
    fn options_are_taken() {
        let words = [
            "cacert=/ca",
            "cert=/c",
            "key=/k",
            "user=u",
            "password-file=/p",
            "seal-key-file=/new",
            "seal-key-file=/old",
            "lease=5s",
            "compact=false",
        ];
        let config = EtcdConfig::parse("etcd://a:1", &options(&words)).unwrap();
        assert_eq!(config.cacert.as_deref(), Some("/ca"));
        assert_eq!(config.identity, Some(("/c".to_owned(), "/k".to_owned())));
        assert_eq!((config.lease, config.compact), (Duration::from_secs(5), false));
        assert_eq!(config.seal_key_files, ["/new", "/old"]);
        assert!(
            !format!("{config:?}").contains("/p\""),
            "no settings of secrets in logs"
        );
    }
}
