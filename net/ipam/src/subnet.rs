//! The subnets that networks get when their users ask for none.
//!
//! Used by the controller's allocator (overlay pools) and by `pontoon-net` (bridge pools). Subnets that users ask
//! for are recorded here too, so that a chosen one never overlaps them.

use std::net::IpAddr;

use imbl::OrdSet;
use ipnet::IpNet;

use crate::{Error, Result};

/// Subnets in use and the pools from which more are cut. A clone is O(1) but for the list of pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetPool {
    pools: Vec<(IpNet, u8)>,
    used: OrdSet<IpNet>,
    /// Where the next search starts: a pool and an address in it.
    cursor: (usize, Option<IpAddr>),
}

fn net(text: &str) -> IpNet {
    text.parse().expect("the constant pools are well-formed")
}

/// The subnet of `len` bits at `address`.
fn cut(address: IpAddr, len: u8) -> Option<IpNet> {
    IpNet::new(address, len).ok().map(|net| net.trunc())
}

/// The address after the last one of `net`.
fn after(net: &IpNet) -> Option<IpAddr> {
    match net.broadcast() {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

impl SubnetPool {
    /// Pools given as base and prefix length of each subnet cut from it; they are used in this order.
    ///
    /// # Errors
    /// [`Error::InvalidPool`] if a subnet would be larger than its pool or longer than an address.
    pub fn new(pools: &[(IpNet, u8)]) -> Result<Self> {
        let mut checked = Vec::with_capacity(pools.len());
        for &(pool, size) in pools {
            if size < pool.prefix_len() || size > pool.max_prefix_len() {
                return Err(Error::InvalidPool { pool, size });
            }
            checked.push((pool.trunc(), size));
        }
        Ok(Self {
            pools: checked,
            used: OrdSet::new(),
            cursor: (0, None),
        })
    }

    /// Swarm's default pool for overlay networks: 10.0.0.0/8 in /24.
    #[must_use]
    pub fn overlay() -> Self {
        Self {
            pools: vec![(net("10.0.0.0/8"), 24)],
            used: OrdSet::new(),
            cursor: (0, None),
        }
    }

    /// Docker's default pools for bridges: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in /20.
    #[must_use]
    pub fn bridge() -> Self {
        let mut pools: Vec<_> = ["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16"]
            .map(|p| (net(p), 16))
            .into();
        pools.extend(["172.20.0.0/14", "172.24.0.0/14", "172.28.0.0/14"].map(|p| (net(p), 16)));
        pools.push((net("192.168.0.0/16"), 20));
        Self {
            pools,
            used: OrdSet::new(),
            cursor: (0, None),
        }
    }

    /// Marks each of `used`, which may overlap each other, and sets the pool so that the next choice is the one
    /// after the highest of them in the last pool that has any; the order of `used` does not matter.
    #[must_use]
    pub fn with_used(mut self, used: impl IntoIterator<Item = IpNet>) -> Self {
        self.used.extend(used.into_iter().map(|net| net.trunc()));
        let highest = |pool: &IpNet| {
            self.used
                .iter()
                .filter(|net| pool.contains(*net))
                .filter_map(after)
                .max()
        };
        let found = self
            .pools
            .iter()
            .enumerate()
            .rev()
            .find_map(|(i, (pool, _))| Some((i, highest(pool)?)));
        self.cursor = found.map_or((0, None), |(i, address)| (i, Some(address)));
        self
    }

    /// Takes a free subnet.
    ///
    /// # Errors
    /// [`Error::SubnetsExhausted`] if none is free.
    pub fn allocate(&mut self) -> Result<IpNet> {
        self.allocate_avoiding(&[])
    }

    /// Takes a free subnet that shares no address with any of `foreign`, such as the routes of the host, which are
    /// not recorded.
    ///
    /// # Errors
    /// [`Error::SubnetsExhausted`] if none is free.
    pub fn allocate_avoiding(&mut self, foreign: &[IpNet]) -> Result<IpNet> {
        let (start, address) = self.cursor;
        let count = self.pools.len();
        // The starting pool comes twice: from the cursor on, and at last from its beginning.
        let turns = (0..=count).map(|turn| {
            (
                (start + turn) % count.max(1),
                if turn == 0 { address } else { None },
            )
        });
        let found = turns
            .filter_map(|(i, from)| Some((i, self.pools.get(i)?, from)))
            .find_map(|(i, &(pool, size), from)| Some((i, self.search(pool, size, from, foreign)?)));
        let Some((i, subnet)) = found else {
            let pools: Vec<_> = self
                .pools
                .iter()
                .map(|(pool, size)| format!("{pool} in /{size}"))
                .collect();
            return Err(Error::SubnetsExhausted {
                pools: pools.join(", "),
            });
        };
        self.used.insert(subnet);
        self.cursor = (i, after(&subnet).filter(|next| self.pools[i].0.contains(next)));
        if self.cursor.1.is_none() {
            self.cursor.0 = (i + 1) % count;
        }
        Ok(subnet)
    }

    /// Takes this very subnet, inside or outside the pools.
    ///
    /// # Errors
    /// [`Error::SubnetOverlap`] names a subnet in use that shares addresses with it.
    pub fn allocate_specific(&mut self, subnet: IpNet) -> Result<()> {
        let requested = subnet.trunc();
        if let Some(other) = self.conflict(&requested, &[]) {
            return Err(Error::SubnetOverlap { requested, other });
        }
        self.used.insert(requested);
        Ok(())
    }

    /// Marks a subnet as used even if it overlaps others; true if this very subnet was not marked before.
    pub fn reserve(&mut self, subnet: IpNet) -> bool {
        self.used.insert(subnet.trunc()).is_none()
    }

    /// Gives a subnet back; false if it was not in use.
    pub fn release(&mut self, subnet: IpNet) -> bool {
        self.used.remove(&subnet.trunc()).is_some()
    }

    /// A subnet in use, if any, that shares addresses with `subnet`.
    #[must_use]
    pub fn overlapping(&self, subnet: &IpNet) -> Option<IpNet> {
        self.conflict(&subnet.trunc(), &[])
    }

    /// Number of subnets in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    /// The largest subnet in use, or of `foreign`, that shares addresses with `subnet`.
    fn conflict(&self, subnet: &IpNet, foreign: &[IpNet]) -> Option<IpNet> {
        if let Some(net) = foreign.iter().find(|net| overlap(net, subnet)) {
            return Some(*net);
        }
        // Two prefixes are nested or disjoint: an overlap is a supernet (at most 128 to look up) or lies inside.
        let supernet = (0..=subnet.prefix_len())
            .filter_map(|len| cut(subnet.network(), len))
            .find(|net| self.used.contains(net));
        supernet.or_else(|| {
            self.used
                .get_next(subnet)
                .filter(|net| subnet.contains(*net))
                .copied()
        })
    }

    /// The first free subnet of `size` bits in `pool`, at or after `from`.
    fn search(&self, pool: IpNet, size: u8, from: Option<IpAddr>, foreign: &[IpNet]) -> Option<IpNet> {
        let mut candidate = cut(from.unwrap_or(pool.network()), size)?;
        if from.is_some_and(|from| from > candidate.network()) {
            candidate = cut(after(&candidate)?, size)?;
        }
        while pool.contains(&candidate) {
            let Some(other) = self.conflict(&candidate, foreign) else {
                return Some(candidate);
            };
            // Skip all of a larger subnet at once; a smaller one inside costs this candidate only.
            let larger = if other.contains(&candidate) {
                other
            } else {
                candidate
            };
            candidate = cut(after(&larger)?, size)?;
        }
        None
    }
}
