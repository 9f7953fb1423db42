//! The data plane of encrypted overlays, where the kernel has no WireGuard: VXLAN inside WireGuard, in this process.
//!
//! A frame's way: container, bridge of the network, TAP in the network's hidden namespace, here; cut to the MTU, VXLAN and UDP and IP written
//! before it, encrypted, sent as a run of datagrams. And back. What is on the wire is what a kernel with a VXLAN device over a WireGuard
//! device sends and understands. `DESIGN.md` beside this file has the reasons.
//!
//! # Layout
//! - `keys`, `spec`: what the daemon asks for;
//! - `engine`: sessions, tables, what goes where; no input or output;
//! - `frame`: bytes of frames;
//! - `outbox`: datagrams that go together;
//! - `tap`, `socket`: the two ends, with the kernel's offload;
//! - `worker`: threads between the ends;
//! - `device`: all of it as one tunnel, what netd holds;
//! - `uapi`: WireGuard's configuration protocol, `control`: the socket that speaks it.

mod control;
mod device;
mod engine;
mod frame;
mod keys;
mod outbox;
mod socket;
mod spec;
mod tap;
mod uapi;
mod worker;

pub(crate) use device::{Device, fits};
pub use keys::{PresharedKey, PrivateKey, PublicKey};
pub use spec::{EncryptedNetwork, Mac, Peer, Prefix, Tunnel};
