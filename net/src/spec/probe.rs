//! How other nodes are reached in an overlay network.
use std::{net::IpAddr, time::Duration};

/// How this node reaches another one in an overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The network.
    pub network: String,
    /// The other node, by its address on the underlay.
    pub peer: IpAddr,
    /// Largest packet that came back, in bytes with its IP header; 0 if none did.
    pub mtu: u32,
    /// Largest packet that containers send.
    pub wanted_mtu: u32,
    /// Shortest time from question to answer; zero if there was none.
    pub round_trip: Duration,
}
