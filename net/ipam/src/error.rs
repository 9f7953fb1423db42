//! Why a pool refused a request. The messages are shown to users as they are.

use std::net::IpAddr;

use ipnet::IpNet;

/// A refused pool operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The dynamic range of the subnet has no free address.
    #[error(
        "subnet {subnet} has no free address: all {size} usable addresses are taken; use a larger subnet"
    )]
    AddressesExhausted {
        /// The subnet that is full.
        subnet: IpNet,
        /// Number of addresses that can be given out dynamically, gateway not counted.
        size: u128,
    },
    /// The address is held by somebody.
    #[error("address {address} of subnet {subnet} is already in use")]
    AddressInUse {
        /// The address asked for.
        address: IpAddr,
        /// The subnet it belongs to.
        subnet: IpNet,
    },
    /// The address is not a host address of the subnet.
    #[error("address {address} is not a usable address of subnet {subnet}")]
    AddressOutside {
        /// The address asked for.
        address: IpAddr,
        /// The subnet of the pool.
        subnet: IpNet,
    },
    /// The dynamic range does not lie inside the subnet.
    #[error("address range {range} is not inside subnet {subnet}")]
    RangeOutside {
        /// The range asked for.
        range: IpNet,
        /// The subnet of the pool.
        subnet: IpNet,
    },
    /// Every subnet of every pool is taken.
    #[error("no free subnet is left in the address pools {pools}: add a pool or remove unused networks")]
    SubnetsExhausted {
        /// The pools, as `base/len in /size`, comma separated.
        pools: String,
    },
    /// The requested subnet shares addresses with another.
    #[error("subnet {requested} overlaps with {other}, which is already in use")]
    SubnetOverlap {
        /// The subnet asked for.
        requested: IpNet,
        /// The subnet that stands in its way.
        other: IpNet,
    },
    /// A pool cannot be cut into subnets of the given size.
    #[error("address pool {pool} cannot be cut into subnets of size /{size}")]
    InvalidPool {
        /// The pool's base.
        pool: IpNet,
        /// The prefix length of each subnet.
        size: u8,
    },
    /// Every id of the dynamic range is taken.
    #[error("no free {kind} is left between {first} and {last}")]
    IdsExhausted {
        /// What the ids name, such as `published port`.
        kind: &'static str,
        /// First id of the dynamic range.
        first: u32,
        /// Last id of the dynamic range.
        last: u32,
    },
    /// The id is held by somebody.
    #[error("{kind} {id} is already in use")]
    IdInUse {
        /// What the ids name.
        kind: &'static str,
        /// The id asked for.
        id: u32,
    },
    /// The id is not valid at all.
    #[error("{kind} {id} is not between {first} and {last}")]
    IdOutside {
        /// What the ids name.
        kind: &'static str,
        /// The id asked for.
        id: u32,
        /// Lowest valid id.
        first: u32,
        /// Highest valid id.
        last: u32,
    },
}
