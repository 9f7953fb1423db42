//! Each pool against a model that is too simple to be wrong: a sorted set of what is in use, searched one by one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use pontoon_ipam::{AddressPool, Error, IdPool, SubnetPool};
use proptest::prelude::*;

/// One call on a pool; the number is an offset from the start of what the pool covers.
#[derive(Clone, Debug)]
enum Op {
    Allocate,
    Specific(u32),
    Release(u32),
    Clone,
    Rebuild,
}

fn ops(span: u32) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => Just(Op::Allocate),
        2 => (0..span).prop_map(Op::Specific),
        3 => (0..span).prop_map(Op::Release),
        1 => Just(Op::Clone),
        1 => Just(Op::Rebuild),
    ];
    proptest::collection::vec(op, 0..120)
}

/// The next free number of `low..=high` from `cursor` on, going round.
fn model_next(used: &BTreeSet<u32>, cursor: u32, low: u32, high: u32) -> Option<u32> {
    let start = if (low..=high).contains(&cursor) {
        cursor
    } else {
        low
    };
    (start..=high).chain(low..start).find(|n| !used.contains(n))
}

proptest! {
    #[test]
    fn address_pool_follows_the_model(
        len in 26u8..=32,
        range in proptest::option::of((0u32..64, 0u8..=3)),
        gateway in proptest::option::of(0u32..64),
        ops in ops(64),
    ) {
        let base = u32::from(Ipv4Addr::new(10, 9, 8, 0));
        let subnet: IpNet = format!("10.9.8.0/{len}").parse().unwrap();
        let size = 1u32 << (32 - len);
        let (host_low, host_high) = if size <= 2 { (base, base + size - 1) } else { (base + 1, base + size - 2) };
        let ip = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        let range = range.map(|(offset, narrower)| {
            let prefix = (len + narrower).min(32);
            IpNet::new(ip(base + offset % size), prefix).unwrap().trunc()
        });
        let (low, high) = match range {
            Some(IpNet::V4(r)) => (u32::from(r.network()).max(host_low), u32::from(r.broadcast()).min(host_high)),
            _ => (host_low, host_high),
        };
        let gateway = gateway.map(|g| host_low + g % (host_high - host_low + 1));
        let mut used: BTreeSet<u32> = gateway.into_iter().collect();
        let mut cursor = low;
        let mut pool = AddressPool::new(subnet, range, gateway.map(ip)).unwrap();
        for op in ops {
            match op {
                Op::Allocate => match model_next(&used, cursor, low, high) {
                    Some(n) if low <= high => {
                        prop_assert_eq!(pool.allocate(), Ok(ip(n)));
                        used.insert(n);
                        cursor = n + 1;
                    }
                    _ => {
                        let error = pool.allocate().unwrap_err();
                        let exhausted = matches!(error, Error::AddressesExhausted { subnet: s, .. } if s == subnet);
                        prop_assert!(exhausted);
                    }
                },
                Op::Specific(n) => {
                    let n = base + n;
                    let result = pool.allocate_specific(ip(n));
                    if !(host_low..=host_high).contains(&n) {
                        prop_assert_eq!(result, Err(Error::AddressOutside { address: ip(n), subnet }));
                    } else if used.insert(n) {
                        prop_assert_eq!(result, Ok(()));
                    } else {
                        prop_assert_eq!(result, Err(Error::AddressInUse { address: ip(n), subnet }));
                    }
                }
                Op::Release(n) => {
                    let n = base + n;
                    let expected = gateway != Some(n) && used.remove(&n);
                    prop_assert_eq!(pool.release(ip(n)), expected);
                }
                Op::Clone => {
                    let mut other = pool.clone();
                    let _ = other.allocate();
                }
                Op::Rebuild => {
                    let list = used.iter().rev().map(|n| ip(*n));
                    pool = AddressPool::new(subnet, range, gateway.map(ip)).unwrap().with_used(list).unwrap();
                    cursor = used.range(..=high).next_back().map_or(low, |n| n + 1);
                }
            }
            prop_assert_eq!(pool.in_use(), used.len() as u128);
            for n in base..base + size {
                prop_assert_eq!(pool.is_used(ip(n)), used.contains(&n));
            }
        }
    }

    #[test]
    fn id_pool_follows_the_model(ops in ops(60)) {
        let (valid, low, high) = (1..=50u32, 20u32, 40u32);
        let fresh = || IdPool::new("id", 1..=50, low..=high);
        let (mut pool, mut used, mut cursor) = (fresh(), BTreeSet::new(), low);
        for op in ops {
            match op {
                Op::Allocate => match model_next(&used, cursor, low, high) {
                    Some(n) => {
                        prop_assert_eq!(pool.allocate(), Ok(n));
                        used.insert(n);
                        cursor = n + 1;
                    }
                    None => {
                        let error = Error::IdsExhausted { kind: "id", first: low, last: high };
                        prop_assert_eq!(pool.allocate(), Err(error));
                    }
                },
                Op::Specific(n) => {
                    let allowed = valid.contains(&n) && !used.contains(&n);
                    prop_assert_eq!(pool.allocate_specific(n).is_ok(), allowed);
                    if allowed {
                        used.insert(n);
                    }
                }
                Op::Release(n) => prop_assert_eq!(pool.release(n), used.remove(&n)),
                Op::Clone => drop(pool.clone().allocate()),
                Op::Rebuild => {
                    pool = fresh().with_used(used.iter().rev().copied()).unwrap();
                    cursor = used.range(..=high).next_back().map_or(low, |n| n + 1);
                }
            }
            prop_assert_eq!(pool.in_use() as usize, used.len());
            prop_assert!(used.iter().all(|n| pool.is_used(*n)));
        }
    }

    /// Two small pools in /28, with in-use subnets of any size around and inside them.
    #[test]
    fn subnet_pool_never_overlaps_and_misses_nothing(
        foreign in proptest::collection::vec((0u32..512, 23u8..=32), 0..6),
        reserved in proptest::collection::vec((0u32..512, 22u8..=32), 0..6),
        ops in ops(32),
    ) {
        let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
        let at = |offset: u32, len: u8| IpNet::new(Ipv4Addr::from(base + offset).into(), len).unwrap().trunc();
        let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        let pools = [(at(0, 25), 28), (at(256, 25), 28)];
        let candidates: Vec<_> = (0..8).chain(16..24).map(|i| at(i * 16, 28)).collect();
        let foreign: Vec<_> = foreign.into_iter().map(|(o, l)| at(o, l)).collect();
        let mut used: BTreeSet<_> = reserved.into_iter().map(|(o, l)| at(o, l)).collect();
        let mut pool = SubnetPool::new(&pools).unwrap().with_used(used.iter().copied());
        for op in ops {
            match op {
                Op::Allocate => {
                    let blocked = |c: &IpNet| used.iter().chain(&foreign).any(|u| overlap(u, c));
                    match pool.allocate_avoiding(&foreign) {
                        Ok(subnet) => {
                            prop_assert!(candidates.contains(&subnet), "{} is not of the pools", subnet);
                            prop_assert!(!blocked(&subnet), "{} overlaps", subnet);
                            used.insert(subnet);
                        }
                        Err(_) => prop_assert!(candidates.iter().all(blocked), "a free subnet was missed"),
                    }
                }
                Op::Specific(i) => {
                    let subnet = at(i * 16, 27);
                    match pool.allocate_specific(subnet) {
                        Ok(()) => {
                            prop_assert!(!used.iter().any(|u| overlap(u, &subnet)));
                            used.insert(subnet);
                        }
                        Err(Error::SubnetOverlap { requested, other }) => {
                            prop_assert_eq!(requested, subnet);
                            prop_assert!(used.contains(&other) && overlap(&other, &subnet));
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                Op::Release(i) => {
                    let subnet = at(i * 16, 28);
                    prop_assert_eq!(pool.release(subnet), used.remove(&subnet));
                }
                Op::Clone => drop(pool.clone().allocate()),
                Op::Rebuild => pool = SubnetPool::new(&pools).unwrap().with_used(used.iter().rev().copied()),
            }
            prop_assert_eq!(pool.in_use(), used.len());
        }
    }
}
