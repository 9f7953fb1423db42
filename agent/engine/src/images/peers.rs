//! What the cluster's agent tells the engine: which images its tasks use, and that it has brought one. Called by `pontoon-agent`.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use pontoon_image::{ImageId, Reference};

use crate::Engine;

impl Engine {
    /// Tells whoever watches events that an image was brought, as Docker does for a pull.
    pub fn tell_pulled(&self, reference: &Reference) {
        self.tell_image("pull", &reference.familiar(), Some(&reference.familiar_name()));
    }

    /// Sets which images assigned tasks use, as their specs name them. They may have no container yet.
    pub fn set_task_images(&self, images: BTreeSet<String>) {
        *self.task_images.write().unwrap_or_else(PoisonError::into_inner) = images;
    }

    /// Images that assigned tasks use, as far as they are here: what makes room on the disk leaves them. Reads the store.
    pub fn task_images(&self) -> BTreeSet<ImageId> {
        let names = self
            .task_images
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let known = |name: &String| self.images.pinned(name);
        names.iter().filter_map(known).collect()
    }
}
