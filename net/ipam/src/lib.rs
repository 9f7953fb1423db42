//! Address, subnet, VNI and port pools: who holds which number, and which is free next.
//!
//! # Layout
//! - [`AddressPool`]: the addresses of one subnet;
//! - [`SubnetPool`]: the subnets given to networks that asked for none;
//! - [`IdPool`]: plain numbers: VXLAN network identifiers and published ports;
//! - `interval`: the persistent interval set below the first and the last;
//! - [`Error`]: why a request was refused, fit to be shown to a user.
//!
//! Called by the controller's allocator (inside a transaction, so clones are O(1)) and by `pontoon-net` for
//! node-local networks. Pure: no clock, no randomness, no files; the same calls give the same answers.
#![forbid(unsafe_code)]

mod address;
mod error;
mod id;
mod interval;
mod subnet;

pub use address::{AddressPool, default_gateway};
pub use error::Error;
pub use id::{IdPool, PORT_RANGE, VNI_RANGE};
pub use subnet::SubnetPool;

/// Result of a pool operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
