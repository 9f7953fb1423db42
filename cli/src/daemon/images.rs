//! What a service's image is pinned to, as this node finds it: an image that is here under that name, else what the registry has.
//! Called by the controller, through its trait.

use std::sync::Arc;

use pontoon_controller::ImageResolver;
use pontoon_engine::Engine;
use pontoon_image::Reference;
use pontoon_proto::v1::RegistryAuth;

use super::describe;

/// Resolves with the node's engine.
#[derive(Debug)]
pub struct Resolver(pub Arc<Engine>);

#[tonic::async_trait]
impl ImageResolver for Resolver {
    async fn resolve(&self, image: &str, auth: RegistryAuth) -> Result<String, String> {
        let reference = Reference::parse(image).map_err(|error| describe(&error))?;
        let reference = reference.with_default_tag();
        let store = self.0.images().clone();
        let name = reference.familiar();
        let wanted = name.clone();
        let found = tokio::task::spawn_blocking(move || store.get(&wanted))
            .await
            .map_err(|_| "the daemon stops".to_owned())?;
        // A word that is the beginning of an id is a name here all the same.
        let local = found.ok().filter(|found| found.repo_tags.contains(&name));
        let pinned = |digest: String| format!("{name}@{digest}");
        let here = local
            .as_ref()
            .map(|found| found.index.unwrap_or(found.manifest).to_string());
        let repository = format!("{}@", reference.familiar_name());
        let is_pulled = local.is_some_and(|found| {
            let mut digests = found.repo_digests.iter();
            digests.any(|digest| digest.starts_with(&repository))
        });
        match here {
            // Made or loaded here: no registry knows it, or not this one.
            Some(digest) if !is_pulled => Ok(pinned(digest)),
            // A tag may have moved on in its registry since it was pulled.
            here => match (self.0.resolve_digest(&name, auth).await, here) {
                (Ok(digest), _) | (Err(_), Some(digest)) => Ok(pinned(digest)),
                (Err(error), None) => Err(error.chain()),
            },
        }
    }
}
