//! The options of the syslog driver: which server, how it is reached, what lines look like there.

use std::collections::BTreeMap;
use std::path::Path;

use pontoon_runtime::{SyslogAddress, SyslogFormat, TlsFiles};

use super::read;
use crate::logs::size;
use crate::{Error, Result};

pub(super) const SYSLOG: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];

/// Names of syslog(3), by number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// A syslog server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::logs) struct Server {
    pub address: SyslogAddress,
    pub facility: u8,
    pub format: SyslogFormat,
}

pub(super) fn server(options: &BTreeMap<&str, &str>) -> Result<Server> {
    let text = |key: &str| options.get(key).copied().unwrap_or_default();
    let format = match text("syslog-format") {
        "" => SyslogFormat::Unix,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424Micro,
        _ => return Err(Error::Invalid("Invalid syslog format".to_owned())),
    };
    Ok(Server {
        address: address(text("syslog-address"), options)?,
        facility: facility(text("syslog-facility"))?,
        format,
    })
}

fn facility(text: &str) -> Result<u8> {
    let by_name = || FACILITIES.iter().position(|name| *name == text);
    let by_number = || text.parse::<usize>().ok().filter(|number| *number <= 23);
    match text {
        "" => Ok(3),
        _ => by_name()
            .or_else(by_number)
            .and_then(|number| u8::try_from(number).ok())
            .ok_or_else(|| Error::Invalid("invalid syslog facility".to_owned())),
    }
}

pub(super) fn address(text: &str, options: &BTreeMap<&str, &str>) -> Result<SyslogAddress> {
    if text.is_empty() {
        return Ok(SyslogAddress::Local);
    }
    let no_url = || {
        Error::Invalid(format!(
            "syslog-address should be in form proto://address, got {text}"
        ))
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(no_url)?;
    if rest.is_empty() {
        return Err(no_url());
    }
    match scheme {
        "unix" | "unixgram" => {
            let path = Path::new(rest);
            std::fs::metadata(path).map_err(|error| Error::Io {
                what: format!("stat {rest}"),
                source: error,
            })?;
            Ok(match scheme {
                "unix" => SyslogAddress::Unix(path.to_owned()),
                _ => SyslogAddress::Unixgram(path.to_owned()),
            })
        }
        "udp" => Ok(SyslogAddress::Udp(host_and_port(rest)?)),
        "tcp" => Ok(SyslogAddress::Tcp(host_and_port(rest)?)),
        "tcp+tls" => Ok(SyslogAddress::Tls(host_and_port(rest)?, tls(options)?)),
        _ => Err(no_url()),
    }
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`; the port is 514 when none is given.
fn host_and_port(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    let has_port = match text.rsplit_once(']') {
        Some((_, after)) => !after.is_empty(),
        None => text.contains(':'),
    };
    if !has_port {
        return Ok(format!("{text}:514"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.contains(':') && !host.starts_with('[') {
        return Err(Error::Invalid(format!(
            "address {text}: too many colons in address"
        )));
    }
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(Error::Invalid(format!("address {text}: invalid host or port")));
    }
    Ok(text.to_owned())
}

fn tls(options: &BTreeMap<&str, &str>) -> Result<TlsFiles> {
    let file = |key: &str| match options.get(key) {
        None | Some(&"") => Ok(None),
        Some(path) => match std::fs::File::open(path) {
            Ok(_) => Ok(Some(Path::new(path).to_owned())),
            Err(source) => Err(Error::Io {
                what: format!("{key}: open {path}"),
                source,
            }),
        },
    };
    let files = TlsFiles {
        ca: file("syslog-tls-ca-cert")?,
        cert: file("syslog-tls-cert")?,
        key: file("syslog-tls-key")?,
        skip_verify: match options.get("syslog-tls-skip-verify") {
            Some(&"") => true,
            _ => read(options, "syslog-tls-skip-verify", size::boolean)?.unwrap_or(false),
        },
    };
    if files.cert.is_some() != files.key.is_some() {
        return Err(Error::Invalid(
            "syslog-tls-cert and syslog-tls-key must be used together".to_owned(),
        ));
    }
    Ok(files)
}
