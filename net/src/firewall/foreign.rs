//! Accept rules for our bridges in other firewalls' forward chains, where the administrator asked for them
//! (`firewall-accept`). Our own table still decides between bridges and about published ports: what it drops stays
//! dropped, whatever others accept. The rules carry the comment `pontoon`, by which they are found again.
use super::{
    expression::{Compare, Meta, R0, Verdict},
    nft::{ForeignChain, TABLE, Transaction, chains, ruled},
};
use crate::{Result, netlink::Socket};

/// Where forwarding is decided.
const FORWARD: u32 = 2;

/// An nftables comment: type, length, text with its zero.
fn comment() -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(TABLE.len() + 1).expect("the name is short")];
    bytes.extend_from_slice(TABLE.as_bytes());
    bytes.push(0);
    bytes
}

/// Makes the accept rules those for `bridges`, in all chains where packets are forwarded but our own.
///
/// # Errors
/// [`crate::Error::Netlink`]; nothing was changed then.
pub fn accept(socket: &mut Socket, bridges: &[String]) -> Result<()> {
    let comment = comment();
    let mut tx = Transaction::default();
    let forward =
        |chain: &ForeignChain| chain.hook == Some(FORWARD) && chain.kind == "filter" && chain.table != TABLE;
    for chain in chains(socket)?.iter().filter(|chain| forward(chain)) {
        for handle in ruled(socket, chain, &comment)? {
            tx.remove_foreign_rule(chain, handle);
        }
        for bridge in bridges {
            let mut name = bridge.as_bytes().to_vec();
            name.push(0);
            for side in [Meta::InputName, Meta::OutputName] {
                tx.insert_foreign_rule(chain, &comment, |e| {
                    // As iptables writes it, so that its listing can read it.
                    e.meta(side, R0)
                        .cmp(R0, Compare::Eq, &name)
                        .counter()
                        .verdict(Verdict::Accept);
                });
            }
        }
    }
    tx.commit(socket)
}
