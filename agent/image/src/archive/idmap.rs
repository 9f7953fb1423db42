//! User and group ids of a container with a user namespace: what it calls 0 is another id on the host. Archives hold the
//! container's ids. Without ranges the ids are the same on both sides.

use serde::{Deserialize, Serialize};

/// Ids that nobody maps: the kernel shows them as this one (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;

/// A range of ids, as a line of `/proc/<pid>/uid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// The ranges of users and groups; empty ones map each id to itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// Owner on the host as the container sees it.
    pub fn to_container(&self, uid: u32, gid: u32) -> (u32, u32) {
        let find =
            |ranges: &[IdRange], id: u32| lookup(ranges, id, |r| (r.host, r.container)).unwrap_or(OVERFLOW);
        (find(&self.uids, uid), find(&self.gids, gid))
    }

    /// Owner in the container as the host has it; `None` when the container has no such id.
    pub fn to_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |ranges: &[IdRange], id: u32| lookup(ranges, id, |r| (r.container, r.host));
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}

fn lookup(ranges: &[IdRange], id: u32, sides: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    ranges.iter().find_map(|range| {
        let (from, to) = sides(range);
        let offset = id.checked_sub(from).filter(|offset| *offset < range.count)?;
        to.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_both_ways() {
        let map = IdMap {
            uids: vec![IdRange {
                container: 0,
                host: 100_000,
                count: 10,
            }],
            gids: vec![IdRange {
                container: 5,
                host: 7,
                count: 1,
            }],
        };
        assert_eq!(map.to_host(3, 5), Some((100_003, 7)));
        assert_eq!(map.to_host(10, 5), None);
        assert_eq!(map.to_container(100_009, 7), (9, 5));
        assert_eq!(map.to_container(0, 0), (OVERFLOW, OVERFLOW));
        assert_eq!(IdMap::default().to_container(12, 13), (12, 13));
        assert_eq!(IdMap::default().to_host(12, 13), Some((12, 13)));
    }
}
