//! Slot maps: how backends of a service share the slots among which `numgen` picks one per connection. Pure.
//!
//! The rule is the same for all services, `(key . slot) -> backend` is looked up, so a change touches only map
//! elements: those slots that change hands. Services with few backends use a small class of slots, others larger ones,
//! each with a map of its own; a service is in exactly one of them.
use std::collections::BTreeMap;

/// Numbers of slots; one map and one rule each.
pub const CLASSES: [u32; 5] = [1, 16, 64, 1024, 16384];

/// A slot that changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<T> {
    /// Index in [`CLASSES`].
    pub class: usize,
    /// Slot.
    pub slot: u32,
    /// Who had it.
    pub old: Option<T>,
    /// Who gets it.
    pub new: Option<T>,
}

/// The slots of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots<T> {
    class: usize,
    owners: Vec<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            class: 0,
            owners: Vec::new(),
        }
    }
}

/// The smallest class in which shares are equal, or differ by an eighth at most.
fn class_for(backends: usize) -> usize {
    CLASSES
        .iter()
        .position(|&slots| {
            let slots = slots as usize;
            backends <= slots && (slots.is_multiple_of(backends) || backends * 8 <= slots)
        })
        .unwrap_or(CLASSES.len() - 1)
}

impl<T: Copy + Ord> Slots<T> {
    /// All slots with their owners.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u32, T)> + '_ {
        (0u32..)
            .zip(&self.owners)
            .map(|(slot, owner)| (self.class, slot, *owner))
    }

    /// Whether there is no backend.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Shares the slots among `backends` and returns what changes; as few slots as possible do.
    pub fn update(&mut self, backends: &[T]) -> Vec<Change<T>> {
        let mut held: BTreeMap<T, usize> = backends.iter().map(|b| (*b, 0)).collect();
        while held.len() > CLASSES[CLASSES.len() - 1] as usize {
            held.pop_last();
        }
        if held.is_empty() {
            let changes = self.removal();
            self.owners.clear();
            return changes;
        }
        let class = class_for(held.len());
        let mut changes = Vec::new();
        if self.owners.is_empty() || class != self.class {
            changes = self.removal();
            self.owners.clear();
        }
        self.class = class;
        let slots = CLASSES[class] as usize;
        let (base, mut extra) = (slots / held.len(), slots % held.len());
        let mut owners: Vec<Option<T>> = self.owners.iter().copied().map(Some).collect();
        owners.resize(slots, None);
        for owner in &mut owners {
            let Some(count) = owner.as_ref().and_then(|o| held.get_mut(o)) else {
                *owner = None;
                continue;
            };
            if *count < base {
                *count += 1;
            } else if *count == base && extra > 0 {
                extra -= 1;
                *count += 1;
            } else {
                *owner = None;
            }
        }
        let mut wanting: Vec<T> = Vec::with_capacity(slots);
        for (backend, count) in &held {
            wanting.extend(std::iter::repeat_n(*backend, base.saturating_sub(*count)));
        }
        let extras = held
            .iter()
            .filter(|(_, count)| **count <= base)
            .map(|(backend, _)| *backend)
            .take(extra);
        wanting.extend(extras.collect::<Vec<_>>());
        let mut wanting = wanting.into_iter();
        for (number, owner) in owners.iter_mut().enumerate() {
            if owner.is_none() {
                *owner = wanting.next();
                let slot = u32::try_from(number).expect("there are at most 16384 slots");
                changes.push(Change {
                    class,
                    slot,
                    old: self.owners.get(number).copied(),
                    new: *owner,
                });
            }
        }
        self.owners = owners.into_iter().flatten().collect();
        changes
    }

    fn removal(&self) -> Vec<Change<T>> {
        self.iter()
            .map(|(class, slot, old)| Change {
                class,
                slot,
                old: Some(old),
                new: None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(slots: &Slots<u32>) -> BTreeMap<u32, usize> {
        let mut shares = BTreeMap::new();
        for (_, _, owner) in slots.iter() {
            *shares.entry(owner).or_default() += 1;
        }
        shares
    }

    /// Replays changes on a model of the maps.
    fn apply(model: &mut BTreeMap<(usize, u32), u32>, changes: &[Change<u32>]) {
        for change in changes {
            assert_eq!(model.remove(&(change.class, change.slot)), change.old);
            if let Some(new) = change.new {
                model.insert((change.class, change.slot), new);
            }
        }
    }

    #[test]
    fn shares_are_even_and_changes_lead_from_state_to_state() {
        let mut slots = Slots::default();
        let mut model = BTreeMap::new();
        for count in [1, 2, 3, 4, 5, 8, 9, 40, 130, 500, 41, 10, 3, 2, 0, 7, 1, 0] {
            let backends: Vec<u32> = (100..100 + count).collect();
            apply(&mut model, &slots.update(&backends));
            let shares = shares(&slots);
            assert_eq!(shares.len(), count as usize, "every backend has a share");
            if let (Some(max), Some(min)) = (shares.values().max(), shares.values().min()) {
                assert!(max - min <= 1, "{count}: {shares:?}");
            }
            let own: BTreeMap<_, _> = slots
                .iter()
                .map(|(class, slot, owner)| ((class, slot), owner))
                .collect();
            assert_eq!(own, model);
        }
    }

    #[test]
    fn a_replaced_backend_moves_only_its_share() {
        let mut slots = Slots::default();
        slots.update(&[1, 2, 3]);
        let changes = slots.update(&[1, 2, 4]);
        assert!(changes.len() <= 22, "{}", changes.len());
        assert!(changes.iter().all(|c| c.old == Some(3) && c.new == Some(4)));
        assert!(slots.update(&[4, 2, 1]).is_empty(), "the order does not matter");
    }
}
