//! Ethernet frames as they are on the TAP and inside the tunnel. No input or output: bytes in, bytes out.
//!
//! - `layout`: where a frame's headers are;
//! - `vnet`: the header before each frame on the TAP;
//! - `segment`: long frames cut for the tunnel, `coalesce`: short ones joined for the TAP;
//! - `vxlan`: what goes before each frame inside the tunnel;
//! - `checksum`: RFC 1071.
//!
//! Called by the tunnel's `engine`.

pub(crate) mod checksum;
pub(crate) mod coalesce;
pub(crate) mod layout;
pub(crate) mod segment;
pub(crate) mod vnet;
pub(crate) mod vxlan;

#[cfg(test)]
mod tests;
