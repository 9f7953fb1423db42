//! The `pontoon` nftables tables, written over netlink: [`host`] on the host (NAT, isolation, published ports, routing
//! mesh; one table for each address family), [`sandbox`] in a container's namespace (VIPs, DNS redirect).
//!
//! Rules are fixed; what changes are elements of sets and maps. Our chains accept (that is: leave to others) or drop
//! only what concerns our interfaces. In nftables a drop in anyone's chain is final, so where the host's own
//! firewall drops forwarded packets, containers stay unreachable until the administrator allows it there, or has us do
//! that ([`foreign`]).
mod conntrack;
mod expression;
pub mod foreign;
pub mod host;
pub mod nft;
pub mod sandbox;
pub mod slots;
mod watch;

pub use conntrack::{Stale, forget, tracked};
pub use watch::{Noticed, Watcher};
