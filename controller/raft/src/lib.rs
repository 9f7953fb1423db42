//! The replicated log of the managers: raft, write-ahead log, snapshots, transport, membership.
//!
//! # Layout
//! - [`Raft`]: makes, opens or joins a member; [`RaftHandle`]: propose, read, membership, leadership.
//! - `recover`: a group that begins anew from what is left of another.
//! - [`StateMachine`], [`Connector`]: what the controller supplies; [`RaftService`]: the gRPC service it serves.
//! - `core`: raft without I/O: values in, values out. `log`: its view of the entries in memory.
//! - `wal`: segments on disk; `snapshot`: snapshot files; `vfs`: the files beneath both; `seal`: their encryption.
//! - [`Host`]: the machine beneath, real or simulated. `node`: the raft thread and the apply thread; `transport`: streams to the peers.
//!
//! # Main path
//! `propose` → inbox → `core` → (peers and disk at the same time) → quorum → apply thread → answer.

#[cfg(test)]
mod cluster_tests;
mod config;
mod connector;
mod core;
mod error;
#[cfg(test)]
mod fuzz;
mod handle;
mod host;
mod log;
mod member;
mod members;
mod node;
mod recover;
mod seal;
mod service;
#[cfg(test)]
mod sim;
mod snapshot;
mod start;
mod state_machine;
mod transport;
mod validate;
mod vfs;
mod wal;
pub mod watch;

pub use config::Config;
pub use connector::{ConnectError, Connector};
pub use error::{Error, MembershipError, ProposeError, ReadError};
pub use handle::{RaftHandle, StopReason};
pub use host::{Host, Loop, Machine};
pub use member::{Leadership, Member, PeerProgress, Role, Status};
pub use node::MemberChange;
pub use recover::Salvaged;
pub use seal::{DataKey, KeyId, Keyring};
pub use service::{PeerIdentity, RaftService};
pub use start::Raft;
pub use state_machine::{SnapshotWriter, StateMachine};
#[cfg(feature = "simulation")]
pub use vfs::sim::{Fault, SimDisk};
pub use vfs::{Vfs, VfsFile};
