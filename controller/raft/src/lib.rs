//! The replicated log: raft core, write-ahead log, snapshots, membership, transport.
