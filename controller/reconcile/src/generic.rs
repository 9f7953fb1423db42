//! Generic resources: things of kinds that users name (GPUs, licences), which nodes offer, services reserve and tasks hold.
//! A node offers of a kind either a number, or names; a service reserves a number of a kind, or one by its name.
//!
//! Read by the scheduler's filter, given out when a task gets its node, and looked at again by the enforcer when a node
//! offers less than before. SwarmKit's `genericresource`, and reserving by name besides.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_proto::v1::{GenericResource, Node};

/// What a node offers.
pub(crate) fn offered(node: &Node) -> &[GenericResource] {
    node.description
        .as_ref()
        .map_or(&[][..], |description| &description.generic_resources)
}

/// The number that is offered of a kind; none if the kind is offered by names, or not at all.
fn number(offered: &[GenericResource], kind: &str) -> Option<i64> {
    let numbers = offered.iter().filter(|unit| unit.name.is_empty());
    let counts = numbers.filter(|unit| unit.kind == kind).map(|unit| unit.count);
    counts.reduce(i64::saturating_add)
}

/// The names that are offered of a kind, sorted.
fn names<'a>(offered: &'a [GenericResource], kind: &str) -> BTreeSet<&'a str> {
    let of_kind = offered.iter().filter(|unit| unit.kind == kind);
    of_kind
        .map(|unit| unit.name.as_str())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Units of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Units {
    /// Those without a name.
    count: i64,
    /// Those with one, and how many tasks hold it: one, unless the store says something that no scheduler wrote.
    names: BTreeMap<String, usize>,
}

impl Units {
    fn is_nothing(&self) -> bool {
        self.count == 0 && self.names.is_empty()
    }
}

/// Units that tasks hold, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held(BTreeMap<String, Units>);

impl Held {
    /// Counts a task's units.
    pub(crate) fn add(&mut self, units: &[GenericResource]) {
        for unit in units {
            let held = self.0.entry(unit.kind.clone()).or_default();
            if unit.name.is_empty() {
                held.count = held.count.saturating_add(unit.count);
            } else {
                *held.names.entry(unit.name.clone()).or_default() += 1;
            }
        }
    }

    /// Takes a task's units out again, as far as they are counted; false if none was.
    pub(crate) fn take(&mut self, units: &[GenericResource]) -> bool {
        let mut taken = false;
        for unit in units {
            let Some(held) = self.0.get_mut(&unit.kind) else {
                continue;
            };
            if unit.name.is_empty() {
                let count = unit.count.min(held.count);
                held.count -= count;
                taken |= count > 0;
            } else if let Some(count) = held.names.get_mut(&unit.name) {
                *count -= 1;
                if *count == 0 {
                    held.names.remove(&unit.name);
                }
                taken = true;
            }
            if held.is_nothing() {
                self.0.remove(&unit.kind);
            }
        }
        taken
    }

    /// Whether nothing is held.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// The units that a task gets which reserves `wanted`; none if they are not all free.
    pub(crate) fn claim(
        &self,
        offered: &[GenericResource],
        wanted: &[GenericResource],
    ) -> Option<Vec<GenericResource>> {
        let mut given: Vec<GenericResource> = Vec::new();
        // Those who want a certain one first: the others take what is left.
        for want in wanted.iter().filter(|want| !want.name.is_empty()) {
            let free = self.free_names(offered, &want.kind, &given);
            if !free.contains(want.name.as_str()) {
                return None;
            }
            given.push(GenericResource {
                count: 0,
                ..want.clone()
            });
        }
        for want in wanted.iter().filter(|want| want.name.is_empty()) {
            if let Some(number) = number(offered, &want.kind) {
                let all = number.saturating_sub(self.held(&want.kind));
                if all < want.count {
                    return None;
                }
                if want.count > 0 {
                    given.push(want.clone());
                }
                continue;
            }
            let free = self.free_names(offered, &want.kind, &given);
            let nameless = self.0.get(&want.kind).map_or(0, |units| units.count);
            let all = i64::try_from(free.len()).unwrap_or(i64::MAX) - nameless;
            let some = names(offered, &want.kind).len();
            if all < want.count || some == 0 {
                return None;
            }
            let count = usize::try_from(want.count).unwrap_or(0);
            let chosen = free.into_iter().take(count).map(|name| GenericResource {
                kind: want.kind.clone(),
                name: name.to_owned(),
                count: 0,
            });
            given.extend(chosen);
        }
        Some(given)
    }

