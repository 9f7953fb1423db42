//! A persistent set of integers, kept as disjoint, non-adjacent closed intervals.
//!
//! It is what makes a pool of any size cheap: memory grows with the number of gaps, not with the size of the
//! subnet (a bitmap of an IPv6 /64 does not fit anywhere), and a clone shares everything. Used by the address and
//! the id pool.

use imbl::OrdMap;

/// Set of `u128`, as a map from the first to the last element of each interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IntervalSet {
    intervals: OrdMap<u128, u128>,
    len: u128,
}

impl IntervalSet {
    /// Number of elements.
    pub(crate) fn len(&self) -> u128 {
        self.len
    }

    /// The interval that holds `value`.
    fn interval(&self, value: u128) -> Option<(u128, u128)> {
        let (&first, &last) = self.intervals.get_prev(&value)?;
        (last >= value).then_some((first, last))
    }

    /// Whether `value` is in the set.
    pub(crate) fn contains(&self, value: u128) -> bool {
        self.interval(value).is_some()
    }

    /// Adds `value`; false if it was there.
    pub(crate) fn insert(&mut self, value: u128) -> bool {
        if self.contains(value) {
            return false;
        }
        let below = value.checked_sub(1).and_then(|v| self.interval(v));
        let above = value.checked_add(1).and_then(|v| self.interval(v));
        let first = below.map_or(value, |(first, _)| first);
        let last = above.map_or(value, |(_, last)| last);
        if above.is_some() {
            self.intervals.remove(&(value + 1));
        }
        self.intervals.insert(first, last);
        self.len += 1;
        true
    }

    /// Takes `value` out; false if it was not there.
    pub(crate) fn remove(&mut self, value: u128) -> bool {
        let Some((first, last)) = self.interval(value) else {
            return false;
        };
        if first == value {
            self.intervals.remove(&first);
        } else {
            self.intervals.insert(first, value - 1);
        }
        if value < last {
            self.intervals.insert(value + 1, last);
        }
        self.len -= 1;
        true
    }

    /// The lowest value of `low..=high` that is not in the set.
    pub(crate) fn first_gap(&self, low: u128, high: u128) -> Option<u128> {
        let candidate = match self.interval(low) {
            // Intervals are never adjacent, so what follows one is free.
            Some((_, last)) => last.checked_add(1)?,
            None => low,
        };
        (candidate <= high).then_some(candidate)
    }

    /// The first value outside the set at or after `cursor`, going round once inside `low..=high`.
    pub(crate) fn next_gap(&self, cursor: u128, low: u128, high: u128) -> Option<u128> {
        let start = if (low..=high).contains(&cursor) {
            cursor
        } else {
            low
        };
        self.first_gap(start, high).or_else(|| {
            let end = start.checked_sub(1)?;
            if end < low { None } else { self.first_gap(low, end) }
        })
    }

    /// The highest element at or below `bound`.
    pub(crate) fn highest_up_to(&self, bound: u128) -> Option<u128> {
        let (_, &last) = self.intervals.get_prev(&bound)?;
        Some(last.min(bound))
    }
}
