//! What a table of ours holds, as values that can be compared: what a transaction would make of nothing, and what the kernel has.
//! The expected one is read off the very requests that would make the table, so there is no second description of it.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    DELRULE, DELSETELEM, DELTABLE, Element, Family, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWTABLE,
    SUBSYSTEM, TABLE, Transaction,
};
use crate::{
    Part, Result,
    netlink::{Attributes, Batch, Socket},
};

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const GETGEN: u16 = 16;
/// Length of `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;

/// A table's chains and sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Numbers of rules by chain.
    chains: BTreeMap<String, usize>,
    /// Elements by set.
    sets: BTreeMap<String, BTreeSet<Element>>,
}

/// Our tables by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(BTreeMap<Family, Contents>);

/// Something about a table that is not as it should be: what, how it should be, how it is.
pub type Difference = (Part, String, String);

/// Elements of a message about a set.
fn elements(attributes: Attributes<'_>) -> impl Iterator<Item = Element> {
    attributes.nested(3).filter_map(|(_, element)| {
        let value = |kind| Attributes(element).nested(kind).value(1).map(<[u8]>::to_vec);
        Some(Element {
            key: value(1)?,
            value: value(2),
        })
    })
}

impl Model {
    /// What a transaction makes of no tables at all.
    #[must_use]
    pub fn of(tx: &Transaction) -> Self {
        let mut model = Self::default();
        let bytes = &tx.batch.bytes;
        for (number, request) in tx.batch.requests.iter().enumerate() {
            let end = tx.batch.requests.get(number + 1).map_or(bytes.len(), |r| r.start);
            let Some(message) = bytes.get(request.start..end) else {
                continue;
            };
            let (Some(kind), Some(body)) = (message.get(4..6), message.get(HEADERS..)) else {
                continue;
            };
            let kind = u16::from_ne_bytes([kind[0], kind[1]]);
            if kind >> 8 == SUBSYSTEM {
                let family = message.get(16).copied().and_then(family);
                model.take(kind & 0xff, family, Attributes(body));
            }
        }
        model
    }

    fn take(&mut self, kind: u16, family: Option<Family>, attributes: Attributes<'_>) {
        let Some(family) = family else { return };
        match kind {
            NEWTABLE => drop(self.0.entry(family).or_default()),
            DELTABLE => drop(self.0.remove(&family)),
            _ => {}
        }
        let Some(table) = self.0.get_mut(&family) else {
            return;
        };
        let name = attributes.string(2).unwrap_or_default();
        match kind {
            NEWCHAIN => drop(
                table
                    .chains
                    .entry(attributes.string(3).unwrap_or_default())
                    .or_default(),
            ),
            NEWRULE => *table.chains.entry(name).or_default() += 1,
            DELRULE => table.chains.values_mut().for_each(|rules| *rules = 0),
            NEWSET => drop(table.sets.entry(name).or_default()),
            NEWSETELEM => table.sets.entry(name).or_default().extend(elements(attributes)),
            DELSETELEM => {
                let set = table.sets.entry(name).or_default();
                let mut gone = elements(attributes).peekable();
                if gone.peek().is_none() {
                    set.clear();
                }
                gone.for_each(|gone| set.retain(|element| element.key != gone.key));
            }
            _ => {}
        }
    }

    /// What the kernel has of our tables.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn read(socket: &mut Socket, families: &[Family]) -> Result<Self> {
        let mut model = Self::default();
        for family in families {
            let mut contents = Contents::default();
            let mut is_there = false;
            for body in ours(socket, *family, GETCHAIN, "list chains")? {
                is_there = true;
                let name = Attributes(&body).string(3).unwrap_or_default();
                contents.chains.entry(name).or_default();
            }
            for body in ours(socket, *family, GETRULE, "list rules")? {
                let chain = Attributes(&body).string(2).unwrap_or_default();
                *contents.chains.entry(chain).or_default() += 1;
            }
            for body in ours(socket, *family, GETSET, "list sets")? {
                is_there = true;
                let name = Attributes(&body).string(2).unwrap_or_default();
                let held = read(socket, *family, &name)?;
                contents.sets.insert(name, held);
            }
            if is_there {
                model.0.insert(*family, contents);
            }
        }
        Ok(model)
    }

    /// Whether there is nothing in any set.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0
            .values()
            .flat_map(|table| table.sets.values())
            .all(BTreeSet::is_empty)
    }

    /// Whether there is no table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether chains and rules are those of the other, so that only elements differ.
    #[must_use]
    pub fn has_frame_of(&self, other: &Self) -> bool {
        other.0.iter().all(|(family, wanted)| {
            self.0.get(family).is_some_and(|found| {
                found.chains == wanted.chains && found.sets.keys().eq(wanted.sets.keys())
            })
        })
    }

    /// In what the tables differ from what they should be.
    #[must_use]
    pub fn differences(&self, expected: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        for (family, wanted) in &expected.0 {
            let Some(found) = self.0.get(family) else {
                all.push((Part::Table, table_name(*family), "nothing".into()));
                continue;
            };
            for (chain, rules) in &wanted.chains {
                let has = found.chains.get(chain);
                if has != Some(rules) {
                    let how = has.map_or("nothing".into(), |has| rules_text(*has));
                    let should = format!(
                        "chain {chain} of {} with {}",
                        table_name(*family),
                        rules_text(*rules)
                    );
                    all.push((Part::Chain, should, how));
                }
            }
            for (set, elements) in &wanted.sets {
                let should = || {
                    format!(
                        "set {set} of {} with {}",
                        table_name(*family),
                        elements_text(elements.len())
                    )
                };
                match found.sets.get(set) {
                    None => all.push((Part::Set, should(), "nothing".into())),
                    Some(has) if has != elements => {
                        let (kept, other) = (
                            has.intersection(elements).count(),
                            has.difference(elements).count(),
                        );
                        let how = match other {
                            0 => format!("{kept} of them"),
                            _ => format!("{kept} of them and {other} that should not be there"),
                        };
                        all.push((Part::Set, should(), how));
                    }
                    Some(_) => {}
                }
            }
        }
        all
    }
}

