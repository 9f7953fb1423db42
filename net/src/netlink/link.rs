//! Requests on links (rtnetlink(7), linux/if_link.h).
use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::Batch;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const UP: u32 = 1;
/// The group of links that are to be removed: "pont" in ASCII, as good as any that nobody else has.
const RETIRED: u32 = 0x706f_6e74;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const AF_INET6: u16 = 10;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;

/// A veth pair whose far end is made in another namespace under its final name: moving and renaming afterwards
/// costs tens of milliseconds, because the kernel waits for readers (RCU).
#[derive(Debug)]
pub struct Veth<'a> {
    /// The near end's name.
    pub name: &'a str,
    /// The near end's interface index. Unless one is given, the kernel ignores the far end's.
    pub index: u32,
    /// Bridge to which the near end belongs.
    pub master: Option<u32>,
    /// Both ends' MTU.
    pub mtu: u32,
    /// The near end's MAC, if it matters.
    pub mac: Option<[u8; 6]>,
    /// The near end is in a namespace where interfaces have IPv6, and gets no address of that kind: nobody talks to it, and without one it neither
    /// looks for duplicates nor for routers.
    pub silent: bool,
    /// Namespace of the far end.
    pub peer_namespace: BorrowedFd<'a>,
    /// The far end's name.
    pub peer_name: &'a str,
    /// The far end's interface index; the namespace is fresh, so one can be chosen and no look-up is needed.
    pub peer_index: u32,
    /// The far end's MAC.
    pub peer_mac: Option<[u8; 6]>,
}

/// A bridge.
#[derive(Debug)]
pub struct BridgeLink<'a> {
    /// Name.
    pub name: &'a str,
    /// Interface index, or 0.
    pub index: u32,
    /// MTU.
    pub mtu: u32,
    /// Fixed MAC, so that it does not follow the ports'.
    pub mac: [u8; 6],
}

/// A VXLAN device (RFC 7348) without learning.
#[derive(Debug)]
pub struct VxlanLink<'a> {
    /// Name.
    pub name: &'a str,
    /// Index in the namespace in which it lives.
    pub index: u32,
    /// Namespace in which it lives; its UDP socket stays where the request is made.
    pub namespace: BorrowedFd<'a>,
    /// Network identifier.
    pub vni: u32,
    /// Own underlay address.
    pub local: IpAddr,
    /// UDP port.
    pub port: u16,
    /// MTU.
    pub mtu: u32,
    /// Fixed MAC.
    pub mac: [u8; 6],
}

/// What is made below an interface of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// macvlan with its mode (linux/if_link.h).
    Macvlan(u32),
    /// ipvlan with its mode and flags.
    Ipvlan(u16, u16),
}

/// A link in another namespace below an interface of this one.
#[derive(Debug)]
pub struct SubLink<'a> {
    /// The interface below which it is made.
    pub parent: u32,
    /// Kind and mode.
    pub kind: Below,
    /// Namespace in which it lives.
    pub namespace: BorrowedFd<'a>,
    /// Name there.
    pub name: &'a str,
    /// Interface index there.
    pub index: u32,
    /// MTU; `None`: the parent's.
    pub mtu: Option<u32>,
    /// MAC; ipvlan has its parent's.
    pub mac: Option<[u8; 6]>,
}

/// Flags of a bridge port; `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Frames may leave by the port by which they came.
    pub hairpin: Option<bool>,
    /// Learn source addresses.
    pub learning: Option<bool>,
    /// Flood unknown unicast, multicast and broadcast to it.
    pub flood: Option<bool>,
    /// The bridge answers ARP on behalf of those it knows; nothing is flooded to such a port.
    pub proxy_arp: Option<bool>,
    /// ARP for known neighbours is not sent to it.
    pub neigh_suppress: Option<bool>,
    /// No frames between isolated ports.
    pub isolated: Option<bool>,
}

fn info_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

impl Batch {
    /// Makes a veth pair, near end up. The far end can't be made up (ENOTCONN from veth's open).
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> &mut Self {
        let label = format!("create veth pair {} and {}", veth.name, veth.peer_name);
        let up = if veth.silent { 0 } else { UP };
        self.request(RTM_NEWLINK, CREATE, label, |m| {
            m.raw(&info_header(veth.index, up, up))
                .string(IFLA_IFNAME, veth.name)
                .u32(IFLA_MTU, veth.mtu);
            if let Some(mac) = veth.mac {
                m.attr(IFLA_ADDRESS, &mac);
            }
            if let Some(master) = veth.master {
                m.u32(IFLA_MASTER, master);
            }
            m.nest(IFLA_LINKINFO, |m| {
                m.string(INFO_KIND, "veth").nest(INFO_DATA, |m| {
                    m.nest(1, |m| {
                        // VETH_INFO_PEER
                        m.raw(&info_header(veth.peer_index, 0, 0));
                        m.string(IFLA_IFNAME, veth.peer_name).u32(IFLA_MTU, veth.mtu);
                        m.attr(IFLA_NET_NS_FD, &veth.peer_namespace.as_raw_fd().to_ne_bytes());
                        if let Some(mac) = veth.peer_mac {
                            m.attr(IFLA_ADDRESS, &mac);
                        }
                    });
                });
            });
        });
        if veth.silent {
            self.without_ipv6_address(veth.index).set_up(veth.index);
        }
        self
    }

