//! Connection tracking entries (linux/netfilter/nfnetlink_conntrack.h): connections to a backend that is gone are
//! forgotten, so that their next packet is refused or goes elsewhere instead of to an address that is gone.
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::{
    Result,
    netlink::{Attributes, Batch, NESTED, Socket},
};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const GET_STATS: u16 = 1 << 8 | 5;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;

/// A tracked, translated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Where the client connected to.
    pub destination: (IpAddr, u16),
    /// Who answers.
    pub backend: (IpAddr, u16),
}

/// `CTA_IP_V4_SRC` and `_DST` are 1 and 2, the same of IPv6 3 and 4.
fn address(tuple: Attributes<'_>, kind: u16) -> Option<IpAddr> {
    let addresses = tuple.nested(1);
    addresses.ip(kind).or_else(|| addresses.ip(kind + 2))
}

fn port(tuple: Attributes<'_>, kind: u16) -> u16 {
    let bytes = tuple.nested(2).value(kind).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u16::from_be_bytes)
}

fn flow(attributes: Attributes<'_>) -> Option<Flow> {
    let (original, reply) = (attributes.nested(TUPLE_ORIG), attributes.nested(TUPLE_REPLY));
    Some(Flow {
        protocol: *original.nested(2).value(1)?.first()?,
        destination: (address(original, 2)?, port(original, 3)),
        backend: (address(reply, 1)?, port(reply, 2)),
    })
}

/// How many connections the namespace tracks. A dump walks the hash table of the whole machine, which takes
/// milliseconds; this does not.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn tracked(socket: &mut Socket) -> Result<u32> {
    let mut batch = Batch::default();
    batch.request(GET_STATS, 0, "count tracked connections", |m| {
        m.raw(&[2, 0, 0, 0]);
    });
    let count = |body: &Vec<u8>| {
        let value = Attributes(body.get(4..)?).value(1)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    };
    // A kernel that does not say is asked for the entries.
    Ok(socket.query(batch)?.iter().find_map(count).unwrap_or(u32::MAX))
}

/// Which connections are to be forgotten.
#[derive(Clone, Debug)]
pub enum Stale {
    /// From a virtual address to a backend.
    Services(BTreeSet<(Ipv4Addr, Ipv4Addr)>),
    /// By protocol and published port to a backend.
    Mesh(BTreeSet<(u8, u16, (Ipv4Addr, u16))>),
    /// Translated to an address of the subnet that none of its endpoints has: of what left while nobody looked.
    Astray {
        /// The network's addresses.
        subnet: IpNet,
        /// Those that somebody has.
        endpoints: BTreeSet<Ipv4Addr>,
    },
    /// Datagrams to these ports.
    Datagrams(Vec<u16>),
}

impl Stale {
    fn holds(&self, flow: &Flow) -> bool {
        match self {
            Self::Services(pairs) => match (flow.destination.0, flow.backend.0) {
                (IpAddr::V4(vip), IpAddr::V4(backend)) => pairs.contains(&(vip, backend)),
                _ => false,
            },
            Self::Mesh(lost) => match flow.backend {
                (IpAddr::V4(backend), port) => {
                    lost.contains(&(flow.protocol, flow.destination.1, (backend, port)))
                }
                _ => false,
            },
            Self::Astray { subnet, endpoints } => match flow.backend.0 {
                IpAddr::V4(backend) => {
                    flow.destination.0 != flow.backend.0
                        && subnet.contains(&flow.backend.0)
                        && !endpoints.contains(&backend)
                }
                IpAddr::V6(_) => false,
            },
            Self::Datagrams(ports) => flow.protocol == 17 && ports.contains(&flow.destination.1),
        }
    }
}

/// Forgets all connections of the socket's namespace for which `stale` holds; returns how many.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn forget(socket: &mut Socket, stale: &Stale) -> Result<usize> {
    if tracked(socket)? == 0 {
        return Ok(0);
    }
    let mut dump = Batch::default();
    // AF_UNSPEC: both families.
    dump.request(GET, libc::NLM_F_DUMP, "list tracked connections", |m| {
        m.raw(&[0, 0, 0, 0]);
    });
    let mut removal = Batch::default();
    for body in socket.query(dump)? {
        let family = body.first().copied().unwrap_or(2);
        let attributes = Attributes(body.get(4..).unwrap_or_default());
        let (Some(flow), Some(tuple)) = (flow(attributes), attributes.value(TUPLE_ORIG)) else {
            continue;
        };
        if stale.holds(&flow) {
            removal.request(DELETE, 0, "forget a tracked connection", |m| {
                m.raw(&[family, 0, 0, 0]).attr(TUPLE_ORIG | NESTED, tuple);
            });
            removal.tolerate(&[libc::ENOENT]);
        }
    }
    let count = removal.requests.len();
    socket.transact(removal)?;
    Ok(count)
}
