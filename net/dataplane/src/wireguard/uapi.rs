//! WireGuard's configuration protocol ("cross-platform userspace implementation" interface of wireguard.com/xplatform): lines of
//! `key=value`, ended by an empty one. Text in, values out, and back; the socket is in `control`.

use std::{
    fmt::Write,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroize;

use super::{
    engine::View,
    keys::{PresharedKey, PrivateKey, PublicKey},
    spec::Prefix,
};

/// The error numbers that answers carry, as the kernel's interface has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errno {
    /// EINVAL: a key that is unknown here, or a value that is none.
    Invalid = 22,
    /// EPROTO: not the protocol at all.
    Protocol = 71,
    /// EADDRINUSE: the port is another's.
    InUse = 98,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Tell everything.
    Get,
    /// Change something.
    Set(Change),
}

/// A change; what is `None` stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The inner `None` takes the key away.
    pub(crate) private_key: Option<Option<PrivateKey>>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) mark: Option<u32>,
    pub(crate) replace_peers: bool,
    pub(crate) peers: Vec<PeerChange>,
}

/// A change of one peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PeerChange {
    pub(crate) public_key: PublicKey,
    pub(crate) remove: bool,
    pub(crate) update_only: bool,
    pub(crate) preshared_key: Option<Option<PresharedKey>>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: Option<u16>,
    pub(crate) replace_allowed: bool,
    /// False: taken away.
    pub(crate) allowed: Vec<(Prefix, bool)>,
}

impl PeerChange {
    fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed: false,
            allowed: Vec::new(),
        }
    }
}

/// Reads a request, without the empty line at its end.
pub(crate) fn parse(text: &str) -> Result<Request, Errno> {
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") if lines.next().is_none() => Ok(Request::Get),
        Some("set=1") => {
            let mut change = Change::default();
            for line in lines {
                let (key, value) = line.split_once('=').ok_or(Errno::Protocol)?;
                match change.peers.last_mut() {
                    Some(peer) if key != "public_key" => set_peer(peer, key, value)?,
                    _ => set_device(&mut change, key, value)?,
                }
            }
            Ok(Request::Set(change))
        }
        _ => Err(Errno::Protocol),
    }
}

fn set_device(change: &mut Change, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "private_key" => {
            let mut bytes = key_bytes(value)?;
            change.private_key = Some((bytes != [0; 32]).then(|| PrivateKey::new(bytes)));
            bytes.zeroize();
        }
        "listen_port" => change.listen_port = Some(number(value)?),
        "fwmark" => change.mark = Some(number(value)?),
        "replace_peers" => change.replace_peers = truth(value)?,
        "public_key" => change.peers.push(PeerChange::new(PublicKey(key_bytes(value)?))),
        _ => return Err(Errno::Invalid),
    }
    Ok(())
}

fn set_peer(peer: &mut PeerChange, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "remove" => peer.remove = truth(value)?,
        "update_only" => peer.update_only = truth(value)?,
        "preshared_key" => {
            let mut bytes = key_bytes(value)?;
            peer.preshared_key = Some((bytes != [0; 32]).then(|| PresharedKey::new(bytes)));
            bytes.zeroize();
        }
        "endpoint" => peer.endpoint = Some(number(value)?),
        "persistent_keepalive_interval" => peer.keepalive = Some(number(value)?),
        "replace_allowed_ips" => peer.replace_allowed = truth(value)?,
        "allowed_ip" => {
            let (text, added) = match value.strip_prefix('-') {
                Some(rest) => (rest, false),
                None => (value, true),
            };
            peer.allowed.push((number(text)?, added));
        }
        "protocol_version" if value == "1" => {}
        _ => return Err(Errno::Invalid),
    }
    Ok(())
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, Errno> {
    value.parse().map_err(|_| Errno::Invalid)
}

fn truth(value: &str) -> Result<bool, Errno> {
    match value {
        "true" => Ok(true),
        _ => Err(Errno::Invalid),
    }
}

fn key_bytes(value: &str) -> Result<[u8; 32], Errno> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(value, &mut bytes).map_err(|_| Errno::Invalid)?;
    Ok(bytes)
}

/// The answer to a request that came to nothing but this.
pub(crate) fn answer(result: Result<(), Errno>) -> String {
    let number = result.map_or_else(|errno| -(errno as i32), |()| 0);
    format!("errno={number}\n\n")
}

