//! A daemon's address as people write it: `unix:///path` or `ssh://[user@]host[:port][/path]`.

use std::path::{Path, PathBuf};

use crate::error::Failure;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pontoon/pontoon.sock";

/// How a daemon is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this host.
    Unix(PathBuf),
    /// A daemon of another host, through ssh(1) and `pontoon system dial-stdio` there.
    Ssh {
        /// `[user@]host`, as ssh(1) takes it.
        destination: String,
        /// ssh's `-p`.
        port: Option<u16>,
        /// The socket there; the far side's default if none.
        socket: Option<String>,
    },
}

impl Address {
    /// Reads an address; none or an empty one is the default socket.
    ///
    /// # Errors
    /// Quotes the text and names the forms that are understood.
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self::Unix(PathBuf::from(DEFAULT_SOCKET)));
        };
        if let Some(path) = text.strip_prefix("unix://") {
            if path.starts_with('/') {
                return Ok(Self::Unix(Path::new(path).to_owned()));
            }
            return Err(Failure::new(format!(
                "invalid host {text:?}: unix:// needs an absolute path"
            )));
        }
        if let Some(rest) = text.strip_prefix("ssh://") {
            return ssh(rest).ok_or_else(|| {
                Failure::new(format!(
                    "invalid host {text:?}: use ssh://[user@]host[:port][/path/to/socket]"
                ))
            });
        }
        Err(Failure::new(format!(
            "invalid host {text:?}: this version connects to unix:///path/to/pontoon.sock and to ssh://[user@]host[:port]"
        )))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Ssh {
                destination,
                port,
                socket,
            } => {
                write!(f, "ssh://{destination}")?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or_default())
            }
        }
    }
}

fn ssh(rest: &str) -> Option<Address> {
    let (authority, socket) = match rest.find('/') {
        Some(at) => (&rest[..at], Some(&rest[at..]).filter(|path| path.len() > 1)),
        None => (rest, None),
    };
    let host_at = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, host) = authority.split_at(host_at);
    // An IPv6 address has its colons in brackets.
    let colon = host.rfind(':').filter(|at| !host[*at..].contains(']'));
    let (host, port) = match colon {
        Some(at) => (&host[..at], Some(host[at + 1..].parse().ok()?)),
        None => (host, None),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let bad = |text: &str| text.is_empty() || text.starts_with('-') || text.contains(char::is_whitespace);
    // What begins with a dash would be an option of ssh; a password does not belong on a command line.
    if bad(host) || user == "@" || user.starts_with('-') || user.contains(':') {
        return None;
    }
    Some(Address::Ssh {
        destination: format!("{user}{host}"),
        port,
        socket: socket.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let parse = |text| Address::parse(Some(text));
        let shown = |text| parse(text).unwrap().to_string();
        assert_eq!(
            Address::parse(None).unwrap().to_string(),
            format!("unix://{DEFAULT_SOCKET}")
        );
        assert_eq!(shown(""), format!("unix://{DEFAULT_SOCKET}"));
        for text in [
            "unix:///a/b.sock",
            "ssh://web1",
            "ssh://root@web1:2222",
            "ssh://root@web1:2222/run/p/pontoon.sock",
        ] {
            assert_eq!(shown(text), text);
        }
        let Address::Ssh {
            destination, port, ..
        } = parse("ssh://me@[fd00::1]:22").unwrap()
        else {
            panic!("an ssh address");
        };
        assert_eq!((destination.as_str(), port), ("me@fd00::1", Some(22)));
        for text in [
            "unix://a",
            "tcp://1.2.3.4:2377",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://me:secret@host",
            "ssh://host:port",
            "ssh://@host",
        ] {
            assert!(parse(text).unwrap_err().message.contains(text), "{text}");
        }
    }
}