fn family(number: u8) -> Option<Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .find(|family| *family as u8 == number)
}

fn table_name(family: Family) -> String {
    let name = if family == Family::V4 { "ip" } else { "ip6" };
    format!("table {name} {TABLE}")
}

fn rules_text(count: usize) -> String {
    format!("{count} rule{}", if count == 1 { "" } else { "s" })
}

fn elements_text(count: usize) -> String {
    format!("{count} element{}", if count == 1 { "" } else { "s" })
}

/// Attributes of all that the kernel lists of a kind in our table; none where there is no such table.
fn ours(socket: &mut Socket, family: Family, kind: u16, label: &'static str) -> Result<Vec<Vec<u8>>> {
    let bodies = dump(socket, family, kind, label, None)?;
    let attributes = bodies
        .into_iter()
        .filter_map(|body| Some(body.get(4..)?.to_vec()));
    // The first attribute of all of them is the table's name.
    Ok(attributes
        .filter(|body| Attributes(body).string(1).as_deref() == Some(TABLE))
        .collect())
}

fn read(socket: &mut Socket, family: Family, set: &str) -> Result<BTreeSet<Element>> {
    let bodies = dump(socket, family, GETSETELEM, "read a set", Some(set))?;
    let found = bodies
        .iter()
        .flat_map(|body| elements(Attributes(body.get(4..).unwrap_or_default())));
    Ok(found.collect())
}

fn dump(
    socket: &mut Socket,
    family: Family,
    kind: u16,
    label: &'static str,
    set: Option<&str>,
) -> Result<Vec<Vec<u8>>> {
    let mut batch = Batch::default();
    batch.request(SUBSYSTEM << 8 | kind, libc::NLM_F_DUMP, label, |m| {
        m.raw(&[family as u8, 0, 0, 0]);
        if let Some(set) = set {
            m.string(1, TABLE).string(2, set);
        }
    });
    match socket.query(batch) {
        // It went meanwhile.
        Err(crate::Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// The number of transactions that the namespace's ruleset has seen: as long as it is the same, nobody has changed anything.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn generation(socket: &mut Socket) -> Result<u32> {
    let mut batch = Batch::default();
    batch.request(
        SUBSYSTEM << 8 | GETGEN,
        0,
        "ask for the ruleset's generation",
        |m| {
            m.raw(&[0; 4]);
        },
    );
    let number = |body: &Vec<u8>| {
        let value = Attributes(body.get(4..)?).value(1)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    };
    Ok(socket.query(batch)?.iter().find_map(number).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::sandbox;

    fn table(vips: u8, dns: u16) -> Model {
        let mut tx = Transaction::default();
        sandbox::create(&mut tx);
        sandbox::set_dns(&mut tx, dns, dns);
        for vip in 0..vips {
            sandbox::set_vip(&mut tx, [10, 0, 0, vip].into(), true);
        }
        Model::of(&tx)
    }

    #[test]
    fn a_transaction_says_what_it_would_make() {
        let expected = table(2, 5353);
        assert_eq!(expected, table(2, 5353));
        assert!(!expected.is_idle());
        let contents = &expected.0[&Family::V4];
        assert_eq!(contents.chains["output"], 6);
        assert_eq!(contents.chains["refuse"], 2);
        assert_eq!(contents.sets["vips"].len(), 2);
        assert_eq!(contents.sets["dns"].len(), 2);
        let mut tx = Transaction::default();
        sandbox::create(&mut tx);
        sandbox::set_dns(&mut tx, 53, 53);
        sandbox::clear_dns(&mut tx);
        assert!(Model::of(&tx).is_idle());
        tx.remove_table();
        assert!(Model::of(&tx).is_empty());
    }

    #[test]
    fn differences_name_what_is_missing_and_what_is_too_much() {
        let expected = table(2, 5353);
        let texts = |found: &Model| -> Vec<String> {
            let differences = found.differences(&expected);
            let text = |(part, should, is): &Difference| format!("{part}: {should}: {is}");
            differences.iter().map(text).collect()
        };
        assert!(texts(&expected).is_empty());
        assert_eq!(texts(&Model::default()), ["table: table ip pontoon: nothing"]);
        assert_eq!(
            texts(&table(1, 99)),
            [
                "set: set dns of table ip pontoon with 2 elements: 0 of them and 2 that should not be there",
                "set: set vips of table ip pontoon with 2 elements: 1 of them",
            ]
        );
        assert!(table(1, 99).has_frame_of(&expected));
        let mut bare = expected.clone();
        if let Some(contents) = bare.0.get_mut(&Family::V4) {
            contents.chains.insert("output".into(), 1);
            contents.sets.remove("vips");
        }
        assert_eq!(
            texts(&bare),
            [
                "chain: chain output of table ip pontoon with 6 rules: 1 rule",
                "set: set vips of table ip pontoon with 2 elements: nothing",
            ]
        );
        assert!(!bare.has_frame_of(&expected));
    }
}
