//! How often one address may try to join in vain. A token's secret can't be guessed, but each guess would cost the leader work.
//!
//! Counted at the manager that the attempt comes to, by its address: attempts with a good token are never refused, and thousands of nodes
//! may join from behind one address. Asked and told by `access`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

/// Failures within [`WINDOW`] after which an address has to wait.
const FAILURES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond that the one that failed first is forgotten.
const ADDRESSES: usize = 4096;

/// The failed attempts of late.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<BTreeMap<IpAddr, Failed>>);

#[derive(Debug, Clone, Copy)]
struct Failed {
    since: Instant,
    count: u32,
}

impl Attempts {
    /// Refuses an address that has failed too often.
    pub(crate) fn check(&self, addr: IpAddr, now: Instant) -> Result<(), Status> {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match attempts.get(&block(addr)) {
            Some(failed) if failed.count >= FAILURES && now < failed.since + WINDOW => {
                Err(Status::resource_exhausted(format!(
                    "too many failed attempts to join from {addr}: wait a minute"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, addr: IpAddr, now: Instant) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let addr = block(addr);
        if !attempts.contains_key(&addr) && attempts.len() >= ADDRESSES {
            attempts.retain(|_, failed| now < failed.since + WINDOW);
            let oldest = attempts
                .iter()
                .min_by_key(|(_, failed)| failed.since)
                .map(|(addr, _)| *addr);
            if let Some(oldest) = oldest.filter(|_| attempts.len() >= ADDRESSES) {
                attempts.remove(&oldest);
            }
        }
        let failed = attempts.entry(addr).or_insert(Failed { since: now, count: 0 });
        if now >= failed.since + WINDOW {
            *failed = Failed { since: now, count: 0 };
        }
        failed.count += 1;
    }
}

/// One host has a whole /64 of IPv6.
fn block(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_and_others_do_not() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let (bad, good): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..FAILURES {
            attempts.check(bad, now).unwrap();
            attempts.failed(bad, now);
        }
        let refused = attempts.check(bad, now).unwrap_err();
        assert!(
            refused
                .message()
                .contains("too many failed attempts to join from 10.0.0.1")
        );
        assert!(attempts.check("::ffff:10.0.0.1".parse().unwrap(), now).is_err());
        attempts.check(good, now).unwrap();
        attempts.check(bad, now + WINDOW).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_a_network_of_ipv6_is_one_host() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..ADDRESSES as u32 * 2 {
            attempts.failed(IpAddr::V4(number.into()), now);
        }
        assert_eq!(attempts.0.lock().unwrap().len(), ADDRESSES);
        for number in 0..FAILURES {
            attempts.failed(format!("fd00::{number:x}").parse().unwrap(), now);
        }
        assert!(attempts.check("fd00::ffff:1:2".parse().unwrap(), now).is_err());
        attempts.check("fd00:0:0:1::1".parse().unwrap(), now).unwrap();
    }
}
