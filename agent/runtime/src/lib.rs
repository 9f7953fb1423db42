//! OCI container processes and the shim that holds them.
