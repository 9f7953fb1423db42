//! netd: what the node's network needs while the daemon is away. That is DNS at 127.0.0.11 in each
//! sandbox, and WireGuard for encrypted overlays where the kernel has none.
//!
//! # Layout
//! - [`state`]: sandboxes and zones, the values that both sides hold;
//! - [`NetdClient`]: the daemon's side: starts netd, keeps its state, heals it;
//! - [`netd_main`]: the process: control socket, lock, sandboxes;
//! - `protocol`: the JSON lines between the two;
//! - `dns`: tables, messages, servers and the forwarder;
//! - `wireguard`: the data plane of encrypted overlays;
//! - `netns`: sockets and devices opened inside another network namespace;
//! - [`Error`]: what the client reports.
//!
//! Called by `pontoon-net` (client) and by the binary's hidden `netd` subcommand.

mod client;
mod dns;
mod error;
mod netd;
mod netns;
mod protocol;
pub mod state;
mod wireguard;

pub use client::{NetdClient, NetdOptions};
pub use error::Error;
pub use netd::netd_main;
pub use state::{DnsPorts, SandboxDns, State, Zone};
pub use wireguard::{EncryptedNetwork, Mac, Peer, Prefix, PresharedKey, PrivateKey, PublicKey, Tunnel};
