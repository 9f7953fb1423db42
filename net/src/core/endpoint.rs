//! Endpoints: a veth pair from a sandbox to a bridge of the host or of an overlay's hidden namespace, or a link below an
//! interface of the host. What is known of one; [`super::attach`] makes them, [`super::detach`] and [`super::removal`] take
//! them away, [`super::routes`] chooses among them.
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::v4;
use crate::{Endpoint, EndpointSpec};

/// First interface index given inside a sandbox: above what the kernel makes by itself in a new namespace (tunl0,
/// sit0 and the like), so that no look-up is needed.
const FIRST_INDEX: u32 = 100;
/// Near ends are called `pt<hash>x<number>`.
const LINK_PREFIX: &str = "pt";

/// To what an endpoint is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// A bridge on the host.
    Bridge,
    /// The bridge in an overlay's hidden namespace.
    Overlay {
        /// The near end's interface index there.
        index: u32,
    },
    /// The gateway bridge, on behalf of an overlay.
    Egress,
    /// An interface of the host: there is no near end.
    Below,
}

/// What is stored of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// What callers see.
    pub endpoint: Endpoint,
    /// DNS names.
    pub aliases: Vec<String>,
    /// Name of the near end.
    pub link: String,
    /// Number of the interface in the sandbox.
    pub number: u32,
    /// Where the near end is.
    pub attachment: Attachment,
    /// Rank among those that could give the default route.
    #[serde(default)]
    pub priority: i32,
    /// Names that only this sandbox knows: (sandbox id, alias).
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// Whether the default route of a family goes through it.
    #[serde(default)]
    pub routes: [bool; 2],
}

impl EndpointRecord {
    /// One that is about to be made; `index` is that of its near end.
    pub fn new(
        sandbox_id: &str,
        spec: &EndpointSpec,
        endpoint: Endpoint,
        (index, number): (u32, u32),
        attachment: Attachment,
    ) -> Self {
        Self {
            endpoint,
            aliases: spec.aliases.clone(),
            link: link_name(sandbox_id, index, number),
            number,
            attachment,
            priority: spec.priority,
            links: spec.links.clone(),
            routes: [false; 2],
        }
    }

    /// Whether it is on an overlay.
    pub fn is_overlay(&self) -> bool {
        matches!(self.attachment, Attachment::Overlay { .. })
    }

    /// Whether it is there only to reach the outside.
    pub fn is_egress(&self) -> bool {
        self.attachment == Attachment::Egress
    }

    /// Its IPv4 address.
    pub fn address(&self) -> Option<Ipv4Addr> {
        v4(self.endpoint.address?.addr()).ok()
    }

    /// Index of its interface in the sandbox.
    pub fn index(&self) -> u32 {
        FIRST_INDEX + self.number
    }
}

/// Name of a near end, at most 15 bytes. No other has it, nor had it before: the link of a sandbox's last life may not be
/// gone from the kernel yet when it is made again. `index` is the link's.
fn link_name(sandbox_id: &str, index: u32, number: u32) -> String {
    // FNV-1a: stable over restarts and versions.
    let bytes = sandbox_id.bytes().chain(index.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{LINK_PREFIX}{:010x}x{number}", hash >> 24)
}

/// Whether a link is called as near ends are.
pub fn is_link_name(name: &str) -> bool {
    let parts = name
        .strip_prefix(LINK_PREFIX)
        .and_then(|rest| rest.split_once('x'));
    parts.is_some_and(|(hash, number)| {
        hash.len() == 10
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}
