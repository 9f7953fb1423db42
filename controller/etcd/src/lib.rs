//! The managers' log on an external etcd, for those who run one already: the same entries and the same state machine as the
//! embedded raft log, so the controller above notices no difference.
//!
//! # Layout
//! - [`EtcdLog`]: opened by the controller; propose, read, leadership, members.
//! - [`EtcdConfig`]: where etcd is and how to log in; read from `--store etcd://…` and `--store-opt`.
//! - `keys`: what lies under which key; `client`: the connection, and what its errors mean.
//! - `seal`: what encrypts entries and checkpoints before they leave.
//! - `follow`: reads the log and watches it, resumes after compaction and cuts; `applier`: the state machine.
//! - `lead`: lease, campaign, term; `propose`: the guarded transaction; `checkpoint`: state chunks, trimming, compaction.
//!
//! # Main path
//! `propose` → one transaction, guarded by the leader's key and the log's head → applied here → answer. The other managers see
//! the entry through their watch.

mod applier;
mod checkpoint;
mod client;
mod config;
mod error;
mod follow;
mod keys;
mod lead;
mod log;
mod propose;
mod seal;
mod view;

pub use config::EtcdConfig;
pub use error::Error;
pub use log::EtcdLog;
