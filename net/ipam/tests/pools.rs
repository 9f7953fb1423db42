//! What users see: first choices, exhaustion, messages, and that size costs nothing.
// Clippy's exemption for tests does not reach helper functions of an integration test.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_ipam::{AddressPool, Error, IdPool, SubnetPool, default_gateway};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_subnet_gives_its_hosts_after_the_gateway_and_no_more() {
    let subnet = net("10.0.1.0/29");
    let mut pool = AddressPool::new(subnet, None, Some(default_gateway(&subnet))).unwrap();
    let given: Vec<_> = std::iter::from_fn(|| pool.allocate().ok()).collect();
    assert_eq!(
        given,
        ["10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"].map(ip)
    );
    let error = pool.allocate().unwrap_err().to_string();
    assert_eq!(
        error,
        "subnet 10.0.1.0/29 has no free address: all 5 usable addresses are taken; use a larger subnet"
    );
    assert!(pool.release(ip("10.0.1.4")));
    assert!(!pool.release(ip("10.0.1.4")));
    assert!(!pool.release(ip("10.0.1.1")), "the gateway stays");
    assert_eq!(pool.allocate(), Ok(ip("10.0.1.4")));
}

#[test]
fn a_released_address_rests() {
    let mut pool = AddressPool::new(net("10.0.1.0/24"), None, None).unwrap();
    let first = pool.allocate().unwrap();
    pool.release(first);
    assert_eq!(pool.allocate(), Ok(ip("10.0.1.2")));
}

#[test]
fn huge_subnets_are_cheap() {
    let mut v4 = AddressPool::new(net("10.0.0.0/8"), None, Some(ip("10.0.0.1"))).unwrap();
    let mut v6 = AddressPool::new(net("fd00:1::/64"), None, Some(ip("fd00:1::1"))).unwrap();
    let mut copies = Vec::new();
    for i in 0..10_000u32 {
        assert_eq!(v4.allocate(), Ok(IpAddr::V4((0x0a00_0002 + i).into())));
        v6.allocate().unwrap();
        copies.push((v4.clone(), v6.clone()));
    }
    assert_eq!(v6.in_use(), 10_001);
    v6.allocate_specific(ip("fd00:1::ffff:ffff:ffff:ffff")).unwrap();
    assert!(
        v6.allocate_specific(ip("fd00:1::")).is_err(),
        "subnet-router anycast"
    );
    assert_eq!(v6.size(), (1 << 64) - 2);
}

#[test]
fn tiny_subnets_use_all_their_addresses() {
    let given = |subnet| {
        let mut pool = AddressPool::new(net(subnet), None, None).unwrap();
        std::iter::from_fn(|| pool.allocate().ok()).count()
    };
    assert_eq!(
        [
            "10.0.0.0/32",
            "10.0.0.0/31",
            "10.0.0.0/30",
            "fd00::/128",
            "fd00::/127",
            "fd00::/126"
        ]
        .map(given),
        [1, 2, 2, 1, 2, 3]
    );
    assert_eq!(
        AddressPool::new(net("::/0"), None, None).unwrap().allocate(),
        Ok(ip("::1"))
    );
}

#[test]
fn wrong_arguments_are_named() {
    let subnet = net("10.0.0.0/24");
    let range = net("10.0.1.0/25");
    assert_eq!(
        AddressPool::new(subnet, Some(range), None),
        Err(Error::RangeOutside { range, subnet })
    );
    let address = ip("10.0.0.255");
    assert_eq!(
        AddressPool::new(subnet, None, Some(address)),
        Err(Error::AddressOutside { address, subnet })
    );
    let pool = net("10.0.0.0/24");
    assert_eq!(
        SubnetPool::new(&[(pool, 16)]),
        Err(Error::InvalidPool { pool, size: 16 })
    );
}

#[test]
fn the_range_binds_choice_but_not_requests() {
    let mut pool = AddressPool::new(net("10.0.0.0/24"), Some(net("10.0.0.128/30")), None).unwrap();
    pool.allocate_specific(ip("10.0.0.5")).unwrap();
    let given: Vec<_> = std::iter::from_fn(|| pool.allocate().ok()).collect();
    assert_eq!(
        given,
        ["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"].map(ip)
    );
}

#[test]
fn default_pools_are_dockers() {
    let mut overlay = SubnetPool::overlay();
    assert_eq!(overlay.allocate(), Ok(net("10.0.0.0/24")));
    assert_eq!(overlay.allocate(), Ok(net("10.0.1.0/24")));
    let mut bridge = SubnetPool::bridge();
    let all: Vec<_> = std::iter::from_fn(|| bridge.allocate().ok()).collect();
    assert_eq!(all.len(), 15 + 16);
    assert_eq!(
        (all[0], all[3], all[15]),
        (net("172.17.0.0/16"), net("172.20.0.0/16"), net("192.168.0.0/20"))
    );
    let error = bridge.allocate().unwrap_err().to_string();
    assert!(error.contains("172.20.0.0/14 in /16"), "{error}");
}

#[test]
fn a_host_route_moves_the_choice() {
    let routes = [net("172.17.0.0/16"), net("172.18.5.0/24"), net("172.20.0.0/14")];
    let mut pool = SubnetPool::bridge();
    assert_eq!(pool.allocate_avoiding(&routes), Ok(net("172.19.0.0/16")));
    assert_eq!(pool.allocate_avoiding(&routes), Ok(net("172.24.0.0/16")));
    let error = pool
        .allocate_specific(net("172.24.3.0/24"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "subnet 172.24.3.0/24 overlaps with 172.24.0.0/16, which is already in use"
    );
    assert!(
        SubnetPool::overlay()
            .allocate_avoiding(&[net("0.0.0.0/0")])
            .is_err()
    );
}

#[test]
fn ids_start_where_they_should() {
    assert_eq!(IdPool::vnis().allocate(), Ok(4096));
    let mut ports = IdPool::ports();
    assert_eq!(ports.allocate(), Ok(30_000));
    ports.allocate_specific(8080).unwrap();
    assert_eq!(
        ports.allocate_specific(8080).unwrap_err().to_string(),
        "published port 8080 is already in use"
    );
    assert_eq!(
        ports.allocate_specific(0).unwrap_err().to_string(),
        "published port 0 is not between 1 and 65535"
    );
    assert_eq!(ports.with_used([30_005, 9]).unwrap().allocate(), Ok(30_006));
}
