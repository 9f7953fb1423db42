//! netd: what the node's network needs while the daemon is away.
