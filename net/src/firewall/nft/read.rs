//! What the ruleset holds: chains of other programs and our rules in them, elements of our sets.
use super::{Element, Family, SUBSYSTEM, TABLE};
use crate::{
    Result,
    netlink::{Attributes, Batch, Socket},
};

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSETELEM: u16 = 13;

/// A chain of anyone's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    pub(super) family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook of a base chain.
    pub hook: Option<u32>,
    /// The type of a base chain.
    pub kind: String,
}

/// All chains of all families that see IP packets on their way.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn chains(socket: &mut Socket) -> Result<Vec<ForeignChain>> {
    let mut batch = Batch::default();
    batch.request(SUBSYSTEM << 8 | GETCHAIN, libc::NLM_F_DUMP, "list chains", |m| {
        m.raw(&[0; 4]);
    });
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let read = |body: &Vec<u8>| {
        let attributes = Attributes(body.get(4..)?);
        // ip, ip6 and inet
        Some(*body.first()?)
            .filter(|family| [1, 2, 10].contains(family))
            .and_then(|family| {
                Some(ForeignChain {
                    family,
                    table: attributes.string(1)?,
                    name: attributes.string(3)?,
                    hook: attributes.nested(4).value(1).and_then(number),
                    kind: attributes.string(7).unwrap_or_default(),
                })
            })
    };
    Ok(socket.query(batch)?.iter().filter_map(read).collect())
}

/// Handles of a chain's rules that carry this comment.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn ruled(socket: &mut Socket, chain: &ForeignChain, comment: &[u8]) -> Result<Vec<u64>> {
    let mut batch = Batch::default();
    let label = format!("list the rules of chain {}", chain.name);
    batch.request(SUBSYSTEM << 8 | GETRULE, libc::NLM_F_DUMP, label, |m| {
        m.raw(&[chain.family, 0, 0, 0])
            .string(1, &chain.table)
            .string(2, &chain.name);
    });
    let read = |body: &Vec<u8>| {
        let attributes = Attributes(body.get(4..)?);
        let is_of_chain = attributes.string(1)? == chain.table && attributes.string(2)? == chain.name;
        (is_of_chain && attributes.value(7)? == comment).then_some(())?;
        Some(u64::from_be_bytes(attributes.value(3)?.try_into().ok()?))
    };
    Ok(socket.query(batch)?.iter().filter_map(read).collect())
}

/// The elements of a set, keys and values; none if there is no such set.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn read_set(socket: &mut Socket, set: &str) -> Result<Vec<Element>> {
    let mut batch = Batch::default();
    batch.request(
        SUBSYSTEM << 8 | GETSETELEM,
        libc::NLM_F_DUMP,
        format!("read set {set}"),
        |m| {
            m.raw(&[Family::V4 as u8, 0, 0, 0])
                .string(1, TABLE)
                .string(2, set);
        },
    );
    let bodies = match socket.query(batch) {
        Err(crate::Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
            Vec::new()
        }
        other => other?,
    };
    let mut elements = Vec::new();
    for body in &bodies {
        for (_, element) in Attributes(body.get(4..).unwrap_or_default()).nested(3) {
            let value = |kind| Attributes(element).nested(kind).value(1).map(<[u8]>::to_vec);
            if let Some(key) = value(1) {
                elements.push(Element { key, value: value(2) });
            }
        }
    }
    Ok(elements)
}
