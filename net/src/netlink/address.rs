//! Requests on addresses and default routes (rtnetlink(7)).
use std::net::IpAddr;

use ipnet::IpNet;

use super::Batch;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

impl Batch {
    /// Gives a link an address with its connected route.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> &mut Self {
        self.request(
            RTM_NEWADDR,
            CREATE,
            format!("add address {address} to link {index}"),
            |m| {
                let (family, prefix) = (family(address.addr()), address.prefix_len());
                // IFA_F_NODAD: addresses come from our pools, and must be usable at once.
                let flags = if address.addr().is_ipv6() { 2 } else { 0 };
                // RT_SCOPE_LINK for 169.254/16; for IPv6 the kernel finds out by itself.
                let scope = match address.addr() {
                    IpAddr::V4(v4) if v4.is_link_local() => 253,
                    _ => 0,
                };
                m.raw(&[family, prefix, flags, scope]).raw(&index.to_ne_bytes());
                m.ip(2, address.addr()).ip(1, address.addr()); // IFA_LOCAL, IFA_ADDRESS
                if address.addr().is_ipv4() && prefix < 31 {
                    m.ip(4, address.broadcast()); // IFA_BROADCAST
                }
            },
        )
        .tolerate(&[libc::EEXIST])
    }

    /// Takes an address from a link; one that is gone is fine.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> &mut Self {
        let label = format!("remove address {address} from link {index}");
        self.request(RTM_DELADDR, 0, label, |m| {
            m.raw(&[family(address.addr()), address.prefix_len(), 0, 0])
                .raw(&index.to_ne_bytes());
            m.ip(2, address.addr()); // IFA_LOCAL
        })
        .tolerate(&[libc::EADDRNOTAVAIL])
    }

    /// A default route.
    pub fn add_default_route(&mut self, route: DefaultRoute) -> &mut Self {
        self.request(RTM_NEWROUTE, CREATE, format!("add {route}"), |m| {
            // dst_len 0; table main, protocol boot, scope universe or link, type unicast
            let scope = if route.gateway.is_some() || route.is_ipv6 {
                0
            } else {
                253
            };
            m.raw(&[route.family(), 0, 0, 0, 254, 3, scope, 1, 0, 0, 0, 0]);
            route.write(m);
        })
        .tolerate(&[libc::EEXIST])
    }

    /// Removes a default route; one that is gone is fine.
    pub fn remove_default_route(&mut self, route: DefaultRoute) -> &mut Self {
        self.request(RTM_DELROUTE, 0, format!("remove {route}"), |m| {
            // RT_SCOPE_NOWHERE matches any scope.
            m.raw(&[route.family(), 0, 0, 0, 254, 0, 255, 0, 0, 0, 0, 0]);
            route.write(m);
        })
        .tolerate(&[libc::ESRCH, libc::ENODEV, libc::ENETUNREACH])
    }
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface.
    pub index: u32,
    /// Of which family.
    pub is_ipv6: bool,
    /// `None`: everything is on the link.
    pub gateway: Option<IpAddr>,
}

impl std::fmt::Display for DefaultRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.gateway {
            Some(gateway) => write!(f, "default route via {gateway}"),
            None => write!(f, "default route on link {}", self.index),
        }
    }
}

impl DefaultRoute {
    fn family(self) -> u8 {
        u8::try_from(if self.is_ipv6 {
            libc::AF_INET6
        } else {
            libc::AF_INET
        })
        .expect("families are small")
    }

    fn write(self, m: &mut super::Message<'_>) {
        if let Some(gateway) = self.gateway {
            m.ip(5, gateway); // RTA_GATEWAY
        }
        m.u32(4, self.index); // RTA_OIF
    }
}

/// The address family's number.
pub fn family(address: IpAddr) -> u8 {
    u8::try_from(if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    })
    .expect("families are small")
}