/// The answer to [`Request::Get`].
pub(crate) fn describe(view: &View, listen_port: u16, mark: u32, now: SystemTime) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(key) = &view.private_key {
        line("private_key", &hex::encode(key.bytes()));
    }
    line("listen_port", &listen_port);
    if mark != 0 {
        line("fwmark", &mark);
    }
    for peer in &view.peers {
        line("public_key", &hex::encode(peer.public_key.0));
        if let Some(key) = &peer.preshared_key {
            line("preshared_key", &hex::encode(key.bytes()));
        }
        line("protocol_version", &1);
        if let Some(endpoint) = peer.endpoint {
            line("endpoint", &endpoint);
        }
        // A point in time, not an age: clients reckon from 1970.
        let since = peer.handshake.and_then(|age| now.checked_sub(age));
        let since = since
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .unwrap_or(Duration::ZERO);
        line("last_handshake_time_sec", &since.as_secs());
        line("last_handshake_time_nsec", &since.subsec_nanos());
        line("tx_bytes", &peer.sent);
        line("rx_bytes", &peer.received);
        line("persistent_keepalive_interval", &peer.keepalive);
        for prefix in &peer.allowed {
            line("allowed_ip", prefix);
        }
    }
    text.push_str("errno=0\n\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wireguard::engine::PeerView;

    fn hex_of(byte: u8) -> String {
        hex::encode([byte; 32])
    }

    #[test]
    fn every_key_is_read() {
        let text = format!(
            "set=1\nprivate_key={}\nlisten_port=51820\nfwmark=7\nreplace_peers=true\npublic_key={}\nremove=true\n\
             public_key={}\nupdate_only=true\npreshared_key={}\nendpoint=[fd00::1]:7\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/64\nprotocol_version=1\n",
            hex_of(1),
            hex_of(2),
            hex_of(3),
            hex_of(4)
        );
        let removed = PeerChange {
            remove: true,
            ..PeerChange::new(PublicKey([2; 32]))
        };
        let changed = PeerChange {
            update_only: true,
            preshared_key: Some(Some(PresharedKey::new([4; 32]))),
            endpoint: Some("[fd00::1]:7".parse().unwrap()),
            keepalive: Some(25),
            replace_allowed: true,
            allowed: vec![
                ("10.0.0.0/8".parse().unwrap(), true),
                ("fd00::/64".parse().unwrap(), false),
            ],
            ..PeerChange::new(PublicKey([3; 32]))
        };
        let change = Change {
            private_key: Some(Some(PrivateKey::new([1; 32]))),
            listen_port: Some(51_820),
            mark: Some(7),
            replace_peers: true,
            peers: vec![removed, changed],
        };
        assert_eq!(parse(&text), Ok(Request::Set(change)));
        assert_eq!(parse("get=1\n"), Ok(Request::Get));
        let none = format!(
            "set=1\nprivate_key={}\npublic_key={}\npreshared_key={}\n",
            hex_of(0),
            hex_of(1),
            hex_of(0)
        );
        let Ok(Request::Set(change)) = parse(&none) else {
            panic!("it is right");
        };
        assert_eq!(
            (change.private_key, change.peers[0].preshared_key.clone()),
            (Some(None), Some(None))
        );
    }

    #[test]
    fn mistakes_have_numbers() {
        for text in ["", "get=2", "get=1\nx=1", "set=1\nlisten_port", "set=2\n"] {
            assert_eq!(parse(text), Err(Errno::Protocol), "{text}");
        }
        let peer = format!("set=1\npublic_key={}\n", hex_of(1));
        for line in [
            "listen_port=70000",
            "fwmark=-1",
            "replace_peers=false",
            "private_key=00",
            "allowed_ip=10.0.0.0/8",
            "public_key=zz",
        ] {
            assert_eq!(parse(&format!("set=1\n{line}\n")), Err(Errno::Invalid), "{line}");
        }
        for line in [
            "listen_port=1",
            "endpoint=host:1",
            "allowed_ip=10.0.0.0/33",
            "protocol_version=2",
            "persistent_keepalive_interval=65536",
            "remove=1",
        ] {
            assert_eq!(parse(&format!("{peer}{line}\n")), Err(Errno::Invalid), "{line}");
        }
        assert_eq!(answer(Err(Errno::Invalid)), "errno=-22\n\n");
        assert_eq!(answer(Ok(())), "errno=0\n\n");
    }

    #[test]
    fn handshakes_are_told_as_points_in_time() {
        let view = View {
            private_key: None,
            peers: vec![PeerView {
                public_key: PublicKey([9; 32]),
                preshared_key: None,
                endpoint: Some("10.0.0.2:51820".parse().unwrap()),
                keepalive: 25,
                allowed: vec!["100.64.0.2/32".parse().unwrap()],
                handshake: Some(Duration::from_millis(1500)),
                sent: 11,
                received: 22,
            }],
        };
        let text = describe(&view, 51_820, 0, UNIX_EPOCH + Duration::from_secs(1000));
        let expected = format!(
            "listen_port=51820\npublic_key={}\nprotocol_version=1\nendpoint=10.0.0.2:51820\nlast_handshake_time_sec=998\n\
             last_handshake_time_nsec=500000000\ntx_bytes=11\nrx_bytes=22\npersistent_keepalive_interval=25\n\
             allowed_ip=100.64.0.2/32\nerrno=0\n\n",
            hex_of(9)
        );
        assert_eq!(text, expected);
    }

    proptest! {
        #[test]
        fn hostile_requests_are_only_refused(
            lines in prop::collection::vec(
                "(set=1|get=1|public_key=[0-9a-f]{64}|[a-z_]{1,12}=.{0,20}|endpoint=.{0,30}|allowed_ip=-?.{0,20}|.{0,10})",
                0..12,
            ),
        ) {
            let _ = parse(&lines.join("\n"));
        }
    }
}