    /// Keeps the kernel from giving a link an IPv6 address when it comes up (`IN6_ADDR_GEN_MODE_NONE`; ip-link(8), `addrgenmode none`). Not
    /// the setting `disable_ipv6`: while others hold the kernel's lock on links (RTNL) a write to that is begun again and again, and
    /// a request waits its turn. A kernel without IPv6 is fine.
    fn without_ipv6_address(&mut self, index: u32) -> &mut Self {
        let label = format!("keep link {index} without an IPv6 address");
        self.request(RTM_NEWLINK, 0, label, |m| {
            m.raw(&info_header(index, 0, 0)).nest(IFLA_AF_SPEC, |m| {
                m.nest(AF_INET6, |m| {
                    m.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
                });
            });
        })
        .tolerate(&[libc::EAFNOSUPPORT])
    }

    /// Makes a bridge, up, without multicast snooping and without a forwarding delay.
    pub fn add_bridge(&mut self, bridge: &BridgeLink<'_>) -> &mut Self {
        self.request(
            RTM_NEWLINK,
            CREATE,
            format!("create bridge {}", bridge.name),
            |m| {
                m.raw(&info_header(bridge.index, UP, UP))
                    .string(IFLA_IFNAME, bridge.name);
                m.u32(IFLA_MTU, bridge.mtu).attr(IFLA_ADDRESS, &bridge.mac);
                m.nest(IFLA_LINKINFO, |m| {
                    m.string(INFO_KIND, "bridge").nest(INFO_DATA, |m| {
                        m.u32(1, 0).u8(23, 0); // IFLA_BR_FORWARD_DELAY, IFLA_BR_MCAST_SNOOPING
                    });
                });
            },
        )
    }

    /// Makes a VXLAN device in another namespace.
    pub fn add_vxlan(&mut self, vxlan: &VxlanLink<'_>) -> &mut Self {
        let label = format!(
            "create vxlan device {} with id {} from {}",
            vxlan.name, vxlan.vni, vxlan.local
        );
        self.request(RTM_NEWLINK, CREATE, label, |m| {
            m.raw(&info_header(vxlan.index, 0, 0))
                .string(IFLA_IFNAME, vxlan.name);
            m.u32(IFLA_MTU, vxlan.mtu).attr(IFLA_ADDRESS, &vxlan.mac);
            m.attr(IFLA_NET_NS_FD, &vxlan.namespace.as_raw_fd().to_ne_bytes());
            m.nest(IFLA_LINKINFO, |m| {
                m.string(INFO_KIND, "vxlan").nest(INFO_DATA, |m| {
                    m.u32(1, vxlan.vni); // IFLA_VXLAN_ID
                    m.ip(if vxlan.local.is_ipv4() { 4 } else { 17 }, vxlan.local); // IFLA_VXLAN_LOCAL[6]
                    m.u8(7, 0).attr(15, &vxlan.port.to_be_bytes()); // IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT
                });
            });
        })
    }

    /// Makes a macvlan or ipvlan link in another namespace.
    pub fn add_sub_link(&mut self, link: &SubLink<'_>) -> &mut Self {
        let label = format!("create {} below link {}", link.name, link.parent);
        self.request(RTM_NEWLINK, CREATE, label, |m| {
            m.raw(&info_header(link.index, 0, 0))
                .string(IFLA_IFNAME, link.name)
                .u32(IFLA_LINK, link.parent);
            if let Some(mtu) = link.mtu {
                m.u32(IFLA_MTU, mtu);
            }
            if let Some(mac) = link.mac {
                m.attr(IFLA_ADDRESS, &mac);
            }
            m.attr(IFLA_NET_NS_FD, &link.namespace.as_raw_fd().to_ne_bytes());
            m.nest(IFLA_LINKINFO, |m| match link.kind {
                Below::Macvlan(mode) => {
                    m.string(INFO_KIND, "macvlan").nest(INFO_DATA, |m| {
                        m.u32(1, mode); // IFLA_MACVLAN_MODE
                    });
                }
                Below::Ipvlan(mode, flags) => {
                    m.string(INFO_KIND, "ipvlan").nest(INFO_DATA, |m| {
                        m.attr(1, &mode.to_ne_bytes()).attr(2, &flags.to_ne_bytes()); // IFLA_IPVLAN_MODE, _FLAGS
                    });
                }
            });
        })
    }