    /// What of `wanted` is not free, in words.
    pub(crate) fn lacking(&self, offered: &[GenericResource], wanted: &[GenericResource]) -> Vec<String> {
        let lacks = |want: &&GenericResource| self.claim(offered, std::slice::from_ref(*want)).is_none();
        let said = |want: &GenericResource| {
            let kind = &want.kind;
            if !want.name.is_empty() {
                return format!("{kind}={} is not free", want.name);
            }
            let names = i64::try_from(names(offered, kind).len()).unwrap_or(i64::MAX);
            let has = number(offered, kind).unwrap_or(names);
            format!(
                "{} of {has} {kind} are held, it needs {}",
                self.held(kind),
                want.count
            )
        };
        wanted.iter().filter(lacks).map(said).collect()
    }

    /// Units of a kind that are held, with a name or without.
    fn held(&self, kind: &str) -> i64 {
        self.0.get(kind).map_or(0, |units| {
            units
                .count
                .saturating_add(i64::try_from(units.names.len()).unwrap_or(i64::MAX))
        })
    }

    /// Names of a kind that nobody holds, and that are not among `given`.
    fn free_names<'a>(
        &self,
        offered: &'a [GenericResource],
        kind: &str,
        given: &[GenericResource],
    ) -> BTreeSet<&'a str> {
        let mut free = names(offered, kind);
        let held = self.0.get(kind).map(|units| &units.names);
        free.retain(|name| {
            held.is_none_or(|held| !held.contains_key(*name))
                && !given.iter().any(|unit| unit.kind == kind && unit.name == *name)
        });
        free
    }

    /// What is held beyond what is offered: names that are gone, and numbers above the node's.
    pub(crate) fn excess(&self, offered: &[GenericResource]) -> Self {
        let mut over = BTreeMap::new();
        for (kind, units) in &self.0 {
            let has = names(offered, kind);
            let gone = units
                .names
                .iter()
                .filter(|(name, _)| !has.contains(name.as_str()));
            let most = number(offered, kind).unwrap_or(0);
            let excess = Units {
                count: units.count.saturating_sub(most).max(0),
                names: gone.map(|(name, count)| (name.clone(), *count)).collect(),
            };
            if !excess.is_nothing() {
                over.insert(kind.clone(), excess);
            }
        }
        Self(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(kind: &str, count: i64) -> GenericResource {
        GenericResource {
            kind: kind.to_owned(),
            count,
            ..GenericResource::default()
        }
    }

    fn one(kind: &str, name: &str) -> GenericResource {
        GenericResource {
            kind: kind.to_owned(),
            name: name.to_owned(),
            count: 0,
        }
    }

    #[test]
    fn names_are_given_in_their_order_and_come_back() {
        let offered = [one("gpu", "c"), one("gpu", "a"), one("gpu", "b"), some("ssd", 3)];
        let mut held = Held::default();
        let wanted = [some("gpu", 1), one("gpu", "a"), some("ssd", 2)];
        let given = held.claim(&offered, &wanted).unwrap();
        assert_eq!(given, [one("gpu", "a"), one("gpu", "b"), some("ssd", 2)]);
        held.add(&given);
        assert_eq!(held.claim(&offered, &[some("ssd", 2)]), None);
        assert_eq!(held.claim(&offered, &[some("gpu", 2)]), None);
        assert_eq!(held.claim(&offered, &[one("gpu", "b")]), None);
        assert_eq!(held.claim(&offered, &[one("gpu", "d")]), None);
        assert_eq!(held.claim(&offered, &[some("fpga", 0)]), None);
        assert_eq!(
            held.claim(&offered, &[some("gpu", 1)]).unwrap(),
            [one("gpu", "c")]
        );
        let wanted = [some("ssd", 2), one("gpu", "b"), some("gpu", 1), some("fpga", 1)];
        assert_eq!(
            held.lacking(&offered, &wanted),
            [
                "2 of 3 ssd are held, it needs 2",
                "gpu=b is not free",
                "0 of 0 fpga are held, it needs 1"
            ]
        );
        assert!(held.take(&given) && held.is_nothing() && !held.take(&given));
    }

    #[test]
    fn what_a_node_no_longer_offers_is_too_much() {
        let mut held = Held::default();
        held.add(&[one("gpu", "a"), one("gpu", "b"), some("ssd", 3)]);
        assert!(
            held.excess(&[one("gpu", "a"), one("gpu", "b"), some("ssd", 3)])
                .is_nothing()
        );
        let mut over = held.excess(&[one("gpu", "b"), one("gpu", "c"), some("ssd", 2)]);
        assert!(!over.take(&[one("gpu", "b")]));
        assert!(over.take(&[one("gpu", "a")]) && over.take(&[some("ssd", 2)]) && over.is_nothing());
        // From names to a number and back: those who hold the one can't be told from each other.
        let changed = held.excess(&[some("gpu", 2), one("ssd", "x")]);
        assert_eq!(changed, held);
        assert_eq!(held.claim(&[some("gpu", 2)], &[some("gpu", 1)]), None);
        assert_eq!(
            held.claim(&[one("ssd", "x"), one("ssd", "y")], &[some("ssd", 1)]),
            None
        );
    }
}
