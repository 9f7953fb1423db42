//! Typed tables of the cluster's objects: transactions, changesets, watch, snapshots.
//!
//! # Layout
//! - [`Snapshot`]: one immutable version of all objects, with indexes; cheap to clone, read without locks;
//! - [`Tx`]: edits on top of a snapshot, checked for unique names; ends as a [`Changeset`](pontoon_proto::v1::Changeset), or as that and the
//!   snapshot it leads to ([`Made`]);
//! - [`Store`]: the published snapshot, and the bounded ring of what was applied last (watch);
//! - [`Object`], [`Kind`], [`Event`]: an object of any kind and what happened to it;
//! - [`codec`]: a snapshot as a byte stream; [`Error`]: why a request was refused.
//!
//! The way of data: `Snapshot` → `Tx` → `Changeset` → (log) → `Store::apply` → `Snapshot`. Called by the reconciler and
//! the controller. Pure: no clock, no randomness, no files, no threads; the same changesets give the same snapshot.

/// What this program knows of changesets and snapshots: those of a higher format are refused, not half understood. Raised by a
/// release whose new fields an older one must not lose; see `proto/README.md`.
pub const FORMAT: u32 = 2;

/// Since this format services can be jobs, back off, drain and depend on others, nodes and tasks have generic resources, and
/// nodes have containers in attachable networks.
pub(crate) const FORMAT_OF_JOBS: u32 = 2;

pub mod codec;
mod error;
mod find;
mod id;
mod made;
mod object;
mod snapshot;
mod store;
mod tables;
mod tx;

pub use error::{Error, Result};
pub use find::task_name;
pub use id::Id;
pub use made::Made;
pub use object::{Event, Kind, Object};
pub use snapshot::Snapshot;
pub use store::{Applied, ApplyOutcome, Resync, Store};

pub use tx::Tx;
