//! Images on their way out: what a build makes for an archive only, or to push a cache, is an image for that long. The catalog knows
//! it in memory and never on disk, so that a daemon that dies meanwhile leaves nothing of it.

use std::collections::BTreeMap;

use super::{Catalog, Target};
use crate::{Digest, Reference};

/// What the catalog's file does not tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passing {
    /// Images, and how often they are passing.
    images: BTreeMap<Digest, usize>,
    /// Names that such images have meanwhile, and what they stood for before: that is written.
    pub(super) names: BTreeMap<Reference, Option<Target>>,
}

impl Catalog {
    /// True for an image that nobody but work under way has: it is in no listing and not on disk.
    pub(crate) fn is_passing(&self, id: &Digest) -> bool {
        let is_own = |(reference, target): (&Reference, &Target)| {
            !self.passing.names.contains_key(reference) && target.images().any(|image| image == id)
        };
        self.passing.images.contains_key(id) && !self.references.iter().any(is_own)
    }

    /// Lends an image names; one that is new (or passing already) is passing once more.
    pub(crate) fn lend(&mut self, id: Digest, references: &[Reference], is_new: bool) {
        if is_new || self.passing.images.contains_key(&id) {
            *self.passing.images.entry(id).or_default() += 1;
        }
        for reference in references {
            let before = self.references.insert(reference.clone(), Target::new(id));
            self.passing.names.entry(reference.clone()).or_insert(before);
        }
    }

    /// The image stays, and so do these names for what they stand for.
    pub(crate) fn settle(&mut self, id: &Digest, references: &[Reference]) {
        self.passing.images.remove(id);
        for reference in references {
            self.passing.names.remove(reference);
        }
    }

    /// Ends what [`Catalog::lend`] has begun: names stand for what they stood for before, unless they were moved meanwhile. True: the
    /// image has to go.
    pub(crate) fn let_go(&mut self, id: &Digest, references: &[Reference]) -> bool {
        for reference in references {
            let Some(before) = self.passing.names.remove(reference) else {
                continue;
            };
            match before {
                _ if self.references.get(reference).is_none_or(|now| now.image != *id) => {}
                Some(before) => drop(self.references.insert(reference.clone(), before)),
                None => drop(self.references.remove(reference)),
            }
        }
        let Some(uses) = self.passing.images.get_mut(id) else {
            return false;
        };
        *uses = uses.saturating_sub(1);
        if *uses > 0 {
            return false;
        }
        self.passing.images.remove(id);
        !self.is_named(id)
    }
}
