//! The addresses of one subnet.
//!
//! Next-fit: the search goes on after the last address given, so that a released address rests until the pool has
//! gone round. A peer whose tables still name the old holder then talks to nobody rather than to a stranger.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Error, Result, interval::IntervalSet};

/// The addresses of one subnet: which are held, and which is given next. A clone is O(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    subnet: IpNet,
    gateway: Option<IpAddr>,
    /// First and last host address of the subnet.
    hosts: (u128, u128),
    /// First and last address that `allocate` may choose.
    dynamic: (u128, u128),
    used: IntervalSet,
    cursor: u128,
}

/// An address as a number; the family is known from the pool.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// First and last host address: IPv4 leaves out network and broadcast but for /31 (RFC 3021) and /32; IPv6
/// leaves out the subnet-router anycast address (RFC 4291 section 2.6.1) but for /127 (RFC 6164) and /128.
fn host_bounds(net: &IpNet) -> (u128, u128) {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    let whole = net.max_prefix_len() - net.prefix_len() < 2;
    match net {
        _ if whole => (first, last),
        IpNet::V4(_) => (first + 1, last - 1),
        IpNet::V6(_) => (first + 1, last),
    }
}

/// The gateway of a subnet whose user named none: its first host address.
#[must_use]
pub fn default_gateway(subnet: &IpNet) -> IpAddr {
    let first = host_bounds(subnet).0;
    match subnet {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(first).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(first)),
    }
}

impl AddressPool {
    /// The pool of `subnet` (host bits are ignored). `range` narrows what [`allocate`](Self::allocate) chooses from
    /// (Docker's `--ip-range`); `gateway` is held for ever.
    ///
    /// # Errors
    /// [`Error::RangeOutside`] or [`Error::AddressOutside`] if `range` or `gateway` is not in the subnet.
    pub fn new(subnet: IpNet, range: Option<IpNet>, gateway: Option<IpAddr>) -> Result<Self> {
        let subnet = subnet.trunc();
        let hosts = host_bounds(&subnet);
        let dynamic = match range {
            None => hosts,
            Some(range) if subnet.contains(&range) => {
                let (first, last) = (number(range.network()), number(range.broadcast()));
                (first.max(hosts.0), last.min(hosts.1))
            }
            Some(range) => return Err(Error::RangeOutside { range, subnet }),
        };
        let used = IntervalSet::default();
        let mut pool = Self {
            subnet,
            gateway,
            hosts,
            dynamic,
            used,
            cursor: dynamic.0,
        };
        if let Some(gateway) = gateway {
            pool.reserve(gateway)?;
        }
        Ok(pool)
    }

    /// Marks each of `used` and sets the pool so that the next choice is the one after the highest of them; the
    /// order of `used` does not matter and repeats are harmless.
    ///
    /// # Errors
    /// [`Error::AddressOutside`] names the first address that is not in the subnet.
    pub fn with_used(mut self, used: impl IntoIterator<Item = IpAddr>) -> Result<Self> {
        for address in used {
            self.reserve(address)?;
        }
        let highest = self.used.highest_up_to(self.dynamic.1);
        self.cursor = highest.map_or(self.dynamic.0, |address| address.saturating_add(1));
        Ok(self)
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The gateway's address.
    #[must_use]
    pub fn gateway(&self) -> Option<IpAddr> {
        self.gateway
    }

    /// Takes a free address of the dynamic range.
    ///
    /// # Errors
    /// [`Error::AddressesExhausted`] if none is free.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let (low, high) = self.dynamic;
        let gap = if low <= high {
            self.used.next_gap(self.cursor, low, high)
        } else {
            None
        };
        let address = gap.ok_or(Error::AddressesExhausted {
            subnet: self.subnet,
            size: self.size(),
        })?;
        self.used.insert(address);
        self.cursor = address.saturating_add(1);
        Ok(self.address(address))
    }

    /// Takes this very address; it may lie outside the dynamic range.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] if somebody holds it, [`Error::AddressOutside`] if it is no host address of the subnet.
    pub fn allocate_specific(&mut self, address: IpAddr) -> Result<()> {
        let subnet = self.subnet;
        if self.reserve(address)? {
            Ok(())
        } else {
            Err(Error::AddressInUse { address, subnet })
        }
    }

    /// Marks an address as used, whether it is already or not; true if it was free.
    ///
    /// # Errors
    /// [`Error::AddressOutside`] if it is no host address of the subnet.
    pub fn reserve(&mut self, address: IpAddr) -> Result<bool> {
        if !self.contains(address) {
            return Err(Error::AddressOutside {
                address,
                subnet: self.subnet,
            });
        }
        Ok(self.used.insert(number(address)))
    }

    /// Gives an address back; false if it was not in use. The gateway stays.
    pub fn release(&mut self, address: IpAddr) -> bool {
        self.contains(address) && self.gateway != Some(address) && self.used.remove(number(address))
    }

    /// Whether the address is a host address of the subnet, held or not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && (self.hosts.0..=self.hosts.1).contains(&number(address))
    }

    /// Whether somebody holds the address.
    #[must_use]
    pub fn is_used(&self, address: IpAddr) -> bool {
        self.contains(address) && self.used.contains(number(address))
    }

    /// Number of addresses held, the gateway among them.
    #[must_use]
    pub fn in_use(&self) -> u128 {
        self.used.len()
    }

    /// Number of addresses that [`allocate`](Self::allocate) can give in an empty pool.
    #[must_use]
    pub fn size(&self) -> u128 {
        let (low, high) = self.dynamic;
        if low > high {
            return 0;
        }
        let gateway = self.gateway.is_some_and(|g| (low..=high).contains(&number(g)));
        // A /0 of IPv6 has 2^128 - 1 host addresses, which still fits.
        high - low + 1 - u128::from(gateway)
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.subnet {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}
