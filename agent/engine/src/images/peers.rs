//! What the cluster's agent tells the engine of images that it has brought. Called by `pontoon-agent`.

use pontoon_image::Reference;

use crate::Engine;

impl Engine {
    /// Tells whoever watches events that an image was brought, as Docker does for a pull.
    pub fn tell_pulled(&self, reference: &Reference) {
        self.tell_image("pull", &reference.familiar(), Some(&reference.familiar_name()));
    }
}
