//! Of what tables are made: sets, chains, address families.

/// Data types as the `nft` program numbers them; only its listing looks at them.
pub mod kind {
    /// A number of 32 bits in host order: slots. (`integer` has no length, at which the listing gives up.)
    pub const MARK: u32 = 19;
    /// IPv4 address.
    pub const ADDRESS: u32 = 7;
    /// IPv6 address.
    pub const ADDRESS6: u32 = 8;
    /// IP protocol number.
    pub const PROTOCOL: u32 = 12;
    /// TCP or UDP port.
    pub const PORT: u32 = 13;
    /// Interface name, 16 bytes.
    pub const INTERFACE: u32 = 41;

    /// The id of a concatenation.
    #[must_use]
    pub const fn concat(parts: &[u32]) -> u32 {
        let (mut id, mut index) = (0, 0);
        while index < parts.len() {
            id = (id << 6) | parts[index];
            index += 1;
        }
        id
    }
}

/// A set or map.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Name.
    pub name: &'static str,
    /// Type and length of the key; each part is padded to 4 bytes.
    pub key: (u32, u32),
    /// Type and length of the value, for maps.
    pub value: Option<(u32, u32)>,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Key bytes.
    pub key: Vec<u8>,
    /// Value bytes, for maps; not needed for removal.
    pub value: Option<Vec<u8>>,
}

/// Where a chain is hooked in.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// To this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// A base chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Name.
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Hook.
    pub hook: Hook,
    /// Order among the chains of the hook.
    pub priority: i32,
}

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `ip`
    V4 = 2,
    /// `ip6`
    V6 = 10,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes of an address.
    #[must_use]
    pub fn length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// The data type of an address.
    #[must_use]
    pub fn kind(self) -> u32 {
        match self {
            Self::V4 => kind::ADDRESS,
            Self::V6 => kind::ADDRESS6,
        }
    }
}
