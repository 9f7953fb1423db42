//! Netlink with whole batches in one `sendmsg`: links, addresses, routes, neighbours and, through the same encoder,
//! nftables and conntrack ([`crate::firewall`]).
//!
//! A [`Batch`] gathers requests, a [`Socket`] sends them and reads what the kernel answers. The kernel works on
//! netlink requests inside `sendmsg`, so everything here is synchronous and takes micro- to milliseconds; it runs on
//! the network thread ([`crate::worker`]), never on a tokio worker. A socket stays bound to the namespace in which
//! it was opened.
mod address;
mod inspect;
mod link;
mod message;
mod neighbour;
mod query;
mod socket;

pub use address::DefaultRoute;
pub use inspect::{LinkState, Tunnel};
pub use link::{Below, BridgeLink, PortFlags, SubLink, Veth, VxlanLink};
pub use message::{Attributes, Batch, Message, NESTED};
pub use neighbour::Neighbour;
pub use query::Link;
pub use socket::{Protocol, Socket};
