//! Snapshots.
pub(crate) struct SnapshotMeta;
pub(crate) struct SnapshotStore;