    /// Makes an interface for one 802.1Q tag of `parent`, up.
    pub fn add_vlan(&mut self, name: &str, parent: u32, tag: u16) -> &mut Self {
        self.request(
            RTM_NEWLINK,
            CREATE,
            format!("create VLAN interface {name}"),
            |m| {
                m.raw(&info_header(0, UP, UP))
                    .string(IFLA_IFNAME, name)
                    .u32(IFLA_LINK, parent);
                m.nest(IFLA_LINKINFO, |m| {
                    m.string(INFO_KIND, "vlan").nest(INFO_DATA, |m| {
                        m.attr(1, &tag.to_ne_bytes()); // IFLA_VLAN_ID
                    });
                });
            },
        )
    }

    /// Makes an interface that leads nowhere, up.
    pub fn add_dummy(&mut self, name: &str) -> &mut Self {
        self.request(
            RTM_NEWLINK,
            CREATE,
            format!("create dummy interface {name}"),
            |m| {
                m.raw(&info_header(0, UP, UP)).string(IFLA_IFNAME, name);
                m.nest(IFLA_LINKINFO, |m| {
                    m.string(INFO_KIND, "dummy");
                });
            },
        )
    }

    /// Makes an existing link a port of `master`, up.
    pub fn enslave(&mut self, index: u32, master: u32) -> &mut Self {
        self.request(
            RTM_NEWLINK,
            0,
            format!("add link {index} to bridge {master}"),
            |m| {
                m.raw(&info_header(index, UP, UP)).u32(IFLA_MASTER, master);
            },
        )
    }

    /// Sets flags of the bridge port called `name`.
    pub fn set_port(&mut self, name: &str, flags: PortFlags) -> &mut Self {
        self.request(RTM_NEWLINK, 0, format!("set bridge port flags of {name}"), |m| {
            m.raw(&info_header(0, 0, 0))
                .string(IFLA_IFNAME, name)
                .nest(IFLA_LINKINFO, |m| {
                    m.string(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |m| {
                        let pairs = [
                            (4, flags.hairpin),         // IFLA_BRPORT_MODE
                            (8, flags.learning),        // IFLA_BRPORT_LEARNING
                            (9, flags.flood),           // IFLA_BRPORT_UNICAST_FLOOD
                            (10, flags.proxy_arp),      // IFLA_BRPORT_PROXYARP
                            (27, flags.flood),          // IFLA_BRPORT_MCAST_FLOOD
                            (30, flags.flood),          // IFLA_BRPORT_BCAST_FLOOD
                            (32, flags.neigh_suppress), // IFLA_BRPORT_NEIGH_SUPPRESS
                            (33, flags.isolated),       // IFLA_BRPORT_ISOLATED
                        ];
                        for (kind, value) in pairs {
                            if let Some(value) = value {
                                m.u8(kind, u8::from(value));
                            }
                        }
                    });
                });
        })
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: u32) -> &mut Self {
        self.request(RTM_NEWLINK, 0, format!("set link {index} up"), |m| {
            m.raw(&info_header(index, UP, UP));
        })
    }

    /// Gives a link another MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> &mut Self {
        self.request(
            RTM_NEWLINK,
            0,
            format!("set the MTU of link {index} to {mtu}"),
            |m| {
                m.raw(&info_header(index, 0, 0)).u32(IFLA_MTU, mtu);
            },
        )
    }

    /// Gives a link another MAC.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> &mut Self {
        self.request(RTM_NEWLINK, 0, format!("set the MAC of link {index}"), |m| {
            m.raw(&info_header(index, 0, 0)).attr(IFLA_ADDRESS, &mac);
        })
    }

    /// Removes a link by name; one that is gone is fine.
    pub fn remove_link(&mut self, name: &str) -> &mut Self {
        self.request(RTM_DELLINK, 0, format!("remove link {name}"), |m| {
            m.raw(&info_header(0, 0, 0)).string(IFLA_IFNAME, name);
        })
        .tolerate(&[libc::ENODEV])
    }

    /// Sets a link down, so that nothing passes by it from now on, and marks it as one that
    /// [`remove_retired`](Self::remove_retired) takes away; one that is gone is fine.
    pub fn retire_link(&mut self, name: &str) -> &mut Self {
        self.request(RTM_NEWLINK, 0, format!("retire link {name}"), |m| {
            m.raw(&info_header(0, 0, UP))
                .string(IFLA_IFNAME, name)
                .u32(IFLA_GROUP, RETIRED);
        })
        .tolerate(&[libc::ENODEV])
    }

    /// Removes all retired links. The kernel waits for its readers (an RCU barrier, about 20 ms) once for all of them,
    /// where it does so for each that is removed by name.
    pub fn remove_retired(&mut self) -> &mut Self {
        self.request(RTM_DELLINK, 0, "remove retired links", |m| {
            m.raw(&info_header(0, 0, 0)).u32(IFLA_GROUP, RETIRED);
        })
        .tolerate(&[libc::ENODEV])
    }
}
