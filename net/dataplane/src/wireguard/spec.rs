//! What the daemon asks for: the node's tunnel, its peers, and the networks whose frames go through it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::keys::{PresharedKey, PrivateKey, PublicKey};

/// The node's end of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its keys, the newest first. A peer that does not know the newest yet is served with the next.
    pub private_keys: Vec<PrivateKey>,
    /// The UDP port; 0 for any.
    pub listen_port: u16,
    /// Mark of the encrypted packets, for the host's routing rules; 0 for none.
    #[serde(default)]
    pub mark: u32,
    /// The node's address inside the tunnel. Not its data path address: where a kernel's WireGuard device routes the tunnel
    /// addresses, a route to the data path address would swallow the encrypted packets themselves.
    pub address: Ipv4Addr,
    /// MTU of the way between the nodes.
    pub mtu: u16,
    /// The configuration socket that `wg` and wireguard-control use (`/var/run/wireguard/NAME.sock`); none without.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// The other nodes, by a name of the caller's.
    #[serde(default)]
    pub peers: BTreeMap<String, Peer>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its keys, the newest first. The first with which a session is up is used.
    pub public_keys: Vec<PublicKey>,
    /// Shared key.
    #[serde(default)]
    pub preshared_key: Option<PresharedKey>,
    /// Where it is; unknown behind a NAT, until it speaks. It is followed when it moves.
    #[serde(default)]
    pub endpoint: Option<SocketAddr>,
    /// Seconds between packets that keep a NAT open; 0 for none.
    #[serde(default)]
    pub keepalive: u16,
    /// The addresses inside the tunnel that are its own.
    pub allowed: Vec<Prefix>,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// How many bits of it count.
    pub length: u8,
}

/// A network whose frames go through the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedNetwork {
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// The hidden namespace that its bridge is in.
    pub netns: PathBuf,
    /// The name that the TAP has there.
    pub device: String,
    /// MTU of the network; at most [`Tunnel::frame_mtu`].
    pub mtu: u16,
    /// Remote endpoints: the tunnel address of the node that each is on.
    #[serde(default)]
    pub endpoints: BTreeMap<Mac, Ipv4Addr>,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// WireGuard's overhead with an outer IPv6 header: 40 + 8 + 16 + 16.
const WIREGUARD: u16 = 80;
/// VXLAN's: the frame's Ethernet header, VXLAN, UDP, IPv4.
const VXLAN: u16 = 50;

impl Tunnel {
    /// The largest MTU that a network in the tunnel may have.
    #[must_use]
    pub fn frame_mtu(&self) -> u16 {
        self.mtu.saturating_sub(WIREGUARD + VXLAN)
    }
}

impl Prefix {
    /// The block of one address.
    #[must_use]
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no block of addresses");
        let Some((address, length)) = text.split_once('/') else {
            return text.parse::<IpAddr>().map(Self::host).map_err(|_| wrong());
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (length <= most)
            .then_some(Self { address, length })
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text} is no Ethernet address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_written() {
        for text in ["10.0.0.0/8", "fd00::/64", "1.2.3.4/32"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("1.2.3.4".parse(), Ok(Prefix::host(Ipv4Addr::new(1, 2, 3, 4))));
        for text in ["", "1.2.3.4/33", "1.2.3/8", "::/129", "::/-1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        assert_eq!(
            "02:42:0a:00:00:02".parse::<Mac>().unwrap().to_string(),
            "02:42:0a:00:00:02"
        );
        for text in ["", "02:42", "02:42:0a:00:00:02:03", "g2:42:0a:00:00:02"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
