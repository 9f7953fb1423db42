//! Typed tables of the cluster's objects: transactions, changesets, watch, snapshots.
