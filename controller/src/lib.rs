//! The manager: Control API, dispatcher, CA, log broker, and the writer through which all state changes go.
//!
//! # Layout
//! - [`Manager`]: wiring; `leader`: what runs only while this manager leads.
//! - `writer`: the one place where state changes; `log`: the replicated log; `replica`: the store behind it;
//!   `external`: a log that lies in an etcd.
//! - `api`: Control service; `dispatcher`: agents' sessions; `ca`: certificates; `logs`: the log broker;
//!   `roles`: promotion and demotion; `settings`: what the cluster's settings may be.
//! - `images`: who has which image and who fetches it; services' images are pinned to digests.
//! - [`keys`]: what this manager's disk is sealed with, and the unlock key.
//! - `backup`: the state in an encrypted file; `recovery`: a cluster that begins anew from a survivor's log or from such a file.
//! - `events`: what `events` shows of the cluster; `checks`: overlay networks as the nodes find them (`network doctor`).
//! - `access`: who may call what on the cluster port; `forward`: followers pass writes on to the leader.
//!
//! # Main path
//! `service create` → `forward` (to the leader) → `api` → `writer`: one transaction, reconciled → one entry of the log
//! → `replica` applies it on every manager → the caller is answered, `dispatcher` sends assignments.
//!
//! # Start order (for the daemon)
//! 1. [`pontoon_identity::Identity`]: `RootCa::issue_credentials` for a new cluster, `request_certificate` with a token
//!    to join one, `Identity::open` after a restart.
//! 2. [`Manager::bootstrap`], [`Manager::join`] or [`Manager::open`]. Join returns before this manager has any state:
//!    the leader must be able to dial it first.
//! 3. Serve [`Manager::cluster_routes`] on the cluster port with `pontoon_identity::serve`, with the same
//!    [`pontoon_identity::Connections`] as in [`ManagerConfig`]; serve [`Manager::local_routes`] on the local socket.
//! 4. [`Manager::wait_ready`]; then the agent may dial this manager.
//!
//! To stop: end the servers, then [`Manager::shutdown`] (hands leadership over). To leave for good: [`Manager::leave`]
//! before that; afterwards the daemon removes the data folder. When [`Manager::stopped`] says that the member was removed
//! (this node was demoted) the daemon does the same without `leave`; the agent renews the certificate and goes on.

mod access;
mod api;
mod backup;
mod ca;
mod checks;
mod config;
mod connector;
mod core;
mod dispatcher;
mod error;
mod events;
mod external;
mod forward;
mod ids;
mod images;
mod init;
mod join;
pub mod keys;
mod layer;
mod leader;
mod log;
mod logs;
mod manager;
mod member_file;
mod members;
mod recovery;
mod replica;
mod roles;
mod settings;
mod sever;
mod status;
mod writer;

pub use backup::{Backup, BackupError, BackupKey, KeyError, read as read_backup};
pub use config::{ImageResolver, InitOptions, ManagerConfig, RaftTimers};
pub use connector::Network;
pub use error::Error;
pub use external::ExternalStore;
pub use manager::Manager;
pub use pontoon_raft::{Host, Leadership, Member, Role, StopReason, watch};
pub use settings::check_settings;
