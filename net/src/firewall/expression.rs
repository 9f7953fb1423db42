//! Encoder for nftables rule expressions (linux/netfilter/nf_tables.h). Registers are numbered as the `nft` program
//! does: 1 is the first 16 bytes, 9, 10... the second, third... 4 bytes of the same space.
use super::nft::Family;
use crate::netlink::Message;

/// First register; 16 bytes, or the first 4 of them.
pub const R0: u32 = 1;
/// Bytes 4..8.
pub const R4: u32 = 9;
/// Bytes 8..12.
pub const R8: u32 = 10;
/// Bytes 16..32: the second 16-byte register.
pub const R16: u32 = 2;

/// What `meta` loads.
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// Name of the input interface, 16 bytes.
    InputName = 6,
    /// Name of the output interface, 16 bytes.
    OutputName = 7,
    /// Transport protocol number.
    Protocol = 16,
}

/// What `ct` loads.
#[derive(Clone, Copy, Debug)]
pub enum Ct {
    /// Bits of the state: 2 established, 4 related, 8 new.
    State = 0,
    /// `IPS_*` bits: 0x20 means destination NAT.
    Status = 2,
}

/// Comparison.
#[derive(Clone, Copy, Debug)]
pub enum Compare {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Ne = 1,
}

/// How a rule ends.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Goes on with the next chain.
    Accept,
    /// Drops the packet.
    Drop,
}

/// Header from which `payload` loads.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// IP header.
    Network = 1,
    /// TCP or UDP header.
    Transport = 2,
}

/// How `reject` answers.
#[derive(Clone, Copy, Debug)]
pub enum Reject {
    /// ICMP port unreachable.
    PortUnreachable,
    /// TCP reset.
    TcpReset,
}

/// The register at a multiple of four bytes.
pub fn register(at: u32) -> u32 {
    match at {
        0 => R0,
        16 => R16,
        at => 8 + at / 4,
    }
}

/// The expressions of one rule.
#[derive(Debug)]
pub struct Expressions<'a, 'b> {
    /// The rule's message.
    pub message: &'a mut Message<'b>,
    /// The family of its table.
    pub family: Family,
}

impl Expressions<'_, '_> {
    fn expression(&mut self, name: &str, build: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        self.message.nest(1, |m| {
            m.string(1, name).nest(2, build);
        });
        self
    }

    /// Loads packet bytes.
    pub fn payload(&mut self, base: Base, offset: u32, length: u32, register: u32) -> &mut Self {
        self.expression("payload", |m| {
            m.be32(1, register)
                .be32(2, base as u32)
                .be32(3, offset)
                .be32(4, length);
        })
    }

    /// Loads the source address.
    pub fn source(&mut self, register: u32) -> &mut Self {
        match self.family {
            Family::V4 => self.payload(Base::Network, 12, 4, register),
            Family::V6 => self.payload(Base::Network, 8, 16, register),
        }
    }

    /// Loads the destination address.
    pub fn destination(&mut self, register: u32) -> &mut Self {
        match self.family {
            Family::V4 => self.payload(Base::Network, 16, 4, register),
            Family::V6 => self.payload(Base::Network, 24, 16, register),
        }
    }

    /// Loads the TCP or UDP destination port.
    pub fn port(&mut self, register: u32) -> &mut Self {
        self.payload(Base::Transport, 2, 2, register)
    }

    /// Loads packet metadata.
    pub fn meta(&mut self, key: Meta, register: u32) -> &mut Self {
        self.expression("meta", |m| {
            m.be32(1, register).be32(2, key as u32);
        })
    }

    /// Loads connection tracking data.
    pub fn ct(&mut self, key: Ct, register: u32) -> &mut Self {
        self.expression("ct", |m| {
            m.be32(1, register).be32(2, key as u32);
        })
    }

    /// Compares a register with bytes.
    pub fn cmp(&mut self, register: u32, compare: Compare, value: &[u8]) -> &mut Self {
        self.expression("cmp", |m| {
            m.be32(1, register).be32(2, compare as u32).nest(3, |m| {
                m.attr(1, value);
            });
        })
    }

    /// `register = register & mask`.
    pub fn mask(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |m| {
            let length = u32::try_from(mask.len()).expect("a mask has at most 16 bytes");
            m.be32(1, register).be32(2, register).be32(3, length);
            m.nest(4, |m| {
                m.attr(1, mask);
            });
            m.nest(5, |m| {
                m.attr(1, &[0; 16][..mask.len()]);
            });
        })
    }

    /// Only packets whose destination is an address of this host (`fib daddr type local`).
    pub fn local_destination(&mut self) -> &mut Self {
        self.expression("fib", |m| {
            m.be32(1, R0).be32(2, 3).be32(3, 2); // result: address type; of the destination
        })
        .cmp(R0, Compare::Eq, &2u32.to_ne_bytes()) // RTN_LOCAL
    }

    /// Only packets of these connection states.
    pub fn ct_bits(&mut self, key: Ct, bits: u32) -> &mut Self {
        self.ct(key, R0)
            .mask(R0, &bits.to_ne_bytes())
            .cmp(R0, Compare::Ne, &[0; 4])
    }

    /// Only packets whose key is in the set (or, inverted, is not).
    pub fn in_set(&mut self, set: &str, register: u32, inverted: bool) -> &mut Self {
        self.expression("lookup", |m| {
            m.string(1, set).be32(2, register);
            if inverted {
                m.be32(5, 1);
            }
        })
    }

    /// Loads the map's value for the key in `register` into `target`; without one the rule ends.
    pub fn map(&mut self, map: &str, register: u32, target: u32) -> &mut Self {
        self.expression("lookup", |m| {
            m.string(1, map).be32(2, register).be32(3, target);
        })
    }

    /// A random number below `modulus`, in host order.
    pub fn random(&mut self, modulus: u32, register: u32) -> &mut Self {
        self.expression("numgen", |m| {
            m.be32(1, register).be32(2, modulus).be32(3, 1); // NFT_NG_RANDOM
        })
    }

    /// Loads constant bytes.
    pub fn immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |m| {
            m.be32(1, register).nest(2, |m| {
                m.attr(1, value);
            });
        })
    }

    /// Destination NAT to the address, and if given the port, in registers.
    pub fn dnat(&mut self, address: u32, port: Option<u32>) -> &mut Self {
        let family = self.family as u32;
        self.expression("nat", |m| {
            m.be32(1, 1).be32(2, family).be32(3, address); // NFT_NAT_DNAT
            if let Some(port) = port {
                m.be32(5, port);
            }
        })
    }

    /// Source NAT to the address of the outgoing interface.
    pub fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| {})
    }

    /// Counts packets.
    pub fn counter(&mut self) -> &mut Self {
        self.expression("counter", |_| {})
    }

    /// Answers with an error.
    pub fn reject(&mut self, how: Reject) -> &mut Self {
        // ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH
        let unreachable = if self.family == Family::V4 { 3 } else { 4 };
        self.expression("reject", |m| match how {
            Reject::PortUnreachable => {
                m.be32(1, 0).u8(2, unreachable);
            }
            Reject::TcpReset => {
                m.be32(1, 1).u8(2, 0);
            }
        })
    }

    /// Ends the packet's way through this chain.
    pub fn verdict(&mut self, verdict: Verdict) -> &mut Self {
        let code: u32 = match verdict {
            Verdict::Accept => 1,
            Verdict::Drop => 0,
        };
        self.expression("immediate", |m| {
            m.be32(1, 0).nest(2, |m| {
                m.nest(2, |m| {
                    m.be32(1, code);
                });
            });
        })
    }
}
