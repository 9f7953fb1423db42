//! Pools of plain numbers: VXLAN network identifiers and published ports.
//!
//! Used by the controller's allocator: one pool for the VNIs of overlay networks, one for each protocol's ports.

use std::ops::RangeInclusive;

use crate::{Error, Result, interval::IntervalSet};

/// VNIs that are given out: 0–4095 are left to other users of VXLAN on the same hosts, 24 bits is the limit
/// (RFC 7348 section 5).
pub const VNI_RANGE: RangeInclusive<u32> = 4096..=0x00ff_ffff;

/// Published ports that are chosen when the user names none; the same range as SwarmKit's.
pub const PORT_RANGE: RangeInclusive<u32> = 30_000..=32_767;

/// Numbers of one kind: some chosen by the pool out of its dynamic range, some asked for by users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPool {
    kind: &'static str,
    valid: (u32, u32),
    dynamic: (u32, u32),
    used: IntervalSet,
    cursor: u32,
}

impl IdPool {
    /// A pool of ids called `kind` in messages. `valid` bounds what may be asked for, `dynamic` what the pool
    /// chooses itself.
    #[must_use]
    pub fn new(kind: &'static str, valid: RangeInclusive<u32>, dynamic: RangeInclusive<u32>) -> Self {
        let cursor = *dynamic.start();
        Self {
            kind,
            valid: valid.into_inner(),
            dynamic: dynamic.into_inner(),
            used: IntervalSet::default(),
            cursor,
        }
    }

    /// The pool of VXLAN network identifiers: chosen from 4096 up; users may ask for any 24-bit number but 0.
    #[must_use]
    pub fn vnis() -> Self {
        Self::new("VXLAN network identifier", 1..=*VNI_RANGE.end(), VNI_RANGE)
    }

    /// The pool of one protocol's published ports: chosen from 30000–32767; users may ask for any port but 0.
    #[must_use]
    pub fn ports() -> Self {
        Self::new("published port", 1..=65_535, PORT_RANGE)
    }

    /// Marks each of `used` and sets the pool so that the next choice is the one after the highest of them; the
    /// order of `used` does not matter and repeats are harmless.
    ///
    /// # Errors
    /// [`Error::IdOutside`] names the first id that is not valid.
    pub fn with_used(mut self, used: impl IntoIterator<Item = u32>) -> Result<Self> {
        for id in used {
            self.reserve(id)?;
        }
        let highest = self.used.highest_up_to(u128::from(self.dynamic.1));
        self.cursor = highest
            .and_then(|id| u32::try_from(id + 1).ok())
            .unwrap_or(self.dynamic.0);
        Ok(self)
    }

    /// Takes a free id of the dynamic range, going on from the last one so that a released id rests.
    ///
    /// # Errors
    /// [`Error::IdsExhausted`] if none is free.
    pub fn allocate(&mut self) -> Result<u32> {
        let (first, last) = self.dynamic;
        let gap = self.used.next_gap(self.cursor.into(), first.into(), last.into());
        let id = gap
            .and_then(|id| u32::try_from(id).ok())
            .ok_or(Error::IdsExhausted {
                kind: self.kind,
                first,
                last,
            })?;
        self.used.insert(id.into());
        self.cursor = id.saturating_add(1);
        Ok(id)
    }

    /// Takes this very id, inside or outside the dynamic range.
    ///
    /// # Errors
    /// [`Error::IdInUse`] if somebody holds it, [`Error::IdOutside`] if it is not valid.
    pub fn allocate_specific(&mut self, id: u32) -> Result<()> {
        if self.reserve(id)? {
            Ok(())
        } else {
            Err(Error::IdInUse { kind: self.kind, id })
        }
    }

    /// Marks an id as used, whether it is already or not; true if it was free.
    ///
    /// # Errors
    /// [`Error::IdOutside`] if it is not valid.
    pub fn reserve(&mut self, id: u32) -> Result<bool> {
        let (first, last) = self.valid;
        if !(first..=last).contains(&id) {
            return Err(Error::IdOutside {
                kind: self.kind,
                id,
                first,
                last,
            });
        }
        Ok(self.used.insert(id.into()))
    }

    /// Gives an id back; false if it was not in use.
    pub fn release(&mut self, id: u32) -> bool {
        self.used.remove(id.into())
    }

    /// Whether somebody holds the id.
    #[must_use]
    pub fn is_used(&self, id: u32) -> bool {
        self.used.contains(id.into())
    }

    /// Number of ids in use.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        u32::try_from(self.used.len()).unwrap_or(u32::MAX)
    }
}
